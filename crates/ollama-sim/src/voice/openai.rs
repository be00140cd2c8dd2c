//! OpenAI's chat and text completions as Ollama writes them: the same model, index and fingerprint in each chunk, the
//! role too, and the end in one write with the counts and the mark.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{Counts, event, finish_reason};
use crate::answer::json_bytes;
use crate::clock;
use crate::generation::{Call, Generation, Stamp, Step};

/// What Ollama says for a backend's fingerprint.
const FINGERPRINT: &str = "fp_ollama";
/// The end of a stream.
const DONE: &[u8] = b"[DONE]";
/// Ollama's numbers of answers are below this, and not unique.
const IDS: u64 = 999;
/// When recorded answers were made, in seconds since 1970.
const RECORDED_UNIX: u64 = 1_735_689_600;

#[derive(Serialize)]
struct Chat<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: Vec<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Message<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Clone, Default, Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
}

#[derive(Clone, Serialize)]
struct ToolCall<'a> {
    id: &'a str,
    index: usize,
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Clone, Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: String,
}

/// The members of a chunk stand in another order than those of a whole answer.
#[derive(Serialize)]
struct Completion<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: Vec<TextChoice<'a>>,
    usage: Usage,
}

#[derive(Serialize)]
struct CompletionChunk<'a> {
    id: String,
    object: &'static str,
    created: u64,
    choices: Vec<TextChoice<'a>>,
    model: &'a str,
    system_fingerprint: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct TextChoice<'a> {
    text: &'a str,
    index: usize,
    finish_reason: Option<&'static str>,
}

// The names are OpenAI's.
#[allow(clippy::struct_field_names)]
#[derive(Clone, Copy, Default, Serialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

/// A whole `chat.completion`.
pub(super) fn chat(generation: &Generation) -> Vec<u8> {
    let message = Message {
        content: &generation.tokens.concat(),
        reasoning: &generation.thinking.concat(),
        tool_calls: ToolCall::all(&generation.calls),
        ..Message::of_assistant()
    };
    let finish_reason = Some(finish_reason(generation));
    let choice = Choice { index: 0, message: Some(message), delta: None, finish_reason };
    let usage = Some(Usage::of(generation));
    json_bytes(&Chat { object: "chat.completion", usage, ..Chat::new(generation, vec![choice]) })
}

/// A step as a `chat.completion.chunk`; the last one with all that follows.
pub(super) fn chat_chunk(counts: Counts, generation: &Generation, step: Step) -> Vec<u8> {
    let delta = match step {
        Step::Thinking(index) => Message { reasoning: &generation.thinking[index], ..Message::of_assistant() },
        Step::Text(index) => Message { content: generation.token(index), ..Message::of_assistant() },
        Step::Calls => Message { tool_calls: ToolCall::all(&generation.calls), ..Message::of_assistant() },
        Step::Done => Message::of_assistant(),
    };
    let finish_reason = (step == Step::Done).then(|| finish_reason(generation));
    let choice = Choice { index: 0, message: None, delta: Some(delta), finish_reason };
    let mut events = event(None, &json_bytes(&Chat::new(generation, vec![choice])));
    if step == Step::Done {
        if counts == Counts::Asked {
            let usage = Some(Usage::of(generation));
            events.extend(event(None, &json_bytes(&Chat { usage, ..Chat::new(generation, Vec::new()) })));
        }
        events.extend(event(None, DONE));
    }
    events
}

/// What an error becomes.
pub(super) fn empty_chat_chunk() -> Vec<u8> {
    let nothing = Generation::new("", Vec::new());
    let choice = Choice { index: 0, message: None, delta: Some(Message::of_assistant()), finish_reason: None };
    event(None, &json_bytes(&Chat::new(&nothing, vec![choice])))
}

/// A whole `text_completion`.
pub(super) fn completion(generation: &Generation) -> Vec<u8> {
    let text = &generation.tokens.concat();
    json_bytes(&Completion {
        id: id("cmpl", generation),
        object: "text_completion",
        created: created(generation),
        model: &generation.model,
        system_fingerprint: FINGERPRINT,
        choices: vec![TextChoice { text, index: 0, finish_reason: Some(generation.done_reason) }],
        usage: Usage::of(generation),
    })
}

/// A step as a piece of a `text_completion`; the last one with all that follows. Where counts were asked for, each
/// piece has some, and they are 0.
pub(super) fn completion_chunk(counts: Counts, generation: &Generation, step: Step) -> Vec<u8> {
    let text = if let Step::Text(index) = step { generation.token(index) } else { "" };
    let finish_reason = (step == Step::Done).then_some(generation.done_reason);
    let none_yet = (counts == Counts::Asked).then(Usage::default);
    let chunk = |choices, usage| CompletionChunk {
        id: id("cmpl", generation),
        object: "text_completion",
        created: created(generation),
        choices,
        model: &generation.model,
        system_fingerprint: FINGERPRINT,
        usage,
    };
    let choices = vec![TextChoice { text, index: 0, finish_reason }];
    let mut events = event(None, &json_bytes(&chunk(choices, none_yet)));
    if step == Step::Done {
        if counts == Counts::Asked {
            events.extend(event(None, &json_bytes(&chunk(Vec::new(), Some(Usage::of(generation))))));
        }
        events.extend(event(None, DONE));
    }
    events
}

/// What an error becomes.
pub(super) fn empty_completion_chunk(counts: Counts) -> Vec<u8> {
    let nothing = Generation { tokens: vec![String::new()], ..Generation::new("", Vec::new()) };
    completion_chunk(counts, &nothing, Step::Text(0))
}

/// Seconds since 1970.
pub(super) fn created(generation: &Generation) -> u64 {
    clock::unix(match generation.stamp {
        Stamp::Measured => SystemTime::now(),
        Stamp::Recorded => UNIX_EPOCH + Duration::from_secs(RECORDED_UNIX),
    })
}

fn id(prefix: &str, generation: &Generation) -> String {
    format!("{prefix}-{}", generation.seed % IDS)
}

impl<'a> Chat<'a> {
    fn new(generation: &'a Generation, choices: Vec<Choice<'a>>) -> Self {
        Self {
            id: id("chatcmpl", generation),
            object: "chat.completion.chunk",
            created: created(generation),
            model: &generation.model,
            system_fingerprint: FINGERPRINT,
            choices,
            usage: None,
        }
    }
}

impl Message<'_> {
    fn of_assistant() -> Self {
        Self { role: "assistant", ..Self::default() }
    }
}

impl<'a> ToolCall<'a> {
    fn all(calls: &'a [Call]) -> Vec<Self> {
        let one = |(index, call): (usize, &'a Call)| Self {
            id: &call.id,
            index,
            r#type: "function",
            function: Function { name: &call.name, arguments: call.arguments.to_string() },
        };
        calls.iter().enumerate().map(one).collect()
    }
}

impl Usage {
    fn of(generation: &Generation) -> Self {
        let metrics = generation.metrics();
        let (prompt_tokens, completion_tokens) = (metrics.prompt_count, metrics.count);
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}
