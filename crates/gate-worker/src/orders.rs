//! What a worker hears from its master and what it says to it.
//!
//! It decides nothing: the orders are obeyed elsewhere, and what follows from a word is the master's affair.
//!
//! Invariant: a master that is gone is no error; what is said to it is lost.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a worker has to tell its master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Requests are served. Said first and once, when TERM and QUIT are caught.
    Ready,
    /// It was told to leave, perhaps by somebody else, and begins to.
    Leaving,
    /// It should be replaced, for this reason. It serves on until it is told to leave; said once at most.
    Replace(String),
}

/// How a worker's words reach its master; the error says that nobody listens.
pub type Words = Box<dyn FnMut(Word) -> io::Result<()>>;

/// The way up, shared by all in the worker who have something to say.
pub(crate) struct Upward(RefCell<Words>);

impl Upward {
    pub(crate) fn new(words: Words) -> Self {
        Self(RefCell::new(words))
    }

    /// Says that requests are served.
    ///
    /// # Errors
    /// The master is gone, or TERM and QUIT cannot be let in.
    pub(crate) fn ready(&self) -> io::Result<()> {
        (self.0.borrow_mut())(Word::Ready)
    }

    /// Says something later on.
    pub(crate) fn tell(&self, word: Word) {
        if let Err(error) = (self.0.borrow_mut())(word) {
            log::debug!("the master does not listen: {error}");
        }
    }
}

/// What the worker can be told.
pub(crate) enum Order {
    /// To finish what it has and leave.
    Drain,
    /// To leave.
    Quit,
}

/// The master's word: by signal, or by its death.
pub(crate) struct Orders {
    term: Signal,
    quit: Signal,
    lifeline: Receiver,
}

impl Orders {
    /// Catches both signals.
    ///
    /// # Errors
    /// They cannot be caught, or the lifeline is no pipe.
    pub(crate) fn listen(lifeline: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            lifeline: Receiver::from_owned_fd(lifeline)?,
        })
    }

    /// Waits for the first order.
    pub(crate) async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.quit.recv() => Order::Quit,
            _ = self.term.recv() => Order::Drain,
            // Nothing is ever written there: readable means that the master is gone.
            _ = self.lifeline.readable() => {
                log::warn!("the master is gone: finishing what is in service");
                Order::Drain
            }
        }
    }

    /// Waits until it may wait no longer.
    pub(crate) async fn quit(&mut self) {
        self.quit.recv().await;
    }
}
