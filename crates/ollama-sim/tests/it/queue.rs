//! Slots, the queue, loading and leaving.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use ollama_sim::{Config, Model, Stage};

use crate::support::Running;

fn narrow(queue: usize, load_time: Duration) -> Running {
    let model = Model { load_time, ..Model::named("llama3.2:1b") };
    Running::new(Config { models: vec![model], slots: NonZeroUsize::MIN, queue, ..Config::default() })
}

#[test]
fn a_full_queue_refuses_and_a_free_slot_serves_the_next() {
    let running = narrow(1, Duration::ZERO);
    let first = running.ask("@sim:stall:after-head");
    running.wait("the first", |counters| counters.in_flight == 1);
    let mut second = running.ask("hi");
    running.wait("the second", |counters| counters.queued == 1);
    let third = running.ask("hi").answer();
    let busy = r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#;
    assert_eq!((third.status(), third.body().as_str()), (503, busy));
    assert!(second.is_silent());
    drop(first);
    assert_eq!(second.answer().status(), 200);
    let counters = running.wait("the end", |counters| counters.completed == 2);
    assert_eq!((counters.queued, counters.cancelled, counters.in_flight_max), (0, 1, 3));
}

#[test]
fn a_client_that_leaves_the_queue_gives_its_place_back() {
    let running = narrow(1, Duration::ZERO);
    let _first = running.ask("@sim:stall:after-head");
    running.wait("the first", |counters| counters.in_flight == 1);
    let second = running.ask("hi");
    running.wait("the second", |counters| counters.queued == 1);
    drop(second);
    let counters = running.wait("the notice", |counters| counters.cancelled == 1);
    assert_eq!((counters.queued, counters.cancellations[0].stage), (0, Stage::Waiting));
}

#[test]
fn a_model_loads_once_is_listed_and_leaves() {
    let load = Duration::from_millis(80);
    let running = narrow(1, load);
    assert_eq!(running.get("/api/ps").body(), r#"{"models":[]}"#);
    let start = Instant::now();
    let cold = running.ask_whole("hi").answer().json();
    assert!(start.elapsed() >= load);
    assert!(cold["load_duration"].as_u64().unwrap() >= load.as_nanos() as u64, "{cold}");
    let warm = running.ask_whole("hi").answer().json();
    assert!(warm["load_duration"].as_u64().unwrap() < 1000, "{warm}");
    let listed = running.get("/api/ps").json();
    assert_eq!(listed["models"][0]["name"], "llama3.2:1b");
    let unload = r#"{"model":"llama3.2:1b","keep_alive":0}"#;
    assert_eq!(running.post("/api/generate", unload).answer().json()["done_reason"], "unload");
    assert_eq!(running.get("/api/ps").body(), r#"{"models":[]}"#);
    let forever = r#"{"model":"llama3.2:1b","messages":[],"keep_alive":-1}"#;
    assert_eq!(running.post("/api/chat", forever).answer().json()["done_reason"], "load");
    let listed = running.get("/api/ps").json();
    assert!(listed["models"][0]["expires_at"].as_str().unwrap() > "2300", "{listed}");
}

#[test]
fn a_client_that_leaves_while_loading_ends_the_load() {
    let running = narrow(1, Duration::from_secs(3600));
    let client = running.ask("hi");
    running.wait("the request", |counters| counters.in_flight == 1);
    drop(client);
    let counters = running.wait("the notice", |counters| counters.cancelled == 1);
    assert_eq!(counters.cancellations[0].stage, Stage::Waiting);
    assert_eq!(running.get("/api/ps").body(), r#"{"models":[]}"#);
}
