//! What is open, what is not, and what of a request goes on to the backend.

use serde_json::json;

use crate::stage::{ARTICLE, MODEL, article, begin, chat, echo, error_of, gate, gate_before, generate};
use crate::support::http::Request;
use crate::support::sim::Backend;
use crate::upstream::Scripted;

/// What the monitor asks for.
const WATCHED: [&str; 3] = ["GET /api/version", "GET /api/ps", "GET /api/tags"];

/// Requests that the backend has had, the monitor's apart.
fn asked(backend: &Backend) -> u64 {
    let requests = backend.sim.counters().requests;
    requests.iter().filter(|(route, _)| !WATCHED.contains(&route.as_str())).map(|(_, count)| count).sum()
}

const CLOSED: &[(&str, &str)] = &[
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("POST", "/api/blobs/sha256:0"),
    ("HEAD", "/api/blobs/sha256:0"),
    ("POST", "/api/me"),
    ("POST", "/api/signout"),
    ("DELETE", "/api/user/keys/a"),
    ("GET", "/api/status"),
    ("POST", "/api/experimental/web_search"),
    ("POST", "/api/elsewhere"),
    ("POST", "/api/%70ull"),
    ("POST", "/%61pi/pull"),
    ("POST", "/%61%70%69%2Fpull"),
    ("POST", "//api/pull"),
    ("POST", "/./api/pull"),
    ("POST", "/x/../api/pull"),
    ("POST", "/x/%2e%2e/api/pull"),
    ("POST", "/ollama_generate/../api/pull"),
    ("POST", "/ollama_generate/..%2fapi%2fpull"),
    ("POST", "/API/pull"),
    ("POST", "/V1/models"),
    ("POST", "/api/generate/"),
    ("POST", "/api//generate"),
    ("POST", "/api/GENERATE"),
    ("POST", "/api/generate/../pull"),
    ("POST", "/api/generate%00"),
    ("POST", "http://elsewhere.test/api/pull"),
    ("POST", "/api/pull?x=/api/generate"),
];

#[test]
fn what_is_not_open_is_refused_and_reaches_nobody() {
    let backend = echo();
    let gate = gate(&backend, &["--workers", "2"]).start();
    let body = json!({"model": MODEL, "prompt": "hi"});
    for (method, path) in CLOSED {
        let answer = gate.ask(&Request::new(method, path).body(body.to_string().as_bytes()));
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"), "{path}");
        if *method != "HEAD" {
            // In the words of the path's own dialect: a text, or an object that holds it.
            let error = answer.json()["error"].clone();
            let text = error.get("message").unwrap_or(&error);
            assert_eq!(text, "this route is not open on this gate", "{path}");
        }
    }
    for (method, path, allow) in [
        ("GET", "/api/generate", "POST"),
        ("PUT", "/api/chat", "POST"),
        ("POST", "/api/delete", "DELETE"),
        ("POST", "/api/tags", "HEAD, GET"),
        ("HEAD", "/api/ps", "GET"),
        ("OPTIONS", "/api/generate", "POST"),
    ] {
        let answer = gate.ask(&Request::new(method, path));
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
    }
    for path in ["/nowhere", "/ollama_generate/a/b", "/admin", "/metrics", "/sim/counters", "/api", "/v1", "/docs/x"] {
        assert_eq!(gate.get(path).status, 404, "{path}");
    }
    assert_eq!(asked(&backend), 0);
}

#[test]
fn what_is_open_is_open_in_every_spelling_of_its_path() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let body = json!({"model": MODEL, "prompt": "hi", "stream": false});
    for path in ["/api/generate", "/%61pi/gener%61te", "http://elsewhere.test/api/generate", "/api/generate?x=y"] {
        let answer = gate.post(path, &body);
        assert_eq!((answer.status, answer.json()["response"].as_str()), (200, Some("echo: hi")), "{path}");
    }
    let asked = backend.sim.counters().last_requests;
    let targets = asked.iter().filter(|request| request.method == "POST").map(|request| request.target.as_str());
    assert_eq!(targets.collect::<Vec<_>>(), ["/api/generate"; 4], "the gate's own spelling goes on");
}

