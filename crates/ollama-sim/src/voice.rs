//! In which form an answer is told: a voice for each route that generates, and the telling that turns steps of a
//! generation into chunks. It keeps no time; what a chunk is sent with is the sender's.

use std::collections::VecDeque;

use crate::answer::error_json;
use crate::dialect::{self, Dialect};
use crate::generation::{Generation, Step};

pub(crate) mod messages;
pub(crate) mod native;
pub(crate) mod openai;
pub(crate) mod responses;

/// A stream of lines.
const NDJSON: &str = "application/x-ndjson";
/// A stream of events.
const EVENTS: &str = "text/event-stream";

/// Chunks to be sent, one a write.
pub(crate) type Chunks = VecDeque<Vec<u8>>;

/// Whether a stream of OpenAI's was asked for its counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Counts {
    Asked,
    #[default]
    Unasked,
}

/// The forms, with what they remember from one chunk to the next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Voice {
    /// `/api/generate`.
    Generate,
    /// `/api/chat`.
    Chat,
    /// `/v1/chat/completions`.
    ChatCompletions(Counts),
    /// `/v1/completions`.
    Completions(Counts),
    /// `/v1/responses`.
    Responses(Box<responses::Responses>),
    /// `/v1/messages`.
    Messages(Box<messages::Messages>),
}

impl Voice {
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Generate | Self::Chat => Dialect::Ollama,
            Self::ChatCompletions(_) | Self::Completions(_) | Self::Responses(_) => Dialect::OpenAi,
            Self::Messages(_) => Dialect::Anthropic,
        }
    }

    /// What a stream calls itself.
    pub(crate) fn content_type(&self) -> &'static str {
        if self.dialect() == Dialect::Ollama { NDJSON } else { EVENTS }
    }

    /// Headers of a stream beside its type.
    pub(crate) fn headers(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Responses(_) | Self::Messages(_) => &[("Cache-Control", "no-cache"), ("Connection", "keep-alive")],
            _ => &[],
        }
    }

    /// Says one step; some say nothing, the last one always does.
    fn say(&mut self, generation: &Generation, step: Step, chunks: &mut Chunks) {
        match self {
            Self::Generate => chunks.push_back(native::line(native::Form::Generate, generation, step)),
            Self::Chat => chunks.push_back(native::line(native::Form::Chat, generation, step)),
            Self::ChatCompletions(counts) => chunks.push_back(openai::chat_chunk(*counts, generation, step)),
            Self::Completions(counts) => chunks.push_back(openai::completion_chunk(*counts, generation, step)),
            Self::Responses(own) => own.say(generation, step, chunks),
            Self::Messages(own) => own.say(generation, step, chunks),
        }
    }

    /// The answer in one piece.
    pub(crate) fn whole(&self, generation: &Generation) -> Vec<u8> {
        let mut body = match self {
            Self::Generate => return native::whole(native::Form::Generate, generation),
            Self::Chat => return native::whole(native::Form::Chat, generation),
            Self::ChatCompletions(_) => openai::chat(generation),
            Self::Completions(_) => openai::completion(generation),
            Self::Responses(own) => own.whole(generation),
            Self::Messages(_) => messages::Messages::whole(generation),
        };
        // Go's encoder ends its lines, gin does not.
        body.push(b'\n');
        body
    }

    /// What a stream that fails says instead of its next chunk. Ollama tells an error on its own routes alone; on the
    /// others it takes the error for an empty piece of text, and the stream ends without its end.
    fn swallowed(&self, text: &str) -> Vec<u8> {
        match self {
            Self::Generate | Self::Chat => error_line(text),
            Self::ChatCompletions(_) => openai::empty_chat_chunk(),
            Self::Completions(counts) => openai::empty_completion_chunk(*counts),
            Self::Responses(_) | Self::Messages(_) => Vec::new(),
        }
    }

    /// An error as this form would tell it.
    fn told(&self, text: &str) -> Vec<u8> {
        match self {
            Self::Generate | Self::Chat => error_line(text),
            Self::ChatCompletions(_) | Self::Completions(_) => {
                event(None, &dialect::error_body(Dialect::OpenAi, 500, text))
            }
            Self::Responses(_) => responses::error(text),
            Self::Messages(_) => event(Some("error"), &messages::error(text)),
        }
    }
}

fn error_line(text: &str) -> Vec<u8> {
    let mut line = error_json(text);
    line.push(b'\n');
    line
}

/// One server-sent event.
fn event(name: Option<&str>, data: &[u8]) -> Vec<u8> {
    let mut event = Vec::with_capacity(data.len() + 64);
    if let Some(name) = name {
        event.extend_from_slice(b"event: ");
        event.extend_from_slice(name.as_bytes());
        event.push(b'\n');
    }
    event.extend_from_slice(b"data: ");
    event.extend_from_slice(data);
    event.extend_from_slice(b"\n\n");
    event
}

/// Why an answer ended.
fn finish_reason(generation: &Generation) -> &'static str {
    if generation.calls.is_empty() { generation.done_reason } else { "tool_calls" }
}

/// A generation on its way to the client.
pub(crate) struct Telling {
    pub(crate) generation: Generation,
    pub(crate) voice: Voice,
    ready: Chunks,
    /// Nothing follows what is ready.
    ended: bool,
}

impl Telling {
    pub(crate) fn new(generation: Generation, voice: Voice) -> Self {
        Self { generation, voice, ready: Chunks::new(), ended: false }
    }

    /// Lines that no model makes, at least one.
    pub(crate) fn ready(lines: Vec<Vec<u8>>) -> Self {
        let nothing = Generation::new("", Vec::new());
        Self { generation: nothing, voice: Voice::Chat, ready: lines.into(), ended: true }
    }

    /// Whether the next chunk needs a token that has not been made yet.
    pub(crate) fn takes_time(&self) -> bool {
        self.ready.is_empty() && !self.generation.is_said()
    }

    /// The next chunk, and whether it is the last.
    pub(crate) fn chunk(&mut self) -> (Vec<u8>, bool) {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return (chunk, self.ended && self.ready.is_empty());
            }
            let step = self.generation.step();
            self.ended = step == Step::Done;
            self.voice.say(&self.generation, step, &mut self.ready);
        }
    }

    /// What comes instead of the next chunk where the model fails; nothing at all in some forms.
    pub(crate) fn swallowed(&self, text: &str) -> Vec<u8> {
        self.voice.swallowed(text)
    }

    /// An error in the form's own words.
    pub(crate) fn told(&self, text: &str) -> Vec<u8> {
        self.voice.told(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::tokens;

    #[test]
    fn only_tokens_take_time() {
        let voice = Voice::Messages(Box::default());
        let mut telling = Telling::new(Generation::new("m", tokens("a b")), voice);
        let mut seen = Vec::new();
        loop {
            let takes_time = telling.takes_time();
            let (chunk, last) = telling.chunk();
            let is_text = String::from_utf8(chunk).unwrap().contains("text_delta");
            seen.push((takes_time, is_text));
            if last {
                break;
            }
        }
        // The start of the message, the start of the block and the first text come of one token.
        let wanted = [(true, false), (false, false), (false, true), (true, true), (false, false)];
        assert_eq!(seen[..5], wanted);
        assert!(seen.len() == 7 && seen[5..].iter().all(|chunk| *chunk == (false, false)), "{seen:?}");
    }
}
