//! What the gate takes from a client, how much of it, and for how long it waits.

use std::io::{Read, Write};
use std::thread;

use serde_json::json;

use crate::stage::{ARTICLE, MODEL, article, demo, echo, gate, generate, generate_whole};
use crate::support::http::{Answer, Client, Request};
use crate::support::{Dir, Gate, wait_for};

/// Sends these bytes and reads one answer.
#[track_caller]
fn tell(gate: &Gate, bytes: &[u8]) -> (Answer, Client) {
    let mut client = Client::connect(gate.address());
    client.send(bytes).unwrap();
    (client.answer("POST").unwrap(), client)
}

#[track_caller]
fn is_plain_refusal((answer, mut client): (Answer, Client), status: u16) {
    assert_eq!((answer.status, answer.header("content-type")), (status, Some("text/plain; charset=utf-8")));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn a_head_that_does_not_end_is_told_so_and_closed() {
    let backend = echo();
    let gate = gate(&backend, &["--head-timeout", "300ms"]).start();
    for part in [
        "G",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n",
        "\r\n",
        "POST /ollama_generate/ HTTP/1.1\r\nHost: x\r",
    ] {
        is_plain_refusal(tell(&gate, part.as_bytes()), 408);
    }
    let mut silent = Client::connect(gate.address());
    assert!(silent.is_closed(), "who says nothing is told nothing");
}

#[test]
fn a_head_that_dribbles_has_one_deadline_for_all_of_it() {
    let backend = echo();
    let gate = gate(&backend, &["--head-timeout", "300ms"]).start();
    let mut client = Client::connect(gate.address());
    let mut dribbling = client.socket().try_clone().unwrap();
    client.send(b"GET / HTTP/1.1\r\nX: ").unwrap();
    let dribbler = thread::spawn(move || {
        // As slow as the answer takes: each byte is sent when the other side has had time for the one before.
        let mut peeked = [0];
        dribbling.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
        let mut sent = 0;
        while dribbling.peek(&mut peeked).is_err() && dribbling.write_all(b"x").is_ok() {
            sent += 1;
        }
        dribbling.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
        sent
    });
    let sent = dribbler.join().unwrap();
    assert_eq!(client.answer("GET").unwrap().status, 408);
    assert!(sent > 0);
}

#[test]
fn a_body_that_stops_is_told_so_and_one_that_goes_on_is_waited_for() {
    let backend = echo();
    let gate = gate(&backend, &["--body-timeout", "300ms"]).start();
    for (path, text) in [
        (ARTICLE, "{\"detail\":\"the request body stopped for 0.3 s\"}"),
        ("/api/generate", "{\"error\":\"the request body stopped for 0.3 s\"}"),
    ] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n");
        for part in ["Content-Length: 100\r\n\r\n{\"pro", "Transfer-Encoding: chunked\r\n\r\n5\r\n{\"pro\r\n"] {
            let (answer, mut client) = tell(&gate, format!("{head}{part}").as_bytes());
            assert_eq!((answer.status, answer.text().as_str()), (408, text));
            assert_eq!(answer.header("connection"), Some("close"));
            assert!(client.is_closed());
        }
    }
    assert_eq!(backend.sim.counters().requests.get("POST /api/generate"), None);
}

#[test]
fn a_body_over_the_cap_is_refused_before_it_is_read() {
    let backend = echo();
    let gate = gate(&backend, &["--max-body", "1KiB"]).start();
    let head = "POST /ollama_generate/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1025\r\n\r\n";
    let (answer, _) = tell(&gate, head.as_bytes());
    assert_eq!((answer.status, answer.interim.len()), (413, 0));
    assert_eq!(answer.text(), "{\"detail\":\"the request body is over 1024 bytes (--max-body)\"}");
    let exact = format!("{{\"prompt\":\"{}\"}}", "x".repeat(1024 - 13));
    let request = Request::new("POST", ARTICLE).header("Content-Type", "application/json").body(exact.as_bytes());
    assert_eq!((exact.len(), gate.ask(&request).status), (1024, 200));
}

