//! The table of refusals, read back through every dialect.

use super::render::{anthropic, openai};
use super::{Breakage, Connection, Denial, Dialect, KeyFault, LimitHeaders, Phase, Rejection};
use std::time::Duration;

/// Stands for any internal address; no answer may hold it.
const INTERNAL: &str = "10.9.8.7:11434";

const DIALECTS: [Dialect; 5] = [Dialect::Article, Dialect::Ollama, Dialect::OpenAi, Dialect::Anthropic, Dialect::Gate];

/// What a row must look like: status, connection, and the bodies of Article, Ollama and Gate.
struct Row {
    rejection: Rejection,
    status: u16,
    close: Connection,
    article: &'static str,
    ollama: &'static str,
    gate: &'static str,
}

fn detail(rejection: Rejection, status: u16, close: Connection, text: &'static str) -> Row {
    let (article, ollama) = (leak(format!(r#"{{"detail":"{text}"}}"#)), leak(format!(r#"{{"error":"{text}"}}"#)));
    Row { rejection, status, close, article, ollama, gate: text }
}

fn error(rejection: Rejection, status: u16, close: Connection, text: &'static str) -> Row {
    let body = leak(format!(r#"{{"error":"{text}"}}"#));
    Row { rejection, status, close, article: body, ollama: body, gate: text }
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

fn clients_faults() -> Vec<Row> {
    use Connection::{Close, Keep};
    use Rejection as R;
    let second = Duration::from_secs(1);
    vec![
        Row {
            rejection: R::Invalid { detail: r#"[{"type":"missing"}]"#.into() },
            status: 422,
            close: Keep,
            article: r#"{"detail":[{"type":"missing"}]}"#,
            ollama: r#"{"error":"the body does not fit the schema"}"#,
            gate: "the body does not fit the schema",
        },
        detail(R::Unreadable, 400, Keep, "There was an error parsing the body"),
        detail(R::MalformedHead { reason: "no Host" }, 400, Close, "Invalid HTTP request received: no Host"),
        detail(R::HeadTimeout, 408, Close, "the request head did not arrive in time"),
        detail(R::HeadTooLarge { limit: 65536 }, 431, Close, "the request head is over 65536 bytes"),
        detail(R::TooManyFields { limit: 100 }, 431, Close, "the request has more than 100 header fields"),
        detail(R::TargetTooLong { limit: 9 }, 414, Close, "the request target is over 9 bytes"),
        detail(R::BodyTooLarge { limit: 8 }, 413, Close, "the request body is over 8 bytes (--max-body)"),
        detail(R::BodyTimeout { after: second * 30 }, 408, Close, "the request body stopped for 30 s"),
        detail(R::UnsupportedEncoding, 415, Keep, "a request body with a Content-Encoding is not read here"),
        detail(R::NotFound, 404, Keep, "Not Found"),
        Row {
            rejection: R::MethodNotAllowed { allow: "POST" },
            status: 405,
            close: Keep,
            article: r#"{"detail":"Method Not Allowed"}"#,
            ollama: "405 method not allowed",
            gate: "Method Not Allowed",
        },
        Row {
            rejection: R::Redirect { location: "/ollama_generate/".into() },
            status: 307,
            close: Keep,
            article: "",
            ollama: "",
            gate: "",
        },
        detail(R::BadRequest { text: "missing request body".into() }, 400, Keep, "missing request body"),
        detail(R::ModelNotFound { model: "nope".into() }, 404, Keep, "model 'nope' not found"),
        error(
            R::RateLimited { limit: "10 per 1 minute".into(), retry: second },
            429,
            Keep,
            "Rate limit exceeded: 10 per 1 minute",
        ),
        error(R::Flooded { retry: second }, 429, Keep, "Too many requests"),
        error(
            R::ClientQueueFull { limit: 64, retry: second },
            429,
            Keep,
            "Too many requests are waiting: 64 of one client may",
        ),
        error(
            R::TooManyAtOnce { limit: 4 },
            429,
            Keep,
            "4 requests of this API key are in service or wait, and no more may",
        ),
    ]
}

/// What is not let in.
fn closed_doors() -> Vec<Row> {
    use Connection::Keep;
    use Rejection as R;
    vec![
        detail(R::Denied { what: Denial::Route }, 403, Keep, "this route is not open on this gate"),
        detail(R::Denied { what: Denial::CloudModel }, 403, Keep, "cloud models are not open on this gate"),
        detail(R::Denied { what: Denial::DebugRender }, 403, Keep, "_debug_render_only is not open on this gate"),
        detail(R::Denied { what: Denial::KeyRoute }, 403, Keep, "this API key may not use this route"),
        detail(R::Denied { what: Denial::RemoteHost }, 403, Keep, "models of other hosts are not open on this gate"),
        detail(R::Denied { what: Denial::WebSearch }, 403, Keep, "web search is not open on this gate"),
        detail(R::Denied { what: Denial::Origin }, 403, Keep, "this origin is not open on this gate"),
        detail(
            R::Unauthorized { why: KeyFault::Missing },
            401,
            Keep,
            "an API key is needed: send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`",
        ),
        detail(R::Unauthorized { why: KeyFault::Unknown }, 401, Keep, "this API key is not known here"),
        detail(R::Unauthorized { why: KeyFault::Expired }, 401, Keep, "this API key has expired"),
        detail(R::Unauthorized { why: KeyFault::Ambiguous }, 401, Keep, "the request has two API keys that differ"),
        detail(
            R::NameBackend { names: "gpu1, gpu2".into() },
            400,
            Keep,
            "several backends: say which one in X-Gate-Backend: gpu1, gpu2",
        ),
    ]
}

fn other_faults() -> Vec<Row> {
    use Connection::{Close, Keep};
    use Rejection as R;
    let (backend, cause) = (INTERNAL.to_owned(), format!("connect to {INTERNAL} failed"));
    let after = Duration::from_millis(1500);
    let late = |phase| R::BackendTimeout { phase, after };
    let broken = |what| R::BackendBroken { what, cause: cause.clone() };
    let status = |status, text: &str| R::BackendStatus { status, text: text.into(), retry_after: None };
    vec![
        error(R::QueueFull { retry: after }, 503, Keep, "server busy, please try again: the queue is full"),
        error(
            R::QueueTimeout { after, retry: after },
            503,
            Keep,
            "server busy, please try again: no turn came within 1.5 s",
        ),
        error(R::NoModel, 503, Keep, "no model is available: pull one with `ollama pull`, or set --model"),
        error(R::BackendUnreachable { backend, cause: cause.clone() }, 502, Keep, "Ollama could not be reached"),
        error(late(Phase::Connect), 504, Keep, "Ollama did not accept a connection within 1.5 s (connect_timeout)"),
        error(late(Phase::Load), 504, Keep, "Ollama did not load the model within 1.5 s (load_timeout)"),
        error(late(Phase::Whole), 504, Keep, "the request was not answered within 1.5 s (request_timeout)"),
        error(late(Phase::FirstByte), 504, Keep, "Ollama did not begin to answer within 1.5 s (first_byte_timeout)"),
        error(late(Phase::BetweenChunks), 504, Keep, "Ollama sent nothing more within 1.5 s (chunk_timeout)"),
        error(broken(Breakage::ClosedEarly), 502, Keep, "Ollama closed the connection before its answer was complete"),
        error(broken(Breakage::NotHttp), 502, Keep, "Ollama's answer was not HTTP"),
        error(broken(Breakage::NotJson), 502, Keep, "Ollama's answer was not the JSON that was due"),
        error(broken(Breakage::TooLarge), 502, Keep, "Ollama's answer was too large"),
        error(status(404, "model 'x' not found"), 404, Keep, "model 'x' not found"),
        error(status(503, "server busy"), 503, Keep, "server busy"),
        error(status(429, "rate limit exceeded"), 503, Keep, "rate limit exceeded"),
        error(status(400, "does not support tools"), 502, Keep, "does not support tools"),
        error(status(500, ""), 502, Keep, "Ollama answered 500"),
        error(R::Draining, 503, Close, "this server is being replaced, try again"),
        error(R::Internal, 500, Keep, "Internal Server Error"),
    ]
}

#[test]
fn every_refusal_in_every_dialect() {
    for row in clients_faults().into_iter().chain(closed_doors()).chain(other_faults()) {
        // The text of the other two stands in an object of its own.
        let text = serde_json::Value::from(row.gate);
        let terms = row.rejection.terms();
        let openai = String::from_utf8(openai(&terms)).unwrap();
        let anthropic = String::from_utf8(anthropic(&terms, None)).unwrap();
        assert!(openai.starts_with(&format!(r#"{{"error":{{"message":{text},"#)), "{openai}");
        assert!(anthropic.ends_with(&format!(r#""message":{text}}}}}"#)), "{anthropic}");
        let (openai, anthropic) = if row.status == 307 { ("", "") } else { (&*openai, &*anthropic) };
        for (dialect, body) in [
            (Dialect::Article, row.article),
            (Dialect::Ollama, row.ollama),
            (Dialect::OpenAi, openai),
            (Dialect::Anthropic, anthropic),
            (Dialect::Gate, row.gate),
        ] {
            let answer = row.rejection.answer(dialect);
            let text = String::from_utf8(answer.body).unwrap();
            let case = format!("{:?} in {dialect:?}", row.rejection);
            assert_eq!(answer.status, row.status, "{case}");
            assert_eq!(answer.close, row.close, "{case}");
            assert_eq!(text, body, "{case}");
            assert_eq!(answer.content_type.is_none(), body.is_empty(), "{case}");
            assert!(!text.contains(INTERNAL) && !format!("{:?}", answer.headers).contains(INTERNAL), "{case}");
            if body.starts_with('{') {
                serde_json::from_str::<serde_json::Value>(&text).expect(&case);
                assert!(answer.content_type.unwrap().starts_with("application/json"), "{case}");
            }
        }
        assert!(!row.rejection.to_string().is_empty(), "{:?} has no log text", row.rejection);
    }
}

/// Adding a variant stops this from compiling: it needs a row above.
#[test]
fn no_variant_is_without_a_row() {
    let mut seen = [false; 31];
    for row in clients_faults().into_iter().chain(closed_doors()).chain(other_faults()) {
        seen[variant(&row.rejection)] = true;
    }
    assert_eq!(seen, [true; 31]);
}

fn variant(rejection: &Rejection) -> usize {
    use Rejection as R;
    match rejection {
        R::Invalid { .. } => 0,
        R::Unreadable => 1,
        R::MalformedHead { .. } => 2,
        R::HeadTimeout => 3,
        R::HeadTooLarge { .. } => 4,
        R::TooManyFields { .. } => 5,
        R::TargetTooLong { .. } => 6,
        R::BodyTooLarge { .. } => 7,
        R::BodyTimeout { .. } => 8,
        R::UnsupportedEncoding => 9,
        R::NotFound => 10,
        R::MethodNotAllowed { .. } => 11,
        R::Redirect { .. } => 12,
        R::Denied { .. } => 13,
        R::BadRequest { .. } => 14,
        R::ModelNotFound { .. } => 15,
        R::RateLimited { .. } => 16,
        R::Flooded { .. } => 17,
        R::NoModel => 18,
        R::BackendUnreachable { .. } => 19,
        R::BackendTimeout { .. } => 20,
        R::BackendBroken { .. } => 21,
        R::BackendStatus { .. } => 22,
        R::Draining => 23,
        R::Internal => 24,
        R::QueueFull { .. } => 25,
        R::ClientQueueFull { .. } => 26,
        R::QueueTimeout { .. } => 27,
        R::Unauthorized { .. } => 28,
        R::NameBackend { .. } => 29,
        R::TooManyAtOnce { .. } => 30,
    }
}

#[test]
fn content_types_are_those_of_the_replaced_servers() {
    let gone = Rejection::NotFound;
    assert_eq!(gone.answer(Dialect::Article).content_type, Some("application/json"));
    assert_eq!(gone.answer(Dialect::Ollama).content_type, Some("application/json; charset=utf-8"));
    assert_eq!(gone.answer(Dialect::Gate).content_type, Some("text/plain; charset=utf-8"));
    let method = Rejection::MethodNotAllowed { allow: "POST" }.answer(Dialect::Ollama);
    assert_eq!(method.content_type, Some("text/plain"));
    assert_eq!(method.headers, [("allow", "POST".to_owned())]);
    let moved = Rejection::Redirect { location: "/docs".into() }.answer(Dialect::Article);
    assert_eq!(moved.headers, [("location", "/docs".to_owned())]);
}

/// Refusals by status, with what the SDKs of `OpenAI` and Anthropic call them.
#[test]
fn kinds_of_errors_are_those_the_sdks_know() {
    use Rejection as R;
    let late = R::BackendTimeout { phase: Phase::FirstByte, after: Duration::from_secs(1) };
    for (rejection, openai, code, anthropic) in [
        (R::BadRequest { text: "x".into() }, "invalid_request_error", None, "invalid_request_error"),
        (
            R::Unauthorized { why: KeyFault::Unknown },
            "authentication_error",
            Some("invalid_api_key"),
            "authentication_error",
        ),
        (R::Denied { what: Denial::KeyRoute }, "permission_error", None, "permission_error"),
        (R::ModelNotFound { model: "x".into() }, "not_found_error", None, "not_found_error"),
        (R::MethodNotAllowed { allow: "POST" }, "invalid_request_error", None, "invalid_request_error"),
        (R::BodyTooLarge { limit: 1 }, "invalid_request_error", None, "request_too_large"),
        (R::TooManyAtOnce { limit: 1 }, "rate_limit_error", Some("rate_limit_exceeded"), "rate_limit_error"),
        (R::Draining, "api_error", None, "overloaded_error"),
        (R::NoModel, "api_error", None, "overloaded_error"),
        (late, "api_error", None, "timeout_error"),
        (R::Internal, "api_error", None, "api_error"),
    ] {
        let read = |dialect| serde_json::from_slice::<serde_json::Value>(&rejection.answer(dialect).body).unwrap();
        let text = rejection.terms().public.into_owned();
        let error = serde_json::json!({"message": text, "type": openai, "param": null, "code": code});
        assert_eq!(read(Dialect::OpenAi), serde_json::json!({"error": error}));
        let error = serde_json::json!({"type": anthropic, "message": text});
        assert_eq!(read(Dialect::Anthropic), serde_json::json!({"type": "error", "error": error}));
    }
}

#[test]
fn anthropics_clients_are_told_the_requests_id() {
    let told = |dialect, id| {
        let answer = Rejection::NoModel.answer_with(dialect, LimitHeaders::Off, Some(id));
        serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap()["request_id"].clone()
    };
    assert_eq!(told(Dialect::Anthropic, "job-7"), "job-7");
    assert_eq!(told(Dialect::Anthropic, "a\"b"), "a\"b");
    assert_eq!(told(Dialect::OpenAi, "job-7"), serde_json::Value::Null);
}

#[test]
fn a_refused_key_is_told_how_to_come_again() {
    for dialect in DIALECTS {
        let answer = Rejection::Unauthorized { why: KeyFault::Missing }.answer(dialect);
        assert_eq!(answer.headers, [("www-authenticate", "Bearer realm=\"ollama-gate\"".to_owned())]);
        let answer = Rejection::TooManyAtOnce { limit: 4 }.answer(dialect);
        assert_eq!(answer.headers, [("retry-after", "1".to_owned())]);
    }
}

#[test]
fn retry_after_is_whole_seconds_and_the_articles_only_on_request() {
    let retry_after = |millis, dialect, headers| {
        let limited = Rejection::RateLimited { limit: "1 per 1 day".into(), retry: Duration::from_millis(millis) };
        limited.answer_with(dialect, headers, None).headers
    };
    let says = |seconds: &str| vec![("retry-after", seconds.to_owned())];
    assert_eq!(retry_after(1001, Dialect::Article, LimitHeaders::Off), []);
    assert_eq!(retry_after(1001, Dialect::Article, LimitHeaders::On), says("2"));
    assert_eq!(retry_after(0, Dialect::Ollama, LimitHeaders::Off), says("1"));
    assert_eq!(retry_after(2000, Dialect::Ollama, LimitHeaders::Off), says("2"));
    assert_eq!(retry_after(59_999, Dialect::Gate, LimitHeaders::Off), says("60"));
    assert_eq!(Rejection::Draining.answer(Dialect::Article).headers, says("1"));
}

#[test]
fn retry_after_of_the_queue_is_within_its_bounds() {
    use Rejection as R;
    let refusals = |retry| {
        let after = Duration::from_secs(60);
        [R::QueueFull { retry }, R::ClientQueueFull { limit: 1, retry }, R::QueueTimeout { after, retry }]
    };
    for (millis, told) in [
        (0, "1"),
        (999, "1"),
        (1000, "1"),
        (1001, "2"),
        (119_001, "120"),
        (120_000, "120"),
        (120_001, "120"),
        (u64::MAX, "120"),
    ] {
        for refused in refusals(Duration::from_millis(millis)) {
            let says = vec![("retry-after", told.to_owned())];
            for dialect in DIALECTS {
                for headers in [LimitHeaders::Off, LimitHeaders::On] {
                    let answer = refused.answer_with(dialect, headers, None);
                    assert_eq!(answer.headers, says, "{refused:?}, {dialect:?}, {headers:?}");
                }
            }
        }
    }
}

#[test]
fn a_backends_retry_after_is_kept_as_it_is() {
    let busy = |value: &str| Rejection::BackendStatus {
        status: 503,
        text: "busy".into(),
        retry_after: Some(value.to_owned()),
    };
    for value in ["7", "Wed, 21 Oct 2026 07:28:00 GMT"] {
        let answer = busy(value).answer(Dialect::Article);
        assert_eq!(answer.headers, [("retry-after", value.to_owned())]);
    }
    assert_eq!(busy("7\r\nset-cookie: a=b").answer(Dialect::Article).headers, []);
}

#[test]
fn causes_are_for_the_log() {
    let gone = Rejection::BackendUnreachable { backend: INTERNAL.into(), cause: "refused".into() };
    assert_eq!(gone.to_string(), format!("{INTERNAL}: refused"));
}

#[test]
fn texts_are_escaped_as_json_with_utf8_as_it_is() {
    let odd = Rejection::BadRequest { text: "a \"é\" \n\u{7f}".into() };
    assert_eq!(String::from_utf8(odd.answer(Dialect::Ollama).body).unwrap(), "{\"error\":\"a \\\"é\\\" \\n\u{7f}\"}");
}
