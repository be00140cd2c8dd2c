//! An answer's body, and with it the connection it comes over.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use gate_api::Rejection;
use gate_api::rejection::{Breakage, Phase};

use crate::decode::{Body, Broken, Step};
use crate::gather::{Gather, OverCap};
use crate::head::After;
use crate::pool::{Conn, Pool};
use crate::within::within;

/// The body of a backend's answer. It gives its connection back at its end; dropped before, it closes it.
#[derive(Debug)]
pub struct UpstreamBody {
    conn: Option<Conn>,
    body: Body,
    after: After,
    pool: Rc<Pool>,
}

/// A body that did not come to its end. Fault: backend.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cut {
    /// The connection failed.
    Io(io::Error),
    /// The connection ended, or the framing was broken: how.
    Framing(Broken),
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Framing(broken) => f.write_str(broken),
        }
    }
}

impl std::error::Error for Cut {}

/// Why a body could not be read whole.
#[derive(Debug)]
pub enum ReadFailed {
    /// It is over the cap. Fault: backend.
    TooLarge,
    /// It paused too long. Fault: backend.
    Pause,
    /// It was cut. Fault: backend.
    Cut(Cut),
}

impl ReadFailed {
    /// As a refusal, for a body that was read with these bounds.
    pub fn rejection(self, max: usize, pause: Duration) -> Rejection {
        match self {
            Self::Pause => Rejection::BackendTimeout { phase: Phase::BetweenChunks, after: pause },
            Self::TooLarge => Rejection::BackendBroken { what: Breakage::TooLarge, cause: format!("over {max} bytes") },
            Self::Cut(cut) => Rejection::BackendBroken { what: Breakage::ClosedEarly, cause: cut.to_string() },
        }
    }
}

impl UpstreamBody {
    pub(crate) fn new(conn: Conn, body: Body, after: After, pool: Rc<Pool>) -> Self {
        let mut begun = Self { conn: Some(conn), body, after, pool };
        begun.give_back();
        begun
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// See [`Cut`]; nothing more comes then.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            let Some(conn) = &mut self.conn else { return Poll::Ready(None) };
            match self.body.decode(&mut conn.inbox) {
                Ok(Step::Data(data)) => {
                    self.give_back();
                    return Poll::Ready(Some(Ok(data)));
                }
                Ok(Step::End) => self.give_back(),
                Ok(Step::More) => match conn.poll_fill(cx, &self.pool) {
                    Poll::Ready(Ok(0)) => match self.body.closed() {
                        Ok(()) => self.conn = None,
                        Err(broken) => return self.cut(Cut::Framing(broken)),
                    },
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return self.cut(Cut::Io(error)),
                    Poll::Pending => return Poll::Pending,
                },
                Err(broken) => return self.cut(Cut::Framing(broken)),
            }
        }
    }

    fn cut(&mut self, cut: Cut) -> Poll<Option<Result<Bytes, Cut>>> {
        self.conn = None;
        Poll::Ready(Some(Err(cut)))
    }

    /// At the body's end: the connection goes back, if nothing speaks against it.
    fn give_back(&mut self) {
        if !self.body.is_over() {
            return;
        }
        if let Some(conn) = self.conn.take()
            && self.after == After::Keep
            && conn.inbox.is_empty()
        {
            self.pool.give(conn);
        }
    }

    /// Reads all of it, up to `max` bytes, with pauses of at most `pause`.
    ///
    /// # Errors
    /// See [`ReadFailed`].
    pub async fn whole(mut self, max: usize, pause: Duration) -> Result<Bytes, ReadFailed> {
        let mut gather = Gather::default();
        loop {
            let next = within(pause, std::future::poll_fn(|cx| self.poll_data(cx))).await;
            let Some(data) = next.map_err(|_| ReadFailed::Pause)? else { return Ok(gather.whole()) };
            gather.add(data.map_err(ReadFailed::Cut)?, max).map_err(|OverCap| ReadFailed::TooLarge)?;
        }
    }
}
