//! The event assembler against every way of cutting a stream, and every way in which one can end.

use bytes::Bytes;
use proptest::prelude::*;

use super::{Events, Family};
use crate::frames::{End, FRAME_MAX, Stats, Strip, TooLong};

/// A stream of chat completions with its counts.
const CHAT: [&str; 4] = [
    "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3,\"total_tokens\":8}}\n\n",
    "data: [DONE]\n\n",
];

/// What relaying gives: the bytes, how it ended and the frames counted.
type Relayed = Result<(String, End, u64), TooLong>;

fn relay<'a>((family, strip): (Family, Strip), chunks: impl IntoIterator<Item = &'a [u8]>) -> Relayed {
    let (mut events, mut out) = (Events::of(family, strip), Vec::new());
    for chunk in chunks {
        let whole = events.push(Bytes::copy_from_slice(chunk))?;
        assert!(whole.is_empty() || whole.ends_with(b"\n"), "whole events only");
        out.extend_from_slice(&whole);
    }
    Ok((String::from_utf8_lossy(&out).into_owned(), events.finish(), events.count()))
}

fn complete(prompt: u64, tokens: u64) -> End {
    let said = |count| (count > 0).then_some(count);
    End::Complete { stats: Stats { prompt_tokens: said(prompt), tokens: said(tokens), ..Stats::default() } }
}

const CUT: End = End::Cut { fragment: 0 };

/// A stream that passes as it is, whole and byte by byte.
fn check(family: Family, stream: &str, end: End) {
    for strip in [Strip::No, Strip::Yes] {
        for size in [stream.len().max(1), 1] {
            let (out, ended, _) = relay((family, strip), stream.as_bytes().chunks(size)).unwrap();
            let kept = match end {
                End::Cut { fragment } => &stream[..stream.len() - fragment],
                _ => stream,
            };
            assert_eq!((out.as_str(), ended), (kept, end), "{stream:?} in chunks of {size}");
        }
    }
}

#[test]
fn how_completions_end() {
    use Family::Completions;
    let [chunk, finish, _, done] = CHAT;
    check(Completions, &[chunk, finish, done].concat(), complete(0, 0));
    check(Completions, done, complete(0, 0));
    check(Completions, "data:[DONE]\r\n\r\n", complete(0, 0));
    check(Completions, "", CUT);
    check(Completions, chunk, CUT);
    check(Completions, "data: \"[DONE]\"\n\n", CUT);
    check(Completions, ": [DONE]\n\n", CUT);
    check(Completions, "event: [DONE]\n\n", CUT);
    check(Completions, "data: [DONE]\n", End::Cut { fragment: 13 });
    check(Completions, "data: [DONE]", End::Cut { fragment: 12 });
    // What Ollama makes of an error in the middle: an empty chunk, and the end.
    let swallowed = "data: {\"model\":\"\",\"choices\":[{\"delta\":{\"content\":\"\"},\"finish_reason\":null}]}\n\n";
    check(Completions, &[chunk, swallowed].concat(), CUT);
    let told = "data: {\"error\":{\"message\":\"boom\"}}\n\n";
    check(Completions, &[chunk, told].concat(), End::ErrorTold);
    check(Completions, &[chunk, told, done].concat(), End::ErrorTold);
    check(Completions, &[chunk, "event: error\ndata: boom\n\n"].concat(), End::ErrorTold);
    check(Completions, &[chunk, "data: {\"error\":null}\n\n", done].concat(), complete(0, 0));
}

#[test]
fn how_responses_end() {
    use Family::Responses;
    let last = |kind: &str| {
        format!(
            "event: {kind}\ndata: {{\"response\":{{\"error\":null,\"usage\":{{\"input_tokens\":5,\"output_tokens\":3}}}},\
             \"type\":\"{kind}\"}}\n\n"
        )
    };
    check(Responses, &last("response.completed"), complete(5, 3));
    check(Responses, &last("response.incomplete"), complete(5, 3));
    check(Responses, &last("response.failed"), End::ErrorTold);
    check(Responses, &last("error"), End::ErrorTold);
    for kind in ["response.created", "response.output_text.delta", "response.output_item.done", "response.complete"] {
        check(Responses, &last(kind), CUT);
    }
    // A delta after the last event would be no good end, yet says nothing of the end either.
    check(Responses, &[last("response.created"), last("response.output_text.delta")].concat(), CUT);
    check(Responses, "data: {\"type\":\"response.completed\",\"response\":{}}\n\n", complete(0, 0));
    check(Responses, "data: {\"type\":\"error\",\"error\":{\"message\":\"boom\"}}\n\n", End::ErrorTold);
    check(Responses, "data: [DONE]\n\n", CUT);
}

