//! Limits as clients meet them: N processes, one count, whatever happens to the processes.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{self, Signal};
use serde_json::json;

use crate::stage::{ARTICLE, MODEL, article, chat, demo, echo, error_of, gate, generate_whole, try_ask};
use crate::support::http::{Client, Request};
use crate::support::{Gate, wait_for};

const THREADS: usize = 8;

/// So many requests, eight at a time, each on a connection of its own; how many got which status. Those whose
/// connection broke are counted under 0.
fn burst(gate: &Gate, requests: usize, answered: &AtomicUsize) -> BTreeMap<u16, usize> {
    let (address, next) = (gate.address(), AtomicUsize::new(0));
    let worker = || {
        let mut statuses = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < requests {
            let answer = try_ask(address, &article("hi"));
            if let Ok(refused) = &answer
                && refused.status == 429
            {
                let told = refused.text();
                assert!(told.starts_with("{\"error\":\"Rate limit exceeded: 10 per 1 "), "{told}");
            }
            statuses.push(answer.map_or(0, |answer| answer.status));
            answered.fetch_add(1, Ordering::Relaxed);
        }
        statuses
    };
    let mut counted = BTreeMap::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        for status in workers.into_iter().flat_map(|worker| worker.join().unwrap()) {
            *counted.entry(status).or_default() += 1;
        }
    });
    counted
}

fn burst_of_60(gate: &Gate) -> BTreeMap<u16, usize> {
    burst(gate, 60, &AtomicUsize::new(0))
}

/// Ends all workers at once and waits for their successors.
fn kill_all(gate: &Gate) {
    let old = gate.has_workers(3);
    for pid in &old {
        signal::kill(*pid, Signal::SIGKILL).unwrap();
    }
    wait_for("three successors", || {
        let new = gate.workers();
        (new.len() == 3 && new.iter().all(|pid| !old.contains(pid))).then_some(())
    });
}

/// Reloads, and waits until the last worker of before is gone: until then it may take a connection.
fn reload(gate: &mut Gate) {
    let old = gate.workers();
    gate.reload();
    wait_for("the old workers to leave", || gate.workers().iter().all(|pid| !old.contains(pid)).then_some(()));
}

#[test]
fn exactly_as_many_pass_as_the_limit_says() {
    for mode in [&[][..], &["--reuse-port"]] {
        let backend = echo();
        let arguments = [&["--workers", "3", "--limit", "10/minute"], mode].concat();
        let gate = gate(&backend, &arguments).start();
        assert_eq!(burst_of_60(&gate), BTreeMap::from([(200, 10), (429, 50)]), "{mode:?}");
        let asked = backend.sim.counters().requests["POST /api/generate"];
        assert_eq!(asked, 10, "what is refused does not reach the backend");
    }
}

// From here on an hour stands for a minute, so that no window ends before a slow machine is done.

#[test]
fn no_count_is_lost_with_the_processes_that_made_it() {
    for mode in [&[][..], &["--reuse-port"]] {
        let backend = echo();
        let arguments = [&["--workers", "3", "--limit", "10/hour"], mode].concat();
        let mut gate = gate(&backend, &arguments).start();
        assert_eq!(burst_of_60(&gate), BTreeMap::from([(200, 10), (429, 50)]), "{mode:?}");
        reload(&mut gate);
        assert_eq!(burst_of_60(&gate), BTreeMap::from([(429, 60)]), "{mode:?}: after a reload");
        kill_all(&gate);
        assert_eq!(burst_of_60(&gate).get(&200), None, "{mode:?}: after all workers died");
    }
}

#[test]
fn never_more_pass_when_a_worker_dies_amid_a_burst() {
    let backend = echo();
    let gate = gate(&backend, &["--workers", "3", "--limit", "10/hour"]).start();
    let (answered, victim) = (AtomicUsize::new(0), gate.has_workers(3)[0]);
    let counted = std::thread::scope(|scope| {
        let bursting = scope.spawn(|| burst(&gate, 60, &answered));
        wait_for("the burst's beginning", || (answered.load(Ordering::Relaxed) >= 5).then_some(()));
        signal::kill(victim, Signal::SIGKILL).unwrap();
        bursting.join().unwrap()
    });
    let passed = counted.get(&200).copied().unwrap_or(0);
    let broken = counted.get(&0).copied().unwrap_or(0);
    assert!(passed <= 10 && passed + broken >= 10, "{counted:?}");
    gate.has_workers(3);
    assert_eq!(burst_of_60(&gate).get(&200), None);
}

