//! The configuration file: flat TOML, a table and an array of tables, read as far as it can be read.
//!
//! This module knows TOML's shapes, not the keys: names and values are checked by its callers. The invariant: a line
//! with a syntax error yields that complaint and nothing else, and hides no other line, be it a table's header or a
//! line inside a table.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use crate::complaint::Complaint;
use crate::keys::{Key, Repeats};
use crate::settings::Source;

/// Many times what every key together with every comment needs; bounds the work and the complaints.
const FILE_BYTES_MAX: usize = 256 * 1024;

/// A file that needs more rounds of dropping lines is no configuration file.
const REPAIRS_MAX: usize = 8;

/// How the parser begins its words about a line that is good but for another one before it.
const DUPLICATE: &str = "duplicate key";

/// What a key with a table for its value is told.
pub(crate) const NO_TABLES: &str = "write `key = value`, for lists `key = [a, b]`: the only tables are [[upstream]], in double brackets, and [cluster]";

/// The names that tables have, and their headers.
const UPSTREAM: &str = "upstream";
const UPSTREAM_HEADER: &str = "[[upstream]]";
pub(crate) const CLUSTER: &str = "cluster";
const CLUSTER_HEADER: &str = "[cluster]";

/// The header in whose place a broken one is read, so that the lines below it do not fall to the table above.
const LOST_HEADER: &str = "[[\"\"]]";

/// The key of that header.
const LOST: &str = "";

/// One key of the file.
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: Value,
    pub(crate) line: usize,
}

/// A value by its shape.
pub(crate) enum Value {
    One(String),
    List(Vec<String>),
    Tables(Vec<Table>),
    /// A table by itself.
    Section(Table),
    /// A list that holds anything but values, or anything but tables.
    Mixed,
}

/// One table of a list of them.
pub(crate) struct Table {
    pub(crate) line: usize,
    /// In the order of their lines.
    pub(crate) fields: Vec<Field>,
}

/// One key of a table.
pub(crate) struct Field {
    pub(crate) key: String,
    /// The value as text, lists with commas; `None` for what has no text.
    pub(crate) text: Option<String>,
    pub(crate) line: usize,
}

