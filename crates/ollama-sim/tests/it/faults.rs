//! Every fault as a client sees it, named by prompt, header and script.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use ollama_sim::{Config, Fault, Rule, Stage};

use crate::support::{Answer, Client, Ending, PATIENCE, Running};

/// What came, as text, and the end of it.
fn rest(client: Client) -> (String, Ending) {
    let (bytes, ending) = client.rest();
    (String::from_utf8_lossy(&bytes).into_owned(), ending)
}

/// The whole JSON lines of an unfinished stream.
fn whole_lines(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with('{') && line.ends_with('}')).count()
}

#[test]
fn connections_break_at_every_point() {
    let running = Running::new(Config::default());
    let head_end = "\r\n\r\n";
    for (how, ending) in [("reset", Ending::Reset), ("close", Ending::Closed)] {
        let (text, end) = rest(running.ask(&format!("@sim:{how}:before-head")));
        assert_eq!((text.as_str(), end), ("", ending), "{how}");

        let (text, end) = rest(running.ask(&format!("@sim:{how}:mid-head")));
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && !text.contains(head_end), "{how}: {text}");
        assert_eq!(end, ending);

        let (text, end) = rest(running.ask(&format!("@sim:{how}:after-head")));
        assert!(text.ends_with(head_end), "{how}: {text}");
        assert_eq!(end, ending);

        let (text, end) = rest(running.ask(&format!("@sim:{how}:chunks:3")));
        assert!(text.ends_with("}\n\r\n"), "{how}: {text}");
        assert_eq!((whole_lines(&text), end), (3, ending), "{how}: {text}");

        let (text, end) = rest(running.ask(&format!("@sim:{how}:mid-chunk:2")));
        let begun = text.lines().last().unwrap();
        assert!(begun.starts_with('{') && !begun.ends_with('}'), "{how}: {text}");
        assert_eq!((whole_lines(&text), end), (2, ending), "{how}: {text}");
    }
    running.wait("the last end", |counters| counters.broken == 10);
}

#[test]
fn answers_that_are_not_streamed_break_too() {
    let running = Running::new(Config::default());
    for fault in ["reset:mid-chunk:7", "close:mid-chunk:0", "cut", "cut-mid-line:1"] {
        let (text, end) = rest(running.ask_whole(&format!("@sim:{fault}")));
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Content-Length: ") && body.starts_with('{') && !body.ends_with('}'), "{fault}: {text}");
        assert_eq!(end, if fault.starts_with("reset") { Ending::Reset } else { Ending::Closed }, "{fault}");
    }
    let answer = running.ask_whole("@sim:error:3").answer();
    assert_eq!(answer.status(), 500);
    assert!(answer.json()["error"].is_string());
}

#[test]
fn stalls_last_until_the_client_leaves() {
    let running = Running::new(Config::default());
    let cases = [
        ("before-head", ""),
        ("mid-head", "HTTP/1.1 200 OK"),
        ("after-head", "\r\n\r\n"),
        ("chunks:2", "}\n\r\n"),
        ("mid-chunk:0", "{\"model\""),
    ];
    for (index, (point, seen)) in cases.into_iter().enumerate() {
        let mut client = running.ask(&format!("@sim:stall:{point}"));
        client.until(seen);
        running.wait("the request", |counters| counters.in_flight == 1);
        assert!(client.is_silent(), "{point}: {}", client.seen());
        drop(client);
        let counters = running.wait("the notice", |counters| counters.cancelled == index as u64 + 1);
        assert_eq!(counters.cancellations.last().unwrap().stage, Stage::Stalled, "{point}");
    }
}

#[test]
fn a_fault_beyond_the_end_strikes_before_the_last_line() {
    let running = Running::new(Config::default());
    let (text, end) = rest(running.ask("@sim:reset:chunks:100000"));
    assert_eq!(end, Ending::Reset);
    assert!(whole_lines(&text) > 20 && !text.contains("\"done\":true"), "{text}");
}

#[test]
fn streams_end_early_but_cleanly() {
    let running = Running::new(Config::default());
    let all = running.ask("hi").answer().lines().len();
    for (fault, lines) in [("cut", all - 1), ("cut:0", 0), ("cut:2", 2)] {
        let answer = running.ask(&format!("@sim:{fault}")).answer().lines();
        assert_eq!(answer.len(), lines, "{fault}");
        assert!(answer.iter().all(|line| line["done"] == false), "{fault}");
    }
    let answer = running.ask("@sim:cut-mid-line:2").answer();
    let body = answer.body();
    let (whole, part) = body.rsplit_once('\n').unwrap();
    assert_eq!(whole.lines().count(), 2);
    assert!(part.starts_with("{\"model\"") && !part.ends_with('}'), "{part}");
    let lines = running.ask("@sim:error:2").answer().lines();
    assert_eq!(lines.len(), 3);
    let error = lines[2].as_object().unwrap();
    assert!(error.len() == 1 && error["error"].is_string(), "{error:?}");
    assert_eq!(running.wait("the ends", |counters| counters.completed == 6).broken, 0);
}

