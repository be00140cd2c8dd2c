//! Embeddings, which are made up but always the same. They take slots as generations do.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use serde_json::{Value, json};

use crate::answer::{Answer, BUSY};
use crate::ask::{bad_option, keep_alive};
use crate::catalog::line;
use crate::clock::nanos;
use crate::dialect::Dialect;
use crate::generation::fnv;
use crate::members::Kind::{Flag, Int, Object, Text};
use crate::members::{Kind, Members, check, translatable};
use crate::residence::{Busy, Lease, Seat};
use crate::sim::Shared;
use crate::speaking::wait;
use crate::terms::Wish;

/// The length of an embedding: short, since nobody searches with it.
pub(crate) const DIMENSIONS: usize = 8;
/// The digits of base64.
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// What is read of OpenAI's request beside its input.
const FIELDS: [(&str, Kind); 3] = [("model", Text), ("dimensions", Int), ("encoding_format", Text)];

/// What is read of Ollama's own requests, but for what is judged later.
const OWN_FIELDS: [(&str, Kind); 5] = [
    ("model", Text),
    ("prompt", Text),
    ("truncate", Flag),
    ("dimensions", Int),
    ("options", Object("map[string]interface {}")),
];

#[derive(Serialize)]
struct Embedded<'a> {
    model: &'a str,
    embeddings: Vec<Vec<f64>>,
    total_duration: u64,
    load_duration: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_eval_count: Option<u64>,
}

/// OpenAI's list.
#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Entry>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Entry {
    object: &'static str,
    embedding: Form,
    index: usize,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Form {
    Numbers(Vec<f64>),
    /// Their bytes as 32-bit floats, the least byte first.
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

/// `POST /api/embed`.
pub(crate) async fn embed(shared: &Shared, body: &[u8]) -> Answer {
    let started = Instant::now();
    let members = match own(body, "EmbedRequest") {
        Ok(members) => members,
        Err(text) => return Answer::error(400, &text),
    };
    match Work::of(shared, &members).await {
        Err(refusal) => *refusal,
        Ok(work) => Answer::json(&Embedded {
            model: &work.model,
            embeddings: work.vectors,
            total_duration: nanos(started.elapsed()).max(1),
            load_duration: nanos(work.lease.load).max(1),
            prompt_eval_count: Some(work.words).filter(|words| *words > 0),
        })
        .holding(work.lease),
    }
}

/// `POST /v1/embeddings`.
pub(crate) async fn v1(shared: &Shared, body: &[u8]) -> Answer {
    let members = match translatable(body, "EmbedRequest", &FIELDS).and_then(translated) {
        Ok(members) => members,
        Err(text) => return Dialect::OpenAi.untranslatable(&text),
    };
    let encoding = members.last("encoding_format").and_then(Value::as_str).unwrap_or_default();
    let form = |vector: Vec<f64>| {
        if encoding.eq_ignore_ascii_case("base64") { Form::Base64(base64(&vector)) } else { Form::Numbers(vector) }
    };
    match Work::of(shared, &members).await {
        Err(refusal) => *refusal,
        Ok(work) => {
            let entry =
                |(index, vector): (usize, Vec<f64>)| Entry { object: "embedding", embedding: form(vector), index };
            let data = work.vectors.into_iter().enumerate().map(entry).collect();
            let usage = Usage { prompt_tokens: work.words, total_tokens: work.words };
            line(&List { object: "list", data, model: &work.model, usage }).holding(work.lease)
        }
    }
}

/// `POST /api/embeddings`, the older form.
pub(crate) async fn embeddings(shared: &Shared, body: &[u8]) -> Answer {
    let mut members = match own(body, "EmbeddingRequest") {
        Ok(members) => members,
        Err(text) => return Answer::error(400, &text),
    };
    let prompt = members.last("prompt").and_then(Value::as_str).unwrap_or_default();
    members.0.push(("input".to_owned(), json!(prompt)));
    match Work::of(shared, &members).await {
        Err(refusal) => *refusal,
        Ok(mut work) => {
            Answer::json(&json!({ "embedding": work.vectors.pop().unwrap_or_default() })).holding(work.lease)
        }
    }
}

/// A request to one of Ollama's own routes.
fn own(body: &[u8], structure: &str) -> Result<Members, String> {
    let members = Members::read(body, &format!("api.{structure}"))?;
    check(&members, structure, &OWN_FIELDS)?;
    Ok(members)
}

/// OpenAI's request as Ollama's own.
fn translated(mut members: Members) -> Result<Members, String> {
    let encoding = members.last("encoding_format").and_then(Value::as_str).unwrap_or_default();
    if !["", "float", "base64"].iter().any(|known| encoding.eq_ignore_ascii_case(known)) {
        let supported = "Supported values: ['float', 'base64'].";
        return Err(format!("Invalid value for 'encoding_format' = {encoding}. {supported}"));
    }
    match members.last("input") {
        None | Some(Value::Null) => return Err("invalid input".to_owned()),
        Some(Value::Array(items)) if items.is_empty() => return Err("invalid input".to_owned()),
        // Here it is a text of no words; under /api it is no text.
        Some(Value::String(text)) if text.is_empty() => members.0.push(("input".to_owned(), json!([""]))),
        Some(_) => {}
    }
    Ok(members)
}

/// What was asked for, done.
struct Work {
    model: String,
    vectors: Vec<Vec<f64>>,
    words: u64,
    lease: Lease,
}

impl Work {
    /// Embeds the texts of `input`; none of them only loads the model.
    async fn of(shared: &Shared, members: &Members) -> Result<Self, Box<Answer>> {
        let (model, seat) = embedder(shared, members)?;
        let refuse = |text: &str| Box::new(Answer::error(400, text));
        let texts: Option<Vec<&str>> = match members.last("input") {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::String(text)) if text.is_empty() => Some(Vec::new()),
            Some(Value::String(text)) => Some(vec![text]),
            Some(Value::Array(texts)) => texts.iter().map(Value::as_str).collect(),
            Some(_) => None,
        };
        let texts = texts.ok_or_else(|| refuse("invalid input type"))?;
        let dimensions = members.last("dimensions").and_then(Value::as_u64).filter(|wanted| *wanted > 0);
        let length = dimensions.map_or(DIMENSIONS, |wanted| DIMENSIONS.min(wanted as usize));
        let lease = shared.residence.admit(&seat, wish(members)?).await;
        let lease = lease.map_err(|Busy| Box::new(Answer::error(503, BUSY)))?;
        if !texts.is_empty() {
            wait(shared.config.prompt_time).await;
        }
        let words = texts.iter().map(|text| text.split(' ').count() as u64).sum();
        let vectors = texts.iter().map(|text| vector(text, length)).collect();
        Ok(Self { model, vectors, words, lease })
    }
}

