//! A generating request as Ollama reads it: names in any letter case, the last of two wins, unknown ones and bytes
//! behind the value ignored, the first wrong type reported. Whether it can be answered is decided elsewhere.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::clock::FOREVER;
use crate::go;
use crate::members::Members;
use crate::terms::{Terms, Wish};
use crate::voice::Voice;
use crate::voice::native::Form;

mod messages;
pub(crate) mod openai;
mod responses;

/// How hard a model may be told to think.
const LEVELS: [&str; 4] = ["low", "medium", "high", "max"];

/// What a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ask {
    /// The route of Ollama's that it comes to.
    pub(crate) form: Form,
    /// How the answer is told.
    pub(crate) voice: Voice,
    pub(crate) model: String,
    /// The prompt, or the last message's content.
    pub(crate) prompt: String,
    /// All that the model reads before it speaks, in words.
    pub(crate) words: usize,
    /// Whose message was the last.
    pub(crate) turn: Turn,
    pub(crate) tools: Vec<Tool>,
    pub(crate) think: Think,
    /// No prompt or no messages: load or unload only.
    pub(crate) empty: bool,
    pub(crate) delivery: Delivery,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) terms: Terms,
    pub(crate) num_predict: Option<usize>,
    pub(crate) format: Option<Value>,
    pub(crate) needs: Vec<&'static str>,
    /// The text for a `raw` request that has what `raw` forbids.
    pub(crate) misuse: Option<&'static str>,
    /// The text for the first option of a wrong type; found only when the model is loaded.
    pub(crate) bad_option: Option<String>,
    /// How many alternatives to list with each token, where log probabilities are wanted.
    pub(crate) logprobs: Option<usize>,
}

/// Who spoke last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    User,
    /// The assistant itself, or a tool it used.
    Other,
}

/// Whether the model thinks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Think {
    /// It does if it can.
    Unsaid,
    Wanted,
    Unwanted,
}

/// A tool that the model may use.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    /// The JSON schema of its arguments.
    pub(crate) parameters: Value,
}

/// Line by line or all at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Stream,
    Whole,
}

/// Reads the body of a request to one of the generating routes, or says why it cannot be.
pub(crate) fn read(path: &str, body: &[u8]) -> Result<Ask, String> {
    match path {
        "/v1/chat/completions" => openai::chat(body),
        "/v1/completions" => openai::completion(body),
        "/v1/responses" => responses::read(body),
        "/v1/messages" => messages::read(body),
        "/api/chat" => parse(Form::Chat, body),
        _ => parse(Form::Generate, body),
    }
}

/// Reads a body as Ollama does.
fn parse(form: Form, body: &[u8]) -> Result<Ask, String> {
    let structure = match form {
        Form::Generate => "GenerateRequest",
        Form::Chat => "ChatRequest",
    };
    let mut ask = Ask::nothing(form);
    let mut raw = Raw::default();
    for (name, value) in &Members::read(body, &format!("api.{structure}"))?.0 {
        let name = name.to_ascii_lowercase();
        if !value.is_null() {
            member(&mut ask, &mut raw, structure, (&name, value))?;
        }
    }
    if raw.wanted && raw.forbidden {
        ask.misuse = Some("raw mode does not support template, system, or context");
    }
    if !raw.logprobs {
        ask.logprobs = None;
    }
    Ok(ask)
}

/// What is only judged together with other members.
#[derive(Default)]
struct Raw {
    wanted: bool,
    forbidden: bool,
    logprobs: bool,
}

impl Ask {
    fn nothing(form: Form) -> Self {
        Self {
            form,
            voice: if form == Form::Chat { Voice::Chat } else { Voice::Generate },
            model: String::new(),
            prompt: String::new(),
            words: 0,
            turn: Turn::User,
            tools: Vec::new(),
            think: Think::Unsaid,
            empty: true,
            delivery: Delivery::Stream,
            keep_alive: None,
            terms: Terms::default(),
            num_predict: None,
            format: None,
            needs: Vec::new(),
            misuse: None,
            bad_option: None,
            logprobs: Some(0),
        }
    }

    /// Takes a message's text in.
    fn hear(&mut self, role: &str, text: &str) {
        self.empty = false;
        text.clone_into(&mut self.prompt);
        self.words += text.split(' ').count();
        self.turn = if role.eq_ignore_ascii_case("user") { Turn::User } else { Turn::Other };
    }

    /// Takes tools in, each as `{"function": {"name": …, "parameters": …}}`.
    fn offer(&mut self, tools: &[Value]) {
        need(self, !tools.is_empty(), "tools");
        let one = |tool: &Value| Tool {
            name: tool["function"]["name"].as_str().unwrap_or_default().to_owned(),
            parameters: tool["function"]["parameters"].clone(),
        };
        self.tools = tools.iter().map(one).collect();
    }

