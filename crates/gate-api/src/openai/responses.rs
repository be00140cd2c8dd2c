//! `POST /v1/responses`: an input of one text, or of items.
//!
//! Tools by which the server would search the web are refused: it would turn to somebody else's machines.

use super::text;
use crate::call::{Call, Stream, Work, bad};
use crate::clamp::{Bound, Edits, Span};
use crate::native::fields::{Field, Found, Keys, Request, Shape, kind};
use crate::native::heard::Heard;
use crate::native::{self, DEBUG_RENDER, END_OF_FILE, bound, walk};
use crate::rejection::{Denial, Rejection};

const MAX_TOKENS: &str = "max_output_tokens";

const RESPONSES: Request = Request { go: "openai.ResponsesRequest", name: "ResponsesRequest", fields: &FIELDS };
const FIELDS: [Field; 13] = [
    Field("model", Shape::Text),
    Field("background", Shape::Flag),
    Field("include", Shape::Texts),
    Field("input", Shape::Any),
    Field("instructions", Shape::Text),
    Field(MAX_TOKENS, Shape::Int),
    Field("temperature", Shape::Float(64)),
    Field("top_p", Shape::Float(64)),
    Field("truncation", Shape::Text),
    Field("tools", Shape::Objects { list: "[]openai.ResponsesTool", item: "openai.ResponsesTool" }),
    Field("stream", Shape::Flag),
    Field("reasoning", Shape::Any),
    Field(DEBUG_RENDER, Shape::Any),
];

/// Judges a body of `POST /v1/responses`.
pub(crate) fn responses(body: &[u8]) -> Result<Call, Rejection> {
    let (mut found, mut heard) = (Found::none(&FIELDS), Heard::default());
    native::read(&RESPONSES, body, (&mut found, &mut heard), END_OF_FILE)?;
    let instructions = found.raw("instructions").filter(|text| *text != r#""""#);
    if instructions.is_some() {
        heard.message(Some(r#""system""#), instructions);
    }
    hear_input(found.raw("input"), &mut heard)?;
    heard.fault.take().map_or(Ok(()), |fault| Err(bad(fault)))?;
    no_web_search(found.raw("tools"))?;
    heard.written(found.raw("tools"));
    let model = native::model(&found.text("model"), native::required)?;
    let tokens = found.given(MAX_TOKENS);
    let work = if heard.messages > 0 || instructions.is_some() { Work::Infer } else { Work::Load };
    Ok(Call {
        stream: if found.flag("stream") == Some(true) { Stream::Yes } else { Stream::No },
        tokens_asked: tokens.and_then(bound),
        edits: Edits { bound: Bound::MaxOutputTokens, tokens: Span::of(body, tokens), ..Edits::default() },
        ..Call::of(model, work, &mut heard)
    })
}

fn hear_input(input: Option<&str>, heard: &mut Heard) -> Result<(), Rejection> {
    let Some(input) = input else { return Ok(()) };
    match kind(input) {
        "string" if input == r#""""# => {}
        "string" => {
            heard.message(Some(r#""user""#), Some(input));
            heard.messages = 1;
        }
        "array" => {
            for item in walk::items(input) {
                hear_item(item, heard);
                heard.messages = heard.messages.saturating_add(1);
            }
        }
        other => {
            let why = format!("json: cannot unmarshal {other} into Go value of type []json.RawMessage");
            return Err(bad(format!("input must be a string or array: {why}")));
        }
    }
    Ok(())
}

/// An item: a message, or something that a model reads beside messages.
fn hear_item(item: &str, heard: &mut Heard) {
    let [of, role, content, output] = heard.pick(item, ["type", "role", "content", "output"], Keys::Folded);
    let of = text::string(of.unwrap_or(""));
    if of == "message" || (of.is_empty() && role.is_some()) {
        return hear_content(role, content, heard);
    }
    if of == "function_call_output" {
        return hear_content(Some(r#""tool""#), output, heard);
    }
    // Calls and thoughts are given back as they were made; what is unknown is left to Ollama.
    heard.written(Some(item));
}

/// A content, or an output: one string or a list of parts.
fn hear_content(role: Option<&str>, content: Option<&str>, heard: &mut Heard) {
    let Some(parts) = content.filter(|content| kind(content) == "array") else {
        return heard.message(role, content);
    };
    let mut texts = Vec::new();
    for part in walk::items(parts) {
        let [of, said] = heard.pick(part, ["type", "text"], Keys::Folded);
        match &*text::string(of.unwrap_or("")) {
            "input_text" | "output_text" => texts.extend(said),
            _ => heard.image(),
        }
    }
    heard.parts(role, &texts);
}

/// What the type of a tool begins with, by which Ollama's server searches the web itself.
const WEB_SEARCH: &str = "web_search";

/// Refuses tools that search the web, also those within tools.
pub(crate) fn no_web_search(tools: Option<&str>) -> Result<(), Rejection> {
    let mut lists: Vec<&str> = tools.into_iter().collect();
    while let Some(list) = lists.pop() {
        for (key, value) in walk::items(list).flat_map(walk::members) {
            let key = text::unescaped(key);
            if text::is_same_field(&key, "tools") {
                lists.push(value);
            }
            let of = text::is_same_field(&key, "type").then(|| text::string(value));
            let begins =
                |of: &str| of.get(..WEB_SEARCH.len()).is_some_and(|start| start.eq_ignore_ascii_case(WEB_SEARCH));
            if of.is_some_and(|of| begins(of.trim())) {
                return Err(Rejection::Denied { what: Denial::WebSearch });
            }
        }
    }
    Ok(())
}
