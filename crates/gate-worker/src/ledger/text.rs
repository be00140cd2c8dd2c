//! Lines of the access log as text: what needs no escape is copied, what came from outside is made harmless.
//!
//! Invariant: whatever a client sends, a line stays one line of ASCII.

use std::borrow::Cow;
use std::time::Duration;

/// Longest text from the client that a line repeats.
const TEXT_MAX: usize = 512;

/// Bytes from outside as text, short enough for a line.
pub(super) fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_MAX)])
}

/// With what would end a quoted field or a line escaped as nginx does: `\x22`.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let escaped = |character: char| match character {
        '"' | '\\' | '\0'..='\x1f' | '\x7f' => Some(format!("\\x{:02X}", character as u32)),
        '\u{80}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => Some(format!("\\u{:04X}", character as u32)),
        _ => None,
    };
    text(bytes).chars().map(|character| escaped(character).unwrap_or_else(|| character.into())).collect()
}

/// One flat JSON object, written straight into the buffer.
pub(super) struct Json<'a> {
    out: &'a mut Vec<u8>,
    first: First,
}

#[derive(PartialEq, Eq)]
enum First {
    Yes,
    No,
}

impl<'a> Json<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: First::Yes }
    }

    fn key(&mut self, key: &str) {
        if self.first == First::No {
            self.out.push(b',');
        }
        self.first = First::No;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// A text that is known to need no escape.
    pub(super) fn plain(&mut self, key: &str, value: &str) {
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(b'"');
    }

    /// Two such texts as one: `loaded, best`.
    pub(super) fn plain_pair(&mut self, key: &str, (first, second): (&str, &str)) {
        self.key(key);
        self.out.push(b'"');
        for part in [first, ", ", second] {
            self.out.extend_from_slice(part.as_bytes());
        }
        self.out.push(b'"');
    }

    /// A text from outside.
    pub(super) fn text(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        let value = &value[..value.len().min(TEXT_MAX)];
        if value.iter().all(|byte| matches!(byte, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e)) {
            self.out.push(b'"');
            self.out.extend_from_slice(value);
            self.out.push(b'"');
        } else {
            self.out.extend_from_slice(escaped(&text(value)).as_bytes());
        }
    }

    pub(super) fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        self.digits(value);
    }

    fn digits(&mut self, value: u64) {
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Milliseconds with three decimals.
    pub(super) fn millis(&mut self, key: &str, value: Duration) {
        self.thousandths(key, value.as_micros() as u64);
    }

    /// A number with three decimals.
    pub(super) fn thousandths(&mut self, key: &str, value: u64) {
        self.key(key);
        self.digits(value / 1000);
        let rest = value % 1000;
        self.out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
    }

    pub(super) fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }
}

/// The last decimal digit.
fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

/// As JSON, ASCII only: a terminal or a line splitter that reads the log meets no surprise.
fn escaped(value: &str) -> String {
    let units = value.encode_utf16().map(|unit| match char::from_u32(u32::from(unit)) {
        Some('"') => "\\\"".to_owned(),
        Some('\\') => "\\\\".to_owned(),
        Some(plain @ ' '..='~') => plain.into(),
        _ => format!("\\u{unit:04x}"),
    });
    format!("\"{}\"", units.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_from_outside_breaks_a_line() {
        for hostile in ["a\r\nb", "\u{1b}[2J", "\u{2028}", "\"}\n{", "\\", "\u{85}", "\u{0}", "\u{1F680}"] {
            let mut out = Vec::new();
            let mut object = Json::begin(&mut out);
            object.text("k", hostile.as_bytes());
            object.end();
            let line = String::from_utf8(out).unwrap();
            assert_eq!(line.matches('\n').count(), 1, "{hostile:?}");
            assert!(line.is_ascii());
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(read["k"], hostile);
            assert!(!quoted(hostile.as_bytes()).contains(['\n', '\r', '"', '\u{1b}', '\u{2028}', '\u{85}']));
        }
    }
}
