//! What the gate leaves in the manager's keeping, and how the next one goes on with it after a master's death.

use std::os::unix::fs::FileExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::manager::Manager;
use crate::scene::{backend, gate_to, generate, is_gone, is_open, prompt};
use crate::stream::{Stream, expected};
use crate::support::http::Client;
use crate::support::sim::Backend;
use crate::support::{Dir, Gate, Plan, binary, children_of, gate, wait_for};

const ANY: &str = "gate.bind.0.127.0.0.1%3A0";

/// Requests within the limit: some before the master's death, the others after.
const LIMIT: usize = 10;
const BEFORE: usize = 4;

fn limited(backend: &Backend, control: &str) -> Plan {
    let upstream = format!("--upstream={}", backend.url());
    let limit = format!("--api-limit={LIMIT}/hour");
    gate([&upstream, &limit, "--limit=none", "--workers=2", "--bind=127.0.0.1:0", "--control", control])
}

fn status(control: &str) -> Value {
    let said = Command::new(binary()).args(["status", "--json", "--control", control]).output().unwrap();
    serde_json::from_slice(&said.stdout).unwrap_or_default()
}

/// Starts a gate that goes on where another was: its first generation is not the first of the zone.
#[track_caller]
fn serving(plan: Plan) -> Gate {
    let mut gate = plan.spawn();
    gate.log_has("serves with");
    gate
}

/// Kills the master, and sees its workers out.
fn fell(gate: &mut Gate) {
    let children = children_of(gate.pid(), "");
    gate.signal(Signal::SIGKILL);
    gate.ends();
    children.into_iter().for_each(is_gone);
}

#[test]
fn descriptors_are_kept_by_name_and_let_go_with_their_listener() {
    let (backend, manager) = (backend(0), Manager::new());
    let plan = gate_to(&backend, []).config("bind = [\"127.0.0.1:0\", \"[::1]:0\"]\n");
    let mut gate = manager.tells(plan).start();
    manager.keeps(&[ANY, "gate.bind.0.[%3A%3A1]%3A0", "gate.zone"]);
    gate.configure("bind = \"127.0.0.1:0\"\n");
    gate.reload();
    manager.keeps(&[ANY, "gate.zone"]);
    assert_eq!(manager.count("FDSTOREREMOVE=1"), 4, "one ahead of each of three, and one for good");
}

#[test]
fn what_the_manager_did_not_take_is_offered_again() {
    let (dir, backend) = (Dir::new(), backend(0));
    let address = dir.path("notify").display().to_string();
    let mut gate = gate_to(&backend, ["--bind=127.0.0.1:0"]).env("NOTIFY_SOCKET", &address).start();
    let manager = Manager::at(dir);
    manager.keeps(&[ANY, "gate.zone"]);
    assert_eq!(gate.log().matches("does not take messages").count(), 1, "{}", gate.log());
    gate.signal(Signal::SIGTERM);
    assert_eq!(gate.ends_with_code(), 0);
}

#[test]
fn each_worker_s_own_socket_is_kept() {
    let (backend, manager) = (backend(0), Manager::new());
    let mut gate = manager.tells(gate_to(&backend, ["--workers=3", "--reuse-port", "--bind=127.0.0.1:0"])).start();
    let own = |slot: usize| format!("gate.bind.{slot}.127.0.0.1%3A0");
    let names = [own(0), own(1), own(2), "gate.zone".to_owned()];
    manager.keeps(&names.each_ref().map(String::as_str));
    let address = gate.address();
    fell(&mut gate);
    let mut waiting: Vec<Client> = (0..12).map(|_| Client::connect(address)).collect();
    let next = manager.hands_on(gate_to(&backend, ["--workers=3", "--reuse-port", "--bind=127.0.0.1:0"]));
    let next = serving(next);
    assert_eq!(next.address(), address);
    for client in &mut waiting {
        assert_eq!(client.ask(&generate("hi")).unwrap().status, 200);
    }
}

#[test]
fn a_killed_master_comes_back_with_the_same_queue_and_the_same_counts() {
    let (dir, backend, manager) = (Dir::new(), backend(40), Manager::new());
    let control = dir.path("control.sock").display().to_string();
    let mut gate = manager.tells(limited(&backend, &control)).start();
    let address = gate.address();
    let text = prompt(30);
    for _ in 1..BEFORE {
        assert_eq!(gate.ask(&generate("hi")).status, 200);
    }
    let stream = Stream::begin(address, &text);
    manager.keeps(&[ANY, "gate.zone"]);
    let old = children_of(gate.pid(), "");
    gate.signal(Signal::SIGKILL);
    gate.ends();
    assert_eq!(stream.finish().unwrap(), expected(&text), "its worker drains");
    old.into_iter().for_each(is_gone);
    assert!(is_open(address), "the queue is kept");
    let mut waiting = Client::connect(address);
    waiting.send(&generate("patience").bytes()).unwrap();

    let next = serving(manager.hands_on(limited(&backend, &control)));
    assert_eq!(next.address(), address);
    assert_eq!(waiting.answer("POST").unwrap().status, 200);
    for number in BEFORE + 1..LIMIT {
        assert_eq!(next.ask(&generate("hi")).status, 200, "{number}");
    }
    assert_eq!(next.ask(&generate("hi")).status, 429, "all gates together admit {LIMIT}");
    let settled = wait_for("the rows of the old workers to be settled", || {
        let totals = status(&control)["totals"].clone();
        (totals["in_flight"] == 0 && totals["streams"] == 0 && totals["requests"].as_u64() > Some(0)).then_some(totals)
    });
    assert_eq!(settled["requests"], LIMIT + 1, "{settled}");
    let words = manager.words();
    assert!(words.iter().any(|word| word.sender == next.pid() && word.text.starts_with("READY=1")));
}

#[test]
fn a_zone_of_another_layout_is_not_used_and_not_fatal() {
    let (dir, backend, manager) = (Dir::new(), backend(0), Manager::new());
    let control = dir.path("control.sock").display().to_string();
    let mut gate = manager.tells(limited(&backend, &control)).start();
    for _ in 0..LIMIT {
        assert_eq!(gate.ask(&generate("hi")).status, 200);
    }
    assert_eq!(gate.ask(&generate("hi")).status, 429);
    manager.keeps(&[ANY, "gate.zone"]);
    fell(&mut gate);
    let kept = format!("/proc/self/fd/{}", manager.kept("gate.zone"));
    let zone = std::fs::File::options().write(true).open(kept).unwrap();
    // The second word is the version.
    zone.write_all_at(&99_u64.to_ne_bytes(), 8).unwrap();
    let next = manager.hands_on(limited(&backend, &control)).start();
    assert!(next.log().contains("layout 99") && next.log().contains("counts start afresh"), "{}", next.log());
    assert_eq!(next.ask(&generate("hi")).status, 200);
    kill(next.pid(), Signal::SIGTERM).unwrap();
}
