//! The text that comes out, as Ollama's JSON objects: one a token, or one for all. It keeps no time of its own beyond
//! what the objects say; pacing and sending are the sender's.

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::Value;

use crate::answer::json_bytes;
use crate::ask::Form;
use crate::clock;

/// The most entries of the deprecated `context` list: a whole default context.
const CONTEXT_MAX: usize = 4096;
/// Token numbers stay below the vocabulary of a real model.
const VOCABULARY: u64 = 262_144;
/// When everything happened in recorded answers.
pub(crate) const RECORDED_AT: &str = "2025-01-01T00:00:00.000000000Z";

/// Where times and counts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// They are measured.
    Measured,
    /// They are always the same, so that answers can be compared with recordings; but for times that were asked for.
    Recorded,
}

/// Whether the text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Finite,
    Endless,
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

/// One answer's text and what is reported with it.
#[derive(Clone, Debug)]
pub(crate) struct Generation {
    pub(crate) form: Form,
    pub(crate) model: String,
    pub(crate) tokens: Vec<String>,
    pub(crate) length: Length,
    pub(crate) done_reason: &'static str,
    pub(crate) prompt_tokens: usize,
    pub(crate) context: Vec<u32>,
    pub(crate) logprobs: Option<usize>,
    pub(crate) stamp: Stamp,
    pub(crate) load: Duration,
    /// How long it stood in line for a slot: part of the whole, but of nothing else that is reported.
    pub(crate) waited: Duration,
    /// How long the prompt takes before the first token.
    pub(crate) prompt_time: Duration,
    pub(crate) started: Instant,
    /// The time between tokens.
    pub(crate) gap: Duration,
    /// Tokens given so far.
    pub(crate) given: usize,
}

impl Generation {
    pub(crate) fn new(form: Form, model: &str, tokens: Vec<String>) -> Self {
        Self {
            form,
            model: model.to_owned(),
            tokens,
            length: Length::Finite,
            done_reason: "stop",
            prompt_tokens: 1,
            context: Vec::new(),
            logprobs: None,
            stamp: Stamp::Measured,
            load: Duration::ZERO,
            waited: Duration::ZERO,
            prompt_time: Duration::ZERO,
            started: Instant::now(),
            gap: Duration::ZERO,
            given: 0,
        }
    }

    /// The prompt's part in counts and context.
    pub(crate) fn prompted(mut self, prompt: &str) -> Self {
        self.prompt_tokens = prompt.split(' ').count();
        self.context = prompt.split(' ').take(CONTEXT_MAX).map(number).collect();
        let room = CONTEXT_MAX - self.context.len();
        self.context.extend(self.tokens.iter().take(room).map(|token| number(token)));
        self
    }

    /// Whether the next line is the one with `done`.
    pub(crate) fn at_last(&self) -> bool {
        self.length == Length::Finite && self.given >= self.tokens.len()
    }

    /// The next line with its newline.
    pub(crate) fn line(&mut self) -> Vec<u8> {
        let mut line = if self.at_last() {
            self.object(Said::Text(String::new()))
        } else {
            let token = self.given % self.tokens.len().max(1);
            self.given += 1;
            self.chunk(self.tokens.get(token).map_or("", String::as_str))
        };
        line.push(b'\n');
        line
    }

    fn chunk(&self, token: &str) -> Vec<u8> {
        let (message, response) = self.said(Said::Text(token.to_owned()));
        let logprobs = self.logprobs.map(|alternatives| [Scored::new(token, alternatives)]);
        let created_at = self.now();
        json_bytes(&Object { model: &self.model, created_at, message, response, logprobs, ..Object::default() })
    }

    /// The closing object, with metrics; also the whole answer where it is not streamed.
    pub(crate) fn object(&self, said: Said) -> Vec<u8> {
        let (message, response) = self.said(said);
        let generated = if self.length == Length::Endless { self.given } else { self.tokens.len() };
        let metrics = match self.stamp {
            Stamp::Recorded => {
                let [load, prompt] = [self.load, self.prompt_time].map(|span| clock::nanos(span).max(1_000_000));
                [load + prompt + 3_000_000, load, 4, prompt, 8, 3_000_000]
            }
            Stamp::Measured => {
                let load = clock::nanos(self.load).max(1);
                let waited = clock::nanos(self.waited);
                let count = self.prompt_tokens as u64;
                let prompt = clock::nanos(self.prompt_time).max(count);
                let before = load + waited + prompt;
                let evaluated = clock::nanos(self.started.elapsed()).saturating_sub(before).max(1);
                [before + evaluated, load, count, prompt, generated as u64, evaluated]
            }
        };
        // Go leaves numbers out that are 0.
        let [total, load, prompt_count, prompt, count, evaluated] = metrics.map(|n| (n > 0).then_some(n));
        json_bytes(&Object {
            model: &self.model,
            created_at: self.now(),
            message,
            response,
            done: true,
            done_reason: Some(self.done_reason),
            context: (self.form == Form::Generate).then_some(&self.context),
            total_duration: total,
            load_duration: load,
            prompt_eval_count: prompt_count,
            prompt_eval_duration: prompt,
            eval_count: count,
            eval_duration: evaluated,
            logprobs: None,
        })
    }

