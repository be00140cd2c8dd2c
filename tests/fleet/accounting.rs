//! What is told of a request: in its line of the access log, in headers, and to the backend.

use std::time::Duration;

use ollama_sim::{Config, Personality};
use serde_json::{Value, json};

use crate::stage::{
    ARTICLE, Front, MODEL, answer, article, backend, front, generate, knows, pair, preload, slow_to_load, stalled,
    upstream,
};
use crate::support::http::{Answer, Request};
use crate::support::sim::Backend;
use crate::support::wait_for;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The request with this id, and its line in the log.
fn told(front: &Front, id: &str, request: &Request) -> (Answer, Value) {
    let answer = front.gate.ask(&request.clone().header("X-Request-Id", id));
    (answer, front.line_of(id))
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("no {key} in {line}"))
}

/// The last request for a model that a backend was sent: its header.
fn header_of_last(backend: &Backend, name: &str) -> Option<String> {
    let requests = backend.sim.counters().last_requests;
    let last = requests.iter().rev().find(|request| request.method == "POST").expect("a request");
    last.header(name).map(ToOwned::to_owned)
}

#[test]
fn a_line_says_who_served_what_it_cost_and_why() {
    let backend = Backend::start(Config {
        personality: Personality::Demo,
        prompt_time: Duration::from_millis(60),
        token_rate: 400,
        ..slow_to_load(&[MODEL], Duration::from_millis(150))
    });
    let front = front(&[upstream(&backend, "name=gpu1")], &[]);
    knows(&front, &["gpu1"], 1);
    let stream = generate("m", "why is the sky blue");
    let whole = Request::post("/api/generate", &json!({"model": "M", "prompt": "one two", "stream": false}));
    let chat = Request::post("/api/chat", &json!({"model": "m", "messages": [{"role": "user", "content": "a b c"}]}));
    let cases = [
        ("cold", &stream, "cold, only"),
        ("stream", &stream, "loaded, only"),
        ("whole", &whole, "loaded, only"),
        ("chat", &chat, "loaded, only"),
        ("article", &article("one two"), "loaded, only"),
    ];
    for (id, request, why) in cases {
        let (answer, line) = told(&front, id, request);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(
            (&line["backend"], &line["why"], &line["client"]),
            (&json!("gpu1"), &json!(why), &json!("127.0.0.1"))
        );
        assert_eq!(
            (&line["queue_ms"], &line["queue_position"], &line["tries"]),
            (&json!(0.0), &json!(0), &Value::Null)
        );
        assert_eq!(line.get("fault"), None, "{line}");
        // What the backend itself says of it is what the line says.
        let last = if id == "article" { Value::Null } else { answer.lines().pop().unwrap() };
        let says = |key: &str| last[key].as_u64();
        if last != Value::Null {
            assert_eq!(line["prompt_tokens"].as_u64(), says("prompt_eval_count"), "{line} {last}");
            assert_eq!(line["tokens"].as_u64(), says("eval_count"), "{line} {last}");
            let load = number(&line, "load_ms") - says("load_duration").unwrap() as f64 / 1e6;
            assert!(load.abs() < 0.01, "{line} {last}");
            let rate = says("eval_count").unwrap() as f64 / (says("eval_duration").unwrap() as f64 / 1e9);
            assert!((number(&line, "tokens_per_second") - rate).abs() < 0.01, "{line} {last}");
        }
        assert!(number(&line, "prompt_tokens") > 0.0 && number(&line, "tokens") > 0.0, "{line}");
        assert_eq!(number(&line, "load_ms") >= 150.0, id == "cold", "{line}");
        let all = number(&line, "ms");
        assert!(number(&line, "upstream_ms") <= all && number(&line, "upstream_ms") >= 60.0, "{line}");
        if matches!(id, "cold" | "stream" | "chat") {
            let first = number(&line, "first_token_ms");
            assert!(first >= if id == "cold" { 210.0 } else { 60.0 } && first < all, "{line}");
        }
    }
}

