//! The article's request and answer: its body checked as FastAPI and pydantic check it, what is asked of Ollama for
//! it, and what the client gets of Ollama's answer.
//!
//! It does not route, limit or send, and it does not say what a refusal looks like on the wire.
//!
//! Invariant: an [`ArticleRequest`] can be written as strict JSON, so whatever passed here can be sent.
mod answer;
mod complaint;
pub(crate) mod fields;
mod ordinary;
#[cfg(test)]
mod tests;

use crate::json::{self, Characters, Decoded, Object, Text, Value, write_text};
use crate::rejection::Rejection;
use complaint::{Complaint, Context, Input, Place, refusal};
use fields::{FIELDS, FORMAT, FORMAT_JSON, Field, OPTIONS, PROMPT, Presence, Rule};
use std::borrow::Cow;

pub use answer::answer_body;

/// Room for an option's name and value as JSON: enough for nearly all, and a text may still grow.
const OPTION_LENGTH: usize = 32;

/// A valid request for text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArticleRequest<'a> {
    prompt: Cow<'a, str>,
    format: Format,
    options: Option<String>,
}

/// The form that the generated text is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Any; Ollama is not told.
    Text,
    /// JSON.
    Json,
}

impl<'a> ArticleRequest<'a> {
    /// Checks the body of `POST /ollama_generate/`.
    ///
    /// # Errors
    /// [`Rejection::Invalid`] with every complaint that FastAPI would list, or [`Rejection::Unreadable`] for a body
    /// that is not text, nests too deep, holds an integer too long, or holds something that would have to be written
    /// again and cannot be (`NaN`, infinities, lone surrogates).
    pub fn from_body(content_type: Option<&[u8]>, body: &'a [u8]) -> Result<Self, Rejection> {
        if body.is_empty() {
            return Err(refusal(&[missing(Place::Body, Input::Null)]));
        }
        if !is_json(content_type.unwrap_or_default()) {
            let text = std::str::from_utf8(body).map_err(|_| Rejection::Unreadable)?;
            return Err(refusal(&[not_an_object(Input::Plain(text))]));
        }
        match ordinary::read(body) {
            Some(request) => Ok(request),
            None => Self::from_any_body(body),
        }
    }

    /// The same for any body that is to be read as JSON.
    fn from_any_body(body: &'a [u8]) -> Result<Self, Rejection> {
        match json::decode(body).map_err(|error| refused(&error))? {
            Decoded::InPlace(characters) => Self::from_document(characters),
            Decoded::Converted(document) => {
                let ArticleRequest { prompt, format, options } = ArticleRequest::from_document(document.characters())?;
                Ok(Self { prompt: Cow::Owned(prompt.into_owned()), format, options })
            }
        }
    }

    fn from_document(document: Characters<'a>) -> Result<Self, Rejection> {
        let mut object = match json::read(document).map_err(|error| refused(&error))? {
            Value::Object(object) => object,
            other => return Err(refusal(&[not_an_object(Input::Value(&other))])),
        };
        let complaints: Vec<_> = FIELDS.iter().filter_map(|field| check(field, &object)).collect();
        if !complaints.is_empty() {
            return Err(refusal(&complaints));
        }
        let format = match object.get(FORMAT) {
            Some(Value::Text(Text::Unicode(word))) if word == FORMAT_JSON => Format::Json,
            _ => Format::Text,
        };
        let options = match object.get(OPTIONS) {
            Some(Value::Object(options)) => {
                let mut text = String::with_capacity(OPTION_LENGTH * options.members().len() + 2);
                options.write(&mut text).map_err(|_| Rejection::Unreadable)?;
                Some(text)
            }
            _ => None,
        };
        match object.take(PROMPT) {
            Some(Value::Text(Text::Unicode(prompt))) => Ok(Self { prompt, format, options }),
            _ => Err(Rejection::Unreadable),
        }
    }

    /// The text to go on from.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// The form asked for.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Ollama's options as compact JSON, numbers in Python's form; none where the client sent none or null.
    pub fn options(&self) -> Option<&str> {
        self.options.as_deref()
    }

