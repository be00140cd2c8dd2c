//! Backends that misbehave, and what the client is told of it: a status that says whose fault it was, Ollama's own words
//! where there are any, and never an address.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use ollama_sim::Config;
use serde_json::json;

use crate::stage::{article, begin, chat, demo, echo, error_of, gate, gate_before, generate, generate_whole};
use crate::support::http::{Answer, Request};
use crate::support::sim::Backend;
use crate::support::{Gate, wait_for};
use crate::upstream::Scripted;

const CLOSED: &str = "Ollama closed the connection before its answer was complete";
const BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";
const NOT_JSON: &str = "Ollama's answer was not the JSON that was due";

/// A request of each kind, with the prompt that makes the backend misbehave.
fn all_kinds(fault: &str) -> [Request; 4] {
    let prompt = format!("@sim:{fault}");
    [article(&prompt), Request::get(&format!("/ollama_generate/{prompt}")), generate(&prompt), chat(&prompt)]
}

#[test]
fn a_break_before_the_first_byte_is_a_bad_gateway() {
    let backend = demo();
    let gate = gate(&backend, &[]).start();
    let cases = [
        ("reset:before-head", CLOSED),
        ("close:before-head", CLOSED),
        ("reset:mid-head", CLOSED),
        ("close:mid-head", CLOSED),
        ("garbage-head", "Ollama's answer was not HTTP"),
    ];
    for (fault, text) in cases {
        for request in all_kinds(fault) {
            let answer = gate.ask(&request);
            assert_eq!((answer.status, error_of(&answer).as_str()), (502, text), "{fault}");
            is_public(&answer, &backend, &gate);
        }
    }
    assert_eq!(gate.ask(&generate_whole("hi")).status, 200, "the gate is well");
}

#[test]
fn a_break_amid_a_whole_answer_is_a_bad_gateway() {
    let backend = demo();
    let gate = gate(&backend, &[]).start();
    for fault in ["reset:after-head", "close:after-head", "reset:mid-chunk:0", "close:mid-chunk:0", "cut"] {
        for request in [article(&format!("@sim:{fault}")), generate_whole(&format!("@sim:{fault}"))] {
            let answer = gate.ask(&request);
            assert_eq!((answer.status, error_of(&answer).as_str()), (502, CLOSED), "{fault}");
            is_public(&answer, &backend, &gate);
        }
    }
}

#[test]
fn nobody_there_is_a_bad_gateway() {
    let backend = demo();
    let gate = gate(&backend, &[]).start();
    // The listener is closed for longer than this test lasts.
    assert_eq!(gate.ask(&generate("@sim:refuse:60000")).status, 502);
    for request in all_kinds("ok") {
        let answer = gate.ask(&request);
        assert_eq!((answer.status, error_of(&answer).as_str()), (502, "Ollama could not be reached"));
        is_public(&answer, &backend, &gate);
    }
    let answer = gate.get("/api/tags");
    assert_eq!((answer.status, error_of(&answer).as_str()), (502, "Ollama could not be reached"));
}

#[test]
fn the_operator_is_told_the_cause_that_the_client_is_not() {
    // Nobody listens on port 1.
    let mut gate = gate_before("http://127.0.0.1:1", &[]).start();
    let answer = gate.ask(&Request::get("/ollama_generate/a-secret-prompt"));
    assert_eq!((answer.status, answer.text().as_str()), (502, "{\"error\":\"Ollama could not be reached\"}"));
    let line = gate.log_has("GET article_item");
    assert!(line.contains("http://127.0.0.1:1") && line.contains("Connection refused"), "{line}");
    assert!(!gate.log().contains("secret"), "a prompt is not the operator's business");
}

#[test]
fn silence_before_the_first_byte_is_a_timeout() {
    let backend = demo();
    let gate = gate(&backend, &["--first-byte-timeout", "300ms"]).start();
    // The model is in memory now, so that nobody waits for a load.
    assert_eq!(gate.ask(&generate_whole("a")).status, 200);
    for fault in ["stall:before-head", "stall:mid-head"] {
        for request in all_kinds(fault) {
            let answer = gate.ask(&request);
            assert_eq!(answer.status, 504, "{fault}");
            assert_eq!(error_of(&answer), "Ollama did not begin to answer within 0.3 s (first_byte_timeout)");
            is_public(&answer, &backend, &gate);
        }
    }
    wait_for("every stalled request to be cancelled", || (backend.sim.counters().cancelled == 8).then_some(()));
}

