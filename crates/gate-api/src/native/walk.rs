//! Steps through JSON text whose syntax has been checked.
//!
//! It borrows and allocates nothing. It does not check: on text that [`super::scan`] has not passed it yields nonsense,
//! yet ends and does not panic. Invariant: a value is skipped without recursion.

use super::text::checked_run;

/// The members of an object: key as written, quotes removed, and value.
pub(crate) struct Members<'a>(Items<'a>);

/// The members of `object`; none if it is not one.
pub(crate) fn members(object: &str) -> Members<'_> {
    Members(Items { rest: object.strip_prefix('{').unwrap_or("") })
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.0.next()?;
        self.0.rest = past_blanks(self.0.rest).strip_prefix(':')?;
        let value = self.0.next()?;
        Some((key.get(1..key.len().checked_sub(1)?)?, value))
    }
}

/// Whether `value` is something other than an empty array.
pub(crate) fn is_nonempty(value: &str) -> bool {
    !value.starts_with('[') || items(value).next().is_some()
}

/// The items of an array.
pub(crate) struct Items<'a> {
    rest: &'a str,
}

/// The items of `array`; none if it is not one.
pub(crate) fn items(array: &str) -> Items<'_> {
    Items { rest: array.strip_prefix('[').unwrap_or("") }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = past_blanks(self.rest);
        let rest = rest.strip_prefix(',').map_or(rest, past_blanks);
        // Empty at the closing bracket.
        let (value, rest) = rest.split_at_checked(value_len(rest.as_bytes()))?;
        self.rest = rest;
        (!value.is_empty()).then_some(value)
    }
}

/// `text` behind the blanks that JSON allows; mostly there are none.
fn past_blanks(text: &str) -> &str {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    match text.as_bytes().iter().position(|byte| !is_blank(byte)) {
        Some(0) => text,
        Some(blanks) => &text[blanks..],
        None => "",
    }
}

/// Bytes of the value that `text` begins with; 0 where none begins.
fn value_len(text: &[u8]) -> usize {
    match text.first() {
        Some(b'"') => string_len(text),
        Some(b'{' | b'[') => container_len(text),
        _ => text
            .iter()
            .position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n'))
            .unwrap_or(text.len()),
    }
}

/// Bytes of the string that `text` begins with, quotes included.
fn string_len(text: &[u8]) -> usize {
    let mut at = 1;
    loop {
        at += checked_run(&text[at..]);
        match text.get(at) {
            Some(b'"') => return at + 1,
            Some(_) => at = (at + 2).min(text.len()),
            None => return text.len(),
        }
    }
}

fn container_len(text: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => at += string_len(&text[at..]),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth -= 1;
                at += 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    text.len()
}
