//! A request's body on its way in: from hyper, or around it.
//!
//! hyper hands a body on over a channel, and wakes the connection once more for each piece that is taken out of it. Most
//! requests come whole in one read, so that their bodies need neither: the wire tells hyper that there is none, and lays the
//! body aside for the request.
//!
//! Invariant: a body goes to the request with whose head it came: both have the same number on their connection.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;

/// Where the wire lays a body for the request that has not begun yet.
#[derive(Default)]
pub(crate) struct Aside {
    /// Requests that have begun on the connection.
    begun: Cell<u64>,
    laid: RefCell<Option<(u64, Bytes)>>,
}

impl Aside {
    /// Whether the request of this number is the next to begin, and no body waits for it.
    pub(crate) fn is_free_for(&self, number: u64) -> bool {
        number == self.begun.get() + 1 && self.laid.borrow().is_none()
    }

    /// Lays a body down.
    pub(crate) fn lay(&self, number: u64, body: Bytes) {
        *self.laid.borrow_mut() = Some((number, body));
    }

    /// The next request begins: its body, if that lies here.
    pub(crate) fn begin(&self) -> Option<Bytes> {
        let number = self.begun.get() + 1;
        self.begun.set(number);
        self.laid.borrow_mut().take_if(|(of, _)| *of == number).map(|(_, body)| body)
    }
}

/// A request's body.
pub(crate) struct Inbound {
    aside: Option<Bytes>,
    incoming: Incoming,
}

impl Inbound {
    pub(crate) fn new(aside: Option<Bytes>, incoming: Incoming) -> Self {
        Self { aside, incoming }
    }

    /// Whether nothing more is to come.
    pub(crate) fn is_over(&self) -> bool {
        self.aside.is_none() && self.incoming.is_end_stream()
    }

    /// Bytes to come, where that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.aside.as_ref().map_or_else(|| self.incoming.size_hint().exact(), |body| Some(body.len() as u64))
    }

    /// The next frame.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match self.aside.take() {
            Some(body) => Poll::Ready(Some(Ok(Frame::data(body)))),
            None => Pin::new(&mut self.incoming).poll_frame(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_goes_to_the_request_of_its_number() {
        let aside = Aside::default();
        assert!(aside.is_free_for(1) && !aside.is_free_for(2), "the first has not begun");
        assert_eq!(aside.begin(), None);
        assert!(aside.is_free_for(2) && !aside.is_free_for(1));
        aside.lay(2, Bytes::from_static(b"two"));
        assert!(!aside.is_free_for(2), "one waits already");
        assert_eq!(aside.begin().unwrap(), "two");
        aside.lay(4, Bytes::from_static(b"four"));
        assert_eq!(aside.begin(), None, "it is not the third's");
        assert_eq!(aside.begin().unwrap(), "four");
    }
}
