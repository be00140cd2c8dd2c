//! What a model says, token by token, and what is reported with it: counts and times. In which form it is told is the
//! voice's; pacing and sending are the sender's.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::clock;

/// The most entries of the deprecated `context` list: a whole default context.
const CONTEXT_MAX: usize = 4096;
/// Token numbers stay below the vocabulary of a real model.
const VOCABULARY: u64 = 262_144;

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

/// A tool that the model wants used.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    /// Made up, but always the same for the same prompt.
    pub(crate) id: String,
    pub(crate) name: String,
    /// An object.
    pub(crate) arguments: Value,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// This token of the thinking.
    Thinking(usize),
    /// This token of the text.
    Text(usize),
    /// All calls at once.
    Calls,
    /// The end, with counts.
    Done,
}

/// One answer's text and what is reported with it.
#[derive(Clone, Debug)]
pub(crate) struct Generation {
    pub(crate) model: String,
    /// What it thinks before it speaks.
    pub(crate) thinking: Vec<String>,
    pub(crate) tokens: Vec<String>,
    pub(crate) calls: Vec<Call>,
    pub(crate) length: Length,
    pub(crate) done_reason: &'static str,
    pub(crate) prompt_tokens: usize,
    pub(crate) context: Vec<u32>,
    pub(crate) logprobs: Option<usize>,
    /// Follows from the prompt: what made-up names are made from.
    pub(crate) seed: u64,
    pub(crate) stamp: Stamp,
    pub(crate) load: Duration,
    /// How long it stood in line for a slot: part of the whole, but of nothing else that is reported.
    pub(crate) waited: Duration,
    /// How long the prompt takes before the first token.
    pub(crate) prompt_time: Duration,
    pub(crate) started: Instant,
    /// The time between tokens.
    pub(crate) gap: Duration,
    /// Steps taken so far.
    pub(crate) given: usize,
}

/// The numbers at the end of an answer; times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metrics {
    pub(crate) total: u64,
    pub(crate) load: u64,
    pub(crate) prompt_count: u64,
    pub(crate) prompt: u64,
    pub(crate) count: u64,
    pub(crate) evaluated: u64,
}

impl Generation {
    pub(crate) fn new(model: &str, tokens: Vec<String>) -> Self {
        Self {
            model: model.to_owned(),
            thinking: Vec::new(),
            tokens,
            calls: Vec::new(),
            length: Length::Finite,
            done_reason: "stop",
            prompt_tokens: 1,
            context: Vec::new(),
            logprobs: None,
            seed: 0,
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
        self.seed = fnv(prompt.as_bytes());
        self.context = prompt.split(' ').take(CONTEXT_MAX).map(number).collect();
        let room = CONTEXT_MAX - self.context.len();
        self.context.extend(self.tokens.iter().take(room).map(|token| number(token)));
        self
    }

    /// Whether all has been said but the end.
    pub(crate) fn is_said(&self) -> bool {
        self.length == Length::Finite && self.given >= self.steps()
    }

    /// The next step; [`Step::Done`] when all is said.
    pub(crate) fn step(&mut self) -> Step {
        if self.is_said() {
            return Step::Done;
        }
        let at = self.given;
        self.given += 1;
        match at.checked_sub(self.thinking.len()) {
            None => Step::Thinking(at),
            Some(token) if self.length == Length::Endless => Step::Text(token % self.tokens.len().max(1)),
            Some(token) if token < self.tokens.len() => Step::Text(token),
            Some(_) => Step::Calls,
        }
    }

    /// How many steps it takes before the end.
    pub(crate) fn steps(&self) -> usize {
        self.thinking.len() + self.tokens.len() + usize::from(!self.calls.is_empty())
    }

    /// A token of the text.
    pub(crate) fn token(&self, index: usize) -> &str {
        self.tokens.get(index).map_or("", String::as_str)
    }

    /// The numbers as they are when they are asked for.
    pub(crate) fn metrics(&self) -> Metrics {
        match self.stamp {
            Stamp::Recorded => {
                let [load, prompt] = [self.load, self.prompt_time].map(|span| clock::nanos(span).max(1_000_000));
                let total = load + prompt + 3_000_000;
                Metrics { total, load, prompt_count: 4, prompt, count: 8, evaluated: 3_000_000 }
            }
            Stamp::Measured => {
                let load = clock::nanos(self.load).max(1);
                let waited = clock::nanos(self.waited);
                let prompt_count = self.prompt_tokens as u64;
                let prompt = clock::nanos(self.prompt_time).max(prompt_count);
                let before = load + waited + prompt;
                let evaluated = clock::nanos(self.started.elapsed()).saturating_sub(before).max(1);
                let said = if self.length == Length::Endless { self.given } else { self.all_tokens() };
                Metrics { total: before + evaluated, load, prompt_count, prompt, count: said as u64, evaluated }
            }
        }
    }

    /// Everything that took a token: a call takes one.
    fn all_tokens(&self) -> usize {
        self.thinking.len() + self.tokens.len() + self.calls.len()
    }
}

/// A token's number in the made-up vocabulary: always the same for the same text.
pub(crate) fn number(token: &str) -> u32 {
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
    fn thoughts_come_first_and_calls_last() {
        let call = Call { id: String::new(), name: "f".to_owned(), arguments: Value::Null };
        let mut generation = Generation { thinking: tokens("a b"), ..Generation::new("m", tokens("c")) };
        generation.calls = vec![call.clone(), call];
        let steps = [(); 6].map(|()| generation.step());
        let wanted = [Step::Thinking(0), Step::Thinking(1), Step::Text(0), Step::Calls, Step::Done, Step::Done];
        assert_eq!(steps, wanted);
        assert_eq!(generation.metrics().count, 5);
    }

    #[test]
    fn measured_parts_add_up_to_the_total() {
        let generation = Generation::new("m", tokens("a b c")).prompted("one two");
        let metrics = generation.metrics();
        assert_eq!(metrics.total, metrics.load + metrics.prompt + metrics.evaluated);
        assert_eq!((metrics.prompt_count, metrics.count), (2, 3));
    }

    #[test]
    fn the_time_in_line_is_part_of_the_whole_alone() {
        let waited = Duration::from_secs(3600);
        let metrics = Generation { waited, ..Generation::new("m", tokens("a b c")) }.metrics();
        let parts = metrics.load + metrics.prompt + metrics.evaluated;
        assert_eq!(Duration::from_nanos(metrics.total), waited + Duration::from_nanos(parts));
    }

    #[test]
    fn an_endless_text_never_comes_to_its_end() {
        let mut generation = Generation { length: Length::Endless, ..Generation::new("m", tokens("a b")) };
        for round in 0..10 {
            assert!(!generation.is_said());
            assert_eq!(generation.step(), Step::Text(round % 2));
        }
    }
}
