//! How a gate gets at its store: passwords, which are shown nowhere, and what cannot be used at all.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::orders::Running;
use crate::server::Server;
use crate::site::{Site, store_is};
use crate::stage::{Front, MODEL, backend, front, generate, upstream};
use crate::support::{Dir, binary, gate};

const PASSWORD: &str = "open-sesame";
const WRONG: &str = "close-sesame";

fn write(path: &Path, password: &str) {
    fs::write(path, format!("{password}\n")).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

#[track_caller]
fn shows_no_password(gate: &Front) {
    let mut command = Command::new(binary());
    command.arg("status").arg("--control").arg(gate.control());
    let said = [gate.gate.log(), gate.status().to_string(), format!("{:?}", Running::start(&mut command).said())];
    assert!(said.iter().all(|said| !said.contains("sesame")), "{said:?}");
}

#[test]
fn the_password_of_a_file_opens_the_store() {
    let Some(mut server) = Server::find(Some(PASSWORD)) else { return };
    server.restart();
    let dir = Dir::new();
    let file = dir.path("password");
    write(&file, PASSWORD);
    let flag = format!("--cluster-password={}", file.display());
    let site = Site::start(&server.url(), &[&flag, "--api-limit=30/hour"]);
    let count = site.burst(&[generate(MODEL, "a")], 20, || {});
    assert_eq!(count.admitted(), 30, "{count:?}");
    site.store_is("well");
    assert_eq!(site.logged("the store of limits"), 0);
    shows_no_password(&site.gates[0]);
}

#[test]
fn a_wrong_password_is_told_and_a_reload_brings_the_right_one() {
    let Some(mut server) = Server::find(Some(PASSWORD)) else { return };
    server.restart();
    let (dir, backend) = (Dir::new(), backend());
    let file = dir.path("password");
    write(&file, WRONG);
    let password = format!("--cluster-password={}", file.display());
    // The file is worth more than what stands in the URL.
    let (scheme, host) = ("redis://", &server.url()["redis://".len()..]);
    let url = format!("--cluster-url={scheme}:{PASSWORD}@{host}");
    let arguments = ["--workers=2", "--cluster-timeout=1s", "--api-limit=30/hour", &url, &password];
    let mut front = front(&[upstream(&backend, "name=one")], &arguments);
    let told = store_is(&front, "away");
    let log = front.gate.log();
    let line = log.lines().find(|line| line.contains("the store of limits is away (")).expect("it says why");
    assert!(line.to_ascii_lowercase().contains("auth"), "{line}");
    assert_eq!(told["url"], format!("{scheme}***@{host}"));
    assert_eq!((told["share"].as_str(), front.gate.ask(&generate(MODEL, "a")).status), (Some("1"), 200));
    shows_no_password(&front);
    write(&file, PASSWORD);
    front.gate.reload();
    store_is(&front, "well");
    front.gate.log_has("the store of limits answers again");
    assert_eq!(front.gate.ask(&generate(MODEL, "a")).status, 200);
    assert!(server.counts() > 0);
    shows_no_password(&front);
    front.gate.signal(Signal::SIGTERM);
    assert_eq!(front.gate.ends_with_code(), 0);
}

#[test]
fn what_cannot_be_used_is_refused_before_anything_starts() {
    let (url, gcra) = ("--cluster-url=redis://127.0.0.1:1", "--limit-strategy=gcra");
    for (arguments, parts) in [
        (&[url, gcra][..], &["limit_strategy = \"gcra\"", "write fixed-window"][..]),
        (&["--cluster-url=http://:sesame@host"], &["cluster_url = \"***\"", "redis://HOST:PORT"]),
        (&["--cluster-url=redis://:sesame@host:port"], &["cluster_url", "it cannot be read"]),
        (&["--cluster-url=redis://u:sesame@a:1,b:1"], &["cluster_url", "redis+sentinel or redis+cluster"]),
        (&["--cluster-url=redis+sentinel://:sesame@a:1"], &["cluster_url", "it names no service"]),
        (&[url, "--cluster-password=/nonexistent/sesame"], &["cluster_password", "cannot open"]),
    ] {
        let mut command = Command::new(binary());
        let said = Running::start(command.arg("--check-config").args(arguments)).said();
        let mut started = gate(arguments).spawn();
        let code = started.ends_with_code();
        for (code, text) in [(said.code, said.out + &said.err), (code, started.log())] {
            assert_eq!(code, 78, "{arguments:?}: {text}");
            assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} not in {text}");
            assert!(!text.contains(":sesame"), "{text}");
        }
    }
    let mut command = Command::new(binary());
    assert_eq!(Running::start(command.args(["--check-config", url])).said().code, 0);
}
