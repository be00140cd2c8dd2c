//! Backends as one text: words between blanks, a list of such words for each backend.
//!
//! A word is `key=value`; the first one may be the bare URL. Backends end with a `;`, a line break or a comma, but the
//! commas of `models=a,b` belong to the word. Double quotes keep blanks and separators inside a value; in them `\`
//! stands before a quote or another `\`. This module knows nothing of what keys and values mean. The invariant: what
//! [`worded`] writes comes out of [`drafts`] as it went in.

use std::iter::Peekable;
use std::str::Chars;

use super::Remedy;

/// The key of a first word that has none.
pub(crate) const URL: &str = "url";

/// The key whose value is a list with commas.
pub(crate) const MODELS: &str = "models";

/// One word of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// `None` for a word without one that is not the first.
    pub(super) key: Option<String>,
    pub(super) text: String,
}

/// What was written of one backend; never empty.
pub(super) type Draft = Vec<Word>;

/// The words of each backend.
pub(super) fn drafts(text: &str) -> Result<Vec<Draft>, Remedy> {
    let mut scan = Scan::default();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => scan.quote(&mut chars)?,
            ',' if !scan.is_in_models() => scan.end_draft(End::Comma)?,
            ';' | '\n' | '\r' => scan.end_draft(End::Line)?,
            blank if blank.is_whitespace() => scan.end_word(),
            c => scan.word.get_or_insert_default().text.push(c),
        }
    }
    scan.end_draft(End::Line)?;
    Ok(scan.drafts)
}

/// Key and value as one word; the URL without its key.
pub(crate) fn worded(key: &str, text: &str) -> String {
    let means_more =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, ';' | '"') || c == ',' && key != MODELS;
    let bare = !text.contains(means_more) && (key != URL || !text.is_empty() && key_of(text).is_none());
    let value = if bare { text.to_owned() } else { quoted(text) };
    if key == URL { value } else { format!("{key}={value}") }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What stands before the first `=`, if that can be a key.
fn key_of(text: &str) -> Option<&str> {
    let (key, _) = text.split_once('=')?;
    let spelled = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (!key.is_empty() && key.bytes().all(spelled)).then_some(key)
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Comma,
    Line,
}

#[derive(Default)]
struct Scan {
    drafts: Vec<Draft>,
    draft: Draft,
    word: Option<Begun>,
    after_comma: bool,
}

/// A word whose end has not been seen.
#[derive(Default)]
struct Begun {
    text: String,
    /// How much of it stood before the first quote: only there a key can be.
    plain: Option<usize>,
}

impl Begun {
    fn key(&self) -> Option<&str> {
        key_of(&self.text).filter(|key| self.plain.is_none_or(|plain| key.len() < plain))
    }
}

impl Scan {
    fn is_in_models(&self) -> bool {
        self.word.as_ref().is_some_and(|word| word.key() == Some(MODELS))
    }

    fn quote(&mut self, chars: &mut Peekable<Chars<'_>>) -> Result<(), Remedy> {
        let word = self.word.get_or_insert_default();
        word.plain.get_or_insert(word.text.len());
        while let Some(c) = chars.next() {
            match c {
                '"' => return Ok(()),
                '\\' => word.text.extend(Some(chars.next_if(|c| matches!(c, '"' | '\\')).unwrap_or('\\'))),
                c => word.text.push(c),
            }
        }
        Err("a quote is not closed".to_owned())
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        let key = word.key().map(ToOwned::to_owned);
        let value = key.as_ref().map_or(0, |key| key.len() + 1);
        let key = key.or_else(|| self.draft.is_empty().then(|| URL.to_owned()));
        self.draft.push(Word { key, text: word.text[value..].to_owned() });
    }

    fn end_draft(&mut self, end: End) -> Result<(), Remedy> {
        self.end_word();
        if !self.draft.is_empty() {
            self.drafts.push(std::mem::take(&mut self.draft));
        } else if self.after_comma || end == End::Comma {
            return Err("nothing stands beside a comma; write models without blanks: models=a,b".to_owned());
        }
        self.after_comma = end == End::Comma;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Backends apart by ` | `, words by `_`, keys before `:`.
    fn shown(text: &str) -> String {
        let word = |word: &Word| format!("{}:{}", word.key.as_deref().unwrap_or("?"), word.text);
        let draft = |draft: &Draft| draft.iter().map(word).collect::<Vec<_>>().join("_");
        drafts(text).map_or_else(|remedy| remedy, |all| all.iter().map(draft).collect::<Vec<_>>().join(" | "))
    }

    #[test]
    fn texts_come_apart() {
        for (text, expected) in [
            ("", ""),
            (" ;\n\r\n; ", ""),
            ("http://a", "url:http://a"),
            ("a:1,b:1", "url:a:1 | url:b:1"),
            (" a:1 , b:1 ", "url:a:1 | url:b:1"),
            ("a:1;b:1\nc:1\r\n", "url:a:1 | url:b:1 | url:c:1"),
            ("a slots=4,b slots=2", "url:a_slots:4 | url:b_slots:2"),
            ("a models=x,y slots=1;b", "url:a_models:x,y_slots:1 | url:b"),
            ("a models=x,y,b:1", "url:a_models:x,y,b:1"),
            ("dns=a:1 name=x, dns=b", "dns:a:1_name:x | dns:b"),
            ("url=a", "url:a"),
            ("http://a/b=c", "url:http://a/b=c"),
            ("\"dns=a\"", "url:dns=a"),
            ("slots=4 http://a", "slots:4_?:http://a"),
            ("a b", "url:a_?:b"),
            ("\"unix:/a b,c;d\" name=\"x \\\"y\\\\ \\z\"", "url:unix:/a b,c;d_name:x \"y\\ \\z"),
            ("a models=\"x, y\",z", "url:a_models:x, y,z"),
            ("a name=", "url:a_name:"),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }

    #[test]
    fn refusals() {
        for (text, remedy) in [
            ("a,,b", "beside a comma"),
            (",a", "beside a comma"),
            ("a,", "beside a comma"),
            ("a,;b", "beside a comma"),
            ("a \"b", "not closed"),
            ("a \"b\\\"", "not closed"),
        ] {
            assert!(shown(text).contains(remedy), "{text:?}: {}", shown(text));
        }
    }

    proptest! {
        #[test]
        fn words_come_out_as_they_went_in(
            url in "\\PC*|[\u{0}-\u{ff}\"\\\\;,=]*",
            name in "\\PC*|[\u{0}-\u{ff}\"\\\\;,=]*",
            models in "[a-z,; \"]*",
        ) {
            let given = [(URL, url), ("name", name), (MODELS, models)];
            let text = given.iter().map(|(key, text)| worded(key, text)).collect::<Vec<_>>().join(" ");
            let word = |(key, text): &(&str, String)| Word { key: Some((*key).to_owned()), text: text.clone() };
            let draft: Draft = given.iter().map(word).collect();
            prop_assert_eq!(drafts(&format!("{text};{text}")), Ok(vec![draft.clone(), draft]), "{}", text);
        }
    }
}
