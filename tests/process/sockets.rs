//! What the gate listens on: unix sockets, sockets somebody else has opened, and how workers share connections.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::signal::Signal;

use crate::proc::server_of;
use crate::scene::{backend, gate_to, generate, is_open};
use crate::stream::Stream;
use crate::support::http::{Client, Request, ask};
use crate::support::{Dir, gate, wait_for};

/// The status line of an answer over a unix socket.
fn ask_unix(path: &Path) -> String {
    let mut socket = UnixStream::connect(path).expect("the gate accepts");
    socket.write_all(&Request::get("/healthz").header("Connection", "close").bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_unix_socket_serves_and_goes_with_the_gate() {
    let (dir, backend) = (Dir::new(), backend(0));
    let path = dir.path("gate.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a stale file is in the way");
    let bind = format!("unix:{}", path.display());
    let mut first = gate_to(&backend, ["--bind", &bind, "--workers", "2"]).start();
    assert_eq!(ask_unix(&path), "HTTP/1.1 200 OK");
    first.reload();
    assert_eq!(ask_unix(&path), "HTTP/1.1 200 OK");

    let mut second = gate_to(&backend, ["--bind", &bind]).spawn();
    assert_eq!(second.ends_with_code(), 69);
    assert!(second.log().contains("another process listens there"), "{}", second.log());
    assert_eq!(ask_unix(&path), "HTTP/1.1 200 OK", "the file of the first is left alone");

    first.signal(Signal::SIGTERM);
    assert_eq!(first.ends_with_code(), 0);
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let (dir, backend) = (Dir::new(), backend(0));
    let path = dir.path("precious");
    fs::write(&path, "text").unwrap();
    let mut gate = gate_to(&backend, ["--bind", &format!("unix:{}", path.display())]).spawn();
    assert_eq!(gate.ends_with_code(), 69);
    assert_eq!(fs::read_to_string(&path).unwrap(), "text");
}

#[test]
fn a_unix_socket_of_a_start_that_fails_is_not_left_behind() {
    let dir = Dir::new();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = busy.local_addr().unwrap().to_string();
    let path = dir.path("gate.sock");
    let unix = format!("unix:{}", path.display());
    for (arguments, code) in [(["--bind", &busy], 69), (["--access-log", "/nonexistent/x"], 78)] {
        let mut gate = gate(["--demo", "--bind", &unix].into_iter().chain(arguments)).spawn();
        assert_eq!(gate.ends_with_code(), code);
        assert!(!path.exists(), "{arguments:?}");
    }
}

#[test]
fn a_reload_moves_a_unix_socket() {
    let (dir, backend) = (Dir::new(), backend(0));
    let [old, new] = ["old.sock", "new.sock"].map(|name| dir.path(name));
    let bind = |path: &Path| format!("bind = \"unix:{}\"", path.display());
    let mut gate = gate_to(&backend, []).config(&bind(&old)).start();
    gate.configure(&bind(&new));
    gate.reload();
    assert_eq!(ask_unix(&new), "HTTP/1.1 200 OK");
    assert!(!old.exists());
    assert!(fs::metadata(&new).unwrap().file_type().is_socket());
}

#[test]
fn an_inherited_socket_serves_and_survives_a_reload() {
    let backend = backend(0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shell = r#"exec "$@" 3<&0 0</dev/null"#;
    let plan = gate_to(&backend, ["--bind", "fd://3", "--workers", "2"]);
    let mut gate = plan.launched_by(&["sh", "-c", shell, "sh"]).stdin(OwnedFd::from(listener)).start();
    let serves = || assert_eq!(ask(address, &Request::get("/healthz")).status, 200);
    serves();
    gate.reload();
    gate.log_has("has left");
    serves();
    gate.signal(Signal::SIGTERM);
    assert_eq!(gate.ends_with_code(), 0);
    assert!(!is_open(address));
}

#[test]
fn a_descriptor_that_is_no_listener_is_refused() {
    let backend = backend(0);
    for (shell, reason) in
        [(r#"exec "$@""#, "no such descriptor"), (r#"exec "$@" 3</dev/null"#, "not a listening socket")]
    {
        let plan = gate_to(&backend, ["--bind", "fd://3"]);
        let mut gate = plan.launched_by(&["sh", "-c", shell, "sh"]).spawn();
        assert_eq!(gate.ends_with_code(), 69);
        assert!(gate.log().contains(&format!("fd://3: {reason}")), "{}", gate.log());
    }
}

#[test]
fn a_worker_takes_no_more_connections_than_it_may() {
    let backend = backend(0);
    let gate = gate_to(&backend, ["--worker-connections", "2"]).start();
    let address = gate.address();
    let mut held: Vec<Client> = (0..2).map(|_| Client::connect(address)).collect();
    for client in &mut held {
        assert_eq!(client.ask(&generate("hi")).unwrap().status, 200);
    }
    let mut third = Client::connect(address);
    third.send(&generate("third").bytes()).unwrap();
    // Both others are served three more times, and the third is not.
    for turn in 0..6 {
        assert_eq!(held[turn % 2].ask(&generate("hi")).unwrap().status, 200);
    }
    let asked = |backend: &crate::support::sim::Backend| backend.sim.counters().requests["POST /api/generate"];
    assert_eq!(asked(&backend), 8);
    drop(held.pop());
    assert_eq!(third.answer("POST").unwrap().status, 200);
    assert_eq!(asked(&backend), 9);
}

#[test]
fn streams_are_spread_over_the_workers() {
    let backend = backend(20);
    let gate = gate_to(&backend, ["--workers", "3"]).start();
    let workers = gate.workers();
    let streams: Vec<Stream> = (0..30).map(|_| Stream::begin(gate.address(), "@sim:endless")).collect();
    let servers: Vec<_> =
        streams.iter().map(|stream| wait_for("a server", || server_of(stream.port(), &workers))).collect();
    let shares = [0, 1, 2].map(|index| servers.iter().filter(|server| **server == workers[index]).count());
    assert!(shares.iter().all(|share| (4..=12).contains(share)), "{shares:?}");
}