#[test]
fn who_is_refused_while_still_sending_can_read_why() {
    let backend = echo();
    let gate = gate(&backend, &["--max-body", "1KiB"]).start();
    let megabytes = 4 << 20;
    let whole = format!("POST {ARTICLE} HTTP/1.1\r\nHost: x\r\nContent-Length: {megabytes}\r\n\r\n").into_bytes();
    let chunked = format!("POST {ARTICLE} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    let body = vec![b'x'; megabytes];
    let chunks: Vec<u8> = body.chunks(1000).flat_map(|chunk| [b"3e8\r\n", chunk, b"\r\n"].concat()).collect();
    let closed = format!("POST /api/pull HTTP/1.1\r\nHost: x\r\nContent-Length: {megabytes}\r\n\r\n").into_bytes();
    let cases = [(whole, body.clone(), 413), (chunked, chunks, 413), (closed, body, 403)];
    for (head, body, status) in cases {
        let mut client = Client::connect(gate.address());
        client.send(&head).unwrap();
        let mut sending = client.socket().try_clone().unwrap();
        let sender = thread::spawn(move || sending.write_all(&body));
        let answer = client.answer("POST").unwrap();
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")));
        // What is not wanted is taken all the same for a while: a reset could overtake the answer.
        sender.join().unwrap().unwrap();
    }
}

#[test]
fn heads_have_a_size_a_number_of_fields_and_a_length_of_path() {
    let backend = echo();
    let gate = gate(&backend, &["--max-head", "4KiB", "--max-path", "1KiB"]).start();
    let head = |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let long = format!("X: {}\r\n", "x".repeat(5000));
    let many = |count: usize| "A: b\r\n".repeat(count);
    is_plain_refusal(tell(&gate, head("/", &long).as_bytes()), 431);
    is_plain_refusal(tell(&gate, head("/", &many(100)).as_bytes()), 431);
    assert_eq!(tell(&gate, head("/", &many(99)).as_bytes()).0.status, 200);
    is_plain_refusal(tell(&gate, head(&format!("/{}", "x".repeat(1024)), "").as_bytes()), 414);
    assert_eq!(tell(&gate, head(&format!("/{}", "x".repeat(1023)), "").as_bytes()).0.status, 404);
    // Told while the head still goes on.
    is_plain_refusal(tell(&gate, format!("GET /{}", "x".repeat(5000)).as_bytes()), 414);
    is_plain_refusal(tell(&gate, format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(5000)).as_bytes()), 431);
}

#[test]
fn large_heads_are_a_matter_of_configuration() {
    let (backend, dir) = (echo(), Dir::new());
    let log = dir.path("access.log");
    let sizes = ["--max-head", "1MiB", "--max-path", "1MiB", "--access-log", log.to_str().unwrap()];
    let gate = gate(&backend, &sizes).start();
    let head = |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let field = |length: usize| format!("X: {}\r\n", "x".repeat(length));
    assert_eq!(tell(&gate, head("/", &field(1_000_000)).as_bytes()).0.status, 200);
    is_plain_refusal(tell(&gate, head("/", &field(1 << 20)).as_bytes()), 431);
    assert_eq!(tell(&gate, head(&format!("/{}", "x".repeat(65_000)), "").as_bytes()).0.status, 404);
    // Longer targets are refused whatever the configuration says.
    is_plain_refusal(tell(&gate, head(&format!("/{}", "x".repeat(65_600)), "").as_bytes()), 414);
    wait_for("a line for each", || {
        std::fs::read_to_string(&log).ok().filter(|text| text.lines().count() == 4).map(drop)
    });
}

#[test]
fn who_expects_a_word_before_sending_a_body_gets_it() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let body = "{\"prompt\":\"hi\"}";
    let head = format!(
        "POST {ARTICLE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    let mut client = Client::connect(gate.address());
    client.send(head.as_bytes()).unwrap();
    let mut word = [0; 25];
    client.socket().read_exact(&mut word).unwrap();
    assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send(body.as_bytes()).unwrap();
    assert_eq!(client.answer("POST").unwrap().text(), "{\"response\":\"echo: hi\"}");
}

