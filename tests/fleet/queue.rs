//! The queue as clients meet it: one line over all workers, bounded, with a deadline, and left by whoever leaves.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::stage::{
    ARTICLE, Front, MODEL, answer, article, backend, config, front, generate, of, pair, prompts, stalled, upstream,
};
use crate::support::http::{Answer, Client, Request};
use crate::support::sim::Backend;
use crate::support::{PATIENCE, wait_for};

#[test]
fn one_client_is_served_in_the_order_it_came_whichever_worker_has_it() {
    let (backend, front) = pair(1, &[]);
    let held = front.hold(MODEL);
    let words: Vec<String> = (1..=12).map(|number| format!("number{number}")).collect();
    let mut waiting: Vec<(Client, Instant)> =
        words.iter().map(|word| (front.enqueue(&generate(MODEL, word)), Instant::now())).collect();
    let used = front.by_worker().iter().filter(|(_, in_flight)| *in_flight > 0).count();
    assert!(used > 1, "they wait in one worker only: {:?}", front.by_worker());
    let waited: Vec<Duration> = waiting.iter().map(|(_, since)| since.elapsed()).collect();
    drop(held);
    for (place, (client, since)) in waiting.iter_mut().enumerate() {
        let answer = answer(client);
        assert_eq!(answer.status, 200, "{answer:?}");
        let field = |name: &str| answer.header(name).unwrap_or("none").parse::<u128>().unwrap();
        assert_eq!(field("x-gate-queue-position"), place as u128 + 1);
        let told = field("x-gate-queue-ms");
        let possible = waited[place].as_millis()..=since.elapsed().as_millis() + 1000;
        assert!(possible.contains(&told), "{place}: told {told} ms, and it was {possible:?}");
    }
    assert_eq!(prompts(&backend)[1..], words);
    front.is_idle();
}

#[test]
fn who_does_not_wait_is_told_so() {
    let (_backend, front) = pair(1, &[]);
    for request in [generate(MODEL, "hi"), article("hi")] {
        let answer = front.gate.ask(&request);
        let fields = ["x-gate-queue-ms", "x-gate-queue-position"].map(|name| answer.header(name).map(str::to_owned));
        assert_eq!((answer.status, fields), (200, [Some("0".to_owned()), Some("0".to_owned())]), "{answer:?}");
    }
}

/// So many requests at the same moment, each of a client of its own.
fn burst(front: &Front, count: u32, request: &Request) -> Vec<Client> {
    (0..count).map(|number| front.begin(&of(&format!("192.0.2.{number}"), request))).collect()
}

/// The answers of those that do not wait, once every one of them waits or is answered; those that wait stay in `clients`.
#[track_caller]
fn refused(front: &Front, clients: &mut Vec<Client>) -> Vec<Answer> {
    let (mut answers, all) = (Vec::new(), clients.len());
    wait_for(&format!("{all} requests to wait or to be answered"), || {
        clients.retain_mut(|client| {
            let waits = waits(client, Duration::from_millis(1));
            if !waits {
                answers.push(answer(client));
            }
            waits
        });
        (answers.len() as u64 + front.waiting() == all as u64).then_some(())
    });
    answers
}

/// Whether nothing comes for this long.
fn waits(client: &Client, long: Duration) -> bool {
    client.socket().set_read_timeout(Some(long)).unwrap();
    let waits = client.socket().peek(&mut [0]).is_err();
    client.socket().set_read_timeout(Some(PATIENCE)).unwrap();
    waits
}

/// What a refusal of the queue says, in the words of the route's dialect.
#[track_caller]
fn is_refusal(answer: &Answer, status: u16, text: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let retry: u64 = answer.header("retry-after").expect("Retry-After").parse().unwrap();
    assert!((1..=120).contains(&retry), "{retry}");
    let told = answer.json();
    assert_eq!(told.as_object().unwrap().len(), 1, "{told}");
    assert!(told["error"].as_str().unwrap().contains(text), "{told}");
    assert_eq!(answer.header("content-type").unwrap().split(';').next(), Some("application/json"));
}

