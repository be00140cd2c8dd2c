//! From bytes to characters: the guess of `json.detect_encoding`, and decoding with `errors="surrogatepass"`.
//!
//! It does not look at any charset that a header names; the reader it stands for does not either.
//!
//! Invariant: what leaves here is generalised UTF-8: valid, but for surrogates encoded as three bytes each.
use super::Error;

/// A document's characters.
#[derive(Debug, Clone, Copy)]
pub struct Characters<'a> {
    /// All of them, as generalised UTF-8.
    pub(super) bytes: &'a [u8],
    /// The same, if none is a surrogate.
    pub(super) text: Option<&'a str>,
}

/// A decoded document.
#[derive(Debug)]
pub enum Decoded<'a> {
    /// It was UTF-8 already.
    InPlace(Characters<'a>),
    /// It was UTF-16 or UTF-32.
    Converted(Converted),
}

/// The generalised UTF-8 of a document that came in another encoding.
#[derive(Debug)]
pub struct Converted(Vec<u8>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Big,
    Little,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Utf16(Order),
    Utf32(Order),
}

impl<'a> From<&'a str> for Characters<'a> {
    fn from(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), text: Some(text) }
    }
}

impl Converted {
    /// The document's characters.
    pub fn characters(&self) -> Characters<'_> {
        Characters { bytes: &self.0, text: std::str::from_utf8(&self.0).ok() }
    }
}

/// Decodes a document.
pub(super) fn decode(document: &[u8]) -> Result<Decoded<'_>, Error> {
    let (encoding, mark) = detect(document);
    let bytes = &document[mark..];
    let converted = match encoding {
        Encoding::Utf8 => {
            let text = std::str::from_utf8(bytes).ok();
            if text.is_none() && !is_generalised(bytes) {
                return Err(Error::Encoding);
            }
            return Ok(Decoded::InPlace(Characters { bytes, text }));
        }
        Encoding::Utf16(order) => from_utf16(bytes, order)?,
        Encoding::Utf32(order) => from_utf32(bytes, order)?,
    };
    Ok(Decoded::Converted(Converted(converted)))
}

/// The encoding, and the length of the byte order mark.
fn detect(document: &[u8]) -> (Encoding, usize) {
    use Encoding::{Utf8, Utf16, Utf32};
    use Order::{Big, Little};
    match *document {
        // The order matters: a UTF-32 mark begins like a UTF-16 one.
        [0, 0, 0xFE, 0xFF, ..] => (Utf32(Big), 4),
        [0xFF, 0xFE, 0, 0, ..] => (Utf32(Little), 4),
        [0xFE, 0xFF, ..] => (Utf16(Big), 2),
        [0xFF, 0xFE, ..] => (Utf16(Little), 2),
        [0xEF, 0xBB, 0xBF, ..] => (Utf8, 3),
        // No JSON text begins with a NUL character, so NUL bytes tell the width.
        [0, 0, _, _, ..] => (Utf32(Big), 0),
        [0, _, _, _, ..] | [0, _] => (Utf16(Big), 0),
        [_, 0, 0, 0, ..] => (Utf32(Little), 0),
        [_, 0, _, _, ..] | [_, 0] => (Utf16(Little), 0),
        _ => (Utf8, 0),
    }
}

/// Whether all that keeps the bytes from being UTF-8 is encoded surrogates.
fn is_generalised(mut bytes: &[u8]) -> bool {
    while let Err(error) = std::str::from_utf8(bytes) {
        match bytes[error.valid_up_to()..] {
            [0xED, 0xA0..=0xBF, 0x80..=0xBF, ..] => bytes = &bytes[error.valid_up_to() + 3..],
            _ => return false,
        }
    }
    true
}

fn from_utf16(content: &[u8], order: Order) -> Result<Vec<u8>, Error> {
    let (pairs, rest) = content.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Error::Encoding);
    }
    let mut out = Vec::with_capacity(content.len());
    let units = pairs.iter().map(|&pair| match order {
        Order::Big => u16::from_be_bytes(pair),
        Order::Little => u16::from_le_bytes(pair),
    });
    for unit in char::decode_utf16(units) {
        match unit {
            Ok(character) => push(character, &mut out),
            Err(lone) => push_surrogate(lone.unpaired_surrogate(), &mut out),
        }
    }
    Ok(out)
}

fn from_utf32(content: &[u8], order: Order) -> Result<Vec<u8>, Error> {
    let (quads, rest) = content.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Error::Encoding);
    }
    let mut out = Vec::with_capacity(content.len());
    for &quad in quads {
        let code = match order {
            Order::Big => u32::from_be_bytes(quad),
            Order::Little => u32::from_le_bytes(quad),
        };
        match (char::from_u32(code), u16::try_from(code)) {
            (Some(character), _) => push(character, &mut out),
            (None, Ok(surrogate)) => push_surrogate(surrogate, &mut out),
            (None, Err(_)) => return Err(Error::Encoding),
        }
    }
    Ok(out)
}

fn push(character: char, out: &mut Vec<u8>) {
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

fn push_surrogate(unit: u16, out: &mut Vec<u8>) {
    let [_, low] = unit.to_be_bytes();
    out.extend_from_slice(&[0xED, 0x80 | ((unit >> 6) & 0x3F) as u8, 0x80 | (low & 0x3F)]);
}
