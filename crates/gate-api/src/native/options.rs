//! The `options` object: the types of the options Ollama knows.
//!
//! Values are not judged, unknown names pass, as with Ollama. Ollama finds these faults only once it has the model and
//! answers 500; they are the client's. Names are compared exactly, for Ollama puts them into a map first.

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

const KNOWN: [(&str, Kind); 20] = [
    ("num_keep", Kind::Integer),
    ("seed", Kind::Integer),
    ("num_predict", Kind::Integer),
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
    ("num_ctx", Kind::Integer),
    ("num_batch", Kind::Integer),
    ("num_gpu", Kind::Integer),
    ("main_gpu", Kind::Integer),
    ("use_mmap", Kind::Boolean),
    ("num_thread", Kind::Integer),
    ("draft_num_predict", Kind::Integer),
];

/// The first fault of `options`, an object or null.
pub(super) fn judge(options: &str) -> Result<(), String> {
    let mut seen = [false; KNOWN.len()];
    for (key, value) in walk::members(options) {
        let key = text::unescaped(key);
        let Some(at) = KNOWN.iter().position(|(name, _)| *name == key) else { continue };
        if std::mem::replace(&mut seen[at], true) {
            return Err(format!("option \"{key}\" is given more than once"));
        }
        let (name, kind) = KNOWN[at];
        if let Some(wanted) = mismatch(kind, value) {
            return Err(format!("option \"{name}\" must be of {wanted}"));
        }
    }
    Ok(())
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
