//! Every refusal the gate can give, and the one table that says what each looks like.
//!
//! [`Rejection::terms`] is that table: status, public text, log text, Retry-After, fault and what becomes of the
//! connection. [`Rejection::answer`] renders a row for a [`Dialect`]; it chooses envelopes and content types, never
//! statuses. Nothing here writes to a socket or counts anything.
//!
//! Invariant: a public text never holds an address or an internal cause; those stand in the log text only.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

mod render;
mod terms;
#[cfg(test)]
mod tests;

/// How a family of routes words its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The article's FastAPI contract: `{"detail": …}` for the client's faults, `{"error": …}` for the rest.
    Article,
    /// Ollama's own: `{"error":"text"}`.
    Ollama,
    /// `OpenAI`'s: `{"error":{"message":"text", …}}`.
    OpenAi,
    /// Anthropic's: `{"type":"error","error":{"type":…,"message":"text"}}`.
    Anthropic,
    /// Plain text: the gate's own pages, and requests whose head could not be read.
    Gate,
}

/// Whose fault a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request was wrong, or came too often.
    Client,
    /// The gate could not serve it now.
    Gate,
    /// The server behind the gate failed.
    Backend,
}

/// What becomes of the client's connection after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// It may carry another request.
    Keep,
    /// It must be closed: where the next request would begin is not known, or the process is leaving.
    Close,
}

/// Whether answers of the article's routes tell a client about its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LimitHeaders {
    /// A 429 has no Retry-After, as slowapi's default.
    #[default]
    Off,
    /// A 429 has a Retry-After.
    On,
}

/// The part of an exchange with a backend that took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Opening the connection.
    Connect,
    /// From the request to the model being loaded.
    Load,
    /// From the model being loaded to the first byte of the answer.
    FirstByte,
    /// Between two chunks of the answer.
    BetweenChunks,
    /// The request as a whole, with its waiting.
    Whole,
}

/// What was wrong with a backend's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breakage {
    /// The connection ended before the answer did.
    ClosedEarly,
    /// The bytes were not HTTP.
    NotHttp,
    /// The body was not the JSON that was due.
    NotJson,
    /// The body was over the gate's cap.
    TooLarge,
}

/// What the gate keeps closed although Ollama has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// A route of Ollama's: accounts, experiments, or one not served here.
    Route,
    /// A route that the client's API key does not name.
    KeyRoute,
    /// A model that Ollama would run on somebody else's machines, with the server's own identity.
    CloudModel,
    /// A request for the rendered prompt, which shows system prompts and templates.
    DebugRender,
    /// A model of another host than the registry, or one that runs there.
    RemoteHost,
    /// A tool for which Ollama itself goes to ollama.com, with the server's own identity.
    WebSearch,
    /// A page of another origin.
    Origin,
}

/// What is wrong with a request's API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFault {
    /// There is none.
    Missing,
    /// There is none like it.
    Unknown,
    /// Its time is over.
    Expired,
    /// The request has two that differ.
    Ambiguous,
}

