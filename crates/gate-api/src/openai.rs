//! What of OpenAI's requests, as Ollama takes them, can be judged without a model: chats, completions, embeddings.
//!
//! Ollama fills structs of its own with them, so keys and types are read as [`native`](crate::native) reads them. What
//! Ollama's versions judge differently (parts of a message, levels of effort) is left to Ollama; it is only counted here.
//! `keep_alive` and `options` mean nothing in these requests.
//!
//! Invariant: the fields are those that Ollama reads; one that it ignores never stands for one that it reads, except
//! `max_completion_tokens`, which bounds a guess and a clamp but nothing of Ollama's.

use crate::call::{Call, Stream, Usage, Work, bad};
use crate::clamp::{Bound, CountUsage, Edits, Span};
use crate::native::fields::{AfterFault, Field, Found, Inside, Keys, Messages, Request, Shape, kind, pick};
use crate::native::heard::Heard;
use crate::native::{self, DEBUG_RENDER, END_OF_FILE, bound, embed, text, walk};
use crate::rejection::Rejection;

pub(crate) mod responses;

const MAX_TOKENS: &str = "max_tokens";

const CHAT: Request =
    Request { go: "openai.ChatCompletionRequest", name: "ChatCompletionRequest", fields: &CHAT_FIELDS };
const CHAT_FIELDS: [Field; 18] = [
    Field("model", Shape::Text),
    Field("messages", Shape::Messages(&MESSAGES)),
    Field("stream", Shape::Flag),
    Field("stream_options", Shape::Inside(&STREAM_OPTIONS)),
    Field(MAX_TOKENS, Shape::Int),
    Field("max_completion_tokens", Shape::Any),
    Field("seed", Shape::Int),
    Field("temperature", Shape::Float(64)),
    Field("frequency_penalty", Shape::Float(64)),
    Field("presence_penalty", Shape::Float(64)),
    Field("top_p", Shape::Float(64)),
    Field("response_format", Shape::Inside(&RESPONSE_FORMAT)),
    Field("tools", Shape::Objects { list: "[]api.Tool", item: "api.Tool" }),
    Field("reasoning", Shape::Inside(&REASONING)),
    Field("reasoning_effort", Shape::Text),
    Field("logprobs", Shape::Flag),
    Field("top_logprobs", Shape::Int),
    Field(DEBUG_RENDER, Shape::Flag),
];

const MESSAGES: Messages = Messages {
    list: "[]openai.Message",
    message: Inside { path: "Message.messages", go: "openai.Message", fields: &MESSAGE },
    faults: AfterFault::GoOn,
    hear,
};
const MESSAGE: [Field; 6] = [
    Field("role", Shape::Text),
    Field("content", Shape::Any),
    Field("reasoning", Shape::Text),
    Field("tool_calls", Shape::Objects { list: "[]openai.ToolCall", item: "openai.ToolCall" }),
    Field("name", Shape::Text),
    Field("tool_call_id", Shape::Text),
];

const STREAM_OPTIONS: Inside = Inside {
    path: "StreamOptions.stream_options",
    go: "openai.StreamOptions",
    fields: &[Field(INCLUDE_USAGE, Shape::Flag)],
};
const INCLUDE_USAGE: &str = "include_usage";

const RESPONSE_FORMAT: Inside = Inside {
    path: "ResponseFormat.response_format",
    go: "openai.ResponseFormat",
    fields: &[Field("type", Shape::Text)],
};

const REASONING: Inside =
    Inside { path: "Reasoning.reasoning", go: "openai.Reasoning", fields: &[Field("effort", Shape::Text)] };

const COMPLETION: Request =
    Request { go: "openai.CompletionRequest", name: "CompletionRequest", fields: &COMPLETION_FIELDS };
const COMPLETION_FIELDS: [Field; 13] = [
    Field("model", Shape::Text),
    Field("prompt", Shape::Text),
    Field("stream", Shape::Flag),
    Field("stream_options", Shape::Inside(&STREAM_OPTIONS)),
    Field(MAX_TOKENS, Shape::Int),
    Field("seed", Shape::Int),
    Field("temperature", Shape::Float(32)),
    Field("frequency_penalty", Shape::Float(32)),
    Field("presence_penalty", Shape::Float(32)),
    Field("top_p", Shape::Float(32)),
    Field("suffix", Shape::Text),
    Field("logprobs", Shape::Int),
    Field(DEBUG_RENDER, Shape::Flag),
];

const EMBED: Request = Request { go: "openai.EmbedRequest", name: "EmbedRequest", fields: &EMBED_FIELDS };
const EMBED_FIELDS: [Field; 5] = [
    Field("input", Shape::Any),
    Field("model", Shape::Text),
    Field("dimensions", Shape::Int),
    Field("encoding_format", Shape::Text),
    Field(DEBUG_RENDER, Shape::Any),
];

