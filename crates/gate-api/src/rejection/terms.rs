//! The table of refusals: one row a variant.
//!
//! It decides and does not render. Invariant: only this module knows which refusal has which status.

use std::borrow::Cow;
use std::time::Duration;

use super::{Breakage, Connection, Denial, Fault, KeyFault, Phase, Rejection, Terms};

/// How long a client should wait for the successor of a draining process: reloads hand over well within it.
const DRAIN_RETRY: Duration = Duration::from_secs(1);

/// The least and the most that clients are told to wait for room in the queue: it is an estimate, and one that is off
/// should neither bring them all at once nor keep them away for long.
const QUEUE_RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(120)];

/// When one who has as many requests as may be at once should come again: some end at any time.
const TURN_RETRY: Duration = Duration::from_secs(1);

/// How to say who one is.
const CHALLENGE: &str = "Bearer realm=\"ollama-gate\"";

impl Rejection {
    /// Status, texts, Retry-After, fault and connection of this refusal.
    pub fn terms(&self) -> Terms<'_> {
        use Fault::{Backend, Client, Gate};
        match self {
            Self::Invalid { .. } => row(422, Client, "the body does not fit the schema"),
            Self::Unreadable => row(400, Client, "There was an error parsing the body"),
            Self::MalformedHead { reason } => {
                row(400, Client, format!("Invalid HTTP request received: {reason}")).closing()
            }
            Self::HeadTimeout => row(408, Client, "the request head did not arrive in time").closing(),
            Self::HeadTooLarge { limit } => {
                row(431, Client, format!("the request head is over {limit} bytes")).closing()
            }
            Self::TooManyFields { limit } => {
                row(431, Client, format!("the request has more than {limit} header fields")).closing()
            }
            Self::TargetTooLong { limit } => {
                row(414, Client, format!("the request target is over {limit} bytes")).closing()
            }
            Self::BodyTooLarge { limit } => {
                row(413, Client, format!("the request body is over {limit} bytes (--max-body)")).closing()
            }
            Self::BodyTimeout { after } => {
                row(408, Client, format!("the request body stopped for {}", seconds(*after))).closing()
            }
            Self::UnsupportedEncoding => row(415, Client, "a request body with a Content-Encoding is not read here"),
            Self::NotFound => row(404, Client, "Not Found"),
            Self::MethodNotAllowed { allow } => row(405, Client, "Method Not Allowed").with("allow", allow),
            Self::Redirect { location } => {
                row(307, Client, "").logged("slash missing or extra").with("location", location.as_str())
            }
            Self::Denied { what } => row(403, Client, denial(*what)),
            Self::Unauthorized { why } => row(401, Client, key_fault(*why)).with("www-authenticate", CHALLENGE),
            Self::NameBackend { names } => {
                row(400, Client, format!("several backends: say which one in X-Gate-Backend: {names}"))
            }
            Self::BadRequest { text } => row(400, Client, text.as_str()),
            Self::ModelNotFound { model } => row(404, Client, format!("model '{model}' not found")),
            Self::RateLimited { limit, retry } => {
                row(429, Client, format!("Rate limit exceeded: {limit}")).after(*retry)
            }
            Self::Flooded { retry } => row(429, Client, "Too many requests").logged("flood guard").after(*retry),
            Self::QueueFull { retry } => {
                row(503, Gate, "server busy, please try again: the queue is full").later(*retry)
            }
            Self::ClientQueueFull { limit, retry } => {
                row(429, Client, format!("Too many requests are waiting: {limit} of one client may")).later(*retry)
            }
            Self::TooManyAtOnce { limit } => {
                let text = format!("{limit} requests of this API key are in service or wait, and no more may");
                row(429, Client, text).after(TURN_RETRY)
            }
            Self::QueueTimeout { after, retry } => {
                let waited = seconds(*after);
                row(503, Gate, format!("server busy, please try again: no turn came within {waited}")).later(*retry)
            }
            Self::NoModel => row(503, Gate, "no model is available: pull one with `ollama pull`, or set --model"),
            Self::BackendUnreachable { backend, cause } => {
                row(502, Backend, "Ollama could not be reached").logged(format!("{backend}: {cause}"))
            }
            Self::BackendTimeout { phase, after } => {
                let (what, key) = late(*phase);
                row(504, Backend, format!("{what} within {} ({key})", seconds(*after)))
            }
            Self::BackendBroken { what, cause } => unusable(*what, cause),
            Self::BackendStatus { status, text, retry_after } => backend_status(*status, text, retry_after.as_deref()),
            Self::Draining => row(503, Gate, "this server is being replaced, try again").after(DRAIN_RETRY).closing(),
            Self::Internal => row(500, Gate, "Internal Server Error").logged("a bug in the gate"),
        }
    }
}

