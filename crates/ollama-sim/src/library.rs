//! Models that come and go: pull, push, create, copy, delete and blobs, all in memory. Nothing is fetched, nothing is
//! sent, and no contents are looked at: a name is enough to make a model, a digest to have a blob.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use crate::answer::{Answer, Body, json_bytes};
use crate::catalog::digest;
use crate::config::Model;
use crate::go;
use crate::members::Kind::{Flag, Object, Text};
use crate::members::{Kind, Members, check};
use crate::sim::Shared;
use crate::wire::Request;

/// What stands before a digest in the path of a blob.
pub(crate) const BLOB: &str = "/api/blobs/";
/// How many blobs are known at once: beyond any test.
const BLOBS_MAX: usize = 1024;
/// The pieces of a transfer that progress is told of.
const PIECES: u64 = 4;
/// The digits of a digest that people are shown.
const SHORT_DIGEST: usize = 12;

/// What is read of these requests, as far as it has a type.
const FIELDS: [(&str, Kind); 8] = [
    ("model", Text),
    ("name", Text),
    ("from", Text),
    ("source", Text),
    ("destination", Text),
    ("files", Object("map[string]string")),
    ("stream", Flag),
    ("insecure", Flag),
];

/// The digests of blobs that were uploaded.
#[derive(Default)]
pub(crate) struct Blobs(Mutex<BTreeSet<String>>);

impl Blobs {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Serialize)]
struct Progress {
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<u64>,
}

/// Answers the routes that change models.
pub(crate) fn answer(shared: &Shared, request: &Request) -> Answer {
    let path = request.path();
    if let Some(digest) = path.strip_prefix(BLOB) {
        return blob(shared, &request.method, digest);
    }
    let structure = structure(path);
    let read = Members::read(&request.body, &format!("api.{structure}"));
    let members = match read.and_then(|members| check(&members, structure, &FIELDS).map(|()| members)) {
        Ok(members) => members,
        Err(text) => return Answer::error(400, &text),
    };
    match path {
        "/api/pull" => pull(shared, &members),
        "/api/push" => push(shared, &members),
        "/api/create" => create(shared, &members),
        "/api/copy" => copy(shared, &members),
        _ => delete(shared, &members),
    }
}

fn structure(path: &str) -> &'static str {
    match path {
        "/api/pull" => "PullRequest",
        "/api/push" => "PushRequest",
        "/api/create" => "CreateRequest",
        "/api/copy" => "CopyRequest",
        _ => "DeleteRequest",
    }
}

fn pull(shared: &Shared, members: &Members) -> Answer {
    let Some(name) = named(members) else { return bad_name() };
    let model = Model { modified_at: SystemTime::now(), ..Model::named(&tagged(name)) };
    let lines = transfer("pulling", &digest(&model), model.size);
    let last = end(&["verifying sha256 digest", "writing manifest", "success"]);
    add(shared, model, || told(members, &[vec![says("pulling manifest")], lines, last].concat()))
}

fn push(shared: &Shared, members: &Members) -> Answer {
    let Some(name) = named(members) else { return bad_name() };
    let Some(model) = shared.residence.model(name) else { return not_found(name) };
    let lines = transfer("pushing", &digest(&model), model.size);
    told(members, &[vec![says("retrieving manifest")], lines, end(&["pushing manifest", "success"])].concat())
}

fn create(shared: &Shared, members: &Members) -> Answer {
    let Some(name) = named(members) else { return bad_name() };
    let files = members.last("files").and_then(Value::as_object);
    let model = match (text(members, "from"), files) {
        (Some(from), _) => match shared.residence.model(from) {
            Some(base) => Model { name: tagged(name), modified_at: SystemTime::now(), ..Model::clone(&base) },
            None => return not_found(from),
        },
        (None, Some(files)) if !files.is_empty() => {
            let blobs = shared.blobs.lock();
            let missing = files.values().filter_map(Value::as_str).find(|digest| !blobs.contains(*digest));
            if let Some(digest) = missing {
                return Answer::error(400, &format!("blob \"{digest}\" not found"));
            }
            Model { modified_at: SystemTime::now(), ..Model::named(&tagged(name)) }
        }
        _ => return Answer::error(400, "neither 'from' or 'files' was specified"),
    };
    let layer = format!("using existing layer sha256:{}", digest(&model));
    add(shared, model, || told(members, &end(&["parsing GGUF", &layer, "writing manifest", "success"])))
}

