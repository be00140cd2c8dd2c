//! Lists of models that several backends gave, as one that Ollama could have given.
//!
//! Entries pass as they are; only which of them, and their order, is decided here. It knows nothing of policies: who may
//! see what comes in as a function.
//!
//! Invariant: one list of which all is kept comes out byte for byte as Ollama wrote it.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::native::listed_as;

#[cfg(test)]
mod tests;

/// Which list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// `/api/tags`: the models there are, those that changed last first.
    Tags,
    /// `/api/ps`: the models in memory, those that stay longest first. A model in two memories is there twice.
    Ps,
    /// `/v1/models`: as [`List::Tags`], in `OpenAI`'s words.
    Models,
}

/// An answer is not the list that was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAList {
    /// Which of the answers.
    pub index: usize,
}

impl fmt::Display for NotAList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answer {} is no list of models", self.index)
    }
}

impl std::error::Error for NotAList {}

/// One list of all in `answers`, in Ollama's order. A model that several list is there once, as the first of them has it;
/// one that `keep` refuses (by its name in the form of [`listed_as`]) or that has no name is left out.
///
/// # Errors
/// [`NotAList`], for the first answer that is none.
pub fn merge(kind: List, answers: &[Bytes], keep: &dyn Fn(&str) -> bool) -> Result<Vec<u8>, NotAList> {
    let mut seen = HashSet::new();
    let mut kept: Vec<(Reverse<Option<i64>>, &RawValue)> = Vec::new();
    for (index, answer) in answers.iter().enumerate() {
        for raw in entries(kind, answer).ok_or(NotAList { index })? {
            let entry: Entry<'_> = serde_json::from_str(raw.get()).map_err(|_| NotAList { index })?;
            let Some(name) = entry.name(kind).map(|name| listed_as(&name)) else { continue };
            if keep(&name) && (kind == List::Ps || seen.insert(name)) {
                kept.push((Reverse(entry.seconds(kind)), raw));
            }
        }
    }
    // Stable, so that what came in order and is as old stays in order.
    kept.sort_by_key(|&(when, _)| when);
    let joined = kept.iter().map(|(_, raw)| raw.get()).collect::<Vec<_>>().join(",");
    Ok(match kind {
        List::Tags | List::Ps => format!(r#"{{"models":[{joined}]}}"#),
        // A list of Go's that nothing was put in.
        List::Models if kept.is_empty() => "{\"object\":\"list\",\"data\":null}\n".to_owned(),
        List::Models => format!("{{\"object\":\"list\",\"data\":[{joined}]}}\n"),
    }
    .into_bytes())
}

#[derive(Deserialize)]
struct Native<'a> {
    #[serde(borrow)]
    models: &'a RawValue,
}

#[derive(Deserialize)]
struct OpenAi<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The entries of an answer; none if it is not the list.
fn entries(kind: List, answer: &[u8]) -> Option<Vec<&RawValue>> {
    // An array's first item would be taken for the key.
    let list = match (kind, answer.trim_ascii_start().first()?) {
        (List::Tags | List::Ps, b'{') => serde_json::from_slice::<Native<'_>>(answer).ok()?.models,
        (List::Models, b'{') => serde_json::from_slice::<OpenAi<'_>>(answer).ok()?.data,
        _ => return None,
    };
    serde_json::from_str::<Option<Vec<&RawValue>>>(list.get()).ok().map(Option::unwrap_or_default)
}

/// What an entry is judged by.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    modified_at: Option<Cow<'a, str>>,
    #[serde(borrow)]
    expires_at: Option<Cow<'a, str>>,
    created: Option<i64>,
}

impl<'a> Entry<'a> {
    fn name(&self, kind: List) -> Option<Cow<'a, str>> {
        let name = match kind {
            List::Tags | List::Ps => self.name.clone().or_else(|| self.model.clone()),
            List::Models => self.id.clone(),
        };
        name.filter(|name| !name.is_empty())
    }

    /// When it changed, or goes, in whole seconds as Ollama compares them; none, and so last, if that cannot be read.
    fn seconds(&self, kind: List) -> Option<i64> {
        let text = match kind {
            List::Tags => self.modified_at.as_ref(),
            List::Ps => self.expires_at.as_ref(),
            List::Models => return self.created,
        };
        text?.parse::<Timestamp>().ok().map(Timestamp::as_second)
    }
}
