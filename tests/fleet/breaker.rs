//! Backends that fail again and again: left alone by all workers together, tried by one, taken back.

use std::thread;

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::support::http::{Answer, Client, Request};
use crate::support::{is_alive, wait_for};
use crate::yard::{CLOSED, OWN, Yard, asked, by, error_of, plays, stream, two, two_watched, whole};

/// Makes the first backend fail so often in a row.
#[track_caller]
fn fails(yard: &Yard, times: usize) {
    for _ in 0..times {
        let answer = yard.ask(&whole(OWN[0], "@sim:close:before-head"));
        assert_eq!((answer.status, by(&answer)), (502, "first"), "{}", answer.text());
    }
}

#[test]
fn it_opens_after_so_many_failures_in_a_row_over_all_workers() {
    let (first, _second, yard) = two("workers = 3\nbreaker_failures = 7\nbreaker_time = \"1h\"");
    let mut workers = yard.client_of_each_worker(3);
    let mut fail = |worker: usize| {
        let answer = workers[worker].ask(&whole(OWN[0], "@sim:close:before-head")).unwrap();
        assert_eq!((answer.status, error_of(&answer).as_str()), (502, CLOSED));
    };
    (0..6).for_each(|number| fail(number % 3));
    assert_eq!(yard.backend(0)["breaker"], "closed");
    // A success in between begins the row anew, whoever has it.
    assert_eq!(yard.generate(OWN[0]).status, 200);
    (0..6).for_each(|number| fail(number % 3));
    assert_eq!(yard.backend(0)["breaker"], "closed");
    fail(0);
    let backend = yard.backend(0);
    assert_eq!(backend["breaker"], "open", "{backend}");
    assert!(backend["breaker_ms"].as_u64().unwrap() > 3_500_000, "{backend}");
    // All workers leave it alone, though it would be the first choice for these.
    let before = asked(&first);
    for number in 0..12 {
        let answer = workers[number % 3].ask(&whole(&format!("new-{number}"), "hi")).unwrap();
        assert_eq!((answer.status, by(&answer)), (200, "second"));
    }
    assert_eq!(asked(&first), before);
}

#[test]
fn a_backend_that_refuses_opens_it_as_well() {
    let (first, second, yard) = two("workers = 2\nbreaker_failures = 3\nbreaker_time = \"1h\"");
    drop(first);
    for number in 0..3 {
        let answer = yard.generate(&format!("new-{number}"));
        assert_eq!((answer.status, by(&answer)), (200, "second"));
    }
    assert_eq!(yard.backend(0)["breaker"], "open");
    // It is not even tried any more.
    let request = whole("new-4", "hi").header("X-Request-Id", "not-tried");
    assert_eq!(yard.ask(&request).status, 200);
    assert_eq!(yard.logged("not-tried")["tries"], Value::Null);
    assert_eq!(asked(&second), 5);
}

/// So many requests for new models at once; their answers.
fn burst(yard: &Yard, models: std::ops::Range<usize>) -> Vec<Answer> {
    let address = yard.address();
    let ask = |number: usize| {
        let request = whole(&format!("new-{number}"), "hi").header("X-Request-Id", &format!("burst-{number}"));
        thread::spawn(move || Client::connect(address).ask(&request).unwrap())
    };
    let clients: Vec<_> = models.map(ask).collect();
    clients.into_iter().map(|client| client.join().unwrap()).collect()
}

#[test]
fn half_open_it_lets_exactly_one_try() {
    let (first, _second, yard) = two("workers = 3\nbreaker_failures = 2\nbreaker_time = \"400ms\"");
    fails(&yard, 2);
    yard.has_breaker(0, "open");
    wait_for("the time to be over", || (yard.backend(0)["breaker_ms"] == 0).then_some(()));
    let before = asked(&first);
    plays(&first, "stall:before-head", 1);
    let mut trial = Client::connect(yard.address());
    trial.send(&whole("new-100", "hi").header("X-Request-Id", "trial").bytes()).unwrap();
    wait_for("the one that tries", || (asked(&first) == before + 1).then_some(()));
    assert_eq!(yard.backend(0)["breaker"], "trial");
    for answer in burst(&yard, 0..24) {
        assert_eq!((answer.status, by(&answer)), (200, "second"), "{}", answer.text());
    }
    assert_eq!(asked(&first), before + 1, "nobody beside the one that tries");
}

