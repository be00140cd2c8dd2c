//! Bodies of every dialect against Ollama's own verdicts, and against a reader of another make.

use serde_json::Value;

use super::{Call, Source, Stream, Usage, Work, judge};
use crate::rejection::{Denial, Rejection};
use crate::route::Route;

mod go;

/// `{"route", "body", "go": {"status", "error" | "model", "stream", "tokens", "messages"}}` a line: what Ollama 0.24.0's
/// types and conversions, built with Go 1.26, make of a body.
const RECORDED: &str = include_str!("../../tests/call/ollama-0.24.jsonl");

/// Where the gate refuses what Ollama takes, since two readers could differ, or leaves the refusal to Ollama.
const STRICTER: [&str; 3] = ["is given more than once", "after top-level value", "keep_alive is out of range"];

/// The beginnings of what Ollama's versions say of parts of a request that are only counted here.
const LEFT_TO_OLLAMA: [&str; 12] = [
    "invalid message format",
    "image URLs are not currently supported",
    "invalid image",
    "invalid tool call arguments",
    "unknown input item type",
    "input[",
    "invalid type for 'stop' field",
    "tool_use block missing",
    "invalid tool_result",
    "invalid reasoning value",
    "json: cannot unmarshal number into Go struct field MessagesRequest.messages.t",
    "json: cannot unmarshal number 1e400 into",
];

fn route(name: &str) -> Route {
    match name {
        "generate" => Route::Generate,
        "chat" => Route::Chat,
        "embed" => Route::Embed,
        "embeddings" => Route::Embeddings,
        "show" => Route::Show,
        "pull" => Route::Pull,
        "push" => Route::Push,
        "create" => Route::Create,
        "copy" => Route::Copy,
        "delete" => Route::Delete,
        "chat_completions" | "chat/completions" => Route::ChatCompletions,
        "completions" => Route::Completions,
        "v1_embeddings" => Route::V1Embeddings,
        "responses" => Route::Responses,
        "messages" => Route::Messages,
        other => panic!("no route {other}"),
    }
}

/// What is the same in Go's verdict and in ours, or what is not.
fn compare(route: &str, body: &str, go: &Value) -> Result<(), String> {
    let ours = judge(&self::route(route), body.as_bytes());
    let shown = |ours: &dyn std::fmt::Debug| Err(format!("{route} {body}\n  ours {ours:?}\n  go   {go}"));
    match (&ours, go["error"].as_str()) {
        (Ok(call), None) => {
            let stream = go["stream"].as_bool().is_none_or(|stream| stream == (call.stream == Stream::Yes));
            let tokens = go["tokens"].as_u64().filter(|&count| count > 0);
            let same_tokens = call.edits.tokens.text(body.as_bytes()).and_then(crate::native::bound) == tokens;
            let messages = go["messages"].as_u64().is_none_or(|count| count == u64::from(call.messages));
            let model = go["model"].as_str().unwrap_or("");
            if call.model == model.trim() && stream && same_tokens && messages { Ok(()) } else { shown(call) }
        }
        (Ok(call), Some(error)) if LEFT_TO_OLLAMA.iter().any(|left| error.starts_with(left)) => {
            if call.model == "m" {
                Ok(())
            } else {
                shown(call)
            }
        }
        (Err(refused), Some(error)) if refused.terms().status == 400 && refused.terms().public == error => Ok(()),
        (Err(refused), Some(error)) if error.contains("number 1e400") && refused.terms().status == 400 => Ok(()),
        // A name that is missing or none is refused where Go's side of the recording does not look.
        (Err(refused), None) if go["model"].as_str().unwrap_or("").is_empty() => {
            let terms = refused.terms();
            let known = ["model is required", "model '' not found", "invalid model name", "name \"\" is invalid"];
            if known.contains(&&*terms.public) { Ok(()) } else { shown(refused) }
        }
        (Err(refused), _) if STRICTER.iter().any(|text| refused.terms().public.contains(text)) => Ok(()),
        (ours, _) => shown(ours),
    }
}

#[test]
fn recorded_verdicts() {
    let (mut same, mut differ) = (0, Vec::new());
    for line in RECORDED.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        match compare(case["route"].as_str().unwrap(), case["body"].as_str().unwrap(), &case["go"]) {
            Ok(()) => same += 1,
            Err(why) => differ.push(why),
        }
    }
    assert!(differ.is_empty(), "{} differ, {same} agree:\n{}", differ.len(), differ.join("\n"));
    assert!(same > 1500, "only {same} cases agree");
}

