//! Idle connections of one worker to one backend, last in, first out.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Idle connections kept by one worker. More than the streams a worker usually has at once would only hold
/// descriptors of the backend.
const IDLE_MAX: usize = 64;

/// A connection idle for longer is not used again: proxies in front of a backend commonly close theirs after 60 s,
/// and a request that meets the close cannot be known not to have run.
const IDLE_FOR_MAX: Duration = Duration::from_secs(50);

/// A connection as hyper has it.
type Wire = Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// One open connection. Dropping it closes the socket, which tells the backend to stop.
///
/// It has no task of its own: whoever waits for its answer drives it. A task would have to be woken, and would have to
/// wake the waiting one, several times in each exchange.
pub(crate) struct Conn {
    pub(crate) sender: SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    connection: Option<Pin<Box<Wire>>>,
}

impl Conn {
    pub(crate) fn new(sender: SendRequest<Full<Bytes>>, connection: Wire) -> Self {
        Self { sender, connection: Some(Box::pin(connection)) }
    }

    /// Reads and writes what can be; `cx` is woken when more can. What ends the connection reaches whoever waits for
    /// an answer, through the answer.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && let Poll::Ready(ended) = connection.as_mut().poll(cx)
        {
            if let Err(error) = ended {
                log::debug!("a connection to the backend ended: {error}");
            }
            self.connection = None;
        }
    }

    /// Polls something that only this connection can make ready: before and after driving it, with nobody to wake but
    /// the connection's own waker.
    pub(crate) fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let mut quiet = Context::from_waker(Waker::noop());
        if let Poll::Ready(done) = poll(&mut quiet) {
            return Poll::Ready(done);
        }
        self.drive(cx);
        // When the connection has ended, this is the last chance, and an answer that is not there now never comes.
        poll(&mut quiet)
    }

    /// Whether the other side has kept it open while it was idle.
    fn is_good(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.connection.is_some() && self.sender.is_ready()
    }
}

struct Idle {
    conn: Conn,
    since: Instant,
}

#[derive(Default)]
pub(crate) struct Pool {
    idle: RefCell<Vec<Idle>>,
}

impl Pool {
    /// The connection that was used last, if one is still good.
    pub(crate) fn take(&self, now: Instant) -> Option<Conn> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { mut conn, since }) = idle.pop() {
            if now.duration_since(since) > IDLE_FOR_MAX {
                // What lies below is older still.
                idle.clear();
                return None;
            }
            if conn.is_good() {
                return Some(conn);
            }
        }
        None
    }

    /// Keeps a connection for the next request. The oldest one makes room.
    pub(crate) fn give(&self, conn: Conn, now: Instant) {
        if conn.connection.is_none() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() == IDLE_MAX {
            idle.remove(0);
        }
        idle.push(Idle { conn, since: now });
    }
}