    /// The answer to a request without text: the model was loaded or unloaded.
    pub(crate) fn notice(&self) -> Vec<u8> {
        let (message, response) = self.said(Said::Text(String::new()));
        json_bytes(&Object {
            model: &self.model,
            created_at: self.now(),
            message,
            response,
            done: true,
            done_reason: Some(self.done_reason),
            ..Object::default()
        })
    }

    fn said(&self, said: Said) -> (Option<Message>, Said) {
        match self.form {
            Form::Generate => (None, said),
            Form::Chat => (Some(Message { role: "assistant", content: said }), Said::Absent),
        }
    }

    fn now(&self) -> String {
        match self.stamp {
            Stamp::Measured => clock::rfc3339_nano(SystemTime::now()),
            Stamp::Recorded => RECORDED_AT.to_owned(),
        }
    }
}

/// The members in Ollama's order.
#[derive(Serialize)]
struct Object<'a> {
    model: &'a str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    #[serde(skip_serializing_if = "Said::is_absent")]
    response: Said,
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
struct Message {
    role: &'static str,
    content: Said,
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

/// A token's number in the made-up vocabulary: always the same for the same text.
fn number(token: &str) -> u32 {
    (fnv(token.as_bytes()) % VOCABULARY) as u32
}

/// FNV-1a: stable over processes and releases, which is all that made-up numbers need.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Cuts a text into tokens, each but the first with the space before it.
pub(crate) fn tokens(text: &str) -> Vec<String> {
    let starts = text.match_indices(' ').map(|(at, _)| at).filter(|at| *at > 0);
    let ends = starts.clone().chain([text.len()]);
    [0].into_iter().chain(starts).zip(ends).map(|(start, end)| text[start..end].to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_join_to_the_text() {
        for (text, wanted) in
            [("The sky is", vec!["The", " sky", " is"]), ("", vec![""]), (" a  b", vec![" a", " ", " b"])]
        {
            assert_eq!(tokens(text), wanted, "{text:?}");
            assert_eq!(tokens(text).concat(), text);
        }
    }

    #[test]
    fn recorded_lines_are_fixed() {
        let mut generation = Generation::new(Form::Generate, "m", vec!["Hi".to_owned()]);
        generation.stamp = Stamp::Recorded;
        generation.context = vec![1, 2, 3];
        let chunk =
            format!("{{\"model\":\"m\",\"created_at\":\"{RECORDED_AT}\",\"response\":\"Hi\",\"done\":false}}\n");
        assert_eq!(String::from_utf8(generation.line()).unwrap(), chunk);
        assert!(generation.at_last());
        let last = String::from_utf8(generation.line()).unwrap();
        let end = "\"response\":\"\",\"done\":true,\"done_reason\":\"stop\",\"context\":[1,2,3],\
                   \"total_duration\":5000000,\"load_duration\":1000000,\"prompt_eval_count\":4,\
                   \"prompt_eval_duration\":1000000,\"eval_count\":8,\"eval_duration\":3000000}\n";
        assert!(last.ends_with(end), "{last}");
    }

    #[test]
    fn measured_parts_add_up_to_the_total() {
        let generation = Generation::new(Form::Chat, "m", tokens("a b c")).prompted("one two");
        let last: Value = serde_json::from_slice(&generation.object(Said::Text(String::new()))).unwrap();
        let part = |name: &str| last[name].as_u64().unwrap();
        let parts = part("load_duration") + part("prompt_eval_duration") + part("eval_duration");
        assert_eq!(part("total_duration"), parts);
        assert_eq!((part("prompt_eval_count"), part("eval_count")), (2, 3));
        assert_eq!(last.get("context"), None);
    }

    #[test]
    fn the_time_in_line_is_part_of_the_whole_alone() {
        let waited = Duration::from_secs(3600);
        let generation = Generation { waited, ..Generation::new(Form::Chat, "m", tokens("a b c")) };
        let last: Value = serde_json::from_slice(&generation.object(Said::Text(String::new()))).unwrap();
        let part = |name: &str| Duration::from_nanos(last[name].as_u64().unwrap());
        let parts: Duration = ["load_duration", "prompt_eval_duration", "eval_duration"].into_iter().map(part).sum();
        assert_eq!(part("total_duration"), waited + parts);
    }

    #[test]
    fn an_endless_text_never_gets_to_its_last_line() {
        let mut generation = Generation { length: Length::Endless, ..Generation::new(Form::Chat, "m", tokens("a b")) };
        for _ in 0..10 {
            assert!(!generation.at_last());
            let line: Value = serde_json::from_slice(&generation.line()).unwrap();
            assert_eq!(line["done"], false);
        }
    }
}
