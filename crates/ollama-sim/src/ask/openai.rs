//! The bodies of OpenAI's completions as Ollama translates them. What it does not translate is ignored here too:
//! `max_completion_tokens`, `tool_choice`, `n` and the like.

use serde_json::{Value, json};

use super::{Ask, Delivery, Form, LEVELS, need, think};
use crate::go;
use crate::members::Kind::{Flag, Float, Int, List, Object, Text};
use crate::members::{Kind, Members, translatable};
use crate::voice::{Counts, Voice};

/// The words for an effort that are levels of thinking in Ollama by another name.
const OTHER_LEVELS: [&str; 4] = ["minimal", "xhigh", "ultra", "none"];
/// Image types that are taken inline.
const IMAGES: [&str; 5] = [
    "data:;base64,",
    "data:image/jpeg;base64,",
    "data:image/jpg;base64,",
    "data:image/png;base64,",
    "data:image/webp;base64,",
];

/// Reads a chat completion.
pub(crate) fn chat(body: &[u8]) -> Result<Ask, String> {
    let mut ask = Ask { delivery: Delivery::Whole, ..Ask::nothing(Form::Chat) };
    let members = translatable(body, "ChatCompletionRequest", &CHAT)?;
    common(&mut ask, &members);
    let messages = members.last("messages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if messages.is_empty() {
        return Err("[] is too short - 'messages'".to_owned());
    }
    for message in messages {
        hear(&mut ask, message)?;
    }
    let asked = members.last("reasoning").and_then(|reasoning| reasoning["effort"].as_str());
    if let Some(effort) = asked.or_else(|| members.last("reasoning_effort").and_then(Value::as_str)) {
        reason(&mut ask, effort)?;
    }
    if let Some(tools) = members.last("tools").and_then(Value::as_array) {
        ask.offer(tools);
    }
    ask.format = members.last("response_format").and_then(format);
    ask.voice = Voice::ChatCompletions(counts(&members));
    Ok(ask)
}

/// Reads a text completion.
pub(crate) fn completion(body: &[u8]) -> Result<Ask, String> {
    let mut ask = Ask { delivery: Delivery::Whole, logprobs: None, ..Ask::nothing(Form::Generate) };
    let members = translatable(body, "CompletionRequest", &COMPLETION)?;
    common(&mut ask, &members);
    ask.hear("user", members.last("prompt").and_then(Value::as_str).unwrap_or_default());
    ask.empty = ask.prompt.is_empty();
    let suffix = members.last("suffix").and_then(Value::as_str).unwrap_or_default();
    need(&mut ask, !suffix.is_empty(), "insert");
    ask.voice = Voice::Completions(counts(&members));
    Ok(ask)
}

const CHAT: [(&str, Kind); 17] = [
    ("model", Text),
    ("messages", List("[]openai.Message")),
    ("stream", Flag),
    ("stream_options", Object("openai.StreamOptions")),
    ("max_tokens", Int),
    ("seed", Int),
    ("temperature", Float("float64")),
    ("frequency_penalty", Float("float64")),
    ("presence_penalty", Float("float64")),
    ("top_p", Float("float64")),
    ("response_format", Object("openai.ResponseFormat")),
    ("tools", List("[]api.Tool")),
    ("reasoning", Object("openai.Reasoning")),
    ("reasoning_effort", Text),
    ("logprobs", Flag),
    ("top_logprobs", Int),
    ("_debug_render_only", Flag),
];

const COMPLETION: [(&str, Kind); 11] = [
    ("model", Text),
    ("prompt", Text),
    ("frequency_penalty", Float("float32")),
    ("max_tokens", Int),
    ("presence_penalty", Float("float32")),
    ("seed", Int),
    ("stream", Flag),
    ("stream_options", Object("openai.StreamOptions")),
    ("temperature", Float("float32")),
    ("top_p", Float("float32")),
    ("suffix", Text),
];

/// What all of these routes have.
pub(super) fn common(ask: &mut Ask, members: &Members) {
    members.last("model").and_then(Value::as_str).unwrap_or_default().clone_into(&mut ask.model);
    if members.last("stream") == Some(&Value::Bool(true)) {
        ask.delivery = Delivery::Stream;
    }
    ask.num_predict = members.last("max_tokens").and_then(Value::as_u64).map(|n| n as usize);
    ask.logprobs = None;
}

fn counts(members: &Members) -> Counts {
    let asked = members.last("stream_options").is_some_and(|options| options["include_usage"] == true);
    if asked { Counts::Asked } else { Counts::Unasked }
}

/// Takes a message in, part by part.
fn hear(ask: &mut Ask, message: &Value) -> Result<(), String> {
    let invalid = || "invalid message format".to_owned();
    let members = message.as_object().ok_or_else(|| go::body_type_text(message, "openai.Message"))?;
    let role = members.get("role").and_then(Value::as_str).unwrap_or_default();
    match members.get("content") {
        Some(Value::String(text)) => ask.hear(role, text),
        Some(Value::Array(parts)) => {
            for part in parts {
                match part["type"].as_str() {
                    Some("text") => ask.hear(role, part["text"].as_str().ok_or_else(invalid)?),
                    Some("image_url") => image(part).then_some(()).ok_or("invalid image input")?,
                    _ => return Err(invalid()),
                }
            }
        }
        // Whoever calls a tool need not say anything.
        _ if members.get("tool_calls").is_some_and(Value::is_array) => ask.hear(role, ""),
        other => return Err(format!("invalid message content type: {}", go_kind(other))),
    }
    Ok(())
}

/// Whether a part is an image that comes with the request.
fn image(part: &Value) -> bool {
    let url = part["image_url"]["url"].as_str().or(part["image_url"].as_str()).unwrap_or_default();
    IMAGES.iter().any(|own| url.starts_with(own))
}

/// Go's `%T` of what a decoder makes of a value.
fn go_kind(value: Option<&Value>) -> &'static str {
    match value {
        None | Some(Value::Null) => "<nil>",
        Some(Value::Bool(_)) => "bool",
        Some(Value::Number(_)) => "float64",
        Some(Value::String(_)) => "string",
        Some(Value::Array(_)) => "[]interface {}",
        Some(Value::Object(_)) => "map[string]interface {}",
    }
}

/// Takes an effort in.
pub(super) fn reason(ask: &mut Ask, effort: &str) -> Result<(), String> {
    match effort {
        "" => {}
        "none" => think(ask, false),
        level if LEVELS.contains(&level) || OTHER_LEVELS.contains(&level) => think(ask, true),
        other => {
            let said = go::quote(other);
            let wanted = "(must be \"high\", \"medium\", \"low\", \"max\", or \"none\")";
            return Err(format!("invalid reasoning value: {said} {wanted}"));
        }
    }
    Ok(())
}

fn format(asked: &Value) -> Option<Value> {
    match asked["type"].as_str()? {
        "json_object" => Some(json!("json")),
        "json_schema" => Some(asked["json_schema"]["schema"].clone()).filter(Value::is_object),
        _ => None,
    }
}
