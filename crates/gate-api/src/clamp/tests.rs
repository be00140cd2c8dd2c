//! Bodies before and after, as a table; and that any of them means afterwards what the call then says.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;

use super::{Clamps, CountUsage};
use crate::call::{Call, KeepAlive, Usage, Work, judge};
use crate::rejection::Rejection;
use crate::route::Route;

const OPEN: Clamps =
    Clamps { num_ctx: None, tokens: None, keep_alive: None, images: None, messages: None, count: CountUsage::No };
const CONTEXT: Clamps = Clamps { num_ctx: Some(8192), ..OPEN };
const TOKENS: Clamps = Clamps { tokens: Some(100), ..OPEN };
const KEEP: Clamps = Clamps { keep_alive: Some(Duration::from_secs(600)), ..OPEN };
const COUNT: Clamps = Clamps { count: CountUsage::Yes, ..OPEN };

/// The call that `clamps` leave, and the body to send if it is another.
fn clamped(route: &Route, body: &str, clamps: &Clamps) -> (Call, Option<String>) {
    let mut call = judge(route, body.as_bytes()).unwrap_or_else(|why| panic!("{route:?} {body}: {why}"));
    let changed = call.clamp(body.as_bytes(), clamps).unwrap_or_else(|why| panic!("{route:?} {body}: {why}"));
    (call, changed.map(|body| String::from_utf8(body).unwrap()))
}

fn check(route: &Route, clamps: &Clamps, before: &str, after: &str) {
    let (_, changed) = clamped(route, before, clamps);
    assert_eq!(changed.as_deref().unwrap_or(before), after, "{route:?} {clamps:?}");
    assert_eq!(changed.is_some(), before != after, "{route:?} {clamps:?} {before}");
}

