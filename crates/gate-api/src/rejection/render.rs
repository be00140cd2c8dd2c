//! Refusals as bytes, one rendering a dialect.
//!
//! Invariant: a status is never chosen here; JSON is compact with UTF-8 unescaped, as the article's stack writes it.

use std::time::Duration;

use super::{Answer, Dialect, Fault, LimitHeaders, Rejection, Terms};

const JSON: &str = "application/json";
const JSON_UTF8: &str = "application/json; charset=utf-8";
const TEXT_UTF8: &str = "text/plain; charset=utf-8";
const TEXT: &str = "text/plain";

/// The status of refusals that name a limit of the client's.
const TOO_MANY: u16 = 429;

impl Rejection {
    /// The answer in `dialect`, with [`LimitHeaders::Off`].
    pub fn answer(&self, dialect: Dialect) -> Answer {
        self.answer_with(dialect, LimitHeaders::Off, None)
    }

    /// The answer in `dialect`. Only the limits' 429 of the article's depends on `headers`: the queue has no counterpart in
    /// the article's stack, and its refusals always say when to come again. Only Anthropic's bodies tell the request's id.
    pub fn answer_with(&self, dialect: Dialect, headers: LimitHeaders, request_id: Option<&str>) -> Answer {
        let terms = self.terms();
        let (content_type, body) = match (self, dialect) {
            (Self::Redirect { .. }, _) => (None, Vec::new()),
            (Self::Invalid { detail }, Dialect::Article) => {
                (Some(JSON), format!(r#"{{"detail":{detail}}}"#).into_bytes())
            }
            (_, Dialect::Article) => (Some(JSON), object(article_key(&terms), &terms.public)),
            // Ollama's router answers this one itself, as text.
            (Self::MethodNotAllowed { .. }, Dialect::Ollama) => (Some(TEXT), b"405 method not allowed".to_vec()),
            (_, Dialect::Ollama) => (Some(JSON_UTF8), object("error", &terms.public)),
            (_, Dialect::OpenAi) => (Some(JSON_UTF8), openai(&terms)),
            (_, Dialect::Anthropic) => (Some(JSON_UTF8), anthropic(&terms, request_id)),
            (_, Dialect::Gate) => (Some(TEXT_UTF8), terms.public.as_bytes().to_vec()),
        };
        let is_limit = matches!(self, Self::RateLimited { .. } | Self::Flooded { .. });
        let is_told = dialect != Dialect::Article || !is_limit || headers == LimitHeaders::On;
        let headers = fields(&terms, terms.retry_after.filter(|_| is_told));
        Answer { status: terms.status, content_type, headers, body, close: terms.close }
    }
}

/// What FastAPI itself refuses is under `detail`; limits and failures, which the article's own code reports, are under
/// `error`.
fn article_key(terms: &Terms<'_>) -> &'static str {
    if terms.fault == Fault::Client && terms.status != TOO_MANY { "detail" } else { "error" }
}

/// `{"key":"text"}`.
fn object(key: &'static str, text: &str) -> Vec<u8> {
    format!(r#"{{"{key}":{}}}"#, serde_json::Value::from(text)).into_bytes()
}

/// `{"error":{"message","type","param","code"}}`, which the SDKs of `OpenAI` turn into an exception of the status.
pub(super) fn openai(terms: &Terms<'_>) -> Vec<u8> {
    let code = match terms.status {
        401 => r#""invalid_api_key""#,
        TOO_MANY => r#""rate_limit_exceeded""#,
        _ => "null",
    };
    let message = serde_json::Value::from(&*terms.public);
    let kind = openai_type(terms);
    format!(r#"{{"error":{{"message":{message},"type":"{kind}","param":null,"code":{code}}}}}"#).into_bytes()
}

fn openai_type(terms: &Terms<'_>) -> &'static str {
    match terms.status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        TOO_MANY => "rate_limit_error",
        _ if terms.fault == Fault::Client => "invalid_request_error",
        _ => "api_error",
    }
}

/// `{"type":"error","error":{"type","message"},"request_id"}`, which the SDKs of Anthropic turn into an exception of the
/// status.
pub(super) fn anthropic(terms: &Terms<'_>, request_id: Option<&str>) -> Vec<u8> {
    let message = serde_json::Value::from(&*terms.public);
    let kind = anthropic_type(terms);
    let id = request_id.map_or_else(String::new, |id| format!(r#","request_id":{}"#, serde_json::Value::from(id)));
    format!(r#"{{"type":"error","error":{{"type":"{kind}","message":{message}}}{id}}}"#).into_bytes()
}

fn anthropic_type(terms: &Terms<'_>) -> &'static str {
    match terms.status {
        413 => "request_too_large",
        503 => "overloaded_error",
        504 => "timeout_error",
        _ => openai_type(terms),
    }
}

fn fields(terms: &Terms<'_>, retry_after: Option<Duration>) -> Vec<(&'static str, String)> {
    let mut fields = Vec::new();
    if let Some((name, value)) = &terms.header
        // A value that would end its line is left out; the answer is still true without it.
        && value.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
    {
        fields.push((*name, value.clone().into_owned()));
    }
    if let Some(retry) = retry_after {
        fields.push(("retry-after", whole_seconds(retry).to_string()));
    }
    fields
}

/// Rounded up, at least 1: a client that waits this long is not early, and 0 would mean "at once".
fn whole_seconds(retry: Duration) -> u64 {
    retry.as_secs().saturating_add(u64::from(retry.subsec_nanos() > 0)).max(1)
}
