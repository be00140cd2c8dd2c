//! A new configuration on trial: it goes on when it is no worse, and is given up with figures when it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ollama_sim::{Config, Rule};
use serde_json::json;

use crate::orders::Control;
use crate::scene::{backend, catches_up, echo, gate_to, own_address, said, successor};
use crate::support::http::{Client, Request};
use crate::support::sim::Backend;
use crate::support::{Gate, wait_for};

/// Clients that ask again and again on new connections and take any answer.
struct Crowd {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn begin(address: SocketAddr) -> Self {
        let over = Arc::<AtomicBool>::default();
        let request = Request::post("/api/generate", &json!({"model": "m", "prompt": "hello", "stream": false}));
        let request = request.header("Connection", "close");
        let ask = |_| {
            let (over, request) = (Arc::clone(&over), request.clone());
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    Client::connect(address).ask(&request).expect("an answer, whatever it is");
                }
            })
        };
        let threads = (0..4).map(ask).collect();
        Self { over, threads }
    }

    /// All of them have had answers all along.
    #[track_caller]
    fn was_answered(self) {
        self.over.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("every request was answered"));
    }
}

const TRIAL: &str = "reload --wait --canary 1 --canary-time 1s";

/// Nothing is left of the trial.
#[track_caller]
fn is_as_before(gate: &mut Gate, control: &Control, workers: &[Pid]) {
    catches_up(gate);
    wait_for("the canary to go", || (gate.workers() == workers).then_some(()));
    let status = control.status();
    assert_eq!((&status["state"], &status["generation"]), (&json!("serving"), &json!(1)));
    assert_eq!(status["last_reload"]["ok"], false);
}

#[test]
fn a_good_one_goes_on_and_those_before_it_serve_meanwhile() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = gate_to(&backend, []).config(&format!("{}workers = 2", control.key())).start();
    let old = gate.workers();
    let crowd = Crowd::begin(gate.address());
    gate.configure(&format!("{}workers = 2\nlog_level = \"debug\"", control.key()));
    let command = control.start(TRIAL);
    gate.log_has("canary: generation 2 is tried for 1 s");
    let now = gate.has_workers(3);
    assert!(old.iter().all(|worker| now.contains(worker)), "both old ones are there");
    let first = |status: &serde_json::Value| -> Vec<(u64, u64)> {
        let workers = status["processes"].as_array().unwrap().iter().filter(|process| process["place"] == "worker 1");
        workers.map(|worker| (worker["generation"].as_u64().unwrap(), worker["requests"].as_u64().unwrap())).collect()
    };
    let before = first(&control.status());
    wait_for("both workers of the slot to serve", || {
        let now = first(&control.status());
        let more = |generation| {
            let of = |list: &[(u64, u64)]| list.iter().find(|(own, _)| *own == generation).map(|(_, count)| *count);
            of(&now) > of(&before) && of(&before).is_some()
        };
        (more(1) && more(2)).then_some(())
    });
    let said_then = command.said();
    said_then.did("log_level: info -> debug (rolled out)\n");
    said_then.did("generation 2 serves\n");
    let figures = said_then.out.lines().find(|line| line.starts_with("canary: ")).expect("the figures");
    assert!(figures.contains(" 0 failed, median below ") && figures.contains("; the others "), "{figures}");
    wait_for("two new workers", || {
        let now = gate.workers();
        (now.len() == 2 && now.iter().all(|worker| !old.contains(worker))).then_some(())
    });
    crowd.was_answered();
}

#[test]
fn without_requests_there_is_nothing_to_judge_by() {
    let (backend, control) = (backend(0), Control::new());
    let gate = gate_to(&backend, []).config(&control.key()).start();
    let answer = control.ask(&json!({"command": "reload", "wait": true, "canary": {"workers": 5, "seconds": 1}}));
    assert_eq!(answer["reasons"], json!(["5 canaries cannot be had of 1 workers"]));
    let answer = control.ask(&json!({"command": "reload", "wait": true, "canary": {"workers": 1, "seconds": 1}}));
    assert_eq!((&answer["ok"], &answer["generation"]), (&json!(true), &json!(2)), "{answer}");
    assert!(answer["canary"].as_str().unwrap().starts_with("too few answers to judge by: 0 answers"), "{answer}");
    assert_eq!(gate.has_workers(1).len(), 1);
}