#[test]
fn time_in_the_queue_is_in_the_line_and_in_the_headers() {
    let (_backend, front) = pair(1, &[]);
    let held = front.hold(MODEL);
    let mut first = front.enqueue(&generate(MODEL, "first").header("X-Request-Id", "first"));
    let mut second = front.enqueue(&article("second").header("X-Request-Id", "second"));
    let begun = std::time::Instant::now();
    wait_for("some time to pass", || (begun.elapsed() > Duration::from_millis(50)).then_some(()));
    drop(held);
    for (id, client, position) in [("first", &mut first, 1), ("second", &mut second, 2)] {
        let answer = answer(client);
        let line = front.line_of(id);
        assert_eq!((&line["queue_position"], &line["why"]), (&json!(position), &json!("loaded, queue")));
        let told: f64 = answer.header("x-gate-queue-ms").unwrap().parse().unwrap();
        assert!(told >= 50.0 && number(&line, "queue_ms") - told < 1.0, "{told} and {line}");
        assert!(number(&line, "ms") >= number(&line, "queue_ms"), "{line}");
        assert!(number(&line, "upstream_ms") < number(&line, "ms") - 45.0, "waiting is not the backend's time: {line}");
    }
}

#[test]
fn who_did_not_get_a_turn_is_in_the_log_with_the_reason() {
    let (_backend, front) = pair(1, &["--queue=1", "--queue-timeout=200ms"]);
    let _held = front.hold(MODEL);
    let (answer, line) = told(&front, "late", &generate(MODEL, "late"));
    assert_eq!((answer.status, &line["status"], &line["fault"]), (503, &json!(503), &json!("gate")), "{line}");
    assert!(line["reason"].as_str().unwrap().contains("no turn came within 0.2 s"), "{line}");
    let waiting = front.enqueue(&generate(MODEL, "waits").header("X-Request-Id", "left"));
    let (answer, line) = told(&front, "full", &crate::stage::of("192.0.2.9", &article("full")));
    assert_eq!((answer.status, &line["fault"]), (503, &json!("gate")), "{line}");
    assert!(line["reason"].as_str().unwrap().contains("the queue is full"), "{line}");
    let (answer, line) = told(&front, "own", &article("own"));
    assert_eq!((answer.status, &line["fault"]), (429, &json!("client")), "{line}");
    drop(waiting);
    let line = front.line_of("left");
    assert_eq!((&line["status"], &line["fault"]), (&json!(499), &json!("client left")), "{line}");
    assert_eq!(line.get("backend"), None, "nobody served it: {line}");
}

#[test]
fn who_failed_is_told() {
    let (_backend, front) = pair(4, &["--chunk-timeout=500ms", "--breaker-failures=0"]);
    let cases = [
        ("cut", generate(MODEL, "@sim:cut:1 a b"), 200, json!("backend")),
        ("silent", generate(MODEL, "@sim:stall:chunks:1 a b"), 200, json!("backend")),
        ("reset", generate(MODEL, "@sim:reset:before-head a"), 502, json!("backend")),
        ("garbage", article("@sim:garbage-head a"), 502, json!("backend")),
        ("status", article("@500"), 502, json!("backend")),
        ("own-error", generate(MODEL, "@500"), 500, Value::Null),
        ("bad", Request::post("/api/generate", &json!({"prompt": 7})), 400, json!("client")),
    ];
    for (id, request, status, fault) in cases {
        let (answer, line) = told(&front, id, &request);
        assert_eq!((answer.status, &line["status"], &line["fault"]), (status, &json!(status), &fault), "{line}");
        assert_eq!(line["backend"] == "one", id != "bad", "{line}");
        assert_eq!(answer.header("x-gate-backend"), (id != "bad").then_some("one"), "{id}");
        assert_eq!(answer.header("x-request-id"), Some(id));
    }
    let leaving = front.begin(&stalled(MODEL, "leaves").header("X-Request-Id", "leaves"));
    drop(crate::stage::Held::begun(leaving));
    let line = front.line_of("leaves");
    assert_eq!((&line["fault"], &line["backend"]), (&json!("client left"), &json!("one")), "{line}");
}