/// Judges a body of `POST /v1/chat/completions`.
pub(crate) fn chat_completions(body: &[u8]) -> Result<Call, Rejection> {
    let (mut found, mut heard) = (Found::none(&CHAT_FIELDS), Heard::default());
    native::read(&CHAT, body, (&mut found, &mut heard), END_OF_FILE)?;
    if heard.messages == 0 {
        return Err(bad("[] is too short - 'messages'"));
    }
    heard.fault.take().map_or(Ok(()), |fault| Err(bad(fault)))?;
    let model = native::model(&found.text("model"), native::required)?;
    heard.written(found.raw("tools"));
    let call = generation(body, &found, Call::of(model, Work::Infer, &mut heard));
    let ignored = found.raw("max_completion_tokens").and_then(bound);
    Ok(Call {
        tokens_asked: call.tokens_asked.or(ignored),
        edits: Edits { countable: CountUsage::Yes, ..call.edits },
        ..call
    })
}

/// Judges a body of `POST /v1/completions`.
pub(crate) fn completions(body: &[u8]) -> Result<Call, Rejection> {
    let (mut found, mut heard) = (Found::none(&COMPLETION_FIELDS), Heard::default());
    native::read(&COMPLETION, body, (&mut found, &mut heard), END_OF_FILE)?;
    let model = native::model(&found.text("model"), native::not_found)?;
    heard.prompt(None, found.raw("prompt"));
    heard.text(found.raw("suffix"));
    let work = if found.is_given("prompt") { Work::Infer } else { Work::Load };
    Ok(generation(body, &found, Call::of(model, work, &mut heard)))
}

/// Judges a body of `POST /v1/embeddings`.
pub(crate) fn embeddings(body: &[u8]) -> Result<Call, Rejection> {
    let (mut found, mut heard) = (Found::none(&EMBED_FIELDS), Heard::default());
    native::read(&EMBED, body, (&mut found, &mut heard), END_OF_FILE)?;
    let format = found.text("encoding_format");
    if !format.is_empty() && !["float", "base64"].iter().any(|known| format.eq_ignore_ascii_case(known)) {
        let format = text::shortened(&format);
        let supported = "Supported values: ['float', 'base64'].";
        return Err(bad(format!("Invalid value for 'encoding_format' = {format}. {supported}")));
    }
    let input = found.raw("input").filter(|input| walk::is_nonempty(input)).ok_or_else(|| bad("invalid input"))?;
    let model = native::model(&found.text("model"), native::not_found)?;
    embed::inputs(Some(input), &mut heard)?;
    Ok(Call { tokens_asked: Some(0), ..Call::of(model, Work::Infer, &mut heard) })
}

/// What chats and completions have in common.
fn generation(body: &[u8], found: &Found<'_>, call: Call) -> Call {
    let (options, tokens) = (found.given("stream_options"), found.given(MAX_TOKENS));
    // It was read once already, and is not ambiguous.
    let include_usage = walk::members(options.unwrap_or(""))
        .find(|(key, _)| text::is_same_field(&text::unescaped(key), INCLUDE_USAGE))
        .map(|(_, value)| value);
    Call {
        stream: if found.flag("stream") == Some(true) { Stream::Yes } else { Stream::No },
        tokens_asked: tokens.and_then(bound),
        usage: if include_usage == Some("true") { Usage::Asked } else { Usage::Unasked },
        edits: Edits {
            bound: Bound::MaxTokens,
            tokens: Span::of(body, tokens),
            stream_options: Span::of(body, options),
            include_usage: Span::of(body, include_usage),
            ..Edits::default()
        },
        ..call
    }
}

/// Hears a message, whose content may be in parts.
fn hear(message: &Found<'_>, heard: &mut Heard) {
    let (role, content) = (message.raw("role"), message.raw("content"));
    heard.written(message.raw("tool_calls"));
    heard.text(message.raw("reasoning"));
    match (content.map(kind), content) {
        (Some("string"), content) => heard.message(role, content),
        (Some("array"), Some(parts)) => {
            let mut texts = Vec::new();
            for part in walk::items(parts) {
                match pick(part, ["type", "text"], Keys::Exact) {
                    Ok([Some(r#""text""#), text]) => texts.extend(text),
                    Ok([Some(of), text]) if text::string(of) == "text" => texts.extend(text),
                    Ok(_) if kind(part) == "object" => heard.image(),
                    Ok(_) => heard.fault("invalid message format"),
                    Err(why) => heard.fault(why),
                }
            }
            heard.parts(role, &texts);
        }
        // Calls of tools may stand alone.
        (None, _) if message.raw("tool_calls").is_some() => heard.message(role, None),
        (other, _) => heard.fault(format!("invalid message content type: {}", go_type(other))),
    }
}

/// What Go calls the type of a JSON value that it holds as any.
fn go_type(kind: Option<&str>) -> &'static str {
    match kind {
        Some("number") => "float64",
        Some("bool") => "bool",
        Some("object") => "map[string]interface {}",
        _ => "<nil>",
    }
}
