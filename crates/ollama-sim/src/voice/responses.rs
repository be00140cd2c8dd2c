//! OpenAI's responses as Ollama writes them: named events that count up, with their members in alphabetical order, and
//! the same object in the order of its structure where the answer comes in one piece.

use serde::ser::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{Chunks, event, openai};
use crate::answer::json_bytes;
use crate::generation::{Generation, Step};

/// The numbers in Ollama's made-up names are below this.
const IDS: u64 = 999_999;

/// The members of a whole answer in their order, at whatever depth; others stand behind them.
const ORDER: [&str; 46] = [
    "id",
    "object",
    "created_at",
    "completed_at",
    "type",
    "status",
    "role",
    "incomplete_details",
    "model",
    "previous_response_id",
    "instructions",
    "output",
    "content",
    "call_id",
    "name",
    "description",
    "strict",
    "parameters",
    "arguments",
    "summary",
    "encrypted_content",
    "error",
    "tools",
    "tool_choice",
    "truncation",
    "parallel_tool_calls",
    "text",
    "annotations",
    "logprobs",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "temperature",
    "reasoning",
    "usage",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "max_output_tokens",
    "max_tool_calls",
    "store",
    "background",
    "service_tier",
    "metadata",
    "safety_identifier",
];

/// What is remembered from one event to the next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Responses {
    asked: Asked,
    created_at: Option<u64>,
    sequence: u64,
    /// Of the item that is open, or of the next.
    output: u64,
    open: Open,
}

/// What an answer repeats of its request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) background: bool,
    pub(crate) instructions: Value,
    pub(crate) max_output_tokens: Value,
    pub(crate) reasoning: Value,
    pub(crate) temperature: Value,
    pub(crate) format: Value,
    pub(crate) tools: Value,
    pub(crate) top_p: Value,
    pub(crate) truncation: String,
}

/// Which item is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Nothing,
    Reasoning,
    Message,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            background: false,
            instructions: Value::Null,
            max_output_tokens: Value::Null,
            reasoning: Value::Null,
            temperature: json!(1),
            format: json!({ "type": "text" }),
            tools: json!([]),
            top_p: json!(1),
            truncation: "disabled".to_owned(),
        }
    }
}

/// The error event, which Ollama never sends.
pub(super) fn error(text: &str) -> Vec<u8> {
    let data = json!({"code": "server_error", "message": text, "param": null, "sequence_number": 0, "type": "error"});
    event(Some("error"), &json_bytes(&data))
}

impl Responses {
    pub(crate) fn new(asked: Asked) -> Self {
        Self { asked, created_at: None, sequence: 0, output: 0, open: Open::Nothing }
    }

    /// The whole answer.
    pub(super) fn whole(&self, generation: &Generation) -> Vec<u8> {
        let now = openai::created(generation);
        json_bytes(&Ordered(&response(&self.asked, generation, now, State::Completed)))
    }

