//! Strings as Go's standard library reads and shows them: JSON strings, folded keys, quoted text, base64.
//!
//! Invariant: two keys are equal here exactly when Go's JSON takes them for the same field.

use std::borrow::Cow;
use std::fmt::Write as _;

use memchr::{memchr, memchr2};

/// Characters of a client's text that an error repeats: enough to recognise it, so that an answer stays small.
const SHOWN_MAX: usize = 200;

/// Bytes up to the first that means something in a JSON string: a quote, a backslash or a control character.
pub(super) fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH_BITS: u64 = ONES << 7;
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        // The lowest marked byte is right; the ones above it may be marked by its borrow, which costs a slow step only.
        let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word & HIGH_BITS;
        let marked = below(word, 0x20) | below(word ^ (ONES * 0x22), 1) | below(word ^ (ONES * 0x5c), 1);
        if marked != 0 {
            return at + (marked.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at + bytes[at..].iter().take_while(|&&byte| byte >= 0x20 && byte != b'"' && byte != b'\\').count()
}

/// As [`plain_run`], of a string whose syntax has been checked.
pub(super) fn checked_run(bytes: &[u8]) -> usize {
    // Faster by far on long texts, and slower to begin with.
    const SHORT: usize = 64;
    match bytes.split_at_checked(SHORT) {
        None => plain_run(bytes),
        Some((start, rest)) => match plain_run(start) {
            SHORT => SHORT + memchr2(b'"', b'\\', rest).unwrap_or(rest.len()),
            short => short,
        },
    }
}

/// What the JSON string `raw` means, its quotes included in `raw`.
pub(crate) fn string(raw: &str) -> Cow<'_, str> {
    let inner = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    unescaped(inner.unwrap_or(""))
}

/// Bytes of what the JSON string `raw` means; 0 if it is none.
pub(crate) fn meaning_len(raw: &str) -> u64 {
    let Some(inner) = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) else { return 0 };
    if memchr(b'\\', inner.as_bytes()).is_none() {
        return inner.len() as u64;
    }
    let len = |part| match part {
        Part::Plain(run) => str::len(run),
        Part::Escaped(letter) => letter.len_utf8(),
    };
    (Parts { rest: inner }).map(len).sum::<usize>() as u64
}

/// What a JSON string means; `inner` stands between its quotes. A surrogate without its other half becomes U+FFFD.
pub(crate) fn unescaped(inner: &str) -> Cow<'_, str> {
    if memchr(b'\\', inner.as_bytes()).is_none() {
        return Cow::Borrowed(inner);
    }
    let mut out = String::with_capacity(inner.len());
    for part in (Parts { rest: inner }) {
        match part {
            Part::Plain(run) => out.push_str(run),
            Part::Escaped(letter) => out.push(letter),
        }
    }
    Cow::Owned(out)
}

/// The meaning of the JSON string `raw` in parts, without a copy of it; nothing if it is not a string. Parts behind the
/// first `max` bytes may be missing or wrong.
pub(super) fn parts(raw: &str, max: usize) -> Parts<'_> {
    let inner = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')).unwrap_or("");
    // A byte takes six at most, as an escape; a pair of escapes that begins before that must be whole.
    let enough = max.saturating_mul(6).saturating_add(12);
    let cut = (0..4).find_map(|back| inner.get(..enough - back));
    Parts { rest: cut.unwrap_or(inner) }
}

/// A part of what a JSON string means.
pub(super) enum Part<'a> {
    /// A run that stands for itself, never empty.
    Plain(&'a str),
    /// What an escape stands for.
    Escaped(char),
}

/// See [`parts`].
pub(super) struct Parts<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let Some(escape) = self.rest.strip_prefix('\\') else {
            let (run, rest) = self.rest.split_at(checked_run(self.rest.as_bytes()));
            self.rest = rest;
            return (!run.is_empty()).then_some(Part::Plain(run));
        };
        let mut letters = escape.chars();
        let code = letters.next()?;
        self.rest = letters.as_str();
        Some(Part::Escaped(match code {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => unicode_escape(&mut self.rest),
            other => other,
        }))
    }
}

/// The character of `\u` at the start of `rest`, which is moved past it, and past the second half of a pair.
fn unicode_escape(rest: &mut &str) -> char {
    let unit = |text: &str| text.get(..4).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    let Some(high) = unit(rest) else { return char::REPLACEMENT_CHARACTER };
    *rest = &rest[4..];
    let low = rest.strip_prefix("\\u").and_then(unit).filter(|low| (0xdc00..0xe000).contains(low));
    if let (0xd800..0xdc00, Some(low)) = (high, low) {
        *rest = &rest[6..];
        let pair = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
        return char::from_u32(pair).unwrap_or(char::REPLACEMENT_CHARACTER);
    }
    char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Whether Go's JSON takes `key` for the field `name`, which is lower-case ASCII. Two letters outside ASCII fold to one
/// inside: the long s and the Kelvin sign.
pub(crate) fn is_same_field(key: &str, name: &str) -> bool {
    let folded = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    key == name || key.chars().map(folded).eq(name.chars())
}

/// `text` in double quotes, as Go's `%q`; at most [`SHOWN_MAX`] characters of it.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for letter in shortened(text).chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            ' '..='~' => out.push(letter),
            _ => push_unusual(&mut out, letter),
        }
    }
    out.push('"');
    out
}

fn push_unusual(out: &mut String, letter: char) {
    let code = u32::from(letter);
    // Behind another letter, so that a combining mark counts as printable.
    let is_printable = !format!("a{letter}").escape_debug().any(|shown| shown == '\\');
    let written = match code {
        _ if is_printable => write!(out, "{letter}"),
        0..0x80 => write!(out, "\\x{code:02x}"),
        0x80..0x1_0000 => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
    debug_assert!(written.is_ok(), "a String takes all that is written");
}

/// `text`, or its first [`SHOWN_MAX`] characters and an ellipsis.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// The first byte at which `text` is not standard base64 with padding, as Go counts it. Newlines are skipped.
pub(super) fn base64_fault(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let skip = |mut at: usize| {
        while let Some(b'\r' | b'\n') = bytes.get(at) {
            at += 1;
        }
        at
    };
    let mut in_group = 0;
    let mut at = 0;
    loop {
        at = skip(at);
        match bytes.get(at) {
            None if in_group == 0 => return None,
            None => return Some(at - in_group),
            Some(b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/') => in_group = (in_group + 1) % 4,
            Some(b'=') if in_group >= 2 => break,
            Some(_) => return Some(at),
        }
        at += 1;
    }
    if in_group == 2 {
        let second = skip(at + 1);
        match bytes.get(second) {
            None => return Some(bytes.len()),
            Some(b'=') => at = second,
            // Go reports the byte before the one it did not want.
            Some(_) => return Some(second - 1),
        }
    }
    let end = skip(at + 1);
    (end < bytes.len()).then_some(end)
}
