//! Tokens of a key per window: guessed, settled by what backends say they did, and given back for what came to nothing.
//!
//! How many are left is asked of the gate itself: a request that the backend fails costs nothing, and is let in just when
//! there is as much left as it might cost.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::rig::{House, backend, fails, house, keyed, told, with};
use crate::stage::{Held, MODEL, generate, prompts, stalled, upstream};
use crate::support::http::{Answer, Request};
use crate::support::{PATIENCE, wait_for};

/// Nine tokens by its length.
const PROMPT: &str = "alphabet bravissimo charlie delta";
const GUESSED: u64 = 9;
/// What the simulation says that it read and made of anything.
const TOLD: u64 = 4 + 8;
/// Frames of its answer: the words of the prompt with `echo:` before them.
const WORDS: u64 = 5;

/// Whether a key has so many tokens left.
fn affords(house: &House, key: &str, tokens: u64) -> bool {
    // One token is the prompt's.
    match house.status_of(key, &fails(tokens - 1)) {
        500 => true,
        429 => false,
        other => panic!("{other}"),
    }
}

/// Waits until a key has exactly so many tokens left.
#[track_caller]
fn has(house: &House, key: &str, tokens: u64, why: &str) {
    let until = Instant::now() + PATIENCE / 4;
    while !affords(house, key, tokens) || affords(house, key, tokens + 1) {
        if Instant::now() > until {
            let left = (2..2_000).rev().find(|tokens| affords(house, key, *tokens));
            panic!("{why}: {left:?} tokens are left, not {tokens}");
        }
    }
}

fn post(path: &str, more: &Value) -> Request {
    let mut body = json!({"model": MODEL});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Request::post(path, &body)
}

/// Requests, and what each costs: what the backend says, or what can be seen where it does not say.
fn table() -> Vec<(Request, u64)> {
    let messages = json!([{"role": "user", "content": PROMPT}]);
    let told = TOLD;
    // Its last frame too, which has no text.
    let seen = GUESSED + WORDS + 1;
    let (stream, whole) = (json!(true), json!(false));
    let usage = json!({"include_usage": true});
    vec![
        (post("/api/generate", &json!({"prompt": PROMPT})), told),
        (post("/api/generate", &json!({"prompt": PROMPT, "stream": whole})), told),
        (post("/api/chat", &json!({"messages": messages})), told),
        (post("/api/chat", &json!({"messages": messages, "stream": whole})), told),
        (post("/api/generate", &json!({"prompt": PROMPT, "options": {"num_predict": 900}})), told),
        (post("/v1/chat/completions", &json!({"messages": messages})), told),
        (post("/v1/chat/completions", &json!({"messages": messages, "stream": stream})), told),
        (post("/v1/chat/completions", &json!({"messages": messages, "stream": stream, "stream_options": usage})), told),
        (post("/v1/completions", &json!({"prompt": PROMPT})), told),
        (post("/v1/completions", &json!({"prompt": PROMPT, "stream": stream, "stream_options": usage})), told),
        (post("/v1/completions", &json!({"prompt": PROMPT, "stream": stream})), seen),
        (post("/v1/responses", &json!({"input": PROMPT})), told),
        (post("/v1/responses", &json!({"input": PROMPT, "stream": stream})), told),
        (post("/v1/messages", &json!({"messages": messages, "max_tokens": 50})), told),
        (post("/v1/messages", &json!({"messages": messages, "max_tokens": 50, "stream": stream})), told),
        (post("/api/embed", &json!({"input": PROMPT})), 4),
        (post("/api/embed", &json!({"input": [PROMPT, PROMPT]})), 8),
        (post("/v1/embeddings", &json!({"input": PROMPT})), 4),
        // It says nothing of its cost.
        (post("/api/embeddings", &json!({"prompt": PROMPT})), GUESSED),
        (Request::post("/ollama_generate/", &json!({"prompt": PROMPT})), told),
        (Request::get("/ollama_generate/alphabet%20bravissimo"), told),
        // Broken off by the backend: what had come of it.
        (post("/api/generate", &json!({"prompt": format!("@sim:cut:2 {PROMPT}")})), 11 + 2),
        (post("/api/generate", &json!({"prompt": format!("@sim:reset:chunks:3 {PROMPT}")})), 14 + 3),
        // Nothing that anybody could use.
        (post("/api/generate", &json!({"prompt": "@503"})), 0),
        (post("/api/generate", &json!({"prompt": "@drop"})), 0),
        (post("/api/generate", &json!({"prompt": PROMPT, "options": 7})), 0),
        // More than it had reserved, which was nothing.
        (post("/api/generate", &json!({"prompt": "", "keep_alive": 1})), told),
        (post("/api/show", &json!({})), 0),
        (Request::get("/api/tags"), 0),
    ]
}

