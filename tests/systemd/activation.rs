//! Sockets that somebody else has opened for the gate, by systemd's protocol.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::signal::Signal;

use crate::manager::{handed, launched};
use crate::scene::{backend, is_open};
use crate::support::http::{Request, ask};
use crate::support::sim::Backend;
use crate::support::{Dir, Plan, gate};

/// A gate whose `bind` is what the test says, and the default where it says nothing: the empty configuration keeps the
/// support from adding one.
fn plan(backend: &Backend, bind: &[&str]) -> Plan {
    let own = [format!("--upstream={}", backend.url()), "--limit=none".into(), "--api-limit=none".into()];
    gate(own.into_iter().chain(bind.iter().map(|word| (*word).to_owned()))).config("# no bind here\n")
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn serves(listener: &TcpListener) {
    assert_eq!(ask(listener.local_addr().unwrap(), &Request::get("/healthz")).status, 200);
}

#[test]
fn the_default_bind_takes_all_that_was_handed_over() {
    let (backend, one, two) = (backend(0), listener(), listener());
    let all = [("http", one.as_raw_fd()), ("other", two.as_raw_fd())];
    let gate = handed(plan(&backend, &[]), &all).start();
    serves(&one);
    serves(&two);
    assert!(!gate.log().contains("is not used"), "{}", gate.log());
}

#[test]
fn a_name_a_number_and_an_address_find_their_socket_and_what_nobody_names_is_warned_about() {
    let backend = backend(0);
    for word in ["fd://http", "fd://3", "the address"] {
        let (one, two) = (listener(), listener());
        let address = one.local_addr().unwrap();
        let bind = if word == "the address" { address.to_string() } else { word.to_owned() };
        let all = [("http", one.as_raw_fd()), ("spare", two.as_raw_fd())];
        let mut gate = handed(plan(&backend, &["--bind", &bind]), &all).start();
        serves(&one);
        let warned = "the socket handed over as \"spare\" (descriptor 4) is not used";
        assert!(gate.log().contains(warned), "{word}: {}", gate.log());
        gate.reload();
        serves(&one);
        gate.signal(Signal::SIGTERM);
        assert_eq!(gate.ends_with_code(), 0);
        drop(one);
        assert!(!is_open(address), "nobody else held it");
    }
}

#[test]
fn the_file_of_an_activated_unix_socket_stays() {
    let (dir, backend) = (Dir::new(), backend(0));
    let path = dir.path("web.sock");
    let listener = UnixListener::bind(&path).unwrap();
    for bind in [&[][..], &["--bind", "fd://web"]] {
        let mut gate = handed(plan(&backend, bind), &[("web", listener.as_raw_fd())]).start();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(&Request::get("/healthz").header("Connection", "close").bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{bind:?}: {answer}");
        gate.signal(Signal::SIGTERM);
        assert_eq!(gate.ends_with_code(), 0);
        assert!(path.exists(), "{bind:?}: whoever made it removes it");
    }
}

#[test]
fn what_is_for_another_process_is_ignored() {
    let (backend, socket) = (backend(0), listener());
    let plan = plan(&backend, &["--bind", "127.0.0.1:0"]).env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "http");
    let gate = launched(plan, "1", &[socket.as_raw_fd()]).start();
    assert_ne!(gate.address(), socket.local_addr().unwrap());
    assert!(!gate.log().contains("handed over"), "{}", gate.log());
    assert_eq!(gate.get("/healthz").status, 200);
}

#[test]
fn promised_descriptors_that_are_not_there_end_the_start() {
    let (backend, socket) = (backend(0), listener());
    let plan = plan(&backend, &[]).env("LISTEN_FDS", "2");
    let mut gate = launched(plan, "own", &[socket.as_raw_fd()]).spawn();
    assert_eq!(gate.ends_with_code(), 78);
    assert!(gate.log().contains("LISTEN_FDS=2 promises descriptor 4"), "{}", gate.log());
}
