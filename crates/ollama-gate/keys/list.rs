//! The keys of a file, for people or programs.

use std::io::Read;
use std::path::Path;

use gate_config::exit::EX_OK;
use gate_config::keyfile::{KeyFile, KeyLine, NEVER, id_text, parse, time_text};
use gate_master::secrets::open_private;
use serde_json::{Value, json};

use super::Fault;
use crate::say;
use crate::table::{Side, table, wrapped};

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A table.
    Text,
    /// A line of JSON.
    Json,
}

/// Indent of a policy below its key.
const INDENT: usize = 4;

/// Shows the file's keys; the exit code.
pub(super) fn run(path: &Path, form: Form, now: u32) -> Result<u8, Fault> {
    let mut text = String::new();
    let told = |why: String| Fault::File(vec![why]);
    let read = open_private(path).map_err(told)?.read_to_string(&mut text);
    read.map_err(|error| told(format!("cannot read {}: {error}", path.display())))?;
    let keys = parse(&text).map_err(|faults| Fault::File(faults.told(&path.display().to_string())))?;
    let shown = match form {
        Form::Text => page(&keys, now),
        Form::Json => format!("{}\n", Value::Array(keys.lines.iter().map(|line| object(line, &keys, now)).collect())),
    };
    Ok(match say(&shown) {
        EX_OK => EX_OK,
        code => code,
    })
}

fn page(keys: &KeyFile<'_>, now: u32) -> String {
    let columns = [
        ("NAME", Side::Left),
        ("ID", Side::Left),
        ("CREATED", Side::Left),
        ("EXPIRES", Side::Left),
        ("STATE", Side::Left),
    ];
    let row = |line: &KeyLine<'_>| {
        let expires = expires(line).unwrap_or_else(|| NEVER.to_owned());
        [line.name.to_owned(), id_text(line.id), time_text(line.created), expires, state(line, now).to_owned()]
    };
    let below = |line: &KeyLine<'_>| match keys.policies[line.policy as usize] {
        "" => String::new(),
        policy => wrapped(&format!("{}{policy}", " ".repeat(INDENT)), 2 * INDENT),
    };
    let table = table(columns, &keys.lines.iter().map(row).collect::<Vec<_>>());
    let below = std::iter::once(String::new()).chain(keys.lines.iter().map(below));
    table.split_inclusive('\n').zip(below).fold(String::new(), |text, (line, below)| text + line + &below)
}

fn object(line: &KeyLine<'_>, keys: &KeyFile<'_>, now: u32) -> Value {
    json!({
        "id": id_text(line.id),
        "name": line.name,
        "created": time_text(line.created),
        "expires": expires(line),
        "state": state(line, now),
        "policy": keys.policies[line.policy as usize],
    })
}

fn expires(line: &KeyLine<'_>) -> Option<String> {
    (line.expires > 0).then(|| time_text(line.expires))
}

fn state(line: &KeyLine<'_>, now: u32) -> &'static str {
    if line.expires > 0 && line.expires <= now { "expired" } else { "good" }
}
