//! Pages that call the gate from a browser: which origins may, and what their browsers are told.

use crate::stage::{Dialect, Keys, Kind, MODEL, WAYS, Way, by, config, gate, named, refused};
use crate::support::Gate;
use crate::support::http::{Answer, Request};
use crate::support::sim::Backend;

/// Where a way's route is found; models are named by paths too.
fn path(way: Way) -> String {
    if way.name == "model" { format!("{}{MODEL}", way.path) } else { way.path.to_owned() }
}

fn preflight(way: Way, origin: &str) -> Request {
    Request::new("OPTIONS", &path(way))
        .header("Origin", origin)
        .header("Access-Control-Request-Method", way.method)
        .header("Access-Control-Request-Headers", "authorization,content-type,x-api-key")
}

/// Fields by which a browser lets a page read an answer.
fn told(answer: &Answer) -> Vec<&str> {
    let names = answer.headers.iter().map(|(name, _)| name.as_str());
    names.filter(|name| name.starts_with("access-control-")).collect()
}

/// The routes that know of origins: all but the article's.
fn ways() -> impl Iterator<Item = Way> {
    WAYS.into_iter().filter(|way| way.kind != Kind::Article)
}

/// A page of this origin may ask, and reads its answers as one of `allowed`.
#[track_caller]
fn may(gate: &Gate, origin: &str, allowed: &str) {
    for way in ways() {
        let answer = gate.ask(&preflight(way, origin));
        let case = format!("{origin} {way:?}: {:?}", answer.headers);
        assert_eq!((answer.status, answer.text().as_str()), (204, ""), "{case}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(allowed), "{case}");
        assert_eq!(
            answer.header("access-control-allow-methods"),
            Some("GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
            "{case}"
        );
        let headers = answer.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
        for name in ["authorization", "content-type", "x-api-key", "anthropic-version", "x-stainless-os"] {
            assert!(headers.split(',').any(|header| header == name), "{name}: {case}");
        }
        assert_eq!(answer.header("access-control-max-age"), Some("43200"), "{case}");
        let vary = answer.header("vary").unwrap().to_ascii_lowercase();
        assert!(vary.split(',').any(|field| field.trim() == "origin"), "{case}");
    }
    // What is good, and what is not, is read alike.
    let way = named("chat");
    let good = way.request(MODEL, "hi");
    for (request, status) in [(good, 200), (way.request("nope", "hi"), 404), (way.with("{", MODEL), 400)] {
        let answer = gate.ask(&request.header("Origin", origin));
        assert_eq!(answer.status, status, "{origin}: {}", answer.text());
        assert_eq!(answer.header("access-control-allow-origin"), Some(allowed), "{origin}");
        let exposed = answer.header("access-control-expose-headers").unwrap().to_ascii_lowercase();
        assert!(exposed.contains("retry-after") && exposed.contains("x-request-id"), "{exposed}");
        assert_eq!(answer.header("vary"), Some("Origin"), "{origin}");
    }
}

/// A page of this origin may not, with or without a preflight, and is told nothing that a browser lets it read.
#[track_caller]
fn may_not(gate: &Gate, backend: &Backend, origin: &str) {
    let before = backend.sim.counters().generating_max;
    for way in ways() {
        for request in [preflight(way, origin), way.request(MODEL, "hi").header("Origin", origin)] {
            let answer = gate.ask(&request);
            assert_eq!(refused(way, &answer, 403), "this origin is not open on this gate", "{origin} {way:?}");
            assert_eq!(told(&answer), [""; 0], "{origin} {way:?}");
        }
    }
    assert_eq!(backend.sim.counters().generating_max, before, "nothing ran");
}

const OF_OLLAMA: [&str; 6] = [
    "http://localhost",
    "https://localhost:3000",
    "http://127.0.0.1:8080",
    "https://0.0.0.0",
    "app://obsidian.md",
    "vscode-webview://1a2b",
];

const STRANGERS: [&str; 6] = [
    "https://evil.example",
    "http://localhost.evil.example",
    "http://127.0.0.1.evil.example:80",
    "null",
    "chrome-extension://abc",
    "http://gate.test.evil.example",
];

#[test]
fn pages_of_this_machine_and_of_the_gate_may_ask_and_others_only_if_they_are_named() {
    let backend = Backend::start(config(&[MODEL]));
    let plain = gate(&backend.url(), &[]).start();
    for origin in OF_OLLAMA {
        may(&plain, origin, origin);
    }
    // As browsers name a gate that has only an address.
    let by_address = |origin| named("chat").request(MODEL, "hi").header("Host", "192.0.2.7").header("Origin", origin);
    assert_eq!(plain.ask(&by_address("http://192.0.2.7")).status, 200);
    assert_eq!(plain.ask(&by_address("http://192.0.2.8")).status, 403);
    // As the tests' requests name the gate; but whose page it is that bears such a name, only the operator can say.
    for origin in STRANGERS.into_iter().chain(["https://gate.test"]) {
        may_not(&plain, &backend, origin);
    }
    let own = gate(&backend.url(), &["--origins", "https://gate.test"]).start();
    may(&own, "https://gate.test", "https://gate.test");
    let further = gate(&backend.url(), &["--origins", "https://chat.example.com,https://*.example.org"]).start();
    for origin in ["https://chat.example.com", "https://a.example.org", OF_OLLAMA[0]] {
        may(&further, origin, origin);
    }
    for origin in ["http://chat.example.com", "https://example.org", "https://a.example.org.evil.example"] {
        may_not(&further, &backend, origin);
    }
    let ollamas = gate(&backend.url(), &[]).env("OLLAMA_ORIGINS", "https://chat.example.com").start();
    may(&ollamas, "https://chat.example.com", "https://chat.example.com");
    let all = gate(&backend.url(), &["--origins", "*"]).start();
    for origin in STRANGERS {
        may(&all, origin, "*");
    }
}

#[test]
fn who_says_no_origin_is_told_nothing_of_origins() {
    let backend = Backend::start(config(&[MODEL]));
    let gate = gate(&backend.url(), &["--origins", "*"]).start();
    for way in WAYS.into_iter().filter(|way| way.kind != Kind::Manages) {
        let answer = gate.ask(&way.request(MODEL, "hi"));
        assert_eq!((answer.status, told(&answer), answer.header("vary")), (200, vec![], None), "{way:?}");
        // Without an origin it is a method like any other, and no route has it.
        let bare = gate.ask(&Request::new("OPTIONS", &path(way)).header("Access-Control-Request-Method", way.method));
        assert_eq!((bare.status, told(&bare)), (405, vec![]), "{way:?}");
    }
    // The article's routes and the gate's pages have never known origins.
    let article = named("article").request(MODEL, "hi").header("Origin", "https://evil.example");
    for request in [article, Request::get("/healthz").header("Origin", "https://evil.example")] {
        let answer = gate.ask(&request);
        assert_eq!((answer.status, told(&answer)), (200, vec![]), "{}", answer.text());
    }
}

#[test]
fn a_preflight_needs_no_key_and_what_follows_it_does() {
    let (backend, keys) = (Backend::start(config(&[MODEL])), Keys::new());
    let key = keys.make("ada", "--routes infer,read,manage --limit 1/hour");
    let gate = gate(&backend.url(), &[&keys.flag()]).start();
    let origin = OF_OLLAMA[0];
    for way in ways() {
        assert_eq!(gate.ask(&preflight(way, origin)).status, 204, "{way:?}");
        let unknown = gate.ask(&way.request(MODEL, "hi").header("Origin", origin));
        refused(way, &unknown, 401);
        assert_eq!(unknown.header("access-control-allow-origin"), Some(origin), "its page reads why");
        // A stranger is one with a key as well, and is told so before anything is counted.
        let stranger = gate.ask(&by(&key, &way.request(MODEL, "hi")).header("Origin", STRANGERS[0]));
        assert_eq!(
            (refused(way, &stranger, 403), told(&stranger).len()),
            ("this origin is not open on this gate".into(), 0)
        );
    }
    // Pages of the gate's own name can do nothing without a key, whoever made them.
    assert_eq!(gate.ask(&preflight(named("chat"), "https://gate.test")).status, 204);
    refused(named("chat"), &gate.ask(&named("chat").request(MODEL, "hi").header("Origin", "https://gate.test")), 401);
    let way = named("messages");
    assert_eq!(way.dialect, Dialect::Anthropic);
    let asked = [(); 2].map(|()| gate.ask(&by(&key, &way.request(MODEL, "hi")).header("Origin", origin)));
    assert_eq!(asked[0].status, 200, "{}", asked[0].text());
    refused(way, &asked[1], 429);
    let exposed = asked[1].header("access-control-expose-headers").unwrap().to_ascii_lowercase();
    assert!(exposed.split(',').any(|name| name == "retry-after") && asked[1].header("retry-after").is_some());
}