    /// What it wants of the scheduler.
    pub(crate) fn wish(&self) -> Wish {
        Wish { terms: self.terms, keep_alive: self.keep_alive }
    }
}

fn member(ask: &mut Ask, raw: &mut Raw, structure: &str, (name, value): (&str, &Value)) -> Result<(), String> {
    let wrong = |wanted: &str| go::type_text(value, &format!("{structure}.{name}"), wanted);
    let text = || value.as_str().ok_or_else(|| wrong("string"));
    let flag = || value.as_bool().ok_or_else(|| wrong("bool"));
    match (name, ask.form) {
        ("model", _) => text()?.clone_into(&mut ask.model),
        ("prompt", Form::Generate) => {
            ask.hear("user", text()?);
            ask.empty = ask.prompt.is_empty();
        }
        ("system" | "template", Form::Generate) => raw.forbidden |= !text()?.is_empty(),
        ("context", Form::Generate) => {
            raw.forbidden |= !value.as_array().ok_or_else(|| wrong("[]int"))?.is_empty();
        }
        ("raw", Form::Generate) => raw.wanted = flag()?,
        ("suffix", Form::Generate) => need(ask, !text()?.is_empty(), "insert"),
        ("images", Form::Generate) => drop(value.as_array().ok_or_else(|| wrong("[]api.ImageData"))?),
        ("messages", Form::Chat) => messages(ask, value, wrong)?,
        ("tools", Form::Chat) => {
            ask.offer(value.as_array().ok_or_else(|| wrong("api.Tools"))?);
        }
        ("stream", _) => ask.delivery = if flag()? { Delivery::Stream } else { Delivery::Whole },
        ("keep_alive", _) => ask.keep_alive = Some(keep_alive(value)?),
        ("options", _) => {
            let options = value.as_object().ok_or_else(|| wrong("map[string]interface {}"))?;
            ask.bad_option = bad_option(options);
            ask.terms.take(options);
            ask.num_predict =
                options.get("num_predict").and_then(Value::as_f64).filter(|n| *n >= 0.0).map(|n| n as usize);
        }
        ("format", _) if value != "" => ask.format = Some(value.clone()),
        ("think", _) => match value {
            Value::Bool(wanted) => think(ask, *wanted),
            Value::String(level) if LEVELS.contains(&level.as_str()) => think(ask, true),
            _ => {
                let said = serde_json::to_string(value).unwrap_or_default();
                return Err(format!(
                    "invalid think value: {said} (must be \"high\", \"medium\", \"low\", \"max\", true, or false)"
                ));
            }
        },
        ("logprobs", _) => raw.logprobs = flag()?,
        ("top_logprobs", _) => match value.as_i64().ok_or_else(|| wrong("int"))? {
            n @ 0..=20 => ask.logprobs = Some(n as usize),
            _ => return Err("top_logprobs must be between 0 and 20".to_owned()),
        },
        ("truncate", _) => drop(flag()?),
        ("shift", _) => ask.terms.shift = flag()?,
        _ => {}
    }
    Ok(())
}

fn need(ask: &mut Ask, wanted: bool, capability: &'static str) {
    if wanted {
        ask.needs.push(capability);
    }
}

fn think(ask: &mut Ask, wanted: bool) {
    need(ask, wanted, "thinking");
    ask.think = if wanted { Think::Wanted } else { Think::Unwanted };
}

fn messages(ask: &mut Ask, value: &Value, wrong: impl Fn(&str) -> String) -> Result<(), String> {
    let list = value.as_array().ok_or_else(|| wrong("[]api.Message"))?;
    (ask.empty, ask.words) = (true, 0);
    for message in list {
        let message = message.as_object().ok_or_else(|| go::body_type_text(message, "api.Message"))?;
        for (name, value) in message {
            let name = name.to_ascii_lowercase();
            if matches!(name.as_str(), "role" | "content" | "thinking") && !value.is_null() && !value.is_string() {
                return Err(go::type_text(value, &format!("ChatRequest.messages.{name}"), "string"));
            }
        }
        let text = |name| member_of(message, name).and_then(Value::as_str).unwrap_or_default();
        ask.hear(text("role"), text("content"));
    }
    Ok(())
}

/// The last member of this name, in any letter case.
fn member_of<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    members.iter().rev().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Reads the time that a model is to stay.
pub(crate) fn keep_alive(value: &Value) -> Result<Duration, String> {
    let unsupported = |kind: &str| Err(format!("Unsupported type: '{kind}'"));
    match value {
        Value::Number(number) => {
            let seconds = number.as_f64().unwrap_or(-1.0);
            Ok(Duration::try_from_secs_f64(seconds).map_or(FOREVER, |span| span.min(FOREVER)))
        }
        Value::String(text) => go::duration(text),
        Value::Bool(_) => unsupported("bool"),
        Value::Array(_) => unsupported("[]interface {}"),
        _ => unsupported("map[string]interface {}"),
    }
}

