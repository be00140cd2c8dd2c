//! Ollama's answer to the article's request: one pass over its bytes that keeps `response` and skips the rest (the
//! `context` array above all) without building or decoding it.
//!
//! It does not check that skipped strings are UTF-8, nor that skipped escapes name characters. It needs no recursion
//! and, unless values it skips are nested, no memory.
//!
//! Invariant: what is answered is strict JSON, and its text is what Ollama's answer means.
#![expect(clippy::inline_always, reason = "tokens are short: a call for each costs more than reading it")]

use super::tokens::{Form, blanks_end, digits_end, expect, number_end, string_end, word_end};
use crate::frames::Stats;
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
        let whole = || std::str::from_utf8(value).ok()?.parse().ok();
        match self {
            Self::Response | Self::Other => {}
            Self::Load => stats.load = whole().map(Duration::from_nanos),
            Self::PromptTokens => stats.prompt_tokens = whole(),
            Self::Tokens => stats.tokens = whole(),
            Self::Eval => stats.eval = whole().map(Duration::from_nanos),
        }
    }
}

/// The last `response` of the object that is the whole document, as the article's server writes it.
fn response(document: &[u8]) -> Option<(Cow<'_, [u8]>, Stats)> {
    let mut found = None;
    let mut stats = Stats::default();
    let mut at = blanks_end(document, expect(b'{', document, blanks_end(document, 0))?);
    if document.get(at) != Some(&b'}') {
        loop {
            let (value_start, key) = key(document, at)?;
            at = if let Key::Response = key {
                let (response, end) = text_or_null(document, value_start)?;
                found = Some(response);
                end
            } else {
                let end = value_end(document, value_start)?;
                key.note(&document[value_start..end], &mut stats);
                end
            };
            at = blanks_end(document, at);
            if document.get(at) != Some(&b',') {
                break;
            }
            at = blanks_end(document, at + 1);
        }
    }
    at = blanks_end(document, expect(b'}', document, at)?);
    if at == document.len() { Some((found?, stats)) } else { None }
}

/// Where the value begins of the key at `start`, and which one it is.
#[inline(always)]
fn key(document: &[u8], start: usize) -> Option<(usize, Key)> {
    let (end, form) = string_end(document, start)?;
    let key = match form {
        // Without its quotes.
        Form::Plain => Key::of(&document[start + 1..end - 1]),
        Form::Escaped => Key::of(decoded(&document[start..end])?.as_bytes()),
    };
    Some((after_colon(document, end)?, key))
}

/// Where the value begins of the key that ends at `key_end`.
#[inline(always)]
fn after_colon(document: &[u8], key_end: usize) -> Option<usize> {
    Some(blanks_end(document, expect(b':', document, blanks_end(document, key_end))?))
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

/// What a string stands for, or nothing if that is no text.
#[cold]
#[inline(never)]
fn decoded(quoted: &[u8]) -> Option<String> {
    serde_json::from_slice(quoted).ok()
}

/// Where the value ends that begins at `start`.
fn value_end(document: &[u8], start: usize) -> Option<usize> {
    match document.get(start)? {
        b'[' => integers_end(document, start).or_else(|| container_end(document, start)),
        b'{' => container_end(document, start),
        _ => scalar_end(document, start),
    }
}

/// Where the array at `start` ends if it is of `context`'s kind: natural numbers and no blanks. It may be many times as
/// long as all the rest.
fn integers_end(document: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        at += 1;
        at = if document.get(at) == Some(&b'0') { at + 1 } else { digits_end(document, at)? };
        match document.get(at)? {
            b',' => {}
            b']' => return Some(at + 1),
            _ => return None,
        }
    }
}

/// Where any array or object ends.
#[inline(never)]
fn container_end(document: &[u8], start: usize) -> Option<usize> {
    // The innermost container's end stands outside the vector, so that flat ones allocate nothing.
    let mut innermost = None;
    let mut outer: Vec<u8> = Vec::new();
    let mut at = start;
    loop {
        let opened = match document.get(at)? {
            b'{' => Some(b'}'),
            b'[' => Some(b']'),
            _ => None,
        };
        if let Some(end) = opened {
            outer.extend(innermost.replace(end));
            at = blanks_end(document, at + 1);
            if document.get(at) != Some(&end) {
                at = value_start(document, at, end)?;
                continue;
            }
        } else {
            at = scalar_end(document, at)?;
        }
        loop {
            let Some(end) = innermost else { return Some(at) };
            at = blanks_end(document, at);
            let next = *document.get(at)?;
            at += 1;
            if next == b',' {
                at = value_start(document, blanks_end(document, at), end)?;
                break;
            }
            if next != end {
                return None;
            }
            innermost = outer.pop();
        }
    }
}

/// Where the next value begins of a container that ends with `end`.
fn value_start(document: &[u8], at: usize, end: u8) -> Option<usize> {
    match end {
        b'}' => string_end(document, at).and_then(|(key_end, _)| after_colon(document, key_end)),
        _ => Some(at),
    }
}

#[inline(always)]
fn scalar_end(document: &[u8], start: usize) -> Option<usize> {
    match document.get(start)? {
        b'"' => string_end(document, start).map(|(end, _)| end),
        b't' => word_end(b"true", document, start),
        b'f' => word_end(b"false", document, start),
        b'n' => word_end(b"null", document, start),
        _ => number_end(document, start),
    }
}
