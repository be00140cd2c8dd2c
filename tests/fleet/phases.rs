//! How long each phase of a request may take, and that a backend which takes longer costs its own requests only.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ollama_sim::{Config, Model};
use serde_json::{Value, json};

use crate::support::http::{Answer, Client, Request};
use crate::support::sim::Backend;
use crate::support::{PATIENCE, wait_for};
use crate::yard::{OWN, SOON, Yard, asked, by, config, error_of, plays, stream, two, upstream, whole};

/// One backend with one model, behind a gate with these keys.
fn one(config: Config, keys: &str) -> (Backend, Yard) {
    let backend = Backend::start(config);
    let yard = Yard::start(&format!("model = \"{MODEL}\"\n{keys}"), &[upstream(&backend.url(), "name = \"only\"")]);
    (backend, yard)
}

const MODEL: &str = "m:latest";

/// A model that takes so long to load.
fn loads_in(load_time: Duration) -> Config {
    Config { models: vec![Model { load_time, ..Model::named(MODEL) }], ..config(OWN[0]) }
}

/// A request of each kind that waits for a whole answer, or for the head of a stream.
fn all_kinds(prompt: &str) -> [Request; 4] {
    let chat = json!({"model": MODEL, "messages": [{"role": "user", "content": prompt}]});
    let article = Request::post("/ollama_generate/", &json!({"prompt": prompt}));
    [whole(MODEL, prompt), stream(MODEL, prompt), Request::post("/api/chat", &chat), article]
}

/// Each kind of request is refused with this text, to the client and in the log.
#[track_caller]
fn are_late(yard: &Yard, prompt: &str, text: &str) {
    for (number, request) in all_kinds(prompt).iter().enumerate() {
        let id = format!("late-{number}-{}", text.len());
        let answer = yard.ask(&request.clone().header("X-Request-Id", &id));
        assert_eq!((answer.status, error_of(&answer).as_str()), (504, text), "{number}");
        let line = yard.logged(&id);
        assert_eq!((&line["status"], &line["reason"]), (&json!(504), &json!(text)), "{line}");
        assert_eq!((&line["fault"], &line["backend"]), (&json!("backend"), &json!("only")), "{line}");
    }
    yard.is_idle();
}

#[test]
fn a_connection_that_is_not_accepted() {
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = full.local_addr().unwrap();
    let mut queue = Vec::new();
    // Nobody accepts: once the kernel's queue is full, it leaves further clients without a word.
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queue.push(stream);
    }
    let keys = format!("model = \"{MODEL}\"\nconnect_timeout = \"300ms\"\nbreaker_failures = 0");
    let full_one = upstream(&format!("http://{address}"), "name = \"only\"");
    let yard = Yard::start(&keys, std::slice::from_ref(&full_one));
    are_late(&yard, "hi", &format!("Ollama did not accept a connection within {} (connect_timeout)", SOON.1));
    // It surely did not run: another one gets it.
    let other = Backend::start(loads_in(Duration::ZERO));
    let yard = Yard::start(&keys, &[full_one, upstream(&other.url(), "name = \"other\"")]);
    for request in all_kinds("hi") {
        let answer = yard.ask(&request);
        assert_eq!((answer.status, by(&answer)), (200, "other"), "{}", answer.text());
    }
}

#[test]
fn a_model_that_does_not_load() {
    let (backend, yard) =
        one(loads_in(Duration::from_secs(60)), "load_timeout = \"300ms\"\nfirst_byte_timeout = \"1h\"");
    are_late(&yard, "hi", &format!("Ollama did not load the model within {} (load_timeout)", SOON.1));
    wait_for("every load to be given up", || (backend.sim.counters().cancelled == 4).then_some(()));
    assert_eq!(backend.sim.counters().in_flight, 0);
}

