//! Processes that die or hang, the master among them: who is replaced, who is left alone, what clients notice.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::proc::server_of;
use crate::scene::{backend, end, gate_to, is_gone, prompt, said, successor};
use crate::stream::{Stream, expected};
use crate::support::{Gate, children_of, gate, wait_for};

/// Everybody but the worker in the middle.
fn others(gate: &Gate) -> Vec<Vec<Pid>> {
    ["worker 1", "worker 3", "monitor"].map(|role| gate.children(role)).to_vec()
}

#[test]
fn a_dead_worker_is_replaced_and_nobody_else() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, ["--workers", "3"]).start();
    let untouched = others(&gate);
    for signal in [Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGABRT]
    {
        let [old] = gate.children("worker 2")[..] else { panic!("one worker 2") };
        end(old, signal);
        let new = successor(&gate, "worker 2", old);
        gate.log_has(&format!("worker 2 ({old})"));
        gate.log_has(&format!("worker 2 ({new}) of generation 1 is ready"));
        assert_eq!(others(&gate), untouched, "{signal}");
        assert_eq!(gate.get("/healthz").status, 200);
    }
}

#[test]
fn streams_on_other_workers_go_on() {
    let backend = backend(50);
    let gate = gate_to(&backend, ["--workers", "3"]).start();
    let workers = gate.workers();
    let mut streams: Vec<Stream> = (0..9).map(|_| Stream::begin(gate.address(), "@sim:endless")).collect();
    let server = |stream: &Stream| server_of(stream.port(), &workers).expect("a worker serves it");
    let victim = server(&streams[0]);
    let mine: Vec<bool> = streams.iter().map(|stream| server(stream) == victim).collect();
    assert!(mine.contains(&false), "all on one worker");
    end(victim, Signal::SIGKILL);
    for (stream, mine) in streams.iter_mut().zip(mine) {
        if mine {
            wait_for("a cut stream", || stream.more().is_err().then_some(()));
        } else {
            (0..20).for_each(|_| assert!(stream.more().expect("this worker lives")));
        }
    }
}

#[test]
fn a_dead_monitor_is_replaced_and_the_gate_serves_on() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, []).start();
    let workers = gate.workers();
    wait_for("a healthy backend", || (gate.get("/readyz").status == 200).then_some(()));
    let [old] = gate.children("monitor")[..] else { panic!("one monitor") };
    end(old, Signal::SIGKILL);
    let new = successor(&gate, "monitor", old);
    assert_eq!(gate.get("/readyz").status, 200, "what it had seen is remembered");
    gate.log_has(&format!("monitor ({new}) of generation 1 is ready"));
    assert_eq!(gate.workers(), workers);
}

#[test]
fn a_dead_demo_is_replaced_and_answers_again() {
    let gate = gate(["--demo", "--workers", "2"]).start();
    let ask = || gate.post("/ollama_generate/", &json!({"prompt": "hi"})).status;
    assert_eq!(ask(), 200);
    let workers = gate.workers();
    let [old] = gate.children("demo")[..] else { panic!("one demo") };
    end(old, Signal::SIGKILL);
    successor(&gate, "demo", old);
    assert_eq!(ask(), 200);
    assert_eq!(gate.workers(), workers);
}

#[test]
fn a_hanging_worker_is_replaced_while_the_others_serve() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, ["--workers", "2", "--timeout", "1s"]).start();
    let [hanging, other] = gate.workers()[..] else { panic!("two workers") };
    kill(hanging, Signal::SIGSTOP).unwrap();
    wait_for("the hanging worker to be noticed", || {
        assert_eq!(gate.get("/healthz").status, 200);
        (said(&gate, "has not beaten within timeout") > 0).then_some(())
    });
    is_gone(hanging);
    let workers = gate.has_workers(2);
    assert!(workers.contains(&other) && !workers.contains(&hanging));
    gate.log_has("was ended by SIG");
    assert_eq!(said(&gate, "has not beaten within timeout"), 1, "the others beat");
}

#[test]
fn without_a_timeout_nobody_is_aborted() {
    let backend = backend(0);
    let gate = gate_to(&backend, ["--workers", "2", "--timeout", "0"]).start();
    let workers = gate.workers();
    kill(workers[0], Signal::SIGSTOP).unwrap();
    let until = Instant::now() + Duration::from_millis(1_500);
    wait_for("some time in which others would act", || {
        assert_eq!(gate.get("/healthz").status, 200);
        (Instant::now() > until).then_some(())
    });
    assert_eq!(gate.workers(), workers);
    kill(workers[0], Signal::SIGCONT).unwrap();
}

#[test]
fn a_worker_that_dies_again_and_again_is_forked_with_growing_pauses() {
    let backend = backend(0);
    let gate = gate_to(&backend, ["--log-level", "debug"]).start();
    let until = Instant::now() + Duration::from_secs(4);
    wait_for("the end of the killing", || {
        gate.workers().into_iter().for_each(|worker| kill(worker, Signal::SIGKILL).unwrap_or_default());
        (Instant::now() > until).then_some(())
    });
    // The first at once, then after 0.1, 0.2, 0.4 … seconds, less up to half of each.
    let forks = said(&gate, "worker 1 of generation 1 is forked");
    assert!((4..=10).contains(&forks), "{forks} forks in 4 seconds");
    gate.has_workers(1);
    assert_eq!(gate.get("/healthz").status, 200);
}

#[test]
fn nothing_outlives_the_master() {
    let gate = gate(["--workers", "3", "--demo"]).start();
    let (address, children) = (gate.address(), children_of(gate.pid(), ""));
    assert_eq!(children.len(), 5);
    kill(gate.pid(), Signal::SIGKILL).unwrap();
    children.into_iter().for_each(is_gone);
    wait_for("a free port", || TcpListener::bind(address).ok());
}

#[test]
fn orphaned_workers_finish_their_streams_first() {
    let text = prompt(40);
    let wanted = expected(&text);
    let backend = backend(40);
    let mut gate = gate_to(&backend, ["--workers", "2"]).start();
    let (address, children) = (gate.address(), children_of(gate.pid(), ""));
    let stream = Stream::begin(address, &text);
    let server = server_of(stream.port(), &children).unwrap();
    kill(gate.pid(), Signal::SIGKILL).unwrap();
    gate.log_has("the master is gone");
    wait_for("a free port", || TcpListener::bind(address).ok());
    assert!(crate::support::is_alive(server), "it has a stream to finish");
    assert_eq!(stream.finish().unwrap(), wanted);
    children.into_iter().for_each(is_gone);
}

#[test]
fn a_gate_that_was_told_to_ignore_its_children_still_notices_their_end() {
    let ignoring =
        "import os,signal,sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])";
    let mut gate = gate(["--workers", "2", "--demo"]).launched_by(&["python3", "-c", ignoring]).start();
    let before = gate.workers();
    kill(before[0], Signal::SIGKILL).unwrap();
    wait_for("a successor", || Some(gate.workers()).filter(|now| now.len() == 2 && *now != before));
    gate.signal(Signal::SIGTERM);
    assert_eq!(gate.ends_with_code(), 0);
}
