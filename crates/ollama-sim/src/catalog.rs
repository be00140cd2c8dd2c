//! What is said about models rather than by them: lists, facts, and embeddings, which are made up but always the same.

use std::time::Instant;

use serde::Serialize;
use serde_json::{Value, json};

use crate::answer::{Answer, BUSY, Body, PLAIN_JSON, json_bytes};
use crate::ask::{Members, bad_option, keep_alive};
use crate::clock::{nanos, rfc3339_nano, unix};
use crate::config::Model;
use crate::generation::fnv;
use crate::residence::{Busy, Lease, Seat};
use crate::sim::Shared;
use crate::speaking::wait;
use crate::terms::Wish;

/// The length of an embedding: short, since nobody searches with it.
const DIMENSIONS: usize = 8;

#[derive(Serialize)]
struct Listed<T> {
    models: Vec<T>,
}

#[derive(Serialize)]
struct Tag<'a> {
    name: &'a str,
    model: &'a str,
    modified_at: String,
    size: u64,
    digest: String,
    details: Details<'a>,
}

#[derive(Serialize)]
struct Running<'a> {
    name: &'a str,
    model: &'a str,
    size: u64,
    digest: String,
    details: Details<'a>,
    expires_at: String,
    size_vram: u64,
    context_length: u64,
}

#[derive(Serialize)]
struct Details<'a> {
    parent_model: &'static str,
    format: &'static str,
    family: &'a str,
    families: [&'a str; 1],
    parameter_size: &'a str,
    quantization_level: &'a str,
}

#[derive(Serialize)]
struct Shown<'a> {
    modelfile: String,
    template: &'static str,
    details: Details<'a>,
    model_info: Value,
    capabilities: &'a [String],
    modified_at: String,
}

#[derive(Serialize)]
struct Embedded<'a> {
    model: &'a str,
    embeddings: Vec<Vec<f64>>,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: u64,
}

/// `GET /api/version`.
pub(crate) fn version(shared: &Shared) -> Answer {
    Answer::json(&json!({ "version": shared.config.version }))
}

/// `GET /api/tags`.
pub(crate) fn tags(shared: &Shared) -> Answer {
    Answer::json(&Listed { models: shared.config.models.iter().map(tag).collect() })
}

/// `GET /api/ps`: the latest to leave memory first.
pub(crate) fn ps(shared: &Shared) -> Answer {
    let mut resident = shared.residence.resident();
    resident.sort_by_key(|one| std::cmp::Reverse(one.expires_at));
    let running = resident.iter().map(|one| Running {
        name: &one.model.name,
        model: &one.model.name,
        size: one.model.size,
        digest: digest(one.model),
        details: details(one.model),
        expires_at: rfc3339_nano(one.expires_at),
        size_vram: one.model.size_vram,
        context_length: one.context_length,
    });
    Answer::json(&Listed { models: running.collect() })
}

/// One model as OpenAI lists it.
#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
}

/// `GET /v1/models`.
pub(crate) fn v1_models(shared: &Shared) -> Answer {
    #[derive(Serialize)]
    struct List<'a> {
        object: &'static str,
        data: Option<Vec<Entry<'a>>>,
    }
    let data: Vec<_> = shared.config.models.iter().map(|model| Entry::new(&model.name, model)).collect();
    // Go writes a list that was never made as null.
    line(&List { object: "list", data: Some(data).filter(|data| !data.is_empty()) })
}

/// `GET /v1/models/{name}`.
pub(crate) fn v1_model(shared: &Shared, name: &str) -> Answer {
    match shared.residence.seat(name) {
        Some(seat) => line(&Entry::new(name, &seat.model)),
        None => Answer::error(404, &format!("model '{name}' not found")),
    }
}

impl<'a> Entry<'a> {
    fn new(id: &'a str, model: &Model) -> Self {
        let mut parts = id.rsplit('/');
        let owned_by = parts.nth(1).unwrap_or("library");
        Self { id, object: "model", created: unix(model.modified_at), owned_by }
    }
}

/// JSON as Go's encoder writes it, with its line end.
fn line(value: &impl Serialize) -> Answer {
    let mut body = json_bytes(value);
    body.push(b'\n');
    Answer::new(200, PLAIN_JSON, Body::Full(body))
}

/// `POST /api/show`.
pub(crate) fn show(shared: &Shared, body: &[u8]) -> Answer {
    let members = match Members::read(body, "api.ShowRequest") {
        Ok(members) => members,
        Err(text) => return Answer::error(400, &text),
    };
    let named = |member| members.last(member).and_then(Value::as_str).filter(|name| !name.is_empty());
    let Some(name) = named("model").or_else(|| named("name")) else {
        return Answer::error(400, "model is required");
    };
    let Some(seat) = shared.residence.seat(name) else {
        return Answer::error(404, &format!("model '{name}' not found"));
    };
    let model = &seat.model;
    Answer::json(&Shown {
        modelfile: format!("# A simulated model.\nFROM {}\n", model.name),
        template: "{{ .Prompt }}",
        details: details(model),
        model_info: json!({ "general.architecture": model.family, "general.parameter_count": model.size }),
        capabilities: &model.capabilities,
        modified_at: rfc3339_nano(model.modified_at),
    })
}