/// A refusal: why a request did not get what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// A body that fails the article's schema; `detail` is the JSON list of errors. Fault: client.
    Invalid {
        /// The value of `detail`, as JSON text.
        detail: String,
    },
    /// A body that cannot be read as JSON at all (encoding, depth, number length). Fault: client.
    Unreadable,
    /// Not a request: the head breaks HTTP's rules. Fault: client.
    MalformedHead {
        /// The rule that was broken.
        reason: &'static str,
    },
    /// The head did not arrive in time. Fault: client.
    HeadTimeout,
    /// The head has too many bytes. Fault: client.
    HeadTooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// The head has too many fields. Fault: client.
    TooManyFields {
        /// Fields allowed.
        limit: u64,
    },
    /// The request target is too long. Fault: client.
    TargetTooLong {
        /// Bytes allowed.
        limit: u64,
    },
    /// The body is over the cap. Fault: client.
    BodyTooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// The body stopped arriving. Fault: client.
    BodyTimeout {
        /// How long the gate waited.
        after: Duration,
    },
    /// The body has a Content-Encoding; the gate reads bodies as they are. Fault: client.
    UnsupportedEncoding,
    /// No such path. Fault: client.
    NotFound,
    /// The path is known, but not with this method. Fault: client.
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: &'static str,
    },
    /// The path has a slash too few or too many. Fault: client.
    Redirect {
        /// Path and query to ask for instead; scheme and host are put in front by the caller.
        location: String,
    },
    /// Ollama would do it, this gate does not. Fault: client.
    Denied {
        /// What is kept closed.
        what: Denial,
    },
    /// The request has no API key that is good. Fault: client.
    Unauthorized {
        /// What is wrong with it.
        why: KeyFault,
    },
    /// The request is for one backend, and does not say for which. Fault: client.
    NameBackend {
        /// The backends' names, as the client may give them.
        names: String,
    },
    /// A body that Ollama would refuse (or read otherwise than the gate does). Fault: client.
    BadRequest {
        /// The reason, in Ollama's words where it has any.
        text: String,
    },
    /// No model of that name. Fault: client.
    ModelNotFound {
        /// The name as the client sent it.
        model: String,
    },
    /// The client asked more often than its limit allows. Fault: client.
    RateLimited {
        /// The limit that failed, as in `10 per 1 minute`.
        limit: String,
        /// When one more will pass.
        retry: Duration,
    },
    /// The flood guard stopped the client before its request was read. Fault: client.
    Flooded {
        /// When one more will pass.
        retry: Duration,
    },
    /// As many requests wait as may, over all processes. Fault: gate.
    QueueFull {
        /// When there will be room, as far as one can tell; told as 1 to 120 seconds.
        retry: Duration,
    },
    /// As many requests of this client wait as may. Fault: client.
    ClientQueueFull {
        /// Requests of one client that may wait.
        limit: u64,
        /// When there will be room, as far as one can tell; told as 1 to 120 seconds.
        retry: Duration,
    },
    /// As many requests of this API key are in service or wait as may. Fault: client.
    TooManyAtOnce {
        /// Requests at once.
        limit: u64,
    },
    /// The request's turn did not come in time. Fault: gate.
    QueueTimeout {
        /// How long it waited.
        after: Duration,
        /// When to try again; told as 1 to 120 seconds.
        retry: Duration,
    },
    /// No model was named, and no backend lists one. Fault: gate.
    NoModel,
    /// No backend could be reached, or none is healthy. Fault: backend.
    BackendUnreachable {
        /// Which backend, for the log.
        backend: String,
        /// Why, for the log.
        cause: String,
    },
    /// The backend took too long. Fault: backend.
    BackendTimeout {
        /// What it was doing.
        phase: Phase,
        /// How long the gate waited.
        after: Duration,
    },
    /// The backend's answer cannot be used. Fault: backend.
    BackendBroken {
        /// What was wrong with it.
        what: Breakage,
        /// The cause, for the log.
        cause: String,
    },
    /// The backend answered with an error of its own. Fault: backend.
    BackendStatus {
        /// Its status.
        status: u16,
        /// Its text.
        text: String,
        /// Its Retry-After, handed on as it is.
        retry_after: Option<String>,
    },
    /// This process takes no more requests. Fault: gate.
    Draining,
    /// A bug. Fault: gate.
    Internal,
}

/// One row of the table of refusals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms<'a> {
    /// The HTTP status.
    pub status: u16,
    /// What the client is told.
    pub public: Cow<'a, str>,
    /// What the operator is told; may name internals.
    pub log: Cow<'a, str>,
    /// When to try again, where the gate knows.
    pub retry_after: Option<Duration>,
    /// A header that belongs to this refusal in every dialect: Allow, Location, or a backend's own Retry-After.
    pub header: Option<(&'static str, Cow<'a, str>)>,
    /// Whose fault it is.
    pub fault: Fault,
    /// What becomes of the connection.
    pub close: Connection,
}

/// A refusal as it goes out; Date, Content-Length and Connection are the connection's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The content type; none where there is no body.
    pub content_type: Option<&'static str>,
    /// Further headers, lower-case names.
    pub headers: Vec<(&'static str, String)>,
    /// The body. An answer to HEAD leaves it out and keeps its length.
    pub body: Vec<u8>,
    /// What becomes of the connection.
    pub close: Connection,
}

/// Shows the log text.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.terms().log)
    }
}

impl std::error::Error for Rejection {}