#[test]
fn one_that_fails_more_is_given_up() {
    let (backend, control) = (backend(0), Control::new());
    let config = |upstream: &str| {
        format!("{}workers = 2\nlimit = \"none\"\napi_limit = \"none\"\nupstream = {upstream:?}", control.key())
    };
    let mut gate = crate::support::gate(["--bind=127.0.0.1:0"]).config(&config(&backend.url())).start();
    let workers = gate.workers();
    let crowd = Crowd::begin(gate.address());
    gate.configure(&config(&format!("http://{}", own_address())));
    // Long before its time is over: whoever meets the canary would go on failing.
    let trial = "reload --wait --canary 1 --canary-time 1h";
    control.run(trial).was_refused(1, &["more answers fail: ", " answers, ", " failed, median below "]);
    crowd.was_answered();
    is_as_before(&mut gate, &control, &workers);
    assert_eq!(said(&gate, "canary: generation 2 is given up: more answers fail"), 1);
}

#[test]
fn one_that_nobody_meets_has_not_proved_itself() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = gate_to(&backend, []).config(&format!("{}workers = 2", control.key())).start();
    let workers = gate.workers();
    let mut kept = Client::connect(gate.address());
    let request = Request::post("/api/generate", &json!({"model": "m", "prompt": "hello", "stream": false}));
    kept.ask(&request).unwrap();
    let mut command = control.start(TRIAL);
    while command.is_running() {
        assert_eq!(kept.ask(&request).expect("its worker stays").status, 200);
    }
    command.said().was_refused(1, &["no request came to the canaries: 0 answers, 0 failed; the others "]);
    is_as_before(&mut gate, &control, &workers);
}

#[test]
fn the_next_reload_does_not_wait_for_the_end_of_a_trial() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = gate_to(&backend, []).config(&format!("{}workers = 2", control.key())).start();
    let trial = control.start("reload --wait --canary 1 --canary-time 1h");
    gate.log_has("canary: generation 2 is tried for 3600 s");
    control.run("reload --wait").did("generation 3 serves\n");
    trial.said().did("generation 2 serves\n");
}

#[test]
fn one_that_is_slower_is_given_up() {
    let late: Rule = serde_json::from_value(json!({"fault": "delay:50", "times": 1_000_000})).unwrap();
    let slow = Backend::start(Config { script: vec![late], ..echo(0) });
    let (fast, control) = (backend(0), Control::new());
    let config = |upstream: &str| {
        format!("{}workers = 2\nlimit = \"none\"\napi_limit = \"none\"\nupstream = {upstream:?}", control.key())
    };
    let mut gate = crate::support::gate(["--bind=127.0.0.1:0"]).config(&config(&fast.url())).start();
    let workers = gate.workers();
    let crowd = Crowd::begin(gate.address());
    gate.configure(&config(&slow.url()));
    let trial = "reload --wait --canary 1 --canary-time 3s";
    control.run(trial).was_refused(1, &["answers take longer: ", " 0 failed, median below "]);
    crowd.was_answered();
    is_as_before(&mut gate, &control, &workers);
}

#[test]
fn one_that_dies_is_given_up_at_once() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = gate_to(&backend, []).config(&format!("{}workers = 2", control.key())).start();
    let workers = gate.workers();
    let command = control.start("reload --wait --canary 1 --canary-time 1h");
    gate.log_has("canary: generation 2 is tried for 3600 s");
    let canary = gate.has_workers(3).into_iter().find(|worker| !workers.contains(worker)).unwrap();
    kill(canary, Signal::SIGSEGV).unwrap();
    command.said().was_refused(1, &["worker 1 was ended by SIGSEGV", "after it was ready"]);
    is_as_before(&mut gate, &control, &workers);
}

#[test]
fn one_that_is_killed_by_somebody_else_is_put_back() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = gate_to(&backend, []).config(&control.key()).start();
    let workers = gate.workers();
    let command = control.start(TRIAL);
    gate.log_has("canary: generation 2 is tried for 1 s");
    let canary = gate.has_workers(2).into_iter().find(|worker| !workers.contains(worker)).unwrap();
    kill(canary, Signal::SIGKILL).unwrap();
    command.said().did("generation 2 serves\n");
    successor(&gate, "worker 1", workers[0]);
}
