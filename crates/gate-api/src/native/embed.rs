//! `POST /api/embed`, and `/api/embeddings` before it. Their answers are whole and have no tokens.

use super::fields::{Field, Found, Request, Shape};
use super::heard::Heard;
use super::{
    DEBUG_RENDER, NO_BODY, edits, fields, keep_alive, model, not_found, num_ctx, options, read, required, walk,
};
use crate::call::{Call, Work, bad};
use crate::native::Source;
use crate::rejection::Rejection;

const EMBED: Request = Request { go: "api.EmbedRequest", name: "EmbedRequest", fields: &EMBED_FIELDS };
const EMBED_FIELDS: [Field; 7] = [
    Field("model", Shape::Text),
    Field("input", Shape::Any),
    Field("keep_alive", Shape::KeepAlive),
    Field("truncate", Shape::Flag),
    Field("dimensions", Shape::Int),
    Field("options", Shape::Options),
    Field(DEBUG_RENDER, Shape::Any),
];

const EMBEDDINGS: Request =
    Request { go: "api.EmbeddingRequest", name: "EmbeddingRequest", fields: &EMBEDDINGS_FIELDS };
const EMBEDDINGS_FIELDS: [Field; 5] = [
    Field("model", Shape::Text),
    Field("prompt", Shape::Text),
    Field("keep_alive", Shape::KeepAlive),
    Field("options", Shape::Options),
    Field(DEBUG_RENDER, Shape::Any),
];

/// Judges a body of `POST /api/embed`.
pub(crate) fn embed(body: &[u8]) -> Result<Call, Rejection> {
    let (mut found, mut heard) = (Found::none(&EMBED_FIELDS), Heard::default());
    read(&EMBED, body, (&mut found, &mut heard), NO_BODY)?;
    let model = model(&found.text("model"), not_found)?;
    inputs(found.raw("input"), &mut heard)?;
    call(body, &found, model, (heard, found.is_given("input")))
}

/// Judges a body of `POST /api/embeddings`.
pub(crate) fn embeddings(body: &[u8]) -> Result<Call, Rejection> {
    let (mut found, mut heard) = (Found::none(&EMBEDDINGS_FIELDS), Heard::default());
    read(&EMBEDDINGS, body, (&mut found, &mut heard), NO_BODY)?;
    let model = model(&found.text("model"), required)?;
    heard.prompt(None, found.raw("prompt"));
    call(body, &found, model, (heard, found.is_given("prompt")))
}

/// The texts to embed: one, or a list of them.
pub(crate) fn inputs(input: Option<&str>, heard: &mut Heard) -> Result<(), Rejection> {
    let Some(input) = input else { return Ok(()) };
    match fields::kind(input) {
        "string" => heard.prompt(None, Some(input)),
        "array" if walk::items(input).all(|item| item.starts_with('"')) => {
            let mut count = 0_u32;
            let mut items = walk::items(input).inspect(|_| count = count.saturating_add(1));
            heard.prompt(None, items.next());
            items.for_each(|item| heard.text(Some(item)));
            heard.messages = count;
        }
        _ => return Err(bad("invalid input type")),
    }
    Ok(())
}

fn call(
    body: &[u8],
    found: &Found<'_>,
    model: (String, Source),
    (mut heard, is_given): (Heard, bool),
) -> Result<Call, Rejection> {
    let loading = options::judge(found.raw("options").unwrap_or("null")).map_err(bad)?;
    Ok(Call {
        keep_alive: keep_alive(found.raw("keep_alive"))?,
        load_options: loading.canonical(None),
        tokens_asked: Some(0),
        num_ctx: num_ctx(&loading),
        edits: edits(body, &loading, (found.given("options"), found.raw("keep_alive"))),
        ..Call::of(model, if is_given { Work::Infer } else { Work::Load }, &mut heard)
    })
}
