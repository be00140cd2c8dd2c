//! Ollama's own form: a JSON object for each token, with the members in its order.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use crate::answer::json_bytes;
use crate::clock;
use crate::generation::{Call, Generation, Stamp, Step, number};

/// When everything happened in recorded answers.
pub(crate) const RECORDED_AT: &str = "2025-01-01T00:00:00.000000000Z";

/// Which of the two routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Generate,
    Chat,
}

/// What the answer to a request that is not streamed says.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Said {
    Text(String),
    Value(Value),
    /// The member itself is missing.
    Absent,
}

impl Said {
    fn is_absent(&self) -> bool {
        *self == Self::Absent
    }
}

/// What is said in one object.
struct Words<'a> {
    said: Said,
    thinking: &'a str,
    calls: &'a [Call],
}

/// The next line with its newline.
pub(crate) fn line(form: Form, generation: &Generation, step: Step) -> Vec<u8> {
    let text = |said: &str| Words { said: Said::Text(said.to_owned()), thinking: "", calls: &[] };
    let mut line = match step {
        Step::Done => last(form, generation, text("")),
        Step::Thinking(index) => {
            let thinking = generation.thinking[index].as_str();
            chunk(form, generation, Words { thinking, ..text("") }, thinking)
        }
        Step::Text(index) => chunk(form, generation, text(generation.token(index)), generation.token(index)),
        Step::Calls => chunk(form, generation, Words { calls: &generation.calls, ..text("") }, ""),
    };
    line.push(b'\n');
    line
}

/// The whole answer.
pub(crate) fn whole(form: Form, generation: &Generation) -> Vec<u8> {
    let said = Said::Text(generation.tokens.concat());
    last(form, generation, Words { said, thinking: &generation.thinking.concat(), calls: &generation.calls })
}

/// The whole answer of a generate request that says this.
pub(crate) fn saying(generation: &Generation, said: Said) -> Vec<u8> {
    last(Form::Generate, generation, Words { said, thinking: "", calls: &[] })
}

/// The answer to a request without text: the model was loaded or unloaded.
pub(crate) fn notice(form: Form, generation: &Generation) -> Vec<u8> {
    let words = Words { said: Said::Text(String::new()), thinking: "", calls: &[] };
    json_bytes(&Object { done: true, done_reason: Some(generation.done_reason), ..object(form, generation, words) })
}

fn chunk(form: Form, generation: &Generation, words: Words<'_>, token: &str) -> Vec<u8> {
    let logprobs = generation.logprobs.map(|alternatives| [Scored::new(token, alternatives)]);
    json_bytes(&Object { logprobs, ..object(form, generation, words) })
}

/// The closing object, with metrics; also the whole answer where it is not streamed.
fn last(form: Form, generation: &Generation, words: Words<'_>) -> Vec<u8> {
    let metrics = generation.metrics();
    // Go leaves numbers out that are 0.
    let some = |n: u64| (n > 0).then_some(n);
    json_bytes(&Object {
        done: true,
        done_reason: Some(generation.done_reason),
        context: (form == Form::Generate).then_some(&generation.context),
        total_duration: some(metrics.total),
        load_duration: some(metrics.load),
        prompt_eval_count: some(metrics.prompt_count),
        prompt_eval_duration: some(metrics.prompt),
        eval_count: some(metrics.count),
        eval_duration: some(metrics.evaluated),
        ..object(form, generation, words)
    })
}

fn object<'a>(form: Form, generation: &'a Generation, words: Words<'a>) -> Object<'a> {
    let (message, response, thinking) = match form {
        Form::Generate => (None, words.said, words.thinking),
        Form::Chat => {
            let Words { said: content, thinking, calls } = words;
            let tool_calls = calls.iter().enumerate().map(ToolCall::new).collect();
            (Some(Message { role: "assistant", content, thinking, tool_calls }), Said::Absent, "")
        }
    };
    let created_at = match generation.stamp {
        Stamp::Measured => clock::rfc3339_nano(SystemTime::now()),
        Stamp::Recorded => RECORDED_AT.to_owned(),
    };
    Object { model: &generation.model, created_at, message, response, thinking, ..Object::default() }
}