#[test]
fn of_many_that_come_when_its_time_is_over_one_tries() {
    let (first, _second, yard) = two("workers = 3\nbreaker_failures = 1\nbreaker_time = \"300ms\"");
    for round in 0..4 {
        fails(&yard, 1);
        wait_for("the time to be over", || {
            let backend = yard.backend(0);
            (backend["breaker"] == "open" && backend["breaker_ms"] == 0).then_some(())
        });
        let before = asked(&first);
        // Its answer takes longer than all of the others do, and less than the time of a trial.
        plays(&first, "delay:1500", 1000);
        let answers = burst(&yard, round * 16..round * 16 + 16);
        let tried = answers.iter().filter(|answer| by(answer) == "first").count();
        assert_eq!((tried as u64, asked(&first) - before), (1, 1), "round {round}");
        assert!(answers.iter().all(|answer| answer.status == 200));
        let number = round * 16 + answers.iter().position(|answer| by(answer) == "first").unwrap();
        assert_eq!(yard.logged(&format!("burst-{number}"))["why"], "cold, trial");
        // It has answered: all come back.
        assert_eq!(yard.backend(0)["breaker"], "closed");
        plays(&first, "ok", 1);
    }
}

#[test]
fn a_trial_that_fails_doubles_the_time_and_one_that_succeeds_closes() {
    let (first, _second, yard) = two("breaker_failures = 1\nbreaker_time = \"150ms\"\nworkers = 2");
    fails(&yard, 1);
    let mut number = 0;
    for longer in [2, 4, 8, 8] {
        wait_for("a trial that fails", || {
            plays(&first, "close:before-head", 1);
            number += 1;
            (yard.generate(&format!("new-{number}")).status == 502).then_some(())
        });
        let backend = yard.backend(0);
        let left = backend["breaker_ms"].as_u64().unwrap();
        assert!(left <= 150 * longer && left > 150 * longer / 2, "{left} ms of {}: {backend}", 150 * longer);
    }
    plays(&first, "ok", 1);
    wait_for("a trial that succeeds", || {
        number += 1;
        (by(&yard.generate(&format!("new-{number}"))) == "first").then_some(())
    });
    assert_eq!(yard.backend(0)["breaker"], "closed");
}

#[test]
fn the_last_ones_are_tried_all_the_same() {
    let keys = "workers = 2\nbreaker_failures = 2\nbreaker_time = \"1h\"\nretry = \"never\"";
    let (first, second, yard) = two(keys);
    fails(&yard, 2);
    for _ in 0..2 {
        assert_eq!(yard.ask(&whole(OWN[1], "@sim:close:before-head")).status, 502);
    }
    assert_eq!((&yard.backend(0)["breaker"], &yard.backend(1)["breaker"]), (&json!("open"), &json!("open")));
    let before = asked(&first) + asked(&second);
    // Each request reaches one, and when one is well again, the first answer says so.
    assert_eq!(yard.ask(&whole("new-0", "@sim:close:before-head")).status, 502);
    assert_eq!(asked(&first) + asked(&second), before + 1);
    let answer = yard.generate("new-1");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let place = usize::from(by(&answer) == "second");
    assert_eq!(yard.backend(place)["breaker"], "closed");
    // A model that only one has is asked for there, whatever its breaker says.
    assert_eq!(yard.generate(OWN[0]).status, 200);
    assert_eq!(yard.generate(OWN[1]).status, 200);
    assert_eq!((&yard.backend(0)["breaker"], &yard.backend(1)["breaker"]), (&json!("closed"), &json!("closed")));
}

