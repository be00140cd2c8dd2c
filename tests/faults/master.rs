//! Faults in the master: a worker dies, and what its replacement takes does not work at first.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::injector::Injector;
use crate::scene::{backend, catches_up, gate_to, generate};
use crate::support::{Gate, is_alive, wait_for};

/// Takes a worker away and waits for another one.
#[track_caller]
fn replaces_a_worker(gate: &Gate, what: &str) {
    let old = gate.workers();
    kill(old[0], Signal::SIGKILL).unwrap();
    wait_for(&format!("a successor in spite of {what}"), || {
        let now = gate.workers();
        (now.len() == old.len() && !now.contains(&old[0])).then_some(())
    });
}

/// The master is what it was: it serves, hears orders, and leaves with 0.
#[track_caller]
fn goes_on(mut gate: Gate, master: Pid, what: &str) {
    assert!(is_alive(master), "{what}");
    assert_eq!(gate.ask(&generate("hi")).status, 200, "{what}");
    catches_up(&mut gate);
    gate.signal(Signal::SIGTERM);
    assert_eq!(gate.ends_with_code(), 0, "{what}");
}

#[test]
fn what_a_fork_takes_is_tried_again_until_it_is_there() {
    let backend = backend(0);
    for (calls, error) in [
        ("?clone,?clone3,?fork,?vfork", "EAGAIN"),
        ("?clone,?clone3,?fork,?vfork", "ENOMEM"),
        ("pipe2", "EMFILE"),
        ("pipe2", "ENFILE"),
    ] {
        let what = format!("{error} of {calls}");
        let mut gate = gate_to(&backend, ["--workers=2"]).start();
        let master = gate.pid();
        let Some(faults) = Injector::into(master, calls, (error, Some("1..3"))) else { return };
        replaces_a_worker(&gate, &what);
        assert_eq!(faults.struck(), 3, "{what}");
        assert_eq!(gate.log().matches("cannot fork worker").count(), 3, "{what}: {}", gate.log());
        drop(faults);
        gate.log_has("cannot fork worker");
        goes_on(gate, master, &what);
    }
}

#[test]
fn forks_that_go_on_failing_are_tried_with_growing_pauses() {
    let backend = backend(0);
    let gate = gate_to(&backend, ["--workers=2"]).start();
    let (master, worker) = (gate.pid(), gate.workers()[0]);
    let Some(faults) = Injector::into(master, "?clone,?clone3,?fork,?vfork", ("EAGAIN", None)) else { return };
    kill(worker, Signal::SIGKILL).unwrap();
    faults.strikes(4);
    assert_eq!(gate.ask(&generate("hi")).status, 200, "the other worker serves");
    faults.is_not_spun();
    assert!(faults.struck() < 20, "{} tries", faults.struck());
    drop(faults);
    wait_for("a successor", || (gate.workers().len() == 2).then_some(()));
    goes_on(gate, master, "EAGAIN");
}

#[test]
fn interrupted_calls_are_made_again() {
    let backend = backend(0);
    for (calls, when) in [("?wait4,?waitid", "1..5"), ("?poll,?ppoll", "1..50"), ("read", "1..5"), ("write", "1..5")] {
        let gate = gate_to(&backend, ["--workers=2"]).start();
        let master = gate.pid();
        let Some(faults) = Injector::into(master, calls, ("EINTR", Some(when))) else { return };
        replaces_a_worker(&gate, calls);
        wait_for("the first fault", || (faults.struck() > 0).then_some(()));
        drop(faults);
        goes_on(gate, master, calls);
    }
}

#[test]
fn a_wait_that_fails_does_not_spin_and_nothing_is_missed() {
    let backend = backend(0);
    let gate = gate_to(&backend, ["--workers=2"]).start();
    let master = gate.pid();
    let Some(faults) = Injector::into(master, "?poll,?ppoll", ("ENOMEM", None)) else { return };
    // It sleeps in a wait that began before.
    gate.signal(Signal::SIGUSR1);
    faults.strikes(2);
    faults.is_not_spun();
    replaces_a_worker(&gate, "ENOMEM of poll");
    drop(faults);
    goes_on(gate, master, "ENOMEM of poll");
}
