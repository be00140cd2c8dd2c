//! The ways out: graceful, quick, and graceful until patience ends.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::scene::{Latch, backend, gate_to, is_open, prompt, said};
use crate::stream::{Stream, expected};
use crate::support::http::{Client, Request};
use crate::support::{Dir, Gate, children_of, wait_for};

/// The gate ends well, and leaves nobody behind.
#[track_caller]
fn ends_well(gate: &mut Gate) {
    let children = children_of(gate.pid(), "");
    assert_eq!(gate.ends_with_code(), 0);
    assert!(children.into_iter().all(|child| !crate::support::is_alive(child)));
}

#[test]
fn term_finishes_what_is_in_service() {
    let text = prompt(40);
    let wanted = expected(&text);
    let backend = backend(40);
    let mut gate = gate_to(&backend, ["--workers", "2"]).start();
    let address = gate.address();
    let stream = Stream::begin(address, &text);
    gate.signal(Signal::SIGTERM);
    wait_for("new connections to be refused", || (!is_open(address)).then_some(()));
    assert_eq!(stream.finish().unwrap(), wanted);
    ends_well(&mut gate);
    assert_eq!(said(&gate, "stopping: finishing what is in service"), 1);
}

#[test]
fn a_second_word_ends_the_waiting() {
    for second in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let backend = backend(50);
        let mut gate = gate_to(&backend, []).start();
        let stream = Stream::begin(gate.address(), "@sim:endless");
        gate.signal(Signal::SIGTERM);
        gate.log_has("stopping: finishing what is in service");
        gate.signal(second);
        ends_well(&mut gate);
        assert!(stream.was_ended(), "with a word, and at once");
    }
}

#[test]
fn int_and_quit_do_not_wait() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let backend = backend(50);
        let mut gate = gate_to(&backend, ["--workers", "2"]).start();
        let stream = Stream::begin(gate.address(), "@sim:endless");
        gate.signal(signal);
        ends_well(&mut gate);
        assert!(stream.was_ended(), "with a word, and at once");
        assert_eq!(said(&gate, "stopping now"), 1);
    }
}

#[test]
fn at_the_deadline_everybody_is_told() {
    let backend = backend(50);
    let mut gate = gate_to(&backend, ["--graceful-timeout=1s", "--stream-timeout=1s"]).start();
    let address = gate.address();
    let stream = Stream::begin(address, "@sim:endless");
    let stalled = json!({"model": "m", "prompt": "@sim:stall:before-head", "stream": false});
    let waiting = [
        Request::post("/api/generate", &stalled),
        Request::post("/ollama_generate/", &json!({"prompt": "@sim:stall:before-head"})),
    ];
    let waiting = waiting.map(|request| {
        let mut client = Client::connect(address);
        client.send(&request.bytes()).unwrap();
        client
    });
    wait_for("three requests at the backend", || (backend.sim.counters().in_flight == 3).then_some(()));
    gate.signal(Signal::SIGTERM);
    let told = String::from_utf8(stream.finish().expect("a proper end")).unwrap();
    let last: serde_json::Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert!(last["error"].as_str().is_some_and(|text| !text.is_empty()), "{last}");
    for mut client in waiting {
        let answer = client.answer("POST").expect("an answer");
        assert_eq!(answer.status, 503);
        assert!(answer.json()["error"].is_string(), "{}", answer.text());
        assert_eq!(answer.header("connection"), Some("close"));
    }
    ends_well(&mut gate);
}

#[test]
fn a_stop_does_not_wait_for_a_worker_that_is_starting() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (dir, backend) = (Dir::new(), backend(0));
        let latch = Latch::new(dir.path("access"));
        let mut gate = gate_to(&backend, []).config("workers = 2").start();
        gate.configure(&format!("workers = 2\naccess_log = {:?}", latch.path()));
        gate.signal(Signal::SIGHUP);
        gate.has_workers(3);
        gate.signal(signal);
        ends_well(&mut gate);
    }
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let dir = Dir::new();
    let socket = dir.path("gate.sock");
    // A pipe that is full from the start, as standard error and, by the access log, as standard output.
    let (_reader, mut full) = std::io::pipe().unwrap();
    full.write_all(&vec![b'x'; 65_536]).unwrap();
    let mut child = Command::new(crate::support::binary())
        .args(["--workers", "1", "--demo", "--log-level", "debug", "--access-log", "-"])
        .arg(format!("--bind=unix:{}", socket.display()))
        .stdin(Stdio::null())
        .stdout(full.try_clone().unwrap())
        .stderr(full)
        .spawn()
        .unwrap();
    let master = Pid::from_raw(child.id().cast_signed());
    let healthy = || {
        let mut stream = UnixStream::connect(&socket).ok()?;
        stream.write_all(b"GET /docs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    };
    wait_for("an answer", healthy);
    let old = children_of(master, "worker")[0];
    kill(old, Signal::SIGKILL).unwrap();
    wait_for("a successor", || children_of(master, "worker").first().filter(|new| **new != old).copied());
    wait_for("an answer of the successor", healthy);
    kill(master, Signal::SIGTERM).unwrap();
    let code = wait_for("the end", || child.try_wait().unwrap()).code();
    assert_eq!(code, Some(0));
}