#[test]
fn the_two_routes_count_apart_and_all_prompts_together() {
    let backend = echo();
    let gate = gate(&backend, &["--workers", "2", "--limit", "3/hour"]).start();
    let get = |prompt: &str| gate.get(&format!("{ARTICLE}{prompt}")).status;
    assert_eq!(["a", "b", "c", "d", "a"].map(get), [200, 200, 200, 429, 429]);
    let post = |prompt: &str| gate.ask(&article(prompt)).status;
    assert_eq!(["a", "b", "c", "d", "a"].map(post), [200, 200, 200, 429, 429]);
}

#[test]
fn what_is_invalid_is_not_counted_and_is_told_even_beyond_the_limit() {
    let backend = echo();
    let gate = gate(&backend, &["--limit", "2/hour"]).start();
    let invalid = || {
        for (request, status) in [
            (Request::post(ARTICLE, &json!({})), 422),
            (Request::new("POST", ARTICLE).body(b"{"), 422),
            (Request::new("PUT", ARTICLE), 405),
            (Request::post("/ollama_generate", &json!({"prompt": "hi"})), 307),
            (Request::get("/nowhere"), 404),
        ] {
            assert_eq!(gate.ask(&request).status, status);
        }
    };
    (0..5).for_each(|_| invalid());
    assert_eq!([1, 2, 3].map(|_| gate.ask(&article("hi")).status), [200, 200, 429]);
    invalid();
}

#[test]
fn what_fails_behind_the_gate_is_counted() {
    let backend = demo();
    let gate = gate(&backend, &["--limit", "2/hour"]).start();
    let prompts = ["@sim:busy", "@sim:close:before-head", "hi"];
    assert_eq!(prompts.map(|prompt| gate.ask(&article(prompt)).status), [503, 502, 429]);
}

#[test]
fn several_limits_are_charged_in_order_and_the_first_that_fails_is_named() {
    let backend = echo();
    let gate = gate(&backend, &["--limit", "4/day;2/hour"]).start();
    let told = [1, 2, 3, 4, 5].map(|_| gate.ask(&article("hi"))).map(|answer| answer.text());
    let refused = |limit: &str| format!("{{\"error\":\"Rate limit exceeded: {limit}\"}}");
    assert!(told[..2].iter().all(|text| text.contains("echo")), "{told:?}");
    assert_eq!(told[2..], [refused("2 per 1 hour"), refused("2 per 1 hour"), refused("4 per 1 day")]);
}

#[test]
fn none_means_none_and_zero_means_nobody() {
    let backend = echo();
    let open = gate(&backend, &["--limit", "none"]).start();
    let mut client = Client::connect(open.address());
    assert!((0..300).all(|_| client.ask(&article("hi")).unwrap().status == 200));
    let shut = gate(&backend, &["--limit", "0/minute"]).start();
    assert_eq!(shut.ask(&article("hi")).status, 429);
}

#[test]
fn ollamas_own_routes_have_one_limit_together_and_say_when_to_come_again() {
    let backend = echo();
    let gate = gate(&backend, &["--workers", "2", "--api-limit", "3/minute"]).start();
    let all = [generate_whole("a"), chat("b"), generate_whole("c"), chat("d"), generate_whole("e")];
    let answers = all.map(|request| gate.ask(&request));
    assert_eq!(answers.each_ref().map(|answer| answer.status), [200, 200, 200, 429, 429]);
    for refused in &answers[3..] {
        assert_eq!(error_of(refused), "Rate limit exceeded: 3 per 1 minute");
        let retry: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&retry), "{retry}");
        assert_eq!(refused.header("content-type"), Some("application/json; charset=utf-8"));
    }
    for path in ["/api/tags", "/api/version", "/api/ps", "/"] {
        assert_eq!(gate.get(path).status, 200, "reading is free");
    }
    assert_eq!(gate.ask(&article("hi")).status, 200, "the article's limit is another");
    let bad = gate.post("/api/generate", &json!({"model": MODEL, "prompt": 1}));
    assert_eq!(bad.status, 400, "what is wrong is told first");
}

