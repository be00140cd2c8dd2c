//! Which of the gate's routes a request line names.
//!
//! The path is percent-decoded once, as the article's stack and Ollama both do, and compared as a whole: an allow-list.
//! Nothing is forwarded from here; a worker asks its backend for the path of the [`Route`], never for the client's.
//!
//! Invariant: no path that Ollama could read as one of its closed routes is ever a [`Route`].

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::docs::Page;
use crate::rejection::{Denial, Dialect, Rejection};

#[cfg(test)]
mod tests;

/// A request line the gate answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `POST /ollama_generate/`.
    ArticleBody,
    /// `GET /ollama_generate/{prompt}`.
    ArticleItem {
        /// The decoded last segment, never empty.
        prompt: String,
    },
    /// `POST /api/generate`.
    Generate,
    /// `POST /api/chat`.
    Chat,
    /// `GET /api/tags`.
    Tags,
    /// `GET /api/ps`.
    Ps,
    /// `GET /api/version`.
    Version,
    /// `POST /api/embed`.
    Embed,
    /// `POST /api/embeddings`, which [`Route::Embed`] followed.
    Embeddings,
    /// `POST /api/show`.
    Show,
    /// `POST /v1/chat/completions`.
    ChatCompletions,
    /// `POST /v1/completions`.
    Completions,
    /// `POST /v1/embeddings`.
    V1Embeddings,
    /// `GET /v1/models`.
    Models,
    /// `GET /v1/models/{model}`.
    Model {
        /// The decoded last segment: not empty, no slash in it, and neither `.` nor `..`.
        name: String,
    },
    /// `POST /v1/responses`.
    Responses,
    /// `POST /v1/messages`.
    Messages,
    /// `POST /api/pull`.
    Pull,
    /// `POST /api/push`.
    Push,
    /// `POST /api/create`.
    Create,
    /// `POST /api/copy`.
    Copy,
    /// `DELETE /api/delete`.
    Delete,
    /// `HEAD` or `POST /api/blobs/{digest}`.
    Blob {
        /// `sha256:` or `sha256-` and 64 hexadecimal digits, as the client wrote them.
        digest: String,
        /// What is wanted of it.
        method: BlobMethod,
    },
    /// `GET /`, which Ollama's clients take for a sign of life.
    Root,
    /// `GET /openapi.json`.
    OpenApi,
    /// `GET /docs` and what it loads.
    Docs(Page),
    /// `GET /healthz`: is this process alive.
    Healthz,
    /// `GET /readyz`: can it serve.
    Readyz,
}

/// What is wanted of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobMethod {
    /// Is it there?
    Head,
    /// Here it is.
    Post,
}

/// What kind of thing a route does; who may do what is said in these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It runs a model.
    Infer,
    /// It asks what there is.
    Read,
    /// It changes what there is.
    Manage,
    /// It needs no backend, and is open to everybody.
    Open,
}

