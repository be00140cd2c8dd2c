//! Fields of a request and the types Ollama gives them, judged as Go's JSON does when it fills a struct.
//!
//! Go goes on after most faults of type and reports the first, yet stops at once where a type has a reader of its own
//! (`keep_alive`, `think`, a message). It knows no rule between fields. Invariant: of each field [`Found`] holds the one
//! value that Ollama uses.

use std::borrow::Cow;

use super::opening::Opening;
use super::{duration, text, walk};

/// A field's name and type.
pub(super) struct Field(pub(super) &'static str, pub(super) Shape);

/// A type; null is allowed in each.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    Text,
    Flag,
    Int,
    Ints,
    /// Anything; looked at elsewhere or not at all.
    Any,
    KeepAlive,
    Think,
    /// Base64 strings.
    Images,
    Options,
    Messages,
    /// A list of objects whose insides are left to Ollama.
    Objects {
        list: &'static str,
        item: &'static str,
    },
}

/// Fields of a message.
const MESSAGE: [Field; 7] = [
    Field("role", Shape::Text),
    Field("content", Shape::Text),
    Field("thinking", Shape::Text),
    Field("images", Shape::Images),
    Field("tool_calls", Shape::Objects { list: "[]api.ToolCall", item: "api.ToolCall" }),
    Field("tool_name", Shape::Text),
    Field("tool_call_id", Shape::Text),
];

/// The most fields a table here has.
const FIELDS_MAX: usize = 18;

/// The fields that a body gives, as JSON text. A null counts as not given, as it does for Ollama.
pub(super) struct Found<'a> {
    table: &'static [Field],
    values: [Option<&'a str>; FIELDS_MAX],
    /// How the messages among them begin.
    pub(super) opening: Opening,
}

impl<'a> Found<'a> {
    /// Nothing yet of what `table` has.
    pub(super) fn none(table: &'static [Field]) -> Self {
        Self { table, values: [None; FIELDS_MAX], opening: Opening::default() }
    }

    /// The value's JSON text.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        let at = position(self.table, name)?;
        self.values[at].filter(|value| *value != "null")
    }

    /// A string's meaning; empty if it is not given.
    pub(super) fn text(&self, name: &str) -> Cow<'a, str> {
        self.raw(name).map_or(Cow::Borrowed(""), text::string)
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.raw(name).map(|value| value == "true")
    }

    pub(super) fn int(&self, name: &str) -> Option<i64> {
        self.raw(name)?.parse().ok()
    }

    /// Whether a string or a list is given and not empty.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|value| value != r#""""# && walk::is_nonempty(value))
    }
}

/// Reads a request's body, `value`, which Go fills into the struct `go`, into `found`: it is large enough that moving
/// it costs.
pub(super) fn body<'a>(go: &'static str, value: &'a str, found: &mut Found<'a>) -> Result<(), String> {
    let mut faults = Faults { first: None };
    match kind(value) {
        "object" => members(Place { parent: go, field: "" }, value, found, &mut faults)?,
        "null" => {}
        other => return Err(format!("json: cannot unmarshal {other} into Go value of type api.{go}")),
    }
    faults.into_result()
}

/// Where a value stands: `parent` is the struct, with the path down to it.
#[derive(Clone, Copy)]
struct Place {
    parent: &'static str,
    field: &'static str,
}

/// The first fault that Go would keep while it goes on.
struct Faults {
    first: Option<String>,
}

impl Faults {
    fn mismatch(&mut self, got: impl std::fmt::Display, place: Place, wanted: &str) {
        let Place { parent, field } = place;
        let dot = if field.is_empty() { "" } else { "." };
        self.keep(|| {
            format!("json: cannot unmarshal {got} into Go struct field {parent}{dot}{field} of type {wanted}")
        });
    }

    fn keep(&mut self, fault: impl FnOnce() -> String) {
        self.first.get_or_insert_with(fault);
    }

    fn into_result(self) -> Result<(), String> {
        self.first.map_or(Ok(()), Err)
    }
}

fn members<'a>(place: Place, object: &'a str, found: &mut Found<'a>, faults: &mut Faults) -> Result<(), String> {
    let table = found.table;
    for (key, value) in walk::members(object) {
        let key = text::unescaped(key);
        // Nearly all keys are spelled as they are here.
        let folded = || table.iter().position(|Field(name, _)| text::is_same_field(&key, name));
        let Some(at) = position(table, &key).or_else(folded) else { continue };
        let Field(field, shape) = table[at];
        if found.values[at].replace(value).is_some() {
            return Err(format!("ambiguous body: \"{field}\" is given more than once"));
        }
        judge(shape, value, Place { field, ..place }, faults, &mut found.opening)?;
    }
    Ok(())
}