/// Recorded requests, and the answers of those that Ollama refuses without looking at the model.
const REQUESTS: &str = include_str!("../../tests/call/requests.jsonl");
const ANSWERS: [(&str, &str); 10] = [
    ("error-no-body", include_str!("../../tests/call/error-no-body.http")),
    ("error-no-model", include_str!("../../tests/call/error-no-model.http")),
    ("error-not-json", include_str!("../../tests/call/error-not-json.http")),
    ("error-wrong-type", include_str!("../../tests/call/error-wrong-type.http")),
    ("error-bad-option", include_str!("../../tests/call/error-bad-option.http")),
    ("error-bad-format", include_str!("../../tests/call/error-bad-format.http")),
    ("error-bad-keep-alive", include_str!("../../tests/call/error-bad-keep-alive.http")),
    ("error-raw-with-system", include_str!("../../tests/call/error-raw-with-system.http")),
    ("v1-error-not-json", include_str!("../../tests/call/v1-error-not-json.http")),
    ("v1-error-no-messages", include_str!("../../tests/call/v1-error-no-messages.http")),
];

#[test]
fn recorded_requests() {
    let (mut refused, mut passed) = (0, 0);
    for line in REQUESTS.lines() {
        let request: Value = serde_json::from_str(line).unwrap();
        let name = request["name"].as_str().unwrap();
        if request["method"] != "POST" {
            continue;
        }
        let body = match &request["body"] {
            Value::Null => String::new(),
            Value::String(raw) => raw.clone(),
            body => body.to_string(),
        };
        let path = request["path"].as_str().unwrap();
        let route = route(path.trim_start_matches("/api/").trim_start_matches("/v1/"));
        let ours = judge(&route, body.as_bytes());
        let Some((_, answer)) = ANSWERS.iter().find(|(answer, _)| *answer == name) else {
            assert!(ours.is_ok(), "{name}: {ours:?}");
            passed += 1;
            continue;
        };
        let rejection = ours.expect_err(name);
        // A body is one line, whatever its framing.
        let body = answer.lines().find(|line| line.starts_with('{')).unwrap();
        assert_eq!(String::from_utf8(rejection.answer(route.dialect()).body).unwrap(), body, "{name}");
        let status: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let expected = if status == 500 { 400 } else { status };
        assert_eq!(rejection.terms().status, expected, "{name}");
        refused += 1;
    }
    assert_eq!((refused, passed), (ANSWERS.len(), 26));
}

fn call(name: &str, body: &str) -> Call {
    judge(&route(name), body.as_bytes()).unwrap_or_else(|why| panic!("{name} {body}: {why}"))
}

fn refusal(name: &str, body: &str) -> (u16, String) {
    let refused = judge(&route(name), body.as_bytes()).expect_err(body);
    let terms = refused.terms();
    (terms.status, terms.public.into_owned())
}

#[test]
fn routes_without_a_model() {
    for route in [Route::ArticleBody, Route::Tags, Route::Ps, Route::Models, Route::Root, Route::Healthz] {
        assert_eq!(judge(&route, b"{}"), Err(Rejection::Internal), "{route:?}");
    }
    let named = |name: &str| judge(&Route::Model { name: name.into() }, b"");
    let gemma = named(" Gemma:local").unwrap();
    assert_eq!((&*gemma.model, gemma.source, gemma.work), ("Gemma", Source::Local, Work::Store));
    assert_eq!(named("gemma:cloud").unwrap().source, Source::Cloud);
    assert!(named("a b").is_err() && named(" ").is_err());
}

