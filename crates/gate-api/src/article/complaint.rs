//! What is wrong with a body, in pydantic's words and FastAPI's JSON.
//!
//! It does not decide what is wrong.
//!
//! Invariant: a complaint that cannot be written as JSON makes its request [`Rejection::Unreadable`], never a
//! half-written list.
use crate::json::{Object, Unwritable, Value, write_text};
use crate::rejection::Rejection;
use std::borrow::Cow;

/// One entry of the 422's list.
#[derive(Debug)]
pub(super) struct Complaint<'v> {
    /// pydantic's name of the error.
    pub(super) kind: &'static str,
    /// Where, after `body`.
    pub(super) place: Place,
    /// pydantic's sentence.
    pub(super) message: Cow<'static, str>,
    /// What was sent.
    pub(super) input: Input<'v>,
    /// The sentence's parameters.
    pub(super) context: Context,
}

/// Where in the request.
#[derive(Debug)]
pub(super) enum Place {
    /// The body as a whole.
    Body,
    /// A field of it.
    Field(&'static str),
    /// A character of it.
    Character(usize),
}

/// What was sent.
#[derive(Debug)]
pub(super) enum Input<'v> {
    /// Nothing.
    Null,
    /// A body that was not read, so there is nothing to show.
    Unread,
    /// A body of another content type.
    Plain(&'v str),
    /// A value.
    Value(&'v Value<'v>),
    /// The body itself.
    Object(&'v Object<'v>),
}

/// The parameters of a message.
#[derive(Debug)]
pub(super) enum Context {
    /// It has none.
    None,
    /// The shortest length that is accepted.
    LengthMin(usize),
    /// An exception of the validator's, which FastAPI writes as an empty object.
    Exception,
    /// What the JSON reader said.
    Reader(&'static str),
}

impl Complaint<'_> {
    fn write(&self, out: &mut String) -> Result<(), Unwritable> {
        out.push_str(r#"{"type":"#);
        write_text(self.kind, out);
        out.push_str(r#","loc":["body""#);
        match self.place {
            Place::Body => {}
            Place::Field(name) => {
                out.push(',');
                write_text(name, out);
            }
            Place::Character(position) => {
                out.push(',');
                out.push_str(&position.to_string());
            }
        }
        out.push_str(r#"],"msg":"#);
        write_text(&self.message, out);
        out.push_str(r#","input":"#);
        match self.input {
            Input::Null => out.push_str("null"),
            Input::Unread => out.push_str("{}"),
            Input::Plain(text) => write_text(text, out),
            Input::Value(value) => value.write(out)?,
            Input::Object(object) => object.write(out)?,
        }
        match self.context {
            Context::None => {}
            Context::LengthMin(length) => {
                out.push_str(r#","ctx":{"min_length":"#);
                out.push_str(&length.to_string());
                out.push('}');
            }
            Context::Exception => out.push_str(r#","ctx":{"error":{}}"#),
            Context::Reader(message) => {
                out.push_str(r#","ctx":{"error":"#);
                write_text(message, out);
                out.push('}');
            }
        }
        out.push('}');
        Ok(())
    }
}

/// The refusal that lists these complaints.
pub(super) fn refusal(complaints: &[Complaint<'_>]) -> Rejection {
    let mut detail = String::from("[");
    for (at, complaint) in complaints.iter().enumerate() {
        if at > 0 {
            detail.push(',');
        }
        if complaint.write(&mut detail).is_err() {
            return Rejection::Unreadable;
        }
    }
    detail.push(']');
    Rejection::Invalid { detail }
}
