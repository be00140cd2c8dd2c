//! What of Ollama's own requests can be judged without a model.
//!
//! The body goes to the backend byte for byte, so it is read here the way Ollama reads it: Go's JSON, keys matched
//! without regard to case, types checked in Go's words. It builds no tree and changes nothing. Where two readers could
//! differ (a field given twice, bytes after the value, bytes that are not UTF-8) the body is refused. The other dialects
//! are read with the same parts.
//!
//! Invariant: an accepted body means the same model, stream mode and work to Ollama as its [`Call`] says.

use crate::call::{Call, Stream, Work, bad};
use crate::clamp::{Bound, Edits, Span};
use crate::rejection::{Denial, Rejection};

mod duration;
pub(crate) mod embed;
pub(crate) mod fields;
pub(crate) mod heard;
mod name;
mod opening;
pub(crate) mod options;
mod scan;
pub(crate) mod store;
#[cfg(test)]
mod tests;
pub(crate) mod text;
pub(crate) mod walk;

pub use duration::KeepAlive;
use fields::{AfterFault, Field, Found, Inside, Messages, Request, Shape};
use heard::Heard;
pub(crate) use name::{NameFault, host};
pub use name::{Source, listed_as};
use options::Loading;

const TOP_LOGPROBS: std::ops::RangeInclusive<i64> = 0..=20;

/// The fields of Ollama's `GenerateRequest` that all its versions have.
const GENERATE: Request = Request { go: "api.GenerateRequest", name: "GenerateRequest", fields: &GENERATE_FIELDS };
const GENERATE_FIELDS: [Field; 18] = [
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
const CHAT: Request = Request { go: "api.ChatRequest", name: "ChatRequest", fields: &CHAT_FIELDS };
const CHAT_FIELDS: [Field; 13] = [
    Field("model", Shape::Text),
    Field("messages", Shape::Messages(&MESSAGES)),
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

const MESSAGES: Messages = Messages {
    list: "[]api.Message",
    message: Inside { path: "ChatRequest.messages", go: "api.Alias", fields: &MESSAGE },
    faults: AfterFault::Stop,
    hear: |message, heard| {
        let (mut role, mut content) = (None, None);
        for (name, value) in message.all() {
            match name {
                _ if value == "null" => {}
                "role" => role = Some(value),
                "content" => content = Some(value),
                "thinking" => heard.text(Some(value)),
                "tool_calls" => heard.written(Some(value)),
                "images" => heard.images(value),
                _ => {}
            }
        }
        heard.message(role, content);
    },
};

/// Fields of a message.
const MESSAGE: [Field; 7] = [
    Field("role", Shape::Text),
    Field("content", Shape::Text),
    Field("thinking", Shape::Text),
    Field("images", Shape::Images),
    Field("tool_calls", Shape::Objects { list: "[]api.ToolCall", item: "api.ToolCall" }),
    Field("tool_name", Shape::Text),
    Field("tool_call_id", Shape::Text),
];

/// What Ollama says of a body that holds nothing; of its other dialects, [`END_OF_FILE`].
const NO_BODY: &str = "missing request body";
pub(crate) const END_OF_FILE: &str = "EOF";

/// Judges a body of `POST /api/generate`.
pub(crate) fn generate(body: &[u8]) -> Result<Call, Rejection> {
    let (mut found, mut heard) = (Found::none(&GENERATE_FIELDS), Heard::default());
    read(&GENERATE, body, (&mut found, &mut heard), NO_BODY)?;
    check_top_logprobs(&found)?;
    let model = model(&found.text("model"), not_found)?;
    let given = Given::of(&found, &mut heard);
    let loading = judge(&given)?;
    if given.raw == Some("true") && ["template", "system", "context"].iter().any(|name| found.is_given(name)) {
        return Err(bad("raw mode does not support template, system, or context"));
    }
    heard.prompt(given.system, given.prompt);
    call(body, (&given, &loading), model, &mut heard)
}

/// Judges a body of `POST /api/chat`.
pub(crate) fn chat(body: &[u8]) -> Result<Call, Rejection> {
    let (mut found, mut heard) = (Found::none(&CHAT_FIELDS), Heard::default());
    read(&CHAT, body, (&mut found, &mut heard), NO_BODY)?;
    check_top_logprobs(&found)?;
    let model = model(&found.text("model"), required)?;
    let given = Given::of(&found, &mut heard);
    let loading = judge(&given)?;
    call(body, (&given, &loading), model, &mut heard)
}

/// What both routes look at, found in one pass: most of it is mostly not there.
#[derive(Default)]
struct Given<'a> {
    system: Option<&'a str>,
    prompt: Option<&'a str>,
    messages: Option<&'a str>,
    stream: Option<&'a str>,
    raw: Option<&'a str>,
    format: Option<&'a str>,
    keep_alive: Option<&'a str>,
    /// May be null.
    options: Option<&'a str>,
    shift: Option<&'a str>,
}

impl<'a> Given<'a> {
    /// All that `found` has; what only counts is heard.
    fn of(found: &Found<'a>, heard: &mut Heard) -> Self {
        let mut given = Self::default();
        for (name, value) in found.all() {
            let place = match name {
                "system" => &mut given.system,
                "prompt" => &mut given.prompt,
                "messages" => &mut given.messages,
                "stream" => &mut given.stream,
                "raw" => &mut given.raw,
                "format" => &mut given.format,
                "keep_alive" => &mut given.keep_alive,
                "options" => &mut given.options,
                "shift" => &mut given.shift,
                _ => {
                    count(name, value, heard);
                    continue;
                }
            };
            if value != "null" || name == "options" {
                *place = Some(value);
            }
        }
        given
    }
}

fn count(name: &str, value: &str, heard: &mut Heard) {
    match name {
        "suffix" | "template" => heard.text(Some(value)),
        // A token of an earlier answer takes about as many bytes there as a token's text.
        "context" | "tools" => heard.written((value != "null").then_some(value)),
        "images" => heard.images(value),
        _ => {}
    }
}

/// Reads `body`, of which there is none if it is blank: `none` says so.
pub(crate) fn read<'a>(
    request: &'static Request,
    body: &'a [u8],
    (found, heard): (&mut Found<'a>, &mut Heard),
    none: &str,
) -> Result<(), Rejection> {
    let text = std::str::from_utf8(body)
        .map_err(|error| bad(format!("the body is not UTF-8 at byte {}", error.valid_up_to())))?;
    let value = scan::only_value(text).map_err(|fault| match fault {
        scan::SyntaxFault::Empty => bad(none),
        fault => bad(fault.to_string()),
    })?;
    fields::body(request, value, found, heard).map_err(bad)?;
    if found.raw(DEBUG_RENDER) == Some("true") {
        return Err(Rejection::Denied { what: Denial::DebugRender });
    }
    Ok(())
}

/// Asks for the rendered prompt.
pub(crate) const DEBUG_RENDER: &str = "_debug_render_only";

fn check_top_logprobs(found: &Found<'_>) -> Result<(), Rejection> {
    match found.int("top_logprobs") {
        Some(count) if !TOP_LOGPROBS.contains(&count) => Err(bad("top_logprobs must be between 0 and 20")),
        _ => Ok(()),
    }
}

/// The model of a call that runs it; `missing` refuses a name that is empty or blank.
pub(crate) fn model(sent: &str, missing: impl Fn(&str) -> Rejection) -> Result<(String, Source), Rejection> {
    match name::read(sent) {
        Ok((name, source)) => Ok((name.into_owned(), source)),
        Err(NameFault::Missing) => Err(missing(sent)),
        Err(fault) => Err(misnamed(sent, fault)),
    }
}

/// Why `sent` is no name.
fn misnamed(sent: &str, fault: NameFault) -> Rejection {
    match fault {
        NameFault::Missing => required(sent),
        NameFault::Invalid => bad("invalid model name"),
        NameFault::BothSources => bad(format!("use either :local or :cloud, not both: {}", text::quoted(sent.trim()))),
    }
}

pub(crate) fn required(_: &str) -> Rejection {
    bad("model is required")
}

pub(crate) fn not_found(sent: &str) -> Rejection {
    Rejection::ModelNotFound { model: text::shortened(sent).into_owned() }
}

/// What both routes have in common and Ollama looks at only once it has the model.
fn judge<'a>(given: &Given<'a>) -> Result<Loading<'a>, Rejection> {
    let format = given.format.unwrap_or("null");
    if !matches!(format, "null" | r#""""# | r#""json""#) && !format.starts_with('{') {
        let format = text::quoted(format);
        return Err(bad(format!("invalid format: {format}; expected \"json\" or a valid JSON Schema object")));
    }
    options::judge(given.options.unwrap_or("null")).map_err(bad)
}

