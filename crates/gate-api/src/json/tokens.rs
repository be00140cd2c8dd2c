//! Where the tokens of strict JSON end: places in a document rather than values, for readers that want few of these.
//!
//! It does not decode, and it does not check that strings are UTF-8 or that their escapes name characters.
//!
//! Invariant: a place that is returned lies within the document or at its end; `None` means that this is no JSON.
#![expect(clippy::inline_always, reason = "tokens are short: a call for each costs more than reading it")]

use crate::json::plain_len;

/// Bytes that are looked at together.
const WORD: usize = 8;
/// The byte 1 in each lane of a word.
const ONES: u64 = u64::from_ne_bytes([1; WORD]);

/// Whether a string has escapes in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// It stands for itself.
    Plain,
    /// It has.
    Escaped,
}

/// Where the string with the opening quote at `start` ends, after its closing quote.
#[inline(always)]
pub(crate) fn string_end(document: &[u8], start: usize) -> Option<(usize, Form)> {
    let content = expect(b'"', document, start)?;
    let plain_end = content + plain_len(document.get(content..)?);
    match document.get(plain_end)? {
        b'"' => Some((plain_end + 1, Form::Plain)),
        b'\\' => escaped_string_end(document, plain_end).map(|end| (end, Form::Escaped)),
        _ => None,
    }
}

/// The same for a string whose first escape is at `backslash`.
#[inline(never)]
fn escaped_string_end(document: &[u8], backslash: usize) -> Option<usize> {
    let mut at = backslash;
    loop {
        at = escape_end(document, at)?;
        at += plain_len(document.get(at..)?);
        match document.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => {}
            _ => return None,
        }
    }
}

fn escape_end(document: &[u8], backslash: usize) -> Option<usize> {
    match document.get(backslash + 1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(backslash + 2),
        b'u' => {
            let digits = document.get(backslash + 2..backslash + 6)?;
            digits.iter().all(u8::is_ascii_hexdigit).then_some(backslash + 6)
        }
        _ => None,
    }
}

/// Where the number ends that begins at `start`.
#[inline(always)]
pub(crate) fn number_end(document: &[u8], start: usize) -> Option<usize> {
    let whole = start + usize::from(document.get(start) == Some(&b'-'));
    let mut at = if document.get(whole) == Some(&b'0') { whole + 1 } else { digits_end(document, whole)? };
    if document.get(at) == Some(&b'.') {
        at = digits_end(document, at + 1)?;
    }
    if let Some(b'e' | b'E') = document.get(at) {
        at += 1 + usize::from(matches!(document.get(at + 1), Some(b'+' | b'-')));
        at = digits_end(document, at)?;
    }
    Some(at)
}

/// Where the digits end that begin at `start`, which is at least one.
#[inline(always)]
pub(crate) fn digits_end(document: &[u8], start: usize) -> Option<usize> {
    let mut end = start;
    // Numbers rarely fill a word, and `context` may hold thousands.
    if let Some(word) = document.get(start..)?.first_chunk::<WORD>() {
        let lanes = u64::from_le_bytes(*word) ^ (ONES * u64::from(b'0'));
        // Digits have become 0 to 9, all that fits a half byte even with 6 added.
        let others = (lanes | lanes.wrapping_add(ONES * 6)) & (ONES * 0xF0);
        end += others.trailing_zeros() as usize / 8;
        if others != 0 {
            return (end > start).then_some(end);
        }
    }
    while document.get(end).is_some_and(u8::is_ascii_digit) {
        end += 1;
    }
    (end > start).then_some(end)
}

/// Where `word` ends if it stands at `start`.
#[inline(always)]
pub(crate) fn word_end(word: &[u8], document: &[u8], start: usize) -> Option<usize> {
    document.get(start..)?.starts_with(word).then_some(start + word.len())
}

/// The place after `byte` if it stands at `at`.
#[inline(always)]
pub(crate) fn expect(byte: u8, document: &[u8], at: usize) -> Option<usize> {
    (document.get(at) == Some(&byte)).then_some(at + 1)
}

/// Where the blanks end that begin at `start`, if any do.
#[inline(always)]
pub(crate) fn blanks_end(document: &[u8], start: usize) -> usize {
    let mut end = start;
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = document.get(end) {
        end += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_end_at_the_first_byte_that_is_none_in_any_place() {
        for length in 1..20 {
            for place in 0..length {
                for byte in 0..=u8::MAX {
                    for filler in *b"09" {
                        let mut text = vec![filler; length];
                        text[place] = byte;
                        let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
                        let expected = (count > 0).then_some(count);
                        assert_eq!(digits_end(&text, 0), expected, "{text:?}");
                    }
                }
            }
        }
        assert_eq!((digits_end(b"", 0), digits_end(b"x1", 1), digits_end(b"1", 2)), (None, Some(2), None));
    }
}
