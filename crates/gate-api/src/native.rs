//! What of `POST /api/generate` and `POST /api/chat` can be judged without a model.
//!
//! The body goes to the backend byte for byte, so it is read here the way Ollama reads it: Go's JSON, keys matched
//! without regard to case, types checked in Go's words. It builds no tree and changes nothing. Where two readers could
//! differ (a field given twice, bytes after the value, bytes that are not UTF-8) the body is refused.
//!
//! Invariant: an accepted body means the same model, stream mode and work to Ollama as [`NativeCall`] says.

use crate::rejection::{Denial, Rejection};

mod duration;
mod fields;
mod name;
mod opening;
mod options;
mod scan;
#[cfg(test)]
mod tests;
mod text;
mod walk;

pub use duration::KeepAlive;
use fields::{Field, Found, Shape};
use name::NameFault;
pub use name::listed_as;
use options::Loading;

/// Whether the answer comes in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// One JSON line a token; what Ollama does unless told otherwise.
    Yes,
    /// One JSON object at the end.
    No,
}

/// What a call makes Ollama do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Run the model.
    Infer,
    /// Only load it: no prompt, no messages. The answer is one object whatever [`Stream`] says.
    Load,
    /// Unload it for everyone: as [`Work::Load`] with `keep_alive` 0. The answer is one object whatever [`Stream`] says.
    Unload,
}

/// A body that Ollama will take, if it has the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeCall {
    /// The model's name as Ollama reads it: trimmed, `:local` removed, otherwise as the client spelled it.
    /// [`listed_as`] gives the form to compare.
    pub model: String,
    /// Whether the answer comes in pieces.
    pub stream: Stream,
    /// What it makes Ollama do.
    pub work: Work,
    /// How long the model is to stay loaded; none leaves it to Ollama.
    pub keep_alive: Option<KeepAlive>,
    /// What is given of that for which Ollama loads a model anew: `name=value` with semicolons between, in the order of
    /// names; empty if nothing is. Equal texts share a loaded model, whatever the spelling of the body.
    ///
    /// A number is cut to an integer, a `num_gpu` below zero counts as not given, and so does null.
    pub load_options: String,
    /// The conversation's number, never 0: the same for each of its turns, so that they can go where their beginning
    /// is still in the model's cache. It comes from the model, and for a chat from the messages up to the first of the
    /// user, otherwise from the system text and the first 512 bytes of the prompt. It is no secret and no signature.
    pub conversation: u64,
}

const TOP_LOGPROBS: std::ops::RangeInclusive<i64> = 0..=20;

/// The fields of Ollama's `GenerateRequest` that all its versions have.
const GENERATE: [Field; 18] = [
    Field("model", Shape::Text),
    Field("prompt", Shape::Text),
    Field("suffix", Shape::Text),
    Field("system", Shape::Text),
    Field("template", Shape::Text),
    Field("context", Shape::Ints),
    Field("stream", Shape::Flag),
    Field("raw", Shape::Flag),
    Field("format", Shape::Any),
    Field("keep_alive", Shape::KeepAlive),
    Field("images", Shape::Images),
    Field("options", Shape::Options),
    Field("think", Shape::Think),
    Field("truncate", Shape::Flag),
    Field("shift", Shape::Flag),
    Field("_debug_render_only", Shape::Flag),
    Field("logprobs", Shape::Flag),
    Field("top_logprobs", Shape::Int),
];

/// The fields of Ollama's `ChatRequest`.
const CHAT: [Field; 13] = [
    Field("model", Shape::Text),
    Field("messages", Shape::Messages),
    Field("stream", Shape::Flag),
    Field("format", Shape::Any),
    Field("keep_alive", Shape::KeepAlive),
    Field("tools", Shape::Objects { list: "api.Tools", item: "api.Tool" }),
    Field("options", Shape::Options),
    Field("think", Shape::Think),
    Field("truncate", Shape::Flag),
    Field("shift", Shape::Flag),
    Field("_debug_render_only", Shape::Flag),
    Field("logprobs", Shape::Flag),
    Field("top_logprobs", Shape::Int),
];

