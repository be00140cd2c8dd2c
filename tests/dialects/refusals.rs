//! Each refusal on each route that has to do with a model: its status, its words in the route's dialect, and when to come
//! again.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::scripted::Scripted;
use crate::stage::{Dialect, Keys, Kind, MODEL, WAYS, Way, by, config, gate, named, refused, running};
use crate::support::http::{Answer, Client, Request};
use crate::support::sim::Backend;
use crate::support::{Gate, wait_for};

/// A refusal: its status, what its text holds, and the most that Retry-After may say, where it has to.
#[derive(Clone, Copy)]
struct Due {
    status: u16,
    text: &'static str,
    retry: Option<u64>,
}

const fn due(status: u16, text: &'static str, retry: Option<u64>) -> Due {
    Due { status, text, retry }
}

#[track_caller]
fn check(case: &str, way: Way, answer: &Answer, due: Due) {
    let text = refused(way, answer, due.status);
    assert!(text.contains(due.text), "{case} on {way:?}: {text}");
    // On the article's own routes a client is told of its limits only where the operator wants it.
    let is_untold = way.dialect == Dialect::Article && due.text.starts_with("Rate limit");
    let said = answer.header("retry-after").map(|value| value.parse::<u64>().unwrap());
    match due.retry.filter(|_| !is_untold) {
        Some(most) => assert!(said.is_some_and(|said| (1..=most).contains(&said)), "{case} on {way:?}: {said:?}"),
        None => assert_eq!(said, None, "{case} on {way:?}"),
    }
    let challenge = answer.header("www-authenticate");
    assert_eq!(challenge.is_some(), due.status == 401, "{case} on {way:?}: {challenge:?}");
}

/// A body that says the same thing twice.
fn ambiguous(way: Way) -> String {
    let text = way.body(MODEL, "hi").to_string();
    let twice = if way.name == "copy" { "\"source\":\"x\"" } else { "\"MODEL\":\"x\"" };
    format!("{{{twice},{}", &text[1..])
}

/// Keys of every kind, and a gate that asks for one.
struct House {
    keys: Keys,
    backend: Backend,
    gate: Gate,
    good: String,
    old: String,
    narrow: String,
    foreign: String,
    limited: String,
    tokens: String,
    single: String,
}

impl House {
    fn new() -> Self {
        let keys = Keys::new();
        let all = "--routes infer,read,manage";
        let key = |name: &str, flags: &str| keys.make(name, &format!("{all} {flags}"));
        let (good, old, foreign) = (key("good", ""), key("old", ""), key("foreign", "--models other,*/none"));
        let limited = key("limited", "--limit 1/hour");
        let (tokens, single) = (key("tokens", "--tokens 1/hour"), key("single", "--concurrency 1"));
        let narrow = keys.make("narrow", "--routes version");
        keys.expire("old");
        let backend = Backend::start(config(&[MODEL]));
        let gate = gate(&backend.url(), &[&keys.flag(), "--max-body", "4KiB"]).start();
        Self { keys, backend, gate, good, old, narrow, foreign, limited, tokens, single }
    }

    /// A stream that stays in service.
    fn held(&self, key: &str) -> Client {
        let mut client = Client::connect(self.gate.address());
        client.send(&by(key, &named("generate").streamed("@sim:stall:chunks:1 x")).bytes()).unwrap();
        assert_eq!(client.head().unwrap().0, 200);
        client.chunk().unwrap().expect("a first line");
        client
    }
}

/// What a request of `way` has to be refused with, and how it goes wrong.
fn wrong(house: &House, way: Way) -> Vec<(&'static str, Request, Due)> {
    let plain = way.request(MODEL, "hi");
    let (good, key) = (|request: &Request| by(&house.good, request), |key: &str| by(key, &plain));
    let (kept, last) = house.good.split_at(house.good.len() - 1);
    let other = format!("{kept}{}", if last == "x" { "y" } else { "x" });
    let encoded = plain.clone().header("Content-Encoding", "gzip");
    let both = key(&house.good).header("x-api-key", &house.single);
    let mut rows = vec![
        ("no key", plain.clone(), due(401, "an API key is needed", None)),
        ("an unknown key", key(&other), due(401, "not known here", None)),
        ("no key at all", key("nonsense"), due(401, "not known here", None)),
        ("a key whose time is over", key(&house.old), due(401, "has expired", None)),
        ("two keys", both, due(401, "two API keys that differ", None)),
        ("a key for other routes", key(&house.narrow), due(403, "may not use this route", None)),
        ("a key for other models", key(&house.foreign), due(404, "' not found", None)),
    ];
    if way.name != "model" {
        let long = way.with(&format!("{}{}", " ".repeat(5000), way.body(MODEL, "hi")), MODEL);
        rows.push(("a long body", good(&long), due(413, "over 4096 bytes", None)));
        rows.push(("a packed body", good(&encoded), due(415, "Content-Encoding", None)));
        if way.kind != Kind::Article {
            rows.push(("an ambiguous body", good(&way.with(&ambiguous(way), MODEL)), due(400, "", None)));
        }
    }
    if way.kind != Kind::Article {
        let cloud = good(&way.request("m:cloud", "hi"));
        rows.push(("a model of the cloud", cloud, due(403, "cloud models are not open", None)));
    }
    if !matches!(way.name, "article" | "pull") {
        rows.push(("an unknown model", good(&way.request("nope", "hi")), due(404, "not found", None)));
    }
    if !matches!(way.kind, Kind::Tells) {
        rows.push(("more than may be", key(&house.limited), due(429, "Rate limit exceeded: 1 per 1 hour", Some(3600))));
        rows.push(("more at once than may be", key(&house.single), due(429, "1 requests of this API key", Some(1))));
    }
    if !matches!(way.kind, Kind::Tells | Kind::Manages) {
        rows.push((
            "more tokens than may be",
            key(&house.tokens),
            due(429, "Rate limit exceeded: 1 tokens per 1 hour", Some(3600)),
        ));
    }
    rows
}

