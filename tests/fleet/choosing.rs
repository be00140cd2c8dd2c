//! Which backend serves a request: seen in who was asked, what was loaded, and what the gate says of it.

use std::time::{Duration, Instant};

use ollama_sim::{Config, Personality};
use serde_json::{Value, json};

use crate::stage::{
    Front, Held, MODEL, answer, article, backend, config, front, generate, knows, posts, preload, prompts,
    slow_to_load, stalled, upstream,
};
use crate::support::http::{Answer, Request};
use crate::support::sim::Backend;
use crate::support::{PATIENCE, wait_for};

/// Backends named `one`, `two`, … with these options each.
fn named(backends: &[Backend], options: &str) -> Vec<String> {
    let names = ["one", "two", "three"];
    backends.iter().zip(names).map(|(backend, name)| upstream(backend, &format!("name={name} {options}"))).collect()
}

#[track_caller]
fn by(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header("x-gate-backend").expect("a backend").to_owned()
}

fn loads(backends: &[Backend]) -> u64 {
    backends.iter().map(|backend| backend.sim.counters().loads).sum()
}

/// How many of these are served by each backend.
fn shares(held: &[Held], names: &[&str]) -> Vec<usize> {
    names.iter().map(|name| held.iter().filter(|held| held.by() == *name).count()).collect()
}

/// This many requests for a model at the same moment, whole answers.
#[track_caller]
fn together(front: &Front, count: usize, request: &Request) -> Vec<Answer> {
    let mut clients: Vec<_> = (0..count).map(|_| front.begin(request)).collect();
    clients.iter_mut().map(answer).collect()
}

/// Asks for one cold model after the other, by twenty at once, and counts the loads.
#[track_caller]
fn is_loaded_once(slots: usize, load_time: Duration, prompt: &str, rounds: u64) {
    let models: Vec<String> = (0..rounds).map(|round| format!("cold{round}:latest")).collect();
    let models: Vec<&str> = models.iter().map(String::as_str).collect();
    let backends = [(); 3].map(|()| Backend::start(slow_to_load(&models, load_time)));
    let front = front(&named(&backends, &format!("slots={slots}")), &[]);
    knows(&front, &["one", "two", "three"], rounds);
    for (round, model) in models.iter().enumerate() {
        let before = loads(&backends);
        let answers = together(&front, 20, &generate(model, prompt));
        let asked: Vec<String> = answers.iter().map(by).collect();
        let loaded = loads(&backends) - before;
        assert_eq!(loaded, 1, "round {round}: {model} was loaded {loaded} times, by {asked:?}");
    }
    front.is_idle();
}

#[test]
fn a_cold_model_that_many_ask_for_is_loaded_once() {
    is_loaded_once(32, Duration::from_millis(40), "hi", 12);
}

/// The first load teaches the gate what a load costs; served one after the other they wait for less than that.
#[test]
fn those_who_waited_for_a_load_do_not_load_again() {
    is_loaded_once(4, Duration::from_secs(1), "@sleep:0.1", 3);
}

#[test]
fn who_waits_for_a_load_that_is_given_up_is_served_all_the_same() {
    let backends = [(); 2].map(|()| Backend::start(slow_to_load(&[MODEL], Duration::from_secs(2))));
    let front = front(&named(&backends, "slots=1"), &[]);
    knows(&front, &["one", "two"], 1);
    let loading = front.begin(&generate(MODEL, "leaves"));
    wait_for("the load", || (loads(&backends) == 1).then_some(()));
    let mut waiting: Vec<_> = (0..3).map(|_| front.enqueue(&generate(MODEL, "stays"))).collect();
    drop(loading);
    for client in &mut waiting {
        by(&answer(client));
    }
    assert_eq!(backends.iter().map(|backend| backend.sim.counters().aborted_loads).sum::<u64>(), 1);
    assert_eq!(loads(&backends), 2, "the one that was given up, and one");
    front.is_idle();
}

