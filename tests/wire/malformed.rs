//! Requests that two parsers could read differently: refused in plain text, closed, and in the access log.

use serde_json::Value;

use crate::stage::{echo, gate};
use crate::support::http::{Client, Request};
use crate::support::{Dir, wait_for};

/// Heads, and what of the reason the client is told.
const HEADS: &[(&str, &str)] = &[
    ("hello\r\n\r\n", "METHOD TARGET VERSION"),
    ("GET /x\r\n\r\n", "METHOD TARGET VERSION"),
    ("GET  /x HTTP/1.1\r\n\r\n", "METHOD TARGET VERSION"),
    ("get / HTTP/1.1\r\nHost: x\r\n\r\n", "word in capitals"),
    ("GATE-REFUSED / HTTP/1.1\r\nHost: x\r\n\r\n", "word in capitals"),
    ("CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT"),
    ("GET x HTTP/1.1\r\nHost: x\r\n\r\n", "request target"),
    ("GET /\u{e9} HTTP/1.1\r\nHost: x\r\n\r\n", "request target"),
    ("GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", "request target"),
    ("GET /a?\"b HTTP/1.1\r\nHost: x\r\n\r\n", "request target"),
    ("GET http:// HTTP/1.1\r\nHost: x\r\n\r\n", "request target"),
    ("GET http:///x HTTP/1.1\r\nHost: x\r\n\r\n", "request target"),
    ("GET http://a\\/ HTTP/1.1\r\nHost: x\r\n\r\n", "request target"),
    ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", "version"),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "version"),
    ("\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n", "METHOD TARGET VERSION"),
    ("GET / HTTP/1.1\r\n\r\n", "no Host"),
    ("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "two Host"),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "host and port"),
    ("GET / HTTP/1.1\nHost: x\n\n", "CR LF"),
    ("GET / HTTP/1.1\r\nHost: x\r\nA: b\n\r\n", "CR LF"),
    ("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", "folded"),
    ("GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", "not a token"),
    ("GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n", "not a token"),
    ("GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n", "without a colon"),
    ("GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", "control character"),
    ("GET / HTTP/1.1\r\nHost: x\r\nA: \u{7f}\r\n\r\n", "control character"),
    ("GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", "control character"),
    ("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\r\n\r\n", "control character"),
    ("GET / HTTP/1.1\r\nHost: x\r\nA: \u{c}b\r\n\r\n", "control character"),
    ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "two Content-Length"),
    ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\nx", "not a number"),
    ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\nx", "not a number"),
    ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", "not a number"),
    ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "both"),
    ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "other than chunked"),
    ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "other than"),
    ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.0"),
];

/// Chunked bodies, and what of the reason the client is told.
const BODIES: &[(&str, &str)] = &[
    ("zz\r\n", "hexadecimal"),
    ("\r\n", "hexadecimal"),
    ("0x5\r\n", "hexadecimal"),
    (" 5\r\nhello\r\n0\r\n\r\n", "hexadecimal"),
    ("5\nhello\r\n0\r\n\r\n", "CR LF"),
    ("5;a\nb\r\nhello\r\n", "CR LF"),
    ("4\r\nhello\r\n", "longer than it said"),
    ("5\r\nhello\n0\r\n\r\n", "longer than it said"),
    ("0\r\nContent-Length: 4\r\n\r\n", "belongs into the head"),
    ("0\r\nno colon\r\n\r\n", "without a colon"),
    ("fffffffffffffffff\r\n", "hexadecimal"),
];

#[test]
fn malformed_heads_are_refused_closed_and_logged() {
    let (backend, dir) = (echo(), Dir::new());
    let log = dir.path("access.log");
    let gate = gate(&backend, &["--access-log", log.to_str().unwrap()]).start();
    for (head, reason) in HEADS {
        let mut client = Client::connect(gate.address());
        client.send(head.as_bytes()).unwrap();
        let answer = client.answer("GET").unwrap_or_else(|error| panic!("{head:?}: {error}"));
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (400, Some("text/plain; charset=utf-8")),
            "{head:?}"
        );
        assert_eq!(answer.header("connection"), Some("close"), "{head:?}");
        let text = answer.text();
        assert!(text.starts_with("Invalid HTTP request received: ") && text.contains(reason), "{head:?}: {text}");
        assert!(client.is_closed(), "{head:?}");
    }
    let lines: Vec<Value> = wait_for("a line for each", || {
        let text = std::fs::read_to_string(&log).ok()?;
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() >= HEADS.len()).then_some(lines)
    });
    assert_eq!(lines.len(), HEADS.len());
    for (line, (head, reason)) in lines.iter().zip(HEADS) {
        assert_eq!((&line["status"], &line["fault"]), (&400.into(), &"client".into()), "{line}");
        assert!(line["reason"].as_str().unwrap().contains(reason), "{head:?}: {line}");
        assert_eq!(line["client"], "127.0.0.1");
    }
    assert_eq!(gate.get("/healthz").status, 200);
}

#[test]
fn malformed_bodies_are_refused_in_the_routes_dialect_and_reach_nobody() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    for (path, key) in [("/ollama_generate/", "detail"), ("/api/generate", "error")] {
        for (body, reason) in BODIES {
            let mut client = Client::connect(gate.address());
            let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
            client.send([&head, *body].concat().as_bytes()).unwrap();
            let answer = client.answer("POST").unwrap_or_else(|error| panic!("{body:?}: {error}"));
            assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{body:?}");
            let text = answer.json()[key].as_str().unwrap().to_owned();
            assert!(text.contains(reason), "{body:?}: {text}");
            assert!(client.is_closed(), "{body:?}");
        }
    }
    assert_eq!(backend.sim.counters().requests.keys().filter(|route| route.starts_with("POST")).count(), 0);
}

#[test]
fn nothing_behind_a_malformed_head_is_taken_for_a_request() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let smuggled = String::from_utf8(crate::stage::generate("smuggled").bytes()).unwrap();
    for (head, _) in HEADS {
        let mut client = Client::connect(gate.address());
        client.send([head, smuggled.as_str()].concat().as_bytes()).unwrap();
        assert_eq!(client.answer("POST").unwrap().status, 400);
        assert!(client.is_closed(), "{head:?}");
    }
    assert_eq!(gate.ask(&Request::get("/healthz")).status, 200);
    assert_eq!(backend.sim.counters().requests.get("POST /api/generate"), None);
}
