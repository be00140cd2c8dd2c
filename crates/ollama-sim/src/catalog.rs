//! What is said about models rather than by them: lists and facts.

use serde::Serialize;
use serde_json::{Value, json};

use crate::answer::{Answer, Body, PLAIN_JSON, json_bytes};
use crate::clock::{rfc3339_nano, unix};
use crate::config::Model;
use crate::embedding::DIMENSIONS;
use crate::generation::fnv;
use crate::members::Kind::{Flag, Text};
use crate::members::{Kind, Members, check};
use crate::sim::Shared;

/// What is read of a request to show a model.
const SHOW: [(&str, Kind); 3] = [("model", Text), ("name", Text), ("verbose", Flag)];

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
    license: &'static str,
    modelfile: String,
    parameters: &'static str,
    template: &'static str,
    details: Details<'a>,
    model_info: Value,
    capabilities: &'a [String],
    modified_at: String,
}

/// `GET /api/version`.
pub(crate) fn version(shared: &Shared) -> Answer {
    Answer::json(&json!({ "version": shared.config.version }))
}

/// `GET /api/tags`.
pub(crate) fn tags(shared: &Shared) -> Answer {
    let models = shared.residence.models();
    Answer::json(&Listed { models: models.iter().map(|model| tag(model)).collect() })
}

/// `GET /api/ps`: the latest to leave memory first.
pub(crate) fn ps(shared: &Shared) -> Answer {
    let mut resident = shared.residence.resident();
    resident.sort_by_key(|one| std::cmp::Reverse(one.expires_at));
    let running = resident.iter().map(|one| Running {
        name: &one.model.name,
        model: &one.model.name,
        size: one.model.size,
        digest: digest(&one.model),
        details: details(&one.model),
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
    let models = shared.residence.models();
    let data: Vec<_> = models.iter().map(|model| Entry::new(&model.name, model)).collect();
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
pub(crate) fn line(value: &impl Serialize) -> Answer {
    let mut body = json_bytes(value);
    body.push(b'\n');
    Answer::new(200, PLAIN_JSON, Body::Full(body))
}

/// `POST /api/show`.
pub(crate) fn show(shared: &Shared, body: &[u8]) -> Answer {
    let read = Members::read(body, "api.ShowRequest");
    let members = match read.and_then(|members| check(&members, "ShowRequest", &SHOW).map(|()| members)) {
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
    // Long lists are shown to those only who ask for them.
    let tokens = (members.last("verbose") == Some(&Value::Bool(true))).then_some(["<s>", "</s>"]);
    Answer::json(&Shown {
        license: "MIT",
        modelfile: format!("# A simulated model.\nFROM {}\n", model.name),
        parameters: "stop \"</s>\"",
        template: "{{ .Prompt }}",
        details: details(model),
        model_info: json!({
            "general.architecture": model.family,
            "general.parameter_count": model.size,
            format!("{}.context_length", model.family): model.context_length,
            format!("{}.embedding_length", model.family): DIMENSIONS,
            "tokenizer.ggml.tokens": tokens,
        }),
        capabilities: &model.capabilities,
        modified_at: rfc3339_nano(model.modified_at),
    })
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
pub(crate) fn digest(model: &Model) -> String {
    let [a, b, c, d] = [0, 1, 2, 3].map(|part| fnv(&[model.name.as_bytes(), &[part]].concat()));
    format!("{a:016x}{b:016x}{c:016x}{d:016x}")
}