#[test]
fn a_request_id_is_kept_when_it_is_well_formed_and_made_otherwise() {
    let (backend, front) = pair(4, &[]);
    let long = "a".repeat(128);
    let kept = ["7", "job-7_x.y~z", "a/b+c=d:e@f", "0af7651916cd43dd8448eb211c80319c", &long];
    for id in kept {
        for request in [generate(MODEL, "hi"), article("hi")] {
            let answer = front.gate.ask(&request.header("X-Request-Id", id));
            assert_eq!(answer.header("x-request-id"), Some(id));
            assert_eq!(header_of_last(&backend, "x-request-id").as_deref(), Some(id));
        }
    }
    let made = ["", "two words", "semi;colon", "quote\"", "<script>", "ümlaut", &"a".repeat(129)];
    let mut seen = std::collections::HashSet::new();
    for id in made {
        for request in [generate(MODEL, "hi"), article("hi")] {
            let answer = front.gate.ask(&request.header("X-Request-Id", id));
            let told = answer.header("x-request-id").expect("an id").to_owned();
            assert!(told.len() == 32 && told.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id:?} became {told:?}");
            assert_eq!(header_of_last(&backend, "x-request-id"), Some(told.clone()));
            assert_eq!(front.line_of(&told)["status"], 200);
            assert!(seen.insert(told), "an id came twice");
        }
    }
    // Without one, one is made; over all workers no two are the same.
    for _ in 0..60 {
        assert!(seen.insert(front.gate.ask(&generate(MODEL, "hi")).header("x-request-id").unwrap().to_owned()));
    }
    // Refusals have one as well, and pages.
    for request in [Request::get("/nowhere"), Request::get("/api/tags"), Request::post(ARTICLE, &json!({}))] {
        let (answer, line) = told(&front, "refused-1", &request);
        assert_eq!(
            (answer.header("x-request-id"), &line["id"]),
            (Some("refused-1"), &json!("refused-1")),
            "{answer:?}"
        );
    }
}

#[test]
fn a_trace_is_passed_on_and_nothing_else_of_the_clients_is() {
    let (backend, front) = pair(4, &[]);
    for request in [generate(MODEL, "hi"), article("hi")] {
        let traced = request
            .clone()
            .header("traceparent", PARENT)
            .header("tracestate", "vendor=1")
            .header("Authorization", "Bearer secret")
            .header("Cookie", "session=1")
            .header("X-Forwarded-For", "192.0.2.5")
            .header("X-Other", "1");
        assert_eq!(front.gate.ask(&traced).status, 200);
        let header = |name: &str| header_of_last(&backend, name);
        assert_eq!(header("traceparent").as_deref(), Some(PARENT));
        assert_eq!(header("tracestate").as_deref(), Some("vendor=1"));
        assert_eq!(header("x-forwarded-for").as_deref(), Some("192.0.2.5"));
        assert_eq!((header("authorization"), header("cookie"), header("x-other")), (None, None, None));
        for parent in ["00-00000000000000000000000000000000-00f067aa0ba902b7-01", "ff-4bf92f", "nonsense", ""] {
            let answer = front.gate.ask(&request.clone().header("traceparent", parent).header("tracestate", "a=b"));
            assert_eq!(answer.status, 200);
            let header = |name: &str| header_of_last(&backend, name);
            assert_eq!((header("traceparent"), header("tracestate")), (None, None), "{parent:?}");
        }
    }
}

