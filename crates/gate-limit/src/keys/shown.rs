//! What a request shows as its key, taken out of its header fields.
//!
//! Whether it is a key is not judged here. Invariant: nothing is allocated, and what is kept does not grow with the field.

use super::TEXT_CHARS;

/// The longest base64 of `Basic` that is read, and what it decodes to: a key, and a user as long as a path.
const BASIC_CHARS_MAX: usize = 1024;
const BASIC_BYTES_MAX: usize = BASIC_CHARS_MAX / 4 * 3;

/// A text of a key's length, whatever was shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    text: [u8; TEXT_CHARS],
    length: usize,
}

impl Shown {
    /// A field that is the key. `None` if it is empty.
    pub(super) fn plain(field: &[u8]) -> Option<Self> {
        let field = field.trim_ascii();
        let mut text = [0; TEXT_CHARS];
        let kept = field.len().min(TEXT_CHARS);
        text[..kept].copy_from_slice(&field[..kept]);
        (!field.is_empty()).then_some(Self { text, length: field.len() })
    }

    /// A field that names its scheme. What is of a scheme that carries no key is shown all the same, and is no key.
    pub(super) fn authorization(field: &[u8]) -> Option<Self> {
        let field = field.trim_ascii();
        let end = field.iter().position(|byte| *byte == b' ').unwrap_or(field.len());
        let (scheme, rest) = field.split_at(end);
        if scheme.eq_ignore_ascii_case(b"bearer") {
            Self::plain(rest)
        } else if scheme.eq_ignore_ascii_case(b"basic") {
            let mut bytes = [0; BASIC_BYTES_MAX];
            match password(rest.trim_ascii(), &mut bytes) {
                Some(password) => Self::plain(password),
                None => Self::plain(field),
            }
        } else {
            Self::plain(field)
        }
    }

    /// The text, cut or filled up to a key's length.
    pub(super) fn text(&self) -> &[u8; TEXT_CHARS] {
        &self.text
    }

    /// Whether it has a key's length.
    pub(super) fn is_whole(&self) -> bool {
        self.length == TEXT_CHARS
    }
}

/// What stands behind the colon of `user:password` in base64.
fn password<'a>(base64: &[u8], bytes: &'a mut [u8; BASIC_BYTES_MAX]) -> Option<&'a [u8]> {
    let length = decode(base64, bytes)?;
    let bytes = &bytes[..length];
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    Some(&bytes[colon + 1..])
}

/// Decodes base64 (RFC 4648 §4), with its padding or without; gives back the length.
fn decode(base64: &[u8], bytes: &mut [u8; BASIC_BYTES_MAX]) -> Option<usize> {
    let chars = base64.strip_suffix(b"==").or_else(|| base64.strip_suffix(b"=")).unwrap_or(base64);
    if chars.len() > BASIC_CHARS_MAX || chars.len() % 4 == 1 {
        return None;
    }
    let mut length = 0;
    for group in chars.chunks(4) {
        let mut bits = 0;
        for place in 0..4 {
            bits = bits << 6 | group.get(place).map_or(Some(0), |char| value(*char))?;
        }
        let [_, decoded @ ..] = u32::to_be_bytes(bits);
        let count = group.len() - 1;
        bytes[length..length + count].copy_from_slice(&decoded[..count]);
        length += count;
    }
    Some(length)
}

fn value(char: u8) -> Option<u32> {
    let (first, offset) = match char {
        b'A'..=b'Z' => (b'A', 0),
        b'a'..=b'z' => (b'a', 26),
        b'0'..=b'9' => (b'0', 52),
        b'+' => (b'+', 62),
        b'/' => (b'/', 63),
        _ => return None,
    };
    Some(u32::from(char - first) + offset)
}