fn call(
    body: &[u8],
    (given, loading): (&Given<'_>, &Loading<'_>),
    model: (String, Source),
    heard: &mut Heard,
) -> Result<Call, Rejection> {
    let keep_alive = keep_alive(given.keep_alive)?;
    let is_given = |value: &str| value != r#""""# && walk::is_nonempty(value);
    let work = match keep_alive {
        _ if given.prompt.is_some_and(is_given) || given.messages.is_some_and(is_given) => Work::Infer,
        Some(KeepAlive::For(span)) if span.is_zero() => Work::Unload,
        _ => Work::Load,
    };
    Ok(Call {
        stream: if given.stream == Some("false") { Stream::No } else { Stream::Yes },
        keep_alive,
        load_options: loading.canonical(given.shift.map(|shift| shift == "true")),
        tokens_asked: loading.num_predict.and_then(bound),
        num_ctx: num_ctx(loading),
        edits: Edits {
            bound: Bound::Option,
            tokens: Span::of(body, loading.num_predict),
            ..edits(body, loading, (given.options, given.keep_alive))
        },
        ..Call::of(model, work, heard)
    })
}

fn keep_alive(given: Option<&str>) -> Result<Option<KeepAlive>, Rejection> {
    Ok(given.map(duration::keep_alive).transpose().map_err(bad)?.flatten())
}

fn edits(body: &[u8], loading: &Loading<'_>, (options, keep_alive): (Option<&str>, Option<&str>)) -> Edits {
    Edits {
        options: Span::of(body, options),
        num_ctx: Span::of(body, loading.num_ctx()),
        keep_alive: Span::of(body, keep_alive),
        ..Edits::default()
    }
}

fn num_ctx(loading: &Loading<'_>) -> Option<u64> {
    loading.num_ctx().map(|value| options::integer(value).parse().unwrap_or(0))
}

/// The number of tokens that `value` bounds an answer to. Ollama takes zero as it takes a negative number: no bound.
pub(crate) fn bound(value: &str) -> Option<u64> {
    options::integer(value).parse().ok().filter(|&count| count > 0)
}