#[test]
fn contexts() {
    let generate = |before: &str, after: &str| check(&Route::Generate, &CONTEXT, before, after);
    let same = |body: &str| generate(body, body);
    same(r#"{"model":"m","prompt":"x"}"#);
    same(r#"{"model":"m","options":{"num_ctx":8192}}"#);
    same(r#"{"model":"m","options":{"num_ctx":null}}"#);
    same(r#"{"model":"m","options":{"num_ctx":-5,"NUM_CTX":9000}}"#);
    same(r#"{"model":"m","num_ctx":9000}"#);
    generate(
        r#" {"model":"m", "Options" :{"a":"é", "num\u005fctx" : 8.193e3 ,"seed":1}} "#,
        r#" {"model":"m", "Options" :{"a":"é", "num\u005fctx" : 8192 ,"seed":1}} "#,
    );
    for route in [Route::Chat, Route::Embed, Route::Embeddings] {
        let (before, after) =
            (r#"{"model":"m","options":{"num_ctx":1e30}}"#, r#"{"model":"m","options":{"num_ctx":8192}}"#);
        check(&route, &CONTEXT, before, after);
    }
    check(
        &Route::Show,
        &CONTEXT,
        r#"{"model":"m","options":{"num_ctx":9000}}"#,
        r#"{"model":"m","options":{"num_ctx":9000}}"#,
    );
    let body = r#"{"model":"m","shift":true,"options":{"use_mmap":true,"num_ctx":9000,"num_batch":2}}"#;
    let (call, _) = clamped(&Route::Generate, body, &CONTEXT);
    assert_eq!((call.num_ctx, &*call.load_options), (Some(8192), "num_batch=2;num_ctx=8192;shift=true;use_mmap=true"));
}

#[test]
fn tokens_of_native_answers() {
    let generate = |before: &str, after: &str| check(&Route::Generate, &TOKENS, before, after);
    let same = |body: &str| generate(body, body);
    same(r#"{"model":"m","prompt":"x","options":{"num_predict":100}}"#);
    same(r#"{"model":"m","prompt":"x","options":{"num_predict":1}}"#);
    // Nothing is generated.
    same(r#"{"model":"m"}"#);
    generate(r#"{"model":"m","prompt":"x"}"#, r#"{"options":{"num_predict":100},"model":"m","prompt":"x"}"#);
    generate(
        r#"{"model":"m","prompt":"x","OPTIONS":null}"#,
        r#"{"model":"m","prompt":"x","OPTIONS":{"num_predict":100}}"#,
    );
    generate(
        r#"{"model":"m","prompt":"x","options":{ }}"#,
        r#"{"model":"m","prompt":"x","options":{"num_predict":100 }}"#,
    );
    generate(
        r#"{"model":"m","prompt":"{","options":{"seed":1}}"#,
        r#"{"model":"m","prompt":"{","options":{"num_predict":100,"seed":1}}"#,
    );
    for endless in ["101", "1e3", "0", "0.9", "-1", "-2", "null", "-1e30", "1e30"] {
        let before = format!(r#"{{"model":"m","messages":[{{}}],"options":{{"num_predict":{endless},"top_k":1}}}}"#);
        check(
            &Route::Chat,
            &TOKENS,
            &before,
            r#"{"model":"m","messages":[{}],"options":{"num_predict":100,"top_k":1}}"#,
        );
    }
    for route in [Route::Embed, Route::Embeddings] {
        let body = r#"{"model":"m","input":"x","prompt":"x","options":{"num_predict":-1}}"#;
        check(&route, &TOKENS, body, body);
    }
    let (call, _) = clamped(&Route::Generate, r#"{"model":"m","prompt":"abcd"}"#, &TOKENS);
    assert_eq!((call.tokens_asked, call.estimate(5000)), (Some(100), 101));
}

#[test]
fn tokens_of_other_dialects() {
    let chat = |fields: &str| format!(r#"{{"model":"m","messages":[{{"content":"x"}}]{fields}}}"#);
    let inserted = |name: &str, count: u32, body: &str| format!("{{\"{name}\":{count},{}", &body[1..]);
    let openai = |before: &str, after: &str| check(&Route::ChatCompletions, &TOKENS, &chat(before), &chat(after));
    let body = chat("");
    check(&Route::ChatCompletions, &TOKENS, &body, &inserted("max_tokens", 100, &body));
    openai(r#","max_tokens":100"#, r#","max_tokens":100"#);
    openai(r#","max_tokens":5,"max_completion_tokens":3"#, r#","max_tokens":5,"max_completion_tokens":3"#);
    for endless in ["101", "0", "-1", "null"] {
        openai(&format!(r#","Max_Tokens":{endless}"#), r#","Max_Tokens":100"#);
    }
    // Ollama does not read the newer name.
    for (asked, told) in [(3, 3), (100, 100), (101, 100)] {
        let body = chat(&format!(r#","max_completion_tokens":{asked}"#));
        check(&Route::ChatCompletions, &TOKENS, &body, &inserted("max_tokens", told, &body));
    }
    openai(r#","max_tokens":null,"max_completion_tokens":3"#, r#","max_tokens":3,"max_completion_tokens":3"#);
    let body = r#"{"model":"m","prompt":"x"}"#;
    check(&Route::Completions, &TOKENS, body, &inserted("max_tokens", 100, body));
    let body = r#" {"model":"m","input":"x"}"#;
    check(&Route::Responses, &TOKENS, body, r#" {"max_output_tokens":100,"model":"m","input":"x"}"#);
    check(
        &Route::Responses,
        &TOKENS,
        r#"{"model":"m","input":"x","max_output_tokens":1000}"#,
        r#"{"model":"m","input":"x","max_output_tokens":100}"#,
    );
    check(&Route::Messages, &TOKENS, &chat(r#","max_tokens":1000"#), &chat(r#","max_tokens":100"#));
    check(&Route::Messages, &TOKENS, &chat(r#","max_tokens":7"#), &chat(r#","max_tokens":7"#));
    let body = r#"{"model":"m","input":"x"}"#;
    check(&Route::V1Embeddings, &Clamps { count: CountUsage::Yes, ..TOKENS }, body, body);
}

#[test]
fn spans_in_memory() {
    let body = |value: &str| format!(r#"{{"model":"m","prompt":"x","keep_alive":{value}}}"#);
    for (before, after) in [
        ("600", "600"),
        ("\"5m\"", "\"5m\""),
        ("null", "null"),
        ("600.5", "\"600s\""),
        ("\"11m\"", "\"600s\""),
        ("-1", "\"600s\""),
        ("\"-1ns\"", "\"600s\""),
        ("0", "\"600s\""),
        ("\"0s\"", "\"600s\""),
    ] {
        for route in [Route::Generate, Route::Embeddings] {
            check(&route, &KEEP, &body(before), &body(after));
        }
    }
    let short = Clamps { keep_alive: Some(Duration::from_millis(1500)), ..OPEN };
    check(&Route::Embed, &short, r#"{"model":"m","keep_alive":9}"#, r#"{"model":"m","keep_alive":"1500000000ns"}"#);
    check(&Route::Completions, &KEEP, &body("-1"), &body("-1"));
    let (call, _) = clamped(&Route::Generate, r#"{"model":"m","keep_alive":0}"#, &KEEP);
    assert_eq!((call.work, call.keep_alive), (Work::Load, Some(KeepAlive::For(Duration::from_secs(600)))));
    let none = Clamps { keep_alive: Some(Duration::ZERO), ..OPEN };
    let (call, changed) = clamped(&Route::Chat, r#"{"model":"m","keep_alive":5}"#, &none);
    assert_eq!((call.work, changed.as_deref()), (Work::Unload, Some(r#"{"model":"m","keep_alive":"0s"}"#)));
    assert_eq!(clamped(&Route::Chat, r#"{"model":"m","keep_alive":0}"#, &none).1, None);
}

#[test]
fn usage_of_streams() {
    let chat = |fields: &str| format!(r#"{{"model":"m","messages":[{{"content":"x"}}],"stream":true{fields}}}"#);
    let openai = |before: &str, after: &str| check(&Route::ChatCompletions, &COUNT, &chat(before), &chat(after));
    let body = chat("");
    check(
        &Route::ChatCompletions,
        &COUNT,
        &body,
        &format!(r#"{{"stream_options":{{"include_usage":true}},{}"#, &body[1..]),
    );
    openai(r#","stream_options":null"#, r#","stream_options":{"include_usage":true}"#);
    openai(r#","stream_options":{}"#, r#","stream_options":{"include_usage":true}"#);
    openai(r#","stream_options":{"a":1}"#, r#","stream_options":{"include_usage":true,"a":1}"#);
    openai(r#","Stream_Options":{"INCLUDE_usage":false}"#, r#","Stream_Options":{"INCLUDE_usage":true}"#);
    openai(r#","stream_options":{"include_usage":null}"#, r#","stream_options":{"include_usage":true}"#);
    openai(r#","stream_options":{"include_usage":true}"#, r#","stream_options":{"include_usage":true}"#);
    for (route, body) in [
        (Route::ChatCompletions, r#"{"model":"m","messages":[{"content":"x"}]}"#),
        (Route::Completions, r#"{"model":"m","prompt":"x","stream":true}"#),
        (Route::Messages, r#"{"model":"m","messages":[{"content":"x"}],"stream":true,"max_tokens":1}"#),
    ] {
        check(&route, &COUNT, body, body);
    }
    assert_eq!(clamped(&Route::ChatCompletions, &chat(""), &COUNT).0.usage, Usage::Added);
    let asked = chat(r#","stream_options":{"include_usage":true}"#);
    assert_eq!(clamped(&Route::ChatCompletions, &asked, &COUNT).0.usage, Usage::Asked);
}

#[test]
fn too_many_are_refused_and_told() {
    let few = Clamps { images: Some(1), messages: Some(2), ..OPEN };
    let refusal = |body: &str| judge(&Route::Chat, body.as_bytes()).unwrap().clamp(body.as_bytes(), &few);
    assert_eq!(refusal(r#"{"model":"m","messages":[{},{"images":["AAAA"]}]}"#), Ok(None));
    let bad = |text: &str| Err(Rejection::BadRequest { text: text.into() });
    assert_eq!(
        refusal(r#"{"model":"m","messages":[{},{},{}]}"#),
        bad("the request has 3 messages, and this API key may send 2")
    );
    assert_eq!(
        refusal(r#"{"model":"m","messages":[{"images":["AAAA"]},{"images":["AAAA"]}]}"#),
        bad("the request has 2 images, and this API key may send 1")
    );
    for route in [Route::Embed, Route::V1Embeddings] {
        let embed = |body: &str| judge(&route, body.as_bytes()).unwrap().clamp(body.as_bytes(), &few);
        assert_eq!(embed(r#"{"model":"m","input":["a","b"]}"#), Ok(None));
        assert_eq!(
            embed(r#"{"model":"m","input":["a","","b"]}"#),
            bad("the request has 3 messages, and this API key may send 2")
        );
    }
}

/// Its places would point into another body.
#[test]
fn a_body_is_changed_once() {
    let body = br#"{"model":"m","prompt":"x"}"#;
    let mut call = judge(&Route::Generate, body).unwrap();
    assert_eq!(call.clamp(body, &OPEN), Ok(None));
    assert!(call.clamp(body, &TOKENS).unwrap().is_some());
    assert_eq!(call.clamp(body, &TOKENS), Err(Rejection::Internal));
}

/// What a call says, without the places in its body, and who asked for counts.
fn facts(call: &Call) -> Call {
    let usage = if call.usage == Usage::Added { Usage::Asked } else { call.usage };
    Call { edits: super::Edits::default(), usage, ..call.clone() }
}

fn number(span: impl Strategy<Value = i64>) -> impl Strategy<Value = String> {
    (span, 0..3).prop_map(|(number, spelling)| match spelling {
        0 => format!("{number}"),
        1 => format!("{number}.0"),
        _ => format!("{number}e0"),
    })
}

fn some<T: Strategy>(of: T) -> impl Strategy<Value = Option<T::Value>> {
    proptest::option::weighted(0.7, of)
}

/// Fields of a body; those that a route does not know are ignored by it.
fn fields() -> impl Strategy<Value = Vec<String>> {
    let whole = || (-3_i64..200).prop_map(|number| number.to_string());
    let or_null = |text: Option<String>| text.unwrap_or_else(|| "null".into());
    let options = (some(some(number(-3..200_i64))), some(some(number(-3..20_000_i64))), any::<bool>()).prop_map(
        move |(predict, context, seed)| {
            let mut options = Vec::new();
            options.extend(seed.then(|| r#""seed":1"#.to_owned()));
            options.extend(predict.map(|text| format!("\"num_predict\":{}", or_null(text))));
            options.extend(context.map(|text| format!("\"num_ctx\":{}", or_null(text))));
            format!("{{{}}}", options.join(","))
        },
    );
    let stream_options = select(&["{}", "{\"include_usage\":true}", "{\"a\":0,\"Include_Usage\":false}", "null"][..]);
    let keep_alive = select(&["0", "-1", "5", "\"1h\"", "null", "\"3s\""][..]);
    let texts = (some(some(options)), some(keep_alive), some(some(whole())), some(some(whole())));
    let rest = (some(whole()), some(stream_options), select(&["true", "false"][..]), any::<bool>());
    (texts, rest).prop_map(move |((options, keep, tokens, newer), (output, stream_options, stream, has_prompt))| {
        let mut fields = vec!["\"model\":\"m\"".to_owned(), format!("\"stream\":{stream}")];
        fields.extend(options.map(|text| format!("\"Options\":{}", or_null(text))));
        fields.extend(keep.map(|text| format!("\"keep_alive\":{text}")));
        fields.extend(tokens.map(|text| format!("\"max_tokens\":{}", or_null(text))));
        fields.extend(newer.map(|text| format!("\"max_completion_tokens\":{}", or_null(text))));
        fields.extend(output.map(|text| format!("\"max_output_tokens\":{text}")));
        fields.extend(stream_options.map(|text| format!("\"stream_options\":{text}")));
        fields.extend(has_prompt.then(|| "\"prompt\":\"{\\\"é\",\"input\":\"x\"".to_owned()));
        fields.extend(has_prompt.then(|| "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]".to_owned()));
        fields
    })
}

const ROUTES: [Route; 10] = [
    Route::Generate,
    Route::Chat,
    Route::Embed,
    Route::Embeddings,
    Route::ChatCompletions,
    Route::Completions,
    Route::V1Embeddings,
    Route::Responses,
    Route::Messages,
    Route::Show,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_changed_body_says_what_the_call_says(
        route in select(&ROUTES[..]),
        fields in fields().prop_shuffle(),
        blank in select(&["", " ", "\n"][..]),
        caps in (some(1..150_u64), some(0..20_000_u64), some(0..7_u64), any::<bool>()),
    ) {
        let body = format!("{blank}{{{blank}{}{blank}}}", fields.join(&format!("{blank},{blank}")));
        let Ok(before) = judge(&route, body.as_bytes()) else { return Ok(()) };
        let (tokens, num_ctx, keep, count) = caps;
        let count = if count { CountUsage::Yes } else { CountUsage::No };
        let clamps = Clamps { tokens, num_ctx, keep_alive: keep.map(Duration::from_secs), count, ..OPEN };
        let mut call = before.clone();
        let Some(changed) = call.clamp(body.as_bytes(), &clamps).unwrap() else {
            prop_assert_eq!(call, before);
            return Ok(());
        };
        let again = judge(&route, &changed).unwrap();
        let text = std::str::from_utf8(&changed).unwrap();
        prop_assert_eq!(facts(&again), facts(&call), "{:?} {} -> {}", route, body, text);
        // Nothing is above its cap, and a second look finds nothing to change.
        prop_assert_eq!(again.clone().clamp(&changed, &clamps), Ok(None), "{:?} {} -> {}", route, body, text);
        prop_assert!(again.work != Work::Infer || tokens.is_none_or(|cap| again.tokens_asked.is_some_and(|asked| asked <= cap)));
        prop_assert!(num_ctx.is_none_or(|cap| again.num_ctx.is_none_or(|asked| asked <= cap)));
        // Another reader finds no difference but in what clamps may touch.
        let rest = |body: &[u8]| {
            let mut value: Value = serde_json::from_slice(body).unwrap();
            let object = value.as_object_mut().unwrap();
            for name in ["Options", "options", "keep_alive", "max_tokens", "max_output_tokens", "stream_options"] {
                object.remove(name);
            }
            value
        };
        prop_assert_eq!(rest(&changed), rest(body.as_bytes()));
    }
}
