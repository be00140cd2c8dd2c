//! What the simulation counts, in-process and over HTTP.

use std::time::{SystemTime, UNIX_EPOCH};

use ollama_sim::{Config, Counters, Stage};

use crate::support::{Client, Ending, Running};

fn over_http(running: &Running) -> Counters {
    serde_json::from_str(&running.get("/sim/counters").body()).unwrap()
}

#[test]
fn requests_and_connections_are_counted() {
    let running = Running::new(Config { recorded: 2, ..Config::default() });
    let mut client = Client::connect(running.address);
    for body in [r#"{"model":"nope"}"#, r#"{"model":"llama3.2:1b"}"#] {
        client.post("/api/generate", body);
        client.answer();
    }
    client.send(b"GET /some/where?secret=1 HTTP/1.1\r\nHost: a.test\r\nX-One: 1\r\n\r\n");
    client.answer();
    let counters = running.wait("the end", |counters| counters.completed == 3);
    let routes: Vec<_> = counters.requests.iter().map(|(route, count)| (route.as_str(), *count)).collect();
    assert_eq!(routes, [("POST /api/generate", 2), ("other", 1)]);
    assert_eq!((counters.connections.accepted, counters.connections.reused), (1, 2));
    assert_eq!((counters.connections.open, counters.in_flight, counters.in_flight_max), (1, 0, 1));
    let last: Vec<_> = counters.last_requests.iter().map(|one| (one.target.as_str(), one.body.as_str())).collect();
    assert_eq!(last, [("/api/generate", r#"{"model":"llama3.2:1b"}"#), ("/some/where?secret=1", "")]);
    let headers = [("Host", "a.test"), ("X-One", "1")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(counters.last_requests[1].headers, headers);
}

#[test]
fn work_is_counted_apart_from_questions() {
    let running = Running::new(Config::default());
    let stalled = running.ask("@sim:stall:after-head");
    running.wait("the work", |counters| counters.generating == 1);
    let mut client = Client::connect(running.address);
    client.send(b"GET /api/ps HTTP/1.1\r\nHost: sim\r\nx-sim-fault: stall:before-head\r\n\r\n");
    let counters = running.wait("the question", |counters| counters.in_flight == 2);
    assert_eq!((counters.generating, counters.generating_max, counters.in_flight_max), (1, 1, 2));
    drop(stalled);
    let counters = running.wait("the notice", |counters| counters.generating == 0);
    assert_eq!((counters.generating_max, counters.in_flight), (1, 1));
}

#[test]
fn headers_can_be_read_back_by_name() {
    let running = Running::new(Config::default());
    let mut client = Client::connect(running.address);
    let own = "X-Request-Id: r-1\r\ntraceparent: 00-0af7-b7ad-01\r\nX-Forwarded-For: 192.0.2.1, 198.51.100.7\r\n";
    client.send(format!("GET /api/tags HTTP/1.1\r\nHost: sim\r\n{own}\r\n").as_bytes());
    client.answer();
    let told = over_http(&running);
    let wanted = [
        ("x-request-id", Some("r-1")),
        ("traceparent", Some("00-0af7-b7ad-01")),
        ("x-forwarded-for", Some("192.0.2.1, 198.51.100.7")),
        ("forwarded", None),
    ];
    for (name, value) in wanted {
        assert_eq!(told.last_requests[0].header(name), value, "{name}");
    }
}

#[test]
fn http_and_the_handle_tell_the_same_and_reset() {
    let running = Running::new(Config::default());
    running.get("/api/tags");
    running.ask("@sim:reset:chunks:1").rest();
    running.wait("both", |counters| (counters.completed, counters.broken) == (1, 1));
    let (mut told, mut own) = (over_http(&running), running.sim.counters());
    (told.connections, own.connections) = Default::default();
    assert_eq!(told, own);
    assert_eq!(running.post("/sim/reset", "").answer().body(), "{}");
    let after = over_http(&running);
    assert_eq!((after.completed, after.broken, after.requests.len(), after.last_requests.len()), (0, 0, 0, 0));
}

#[test]
fn a_client_that_leaves_mid_stream_is_noticed() {
    // Slow enough that the notice comes before the next token: it must not take a failed write.
    let running = Running::new(Config { token_rate: 2, ..Config::default() });
    let mut client = running.ask("hi");
    client.until("\"response\"");
    let left = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    drop(client);
    let counters = running.wait("the notice", |counters| counters.cancelled == 1);
    let cancellation = &counters.cancellations[0];
    assert_eq!((cancellation.stage, cancellation.route.as_str()), (Stage::Sending, "POST /api/generate"));
    assert_eq!(cancellation.lines, 1, "{cancellation:?}");
    assert!(cancellation.noticed_unix_us >= left, "{cancellation:?}");
    running.wait("the end", |counters| counters.in_flight == 0);
    assert_eq!(running.sim.counters().completed, 0);
}

#[test]
fn tokens_come_one_by_one() {
    let running = Running::new(Config { token_rate: 50, ..Config::default() });
    let mut client = running.ask("hi");
    client.until("\"response\"");
    assert!(!client.seen().contains("\"done\":true"), "all at once: {}", client.seen());
    let mut reads = 1;
    while !client.seen().contains("\"done\":true") {
        assert_eq!(client.more(), Ending::Open);
        reads += 1;
    }
    assert!(reads > 10, "{reads} reads for a whole answer");
}
