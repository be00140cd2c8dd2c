//! What a real Ollama sent on every route, passed on and counted; and what clients are told of a broken stream.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{End, Frames, Stats, Strip, error_frame, whole_stats};
use crate::rejection::{Breakage, Phase, Rejection};
use crate::route::Route;

macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../tests/ollama/", $name, ".http"))
    };
}

/// A recorded stream: its route, the tokens it counts, and the frames that bring one.
struct Stream {
    route: Route,
    answer: &'static str,
    tokens: Option<(u64, u64)>,
    count: u64,
}

fn streams() -> Vec<Stream> {
    let stream = |route, answer, tokens, count| Stream { route, answer, tokens, count };
    let chat = include_str!("../../tests/ndjson/chat-stream.http");
    let generate = include_str!("../../tests/ndjson/generate-stream.http");
    vec![
        stream(Route::Generate, generate, Some((12, 12)), 13),
        stream(Route::Chat, chat, Some((13, 12)), 13),
        stream(Route::ChatCompletions, recorded!("v1-chat-stream"), None, 13),
        stream(Route::ChatCompletions, recorded!("v1-chat-stream-usage"), Some((13, 12)), 14),
        stream(Route::Completions, recorded!("v1-completions-stream"), None, 9),
        stream(Route::Responses, recorded!("v1-responses-stream"), Some((12, 8)), 8),
        stream(Route::Messages, recorded!("v1-messages-stream"), Some((13, 8)), 8),
    ]
}

/// The chunks of a recorded answer's body.
fn chunks(answer: &'static str) -> Vec<&'static [u8]> {
    let mut rest = answer.split_once("\r\n\r\n").unwrap().1;
    let mut chunks = Vec::new();
    loop {
        let (size, tail) = rest.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return chunks;
        }
        chunks.push(&tail.as_bytes()[..size]);
        rest = &tail[size + 2..];
    }
}

fn relay<'a>(mut frames: Frames, chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, End, u64) {
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(&frames.push(Bytes::copy_from_slice(chunk)).unwrap());
    }
    (out, frames.finish(), frames.count())
}

/// What a stream ends with, its times left out.
fn tokens(end: End) -> Option<(Option<u64>, Option<u64>)> {
    let End::Complete { stats } = end else { return None };
    Some((stats.prompt_tokens, stats.tokens))
}

#[test]
fn recorded_streams_pass_byte_for_byte_on_every_route() {
    for Stream { route, answer, tokens: counts, count } in streams() {
        let chunks = chunks(answer);
        let whole = chunks.concat();
        let expected = (counts.map(|(prompt, _)| prompt), counts.map(|(_, tokens)| tokens));
        let frames = || Frames::of(&route, Strip::No);
        let (out, end, counted) = relay(frames(), chunks.iter().copied());
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&whole), "{route:?}");
        assert_eq!((tokens(end), counted), (Some(expected), count), "{route:?}");
        for size in [1, 7, 100, 65_536] {
            let (out, end, counted) = relay(frames(), whole.chunks(size));
            assert!(out == whole, "{route:?} in chunks of {size}");
            assert_eq!((tokens(end), counted), (Some(expected), count), "{route:?} in chunks of {size}");
        }
        for cut in 1..whole.len() - 1 {
            let (out, end, _) = relay(frames(), [&whole[..cut]]);
            assert_eq!(end, End::Cut { fragment: cut - out.len() }, "{route:?} cut at {cut}");
        }
    }
}