#[test]
fn the_flood_guard_counts_everything_but_health_checks() {
    let backend = echo();
    let gate = gate(&backend, &["--workers", "2", "--flood", "5/hour"]).start();
    for path in ["/healthz", "/readyz"].iter().cycle().take(20) {
        assert_ne!(gate.get(path).status, 429);
    }
    let requests = [
        Request::get("/nowhere"),
        Request::post(ARTICLE, &json!({})),
        Request::get("/api/tags"),
        Request::new("DELETE", "/api/delete"),
        article("hi"),
    ];
    assert_eq!(requests.each_ref().map(|request| gate.ask(request).status), [404, 422, 200, 403, 200]);
    for request in &requests {
        let refused = gate.ask(request);
        assert_eq!((refused.status, error_of(&refused).as_str()), (429, "Too many requests"));
    }
    assert_eq!(gate.get("/healthz").status, 200);
}

#[test]
fn the_flood_guard_answers_before_the_body_is_there() {
    let backend = echo();
    let gate = gate(&backend, &["--flood", "1/hour"]).start();
    assert_eq!(gate.get("/nowhere").status, 404);
    let mut client = Client::connect(gate.address());
    client.send(b"POST /ollama_generate/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n").unwrap();
    assert_eq!(client.answer("POST").unwrap().status, 429);
    // The body may still come; it is not taken for the next request.
    let rest = client.socket().write_all(&[b'x'; 1000]);
    drop(rest);
    match client.ask(&Request::get("/healthz")) {
        Ok(answer) => assert_eq!(answer.status, 200),
        Err(error) => println!("the connection was closed, which is as good: {error}"),
    }
}

#[test]
fn malformed_heads_are_counted_by_the_flood_guard_too() {
    let backend = echo();
    let gate = gate(&backend, &["--flood", "2/hour"]).start();
    let statuses = [1, 2, 3].map(|_| {
        let mut client = Client::connect(gate.address());
        client.send(b"nonsense\r\n\r\n").unwrap();
        client.answer("GET").unwrap().status
    });
    assert_eq!(statuses, [400, 400, 429]);
}

#[test]
fn a_changed_limit_starts_fresh_and_an_unchanged_one_goes_on() {
    let backend = echo();
    let before = format!(
        "upstream = \"{}\"\nmodel = \"{MODEL}\"\nworkers = 2\nlimit = [\"2/hour\"]\napi_limit = [\"2/hour\"]\n",
        backend.url()
    );
    let mut gate = crate::support::gate([] as [&str; 0]).config(&before).start();
    let used = |gate: &Gate| [1, 2, 3].map(|_| (gate.ask(&article("a")).status, gate.ask(&generate_whole("a")).status));
    assert_eq!(used(&gate), [(200, 200), (200, 200), (429, 429)]);
    gate.configure(&before.replacen("\"2/hour\"", "\"3/hour\"", 1));
    reload(&mut gate);
    assert_eq!(used(&gate), [(200, 429), (200, 429), (200, 429)]);
    assert_eq!(gate.ask(&article("a")).text(), "{\"error\":\"Rate limit exceeded: 3 per 1 hour\"}");
}

#[test]
fn gcra_lets_the_amount_pass_at_once_and_the_next_much_sooner_than_a_window_would() {
    let backend = echo();
    let arguments = ["--workers", "3", "--limit", "10/hour", "--limit-strategy", "gcra", "--limit-headers"];
    let mut gate = gate(&backend, &arguments).start();
    let answers: Vec<_> = (0..12).map(|_| gate.ask(&article("hi"))).collect();
    assert!(answers[..10].iter().all(|answer| answer.status == 200));
    for refused in &answers[10..] {
        assert_eq!(refused.status, 429);
        let retry: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((300..=360).contains(&retry), "a tenth of an hour, less what has passed: {retry}");
    }
    reload(&mut gate);
    assert_eq!(gate.ask(&article("hi")).status, 429);
}

#[test]
fn limit_headers_count_down_over_all_workers() {
    let backend = echo();
    let gate = gate(&backend, &["--workers", "3", "--limit", "20/hour;5/minute", "--limit-headers"]).start();
    for left in (0..5).rev() {
        let answer = gate.ask(&article("hi"));
        assert_eq!(answer.header("x-ratelimit-limit"), Some("5"), "the one of the smallest unit");
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(left.to_string().as_str()));
    }
    let refused = gate.ask(&article("hi"));
    assert_eq!((refused.status, refused.header("x-ratelimit-remaining")), (429, Some("0")));
    let retry: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&retry), "{retry}");
}
