//! Connections of one worker to one backend: open ones, and the idle among them, last in, first out.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use gate_zone::clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Idle connections kept by one worker to one backend: as many as the streams that a busy one has at once, so that waves of them find
/// their connections again. More would only hold descriptors of the backend.
const IDLE_MAX: usize = 256;

/// A connection idle for longer is not used again: proxies in front of a backend commonly close theirs after 60 s,
/// and a request that meets the close cannot be known not to have run.
const IDLE_MS_MAX: u64 = 50_000;

/// Bytes read from a socket at once: a usual answer whole, or a good piece of a large one.
const READ_SIZE: usize = 16 * 1024;

/// A socket of either kind.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One open connection. Dropping it closes the socket, which tells the backend to stop.
#[derive(Debug)]
pub(crate) struct Conn {
    socket: Socket,
    /// What has come and was not used.
    pub(crate) inbox: BytesMut,
}

impl Conn {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket, inbox: BytesMut::new() }
    }

    /// Reads once into the inbox; `Ok(0)` at the end of the connection.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, pool: &Pool) -> Poll<io::Result<usize>> {
        let mut scratch = pool.scratch.borrow_mut();
        let mut into = ReadBuf::new(&mut scratch);
        ready!(match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_read(cx, &mut into),
            Socket::Unix(socket) => Pin::new(socket).poll_read(cx, &mut into),
        })?;
        self.inbox.extend_from_slice(into.filled());
        Poll::Ready(Ok(into.filled().len()))
    }

    /// Writes some of `bytes`.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Socket::Unix(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    /// Whether an idle connection is still open, and has kept silent. Costs no system call unless something came.
    fn is_good(&self) -> bool {
        let silent = |read: io::Result<usize>| read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        let read = match &self.socket {
            Socket::Tcp(socket) => socket.try_read(&mut [0]),
            Socket::Unix(socket) => socket.try_read(&mut [0]),
        };
        self.inbox.is_empty() && silent(read)
    }
}

#[derive(Debug)]
struct Idle {
    conn: Conn,
    /// By the coarse clock.
    since_ms: u64,
}

impl Idle {
    fn is_old(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.since_ms) > IDLE_MS_MAX
    }
}

/// The idle connections, and the buffer that all connections read through.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: RefCell<Vec<Idle>>,
    scratch: RefCell<Box<[u8]>>,
}

impl Default for Pool {
    fn default() -> Self {
        Self { idle: RefCell::default(), scratch: RefCell::new(vec![0; READ_SIZE].into()) }
    }
}

impl Pool {
    /// The connection that was used last, if one is still good.
    pub(crate) fn take(&self) -> Option<Conn> {
        let now_ms = clock::coarse_ms();
        let mut idle = self.idle.borrow_mut();
        while let Some(last) = idle.pop() {
            if last.is_old(now_ms) {
                // What lies below is older still.
                idle.clear();
                return None;
            }
            if last.conn.is_good() {
                return Some(last.conn);
            }
        }
        None
    }

    /// Closes what is idle.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Keeps a connection for the next request. The oldest one makes room.
    pub(crate) fn give(&self, conn: Conn) {
        let now_ms = clock::coarse_ms();
        let mut idle = self.idle.borrow_mut();
        // The oldest lie at the bottom, where nobody takes them while there is little to do.
        if idle.len() == IDLE_MAX || idle.first().is_some_and(|oldest| oldest.is_old(now_ms)) {
            let old = idle.partition_point(|idle| idle.is_old(now_ms));
            let gone = old.max((idle.len() + 1).saturating_sub(IDLE_MAX));
            idle.drain(..gone);
        }
        idle.push(Idle { conn, since_ms: now_ms });
    }
}