    /// The body of `POST /api/generate` that asks Ollama for this.
    pub fn upstream_body(&self, model: &str) -> Vec<u8> {
        let options = self.options().unwrap_or_default();
        let mut out = String::with_capacity(self.prompt.len() + options.len() + model.len() + 80);
        out.push_str(r#"{"model":"#);
        write_text(model, &mut out);
        out.push_str(r#","prompt":"#);
        write_text(&self.prompt, &mut out);
        out.push_str(r#","stream":false"#);
        if self.format == Format::Json {
            out.push_str(r#","format":"json""#);
        }
        if self.options.is_some() {
            out.push_str(r#","options":"#);
            out.push_str(options);
        }
        out.push('}');
        out.into_bytes()
    }
}

impl ArticleRequest<'static> {
    /// The request of `GET /ollama_generate/{prompt}`.
    pub fn from_item(prompt: String) -> Self {
        Self { prompt: Cow::Owned(prompt), format: Format::Text, options: None }
    }
}

/// What is wrong with a field, if anything is.
fn check<'v>(field: &'static Field, body: &'v Object<'v>) -> Option<Complaint<'v>> {
    let Some(value) = body.get(field.name) else {
        return (field.presence == Presence::Required).then(|| missing(Place::Field(field.name), Input::Object(body)));
    };
    if field.presence == Presence::Optional && *value == Value::Null {
        return None;
    }
    let (kind, message, context) = match (&field.rule, value) {
        (Rule::Dictionary, Value::Object(_)) => return None,
        (Rule::Text { length_min }, Value::Text(Text::Unicode(text))) => {
            if text.chars().take(*length_min).count() == *length_min {
                return None;
            }
            let plural = if *length_min == 1 { "" } else { "s" };
            let message = format!("String should have at least {length_min} character{plural}");
            ("string_too_short", Cow::Owned(message), Context::LengthMin(*length_min))
        }
        (Rule::Word { of, complaint }, Value::Text(Text::Unicode(text))) => {
            if of.contains(&text.as_ref()) {
                return None;
            }
            ("value_error", Cow::Borrowed(*complaint), Context::Exception)
        }
        (Rule::Text { .. } | Rule::Word { .. }, Value::Text(Text::Surrogates)) => {
            // Never seen by a client: the input cannot be written, so the whole request is unreadable.
            ("string_unicode", Cow::Borrowed("Input should be a valid string"), Context::None)
        }
        (Rule::Text { .. } | Rule::Word { .. }, _) => {
            ("string_type", Cow::Borrowed("Input should be a valid string"), Context::None)
        }
        (Rule::Dictionary, _) => ("dict_type", Cow::Borrowed("Input should be a valid dictionary"), Context::None),
    };
    Some(Complaint { kind, place: Place::Field(field.name), message, input: Input::Value(value), context })
}

fn missing(place: Place, input: Input<'_>) -> Complaint<'_> {
    Complaint { kind: "missing", place, message: Cow::Borrowed("Field required"), input, context: Context::None }
}

fn not_an_object(input: Input<'_>) -> Complaint<'_> {
    Complaint {
        kind: "model_attributes_type",
        place: Place::Body,
        message: Cow::Borrowed("Input should be a valid dictionary or object to extract fields from"),
        input,
        context: Context::None,
    }
}

/// What a client is told of a body that could not be read.
fn refused(error: &json::Error) -> Rejection {
    match *error {
        json::Error::Syntax { message, position } => refusal(&[Complaint {
            kind: "json_invalid",
            place: Place::Character(position),
            message: Cow::Borrowed("JSON decode error"),
            input: Input::Unread,
            context: Context::Reader(message),
        }]),
        json::Error::Encoding | json::Error::TooDeep | json::Error::IntegerTooLong => Rejection::Unreadable,
    }
}

/// Whether FastAPI reads a body of this content type as JSON: `application/json` or `application/*+json`, as Python's
/// `email.message` splits the header. A missing or empty one is not, which keeps HTML forms of other sites out.
fn is_json(content_type: &[u8]) -> bool {
    if content_type == b"application/json" {
        return true;
    }
    let media = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
    let Some((main, sub)) = split_at_slash(trim(media)) else { return false };
    let suffix = sub.len().checked_sub(5).map(|start| &sub[start..]);
    main.eq_ignore_ascii_case(b"application")
        && (sub.eq_ignore_ascii_case(b"json") || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(b"+json")))
}

/// Both sides of the only slash.
fn split_at_slash(media: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = media.split(|&byte| byte == b'/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(main), Some(sub), None) => Some((main, sub)),
        _ => None,
    }
}

/// Without the blanks at both ends that `str.strip` takes off Latin-1 text.
fn trim(text: &[u8]) -> &[u8] {
    let kept = |byte: &u8| !matches!(byte, b'\t'..=b'\r' | 0x1C..=b' ' | 0x85 | 0xA0);
    let start = text.iter().position(kept).unwrap_or(text.len());
    let end = text.iter().rposition(kept).map_or(start, |last| last + 1);
    &text[start..end]
}