#[test]
fn every_refusal_of_a_request_on_every_route() {
    let house = House::new();
    assert_eq!(house.gate.ask(&by(&house.limited, &named("embed").request(MODEL, "x"))).status, 200);
    let held = [house.held(&house.tokens), house.held(&house.single)];
    let before = house.backend.sim.counters();
    let mut count = 0;
    for way in WAYS {
        for (case, request, due) in wrong(&house, way) {
            let answer = house.gate.ask(&request);
            check(case, way, &answer, due);
            count += 1;
        }
    }
    assert!(count > 180, "{count} refusals");
    // Nothing was changed, and nothing but questions about a model that is not there got to the backend.
    let after = house.backend.sim.counters();
    let ran: Vec<_> = after.last_requests[before.last_requests.len()..]
        .iter()
        .filter(|request| request.header("x-request-id").is_some() && !format!("{request:?}").contains("nope"))
        .collect();
    assert!(ran.is_empty(), "{ran:?}");
    // With any of their keys they go through, once what held them back is over.
    drop(held);
    wait_for("the ends of both", || (house.backend.sim.counters().in_flight == 0).then_some(()));
    for way in WAYS.into_iter().filter(|way| way.name != "push") {
        let answer = house.gate.ask(&by(&house.good, &way.request(MODEL, "hi")));
        assert_eq!(answer.status, 200, "{way:?}: {}", answer.text());
    }
    drop(house.keys);
}

/// Asks on every route that a model runs for, at once, and looks at what each is told.
#[track_caller]
fn all_are(case: &str, gate: &Gate, due: Due) {
    let begin = |way: Way| {
        let mut client = Client::connect(gate.address());
        client.send(&way.request(MODEL, "hi").bytes()).unwrap();
        (way, client)
    };
    let asked: Vec<_> = running().map(begin).collect();
    for (way, mut client) in asked {
        check(case, way, &client.answer("POST").unwrap(), due);
    }
}

/// A backend with one slot, which is taken, behind a gate with these arguments.
fn full(arguments: &[&str]) -> (Backend, Gate, Client) {
    let backend = Backend::start(config(&[MODEL]));
    let gate = gate(&format!("{} slots=1", backend.url()), arguments).start();
    let mut client = Client::connect(gate.address());
    client.send(&named("generate").streamed("@sim:stall:chunks:1 x").bytes()).unwrap();
    assert_eq!(client.head().unwrap().0, 200);
    (backend, gate, client)
}

#[test]
fn who_cannot_wait_is_told_on_every_route() {
    let (_backend, gate, _held) = full(&["--queue", "2", "--queue-per-client", "1"]);
    let from = |client: &str| named("chat").request(MODEL, "waits").header("X-Forwarded-For", client);
    let waiting = ["127.0.0.1", "192.0.2.1"].map(|client| {
        let mut waiting = Client::connect(gate.address());
        waiting.send(&from(client).bytes()).unwrap();
        waiting
    });
    // From a third client, nothing is refused before both wait.
    let busy = due(503, "server busy, please try again: the queue is full", Some(120));
    wait_for("the full queue", || {
        let mut client = Client::connect(gate.address());
        client.send(&from("192.0.2.1").bytes()).unwrap();
        client.socket().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        client.answer("POST").ok().filter(|answer| answer.status == 429)
    });
    let own = due(429, "Too many requests are waiting: 1 of one client may", Some(120));
    let told = wait_for("a refusal of this client's second", || {
        let mut client = Client::connect(gate.address());
        client.send(&from("127.0.0.1").bytes()).unwrap();
        client.socket().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        client.answer("POST").ok()
    });
    check("a second", named("chat"), &told, own);
    for way in running() {
        let request = way.request(MODEL, "hi");
        check("a client's queue", way, &gate.ask(&request), own);
        check("the queue", way, &gate.ask(&request.header("X-Forwarded-For", "192.0.2.3")), busy);
    }
    drop(waiting);
}

