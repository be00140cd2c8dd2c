//! An answer's body, and with it the connection it comes over.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::gather::{Gather, OverCap};
use crate::pool::{Conn, Pool};
use crate::within::within;

/// The body of a backend's answer. Dropped at its end, it gives the connection back; dropped earlier, it closes it.
pub struct UpstreamBody {
    incoming: Incoming,
    conn: Option<Conn>,
    pool: Rc<Pool>,
    end: End,
}

#[derive(PartialEq, Eq)]
enum End {
    NotSeen,
    Seen,
}

/// Why a body could not be read whole.
#[derive(Debug)]
pub enum ReadFailed {
    /// It is over the cap. Fault: backend.
    TooLarge,
    /// It paused too long. Fault: backend.
    Pause,
    /// It was cut. Fault: backend.
    Cut(hyper::Error),
}

impl UpstreamBody {
    pub(crate) fn new(incoming: Incoming, conn: Conn, pool: Rc<Pool>) -> Self {
        Self { incoming, conn: Some(conn), pool, end: End::NotSeen }
    }

    /// Reads all of it, up to `max` bytes, with pauses of at most `pause`.
    ///
    /// # Errors
    /// See [`ReadFailed`].
    pub async fn whole(mut self, max: usize, pause: Duration) -> Result<Bytes, ReadFailed> {
        let mut gather = Gather::default();
        loop {
            let frame = within(pause, self.frame()).await.map_err(|_| ReadFailed::Pause)?;
            let Some(frame) = frame else { return Ok(gather.whole()) };
            let Ok(data) = frame.map_err(ReadFailed::Cut)?.into_data() else { continue };
            gather.add(data, max).map_err(|OverCap| ReadFailed::TooLarge)?;
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { incoming, conn, end, .. } = &mut *self;
        let Some(conn) = conn else { return Poll::Ready(None) };
        let polled = conn.poll_with(cx, |cx| Pin::new(&mut *incoming).poll_frame(cx));
        if let Poll::Ready(None) = polled {
            *end = End::Seen;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        // A body with a known length ends with its last byte, before anybody has asked for the frame after it.
        if (self.end == End::Seen || self.incoming.is_end_stream())
            && let Some(conn) = self.conn.take()
        {
            self.pool.give(conn, Instant::now());
        }
    }
}
