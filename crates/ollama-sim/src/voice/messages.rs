//! Anthropic's messages as Ollama writes them: blocks of thinking, text and tool use, one event a write. The counts at
//! the start are guesses; those at the end are right.

use serde::Serialize;
use serde_json::Value;

use super::{Chunks, event};
use crate::answer::json_bytes;
use crate::dialect;
use crate::generation::{Generation, Step};

/// What is remembered from one event to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Messages {
    /// The guess at the prompt's tokens.
    pub(crate) estimate: u64,
    stage: Stage,
    /// Of the block that is open, or of the next.
    index: usize,
    open: Open,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Silent,
    Begun,
}

/// Which block is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Open {
    #[default]
    Nothing,
    Thinking,
    Text,
}

#[derive(Serialize)]
struct Message<'a> {
    id: String,
    r#type: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Block<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'static str>,
    usage: Usage,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block<'a> {
    Text { text: &'a str },
    ToolUse { id: &'a str, name: &'a str, input: &'a Value },
    Thinking { thinking: &'a str },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event<'a> {
    MessageStart { message: Message<'a> },
    ContentBlockStart { index: usize, content_block: Block<'a> },
    ContentBlockDelta { index: usize, delta: Delta<'a> },
    ContentBlockStop { index: usize },
    MessageDelta { delta: Ending, usage: Usage },
    MessageStop,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum Delta<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "input_json_delta")]
    Input { partial_json: String },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
}

#[derive(Serialize)]
struct Ending {
    stop_reason: &'static str,
}

#[derive(Serialize)]
struct Usage {
    input_tokens: u64,
    output_tokens: u64,
}

/// The error event's data; Ollama knows it and never sends it.
pub(super) fn error(text: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Failure<'a> {
        r#type: &'static str,
        error: What<'a>,
    }
    #[derive(Serialize)]
    struct What<'a> {
        r#type: &'static str,
        message: &'a str,
    }
    json_bytes(&Failure { r#type: "error", error: What { r#type: "api_error", message: text } })
}

impl Messages {
    pub(crate) fn new(estimate: u64) -> Self {
        Self { estimate, ..Self::default() }
    }

    /// The whole answer.
    pub(super) fn whole(generation: &Generation) -> Vec<u8> {
        let (thinking, text) = (generation.thinking.concat(), generation.tokens.concat());
        let mut content = Vec::new();
        if !thinking.is_empty() {
            content.push(Block::Thinking { thinking: &thinking });
        }
        if !text.is_empty() {
            content.push(Block::Text { text: &text });
        }
        content.extend(generation.calls.iter().map(|call| Block::ToolUse {
            id: &call.id,
            name: &call.name,
            input: &call.arguments,
        }));
        let usage = Usage::of(generation);
        json_bytes(&message(generation, content, Some(stop_reason(generation)), usage))
    }

    /// The events of a step.
    pub(super) fn say(&mut self, generation: &Generation, step: Step, chunks: &mut Chunks) {
        if self.stage == Stage::Silent {
            self.stage = Stage::Begun;
            let usage = Usage { input_tokens: self.estimate, output_tokens: 0 };
            push(chunks, &Event::MessageStart { message: message(generation, Vec::new(), None, usage) });
        }
        match step {
            Step::Thinking(index) => self.think(&generation.thinking[index], chunks),
            Step::Text(index) => self.speak(generation.token(index), chunks),
            Step::Calls => self.call(generation, chunks),
            Step::Done => {
                self.close(chunks);
                let delta = Ending { stop_reason: stop_reason(generation) };
                push(chunks, &Event::MessageDelta { delta, usage: Usage::of(generation) });
                push(chunks, &Event::MessageStop);
            }
        }
    }

    fn think(&mut self, thinking: &str, chunks: &mut Chunks) {
        if self.open != Open::Thinking {
            self.begin(Open::Thinking, Block::Thinking { thinking: "" }, chunks);
        }
        push(chunks, &Event::ContentBlockDelta { index: self.index, delta: Delta::Thinking { thinking } });
    }

    fn speak(&mut self, text: &str, chunks: &mut Chunks) {
        if text.is_empty() {
            return;
        }
        if self.open != Open::Text {
            self.begin(Open::Text, Block::Text { text: "" }, chunks);
        }
        push(chunks, &Event::ContentBlockDelta { index: self.index, delta: Delta::Text { text } });
    }

    fn call(&mut self, generation: &Generation, chunks: &mut Chunks) {
        let nothing = Value::Object(serde_json::Map::new());
        self.close(chunks);
        for call in &generation.calls {
            let (id, name, index) = (&*call.id, &*call.name, self.index);
            let content_block = Block::ToolUse { id, name, input: &nothing };
            push(chunks, &Event::ContentBlockStart { index, content_block });
            let delta = Delta::Input { partial_json: call.arguments.to_string() };
            push(chunks, &Event::ContentBlockDelta { index, delta });
            push(chunks, &Event::ContentBlockStop { index });
            self.index += 1;
        }
    }

    fn begin(&mut self, open: Open, content_block: Block<'_>, chunks: &mut Chunks) {
        self.close(chunks);
        self.open = open;
        push(chunks, &Event::ContentBlockStart { index: self.index, content_block });
    }

    fn close(&mut self, chunks: &mut Chunks) {
        if self.open != Open::Nothing {
            push(chunks, &Event::ContentBlockStop { index: self.index });
            (self.open, self.index) = (Open::Nothing, self.index + 1);
        }
    }
}

impl Event<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
        }
    }
}

impl Usage {
    fn of(generation: &Generation) -> Self {
        let metrics = generation.metrics();
        Self { input_tokens: metrics.prompt_count, output_tokens: metrics.count }
    }
}

fn push(chunks: &mut Chunks, told: &Event<'_>) {
    chunks.push_back(event(Some(told.name()), &json_bytes(told)));
}

fn message<'a>(
    generation: &'a Generation,
    content: Vec<Block<'a>>,
    stop_reason: Option<&'static str>,
    usage: Usage,
) -> Message<'a> {
    let id = dialect::id("msg", generation.seed);
    Message { id, r#type: "message", role: "assistant", model: &generation.model, content, stop_reason, usage }
}