fn copy(shared: &Shared, members: &Members) -> Answer {
    let (Some(source), Some(destination)) = (text(members, "source"), text(members, "destination")) else {
        return bad_name();
    };
    let Some(model) = shared.residence.model(source) else {
        return Answer::error(404, &format!("model {} not found", go::quote(source)));
    };
    add(shared, Model { name: tagged(destination), ..Model::clone(&model) }, nothing)
}

fn delete(shared: &Shared, members: &Members) -> Answer {
    let Some(name) = named(members) else { return bad_name() };
    if shared.residence.remove(name).is_some() { nothing() } else { not_found(name) }
}

fn blob(shared: &Shared, method: &str, digest: &str) -> Answer {
    let digest = digest.replacen('-', ":", 1);
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Answer::error(400, "invalid digest format");
    }
    let mut blobs = shared.blobs.lock();
    let known = blobs.contains(&digest);
    match method {
        "HEAD" if known => nothing(),
        "HEAD" => Answer { content_type: "", ..Answer::error(404, &format!("blob \"{digest}\" not found")) },
        _ if known => nothing(),
        _ if blobs.len() >= BLOBS_MAX => Answer::error(500, "no space left on device"),
        _ => {
            blobs.insert(digest);
            Answer { status: 201, ..nothing() }
        }
    }
}

fn add(shared: &Shared, model: Model, answer: impl FnOnce() -> Answer) -> Answer {
    match shared.residence.add(model) {
        Ok(()) => answer(),
        Err(_) => Answer::error(500, "no space left on device"),
    }
}

/// Progress line by line, or its last line alone where no stream is wanted.
fn told(members: &Members, progress: &[Progress]) -> Answer {
    if members.last("stream") == Some(&Value::Bool(false)) {
        return Answer::json(&says("success"));
    }
    let line = |progress: &Progress| [json_bytes(progress), b"\n".to_vec()].concat();
    Answer::lines(progress.iter().map(line).collect())
}

fn says(status: &str) -> Progress {
    Progress { status: status.to_owned(), digest: None, total: None, completed: None }
}

/// The steps that follow a transfer.
fn end(steps: &[&str]) -> Vec<Progress> {
    steps.iter().map(|step| says(step)).collect()
}

/// A layer on its way.
fn transfer(verb: &str, digest: &str, total: u64) -> Vec<Progress> {
    let piece = |number: u64| Progress {
        status: format!("{verb} {}", &digest[..SHORT_DIGEST]),
        digest: Some(format!("sha256:{digest}")),
        total: Some(total),
        // Go leaves numbers out that are 0.
        completed: Some(total * number / PIECES).filter(|done| *done > 0),
    };
    (0..=PIECES).map(piece).collect()
}

/// The model that a request is about; `model` goes before the older `name`.
fn named(members: &Members) -> Option<&str> {
    text(members, "model").or_else(|| text(members, "name"))
}

fn text<'a>(members: &'a Members, name: &str) -> Option<&'a str> {
    members.last(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// A name as it is listed.
fn tagged(name: &str) -> String {
    let tag = if name.rsplit('/').next().is_some_and(|last| last.contains(':')) { "" } else { ":latest" };
    format!("{name}{tag}")
}

fn bad_name() -> Answer {
    Answer::error(400, "invalid model name")
}

fn not_found(name: &str) -> Answer {
    Answer::error(404, &format!("model '{name}' not found"))
}

/// 200 without a body.
fn nothing() -> Answer {
    Answer::new(200, "", Body::Full(Vec::new()))
}
