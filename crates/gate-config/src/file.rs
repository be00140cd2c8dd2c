//! The configuration file: flat TOML, read as far as it can be read.
//!
//! This module knows TOML's shapes, not the keys: names and values are checked by its callers. The invariant: a line
//! with a syntax error yields that complaint and nothing else, and hides no other line.

use std::collections::BTreeSet;

use toml::de::{DeInteger, DeTable, DeValue};

use crate::complaint::Complaint;
use crate::keys::{Key, Repeats};
use crate::settings::Source;

/// Many times what every key together with every comment needs; bounds the work and the complaints.
const FILE_BYTES_MAX: usize = 256 * 1024;

/// A file that needs more rounds of dropping lines is no configuration file.
const REPAIRS_MAX: usize = 8;

/// What a key with a table for its value is told.
pub(crate) const NO_TABLES: &str = "the file has no tables: write `key = value` lines only";

/// One key of the file.
pub(crate) struct Entry {
    pub(crate) key: String,
    /// The value as text; `None` for a table, which has none.
    pub(crate) text: Option<String>,
    pub(crate) line: usize,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    One,
    List,
    Table,
}

impl Entry {
    pub(crate) fn is_table(&self) -> bool {
        self.shape == Shape::Table
    }

    /// The text, if this key can have a value of this shape, else what would be right.
    pub(crate) fn text_for(&self, key: &Key) -> Result<String, &'static str> {
        match (self.shape, &self.text) {
            (Shape::List, _) if key.repeats == Repeats::Once => Err("write one value, not a list"),
            (_, Some(text)) => Ok(text.clone()),
            (_, None) => Err(NO_TABLES),
        }
    }
}

/// The file's keys in the order of its lines; syntax errors become complaints.
pub(crate) fn read(path: &str, text: &str, complaints: &mut Vec<Complaint>) -> Vec<Entry> {
    let at = |line| Source::File { path: path.to_owned(), line };
    if text.len() > FILE_BYTES_MAX {
        let remedy = format!("the file is too large: at most {FILE_BYTES_MAX} bytes");
        complaints.push(Complaint { key: String::new(), value: String::new(), source: at(None), remedy });
        return Vec::new();
    }
    let (mut entries, errors) = parse(text);
    let lines: Vec<&str> = text.split('\n').collect();
    let mut broken = BTreeSet::new();
    for (line, message) in errors {
        // One slip makes the parser stumble several times over the same line; the first time says most.
        if broken.insert(line) {
            let value = lines.get(line - 1).map(|line| line.trim().to_owned()).unwrap_or_default();
            let remedy = format!("not TOML: {message}");
            complaints.push(Complaint { key: String::new(), value, source: at(Some(line)), remedy });
        }
    }
    if !broken.is_empty() {
        entries = repaired(lines, broken);
    }
    entries.sort_by_key(|entry| entry.line);
    entries
}

/// The keys of the file without its broken lines, and without those that turn out to be broken once they are gone. The
/// latter are no complaints: often they only continue what stands before them.
fn repaired(mut lines: Vec<&str>, mut broken: BTreeSet<usize>) -> Vec<Entry> {
    for _ in 0..REPAIRS_MAX {
        for line in broken {
            if let Some(line) = lines.get_mut(line - 1) {
                *line = "";
            }
        }
        let (entries, errors) = parse(&lines.join("\n"));
        if errors.is_empty() {
            return entries;
        }
        broken = errors.into_iter().map(|(line, _)| line).collect();
    }
    Vec::new()
}

/// The keys, and the errors with their lines.
fn parse(text: &str) -> (Vec<Entry>, Vec<(usize, String)>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let ends: Vec<usize> = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(end, _)| end).collect();
    let line_of = |offset: usize| 1 + ends.partition_point(|end| *end < offset);
    let entries = table.into_inner().into_iter().map(|(key, value)| {
        let line = line_of(key.span().start);
        entry(key.get_ref(), value.get_ref(), line)
    });
    let errors = errors.into_iter().map(|error| {
        let line = line_of(error.span().map_or(0, |span| span.start));
        (line, error.message().replace('\n', ", "))
    });
    (entries.collect(), errors.collect())
}

fn entry(key: &str, value: &DeValue<'_>, line: usize) -> Entry {
    let (shape, text) = match value {
        DeValue::Table(_) => (Shape::Table, None),
        DeValue::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(|item| scalar(item.get_ref())).collect();
            (Shape::List, items.map(|items| items.join(",")))
        }
        one => (Shape::One, scalar(one)),
    };
    Entry { key: key.to_owned(), text, line, shape }
}

/// The text of a value that holds no others.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(decimal(number)),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(switch) => Some(switch.to_string()),
        DeValue::Datetime(time) => Some(time.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

fn decimal(number: &DeInteger<'_>) -> String {
    // A number that does not fit is outside every bound and is best shown as it was typed.
    i128::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| number.to_string(), |value| value.to_string())
}