#[test]
fn a_second_copy_is_loaded_when_waiting_costs_more() {
    let load_time = Duration::from_millis(500);
    let backends = [(); 2].map(|()| Backend::start(slow_to_load(&[MODEL], load_time)));
    let front = front(&named(&backends, "slots=1"), &[]);
    knows(&front, &["one", "two"], 1);
    // The gate learns what a load costs.
    let first = by(&front.gate.ask(&generate(MODEL, "first")));
    let held = front.hold(MODEL);
    assert_eq!(held.by(), first);
    let asked = Instant::now();
    let copied = front.gate.ask(&generate(MODEL, "second"));
    assert_ne!(by(&copied), first);
    let waited: u64 = copied.header("x-gate-queue-ms").unwrap().parse().unwrap();
    assert!((350..5000).contains(&waited), "{waited} ms, {:?} in all", asked.elapsed());
    assert_eq!(loads(&backends), 2);
    // Both have it now: no more waiting, no more loads.
    assert_eq!(by(&front.gate.ask(&generate(MODEL, "third"))), by(&copied));
    assert_eq!(loads(&backends), 2);
}

#[test]
fn a_request_goes_where_its_model_is_in_memory() {
    let backends = [(); 3].map(|()| Backend::start(config(&["a", "b", "c"])));
    for (backend, model) in backends.iter().zip(["a", "b", "c"]) {
        preload([backend], model);
    }
    let front = front(&named(&backends, ""), &[]);
    knows(&front, &["one", "two", "three"], 3);
    for (name, model) in ["one", "two", "three"].into_iter().zip(["a", "b", "c"]) {
        front.has_loaded(&[name], &[&format!("{model}:latest")]);
    }
    for _ in 0..10 {
        for (name, model) in ["one", "two", "three"].into_iter().zip(["a", "b", "c"]) {
            // Busy or not: loading would cost more than waiting.
            assert_eq!(by(&front.gate.ask(&generate(model, "hi"))), name);
        }
    }
    assert_eq!(loads(&backends), 3, "each has what it had");
}

#[test]
fn a_cold_model_goes_where_memory_is_emptiest() {
    let backends = [(); 2].map(|()| Backend::start(config(&["a", "b", "c", "d"])));
    let front = front(&named(&backends, ""), &[]);
    knows(&front, &["one", "two"], 4);
    let a = by(&front.gate.ask(&generate("a", "hi")));
    let b = by(&front.gate.ask(&generate("b", "hi")));
    assert_ne!(a, b);
    let c = by(&front.gate.ask(&generate("c", "hi")));
    let d = by(&front.gate.ask(&generate("d", "hi")));
    assert_ne!(c, d);
}

#[test]
fn the_least_loaded_of_those_that_have_the_model_is_chosen() {
    let backends = [(); 3].map(|()| backend());
    preload(&backends, MODEL);
    let names = ["one", "two", "three"];
    let front = front(&named(&backends, "slots=8"), &[]);
    knows(&front, &names, 1);
    front.has_loaded(&names, &[MODEL]);
    let held: Vec<Held> = (0..12).map(|_| front.hold(MODEL)).collect();
    assert_eq!(shares(&held, &names), [4, 4, 4]);
}

#[test]
fn weights_and_slots_are_shares() {
    let cases = [
        ("slots=12 weight=1", "slots=12 weight=3", [3, 9]),
        ("slots=2", "slots=6", [2, 6]),
        ("slots=4 weight=2", "slots=8 weight=1", [4, 4]),
    ];
    for (first, second, wanted) in cases {
        let backends = [backend(), backend()];
        preload(&backends, MODEL);
        let upstreams = [
            upstream(&backends[0], &format!("name=one {first}")),
            upstream(&backends[1], &format!("name=two {second}")),
        ];
        let front = front(&upstreams, &[]);
        knows(&front, &["one", "two"], 1);
        front.has_loaded(&["one", "two"], &[MODEL]);
        let held: Vec<Held> = (0..wanted.iter().sum()).map(|_| front.hold(MODEL)).collect();
        assert_eq!(shares(&held, &["one", "two"]), wanted, "{first} beside {second}");
    }
}

