//! Is it JSON? A syntax check with Go's verdicts and words.
//!
//! It reads once, keeps one bit a level and does not recurse. It knows no field. Invariant: text that passes can be
//! walked by [`super::walk`] without a further look at its syntax.

use std::fmt;

use super::text::plain_run;

/// Levels of nesting: above any JSON Schema, and a depth no reader behind the gate needs much stack for. (Go stops at
/// 10,000.)
const DEPTH_MAX: usize = 512;

/// Characters of a number: 767 significant digits tell any two doubles apart, the rest is only work.
const NUMBER_MAX: usize = 1024;

const WORD_BITS: usize = u64::BITS as usize;

/// Why a text is no JSON value; displays as what Ollama would say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SyntaxFault {
    /// Nothing but blanks.
    Empty,
    /// It ends within a value.
    Truncated,
    /// A byte that cannot stand there.
    Unexpected { byte: u8, place: &'static str },
    /// A number over [`NUMBER_MAX`].
    LongNumber,
}

impl fmt::Display for SyntaxFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("missing request body"),
            Self::Truncated => f.write_str("unexpected EOF"),
            Self::Unexpected { byte, place } => write!(f, "invalid character {} {place}", Shown(*byte)),
            Self::LongNumber => write!(f, "a number in the body is over {NUMBER_MAX} characters"),
        }
    }
}

/// A byte as Go quotes it: as the Latin-1 character of that number.
struct Shown(u8);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b'\'' => f.write_str(r"'\''"),
            b'"' => f.write_str(r#"'"'"#),
            byte => {
                let quoted = super::text::quoted(char::from(byte).encode_utf8(&mut [0; 4]));
                write!(f, "'{}'", quoted.trim_matches('"'))
            }
        }
    }
}

/// The one value that `text` holds, blanks around it removed.
pub(super) fn only_value(text: &str) -> Result<&str, SyntaxFault> {
    let mut scanner = Scanner { bytes: text.as_bytes(), at: 0, depth: 0, objects: [0; DEPTH_MAX / WORD_BITS] };
    scanner.skip_blanks();
    let start = scanner.at;
    if start == text.len() {
        return Err(SyntaxFault::Empty);
    }
    scanner.document()?;
    let end = scanner.at;
    scanner.skip_blanks();
    // Ollama ignores what follows; a reader of several values would not.
    if scanner.at < text.len() { Err(scanner.unexpected("after top-level value")) } else { Ok(&text[start..end]) }
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    /// A bit a level: set for an object, clear for an array.
    objects: [u64; DEPTH_MAX / WORD_BITS],
}

/// What must follow.
#[derive(PartialEq)]
enum Next {
    Value,
    End,
}