/// A row with one text for both readers, on a connection that stays.
fn row<'a>(status: u16, fault: Fault, text: impl Into<Cow<'a, str>>) -> Terms<'a> {
    let public = text.into();
    let log = public.clone();
    Terms { status, public, log, retry_after: None, header: None, fault, close: Connection::Keep }
}

impl<'a> Terms<'a> {
    fn logged(mut self, log: impl Into<Cow<'a, str>>) -> Self {
        self.log = log.into();
        self
    }

    fn after(mut self, retry: Duration) -> Self {
        self.retry_after = Some(retry);
        self
    }

    /// As [`Terms::after`], for an estimate.
    fn later(self, retry: Duration) -> Self {
        let [least, most] = QUEUE_RETRY;
        self.after(retry.clamp(least, most))
    }

    fn with(mut self, name: &'static str, value: &'a str) -> Self {
        self.header = Some((name, Cow::Borrowed(value)));
        self
    }

    fn closing(mut self) -> Self {
        self.close = Connection::Close;
        self
    }
}

fn unusable(what: Breakage, cause: &str) -> Terms<'static> {
    row(502, Fault::Backend, broken(what)).logged(format!("{}: {cause}", broken(what)))
}

/// A missing model stays a 404; overload (429 or 503) is a 503; every other answer of the backend's is a 502.
fn backend_status<'a>(status: u16, text: &'a str, retry_after: Option<&'a str>) -> Terms<'a> {
    let told = match status {
        404 => 404,
        429 | 503 => 503,
        _ => 502,
    };
    let public = if text.is_empty() { Cow::Owned(format!("Ollama answered {status}")) } else { Cow::Borrowed(text) };
    let log = format!("backend answered {status}: {public}");
    let terms = row(told, Fault::Backend, public).logged(log);
    match retry_after {
        Some(value) => terms.with("retry-after", value),
        None => terms,
    }
}

fn denial(what: Denial) -> &'static str {
    match what {
        Denial::Route => "this route is not open on this gate",
        Denial::KeyRoute => "this API key may not use this route",
        Denial::CloudModel => "cloud models are not open on this gate",
        Denial::DebugRender => "_debug_render_only is not open on this gate",
        Denial::RemoteHost => "models of other hosts are not open on this gate",
        Denial::WebSearch => "web search is not open on this gate",
        Denial::Origin => "this origin is not open on this gate",
    }
}

fn key_fault(why: KeyFault) -> &'static str {
    match why {
        KeyFault::Missing => "an API key is needed: send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`",
        KeyFault::Unknown => "this API key is not known here",
        KeyFault::Expired => "this API key has expired",
        KeyFault::Ambiguous => "the request has two API keys that differ",
    }
}

/// What did not happen, and the key that says by when it has to.
fn late(phase: Phase) -> (&'static str, &'static str) {
    match phase {
        Phase::Connect => ("Ollama did not accept a connection", "connect_timeout"),
        Phase::Load => ("Ollama did not load the model", "load_timeout"),
        Phase::FirstByte => ("Ollama did not begin to answer", "first_byte_timeout"),
        Phase::BetweenChunks => ("Ollama sent nothing more", "chunk_timeout"),
        // Waiting counts, so it need not be Ollama that was slow.
        Phase::Whole => ("the request was not answered", "request_timeout"),
    }
}

fn broken(what: Breakage) -> &'static str {
    match what {
        Breakage::ClosedEarly => "Ollama closed the connection before its answer was complete",
        Breakage::NotHttp => "Ollama's answer was not HTTP",
        Breakage::NotJson => "Ollama's answer was not the JSON that was due",
        Breakage::TooLarge => "Ollama's answer was too large",
    }
}

fn seconds(span: Duration) -> String {
    format!("{} s", span.as_secs_f64())
}