/// Requests that cannot be served wait, and others are chosen for as if they were not there.
#[test]
fn who_waits_for_a_busy_backend_does_not_bend_the_choice_for_others() {
    let backends = [Backend::start(config(&["x", MODEL])), backend(), backend()];
    preload(&backends[1..], MODEL);
    let front = front(&named(&backends, "slots=8"), &["--swap-patience=1h"]);
    knows(&front, &["one"], 2);
    knows(&front, &["two", "three"], 1);
    front.has_loaded(&["two", "three"], &[MODEL]);
    let _full: Vec<Held> = (0..8).map(|_| front.hold("x")).collect();
    let _waiting = front.enqueue(&generate("x", "waits"));
    let held: Vec<Held> = (0..6).map(|_| front.hold(MODEL)).collect();
    assert_eq!(shares(&held, &["one", "two", "three"]), [0, 3, 3]);
    assert_eq!(front.waiting(), 1);
}

#[test]
fn other_options_are_another_instance() {
    let backends = [backend(), backend()];
    let front = front(&named(&backends, ""), &[]);
    knows(&front, &["one", "two"], 1);
    let with =
        |options: Value| Request::post("/api/generate", &json!({"model": "m", "prompt": "hi", "options": options}));
    let plain = by(&front.gate.ask(&generate("m", "hi")));
    let wide = by(&front.gate.ask(&with(json!({"num_ctx": 8192}))));
    assert_ne!(plain, wide, "the loaded one would have been replaced");
    for _ in 0..8 {
        assert_eq!(by(&front.gate.ask(&generate("m", "hi"))), plain);
        // Options that need no load are nobody's business here.
        assert_eq!(by(&front.gate.ask(&with(json!({"temperature": 0.5, "seed": 1})))), plain);
        assert_eq!(by(&front.gate.ask(&with(json!({"num_ctx": 8192, "top_k": 3})))), wide);
    }
    let counters: Vec<_> = backends.iter().map(|backend| backend.sim.counters()).collect();
    assert_eq!(
        counters.iter().map(|counters| (counters.loads, counters.reloads)).collect::<Vec<_>>(),
        [(1, 0), (1, 0)]
    );
}

#[test]
fn a_name_means_what_it_means_to_ollama() {
    let backends = [(); 3].map(|()| backend());
    let front = front(&named(&backends, ""), &[]);
    knows(&front, &["one", "two", "three"], 1);
    let first = by(&front.gate.ask(&generate("m", "hi")));
    for name in ["M", "m:latest", "M:LATEST", "m"] {
        assert_eq!(by(&front.gate.ask(&generate(name, "hi"))), first, "{name}");
    }
    assert_eq!(by(&front.gate.ask(&article("hi"))), first);
    assert_eq!(loads(&backends), 1);
}

#[test]
fn an_allow_list_is_read_as_ollama_reads_names() {
    let backends = [(); 2].map(|()| Backend::start(config(&["a", "b:1"])));
    let upstreams =
        [upstream(&backends[0], "name=one models=A slots=1"), upstream(&backends[1], "name=two models=b:1")];
    let front = front(&upstreams, &[]);
    for _ in 0..5 {
        for name in ["a", "A:latest", "a:LATEST"] {
            assert_eq!(by(&front.gate.ask(&generate(name, "hi"))), "one");
        }
        assert_eq!(by(&front.gate.ask(&generate("B:1", "hi"))), "two");
    }
    // A busy backend is waited for where no other may serve the model.
    let held = front.hold("a");
    let mut waiting = front.enqueue(&generate("a", "hi"));
    drop(held);
    assert_eq!(by(&answer(&mut waiting)), "one");
}

#[test]
fn a_model_that_nobody_may_serve_is_not_found_and_nobody_is_asked() {
    let backends = [(); 2].map(|()| Backend::start(config(&["a", "b", MODEL])));
    let front = front(&named(&backends, "models=a,b:2"), &[]);
    for name in ["b", "c", "a:2"] {
        let refused = front.gate.ask(&generate(name, "hi"));
        assert_eq!((refused.status, refused.json()), (404, json!({"error": format!("model '{name}' not found")})));
        let chat = json!({"model": name, "messages": [{"role": "user", "content": "hi"}]});
        assert_eq!(front.gate.post("/api/chat", &chat).status, 404);
    }
    let refused = front.gate.ask(&article("hi"));
    assert_eq!(refused.status, 404, "{refused:?}");
    assert!(refused.text().contains("model 'm:latest' not found"), "{refused:?}");
    assert_eq!(backends.iter().map(posts).sum::<u64>(), 0);
}