/// The text for the first option of a wrong type.
pub(crate) fn bad_option(options: &Map<String, Value>) -> Option<String> {
    options.iter().find_map(|(name, value)| option_text(name, value))
}

fn option_text(name: &str, value: &Value) -> Option<String> {
    let (fits, wanted) = match name {
        "num_keep" | "seed" | "num_predict" | "top_k" | "repeat_last_n" | "num_ctx" | "num_batch" | "num_gpu"
        | "main_gpu" | "num_thread" | "draft_num_predict" => (value.is_number(), "of type integer"),
        "top_p" | "min_p" | "typical_p" | "temperature" | "repeat_penalty" | "presence_penalty"
        | "frequency_penalty" => (value.is_number(), "of type float32"),
        "use_mmap" => (value.is_boolean(), "of type boolean"),
        "stop" => match value.as_array() {
            Some(items) => (items.iter().all(Value::is_string), "of an array of strings"),
            None => (false, "of type array"),
        },
        _ => return None,
    };
    (!fits && !value.is_null()).then(|| format!("option {} must be {wanted}", go::quote(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generate(body: &str) -> Result<Ask, String> {
        parse(Form::Generate, body.as_bytes())
    }

    #[test]
    fn names_match_in_any_case_and_the_last_wins() {
        let ask = generate(r#"{"model":"a","MODEL":"b","Prompt":"x","prompt":"y","nope":{}} trailing"#).unwrap();
        assert_eq!((ask.model.as_str(), ask.prompt.as_str(), ask.empty), ("b", "y", false));
    }

    #[test]
    fn defaults_are_ollamas() {
        let ask = generate(r#"{"model":null}"#).unwrap();
        assert_eq!(ask, Ask { logprobs: None, ..Ask::nothing(Form::Generate) });
    }

    #[test]
    fn wrong_bodies_get_gos_words() {
        let field = |kind: &str, name: &str, wanted: &str| {
            format!("json: cannot unmarshal {kind} into Go struct field GenerateRequest.{name} of type {wanted}")
        };
        let cases = [
            ("", "missing request body".to_owned()),
            (" \n", "missing request body".to_owned()),
            ("[]", "json: cannot unmarshal array into Go value of type api.GenerateRequest".to_owned()),
            ("[", "unexpected EOF".to_owned()),
            (r#"{"model":1}"#, field("number", "model", "string")),
            (r#"{"prompt":["x"]}"#, field("array", "prompt", "string")),
            (r#"{"stream":"yes"}"#, field("string", "stream", "bool")),
            (r#"{"options":[]}"#, field("array", "options", "map[string]interface {}")),
            (r#"{"keep_alive":"soon"}"#, "time: invalid duration \"soon\"".to_owned()),
            (r#"{"keep_alive":true}"#, "Unsupported type: 'bool'".to_owned()),
            (r#"{"top_logprobs":21}"#, "top_logprobs must be between 0 and 20".to_owned()),
        ];
        for (body, wanted) in cases {
            assert_eq!(generate(body), Err(wanted), "{body}");
        }
    }

    #[test]
    fn options_are_judged_by_type() {
        let cases = [
            (r#"{"num_predict":1.5,"temperature":0,"stop":["a"],"use_mmap":null,"mirostat":"x"}"#, None),
            (r#"{"num_predict":"many"}"#, Some(r#"option "num_predict" must be of type integer"#)),
            (r#"{"temperature":"hot"}"#, Some(r#"option "temperature" must be of type float32"#)),
            (r#"{"stop":"x"}"#, Some(r#"option "stop" must be of type array"#)),
            (r#"{"stop":[1]}"#, Some(r#"option "stop" must be of an array of strings"#)),
        ];
        for (options, wanted) in cases {
            let ask = generate(&format!(r#"{{"options":{options}}}"#)).unwrap();
            assert_eq!(ask.bad_option.as_deref(), wanted, "{options}");
        }
    }

    #[test]
    fn chats_ask_with_their_last_message() {
        let body = r#"{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"}],"keep_alive":-1}"#;
        let ask = parse(Form::Chat, body.as_bytes()).unwrap();
        assert_eq!((ask.prompt.as_str(), ask.empty, ask.keep_alive), ("b", false, Some(FOREVER)));
        let why = parse(Form::Chat, br#"{"messages":[{"content":[]}]}"#).unwrap_err();
        assert_eq!(
            why,
            "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string"
        );
    }
}
