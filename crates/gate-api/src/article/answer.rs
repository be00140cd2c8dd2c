//! Ollama's answer to the article's request: one pass over its bytes that keeps `response` and skips the rest.
//!
//! Invariant: what is answered is strict JSON, and its text is what Ollama's answer means.

use crate::frames::{Count, Stats};
use crate::json::members::{decoded, value_end, walk};
use crate::json::tokens::{Form, string_end, word_end};
use crate::json::write_text;
use std::borrow::Cow;

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

/// The last `response` of the object that is the whole document, as the article's server writes it.
fn response(document: &[u8]) -> Option<(Cow<'_, [u8]>, Stats)> {
    let mut found = None;
    let mut stats = Stats::default();
    walk(document, |name, start| {
        if name == RESPONSE {
            let (response, end) = text_or_null(document, start)?;
            found = Some(response);
            return Some(end);
        }
        let end = value_end(document, start)?;
        if let Some(count) = Count::of(name) {
            stats.note(count, &document[start..end]);
        }
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
