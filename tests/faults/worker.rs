//! Faults in a worker.

use crate::injector::Injector;
use crate::scene::{backend, gate_to, generate};
use crate::support::http::Client;
use crate::support::{Gate, is_alive};

/// The gate still has the worker that it had, and serves with it.
#[track_caller]
fn serves_with(gate: &Gate, worker: nix::unistd::Pid, what: &str) {
    assert_eq!(gate.ask(&generate("hi")).status, 200, "{what}");
    assert!(is_alive(worker), "{what}");
    assert_eq!(gate.workers(), [worker], "{what}");
}

#[test]
fn a_lack_at_accept_is_waited_out_and_told_twice() {
    let backend = backend(0);
    for error in ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"] {
        let mut gate = gate_to(&backend, []).start();
        let worker = gate.workers()[0];
        let Some(faults) = Injector::into(worker, "accept4", (error, None)) else { return };
        let mut waiting = Client::connect(gate.address());
        waiting.send(&generate("patience").bytes()).unwrap();
        faults.strikes(3);
        faults.is_not_spun();
        drop(faults);
        assert_eq!(waiting.answer("POST").unwrap().status, 200, "{error}");
        serves_with(&gate, worker, error);
        gate.log_has("cannot accept connections");
        assert_eq!(gate.log().matches("cannot accept connections").count(), 1, "{error}: {}", gate.log());
    }
}

#[test]
fn an_accept_that_fails_for_one_connection_is_followed_by_the_next() {
    let backend = backend(0);
    for error in ["ECONNABORTED", "EINTR"] {
        let gate = gate_to(&backend, []).start();
        let worker = gate.workers()[0];
        let Some(faults) = Injector::into(worker, "accept4", (error, Some("1..5"))) else { return };
        serves_with(&gate, worker, error);
        assert_eq!(faults.struck(), 5);
        assert!(!gate.log().contains("cannot accept"), "{error}: {}", gate.log());
    }
}

#[test]
fn a_connection_that_is_not_there_yet_comes_with_the_next() {
    let backend = backend(0);
    let gate = gate_to(&backend, []).start();
    let worker = gate.workers()[0];
    let Some(faults) = Injector::into(worker, "accept4", ("EAGAIN", Some("1"))) else { return };
    let mut first = Client::connect(gate.address());
    first.send(&generate("first").bytes()).unwrap();
    faults.strikes(1);
    serves_with(&gate, worker, "the second");
    assert_eq!(first.answer("POST").unwrap().status, 200);
}

#[test]
fn an_interrupted_wait_is_gone_on_with() {
    let backend = backend(0);
    let gate = gate_to(&backend, []).start();
    let worker = gate.workers()[0];
    let Some(faults) = Injector::into(worker, "?epoll_wait,?epoll_pwait", ("EINTR", Some("1..50"))) else { return };
    faults.strikes(50);
    serves_with(&gate, worker, "after the interruptions");
}

#[test]
fn without_a_socket_for_the_backend_clients_are_told_and_served_later() {
    let backend = backend(0);
    for error in ["EMFILE", "ENFILE", "ENOBUFS"] {
        let gate = gate_to(&backend, []).start();
        let worker = gate.workers()[0];
        let Some(faults) = Injector::into(worker, "socket", (error, None)) else { return };
        let status = gate.ask(&generate("hi")).status;
        assert!((500..600).contains(&status), "{error}: {status}");
        faults.is_not_spun();
        drop(faults);
        serves_with(&gate, worker, error);
    }
}
