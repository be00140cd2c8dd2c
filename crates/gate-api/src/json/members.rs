//! The members of one object, walked over in its text: for readers that want few of them, and skip the rest (an array of
//! thousands of numbers above all) without building or decoding it.
//!
//! It does not check that skipped strings are UTF-8, nor that skipped escapes name characters. It needs no recursion
//! and, unless values it skips are nested, no memory.
//!
//! Invariant: what is walked to its end is one object of strict JSON, but for what is said above.
#![expect(clippy::inline_always, reason = "tokens are short: a call for each costs more than reading it")]

use super::tokens::{Form, blanks_end, digits_end, expect, number_end, string_end, word_end};

/// Shows the key of each member of the object that is the whole `document`, and where its value begins, to `visit`, which
/// says where that ends: see [`value_end`]. `None` if the document is no object, or as soon as `visit` says so.
#[inline(always)]
pub(crate) fn walk(document: &[u8], mut visit: impl FnMut(&[u8], usize) -> Option<usize>) -> Option<()> {
    let mut at = blanks_end(document, expect(b'{', document, blanks_end(document, 0))?);
    if document.get(at) != Some(&b'}') {
        loop {
            let (end, form) = string_end(document, at)?;
            let value_start = after_colon(document, end)?;
            at = match form {
                // Without its quotes.
                Form::Plain => visit(&document[at + 1..end - 1], value_start)?,
                Form::Escaped => visit(decoded(&document[at..end])?.as_bytes(), value_start)?,
            };
            at = blanks_end(document, at);
            if document.get(at) != Some(&b',') {
                break;
            }
            at = blanks_end(document, at + 1);
        }
    }
    at = blanks_end(document, expect(b'}', document, at)?);
    (at == document.len()).then_some(())
}

/// A whole number that is written as digits and fits.
pub(crate) fn whole_number(value: &[u8]) -> Option<u64> {
    let add = |sum: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    value.iter().try_fold(0, add).filter(|_| !value.is_empty())
}

/// What a string stands for, or nothing if that is no text.
#[cold]
#[inline(never)]
pub(crate) fn decoded(quoted: &[u8]) -> Option<String> {
    serde_json::from_slice(quoted).ok()
}

/// Where the value begins of the key that ends at `key_end`.
#[inline(always)]
fn after_colon(document: &[u8], key_end: usize) -> Option<usize> {
    Some(blanks_end(document, expect(b':', document, blanks_end(document, key_end))?))
}

/// Where the value ends that begins at `start`.
#[inline(always)]
pub(crate) fn value_end(document: &[u8], start: usize) -> Option<usize> {
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
