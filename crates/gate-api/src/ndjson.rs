//! Streams of JSON lines on their way through: whole lines only, unchanged.
//!
//! [`Lines`] takes a backend's chunks and gives back the whole lines in them, without a copy where a chunk ends with its
//! line. It does not read the lines, apart from a look at the last one when the stream ends: there stand the [`Stats`].
//!
//! Invariant: what was given back, joined, is what came in up to a line's end, however it was cut into chunks.

use bytes::{Bytes, BytesMut};
use memchr::{memchr_iter, memrchr};

use crate::frames::{Count, End, FRAME_MAX, Stats, TooLong, without_odd_line_ends};
use crate::json::members;

#[cfg(test)]
mod tests;

/// Chunks in, whole lines out.
#[derive(Debug, Default)]
pub struct Lines {
    /// The beginning of a line whose end has not come, at most [`FRAME_MAX`] bytes.
    unfinished: BytesMut,
    /// The last whole line that is not blank.
    last: Bytes,
    ending: Ending,
    count: u64,
}

/// What the last line of a good stream says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Ending {
    /// `"done":true`.
    #[default]
    Done,
    /// `"status":"success"`.
    Success,
}

impl Stats {
    /// Reads the last line of a stream, or a whole answer; none if it does not say `"done":true`, or tells of an error.
    /// A number that is no whole one, or does not fit, counts as missing.
    pub fn read(last_line: &[u8]) -> Option<Self> {
        match Tail::read(last_line) {
            Tail { error: None, done: Some(done), stats, .. } if done == b"true" => Some(stats),
            _ => None,
        }
    }
}

impl Lines {
    /// The lines of a download, an upload or a creation, which end with `"status":"success"`.
    pub fn of_progress() -> Self {
        Self { ending: Ending::Success, ..Self::default() }
    }

    /// The whole lines that `chunk` completes, newlines included; empty if it completes none.
    ///
    /// # Errors
    /// [`TooLong`]; the lines of this chunk are lost, so the stream must end there.
    pub fn push(&mut self, mut chunk: Bytes) -> Result<Bytes, TooLong> {
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

    /// Lines so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How the stream ended, now that nothing more comes.
    pub fn finish(&self) -> End {
        let tail = Tail::read(&self.last);
        let (said, wanted) = match self.ending {
            Ending::Done => (tail.done, &b"true"[..]),
            Ending::Success => (tail.status, &b"\"success\""[..]),
        };
        match (tail.error, said) {
            (Some(_), _) => End::ErrorTold,
            (None, Some(said)) if said == wanted => End::Complete { stats: tail.stats },
            _ => End::Cut { fragment: self.unfinished.len() },
        }
    }

    fn hold(&mut self, rest: &[u8]) -> Result<(), TooLong> {
        if self.unfinished.len() + rest.len() > FRAME_MAX {
            return Err(TooLong);
        }
        self.unfinished.extend_from_slice(rest);
        Ok(())
    }

    /// Remembers the last of some whole lines, and holds each to the cap.
    fn look_at(&mut self, whole: &Bytes) -> Result<(), TooLong> {
        let is_too_long = |line: &[u8]| line.len() > FRAME_MAX;
        if is_too_long(whole) && whole.split(|&byte| byte == b'\n').any(is_too_long) {
            return Err(TooLong);
        }
        self.count += memchr_iter(b'\n', whole).count() as u64;
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

/// What a last line is looked at for. Values are JSON text; one that is null counts as missing.
#[derive(Debug, Default, PartialEq)]
struct Tail<'a> {
    done: Option<&'a [u8]>,
    error: Option<&'a [u8]>,
    status: Option<&'a [u8]>,
    stats: Stats,
}

/// A key that is looked at.
#[derive(Clone, Copy)]
enum Key {
    Done,
    Error,
    Status,
    Count(Count),
}

/// The bits of those that say how a stream ended.
const ENDS: u8 = Key::Done.bit() | Key::Error.bit() | Key::Status.bit();

impl Key {
    fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"done" => Some(Self::Done),
            b"error" => Some(Self::Error),
            b"status" => Some(Self::Status),
            _ => Count::of(name).map(Self::Count),
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Done => 1,
            Self::Error => 1 << 1,
            Self::Status => 1 << 2,
            Self::Count(count) => 1 << 3 << count as u8,
        }
    }
}

impl<'a> Tail<'a> {
    /// What `line` says; nothing if it is no object of JSON, or says twice how it ended.
    fn read(line: &'a [u8]) -> Self {
        let (mut tail, mut seen, mut twice) = (Self::default(), 0, 0);
        let walked = members::walk(line, |name, start| {
            let end = members::value_end(line, start)?;
            if let Some(key) = Key::of(name) {
                twice |= seen & key.bit();
                seen |= key.bit();
                tail.note(key, &line[start..end]);
            }
            Some(end)
        });
        if walked.is_none() || twice & ENDS != 0 {
            return Self::default();
        }
        // A count given twice says nothing, yet the stream ended as well as it did.
        if twice == 0 { tail } else { Self { stats: Stats::default(), ..tail } }
    }

    fn note(&mut self, key: Key, value: &'a [u8]) {
        let said = || (value != b"null").then_some(value);
        match key {
            Key::Done => self.done = said(),
            Key::Error => self.error = said(),
            Key::Status => self.status = said(),
            Key::Count(count) => self.stats.note(count, value),
        }
    }
}

/// The line that tells a client of a failure in the middle of its stream: `{"error":"text"}`.
pub fn error_line(text: &str) -> Bytes {
    Bytes::from(without_odd_line_ends(format!("{{\"error\":{}}}\n", serde_json::Value::from(text))))
}