#[test]
fn bodies_that_ollama_would_read_otherwise_or_must_not_read_reach_nobody() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let cases = [
        (r#"{"model":"a","MODEL":"b","prompt":"x"}"#, 400),
        (r#"{"model":"a","model":"a","prompt":"x"}"#, 400),
        (r#"{"model":"a","mod\u0065l":"b","prompt":"x"}"#, 400),
        (r#"{"model":"a","prompt":"x"} {"model":"b"}"#, 400),
        ("{\"model\":\"a\",\"prompt\":\"\u{feff}\"}\0", 400),
        (r#"{"prompt":"x","messages":[]}"#, 404),
        (r#"{"model":"a","prompt":1,"messages":1}"#, 400),
        (r#"{"model":"gpt-oss:20b-cloud","prompt":"x"}"#, 403),
        (r#"{"model":"m:cloud","prompt":"x"}"#, 403),
        (r#"{"model":" M:CLOUD ","prompt":"x"}"#, 403),
        (r#"{"model":"a","prompt":"x","_debug_render_only":true}"#, 403),
        (r#"{"model":"../../etc","prompt":"x"}"#, 400),
        ("", 400),
        ("[]", 400),
    ];
    for (body, status) in cases {
        for path in ["/api/generate", "/api/chat"] {
            let answer = gate.ask(&Request::new("POST", path).body(body.as_bytes()));
            // Without a model, each route has its own word.
            let status = if path == "/api/chat" && status == 404 { 400 } else { status };
            assert_eq!(answer.status, status, "{path} {body}: {}", answer.text());
            assert!(!error_of(&answer).is_empty());
        }
    }
    assert_eq!(asked(&backend), 0);
}

#[test]
fn nothing_of_a_clients_own_headers_goes_on() {
    let backend = echo();
    let gate = gate(&backend, &["--origins", "https://evil.test"]).start();
    let loaded = |request: Request| {
        [
            ("Authorization", "Bearer secret"),
            ("Cookie", "session=secret"),
            ("Origin", "https://evil.test"),
            ("X-Sim-Fault", "busy"),
            ("X-Forwarded-Prefix", "/evil"),
            ("X-Forwarded-Host", "evil.test"),
            ("Forwarded", "for=evil"),
            ("User-Agent", "secret"),
            ("Accept-Encoding", "gzip"),
            ("Host", "evil.test"),
        ]
        .iter()
        .fold(request, |request, (name, value)| request.header(name, value))
    };
    for request in
        [article("a"), Request::get(&format!("{ARTICLE}a")), generate("a"), chat("a"), Request::get("/api/tags")]
    {
        assert_eq!(gate.ask(&loaded(request)).status, 200);
    }
    let address = backend.address.to_string();
    let counters = backend.sim.counters();
    let own: Vec<_> =
        counters.last_requests.iter().filter(|request| request.header("x-request-id").is_some()).collect();
    assert_eq!(own.len(), 5);
    for request in own {
        let mut names: Vec<_> = request.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        let framing = ["content-length", "content-type"];
        assert_eq!(names.iter().any(|name| framing.contains(&name.as_str())), request.method == "POST");
        names.retain(|name| !framing.contains(&name.as_str()));
        assert_eq!(names, ["accept", "accept-encoding", "host", "x-forwarded-for", "x-request-id"], "{request:?}");
        for (name, due) in [("host", address.as_str()), ("x-forwarded-for", "127.0.0.1")] {
            let value = request.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value);
            assert_eq!(value.map(String::as_str), Some(due));
        }
    }
}

#[test]
fn bodies_go_on_byte_for_byte_and_behind_the_prefix_of_the_backend() {
    let upstream = Scripted::start();
    let gate = gate_before(&format!("{}/ollama/here", upstream.url()), &[]).start();
    let body =
        "{ \"MODEL\" : \"a\",\"prompt\":\"\\u0041\u{e9}\", \"unknown\": [1.50, 1e400],\r\n\"options\":{\"seed\":-0}} ";
    let mut client = begin(gate.address(), &Request::new("POST", "/api/generate?secret=1").body(body.as_bytes()));
    let mut asked = upstream.asked();
    assert_eq!(asked.request_line, "POST /ollama/here/api/generate HTTP/1.1");
    assert_eq!(asked.body, body);
    let host = asked.headers.iter().find(|(name, _)| name == "host").map(|(_, value)| value.clone());
    assert_eq!(host, Some(upstream.address().to_string()));
    asked.answer("200 OK", "Content-Type: application/json; charset=utf-8\r\nSet-Cookie: a=b\r\n", "{\"done\":true}");
    let answer = client.answer("POST").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "{\"done\":true}"));
    assert_eq!(answer.header("set-cookie"), None);
}

#[test]
fn the_gates_own_pages_are_there_and_need_no_other_host() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let kinds = [
        ("/", "text/plain; charset=utf-8"),
        ("/healthz", "text/plain; charset=utf-8"),
        ("/openapi.json", "application/json"),
        ("/docs", "text/html; charset=utf-8"),
        ("/docs/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("/docs/swagger-ui.css", "text/css; charset=utf-8"),
        ("/docs/swagger-initializer.js", "text/javascript; charset=utf-8"),
        ("/api/tags", "application/json; charset=utf-8"),
        ("/api/version", "application/json; charset=utf-8"),
    ];
    for (path, kind) in kinds {
        let (whole, head) = (gate.get(path), gate.ask(&Request::new("HEAD", path)));
        assert_eq!((whole.status, head.status), (200, 200), "{path}");
        assert_eq!(whole.header("content-type"), Some(kind), "{path}");
        assert!(head.body.is_empty() && !whole.body.is_empty());
        for name in ["content-type", "content-length", "content-encoding", "content-security-policy"] {
            assert_eq!(head.header(name), whole.header(name), "{name} of {path}");
        }
        assert_eq!(head.header("content-length"), Some(whole.body.len().to_string().as_str()), "{path}");
        let is_page = path.starts_with("/docs");
        assert_eq!(whole.header("content-security-policy").is_some(), is_page, "{path}");
    }
    assert_eq!(gate.get("/").text(), "Ollama is running");
    let document = gate.get("/openapi.json").json();
    for path in [ARTICLE, "/ollama_generate/{prompt}", "/api/generate", "/api/chat"] {
        assert!(document["paths"].get(path).is_some(), "{path}");
    }
}
