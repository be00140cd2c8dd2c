//! What answers of the `OpenAI` and Anthropic families, and whole answers of every route, say of their cost.
//!
//! It reads a frame or a body once, borrowing from it. Invariant: a number that is no whole one, does not fit or is zero
//! counts as not said: these families write 0 for what Ollama does not know.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Stats;
use crate::route::Route;

/// What the gate looks for in an answer or an event.
#[derive(Deserialize, Default)]
pub(crate) struct Said<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    /// What a last event of a response holds.
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    /// What a first event of a message holds.
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt_eval_count: Option<&'a RawValue>,
    #[serde(borrow)]
    load_duration: Option<&'a RawValue>,
}

/// The counts of a usage object, in either family's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    pub(crate) prompt: Option<u64>,
    pub(crate) tokens: Option<u64>,
}

#[derive(Deserialize)]
struct UsageKeys<'a> {
    #[serde(borrow, rename = "prompt_tokens")]
    prompt: Option<&'a RawValue>,
    #[serde(borrow, rename = "completion_tokens")]
    completion: Option<&'a RawValue>,
    #[serde(borrow, rename = "input_tokens")]
    input: Option<&'a RawValue>,
    #[serde(borrow, rename = "output_tokens")]
    output: Option<&'a RawValue>,
}

impl<'a> Said<'a> {
    /// What `json` says; nothing if it is no object, or has one of these keys twice.
    pub(crate) fn read(json: &'a [u8]) -> Self {
        object(json).unwrap_or_default()
    }

    /// The `type`, as JSON text.
    pub(crate) fn kind(&self) -> &'a str {
        self.kind.map_or("", RawValue::get)
    }

    pub(crate) fn is_error(&self) -> bool {
        self.error.is_some()
    }

    /// Whether it has counts and no choices, as the event has that is sent for `include_usage`.
    pub(crate) fn is_usage_alone(&self) -> bool {
        let has_none = |choices: &RawValue| choices.get().bytes().filter(|byte| !byte.is_ascii_whitespace()).eq(*b"[]");
        self.usage.is_some() && self.choices.is_some_and(has_none)
    }

    pub(crate) fn usage(&self) -> Usage {
        self.usage.map_or_else(Usage::default, Usage::read)
    }

    /// The same of the response or message inside it.
    pub(crate) fn inner_usage(&self) -> Usage {
        let inner = self.response.or(self.message);
        inner.map_or_else(Usage::default, |inner| Said::read(inner.get().as_bytes()).usage())
    }
}

impl Usage {
    fn read(usage: &RawValue) -> Self {
        let Some(keys) = object::<UsageKeys<'_>>(usage.get().as_bytes()) else { return Self::default() };
        Self { prompt: said(keys.prompt.or(keys.input)), tokens: said(keys.completion.or(keys.output)) }
    }

    pub(crate) fn stats(self) -> Stats {
        Stats { prompt_tokens: self.prompt, tokens: self.tokens, ..Stats::default() }
    }
}

/// What the whole, good answer `body` of `route` says of its cost; none if that route's answers say nothing, or this one
/// is not what was due.
pub fn whole_stats(route: &Route, body: &[u8]) -> Option<Stats> {
    match route {
        Route::ArticleBody | Route::ArticleItem { .. } | Route::Generate | Route::Chat => Stats::read(body),
        Route::Embed => {
            let answer = object::<Said<'_>>(body).filter(|answer| !answer.is_error())?;
            let load = said(answer.load_duration).map(Duration::from_nanos);
            Some(Stats { load, prompt_tokens: said(answer.prompt_eval_count), ..Stats::default() })
        }
        Route::ChatCompletions | Route::Completions | Route::V1Embeddings | Route::Responses | Route::Messages => {
            let answer = object::<Said<'_>>(body).filter(|answer| !answer.is_error())?;
            Some(answer.usage().stats())
        }
        _ => None,
    }
}

fn said(value: Option<&RawValue>) -> Option<u64> {
    value?.get().parse().ok().filter(|&count| count > 0)
}

/// An array's items would be taken for the keys in their order, so it is looked at first.
fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    serde_json::from_slice(json).ok()
}
