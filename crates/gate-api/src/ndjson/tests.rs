//! The line assembler against every way of cutting a stream.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Lines, Tail, error_line};
use crate::frames::{End, FRAME_MAX, Stats, TooLong};

/// Two whole answers of a real Ollama, in their chunked framing.
const RECORDED: [&str; 2] =
    [include_str!("../../tests/ndjson/generate-stream.http"), include_str!("../../tests/ndjson/chat-stream.http")];

/// A stream in the same shape, for the small cases.
const STREAM: &str = "{\"model\":\"m:1\",\"response\":\"Hi\",\"done\":false}\n\
    {\"model\":\"m:1\",\"response\":\" 世界\",\"done\":false}\n\
    {\"model\":\"m:1\",\"response\":\"\",\"done\":true,\"done_reason\":\"stop\",\"context\":[2,7]}\n";

/// A good end of a backend that told nothing.
const COMPLETE: End = End::Complete { stats: Stats { load: None, prompt_tokens: None, tokens: None, eval: None } };

/// What the recorded answers end with.
fn recorded_stats() -> [Stats; 2] {
    let stats = |load, prompt_tokens, tokens, eval| Stats {
        load: Some(Duration::from_nanos(load)),
        prompt_tokens: Some(prompt_tokens),
        tokens: Some(tokens),
        eval: Some(Duration::from_nanos(eval)),
    };
    [stats(851_148_556, 12, 12, 167_092_313), stats(88_280_317, 13, 12, 149_260_687)]
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

#[test]
fn recorded_streams() {
    for (answer, stats) in RECORDED.into_iter().zip(recorded_stats()) {
        let chunks = chunks(answer);
        let stream = chunks.concat();
        let complete = End::Complete { stats };
        assert!(chunks.len() > 3, "it is a stream");
        assert_eq!(relay(chunks.iter().copied()), Ok((stream.clone(), complete)));
        for size in [1, 7, 100, 4096] {
            assert_eq!(relay(stream.chunks(size)), Ok((stream.clone(), complete)), "chunks of {size}");
        }
        let cut = &chunks[..chunks.len() - 1];
        assert_eq!(relay(cut.iter().copied()).unwrap().1, End::Cut { fragment: 0 }, "without its last chunk");
    }
}

fn relay<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<(Vec<u8>, End), TooLong> {
    let (mut lines, mut out) = (Lines::default(), Vec::new());
    for chunk in chunks {
        let whole = lines.push(Bytes::copy_from_slice(chunk))?;
        assert!(whole.is_empty() || whole.ends_with(b"\n"), "whole lines only");
        out.extend_from_slice(&whole);
    }
    Ok((out, lines.finish()))
}

#[test]
fn ends() {
    let check = |stream: &str, kept: usize, end: End| {
        let expected = (stream.as_bytes()[..kept].to_vec(), end);
        assert_eq!(relay([stream.as_bytes()]), Ok(expected.clone()), "{stream}");
        assert_eq!(relay(stream.as_bytes().chunks(1)), Ok(expected), "{stream} byte by byte");
    };
    check(STREAM, STREAM.len(), COMPLETE);
    check("", 0, End::Cut { fragment: 0 });
    check("{\"done\":false}\n", 15, End::Cut { fragment: 0 });
    check("{\"done\":false}\n{\"done\":tr", 15, End::Cut { fragment: 10 });
    check("{\"done\":true}", 0, End::Cut { fragment: 13 });
    check("{\"done\":true}\n\n \r\n", 18, COMPLETE);
    check("{\"done\":true}\r\n", 15, COMPLETE);
    check("{ \"done\" : true }\n", 18, COMPLETE);
    check("{\"done\":true}\n{\"x", 14, COMPLETE);
    check("{\"done\":1}\n", 11, End::Cut { fragment: 0 });
    check("{\"done\":\"true\"}\n", 16, End::Cut { fragment: 0 });
    check("{\"message\":{\"done\":true}}\n", 26, End::Cut { fragment: 0 });
    check("{\"response\":\"\\\"done\\\":true\"}\n", 29, End::Cut { fragment: 0 });
    check("[true,null]\n", 12, End::Cut { fragment: 0 });
    check("[true,null,1,1,1,1]\n", 20, End::Cut { fragment: 0 });
    check("{\"done\":true,\"eval_count\":1,\"eval_count\":2}\n", 44, COMPLETE);
    check("{\"done\":true,\"error\":\"boom\",\"eval_count\":1,\"eval_count\":2}\n", 59, End::ErrorTold);
    check("{\"done\":true,\"eval_count\":\"x\",\"load_duration\":{\"a\":[]}}\n", 56, COMPLETE);
    check("[{\"done\":true}]\n", 16, End::Cut { fragment: 0 });
    check("{\"done\":true} x\n", 16, End::Cut { fragment: 0 });
    check("{\"done\":false}\n{\"error\":\"boom\"}\n", 32, End::ErrorTold);
    check("{\"error\":\"boom\",\"done\":true}\n", 29, End::ErrorTold);
    check("{\"error\":null,\"done\":true}\n", 27, COMPLETE);
    check("<html>\n", 7, End::Cut { fragment: 0 });
}

#[test]
fn stats() {
    let nothing = Stats::default();
    let check = |line: &str, expected: Option<Stats>| assert_eq!(Stats::read(line.as_bytes()), expected, "{line}");
    let done = |members: &str, expected: Stats| check(&format!("{{{members},\"done\":true}}"), Some(expected));
    done(r#""x":1"#, nothing);
    done(r#""load_duration":1500000000"#, Stats { load: Some(Duration::from_millis(1500)), ..nothing });
    done(r#""eval_duration" : 1"#, Stats { eval: Some(Duration::from_nanos(1)), ..nothing });
    done(r#""prompt_eval_count":26"#, Stats { prompt_tokens: Some(26), ..nothing });
    done(r#""eval_count":0"#, Stats { tokens: Some(0), ..nothing });
    done(r#""eval_\u0063ount":7"#, Stats { tokens: Some(7), ..nothing });
    done(r#""eval_count":18446744073709551615"#, Stats { tokens: Some(u64::MAX), ..nothing });
    done(r#""load_duration":18446744073709551615"#, Stats { load: Some(Duration::from_nanos(u64::MAX)), ..nothing });
    let huge = format!("1{}", "0".repeat(400));
    for odd in ["null", "-1", "1.0", "1e3", "\"1\"", "true", "[1]", "{}", "18446744073709551616", &huge] {
        for key in ["load_duration", "prompt_eval_count", "eval_count", "eval_duration"] {
            done(&format!("\"{key}\":{odd}"), nothing);
        }
    }
    // Only of the answer itself, and of its own keys.
    done(r#""message":{"eval_count":7},"Eval_Count":7,"total_duration":7,"prompt_eval_duration":7"#, nothing);
    check(" {\"done\":true,\"context\":[1,2],\"eval_count\":7}\r\n", Some(Stats { tokens: Some(7), ..nothing }));
    for none in [
        "",
        " ",
        "{}",
        "null",
        "true",
        "{\"eval_count\":7}",
        "{\"done\":false,\"eval_count\":7}",
        "{\"done\":1,\"eval_count\":7}",
        "{\"done\":\"true\"}",
        "{\"done\":null}",
        "{\"Done\":true}",
        "{\"error\":\"boom\",\"done\":true,\"eval_count\":7}",
        "{\"done\":true,\"eval_count\":7",
        "{\"done\":true,\"done\":true}",
        "{\"done\":true}\n{\"done\":true}",
        "[true,null,1,1,1,1]",
    ] {
        check(none, None);
    }
    assert_eq!(Stats::read(b"{\"done\":true,\"eval_count\":\xff}"), None);
    assert_eq!(Stats::read("[".repeat(1 << 20).as_bytes()), None);
    let deep = format!("{{\"done\":true,\"eval_count\":{}}}", "[".repeat(1 << 20));
    assert_eq!(Stats::read(deep.as_bytes()), None);
}

#[test]
fn a_chunk_that_ends_with_its_line_is_not_copied() {
    let chunk = Bytes::from_static(STREAM.as_bytes());
    let whole = Lines::default().push(chunk.clone()).unwrap();
    assert_eq!(whole.as_ptr(), chunk.as_ptr());
}

#[test]
fn a_line_has_a_longest() {
    let longest = vec![b'x'; FRAME_MAX];
    let mut line = longest.clone();
    line.push(b'\n');
    for size in [1 << 12, FRAME_MAX, FRAME_MAX + 1] {
        assert_eq!(relay(line.chunks(size)).map(|(out, _)| out.len()), Ok(FRAME_MAX + 1), "chunks of {size}");
    }
    line.insert(0, b'x');
    for size in [1 << 12, FRAME_MAX, FRAME_MAX + 2] {
        assert_eq!(relay(line.chunks(size)), Err(TooLong), "chunks of {size}");
    }
    assert_eq!(relay([&longest[..], b"x"]), Err(TooLong), "before its newline has come");
}

#[test]
fn error_lines() {
    let check = |text: &str, line: &str| assert_eq!(error_line(text), line);
    check("boom", "{\"error\":\"boom\"}\n");
    check("a\n\"b\"\u{1f}世", "{\"error\":\"a\\n\\\"b\\\"\\u001f世\"}\n");
    check("\u{85}\u{2028}\u{2029}", "{\"error\":\"\\u0085\\u2028\\u2029\"}\n");
    let mut lines = Lines::default();
    lines.push(error_line("boom")).unwrap();
    assert_eq!(lines.finish(), End::ErrorTold);
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("{\"done\":true}\n".to_owned()),
        Just("{\"done\":false,\"response\":\"世\"}\n".to_owned()),
        Just("{\"error\":\"boom\"}\n".to_owned()),
        Just("\n".to_owned()),
        "[ -~é]{0,12}",
    ]
}

/// A member of an object: keys that are looked at and others, values of every kind, escapes and blanks.
fn member() -> impl Strategy<Value = String> {
    let key = prop::sample::select(
        &["done", "error", "status", "load_duration", "eval_count", "eval_\\u0063ount", "x", "Done"][..],
    );
    let value = prop::sample::select(
        &[
            "true",
            "null",
            "7",
            "0",
            "18446744073709551616",
            "-1",
            "1e3",
            "\"success\"",
            "{\"done\":[1]}",
            "[1,2]",
            "\"\\n\"",
        ][..],
    );
    (key, " ?", value).prop_map(|(key, blank, value)| format!("\"{key}\"{blank}:{blank}{value}"))
}

/// The tail as serde reads it, of a line whose keys come once each.
fn by_serde(line: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    serde_json::from_str(line).ok()
}

proptest! {
    /// With the keys once each, it is what a full reader says.
    #[test]
    fn a_tail_is_what_a_full_reader_finds(members in prop::collection::vec(member(), 0..6), cut in prop::option::of(0_usize..60)) {
        let mut line = format!("{{{}}}", members.join(","));
        line.truncate(cut.unwrap_or(line.len()));
        let tail = Tail::read(line.as_bytes());
        let Some(full) = by_serde(&line) else {
            prop_assert_eq!(tail, Tail::default());
            return Ok(());
        };
        prop_assume!(full.len() == members.len());
        let text = |key| full.get(key).filter(|value| !value.is_null());
        for (said, key) in [(tail.done, "done"), (tail.error, "error"), (tail.status, "status")] {
            let said: Option<serde_json::Value> = said.map(|said| serde_json::from_slice(said).unwrap());
            prop_assert_eq!(said.as_ref(), text(key));
        }
        let count = |key| full.get(key).and_then(serde_json::Value::as_u64);
        prop_assert_eq!(tail.stats.load.map(|load| load.as_nanos() as u64), count("load_duration"));
        prop_assert_eq!(tail.stats.tokens, count("eval_count"));
    }

    /// Any bytes, and a good line with some of its bytes replaced.
    #[test]
    fn whatever_comes_last_is_read(
        noise in proptest::collection::vec(any::<u8>(), 0..80),
        (at, with) in (0_usize..150, proptest::collection::vec(any::<u8>(), 0..4)),
    ) {
        const LAST: &str = "{\"done\":true,\"load_duration\":88280317,\"prompt_eval_count\":13,\"eval_count\":12,\
            \"eval_duration\":149260687}";
        let mut line = LAST.as_bytes().to_vec();
        let at = at.min(line.len());
        let end = (at + with.len()).min(line.len());
        line.splice(at..end, with);
        for bytes in [noise, line] {
            let read = Stats::read(&bytes);
            let mut lines = Lines::default();
            lines.push(Bytes::from([&bytes[..], b"\n"].concat())).unwrap();
            if let (End::Complete { stats }, false) = (lines.finish(), bytes.contains(&b'\n')) {
                prop_assert_eq!(read, Some(stats));
            }
        }
    }

    #[test]
    fn chunking_changes_nothing(
        lines in proptest::collection::vec(line(), 0..8),
        mut cuts in proptest::collection::vec(0_usize..200, 0..12),
    ) {
        let stream = lines.concat().into_bytes();
        cuts.push(stream.len());
        cuts.sort_unstable();
        let mut from = 0;
        let chunks: Vec<&[u8]> = cuts
            .iter()
            .map(|&cut| {
                let to = cut.min(stream.len()).max(from);
                let chunk = &stream[from..to];
                from = to;
                chunk
            })
            .collect();
        let kept = stream.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let whole = relay([&stream[..]]).unwrap();
        prop_assert_eq!(&whole.0, &stream[..kept]);
        prop_assert_eq!(relay(chunks).unwrap(), whole);
    }
}
