//! One backend: where it is, how to ask it.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gate_api::Rejection;
use gate_api::rejection::{Breakage, Phase};
use gate_zone::layout::row;
use gate_zone::{OwnRow, Probe};
use http::StatusCode;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::ask::{Ask, Framing, Heads, Method};
use crate::body::{ReadFailed, UpstreamBody};
use crate::decode::Body;
use crate::head::{self, Begun, Head};
use crate::pool::{Conn, Pool, Socket};
use crate::within::within;

/// How often it is looked whether a model has been loaded meanwhile.
const LOOK: Duration = Duration::from_millis(250);

/// How long a host may leave what was sent to it unacknowledged. A busy one acknowledges all the same, its kernel does;
/// one that has lost its power or its cable never says so, and would be waited for as long as a model may load. Long enough
/// for a switch that restarts its port, or a virtual machine that moves.
const UNHEARD_MAX: Duration = Duration::from_secs(15);

/// After so much silence its kernel is asked whether it is still there.
const LISTEN_AFTER: Duration = Duration::from_secs(5);

/// What a backend on a unix socket is told as its own name: Ollama believes it from anywhere.
const UNIX_AUTHORITY: &str = "localhost";

/// Longest answer to the question for a version.
const VERSION_MAX: usize = 4096;

/// Where a backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// An address.
    Address(SocketAddr),
    /// A name with a port, looked up for each new connection.
    Name(String),
    /// A unix socket.
    Unix(PathBuf),
}

/// How long each phase may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Opening a connection.
    pub connect: Duration,
    /// From the request to the head of the answer.
    pub first_byte: Duration,
}

/// How long a backend may take until its answer begins.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    /// While the model is not in memory.
    pub load: Duration,
    /// From then on.
    pub first_byte: Duration,
    /// Whether it is.
    pub is_loaded: &'a dyn Fn() -> bool,
}

/// A request that has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Why.
    pub why: Rejection,
    /// Whether the backend may have run it.
    pub ran: Ran,
}

/// Whether a request that failed may have been run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// Surely not: not a byte of it left this process.
    No,
    /// It may have been.
    Maybe,
}

