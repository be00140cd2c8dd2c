//! Ollama's answer to the article's request: one pass over its bytes that keeps `response` and skips the rest.
//!
//! Invariant: what is answered is strict JSON, and its text is what Ollama's answer means.
#![expect(clippy::inline_always, reason = "tokens are short: a call for each costs more than reading it")]

use crate::frames::Stats;
use crate::json::members::{decoded, value_end, walk, whole_number};
use crate::json::tokens::{Form, string_end, word_end};
use crate::json::write_text;
use std::borrow::Cow;
use std::time::Duration;

/// The key of Ollama's text.
const RESPONSE: &[u8] = b"response";
/// What stands around the text in the article's answer.
const BEFORE: &[u8] = b"{\"response\":";
const AFTER: &[u8] = b"}";

/// The article's answer, `{"response":...}`, from the whole object that Ollama answered, and what that says of its making.
/// `None` if that is no JSON object, or its `response` is missing or neither text nor null.
pub fn answer_body(upstream: &[u8]) -> Option<(Vec<u8>, Stats)> {
    let (response, stats) = response(upstream)?;
    let mut out = Vec::with_capacity(BEFORE.len() + response.len() + AFTER.len());
    out.extend_from_slice(BEFORE);
    out.extend_from_slice(&response);
    out.extend_from_slice(AFTER);
    Some((out, stats))
}

/// What a key is looked at for.
enum Key {
    Response,
    Load,
    PromptTokens,
    Tokens,
    Eval,
    Other,
}

impl Key {
    #[inline(always)]
    fn of(name: &[u8]) -> Self {
        match name {
            RESPONSE => Self::Response,
            b"load_duration" => Self::Load,
            b"prompt_eval_count" => Self::PromptTokens,
            b"eval_count" => Self::Tokens,
            b"eval_duration" => Self::Eval,
            _ => Self::Other,
        }
    }

    /// Takes the value into the account, if it is a whole number.
    fn note(&self, value: &[u8], stats: &mut Stats) {
        match self {
            Self::Response | Self::Other => {}
            Self::Load => stats.load = whole_number(value).map(Duration::from_nanos),
            Self::PromptTokens => stats.prompt_tokens = whole_number(value),
            Self::Tokens => stats.tokens = whole_number(value),
            Self::Eval => stats.eval = whole_number(value).map(Duration::from_nanos),
        }
    }
}

/// The last `response` of the object that is the whole document, as the article's server writes it.
fn response(document: &[u8]) -> Option<(Cow<'_, [u8]>, Stats)> {
    let mut found = None;
    let mut stats = Stats::default();
    walk(document, |name, start| {
        let key = Key::of(name);
        if let Key::Response = key {
            let (response, end) = text_or_null(document, start)?;
            found = Some(response);
            return Some(end);
        }
        let end = value_end(document, start)?;
        key.note(&document[start..end], &mut stats);
        Some(end)
    })?;
    Some((found?, stats))
}

/// The text or null at `start` as the article's server writes it, and where it ends.
fn text_or_null(document: &[u8], start: usize) -> Option<(Cow<'_, [u8]>, usize)> {
    if document.get(start) != Some(&b'"') {
        return word_end(b"null", document, start).map(|end| (Cow::Borrowed(&b"null"[..]), end));
    }
    let (end, form) = string_end(document, start)?;
    let quoted = &document[start..end];
    let written = match form {
        // A string without escapes holds nothing that has to be written as one.
        Form::Plain if quoted.is_ascii() || std::str::from_utf8(quoted).is_ok() => Cow::Borrowed(quoted),
        Form::Plain => return None,
        Form::Escaped => {
            // What an escape is written as is never longer than itself.
            let mut written = String::with_capacity(quoted.len());
            write_text(&decoded(quoted)?, &mut written);
            Cow::Owned(written.into_bytes())
        }
    };
    Some((written, end))
}
