//! One answer before it is sent: status, headers and a body in one of the forms that Ollama uses. No bytes yet.

use serde::Serialize;

use crate::dialect::Dialect;
use crate::generation::Generation;
use crate::residence::Lease;
use crate::voice::{Telling, Voice};

/// What Go's gin calls JSON.
pub(crate) const JSON: &str = "application/json; charset=utf-8";
/// What Ollama calls JSON where it sets the header itself.
pub(crate) const PLAIN_JSON: &str = "application/json";
/// The root's text.
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";
/// Texts that gin writes itself.
pub(crate) const BARE_TEXT: &str = "text/plain";

/// The text of a 503.
pub(crate) const BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";

/// An answer, and the slot it occupies until it is sent.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) extra: Vec<(&'static str, &'static str)>,
    pub(crate) body: Body,
    /// The text of an error, for the dialects that tell it in another form.
    pub(crate) error: Option<String>,
    pub(crate) lease: Option<Lease>,
}

/// The forms of a body.
pub(crate) enum Body {
    /// With a length.
    Full(Vec<u8>),
    /// In one chunk.
    OneChunk(Vec<u8>),
    /// Chunk by chunk.
    Stream(Box<Telling>),
    /// Less than the length it promises; the connection ends after it.
    Short(&'static [u8], usize),
    /// No answer at all: the connection ends.
    HangUp,
}

impl Answer {
    pub(crate) fn new(status: u16, content_type: &'static str, body: Body) -> Self {
        Self { status, content_type, extra: Vec::new(), body, error: None, lease: None }
    }

    pub(crate) fn text(status: u16, content_type: &'static str, text: &str) -> Self {
        Self::new(status, content_type, Body::Full(text.as_bytes().to_vec()))
    }

    /// `200` with a value as JSON.
    pub(crate) fn json(value: &impl Serialize) -> Self {
        Self::new(200, JSON, Body::Full(json_bytes(value)))
    }

    /// Ollama's error body.
    pub(crate) fn error(status: u16, text: &str) -> Self {
        Self::failing(text, Self::new(status, JSON, Body::Full(error_json(text))))
    }

    /// The error of a stream that had not begun.
    pub(crate) fn stream_error(status: u16, text: &str) -> Self {
        Self::failing(text, Self::new(status, PLAIN_JSON, Body::OneChunk(error_json(text))))
    }

    fn failing(text: &str, answer: Self) -> Self {
        Self { error: Some(text.to_owned()), ..answer }
    }

    pub(crate) fn stream(generation: Generation, voice: Voice) -> Self {
        let (kind, extra) = (voice.content_type(), voice.headers().to_vec());
        Self { extra, ..Self::new(200, kind, Body::Stream(Box::new(Telling::new(generation, voice)))) }
    }

    /// A stream of lines that are there already.
    pub(crate) fn lines(lines: Vec<Vec<u8>>) -> Self {
        let telling = Telling::ready(lines);
        Self::new(200, telling.voice.content_type(), Body::Stream(Box::new(telling)))
    }

    /// `200` with all of it.
    pub(crate) fn whole(generation: &Generation, voice: &Voice) -> Self {
        let kind = if voice.dialect() == Dialect::Ollama { JSON } else { PLAIN_JSON };
        Self::new(200, kind, Body::Full(voice.whole(generation)))
    }

    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.extra.push((name, value));
        self
    }

    pub(crate) fn holding(mut self, lease: Lease) -> Self {
        self.lease = Some(lease);
        self
    }
}

/// `{"error":"…"}`.
pub(crate) fn error_json(text: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct ErrorBody<'a> {
        error: &'a str,
    }
    json_bytes(&ErrorBody { error: text })
}

/// A value as compact JSON.
pub(crate) fn json_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("only strings, numbers and lists of our own are written, and those have a form")
}

/// The reason phrase of a status.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Request Entity Too Large",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