#[test]
fn what_is_the_clients_own_doing_never_counts() {
    let (first, _second, yard) = two("workers = 2\nbreaker_failures = 1\nbreaker_time = \"1h\"");
    for status in [400, 401, 404, 413, 422, 429] {
        plays(&first, &format!("status:{status}"), 1);
        let answer = yard.generate(OWN[0]);
        assert_eq!((answer.status, by(&answer)), (status, "first"));
        assert_eq!(yard.backend(0)["breaker"], "closed", "{status}");
    }
    // Clients that leave: before the answer, and amid it.
    for fault in ["stall:before-head", "stall:after-head", "endless"] {
        let before = asked(&first);
        let gone = first.sim.counters().cancelled;
        let mut client = Client::connect(yard.address());
        client.send(&stream(OWN[0], &format!("@sim:{fault}")).bytes()).unwrap();
        wait_for("the request", || (asked(&first) > before).then_some(()));
        if fault == "endless" {
            client.head().unwrap();
            client.chunk().unwrap();
        }
        drop(client);
        wait_for("its cancellation", || (first.sim.counters().cancelled > gone).then_some(()));
        yard.is_idle();
        assert_eq!(yard.backend(0)["breaker"], "closed", "{fault}");
    }
    // A body that is no request never gets there.
    assert_eq!(yard.ask(&Request::new("POST", "/api/generate").body(b"{")).status, 400);
    assert_eq!(yard.backend(0)["breaker"], "closed");
}

#[test]
fn a_stream_that_breaks_off_counts() {
    for fault in ["reset:chunks:1", "close:mid-chunk:1", "cut:1", "stall:chunks:1"] {
        let (_first, _second, yard) = two("breaker_failures = 1\nbreaker_time = \"1h\"\nchunk_timeout = \"300ms\"");
        let answer = yard.ask(&stream(OWN[0], &format!("@sim:{fault} one two three")));
        assert_eq!(answer.status, 200);
        assert!(answer.lines().last().unwrap()["error"].is_string(), "{}", answer.text());
        assert_eq!(yard.backend(0)["breaker"], "open", "{fault}");
    }
}

#[test]
fn a_killed_monitor_costs_nothing_and_forgets_nothing() {
    let (first, second, yard) = two_watched("workers = 2\nbreaker_failures = 1\nbreaker_time = \"1h\"");
    assert_eq!(yard.generate(OWN[0]).status, 200);
    for (place, own) in OWN.iter().enumerate() {
        wait_for("what is in memory", || (yard.backend(place)["loaded"] == json!([own])).then_some(()));
    }
    fails(&yard, 1);
    let monitor = yard.gate.children("monitor")[0];
    let known = |yard: &Yard| {
        let status = yard.status();
        let of = |place: usize| {
            let backend = &status["backends"][place];
            ["state", "breaker", "listed", "loaded"].map(|field| backend[field].clone())
        };
        [of(0), of(1)]
    };
    let before = known(&yard);
    assert_eq!(before[0], [json!("healthy"), json!("open"), json!(151), json!([OWN[0]])]);
    assert_eq!(before[1], [json!("healthy"), json!("closed"), json!(151), json!([OWN[1]])]);
    let mut running = Client::connect(yard.address());
    running.send(&stream(OWN[1], "@sim:endless").bytes()).unwrap();
    running.head().unwrap();
    kill(monitor, Signal::SIGKILL).unwrap();
    wait_for("its end", || (!is_alive(monitor)).then_some(()));
    assert_eq!(known(&yard), before, "states stay");
    assert_eq!(yard.generate(OWN[1]).status, 200);
    running.chunk().unwrap().expect("the stream goes on");
    wait_for("another one", || match yard.gate.children("monitor")[..] {
        [new] if new != monitor => Some(()),
        _ => None,
    });
    // It asks again, and takes back nothing that it has not found out.
    let probes = |backend: &crate::support::sim::Backend| {
        let requests = backend.sim.counters().requests;
        ["GET /api/version", "GET /api/tags", "GET /api/ps"].map(|route| requests.get(route).copied().unwrap_or(0))
    };
    let seen = [probes(&first), probes(&second)];
    wait_for("its questions to both", || {
        let all = [probes(&first), probes(&second)];
        let more = all.iter().zip(&seen).all(|(now, then)| now.iter().zip(then).all(|(now, then)| now > then));
        assert_eq!(known(&yard), before);
        more.then_some(())
    });
    running.chunk().unwrap().expect("the stream still goes on");
}