#[test]
fn how_messages_end() {
    use Family::Messages;
    let start = "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":0}}}\n\n";
    let delta = "event: content_block_delta\ndata: {\"delta\":{\"text\":\"Hi\"}}\n\n";
    let counts = "event: message_delta\ndata: {\"usage\":{\"input_tokens\":5,\"output_tokens\":3}}\n\n";
    let some = "event: message_delta\ndata: {\"usage\":{\"output_tokens\":3}}\n\n";
    let stop = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    check(Messages, &[start, delta, counts, stop].concat(), complete(5, 3));
    check(Messages, &[start, delta, some, stop].concat(), complete(9, 3));
    check(Messages, &[delta, some, stop].concat(), complete(0, 3));
    check(Messages, &[start, delta, counts].concat(), CUT);
    check(Messages, &[start, delta].concat(), CUT);
    check(Messages, "event: message_stop\n\n", CUT);
    check(Messages, &[start, "event: ping\ndata: {}\n\n", counts, stop].concat(), complete(5, 3));
    check(Messages, &[start, "event: error\ndata: {\"type\":\"error\"}\n\n"].concat(), End::ErrorTold);
    check(Messages, &[start, "event: error\ndata: {\"type\":\"error\"}\n\n", stop].concat(), End::ErrorTold);
}

#[test]
fn what_is_not_an_event_passes_and_says_nothing() {
    use Family::Completions;
    let [chunk, _, usage, done] = CHAT;
    for aside in [": waiting\n\n", "\n", "\r\n", "retry: 100\n\n", "id: 7\r\n\r\n", "event: x\n\n", "database: x\n\n"] {
        let stream = [aside, chunk, aside, done, aside].concat();
        let (out, end, count) = relay((Completions, Strip::Yes), [stream.as_bytes()]).unwrap();
        assert_eq!((out, end, count), (stream, complete(0, 0), 1));
        let stream = [chunk, aside, usage, aside, done].concat();
        let (out, end, _) = relay((Completions, Strip::Yes), stream.as_bytes().chunks(1)).unwrap();
        assert_eq!((out, end), ([chunk, aside, aside, done].concat(), complete(5, 3)));
    }
}

#[test]
fn counts_are_stripped_for_who_did_not_ask() {
    let [chunk, finish, usage, done] = CHAT;
    let spread =
        "id: 1\r\ndata: {\"choices\" : [ ],\r\ndata: \"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}\r\n\r\n";
    for (counts, taken) in [
        (usage, true),
        (spread, true),
        ("data: {\"choices\":[{\"delta\":{\"content\":\"the usage\"}}]}\n\n", false),
        ("data: {\"choices\":[{\"text\":\"\"}],\"usage\":{\"prompt_tokens\":0}}\n\n", false),
        ("data: {\"choices\":[],\"usage\":null}\n\n", false),
        ("data: {\"choices\":null,\"usage\":{}}\n\n", false),
        ("data: {\"usage\":{}}\n\n", false),
    ] {
        let stream = [chunk, finish, counts, done].concat();
        let left = if taken { [chunk, finish, done].concat() } else { stream.clone() };
        for size in [stream.len(), 1, 50] {
            let relayed = |strip| relay((Family::Completions, strip), stream.as_bytes().chunks(size)).unwrap();
            assert_eq!(relayed(Strip::No).0, stream);
            let (out, end, count) = relayed(Strip::Yes);
            assert_eq!((&out, count), (&left, if taken { 2 } else { 3 }), "{counts}");
            assert_eq!(end, relayed(Strip::No).1);
            assert_eq!(end, if taken { complete(5, 3) } else { complete(0, 0) });
        }
    }
}

#[test]
fn a_chunk_that_ends_with_its_event_is_not_copied() {
    let mut events = Events::of(Family::Completions, Strip::Yes);
    let chunk = Bytes::from(CHAT[..2].concat());
    let passed = events.push(chunk.clone()).unwrap();
    assert_eq!((passed.as_ptr(), passed.len()), (chunk.as_ptr(), chunk.len()));
}

