//! The pid file: whose it is, and when it goes.

use std::fs;

use nix::sys::signal::{Signal, kill};

use crate::scene::{backend, end, gate_to, successor};
use crate::support::Dir;

#[test]
fn it_names_the_master_and_keeps_a_second_one_out() {
    let (dir, backend) = (Dir::new(), backend(0));
    let path = dir.path("gate.pid");
    let flag = path.to_str().unwrap();
    fs::write(&path, "1\nof somebody long gone\n").unwrap();
    let mut first = gate_to(&backend, ["--pid", flag]).start();
    let own = format!("{}\n", first.pid());
    assert_eq!(fs::read_to_string(&path).unwrap(), own);

    let mut second = gate_to(&backend, ["--pid", flag]).spawn();
    assert_eq!(second.ends_with_code(), 78);
    assert!(second.log().contains(&format!("the gate with pid {} holds it", first.pid())), "{}", second.log());

    for role in ["worker 1", "monitor"] {
        let [old] = first.children(role)[..] else { panic!("one {role}") };
        end(old, Signal::SIGTERM);
        successor(&first, role, old);
    }
    first.reload();
    assert_eq!(fs::read_to_string(&path).unwrap(), own, "a child's end and a reload leave it alone");

    first.signal(Signal::SIGTERM);
    assert_eq!(first.ends_with_code(), 0);
    assert!(!path.exists());
}

#[test]
fn one_left_by_a_killed_master_is_taken_over_although_its_workers_live() {
    let (dir, backend) = (Dir::new(), backend(50));
    let path = dir.path("gate.pid");
    let first = gate_to(&backend, ["--pid", path.to_str().unwrap()]).start();
    let _stream = crate::stream::Stream::begin(first.address(), "@sim:endless");
    kill(first.pid(), Signal::SIGKILL).unwrap();
    crate::scene::is_gone(first.pid());
    let second = gate_to(&backend, ["--pid", path.to_str().unwrap()]).start();
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", second.pid()));
}

#[test]
fn a_start_that_fails_leaves_none() {
    let (dir, backend) = (Dir::new(), backend(0));
    let path = dir.path("gate.pid");
    let mut gate = gate_to(&backend, ["--pid", path.to_str().unwrap(), "--access-log", "/nonexistent/x"]).spawn();
    assert_eq!(gate.ends_with_code(), 78);
    assert!(!path.exists());
}
