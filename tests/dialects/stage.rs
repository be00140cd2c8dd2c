//! What these tests begin with: the routes that name a model with a body for each, keys, and gates.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use ollama_sim::{Config, Model};
use serde_json::{Value, json};

use crate::support::http::{Answer, Request};
use crate::support::{self, Dir, Plan, binary};

/// The model that every backend has.
pub(crate) const MODEL: &str = "m:latest";

/// How a family of routes words its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Article,
    Ollama,
    OpenAi,
    Anthropic,
}

/// What a route does with its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The article's, which names no model: the operator has.
    Article,
    /// It has the model answer, in pieces if it is asked to.
    Speaks,
    /// It has the model answer, at once.
    Embeds,
    /// It says what is known of the model.
    Tells,
    /// It changes models.
    Manages,
}

/// A route that has to do with a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// As policies and logs name it.
    pub(crate) name: &'static str,
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) dialect: Dialect,
    pub(crate) kind: Kind,
}

const fn way(name: &'static str, path: &'static str, dialect: Dialect, kind: Kind) -> Way {
    Way { name, method: "POST", path, dialect, kind }
}

/// All of them.
pub(crate) const WAYS: [Way; 17] = {
    use Dialect::{Anthropic, Article, Ollama, OpenAi};
    use Kind::{Embeds, Manages, Speaks, Tells};
    [
        way("article", "/ollama_generate/", Article, Kind::Article),
        way("generate", "/api/generate", Ollama, Speaks),
        way("chat", "/api/chat", Ollama, Speaks),
        way("embed", "/api/embed", Ollama, Embeds),
        way("embeddings", "/api/embeddings", Ollama, Embeds),
        way("chat_completions", "/v1/chat/completions", OpenAi, Speaks),
        way("completions", "/v1/completions", OpenAi, Speaks),
        way("v1_embeddings", "/v1/embeddings", OpenAi, Embeds),
        way("responses", "/v1/responses", OpenAi, Speaks),
        way("messages", "/v1/messages", Anthropic, Speaks),
        way("show", "/api/show", Ollama, Tells),
        Way { method: "GET", ..way("model", "/v1/models/", OpenAi, Tells) },
        way("pull", "/api/pull", Ollama, Manages),
        way("push", "/api/push", Ollama, Manages),
        way("create", "/api/create", Ollama, Manages),
        way("copy", "/api/copy", Ollama, Manages),
        Way { method: "DELETE", ..way("delete", "/api/delete", Ollama, Manages) },
    ]
};

/// Those whose answers come in pieces.
pub(crate) fn speaking() -> impl Iterator<Item = Way> {
    WAYS.into_iter().filter(|way| way.kind == Kind::Speaks)
}

/// Those that a model has to run for.
pub(crate) fn running() -> impl Iterator<Item = Way> {
    WAYS.into_iter().filter(|way| matches!(way.kind, Kind::Article | Kind::Speaks | Kind::Embeds))
}

/// The route of this name.
#[track_caller]
pub(crate) fn named(name: &str) -> Way {
    WAYS.into_iter().find(|way| way.name == name).unwrap()
}

impl Way {
    /// A body for this model, for a whole answer.
    pub(crate) fn body(self, model: &str, prompt: &str) -> Value {
        let messages = json!([{"role": "user", "content": prompt}]);
        match self.name {
            "article" => json!({"prompt": prompt}),
            "generate" | "completions" => json!({"model": model, "prompt": prompt, "stream": false}),
            "chat" | "chat_completions" => json!({"model": model, "messages": messages, "stream": false}),
            "messages" => json!({"model": model, "max_tokens": 64, "messages": messages, "stream": false}),
            "responses" => json!({"model": model, "input": prompt, "stream": false}),
            "embed" | "v1_embeddings" => json!({"model": model, "input": prompt}),
            "embeddings" => json!({"model": model, "prompt": prompt}),
            "create" => json!({"model": "made", "from": model, "stream": false}),
            "copy" => json!({"source": model, "destination": "made"}),
            _ => json!({"model": model}),
        }
    }

    /// A request for a whole answer.
    pub(crate) fn request(self, model: &str, prompt: &str) -> Request {
        self.with(&self.body(model, prompt).to_string(), model)
    }

    /// A request for an answer in pieces.
    pub(crate) fn streamed(self, prompt: &str) -> Request {
        let mut body = self.body(MODEL, prompt);
        body["stream"] = json!(true);
        self.with(&body.to_string(), MODEL)
    }

    /// A request with this body; `model` is where a path names it.
    pub(crate) fn with(self, body: &str, model: &str) -> Request {
        if self.name == "model" {
            return Request::get(&format!("{}{model}", self.path));
        }
        Request::new(self.method, self.path).header("Content-Type", "application/json").body(body.as_bytes())
    }
}