#[test]
fn a_request_goes_to_a_backend_that_lists_its_model() {
    let demo = |models: &[&str]| Backend::start(Config { personality: Personality::Demo, ..config(models) });
    let backends = [demo(&["a", "both"]), demo(&["b", "both"])];
    let front = front(&named(&backends, "slots=64"), &[]);
    knows(&front, &["one", "two"], 2);
    for _ in 0..10 {
        assert_eq!(by(&front.gate.ask(&generate("A:latest", "hi"))), "one");
        assert_eq!(by(&front.gate.ask(&generate("b", "hi"))), "two");
        by(&front.gate.ask(&generate("both", "hi")));
    }
    // Where nobody lists it, a backend says so in its own words.
    let unknown = front.gate.ask(&generate("c", "hi"));
    assert_eq!((unknown.status, unknown.json()), (404, json!({"error": "model 'c' not found"})));
    assert!(unknown.header("x-gate-backend").is_some());
}

#[test]
fn a_conversation_stays_where_its_beginning_is_cached() {
    let backends = [(); 3].map(|()| backend());
    preload(&backends, MODEL);
    let names = ["one", "two", "three"];
    let mut front = front(&named(&backends, "slots=4"), &[]);
    knows(&front, &names, 1);
    front.has_loaded(&names, &[MODEL]);
    let turn = |number: usize, turns: usize| {
        let mut messages = vec![json!({"role": "system", "content": "be brief"})];
        messages.push(json!({"role": "user", "content": format!("question {number}")}));
        for turn in 0..turns {
            messages.push(json!({"role": "assistant", "content": "so it is"}));
            messages.push(json!({"role": "user", "content": format!("and then {turn}?")}));
        }
        Request::post("/api/chat", &json!({"model": MODEL, "messages": messages}))
    };
    let homes: Vec<String> = (0..30).map(|number| by(&front.gate.ask(&turn(number, 0)))).collect();
    for name in names {
        let count = homes.iter().filter(|home| *home == name).count();
        assert!((2..=20).contains(&count), "{name} has {count} of 30 conversations");
    }
    for turns in 1..4 {
        for (number, home) in homes.iter().enumerate() {
            assert_eq!(by(&front.gate.ask(&turn(number, turns))), *home, "conversation {number}, turn {turns}");
        }
    }
    // Other workers, the same conversations.
    front.gate.reload();
    for (number, home) in homes.iter().enumerate().take(10) {
        assert_eq!(by(&front.gate.ask(&turn(number, 5))), *home, "conversation {number} after a reload");
    }
    // It is a tie-break: a busy home is left.
    let home = &homes[0];
    let mut busy: Vec<Held> = (0..6).map(|_| front.hold(MODEL)).collect();
    busy.retain(|held| held.by() == home);
    wait_for("the others to leave", || (front.in_flight() == busy.len() as u64).then_some(()));
    assert!(!busy.is_empty());
    assert_ne!(by(&front.gate.ask(&turn(0, 6))), *home);
}

#[test]
fn a_model_that_was_asked_not_to_stay_is_taken_to_be_gone() {
    let backends = [backend(), backend()];
    let front = front(&named(&backends, ""), &[]);
    knows(&front, &["one", "two"], 1);
    let leaving = Request::post("/api/generate", &json!({"model": MODEL, "prompt": "hi", "keep_alive": 0}));
    let mut lines = Vec::new();
    for number in 0..6 {
        let request = leaving.clone().header("X-Request-Id", &format!("leaving-{number}"));
        by(&front.gate.ask(&request));
        lines.push(front.line_of(&format!("leaving-{number}"))["why"].to_string());
    }
    assert!(lines.iter().all(|why| why == "\"cold, best\""), "{lines:?}");
    by(&front.gate.ask(&generate(MODEL, "stays").header("X-Request-Id", "stays")));
    by(&front.gate.ask(&generate(MODEL, "finds it").header("X-Request-Id", "finds-it")));
    assert_eq!(front.line_of("stays")["why"], "cold, best");
    assert_eq!(front.line_of("finds-it")["why"], "loaded, best");
}

