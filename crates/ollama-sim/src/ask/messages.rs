//! The body of Anthropic's messages as Ollama translates it: blocks of text joined, results of tools as messages of
//! their own. `tool_choice` and `metadata` are ignored.

use serde_json::{Value, json};

use super::openai::common;
use super::{Ask, Delivery, Form, Think};
use crate::members::Kind::{Flag, Float, Int, List, Object, Text};
use crate::members::{Kind, Members, translatable};
use crate::voice::Voice;
use crate::voice::messages::Messages;

/// The bytes that Ollama takes for a token before it has counted.
const BYTES_A_TOKEN: usize = 4;

const FIELDS: [(&str, Kind); 13] = [
    ("model", Text),
    ("max_tokens", Int),
    ("messages", List("[]anthropic.MessageParam")),
    ("stream", Flag),
    ("temperature", Float("float64")),
    ("top_p", Float("float64")),
    ("top_k", Int),
    ("stop_sequences", List("[]string")),
    ("tools", List("[]anthropic.Tool")),
    ("tool_choice", Object("anthropic.ToolChoice")),
    ("thinking", Object("anthropic.ThinkingConfig")),
    ("metadata", Object("anthropic.Metadata")),
    ("output_config", Object("anthropic.OutputConfig")),
];

/// Reads a message request.
pub(crate) fn read(body: &[u8]) -> Result<Ask, String> {
    let mut ask = Ask { delivery: Delivery::Whole, ..Ask::nothing(Form::Chat) };
    let members = translatable(body, "MessagesRequest", &FIELDS)?;
    common(&mut ask, &members);
    let messages = members.last("messages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if ask.model.is_empty() {
        return Err("model is required".to_owned());
    }
    if members.last("max_tokens").and_then(Value::as_i64).is_none_or(|most| most <= 0) {
        return Err("max_tokens is required and must be positive".to_owned());
    }
    if messages.is_empty() {
        return Err("messages is required".to_owned());
    }
    let mut bytes = 0;
    let system = text_of(members.last("system").unwrap_or(&Value::Null));
    if !system.is_empty() {
        ask.hear("system", &system);
        bytes += system.len();
    }
    for message in messages {
        bytes += hear(&mut ask, message)?;
    }
    if let Some(tools) = members.last("tools").and_then(Value::as_array) {
        bytes += tools.iter().map(|tool| tool.to_string().len()).sum::<usize>();
        ask.offer(&tools.iter().map(tool).collect::<Vec<_>>());
    }
    think(&mut ask, &members);
    ask.voice = Voice::Messages(Box::new(Messages::new((bytes / BYTES_A_TOKEN).max(1) as u64)));
    Ok(ask)
}

/// Takes a message in; gives its length as far as Ollama's guess goes.
fn hear(ask: &mut Ask, message: &Value) -> Result<usize, String> {
    let role = message["role"].as_str().unwrap_or_default();
    let blocks = message["content"].as_array().map_or(&[][..], Vec::as_slice);
    for block in blocks {
        match block["type"].as_str() {
            Some("image") if block["source"]["type"] != "base64" => {
                let kind = block["source"]["type"].as_str().unwrap_or_default();
                return Err(format!("invalid image source type: {kind}. Only base64 images are supported."));
            }
            Some("tool_use") if block["id"].as_str().unwrap_or_default().is_empty() => {
                return Err("tool_use block missing required 'id' field".to_owned());
            }
            Some("tool_result") => ask.hear("tool", &text_of(&block["content"])),
            _ => {}
        }
    }
    let text = text_of(&message["content"]);
    if !text.is_empty() || blocks.is_empty() {
        ask.hear(role, &text);
    }
    Ok(role.len() + text.len())
}

/// A text, or the texts of a list of blocks together.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect(),
        _ => String::new(),
    }
}

fn tool(tool: &Value) -> Value {
    json!({"function": {"name": tool["name"], "parameters": tool["input_schema"]}})
}

/// Here the wish to think is not a need: clients of Anthropic's send it whatever the model.
fn think(ask: &mut Ask, members: &Members) {
    let asked = members.last("thinking").and_then(|thinking| thinking["type"].as_str());
    ask.think = match asked {
        Some("enabled") => Think::Wanted,
        Some("disabled") => Think::Unwanted,
        _ => Think::Unsaid,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Turn;

    #[test]
    fn what_is_missing_is_told() {
        let cases = [
            ("", "EOF"),
            ("{}", "model is required"),
            (r#"{"model":"m"}"#, "max_tokens is required and must be positive"),
            (r#"{"model":"m","max_tokens":0}"#, "max_tokens is required and must be positive"),
            (r#"{"model":"m","max_tokens":1}"#, "messages is required"),
            (
                r#"{"model":"m","max_tokens":"x"}"#,
                "json: cannot unmarshal string into Go struct field MessagesRequest.max_tokens of type int",
            ),
        ];
        for (body, wanted) in cases {
            assert_eq!(read(body.as_bytes()), Err(wanted.to_owned()), "{body}");
        }
    }

    #[test]
    fn blocks_become_messages() {
        let body = json!({"model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "be brief"}], "messages": [
            {"role": "user", "content": "use the tool"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "it is 7"}]},
        ]});
        let ask = read(body.to_string().as_bytes()).unwrap();
        assert_eq!((ask.prompt.as_str(), ask.words, ask.turn), ("it is 7", 8, Turn::Other));
        assert_eq!(ask.num_predict, Some(5));
    }
}