#[test]
fn a_backend_is_told_by_its_name_and_never_by_its_address() {
    let named = backend();
    let unnamed = backend();
    let upstreams = [upstream(&named, "name=gpu1 slots=1 models=a"), upstream(&unnamed, "slots=1 models=b,m")];
    let front = front(&upstreams, &["--breaker-failures=0"]);
    let prompts =
        ["hi", "@500", "@503", "@404", "@drop", "@redirect", "@html", "@sim:cut:1 a b", "@sim:reset:before-head a"];
    for prompt in prompts {
        for request in [generate("a", prompt), generate("b", prompt), article(prompt)] {
            let answer = front.gate.ask(&request);
            let name =
                if request.bytes().windows(11).any(|part| part == b"\"model\":\"a\"") { "gpu1" } else { "ollama-2" };
            assert_eq!(answer.header("x-gate-backend"), Some(name), "{prompt}: {answer:?}");
            let told = format!("{:?} {}", answer.headers, answer.text());
            for backend in [&named, &unnamed] {
                let port = backend.address.port().to_string();
                assert!(!told.contains(&port), "{prompt}: an address in {told}");
            }
        }
    }
    // One that is gone cannot tell anything; the gate does not tell its address either.
    let (port, gone) = (named.address.port().to_string(), named);
    drop(gone);
    wait_for("the backend to be gone", || (front.gate.ask(&generate("a", "hi")).status == 502).then_some(()));
    let answer = front.gate.ask(&generate("a", "hi"));
    assert_eq!((answer.status, answer.header("x-gate-backend")), (502, Some("gpu1")));
    assert!(!format!("{:?} {}", answer.headers, answer.text()).contains(&port), "{answer:?}");
}

/// Whether the monitor has noticed yet or not.
#[test]
fn a_question_that_needs_no_model_is_answered_while_one_backend_is_there() {
    let (here, gone) = (backend(), backend());
    let front = front(&[upstream(&here, "name=here"), upstream(&gone, "name=gone")], &[]);
    knows(&front, &["here", "gone"], 1);
    let mut asked: Vec<String> = Vec::new();
    while !(asked.contains(&"here".to_owned()) && asked.contains(&"gone".to_owned())) {
        let version = front.gate.get("/api/version");
        assert_eq!((version.status, version.header("x-gate-queue-ms")), (200, None), "{version:?}");
        asked.push(version.header("x-gate-backend").unwrap().to_owned());
        assert!(asked.len() < 100, "only one is asked: {asked:?}");
    }
    drop(gone);
    for path in ["/api/tags", "/api/ps", "/api/version"] {
        for _ in 0..3 {
            let answer = front.gate.get(path);
            assert_eq!((answer.status, answer.header("x-gate-backend")), (200, Some("here")), "{path}: {answer:?}");
        }
    }
}

#[test]
fn a_second_try_is_counted_and_the_one_that_answered_is_named() {
    let (busy, good) = (backend(), backend());
    preload([&busy], MODEL);
    busy.sim.script([ollama_sim::Rule {
        times: 1000,
        path: Some("/api/generate".into()),
        ..ollama_sim::Fault::Status(503).into()
    }]);
    let front = front(&[upstream(&busy, "name=busy"), upstream(&good, "name=good")], &["--breaker-failures=0"]);
    knows(&front, &["busy", "good"], 1);
    front.has_loaded(&["busy"], &[MODEL]);
    let mut seconds = 0;
    // Fewer than the budget for retries holds.
    for number in 0..6 {
        let (answer, line) = told(&front, &format!("try-{number}"), &generate(MODEL, "hi"));
        assert_eq!((answer.status, answer.header("x-gate-backend")), (200, Some("good")), "{answer:?}");
        assert_eq!(line["backend"], "good");
        seconds += usize::from(line["tries"] == 2);
    }
    assert!(seconds > 0, "the busy one was never asked");
}

#[test]
fn the_combined_format_stays_as_it_is() {
    let (_backend, front) = pair(4, &["--access-log-format=combined"]);
    assert_eq!(front.gate.ask(&generate(MODEL, "hi")).status, 200);
    let line = wait_for("a line", || {
        let text = std::fs::read_to_string(front.access_log()).ok()?;
        text.ends_with('\n').then_some(text)
    });
    assert!(line.contains("\"POST /api/generate HTTP/1.1\" 200 ") && line.matches('"').count() == 6, "{line}");
}
