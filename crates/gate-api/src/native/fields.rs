//! Fields of a request and the types Ollama gives them, judged as Go's JSON does when it fills a struct.
//!
//! Go goes on after most faults of type and reports the first, yet stops at once where a type has a reader of its own
//! (`keep_alive`, `think`, a message). It knows no rule between fields. Invariant: of each field [`Found`] holds the one
//! value that Ollama uses.

use std::borrow::Cow;

use super::heard::Heard;
use super::{duration, text, walk};

/// A request as Go's struct.
pub(crate) struct Request {
    /// The struct with its package.
    pub(crate) go: &'static str,
    /// The struct.
    pub(crate) name: &'static str,
    pub(crate) fields: &'static [Field],
}

/// A field's name and type.
pub(crate) struct Field(pub(crate) &'static str, pub(crate) Shape);

/// A type; null is allowed in each.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    Text,
    Texts,
    /// An object whose values are strings.
    TextMap,
    Flag,
    Int,
    Ints,
    /// A float of so many bits.
    Float(u8),
    /// Anything; looked at elsewhere or not at all.
    Any,
    KeepAlive,
    Think,
    /// Base64 strings.
    Images,
    Options,
    Messages(&'static Messages),
    /// An object.
    Inside(&'static Inside),
    /// A list of objects whose insides are left to Ollama.
    Objects {
        list: &'static str,
        item: &'static str,
    },
}

/// A struct within a request.
pub(crate) struct Inside {
    /// The path down to it.
    pub(crate) path: &'static str,
    /// Its type with the package.
    pub(crate) go: &'static str,
    pub(crate) fields: &'static [Field],
}

/// A list of messages.
pub(crate) struct Messages {
    /// The type of the list.
    pub(crate) list: &'static str,
    pub(crate) message: Inside,
    pub(crate) faults: AfterFault,
    /// Called with each message whose types are right.
    pub(crate) hear: for<'a> fn(&Found<'a>, &mut Heard),
}

/// What Go does after a fault within a message.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum AfterFault {
    /// It stops, for the message has a reader of its own.
    Stop,
    /// It goes on, and says later what was first.
    GoOn,
}

/// The most fields a table here has.
const FIELDS_MAX: usize = 18;

/// The fields that an object gives, as JSON text. A null counts as not given, as it does for Ollama.
pub(crate) struct Found<'a> {
    table: &'static [Field],
    values: [Option<&'a str>; FIELDS_MAX],
}

impl<'a> Found<'a> {
    /// Nothing yet of what `table` has.
    pub(crate) fn none(table: &'static [Field]) -> Self {
        Self { table, values: [None; FIELDS_MAX] }
    }

    /// The value's JSON text.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a str> {
        self.given(name).filter(|value| *value != "null")
    }

    /// The value's JSON text, which may be a null.
    pub(crate) fn given(&self, name: &str) -> Option<&'a str> {
        self.values[position(self.table, name)?]
    }

    /// All that is given, by names, nulls included: cheaper than to ask for what is rarely there.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &'a str)> {
        let fields = self.table.iter().zip(self.values);
        fields.filter_map(|(Field(name, _), value)| value.map(|value| (*name, value)))
    }

    /// A string's meaning; empty if it is not given.
    pub(crate) fn text(&self, name: &str) -> Cow<'a, str> {
        self.raw(name).map_or(Cow::Borrowed(""), text::string)
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.raw(name).map(|value| value == "true")
    }

    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        self.raw(name)?.parse().ok()
    }

    /// Whether a string or a list is given and not empty.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|value| value != r#""""# && walk::is_nonempty(value))
    }
}

/// Reads a request's body, `value`, into `found`, which is large enough that moving it costs.
pub(crate) fn body<'a>(
    request: &'static Request,
    value: &'a str,
    found: &mut Found<'a>,
    heard: &mut Heard,
) -> Result<(), String> {
    let mut faults = Faults { first: None };
    match kind(value) {
        "object" => members(Place { parent: request.name, field: "" }, value, found, &mut (&mut faults, heard))?,
        "null" => {}
        other => return Err(format!("json: cannot unmarshal {other} into Go value of type {}", request.go)),
    }
    faults.into_result()
}

/// How the keys of an object are compared.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Keys {
    /// As Go compares those of a map.
    Exact,
    /// As Go compares those of a struct.
    Folded,
}

/// The values of `names` in `object`, nulls as if they were not there.
///
/// # Errors
/// The sentence of an ambiguous body, where one is given more than once.
pub(crate) fn pick<'a, const N: usize>(
    object: &'a str,
    names: [&str; N],
    keys: Keys,
) -> Result<[Option<&'a str>; N], String> {
    let mut values = [None; N];
    for (key, value) in walk::members(object) {
        let key = text::unescaped(key);
        let is_key = |name: &&str| **name == *key || (keys == Keys::Folded && text::is_same_field(&key, name));
        let Some(at) = names.iter().position(is_key) else { continue };
        if values[at].replace(value).is_some() {
            return Err(ambiguous(names[at]));
        }
    }
    Ok(values.map(|value| value.filter(|value| *value != "null")))
}