    /// The events of a step.
    pub(super) fn say(&mut self, generation: &Generation, step: Step, chunks: &mut Chunks) {
        let mut told = Told { sequence: &mut self.sequence, chunks };
        if self.created_at.is_none() {
            let now = openai::created(generation);
            let response = response(&self.asked, generation, now, State::InProgress);
            told.push("response.created", json!({ "response": response }));
            told.push("response.in_progress", json!({ "response": response }));
            self.created_at = Some(now);
        }
        let item_id = id("msg", generation);
        match step {
            Step::Thinking(index) => {
                let item_id = id("rs", generation);
                if self.open == Open::Nothing {
                    self.open = Open::Reasoning;
                    let item = json!({"id": item_id, "summary": [], "type": "reasoning"});
                    told.push("response.output_item.added", json!({"item": item, "output_index": self.output}));
                }
                let delta = json!({"delta": generation.thinking[index], "item_id": item_id, "output_index": self.output,
                                   "summary_index": 0});
                told.push("response.reasoning_summary_text.delta", delta);
            }
            Step::Text(index) if generation.token(index).is_empty() => {}
            Step::Text(index) => {
                self.output += finish_thinking(self.open, self.output, generation, &mut told);
                if self.open != Open::Message {
                    self.open = Open::Message;
                    begin_message(&item_id, self.output, &mut told);
                }
                let delta = json!({"content_index": 0, "delta": generation.token(index), "item_id": item_id,
                                   "logprobs": [], "output_index": self.output});
                told.push("response.output_text.delta", delta);
            }
            Step::Calls => {
                self.output += finish_thinking(self.open, self.output, generation, &mut told);
                self.open = Open::Nothing;
                tell_calls(self.output, generation, &mut told);
            }
            Step::Done => {
                self.output += finish_thinking(self.open, self.output, generation, &mut told);
                if self.open == Open::Message {
                    finish_message(&item_id, self.output, generation, &mut told);
                }
                let created_at = self.created_at.unwrap_or_default();
                let response = response(&self.asked, generation, created_at, State::Completed);
                told.push("response.completed", json!({ "response": response }));
            }
        }
    }
}

/// Where events go, and their number.
struct Told<'a> {
    sequence: &'a mut u64,
    chunks: &'a mut Chunks,
}

impl Told<'_> {
    fn push(&mut self, name: &str, mut data: Value) {
        data["sequence_number"] = json!(*self.sequence);
        data["type"] = json!(name);
        *self.sequence += 1;
        // A map's order depends on how serde_json was built.
        self.chunks.push_back(event(Some(name), &json_bytes(&Sorted(&data))));
    }
}

/// Whether the answer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InProgress,
    Completed,
}

/// The answer itself, its members in alphabetical order.
fn response(asked: &Asked, generation: &Generation, created_at: u64, state: State) -> Value {
    let completed = state == State::Completed;
    json!({
        "background": asked.background,
        "completed_at": completed.then(|| openai::created(generation)),
        "created_at": created_at,
        "error": null,
        "frequency_penalty": 0,
        "id": id("resp", generation),
        "incomplete_details": null,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": null,
        "metadata": {},
        "model": generation.model,
        "object": "response",
        "output": if completed { output(generation) } else { json!([]) },
        "parallel_tool_calls": true,
        "presence_penalty": 0,
        "previous_response_id": null,
        "prompt_cache_key": null,
        "reasoning": asked.reasoning,
        "safety_identifier": null,
        "service_tier": "default",
        "status": if completed { "completed" } else { "in_progress" },
        "store": false,
        "temperature": asked.temperature,
        "text": { "format": asked.format },
        "tool_choice": "auto",
        "tools": asked.tools,
        "top_logprobs": 0,
        "top_p": asked.top_p,
        "truncation": asked.truncation,
        "usage": completed.then(|| usage(generation)),
    })
}

fn usage(generation: &Generation) -> Value {
    let metrics = generation.metrics();
    json!({
        "input_tokens": metrics.prompt_count,
        "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": metrics.count,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": metrics.prompt_count + metrics.count,
    })
}

/// All items of an answer.
fn output(generation: &Generation) -> Value {
    let mut items = Vec::new();
    if !generation.thinking.is_empty() {
        items.push(thought(generation));
    }
    if generation.calls.is_empty() {
        items.push(message(&id("msg", generation), generation));
    } else {
        items.extend((0..generation.calls.len()).map(|index| call(index, generation)));
    }
    Value::Array(items)
}

fn thought(generation: &Generation) -> Value {
    let text = generation.thinking.concat();
    let summary = json!([{ "text": text, "type": "summary_text" }]);
    json!({"encrypted_content": text, "id": id("rs", generation), "summary": summary, "type": "reasoning"})
}

fn message(item_id: &str, generation: &Generation) -> Value {
    let content = [part(&generation.tokens.concat())];
    json!({"content": content, "id": item_id, "role": "assistant", "status": "completed", "type": "message"})
}

