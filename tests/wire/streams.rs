//! Streams on their way through: byte for byte, line for line, at once, to an end that says what it is.
//!
//! Invariant of what is tested: what a client reads is what Ollama sent, up to a line's end, and then either the end
//! that Ollama gave or one line that says what went wrong.

use serde_json::{Value, json};

use crate::stage::{MODEL, chat, chat_body, demo, echo, error_of, gate, gate_before, generate, generate_whole, lines};
use crate::support::http::{self, Client, Request};
use crate::upstream::Scripted;

#[test]
fn what_comes_is_what_was_sent_byte_for_byte_and_chunk_for_chunk() {
    let backend = echo();
    let gate = gate(&backend, &["--workers", "2"]).start();
    let whole_chat = |prompt: &str| {
        let mut body = chat_body(prompt);
        body["stream"] = json!(false);
        Request::post("/api/chat", &body)
    };
    let prompts =
        ["one two three", "h\u{e9}llo \u{4e16}\u{754c} \u{1f680}", "\u{2028} \u{85} \"\\ \u{1}", "@unicode", "@large"];
    for prompt in prompts {
        for request in [generate(prompt), chat(prompt), generate_whole(prompt), whole_chat(prompt)] {
            let (direct, through) = (http::ask(backend.address, &request), gate.ask(&request));
            assert_eq!(through.status, 200, "{prompt:?}");
            assert_eq!(through.header("content-type"), direct.header("content-type"), "{prompt:?}");
            assert_eq!(through.text(), direct.text(), "{prompt:?}");
            assert_eq!(through.chunks, direct.chunks, "{prompt:?}");
        }
    }
}

#[test]
fn each_line_is_there_before_the_next_is_sent() {
    let upstream = Scripted::start();
    let gate = gate_before(&upstream.url(), &[]).start();
    let mut client = Client::connect(gate.address());
    client.send(&generate("go").bytes()).unwrap();
    let mut asked = upstream.asked();
    asked.begin_stream();
    for number in 0..20 {
        let line = format!("{{\"response\":\"{number}\",\"done\":false}}\n");
        asked.chunk(&line);
        if number == 0 {
            assert_eq!(client.head().unwrap().0, 200);
        }
        // The backend says nothing more until this has arrived.
        assert_eq!(client.chunk().unwrap().unwrap(), line.as_bytes());
    }
    let last = "{\"response\":\"\",\"done\":true}\n";
    asked.chunk(last);
    assert_eq!(client.chunk().unwrap().unwrap(), last.as_bytes());
    asked.say("0\r\n\r\n");
    assert_eq!(client.chunk().unwrap(), None);
    let mut asked_again = || client.ask(&Request::get("/healthz")).unwrap().status;
    assert_eq!(asked_again(), 200, "the connection carries another request");
}

#[test]
fn lines_are_whole_however_the_backend_cuts_them() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let prompt = "@sim:split h\u{e9}llo \u{4e16}\u{754c} \u{1f680} \u{1f469}\u{200d}\u{1f4bb}";
    let (direct, through) = (http::ask(backend.address, &generate(prompt)), gate.ask(&generate(prompt)));
    assert!(direct.chunks.iter().any(|chunk| std::str::from_utf8(chunk).is_err()), "the backend cuts characters");
    assert_eq!(through.text(), direct.text());
    for chunk in &through.chunks {
        assert!(std::str::from_utf8(chunk).is_ok_and(|text| text.ends_with('\n')), "{chunk:?}");
    }
}

#[test]
fn a_long_line_passes_and_one_beyond_the_cap_ends_the_stream_with_a_word() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let long = generate("@sim:long-line:1000000");
    assert_eq!(gate.ask(&long).body, http::ask(backend.address, &long).body);
    let answer = gate.ask(&generate("@sim:long-line:2000000"));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.lines(), [json!({"error": "Ollama's answer was too large"})]);
}

#[test]
fn a_stream_that_stops_drops_its_fragment_and_says_so_once() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let told = json!({"error": "Ollama closed the connection before its answer was complete"});
    let cases = [
        ("cut", 4),
        ("cut:0", 0),
        ("cut:2", 2),
        ("cut-mid-line:0", 0),
        ("cut-mid-line:2", 2),
        ("close:chunks:1", 1),
        ("close:mid-chunk:2", 2),
        ("close:after-head", 0),
        ("reset:chunks:3", 3),
        ("reset:mid-chunk:1", 1),
        ("reset:after-head", 0),
    ];
    for (fault, whole) in cases {
        for path in ["/api/generate", "/api/chat"] {
            let prompt = format!("@sim:{fault} one two");
            let request = if path == "/api/chat" { chat(&prompt) } else { generate(&prompt) };
            let answer = gate.ask(&request);
            assert_eq!((answer.status, answer.whole), (200, true), "{fault}: {}", answer.text());
            assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
            let (last, before) =
                answer.lines().split_last().map(|(last, before)| (last.clone(), before.to_vec())).unwrap();
            assert_eq!(last, told, "{fault}");
            assert_eq!(before.len(), whole, "{fault}: {}", answer.text());
            assert!(before.iter().all(|line| line["done"] == false && line.get("error").is_none()), "{fault}");
            assert!(answer.text().ends_with('\n'));
        }
    }
}

