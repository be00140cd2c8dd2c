//! Memory, loads and their counters, as clients see them: over HTTP, with options in bodies.

use std::num::NonZeroUsize;
use std::time::Duration;

use ollama_sim::{Config, Model};
use serde_json::Value;

use crate::support::{Client, Running};

/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(3600);

/// Models `a`, `b` and `c` that fit in memory one at a time.
fn small() -> Config {
    Config { models: ["a", "b", "c"].map(Model::named).to_vec(), memory: 1, ..Config::default() }
}

fn generate(running: &Running, model: &str, more: &str) -> Client {
    running.post("/api/generate", &format!(r#"{{"model":"{model}","prompt":"hi"{more}}}"#))
}

fn last(client: &mut Client) -> Value {
    client.answer().lines().pop().unwrap()
}

fn listed(running: &Running) -> Vec<(String, u64)> {
    let ps = running.get("/api/ps").json();
    let one = |model: &Value| (model["name"].as_str().unwrap().to_owned(), model["context_length"].as_u64().unwrap());
    ps["models"].as_array().unwrap().iter().map(one).collect()
}

#[test]
fn models_swap_and_are_counted() {
    let running = Running::new(small());
    for model in ["a", "a", "b", "A:latest", "nope"] {
        generate(&running, model, "").answer();
    }
    assert_eq!(listed(&running), [("a".to_owned(), 4096)]);
    let counters = running.sim.counters();
    let by_model: Vec<_> = counters.requests_by_model.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(by_model, [("a", 3), ("b", 1)]);
    assert_eq!((counters.loads, counters.swaps, counters.reloads, counters.aborted_loads), (3, 2, 0, 0));
    running.sim.reset();
    let counters = running.sim.counters();
    assert_eq!((counters.loads, counters.swaps, counters.requests_by_model.len()), (0, 0, 0));
    generate(&running, "a", "").answer();
    assert_eq!(running.sim.counters().loads, 0, "a reset unloads nothing");
}

#[test]
fn options_reload_and_ps_tells_the_context() {
    let running = Running::new(Config { memory: 0, ..small() });
    let chat = r#"{"model":"a","messages":[{"role":"user","content":"x"}],"options":{"num_ctx":8192}}"#;
    running.post("/api/chat", chat).answer();
    assert_eq!(listed(&running), [("a".to_owned(), 8192)]);
    for (more, reloads, context) in [
        (r#","options":{"num_ctx":8192,"num_predict":1,"temperature":0}"#, 0, 8192),
        (r#","options":{"num_ctx":8192,"num_gpu":-1}"#, 0, 8192),
        ("", 1, 4096),
        (r#","shift":true,"options":{"num_thread":0}"#, 1, 4096),
        (r#","shift":false"#, 2, 4096),
        (r#","shift":false,"options":{"num_gpu":0,"main_gpu":1,"use_mmap":false}"#, 3, 4096),
    ] {
        generate(&running, "a", more).answer();
        assert_eq!(running.sim.counters().reloads, reloads, "{more}");
        assert_eq!(listed(&running), [("a".to_owned(), context)], "{more}");
    }
}

#[test]
fn a_reload_waits_for_what_is_in_flight() {
    let running = Running::new(small());
    let stalled = running.post("/api/generate", r#"{"model":"a","prompt":"@sim:stall:after-head"}"#);
    running.wait("the first", |counters| counters.loads == 1);
    let mut other = generate(&running, "a", r#","options":{"num_ctx":8192}"#);
    running.wait("the line", |counters| counters.pending_loads == 1);
    assert_eq!(generate(&running, "a", "").answer().status(), 200, "the runner serves to the end");
    assert!(other.is_silent());
    drop(stalled);
    assert_eq!(other.answer().status(), 200);
    assert_eq!(running.sim.counters().reloads, 1);
}

#[test]
fn a_load_that_nobody_waits_for_any_more_is_given_up() {
    let mut config = small();
    config.models[1].load_time = NEVER;
    let running = Running::new(config);
    generate(&running, "a", "").answer();
    let impatient = generate(&running, "b", "");
    running.wait("the load", |counters| counters.loads == 2);
    assert_eq!(listed(&running), [], "a has gone, b is not there yet");
    let mut behind = generate(&running, "c", "");
    running.wait("the line", |counters| counters.pending_loads == 2);
    drop(impatient);
    assert_eq!(behind.answer().status(), 200);
    assert_eq!(listed(&running), [("c".to_owned(), 4096)]);
    let counters = running.wait("the notice", |counters| counters.cancelled == 1);
    assert_eq!((counters.loads, counters.aborted_loads, counters.swaps), (3, 1, 1));
}

#[test]
fn a_full_line_for_loads_refuses_but_loaded_models_answer() {
    let mut config = Config { memory: 0, load_queue: 1, ..small() };
    config.models[1].load_time = NEVER;
    let running = Running::new(config);
    generate(&running, "a", "").answer();
    let _loads = generate(&running, "b", "");
    running.wait("the load", |counters| counters.loads == 2);
    let _behind = generate(&running, "c", "");
    running.wait("the line", |counters| counters.pending_loads == 2);
    let refused = generate(&running, "c", "").answer();
    let busy = r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#;
    assert_eq!((refused.status(), refused.body().as_str()), (503, busy));
    assert_eq!(generate(&running, "a", "").answer().status(), 200);
}

#[test]
fn the_last_line_tells_the_times() {
    let (load_time, prompt_time) = (Duration::from_millis(40), Duration::from_millis(30));
    let model = Model { load_time, ..Model::named("a") };
    for base in [Config::default(), Config::echo()] {
        let running = Running::new(Config { models: vec![model.clone()], prompt_time, ..base });
        let [cold, warm] = [(); 2].map(|()| last(&mut generate(&running, "a", "")));
        let whole = generate(&running, "a", r#","stream":false"#).answer().json();
        let span = |value: &Value, name: &str| Duration::from_nanos(value[name].as_u64().unwrap());
        assert!(span(&cold, "load_duration") >= load_time, "{cold}");
        for answer in [cold, warm.clone(), whole.clone()] {
            assert_eq!(span(&answer, "prompt_eval_duration"), prompt_time, "{answer}");
            let parts = ["load_duration", "prompt_eval_duration", "eval_duration"].map(|name| span(&answer, name));
            assert!(span(&answer, "total_duration") >= parts.iter().sum(), "{answer}");
            assert!(answer["prompt_eval_count"].as_u64() >= Some(1) && answer["eval_count"].as_u64() >= Some(1));
        }
        for answer in [warm, whole] {
            assert!(span(&answer, "load_duration") <= Duration::from_millis(1), "{answer}");
        }
    }
}

#[test]
fn the_head_comes_with_the_first_token() {
    let embedder = Model { capabilities: vec!["embedding".to_owned()], ..Model::named("e") };
    let models = vec![Model::named("a"), embedder];
    let running = Running::new(Config { models, prompt_time: NEVER, ..Config::default() });
    for (path, body) in [
        ("/api/generate", r#"{"model":"a","prompt":"x"}"#),
        ("/api/generate", r#"{"model":"a","prompt":"x","stream":false}"#),
        ("/api/embed", r#"{"model":"e","input":"x"}"#),
        ("/api/embeddings", r#"{"model":"e","prompt":"x"}"#),
    ] {
        let mut client = running.post(path, body);
        running.wait("the request", |counters| counters.in_flight == 1);
        assert!(client.is_silent());
        drop(client);
        running.wait("the notice", |counters| counters.in_flight == 0);
    }
    for (path, body) in [("/api/generate", r#"{"model":"a"}"#), ("/api/embed", r#"{"model":"e"}"#)] {
        assert_eq!(running.post(path, body).answer().status(), 200, "{path}: nothing is to be read");
    }
    let counters = running.wait("the end", |counters| counters.completed == 2);
    assert_eq!(counters.cancelled, 4);
}

#[test]
fn embeddings_load_and_take_slots_too() {
    let mut config = Config { slots: NonZeroUsize::MIN, ..small() };
    config.models.iter_mut().for_each(|model| model.capabilities.push("embedding".to_owned()));
    let running = Running::new(config);
    generate(&running, "a", "").answer();
    let embed = r#"{"model":"b","input":"x","options":{"num_ctx":2048},"keep_alive":-1}"#;
    assert_eq!(running.post("/api/embed", embed).answer().status(), 200);
    assert_eq!(listed(&running), [("b".to_owned(), 2048)]);
    let ps = running.get("/api/ps").json();
    assert!(ps["models"][0]["expires_at"].as_str().unwrap() > "2300", "{ps}");
    assert_eq!(running.sim.counters().requests_by_model["b"], 1);
    for (body, status) in [
        (r#"{"model":"b","input":"x","keep_alive":"soon"}"#, 400),
        (r#"{"model":"b","input":"x","options":{"num_ctx":"many"}}"#, 500),
        (r#"{"model":"b","input":"","keep_alive":0}"#, 200),
    ] {
        assert_eq!(running.post("/api/embed", body).answer().status(), status, "{body}");
    }
    assert_eq!(listed(&running), [], "it was kept for no time");
}

#[test]
fn echoes_have_their_models_too() {
    let running = Running::new(Config { personality: ollama_sim::Personality::Echo, ..small() });
    generate(&running, "b", r#","options":{"num_ctx":100}"#).answer();
    assert_eq!(listed(&running), [("b".to_owned(), 100)]);
    generate(&running, "whatever", "").answer();
    assert_eq!(listed(&running), [], "other names have one runner between them, which is not listed");
    let counters = running.sim.counters();
    assert_eq!((counters.loads, counters.swaps, counters.requests_by_model["anything"]), (2, 1, 1));
}

#[test]
fn ps_tells_what_a_gpu_holds() {
    let model = Model { size: 100, size_vram: 60, ..Model::named("a") };
    let running = Running::new(Config { models: vec![model], ..Config::default() });
    generate(&running, "a", "").answer();
    let ps = running.get("/api/ps").json();
    assert_eq!((&ps["models"][0]["size"], &ps["models"][0]["size_vram"]), (&100.into(), &60.into()));
}
