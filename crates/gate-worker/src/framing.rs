//! Where a request begins and ends, byte by byte, stricter than the parser behind it.
//!
//! hyper answers bad heads by itself, reads a Content-Length beside chunked as chunked, takes a missing or doubled Host
//! and lenient chunk lines. So each head is judged here first and each body's framing followed, and only bytes that
//! have passed go on. It does no I/O, keeps no copy and knows no time.
//!
//! Invariant: what was released up to a message's end is one message, to every parser that keeps to RFC 9112.

use gate_api::Rejection;

use std::ops::Range;

mod chunks;
mod head;

pub(crate) use head::Caps;

use chunks::Chunks;
use head::{TARGET_MAX, Whole};

/// What may be released of the bytes at hand.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// This many more bytes, at least one.
    Release(usize),
    /// None before more have come.
    More,
    /// None ever: the message is refused.
    Refuse(Rejection),
}

/// Follows the messages of one connection.
#[derive(Debug)]
pub(crate) struct Framer {
    caps: Caps,
    at: At,
    /// Heads released.
    heads: u64,
    /// The last of them.
    last: Whole,
}

#[derive(Debug)]
enum At {
    /// Before or in a head. Bytes that were searched for its end already.
    Head { searched: usize },
    /// In a body with this many bytes to come.
    Length(u64),
    /// In a chunked body.
    Chunked(Chunks),
}

/// How a request's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Content-Length, or no body.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

impl Framer {
    pub(crate) fn new(caps: Caps) -> Self {
        let caps = Caps { target: caps.target.min(TARGET_MAX), ..caps };
        Self { caps, at: At::Head { searched: 0 }, heads: 0, last: Whole::default() }
    }

    /// Whether the next byte begins a new message.
    pub(crate) fn between_messages(&self) -> bool {
        matches!(self.at, At::Head { .. })
    }

    /// How many heads were released: the number of the last.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// How long that was.
    pub(crate) fn head_length(&self) -> usize {
        self.last.length
    }

    /// Where the digits of its Content-Length stand in it; empty without one.
    pub(crate) fn length_digits(&self) -> Range<usize> {
        self.last.digits.clone()
    }

    /// Judges `bytes`: those that have come and were not released yet.
    pub(crate) fn judge(&mut self, bytes: &[u8]) -> Verdict {
        if bytes.is_empty() {
            return Verdict::More;
        }
        match &mut self.at {
            At::Head { searched } => match head::judge(bytes, searched, &self.caps) {
                Ok(Some(whole)) => {
                    let length = whole.length;
                    self.at = after_head(whole.framing);
                    self.heads += 1;
                    self.last = whole;
                    Verdict::Release(length + self.rest_of_body(&bytes[length..]))
                }
                Ok(None) => Verdict::More,
                Err(refused) => Verdict::Refuse(refused),
            },
            At::Length(_) => Verdict::Release(self.rest_of_body(bytes)),
            At::Chunked(chunks) => match chunks.follow(bytes) {
                Ok(0) => Verdict::More,
                Ok(here) => {
                    if chunks.ended() {
                        self.at = At::Head { searched: 0 };
                    }
                    Verdict::Release(here)
                }
                Err(reason) => Verdict::Refuse(Rejection::MalformedHead { reason }),
            },
        }
    }

    /// How many of `bytes` belong to a body whose length is known. Released with its head, a short one costs hyper no second
    /// look at the socket.
    fn rest_of_body(&mut self, bytes: &[u8]) -> usize {
        let At::Length(left) = &mut self.at else { return 0 };
        let here = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        *left -= here as u64;
        if *left == 0 {
            self.at = At::Head { searched: 0 };
        }
        here
    }
}

fn after_head(framing: Framing) -> At {
    match framing {
        Framing::Length(0) => At::Head { searched: 0 },
        Framing::Length(length) => At::Length(length),
        Framing::Chunked => At::Chunked(Chunks::default()),
    }
}

#[cfg(test)]
mod tests;
