//! The requests that look at models or change them where they are stored: show, pull, push, create, copy, delete.
//!
//! Nothing of them is clamped. Invariant: every model that such a request names is in its [`Call`], and so is the host
//! that the server would turn to.

use super::fields::{Field, Found, Request, Shape};
use super::heard::Heard;
use super::{DEBUG_RENDER, NO_BODY, NameFault, Source, host, misnamed, model, name, read, required, text};
use crate::call::{Call, Remote, Stream, Work, bad};
use crate::rejection::Rejection;

const SHOW: Request = Request { go: "api.ShowRequest", name: "ShowRequest", fields: &SHOW_FIELDS };
const SHOW_FIELDS: [Field; 7] = [
    Field("model", Shape::Text),
    Field("name", Shape::Text),
    Field("system", Shape::Text),
    Field("template", Shape::Text),
    Field("verbose", Shape::Flag),
    Field("options", Shape::Options),
    Field(DEBUG_RENDER, Shape::Any),
];

const PULL: Request = Request { go: "api.PullRequest", name: "PullRequest", fields: &TRANSFER_FIELDS };
const PUSH: Request = Request { go: "api.PushRequest", name: "PushRequest", fields: &TRANSFER_FIELDS };
const TRANSFER_FIELDS: [Field; 7] = [
    Field("model", Shape::Text),
    Field("name", Shape::Text),
    Field("insecure", Shape::Flag),
    Field("username", Shape::Text),
    Field("password", Shape::Text),
    Field("stream", Shape::Flag),
    Field(DEBUG_RENDER, Shape::Any),
];

const CREATE: Request = Request { go: "api.CreateRequest", name: "CreateRequest", fields: &CREATE_FIELDS };
const CREATE_FIELDS: [Field; 17] = [
    Field("model", Shape::Text),
    Field("name", Shape::Text),
    Field("stream", Shape::Flag),
    Field("from", Shape::Text),
    Field("remote_host", Shape::Text),
    Field("files", Shape::TextMap),
    Field("adapters", Shape::TextMap),
    Field("quantize", Shape::Text),
    Field("quantization", Shape::Text),
    Field("template", Shape::Text),
    Field("system", Shape::Text),
    Field("parameters", Shape::Options),
    Field("renderer", Shape::Text),
    Field("parser", Shape::Text),
    Field("requires", Shape::Text),
    Field("info", Shape::Options),
    Field(DEBUG_RENDER, Shape::Any),
];

const COPY: Request = Request { go: "api.CopyRequest", name: "CopyRequest", fields: &COPY_FIELDS };
const COPY_FIELDS: [Field; 3] =
    [Field("source", Shape::Text), Field("destination", Shape::Text), Field(DEBUG_RENDER, Shape::Any)];

const DELETE: Request = Request { go: "api.DeleteRequest", name: "DeleteRequest", fields: &DELETE_FIELDS };
const DELETE_FIELDS: [Field; 3] =
    [Field("model", Shape::Text), Field("name", Shape::Text), Field(DEBUG_RENDER, Shape::Any)];

/// Judges a body of `POST /api/show`.
pub(crate) fn show(body: &[u8]) -> Result<Call, Rejection> {
    let found = found(&SHOW, body)?;
    Ok(stored(model(&sent(&found), required)?))
}

/// Judges the path of `GET /v1/models/{name}`, which Ollama answers as it does [`show`].
pub(crate) fn named(name: &str) -> Result<Call, Rejection> {
    Ok(stored(model(name, required)?))
}

/// Judges a body of `POST /api/pull`.
pub(crate) fn pull(body: &[u8]) -> Result<Call, Rejection> {
    let found = found(&PULL, body)?;
    let model = model(&sent(&found), |_| bad("invalid model name"))?;
    let remote = named_host(&model.0);
    Ok(Call { stream: streamed(&found), remote, ..stored(model) })
}

/// Judges a body of `POST /api/push`.
pub(crate) fn push(body: &[u8]) -> Result<Call, Rejection> {
    let found = found(&PUSH, body)?;
    let sent = sent(&found);
    let model = plain(&sent).map_err(|fault| misnamed(&sent, fault))?;
    let remote = named_host(&model.0);
    Ok(Call { stream: streamed(&found), remote, ..stored(model) })
}

/// Judges a body of `POST /api/create`.
pub(crate) fn create(body: &[u8]) -> Result<Call, Rejection> {
    let found = found(&CREATE, body)?;
    let model = plain(&sent(&found)).map_err(|_| bad("invalid model name"))?;
    let from = match &*found.text("from") {
        "" => None,
        from => Some(self::model(from, |_| bad("invalid model name"))?),
    };
    let told = found.text("remote_host");
    let remote = match &*told {
        // A model that is not there is pulled.
        "" => from.as_ref().and_then(|(from, _)| named_host(from)),
        told => Some(remote_host(told).map(Remote::Told).ok_or_else(|| bad("bad remote"))?),
    };
    let source = match (&from, model.1) {
        (Some((_, Source::Cloud)), _) => Source::Cloud,
        (_, source) => source,
    };
    let others = from.map(|(from, _)| from).into_iter().collect();
    Ok(Call { stream: streamed(&found), remote, others, source, ..stored(model) })
}

/// Judges a body of `POST /api/copy`.
pub(crate) fn copy(body: &[u8]) -> Result<Call, Rejection> {
    let found = found(&COPY, body)?;
    let name = |field: &str| {
        let sent = found.text(field);
        plain(&sent).map_err(|_| bad(format!("{field} {} is invalid", text::quoted(&sent))))
    };
    let (from, (to, to_source)) = (name("source")?, name("destination")?);
    let source = if to_source == Source::Cloud { Source::Cloud } else { from.1 };
    Ok(Call { others: vec![to], source, ..stored(from) })
}

/// Judges a body of `DELETE /api/delete`.
pub(crate) fn delete(body: &[u8]) -> Result<Call, Rejection> {
    let found = found(&DELETE, body)?;
    let sent = sent(&found);
    match name::read(&sent) {
        Ok((name, source)) => Ok(stored((name.into_owned(), source))),
        Err(NameFault::Invalid) => Err(bad(format!("name {} is invalid", text::quoted(&sent)))),
        Err(fault) => Err(misnamed(&sent, fault)),
    }
}

fn found<'a>(request: &'static Request, body: &'a [u8]) -> Result<Found<'a>, Rejection> {
    let mut found = Found::none(request.fields);
    read(request, body, (&mut found, &mut Heard::default()), NO_BODY)?;
    Ok(found)
}

/// The name that a request gives: `model`, or `name` where that is empty.
fn sent<'a>(found: &Found<'a>) -> std::borrow::Cow<'a, str> {
    let model = found.text("model");
    if model.is_empty() { found.text("name") } else { model }
}

fn plain(sent: &str) -> Result<(String, Source), NameFault> {
    name::read_plain(sent).map(|(name, source)| (name.into_owned(), source))
}

fn streamed(found: &Found<'_>) -> Stream {
    if found.flag("stream") == Some(false) { Stream::No } else { Stream::Yes }
}

fn stored(model: (String, Source)) -> Call {
    Call::of(model, Work::Store, &mut Heard::default())
}

fn named_host(name: &str) -> Option<Remote> {
    host(name).map(|host| Remote::Named(host.to_owned()))
}

/// The host of a URL, or of what stands for one, with its port; none where readers of URLs could differ.
fn remote_host(url: &str) -> Option<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or("");
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    (!host.is_empty() && host.bytes().all(is_plain)).then(|| host.to_ascii_lowercase())
}
