//! What an answer is made of on each route: lines or events, how a good one ends, what it cost, and how a broken one is
//! ended so that its client learns of it.
//!
//! It chooses the reader for a route and knows what they share; [`ndjson`] reads lines, [`sse`](crate::sse) events.
//! Nothing that passes is rewritten.
//!
//! Invariant: what was given back, joined, is what came in up to a frame's end, but for the one event that the gate asked
//! for itself.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::json::members::whole_number;
use crate::ndjson::{self, Lines};
use crate::rejection::{Dialect, LimitHeaders, Rejection};
use crate::route::Route;
use crate::sse::{Events, Family};

mod counts;
#[cfg(test)]
mod tests;

pub(crate) use counts::Said;
pub use counts::whole_stats;

/// The longest frame: what a stream may make the gate hold. A line is a token and some metadata, the last one also the
/// tokens of the context: at 7 bytes each this is room for 149,000 of them. The last event of a response has all of its
/// text.
pub const FRAME_MAX: usize = 1 << 20;

/// The frames of a stream, as its route has them.
#[derive(Debug)]
pub enum Frames {
    /// Lines of JSON.
    Lines(Lines),
    /// Server-sent events.
    Events(Events),
}

/// Whether the counts at the end of a stream are for the gate alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strip {
    /// Whatever comes is for the client.
    #[default]
    No,
    /// The client did not ask for them, the gate did: they are taken out again.
    Yes,
}

/// A frame is over [`FRAME_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a line or an event of the stream is over {FRAME_MAX} bytes")
    }
}

impl std::error::Error for TooLong {}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As its route's streams end when all went well.
    Complete {
        /// What it says of its cost.
        stats: Stats,
    },
    /// The last frame is an error, so the client was told.
    ErrorTold,
    /// The stream just stopped.
    Cut {
        /// Bytes of an unfinished frame, which were dropped.
        fragment: usize,
    },
}

/// What a backend says of its work when it is done. It leaves out what is zero or unknown, or says 0 for both, so what is
/// missing here is not known to be zero.
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

/// One of the [`Stats`], as Ollama's own answers have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Load,
    PromptTokens,
    Tokens,
    Eval,
}

impl Count {
    /// The one that a key names.
    #[inline]
    pub(crate) fn of(key: &[u8]) -> Option<Self> {
        match key {
            b"load_duration" => Some(Self::Load),
            b"prompt_eval_count" => Some(Self::PromptTokens),
            b"eval_count" => Some(Self::Tokens),
            b"eval_duration" => Some(Self::Eval),
            _ => None,
        }
    }
}

impl Stats {
    /// Takes in what JSON text says of one, if that is a whole number.
    pub(crate) fn note(&mut self, count: Count, value: &[u8]) {
        let number = whole_number(value);
        match count {
            Count::Load => self.load = number.map(Duration::from_nanos),
            Count::PromptTokens => self.prompt_tokens = number,
            Count::Tokens => self.tokens = number,
            Count::Eval => self.eval = number.map(Duration::from_nanos),
        }
    }
}

impl Frames {
    /// The frames of a stream that answers `route`. Only an `OpenAI` stream has counts that can be stripped.
    pub fn of(route: &Route, usage: Strip) -> Self {
        match route {
            Route::ChatCompletions | Route::Completions => Self::Events(Events::of(Family::Completions, usage)),
            Route::Responses => Self::Events(Events::of(Family::Responses, Strip::No)),
            Route::Messages => Self::Events(Events::of(Family::Messages, Strip::No)),
            Route::Pull | Route::Push | Route::Create => Self::Lines(Lines::of_progress()),
            _ => Self::Lines(Lines::default()),
        }
    }

    /// The whole frames that `chunk` completes, unchanged; empty if it completes none. Without a copy where a chunk ends
    /// with its frame.
    ///
    /// # Errors
    /// [`TooLong`]; the frames of this chunk are lost, so the stream must end there.
    pub fn push(&mut self, chunk: Bytes) -> Result<Bytes, TooLong> {
        match self {
            Self::Lines(lines) => lines.push(chunk),
            Self::Events(events) => events.push(chunk),
        }
    }

    /// Frames so far that bring something generated, as far as a glance tells: Ollama sends a token in each, so this is
    /// what to count where a stream ends without saying.
    pub fn count(&self) -> u64 {
        match self {
            Self::Lines(lines) => lines.count(),
            Self::Events(events) => events.count(),
        }
    }

    /// How the stream ended, now that nothing more comes.
    pub fn finish(&self) -> End {
        match self {
            Self::Lines(lines) => lines.finish(),
            Self::Events(events) => events.finish(),
        }
    }

    /// The number of the next event, where a stream's events are numbered, as those of a response are.
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Lines(_) => 0,
            Self::Events(events) => events.sequence(),
        }
    }
}

/// The frame that tells the client of a stream that answers `route` why it ends in the middle. It follows whole frames
/// and is the last one; `id` is the request's, `sequence` the number that [`Frames::sequence`] told.
pub fn error_frame(route: &Route, why: &Rejection, (id, sequence): (Option<&str>, u64)) -> Bytes {
    let dialect = route.dialect();
    let text = match dialect {
        Dialect::OpenAi | Dialect::Anthropic => {
            let answer = why.answer_with(dialect, LimitHeaders::Off, id);
            String::from_utf8_lossy(&answer.body).into_owned()
        }
        _ => return ndjson::error_line(&why.terms().public),
    };
    let text = without_odd_line_ends(text);
    Bytes::from(match (dialect, route) {
        (Dialect::Anthropic, _) => format!("event: error\ndata: {text}\n\n"),
        // Its own kind of event for errors, and what the SDKs look for in any event: `error`.
        (_, Route::Responses) => {
            let message = without_odd_line_ends(serde_json::Value::from(&*why.terms().public).to_string());
            let error = text.strip_prefix('{').unwrap_or(&text);
            format!(
                "event: error\ndata: {{\"type\":\"error\",\"sequence_number\":{sequence},\"code\":\"server_error\",\
                 \"message\":{message},\"param\":null,{error}\n\n"
            )
        }
        _ => format!("data: {text}\n\n"),
    })
}

/// JSON allows these in texts as they are, yet some clients take them for the ends of lines.
pub(crate) fn without_odd_line_ends(mut json: String) -> String {
    for (raw, escaped) in [("\u{85}", "\\u0085"), ("\u{2028}", "\\u2028"), ("\u{2029}", "\\u2029")] {
        if json.contains(raw) {
            json = json.replace(raw, escaped);
        }
    }
    json
}