fn ambiguous(field: &str) -> String {
    format!("ambiguous body: \"{field}\" is given more than once")
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

/// The first fault, and what is heard on the way.
type Notes<'n> = (&'n mut Faults, &'n mut Heard);

fn members<'a>(place: Place, object: &'a str, found: &mut Found<'a>, notes: &mut Notes<'_>) -> Result<(), String> {
    let table = found.table;
    for (key, value) in walk::members(object) {
        // Nearly all keys are spelled as they are here.
        let folded = || {
            let key = text::unescaped(key);
            table.iter().position(|Field(name, _)| text::is_same_field(&key, name))
        };
        let Some(at) = position(table, key).or_else(folded) else { continue };
        let Field(field, shape) = table[at];
        if found.values[at].replace(value).is_some() {
            return Err(ambiguous(field));
        }
        judge(shape, value, Place { field, ..place }, notes)?;
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
fn judge(shape: Shape, value: &str, place: Place, notes: &mut Notes<'_>) -> Result<(), String> {
    let got = kind(value);
    let faults = &mut *notes.0;
    match (shape, got) {
        (_, "null") | (Shape::Any, _) | (Shape::Text, "string") | (Shape::Flag | Shape::Think, "bool") => {}
        (Shape::Text, _) => faults.mismatch(got, place, "string"),
        (Shape::Flag, _) => faults.mismatch(got, place, "bool"),
        (Shape::Int, _) => int(value, place, faults),
        (Shape::Float(bits), _) => float(value, bits, place, faults),
        (Shape::Ints, "array") => walk::items(value).for_each(|item| int(item, place, faults)),
        (Shape::Ints, _) => faults.mismatch(got, place, "[]int"),
        (Shape::Texts, "array") => walk::items(value).for_each(|item| a_text(item, place, faults)),
        (Shape::Texts, _) => faults.mismatch(got, place, "[]string"),
        (Shape::TextMap, "object") => walk::members(value).for_each(|(_, item)| a_text(item, place, faults)),
        (Shape::TextMap, _) => faults.mismatch(got, place, "map[string]string"),
        (Shape::KeepAlive, _) => drop(duration::keep_alive(value)?),
        (Shape::Think, _) => think(value)?,
        (Shape::Images, "array") => walk::items(value).for_each(|item| image(item, place, faults)),
        (Shape::Images, _) => faults.mismatch(got, place, "[]api.ImageData"),
        (Shape::Options, "object") => options(value, place, faults),
        (Shape::Options, _) => faults.mismatch(got, place, "map[string]interface {}"),
        (Shape::Messages(of), "array") => messages(of, value, place, notes)?,
        (Shape::Messages(of), _) => faults.mismatch(got, place, of.list),
        (Shape::Inside(of), "object") => {
            members(Place { parent: of.path, field: "" }, value, &mut Found::none(of.fields), notes)?;
        }
        (Shape::Inside(of), _) => faults.mismatch(got, place, of.go),
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
pub(crate) fn kind(value: &str) -> &'static str {
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

fn float(value: &str, bits: u8, place: Place, faults: &mut Faults) {
    let wanted = if bits == 32 { "float32" } else { "float64" };
    let is_held = |number: f64| number.is_finite() && (bits != 32 || (number as f32).is_finite());
    match kind(value) {
        "number" if value.parse().is_ok_and(is_held) => {}
        "number" => faults.mismatch(format_args!("number {value}"), place, wanted),
        other => faults.mismatch(other, place, wanted),
    }
}

fn a_text(value: &str, place: Place, faults: &mut Faults) {
    match kind(value) {
        "null" | "string" => {}
        other => faults.mismatch(other, place, "string"),
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

/// Judges the messages of `list`, and hears them.
fn messages(of: &'static Messages, list: &str, place: Place, notes: &mut Notes<'_>) -> Result<(), String> {
    for value in walk::items(list) {
        let mut found = Found::none(of.message.fields);
        match of.faults {
            AfterFault::GoOn => message(&of.message, (value, place), &mut found, notes)?,
            AfterFault::Stop => {
                let mut own = Faults { first: None };
                message(&of.message, (value, place), &mut found, &mut (&mut own, notes.1))?;
                own.into_result()?;
            }
        }
        notes.1.messages = notes.1.messages.saturating_add(1);
        (of.hear)(&found, notes.1);
    }
    Ok(())
}

fn message<'a>(
    of: &Inside,
    (value, place): (&'a str, Place),
    found: &mut Found<'a>,
    notes: &mut Notes<'_>,
) -> Result<(), String> {
    match kind(value) {
        "null" => {}
        "object" => members(Place { parent: of.path, field: "" }, value, found, notes)?,
        other => notes.0.mismatch(other, place, of.go),
    }
    Ok(())
}
