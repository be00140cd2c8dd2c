//! Holding a call to what its key may ask: values above a cap are replaced in the body, unsaid ones inserted.
//!
//! Only the bytes of those values change; every other byte stays as it came. What may not be clamped, since cutting it
//! would change what was asked (pictures, messages), is refused. It decides no cap.
//!
//! Invariant: the changed body, judged again, gives the call that [`Call::clamp`] left.

use std::time::Duration;

use crate::call::{Call, KeepAlive, Stream, Usage, Work, bad};
use crate::native::options::{NUM_CTX, NUM_PREDICT};
use crate::native::{bound, walk};
use crate::rejection::Rejection;

#[cfg(test)]
mod tests;

/// What a call may ask for at most; none leaves it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clamps {
    /// Size of the context. A call that gives none keeps Ollama's own default.
    pub num_ctx: Option<u64>,
    /// Tokens of an answer; a call that says none, or has no bound, gets this.
    pub tokens: Option<u64>,
    /// How long a model stays loaded; 0, which would unload it for everyone, becomes this as well, absent stays.
    pub keep_alive: Option<Duration>,
    /// Pictures and sounds.
    pub images: Option<u32>,
    /// Messages, or items of an input.
    pub messages: Option<u32>,
    /// Whether the counts of an OpenAI chat's stream are wanted.
    pub count: CountUsage,
}

/// Whether the counts of a stream are wanted that does not say them unless it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CountUsage {
    /// It stays as the client asked.
    #[default]
    No,
    /// It is asked for them, see [`Usage::Added`].
    Yes,
}

/// A value's place in a body; its length is 0 if there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    at: u32,
    len: u32,
}

impl Span {
    /// The place of `value`, a part of `body`.
    pub(crate) fn of(body: &[u8], value: Option<&str>) -> Self {
        let Some(value) = value else { return Self::default() };
        let at = value.as_ptr().addr().wrapping_sub(body.as_ptr().addr());
        // A body of more is refused before it is read.
        Self { at: u32::try_from(at).unwrap_or(0), len: u32::try_from(value.len()).unwrap_or(0) }
    }

    pub(crate) fn text(self, body: &[u8]) -> Option<&str> {
        let (at, len) = (self.at as usize, self.len as usize);
        std::str::from_utf8(body.get(at..at + len)?).ok().filter(|text| !text.is_empty())
    }
}

/// Where an answer's bound stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Bound {
    /// The answer has none, or the route has no answer of tokens.
    #[default]
    None,
    /// In the options, as `num_predict`.
    Option,
    /// In the body, as `max_tokens`.
    MaxTokens,
    /// In the body, as `max_output_tokens`.
    MaxOutputTokens,
}

/// Where a body may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Edits {
    pub(crate) bound: Bound,
    /// What is given as `bound`.
    pub(crate) tokens: Span,
    /// The object of options, or null.
    pub(crate) options: Span,
    pub(crate) num_ctx: Span,
    pub(crate) keep_alive: Span,
    /// The object of stream options, or null.
    pub(crate) stream_options: Span,
    pub(crate) include_usage: Span,
    /// Whether its stream can be asked for counts at no cost: a completion's would then carry some in each event.
    pub(crate) countable: CountUsage,
    /// Whether they are true of the body that the client sent; they are not of one that was changed.
    pub(crate) changed: bool,
}

/// Bytes that take the place of `at.len` bytes.
struct Splice {
    at: Span,
    text: String,
}

/// Longer than two numbers and their names, which is all that a clamp usually adds.
const GROWTH: usize = 64;

impl Call {
    /// Holds the call to `clamps`: changes the fields that follow from it, and returns the body to send instead of
    /// `body`, the one it was made of, if anything in it had to change.
    ///
    /// # Errors
    /// [`Rejection::BadRequest`] for more pictures or messages than may be, with the number that may;
    /// [`Rejection::Internal`] where an earlier clamp has changed the body.
    pub fn clamp(&mut self, body: &[u8], clamps: &Clamps) -> Result<Option<Vec<u8>>, Rejection> {
        if self.edits.changed {
            return Err(Rejection::Internal);
        }
        for (given, most, what) in
            [(self.images, clamps.images, "images"), (self.messages, clamps.messages, "messages")]
        {
            if let Some(most) = most.filter(|&most| given > most) {
                return Err(bad(format!("the request has {given} {what}, and this API key may send {most}")));
            }
        }
        let mut splices = Vec::new();
        self.clamp_context(clamps, &mut splices);
        self.clamp_tokens(body, clamps, &mut splices);
        self.clamp_keep_alive(clamps, &mut splices);
        self.count_usage(body, clamps, &mut splices);
        if splices.is_empty() {
            return Ok(None);
        }
        self.edits.changed = true;
        Ok(Some(spliced(body, splices)))
    }

