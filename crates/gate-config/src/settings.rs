//! What was typed, by whom: the text of every key and the layer it came from.
//!
//! Settings carry no meaning yet: that is the work of [`Plan::new`]. A higher layer replaces the whole value of a lower
//! one, lists too. The invariant: there is exactly one text for every row of [`KEYS`].

use std::fmt;

use crate::complaint::{Complaint, Complaints, nearest, shortened};
use crate::file::{self, CLUSTER, Entry, Field, Table, Value};
use crate::keys::{ENV_PREFIX, KEYS, Key, Repeats, row};
use crate::plan::Plan;
use crate::value::upstream::{FIELDS, unknown_field};
use crate::value::words::{URL, worded};

/// The variable with which Ollama's own clients name their server: the default of `upstream` where it is set.
pub const OLLAMA_HOST: &str = "OLLAMA_HOST";

/// The variable with which Ollama's server is told of further origins: the default of `origins` where it is set.
pub const OLLAMA_ORIGINS: &str = "OLLAMA_ORIGINS";

/// The variable that counts the sockets that were handed to a program. The caller, who has taken them over, gives
/// their addresses in its place: `fd://3,fd://4`, the default of `bind` then.
pub const LISTEN_FDS: &str = "LISTEN_FDS";

/// Flags that are orders to the program and therefore neither keys of the file nor environment variables.
const ACTIONS: [&str; 3] = ["config", "check_config", "print_config"];

/// What tables may be called.
const TABLES: [&str; 1] = ["upstream"];

/// Names from Gunicorn that mean one of our keys but are too far from it to be guessed by spelling.
const GUNICORN_NAMES: [(&str, &str); 7] = [
    ("pidfile", "pid"),
    ("access_logfile", "access_log"),
    ("access_logformat", "access_log_format"),
    ("loglevel", "log_level"),
    ("limit_request_line", "max_path"),
    ("limit_request_fields", "max_fields"),
    ("limit_request_field_size", "max_head"),
];

/// Where a value came from, lowest layer first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The table of keys.
    Default,
    /// The configuration file.
    File {
        /// The file's name as the caller gave it.
        path: String,
        /// The line, counted from 1, where it is known.
        line: Option<usize>,
    },
    /// The environment variable of this name.
    Env(String),
    /// The command line.
    Flag,
}

/// One value as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed {
    /// The text; what was given several times is joined by commas, or by `;` where items may hold commas.
    pub text: String,
    /// Where it came from.
    pub source: Source,
    /// Where the items stand that were tables of the file; empty where they were not.
    pub(crate) spots: Vec<Spot>,
}

/// Where one table of the file stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spot {
    line: usize,
    /// The fields and their lines.
    fields: Vec<(String, usize)>,
}

impl Typed {
    fn new(text: String, source: Source) -> Self {
        Self { text, source, spots: Vec::new() }
    }

    /// What complaints call a field of an item: `upstream[2].slots`.
    pub(crate) fn name_of(&self, key: &str, item: usize, field: &str) -> String {
        // Where there are no tables the URL has no name.
        if field.is_empty() || field == URL && self.spots.is_empty() {
            format!("{key}[{item}]")
        } else {
            format!("{key}[{item}].{field}")
        }
    }

    /// Where that field, or else the item, was typed.
    pub(crate) fn source_of(&self, item: usize, field: &str) -> Source {
        match (&self.source, item.checked_sub(1).and_then(|row| self.spots.get(row))) {
            (Source::File { path, .. }, Some(spot)) => {
                let line = spot.fields.iter().find(|(name, _)| name == field).map_or(spot.line, |(_, line)| *line);
                Source::File { path: path.clone(), line: Some(line) }
            }
            (source, _) => source.clone(),
        }
    }
}

/// What was typed for every key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// In the order of [`KEYS`].
    typed: Vec<Typed>,
}