fn part(text: &str) -> Value {
    json!({"annotations": [], "logprobs": [], "text": text, "type": "output_text"})
}

fn call(index: usize, generation: &Generation) -> Value {
    let call = &generation.calls[index];
    json!({
        "arguments": call.arguments.to_string(),
        "call_id": call.id,
        "id": format!("{}_{index}", id("fc", generation)),
        "name": call.name,
        "status": "completed",
        "type": "function_call",
    })
}

fn begin_message(item_id: &str, output: u64, told: &mut Told<'_>) {
    let item = json!({"content": [], "id": item_id, "role": "assistant", "status": "in_progress", "type": "message"});
    told.push("response.output_item.added", json!({"item": item, "output_index": output}));
    let added = json!({"content_index": 0, "item_id": item_id, "output_index": output, "part": part("")});
    told.push("response.content_part.added", added);
}

fn finish_message(item_id: &str, output: u64, generation: &Generation, told: &mut Told<'_>) {
    let text = generation.tokens.concat();
    let done = json!({"content_index": 0, "item_id": item_id, "logprobs": [], "output_index": output, "text": text});
    told.push("response.output_text.done", done);
    let done = json!({"content_index": 0, "item_id": item_id, "output_index": output, "part": part(&text)});
    told.push("response.content_part.done", done);
    let item = message(item_id, generation);
    told.push("response.output_item.done", json!({"item": item, "output_index": output}));
}

/// Ends the thinking if it is open; gives how many items ended.
fn finish_thinking(open: Open, output: u64, generation: &Generation, told: &mut Told<'_>) -> u64 {
    if open != Open::Reasoning {
        return 0;
    }
    let done = json!({"item_id": id("rs", generation), "output_index": output, "summary_index": 0, "text": generation.thinking.concat()});
    told.push("response.reasoning_summary_text.done", done);
    told.push("response.output_item.done", json!({"item": thought(generation), "output_index": output}));
    1
}

fn tell_calls(first: u64, generation: &Generation, told: &mut Told<'_>) {
    for index in 0..generation.calls.len() {
        let (item, output) = (call(index, generation), first + index as u64);
        let (item_id, arguments) = (item["id"].clone(), item["arguments"].clone());
        let mut begun = item.clone();
        (begun["arguments"], begun["status"]) = (json!(""), json!("in_progress"));
        told.push("response.output_item.added", json!({"item": begun, "output_index": output}));
        let delta = json!({"delta": arguments, "item_id": item_id, "output_index": output});
        told.push("response.function_call_arguments.delta", delta);
        let done = json!({"arguments": arguments, "item_id": item_id, "output_index": output});
        told.push("response.function_call_arguments.done", done);
        told.push("response.output_item.done", json!({"item": item, "output_index": output}));
    }
}

fn id(prefix: &str, generation: &Generation) -> String {
    format!("{prefix}_{}", generation.seed % IDS)
}

/// A value whose objects have their members in [`ORDER`].
struct Ordered<'a>(&'a Value);

/// A value whose objects have their members in alphabetical order.
struct Sorted<'a>(&'a Value);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let rank = |name: &str| ORDER.iter().position(|own| *own == name).unwrap_or(ORDER.len());
        write(self.0, to, rank, Ordered)
    }
}

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        write(self.0, to, |_| 0, Sorted)
    }
}

fn write<'a, S: Serializer, T: Serialize>(
    value: &'a Value,
    to: S,
    rank: impl Fn(&str) -> usize,
    inner: impl Fn(&'a Value) -> T,
) -> Result<S::Ok, S::Error> {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| (rank(name), *name));
            to.collect_map(members.into_iter().map(|(name, value)| (name, inner(value))))
        }
        Value::Array(items) => to.collect_seq(items.iter().map(inner)),
        other => other.serialize(to),
    }
}
