//! One line or event of a stream, with the time it was sent in the place of its token. Both ends agree on it here.

use nix::time::{ClockId, clock_gettime};

use crate::upstream::MODEL;

/// What comes before the time.
const MARK: &[u8] = b"\":\" the sky ";
/// Digits of the time: nanoseconds since boot in any `u64`.
const DIGITS: usize = 20;
/// What only a stream's last chunk has, of either shape.
const LAST: [&[u8]; 2] = [b"\"done\":true", b"\"finish_reason\":\"stop\""];

/// Whether more lines follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    Middle,
    End,
}

/// Nanoseconds on the clock that all processes of the machine share.
pub(crate) fn now_ns() -> u64 {
    // It can only fail for clocks that the kernel does not have; it has this one.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// What chunks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Lines of JSON, as Ollama's own routes send.
    Lines,
    /// Server-sent events, as its `OpenAI` routes send.
    Events,
}

impl Shape {
    const ALL: [Self; 2] = [Self::Lines, Self::Events];

    /// What it is called in arguments and tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lines => "lines",
            Self::Events => "events",
        }
    }

    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.name() == name)
    }

    /// Where it is asked for.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Lines => "/api/generate",
            Self::Events => "/v1/chat/completions",
        }
    }

    /// What a path is answered with.
    pub(crate) fn of_path(path: &str) -> Self {
        if path == Self::Events.path() { Self::Events } else { Self::Lines }
    }

    /// How it is asked for.
    pub(crate) fn body(self) -> String {
        match self {
            Self::Lines => format!(r#"{{"model":"{MODEL}","prompt":"Why is the sky blue?","stream":true}}"#),
            Self::Events => {
                let messages = r#"[{"role":"user","content":"Why is the sky blue?"}]"#;
                format!(r#"{{"model":"{MODEL}","messages":{messages},"stream":true}}"#)
            }
        }
    }

    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Events => "text/event-stream",
        }
    }

    /// What stands behind the last chunk, in a chunk of its own.
    pub(crate) fn terminator(self) -> &'static str {
        match self {
            Self::Lines => "",
            Self::Events => "data: [DONE]\n\n",
        }
    }

    /// Appends a chunk.
    pub(crate) fn write(self, out: &mut String, sent_ns: u64, place: Place) {
        use std::fmt::Write as _;
        let token = format_args!(" the sky {sent_ns:020} ");
        match self {
            Self::Lines => {
                let done = match place {
                    Place::Middle => "false",
                    Place::End => "true,\"done_reason\":\"stop\"",
                };
                writeln!(
                    out,
                    r#"{{"model":"{MODEL}","created_at":"2025-01-01T00:00:00.000000000Z","response":"{token}","done":{done}}}"#
                )
            }
            Self::Events => {
                let reason = match place {
                    Place::Middle => "null",
                    Place::End => "\"stop\"",
                };
                writeln!(
                    out,
                    r#"data: {{"id":"chatcmpl-573","object":"chat.completion.chunk","created":1735689600,"model":"{MODEL}","system_fingerprint":"fp_ollama","choices":[{{"index":0,"delta":{{"role":"assistant","content":"{token}"}},"finish_reason":{reason}}}]}}
"#
                )
            }
        }
        .ok(); // Writing to a String cannot fail.
    }
}

/// Reads a chunk back: when it was sent, and whether it is the last.
pub(crate) fn read(line: &[u8]) -> Option<(u64, Place)> {
    let at = find(line, MARK)? + MARK.len();
    let digits = std::str::from_utf8(line.get(at..at + DIGITS)?).ok()?;
    let is_last = LAST.iter().any(|last| find(line, last).is_some());
    Some((digits.parse().ok()?, if is_last { Place::End } else { Place::Middle }))
}

/// Where something begins.
pub(crate) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_have_the_length_of_real_ones_and_come_back() {
        for (shape, place, length) in [
            (Shape::Lines, Place::Middle, 127),
            (Shape::Lines, Place::End, 147),
            (Shape::Events, Place::Middle, 255),
            (Shape::Events, Place::End, 257),
        ] {
            let mut chunk = String::new();
            shape.write(&mut chunk, 1_234_567, place);
            assert_eq!(chunk.len(), length, "{chunk}");
            let json = chunk.strip_prefix("data: ").unwrap_or(&chunk);
            assert!(serde_json::from_str::<serde_json::Value>(json).is_ok(), "{chunk}");
            assert_eq!(json.len() < chunk.len() && chunk.ends_with("}\n\n"), shape == Shape::Events, "{chunk}");
            assert_eq!(read(chunk.as_bytes()), Some((1_234_567, place)));
        }
        assert_eq!(read(b"{\"response\":\" the sky 12\"}"), None);
        assert_eq!(read(b"HTTP/1.1 200 OK"), None);
    }

    #[test]
    fn shapes_are_asked_for_by_name_and_path() {
        for shape in Shape::ALL {
            assert_eq!(Shape::named(shape.name()), Some(shape));
            assert_eq!(Shape::of_path(shape.path()), shape);
            let body: serde_json::Value = serde_json::from_str(&shape.body()).unwrap();
            assert_eq!(body["stream"], true);
        }
        assert_eq!(Shape::named("words"), None);
    }

    #[test]
    fn the_clock_goes_on() {
        let before = now_ns();
        assert!(before > 0 && now_ns() >= before);
    }
}
