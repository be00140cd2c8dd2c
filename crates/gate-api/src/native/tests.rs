//! Bodies against Ollama's own verdicts, recorded by running its request types over them, and a table of our own.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::{KeepAlive, chat, generate, listed_as};
use crate::call::{Call, Source, Stream, Work};
use crate::rejection::{Denial, Rejection};

mod same;

/// `{"route", "body", "go": {"status", "error" | "model", "stream", "work", "keep"}}` a line: what Ollama 0.24.0's types and
/// rules, built with Go 1.26, make of a body. Faults that Ollama finds only with the model at hand have status 400.
const RECORDED: &str = include_str!("../../tests/native/ollama-0.24.jsonl");

/// Where the gate refuses what Ollama takes, since two readers could differ.
const STRICTER: [&str; 4] =
    ["is given more than once", "after top-level value", "keep_alive is out of range", "exceeded max depth"];

fn judge(route: &str, body: &[u8]) -> Result<Call, Rejection> {
    if route == "chat" { chat(body) } else { generate(body) }
}

/// The verdict in the form of the recording.
fn verdict(route: &str, body: &[u8]) -> Value {
    match judge(route, body) {
        Ok(call @ Call { source: Source::Local, .. }) => {
            let keep = call.keep_alive.map(|keep| match keep {
                KeepAlive::Forever => i64::MAX,
                KeepAlive::For(span) => i64::try_from(span.as_nanos()).unwrap(),
            });
            let work = match call.work {
                Work::Infer => "infer",
                Work::Load => "load",
                Work::Unload => "unload",
                Work::Store => "store",
            };
            serde_json::json!({
                "status": 200, "model": call.model, "stream": call.stream == Stream::Yes, "work": work, "keep": keep,
            })
        }
        // The recording keeps clouds closed, which is the policy's business now.
        Ok(Call { source: Source::Cloud, .. }) | Err(Rejection::Denied { .. }) => serde_json::json!({"status": 403}),
        Err(rejection) => {
            let terms = rejection.terms();
            serde_json::json!({"status": terms.status, "error": terms.public})
        }
    }
}

#[test]
fn recorded_verdicts() {
    let (mut same, mut differ) = (0, Vec::new());
    for line in RECORDED.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (route, body) = (case["route"].as_str().unwrap(), case["body"].as_str().unwrap());
        let ours = verdict(route, body.as_bytes());
        if ours == case["go"] {
            same += 1;
        } else if !STRICTER.iter().any(|text| ours["error"].as_str().is_some_and(|error| error.contains(text))) {
            differ.push(format!("{route} {body:?}\n  ours {ours}\n  go   {}", case["go"]));
        }
    }
    assert!(differ.is_empty(), "{} differ, {same} agree:\n{}", differ.len(), differ.join("\n"));
    assert!(same > 500, "only {same} cases agree");
}

fn refusal(route: &str, body: &str) -> (u16, String) {
    let rejection = judge(route, body.as_bytes()).expect_err(body);
    let terms = rejection.terms();
    (terms.status, terms.public.into_owned())
}