impl Value {
    /// The text, if this key can have a value of this shape, else what would be right.
    pub(crate) fn text_for(self, key: &Key) -> Result<String, &'static str> {
        match (&self, key.repeats) {
            (Self::List(_), Repeats::Once) => Err("write one value, not a list"),
            (Self::One(_) | Self::List(_), _) => Ok(self.text(key.repeats.separator())),
            (Self::Tables(_) | Self::Section(_) | Self::Mixed, _) => Err(NO_TABLES),
        }
    }

    /// The text, as far as there is one.
    pub(crate) fn text(self, separator: char) -> String {
        match self {
            Self::One(text) => text,
            Self::List(items) => items.join(&separator.to_string()),
            Self::Tables(_) | Self::Section(_) | Self::Mixed => String::new(),
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
    let lines: Vec<&str> = text.split('\n').collect();
    let (mut entries, mut told) = repaired(lines.clone());
    told.sort_by_key(|(line, _)| *line);
    told.dedup_by_key(|(line, _)| *line);
    for (line, message) in told {
        let value = lines.get(line - 1).map(|line| line.trim().to_owned()).unwrap_or_default();
        let remedy = format!("not TOML: {message}");
        complaints.push(Complaint { key: String::new(), value, source: at(Some(line)), remedy });
    }
    entries.sort_by_key(|entry| entry.line);
    entries
}

/// The keys of the file without its broken lines, and what to tell about these. Lines that turn out to be broken once
/// others are gone go too, but are told only if they were in doubt before: often they only continue what stood above.
fn repaired(mut lines: Vec<&str>) -> (Vec<Entry>, Vec<(usize, String)>) {
    let (mut entries, errors) = parse(&lines.join("\n"));
    let Found { mut told, mut broken, doubted } = Found::of(&lines, errors);
    for _ in 0..REPAIRS_MAX {
        if broken.is_empty() {
            entries.retain(|entry| entry.key != LOST);
            return (entries, told);
        }
        for line in broken {
            if let Some(line) = lines.get_mut(line - 1) {
                *line = in_place_of(line);
            }
        }
        let (left, errors) = parse(&lines.join("\n"));
        let found = Found::of(&lines, errors);
        told.extend(found.told.into_iter().filter(|(line, _)| doubted.contains(line)));
        (entries, broken) = (left, found.broken);
    }
    (Vec::new(), told)
}

/// What a round of parsing found.
#[derive(Default)]
struct Found {
    /// The lines to tell about, with the parser's words.
    told: Vec<(usize, String)>,
    /// The lines to read no more.
    broken: BTreeSet<usize>,
    /// Lines that may be good once these are gone.
    doubted: BTreeSet<usize>,
}

impl Found {
    /// One slip makes the parser stumble several times: over the same line, where the first time says most; after a list
    /// that is not closed over every line that follows; after a broken header over keys that are not double then.
    fn of(lines: &[&str], errors: Vec<(usize, String)>) -> Self {
        let (mut found, mut seen, mut swallowed, mut headless) = (Self::default(), BTreeSet::new(), false, false);
        for (line, message) in errors {
            if !seen.insert(line) {
                continue;
            }
            let text = lines.get(line - 1).copied().unwrap_or_default();
            let double = message.starts_with(DUPLICATE);
            let innocent = !double && is_whole(text);
            if innocent && swallowed || double && headless {
                found.doubted.insert(line);
                continue;
            }
            headless |= !in_place_of(text).is_empty();
            let open = if innocent { unclosed_above(lines, line) } else { BTreeSet::new() };
            swallowed |= !open.is_empty();
            found.told.push((open.first().copied().unwrap_or(line), message));
            found.broken.extend(if open.is_empty() { BTreeSet::from([line]) } else { open });
        }
        found
    }
}

/// Whether a line means something by itself.
fn is_whole(line: &str) -> bool {
    let (entries, errors) = parse(line);
    errors.is_empty() && !entries.is_empty()
}

/// The lines above this one from where a value began that goes on into it.
fn unclosed_above(lines: &[&str], below: usize) -> BTreeSet<usize> {
    let mut open = BTreeSet::new();
    for line in (1..below).rev() {
        let text = lines[line - 1];
        let (entries, errors) = parse(text);
        if errors.is_empty() && !entries.is_empty() {
            break;
        }
        if !errors.is_empty() {
            open.insert(line);
        }
        if text.contains('=') {
            break;
        }
    }
    open
}

/// What is read instead of a broken line: nothing, but a header in place of a header.
fn in_place_of(line: &str) -> &'static str {
    let Some(header) = line.trim_start().strip_prefix('[') else { return "" };
    let name = header.trim_start_matches('[').trim_start();
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let (name, rest) = name.split_at(name.find(|c| !bare(c)).unwrap_or(name.len()));
    let closed = rest.trim_start().starts_with([']', '#']) || rest.trim().is_empty();
    match name {
        // Inside a list of values.
        "" => "",
        _ if !closed => "",
        UPSTREAM => UPSTREAM_HEADER,
        // One that is good by itself is there twice.
        CLUSTER if !parse(line).1.is_empty() => CLUSTER_HEADER,
        _ => LOST_HEADER,
    }
}

/// The keys, and the errors with their lines.
fn parse(text: &str) -> (Vec<Entry>, Vec<(usize, String)>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let ends: Vec<usize> = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(end, _)| end).collect();
    let line_of = |offset: usize| 1 + ends.partition_point(|end| *end < offset);
    let entries = table.get_ref().iter().map(|(key, value)| Entry {
        key: key.get_ref().to_string(),
        value: shaped(value, &line_of),
        line: line_of(key.span().start),
    });
    let entries = entries.collect();
    let errors = errors.into_iter().map(|error| {
        let line = line_of(error.span().map_or(0, |span| span.start));
        (line, error.message().replace('\n', ", "))
    });
    (entries, errors.collect())
}

fn shaped(value: &Spanned<DeValue<'_>>, line_of: &impl Fn(usize) -> usize) -> Value {
    let DeValue::Array(items) = value.get_ref() else {
        let section = || table(value, line_of).map_or(Value::Mixed, Value::Section);
        return scalar(value.get_ref()).map_or_else(section, Value::One);
    };
    let texts: Option<Vec<String>> = items.iter().map(|item| scalar(item.get_ref())).collect();
    let tables = items.iter().map(|item| table(item, line_of)).collect::<Option<Vec<Table>>>();
    texts.map(Value::List).or(tables.map(Value::Tables)).unwrap_or(Value::Mixed)
}

fn table(item: &Spanned<DeValue<'_>>, line_of: &impl Fn(usize) -> usize) -> Option<Table> {
    let DeValue::Table(fields) = item.get_ref() else { return None };
    let fields = fields.iter().map(|(key, value)| Field {
        key: key.get_ref().to_string(),
        text: match value.get_ref() {
            DeValue::Array(items) => {
                items.iter().map(|item| scalar(item.get_ref())).collect::<Option<Vec<_>>>().map(|items| items.join(","))
            }
            one => scalar(one),
        },
        line: line_of(key.span().start),
    });
    let mut fields: Vec<Field> = fields.collect();
    fields.sort_by_key(|field| field.line);
    Some(Table { line: line_of(item.span().start), fields })
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
