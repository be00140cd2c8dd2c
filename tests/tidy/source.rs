//! A Rust file told apart into code and the rest: enough of a lexer to count braces and find words.
//!
//! It does not parse. Comments, strings and characters become spaces, line breaks stay, so a position in the code is
//! the same position in the text. Invariant: a brace or word that is still there is code.

/// One file.
pub(crate) struct Source {
    /// Relative to the repository's root.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// The same length, with everything blank that is not code.
    pub(crate) code: String,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Where `fn` stands, counted from 1.
    pub(crate) line: usize,
    /// From `fn` to the closing brace.
    pub(crate) lines: usize,
}

impl Source {
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let mut code = text.as_bytes().to_vec();
        let mut at = 0;
        while at < code.len() {
            let end = skipped(text.as_bytes(), at);
            for byte in &mut code[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            at = end.max(at + 1);
        }
        let code = String::from_utf8_lossy(&code).into_owned();
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    /// Lines of text, each with the code in it and its number.
    pub(crate) fn lines(&self) -> impl DoubleEndedIterator<Item = (usize, &str, &str)> + ExactSizeIterator {
        let text: Vec<&str> = self.text.split('\n').collect();
        let code: Vec<&str> = self.code.split('\n').collect();
        assert_eq!(text.len(), code.len(), "{}: line breaks stay", self.path);
        let rows = text.into_iter().zip(code).enumerate();
        rows.map(|(row, (text, code))| (row + 1, text, code))
    }

    /// Lines on which `word` is code, once for each time it is there.
    pub(crate) fn word(&self, word: &str) -> Vec<usize> {
        self.positions(word).into_iter().map(|at| self.line_at(at)).collect()
    }

    /// Lines on which a function of this name is called, or declared.
    pub(crate) fn calls(&self, name: &str) -> Vec<usize> {
        let is_call = |at: &usize| self.code[at + name.len()..].starts_with('(');
        self.positions(name).into_iter().filter(is_call).map(|at| self.line_at(at)).collect()
    }

    /// Every function with a body, nested ones too.
    pub(crate) fn functions(&self) -> Vec<Function> {
        self.positions("fn").into_iter().filter_map(|at| self.function(at)).collect()
    }

    fn function(&self, at: usize) -> Option<Function> {
        let after = self.code[at + 2..].trim_start();
        let name: String = after.chars().take_while(|char| is_name(*char) || *char == '$').collect();
        if name.is_empty() {
            return None; // A type: `fn(u8) -> u8`.
        }
        let open = self.body(at)?;
        let close = self.closing(open)?;
        let line = self.line_at(at);
        Some(Function { name, line, lines: self.line_at(close) - line + 1 })
    }

    /// The brace that opens the body of the function whose `fn` stands at `at`; `None` for a declaration.
    fn body(&self, at: usize) -> Option<usize> {
        let mut depth = 0_usize;
        for (offset, byte) in self.code[at..].bytes().enumerate() {
            match byte {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth = depth.saturating_sub(1),
                b'{' if depth == 0 => return Some(at + offset),
                b';' if depth == 0 => return None,
                _ => {}
            }
        }
        None
    }

    fn closing(&self, open: usize) -> Option<usize> {
        let mut depth = 0_usize;
        for (offset, byte) in self.code[open..].bytes().enumerate() {
            match byte {
                b'{' => depth += 1,
                b'}' if depth == 1 => return Some(open + offset),
                b'}' => depth -= 1,
                _ => {}
            }
        }
        None
    }

    fn positions(&self, word: &str) -> Vec<usize> {
        let stands_alone = |at: usize| {
            let before = self.code[..at].chars().next_back();
            let after = self.code[at + word.len()..].chars().next();
            !before.is_some_and(|char| is_name(char) || char == '#') && !after.is_some_and(is_name)
        };
        self.code.match_indices(word).map(|(at, _)| at).filter(|at| stands_alone(*at)).collect()
    }

    fn line_at(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }
}

fn is_name(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// The end of the comment, string or character that begins at `at`; `at` itself where code does.
fn skipped(text: &[u8], at: usize) -> usize {
    let rest = &text[at..];
    if rest.starts_with(b"//") {
        return rest.iter().position(|byte| *byte == b'\n').map_or(text.len(), |length| at + length);
    }
    if rest.starts_with(b"/*") {
        return block_comment(text, at);
    }
    match rest[0] {
        b'"' => quoted(text, at + 1, b'"'),
        b'r' if !continues_name(text, at) => raw_string(text, at).unwrap_or(at),
        b'\'' if rest.get(1) == Some(&b'\\') => quoted(text, at + 1, b'\''),
        b'\'' => character(text, at).unwrap_or(at),
        _ => at,
    }
}

/// Whether the `r` at `at` is the end of a longer name; `b` and `c` before it are prefixes of strings.
fn continues_name(text: &[u8], at: usize) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii();
    let before = |back: usize| at.checked_sub(back).map(|place| text[place]);
    match before(1) {
        Some(b'b' | b'c') => before(2).is_some_and(is_name),
        Some(byte) => is_name(byte),
        None => false,
    }
}

fn block_comment(text: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < text.len() {
        if text[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn quoted(text: &[u8], mut at: usize, quote: u8) -> usize {
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// `r"…"` and `r##"…"##`; `None` for a raw name such as `r#type`.
fn raw_string(text: &[u8], at: usize) -> Option<usize> {
    let hashes = text[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    let inside = at + 1 + hashes + 1;
    if text.get(inside - 1) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let length = text[inside..].windows(end.len()).position(|window| window == end);
    Some(length.map_or(text.len(), |length| inside + length + end.len()))
}

/// `'x'`; `None` for a lifetime.
fn character(text: &[u8], at: usize) -> Option<usize> {
    let first = *text.get(at + 1)?;
    let width = match first {
        0x00..=0x7f => 1,
        0x80..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    let close = at + 1 + width;
    (text.get(close) == Some(&b'\'')).then_some(close + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_code(text: &str, expected: &str) {
        let code = Source::parse("x.rs", text).code;
        let squeezed: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(squeezed.join(" "), expected, "{text}");
        assert_eq!(code.len(), text.len(), "{text}");
    }

    #[test]
    fn only_code_is_left() {
        check_code("a // unsafe {\nb", "a b");
        check_code("a /* { /* { */ } */ b", "a b");
        check_code(r#"f("{ \" {", x)"#, "f( , x)");
        check_code(r##"f(r#"{ " {"#, br"\", c"{")"##, "f( , b , c )");
        check_code(r"f('{', '\'', b'{', '\u{7b}', 'é') ", "f( , , b , , )");
        check_code(
            "fn f<'a>(x: &'a str) -> &'static str { r#type }",
            "fn f<'a>(x: &'a str) -> &'static str { r#type }",
        );
        check_code(r#"var"{" bar"{""#, "var bar");
        check_code("\"no end {", "");
    }

    #[test]
    fn functions_are_measured_from_their_name_to_their_brace() {
        let text = "trait T {\n fn declared(x: [u8; 2]);\n}\nfn one() { '{'; }\nconst F: fn(u8) = g;\n\
                    fn outer(\n  x: [u8; 3],\n) {\n  fn inner() {\n    \"}\";\n  }\n}\n";
        let measured: Vec<(String, usize, usize)> = Source::parse("x.rs", text)
            .functions()
            .into_iter()
            .map(|function| (function.name, function.line, function.lines))
            .collect();
        let expected = [("one", 4, 1), ("outer", 6, 7), ("inner", 9, 3)];
        assert_eq!(measured, expected.map(|(name, line, lines)| (name.to_owned(), line, lines)));
    }

    #[test]
    fn words_are_whole_words_of_code() {
        let text = "#![forbid(unsafe_code)]\n// unsafe\nunsafe { x }\nlet r#unsafe = \"unsafe\"; unsafe{}\n";
        assert_eq!(Source::parse("x.rs", text).word("unsafe"), [3, 4]);
    }
}