/// The members in Ollama's order.
#[derive(Serialize)]
struct Object<'a> {
    model: &'a str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Said::is_absent")]
    response: Said,
    #[serde(skip_serializing_if = "str::is_empty")]
    thinking: &'a str,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_eval_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_eval_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<[Scored; 1]>,
}

impl Default for Object<'_> {
    fn default() -> Self {
        Self {
            model: "",
            created_at: String::new(),
            message: None,
            response: Said::Absent,
            thinking: "",
            done: false,
            done_reason: None,
            context: None,
            total_duration: None,
            load_duration: None,
            prompt_eval_count: None,
            prompt_eval_duration: None,
            eval_count: None,
            eval_duration: None,
            logprobs: None,
        }
    }
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Said,
    #[serde(skip_serializing_if = "str::is_empty")]
    thinking: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
}

#[derive(Serialize)]
struct ToolCall<'a> {
    id: &'a str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    index: usize,
    name: &'a str,
    arguments: &'a Value,
}

impl<'a> ToolCall<'a> {
    fn new((index, call): (usize, &'a Call)) -> Self {
        Self { id: &call.id, function: Function { index, name: &call.name, arguments: &call.arguments } }
    }
}

/// A token's entry in `logprobs`.
#[derive(Serialize)]
struct Scored {
    #[serde(flatten)]
    own: Score,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_logprobs: Vec<Score>,
}

#[derive(Serialize)]
struct Score {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

impl Scored {
    /// The token itself, with as many alternatives as asked for: itself first, then made-up spellings.
    fn new(token: &str, alternatives: usize) -> Self {
        let spelling = |rank| Score::new(&format!("{token}{}", "'".repeat(rank)), rank);
        Self { own: Score::new(token, 0), top_logprobs: (0..alternatives).map(spelling).collect() }
    }
}

impl Score {
    fn new(token: &str, rank: usize) -> Self {
        let logprob = -f64::from(number(token) % 1000 + 1) / 1000.0 - rank as f64;
        Self { token: token.to_owned(), logprob, bytes: token.as_bytes().to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_lines_are_fixed() {
        let mut generation = Generation::new("m", vec!["Hi".to_owned()]);
        generation.stamp = Stamp::Recorded;
        generation.context = vec![1, 2, 3];
        let text = |step| String::from_utf8(line(Form::Generate, &generation, step)).unwrap();
        let chunk =
            format!("{{\"model\":\"m\",\"created_at\":\"{RECORDED_AT}\",\"response\":\"Hi\",\"done\":false}}\n");
        assert_eq!(text(Step::Text(0)), chunk);
        let end = "\"response\":\"\",\"done\":true,\"done_reason\":\"stop\",\"context\":[1,2,3],\
                   \"total_duration\":5000000,\"load_duration\":1000000,\"prompt_eval_count\":4,\
                   \"prompt_eval_duration\":1000000,\"eval_count\":8,\"eval_duration\":3000000}\n";
        assert!(text(Step::Done).ends_with(end), "{}", text(Step::Done));
    }

    #[test]
    fn thoughts_and_calls_have_members_of_their_own() {
        let arguments = serde_json::json!({"a": 1});
        let calls = vec![Call { id: "call_1".to_owned(), name: "add".to_owned(), arguments }];
        let generation = Generation {
            thinking: vec!["hm".to_owned()],
            calls,
            stamp: Stamp::Recorded,
            ..Generation::new("m", vec![])
        };
        let message = |step| {
            let line = String::from_utf8(line(Form::Chat, &generation, step)).unwrap();
            line.split_once("\"message\":").unwrap().1.to_owned()
        };
        let thought = "{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"hm\"},\"done\":false}\n";
        assert_eq!(message(Step::Thinking(0)), thought);
        let call = "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"call_1\",\"function\":\
                    {\"index\":0,\"name\":\"add\",\"arguments\":{\"a\":1}}}]},\"done\":false}\n";
        assert_eq!(message(Step::Calls), call);
    }
}