/// A backend, as one process sees it.
pub struct Backend {
    target: Target,
    heads: Heads,
    timeouts: Timeouts,
    pool: Rc<Pool>,
    /// How often it had failed when a connection was last used.
    failures: Cell<u64>,
    row: Rc<OwnRow>,
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
        let heads = Heads::new(authority, prefix);
        Self { target, heads, timeouts, pool: Rc::default(), failures: Cell::new(0), row }
    }

    /// A backend at an address that was looked up for a name; `authority` is what it is told as its own.
    pub fn at(address: SocketAddr, authority: &str, prefix: &str, timeouts: Timeouts, row: Rc<OwnRow>) -> Self {
        Self { target: Target::Address(address), ..Self::new(authority, prefix, timeouts, row) }
    }

    /// A backend on a unix socket.
    pub fn unix(path: &Path, timeouts: Timeouts, row: Rc<OwnRow>) -> Self {
        Self { target: Target::Unix(path.to_owned()), ..Self::new(UNIX_AUTHORITY, "", timeouts, row) }
    }

    /// Says how often it has failed, in any process. After one more, connections that lay idle are not used again: a host
    /// that has gone without a word leaves them open, and what is sent over one of them may have been run.
    pub(crate) fn heed(&self, failures: u64) {
        if self.failures.replace(failures) != failures {
            self.pool.clear();
        }
    }

    /// Sends a request for which no model has to be loaded, and waits for the head of the answer.
    ///
    /// # Errors
    /// [`Rejection::BackendUnreachable`], [`Rejection::BackendTimeout`] or [`Rejection::BackendBroken`].
    pub async fn send(&self, ask: &Ask) -> Result<Exchange, Rejection> {
        let first_byte = self.timeouts.first_byte;
        let patience = Patience { load: first_byte, first_byte, is_loaded: &|| true };
        self.ask(ask, patience).await.map_err(|failed| failed.why)
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// A pooled connection that turns out to be closed before the request went out is replaced; a request that may have
    /// reached the backend is never sent again.
    ///
    /// # Errors
    /// [`Failed`], with one of the three refusals that [`send`](Self::send) knows.
    pub async fn ask(&self, ask: &Ask, patience: Patience<'_>) -> Result<Exchange, Failed> {
        let maybe = |why| Failed { why, ran: Ran::Maybe };
        let unsent = |why| Failed { why, ran: Ran::No };
        let request = self.heads.request(ask);
        loop {
            let pooled = self.pool.take();
            let is_new = pooled.is_none();
            let mut conn = match pooled {
                Some(conn) => conn,
                None => self.connect().await.map_err(unsent)?,
            };
            if is_new {
                self.row.add_one(row::BACKEND_OPENED);
            }
            // Pinned where it stands: handed on by value it would be held twice.
            let asked = patience.watch(pin!(self.talk(&mut conn, &request))).await.map_err(maybe)?;
            match asked {
                Asked::Answered(begun) => {
                    if !is_new {
                        self.row.add_one(row::BACKEND_REUSED);
                    }
                    return Ok(self.exchange(begun, conn, ask.method));
                }
                Asked::Unsent(error) if is_new => return Err(unsent(broken(Breakage::ClosedEarly, &error))),
                // Closed while it was idle.
                Asked::Unsent(_) => {}
            }
        }
    }

    /// Writes the request and reads up to the end of the answer's head.
    async fn talk(&self, conn: &mut Conn, request: &[Bytes; 2]) -> Result<Asked, Rejection> {
        if let Sent::Nothing(error) = send_all(conn, request).await {
            return Ok(Asked::Unsent(error));
        }
        // A request that could not be sent to its end may have an answer all the same, which says why.
        self.hear(conn).await.map(Asked::Answered)
    }

    /// Reads up to the end of the answer's head.
    pub(crate) async fn hear(&self, conn: &mut Conn) -> Result<Begun, Rejection> {
        loop {
            match head::begin(&mut conn.inbox) {
                Ok(Some(begun)) => return Ok(begun),
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

    /// An answer to HEAD ends with its head, whatever that says of its length.
    pub(crate) fn exchange(&self, Begun { head, body, after }: Begun, conn: Conn, method: Method) -> Exchange {
        let body = if method == Method::Head { Body::Ended } else { body };
        Exchange { head, body: UpstreamBody::new(conn, body, after, Rc::clone(&self.pool)) }
    }

    /// A connection of its own for one request.
    pub(crate) async fn open(&self) -> Result<Conn, Rejection> {
        let conn = self.connect().await?;
        self.row.add_one(row::BACKEND_OPENED);
        Ok(conn)
    }

    pub(crate) fn opening(&self, ask: &Ask, framing: Framing) -> Bytes {
        self.heads.opening(ask, framing)
    }

    pub(crate) fn first_byte(&self) -> Duration {
        self.timeouts.first_byte
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

    async fn dial(&self) -> io::Result<Socket> {
        let stream = match &self.target {
            Target::Address(address) => TcpStream::connect(address).await?,
            Target::Name(name) => TcpStream::connect(name).await?,
            Target::Unix(path) => return Ok(Socket::Unix(UnixStream::connect(path).await?)),
        };
        stream.set_nodelay(true)?;
        let options = SockRef::from(&stream);
        options.set_tcp_user_timeout(Some(UNHEARD_MAX))?;
        options.set_tcp_keepalive(&TcpKeepalive::new().with_time(LISTEN_AFTER).with_interval(LISTEN_AFTER))?;
        Ok(Socket::Tcp(stream))
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

impl Patience<'_> {
    /// Waits for `answer`, by the clock of the phase that the backend is in.
    pub(crate) async fn watch<T>(
        &self,
        mut answer: Pin<&mut impl Future<Output = Result<T, Rejection>>>,
    ) -> Result<T, Rejection> {
        let late = |phase, after| Rejection::BackendTimeout { phase, after };
        if !(self.is_loaded)() {
            let begun = Instant::now();
            loop {
                let left = self.load.saturating_sub(begun.elapsed());
                if let Ok(answered) = within(LOOK.min(left), &mut answer).await {
                    return answered;
                }
                if (self.is_loaded)() {
                    break;
                }
                if left <= LOOK {
                    return Err(late(Phase::Load, self.load));
                }
            }
        }
        let after = self.first_byte;
        within(after, answer).await.map_err(|_| late(Phase::FirstByte, after))?
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
pub(crate) enum Sent {
    /// All.
    All,
    /// Some, before the connection failed.
    Some,
    /// Nothing.
    Nothing(io::Error),
}

pub(crate) async fn send_all(conn: &mut Conn, request: &[Bytes; 2]) -> Sent {
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
            return if sent + done == 0 { Sent::Nothing(error) } else { Sent::Some };
        }
        sent += part.len();
    }
    Sent::All
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
            Target::Address(address) if address.to_string() != self.heads.authority() => {
                write!(f, "http://{}{} ({address})", self.heads.authority(), self.heads.prefix())
            }
            _ => write!(f, "http://{}{}", self.heads.authority(), self.heads.prefix()),
        }
    }
}

fn broken(what: Breakage, cause: &dyn fmt::Display) -> Rejection {
    Rejection::BackendBroken { what, cause: cause.to_string() }
}
