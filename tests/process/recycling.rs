//! Workers over a long life: they are replaced when they have served their time, or when somebody tells one to leave, and
//! they come through a time without descriptors.

use std::net::TcpStream;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::load::{Load, MIXED};
use crate::orders::Control;
use crate::proc::listening;
use crate::scene::{Latch, backend, gate_to, is_gone, prompt, said, successor};
use crate::stream::{Stream, expected};
use crate::support::http::Client;
use crate::support::{Dir, Gate, wait_for};

const MODES: [&str; 2] = ["--reuse-port=false", "--reuse-port=true"];

/// Where the log says it first.
#[track_caller]
pub(crate) fn line_of(gate: &Gate, text: &str) -> usize {
    gate.log().lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("no line with {text:?}"))
}

#[test]
fn workers_are_replaced_under_load_and_nothing_is_lost() {
    for mode in MODES {
        let backend = backend(0);
        let arguments = [mode, "--workers=2", "--max-requests=60", "--max-requests-jitter=40"];
        let gate = gate_to(&backend, arguments).start();
        let first = gate.workers();
        let load = Load::start(gate.address(), &MIXED);
        wait_for("the first two to be replaced", || {
            load.goes_on(1);
            let now = gate.workers();
            first.iter().all(|worker| !now.contains(worker)).then_some(())
        });
        load.goes_on(20);
        load.lost_nothing();
        for worker in first {
            line_of(&gate, &format!("({worker}) is to be replaced: served "));
            wait_for("the word of its end", || gate.log().contains(&format!("({worker}) has left")).then_some(()));
        }
        assert_eq!(said(&gate, "was ended by"), 0);
    }
}

#[test]
fn nobody_goes_before_the_successor_is_ready() {
    let (dir, backend) = (Dir::new(), backend(0));
    let latch = Latch::new(dir.path("access"));
    let open = latch.open();
    let mut gate = gate_to(&backend, ["--max-requests=3", "--access-log", latch.path().to_str().unwrap()]).start();
    let [old] = gate.workers()[..] else { panic!("one worker") };
    drop(open);
    (0..3).for_each(|_| assert_eq!(gate.get("/healthz").status, 200));
    gate.log_has(&format!("({old}) is to be replaced: served 3 requests (max_requests 3)"));
    gate.has_workers(2);
    for _ in 0..20 {
        assert_eq!(gate.get("/healthz").status, 200);
        assert!(listening(old) > 0, "it serves until the other one does");
    }
    let _open = latch.open();
    let new = successor(&gate, "worker", old);
    gate.log_has(&format!("worker 1 ({old}) has left"));
    let [ready, left] = [format!("({new}) of generation 1 is ready"), format!("({old}) has left")];
    assert!(line_of(&gate, &ready) < line_of(&gate, &left));
    assert_eq!(said(&gate, "is to be replaced"), 1, "asked for once");
    assert_eq!(gate.get("/healthz").status, 200);
}

/// Asks until `rounds` times as many workers as there are places have been replaced. Panics when there ever are more than
/// `surge` beyond, or when one leaves before its successor is ready.
#[track_caller]
fn replaces_with(surge: usize, reason: &str) {
    const WORKERS: usize = 4;
    let backend = backend(0);
    let surge_key = format!("--surge={surge}");
    let gate = gate_to(&backend, ["--workers=4", &surge_key, reason]).start();
    let load = Load::start(gate.address(), &MIXED);
    let mut most = 0;
    wait_for("eight of them to be replaced", || {
        load.goes_on(1);
        most = most.max(gate.workers().len());
        assert!(most <= WORKERS + surge, "{most} workers with a surge of {surge}");
        (said(&gate, "has left") >= 2 * WORKERS).then_some(())
    });
    load.lost_nothing();
    let log = gate.log();
    for slot in 1..=WORKERS {
        let mut serving = 0;
        let mut served = false;
        for line in log.lines().filter(|line| line.contains(&format!(": worker {slot} ("))) {
            serving += i32::from(line.contains("is ready")) - i32::from(line.contains("has left"));
            served |= serving > 0;
            assert!(!served || serving > 0, "nobody in slot {slot} after {line}");
        }
    }
    assert_eq!(said(&gate, "was ended by") + said(&gate, "did not leave in time"), 0);
}

#[test]
fn never_more_than_surge_are_beyond_the_number() {
    for surge in [1, 2] {
        replaces_with(surge, "--max-requests=40");
        replaces_with(surge, "--max-age=1s");
    }
}

#[test]
fn memory_is_a_reason_too() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = gate_to(&backend, [&*control.flag(), "--max-rss=32MiB"]).start();
    let [old] = gate.workers()[..] else { panic!("one worker") };
    // Bodies that never end: the worker holds what has come of them.
    let clients: Vec<Client> = (0..6)
        .map(|_| {
            let mut client = Client::connect(gate.address());
            let head = "POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n";
            client.send(head.as_bytes()).and_then(|()| client.send(&vec![b' '; 7_000_000])).expect("it reads");
            client
        })
        .collect();
    let line = gate.log_has(&format!("({old}) is to be replaced: holds "));
    assert!(line.contains(" MiB (max_rss 32 MiB)"), "{line}");
    gate.log_has("is ready");
    drop(clients);
    is_gone(old);
    let status = control.status();
    let restart = &status["slots"][0];
    assert!(restart["last_restart"].as_str().unwrap().starts_with("holds "), "{restart}");
    assert_eq!(gate.get("/healthz").status, 200);
}

#[test]
fn age_is_a_reason_too() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, ["--max-age=1s"]).start();
    let [old] = gate.workers()[..] else { panic!("one worker") };
    gate.log_has(&format!("({old}) is to be replaced: has served for "));
    is_gone(old);
    assert_eq!(gate.get("/healthz").status, 200);
}

#[test]
fn a_worker_that_somebody_tells_to_leave_has_a_successor_at_once() {
    let text = prompt(60);
    let wanted = expected(&text);
    for mode in MODES {
        let backend = backend(40);
        let mut gate = gate_to(&backend, [mode]).start();
        let [old] = gate.workers()[..] else { panic!("one worker") };
        let stream = Stream::begin(gate.address(), &text);
        kill(old, Signal::SIGTERM).unwrap();
        let has_two = |workers: &Vec<Pid>| workers.len() == 2 && workers.contains(&old);
        wait_for("a successor beside it", || Some(gate.workers()).filter(has_two));
        gate.log_has("is ready");
        wait_for("the old one to take no more", || (listening(old) == 0).then_some(()));
        assert_eq!(gate.get("/healthz").status, 200);
        assert_eq!(stream.finish().unwrap(), wanted);
        is_gone(old);
    }
}

#[test]
fn a_time_without_descriptors_is_told_at_its_beginning_and_its_end() {
    let backend = backend(0);
    // Enough to start with: the bells of the workers alone are 64.
    let few = ["sh", "-c", "ulimit -n 112; exec \"$@\"", "sh"];
    let mut gate = gate_to(&backend, []).launched_by(&few).start();
    let address = gate.address();
    let clients: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
    gate.log_has("cannot accept connections");
    drop(clients);
    gate.log_has("connections are accepted again");
    assert_eq!(gate.get("/healthz").status, 200);
    assert_eq!(said(&gate, "cannot accept connections"), 1);
}