    fn clamp_context(&mut self, clamps: &Clamps, splices: &mut Vec<Splice>) {
        let Some(cap) = clamps.num_ctx.filter(|&cap| self.num_ctx.is_some_and(|given| given > cap)) else { return };
        if self.edits.num_ctx.len == 0 {
            return;
        }
        splices.push(Splice { at: self.edits.num_ctx, text: cap.to_string() });
        self.num_ctx = Some(cap);
        let options = self.load_options.split(';').map(|option| match option.split_once('=') {
            Some((NUM_CTX, _)) => format!("{NUM_CTX}={cap}"),
            _ => option.to_owned(),
        });
        self.load_options = options.collect::<Vec<_>>().join(";");
    }

    fn clamp_tokens(&mut self, body: &[u8], clamps: &Clamps, splices: &mut Vec<Splice>) {
        let Some(cap) = clamps.tokens.filter(|_| self.work == Work::Infer) else { return };
        // A bound of another name, which Ollama does not read, counts where there is no other.
        let target = cap.min(self.tokens_asked.unwrap_or(cap));
        if self.edits.bound == Bound::None || self.edits.tokens.text(body).and_then(bound) == Some(target) {
            return;
        }
        splices.push(match self.edits.bound {
            _ if self.edits.tokens.len > 0 => Splice { at: self.edits.tokens, text: target.to_string() },
            Bound::MaxTokens => inserted(body, Span::default(), &format!("\"max_tokens\":{target}")),
            Bound::MaxOutputTokens => inserted(body, Span::default(), &format!("\"max_output_tokens\":{target}")),
            Bound::Option | Bound::None => {
                within(body, self.edits.options, "options", &format!("\"{NUM_PREDICT}\":{target}"))
            }
        });
        self.tokens_asked = Some(target);
    }

    fn clamp_keep_alive(&mut self, clamps: &Clamps, splices: &mut Vec<Splice>) {
        let (Some(cap), Some(given)) = (clamps.keep_alive, self.keep_alive) else { return };
        let is_within = |span: Duration| span <= cap && (!span.is_zero() || cap.is_zero());
        if matches!(given, KeepAlive::For(span) if is_within(span)) || self.edits.keep_alive.len == 0 {
            return;
        }
        splices.push(Splice { at: self.edits.keep_alive, text: span_text(cap) });
        self.keep_alive = Some(KeepAlive::For(cap));
        self.work = match self.work {
            Work::Load if cap.is_zero() && self.edits.bound == Bound::Option => Work::Unload,
            Work::Unload if !cap.is_zero() => Work::Load,
            other => other,
        };
    }

    fn count_usage(&mut self, body: &[u8], clamps: &Clamps, splices: &mut Vec<Splice>) {
        let is_wanted = clamps.count == CountUsage::Yes && self.edits.countable == CountUsage::Yes;
        if !is_wanted || self.usage != Usage::Unasked || self.stream == Stream::No {
            return;
        }
        splices.push(match self.edits.include_usage {
            given if given.len > 0 => Splice { at: given, text: "true".to_owned() },
            _ => within(body, self.edits.stream_options, "stream_options", "\"include_usage\":true"),
        });
        self.usage = Usage::Added;
    }
}

/// `member` put into the object at `object`; where there is none or a null, an object `name` with it put into the body.
fn within(body: &[u8], object: Span, name: &str, member: &str) -> Splice {
    match object.text(body) {
        None => inserted(body, Span::default(), &format!("\"{name}\":{{{member}}}")),
        Some("null") => Splice { at: object, text: format!("{{{member}}}") },
        Some(_) => inserted(body, object, member),
    }
}

/// `member` put behind the brace of the object at `object`, or of the body.
fn inserted(body: &[u8], object: Span, member: &str) -> Splice {
    let (at, is_empty) = match object.text(body) {
        Some(text) => (object.at as usize, walk::members(text).next().is_none()),
        // It names a model, so it has a member.
        None => (body.iter().position(|&byte| byte == b'{').unwrap_or(0), false),
    };
    let comma = if is_empty { "" } else { "," };
    Splice { at: Span { at: (at + 1) as u32, len: 0 }, text: format!("{member}{comma}") }
}

fn spliced(body: &[u8], mut splices: Vec<Splice>) -> Vec<u8> {
    splices.sort_by_key(|splice| splice.at.at);
    let mut out = Vec::with_capacity(body.len() + splices.len() * GROWTH);
    let mut from = 0;
    for Splice { at, text } in splices {
        let (start, end) = (at.at as usize, at.at as usize + at.len as usize);
        out.extend_from_slice(&body[from..start]);
        out.extend_from_slice(text.as_bytes());
        from = end;
    }
    out.extend_from_slice(&body[from..]);
    out
}

/// A span as a JSON string in Go's notation.
fn span_text(span: Duration) -> String {
    match span.subsec_nanos() {
        0 => format!("\"{}s\"", span.as_secs()),
        _ => format!("\"{}ns\"", span.as_nanos()),
    }
}