/// What a refusal of this status says in each dialect: the text, and what `OpenAI` and Anthropic call it.
#[track_caller]
pub(crate) fn says(way: Way, body: &Value, status: u16) -> String {
    let (openai, anthropic) = match status {
        400 | 415 => ("invalid_request_error", "invalid_request_error"),
        401 => ("authentication_error", "authentication_error"),
        403 => ("permission_error", "permission_error"),
        404 => ("not_found_error", "not_found_error"),
        413 => ("invalid_request_error", "request_too_large"),
        429 => ("rate_limit_error", "rate_limit_error"),
        503 => ("api_error", "overloaded_error"),
        504 => ("api_error", "timeout_error"),
        _ => ("api_error", "api_error"),
    };
    let keys = |value: &Value| value.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>());
    let text = match way.dialect {
        Dialect::Article => {
            let key = if (400..500).contains(&status) && status != 429 { "detail" } else { "error" };
            assert_eq!(keys(body), Some(vec![key.to_owned()]), "{way:?}: {body}");
            &body[key]
        }
        Dialect::Ollama => {
            assert_eq!(keys(body), Some(vec!["error".to_owned()]), "{way:?}: {body}");
            &body["error"]
        }
        Dialect::OpenAi => {
            let error = &body["error"];
            let mut all = keys(error).unwrap_or_else(|| panic!("{way:?}: {body}"));
            all.sort_unstable();
            assert_eq!(all, ["code", "message", "param", "type"], "{way:?}: {body}");
            let code = match status {
                401 => json!("invalid_api_key"),
                429 => json!("rate_limit_exceeded"),
                _ => Value::Null,
            };
            assert_eq!((&error["type"], &error["code"]), (&json!(openai), &code), "{way:?}: {body}");
            &error["message"]
        }
        Dialect::Anthropic => {
            let error = &body["error"];
            assert_eq!((&body["type"], &error["type"]), (&json!("error"), &json!(anthropic)), "{way:?}: {body}");
            assert!(body["request_id"].is_string(), "{way:?}: {body}");
            &error["message"]
        }
    };
    text.as_str().unwrap_or_else(|| panic!("{way:?}: {body}")).to_owned()
}

/// An answer of this status in the dialect of its route; its text.
#[track_caller]
pub(crate) fn refused(way: Way, answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status, status, "{way:?}: {:?} {}", answer.headers, answer.text());
    let kind = answer.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("application/json"), "{way:?}: {kind}");
    let body = answer.json();
    // A backend's own answer passes as it is, with an id of the backend's.
    if let Some(id) = body["request_id"].as_str().filter(|id| !id.starts_with("req_")) {
        assert_eq!(answer.header("x-request-id"), Some(id), "{way:?}");
    }
    says(way, &body, status)
}

/// A backend that has these models and answers as Ollama does, as many at once as there are.
pub(crate) fn config(models: &[&str]) -> Config {
    let models = models.iter().map(|name| able(name)).collect();
    Config { models, slots: 256.try_into().unwrap(), token_rate: 0, recorded: 4096, ..Config::default() }
}

/// A model that can do what any route asks of one.
pub(crate) fn able(name: &str) -> Model {
    let capabilities = ["completion", "embedding"].map(ToOwned::to_owned).to_vec();
    Model { capabilities, ..Model::named(name) }
}

/// A gate before this backend, without limits, whose article's model is [`MODEL`].
pub(crate) fn gate(url: &str, arguments: &[&str]) -> Plan {
    gate_before(&[url], arguments)
}

/// A gate before several.
pub(crate) fn gate_before(urls: &[&str], arguments: &[&str]) -> Plan {
    let mut all = vec!["--model", MODEL, "--workers", "1"];
    all.extend(urls.iter().flat_map(|url| ["--upstream", *url]));
    for unlimited in ["--limit", "--api-limit"] {
        if !arguments.contains(&unlimited) {
            all.extend([unlimited, "none"]);
        }
    }
    support::gate(all.iter().chain(arguments))
}

/// A key file.
pub(crate) struct Keys {
    dir: Dir,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self { dir: Dir::new() }
    }

    /// As the gate is told of it.
    pub(crate) fn flag(&self) -> String {
        format!("--keys={}", self.dir.path("keys").display())
    }

    /// Makes a key with these flags; its text.
    #[track_caller]
    pub(crate) fn make(&self, name: &str, flags: &str) -> String {
        let mut command = Command::new(binary());
        command.args(["key", "new", "--name", name]).args(flags.split_ascii_whitespace()).arg(self.flag());
        let said = command.arg("--control").arg(self.dir.path("none")).env_clear().output().unwrap();
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stdout).unwrap().trim_end().to_owned()
    }

    /// Puts the end of the keys of this name into the past.
    pub(crate) fn expire(&self, name: &str) {
        let path = self.dir.path("keys");
        let text = fs::read_to_string(&path).unwrap();
        let past = |line: &str| {
            let mut words: Vec<&str> = line.split(' ').collect();
            if words.get(3) == Some(&name) {
                words[5] = "2020-01-01T00:00:00Z";
            }
            words.join(" ") + "\n"
        };
        fs::write(&path, text.lines().map(past).collect::<String>()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// This request with a key.
pub(crate) fn by(key: &str, request: &Request) -> Request {
    request.clone().header("Authorization", &format!("Bearer {key}"))
}