/// The model that is asked, if it can embed.
fn embedder(shared: &Shared, members: &Members) -> Result<(String, Arc<Seat>), Box<Answer>> {
    let name = members.last("model").and_then(Value::as_str).unwrap_or_default();
    let Some(seat) = shared.residence.seat(name) else {
        return Err(Box::new(Answer::error(404, &format!("model \"{name}\" not found, try pulling it first"))));
    };
    if !seat.model.capabilities.iter().any(|own| own == "embedding") {
        return Err(Box::new(Answer::error(501, "this model does not support embeddings")));
    }
    seat.asked();
    Ok((name.to_owned(), seat))
}

/// What a request wants of the scheduler.
fn wish(members: &Members) -> Result<Wish, Box<Answer>> {
    let mut wish = Wish::default();
    if let Some(value) = members.last("keep_alive").filter(|value| !value.is_null()) {
        wish.keep_alive = Some(keep_alive(value).map_err(|text| Box::new(Answer::error(400, &text)))?);
    }
    if let Some(options) = members.last("options").and_then(Value::as_object) {
        if let Some(text) = bad_option(options) {
            return Err(Box::new(Answer::error(500, &text)));
        }
        wish.terms.take(options);
    }
    Ok(wish)
}

/// A vector of length 1 that follows from the text.
fn vector(text: &str, dimensions: usize) -> Vec<f64> {
    let raw = (0..dimensions).map(|index| {
        let hash = fnv(&[text.as_bytes(), &[index as u8]].concat());
        (hash % 2001) as f64 / 1000.0 - 1.0
    });
    let raw: Vec<f64> = raw.collect();
    let norm = raw.iter().map(|x| x * x).sum::<f64>().sqrt();
    raw.into_iter().map(|x| x / norm.max(f64::MIN_POSITIVE)).collect()
}

fn base64(vector: &[f64]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|number| (*number as f32).to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|at| u32::from(three.get(at).copied().unwrap_or_default()));
        let bits = a << 16 | b << 8 | c;
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit <= three.len() as u32 { char::from(BASE64[value as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_standard_one() {
        for (vector, wanted) in [
            (vec![], ""),
            (vec![1.0], "AACAPw=="),
            (vec![1.0, -2.0], "AACAPwAAAMA="),
            (vec![1.0, -2.0, 0.5], "AACAPwAAAMAAAAA/"),
        ] {
            assert_eq!(base64(&vector), wanted, "{vector:?}");
        }
    }

    #[test]
    fn vectors_have_the_length_asked_for_and_a_norm_of_1() {
        for dimensions in [1, 3, DIMENSIONS] {
            let vector = vector("a", dimensions);
            let norm: f64 = vector.iter().map(|x| x * x).sum();
            assert!(vector.len() == dimensions && (norm - 1.0).abs() < 1e-9, "{vector:?}");
        }
    }
}
