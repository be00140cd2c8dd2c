//! Streams of server-sent events on their way through: whole events only, unchanged.
//!
//! [`Events`] takes a backend's chunks and gives back the whole events in them, without a copy where a chunk ends with its
//! event. Of each it looks at the names of its lines; JSON is read in the last one, and in a message's first.
//! Lines end with `\n` or `\r\n`; a lone `\r`, which the standard also allows, ends none here.
//!
//! Invariant: what was given back, joined, is what came in up to an event's end, however it was cut into chunks, but for
//! the counts that are stripped.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::{memchr_iter, memmem, memrchr};

use crate::frames::{End, FRAME_MAX, Said, Stats, Strip, TooLong};

#[cfg(test)]
mod tests;

/// Whose events they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Of `OpenAI`'s chat and text completions: without names, ended by `[DONE]`.
    Completions,
    /// Of `OpenAI`'s responses: ended by the response as a whole.
    Responses,
    /// Of Anthropic's messages: ended by `message_stop`.
    Messages,
}

/// Chunks in, whole events out.
#[derive(Debug)]
pub struct Events {
    family: Family,
    strip: Strip,
    /// The beginning of an event whose end has not come, at most [`FRAME_MAX`] bytes.
    unfinished: BytesMut,
    /// The last whole event that can say how the stream ended; not the terminator, where that says no more.
    last: Bytes,
    terminator: Seen,
    /// What a message's first event guessed of its prompt.
    prompt: Option<u64>,
    count: u64,
    /// Events with data, of whatever kind.
    sequence: u64,
}

/// Whether a stream's terminator has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    No,
    Yes,
}

/// What becomes of an event.
enum Fate {
    Passes,
    Stripped,
}

/// The fields of an event, as far as they are looked at. Its last name counts, as the standard has it.
#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    /// The first line of its data.
    data: Option<&'a [u8]>,
}

impl Events {
    /// An empty stream.
    pub fn of(family: Family, strip: Strip) -> Self {
        let (unfinished, last) = (BytesMut::new(), Bytes::new());
        Self { family, strip, unfinished, last, terminator: Seen::No, prompt: None, count: 0, sequence: 0 }
    }

    /// The whole events that `chunk` completes, with comments between them; empty if it completes none.
    ///
    /// # Errors
    /// [`TooLong`]; the events of this chunk are lost, so the stream must end there.
    pub fn push(&mut self, mut chunk: Bytes) -> Result<Bytes, TooLong> {
        if self.unfinished.is_empty() {
            let whole = chunk.split_to(last_end(&chunk, 0));
            if !chunk.is_empty() {
                self.unfinished.extend_from_slice(&chunk);
            }
            return self.let_pass(whole);
        }
        // What is held has no end of an event, so the last byte of one is still to come.
        let from = self.unfinished.len();
        self.unfinished.extend_from_slice(&chunk);
        let whole = self.unfinished.split_to(last_end(&self.unfinished, from)).freeze();
        self.let_pass(whole)
    }

    /// Events so far that bring something generated.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The number of the next event: Ollama counts those of a response from 0.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How the stream ended, now that nothing more comes.
    pub fn finish(&self) -> End {
        let name = fields(&self.last).name;
        let data = data(&self.last);
        let said = Said::read(&data);
        if said.is_error() || name == b"error" {
            return End::ErrorTold;
        }
        let is = |kind: &str| name == kind.as_bytes() || (name.is_empty() && said.kind().trim_matches('"') == kind);
        let stats = match self.family {
            Family::Completions if self.terminator == Seen::Yes => said.usage().stats(),
            Family::Responses if is("response.failed") => return End::ErrorTold,
            Family::Responses if is("response.completed") || is("response.incomplete") => said.inner_usage().stats(),
            Family::Messages if self.terminator == Seen::Yes => {
                let stats = said.usage().stats();
                Stats { prompt_tokens: stats.prompt_tokens.or(self.prompt), ..stats }
            }
            _ => return End::Cut { fragment: self.unfinished.len() },
        };
        End::Complete { stats }
    }

