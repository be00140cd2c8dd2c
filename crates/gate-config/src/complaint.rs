//! What is wrong with a configuration: the key, the value, where it came from, and what would be right.
//!
//! This module only words and collects complaints; who finds them is elsewhere. The invariant: a complaint prints as
//! exactly one line, whatever was typed, and without the value where that may be the store's password.

use std::fmt;

use crate::settings::Source;
use crate::value::cluster::{HIDDEN, is_secretive, redacted_url};

/// Enough of a value to recognise it, short enough for one line of a log.
const SHOWN_CHARS_MAX: usize = 80;

/// A typed word longer than this is compared with no key: the work grows with its length.
const GUESSED_CHARS_MAX: usize = 64;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The key or environment variable as it was typed; empty when the text could not be read that far.
    pub key: String,
    /// The value as it was typed; without the password where it is printed.
    pub value: String,
    /// Where it was typed.
    pub source: Source,
    /// What would be right.
    pub remedy: String,
}

/// Everything that is wrong; never empty where it is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Complaints(pub Vec<Complaint>);

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        if !self.key.is_empty() {
            write!(f, "{} = ", shortened(&self.key))?;
        }
        // A line that is not TOML has its key in the text.
        let key = if self.key.is_empty() { self.value.split('=').next().unwrap_or_default().trim() } else { &self.key };
        let value = if is_secretive(key) { HIDDEN.into() } else { redacted_url(&self.value) };
        write!(f, "\"{}\": {}", shortened(&value), self.remedy)
    }
}

/// One line for each complaint.
impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, complaint) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{complaint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Complaints {}

/// The known name that the typed one was probably meant to be.
pub(crate) fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if typed.chars().count() > GUESSED_CHARS_MAX {
        return None;
    }
    let typed = typed.to_ascii_lowercase().replace('-', "_");
    // Two slips in a short word leave too little of it to be a guess.
    let slips_max = (typed.chars().count() / 3).clamp(1, 3);
    known
        .map(|name| (distance(&typed, name), name))
        .filter(|(slips, _)| *slips <= slips_max)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, name)| name)
}

/// How many letters must be added, dropped, replaced or swapped with a neighbour to turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut older: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(older[j - 2] + 1);
            }
            row.push(least);
        }
        older = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

/// The text on one line and cut to a readable length.
pub(crate) fn shortened(text: &str) -> String {
    let mut chars = text.chars();
    let shown: String = chars.by_ref().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if chars.next().is_some() { shown + "…" } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_slips() {
        for (a, b, slips) in [
            ("", "", 0),
            ("", "abc", 3),
            ("limit", "limit", 0),
            ("limmit", "limit", 1),
            ("ilmit", "limit", 1),
            ("bind", "find", 1),
            ("pid", "bind", 2),
        ] {
            assert_eq!(distance(a, b), slips, "{a} {b}");
            assert_eq!(distance(b, a), slips, "{b} {a}");
        }
    }

    #[test]
    fn nearest_guesses_only_what_is_near() {
        let known = ["limit", "api_limit", "workers", "pid", "graceful_timeout"];
        for (typed, guess) in [
            ("limmit", Some("limit")),
            ("Workers", Some("workers")),
            ("wrokers", Some("workers")),
            ("graceful-timeout", Some("graceful_timeout")),
            ("pdi", Some("pid")),
            ("uid", Some("pid")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known.into_iter()), guess, "{typed}");
        }
        assert_eq!(nearest(&"w".repeat(65), known.into_iter()), None);
    }

    #[test]
    fn what_may_be_the_password_of_the_store_is_not_shown() {
        for (key, value, shown) in [
            ("cluster_url", "default:s3cret@store:6379", "cluster_url = \"***\": x"),
            ("clutser_password", "s3cret", "clutser_password = \"***\": x"),
            ("", "cluster_password = s3cret", "\"***\": x"),
            ("", "workers = many", "\"workers = many\": x"),
            ("upstream", "http://u:s3cret@a", "upstream = \"http://***@a\": x"),
        ] {
            let complaint =
                Complaint { key: key.into(), value: value.into(), source: Source::Env("E".into()), remedy: "x".into() };
            let said = complaint.to_string();
            assert!(said.ends_with(&format!(": {shown}")) && !said.contains("s3cret"), "{said}");
        }
    }

    #[test]
    fn a_complaint_is_one_short_line() {
        let complaint = Complaint {
            key: "a\nb".into(),
            value: "x\n".repeat(200),
            source: Source::File { path: "gate\n.toml".into(), line: Some(3) },
            remedy: "write less".into(),
        };
        let line = complaint.to_string();
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.chars().count() < 250, "{line}");
        assert!(line.starts_with("gate\\n.toml:3: a\\nb = \"x\\n"), "{line}");
        assert!(line.ends_with("…\": write less"), "{line}");
    }
}
