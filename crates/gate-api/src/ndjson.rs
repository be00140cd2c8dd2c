//! Streams of JSON lines on their way through: whole lines only, unchanged.
//!
//! [`Lines`] takes a backend's chunks and gives back the whole lines in them, without a copy where a chunk ends with its
//! line. It does not read the lines, apart from a look at the last one when the stream ends: there stand [`Stats`].
//!
//! Invariant: what was given back, joined, is what came in up to a line's end, however it was cut into chunks.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use memchr::memrchr;
use serde::Deserialize;
use serde_json::value::RawValue;

#[cfg(test)]
mod tests;

/// The longest line, its newline not counted: what a stream may make the gate hold. A line is a token and some
/// metadata, the last one also the tokens of the context: at 7 bytes each this is room for 149,000 of them.
pub const LINE_MAX: usize = 1 << 20;

/// Chunks in, whole lines out.
#[derive(Debug, Default)]
pub struct Lines {
    /// The beginning of a line whose end has not come, at most [`LINE_MAX`] bytes.
    unfinished: BytesMut,
    /// The last whole line that is not blank.
    last: Bytes,
}

/// A line is over [`LINE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineTooLong;

impl fmt::Display for LineTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a line of the stream is over {LINE_MAX} bytes")
    }
}

impl std::error::Error for LineTooLong {}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The last line says `"done":true`.
    Complete {
        /// What else it says.
        stats: Stats,
    },
    /// The last line is an error, so the client was told.
    ErrorTold,
    /// The stream just stopped.
    Cut {
        /// Bytes of an unfinished line, which were dropped.
        fragment: usize,
    },
}

/// What a backend says of its work when it is done. It leaves out what is zero or unknown, so what is missing here is not
/// known to be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// How long loading the model took; next to nothing where it was loaded.
    pub load: Option<Duration>,
    /// Tokens of the prompt that were evaluated.
    pub prompt_tokens: Option<u64>,
    /// Tokens that were generated.
    pub tokens: Option<u64>,
    /// How long generating them took.
    pub eval: Option<Duration>,
}

impl Stats {
    /// Reads the last line of a stream, or a whole answer; none if it does not say `"done":true`, or tells of an error.
    /// A number that is no whole one, or does not fit, counts as missing.
    pub fn read(last_line: &[u8]) -> Option<Self> {
        match Tail::read(last_line) {
            Tail { error: None, done: Some(done), stats } if done.get() == "true" => Some(stats),
            _ => None,
        }
    }
}

impl Lines {
    /// The whole lines that `chunk` completes, newlines included; empty if it completes none.
    ///
    /// # Errors
    /// [`LineTooLong`]; the lines of this chunk are lost, so the stream must end there.
    pub fn push(&mut self, mut chunk: Bytes) -> Result<Bytes, LineTooLong> {
        let Some(end) = memrchr(b'\n', &chunk) else {
            self.hold(&chunk)?;
            return Ok(Bytes::new());
        };
        let whole = chunk.split_to(end + 1);
        let whole = if self.unfinished.is_empty() {
            whole
        } else {
            self.unfinished.extend_from_slice(&whole);
            self.unfinished.split().freeze()
        };
        self.look_at(&whole)?;
        self.hold(&chunk)?;
        Ok(whole)
    }

    /// How the stream ended, now that nothing more comes.
    pub fn finish(self) -> End {
        match Tail::read(&self.last) {
            Tail { error: Some(_), .. } => End::ErrorTold,
            Tail { done: Some(done), stats, .. } if done.get() == "true" => End::Complete { stats },
            _ => End::Cut { fragment: self.unfinished.len() },
        }
    }

    fn hold(&mut self, rest: &[u8]) -> Result<(), LineTooLong> {
        if self.unfinished.len() + rest.len() > LINE_MAX {
            return Err(LineTooLong);
        }
        self.unfinished.extend_from_slice(rest);
        Ok(())
    }

    /// Remembers the last of some whole lines, and holds each to the cap.
    fn look_at(&mut self, whole: &Bytes) -> Result<(), LineTooLong> {
        let is_too_long = |line: &[u8]| line.len() > LINE_MAX;
        if is_too_long(whole) && whole.split(|&byte| byte == b'\n').any(is_too_long) {
            return Err(LineTooLong);
        }
        // From the end, since it is nearly always the only one.
        let mut lines = &whole[..];
        while let Some((_newline, rest)) = lines.split_last() {
            let start = memrchr(b'\n', rest).map_or(0, |newline| newline + 1);
            let line = &rest[start..];
            if !line.trim_ascii().is_empty() {
                self.last = whole.slice_ref(line);
                break;
            }
            lines = &lines[..start];
        }
        Ok(())
    }
}

/// What a last line is looked at for.
#[derive(Default)]
struct Tail<'a> {
    done: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
    stats: Stats,
}

/// The keys of a last line, as they are borrowed from it.
#[derive(Deserialize)]
struct Keys<'a> {
    #[serde(borrow)]
    done: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    load_duration: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt_eval_count: Option<&'a RawValue>,
    #[serde(borrow)]
    eval_count: Option<&'a RawValue>,
    #[serde(borrow)]
    eval_duration: Option<&'a RawValue>,
}

/// The keys that say how a stream ended.
#[derive(Deserialize)]
struct EndKeys<'a> {
    #[serde(borrow)]
    done: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

impl<'a> Tail<'a> {
    /// What `line` says; nothing if it is no object of JSON.
    fn read(line: &'a [u8]) -> Self {
        // An array's items would be taken for the keys in their order.
        if line.trim_ascii_start().first() != Some(&b'{') {
            return Self::default();
        }
        if let Ok(keys) = serde_json::from_slice::<Keys<'a>>(line) {
            let whole = |value: Option<&RawValue>| value?.get().parse::<u64>().ok();
            let stats = Stats {
                load: whole(keys.load_duration).map(Duration::from_nanos),
                prompt_tokens: whole(keys.prompt_eval_count),
                tokens: whole(keys.eval_count),
                eval: whole(keys.eval_duration).map(Duration::from_nanos),
            };
            return Self { done: keys.done, error: keys.error, stats };
        }
        // A count given twice says nothing, yet the stream ended as well as it did.
        match serde_json::from_slice::<EndKeys<'a>>(line) {
            Ok(EndKeys { done, error }) => Self { done, error, stats: Stats::default() },
            Err(_) => Self::default(),
        }
    }
}

/// The line that tells a client of a failure in the middle of its stream: `{"error":"text"}`.
pub fn error_line(text: &str) -> Bytes {
    let mut line = format!("{{\"error\":{}}}\n", serde_json::Value::from(text));
    // JSON allows these as they are, yet some clients take them for the ends of lines.
    for (raw, escaped) in [("\u{85}", "\\u0085"), ("\u{2028}", "\\u2028"), ("\u{2029}", "\\u2029")] {
        if line.contains(raw) {
            line = line.replace(raw, escaped);
        }
    }
    Bytes::from(line)
}
