//! Changes under load: every request is accounted for, every stream comes to its end.

use std::thread;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::load::{Load, MIXED};
use crate::proc::listening;
use crate::scene::{backend, gate_to, generate, is_gone, prompt};
use crate::stream::{Stream, expected};
use crate::support::http::Client;
use crate::support::{Gate, wait_for};

const MODES: [&str; 2] = ["--reuse-port=false", "--reuse-port=true"];

/// Tokens of a stream, and how many come in a second: it lasts longer than a reload, and the load's short answers do not.
const TOKENS: usize = 400;
const TOKEN_RATE: u32 = 200;

/// Begins three streams, which end in threads of their own.
fn streams(gate: &Gate, text: &str) -> Vec<thread::JoinHandle<std::io::Result<Vec<u8>>>> {
    let begun = (0..3).map(|_| Stream::begin(gate.address(), text));
    begun.map(|stream| thread::spawn(move || stream.finish())).collect()
}

#[track_caller]
fn replaced(gate: &Gate, count: usize, old: &[Pid]) {
    old.iter().copied().for_each(is_gone);
    assert!(gate.has_workers(count).iter().all(|worker| !old.contains(worker)));
}

#[test]
fn five_reloads_lose_nothing() {
    let text = prompt(TOKENS);
    let wanted = expected(&text);
    for mode in MODES {
        let backend = backend(TOKEN_RATE);
        let mut gate = gate_to(&backend, [mode, "--workers", "3"]).start();
        let load = Load::start(gate.address(), &MIXED);
        let (mut open, mut old) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            open.extend(streams(&gate, &text));
            old.extend(gate.workers());
            load.goes_on(30);
            gate.reload();
        }
        load.goes_on(30);
        load.lost_nothing();
        for stream in open {
            let got = stream.join().unwrap().expect("a whole stream");
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&wanted), "{mode}");
        }
        replaced(&gate, 3, &old);
    }
}

#[test]
fn fewer_workers_lose_nothing() {
    for mode in MODES {
        let backend = backend(0);
        let mut gate = gate_to(&backend, [mode]).config("workers = 4").start();
        let load = Load::start(gate.address(), &MIXED);
        for _ in 0..3 {
            load.goes_on(50);
            gate.signal(Signal::SIGTTOU);
            gate.log_has("has left");
            gate.signal(Signal::SIGTTIN);
            gate.log_has("is ready");
        }
        for count in [1, 4, 2] {
            load.goes_on(50);
            gate.configure(&format!("workers = {count}"));
            gate.reload();
        }
        load.goes_on(50);
        load.lost_nothing();
        gate.has_workers(2);
    }
}

#[test]
fn a_kept_connection_is_told_that_its_answer_is_the_last() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, []).start();
    let [old] = gate.workers()[..] else { panic!("one worker") };
    let mut client = Client::connect(gate.address());
    let first = client.ask(&generate("one")).unwrap();
    assert_eq!((first.status, first.header("connection")), (200, None));
    gate.signal(Signal::SIGHUP);
    wait_for("the old worker to drain", || (listening(old) == 0).then_some(()));
    let last = client.ask(&generate("two")).expect("an answer on the old connection");
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(client.is_closed());
    gate.log_has("has left");
}