#[test]
fn exactly_as_many_wait_as_the_bound_says_over_three_workers() {
    for request in [generate(MODEL, "hi"), article("hi")] {
        let (backend, front) = pair(1, &["--queue=5"]);
        let held = front.hold(MODEL);
        let mut clients = burst(&front, 30, &request);
        let refused = refused(&front, &mut clients);
        for answer in &refused {
            is_refusal(answer, 503, "busy");
        }
        assert_eq!((refused.len(), clients.len()), (25, 5));
        drop(held);
        for client in &mut clients {
            assert_eq!(answer(client).status, 200);
        }
        assert_eq!(prompts(&backend).len(), 6, "what is refused does not reach the backend");
        front.is_idle();
    }
}

#[test]
fn one_client_fills_its_own_places_and_nobody_elses() {
    for request in [generate(MODEL, "hi"), article("hi")] {
        let (_backend, front) = pair(1, &["--queue=10", "--queue-per-client=3"]);
        let held = front.hold(MODEL);
        let greedy = of("192.0.2.7", &request);
        // Two that come at the same moment for the last place may both be refused: so it is filled up one by one below.
        let mut clients: Vec<Client> = (0..20).map(|_| front.begin(&greedy)).collect();
        for answer in refused(&front, &mut clients) {
            is_refusal(&answer, 429, "wait");
        }
        assert!(clients.len() <= 3, "{} of one client wait", clients.len());
        while front.waiting() < 3 {
            clients.push(front.enqueue(&greedy));
        }
        is_refusal(&front.gate.ask(&greedy), 429, "wait");
        assert_eq!(front.waiting(), 3);
        // The same /64 is one client, as for limits; another one has places of its own.
        let mut others: Vec<Client> =
            (1..=3).map(|number| front.enqueue(&of(&format!("2001:db8::{number}"), &request))).collect();
        is_refusal(&front.gate.ask(&of("2001:db8::9", &request)), 429, "wait");
        others.push(front.enqueue(&of("198.51.100.1", &request)));
        drop(held);
        for client in clients.iter_mut().chain(&mut others) {
            assert_eq!(answer(client).status, 200);
        }
        front.is_idle();
    }
}

#[test]
fn without_a_queue_a_request_is_served_at_once_or_refused_at_once() {
    let (backend, front) = pair(1, &["--queue=0"]);
    assert_eq!(front.gate.ask(&generate(MODEL, "first")).status, 200);
    let held = front.hold(MODEL);
    for request in [generate(MODEL, "second"), article("second")] {
        is_refusal(&front.gate.ask(&request), 503, "busy");
    }
    drop(held);
    front.is_idle();
    assert_eq!(front.gate.ask(&generate(MODEL, "third")).status, 200);
    assert!(!prompts(&backend).contains(&"second".to_owned()));
}

#[test]
fn who_has_waited_too_long_is_refused_and_leaves_no_place_behind() {
    let (backend, front) = pair(1, &["--queue-timeout=300ms", "--queue=2"]);
    let held = front.hold(MODEL);
    for request in [generate(MODEL, "late"), article("late")] {
        let asked = Instant::now();
        let answer = front.gate.ask(&request);
        let took = asked.elapsed();
        is_refusal(&answer, 503, "within 0.3 s");
        assert!(took >= Duration::from_millis(300), "{took:?}");
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert_eq!(front.waiting(), 0);
    }
    drop(held);
    front.is_idle();
    assert_eq!(front.gate.ask(&generate(MODEL, "in time")).status, 200);
    assert!(!prompts(&backend).contains(&"late".to_owned()), "a request that was refused was served all the same");
}