#[test]
fn an_error_that_ollama_tells_is_the_last_line_and_nothing_follows() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    for request in [generate("@sim:error:1 a b"), chat("@sim:error:1 a b")] {
        let answer = gate.ask(&request);
        let lines = answer.lines();
        assert_eq!((answer.status, lines.len()), (200, 2), "{}", answer.text());
        assert_eq!(lines[1], json!({"error": "an error was encountered while running the model: unexpected EOF"}));
    }
}

#[test]
fn a_stream_that_ends_without_a_last_newline_is_told_from_one_that_ended_well() {
    let upstream = Scripted::start();
    let gate = gate_before(&upstream.url(), &[]).start();
    let cases = [
        ("{\"done\":false}\n{\"done\":true}\n", "{\"done\":false}\n{\"done\":true}\n".to_owned()),
        ("{\"done\":true}\n\n", "{\"done\":true}\n\n".to_owned()),
        ("{\"done\":false}\n{\"done\":tr", "{\"done\":false}\n".to_owned() + TOLD),
        ("", TOLD.to_owned()),
        ("{\"done\":\"true\"}\n", "{\"done\":\"true\"}\n".to_owned() + TOLD),
    ];
    for (sent, due) in cases {
        let mut client = Client::connect(gate.address());
        client.send(&generate("go").header("Connection", "close").bytes()).unwrap();
        let mut asked = upstream.asked();
        asked.begin_stream();
        if !sent.is_empty() {
            asked.chunk(sent);
        }
        asked.say("0\r\n\r\n");
        assert_eq!(client.answer("POST").unwrap().text(), due, "{sent:?}");
    }
}

const TOLD: &str = "{\"error\":\"Ollama closed the connection before its answer was complete\"}\n";

#[test]
fn loading_and_unloading_are_one_object_each() {
    let backend = demo();
    let gate = gate(&backend, &[]).start();
    let loaded = || gate.get("/api/ps").json()["models"].as_array().unwrap().len();
    let cases = [
        ("/api/generate", json!({"model": MODEL}), "load", 1),
        ("/api/generate", json!({"model": MODEL, "keep_alive": 0}), "unload", 0),
        ("/api/chat", json!({"model": MODEL, "messages": [], "stream": true}), "load", 1),
        ("/api/chat", json!({"model": MODEL, "messages": [], "keep_alive": "0s"}), "unload", 0),
    ];
    for (path, body, reason, models) in cases {
        let answer = gate.post(path, &body);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["done_reason"], reason, "{path} {body}");
        assert_eq!(answer.json()["done"], true);
        assert_eq!(loaded(), models, "{path} {body}");
    }
}

#[test]
fn one_answer_instead_of_a_stream_is_whole_or_an_error_status() {
    let backend = demo();
    let gate = gate(&backend, &[]).start();
    let answer = gate.ask(&generate_whole("hi"));
    assert_eq!((answer.status, answer.header("transfer-encoding")), (200, None));
    assert!(answer.json()["response"].as_str().is_some_and(|text| text.contains("demo")));
    assert_eq!(lines(&answer).len(), 1);
    for fault in ["cut", "close:mid-chunk:0", "reset:mid-chunk:0", "reset:after-head"] {
        let answer = gate.ask(&generate_whole(&format!("@sim:{fault}")));
        assert_eq!(answer.status, 502, "{fault}");
        assert_eq!(error_of(&answer), "Ollama closed the connection before its answer was complete");
    }
}

#[test]
fn the_articles_answer_is_made_of_the_whole() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let ask = |body: Value| gate.post("/ollama_generate/", &body);
    assert_eq!(ask(json!({"prompt": "a \u{2028} b"})).text(), "{\"response\":\"echo: a \u{2028} b\"}");
    let sent = ask(json!({"prompt": "@request", "format": "json", "options": {"seed": 1, "temperature": 0.5}}));
    let asked: Value = serde_json::from_str(sent.json()["response"].as_str().unwrap()).unwrap();
    let due = json!({"format": "json", "model": MODEL, "options": {"seed": 1, "temperature": 0.5}, "prompt": "@request",
                     "stream": false});
    assert_eq!(asked, due);
}

#[test]
fn one_connection_carries_many_requests_to_the_backend() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let accepted = || backend.sim.counters().connections.accepted;
    // The monitor asks for the version, on connections of its own.
    let monitors = || backend.sim.counters().requests.get("GET /api/version").copied().unwrap_or(0);
    let requests = [generate("a b"), generate_whole("a"), chat("a b"), Request::get("/api/tags")];
    for number in 0..50 {
        assert_eq!(gate.ask(&requests[number % requests.len()]).status, 200);
    }
    let own = accepted() - monitors();
    assert!(own <= 2, "one, and perhaps one on which the monitor's question is still to come: {own}");
}