#[test]
fn silence_inside_an_answer_is_a_timeout_or_the_end_of_a_stream() {
    let backend = demo();
    let gate = gate(&backend, &["--chunk-timeout", "300ms"]).start();
    let told = "Ollama sent nothing more within 0.3 s (chunk_timeout)";
    for fault in ["stall:after-head", "stall:chunks:0", "stall:mid-chunk:0"] {
        for request in [article(&format!("@sim:{fault}")), generate_whole(&format!("@sim:{fault}"))] {
            let answer = gate.ask(&request);
            assert_eq!((answer.status, error_of(&answer).as_str()), (504, told), "{fault}");
        }
    }
    for (fault, whole) in [("stall:after-head", 0), ("stall:chunks:2", 2), ("stall:mid-chunk:2", 2)] {
        for request in [generate(&format!("@sim:{fault}")), chat(&format!("@sim:{fault}"))] {
            let answer = gate.ask(&request);
            let lines = answer.lines();
            assert_eq!((answer.status, lines.len()), (200, whole + 1), "{fault}: {}", answer.text());
            assert_eq!(lines[whole], json!({"error": told}), "{fault}");
        }
    }
    wait_for("every stalled request to be cancelled", || (backend.sim.counters().cancelled == 12).then_some(()));
}

#[test]
fn a_backend_that_takes_no_connection_is_a_timeout() {
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = full.local_addr().unwrap();
    // Nobody accepts: once the kernel's queue is full, it leaves further clients without a word.
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queue.push(stream);
    }
    let gate = gate_before(&format!("http://{address}"), &["--connect-timeout", "300ms"]).start();
    for request in all_kinds("ok") {
        let answer = gate.ask(&request);
        assert_eq!(answer.status, 504);
        assert_eq!(error_of(&answer), "Ollama did not accept a connection within 0.3 s (connect_timeout)");
    }
    drop(queue);
}

#[test]
fn a_slow_head_is_waited_for() {
    let backend = demo();
    let gate = gate(&backend, &["--first-byte-timeout", "15s"]).start();
    assert_eq!(gate.ask(&generate_whole("@sim:slow-head")).status, 200);
    assert_eq!(gate.ask(&article("@sim:delay:50")).status, 200);
}

#[test]
fn answers_that_are_none_are_refused_by_the_article_and_passed_on_to_those_who_speak_ollama() {
    let backend = demo();
    let gate = gate(&backend, &[]).start();
    let html = "<html><h1>502 Bad Gateway</h1></html>";
    let cases = [
        ("busy", 503, BUSY),
        ("html", 502, html),
        ("wrong-json", 502, NOT_JSON),
        ("status:429", 503, "too many requests"),
    ];
    for (fault, status, text) in cases {
        let answer = gate.ask(&article(&format!("@sim:{fault}")));
        assert_eq!((answer.status, error_of(&answer).as_str()), (status, text), "{fault}");
    }
    let cases = [
        ("busy", 503, json!({"error": BUSY}).to_string()),
        ("html", 502, html.to_owned()),
        ("wrong-json", 200, "{\"model\":\"m\",\"response\":\"half".to_owned()),
        ("status:429", 429, json!({"error": "too many requests"}).to_string()),
    ];
    for (fault, status, text) in cases {
        for request in [generate(&format!("@sim:{fault}")), chat(&format!("@sim:{fault}"))] {
            let answer = gate.ask(&request);
            assert_eq!((answer.status, answer.text()), (status, text.clone()), "{fault}");
        }
    }
}

#[test]
fn the_contracts_odd_answers_are_refused() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    for prompt in ["@badjson", "@array", "@missing", "@number"] {
        let answer = gate.ask(&article(prompt));
        assert_eq!((answer.status, error_of(&answer).as_str()), (502, NOT_JSON), "{prompt}");
    }
    for prompt in ["@drop", "@cut"] {
        let answer = gate.ask(&article(prompt));
        assert_eq!((answer.status, error_of(&answer).as_str()), (502, CLOSED), "{prompt}");
    }
    for request in [article("@redirect"), generate("@redirect")] {
        assert_eq!(gate.ask(&request).status, 502, "a redirect is never followed");
    }
    assert!(!backend.sim.counters().requests.contains_key("POST /api/elsewhere"));
}

#[test]
fn a_missing_model_is_not_found_in_ollamas_words() {
    let backend = demo();
    let gate = gate(&backend, &["--model", "nope"]).start();
    let answer = gate.ask(&article("hi"));
    assert_eq!((answer.status, error_of(&answer).as_str()), (404, "model 'nope' not found"));
    let answer = gate.post("/api/generate", &json!({"model": "gone:7b", "prompt": "hi"}));
    assert_eq!((answer.status, error_of(&answer).as_str()), (404, "model 'gone:7b' not found"));
}

