//! JSON as CPython 3.11's `json` module reads and writes it: the same documents accepted, the same values, and for
//! a refused document the same message at the same character.
//!
//! It knows no schema, and it is not RFC 8259: UTF-16 and UTF-32, `NaN`, infinities and lone surrogates are read.
//! What cannot be written again (those last three) is found out when it is written, as there.
//!
//! Invariant: no [`Value`] is nested deeper than [`DEPTH_MAX`], so that writing, comparing and dropping one need less
//! than a mebibyte of stack; time and memory are linear in the document's length.
mod encoding;
pub(crate) mod members;
mod plain;
mod scan;
#[cfg(test)]
mod tests;
pub(crate) mod tokens;
mod write;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

pub use encoding::{Characters, Converted, Decoded};
pub(crate) use plain::plain_len;
pub(crate) use scan::is_printed;
pub use write::{Unwritable, write_text};

/// Deepest nesting of arrays and objects that is read. CPython 3.11 gives up where its recursion limit of 1000 ends,
/// less the frames of the web stack below it; 500 levels are known to pass there and 1000 to fail.
pub const DEPTH_MAX: usize = 990;

/// Most digits of an integer: CPython's default limit, which keeps its quadratic conversion short.
pub const INTEGER_DIGITS_MAX: usize = 4300;

/// Up to this many members, an object's keys are compared with each other rather than hashed: cheaper, and the most
/// work it can cause is a fixed factor.
const MEMBERS_COMPARED_MAX: usize = 16;

/// A JSON value, borrowed from its document where no escape had to be resolved.
#[derive(Debug, PartialEq)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number<'a>),
    /// A string.
    Text(Text<'a>),
    /// An array.
    Array(Vec<Value<'a>>),
    /// An object.
    Object(Object<'a>),
}

/// A number: integers are exact at any length, everything else is a double, as in Python.
#[derive(Debug, Clone)]
pub enum Number<'a> {
    /// The integer's text as Python prints it.
    Integer(Cow<'a, str>),
    /// A double's text where that is how Python prints it, so that it need be neither converted nor printed.
    Decimal(&'a str),
    /// A double, which may be infinite or not a number.
    Float(f64),
}

/// A string of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Text<'a> {
    /// Text that can be written as UTF-8.
    Unicode(Cow<'a, str>),
    /// Text with a lone surrogate in it. It can only be ignored or refused, so its content is not kept.
    Surrogates,
}

/// An object's members: a key that came twice stands where it first stood, with the value it had last.
#[derive(Debug, Default, PartialEq)]
pub struct Object<'a> {
    members: Vec<(Text<'a>, Value<'a>)>,
}

/// Why a document could not be read. The fault is its sender's in every case.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// It is not JSON.
    Syntax {
        /// CPython's own words.
        message: &'static str,
        /// Where, in characters from the document's start (after a byte order mark).
        position: usize,
    },
    /// Its bytes are not text in the encoding that its first bytes tell.
    Encoding,
    /// Arrays and objects are nested deeper than [`DEPTH_MAX`].
    TooDeep,
    /// An integer has more than [`INTEGER_DIGITS_MAX`] digits.
    IntegerTooLong,
}

/// Decodes a document, as `json.loads` does before it reads one.
pub fn decode(document: &[u8]) -> Result<Decoded<'_>, Error> {
    encoding::decode(document)
}

/// Reads one decoded document, as `json.loads` does.
pub fn read(characters: Characters<'_>) -> Result<Value<'_>, Error> {
    scan::document(characters)
}

impl Number<'_> {
    /// What it is as a double, if it is one.
    fn double(&self) -> Option<f64> {
        match self {
            Self::Integer(_) => None,
            // A decimal is always a Rust float literal; were it not, it would equal nothing.
            Self::Decimal(text) => Some(text.parse().unwrap_or(f64::NAN)),
            Self::Float(double) => Some(*double),
        }
    }
}

/// Integers are equal to integers and doubles to doubles, in whichever form they stand.
impl PartialEq for Number<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Integer(one), Self::Integer(another)) => one == another,
            (one, another) => one.double().is_some_and(|double| another.double() == Some(double)),
        }
    }
}

impl<'a> Object<'a> {
    /// The object that a document's members make, in the order in which they came.
    fn of(members: Vec<(Text<'a>, Value<'a>)>) -> Self {
        if members.len() <= MEMBERS_COMPARED_MAX {
            let repeats = members.iter().enumerate().any(|(at, (key, _))| members[..at].iter().any(|(k, _)| k == key));
            if !repeats {
                return Self { members };
            }
        }
        let mut kept: Vec<(Text<'a>, Value<'a>)> = Vec::with_capacity(members.len());
        let places = places(&members);
        for ((key, value), place) in members.into_iter().zip(places) {
            match kept.get_mut(place) {
                Some(earlier) => earlier.1 = value,
                None => kept.push((key, value)),
            }
        }
        Self { members: kept }
    }

    /// The value of a key.
    pub fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.members.iter().find(|(key, _)| matches!(key, Text::Unicode(key) if key == name)).map(|(_, value)| value)
    }

    /// Takes a key and its value out.
    pub fn take(&mut self, name: &str) -> Option<Value<'a>> {
        let place = self.members.iter().position(|(key, _)| matches!(key, Text::Unicode(key) if key == name))?;
        Some(self.members.remove(place).1)
    }

    /// Keys and values, in order.
    pub fn members(&self) -> &[(Text<'a>, Value<'a>)] {
        &self.members
    }
}

/// For each member, where it stands once keys that come twice are one.
fn places(members: &[(Text<'_>, Value<'_>)]) -> Vec<usize> {
    // std's hasher is seeded at random, so keys cannot be chosen to collide.
    let mut first: HashMap<&str, usize> = HashMap::with_capacity(members.len());
    let mut distinct = 0;
    let mut places = Vec::with_capacity(members.len());
    for (key, _) in members {
        let place = match key {
            Text::Unicode(key) => *first.entry(key).or_insert(distinct),
            // Whether two of these are equal does not matter: their object cannot be written either way.
            Text::Surrogates => distinct,
        };
        distinct += usize::from(place == distinct);
        places.push(place);
    }
    places
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { message, position } => write!(f, "{message} (char {position})"),
            Self::Encoding => f.write_str("not text in the encoding its first bytes tell"),
            Self::TooDeep => write!(f, "nested deeper than {DEPTH_MAX} levels"),
            Self::IntegerTooLong => write!(f, "an integer has more than {INTEGER_DIGITS_MAX} digits"),
        }
    }
}

impl std::error::Error for Error {}
