//! The request body as nearly every client writes it, read in one pass: UTF-8, the known fields once each with values
//! that are valid, no escapes, and options that are flat and stand as they would be written.
//!
//! It refuses nothing: a body that is anything else, valid or not, is left to the full reader.
//!
//! Invariant: what is read here is what the full reader would have made of the same body.
use super::fields::{FORMAT, FORMAT_JSON, OPTIONS, PROMPT};
use super::{ArticleRequest, Format};
use crate::json::is_printed;
use crate::json::tokens::{Form, blanks_end, expect, number_end, string_end, word_end};
use std::borrow::Cow;

/// Most options that are read here: more than Ollama has of a kind that clients set, and few enough to compare each
/// name with all before it.
const OPTIONS_MAX: usize = 8;

/// Room for options as JSON, enough for most.
const OPTIONS_ROOM: usize = 64;

/// Most digits of an integer that is read here; well below the most that is valid.
const INTEGER_DIGITS_MAX: usize = 18;

/// Reads an ordinary body.
pub(super) fn read(body: &[u8]) -> Option<ArticleRequest<'_>> {
    let body = std::str::from_utf8(body).ok()?;
    let bytes = body.as_bytes();
    let (mut prompt, mut format, mut options) = (None, None, None);
    let mut at = expect(b'{', bytes, blanks_end(bytes, 0))?;
    loop {
        let (key, start) = key(body, blanks_end(bytes, at))?;
        at = if key == PROMPT && prompt.is_none() {
            let (text, end) = plain_string(body, start)?;
            prompt = Some(text).filter(|text| !text.is_empty());
            end
        } else if key == FORMAT && format.is_none() {
            let (word, end) = plain_string(body, start)?;
            format = match word {
                FORMAT_JSON => Some(Format::Json),
                "text" => Some(Format::Text),
                _ => return None,
            };
            end
        } else if key == OPTIONS && options.is_none() {
            let (written, end) = flat_object(body, start)?;
            options = Some(written);
            end
        } else {
            return None;
        };
        at = blanks_end(bytes, at);
        match bytes.get(at)? {
            b',' => at += 1,
            b'}' => break,
            _ => return None,
        }
    }
    if blanks_end(bytes, at + 1) < bytes.len() {
        return None;
    }
    Some(ArticleRequest { prompt: Cow::Borrowed(prompt?), format: format.unwrap_or(Format::Text), options })
}

/// The object at `start` without its blanks, and where it ends.
fn flat_object(body: &str, start: usize) -> Option<(String, usize)> {
    let bytes = body.as_bytes();
    let mut names = [""; OPTIONS_MAX];
    let mut out = String::with_capacity(OPTIONS_ROOM);
    let mut at = expect(b'{', bytes, start)?;
    for count in 0..OPTIONS_MAX {
        let name_start = blanks_end(bytes, at);
        let (name, value_start) = key(body, name_start)?;
        if names[..count].contains(&name) {
            return None;
        }
        names[count] = name;
        let value_end = scalar_end(bytes, value_start)?;
        out.push(if count == 0 { '{' } else { ',' });
        out.push_str(body.get(name_start..name_start + name.len() + 2)?);
        out.push(':');
        out.push_str(body.get(value_start..value_end)?);
        at = blanks_end(bytes, value_end);
        match bytes.get(at)? {
            b',' => at += 1,
            b'}' => {
                out.push('}');
                return Some((out, at + 1));
            }
            _ => return None,
        }
    }
    None
}

/// The key at `start` and where its value begins.
fn key(body: &str, start: usize) -> Option<(&str, usize)> {
    let (key, end) = plain_string(body, start)?;
    let bytes = body.as_bytes();
    Some((key, blanks_end(bytes, expect(b':', bytes, blanks_end(bytes, end))?)))
}

/// The string at `start` and where it ends, if it has no escapes.
fn plain_string(body: &str, start: usize) -> Option<(&str, usize)> {
    match string_end(body.as_bytes(), start)? {
        (end, Form::Plain) => Some((body.get(start + 1..end - 1)?, end)),
        (_, Form::Escaped) => None,
    }
}

/// Where the scalar at `start` ends, if it stands as it would be written.
fn scalar_end(bytes: &[u8], start: usize) -> Option<usize> {
    match bytes.get(start)? {
        b'"' => string_end(bytes, start).filter(|&(_, form)| form == Form::Plain).map(|(end, _)| end),
        b't' => word_end(b"true", bytes, start),
        b'f' => word_end(b"false", bytes, start),
        b'n' => word_end(b"null", bytes, start),
        _ => number_end(bytes, start).filter(|&end| stands_as_written(&bytes[start..end])),
    }
}

fn stands_as_written(number: &[u8]) -> bool {
    let digits = number.strip_prefix(b"-").unwrap_or(number);
    match digits.iter().position(|byte| !byte.is_ascii_digit()) {
        None => number != b"-0" && digits.len() <= INTEGER_DIGITS_MAX,
        Some(point) => {
            let fraction = &digits[point + 1..];
            digits[point] == b'.' && fraction.iter().all(u8::is_ascii_digit) && is_printed(&digits[..point], fraction)
        }
    }
}