/// The field of exactly this name.
fn position(table: &[Field], key: &str) -> Option<usize> {
    // Most names differ in length or first letter, which costs no call.
    let first = key.as_bytes().first();
    table.iter().position(|Field(name, _)| name.len() == key.len() && name.as_bytes().first() == first && *name == key)
}

/// Judges one value; an error is one at which Go stops.
fn judge(shape: Shape, value: &str, place: Place, faults: &mut Faults, opening: &mut Opening) -> Result<(), String> {
    let got = kind(value);
    match (shape, got) {
        (_, "null") | (Shape::Any, _) | (Shape::Text, "string") | (Shape::Flag | Shape::Think, "bool") => {}
        (Shape::Text, _) => faults.mismatch(got, place, "string"),
        (Shape::Flag, _) => faults.mismatch(got, place, "bool"),
        (Shape::Int, _) => int(value, place, faults),
        (Shape::Ints, "array") => walk::items(value).for_each(|item| int(item, place, faults)),
        (Shape::Ints, _) => faults.mismatch(got, place, "[]int"),
        (Shape::KeepAlive, _) => drop(duration::keep_alive(value)?),
        (Shape::Think, _) => think(value)?,
        (Shape::Images, "array") => walk::items(value).for_each(|item| image(item, place, faults)),
        (Shape::Images, _) => faults.mismatch(got, place, "[]api.ImageData"),
        (Shape::Options, "object") => options(value, place, faults),
        (Shape::Options, _) => faults.mismatch(got, place, "map[string]interface {}"),
        (Shape::Messages, "array") => messages(value, opening)?,
        (Shape::Messages, _) => faults.mismatch(got, place, "[]api.Message"),
        (Shape::Objects { item, .. }, "array") => {
            for got in walk::items(value).map(kind).filter(|got| !matches!(*got, "object" | "null")) {
                faults.mismatch(got, place, item);
            }
        }
        (Shape::Objects { list, .. }, _) => faults.mismatch(got, place, list),
    }
    Ok(())
}

/// What Go's errors call a value.
fn kind(value: &str) -> &'static str {
    match value.as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        Some(b'n') => "null",
        _ => "number",
    }
}

fn int(value: &str, place: Place, faults: &mut Faults) {
    match kind(value) {
        "null" => {}
        "number" if value.parse::<i64>().is_ok() => {}
        "number" => faults.mismatch(format_args!("number {value}"), place, "int"),
        other => faults.mismatch(other, place, "int"),
    }
}

fn think(value: &str) -> Result<(), String> {
    const ALLOWED: &str = r#""high", "medium", "low", "max", true, or false"#;
    if !value.starts_with('"') {
        return Err(format!("think must be a boolean or string ({ALLOWED})"));
    }
    match &*text::string(value) {
        "high" | "medium" | "low" | "max" => Ok(()),
        other => Err(format!("invalid think value: {} (must be {ALLOWED})", text::quoted(other))),
    }
}

/// Go takes bytes as base64 or as a list of small numbers.
fn image(value: &str, place: Place, faults: &mut Faults) {
    match kind(value) {
        "null" => {}
        "string" => {
            if let Some(at) = text::base64_fault(&text::string(value)) {
                faults.keep(|| format!("illegal base64 data at input byte {at}"));
            }
        }
        "array" => {
            for item in walk::items(value) {
                match kind(item) {
                    "null" => {}
                    "number" if item.parse::<u8>().is_ok() => {}
                    "number" => faults.mismatch(format_args!("number {item}"), place, "uint8"),
                    other => faults.mismatch(other, place, "uint8"),
                }
            }
        }
        other => faults.mismatch(other, place, "api.ImageData"),
    }
}

/// Go holds each number as a double.
fn options(value: &str, place: Place, faults: &mut Faults) {
    for (_, value) in walk::members(value) {
        if kind(value) == "number" && value.parse::<f64>().is_ok_and(f64::is_infinite) {
            faults.mismatch(format_args!("number {value}"), place, "float64");
        }
    }
}

/// Judges the messages of `list`, and follows how they begin. A message has a reader of its own, so its first fault
/// ends the whole body.
fn messages(list: &str, opening: &mut Opening) -> Result<(), String> {
    let place = Place { parent: "ChatRequest.messages", field: "" };
    for value in walk::items(list) {
        let mut message = Found::none(&MESSAGE);
        let mut faults = Faults { first: None };
        match kind(value) {
            "null" => {}
            "object" => members(place, value, &mut message, &mut faults)?,
            other => faults.mismatch(other, place, "api.Alias"),
        }
        faults.into_result()?;
        opening.hear(message.raw("role"), message.raw("content"));
    }
    Ok(())
}