impl Route {
    /// The dialect of its answers.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::ArticleBody | Self::ArticleItem { .. } => Dialect::Article,
            Self::Generate
            | Self::Chat
            | Self::Embed
            | Self::Embeddings
            | Self::Show
            | Self::Tags
            | Self::Ps
            | Self::Version
            | Self::Root
            | Self::Pull
            | Self::Push
            | Self::Create
            | Self::Copy
            | Self::Delete
            | Self::Blob { .. } => Dialect::Ollama,
            Self::ChatCompletions
            | Self::Completions
            | Self::V1Embeddings
            | Self::Responses
            | Self::Models
            | Self::Model { .. } => Dialect::OpenAi,
            Self::Messages => Dialect::Anthropic,
            Self::OpenApi | Self::Docs(_) | Self::Healthz | Self::Readyz => Dialect::Gate,
        }
    }

    /// What kind of thing it does.
    pub fn class(&self) -> Class {
        match self {
            Self::ArticleBody
            | Self::ArticleItem { .. }
            | Self::Generate
            | Self::Chat
            | Self::Embed
            | Self::Embeddings
            | Self::ChatCompletions
            | Self::Completions
            | Self::V1Embeddings
            | Self::Responses
            | Self::Messages => Class::Infer,
            Self::Tags | Self::Ps | Self::Version | Self::Show | Self::Models | Self::Model { .. } => Class::Read,
            Self::Pull | Self::Push | Self::Create | Self::Copy | Self::Delete | Self::Blob { .. } => Class::Manage,
            Self::Root | Self::OpenApi | Self::Docs(_) | Self::Healthz | Self::Readyz => Class::Open,
        }
    }

    /// Its name in logs, counters and policies, the same for every prompt, model and blob.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ArticleBody => "article_body",
            Self::ArticleItem { .. } => "article_item",
            Self::Generate => "generate",
            Self::Chat => "chat",
            Self::Tags => "tags",
            Self::Ps => "ps",
            Self::Version => "version",
            Self::Embed => "embed",
            Self::Embeddings => "embeddings",
            Self::Show => "show",
            Self::ChatCompletions => "chat_completions",
            Self::Completions => "completions",
            Self::V1Embeddings => "v1_embeddings",
            Self::Models => "models",
            Self::Model { .. } => "model",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Create => "create",
            Self::Copy => "copy",
            Self::Delete => "delete",
            Self::Blob { .. } => "blobs",
            Self::Root => "root",
            Self::OpenApi => "openapi",
            Self::Docs(_) => "docs",
            Self::Healthz => "healthz",
            Self::Readyz => "readyz",
        }
    }

    /// The path that a backend is asked for, or, where none is, the gate's own.
    pub fn path(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::ArticleBody | Self::ArticleItem { .. } | Self::Generate => "/api/generate",
            Self::Chat => "/api/chat",
            Self::Tags => "/api/tags",
            Self::Ps => "/api/ps",
            Self::Version => "/api/version",
            Self::Embed => "/api/embed",
            Self::Embeddings => "/api/embeddings",
            Self::Show => "/api/show",
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::V1Embeddings => "/v1/embeddings",
            Self::Models => "/v1/models",
            Self::Model { name } => return format!("{MODEL}{}", utf8_percent_encode(name, NOT_IN_SEGMENT)).into(),
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Pull => "/api/pull",
            Self::Push => "/api/push",
            Self::Create => "/api/create",
            Self::Copy => "/api/copy",
            Self::Delete => "/api/delete",
            Self::Blob { digest, .. } => return format!("{BLOB}{digest}").into(),
            Self::Root => "/",
            Self::OpenApi => "/openapi.json",
            Self::Docs(page) => page.path(),
            Self::Healthz => "/healthz",
            Self::Readyz => "/readyz",
        })
    }

    /// The method that a backend is asked with; GET where the client may have asked for the head only.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Delete => DELETE,
            Self::Blob { method: BlobMethod::Head, .. } => "HEAD",
            Self::Tags | Self::Ps | Self::Version | Self::Models | Self::Model { .. } => GET,
            _ if self.class() == Class::Open => GET,
            _ => POST,
        }
    }
}

const POST: &str = "POST";
const GET: &str = "GET";
const DELETE: &str = "DELETE";
/// In the order Ollama's router gives them.
const HEAD_GET: &str = "HEAD, GET";
/// The same for blobs.
const HEAD_POST: &str = "HEAD, POST";

const ARTICLE: &str = "/ollama_generate/";
const MODEL: &str = "/v1/models/";
const BLOB: &str = "/api/blobs/";

/// What a model's name may not hold as it is in a path: all but the unreserved characters and a tag's colon.
const NOT_IN_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':');

/// The route that `method` and `target` (a request line's, as it came) name.
///
/// An absolute-form target counts as its path, whatever host it names. A target with bytes that no request target has
/// is [`Rejection::MalformedHead`].
pub fn route(method: &str, target: &str) -> Result<Route, (Dialect, Rejection)> {
    match exact(method, target) {
        Some(answer) => answer,
        None => decoded(method, target),
    }
}

