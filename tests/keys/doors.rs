//! Who is let in: the forms of a key, the routes that need one, and what a key's routes and models are.

use serde_json::{Value, json};

use crate::rig::{backend, base64, house, keyed, told, version, with};
use crate::stage::{MODEL, config, generate, upstream};
use crate::support::http::Request;
use crate::support::sim::Backend;
use crate::support::wait_for;

const MISSING: &str = "an API key is needed";
const UNKNOWN: &str = "this API key is not known here";
const DIFFERENT: &str = "two API keys that differ";

#[test]
fn a_key_is_taken_in_each_of_its_forms_and_nothing_that_is_none() {
    let backend = backend();
    let (house, [ada, bob]) = keyed(&backend, ["--name ada", "--name bob"], (8, &[]));
    let mut wrong = ada.clone();
    wrong.replace_range(54.., if ada.ends_with('0') { "1" } else { "0" });
    let upper = ada.to_uppercase();
    let basic = |user: &str, key: &str| format!("Basic {}", base64(&format!("{user}:{key}")));
    let (auth, own) = ("Authorization", "x-api-key");
    let cases: Vec<(Vec<(&str, String)>, &str)> = vec![
        (vec![(auth, format!("Bearer {ada}"))], ""),
        (vec![(auth, format!("bEARER {ada}"))], ""),
        (vec![("AUTHORIZATION", format!("BEARER   {ada} "))], ""),
        (vec![("X-API-Key", ada.clone())], ""),
        (vec![(auth, basic("anyone", &ada))], ""),
        (vec![(auth, basic("", &ada).replacen("Basic", "bASIC", 1))], ""),
        (vec![(auth, format!("Bearer {ada}")), (own, ada.clone())], ""),
        (vec![(auth, basic("u", &ada)), (own, ada.clone())], ""),
        (vec![(auth, "Bearer ".to_owned()), (own, ada.clone())], ""),
        (vec![(own, String::new()), (auth, format!("Bearer {ada}"))], ""),
        (vec![(auth, format!("Bearer {ada}")), (own, bob.clone())], DIFFERENT),
        (vec![(auth, format!("Bearer {ada}")), (auth, format!("Bearer {bob}"))], DIFFERENT),
        (vec![(own, ada.clone()), (own, wrong.clone())], DIFFERENT),
        (vec![(auth, basic("u", &ada)), (own, "ollama".to_owned())], DIFFERENT),
        (vec![], MISSING),
        (vec![(auth, String::new())], MISSING),
        (vec![(auth, "Bearer".to_owned()), (own, " ".to_owned())], MISSING),
        (vec![("Cookie", format!("key={ada}")), ("api-key", ada.clone())], MISSING),
        (vec![(auth, format!("Bearer {wrong}"))], UNKNOWN),
        (vec![(own, upper)], UNKNOWN),
        (vec![(auth, format!("Digest {ada}"))], UNKNOWN),
        (vec![(auth, format!("Bearer {ada}, {ada}"))], UNKNOWN),
        (vec![(auth, format!("Bearer {}", &ada[..54]))], UNKNOWN),
        (vec![(auth, format!("Bearer {ada}0"))], UNKNOWN),
        (vec![(auth, format!("Bearer {}", "a".repeat(4096)))], UNKNOWN),
        (vec![(auth, basic(&ada, "x"))], UNKNOWN),
        (vec![(auth, format!("Basic {ada}"))], UNKNOWN),
        (vec![(own, "ollama".to_owned())], UNKNOWN),
    ];
    for (fields, fault) in cases {
        let request = fields.iter().fold(version(), |request, (name, value)| request.header(name, value));
        let answer = house.front.gate.ask(&request);
        let wanted = if fault.is_empty() { 200 } else { 401 };
        assert_eq!(answer.status, wanted, "{fields:?}: {}", answer.text());
        if !fault.is_empty() {
            assert!(told(&answer.json()).contains(fault), "{fields:?}: {}", answer.text());
        }
    }
}

/// A request for a route.
fn request(route: &str) -> Request {
    let (method, path) = route.split_once(' ').unwrap();
    let request = Request::new(method, path);
    let body = json!({"model": MODEL, "prompt": "a", "input": "a", "max_tokens": 4, "stream": false,
        "messages": [{"role": "user", "content": "a"}]});
    let body = if path == "/ollama_generate/" { json!({"prompt": "a"}) } else { body };
    let sends = matches!(method, "POST" | "DELETE");
    let with_body = |request: Request| request.header("Content-Type", "application/json");
    if sends { with_body(request).body(body.to_string().as_bytes()) } else { request }
}

