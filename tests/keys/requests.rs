//! Limits of requests by key: exact over four workers and through their deaths, and whose count is whose.

use std::collections::BTreeMap;

use nix::sys::signal::{Signal, kill};

use crate::rig::{backend, keyed, with};
use crate::stage::{ARTICLE, MODEL, article, generate, posts};
use crate::support::http::Request;

fn times(count: usize, key: &str, request: &Request) -> Vec<Request> {
    vec![with(key, request).header("Connection", "close"); count]
}

#[test]
fn limits_are_exact_over_workers_and_are_of_names() {
    let backend = backend();
    let keys = ["--name own --limit 40/hour,1000/day", "--name plain", "--name other", "--name none --limit none"];
    let (house, [own, plain, other, none]) =
        keyed(&backend, keys, (256, &["--api-limit=25/hour", "--limit=7/hour", "--limit-headers"]));
    let twin = house.key("rotate own --grace 1h");
    let ask = generate(MODEL, "a");
    // All at once, from one address.
    let all: Vec<Request> = [(30, &own), (30, &twin), (40, &plain), (40, &other), (60, &none)]
        .into_iter()
        .flat_map(|(count, key)| times(count, key, &ask))
        .collect();
    assert_eq!(house.burst(&all), BTreeMap::from([(200, 40 + 25 + 25 + 60), (429, 20 + 15 + 15)]));
    assert_eq!(posts(&backend), 150);
    for (key, limit) in [(&own, "40 per 1 hour"), (&twin, "40 per 1 hour"), (&plain, "25 per 1 hour")] {
        let answer = house.front.gate.ask(&with(key, &ask));
        assert_eq!((answer.status, answer.text().contains(limit)), (429, true), "{}", answer.text());
        let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((3000..=3608).contains(&seconds), "{seconds}");
        assert_eq!(answer.header("x-ratelimit-remaining"), Some("0"));
    }
    // A key's own limit is for all that it asks; the gate's is for each of its routes.
    let item = Request::get(&format!("{ARTICLE}hi"));
    assert_eq!(house.burst(&times(3, &own, &article("a"))), BTreeMap::from([(429, 3)]));
    assert_eq!(house.burst(&times(9, &plain, &article("a"))), BTreeMap::from([(200, 7), (429, 2)]));
    assert_eq!(house.burst(&times(9, &plain, &item)), BTreeMap::from([(200, 7), (429, 2)]));
    assert_eq!(house.status_of(&own, &Request::get("/api/tags")), 200, "lists cost nothing");
    // What was no request of the key's has cost it nothing.
    let fresh = house.key("new --name fresh --limit 3/hour --models m");
    for refused in [generate("nothere", "a"), Request::post("/api/chat", &serde_json::json!({"model": 7}))] {
        assert!([400, 404].contains(&house.status_of(&fresh, &refused)));
    }
    assert_eq!(house.burst(&times(5, &format!("{fresh}0"), &ask)), BTreeMap::from([(401, 5)]));
    assert_eq!(house.burst(&times(9, &fresh, &ask)), BTreeMap::from([(200, 3), (429, 6)]));
}

#[test]
fn killed_workers_give_nobody_another_request() {
    let backend = backend();
    let (house, [ada]) = keyed(&backend, ["--name ada --limit 120/hour"], (256, &[]));
    let ask = times(50, &ada, &generate(MODEL, "a b c"));
    let mut counted = BTreeMap::<u16, usize>::new();
    for _ in 0..4 {
        let victims = house.front.gate.has_workers(4);
        std::thread::scope(|scope| {
            let burst = scope.spawn(|| house.burst(&ask));
            for victim in &victims[..3] {
                kill(*victim, Signal::SIGKILL).unwrap();
            }
            for (status, count) in burst.join().unwrap() {
                *counted.entry(status).or_default() += count;
            }
        });
    }
    house.front.gate.has_workers(4);
    for (status, count) in house.burst(&times(130, &ada, &generate(MODEL, "a"))) {
        *counted.entry(status).or_default() += count;
    }
    let broken = counted.get(&0).copied().unwrap_or_default();
    assert!(counted[&200] <= 120 && counted[&200] + broken >= 120, "{counted:?}");
    assert!(posts(&backend) <= 120, "{counted:?}");
    assert_eq!(house.status_of(&ada, &generate(MODEL, "a")), 429);
}