#[test]
fn who_waits_in_vain_is_told_on_every_route() {
    let (_backend, gate, _held) = full(&["--queue-timeout", "300ms"]);
    all_are("a turn", &gate, due(503, "server busy, please try again: no turn came within 0.3 s", Some(120)));
    let (_backend, mut gate, _held) = full(&["--graceful-timeout", "100ms", "--stream-timeout", "200ms"]);
    let asked: Vec<_> = running()
        .map(|way| {
            let mut client = Client::connect(gate.address());
            // The worker has read what was sent before its own answer to another is there.
            client.send(&way.request(MODEL, "hi").bytes()).unwrap();
            assert_eq!(gate.get("/healthz").status, 200);
            (way, client)
        })
        .collect();
    gate.signal(Signal::SIGTERM);
    for (way, mut client) in asked {
        let answer = client.answer("POST").unwrap();
        check("a leaving gate", way, &answer, due(503, "this server is being replaced, try again", Some(1)));
        assert_eq!(answer.header("connection"), Some("close"), "{way:?}");
    }
    assert_eq!(gate.ends_with_code(), 0);
}

/// An address that nobody listens on as long as the connection lives that has it.
fn nobody() -> (TcpStream, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let url = format!("http://{}", client.local_addr().unwrap());
    (client, url)
}

/// A listener whose queue is full.
fn deaf() -> (TcpListener, Vec<TcpStream>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        queue.push(stream);
    }
    (listener, queue, format!("http://{address}"))
}

#[test]
fn backends_that_do_not_answer_are_told_of_on_every_route() {
    let sick = |url: &str, arguments: &[&str]| gate(url, &[arguments, &["--breaker-failures", "0"]].concat()).start();
    let (_client, url) = nobody();
    all_are("nobody", &sick(&url, &[]), due(502, "Ollama could not be reached", None));
    let (_listener, _queue, url) = deaf();
    let text = "Ollama did not accept a connection within 0.3 s (connect_timeout)";
    all_are("connecting", &sick(&url, &["--connect-timeout", "300ms"]), due(504, text, None));
    let mut slow = config(&[MODEL]);
    slow.models[0].load_time = Duration::from_secs(60);
    let slow = Backend::start(slow);
    let text = "Ollama did not load the model within 0.3 s (load_timeout)";
    all_are("loading", &sick(&slow.url(), &["--load-timeout", "300ms"]), due(504, text, None));
    let text = "the request was not answered within 0.3 s (request_timeout)";
    let times = ["--connect-timeout", "300ms", "--request-timeout", "300ms"];
    all_are("the whole", &sick(&slow.url(), &times), due(504, text, None));
    let mut silent = config(&[MODEL]);
    silent.prompt_time = Duration::from_secs(60);
    let silent = Backend::start(silent);
    let text = "Ollama did not begin to answer within 0.3 s (first_byte_timeout)";
    all_are("the first byte", &sick(&silent.url(), &["--first-byte-timeout", "300ms"]), due(504, text, None));
    // One that begins a whole answer and does not go on.
    let stuck = Scripted::start();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n".to_owned();
    stuck.says(crate::scripted::Say {
        head,
        pieces: vec![b"{".to_vec()],
        framing: crate::scripted::Framing::Chunked,
        end: crate::scripted::End::Silence,
    });
    let text = "Ollama sent nothing more within 0.3 s (chunk_timeout)";
    all_are("the rest", &sick(&stuck.url(), &["--chunk-timeout", "300ms"]), due(504, text, None));
}

#[test]
fn limits_without_keys_are_told_on_every_route() {
    let backend = Backend::start(config(&[MODEL]));
    let limits = ["--limit", "1/hour", "--api-limit", "1/hour", "--limit-headers"];
    let gate = gate(&backend.url(), &limits).start();
    for way in running() {
        let asked = [(); 2].map(|()| gate.ask(&way.request(MODEL, "hi")));
        // Each of the article's routes has a limit of its own; all others have one together.
        if matches!(way.name, "article" | "generate") {
            assert_eq!(asked[0].status, 200, "{way:?}: {}", asked[0].text());
            assert_eq!(asked[0].header("x-ratelimit-remaining"), Some("0"));
        }
        assert_eq!(refused(way, &asked[1], 429), "Rate limit exceeded: 1 per 1 hour");
        let retry: u64 = asked[1].header("retry-after").unwrap().parse().unwrap();
        assert!((3000..=3600).contains(&retry), "{way:?}: {retry}");
    }
    // What cannot be done without a key that names it.
    for way in WAYS.into_iter().filter(|way| way.kind == Kind::Manages) {
        let answer = gate.ask(&way.request(MODEL, "hi"));
        assert_eq!(refused(way, &answer, 403), "this route is not open on this gate");
    }
    let asked = backend.sim.counters().requests;
    assert!(!asked.keys().any(|route| route.ends_with("/api/pull") || route.ends_with("/api/delete")), "{asked:?}");
}