/// Who waits and leaves is measured by another that gets its place. A machine that runs other tests is slow now and then:
/// so the middle one of several tries has to be in time.
#[test]
fn a_client_that_leaves_while_it_waits_frees_its_place_within_a_tenth_of_a_second() {
    const TRIES: usize = 11;
    let (_backend, front) = pair(1, &["--queue=1"]);
    let _held = front.hold(MODEL);
    let mut waiting = Some(front.enqueue(&generate(MODEL, "first")));
    is_refusal(&front.gate.ask(&of("192.0.2.9", &generate(MODEL, "full"))), 503, "busy");
    let mut took: Vec<Duration> = (0..TRIES)
        .map(|_| {
            let left = Instant::now();
            drop(waiting.take());
            loop {
                let begun = left.elapsed();
                let next = front.begin(&of("192.0.2.9", &generate(MODEL, "next")));
                // Refused at once, or in its place.
                if waits(&next, Duration::from_millis(40)) {
                    waiting = Some(next);
                    break begun;
                }
            }
        })
        .collect();
    took.sort();
    assert!(took[TRIES / 2] <= Duration::from_millis(100), "{took:?}");
}

#[test]
fn a_granted_slot_is_not_lost_with_a_client_that_leaves_in_that_moment() {
    let (backend, front) = pair(1, &[]);
    for round in 0..40 {
        let held = front.hold(MODEL);
        let leaving = front.enqueue(&stalled(MODEL, "leaving"));
        let mut staying = front.enqueue(&generate(MODEL, &format!("staying{round}")));
        // Both at once: the slot is given to the first, which is gone or about to be.
        let gone = std::thread::spawn(move || drop(leaving));
        drop(held);
        gone.join().unwrap();
        assert_eq!(answer(&mut staying).status, 200);
        front.is_idle();
    }
    let served = prompts(&backend);
    assert_eq!(served.iter().filter(|prompt| prompt.starts_with("staying")).count(), 40);
}

#[test]
fn a_queue_that_is_full_for_one_backend_refuses_nobody_whom_another_can_serve() {
    let (busy, idle) = (Backend::start(config(&["a"])), Backend::start(config(&["b"])));
    let upstreams = [upstream(&busy, "slots=1 models=a"), upstream(&idle, "slots=4 models=b")];
    let front = front(&upstreams, &["--queue=2", "--queue-per-client=2"]);
    let _held = front.hold("a");
    let _waiting = [front.enqueue(&generate("a", "1")), front.enqueue(&generate("a", "2"))];
    let served = front.gate.ask(&generate("b", "free"));
    assert_eq!(served.status, 200, "{served:?}");
    assert_eq!(front.waiting(), 2);
}

#[test]
fn retry_after_grows_with_what_waits_and_stays_within_two_minutes() {
    let (backend, front) = pair(1, &["--queue=3"]);
    // One request that takes about a second teaches the gate the rate.
    assert_eq!(front.gate.ask(&generate(MODEL, "@sleep:1.2")).status, 200);
    let _held = front.hold(MODEL);
    let _waiting: Vec<Client> = (0..3).map(|number| front.enqueue(&generate(MODEL, &number.to_string()))).collect();
    let refused = front.gate.ask(&generate(MODEL, "full"));
    let retry: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    // Four are in front of it and itself, each taking 1.2 s or somewhat more on a busy machine.
    assert!((4..=20).contains(&retry), "{retry}");
    assert_eq!(prompts(&backend).len(), 2);
}

#[test]
fn both_dialects_stand_in_one_line() {
    let backend = backend();
    let front = front(&[upstream(&backend, "slots=1")], &[]);
    let held = front.hold(MODEL);
    let whole = Request::post("/api/chat", &json!({"model": MODEL, "messages": [{"role": "user", "content": "c"}]}));
    let item = Request::get(&format!("{ARTICLE}d"));
    let mut waiting = [generate(MODEL, "a"), article("b"), whole].map(|request| front.enqueue(&request));
    let mut last = front.enqueue(&item);
    drop(held);
    for client in &mut waiting {
        assert_eq!(answer(client).status, 200);
    }
    assert_eq!(last.answer("GET").unwrap().status, 200);
    let order: Vec<String> = prompts(&backend).split_off(1);
    assert_eq!(order, ["a", "b", "", "d"], "chat has no prompt");
}
