//! One backend: where it is, how to ask it.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gate_api::Rejection;
use gate_api::rejection::{Breakage, Phase};
use gate_zone::layout::row;
use gate_zone::{OwnRow, Probe};
use http::{HeaderValue, StatusCode};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::body::{ReadFailed, UpstreamBody};
use crate::head::{self, Begun, Head};
use crate::pool::{Conn, Pool};

/// A body up to this size is sent in one piece with the head, which saves a system call; a larger one is not copied.
const ONE_PIECE_MAX: usize = 16 * 1024;

/// Longest answer to the question for a version.
const VERSION_MAX: usize = 4096;

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

/// What a backend is asked.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The path, below the backend's prefix.
    pub path: &'static str,
    /// The JSON to POST; `None` is a GET.
    pub body: Option<Bytes>,
    /// The client on whose behalf: goes along as `X-Forwarded-For`.
    pub client: Option<HeaderValue>,
}

impl Ask {
    /// A GET on nobody's behalf.
    pub fn get(path: &'static str) -> Self {
        Self { path, body: None, client: None }
    }
}

/// A backend, as one process sees it.
pub struct Backend {
    target: Target,
    authority: String,
    prefix: String,
    /// Request lines and fixed fields, made once for each path and method.
    heads: RefCell<Vec<(&'static str, Method, Bytes)>>,
    timeouts: Timeouts,
    pool: Rc<Pool>,
    row: Rc<OwnRow>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Get,
    Post,
}

/// An answer that has begun.
#[derive(Debug)]
pub struct Exchange {
    /// What it begins with.
    pub head: Head,
    /// Its body.
    pub body: UpstreamBody,
}

impl Backend {
    /// A backend at `authority` (`address:port` or `name:port`); `prefix` comes before every path. Opens nothing yet.
    pub fn new(authority: &str, prefix: &str, timeouts: Timeouts, row: Rc<OwnRow>) -> Self {
        let target = authority.parse().map_or_else(|_| Target::Name(authority.to_owned()), Target::Address);
        let (authority, prefix) = (authority.to_owned(), prefix.to_owned());
        Self { target, authority, prefix, heads: RefCell::default(), timeouts, pool: Rc::default(), row }
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// A pooled connection that turns out to be closed before the request went out is replaced; a request that may have
    /// reached the backend is never sent again.
    ///
    /// # Errors
    /// [`Rejection::BackendUnreachable`], [`Rejection::BackendTimeout`] or [`Rejection::BackendBroken`].
    pub async fn send(&self, ask: &Ask) -> Result<Exchange, Rejection> {
        let request = self.request(ask);
        while let Some(mut conn) = self.pool.take(Instant::now()) {
            match self.ask(&mut conn, &request).await? {
                Asked::Answered(begun) => {
                    self.row.add_one(row::BACKEND_REUSED);
                    return Ok(self.exchange(begun, conn));
                }
                Asked::Unsent(_) => {}
            }
        }
        let mut conn = self.connect().await?;
        self.row.add_one(row::BACKEND_OPENED);
        match self.ask(&mut conn, &request).await? {
            Asked::Answered(begun) => Ok(self.exchange(begun, conn)),
            Asked::Unsent(error) => Err(broken(Breakage::ClosedEarly, &error)),
        }
    }

    /// The bytes of a request: its head, with the body where that is small, and the rest of the body.
    fn request(&self, ask: &Ask) -> [Bytes; 2] {
        let body = ask.body.clone().unwrap_or_default();
        let fixed = self.fixed_head(ask);
        let mut head = Vec::with_capacity(fixed.len() + 128 + body.len().min(ONE_PIECE_MAX));
        head.extend_from_slice(&fixed);
        if let Some(client) = &ask.client {
            head.extend_from_slice(b"x-forwarded-for: ");
            head.extend_from_slice(client.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        if ask.body.is_some() {
            head.extend_from_slice(b"content-length: ");
            head.extend_from_slice(itoa::Buffer::new().format(body.len()).as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        if body.len() <= ONE_PIECE_MAX {
            head.extend_from_slice(&body);
            return [head.into(), Bytes::new()];
        }
        [head.into(), body]
    }

    /// Host is the backend's own: a loopback Ollama answers 403 to a public name. No coding is accepted, since bodies
    /// are passed on as they come.
    fn fixed_head(&self, ask: &Ask) -> Bytes {
        let method = if ask.body.is_some() { Method::Post } else { Method::Get };
        let mut heads = self.heads.borrow_mut();
        if let Some((.., head)) = heads.iter().find(|(path, verb, _)| *path == ask.path && *verb == method) {
            return head.clone();
        }
        let (verb, kind) = match method {
            Method::Get => ("GET", ""),
            Method::Post => ("POST", "content-type: application/json\r\n"),
        };
        let Self { prefix, authority, .. } = self;
        let path = ask.path;
        let head = Bytes::from(format!(
            "{verb} {prefix}{path} HTTP/1.1\r\nhost: {authority}\r\naccept: application/json\r\n\
             accept-encoding: identity\r\n{kind}"
        ));
        heads.push((path, method, head.clone()));
        head
    }

    async fn ask(&self, conn: &mut Conn, request: &[Bytes; 2]) -> Result<Asked, Rejection> {
        let after = self.timeouts.first_byte;
        let phase = Phase::FirstByte;
        timeout(after, self.talk(conn, request)).await.map_err(|_| Rejection::BackendTimeout { phase, after })?
    }

    /// Writes the request and reads up to the end of the answer's head.
    async fn talk(&self, conn: &mut Conn, request: &[Bytes; 2]) -> Result<Asked, Rejection> {
        if let Sent::Nothing(error) = send_all(conn, request).await {
            return Ok(Asked::Unsent(error));
        }
        // A request that could not be sent to its end may have an answer all the same, which says why.
        loop {
            match head::begin(&mut conn.inbox) {
                Ok(Some(begun)) => return Ok(Asked::Answered(begun)),
                Ok(None) => {}
                Err(what) => return Err(broken(Breakage::NotHttp, &what)),
            }
            match std::future::poll_fn(|cx| conn.poll_fill(cx, &self.pool)).await {
                Ok(0) => return Err(broken(Breakage::ClosedEarly, &"the connection ended before an answer began")),
                Ok(_) => {}
                Err(error) => return Err(broken(Breakage::ClosedEarly, &error)),
            }
        }
    }

    fn exchange(&self, Begun { head, body, after }: Begun, conn: Conn) -> Exchange {
        Exchange { head, body: UpstreamBody::new(conn, body, after, Rc::clone(&self.pool)) }
    }

    async fn connect(&self) -> Result<Conn, Rejection> {
        let after = self.timeouts.connect;
        match timeout(after, self.dial()).await {
            Err(_) => Err(Rejection::BackendTimeout { phase: Phase::Connect, after }),
            Ok(Err(error)) => {
                Err(Rejection::BackendUnreachable { backend: self.to_string(), cause: error.to_string() })
            }
            Ok(Ok(socket)) => Ok(Conn::new(socket)),
        }
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let stream = match &self.target {
            Target::Address(address) => TcpStream::connect(address).await?,
            Target::Name(name) => TcpStream::connect(name).await?,
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Asks whether the backend answers as Ollama does.
    pub async fn probe(&self) -> Probe {
        match self.send(&Ask::get("/api/version")).await {
            Ok(exchange) if exchange.head.status == StatusCode::OK => {
                // Read to its end, the answer leaves its connection to the next question.
                match exchange.body.whole(VERSION_MAX, self.timeouts.first_byte).await {
                    Ok(body) if says_version(&body) => Probe::Healthy,
                    Ok(_) | Err(ReadFailed::TooLarge) => Probe::Foreign,
                    Err(ReadFailed::Pause) => Probe::Silent,
                    Err(ReadFailed::Cut(_)) => Probe::NotHttp,
                }
            }
            Ok(exchange) => Probe::Status(exchange.head.status.as_u16()),
            Err(Rejection::BackendTimeout { .. }) => Probe::Silent,
            Err(Rejection::BackendBroken { .. }) => Probe::NotHttp,
            Err(_) => Probe::Unreachable,
        }
    }
}

/// Whether an answer to `/api/version` is Ollama's: `{"version":"…"}`.
fn says_version(body: &[u8]) -> bool {
    let said = serde_json::from_slice::<serde_json::Value>(body);
    said.is_ok_and(|said| said.get("version").is_some_and(serde_json::Value::is_string))
}

/// What became of a request on one connection.
enum Asked {
    /// The answer has begun.
    Answered(Begun),
    /// Not a byte of it left this process.
    Unsent(io::Error),
}

/// How much of a request went out.
enum Sent {
    /// All, or some before the connection failed.
    Something,
    /// Nothing.
    Nothing(io::Error),
}

async fn send_all(conn: &mut Conn, request: &[Bytes; 2]) -> Sent {
    let mut sent = 0;
    for part in request {
        let mut done = 0;
        let written = std::future::poll_fn(|cx| {
            while done < part.len() {
                match ready!(conn.poll_send(cx, &part[done..])) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Ok(count) => done += count,
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            Poll::Ready(Ok(()))
        });
        if let Err(error) = written.await {
            return if sent + done == 0 { Sent::Nothing(error) } else { Sent::Something };
        }
        sent += part.len();
    }
    Sent::Something
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.prefix)
    }
}

fn broken(what: Breakage, cause: &dyn fmt::Display) -> Rejection {
    Rejection::BackendBroken { what, cause: cause.to_string() }
}
