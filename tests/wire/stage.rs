//! What most of these tests begin with: a simulated Ollama, a gate before it, a request.

use std::net::SocketAddr;

use ollama_sim::Config;
use serde_json::{Value, json};

use crate::support::http::{Answer, Client, Request};
use crate::support::sim::Backend;
use crate::support::{self, Plan};

/// The model that every simulation has.
pub(crate) const MODEL: &str = "llama3.2:1b";

pub(crate) const ARTICLE: &str = "/ollama_generate/";

/// A backend that repeats the prompt, with the same times in every answer.
pub(crate) fn echo() -> Backend {
    Backend::start(Config::echo())
}

/// A backend that answers as Ollama does.
pub(crate) fn demo() -> Backend {
    Backend::start(Config::default())
}

/// A gate before this backend, without limits unless `arguments` say otherwise.
pub(crate) fn gate(backend: &Backend, arguments: &[&str]) -> Plan {
    gate_before(&backend.url(), arguments)
}

/// A gate before whatever is at this address.
pub(crate) fn gate_before(url: &str, arguments: &[&str]) -> Plan {
    let mut all = vec!["--upstream", url, "--model", MODEL];
    for unlimited in ["--limit", "--api-limit"] {
        if !arguments.contains(&unlimited) {
            all.extend([unlimited, "none"]);
        }
    }
    support::gate(all.iter().chain(arguments))
}

/// A request of the article's.
pub(crate) fn article(prompt: &str) -> Request {
    Request::post(ARTICLE, &json!({"prompt": prompt}))
}

/// A request of Ollama's own API for a stream.
pub(crate) fn generate(prompt: &str) -> Request {
    Request::post("/api/generate", &json!({"model": MODEL, "prompt": prompt}))
}

/// The same for one answer.
pub(crate) fn generate_whole(prompt: &str) -> Request {
    Request::post("/api/generate", &json!({"model": MODEL, "prompt": prompt, "stream": false}))
}

pub(crate) fn chat_body(prompt: &str) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": prompt}]})
}

pub(crate) fn chat(prompt: &str) -> Request {
    Request::post("/api/chat", &chat_body(prompt))
}

/// One request on a connection of its own; an error where none was answered.
pub(crate) fn try_ask(address: SocketAddr, request: &Request) -> std::io::Result<Answer> {
    Client::try_connect(address)?.ask(&request.clone().header("Connection", "close"))
}

/// A connection with a request sent on it.
#[track_caller]
pub(crate) fn begin(address: SocketAddr, request: &Request) -> Client {
    let mut client = Client::connect(address);
    client.send(&request.bytes()).unwrap();
    client
}

/// The lines of a body as text, without their ends.
pub(crate) fn lines(answer: &Answer) -> Vec<String> {
    answer.text().lines().map(ToOwned::to_owned).collect()
}

/// The text of an `{"error": …}` object.
#[track_caller]
pub(crate) fn error_of(answer: &Answer) -> String {
    let json = answer.json();
    let object = json.as_object().unwrap();
    assert_eq!(object.len(), 1, "{json}");
    object["error"].as_str().unwrap().to_owned()
}
