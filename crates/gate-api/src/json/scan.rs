//! The scanner: CPython's `_json.c` rule for rule, without its recursion.
//!
//! It does not decode bytes (see [`super::encoding`]). Where two errors are possible it reports the one CPython
//! meets first.
//!
//! Invariant: `at` only moves forward, and each byte is looked at a bounded number of times.
use super::encoding::Characters;
use super::{DEPTH_MAX, Error, INTEGER_DIGITS_MAX, Number, Object, Text, Value, plain_len};
use std::borrow::Cow;

/// Members or items for which a container has room at first: most have no more, and a first allocation that grows is
/// dearer than one of the right size.
const FIRST_ROOM: usize = 4;

/// Most digits of a decimal fraction that a double tells from every other: such a fraction is what it reads back as.
const DIGITS_KEPT_MAX: usize = 15;

/// What became of the container that a value was put into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Container {
    Continues,
    Ends,
}

/// What an escape sequence stands for.
enum Escaped {
    Character(char),
    Surrogate,
}

struct Scanner<'a> {
    source: Characters<'a>,
    at: usize,
}

/// Reads a whole document.
pub(super) fn document(source: Characters<'_>) -> Result<Value<'_>, Error> {
    let mut scanner = Scanner { source, at: 0 };
    scanner.skip_blanks();
    let value = scanner.value()?;
    scanner.skip_blanks();
    match scanner.peek() {
        None => Ok(value),
        Some(_) => Err(scanner.syntax("Extra data", scanner.at)),
    }
}

impl<'a> Scanner<'a> {
    fn value(&mut self) -> Result<Value<'a>, Error> {
        // Containers that have begun and not ended, the innermost last.
        let mut open: Vec<Value<'a>> = Vec::with_capacity(FIRST_ROOM);
        loop {
            let Some(mut value) = self.begin(&mut open)? else { continue };
            loop {
                let Some(innermost) = open.last_mut() else { return Ok(value) };
                if self.give(value, innermost)? == Container::Continues {
                    break;
                }
                match open.pop() {
                    Some(Value::Object(members)) => value = Value::Object(Object::of(members.members)),
                    Some(ended) => value = ended,
                    None => break,
                }
            }
        }
    }

    /// Reads a scalar or an empty container, or opens a container and reads up to its first value.
    fn begin(&mut self, open: &mut Vec<Value<'a>>) -> Result<Option<Value<'a>>, Error> {
        let opening = self.peek();
        if !matches!(opening, Some(b'{' | b'[')) {
            return self.scalar().map(Some);
        }
        if open.len() == DEPTH_MAX {
            return Err(Error::TooDeep);
        }
        self.at += 1;
        self.skip_blanks();
        match (opening, self.peek()) {
            (Some(b'{'), Some(b'}')) => {
                self.at += 1;
                return Ok(Some(Value::Object(Object::default())));
            }
            (Some(b'{'), _) => {
                let key = self.key()?;
                let mut members = Vec::with_capacity(FIRST_ROOM);
                members.push((key, Value::Null));
                open.push(Value::Object(Object { members }));
            }
            (_, Some(b']')) => {
                self.at += 1;
                return Ok(Some(Value::Array(Vec::new())));
            }
            _ => open.push(Value::Array(Vec::with_capacity(FIRST_ROOM))),
        }
        Ok(None)
    }

    /// Puts a value into the container it stands in, then reads on to the next value or the container's end.
    fn give(&mut self, value: Value<'a>, container: &mut Value<'a>) -> Result<Container, Error> {
        self.skip_blanks();
        match container {
            Value::Object(Object { members }) => {
                // The key came first and waits with null for its value.
                if let Some((_, waiting)) = members.last_mut() {
                    *waiting = value;
                }
                let after = self.after_value(b'}')?;
                if after == Container::Continues {
                    members.push((self.key()?, Value::Null));
                }
                Ok(after)
            }
            Value::Array(items) => {
                items.push(value);
                self.after_value(b']')
            }
            _ => Ok(Container::Ends),
        }
    }

    fn after_value(&mut self, end: u8) -> Result<Container, Error> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.skip_blanks();
                Ok(Container::Continues)
            }
            Some(byte) if byte == end => {
                self.at += 1;
                Ok(Container::Ends)
            }
            _ => Err(self.syntax("Expecting ',' delimiter", self.at)),
        }
    }

    /// Reads a key and its colon, up to the value.
    fn key(&mut self) -> Result<Text<'a>, Error> {
        if self.peek() != Some(b'"') {
            return Err(self.syntax("Expecting property name enclosed in double quotes", self.at));
        }
        let key = self.string()?;
        self.skip_blanks();
        if self.peek() != Some(b':') {
            return Err(self.syntax("Expecting ':' delimiter", self.at));
        }
        self.at += 1;
        self.skip_blanks();
        Ok(key)
    }

    fn scalar(&mut self) -> Result<Value<'a>, Error> {
        let (word, value) = match self.peek() {
            Some(b'"') => return self.string().map(Value::Text),
            Some(b'n') => ("null", Value::Null),
            Some(b't') => ("true", Value::Bool(true)),
            Some(b'f') => ("false", Value::Bool(false)),
            Some(b'N') => ("NaN", Value::Number(Number::Float(f64::NAN))),
            Some(b'I') => ("Infinity", Value::Number(Number::Float(f64::INFINITY))),
            Some(b'-') if self.source.bytes.get(self.at + 1) == Some(&b'I') => {
                ("-Infinity", Value::Number(Number::Float(f64::NEG_INFINITY)))
            }
            _ => return self.number().map(Value::Number),
        };
        if !self.source.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.syntax("Expecting value", self.at));
        }
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Result<Number<'a>, Error> {
        let bytes = self.source.bytes;
        let start = self.at;
        let digits_start = start + usize::from(bytes.get(start) == Some(&b'-'));
        let whole_end = match bytes.get(digits_start) {
            Some(b'0') => digits_start + 1,
            Some(b'1'..=b'9') => self.digits_end(digits_start),
            _ => return Err(self.syntax("Expecting value", start)),
        };
        let mut end = whole_end;
        if bytes.get(end) == Some(&b'.') {
            let fraction_end = self.digits_end(end + 1);
            if fraction_end > end + 1 {
                end = fraction_end;
            }
        }
        let decimal_end = end;
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let digits = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let exponent_end = self.digits_end(digits);
            if exponent_end > digits {
                end = exponent_end;
            }
        }
        self.at = end;
        let text = self.ascii(start, end);
        if end > whole_end {
            if end == decimal_end && is_printed(&bytes[digits_start..whole_end], &bytes[whole_end + 1..end]) {
                return Ok(Number::Decimal(text));
            }
            // A JSON number is always a Rust float literal; were it not, it could only be unwritable.
            return Ok(Number::Float(text.parse().unwrap_or(f64::NAN)));
        }
        if whole_end - digits_start > INTEGER_DIGITS_MAX {
            return Err(Error::IntegerTooLong);
        }
        Ok(Number::Integer(Cow::Borrowed(if text == "-0" { "0" } else { text })))
    }

    /// Reads the string that begins at the quote under `at`.
    fn string(&mut self) -> Result<Text<'a>, Error> {
        let opening = self.at;
        let end = self.plain_end(opening + 1);
        if self.source.bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(self
                .slice(opening + 1, end)
                .map_or(Text::Surrogates, |text| Text::Unicode(Cow::Borrowed(text))));
        }
        self.escaped_string(opening, end)
    }

    /// The same for a string that does not end at its first stretch of plain characters.
    fn escaped_string(&mut self, opening: usize, plain_end: usize) -> Result<Text<'a>, Error> {
        let mut resolved = Some(String::new());
        let mut start = opening + 1;
        let mut end = plain_end;
        loop {
            match (&mut resolved, self.slice(start, end)) {
                (Some(text), Some(plain)) => text.push_str(plain),
                _ => resolved = None,
            }
            match self.source.bytes.get(end) {
                None => return Err(self.syntax("Unterminated string starting at", opening)),
                Some(b'"') => break,
                Some(b'\\') => {}
                Some(_) => return Err(self.syntax("Invalid control character at", end)),
            }
            let (escaped, after) = self.escape(opening, end)?;
            match (&mut resolved, escaped) {
                (Some(text), Escaped::Character(character)) => text.push(character),
                _ => resolved = None,
            }
            start = after;
            end = self.plain_end(start);
        }
        self.at = end + 1;
        Ok(resolved.map_or(Text::Surrogates, |text| Text::Unicode(Cow::Owned(text))))
    }

    /// What the escape sequence at `backslash` stands for, and where it ends.
    fn escape(&self, opening: usize, backslash: usize) -> Result<(Escaped, usize), Error> {
        let character = match self.source.bytes.get(backslash + 1) {
            None => return Err(self.syntax("Unterminated string starting at", opening)),
            Some(b'u') => return self.unicode_escape(backslash + 1),
            Some(&same @ (b'"' | b'\\' | b'/')) => char::from(same),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(_) => return Err(self.syntax("Invalid \\escape", backslash)),
        };
        Ok((Escaped::Character(character), backslash + 2))
    }

    /// The same for the one whose `u` stands at `mark`.
    fn unicode_escape(&self, mark: usize) -> Result<(Escaped, usize), Error> {
        let unit = self.hex_unit(mark)?;
        let after = mark + 5;
        let code = u32::from(unit);
        if let Some(character) = char::from_u32(code) {
            return Ok((Escaped::Character(character), after));
        }
        if (0xD800..0xDC00).contains(&unit) && self.source.bytes[after..].starts_with(b"\\u") {
            let low = self.hex_unit(after + 1)?;
            if let Some(Ok(character)) = char::decode_utf16([unit, low]).next() {
                return Ok((Escaped::Character(character), after + 6));
            }
        }
        Ok((Escaped::Surrogate, after))
    }

    fn hex_unit(&self, mark: usize) -> Result<u16, Error> {
        let digits =
            self.source.bytes.get(mark + 1..mark + 5).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        // CPython wants one character more, the closing quote at least.
        match digits {
            Some(digits) if self.source.bytes.len() > mark + 5 => {
                let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u16;
                Ok(digits.iter().fold(0, |unit, &digit| unit << 4 | value(digit)))
            }
            _ => Err(self.syntax("Invalid \\uXXXX escape", mark)),
        }
    }

    /// Where the characters end that stand for themselves in a string.
    fn plain_end(&self, start: usize) -> usize {
        start + plain_len(&self.source.bytes[start..])
    }

    fn digits_end(&self, start: usize) -> usize {
        let rest = self.source.bytes.get(start..).unwrap_or_default();
        start + rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len())
    }

    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.source.bytes.get(self.at).copied()
    }

    /// The characters between two boundaries, unless one is a surrogate.
    fn slice(&self, start: usize, end: usize) -> Option<&'a str> {
        match self.source.text {
            Some(text) => text.get(start..end),
            None => std::str::from_utf8(&self.source.bytes[start..end]).ok(),
        }
    }

    fn ascii(&self, start: usize, end: usize) -> &'a str {
        self.slice(start, end).unwrap_or_default()
    }

    fn syntax(&self, message: &'static str, byte: usize) -> Error {
        // Every byte but a continuation begins a character.
        let position = self.source.bytes[..byte].iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
        Error::Syntax { message, position }
    }
}

/// Whether the digits before and after a decimal point are those that Python prints: few enough to be told from every
/// other double, none needless, and not so small a number that it would get an exponent.
pub(crate) fn is_printed(whole: &[u8], fraction: &[u8]) -> bool {
    whole.len() + fraction.len() <= DIGITS_KEPT_MAX
        && (fraction == b"0" || fraction.last() != Some(&b'0'))
        && !(whole == b"0" && fraction.starts_with(b"0000"))
}