impl Scanner<'_> {
    fn document(&mut self) -> Result<(), SyntaxFault> {
        loop {
            if self.value()? == Next::Value {
                continue;
            }
            loop {
                if self.depth == 0 {
                    return Ok(());
                }
                if self.after_value()? == Next::Value {
                    break;
                }
            }
        }
    }

    /// Reads a literal, or opens a container up to where its first value begins.
    fn value(&mut self) -> Result<Next, SyntaxFault> {
        self.skip_blanks();
        match self.peek()? {
            b'{' => {
                self.open(1)?;
                if self.peek_past_blanks()? == b'}' {
                    self.close();
                    return Ok(Next::End);
                }
                self.key()?;
                return Ok(Next::Value);
            }
            b'[' => {
                self.open(0)?;
                if self.peek_past_blanks()? == b']' {
                    self.close();
                    return Ok(Next::End);
                }
                return Ok(Next::Value);
            }
            b'"' => self.string()?,
            b'-' | b'0'..=b'9' => self.number()?,
            b't' => self.literal(&TRUE)?,
            b'f' => self.literal(&FALSE)?,
            b'n' => self.literal(&NULL)?,
            _ => return Err(self.unexpected("looking for beginning of value")),
        }
        Ok(Next::End)
    }

    /// Reads past the comma or the bracket that follows a value; after a comma in an object, past the next key too.
    fn after_value(&mut self) -> Result<Next, SyntaxFault> {
        let in_object = self.in_object();
        match (self.peek_past_blanks()?, in_object) {
            (b',', true) => {
                self.at += 1;
                self.key()?;
                Ok(Next::Value)
            }
            (b',', false) => {
                self.at += 1;
                Ok(Next::Value)
            }
            (b'}', true) | (b']', false) => {
                self.close();
                Ok(Next::End)
            }
            (_, true) => Err(self.unexpected("after object key:value pair")),
            (_, false) => Err(self.unexpected("after array element")),
        }
    }

    /// Reads a key and its colon.
    fn key(&mut self) -> Result<(), SyntaxFault> {
        if self.peek_past_blanks()? != b'"' {
            return Err(self.unexpected("looking for beginning of object key string"));
        }
        self.string()?;
        if self.peek_past_blanks()? != b':' {
            return Err(self.unexpected("after object key"));
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), SyntaxFault> {
        self.at += 1;
        loop {
            self.at += plain_run(&self.bytes[self.at..]);
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => self.escape()?,
                _ => return Err(self.unexpected("in string literal")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), SyntaxFault> {
        self.at += 1;
        match self.peek()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
            b'u' => {
                for _ in 0..4 {
                    self.at += 1;
                    if !self.peek()?.is_ascii_hexdigit() {
                        return Err(self.unexpected("in \\u hexadecimal character escape"));
                    }
                }
            }
            _ => return Err(self.unexpected("in string escape code")),
        }
        self.at += 1;
        Ok(())
    }

    fn number(&mut self) -> Result<(), SyntaxFault> {
        let start = self.at;
        if self.peek()? == b'-' {
            self.at += 1;
        }
        // A digit after a leading zero is the fault of what follows the number.
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let b'+' | b'-' = self.peek()? {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        if self.at - start > NUMBER_MAX { Err(SyntaxFault::LongNumber) } else { Ok(()) }
    }

    /// One digit or more.
    fn digits(&mut self, place: &'static str) -> Result<(), SyntaxFault> {
        if !self.peek()?.is_ascii_digit() {
            return Err(self.unexpected(place));
        }
        self.at += self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        Ok(())
    }

    /// The rest of a literal whose first letter is there.
    fn literal(&mut self, rest: &[(u8, &'static str)]) -> Result<(), SyntaxFault> {
        self.at += 1;
        for &(letter, place) in rest {
            if self.peek()? != letter {
                return Err(self.unexpected(place));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn open(&mut self, is_object: u64) -> Result<(), SyntaxFault> {
        if self.depth == DEPTH_MAX {
            return Err(self.unexpected("exceeded max depth"));
        }
        let (word, bit) = (self.depth / WORD_BITS, self.depth % WORD_BITS);
        self.objects[word] = self.objects[word] & !(1 << bit) | is_object << bit;
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }

    fn in_object(&self) -> bool {
        let level = self.depth - 1;
        self.objects[level / WORD_BITS] >> (level % WORD_BITS) & 1 == 1
    }

    fn peek_past_blanks(&mut self) -> Result<u8, SyntaxFault> {
        self.skip_blanks();
        self.peek()
    }

    fn peek(&self) -> Result<u8, SyntaxFault> {
        self.bytes.get(self.at).copied().ok_or(SyntaxFault::Truncated)
    }

    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// The fault of the byte that is next.
    fn unexpected(&self, place: &'static str) -> SyntaxFault {
        match self.peek() {
            Ok(byte) => SyntaxFault::Unexpected { byte, place },
            Err(truncated) => truncated,
        }
    }
}

const TRUE: [(u8, &str); 3] = [
    (b'r', "in literal true (expecting 'r')"),
    (b'u', "in literal true (expecting 'u')"),
    (b'e', "in literal true (expecting 'e')"),
];
const FALSE: [(u8, &str); 4] = [
    (b'a', "in literal false (expecting 'a')"),
    (b'l', "in literal false (expecting 'l')"),
    (b's', "in literal false (expecting 's')"),
    (b'e', "in literal false (expecting 'e')"),
];
const NULL: [(u8, &str); 3] = [
    (b'u', "in literal null (expecting 'u')"),
    (b'l', "in literal null (expecting 'l')"),
    (b'l', "in literal null (expecting 'l')"),
];
