//! Idle connections of one worker to one backend, last in, first out.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use tokio::task::AbortHandle;

/// Idle connections kept by one worker. More than the streams a worker usually has at once would only hold
/// descriptors of the backend.
const IDLE_MAX: usize = 64;

/// A connection idle for longer is not used again: proxies in front of a backend commonly close theirs after 60 s,
/// and a request that meets the close cannot be known not to have run.
const IDLE_FOR_MAX: Duration = Duration::from_secs(50);

/// One open connection. Dropping it closes it.
pub(crate) struct Conn {
    pub(crate) sender: SendRequest<Full<Bytes>>,
    pub(crate) task: AbortHandle,
}

impl Drop for Conn {
    fn drop(&mut self) {
        // The task owns the socket; letting go of the sender alone would leave an answer in progress running.
        self.task.abort();
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
        while let Some(Idle { conn, since }) = idle.pop() {
            if now.duration_since(since) > IDLE_FOR_MAX {
                // What lies below is older still.
                idle.clear();
                return None;
            }
            if !conn.sender.is_closed() {
                return Some(conn);
            }
        }
        None
    }

    /// Keeps a connection for the next request. The oldest one makes room.
    pub(crate) fn give(&self, conn: Conn, now: Instant) {
        if conn.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() == IDLE_MAX {
            idle.remove(0);
        }
        idle.push(Idle { conn, since: now });
    }
}