/// Judges a body of `POST /api/generate`.
///
/// # Errors
/// [`Rejection::BadRequest`], [`Rejection::ModelNotFound`] or [`Rejection::Denied`].
pub fn generate(body: &[u8]) -> Result<NativeCall, Rejection> {
    let mut found = Found::none(&GENERATE);
    read("GenerateRequest", body, &mut found)?;
    let model = model(&found, |sent| Rejection::ModelNotFound { model: text::shortened(sent).into_owned() })?;
    let loading = judge(&found)?;
    if found.flag("raw") == Some(true) && ["template", "system", "context"].iter().any(|name| found.is_given(name)) {
        return Err(bad("raw mode does not support template, system, or context"));
    }
    found.opening.hear_prompt(found.raw("system"), found.raw("prompt"));
    call(&mut found, model, &loading)
}

/// Judges a body of `POST /api/chat`.
///
/// # Errors
/// [`Rejection::BadRequest`] or [`Rejection::Denied`].
pub fn chat(body: &[u8]) -> Result<NativeCall, Rejection> {
    let mut found = Found::none(&CHAT);
    read("ChatRequest", body, &mut found)?;
    let model = model(&found, |_| bad("model is required"))?;
    let loading = judge(&found)?;
    call(&mut found, model, &loading)
}

fn read<'a>(go: &'static str, body: &'a [u8], found: &mut Found<'a>) -> Result<(), Rejection> {
    let text = std::str::from_utf8(body)
        .map_err(|error| bad(format!("the body is not UTF-8 at byte {}", error.valid_up_to())))?;
    let value = scan::only_value(text).map_err(|fault| bad(fault.to_string()))?;
    fields::body(go, value, found).map_err(bad)?;
    match found.int("top_logprobs") {
        Some(count) if !TOP_LOGPROBS.contains(&count) => Err(bad("top_logprobs must be between 0 and 20")),
        _ => Ok(()),
    }
}

fn model(found: &Found<'_>, missing: impl Fn(&str) -> Rejection) -> Result<String, Rejection> {
    let sent = found.text("model");
    match name::read(&sent) {
        Ok(name) => Ok(name.to_owned()),
        Err(NameFault::Missing) => Err(missing(&sent)),
        Err(NameFault::Cloud) => Err(Rejection::Denied { what: Denial::CloudModel }),
        Err(NameFault::Invalid) => Err(bad("invalid model name")),
        Err(NameFault::BothSources) => {
            Err(bad(format!("use either :local or :cloud, not both: {}", text::quoted(sent.trim()))))
        }
    }
}

/// What both routes have in common and Ollama looks at only once it has the model.
fn judge<'a>(found: &Found<'a>) -> Result<Loading<'a>, Rejection> {
    if found.flag("_debug_render_only") == Some(true) {
        return Err(Rejection::Denied { what: Denial::DebugRender });
    }
    let format = found.raw("format").unwrap_or("null");
    if !matches!(format, "null" | r#""""# | r#""json""#) && !format.starts_with('{') {
        let format = text::quoted(format);
        return Err(bad(format!("invalid format: {format}; expected \"json\" or a valid JSON Schema object")));
    }
    options::judge(found.raw("options").unwrap_or("null")).map_err(bad)
}

fn call(found: &mut Found<'_>, model: String, loading: &Loading<'_>) -> Result<NativeCall, Rejection> {
    let keep_alive = found.raw("keep_alive").map(duration::keep_alive).transpose().map_err(bad)?.flatten();
    let work = match keep_alive {
        _ if found.is_given("prompt") || found.is_given("messages") => Work::Infer,
        Some(KeepAlive::For(span)) if span.is_zero() => Work::Unload,
        _ => Work::Load,
    };
    let stream = if found.flag("stream") == Some(false) { Stream::No } else { Stream::Yes };
    let load_options = loading.canonical(found.flag("shift"));
    let conversation = found.opening.conversation(&model);
    Ok(NativeCall { model, stream, work, keep_alive, load_options, conversation })
}

fn bad(text: impl Into<String>) -> Rejection {
    Rejection::BadRequest { text: text.into() }
}