#[test]
fn the_counts_that_the_gate_asked_for_are_all_that_is_missing() {
    let asked = chunks(recorded!("v1-chat-stream-usage")).concat();
    let asked = String::from_utf8(asked).unwrap();
    let (before, rest) = asked
        .split_once(
            "data: {\"id\":\"chatcmpl-158\",\"object\":\"chat.completion.chunk\",\
         \"created\":1795427950,\"model\":\"gemma3:270m\",\"system_fingerprint\":\"fp_ollama\",\"choices\":[],",
        )
        .unwrap();
    let expected = before.to_owned() + rest.split_once("\n\n").unwrap().1;
    for size in [1, 7, 65_536] {
        let frames = Frames::of(&Route::ChatCompletions, Strip::Yes);
        let (out, end, count) = relay(frames, asked.as_bytes().chunks(size));
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!((tokens(end), count), (Some((Some(13), Some(12))), 13));
    }
    for Stream { route, answer, count, .. } in streams().into_iter().filter(|stream| stream.count != 14) {
        let whole = chunks(answer).concat();
        let (out, _, counted) = relay(Frames::of(&route, Strip::Yes), [&whole[..]]);
        assert!(out == whole && counted == count, "{route:?}");
    }
}

#[test]
fn progress_ends_with_success() {
    for route in [Route::Pull, Route::Push, Route::Create] {
        let check = |stream: &str, end: End| {
            let (out, ended, _) = relay(Frames::of(&route, Strip::No), [stream.as_bytes()]);
            assert_eq!((out, ended), (stream.as_bytes().to_vec(), end), "{stream}");
        };
        let complete = End::Complete { stats: Stats::default() };
        check("{\"status\":\"pulling manifest\"}\n{\"status\":\"success\"}\n", complete);
        check("{\"status\":\"pulling manifest\"}\n", End::Cut { fragment: 0 });
        check("{\"done\":true}\n", End::Cut { fragment: 0 });
        check("{\"status\":\"success\",\"error\":\"boom\"}\n", End::ErrorTold);
        check("{\"error\":\"pull model manifest: file does not exist\"}\n", End::ErrorTold);
    }
    let (_, end, _) = relay(Frames::of(&Route::Chat, Strip::No), [&b"{\"status\":\"success\"}\n"[..]]);
    assert_eq!(end, End::Cut { fragment: 0 });
}

fn body(answer: &str) -> &[u8] {
    answer.split_once("\r\n\r\n").unwrap().1.as_bytes()
}