/// `POST /api/embed`.
pub(crate) async fn embed(shared: &Shared, body: &[u8]) -> Answer {
    let started = Instant::now();
    let embedder = match Embedder::of(shared, body, "api.EmbedRequest") {
        Ok(embedder) => embedder,
        Err(refusal) => return *refusal,
    };
    let texts: Option<Vec<&str>> = match embedder.members.last("input") {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::String(text)) if text.is_empty() => Some(Vec::new()),
        Some(Value::String(text)) => Some(vec![text]),
        Some(Value::Array(texts)) => texts.iter().map(Value::as_str).collect(),
        Some(_) => None,
    };
    let Some(texts) = texts else { return Answer::error(400, "invalid input type") };
    let lease = match embedder.admit(shared).await {
        Ok(lease) => lease,
        Err(refusal) => return *refusal,
    };
    if !texts.is_empty() {
        wait(shared.config.prompt_time).await;
    }
    Answer::json(&Embedded {
        model: &embedder.name,
        embeddings: texts.iter().map(|text| vector(text)).collect(),
        total_duration: nanos(started.elapsed()).max(1),
        load_duration: nanos(lease.load).max(1),
        prompt_eval_count: texts.iter().map(|text| text.split(' ').count() as u64).sum(),
    })
    .holding(lease)
}

/// `POST /api/embeddings`, the older form.
pub(crate) async fn embeddings(shared: &Shared, body: &[u8]) -> Answer {
    let embedder = match Embedder::of(shared, body, "api.EmbeddingRequest") {
        Ok(embedder) => embedder,
        Err(refusal) => return *refusal,
    };
    let embedding = match embedder.members.last("prompt").and_then(Value::as_str).unwrap_or_default() {
        "" => Vec::new(),
        prompt => vector(prompt),
    };
    let lease = match embedder.admit(shared).await {
        Ok(lease) => lease,
        Err(refusal) => return *refusal,
    };
    if !embedding.is_empty() {
        wait(shared.config.prompt_time).await;
    }
    Answer::json(&json!({ "embedding": embedding })).holding(lease)
}

/// A model that embeds, and the request's members.
struct Embedder<'a> {
    name: String,
    seat: &'a Seat,
    members: Members,
}

impl<'a> Embedder<'a> {
    fn of(shared: &'a Shared, body: &[u8], wanted: &str) -> Result<Self, Box<Answer>> {
        let members = Members::read(body, wanted).map_err(|text| Box::new(Answer::error(400, &text)))?;
        let name = members.last("model").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(seat) = shared.residence.seat(&name) else {
            return Err(Box::new(Answer::error(404, &format!("model \"{name}\" not found, try pulling it first"))));
        };
        if !seat.model.capabilities.iter().any(|own| own == "embedding") {
            return Err(Box::new(Answer::error(501, "this model does not support embeddings")));
        }
        seat.asked();
        Ok(Self { name, seat, members })
    }

    /// Waits for a slot.
    async fn admit(&self, shared: &Shared) -> Result<Lease, Box<Answer>> {
        let mut wish = Wish::default();
        if let Some(value) = self.members.last("keep_alive").filter(|value| !value.is_null()) {
            wish.keep_alive = Some(keep_alive(value).map_err(|text| Box::new(Answer::error(400, &text)))?);
        }
        if let Some(options) = self.members.last("options").and_then(Value::as_object) {
            if let Some(text) = bad_option(options) {
                return Err(Box::new(Answer::error(500, &text)));
            }
            wish.terms.take(options);
        }
        let lease = shared.residence.admit(self.seat, wish).await;
        lease.map_err(|Busy| Box::new(Answer::error(503, BUSY)))
    }
}

fn tag(model: &Model) -> Tag<'_> {
    Tag {
        name: &model.name,
        model: &model.name,
        modified_at: rfc3339_nano(model.modified_at),
        size: model.size,
        digest: digest(model),
        details: details(model),
    }
}

fn details(model: &Model) -> Details<'_> {
    Details {
        parent_model: "",
        format: "gguf",
        family: &model.family,
        families: [&model.family],
        parameter_size: &model.parameter_size,
        quantization_level: &model.quantization_level,
    }
}

/// 64 hexadecimal digits that follow from the name.
fn digest(model: &Model) -> String {
    let [a, b, c, d] = [0, 1, 2, 3].map(|part| fnv(&[model.name.as_bytes(), &[part]].concat()));
    format!("{a:016x}{b:016x}{c:016x}{d:016x}")
}

/// A vector of length 1 that follows from the text.
fn vector(text: &str) -> Vec<f64> {
    let raw = (0..DIMENSIONS).map(|index| {
        let hash = fnv(&[text.as_bytes(), &[index as u8]].concat());
        (hash % 2001) as f64 / 1000.0 - 1.0
    });
    let raw: Vec<f64> = raw.collect();
    let norm = raw.iter().map(|x| x * x).sum::<f64>().sqrt();
    raw.into_iter().map(|x| x / norm.max(f64::MIN_POSITIVE)).collect()
}