#[test]
fn without_any_model_the_operator_is_told_what_to_do() {
    let backend = Backend::start(Config { models: Vec::new(), ..Config::default() });
    let gate = crate::support::gate(["--upstream", &backend.url()]).start();
    let answer = gate.ask(&article("hi"));
    let text = "no model is available: pull one with `ollama pull`, or set --model";
    assert_eq!((answer.status, error_of(&answer).as_str()), (503, text));
}

#[test]
fn without_a_named_model_the_newest_answers() {
    let mut newest = ollama_sim::Model::named("newest:1b");
    newest.modified_at += Duration::from_secs(1);
    let models = vec![ollama_sim::Model::named("older:1b"), newest, ollama_sim::Model::named("old:1b")];
    let backend = Backend::start(Config { models, ..Config::echo() });
    let gate = crate::support::gate(["--upstream", &backend.url()]).start();
    let answer = gate.ask(&article("@request"));
    assert!(answer.text().contains("newest:1b"), "{}", answer.text());
}

#[test]
fn an_answer_over_the_cap_is_refused() {
    let backend = echo();
    let gate = gate(&backend, &["--max-answer", "64KiB"]).start();
    for request in [article("@large"), generate_whole("@large")] {
        let answer = gate.ask(&request);
        assert_eq!((answer.status, error_of(&answer).as_str()), (502, "Ollama's answer was too large"));
    }
    assert!(gate.ask(&generate("@large")).text().contains("0123456789"), "streams have no such bound");
}

#[test]
fn retry_after_and_the_backends_words_are_kept() {
    let upstream = Scripted::start();
    let gate = gate_before(&upstream.url(), &[]).start();
    let cases = [
        ("429 Too Many Requests", article("hi"), 503),
        ("503 Service Unavailable", article("hi"), 503),
        ("429 Too Many Requests", generate("hi"), 429),
        ("503 Service Unavailable", chat("hi"), 503),
    ];
    for (status, request, due) in cases {
        let mut client = begin(gate.address(), &request);
        upstream.asked().answer(status, "Retry-After: 17\r\nServer: internal-7\r\n", "{\"error\":\"later\"}");
        let answer = client.answer("POST").unwrap();
        assert_eq!((answer.status, error_of(&answer).as_str()), (due, "later"));
        assert_eq!(answer.header("retry-after"), Some("17"));
        assert_eq!(answer.header("server"), None, "what is behind the gate stays there");
    }
}

#[test]
fn a_request_that_may_have_run_is_not_sent_twice() {
    let backend = demo();
    let gate = gate(&backend, &[]).start();
    assert_eq!(gate.ask(&generate_whole("hi")).status, 200, "a connection is in the pool");
    backend.sim.reset();
    assert_eq!(gate.ask(&generate_whole("@sim:close:before-head")).status, 502);
    assert_eq!(backend.sim.counters().requests["POST /api/generate"], 1);
}

#[test]
fn one_that_stalls_is_nobody_elses_affair() {
    let slots = std::num::NonZeroUsize::new(64).unwrap();
    let backend = Backend::start(Config { slots, ..Config::default() });
    let gate = gate(&backend, &["--workers", "1"]).start();
    let faults = ["stall:before-head", "stall:mid-head", "stall:after-head", "stall:chunks:1"];
    let stalled: Vec<_> = faults.iter().flat_map(|fault| all_kinds(fault)).map(|r| begin(gate.address(), &r)).collect();
    wait_for("all to be stalled", || (backend.sim.counters().in_flight >= 16).then_some(()));
    for _ in 0..20 {
        assert_eq!(gate.ask(&article("hi")).status, 200);
        assert_eq!(gate.ask(&generate("hi")).lines().last().unwrap()["done"], true);
    }
    assert_eq!(backend.sim.counters().cancelled, 0);
    drop(stalled);
}

#[test]
fn a_backend_that_comes_back_is_used_again() {
    let backend = demo();
    let gate = gate(&backend, &[]).start();
    assert_eq!(gate.ask(&generate("@sim:refuse:300")).status, 502);
    wait_for("an answer", || (gate.ask(&article("hi")).status == 200).then_some(()));
}

/// No text for the public names what is behind the gate.
#[track_caller]
fn is_public(answer: &Answer, backend: &Backend, gate: &Gate) {
    let told = format!("{:?} {}", answer.headers, answer.text());
    assert!(!told.contains("127.0.0.1") && !told.contains(&backend.address.port().to_string()), "{told}");
    assert!(!told.contains("os error") && !told.contains(&gate.address().port().to_string()), "{told}");
}