#[test]
fn whole_answers_say_their_counts() {
    let check = |route: Route, body: &[u8], expected: Option<(Option<u64>, Option<u64>)>| {
        let stats = whole_stats(&route, body);
        assert_eq!(stats.map(|stats| (stats.prompt_tokens, stats.tokens)), expected, "{route:?}");
    };
    let both = |prompt, tokens| Some((Some(prompt), Some(tokens)));
    check(Route::Generate, body(recorded!("generate-once")), both(12, 12));
    check(Route::ArticleBody, body(recorded!("generate-once")), both(12, 12));
    check(Route::Chat, body(recorded!("chat-once")), both(13, 12));
    check(Route::ChatCompletions, body(recorded!("v1-chat-once")), both(13, 12));
    check(Route::Completions, body(recorded!("v1-completions-once")), both(12, 8));
    check(Route::Responses, body(recorded!("v1-responses-once")), both(12, 8));
    check(Route::Messages, body(recorded!("v1-messages-once")), both(13, 8));
    let embed =
        br#"{"model":"e:1","embeddings":[[0.6,0.8]],"total_duration":9,"load_duration":1,"prompt_eval_count":2}"#;
    check(Route::Embed, embed, Some((Some(2), None)));
    assert_eq!(whole_stats(&Route::Embed, embed).unwrap().load, Some(Duration::from_nanos(1)));
    let v1 =
        br#"{"object":"list","data":[{"object":"embedding","embedding":[1],"index":0}],"usage":{"prompt_tokens":2}}"#;
    check(Route::V1Embeddings, v1, Some((Some(2), None)));
    check(Route::V1Embeddings, br#"{"usage":{"prompt_tokens":0,"total_tokens":0}}"#, Some((None, None)));
    check(Route::V1Embeddings, br#"{"usage":[2]}"#, Some((None, None)));
    check(Route::V1Embeddings, br#"["usage",null,null,{"prompt_tokens":2}]"#, None);
    check(Route::V1Embeddings, br#"{"error":{"message":"boom"}}"#, None);
    check(Route::Embed, br#"{"error":"boom"}"#, None);
    check(Route::Embeddings, br#"{"embedding":[1]}"#, None);
    check(Route::Show, b"{}", None);
    check(Route::ChatCompletions, b"<html>", None);
}

/// The frame that tells of `why`, as its client reads it: the event's name and the JSON.
fn told(route: &Route, why: &Rejection) -> (Option<String>, Value) {
    let frame = String::from_utf8(error_frame(route, why, (Some("job-7"), 4)).to_vec()).unwrap();
    if let Some(line) = frame.strip_suffix('\n').filter(|line| !line.contains('\n')) {
        return (None, serde_json::from_str(line).unwrap());
    }
    let event = frame.strip_suffix("\n\n").unwrap();
    let (name, data) = event.split_once('\n').map_or((None, event), |(name, data)| (Some(name), data));
    let name = name.map(|name| name.strip_prefix("event: ").unwrap().to_owned());
    (name, serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap())
}

#[test]
fn a_broken_stream_is_ended_in_its_own_dialect() {
    let why = Rejection::BackendTimeout { phase: Phase::BetweenChunks, after: Duration::from_secs(30) };
    let text = "Ollama sent nothing more within 30 s (chunk_timeout)";
    let error = json!({"message": text, "type": "api_error", "param": null, "code": null});
    for route in [Route::Generate, Route::Chat, Route::Pull, Route::Create] {
        assert_eq!(told(&route, &why), (None, json!({"error": text})));
    }
    for route in [Route::ChatCompletions, Route::Completions] {
        assert_eq!(told(&route, &why), (None, json!({"error": error})));
    }
    let event = json!({"type": "error", "sequence_number": 4, "code": "server_error", "message": text, "param": null,
        "error": error});
    assert_eq!(told(&Route::Responses, &why), (Some("error".to_owned()), event));
    let event = json!({"type": "error", "error": {"type": "timeout_error", "message": text},
        "request_id": "job-7"});
    assert_eq!(told(&Route::Messages, &why), (Some("error".to_owned()), event));
}

#[test]
fn a_cut_stream_with_its_error_frame_is_one_that_told() {
    let why = Rejection::BackendBroken { what: Breakage::ClosedEarly, cause: "10.9.8.7".into() };
    for Stream { route, answer, .. } in streams() {
        let chunks = chunks(answer);
        let mut frames = Frames::of(&route, Strip::No);
        frames.push(Bytes::from_static(chunks[0])).unwrap();
        assert_eq!(frames.finish(), End::Cut { fragment: 0 });
        if route == Route::Responses {
            assert!(chunks[0].starts_with(b"event: "));
            let numbered = String::from_utf8_lossy(chunks[0]).matches("\"sequence_number\":").count();
            assert_eq!(frames.sequence(), numbered as u64);
        }
        let frame = error_frame(&route, &why, (None, frames.sequence()));
        assert!(!String::from_utf8_lossy(&frame).contains("10.9.8.7"));
        assert_eq!(frames.push(frame.clone()).unwrap(), frame, "{route:?}: it is whole");
        assert_eq!(frames.finish(), End::ErrorTold, "{route:?}");
    }
}

proptest! {
    #[test]
    fn an_error_frame_is_one_frame_whatever_the_text(text in "\\PC{0,20}[\n\r\u{85}\u{2028}\u{2029}]?\\PC{0,5}") {
        let why = Rejection::BadRequest { text: text.clone() };
        for route in [Route::Chat, Route::ChatCompletions, Route::Responses, Route::Messages] {
            let frame = String::from_utf8(error_frame(&route, &why, (None, 0)).to_vec()).unwrap();
            let odd = ['\r', '\u{85}', '\u{2028}', '\u{2029}'];
            prop_assert!(!frame.contains(odd), "{:?}", frame);
            let (_, said) = told(&route, &why);
            let message = said["error"].get("message").unwrap_or(&said["error"]);
            prop_assert_eq!(message.as_str(), Some(text.as_str()));
        }
    }
}