impl Settings {
    /// Lays the file (its name and its text), the environment and the flags (keys and values) over the defaults.
    ///
    /// Environment variables that do not begin with [`ENV_PREFIX`] are passed over, but for [`OLLAMA_HOST`],
    /// [`OLLAMA_ORIGINS`] and [`LISTEN_FDS`].
    ///
    /// # Errors
    /// Everything that is wrong with the file's syntax, with names, and with the values too, so that one run tells all.
    pub fn gather(
        file: Option<(&str, &str)>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Complaints> {
        let mut settings = Self::default();
        let mut complaints = Vec::new();
        let Sorted { ollama_host, ollama_origins, listen_fds, ours: env } = sorted(env);
        settings.put_ollama_host(ollama_host.as_deref());
        settings.put_ollama_origins(ollama_origins.as_deref());
        settings.put_listen_fds(listen_fds.as_deref());
        if let Some((path, text)) = file {
            settings.put_file(path, text, &mut complaints);
        }
        settings.put_env(env, &mut complaints);
        settings.put_flags(flags, &mut complaints);
        if complaints.is_empty() {
            return Ok(settings);
        }
        if let Err(Complaints(more)) = Plan::new(&settings) {
            complaints.extend(more);
        }
        Err(Complaints(complaints))
    }

    /// The file (its name and its text) over the defaults, as far as it can be read: for whoever looks for one key and
    /// must not be stopped by a mistake in another.
    pub fn as_far_as_readable((path, text): (&str, &str)) -> Self {
        let (mut settings, mut unsaid) = (Self::default(), Vec::new());
        settings.put_file(path, text, &mut unsaid);
        settings
    }

    /// What was typed for this key; `None` for a name that is not in [`KEYS`].
    pub fn typed(&self, key: &str) -> Option<&Typed> {
        row(key).map(|row| &self.typed[row])
    }

    /// Keys and what was typed for them, in the order of [`KEYS`].
    pub fn iter(&self) -> impl Iterator<Item = (&'static Key, &Typed)> {
        KEYS.iter().zip(&self.typed)
    }

    fn put_ollama_host(&mut self, value: Option<&str>) {
        // Ollama strips blanks and quotes, and takes an empty variable for one that is not set.
        let text = value.map(|value| value.trim().trim_matches(['"', '\'']).trim()).unwrap_or_default();
        if let Some(row) = row("upstream").filter(|_| !text.is_empty()) {
            // One URL, whatever it holds: separators and fields are words of ours.
            self.typed[row] = Typed::new(worded(URL, text), Source::Env(OLLAMA_HOST.to_owned()));
        }
    }

    fn put_ollama_origins(&mut self, value: Option<&str>) {
        let text = value.map(|value| value.trim().trim_matches(['"', '\'']).trim()).unwrap_or_default();
        if let Some(row) = row("origins").filter(|_| !text.is_empty()) {
            self.typed[row] = Typed::new(text.to_owned(), Source::Env(OLLAMA_ORIGINS.to_owned()));
        }
    }

    fn put_listen_fds(&mut self, value: Option<&str>) {
        // A plain number is the variable as systemd sets it: nobody has taken the sockets over.
        let text = value.filter(|text| text.starts_with("fd://"));
        if let Some((row, text)) = row("bind").zip(text) {
            self.typed[row] = Typed::new(text.to_owned(), Source::Env(LISTEN_FDS.to_owned()));
        }
    }

    fn put_file(&mut self, path: &str, text: &str, complaints: &mut Vec<Complaint>) {
        for Entry { key, value, line } in file::read(path, text, complaints) {
            let source = Source::File { path: path.to_owned(), line: Some(line) };
            let refused = match (row(&key), value) {
                (None, Value::Tables(_)) if nearest(&key, TABLES.into_iter()).is_none() => Err(file::NO_TABLES),
                (None, Value::Section(table)) if key == CLUSTER => {
                    self.put_cluster(table, path, complaints);
                    continue;
                }
                (None, Value::Section(_) | Value::Mixed) => Err(file::NO_TABLES),
                (None, value) => {
                    complaints.push(unknown(&key, value.text(','), source));
                    continue;
                }
                (Some(row), Value::Tables(tables)) if KEYS[row].repeats == Repeats::Tables => {
                    self.typed[row] = from_tables(&key, &tables, &source, complaints);
                    continue;
                }
                (Some(row), value) => {
                    value.text_for(&KEYS[row]).map(|text| self.typed[row] = Typed::new(text, source.clone()))
                }
            };
            if let Err(remedy) = refused {
                complaints.push(Complaint { key, value: String::new(), source, remedy: remedy.to_owned() });
            }
        }
    }

    /// The table of the keys whose names begin with its own.
    fn put_cluster(&mut self, table: Table, path: &str, complaints: &mut Vec<Complaint>) {
        for Field { key, text, line } in table.fields {
            let source = Source::File { path: path.to_owned(), line: Some(line) };
            let name = format!("{CLUSTER}_{key}");
            let remedy = match (row(&name), text.clone()) {
                (None, _) => stray_in_cluster(&key),
                (Some(_), None) => "write one value, not a list".to_owned(),
                (Some(row), _) if matches!(self.typed[row].source, Source::File { .. }) => {
                    format!("{} has it already: write it once", self.typed[row].source)
                }
                (Some(row), Some(text)) => {
                    self.typed[row] = Typed::new(text, source);
                    continue;
                }
            };
            let (key, value) = (format!("{CLUSTER}.{key}"), text.unwrap_or_default());
            complaints.push(Complaint { key, value, source, remedy });
        }
    }

    fn put_env(&mut self, env: Vec<(String, String)>, complaints: &mut Vec<Complaint>) {
        for (name, text) in env {
            match KEYS.iter().position(|key| key.env() == name) {
                Some(row) => self.typed[row] = Typed::new(text, Source::Env(name)),
                None => complaints.push(unknown_env(name, text)),
            }
        }
    }

    fn put_flags(&mut self, flags: impl IntoIterator<Item = (String, String)>, complaints: &mut Vec<Complaint>) {
        for (key, text) in flags {
            let Some(row) = row(&key.replace('-', "_")) else {
                complaints.push(unknown(&key, text, Source::Flag));
                continue;
            };
            let typed = &mut self.typed[row];
            if KEYS[row].repeats != Repeats::Once && typed.source == Source::Flag {
                typed.text = format!("{}{}{text}", typed.text, KEYS[row].repeats.separator());
            } else {
                *typed = Typed::new(text, Source::Flag);
            }
        }
    }
}

/// Nothing typed: the defaults of the table.
impl Default for Settings {
    fn default() -> Self {
        let typed = KEYS.iter().map(|key| Typed::new(key.default.to_owned(), Source::Default));
        Self { typed: typed.collect() }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", shortened(path)),
            Self::File { path, line: None } => f.write_str(&shortened(path)),
            Self::Env(name) => write!(f, "environment variable {}", shortened(name)),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// What of the environment concerns us.
struct Sorted {
    ollama_host: Option<String>,
    ollama_origins: Option<String>,
    listen_fds: Option<String>,
    /// By name: the environment's order says nothing, and complaints should come in the same order every time.
    ours: Vec<(String, String)>,
}

fn sorted(env: impl IntoIterator<Item = (String, String)>) -> Sorted {
    let mut sorted = Sorted { ollama_host: None, ollama_origins: None, listen_fds: None, ours: Vec::new() };
    for (name, value) in env {
        match name.as_str() {
            OLLAMA_HOST => sorted.ollama_host = Some(value),
            OLLAMA_ORIGINS => sorted.ollama_origins = Some(value),
            LISTEN_FDS => sorted.listen_fds = Some(value),
            ours if ours.starts_with(ENV_PREFIX) => sorted.ours.push((name, value)),
            _ => {}
        }
    }
    sorted.ours.sort();
    sorted
}

/// The tables of a key as one text, each field as a word; what cannot be a word becomes a complaint.
fn from_tables(key: &str, tables: &[Table], source: &Source, complaints: &mut Vec<Complaint>) -> Typed {
    let mut typed = Typed::new(String::new(), source.clone());
    typed.spots = tables.iter().map(Table::spot).collect();
    let mut items = Vec::new();
    for (table, item) in tables.iter().zip(1..) {
        for field in &table.fields {
            let refused = match &field.text {
                _ if !FIELDS.contains(&field.key.as_str()) => Some(stray(&field.key)),
                None => Some("write one value, or for models a list".to_owned()),
                Some(_) => None,
            };
            complaints.extend(refused.map(|remedy| Complaint {
                key: typed.name_of(key, item, &field.key),
                value: field.text.clone().unwrap_or_default(),
                source: typed.source_of(item, &field.key),
                remedy,
            }));
        }
        // In the order in which the plan prints them, so that what is printed can be compared with what was typed.
        let typed = FIELDS.iter().filter_map(|name| table.fields.iter().find(|field| field.key == *name));
        let words = typed.filter_map(|field| Some(worded(&field.key, field.text.as_deref()?)));
        // A table without words would be no item, and those behind it would be counted wrong.
        let words: Vec<String> = words.collect();
        items.push(if words.is_empty() { worded(URL, "") } else { words.join(" ") });
    }
    typed.text = items.join(";");
    typed
}

impl Table {
    fn spot(&self) -> Spot {
        Spot { line: self.line, fields: self.fields.iter().map(|field| (field.key.clone(), field.line)).collect() }
    }
}

/// What a field that a table cannot have is answered with.
fn stray(field: &str) -> String {
    if row(field).is_some() {
        format!("`{field}` is a key of the gate: write it above the first table")
    } else {
        unknown_field(field)
    }
}

/// What a key that the cluster's table cannot have is answered with.
fn stray_in_cluster(key: &str) -> String {
    let own = || KEYS.iter().filter_map(|known| known.name.strip_prefix(CLUSTER)?.strip_prefix('_'));
    match nearest(key, own()) {
        _ if row(key).is_some() => format!("`{key}` is a key of the gate: write it above the first table"),
        Some(name) => format!("no such key; did you mean `{name}`?"),
        None => format!("no such key; it has {}", own().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    }
}

fn unknown(key: &str, value: String, source: Source) -> Complaint {
    let lower = key.to_ascii_lowercase().replace('-', "_");
    let remedy = if ACTIONS.contains(&lower.as_str()) {
        only_a_flag(&lower)
    } else {
        match meant(key) {
            Some(name) => format!("no such key; did you mean `{name}`?"),
            None => "no such key; `ollama-gate --help` lists them".to_owned(),
        }
    };
    Complaint { key: key.to_owned(), value, source, remedy }
}

fn unknown_env(name: String, value: String) -> Complaint {
    let typed = name.strip_prefix(ENV_PREFIX).unwrap_or(&name).to_ascii_lowercase();
    let remedy = if ACTIONS.contains(&typed.as_str()) {
        only_a_flag(&typed)
    } else {
        match meant(&typed).and_then(row) {
            Some(row) => format!("no such variable; did you mean `{}`?", KEYS[row].env()),
            None => "no such variable; `ollama-gate --help` lists them".to_owned(),
        }
    };
    Complaint { key: name.clone(), value, source: Source::Env(name), remedy }
}

fn only_a_flag(action: &str) -> String {
    format!("this is only a flag: write `--{}` on the command line", action.replace('_', "-"))
}

fn meant(typed: &str) -> Option<&'static str> {
    let lower = typed.to_ascii_lowercase().replace('-', "_");
    let renamed = GUNICORN_NAMES.iter().find(|(theirs, _)| *theirs == lower).map(|(_, ours)| *ours);
    renamed.or_else(|| nearest(typed, KEYS.iter().map(|key| key.name)))
}

#[cfg(test)]
mod tests;
