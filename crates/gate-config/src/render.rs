//! Plans and the table of keys written as TOML: the output of `--print-config` and the reference file.
//!
//! Nothing is read here. The invariant: what is written parses back to the same plan,
//! but for passwords in URLs, which are not written.

use crate::keys::{Change, KEYS, Key, Repeats};
use crate::plan::Plan;
use crate::settings::{Settings, Source, Typed};
use crate::value::cluster::redacted_url;
use crate::value::items;

/// Where comments of the reference file are broken.
const COLUMNS: usize = 100;

const REFERENCE_HEAD: &str = "\
# Every key of ollama-gate with its default. Generated from the program's table of keys: do not edit, copy what you need.
#
# A value is taken from the command line, else from the environment, else from this file, else it is the default.
# Times are whole seconds or carry a unit: \"500ms\", \"30s\", \"2m\", \"1h\". Sizes are bytes or carry a unit: \"64KiB\", \"8MiB\".
# Lists may be written as an array or as one string with commas.
# The only tables are [cluster] and those of upstream; every other key stands above them.
# \"reload\" keys change on SIGHUP; \"start\" keys keep their value until the gate is started again.
";

impl Plan {
    /// The plan as TOML that parses back to it: every key, its value and where it came from.
    pub fn render(&self, settings: &Settings) -> String {
        let mut lines = Vec::new();
        let mut section = "";
        for ((key, typed), (_, value)) in settings.iter().zip(self.texts()) {
            if key.section != section {
                if !section.is_empty() {
                    lines.push(String::new());
                }
                lines.push(format!("# {}", key.section));
                section = key.section;
            }
            lines.push(format!("{} = {}  # {}", key.name, literal(key, &value), origin(typed, &value)));
        }
        lines.join("\n") + "\n"
    }
}

/// The text of `config/ollama-gate.toml`: every key with its help and its default, commented out.
pub fn reference_file() -> String {
    let mut lines = vec![REFERENCE_HEAD.to_owned()];
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            let rule = "-".repeat(COLUMNS.saturating_sub(key.section.len() + 3));
            lines.extend([format!("# {} {rule}", key.section), String::new()]);
            section = key.section;
        }
        lines.extend(wrapped(key.doc).iter().map(|line| format!("# {line}")));
        lines.push(format!("# {}", spellings(key)));
        lines.push(format!("#{} = {}", key.name, literal(key, key.default)));
        lines.extend(Some(key.example).filter(|example| !example.is_empty()).map(ToOwned::to_owned));
        lines.push(String::new());
    }
    // The last key's empty line becomes the end of the file.
    lines.join("\n")
}

/// Flag, environment variable and what a change takes.
fn spellings(key: &Key) -> String {
    let metavar = key.metavar.map(|metavar| format!(" {metavar}")).unwrap_or_default();
    let short = key.short.map(|letter| format!("-{letter}{metavar}, ")).unwrap_or_default();
    let often = match key.repeats {
        Repeats::Once => "",
        Repeats::Many | Repeats::Tables => ", repeatable",
    };
    let change = match key.change {
        Change::Reload => "reload",
        Change::Start => "start",
    };
    format!("[{short}{}{metavar}{often} | {} | {change}]", key.flag(), key.env())
}

fn origin(typed: &Typed, value: &str) -> String {
    let text = redacted_url(&typed.text);
    if text == value {
        return typed.source.to_string();
    }
    match &typed.source {
        Source::Default => format!("default {}", quoted(&text)),
        source => format!("{source}: {}", quoted(&text)),
    }
}

/// A value as TOML: numbers and switches bare, lists as arrays.
fn literal(key: &Key, value: &str) -> String {
    match key.repeats {
        Repeats::Once => scalar(value),
        Repeats::Many if value == "none" => scalar(value),
        Repeats::Many => array(items(value)),
        Repeats::Tables => array(value.split(key.repeats.separator())),
    }
}

fn array<'a>(items: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", items.map(scalar).collect::<Vec<_>>().join(", "))
}

fn scalar(value: &str) -> String {
    // A number with leading zeros or beyond TOML's range is not the text that TOML would give back.
    let bare =
        matches!(value, "true" | "false") || value.parse::<u32>().is_ok_and(|number| number.to_string() == value);
    if bare { value.to_owned() } else { quoted(value) }
}

fn quoted(text: &str) -> String {
    let escaped = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(escaped).collect::<String>())
}

/// The words in lines that fit behind `# `.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= COLUMNS - 2 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests;