/// The same for a target that is one of the known paths as it stands, which nearly all are.
fn exact(method: &str, target: &str) -> Option<Result<Route, (Dialect, Rejection)>> {
    if target == ARTICLE {
        let posted = method == POST;
        return Some(if posted { Ok(Route::ArticleBody) } else { Err(wrong_method(Dialect::Article, POST)) });
    }
    fixed(target).map(|(route, allow)| of_allowed(method, route, allow))
}

/// The same for any target.
fn decoded(method: &str, target: &str) -> Result<Route, (Dialect, Rejection)> {
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err((Dialect::Gate, Rejection::MalformedHead { reason: "the request target is not ASCII" }));
    }
    let target = origin_form(target);
    let (raw, query) = target.split_once('?').unwrap_or((target, ""));
    let path = percent_decode_str(raw).decode_utf8_lossy();
    if let Some((route, allow)) = fixed(&path) {
        return of_allowed(method, route, allow);
    }
    if let Some(answer) = named(method, &path) {
        return answer;
    }
    if let Some(tail) = path.strip_prefix("/v1/") {
        return Err(of_v1(tail));
    }
    if is_closed(&path) {
        return Err((Dialect::Ollama, Rejection::Denied { what: Denial::Route }));
    }
    article(method, &path, query)
}

/// `http://host/path?query` without its scheme and host.
fn origin_form(target: &str) -> &str {
    let Some((scheme, rest)) = target.split_once("://") else { return target };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return target;
    }
    match rest.find(['/', '?']) {
        Some(at) if rest.as_bytes()[at] == b'/' => &rest[at..],
        _ => "/",
    }
}

/// Paths that stand alone, with what they allow.
fn fixed(path: &str) -> Option<(Route, &'static str)> {
    Some(match path {
        "/api/generate" => (Route::Generate, POST),
        "/api/chat" => (Route::Chat, POST),
        "/api/tags" => (Route::Tags, HEAD_GET),
        "/api/ps" => (Route::Ps, GET),
        "/api/version" => (Route::Version, HEAD_GET),
        "/api/embed" => (Route::Embed, POST),
        "/api/embeddings" => (Route::Embeddings, POST),
        "/api/show" => (Route::Show, POST),
        "/v1/chat/completions" => (Route::ChatCompletions, POST),
        "/v1/completions" => (Route::Completions, POST),
        "/v1/embeddings" => (Route::V1Embeddings, POST),
        "/v1/models" => (Route::Models, GET),
        "/v1/responses" => (Route::Responses, POST),
        "/v1/messages" => (Route::Messages, POST),
        "/api/pull" => (Route::Pull, POST),
        "/api/push" => (Route::Push, POST),
        "/api/create" => (Route::Create, POST),
        "/api/copy" => (Route::Copy, POST),
        "/api/delete" => (Route::Delete, DELETE),
        "/" => (Route::Root, HEAD_GET),
        "/healthz" => (Route::Healthz, HEAD_GET),
        "/readyz" => (Route::Readyz, HEAD_GET),
        "/openapi.json" => (Route::OpenApi, HEAD_GET),
        _ => (Route::Docs(Page::from_path(path)?), HEAD_GET),
    })
}

/// Paths that end with a name: of a model, or of a blob.
fn named(method: &str, path: &str) -> Option<Result<Route, (Dialect, Rejection)>> {
    if let Some(name) = path.strip_prefix(MODEL).filter(|name| is_segment(name)) {
        return Some(of_allowed(method, Route::Model { name: name.to_owned() }, GET));
    }
    let digest = path.strip_prefix(BLOB).filter(|digest| is_digest(digest))?;
    let wants = if method == POST { BlobMethod::Post } else { BlobMethod::Head };
    Some(of_allowed(method, Route::Blob { digest: digest.to_owned(), method: wants }, HEAD_POST))
}

/// Whether every router takes it for one segment of a path: dots would be resolved.
fn is_segment(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains('/')
}

