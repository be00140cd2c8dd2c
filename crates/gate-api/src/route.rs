//! Which of the gate's routes a request line names.
//!
//! The path is percent-decoded once, as the article's stack and Ollama both do, and compared as a whole: an allow-list.
//! Nothing is forwarded from here; a worker asks its backend for the path of the [`Route`], never for the client's.
//!
//! Invariant: no path that Ollama could read as one of its closed routes is ever a [`Route`].

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

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

impl Route {
    /// The dialect of its answers.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::ArticleBody | Self::ArticleItem { .. } => Dialect::Article,
            Self::Generate | Self::Chat | Self::Tags | Self::Ps | Self::Version | Self::Root => Dialect::Ollama,
            Self::OpenApi | Self::Docs(_) | Self::Healthz | Self::Readyz => Dialect::Gate,
        }
    }

    /// Its name in logs and counters, the same for every prompt.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ArticleBody => "article_body",
            Self::ArticleItem { .. } => "article_item",
            Self::Generate => "generate",
            Self::Chat => "chat",
            Self::Tags => "tags",
            Self::Ps => "ps",
            Self::Version => "version",
            Self::Root => "root",
            Self::OpenApi => "openapi",
            Self::Docs(_) => "docs",
            Self::Healthz => "healthz",
            Self::Readyz => "readyz",
        }
    }
}

const POST: &str = "POST";
const GET: &str = "GET";
/// In the order Ollama's router gives them.
const HEAD_GET: &str = "HEAD, GET";

const ARTICLE: &str = "/ollama_generate/";

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
        "/" => (Route::Root, HEAD_GET),
        "/healthz" => (Route::Healthz, HEAD_GET),
        "/readyz" => (Route::Readyz, HEAD_GET),
        "/openapi.json" => (Route::OpenApi, HEAD_GET),
        _ => (Route::Docs(Page::from_path(path)?), HEAD_GET),
    })
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
/// resolved, any case.
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
    let allowed = method == allow || (allow == HEAD_GET && matches!(method, "HEAD" | "GET"));
    if allowed { Ok(route) } else { Err(wrong_method(route.dialect(), allow)) }
}

fn wrong_method(dialect: Dialect, allow: &'static str) -> (Dialect, Rejection) {
    (dialect, Rejection::MethodNotAllowed { allow })
}
