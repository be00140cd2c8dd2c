//! One backend: where it is, how to ask it.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gate_api::Rejection;
use gate_api::rejection::{Breakage, Phase};
use gate_zone::OwnRow;
use gate_zone::Probe;
use gate_zone::layout::row;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode, Uri, response};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::body::UpstreamBody;
use crate::pool::{Conn, Pool};

/// Fields of an answer's head. Ollama sends five; the rest is room for proxies in front of it.
const FIELDS_MAX: usize = 128;

/// The largest buffer for an answer: its head must fit, and a chunk of a stream is far smaller.
const BUFFER_MAX: usize = 256 * 1024;

/// Where a backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// An address.
    Address(SocketAddr),
    /// A name with a port, looked up for each new connection.
    Name(String),
}

/// How long each phase may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Opening a connection.
    pub connect: Duration,
    /// From the request to the head of the answer.
    pub first_byte: Duration,
}

/// A backend, as one process sees it.
pub struct Backend {
    target: Target,
    /// For the Host field: a loopback Ollama answers 403 to a public name.
    authority: HeaderValue,
    prefix: String,
    targets: RefCell<Vec<(&'static str, Uri)>>,
    timeouts: Timeouts,
    pool: Rc<Pool>,
    row: Rc<OwnRow>,
}

/// An answer that has begun.
pub struct Exchange {
    /// Its status and fields.
    pub head: response::Parts,
    /// Its body.
    pub body: UpstreamBody,
}

impl Backend {
    /// A backend at `authority` (`address:port` or `name:port`); `prefix` comes before every path. Opens nothing yet.
    pub fn new(authority: &str, prefix: &str, timeouts: Timeouts, row: Rc<OwnRow>) -> Self {
        let target = authority.parse().map_or_else(|_| Target::Name(authority.to_owned()), Target::Address);
        // What cannot be a header cannot be looked up either, and fails there with its name.
        let authority = HeaderValue::try_from(authority).unwrap_or_else(|_| HeaderValue::from_static("backend"));
        Self {
            target,
            authority,
            prefix: prefix.to_owned(),
            targets: RefCell::default(),
            timeouts,
            pool: Rc::default(),
            row,
        }
    }

    /// Sends a request and waits for the head of the answer. `fields` go along; Host is set here.
    ///
    /// A pooled connection that turns out to be closed before the request went out is replaced; a request that may have
    /// reached the backend is never sent again.
    ///
    /// # Errors
    /// [`Rejection::BackendUnreachable`], [`Rejection::BackendTimeout`] or [`Rejection::BackendBroken`].
    pub async fn send(
        &self,
        method: Method,
        path: &'static str,
        fields: HeaderMap,
        body: Bytes,
    ) -> Result<Exchange, Rejection> {
        let mut request = self.request(method, path, fields, body)?;
        while let Some(mut conn) = self.pool.take(Instant::now()) {
            match self.ask(&mut conn, request).await? {
                Asked::Answered(answer) => {
                    self.row.add_one(row::BACKEND_REUSED);
                    return Ok(self.exchange(*answer, conn));
                }
                Asked::Unsent(returned, _) => request = *returned,
            }
        }
        let mut conn = self.connect().await?;
        self.row.add_one(row::BACKEND_OPENED);
        match self.ask(&mut conn, request).await? {
            Asked::Answered(answer) => Ok(self.exchange(*answer, conn)),
            Asked::Unsent(_, error) => Err(broken(&error)),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &'static str,
        fields: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Rejection> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.target_of(path)?;
        *request.headers_mut() = fields;
        request.headers_mut().insert(HOST, self.authority.clone());
        Ok(request)
    }

    /// The request target for `path`, parsed once: there are a handful.
    fn target_of(&self, path: &'static str) -> Result<Uri, Rejection> {
        let mut known = self.targets.borrow_mut();
        if let Some((_, target)) = known.iter().find(|(known, _)| *known == path) {
            return Ok(target.clone());
        }
        let text = format!("{}{path}", self.prefix);
        let target: Uri = text.parse().map_err(|error| {
            log::error!("cannot ask the backend for {text:?}: {error}");
            Rejection::Internal
        })?;
        known.push((path, target.clone()));
        Ok(target)
    }

    async fn ask(&self, conn: &mut Conn, request: Request<Full<Bytes>>) -> Result<Asked, Rejection> {
        let after = self.timeouts.first_byte;
        let mut answer = pin!(conn.sender.try_send_request(request));
        let answered = std::future::poll_fn(|cx| conn.poll_with(cx, |cx| answer.as_mut().poll(cx)));
        match timeout(after, answered).await {
            Err(_) => Err(Rejection::BackendTimeout { phase: Phase::FirstByte, after }),
            Ok(Ok(answer)) => Ok(Asked::Answered(Box::new(answer))),
            Ok(Err(mut failed)) => match failed.take_message() {
                Some(request) => Ok(Asked::Unsent(Box::new(request), failed.into_error())),
                None => Err(broken(&failed.into_error())),
            },
        }
    }

    fn exchange(&self, answer: http::Response<hyper::body::Incoming>, conn: Conn) -> Exchange {
        let (head, incoming) = answer.into_parts();
        Exchange { head, body: UpstreamBody::new(incoming, conn, Rc::clone(&self.pool)) }
    }

    async fn connect(&self) -> Result<Conn, Rejection> {
        let after = self.timeouts.connect;
        let stream = match timeout(after, self.dial()).await {
            Err(_) => return Err(Rejection::BackendTimeout { phase: Phase::Connect, after }),
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Ok(Ok(stream)) => stream,
        };
        let mut builder = http1::Builder::new();
        builder.max_headers(FIELDS_MAX).max_buf_size(BUFFER_MAX).writev(false);
        let (sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(&error))?;
        Ok(Conn::new(sender, connection))
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let stream = match &self.target {
            Target::Address(address) => TcpStream::connect(address).await?,
            Target::Name(name) => TcpStream::connect(name).await?,
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn unreachable(&self, cause: &dyn fmt::Display) -> Rejection {
        Rejection::BackendUnreachable { backend: self.to_string(), cause: cause.to_string() }
    }

    /// Asks whether the backend answers as Ollama does.
    pub async fn probe(&self) -> Probe {
        match self.send(Method::GET, "/api/version", json_fields(), Bytes::new()).await {
            Ok(exchange) if exchange.head.status == StatusCode::OK => Probe::Healthy,
            Ok(exchange) => Probe::Status(exchange.head.status.as_u16()),
            Err(Rejection::BackendTimeout { .. }) => Probe::Silent,
            Err(Rejection::BackendBroken { .. }) => Probe::NotHttp,
            Err(_) => Probe::Unreachable,
        }
    }
}

/// What became of a request on one connection.
enum Asked {
    /// The answer has begun.
    Answered(Box<http::Response<hyper::body::Incoming>>),
    /// It surely did not reach the backend.
    Unsent(Box<Request<Full<Bytes>>>, hyper::Error),
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority.to_str().unwrap_or_default(), self.prefix)
    }
}

/// The fields of a request that carries and wants JSON.
pub(crate) fn json_fields() -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(4);
    let json = HeaderValue::from_static("application/json");
    fields.insert(ACCEPT, json.clone());
    fields.insert(CONTENT_TYPE, json);
    fields
}

fn broken(error: &hyper::Error) -> Rejection {
    let what = if error.is_parse() { Breakage::NotHttp } else { Breakage::ClosedEarly };
    let cause = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    Rejection::BackendBroken { what, cause: format!("{error}{cause}") }
}
