//! Lines of the access log as text: what needs no escape is copied, what came from outside is made harmless.
//!
//! Invariant: whatever a client sends, a line stays one line of ASCII.

use std::borrow::Cow;
use std::time::Duration;

/// Longest text from the client that a line repeats.
const TEXT_MAX: usize = 512;

/// Room for a usual line, made at once.
const LINE_USUAL: usize = 640;

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

/// The name of a field as it stands in a line behind another field. Made when the gate is built, it is copied as one piece.
macro_rules! key {
    ($name:literal) => {
        $crate::ledger::text::Key(concat!(",\"", $name, "\":"))
    };
}
pub(super) use key;

/// See [`key`].
pub(super) struct Key(pub(super) &'static str);

/// One flat JSON object, written straight into the buffer.
pub(super) struct Json<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Json<'a> {
    /// An object that begins with the time, a text that needs no escape.
    pub(super) fn begin(out: &'a mut Vec<u8>, time: &str) -> Self {
        out.reserve(LINE_USUAL);
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(time.as_bytes());
        out.push(b'"');
        Self { out }
    }

    fn key(&mut self, Key(key): Key) {
        self.out.extend_from_slice(key.as_bytes());
    }

    /// A text that is known to need no escape.
    pub(super) fn plain(&mut self, key: Key, value: impl AsRef<[u8]>) {
        self.key(key);
        self.quote(value.as_ref());
    }

    fn quote(&mut self, plain: &[u8]) {
        self.out.push(b'"');
        self.out.extend_from_slice(plain);
        self.out.push(b'"');
    }

    /// Two such texts as one: `loaded, best`.
    pub(super) fn plain_pair(&mut self, key: Key, (first, second): (&str, &str)) {
        self.key(key);
        self.out.push(b'"');
        for part in [first, ", ", second] {
            self.out.extend_from_slice(part.as_bytes());
        }
        self.out.push(b'"');
    }

    /// A text from outside.
    pub(super) fn text(&mut self, key: Key, value: &[u8]) {
        self.key(key);
        let value = &value[..value.len().min(TEXT_MAX)];
        // Every byte is looked at, which is faster than to stop at the first that needs an escape: few texts have one.
        if value.iter().fold(true, |plain, byte| plain & matches!(byte, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e)) {
            self.quote(value);
        } else {
            self.out.extend_from_slice(escaped(&text(value)).as_bytes());
        }
    }

    pub(super) fn number(&mut self, key: Key, value: u64) {
        self.key(key);
        self.digits(value);
    }

    fn digits(&mut self, value: u64) {
        if value < 10 {
            self.out.push(digit(value));
        } else {
            self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        }
    }

    /// Milliseconds with three decimals.
    pub(super) fn millis(&mut self, key: Key, value: Duration) {
        self.thousandths(key, value.as_micros() as u64);
    }

    /// A number with three decimals.
    pub(super) fn thousandths(&mut self, key: Key, value: u64) {
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
            let mut object = Json::begin(&mut out, "");
            object.text(key!("k"), hostile.as_bytes());
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
