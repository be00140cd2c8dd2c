//! [`Personality::Echo`](crate::Personality::Echo)'s special prompts: answers that depend on the prompt alone, as they
//! were recorded with the gate's contract. Requests are read as loosely as the recorder read them.
//!
//! | prompt | answer |
//! |---|---|
//! | anything else | `echo: ` and the prompt |
//! | `@request` | the request's own known members as sorted JSON text |
//! | `@empty` `@unicode` `@large` `@null` `@number` | that as the response |
//! | `@missing` | no response member |
//! | `@badjson` `@array` `@html` | 200 that is no JSON, 200 with a list, 502 with HTML |
//! | `@400` `@404` `@429` `@500` `@503` | that status with Ollama's error body |
//! | `@redirect` | 307 to `/api/elsewhere`, which answers `followed` |
//! | `@drop` | the connection ends without an answer |
//! | `@cut` | less body than promised |
//! | `@sleep:SECONDS` | the echo after that time |

use std::collections::HashMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::answer::{Answer, BARE_TEXT, BUSY, Body, JSON};
use crate::ask::{self, Delivery};
use crate::generation::{Generation, Stamp};
use crate::python;
use crate::terms::Wish;
use crate::voice::native::Said;

/// Where `@redirect` leads.
pub(crate) const ELSEWHERE: &str = "/api/elsewhere";
/// The longest sleep.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// The members that `@request` shows, sorted.
const SHOWN: [&str; 5] = ["format", "model", "options", "prompt", "stream"];
/// What `@cut` sends of the thousand bytes it promises.
const CUT: (&[u8], usize) = (b"{\"model\":\"m\",\"response\":\"half an ans", 1000);
const UNICODE: &str = "h\u{e9}llo \u{4e16}\u{754c} \u{1f680} \"quoted\" back\\slash \u{1}\t\n\u{2028} </script>";

/// A request's members as they were written; the last of two wins.
pub(crate) struct Asked(HashMap<String, Box<RawValue>>);

/// What a prompt gets.
pub(crate) enum Reply {
    /// Something that is no text of a model.
    Odd(Answer),
    Speech(Speech),
}

/// A text, and how it is to come.
pub(crate) struct Speech {
    pub(crate) generation: Generation,
    /// What is said in one piece.
    pub(crate) said: Said,
    pub(crate) delivery: Delivery,
}

impl Asked {
    /// Reads a body.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Box<Answer>> {
        serde_json::from_slice(body).map(Self).map_err(|why| Box::new(Answer::error(400, &why.to_string())))
    }

    /// The model's name; empty where there is none.
    pub(crate) fn model(&self) -> String {
        self.text("model").unwrap_or_default()
    }

    /// What it wants of the scheduler; wrong types want nothing.
    pub(crate) fn wish(&self) -> Wish {
        let mut wish = Wish::default();
        if let Some(options) = self.member::<Map<String, Value>>("options") {
            wish.terms.take(&options);
        }
        wish.terms.shift = self.member("shift").unwrap_or(wish.terms.shift);
        wish.keep_alive = self.member::<Value>("keep_alive").and_then(|value| ask::keep_alive(&value).ok());
        wish
    }

    fn text(&self, name: &str) -> Option<String> {
        self.member(name)
    }

    fn member<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_str(self.0.get(name)?.get()).ok()
    }
}

/// Answers a generate request by its prompt.
pub(crate) async fn reply(path: &str, model: &str, asked: &Asked) -> Reply {
    if model.is_empty() {
        return Reply::Odd(Answer::error(400, "model is required"));
    }
    let prompt = asked.0.get("prompt").map_or_else(|| Some(String::new()), |_| asked.text("prompt"));
    let Some(prompt) = prompt else { return Reply::Odd(hang_up()) };
    if let Some(answer) = odd(path, &prompt) {
        return Reply::Odd(answer);
    }
    if let Some(seconds) = prompt.strip_prefix("@sleep:") {
        let Some(span) = seconds.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) else {
            return Reply::Odd(hang_up());
        };
        tokio::time::sleep(span.min(SLEEP_MAX)).await;
    }
    let Some(said) = said(asked, &prompt) else { return Reply::Odd(hang_up()) };
    let delivery = match asked.0.get("stream").map(|raw| raw.get()) {
        Some("false") => Delivery::Whole,
        _ => Delivery::Stream,
    };
    Reply::Speech(speech(model, said, delivery))
}

/// The echo of a chat, whose last message stands for the prompt.
pub(crate) fn echo(model: &str, prompt: &str) -> Generation {
    let mut generation = Generation::new(model, words(&format!("echo: {prompt}")));
    generation.stamp = Stamp::Recorded;
    generation.context = vec![1, 2, 3];
    generation
}

/// The text that goes with an error status.
pub(crate) fn failure(status: u16) -> &'static str {
    match status {
        400 => "invalid options: top_k",
        404 => "model 'missing' not found",
        429 => "too many requests",
        503 => BUSY,
        _ => "llama runner process has terminated: exit status 2",
    }
}

fn hang_up() -> Answer {
    Answer::new(200, JSON, Body::HangUp)
}

/// The prompts whose answer is no generation.
fn odd(path: &str, prompt: &str) -> Option<Answer> {
    Some(match prompt {
        "@400" => Answer::error(400, failure(400)),
        "@404" => Answer::error(404, failure(404)),
        "@429" => Answer::error(429, failure(429)),
        "@500" => Answer::error(500, failure(500)),
        "@503" => Answer::error(503, failure(503)),
        "@badjson" => Answer::text(200, BARE_TEXT, "this is not JSON"),
        "@array" => Answer::json(&[1, 2]),
        "@html" => html(),
        "@redirect" if path != ELSEWHERE => Answer::text(307, BARE_TEXT, "").with("Location", ELSEWHERE),
        "@drop" => hang_up(),
        "@cut" => Answer::new(200, "application/json", Body::Short(CUT.0, CUT.1)),
        _ => return None,
    })
}

/// The page of a proxy in between.
pub(crate) fn html() -> Answer {
    Answer::text(502, "text/html", "<html><h1>502 Bad Gateway</h1></html>")
}

fn said(asked: &Asked, prompt: &str) -> Option<Said> {
    Some(match prompt {
        "@request" => Said::Text(shown(asked)?),
        "@empty" => Said::Text(String::new()),
        "@unicode" => Said::Text(UNICODE.to_owned()),
        "@large" => Said::Text("0123456789".repeat(10_000)),
        "@null" => Said::Value(Value::Null),
        "@number" => Said::Value(json!(7)),
        "@redirect" => Said::Text("followed".to_owned()),
        "@missing" => Said::Absent,
        _ => Said::Text(format!("echo: {prompt}")),
    })
}

fn shown(asked: &Asked) -> Option<String> {
    let members = SHOWN.iter().filter_map(|name| Some((name, asked.0.get(*name)?)));
    let members: Option<Vec<String>> =
        members.map(|(name, raw)| Some(format!("\"{name}\": {}", python::dumps(raw.get())?))).collect();
    Some(format!("{{{}}}", members?.join(", ")))
}

fn speech(model: &str, said: Said, delivery: Delivery) -> Speech {
    // A stream says values as Python prints them, and cannot leave the member out.
    let spoken = match &said {
        Said::Text(text) => text.clone(),
        Said::Value(Value::Null) => "None".to_owned(),
        Said::Value(value) => value.to_string(),
        Said::Absent => "echo: @missing".to_owned(),
    };
    let generation = Generation { tokens: words(&spoken), ..echo(model, "") };
    Speech { generation, said, delivery }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(|word| format!("{word} ")).collect()
}