#[test]
fn heads_come_slowly_or_as_garbage() {
    let running = Running::new(Config::default());
    let start = Instant::now();
    let mut client = running.ask("@sim:slow-head:1");
    client.until("HTTP/1.1 2");
    assert!(!client.seen().contains("\r\n\r\n"), "the head has not come in one piece");
    let answer = client.answer();
    let head: usize = answer.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(start.elapsed() >= Duration::from_millis(head as u64), "{:?}", start.elapsed());
    assert_eq!(answer.status(), 200);
    let (text, end) = rest(running.ask("@sim:garbage-head"));
    assert!(!text.is_empty() && !text.starts_with("HTTP/"), "{text}");
    assert_eq!(end, Ending::Closed);
}

#[test]
fn canned_answers_replace_the_real_one() {
    let running = Running::new(Config::default());
    let busy = r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#;
    let answer = running.ask("@sim:busy").answer();
    assert_eq!((answer.status(), answer.body().as_str()), (503, busy));
    assert_eq!(running.ask("@sim:status:429").answer().body(), r#"{"error":"too many requests"}"#);
    let answer = running.ask("@sim:html").answer();
    assert_eq!((answer.status(), answer.header("Content-Type")), (502, Some("text/html")));
    let answer = running.ask("@sim:wrong-json").answer();
    assert_eq!((answer.status(), answer.header("Content-Type")), (200, Some("application/json; charset=utf-8")));
    assert!(serde_json::from_str::<serde_json::Value>(&answer.body()).is_err());
    let answer = running.ask("@sim:nope").answer();
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.json()["error"], r#"fault "nope": there is no fault of this name"#);
}

#[test]
fn a_stream_without_end_goes_on() {
    let running = Running::new(Config::default());
    let mut client = running.ask("@sim:endless");
    while client.seen().len() < 1 << 20 {
        assert_eq!(client.more(), Ending::Open);
    }
    assert!(!client.seen().contains("\"done\":true"));
    drop(client);
    let counters = running.wait("the notice", |counters| counters.cancelled == 1);
    assert_eq!(counters.cancellations[0].stage, Stage::Sending);
    assert!(counters.cancellations[0].lines > 1000, "{counters:?}");
}

#[test]
fn chunks_split_lines_and_characters() {
    let running = Running::new(Config::echo());
    let answer = running.ask("@sim:split héllo 世界 🚀🚀🚀").answer();
    let inside = answer.chunks.iter().filter(|chunk| std::str::from_utf8(chunk).is_err()).count();
    assert!(inside > 0, "no boundary inside a character");
    assert!(answer.chunks.iter().all(|chunk| chunk.len() <= 5));
    let said: String = answer.lines().iter().map(|line| line["response"].as_str().unwrap().to_owned()).collect();
    assert_eq!(said.trim_end(), "echo: @sim:split héllo 世界 🚀🚀🚀");
}

#[test]
fn lines_can_be_long() {
    let running = Running::new(Config::default());
    let lines = running.ask("@sim:long-line:3000000").answer().lines();
    assert_eq!((lines.len(), lines[0]["response"].as_str().unwrap().len()), (2, 3_000_000));
    let whole = running.ask_whole("@sim:long-line").answer().json();
    assert_eq!(whole["response"].as_str().unwrap().len(), 1 << 20);
}

#[test]
fn answers_can_be_late() {
    let running = Running::new(Config::default());
    let start = Instant::now();
    assert_eq!(running.ask("@sim:delay:60").answer().status(), 200);
    assert!(start.elapsed() >= Duration::from_millis(60));
}

#[test]
fn connections_are_refused_for_a_time() {
    let running = Running::new(Config::default());
    let (text, end) = rest(running.ask("@sim:refuse:300"));
    assert_eq!((text.as_str(), end), ("", Ending::Reset));
    let why = TcpStream::connect(running.address).unwrap_err();
    assert_eq!(why.kind(), std::io::ErrorKind::ConnectionRefused);
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(running.address).is_err() {
        assert!(Instant::now() < deadline, "it never listens again");
        std::thread::yield_now();
    }
    assert_eq!(running.get("/").status(), 200);
}

#[test]
fn headers_and_scripts_name_faults_too() {
    let script = vec![Rule { fault: Fault::Html, path: Some("/api/tags".to_owned()), times: 1 }];
    let running = Running::new(Config { script, ..Config::default() });
    assert_eq!(running.get("/api/version").status(), 200, "the rule is for another path");
    assert_eq!([running.get("/api/tags").status(), running.get("/api/tags").status()], [502, 200]);

    let mut client = Client::connect(running.address);
    client.send(b"GET /api/version HTTP/1.1\r\nHost: sim\r\nX-Sim-Fault: status:418\r\n\r\n");
    assert_eq!(client.answer().status(), 418);

    let rules = r#"["busy", "ok", {"fault": "html", "times": 2}]"#;
    assert_eq!(running.post("/sim/script", rules).answer().json(), serde_json::json!({ "rules": 3 }));
    let statuses = [(); 5].map(|()| running.get("/").status());
    assert_eq!(statuses, [503, 200, 502, 502, 200]);
    let refused: Answer = running.post("/sim/script", r#"["busy", "nope"]"#).answer();
    assert_eq!(refused.status(), 400);
    assert!(refused.json()["error"].as_str().unwrap().contains("there is no fault of this name"), "{refused:?}");
}
