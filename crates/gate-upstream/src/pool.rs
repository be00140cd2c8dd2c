//! Idle connections of one worker to one backend, last in, first out.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
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
    bell: Arc<Bell>,
    waker: Waker,
}

/// Rounds of polling and driving in a row before the task gives others a turn.
const ROUNDS_MAX: usize = 8;

impl Conn {
    pub(crate) fn new(sender: SendRequest<Full<Bytes>>, connection: Wire) -> Self {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        Self { sender, connection: Some(Box::pin(connection)), bell, waker }
    }

    /// Reads and writes what can be. What ends the connection reaches whoever waits for an answer, through the answer.
    fn drive(&mut self) {
        if let Some(connection) = &mut self.connection
            && let Poll::Ready(ended) = connection.as_mut().poll(&mut Context::from_waker(&self.waker))
        {
            if let Err(error) = ended {
                log::debug!("a connection to the backend ended: {error}");
            }
            self.connection = None;
        }
    }

    /// Polls something that only this connection can make ready, and drives the connection in between; `cx` is woken
    /// when there is more to read or write.
    pub(crate) fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let mut quiet = Context::from_waker(Waker::noop());
        self.bell.hold(cx.waker());
        for _ in 0..ROUNDS_MAX {
            if let Poll::Ready(done) = poll(&mut quiet) {
                self.bell.release();
                return Poll::Ready(done);
            }
            self.bell.rang();
            self.drive();
            // When the connection has ended, this is the last chance: an answer that is not there now never comes.
            if let Poll::Ready(done) = poll(&mut quiet) {
                self.bell.release();
                return Poll::Ready(done);
            }
            if self.bell.rang() == Rang::No {
                self.bell.release();
                return Poll::Pending;
            }
        }
        self.bell.release();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the other side has kept it open while it was idle.
    fn is_good(&mut self) -> bool {
        self.bell.hold(Waker::noop());
        self.drive();
        self.bell.release();
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// Wakes the task that waits for the connection, but not for what happens while that task is at work on it: hyper's
/// two ends wake each other all the time.
struct Bell {
    task: Mutex<Waker>,
    held: AtomicBool,
    rung: AtomicBool,
}

/// Whether the bell was rung while it was held.
#[derive(PartialEq, Eq)]
enum Rang {
    Yes,
    No,
}

impl Default for Bell {
    fn default() -> Self {
        Self { task: Mutex::new(Waker::noop().clone()), held: AtomicBool::new(false), rung: AtomicBool::new(false) }
    }
}

impl Bell {
    fn task(&self) -> MutexGuard<'_, Waker> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on ringing is only noted; afterwards it wakes `task`.
    fn hold(&self, task: &Waker) {
        self.held.store(true, Relaxed);
        self.task().clone_from(task);
    }

    fn release(&self) {
        self.held.store(false, Relaxed);
    }

    /// Takes the note.
    fn rang(&self) -> Rang {
        if self.rung.swap(false, Relaxed) { Rang::Yes } else { Rang::No }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    // All of it happens in one thread; the atomics are there because a waker must be able to travel.
    fn wake_by_ref(self: &Arc<Self>) {
        if self.held.load(Relaxed) {
            self.rung.store(true, Relaxed);
        } else {
            self.task().wake_by_ref();
        }
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
