//! What of Anthropic's `POST /v1/messages`, as Ollama takes it, can be judged without a model.
//!
//! As with [`openai`](crate::openai): keys and types as Go reads them, and what a block must hold is left to Ollama.
//! Tools by which the server would search the web are refused.

use crate::call::{Call, Stream, Work, bad};
use crate::clamp::{Bound, Edits, Span};
use crate::native::fields::{AfterFault, Field, Found, Inside, Keys, Messages, Request, Shape, kind};
use crate::native::heard::Heard;
use crate::native::{self, DEBUG_RENDER, END_OF_FILE, bound, text, walk};
use crate::openai::responses::no_web_search;
use crate::rejection::Rejection;

const MAX_TOKENS: &str = "max_tokens";

const MESSAGES: Request = Request { go: "anthropic.MessagesRequest", name: "MessagesRequest", fields: &FIELDS };
const FIELDS: [Field; 11] = [
    Field("model", Shape::Text),
    Field(MAX_TOKENS, Shape::Int),
    Field("messages", Shape::Messages(&LIST)),
    Field("system", Shape::Any),
    Field("stream", Shape::Flag),
    Field("temperature", Shape::Float(64)),
    Field("top_p", Shape::Float(64)),
    Field("top_k", Shape::Int),
    Field("stop_sequences", Shape::Texts),
    Field("tools", Shape::Objects { list: "[]anthropic.Tool", item: "anthropic.Tool" }),
    Field(DEBUG_RENDER, Shape::Any),
];

const LIST: Messages = Messages {
    list: "[]anthropic.MessageParam",
    message: Inside { path: "MessagesRequest.messages", go: "anthropic.MessageParam", fields: &MESSAGE },
    faults: AfterFault::Stop,
    hear,
};
const MESSAGE: [Field; 2] = [Field("role", Shape::Text), Field("content", Shape::Any)];

/// Judges a body of `POST /v1/messages`.
pub(crate) fn messages(body: &[u8]) -> Result<Call, Rejection> {
    let (mut found, mut heard) = (Found::none(&FIELDS), Heard::default());
    native::read(&MESSAGES, body, (&mut found, &mut heard), END_OF_FILE)?;
    heard.fault.take().map_or(Ok(()), |fault| Err(bad(fault)))?;
    let sent = found.text("model");
    if sent.is_empty() {
        return Err(native::required(&sent));
    }
    let tokens = found.given(MAX_TOKENS);
    let tokens_said = tokens.and_then(bound);
    if tokens_said.is_none() {
        return Err(bad("max_tokens is required and must be positive"));
    }
    if heard.messages == 0 {
        return Err(bad("messages is required"));
    }
    no_web_search(found.raw("tools"))?;
    let model = native::model(&sent, native::required)?;
    let heard = with_system(found.raw("system"), found.raw("messages"), heard);
    heard.written(found.raw("tools"));
    Ok(Call {
        stream: if found.flag("stream") == Some(true) { Stream::Yes } else { Stream::No },
        tokens_asked: tokens_said,
        edits: Edits {
            bound: Bound::Field(MAX_TOKENS),
            tokens: Span::of(body, tokens),
            tokens_said,
            ..Edits::default()
        },
        ..Call::of(model, Work::Infer, &mut heard)
    })
}
