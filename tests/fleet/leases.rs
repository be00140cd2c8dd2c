//! Slots of backends: never more in use than there are, and free again however a request ends, with its process as well.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ollama_sim::Config;

use crate::stage::{Front, Held, MODEL, answer, config, front, generate, of, pair, posts, prompts, stalled, upstream};
use crate::support::http::{Client, Request};
use crate::support::sim::Backend;
use crate::support::wait_for;

/// A client that has no part in what a test prepares.
const ANOTHER: &str = "192.0.2.77";

/// How a client's request ended: its status, or 0 where the connection broke.
fn try_ask(front: &Front, request: &Request) -> u16 {
    let asked = Client::try_connect(front.gate.address()).and_then(|mut client| client.ask(request));
    asked.map_or(0, |answer| answer.status)
}

/// So many clients at once with a request each; how many ended how.
fn burst(front: &Front, clients: usize, request: &Request) -> BTreeMap<u16, usize> {
    let mut counted = BTreeMap::new();
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..clients)
            .map(|number| {
                let own = of(&format!("198.51.100.{number}"), request).header("Connection", "close");
                scope.spawn(move || try_ask(front, &own))
            })
            .collect();
        for status in asking.into_iter().map(|asking| asking.join().unwrap()) {
            *counted.entry(status).or_default() += 1;
        }
    });
    counted
}

/// A backend whose answers take some time.
fn slow() -> Backend {
    Backend::start(Config { token_rate: 400, ..config(&[MODEL]) })
}

#[test]
fn slots_are_never_exceeded_by_a_burst_over_three_workers() {
    let backend = slow();
    let front = front(&[upstream(&backend, "slots=3")], &[]);
    let statuses = burst(&front, 100, &generate(MODEL, "one two three four"));
    assert_eq!(statuses, BTreeMap::from([(200, 100)]));
    let counters = backend.sim.counters();
    assert_eq!(counters.generating_max, 3, "three at once, no more and no less");
    assert_eq!(posts(&backend), 100);
    front.is_idle();
}

#[test]
fn each_of_several_backends_keeps_its_own_bound() {
    let backends = [slow(), slow(), slow()];
    let slots = [1, 2, 4];
    let upstreams: Vec<String> =
        backends.iter().zip(slots).map(|(backend, slots)| upstream(backend, &format!("slots={slots}"))).collect();
    let front = front(&upstreams, &[]);
    assert_eq!(burst(&front, 100, &generate(MODEL, "one two three four")), BTreeMap::from([(200, 100)]));
    for (backend, slots) in backends.iter().zip(slots) {
        assert!(backend.sim.counters().generating_max <= slots, "{slots}: {:?}", backend.sim.counters());
    }
    assert_eq!(backends.iter().map(posts).sum::<u64>(), 100);
    front.is_idle();
}

#[test]
fn a_slot_is_free_again_however_its_request_ends() {
    let (backend, front) = pair(1, &["--queue=0", "--chunk-timeout=1s", "--breaker-failures=0"]);
    let ends = [
        ("a b c", 200),
        ("@sim:cut:1 a b", 200),
        ("@sim:cut-mid-line:1 a b", 200),
        ("@sim:reset:chunks:1 a b", 200),
        ("@sim:error:1 a b", 200),
        ("@sim:stall:chunks:1 a b", 200),
        ("@sim:reset:before-head a", 502),
        ("@sim:garbage-head a", 502),
        ("@500", 500),
        ("@503", 503),
        ("@404", 404),
        ("@redirect", 502),
        ("@drop", 502),
    ];
    for (prompt, status) in ends {
        for article in [false, true] {
            let request = if article { crate::stage::article(prompt) } else { generate(MODEL, prompt) };
            let answer = front.gate.ask(&request);
            assert!(article || answer.status == status, "{prompt}: {answer:?}");
            assert_ne!(answer.text(), "", "{prompt}");
            front.is_idle();
        }
    }
    // Before an answer, and in the middle of one.
    for prompt in ["@sim:stall:before-head a", "@sim:stall:chunks:1 a"] {
        let before = posts(&backend);
        let client = front.begin(&generate(MODEL, prompt));
        wait_for("the backend to have it", || (posts(&backend) > before).then_some(()));
        assert_eq!(front.in_flight(), 1);
        drop(client);
        front.is_idle();
    }
}

/// The worker in which exactly this many requests are.
#[track_caller]
fn worker_with(front: &Front, in_flight: u64) -> Pid {
    let all = front.by_worker();
    all.iter().find(|(_, count)| *count == in_flight).unwrap_or_else(|| panic!("none with {in_flight}: {all:?}")).0
}

#[test]
fn the_slot_of_a_killed_worker_goes_to_who_waits_elsewhere() {
    let (backend, front) = pair(1, &[]);
    for round in 0..5 {
        let _lost = front.hold(MODEL);
        let holder = worker_with(&front, 1);
        // As many as it takes until one waits in another worker.
        let mut waiting = Vec::new();
        while front.by_worker().iter().all(|(pid, count)| *pid == holder || *count == 0) {
            waiting.push(front.enqueue(&generate(MODEL, &format!("round{round}"))));
        }
        kill(holder, Signal::SIGKILL).unwrap();
        let ended: Vec<bool> = waiting.iter_mut().map(|client| client.answer("POST").is_ok()).collect();
        assert!(ended.contains(&true), "nobody else got the slot of the dead worker: {ended:?}");
        front.gate.has_workers(3);
        front.is_idle();
    }
    assert!(prompts(&backend).len() >= 10);
}