#[test]
fn all_but_the_open_pages_ask_for_a_key_in_their_own_words() {
    let backend = backend();
    let (house, [ada]) = keyed(&backend, ["--name ada"], (8, &[]));
    let asked = |route: &str| house.front.gate.ask(&request(route)).status;
    wait_for("a backend that answers", || (asked("GET /readyz") == 200).then_some(()));
    for open in ["GET /", "HEAD /", "GET /healthz", "GET /docs", "GET /openapi.json"] {
        assert_eq!(asked(open), 200, "{open}");
    }
    let digest = "0".repeat(64);
    let blob = [format!("HEAD /api/blobs/sha256:{digest}"), format!("POST /api/blobs/sha256:{digest}")];
    // The routes of each dialect, and what a key without further words is answered there.
    let ollama = "POST /api/generate=200 POST /api/chat=200 POST /api/embed=200 POST /api/embeddings=200 \
        POST /api/show=200 GET /api/tags=200 HEAD /api/tags=200 GET /api/ps=200 GET /api/version=200 \
        POST /api/pull=403 POST /api/push=403 POST /api/create=403 POST /api/copy=403 DELETE /api/delete=403";
    let openai = "POST /v1/chat/completions=200 POST /v1/completions=200 POST /v1/embeddings=200 GET /v1/models=200 \
        GET /v1/models/m=200 POST /v1/responses=200";
    let article = "POST /ollama_generate/=200 GET /ollama_generate/hi=200";
    for (method, path) in
        ["GET /nowhere", "GET /v1/nowhere", "DELETE /api/tags"].map(|route| route.split_once(' ').unwrap())
    {
        let answer = house.front.gate.ask(&Request::new(method, path));
        assert!([403, 404, 405].contains(&answer.status), "{path}: {answer:?}");
    }
    let table = [("detail", article), ("error", ollama), ("openai", openai), ("anthropic", "POST /v1/messages=200")];
    for (dialect, routes) in table {
        let words: Vec<&str> = routes.split_ascii_whitespace().collect();
        let mut routes: Vec<(String, u16)> = words
            .chunks(2)
            .map(|pair| (pair[1].rsplit_once('=').unwrap(), pair[0]))
            .map(|((path, status), method)| (format!("{method} {path}"), status.parse().unwrap()))
            .collect();
        if dialect == "error" {
            routes.extend(blob.clone().map(|route| (route, 403)));
        }
        for (route, status) in routes {
            let answer = house.front.gate.ask(&request(&route));
            assert_eq!(answer.status, 401, "{route}: {}", answer.text());
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"ollama-gate\""), "{route}");
            if !route.starts_with("HEAD") {
                is_refused_in(dialect, &answer.json());
            }
            assert!(answer.header("x-gate-backend").is_none(), "{route}");
            assert_eq!(house.status_of(&ada, &request(&route)), status, "{route} with a key");
        }
    }
}

/// Without a key, as this dialect words it.
#[track_caller]
fn is_refused_in(dialect: &str, body: &Value) {
    assert!(told(body).starts_with(MISSING), "{body}");
    let error = &body["error"];
    match dialect {
        "detail" => assert!(body["detail"].is_string(), "{body}"),
        "error" => assert!(error.is_string(), "{body}"),
        "openai" => {
            let wanted = (json!("authentication_error"), json!("invalid_api_key"));
            assert_eq!((error["type"].clone(), error["code"].clone()), wanted, "{body}");
        }
        _ => assert_eq!((&body["type"], &error["type"]), (&json!("error"), &json!("authentication_error")), "{body}"),
    }
}

#[test]
fn a_key_does_what_its_line_says_and_sees_no_more() {
    let backend = Backend::start(config(&[MODEL, "other:latest", "other:8b"]));
    let upstreams = [upstream(&backend, "slots=8")];
    let keys = [
        "--name chats --routes chat,models",
        "--name narrow --models other:8b,nothere",
        "--name keeper --routes read,manage --models *",
    ];
    let (house, [chats, narrow, keeper]) = house(&upstreams, keys, &[]);
    let status = |key: &str, request: &Request| house.status_of(key, request);
    let named = |path: &str, model: &str| Request::post(path, &json!({"model": model, "messages": [], "prompt": "a"}));
    for (key, request, wanted) in [
        (&chats, named("/api/chat", MODEL), 200),
        (&chats, Request::get("/v1/models"), 200),
        (&chats, Request::get("/api/tags"), 403),
        (&chats, named("/v1/chat/completions", MODEL), 403),
        (&chats, generate(MODEL, "a"), 403),
        (&narrow, generate("other:8b", "a"), 200),
        (&narrow, generate("other", "a"), 404),
        (&narrow, generate(MODEL, "a"), 404),
        (&narrow, named("/api/show", MODEL), 404),
        (&narrow, Request::get("/v1/models/m"), 404),
        (&narrow, Request::post("/ollama_generate/", &json!({"prompt": "a"})), 404),
        (&narrow, generate("gpt-oss:120b-cloud", "a"), 403),
        (&narrow, named("/api/delete", "other:8b"), 405),
        (&keeper, generate(MODEL, "a"), 403),
        (&keeper, Request::post("/api/copy", &json!({"source": "other:8b", "destination": "mine"})), 200),
        (&keeper, Request::get("/api/tags"), 200),
    ] {
        let answer = house.front.gate.ask(&with(key, &request));
        let text = String::from_utf8_lossy(&request.bytes()).into_owned();
        assert_eq!(answer.status, wanted, "{text}: {}", answer.text());
    }
    let listed = |path: &str| house.front.gate.ask(&with(&narrow, &Request::get(path))).text();
    for path in ["/api/tags", "/v1/models", "/api/ps"] {
        let text = listed(path);
        assert!(!text.contains(MODEL) && !text.contains("other:latest"), "{path}: {text}");
        assert!(text.contains("other:8b"), "{path}: {text}");
    }
    assert_eq!(status(&narrow, &named("/api/pull", "other:8b")), 403);
}
