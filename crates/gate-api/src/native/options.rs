//! The `options` object: the types of the options Ollama knows, and those for which it loads the model anew.
//!
//! Values are not judged, unknown names pass, as with Ollama. Ollama finds these faults only once it has the model and
//! answers 500; they are the client's. Names are compared exactly, for Ollama puts them into a map first.
//!
//! Invariant: options of one meaning to Ollama's loader give one text, however they were written.

use std::borrow::Cow;

use super::{text, walk};

/// What an option takes.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Any number; a fraction is cut off.
    Integer,
    Float,
    Boolean,
    Strings,
}

/// The first [`LOADING`] of them, in the order of their names, belong to the loaded model; the next is [`NUM_PREDICT`].
const KNOWN: [(&str, Kind); 20] = [
    ("draft_num_predict", Kind::Integer),
    ("main_gpu", Kind::Integer),
    ("num_batch", Kind::Integer),
    (NUM_CTX, Kind::Integer),
    (NUM_GPU, Kind::Integer),
    ("num_thread", Kind::Integer),
    ("use_mmap", Kind::Boolean),
    (NUM_PREDICT, Kind::Integer),
    ("num_keep", Kind::Integer),
    ("seed", Kind::Integer),
    ("top_k", Kind::Integer),
    ("top_p", Kind::Float),
    ("min_p", Kind::Float),
    ("typical_p", Kind::Float),
    ("repeat_last_n", Kind::Integer),
    ("temperature", Kind::Float),
    ("repeat_penalty", Kind::Float),
    ("presence_penalty", Kind::Float),
    ("frequency_penalty", Kind::Float),
    ("stop", Kind::Strings),
];

/// A change of these makes Ollama load the model anew.
const LOADING: usize = 7;

/// Layers on the GPU. Below zero it leaves the choice to Ollama, which then keeps what is loaded.
const NUM_GPU: &str = "num_gpu";

/// Size of the context, the [`AT_CONTEXT`]th of [`KNOWN`].
pub(crate) const NUM_CTX: &str = "num_ctx";
const AT_CONTEXT: usize = 3;

/// Tokens of an answer, behind the [`LOADING`] ones.
pub(crate) const NUM_PREDICT: &str = "num_predict";

/// A field of the request, not an option, that belongs to the loaded model as well.
const SHIFT: &str = "shift";

/// The options that are given and matter to the gate, as JSON text.
pub(super) struct Loading<'a> {
    /// Those of the loaded model; a null counts as not given.
    values: [Option<&'a str>; LOADING],
    /// [`NUM_PREDICT`], which may be null.
    pub(super) num_predict: Option<&'a str>,
}

impl<'a> Loading<'a> {
    /// The size of the context.
    pub(super) fn num_ctx(&self) -> Option<&'a str> {
        self.values[AT_CONTEXT]
    }

    /// `name=value` for each, and for `shift`, in the order of names with semicolons between; empty if there is none.
    pub(super) fn canonical(&self, mut shift: Option<bool>) -> String {
        let mut out = String::new();
        let mut put = |name: &str, value: &str| {
            // Room for the usual two or three at once.
            out.reserve(if out.is_empty() { 64 } else { 0 });
            for part in [if out.is_empty() { "" } else { ";" }, name, "=", value] {
                out.push_str(part);
            }
        };
        for ((name, kind), value) in KNOWN.iter().zip(self.values) {
            // The last name of the table stands behind it.
            if *name > SHIFT
                && let Some(given) = shift.take()
            {
                put(SHIFT, if given { "true" } else { "false" });
            }
            let Some(value) = value else { continue };
            let value = if *kind == Kind::Integer { integer(value) } else { value.into() };
            if *name != NUM_GPU || !value.starts_with('-') {
                put(name, &value);
            }
        }
        out
    }
}

/// The integer that Go makes of a number: it reads a double and cuts off the fraction. Beyond 64 bits its conversion
/// gives whatever the machine does, here the nearest.
pub(super) fn integer(value: &str) -> Cow<'_, str> {
    /// Digits that a double holds exactly, whatever they are.
    const EXACT_MAX: usize = 15;
    if value.len() <= EXACT_MAX && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.into();
    }
    value.parse::<f64>().map_or(0, |number| number as i64).to_string().into()
}

/// Judges `options`, an object or null, by its first fault.
pub(super) fn judge(options: &str) -> Result<Loading<'_>, String> {
    let mut seen = [false; KNOWN.len()];
    let mut values = [None; LOADING];
    let mut num_predict = None;
    for (key, value) in walk::members(options) {
        let known = |key: &str| KNOWN.iter().position(|(name, _)| *name == key);
        // Few are spelled with escapes.
        let Some(at) = known(key).or_else(|| known(&text::unescaped(key))) else { continue };
        let (name, kind) = KNOWN[at];
        if std::mem::replace(&mut seen[at], true) {
            return Err(format!("option \"{name}\" is given more than once"));
        }
        if let Some(wanted) = mismatch(kind, value) {
            return Err(format!("option \"{name}\" must be of {wanted}"));
        }
        if let Some(loading) = values.get_mut(at) {
            *loading = (value != "null").then_some(value);
        } else if at == LOADING {
            num_predict = Some(value);
        }
    }
    Ok(Loading { values, num_predict })
}

/// What should stand there instead of `value`.
fn mismatch(kind: Kind, value: &str) -> Option<&'static str> {
    match (kind, value.as_bytes().first()?) {
        (_, b'n') | (Kind::Integer | Kind::Float, b'-' | b'0'..=b'9') | (Kind::Boolean, b't' | b'f') => None,
        (Kind::Strings, b'[') => walk::items(value).any(|item| !item.starts_with('"')).then_some("an array of strings"),
        (Kind::Integer, _) => Some("type integer"),
        (Kind::Float, _) => Some("type float32"),
        (Kind::Boolean, _) => Some("type boolean"),
        (Kind::Strings, _) => Some("type array"),
    }
}