#[test]
fn an_event_is_held_up_to_the_cap() {
    let event = |bytes: usize| format!("data: {}\n\n", "x".repeat(bytes - 8));
    let relayed = |stream: &str, size| relay((Family::Completions, Strip::No), stream.as_bytes().chunks(size));
    for size in [FRAME_MAX * 4, 65_536, 65_537] {
        assert!(relayed(&event(FRAME_MAX), size).is_ok(), "{size}");
        assert_eq!(relayed(&event(FRAME_MAX + 1), size), Err(TooLong), "{size}");
        assert_eq!(relayed(&[event(9), event(FRAME_MAX + 1), event(9)].concat(), size), Err(TooLong), "{size}");
        let many = [event(FRAME_MAX), event(FRAME_MAX), event(FRAME_MAX)].concat();
        assert!(relayed(&many, size).is_ok(), "{size}");
        assert_eq!(relayed(&"x".repeat(FRAME_MAX + 1), size), Err(TooLong), "{size}");
        let fragment = relayed(&"x".repeat(FRAME_MAX), size).unwrap().1;
        assert_eq!(fragment, End::Cut { fragment: FRAME_MAX });
    }
}

/// An event in pieces: the ends of its lines are drawn apart.
fn event() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "data: ?\\{\"choices\":\\[\\],\"usage\":\\{\"prompt_tokens\":[0-9]\\}\\}",
        "data: ?\\{\"choices\":\\[[a-z0-9]{0,3}\\]\\}",
        Just("data: [DONE]".to_owned()),
        Just("data".to_owned()),
        "data:[ -~é]{0,12}",
        "event: ?(message_stop|message_delta|response.completed|error|ping)",
        ":[ -~]{0,6}",
        "[a-z\r]{1,5}",
    ];
    let end = || prop_oneof![Just("\n"), Just("\r\n")];
    (proptest::collection::vec((line, end()), 0..4), end())
        .prop_map(|(lines, last)| lines.into_iter().map(|(line, end)| line + end).collect::<String>() + last)
}

/// The events of a stream, read line by line as the standard says; what is left is no event.
fn plainly(stream: &str) -> (Vec<String>, usize) {
    let (mut events, mut event) = (Vec::new(), String::new());
    for line in stream.split_inclusive('\n') {
        event.push_str(line);
        if line == "\n" || line == "\r\n" {
            events.push(std::mem::take(&mut event));
        }
    }
    (events, event.len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_cut_of_a_stream_gives_the_same(
        events in proptest::collection::vec(event(), 0..6),
        tail in "(data: [a-z]{0,4})?",
        cuts in proptest::collection::vec(0_usize..200, 0..12),
        family in prop_oneof![Just(Family::Completions), Just(Family::Responses), Just(Family::Messages)],
        strip in prop_oneof![Just(Strip::No), Just(Strip::Yes)],
    ) {
        let stream = events.concat() + &tail;
        let whole = relay((family, strip), [stream.as_bytes()]).unwrap();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|ends| &stream.as_bytes()[ends[0]..ends[1]]);
        prop_assert_eq!(&relay((family, strip), pieces).unwrap(), &whole);
        prop_assert_eq!(&relay((family, strip), stream.as_bytes().chunks(1)).unwrap(), &whole);

        let (read, left) = plainly(&stream);
        let is_counts = |event: &str| {
            let data: Vec<&str> = event.lines().filter_map(|line| line.strip_prefix("data")).collect();
            let data = data.iter().map(|data| data.trim_start_matches(':').trim_start()).collect::<Vec<_>>().join("\n");
            serde_json::from_str::<serde_json::Value>(&data).is_ok_and(|said| {
                said["choices"].as_array().is_some_and(Vec::is_empty) && !said["usage"].is_null()
            })
        };
        let strips = strip == Strip::Yes && family == Family::Completions;
        let passes = read.iter().filter(|event| !(strips && is_counts(event))).map(String::as_str);
        prop_assert_eq!(&whole.0, &passes.collect::<String>());
        if let End::Cut { fragment } = whole.1 {
            prop_assert_eq!(fragment, left);
        }
    }
}