#[test]
fn the_places_of_a_killed_worker_are_free_for_others() {
    let (_backend, front) = pair(1, &["--queue=8"]);
    let held = front.hold(MODEL);
    let holder = worker_with(&front, 1);
    let mut waiting: Vec<Client> = (0..8).map(|_| front.enqueue(&generate(MODEL, "waits"))).collect();
    assert_eq!(front.gate.ask(&of(ANOTHER, &generate(MODEL, "full"))).status, 503);
    let others: Vec<(Pid, u64)> =
        front.by_worker().into_iter().filter(|(pid, count)| *pid != holder && *count > 0).collect();
    assert!(!others.is_empty(), "all wait in one worker: {:?}", front.by_worker());
    for (pid, _) in &others {
        kill(*pid, Signal::SIGKILL).unwrap();
    }
    let lost: u64 = others.iter().map(|(_, count)| count).sum();
    front.waits(8 - lost);
    front.gate.has_workers(3);
    // Exactly the places that were lost can be taken again.
    for _ in 0..lost {
        waiting.push(front.enqueue(&generate(MODEL, "again")));
    }
    assert_eq!(front.gate.ask(&of(ANOTHER, &generate(MODEL, "full"))).status, 503);
    drop(held);
    let served = waiting.iter_mut().filter_map(|client| client.answer("POST").ok()).count();
    assert_eq!(served as u64, 8);
    front.is_idle();
}

#[test]
fn nothing_leaks_when_workers_are_killed_under_load() {
    const KILLS: usize = 12;
    let backend = slow();
    let front = front(&[upstream(&backend, "slots=4 name=one")], &["--queue=40", "--breaker-failures=0"]);
    let over = AtomicBool::new(false);
    let request = generate(MODEL, "one two three four");
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|number| {
                let own = of(&format!("198.51.100.{number}"), &request).header("Connection", "close");
                let (front, over) = (&front, &over);
                scope.spawn(move || {
                    let mut served = 0;
                    while !over.load(Ordering::Relaxed) {
                        served += usize::from(try_ask(front, &own) == 200);
                    }
                    served
                })
            })
            .collect();
        for _ in 0..KILLS {
            let before = posts(&backend);
            let victim = wait_for("a worker", || front.gate.workers().first().copied());
            let _gone = kill(victim, Signal::SIGKILL);
            wait_for("the others to go on", || (posts(&backend) > before + 8).then_some(()));
        }
        over.store(true, Ordering::Relaxed);
        let served: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
        assert!(served > KILLS, "{served}");
    });
    front.is_idle();
    assert_eq!(front.backend("one")["in_flight"], 0);
    assert!(backend.sim.counters().generating_max >= 4);
    // All four can be taken again, and no fifth.
    let _held = [(); 4].map(|()| front.hold(MODEL));
    let _fifth = front.enqueue(&generate(MODEL, "fifth"));
}

#[test]
fn a_worker_that_leaves_in_peace_keeps_its_slots_until_its_streams_end() {
    let (_backend, mut front) = pair(2, &[]);
    let first = front.hold(MODEL);
    let old = front.gate.workers();
    front.gate.reload();
    wait_for("the idle ones to leave", || {
        (front.gate.workers().iter().filter(|pid| old.contains(pid)).count() == 1).then_some(())
    });
    assert_eq!(front.in_flight(), 1, "the stream is still in service");
    let second = front.hold(MODEL);
    let mut third = front.enqueue(&generate(MODEL, "third"));
    drop(first);
    assert_eq!(answer(&mut third).status, 200);
    drop(second);
    front.is_idle();
}

#[test]
fn a_request_that_waits_is_served_by_a_worker_that_drains() {
    let (_backend, mut front) = pair(1, &["--graceful-timeout=15s"]);
    let held = front.hold(MODEL);
    let mut waiting: Vec<Client> = (0..6).map(|_| front.enqueue(&generate(MODEL, "waits"))).collect();
    front.gate.reload();
    front.waits(6);
    let mut later = front.enqueue(&generate(MODEL, "later"));
    drop(held);
    for client in waiting.iter_mut().chain([&mut later]) {
        assert_eq!(answer(client).status, 200);
    }
    front.is_idle();
}

#[test]
fn cancelling_ends_the_generation_and_lets_the_next_in() {
    let (backend, front) = pair(1, &[]);
    let mut in_service = front.hold(MODEL);
    for number in 0..20 {
        let next = front.enqueue(&stalled(MODEL, &number.to_string()));
        drop(in_service);
        in_service = Held::begun(next);
    }
    drop(in_service);
    front.is_idle();
    wait_for("the backend to notice", || (backend.sim.counters().cancelled == 21).then_some(()));
    assert_eq!(backend.sim.counters().generating, 0);
}