#[test]
fn http_1_0_gets_its_answer_and_a_close() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let (answer, mut client) = tell(&gate, b"GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok\n"));
    assert!(client.is_closed());
    let body = json!({"model": MODEL, "prompt": "a b"}).to_string();
    let (answer, _) =
        tell(&gate, format!("POST /api/generate HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    assert_eq!((answer.status, answer.header("transfer-encoding")), (200, None));
    assert_eq!(answer.text(), gate.ask(&generate("a b")).text(), "a stream up to the close");
}

#[test]
fn an_idle_connection_is_closed_and_one_in_use_is_not() {
    let backend = demo();
    let gate = gate(&backend, &["--keep-alive", "300ms", "--head-timeout", "300ms"]).start();
    let mut client = Client::connect(gate.address());
    for _ in 0..3 {
        assert_eq!(client.ask(&Request::get("/healthz")).unwrap().status, 200);
    }
    assert!(client.is_closed());
    let mut waiting = Client::connect(gate.address());
    assert_eq!(waiting.ask(&article("@sim:delay:1000")).unwrap().status, 200, "a request in service is not idle");
}

#[test]
fn bodies_are_read_as_they_are_or_not_at_all() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    for path in [ARTICLE, "/api/generate", "/api/chat"] {
        let body = json!({"model": MODEL, "prompt": "hi", "messages": []});
        let request = Request::post(path, &body).header("Content-Encoding", "gzip");
        assert_eq!(gate.ask(&request).status, 415, "{path}");
        let request = Request::post(path, &body).header("Content-Encoding", "identity");
        assert_eq!(gate.ask(&request).status, 200, "{path}");
    }
}

#[test]
fn bodies_made_to_exhaust_a_parser_are_refused_and_nobody_dies() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let workers = gate.has_workers(1);
    let max = 8 << 20;
    let digits = "1".repeat(max / 2);
    let bodies = [
        "[".repeat(max),
        "{\"a\":".repeat(max / 5),
        format!("{{\"prompt\":{digits}}}"),
        format!("{{\"model\":\"m\",\"prompt\":\"x\",\"options\":{{\"num_ctx\":{digits}}}}}"),
        format!("{{\"prompt\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("{{\"model\":\"m\",\"messages\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000)),
    ];
    for body in &bodies {
        for path in [ARTICLE, "/api/generate", "/api/chat"] {
            let request = Request::new("POST", path).header("Content-Type", "application/json").body(body.as_bytes());
            let answer = gate.ask(&request);
            assert!([400, 422].contains(&answer.status), "{path} {}…: {}", &body[..30], answer.status);
        }
    }
    for deep in [&bodies[0], &bodies[1]] {
        let request = Request::new("POST", ARTICLE).header("Content-Type", "application/json").body(deep.as_bytes());
        assert_eq!(gate.ask(&request).status, 400);
    }
    assert_eq!(gate.workers(), workers);
    assert_eq!(backend.sim.counters().requests.keys().filter(|route| route.starts_with("POST")).count(), 0);
}

#[test]
fn bodies_come_in_any_number_of_pieces() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let prompt = "h\u{e9}llo ".repeat(20_000);
    let body = json!({"prompt": prompt}).to_string();
    for size in [1, 7, 1000, 100_000] {
        // Tiny chunks of a short body: a byte each is enough to see every boundary.
        let body = if size < 100 { json!({"prompt": "h\u{e9}llo"}).to_string() } else { body.clone() };
        let chunks: Vec<u8> = body
            .as_bytes()
            .chunks(size)
            .flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())
            .collect();
        let head = "POST /ollama_generate/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        let (answer, _) = tell(&gate, &[head.as_bytes(), &chunks, b"0\r\n\r\n"].concat());
        assert!(answer.status == 200 && answer.text().contains("echo: h\u{e9}llo"), "{size}: {}", answer.status);
    }
}

#[test]
fn a_client_that_leaves_amid_its_body_is_nobodys_problem() {
    let backend = echo();
    let gate = gate(&backend, &["--workers", "1"]).start();
    for _ in 0..20 {
        let mut client = Client::connect(gate.address());
        client.send(b"POST /ollama_generate/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"pro").unwrap();
    }
    wait_for("an answer", || (gate.ask(&article("hi")).status == 200).then_some(()));
    assert_eq!(backend.sim.counters().requests["POST /api/generate"], 1);
}

#[test]
fn a_connection_that_idles_after_a_request_is_let_go_however_long_the_request_took() {
    let backend = demo();
    // The request outlasts the wait for its head, and the wait for the next one is far shorter than that for a first.
    for (head_timeout, fault) in [("100ms", "delay:400"), ("60s", "ok")] {
        let arguments = ["--keep-alive", "300ms", "--head-timeout", head_timeout];
        let gate = gate(&backend, &arguments).start();
        let mut client = Client::connect(gate.address());
        let request = generate_whole(&format!("@sim:{fault}"));
        assert_eq!(client.ask(&request).unwrap().header("connection"), None);
        assert!(client.is_closed(), "{head_timeout}");
    }
}