fn stop_reason(generation: &Generation) -> &'static str {
    match generation.done_reason {
        _ if !generation.calls.is_empty() => "tool_use",
        "stop" => "end_turn",
        "length" => "max_tokens",
        _ => "stop_sequence",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::{Call, tokens};

    #[test]
    fn blocks_follow_each_other_and_are_closed() {
        let call = Call { id: "call_1".to_owned(), name: "f".to_owned(), arguments: serde_json::json!({"a": 1}) };
        let mut generation = Generation { thinking: tokens("a b"), ..Generation::new("m", tokens("c d")) };
        generation.calls = vec![call.clone(), call];
        let (mut voice, mut chunks) = (Messages::new(3), Chunks::new());
        loop {
            let step = generation.step();
            voice.say(&generation, step, &mut chunks);
            if step == Step::Done {
                break;
            }
        }
        let events: Vec<(String, Option<u64>)> = chunks.iter().map(|chunk| read(chunk)).collect();
        let wanted = [
            ("message_start", None),
            ("content_block_start", Some(0)),
            ("content_block_delta", Some(0)),
            ("content_block_delta", Some(0)),
            ("content_block_stop", Some(0)),
            ("content_block_start", Some(1)),
            ("content_block_delta", Some(1)),
            ("content_block_delta", Some(1)),
            ("content_block_stop", Some(1)),
            ("content_block_start", Some(2)),
            ("content_block_delta", Some(2)),
            ("content_block_stop", Some(2)),
            ("content_block_start", Some(3)),
            ("content_block_delta", Some(3)),
            ("content_block_stop", Some(3)),
            ("message_delta", None),
            ("message_stop", None),
        ];
        assert_eq!(events, wanted.map(|(name, index)| (name.to_owned(), index)));
    }

    /// An event's name, which its data repeats, and the block it is about.
    fn read(chunk: &[u8]) -> (String, Option<u64>) {
        let text = std::str::from_utf8(chunk).unwrap();
        let (name, data) = text.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap();
        assert_eq!(data["type"], name);
        (name.to_owned(), data["index"].as_u64())
    }
}