#[test]
fn a_slow_load_is_no_failure_and_no_first_token() {
    let keys = "workers = 2\nload_timeout = \"30s\"\nfirst_byte_timeout = \"200ms\"\nbreaker_failures = 1\nbreaker_time = \"100ms\"";
    let (backend, yard) = one(loads_in(Duration::from_millis(1200)), keys);
    let address = yard.address();
    let ask = |number: usize| {
        let request = all_kinds("hi")[number].clone().header("X-Request-Id", &format!("slow-{number}"));
        std::thread::spawn(move || Client::connect(address).ask(&request).unwrap())
    };
    let clients: Vec<_> = (0..4).map(ask).collect();
    for client in clients {
        let answer = client.join().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let backend_now = yard.backend(0);
    assert_eq!(backend_now["breaker"], "closed", "{backend_now}");
    assert_eq!((backend.sim.counters().loads, backend.sim.counters().aborted_loads), (1, 0));
}

#[test]
fn a_first_token_that_does_not_come() {
    let text = format!("Ollama did not begin to answer within {} (first_byte_timeout)", SOON.1);
    let (backend, yard) = one(loads_in(Duration::ZERO), "load_timeout = \"1h\"\nfirst_byte_timeout = \"300ms\"");
    assert_eq!(yard.generate(MODEL).status, 200, "in memory from here on");
    for fault in ["stall:before-head", "stall:mid-head"] {
        are_late(&yard, &format!("@sim:{fault}"), &text);
    }
    wait_for("every request to be cancelled", || (backend.sim.counters().cancelled == 8).then_some(()));
    // A model that has to be loaded first is given that time too, and no more.
    let config = Config { prompt_time: Duration::from_secs(60), ..loads_in(Duration::from_millis(500)) };
    let (_backend, yard) = one(config, "load_timeout = \"1h\"\nfirst_byte_timeout = \"300ms\"");
    let begun = Instant::now();
    let answer = yard.generate(MODEL);
    assert_eq!((answer.status, error_of(&answer)), (504, text));
    assert!(begun.elapsed() >= Duration::from_millis(800), "{:?}", begun.elapsed());
}

#[test]
fn a_next_token_that_does_not_come() {
    let (backend, yard) = one(loads_in(Duration::ZERO), "chunk_timeout = \"300ms\"");
    let text = format!("Ollama sent nothing more within {} (chunk_timeout)", SOON.1);
    let [whole, stream, chat, article] = all_kinds("@sim:stall:chunks:2 one two three");
    for (number, request) in [stream, chat].iter().enumerate() {
        let id = format!("broken-{number}");
        let answer = yard.ask(&request.clone().header("X-Request-Id", &id));
        let lines = answer.lines();
        assert_eq!((answer.status, lines.len()), (200, 3), "{}", answer.text());
        assert_eq!(lines[2], json!({"error": text}));
        let line = yard.logged(&id);
        assert_eq!((&line["reason"], &line["fault"]), (&json!(text), &json!("backend")), "{line}");
    }
    for request in [whole, article] {
        let request = request.header("X-Sim-Unused", "1");
        let answer = yard.ask(&request);
        assert_eq!((answer.status, error_of(&answer)), (504, text.clone()));
    }
    wait_for("every request to be cancelled", || (backend.sim.counters().cancelled == 4).then_some(()));
    yard.is_idle();
}

#[test]
fn a_request_as_a_whole() {
    let text = format!("the request was not answered within {} (request_timeout)", SOON.1);
    let (backend, yard) = one(loads_in(Duration::ZERO), "connect_timeout = \"300ms\"\nrequest_timeout = \"300ms\"");
    assert_eq!(yard.generate(MODEL).status, 200);
    // A backend that would go on for ever.
    for request in &all_kinds("@sim:endless")[1..3] {
        let mut client = Client::connect(yard.address());
        client.send(&request.bytes()).unwrap();
        assert_eq!(client.head().unwrap().0, 200);
        let mut last = Vec::new();
        let begun = Instant::now();
        while let Some(chunk) = client.chunk().unwrap() {
            assert!(begun.elapsed() < PATIENCE, "it goes on for ever");
            last = chunk;
        }
        let told = String::from_utf8(last).unwrap();
        assert_eq!(told.lines().last(), Some(json!({"error": text}).to_string().as_str()));
    }
    // One that does not begin.
    for (number, request) in all_kinds("@sim:stall:before-head").iter().enumerate() {
        let id = format!("whole-{number}");
        let answer = yard.ask(&request.clone().header("X-Request-Id", &id));
        assert_eq!((answer.status, error_of(&answer)), (504, text.clone()), "{number}");
        assert_eq!(yard.logged(&id)["reason"], text.as_str());
    }
    // One that begins and stops, of which the client has seen nothing.
    let answer = yard.ask(&whole(MODEL, "@sim:stall:after-head"));
    assert_eq!((answer.status, error_of(&answer)), (504, text.clone()));
    wait_for("every request to be cancelled", || (backend.sim.counters().cancelled == 7).then_some(()));
    yard.is_idle();
}

#[test]
fn waiting_is_a_part_of_the_whole() {
    let backend = Backend::start(loads_in(Duration::ZERO));
    let table = upstream(&backend.url(), "name = \"only\"\nslots = 1");
    let mut yard = Yard::start("workers = 1", std::slice::from_ref(&table));
    let mut holder = Client::connect(yard.address());
    holder.send(&stream(MODEL, "@sim:endless").bytes()).unwrap();
    holder.head().unwrap();
    // Only those who come from now on have so little time.
    yard.becomes("workers = 1\nconnect_timeout = \"300ms\"\nrequest_timeout = \"300ms\"", &[table]);
    let answer = yard.generate(MODEL);
    let text = format!("the request was not answered within {} (request_timeout)", SOON.1);
    assert_eq!((answer.status, error_of(&answer)), (504, text), "{}", answer.text());
    assert_eq!(asked(&backend), 1, "it never got there");
    wait_for("the empty queue", || (yard.status()["queue"]["length"] == 0).then_some(()));
    holder.chunk().unwrap().expect("the stream goes on");
}

/// Requests for the second backend's model: each is answered, and none takes long.
#[track_caller]
fn goes_on(yard: &Yard, times: usize) -> Vec<Answer> {
    (0..times)
        .map(|_| {
            let begun = Instant::now();
            let answer = yard.generate(OWN[1]);
            assert_eq!((answer.status, by(&answer)), (200, "second"), "{}", answer.text());
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
            answer
        })
        .collect()
}

#[test]
fn a_sick_backend_costs_its_own_requests_only() {
    for fault in
        ["stall:before-head", "stall:mid-head", "stall:after-head", "stall:chunks:1", "slow-head:5000", "endless"]
    {
        // One worker: what holds it up holds everybody up.
        let (first, second, yard) = two("workers = 1\nbreaker_failures = 0");
        let mut running = Client::connect(yard.address());
        running.send(&stream(OWN[1], "@sim:endless").bytes()).unwrap();
        running.head().unwrap();
        let (sick_before, well_before) = (asked(&first), asked(&second));
        let mut stuck: Vec<Client> = (0..20)
            .map(|_| {
                let mut client = Client::connect(yard.address());
                client.send(&stream(OWN[0], &format!("@sim:{fault}")).bytes()).unwrap();
                client
            })
            .collect();
        wait_for("them to be stuck", || (asked(&first) == sick_before + 20).then_some(()));
        goes_on(&yard, 20);
        for _ in 0..20 {
            running.chunk().unwrap().expect("the stream goes on");
        }
        assert_eq!(asked(&second), well_before + 20);
        if fault == "endless" {
            for client in &mut stuck {
                assert_eq!(client.head().unwrap().0, 200);
            }
        }
        assert_eq!(yard.backend(0)["in_flight"], 20, "{fault}");
        drop(stuck);
        wait_for("its slots to be free", || (yard.backend(0)["in_flight"] == 0).then_some(()));
        wait_for("its requests to be cancelled", || (first.sim.counters().in_flight <= 1).then_some(()));
        running.chunk().unwrap().expect("the stream goes on");
    }
}

#[test]
fn who_waits_for_a_stuck_backend_keeps_nobody_else_waiting() {
    let (first, second) = (crate::yard::echo(OWN[0]), crate::yard::echo(OWN[1]));
    let tables = [
        upstream(&first.url(), "name = \"first\"\nslots = 2"),
        upstream(&second.url(), "name = \"second\"\nslots = 2"),
    ];
    let yard = Yard::start("workers = 2\nqueue = 40", &tables);
    yard.sees_all_well();
    let mut stuck = Vec::new();
    for _ in 0..12 {
        let mut client = Client::connect(yard.address());
        client.send(&whole(OWN[0], "@sim:stall:before-head").bytes()).unwrap();
        stuck.push(client);
    }
    wait_for("ten to wait", || (yard.status()["queue"]["length"] == 10).then_some(()));
    wait_for("the two others to get there", || (asked(&first) == 2).then_some(()));
    for answer in goes_on(&yard, 30) {
        assert_eq!(answer.header("x-gate-queue-position"), Some("0"), "{:?}", answer.headers);
    }
    // New models may go to either, and go to the one that is free.
    for number in 0..5 {
        assert_eq!(by(&yard.generate(&format!("new-{number}"))), "second");
    }
    drop(stuck);
    wait_for("the empty queue", || (yard.status()["queue"]["length"] == 0).then_some(()));
    yard.is_idle();
}

#[test]
fn streams_of_a_backend_that_dies_amid_them_end_and_those_of_another_go_on() {
    let (first, _second, yard) = two("workers = 2");
    let begin = |model: &str| {
        let mut client = Client::connect(yard.address());
        client.send(&stream(model, "@sim:endless").bytes()).unwrap();
        assert_eq!(client.head().unwrap().0, 200);
        client
    };
    let mut dying: Vec<Client> = (0..6).map(|_| begin(OWN[0])).collect();
    let mut living: Vec<Client> = (0..6).map(|_| begin(OWN[1])).collect();
    plays(&first, "ok", 1);
    drop(first);
    for client in &mut dying {
        let mut last = Vec::new();
        while let Some(chunk) = client.chunk().expect("a clean end") {
            last = chunk;
        }
        let text = String::from_utf8(last).unwrap();
        let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert!(line["error"].as_str().unwrap().starts_with("Ollama closed the connection"), "{line}");
    }
    for client in &mut living {
        (0..5).for_each(|_| assert!(client.chunk().unwrap().is_some()));
    }
    assert_eq!(yard.backend(0)["in_flight"], 0);
    assert_eq!(yard.backend(1)["in_flight"], 6);
}
