//! The access log: one line for each request, however it ended, and nothing in it that a client could forge.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::stage::{ARTICLE, MODEL, article, begin, demo, echo, gate, generate};
use crate::support::http::{Client, Request};
use crate::support::{Dir, wait_for};

fn log_in(dir: &Dir) -> PathBuf {
    dir.path("access.log")
}

/// Waits for so many lines; fails if there are more.
#[track_caller]
fn lines(log: &Path, count: usize) -> Vec<String> {
    let lines: Vec<String> = wait_for(&format!("{count} lines in the access log"), || {
        let text = String::from_utf8(std::fs::read(log).ok()?).expect("the log is UTF-8");
        let lines: Vec<_> = text.lines().map(ToOwned::to_owned).collect();
        (lines.len() >= count && text.ends_with('\n')).then_some(lines)
    });
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

#[test]
fn every_request_has_one_line_with_what_became_of_it() {
    let (backend, dir) = (echo(), Dir::new());
    let log = log_in(&dir);
    let gate = gate(&backend, &["--workers", "2", "--limit", "2/hour", "--access-log", log.to_str().unwrap()]).start();
    let requests = [
        (article("hi"), 200, "article_body", Value::Null),
        (Request::get(&format!("{ARTICLE}hi%20there?q=1")), 200, "article_item", Value::Null),
        (generate("hi"), 200, "generate", Value::Null),
        (Request::get("/nowhere"), 404, "", json!("client")),
        (Request::post(ARTICLE, &json!({})), 422, "article_body", json!("client")),
        (generate("@500"), 500, "generate", Value::Null),
        (article("@500"), 502, "article_body", json!("backend")),
        (article("hi"), 429, "article_body", json!("client")),
        (Request::new("POST", "/api/pull"), 403, "pull", json!("client")),
        (Request::new("HEAD", "/"), 200, "root", Value::Null),
        (generate("@sim:cut:1 a b"), 200, "generate", json!("backend")),
    ];
    for (number, (request, status, route, fault)) in requests.iter().enumerate() {
        let answer = gate.ask(request);
        assert_eq!(answer.status, *status);
        let line: Value = serde_json::from_str(&lines(&log, number + 1)[number]).unwrap();
        assert_eq!((&line["status"], &line["route"], &line["fault"]), (&json!(status), &json!(route), fault), "{line}");
        assert_eq!(line["bytes"], answer.body.len(), "{line}");
        assert_eq!(line["client"], "127.0.0.1");
        assert!(line["ms"].is_number() && (1..=2).contains(&line["worker"].as_u64().unwrap()), "{line}");
        assert_eq!(line["upstream_ms"].is_number(), [0, 1, 2, 5, 6, 10].contains(&number), "{line}");
    }
    let second: Value = serde_json::from_str(&lines(&log, requests.len())[1]).unwrap();
    assert_eq!((&second["target"], &second["method"]), (&json!("/ollama_generate/hi%20there?q=1"), &json!("GET")));
    let third: Value = serde_json::from_str(&lines(&log, requests.len())[2]).unwrap();
    assert_eq!(third["model"], MODEL);
}

#[test]
fn who_leaves_is_in_the_log_and_health_checks_are_not() {
    let (backend, dir) = (demo(), Dir::new());
    let log = log_in(&dir);
    let gate = gate(&backend, &["--access-log", log.to_str().unwrap()]).start();
    for _ in 0..5 {
        assert_eq!(gate.get("/healthz").status, 200);
        gate.get("/readyz");
    }
    let silent = begin(gate.address(), &generate("@sim:stall:before-head"));
    wait_for("the backend to have it", || {
        backend.sim.counters().requests.contains_key("POST /api/generate").then_some(())
    });
    drop(silent);
    let line: Value = serde_json::from_str(&lines(&log, 1)[0]).unwrap();
    assert_eq!((&line["status"], &line["fault"]), (&json!(499), &json!("client left")));
    let mut streaming = begin(gate.address(), &generate("@sim:endless"));
    assert_eq!(streaming.head().unwrap().0, 200);
    let first = streaming.chunk().unwrap().unwrap();
    drop(streaming);
    let line: Value = serde_json::from_str(&lines(&log, 2)[1]).unwrap();
    assert_eq!((&line["status"], &line["fault"]), (&json!(200), &json!("client left")));
    assert!(line["bytes"].as_u64().unwrap() >= first.len() as u64);
    // A connection on which nothing was asked has no line.
    drop(Client::connect(gate.address()));
    assert_eq!(gate.get("/api/tags").status, 200);
    assert!(lines(&log, 3)[2].contains("/api/tags"));
}

/// Requests whose bytes would like to be something else than part of a line.
fn hostile(number: usize) -> Vec<u8> {
    let agents: [&[u8]; 6] = [
        b"\" 200 0 \"-\" \"forged",
        b"\\\" \\x22 \\n {\"status\":200}",
        b"\xff\xfe\x80 \xe2\x80\xa8\xc2\x85",
        b"[2J",
        &[b'a'; 5000],
        b"\t tab \t",
    ];
    let targets = ["/\"}{\"status\":200", "/%0d%0a%22", "/|~{}\"\"", "/a?%22b%22", "/%ff%00", "/x"];
    let head = format!("GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nUser-Agent: ", targets[number]);
    [head.as_bytes(), agents[number], b"\r\nReferer: ", agents[5 - number], b"\r\n\r\n"].concat()
}

#[test]
fn hostile_bytes_stay_in_one_line_of_json() {
    let (backend, dir) = (echo(), Dir::new());
    let log = log_in(&dir);
    let gate = gate(&backend, &["--access-log", log.to_str().unwrap()]).start();
    for number in 0..6 {
        let mut client = Client::connect(gate.address());
        client.send(&hostile(number)).unwrap();
        assert_eq!(client.answer("GET").unwrap().status, 404);
        let all = lines(&log, number + 1);
        let line: Value = serde_json::from_str(&all[number]).unwrap();
        assert_eq!(line["status"], 404);
        assert!(all[number].is_ascii(), "{}", all[number]);
    }
}

#[test]
fn hostile_bytes_stay_in_their_field_of_the_combined_format() {
    let (backend, dir) = (echo(), Dir::new());
    let log = log_in(&dir);
    let arguments = ["--access-log", log.to_str().unwrap(), "--access-log-format", "combined"];
    let gate = gate(&backend, &arguments).start();
    for number in 0..6 {
        let mut client = Client::connect(gate.address());
        client.send(&hostile(number)).unwrap();
        assert_eq!(client.answer("GET").unwrap().status, 404);
        let line = lines(&log, number + 1).swap_remove(number);
        let fields: Vec<&str> = line.split('"').collect();
        assert_eq!(fields.len(), 7, "three quoted fields: {line}");
        assert!(fields[0].starts_with("127.0.0.1 - - [") && fields[0].ends_with("] "), "{line}");
        assert!(fields[1].starts_with("GET /") && fields[1].ends_with(" HTTP/1.1"), "{line}");
        assert_eq!(fields[2], " 404 22 ", "{line}");
        assert_eq!((fields[4], fields[6]), (" ", ""), "{line}");
        assert!(!line.contains(['\t', '\u{85}', '\u{2028}']), "{line:?}");
    }
    let request = article("hi").header("Referer", "http://a.test/").header("User-Agent", "curl/8");
    assert_eq!(gate.ask(&request).status, 200);
    let line = lines(&log, 7).swap_remove(6);
    assert!(line.ends_with("\"POST /ollama_generate/ HTTP/1.1\" 200 23 \"http://a.test/\" \"curl/8\""), "{line}");
}

#[test]
fn prompts_are_in_no_log() {
    let (backend, dir) = (echo(), Dir::new());
    let log = log_in(&dir);
    let gate = gate(&backend, &["--access-log", log.to_str().unwrap(), "--log-level", "debug"]).start();
    let secret = "my-own-secret";
    let requests = [
        (article(secret), 200),
        (generate(secret), 200),
        (crate::stage::chat(secret), 200),
        (Request::post(ARTICLE, &json!({"prompt": [secret]})), 422),
        (Request::post("/api/generate", &json!({"model": MODEL, "prompt": secret, "options": {"seed": secret}})), 400),
        (generate(&format!("@sim:cut:1 {secret}")), 200),
        (article(&format!("@sim:close:before-head {secret}")), 502),
        (article(secret).header("Authorization", secret).header("Cookie", secret), 200),
    ];
    for (number, (request, status)) in requests.iter().enumerate() {
        assert_eq!(gate.ask(request).status, *status, "{number}");
    }
    let lines = lines(&log, requests.len()).join("\n");
    assert!(!lines.contains(secret), "{lines}");
    assert!(!gate.log().contains(secret) && !gate.output().contains(secret), "{}", gate.log());
}

#[test]
fn a_log_that_was_renamed_is_opened_anew_when_the_master_is_told() {
    let (backend, dir) = (echo(), Dir::new());
    let (log, old) = (log_in(&dir), dir.path("access.log.1"));
    let gate = gate(&backend, &["--workers", "2", "--access-log", log.to_str().unwrap()]).start();
    for number in 0..20 {
        assert_eq!(gate.get(&format!("/before/{number}")).status, 404);
    }
    lines(&log, 20);
    std::fs::rename(&log, &old).unwrap();
    assert_eq!(gate.get("/between").status, 404);
    gate.signal(Signal::SIGUSR1);
    wait_for("a new file", || log.exists().then_some(()));
    for (number, worker) in gate.workers().into_iter().enumerate() {
        let log = log.to_str().unwrap();
        wait_for(&format!("worker {number} to write there"), || {
            let open = std::fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
            let paths = open.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
            paths.into_iter().any(|path| path.to_str() == Some(log)).then_some(())
        });
    }
    for number in 0..20 {
        assert_eq!(gate.get(&format!("/after/{number}")).status, 404);
    }
    assert!(lines(&log, 20).iter().all(|line| line.contains("/after/")));
    assert!(lines(&old, 21).iter().all(|line| line.contains("/before/") || line.contains("/between")));
}
