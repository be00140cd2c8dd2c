//! While the store answers: exactly what a limit says, over all gates together. Each gate is asked more often than that, or
//! it might keep what it was granted.

use serde_json::json;

use crate::server::Server;
use crate::site::{GATES, Site, keys, store_is, with};
use crate::stage::{ARTICLE, Held, MODEL, article, generate, of};
use crate::support::http::Request;
use crate::support::{Dir, wait_for};

/// What the backend says that it read and made of anything.
const TOLD: u64 = 4 + 8;

#[test]
fn requests_of_an_address_are_counted_over_all_gates() {
    let Some(server) = Server::start() else { return };
    let limits = ["--api-limit=60/hour,1000/day", "--limit=25/hour", "--limit-headers"];
    let site = Site::start(&server.url(), &limits);
    let ask = generate(MODEL, "a");
    let both = ["203.0.113.1", "203.0.113.2"].map(|address| of(address, &ask));
    let count = site.burst(&both, 40, || {});
    assert_eq!(count.admitted(), 2 * 60, "{count:?}");
    for gate in &site.gates {
        let answer = gate.gate.ask(&both[0]);
        assert_eq!((answer.status, answer.text().contains("60 per 1 hour")), (429, true), "{}", answer.text());
        let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((3000..=3600).contains(&seconds), "{seconds}");
        assert_eq!(answer.header("x-ratelimit-remaining"), Some("0"));
    }
    // Each of the article's routes has a limit of its own.
    let item = Request::get(&format!("{ARTICLE}hi"));
    for request in [article("a"), item] {
        let count = site.burst(&[of("203.0.113.1", &request)], 10, || {});
        assert_eq!(count.admitted(), 25, "{count:?}");
    }
    site.has_worked(2 * 60 + 2 * 25);
    assert_eq!(site.logged("the store of limits"), 0, "it was never away");
    for told in site.store_is("well") {
        assert_eq!(told, json!({"url": server.url(), "state": "well", "away_since": null, "share": "1/3"}));
    }
}

#[test]
fn requests_of_a_key_are_counted_over_all_gates() {
    let Some(server) = Server::start() else { return };
    let dir = Dir::new();
    let (flag, [own, plain, none]) =
        keys(&dir, ["--name own --limit 45/hour,1000/day", "--name plain", "--name none --limit none"]);
    let site = Site::start(&server.url(), &[&flag, "--api-limit=60/hour"]);
    let ask = generate(MODEL, "a");
    // From one address.
    let count = site.burst(&[with(&own, &ask), with(&plain, &ask), with(&own, &article("a"))], 70, || {});
    assert_eq!(count.admitted(), 45 + 60, "a key's own limit is for all that it asks: {count:?}");
    let count = site.burst(&[with(&none, &ask)], 8, || {});
    assert_eq!((count.admitted(), count.refused()), ((8 * 4 + 2) * GATES as u64, 0));
    site.has_worked(45 + 60 + (8 * 4 + 2) * GATES as u64);
}

/// A request that may make so many tokens; its prompt is guessed to be one.
fn asks(key: &str, prompt: &str, tokens: u64) -> Request {
    let body = json!({"model": MODEL, "prompt": prompt, "options": {"num_predict": tokens - 1}});
    with(key, &Request::post("/api/generate", &body))
}

#[test]
fn tokens_that_one_gate_did_not_use_are_there_for_the_others() {
    let Some(server) = Server::start() else { return };
    let dir = Dir::new();
    let (flag, [ada, bob]) = keys(&dir, ["--name ada --tokens 2000/hour", "--name bob --tokens 2000/hour,9000/day"]);
    let site = Site::start(&server.url(), &[&flag]);
    // Nearly all of them are reserved at one gate, and settled when its client leaves.
    let held = Held::begun(site.gates[0].begin(&asks(&ada, "@sim:stall:chunks:1 a", 1700)));
    for gate in &site.gates {
        let answer = gate.gate.ask(&asks(&ada, "a", 1700));
        assert_eq!((answer.status, answer.text().contains("2000 tokens per 1 hour")), (429, true), "{answer:?}");
    }
    drop(held);
    for gate in &site.gates {
        wait_for("tokens that were given back", || match gate.gate.ask(&asks(&ada, "a", 1700)).status {
            200 => Some(()),
            429 => None,
            other => panic!("{other}"),
        });
    }
    // Never more than there are, and nothing but what is too little for a request is left over.
    let (reserved, mut used) = (20, 0);
    let ask = [asks(&bob, "a", reserved)];
    used += TOLD * site.burst(&ask, 30, || {}).admitted();
    wait_for("all tokens to be used", || {
        assert!(used <= 2000, "{used}");
        used += TOLD * site.burst(&ask, 1, || {}).admitted();
        (used > 2000 - reserved * (GATES as u64 + 1)).then_some(())
    });
    used += TOLD * site.burst(&ask, 5, || {}).admitted();
    assert!(used <= 2000, "{used}");
    store_is(&site.gates[0], "well");
}
