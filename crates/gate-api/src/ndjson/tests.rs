//! The line assembler against every way of cutting a stream.

use bytes::Bytes;
use proptest::prelude::*;

use super::{End, LINE_MAX, LineTooLong, Lines, error_line};

/// Two whole answers of a real Ollama, in their chunked framing.
const RECORDED: [&str; 2] =
    [include_str!("../../tests/ndjson/generate-stream.http"), include_str!("../../tests/ndjson/chat-stream.http")];

/// A stream in the same shape, for the small cases.
const STREAM: &str = "{\"model\":\"m:1\",\"response\":\"Hi\",\"done\":false}\n\
    {\"model\":\"m:1\",\"response\":\" 世界\",\"done\":false}\n\
    {\"model\":\"m:1\",\"response\":\"\",\"done\":true,\"done_reason\":\"stop\",\"context\":[2,7]}\n";

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
    for answer in RECORDED {
        let chunks = chunks(answer);
        let stream = chunks.concat();
        assert!(chunks.len() > 3, "it is a stream");
        assert_eq!(relay(chunks.iter().copied()), Ok((stream.clone(), End::Complete)));
        for size in [1, 7, 100, 4096] {
            assert_eq!(relay(stream.chunks(size)), Ok((stream.clone(), End::Complete)), "chunks of {size}");
        }
        let cut = &chunks[..chunks.len() - 1];
        assert_eq!(relay(cut.iter().copied()).unwrap().1, End::Cut { fragment: 0 }, "without its last chunk");
    }
}

fn relay<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<(Vec<u8>, End), LineTooLong> {
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
    check(STREAM, STREAM.len(), End::Complete);
    check("", 0, End::Cut { fragment: 0 });
    check("{\"done\":false}\n", 15, End::Cut { fragment: 0 });
    check("{\"done\":false}\n{\"done\":tr", 15, End::Cut { fragment: 10 });
    check("{\"done\":true}", 0, End::Cut { fragment: 13 });
    check("{\"done\":true}\n\n \r\n", 18, End::Complete);
    check("{\"done\":true}\r\n", 15, End::Complete);
    check("{ \"done\" : true }\n", 18, End::Complete);
    check("{\"done\":true}\n{\"x", 14, End::Complete);
    check("{\"done\":1}\n", 11, End::Cut { fragment: 0 });
    check("{\"done\":\"true\"}\n", 16, End::Cut { fragment: 0 });
    check("{\"message\":{\"done\":true}}\n", 26, End::Cut { fragment: 0 });
    check("{\"response\":\"\\\"done\\\":true\"}\n", 29, End::Cut { fragment: 0 });
    check("[{\"done\":true}]\n", 16, End::Cut { fragment: 0 });
    check("{\"done\":true} x\n", 16, End::Cut { fragment: 0 });
    check("{\"done\":false}\n{\"error\":\"boom\"}\n", 32, End::ErrorTold);
    check("{\"error\":\"boom\",\"done\":true}\n", 29, End::ErrorTold);
    check("{\"error\":null,\"done\":true}\n", 27, End::Complete);
    check("<html>\n", 7, End::Cut { fragment: 0 });
}

#[test]
fn a_chunk_that_ends_with_its_line_is_not_copied() {
    let chunk = Bytes::from_static(STREAM.as_bytes());
    let whole = Lines::default().push(chunk.clone()).unwrap();
    assert_eq!(whole.as_ptr(), chunk.as_ptr());
}

#[test]
fn a_line_has_a_longest() {
    let longest = vec![b'x'; LINE_MAX];
    let mut line = longest.clone();
    line.push(b'\n');
    for size in [1 << 12, LINE_MAX, LINE_MAX + 1] {
        assert_eq!(relay(line.chunks(size)).map(|(out, _)| out.len()), Ok(LINE_MAX + 1), "chunks of {size}");
    }
    line.insert(0, b'x');
    for size in [1 << 12, LINE_MAX, LINE_MAX + 2] {
        assert_eq!(relay(line.chunks(size)), Err(LineTooLong), "chunks of {size}");
    }
    assert_eq!(relay([&longest[..], b"x"]), Err(LineTooLong), "before its newline has come");
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

proptest! {
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