    /// Looks at each of some whole events, takes out what is not for the client, and holds each to the cap.
    fn let_pass(&mut self, whole: Bytes) -> Result<Bytes, TooLong> {
        if self.unfinished.len() > FRAME_MAX {
            return Err(TooLong);
        }
        let mut stripped: Vec<Range<usize>> = Vec::new();
        let (mut start, mut line_start) = (0, 0);
        let mut event = Fields::default();
        for newline in memchr_iter(b'\n', &whole) {
            let line = without_cr(&whole[line_start..newline]);
            line_start = newline + 1;
            if !line.is_empty() {
                event.read(line);
                continue;
            }
            let place = start..line_start;
            start = line_start;
            if place.len() > FRAME_MAX {
                return Err(TooLong);
            }
            // Without data it is a comment or a name for nothing, which clients skip.
            let seen = std::mem::take(&mut event);
            if let Fate::Stripped = self.look_at(&seen, &whole, &place) {
                stripped.push(place);
            }
        }
        Ok(if stripped.is_empty() { whole } else { without(&whole, &stripped) })
    }

    /// Learns from the event at `place` in `whole`.
    fn look_at(&mut self, event: &Fields<'_>, whole: &Bytes, place: &Range<usize>) -> Fate {
        // Without data it is a comment or a name for nothing, which clients skip.
        let Some(first) = event.data else { return Fate::Passes };
        self.sequence += 1;
        let kept = || whole.slice(place.clone());
        match (self.family, event.name) {
            (Family::Completions, _) if first.starts_with(b"[DONE]") => self.terminator = Seen::Yes,
            (Family::Completions, _) => {
                self.last = kept();
                if self.strip == Strip::Yes && is_usage_alone(&self.last) {
                    return Fate::Stripped;
                }
                self.count += 1;
            }
            (Family::Messages, b"message_stop") => self.terminator = Seen::Yes,
            (Family::Messages, b"message_start") => {
                self.prompt = Said::read(&data(&whole[place.clone()])).inner_usage().prompt;
            }
            (Family::Messages, b"message_delta" | b"error") => self.last = kept(),
            (_, name) if name.ends_with(b"delta") => self.count += 1,
            (Family::Messages, _) => {}
            (Family::Responses, _) => self.last = kept(),
        }
        Fate::Passes
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self, line: &'a [u8]) {
        if let Some(data) = value(line, b"data") {
            self.data.get_or_insert(data);
        } else if let Some(name) = value(line, b"event") {
            self.name = name;
        }
    }
}

/// Where the last whole event of `bytes`, which begin with an event, ends; 0 if none ends
/// behind `from`.
fn last_end(bytes: &[u8], from: usize) -> usize {
    let mut end = bytes.len();
    while let Some(newline) = memrchr(b'\n', &bytes[from..end]).map(|at| from + at) {
        let before = without_cr(&bytes[..newline]);
        if before.is_empty() || before.ends_with(b"\n") {
            return newline + 1;
        }
        end = newline;
    }
    0
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// What a line says of a field: `name: value`, or `name` alone.
fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    match rest.split_first() {
        Some((b':', value)) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        Some(_) => None,
        None => Some(rest),
    }
}

fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    event.split(|&byte| byte == b'\n').map(without_cr)
}

fn fields(event: &[u8]) -> Fields<'_> {
    let mut fields = Fields::default();
    lines(event).for_each(|line| fields.read(line));
    fields
}

/// The data of an event: its lines of data, joined.
fn data(event: &[u8]) -> Cow<'_, [u8]> {
    let mut found = lines(event).filter_map(|line| value(line, b"data"));
    let first = found.next().unwrap_or_default();
    let Some(second) = found.next() else { return Cow::Borrowed(first) };
    let mut joined = [first, b"\n", second].concat();
    for more in found {
        joined.push(b'\n');
        joined.extend_from_slice(more);
    }
    Cow::Owned(joined)
}

fn is_usage_alone(event: &[u8]) -> bool {
    // Most events have none, and need not be read.
    memmem::find(event, b"usage").is_some() && Said::read(&data(event)).is_usage_alone()
}

/// `whole` without some of its places, in their order.
fn without(whole: &[u8], places: &[Range<usize>]) -> Bytes {
    let mut kept = BytesMut::with_capacity(whole.len());
    let mut from = 0;
    for place in places {
        kept.extend_from_slice(&whole[from..place.start]);
        from = place.end;
    }
    kept.extend_from_slice(&whole[from..]);
    kept.freeze()
}