#[test]
fn ambiguous_bodies() {
    for body in [
        r#"{"model":"ok","MODEL":"forbidden"}"#,
        r#"{"model":"ok","model":"ok"}"#,
        r#"{"model":"ok","mod\u0065l":"forbidden"}"#,
        r#"{"model":"ok","stream":false,"ſtream":true}"#,
        "{\"model\":\"ok\",\"keep_alive\":0,\"\u{212a}eep_alive\":-1}",
        r#"{"model":"ok","options":{"num_ctx":1},"Options":{}}"#,
        r#"{"model":"ok","options":{"num_ctx":1,"num_ctx":2}}"#,
        r#"{"model":"ok","stream":null,"stream":false}"#,
    ] {
        let (status, text) = refusal("generate", body);
        assert_eq!(status, 400, "{body}");
        assert!(text.contains("is given more than once"), "{body}: {text}");
    }
    let (_, text) = refusal("chat", r#"{"model":"m","messages":[{"role":"a","ROLE":"b"}]}"#);
    assert!(text.contains("\"role\" is given more than once"), "{text}");
    assert_eq!(refusal("generate", r#"{"model":"m"} {"model":"n"}"#).1, "invalid character '{' after top-level value");
    assert!(generate(br#"{"model":"m","x":1,"x":2,"options":{"NUM_CTX":1,"num_ctx":2}}"#).is_ok());
    for body in [&b"{\"model\":\"m\xff\"}"[..], b"\xff", b"{\"model\":\"m\"}\xc3"] {
        let text = generate(body).unwrap_err().to_string();
        assert!(text.starts_with("the body is not UTF-8 at byte "), "{text}");
    }
}

#[test]
fn closed_models_and_prompts() {
    for name in ["m:cloud", " m:1-Cloud\\n", "m\\u003acLOUD", "h/n/m:cloud", "m: cloud"] {
        let body = format!(r#"{{"MODEL":"{name}"}}"#);
        for route in ["generate", "chat"] {
            assert_eq!(judge(route, body.as_bytes()).unwrap().source, Source::Cloud, "{route} {name}");
        }
    }
    let shown = chat(br#"{"model":"m","_DEBUG_render_only":true}"#).unwrap_err();
    assert_eq!(shown, Rejection::Denied { what: Denial::DebugRender });
    assert!(chat(br#"{"model":"m-cloud:1","_debug_render_only":false}"#).is_ok());
}

#[test]
fn calls() {
    let call = |body: &str| generate(body.as_bytes()).expect(body);
    let full = call(r#"{"Model":" Lib/M:local ","prompt":"hi","stream":false,"keep_alive":"1m30s"}"#);
    let Call { model, stream, work, keep_alive, load_options, conversation, .. } = full;
    assert_eq!((&*model, stream, work), ("Lib/M", Stream::No, Work::Infer));
    assert_eq!((keep_alive, &*load_options), (Some(KeepAlive::For(Duration::from_secs(90))), ""));
    assert_ne!(conversation, 0);
    assert_eq!(call(r#"{"model":"m"}"#).work, Work::Load);
    assert_eq!(call(r#"{"model":"m"}"#).stream, Stream::Yes);
    assert_eq!(call(r#"{"model":"m","keep_alive":0}"#).work, Work::Unload);
    assert_eq!(call(r#"{"model":"m","keep_alive":0,"prompt":"x"}"#).work, Work::Infer);
    assert_eq!(call(r#"{"model":"m","keep_alive":-0.5}"#).keep_alive, Some(KeepAlive::Forever));
    assert_eq!(chat(br#"{"model":"m","messages":[ ],"keep_alive":"0s"}"#).unwrap().work, Work::Unload);
    assert_eq!(chat(br#"{"model":"m","messages":[null]}"#).unwrap().work, Work::Infer);
    assert_eq!(refusal("generate", r#"{"model":"m","keep_alive":1e10}"#).0, 400);
}

#[test]
fn names_are_listed_in_one_form() {
    for (name, listed) in [
        ("m", "m:latest"),
        ("Library/M:1B", "m:1b"),
        ("registry.ollama.ai/library/m", "m:latest"),
        ("registry.ollama.ai/n/m", "n/m:latest"),
        ("h:80/library/m", "h:80/library/m:latest"),
        ("http://h/n/m:t", "h/n/m:t"),
        ("REGISTRY.ollama.ai/Library/M", "m:latest"),
        ("library/library/m", "library/m:latest"),
    ] {
        assert_eq!(listed_as(name), listed, "{name}");
    }
}

/// Bodies built to exhaust a reader: deep, long, or both.
#[test]
fn hostile_bodies() {
    const SIZE: usize = 8 << 20;
    let nested = |open: &str, close: &str, depth: usize| {
        format!(r#"{{"model":"m","x":{}1{}}}"#, open.repeat(depth), close.repeat(depth))
    };
    assert!(generate(nested("[", "]", 100).as_bytes()).is_ok());
    assert!(generate(nested("[{\"a\":", "}]", 255).as_bytes()).is_ok());
    assert!(generate(nested("[", "]", 511).as_bytes()).is_ok());
    assert_eq!(refusal("generate", &nested("[", "]", 512)).1, "invalid character '[' exceeded max depth");
    assert_eq!(refusal("chat", &"[".repeat(SIZE)).1, "invalid character '[' exceeded max depth");
    assert_eq!(refusal("chat", &"{\"a\":".repeat(SIZE / 5)).1, "invalid character '{' exceeded max depth");
    assert_eq!(refusal("chat", &" ".repeat(SIZE)).1, "missing request body");
    let digits = |count: usize| format!(r#"{{"model":"m","x":{}}}"#, "1".repeat(count));
    assert!(generate(digits(1024).as_bytes()).is_ok());
    assert_eq!(refusal("generate", &digits(1025)).1, "a number in the body is over 1024 characters");
    for filler in ["\\\"", "日本", "\\ud83d\\ude00", "]}", "aaaa"] {
        let prompt = filler.repeat(SIZE / filler.len());
        assert!(generate(format!(r#"{{"prompt":"{prompt}","model":"m"}}"#).as_bytes()).is_ok(), "{filler}");
        let body = format!(r#"{{"model":"{prompt}","format":"{prompt}"}}"#);
        let (status, text) = refusal("generate", &body);
        assert!(status == 400 && text.len() < 2000, "{filler}: {status}, {} bytes", text.len());
    }
    let many = format!(r#"{{"model":"m","messages":[{}null]}}"#, "{\"role\":\"user\"},".repeat(SIZE / 16));
    assert!(chat(many.as_bytes()).is_ok());
}

proptest! {
    #[test]
    fn any_bytes_are_answered(body in proptest::collection::vec(any::<u8>(), 0..60)) {
        for refused in [generate(&body), chat(&body)].into_iter().filter_map(Result::err) {
            prop_assert!((400..405).contains(&refused.terms().status), "{}", refused);
        }
    }

    /// Mutations of valid bodies: whatever passes is JSON by another reader's verdict too.
    #[test]
    fn what_passes_is_json(
        (at, len) in (0_usize..200, 0_usize..4),
        with in "[\\[\\]{}:,\"\\\\u0-9a-e \n.+-]{0,4}",
        line in 0_usize..1000,
    ) {
        let line = RECORDED.lines().nth(line).unwrap();
        let case: Value = serde_json::from_str(line).unwrap();
        let mut body: Vec<char> = case["body"].as_str().unwrap().chars().collect();
        let at = at.min(body.len());
        let end = (at + len).min(body.len());
        body.splice(at..end, with.chars());
        let body: String = body.into_iter().collect();
        for route in ["generate", "chat"] {
            if judge(route, body.as_bytes()).is_ok() {
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&body).is_ok(), "{}", body);
            }
        }
    }

    /// No spelling of a second `model` gets past the first.
    #[test]
    fn a_second_model_never_passes(
        upper in proptest::collection::vec(any::<bool>(), 5),
        escaped in proptest::collection::vec(any::<bool>(), 5),
        is_first in any::<bool>(),
    ) {
        let mut key = String::new();
        for ((letter, upper), escaped) in "model".chars().zip(upper).zip(escaped) {
            let letter = if upper { letter.to_ascii_uppercase() } else { letter };
            let spelled = if escaped { format!("\\u{:04x}", u32::from(letter)) } else { letter.to_string() };
            key.push_str(&spelled);
        }
        let (one, two) = (format!("\"{key}\":\"a\""), "\"model\":\"b\"".to_owned());
        let body = if is_first { format!("{{{one},{two}}}") } else { format!("{{{two},{one}}}") };
        prop_assert!(generate(body.as_bytes()).is_err() && chat(body.as_bytes()).is_err(), "{}", body);
    }
}