/// Whether Ollama takes it for a blob's name.
fn is_digest(digest: &str) -> bool {
    let hex = digest.strip_prefix("sha256").and_then(|rest| rest.strip_prefix([':', '-']));
    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// Why there is nothing at `/v1/` and this tail: Ollama has a few routes there that stay closed.
fn of_v1(tail: &str) -> (Dialect, Rejection) {
    let is_messages = tail.strip_prefix("messages").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let dialect = if is_messages { Dialect::Anthropic } else { Dialect::OpenAi };
    let first = tail.split('/').next().unwrap_or_default();
    let is_closed = matches!(first, "audio" | "images") || tail.split('/').any(|part| matches!(part, "" | "." | ".."));
    (dialect, if is_closed { Rejection::Denied { what: Denial::Route } } else { Rejection::NotFound })
}

/// The article's two routes, as its framework matches them; everything else is not found or a redirect.
fn article(method: &str, path: &str, query: &str) -> Result<Route, (Dialect, Rejection)> {
    // The framework's patterns end with `$`, which also matches in front of a last newline.
    let is_body = path == ARTICLE || path.strip_suffix('\n') == Some(ARTICLE);
    let prompt = prompt(path);
    match (is_body, prompt) {
        (true, _) if method == POST => Ok(Route::ArticleBody),
        (_, Some(prompt)) if method == GET => Ok(Route::ArticleItem { prompt: prompt.to_owned() }),
        (true, _) => Err(wrong_method(Dialect::Article, POST)),
        (_, Some(_)) => Err(wrong_method(Dialect::Article, GET)),
        (false, None) => Err((Dialect::Article, slashes_mended(path, query).unwrap_or(Rejection::NotFound))),
    }
}

fn prompt(path: &str) -> Option<&str> {
    path.strip_prefix(ARTICLE).filter(|prompt| !prompt.is_empty() && !prompt.contains('/'))
}

/// A redirect to the path with its last slash added, or all its last slashes removed, if the article has that one.
fn slashes_mended(path: &str, query: &str) -> Option<Rejection> {
    let mended = if path.ends_with('/') {
        let mended = path.trim_end_matches('/');
        let known = prompt(mended).is_some() || mended == "/openapi.json" || Page::from_path(mended).is_some();
        known.then(|| mended.to_owned())?
    } else {
        (path == ARTICLE.trim_end_matches('/')).then(|| ARTICLE.to_owned())?
    };
    let mut location = utf8_percent_encode(&mended, NOT_IN_PATH).to_string();
    if !query.is_empty() {
        location.push('?');
        location.extend(utf8_percent_encode(query, NOT_IN_QUERY));
    }
    Some(Rejection::Redirect { location })
}

/// What the article's framework escapes in the query of a Location. A `%` it leaves, so that a query stays as it came
/// and `%2541` in a path comes back as `%41`.
const NOT_IN_QUERY: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

/// The same for the path.
const NOT_IN_PATH: &AsciiSet = &NOT_IN_QUERY.add(b'?').add(b'#');

/// Whether Ollama, or a proxy before it, could take the path for one below `/api/` or `/v1/`: slashes merged, dots
/// resolved, any case. Unknown paths below `/api/` itself are among them.
fn is_closed(path: &str) -> bool {
    let is_theirs = |segment: &str| segment.eq_ignore_ascii_case("api") || segment.eq_ignore_ascii_case("v1");
    if path.strip_prefix('/').is_some_and(is_theirs) {
        return false;
    }
    let mut depth = 0_usize;
    let mut first = "";
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => {
                if depth == 0 {
                    first = segment;
                }
                depth += 1;
            }
        }
    }
    depth > 0 && is_theirs(first)
}

fn of_allowed(method: &str, route: Route, allow: &'static str) -> Result<Route, (Dialect, Rejection)> {
    if allow.split(", ").any(|allowed| allowed == method) {
        Ok(route)
    } else {
        Err(wrong_method(route.dialect(), allow))
    }
}

fn wrong_method(dialect: Dialect, allow: &'static str) -> (Dialect, Rejection) {
    (dialect, Rejection::MethodNotAllowed { allow })
}