#[test]
fn names_of_a_cloud_have_one_form() {
    for (sent, read) in [
        ("m:cloud", "m:cloud"),
        (" M:Cloud ", "M:cloud"),
        ("m:1b-cloud", "m:1b-cloud"),
        ("m: 1b-CLOUD", "m:1b-cloud"),
        ("m:1b:cloud", "m:1b-cloud"),
        ("h/n/m: cloud", "h/n/m:cloud"),
    ] {
        for route in ["generate", "chat_completions", "show", "pull"] {
            let body = match route {
                "chat_completions" => format!(r#"{{"model":"{sent}","messages":[{{"role":"user","content":""}}]}}"#),
                _ => format!(r#"{{"model":"{sent}"}}"#),
            };
            let call = call(route, &body);
            assert_eq!((&*call.model, call.source), (read, Source::Cloud), "{route} {sent}");
        }
    }
    assert_eq!(refusal("generate", r#"{"model":"m:-cloud"}"#), (400, "invalid model name".into()));
    assert_eq!(call("generate", r#"{"model":"m-cloud:1"}"#).source, Source::Local);
}

#[test]
fn hosts_that_the_server_would_turn_to() {
    let remote = |route: &str, body: &str| call(route, body).remote.map(|remote| remote.host().to_owned());
    for route in ["pull", "push", "create"] {
        assert_eq!(remote(route, r#"{"model":"m"}"#), None, "{route}");
        assert_eq!(remote(route, r#"{"model":"registry.Ollama.ai/library/m"}"#), None, "{route}");
    }
    for route in ["pull", "push"] {
        assert_eq!(remote(route, r#"{"name":"hf.co/n/m:q"}"#).as_deref(), Some("hf.co"), "{route}");
        let body = r#"{"model":"http://10.0.0.1:80/n/m","insecure":true}"#;
        assert_eq!(remote(route, body).as_deref(), Some("10.0.0.1:80"), "{route}");
    }
    assert_eq!(remote("create", r#"{"model":"m","from":"hf.co/n/m"}"#).as_deref(), Some("hf.co"));
    let told = |host: &str| format!(r#"{{"model":"m","from":"x","remote_host":"{host}"}}"#);
    assert_eq!(remote("create", &told("https://Ollama.com:443/a")).as_deref(), Some("ollama.com:443"));
    assert_eq!(remote("create", &told("h")).as_deref(), Some("h"));
    for odd in ["/a", "http://", "http://a@b", "http://a\\\\b", "h h"] {
        assert_eq!(refusal("create", &told(odd)), (400, "bad remote".into()), "{odd}");
    }
    // Where a model only runs, its host is part of its name.
    for route in ["generate", "show", "delete", "embed"] {
        assert_eq!(remote(route, r#"{"model":"hf.co/n/m"}"#), None, "{route}");
    }
}

#[test]
fn models_beside_the_first() {
    let copy = call("copy", r#"{"source":"a","destination":"b:2"}"#);
    assert_eq!((&*copy.model, &*copy.others, copy.work), ("a", &["b:2".to_owned()][..], Work::Store));
    let create = call("create", r#"{"name":"a","from":" b:local ","files":{"x.gguf":"sha256:0"}}"#);
    assert_eq!((&*create.model, &*create.others, create.stream), ("a", &["b".to_owned()][..], Stream::Yes));
    assert_eq!(call("create", r#"{"model":"a","from":"b:cloud"}"#).source, Source::Cloud);
    assert_eq!(call("copy", r#"{"source":"a","destination":"b:1-cloud"}"#).source, Source::Cloud);
    // Where it is written it would be another model than where it runs.
    for (route, body) in [
        ("push", r#"{"model":"m:local"}"#),
        ("create", r#"{"model":"m:Local"}"#),
        ("copy", r#"{"source":"m","destination":"m:local"}"#),
    ] {
        assert_eq!(refusal(route, body).0, 400, "{route}");
    }
    assert_eq!(call("delete", r#"{"model":"m:local"}"#).model, "m");
}

/// The last would win in Ollama, where policy may have seen the first.
#[test]
fn a_second_name_is_refused_everywhere() {
    for (name, key) in [
        ("embed", "model"),
        ("embeddings", "model"),
        ("show", "model"),
        ("show", "name"),
        ("pull", "name"),
        ("push", "model"),
        ("create", "from"),
        ("create", "remote_host"),
        ("copy", "source"),
        ("copy", "destination"),
        ("delete", "name"),
        ("chat_completions", "model"),
        ("completions", "model"),
        ("v1_embeddings", "model"),
        ("responses", "model"),
        ("messages", "model"),
    ] {
        for second in [key.to_owned(), key.to_uppercase(), format!("\\u{:04x}{}", key.as_bytes()[0], &key[1..])] {
            let body = format!(r#"{{"{key}":"a","{second}":"b"}}"#);
            let expected = (400, format!("ambiguous body: \"{key}\" is given more than once"));
            assert_eq!(refusal(name, &body), expected, "{name} {body}");
        }
    }
}

#[test]
fn web_searches_are_refused() {
    let denied = Rejection::Denied { what: Denial::WebSearch };
    for of in ["web_search", "web_search_preview", "web_search_20250305", " WEB_SEARCH", "web\\u005fsearch"] {
        for (name, body) in [
            ("responses", format!(r#"{{"model":"m","input":"x","tools":[{{"type":"function"}},{{"TYPE":"{of}"}}]}}"#)),
            (
                "responses",
                format!(r#"{{"model":"m","input":"x","tools":[{{"type":"namespace","tools":[{{"type":"{of}"}}]}}]}}"#),
            ),
            (
                "messages",
                format!(r#"{{"model":"m","max_tokens":1,"messages":[{{"content":"x"}}],"tools":[{{"type":"{of}"}}]}}"#),
            ),
        ] {
            assert_eq!(judge(&route(name), body.as_bytes()), Err(denied.clone()), "{name} {of}");
        }
    }
    let own =
        r#"{"model":"m","max_tokens":1,"messages":[{"content":"x"}],"tools":[{"name":"web_search","type":"custom"}]}"#;
    assert!(judge(&Route::Messages, own.as_bytes()).is_ok());
}

#[test]
fn rendered_prompts_are_refused_everywhere() {
    for name in [
        "generate",
        "chat",
        "embed",
        "embeddings",
        "show",
        "pull",
        "push",
        "create",
        "copy",
        "delete",
        "chat_completions",
        "completions",
        "v1_embeddings",
        "responses",
        "messages",
    ] {
        let refused = judge(&route(name), br#"{"model":"m","_Debug_render_only":true}"#);
        assert_eq!(refused, Err(Rejection::Denied { what: Denial::DebugRender }), "{name}");
    }
}

#[test]
fn what_is_counted() {
    let counts = |name: &str, body: &str| {
        let call = call(name, body);
        (call.text_bytes, call.images, call.messages)
    };
    let check = |name: &str, body: &str, expected| assert_eq!(counts(name, body), expected, "{name} {body}");
    check(
        "generate",
        r#"{"model":"m","prompt":"aé\n\u4e16","system":"s","suffix":"u","images":["AAAA","AAAA"]}"#,
        (9, 2, 0),
    );
    check("generate", r#"{"model":"m","prompt":"x","context":[1,2]}"#, (6, 0, 0));
    check("chat", r#"{"model":"m","messages":[{"content":"ab","images":["AAAA"]},{"content":"c"},null]}"#, (3, 1, 3));
    check("chat", r#"{"model":"m","messages":[{"content":"a"}],"tools":[{}]}"#, (5, 0, 1));
    check("chat", r#"{"model":"m","messages":[{"content":"a","thinking":"b\u00e9"},{"thinking":null}]}"#, (4, 0, 2));
    check("embed", r#"{"model":"m","input":["ab","c",""]}"#, (3, 0, 3));
    check("embed", r#"{"model":"m","input":"ab"}"#, (2, 0, 0));
    check("embeddings", r#"{"model":"m","prompt":"abc"}"#, (3, 0, 0));
    check("completions", r#"{"model":"m","prompt":"abc","suffix":"d"}"#, (4, 0, 0));
    check("v1_embeddings", r#"{"model":"m","input":["ab","c"]}"#, (3, 0, 2));
    let parts = r#"[{"type":"text","text":"ab"},{"type":"image_url","image_url":{"url":"data:;base64,AAAA"}},{"\u0074ype":"t\u0065xt","text":"c"}]"#;
    check(
        "chat_completions",
        &format!(r#"{{"model":"m","messages":[{{"content":{parts}}},{{"content":"d"}}]}}"#),
        (4, 1, 2),
    );
    check("responses", r#"{"model":"m","input":"abc","instructions":"de"}"#, (5, 0, 1));
    let items = r#"[{"role":"user","content":"ab"},{"type":"message","content":[{"type":"input_text","text":"c"},{"type":"input_image","image_url":"x"}]},{"type":"function_call_output","output":"de"}]"#;
    check("responses", &format!(r#"{{"model":"m","input":{items}}}"#), (5, 1, 3));
    let blocks = r#"[{"type":"text","text":"ab"},{"type":"image","source":{}},{"type":"tool_result","content":[{"type":"text","text":"c"},{"type":"image"}]}]"#;
    let body = format!(
        r#"{{"model":"m","max_tokens":1,"system":[{{"type":"text","text":"de"}}],"messages":[{{"content":{blocks}}},{{"content":"f"}}]}}"#
    );
    check("messages", &body, (6, 2, 2));
    // A second type would hide a picture from the cap.
    for body in [
        r#"{"model":"m","messages":[{"content":[{"type":"image_url","type":"text","text":"a"}]}]}"#,
        r#"{"model":"m","messages":[{"content":"a","CONTENT":"b"}]}"#,
    ] {
        assert!(refusal("chat_completions", body).1.starts_with("ambiguous body: "), "{body}");
    }
    let twice = r#"{"model":"m","max_tokens":1,"messages":[{"content":[{"type":"image","Type":"text","text":"a"}]}]}"#;
    assert!(refusal("messages", twice).1.starts_with("ambiguous body: "));
}

#[test]
fn bounds_and_estimates() {
    let tokens = |name: &str, body: &str| {
        let call = call(name, body);
        (call.tokens_asked, call.estimate(100))
    };
    let check = |name: &str, body: &str, expected| assert_eq!(tokens(name, body), expected, "{name} {body}");
    check("generate", r#"{"model":"m","prompt":"abcde"}"#, (None, 102));
    check("generate", r#"{"model":"m","prompt":"abcd","options":{"num_predict":7.9}}"#, (Some(7), 8));
    for endless in ["-1", "-2", "0", "0.5", "null"] {
        check(
            "generate",
            &format!(r#"{{"model":"m","prompt":"abcd","options":{{"num_predict":{endless}}}}}"#),
            (None, 101),
        );
    }
    check("generate", r#"{"model":"m"}"#, (None, 0));
    check("embed", r#"{"model":"m","input":"abcde"}"#, (Some(0), 2));
    check("v1_embeddings", r#"{"model":"m","input":"abcde"}"#, (Some(0), 2));
    check("show", r#"{"model":"m"}"#, (None, 0));
    let chat = |fields: &str| format!(r#"{{"model":"m","messages":[{{"content":"abcd"}}]{fields}}}"#);
    check("chat_completions", &chat(""), (None, 101));
    check("chat_completions", &chat(r#","max_tokens":5,"max_completion_tokens":3"#), (Some(5), 6));
    check("chat_completions", &chat(r#","max_tokens":0,"max_completion_tokens":3"#), (Some(3), 4));
    check("messages", &chat(r#","max_tokens":5"#), (Some(5), 6));
    check("completions", r#"{"model":"m","prompt":"abcd","max_tokens":5}"#, (Some(5), 6));
    check("responses", r#"{"model":"m","input":"abcd","max_output_tokens":5}"#, (Some(5), 6));
    check(
        "generate",
        r#"{"model":"m","prompt":"a","options":{"num_predict":1e30}}"#,
        (Some(i64::MAX as u64), i64::MAX as u64 + 1),
    );
}

#[test]
fn streams_and_their_counts() {
    let said = |name: &str, body: &str| {
        let call = call(name, body);
        (call.stream, call.usage)
    };
    let chat = |fields: &str| format!(r#"{{"model":"m","messages":[{{"content":"a"}}]{fields}}}"#);
    assert_eq!(said("chat_completions", &chat("")), (Stream::No, Usage::Unasked));
    assert_eq!(said("chat_completions", &chat(r#","stream":true"#)), (Stream::Yes, Usage::Unasked));
    let asked = chat(r#","stream":true,"Stream_options":{"Include_Usage":true}"#);
    assert_eq!(said("chat_completions", &asked), (Stream::Yes, Usage::Asked));
    let declined = chat(r#","stream":true,"stream_options":{"include_usage":false}"#);
    assert_eq!(said("chat_completions", &declined), (Stream::Yes, Usage::Unasked));
    assert_eq!(said("messages", &chat(r#","stream":true,"max_tokens":1"#)), (Stream::Yes, Usage::Asked));
    assert_eq!(said("chat", &chat("")), (Stream::Yes, Usage::Asked));
    assert_eq!(said("embed", r#"{"model":"m"}"#).0, Stream::No);
    assert_eq!(said("pull", r#"{"model":"m"}"#).0, Stream::Yes);
    assert_eq!(said("responses", r#"{"model":"m","stream":true}"#).0, Stream::Yes);
}

/// One conversation has one number in every dialect, and keeps it in its later turns.
#[test]
fn conversations_across_dialects() {
    let first =
        call("chat", r#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"hé"}]}"#);
    for (name, body) in [
        (
            "chat_completions",
            r#"{"model":"M:latest","messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"h"},{"type":"text","text":"\u00e9"}]},{"role":"assistant","content":"x"}]}"#,
        ),
        (
            "messages",
            r#"{"messages":[{"role":"user","content":"hé"},{"role":"user","content":"more"}],"system":[{"type":"text","text":"s"}],"model":"m","max_tokens":1}"#,
        ),
        (
            "messages",
            r#"{"model":"m","max_tokens":1,"system":"s","messages":[{"role":"user","content":[{"type":"text","text":"hé"}]}]}"#,
        ),
        ("responses", r#"{"model":"m","input":"hé","instructions":"s"}"#),
        (
            "responses",
            r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"hé"}]},{"role":"user","content":"x"}],"instructions":"s"}"#,
        ),
    ] {
        assert_eq!(call(name, body).conversation, first.conversation, "{name} {body}");
    }
    let other = call("responses", r#"{"model":"m","input":"hé","instructions":"t"}"#);
    assert_ne!(other.conversation, first.conversation);
}
