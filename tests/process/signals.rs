//! The other signals: one worker more or fewer, none at all, and those that children ignore.

use nix::sys::signal::{Signal, kill};

use crate::load::{Load, MIXED};
use crate::proc::ignores;
use crate::scene::{backend, catches_up, gate_to, said};
use crate::support::{Gate, children_of, wait_for};

const MORE: Signal = Signal::SIGTTIN;
const FEWER: Signal = Signal::SIGTTOU;

/// Sends it, and waits for this many workers that are ready.
#[track_caller]
fn resized(gate: &mut Gate, signal: Signal, count: usize) {
    gate.signal(signal);
    gate.log_has(if signal == MORE { "one worker more" } else { "one worker fewer" });
    if signal == MORE {
        gate.log_has("is ready");
    }
    gate.has_workers(count);
}

#[test]
fn workers_come_and_go_one_at_a_time_and_a_reload_keeps_their_number() {
    for mode in ["--reuse-port=false", "--reuse-port=true"] {
        let backend = backend(0);
        let mut gate = gate_to(&backend, [mode]).config("workers = 2").start();
        let first = gate.workers();
        resized(&mut gate, MORE, 3);
        resized(&mut gate, MORE, 4);
        resized(&mut gate, FEWER, 3);
        assert_eq!(gate.workers()[..2], first[..], "those that were there stay");
        gate.reload();
        let old = gate.has_workers(3);
        assert!(old.iter().all(|worker| !first.contains(worker)));
        resized(&mut gate, FEWER, 2);
        (0..30).for_each(|_| assert_eq!(gate.get("/healthz").status, 200));
        gate.configure("workers = 4");
        gate.reload();
        gate.has_workers(4);
        (0..30).for_each(|_| assert_eq!(gate.get("/healthz").status, 200));
    }
}

#[test]
fn one_worker_stays() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, []).start();
    let workers = gate.workers();
    gate.signal(FEWER);
    gate.log_has("one worker fewer");
    catches_up(&mut gate);
    resized(&mut gate, MORE, 2);
    assert_eq!(gate.workers()[0], workers[0], "it was never let go");
    assert_eq!(said(&gate, "has left"), 0);
}

#[test]
fn there_are_never_more_than_64() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, ["--workers", "63"]).start();
    resized(&mut gate, MORE, 64);
    gate.signal(MORE);
    gate.log_has("one worker more");
    catches_up(&mut gate);
    assert_eq!(gate.workers().len(), 64);
    assert_eq!(said(&gate, "worker 65"), 0);
}

#[test]
fn a_number_set_by_signal_outlives_a_failed_reload() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, []).config("workers = 1").start();
    resized(&mut gate, MORE, 2);
    gate.configure("workers = 1\naccess_log = \"/nonexistent/x\"");
    gate.signal(Signal::SIGHUP);
    gate.log_has("reload failed, back to generation 1");
    catches_up(&mut gate);
    assert_eq!(gate.has_workers(2).len(), 2);
    gate.configure("workers = 1");
    gate.reload();
    gate.has_workers(2);
}

#[test]
fn a_pause_lets_all_workers_go_and_loses_nobody() {
    for (mode, back) in [("--reuse-port=false", MORE), ("--reuse-port=true", Signal::SIGHUP)] {
        let backend = backend(0);
        let mut gate = gate_to(&backend, [mode, "--workers", "2"]).start();
        let load = Load::start(gate.address(), &MIXED);
        load.goes_on(20);
        gate.signal(Signal::SIGWINCH);
        gate.log_has("pausing: no workers");
        gate.has_workers(0);
        assert_eq!(gate.children("monitor").len(), 1);
        gate.signal(back);
        gate.has_workers(2);
        load.goes_on(50);
        load.lost_nothing();
    }
}

#[test]
fn children_ignore_what_is_the_masters() {
    let masters = [
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
        Signal::SIGINT,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
    ];
    let mut gate = crate::support::gate(["--workers", "2", "--demo"]).start();
    let children = children_of(gate.pid(), "");
    assert_eq!(children.len(), 4);
    for child in &children {
        let is_worker = gate.workers().contains(child);
        for signal in masters {
            kill(*child, signal).unwrap();
            // A worker looks at once whether its log is to be opened again.
            assert!(ignores(*child, signal) || (is_worker && signal == Signal::SIGUSR1), "{child} {signal}");
        }
        assert!(!ignores(*child, Signal::SIGTERM) && !ignores(*child, Signal::SIGQUIT));
    }
    catches_up(&mut gate);
    assert_eq!(children_of(gate.pid(), ""), children);
    wait_for("an answer", || (gate.get("/readyz").status == 200).then_some(()));
    assert_eq!(said(&gate, "will be replaced") + said(&gate, "reload") + said(&gate, "one worker"), 0);
}
