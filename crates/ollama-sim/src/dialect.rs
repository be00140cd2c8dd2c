//! The three families of routes, and how each tells of an error. What is wrong is decided elsewhere.

use serde_json::json;

use crate::answer::{Answer, Body, JSON, PLAIN_JSON, error_json};
use crate::generation::fnv;

/// A family of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `/api`.
    Ollama,
    /// `/v1`, but for messages.
    OpenAi,
    /// `/v1/messages`.
    Anthropic,
}

impl Dialect {
    /// The family of a path.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/v1/messages" => Self::Anthropic,
            path if path.starts_with("/v1/") => Self::OpenAi,
            _ => Self::Ollama,
        }
    }

    /// An error that is found while the body is translated, before Ollama's own routes see it.
    pub(crate) fn untranslatable(self, text: &str) -> Answer {
        Answer::new(400, JSON, Body::Full(error_body(self, 400, text)))
    }

    /// An answer of Ollama's own routes, told in this form: errors are, and everything else has its form already.
    pub(crate) fn tell(self, mut answer: Answer) -> Answer {
        if let (Self::OpenAi | Self::Anthropic, Some(text)) = (self, answer.error.take()) {
            let mut body = error_body(self, answer.status, &text);
            body.push(b'\n');
            (answer.content_type, answer.body) = (PLAIN_JSON, Body::Full(body));
        }
        answer
    }
}

/// The body of an error.
pub(crate) fn error_body(dialect: Dialect, status: u16, text: &str) -> Vec<u8> {
    match dialect {
        Dialect::Ollama => error_json(text),
        Dialect::OpenAi => {
            let kind = match status {
                400 => "invalid_request_error",
                404 => "not_found_error",
                _ => "api_error",
            };
            let text = quoted(text);
            format!(r#"{{"error":{{"message":{text},"type":"{kind}","param":null,"code":null}}}}"#).into_bytes()
        }
        Dialect::Anthropic => {
            let (kind, text) = (kind(status), quoted(text));
            let id = id("req", fnv(text.as_bytes()));
            format!(r#"{{"type":"error","error":{{"type":"{kind}","message":{text}}},"request_id":"{id}"}}"#)
                .into_bytes()
        }
    }
}

/// Anthropic's word for a status.
fn kind(status: u16) -> &'static str {
    match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    }
}

fn quoted(text: &str) -> String {
    json!(text).to_string()
}

/// A name such as Anthropic's: 24 hexadecimal digits that follow from the seed.
pub(crate) fn id(prefix: &str, seed: u64) -> String {
    let more = fnv(&seed.to_le_bytes()) & 0xffff_ffff;
    format!("{prefix}_{seed:016x}{more:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_type() {
        for (status, openai, anthropic) in [
            (400, "invalid_request_error", "invalid_request_error"),
            (404, "not_found_error", "not_found_error"),
            (429, "api_error", "rate_limit_error"),
            (500, "api_error", "api_error"),
            (503, "api_error", "overloaded_error"),
        ] {
            let body =
                |dialect| serde_json::from_slice::<serde_json::Value>(&error_body(dialect, status, "a \"b\"")).unwrap();
            let wanted = json!({"message": "a \"b\"", "type": openai, "param": null, "code": null});
            assert_eq!(body(Dialect::OpenAi), json!({ "error": wanted }), "{status}");
            let told = body(Dialect::Anthropic);
            assert_eq!(told["error"], json!({"type": anthropic, "message": "a \"b\""}), "{status}");
            assert_eq!(told["request_id"].as_str().unwrap().len(), "req_".len() + 24);
        }
    }

    #[test]
    fn paths_belong_to_a_family() {
        for (path, wanted) in [
            ("/api/chat", Dialect::Ollama),
            ("/", Dialect::Ollama),
            ("/v1/models/a", Dialect::OpenAi),
            ("/v1/messages", Dialect::Anthropic),
        ] {
            assert_eq!(Dialect::of(path), wanted, "{path}");
        }
    }
}