/// The counts that an answer says, in any dialect; none if it says none.
fn counts(answer: &Answer) -> Option<u64> {
    let text = answer.text();
    let number = |name: &str| {
        let at = text.rfind(&format!("\"{name}\":"))? + name.len() + 3;
        text[at..].split(|digit: char| !digit.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    let sum = |pair: [&str; 2]| Some(number(pair[0])? + number(pair[1])?);
    let pairs = [
        ["prompt_eval_count", "eval_count"],
        ["prompt_tokens", "completion_tokens"],
        ["input_tokens", "output_tokens"],
    ];
    pairs.into_iter().find_map(sum)
}

#[test]
fn every_answer_costs_what_the_backend_says_it_did() {
    let backend = backend();
    let (house, [ada]) = keyed(&backend, ["--name ada --tokens 2000/hour,1000000/day"], (8, &[]));
    let mut left = 2_000;
    for (request, cost) in table() {
        let name = String::from_utf8_lossy(&request.bytes()).into_owned();
        let answer = house.front.gate.ask(&with(&ada, &request));
        let said = counts(&answer).filter(|_| answer.status == 200 && cost == TOLD);
        assert!(said.is_none_or(|said| said == cost), "{name}: {}", answer.text());
        left -= cost;
        if left < 2_000 {
            has(&house, &ada, left, &format!("{name}{}", answer.text()));
        }
    }
    // What the gate asked for itself the client has not seen.
    let quiet = post("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "a"}], "stream": true}));
    let answer = house.front.gate.ask(&with(&ada, &quiet));
    assert!(answer.text().ends_with("data: [DONE]\n\n") && !answer.text().contains("usage"), "{}", answer.text());
    assert_eq!(house.status_of(&ada, &generate(MODEL, PROMPT)), 200);
}

#[test]
fn what_came_to_nothing_costs_nothing_and_what_was_cancelled_what_was_made() {
    let backend = backend();
    let dead = "http://127.0.0.1:9 models=dead".to_owned();
    let keys = ["--name ada --tokens 2000/hour --concurrency 2", "--name other"];
    let (house, [ada, other]) = house(&[upstream(&backend, "slots=1 name=one models=m"), dead], keys, &[]);
    let front = &house.front;
    assert_eq!(house.status_of(&ada, &generate(MODEL, PROMPT)), 200);
    has(&house, &ada, 1988, "a first request");
    // Cancelled in the queue.
    let held = Held::begun(front.begin(&with(&other, &stalled(MODEL, "held"))));
    let waiting = [(); 2].map(|()| front.enqueue(&with(&ada, &generate(MODEL, PROMPT))));
    assert_eq!(house.status_of(&ada, &generate(MODEL, PROMPT)), 429, "too many at once");
    drop(waiting);
    front.waits(0);
    drop(held);
    front.is_idle();
    has(&house, &ada, 1988, "cancelled in the queue");
    // Never reached, and never asked.
    assert_eq!(house.status_of(&ada, &generate("dead", PROMPT)), 502);
    assert_eq!(house.status_of(&ada, &generate("nobody", PROMPT)), 404);
    has(&house, &ada, 1988, "never reached");
    // Cancelled while it ran: the prompt as guessed (39 bytes), and two lines.
    let client = {
        let mut client = front.begin(&with(&ada, &stalled_after_two()));
        assert_eq!(client.head().unwrap().0, 200);
        client.chunk().unwrap();
        client.chunk().unwrap();
        client
    };
    assert!(!affords(&house, &ada, 1988 - 10 - 512 + 1), "it is in reserve");
    drop(client);
    has(&house, &ada, 1988 - 10 - 2, "cancelled while it ran");
    // The same of events, of which some bring no text.
    let mut left = 1988 - 10 - 2;
    for (path, frames) in [("chat/completions", 3), ("completions", 3), ("responses", 7), ("messages", 5)] {
        let text = format!("@sim:stall:chunks:{frames} alphabet bravissimo charlie delta");
        let body = json!({"messages": [{"role": "user", "content": text}], "prompt": text, "input": text, "max_tokens": 99, "stream": true});
        let mut client = front.begin(&with(&ada, &post(&format!("/v1/{path}"), &body)));
        assert_eq!(client.head().unwrap().0, 200, "{path}");
        for _ in 0..frames {
            client.chunk().unwrap().unwrap();
        }
        drop(client);
        left -= text.len().div_ceil(4) as u64 + 3;
        has(&house, &ada, left, path);
    }
    // Before its first line: the prompt was read.
    let before = prompts(&backend).len();
    let client = front.begin(&with(&ada, &generate(MODEL, "@sim:stall:before-head alpha")));
    wait_for("the backend to have it", || (prompts(&backend).len() > before).then_some(()));
    drop(client);
    left -= 7;
    has(&house, &ada, left, "cancelled before it said anything");
    // The same of an answer in one piece: nobody knows how much of it was made, so it costs what was reserved.
    let whole = json!({"model": MODEL, "prompt": "@sim:stall:before-head alpha", "stream": false, "options": {"num_predict": 20}});
    let before = prompts(&backend).len();
    let client = front.begin(&with(&ada, &Request::post("/api/generate", &whole)));
    wait_for("the backend to have it", || (prompts(&backend).len() > before).then_some(()));
    drop(client);
    has(&house, &ada, left - 7 - 20, "cancelled, and it would have come in one piece");
}

/// 39 bytes: ten tokens, guessed.
fn stalled_after_two() -> Request {
    generate(MODEL, "@sim:stall:chunks:2 alpha bravo charlie")
}

#[test]
fn sums_are_exact_over_workers_and_names_and_what_a_killed_worker_reserved_is_not_given_again() {
    let backend = backend();
    let (house, [ada, bob]) =
        keyed(&backend, ["--name ada --tokens 1900/hour", "--name bob --tokens 1900/hour"], (64, &[]));
    let twin = house.key("rotate ada --grace 1h");
    let ask = |key: &str| with(key, &post("/api/generate", &json!({"prompt": PROMPT, "options": {"num_predict": 10}})));
    let all: Vec<Request> = (0..90).map(|number| ask([&ada, &twin, &bob][number % 3])).collect();
    assert_eq!(house.burst(&all)[&200], 90);
    has(&house, &ada, 1900 - 60 * TOLD, "sixty of two keys");
    has(&house, &bob, 1900 - 30 * TOLD, "thirty");
    // In reserve over all workers: five of 206 each, and no place for a sixth.
    let reserve = || {
        let body = json!({"prompt": stalling(), "options": {"num_predict": 200}});
        with(&twin, &post("/api/generate", &body))
    };
    let held: Vec<Held> = (0..5).map(|_| Held::begun(house.front.begin(&reserve()))).collect();
    let left = 1180 - 5 * (200 + stalling().len().div_ceil(4) as u64);
    has(&house, &ada, left, "what is in reserve");
    let answer = house.front.gate.ask(&reserve());
    assert_eq!(answer.status, 429);
    assert_eq!(told(&answer.json()), "Rate limit exceeded: 1900 tokens per 1 hour");
    for victim in house.front.gate.workers() {
        kill(victim, Signal::SIGKILL).unwrap();
    }
    drop(held);
    house.front.is_idle();
    house.front.gate.has_workers(4);
    let ready = || house.front.gate.log().matches("of generation 1 is ready").count();
    wait_for("the new ones to serve", || (ready() >= 9).then_some(()));
    has(&house, &ada, left, "what died with its workers");
    has(&house, &bob, 1540, "another's");
}

/// Long enough to be told from others by its length.
fn stalling() -> String {
    "@sim:stall:chunks:1 held".to_owned()
}

#[test]
fn who_has_none_left_is_told_when_there_will_be_more() {
    let backend = backend();
    let (house, [ada]) = keyed(&backend, ["--name ada --tokens 30/4seconds"], (8, &[]));
    let ask = with(&ada, &post("/api/generate", &json!({"prompt": PROMPT, "options": {"num_predict": 1000}})));
    // More than the whole amount is let in where all of it is left.
    let begun = Instant::now();
    for _ in 0..2 {
        let answers = wait_for("a fresh window", || {
            let first = house.front.gate.ask(&ask);
            (first.status == 200).then(|| [first, house.front.gate.ask(&ask)])
        });
        if let [_, refused] = &answers
            && refused.status == 429
        {
            let asked = Instant::now();
            let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=5).contains(&seconds), "{seconds}");
            assert!(told(&refused.json()).contains("30 tokens per 4 second"), "{}", refused.text());
            let again = wait_for("the end of the window", || {
                (house.front.gate.ask(&ask).status == 200).then(|| asked.elapsed())
            });
            assert!(again + Duration::from_millis(1_500) > Duration::from_secs(seconds), "{again:?} of {seconds} s");
            assert!(again < Duration::from_millis(seconds * 1_000 + 1_500), "{again:?} of {seconds} s");
            return;
        }
    }
    panic!("nothing was refused in {:?}", begun.elapsed());
}
