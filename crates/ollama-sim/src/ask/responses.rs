//! The body of OpenAI's responses as Ollama translates it. What it does not support is ignored here too:
//! `previous_response_id`, `store`, `conversation`, `tool_choice`.

use serde_json::{Value, json};

use super::openai::{common, reason};
use super::{Ask, Delivery, Form};
use crate::go;
use crate::members::Kind::{Flag, Float, Int, List, Object, Text};
use crate::members::{Kind, Members, translatable};
use crate::voice::Voice;
use crate::voice::responses::{Asked, Responses};

const FIELDS: [(&str, Kind); 11] = [
    ("model", Text),
    ("background", Flag),
    ("instructions", Text),
    ("max_output_tokens", Int),
    ("reasoning", Object("openai.ResponsesReasoning")),
    ("temperature", Float("float64")),
    ("text", Object("openai.ResponsesText")),
    ("top_p", Float("float64")),
    ("truncation", Text),
    ("tools", List("[]openai.ResponsesTool")),
    ("stream", Flag),
];

/// Reads a request.
pub(crate) fn read(body: &[u8]) -> Result<Ask, String> {
    let mut ask = Ask { delivery: Delivery::Whole, ..Ask::nothing(Form::Chat) };
    let members = translatable(body, "ResponsesRequest", &FIELDS)?;
    common(&mut ask, &members);
    let said = |name: &str| members.last(name).filter(|value| !value.is_null()).cloned();
    let instructions = said("instructions").filter(|text| text != "");
    if let Some(text) = instructions.as_ref().and_then(Value::as_str) {
        ask.hear("system", text);
    }
    match members.last("input") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) if text.is_empty() => {}
        Some(Value::String(text)) => ask.hear("user", text),
        Some(Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                hear(&mut ask, item).map_err(|why| format!("input[{index}]: {why}"))?;
            }
        }
        Some(other) => {
            let why = go::body_type_text(other, "[]json.RawMessage");
            return Err(format!("input must be a string or array: {why}"));
        }
    }
    ask.num_predict = members.last("max_output_tokens").and_then(Value::as_u64).map(|n| n as usize);
    let reasoning = said("reasoning").unwrap_or(Value::Null);
    reason(&mut ask, reasoning["effort"].as_str().unwrap_or_default())?;
    let tools = said("tools").unwrap_or(json!([]));
    if let Some(tools) = tools.as_array() {
        ask.offer(&tools.iter().map(|tool| json!({ "function": tool })).collect::<Vec<_>>());
    }
    let format = said("text").map(|text| text["format"].clone()).filter(Value::is_object);
    ask.format = format.as_ref().map(|format| format["schema"].clone()).filter(Value::is_object);
    let asked = Asked {
        background: said("background") == Some(json!(true)),
        instructions: instructions.unwrap_or(Value::Null),
        max_output_tokens: said("max_output_tokens").unwrap_or(Value::Null),
        reasoning: repeated_reasoning(&reasoning),
        temperature: number(&members, "temperature"),
        format: format.unwrap_or_else(|| Asked::default().format),
        tools,
        top_p: number(&members, "top_p"),
        truncation: said("truncation")
            .and_then(|text| text.as_str().map(str::to_owned))
            .unwrap_or("disabled".to_owned()),
    };
    ask.voice = Voice::Responses(Box::new(Responses::new(asked)));
    Ok(ask)
}

/// A number as Go writes it: whole ones without a point. 1 where none was said.
fn number(members: &Members, name: &str) -> Value {
    match members.last(name).and_then(Value::as_f64) {
        None => json!(1),
        Some(number) if number.fract() == 0.0 => json!(number as i64),
        Some(number) => json!(number),
    }
}

/// What an answer repeats of the thinking that was asked for.
fn repeated_reasoning(asked: &Value) -> Value {
    if asked["effort"].is_string() || asked["summary"].is_string() {
        json!({"effort": asked["effort"], "summary": asked["summary"]})
    } else {
        Value::Null
    }
}

/// Takes an item in.
fn hear(ask: &mut Ask, item: &Value) -> Result<(), String> {
    let role = item["role"].as_str().unwrap_or_default();
    match item["type"].as_str().unwrap_or(if role.is_empty() { "" } else { "message" }) {
        "message" => ask.hear(role, &text_of(&item["content"])?),
        "function_call" => ask.hear("assistant", ""),
        "function_call_output" => ask.hear("tool", &text_of(&item["output"])?),
        "reasoning" | "web_search_call" => {}
        "" => return Err("input item missing required 'type' field".to_owned()),
        other => return Err(format!("unknown input item type: {}", go::quote(other))),
    }
    Ok(())
}

/// A text, or the texts of a list of parts together.
fn text_of(content: &Value) -> Result<String, String> {
    let parts = match content {
        Value::Null => return Ok(String::new()),
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => {
            let why = go::body_type_text(other, "[]json.RawMessage");
            return Err(format!("content must be a string or array: {why}"));
        }
    };
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        match part["type"].as_str().unwrap_or_default() {
            "input_text" | "output_text" => text.push_str(part["text"].as_str().unwrap_or_default()),
            "input_image" => {}
            other => return Err(format!("content[{index}]: unknown content type: {other}")),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Turn;

    #[test]
    fn inputs_are_texts_or_items() {
        let items = json!([
            {"role": "user", "content": "use the tool"},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "7"}]},
        ]);
        for (input, wanted) in [(json!("a b"), ("a b", 2, Turn::User)), (items, ("7", 5, Turn::Other))] {
            let ask = read(json!({"model": "m", "input": input}).to_string().as_bytes()).unwrap();
            assert_eq!((ask.prompt.as_str(), ask.words, ask.turn), wanted, "{input}");
        }
    }

    #[test]
    fn other_inputs_are_refused() {
        let cases = [
            (json!([{"content": "x"}]), "input[0]: input item missing required 'type' field"),
            (json!([{"type": "item_reference"}]), "input[0]: unknown input item type: \"item_reference\""),
            (
                json!([{"role": "user", "content": [{"type": "input_video"}]}]),
                "input[0]: content[0]: unknown content type: input_video",
            ),
        ];
        for (input, wanted) in cases {
            let body = json!({"model": "m", "input": input}).to_string();
            assert_eq!(read(body.as_bytes()), Err(wanted.to_owned()), "{input}");
        }
    }
}