/// One or several backends with room for one model each, which the gate has seen them give up for another.
fn one_model_each(count: usize, arguments: &[&str]) -> (Vec<Backend>, Front) {
    let small = || Backend::start(Config { memory: 1, ..config(&["a", "b", "c"]) });
    let backends: Vec<Backend> = (0..count).map(|_| small()).collect();
    preload(&backends, "b");
    let front = front(&named(&backends, "slots=2"), arguments);
    let names = &["one", "two", "three"][..count];
    knows(&front, names, 3);
    front.has_loaded(names, &["b:latest"]);
    preload(&backends, "a");
    front.has_loaded(names, &["a:latest"]);
    for backend in &backends {
        backend.sim.reset();
    }
    (backends, front)
}

#[test]
fn no_model_is_put_in_the_place_of_one_that_is_in_use() {
    let (backends, front) = one_model_each(2, &["--swap-patience=1h"]);
    let (first, second) = (front.hold("a"), front.hold("a"));
    assert_ne!(first.by(), second.by());
    let mut waiting = front.enqueue(&generate("c", "swap"));
    // What is loaded is served meanwhile, beside it.
    for _ in 0..6 {
        by(&front.gate.ask(&generate("a", "passes")));
    }
    assert_eq!(front.waiting(), 1);
    assert!(backends.iter().all(|backend| !prompts(backend).contains(&"swap".to_owned())));
    let idle = first.by().to_owned();
    drop(first);
    assert_eq!(by(&answer(&mut waiting)), idle);
    let other = usize::from(idle == "one");
    assert_eq!(backends[other].sim.counters().swaps, 0);
    assert_eq!(backends[1 - other].sim.counters().swaps, 1);
    drop(second);
    front.is_idle();
}

#[test]
fn requests_for_the_loaded_model_pass_one_that_needs_a_swap_and_not_for_ever() {
    let patience = Duration::from_secs(2);
    let (backends, front) = one_model_each(1, &["--swap-patience=2s"]);
    let held = front.hold("a");
    let mut swap = front.enqueue(&generate("c", "swap"));
    let begun = Instant::now();
    let mut passed = 0;
    let is_asked = || prompts(&backends[0]).contains(&"swap".to_owned());
    while !is_asked() {
        assert!(begun.elapsed() < patience * 4, "it still waits after {passed} have passed it");
        let mut next = front.begin(&generate("a", "passes"));
        next.socket().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        // The last of them finds that the other's turn has come, and waits.
        while next.socket().peek(&mut [0]).is_err() && !is_asked() {}
        passed += 1;
        if is_asked() {
            break;
        }
        next.socket().set_read_timeout(Some(PATIENCE)).unwrap();
        by(&answer(&mut next));
    }
    let took = begun.elapsed();
    assert!(took + Duration::from_millis(50) >= patience, "{took:?}: nobody was to be let by for so short a time");
    assert!(passed > 10, "only {passed} passed in {took:?}");
    drop(held);
    by(&answer(&mut swap));
    assert_eq!(backends[0].sim.counters().swaps, 1);
}

#[test]
fn requests_for_one_model_are_taken_together() {
    // Two models, one place: in the order of their coming every request would be a swap.
    let (backends, front) = one_model_each(1, &["--swap-patience=30s"]);
    let held = front.hold("a");
    let fill = front.begin(&stalled("a", "fill"));
    let fill = Held::begun(fill);
    let mut waiting: Vec<_> =
        (0..12).map(|number| front.enqueue(&generate(if number % 2 == 0 { "c" } else { "a" }, "x"))).collect();
    drop(held);
    drop(fill);
    for client in &mut waiting {
        by(&answer(client));
    }
    assert!(backends[0].sim.counters().swaps <= 2, "{:?}", backends[0].sim.counters().swaps);
}
