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
const FIELDS: [Field; 12] = [
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
    Field("metadata", Shape::Inside(&METADATA)),
    Field(DEBUG_RENDER, Shape::Any),
];

const METADATA: Inside =
    Inside { path: "Metadata.metadata", go: "anthropic.Metadata", fields: &[Field("user_id", Shape::Text)] };

const LIST: Messages = Messages {
    list: "[]anthropic.MessageParam",
    message: Inside { path: "MessagesRequest.messages", go: PARAM, fields: &MESSAGE },
    faults: AfterFault::Stop,
    hear: |message, heard| content_fault(message.given("content")).into_iter().for_each(|why| heard.fault(why)),
};
/// What Go calls the struct into which Ollama reads a message; it has no name.
const PARAM: &str = r#"struct { Role string "json:\"role\""; Content json.RawMessage "json:\"content\"" }"#;
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
    hear(&found, &mut heard);
    heard.fault.take().map_or(Ok(()), |fault| Err(bad(fault)))?;
    heard.written(found.raw("tools"));
    Ok(Call {
        stream: if found.flag("stream") == Some(true) { Stream::Yes } else { Stream::No },
        tokens_asked: tokens_said,
        edits: Edits { bound: Bound::MaxTokens, tokens: Span::of(body, tokens), ..Edits::default() },
        ..Call::of(model, Work::Infer, &mut heard)
    })
}

/// What is wrong with a content as such.
fn content_fault(content: Option<&str>) -> Option<String> {
    let Some(content) = content else { return Some("unexpected end of JSON input".to_owned()) };
    let (got, wanted) = match kind(content) {
        "string" | "null" => return None,
        "array" => (walk::items(content).map(kind).find(|of| !matches!(*of, "object" | "null"))?, ""),
        other => (other, "[]"),
    };
    let place = "MessagesRequest.messages";
    Some(format!("json: cannot unmarshal {got} into Go struct field {place} of type {wanted}anthropic.ContentBlock"))
}

/// Hears the system's text, then the messages, whichever stands first.
fn hear(request: &Found<'_>, heard: &mut Heard) {
    if let Some(system) = request.raw("system").filter(|system| *system != r#""""#) {
        hear_content(Some(r#""system""#), Some(system), Keys::Exact, heard);
    }
    for message in walk::items(request.raw("messages").unwrap_or("")) {
        let [role, content] = heard.pick(message, ["role", "content"], Keys::Folded);
        hear_content(role, content, Keys::Folded, heard);
    }
}

/// A content: one string or a list of blocks, whose keys are compared as `keys` says.
fn hear_content(role: Option<&str>, content: Option<&str>, keys: Keys, heard: &mut Heard) {
    let Some(blocks) = content.filter(|content| kind(content) == "array") else {
        return heard.message(role, content);
    };
    let mut texts = Vec::new();
    for block in walk::items(blocks) {
        let [of, said, thinking, inner, input] =
            heard.pick(block, ["type", "text", "thinking", "content", "input"], keys);
        heard.text(thinking);
        heard.written(input);
        match &*text::string(of.unwrap_or("")) {
            "text" => texts.extend(said),
            "tool_result" | "web_search_tool_result" => hear_result(inner, heard),
            "tool_use" | "server_tool_use" | "thinking" | "redacted_thinking" => {}
            _ => heard.image(),
        }
    }
    heard.parts(role, &texts);
}

/// What a tool gave back.
fn hear_result(content: Option<&str>, heard: &mut Heard) {
    let Some(blocks) = content.filter(|content| kind(content) == "array") else { return heard.text(content) };
    for block in walk::items(blocks) {
        let [of, said] = heard.pick(block, ["type", "text"], Keys::Exact);
        match &*text::string(of.unwrap_or("")) {
            "text" => heard.text(said),
            "image" => heard.image(),
            _ => heard.written(Some(block)),
        }
    }
}
