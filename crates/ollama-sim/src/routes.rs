//! Which request gets which answer. Everything about generating is in `speaking` and `contract`; the rest is here and in
//! `catalog`.

use crate::answer::{Answer, BARE_TEXT, Body, JSON, TEXT};
use crate::catalog;
use crate::config::Personality;
use crate::contract;
use crate::dialect::Dialect;
use crate::embedding;
use crate::fault::{Fault, Rule};
use crate::library;
use crate::sender::STREAM_ERROR;
use crate::sim::Shared;
use crate::speaking;
use crate::wire::Request;

/// The paths that exist, with the methods they allow.
const PATHS: [(&str, &str); 21] = [
    ("/", "GET, HEAD"),
    ("/api/version", "GET, HEAD"),
    ("/api/tags", "GET, HEAD"),
    ("/api/ps", "GET"),
    ("/api/generate", "POST"),
    ("/api/chat", "POST"),
    ("/api/show", "POST"),
    ("/api/embed", "POST"),
    ("/api/embeddings", "POST"),
    ("/api/pull", "POST"),
    ("/api/push", "POST"),
    ("/api/create", "POST"),
    ("/api/copy", "POST"),
    ("/api/delete", "DELETE"),
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/embeddings", "POST"),
    ("/v1/models", "GET"),
    ("/v1/responses", "POST"),
    ("/v1/messages", "POST"),
    (contract::ELSEWHERE, "POST"),
];
/// What stands before a model's name in the path of what is known of it.
const MODEL: &str = "/v1/models/";
/// The paths that are work for a model.
const WORK: [&str; 10] = [
    "/api/generate",
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    contract::ELSEWHERE,
];

/// The route of a path as counters name it, where Ollama has it.
pub(crate) fn known(path: &str) -> Option<&str> {
    allowed(path)?;
    Some(match path {
        path if path.starts_with(MODEL) => "/v1/models/{model}",
        path if path.starts_with(library::BLOB) => "/api/blobs/{digest}",
        path => path,
    })
}

/// Whether a request to this path is work for a model.
pub(crate) fn generates(path: &str) -> bool {
    WORK.contains(&path)
}

fn allowed(path: &str) -> Option<&'static str> {
    // What is named is one segment.
    let names = |under: &str| path.strip_prefix(under).is_some_and(|name| !name.is_empty() && !name.contains('/'));
    if names(MODEL) {
        return Some("GET");
    }
    if names(library::BLOB) {
        return Some("HEAD, POST");
    }
    PATHS.iter().find(|(own, _)| *own == path).map(|(_, methods)| *methods)
}

/// Answers a request in the words of its path's dialect, with the faults that change what is said.
pub(crate) async fn answer(shared: &Shared, request: &Request, fault: Fault) -> Answer {
    Dialect::of(request.path()).tell(plain(shared, request, fault).await)
}

async fn plain(shared: &Shared, request: &Request, fault: Fault) -> Answer {
    match fault {
        Fault::Status(status) => return Answer::error(status, contract::failure(status)),
        Fault::Html => return contract::html(),
        Fault::WrongJson => return Answer::text(200, JSON, r#"{"model":"m","response":"half"#),
        Fault::Delay(span) => tokio::time::sleep(span).await,
        _ => {}
    }
    let answer = route(shared, request, fault).await;
    match (fault, &answer.body) {
        (Fault::ErrorLine(_) | Fault::ErrorEvent(_), Body::Full(_)) => Answer::error(500, STREAM_ERROR),
        _ => answer,
    }
}

async fn route(shared: &Shared, request: &Request, fault: Fault) -> Answer {
    let path = request.path();
    let method = request.method.as_str();
    match allowed(path) {
        Some(methods) if methods.split(", ").any(|own| own == method) => {}
        Some(methods) => return Answer::text(405, BARE_TEXT, "405 method not allowed").with("Allow", methods),
        None => return not_found(),
    }
    let echoes = shared.config.personality == Personality::Echo;
    match path {
        "/" => Answer::text(200, TEXT, "Ollama is running"),
        "/api/version" => catalog::version(shared),
        "/api/tags" => catalog::tags(shared),
        "/api/ps" => catalog::ps(shared),
        "/api/show" => catalog::show(shared, &request.body),
        "/api/embed" => embedding::embed(shared, &request.body).await,
        "/api/embeddings" => embedding::embeddings(shared, &request.body).await,
        "/api/generate" | contract::ELSEWHERE if echoes => speaking::echo(shared, request, fault).await,
        "/api/generate"
        | "/api/chat"
        | "/v1/chat/completions"
        | "/v1/completions"
        | "/v1/responses"
        | "/v1/messages" => speaking::answer(shared, path, &request.body, fault).await,
        "/api/pull" | "/api/push" | "/api/create" | "/api/copy" | "/api/delete" => library::answer(shared, request),
        "/v1/embeddings" => embedding::v1(shared, &request.body).await,
        "/v1/models" => catalog::v1_models(shared),
        _ if path.starts_with(library::BLOB) => library::answer(shared, request),
        _ => match path.strip_prefix(MODEL) {
            Some(name) => catalog::v1_model(shared, name),
            None => not_found(),
        },
    }
}

fn not_found() -> Answer {
    Answer::text(404, BARE_TEXT, "404 page not found")
}

/// Answers a request to the simulation itself.
pub(crate) fn control(shared: &Shared, request: &Request) -> Answer {
    match (request.method.as_str(), request.path()) {
        ("GET", "/sim/counters") => Answer::json(&shared.counters()),
        ("POST", "/sim/reset") => {
            shared.reset();
            Answer::json(&serde_json::json!({}))
        }
        ("POST", "/sim/script") => match serde_json::from_slice::<Vec<Rule>>(&request.body) {
            Ok(rules) => {
                let count = rules.len();
                shared.script(rules);
                Answer::json(&serde_json::json!({ "rules": count }))
            }
            Err(why) => Answer::error(400, &why.to_string()),
        },
        _ => not_found(),
    }
}
