//! How far a worker is in leaving: it serves, it drains, it cuts.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::wire::Line;

/// Shared by everything in the worker that has to know, and the list of connections that must look when it changes.
#[derive(Default)]
pub(crate) struct Drain {
    since: Cell<Option<Instant>>,
    cut: Cell<Cut>,
    lines: RefCell<HashMap<u64, Weak<Line>>>,
    next: Cell<u64>,
    fewer: Notify,
    begun: Notify,
}

/// Whether what is still in service ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Cut {
    /// It may finish.
    #[default]
    NotYet,
    /// The deadline has come.
    Now,
}

impl Drain {
    /// When draining began; `None` while the worker serves.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since.get()
    }

    /// Whether what is in service must end.
    pub(crate) fn cut(&self) -> Cut {
        self.cut.get()
    }

    /// Begins to drain: idle connections get a short while, answers say that they are the last.
    pub(crate) fn begin(&self) {
        self.since.set(Some(Instant::now()));
        self.begun.notify_waiters();
        self.wake_all();
    }

    /// Waits until draining begins.
    pub(crate) async fn begun(&self) {
        let begun = self.begun.notified();
        if self.since().is_none() {
            begun.await;
        }
    }

    /// Ends what is in service, each in its own dialect.
    pub(crate) fn cut_now(&self) {
        self.cut.set(Cut::Now);
        self.wake_all();
    }

    fn wake_all(&self) {
        // A woken connection may go and change the list.
        let lines: Vec<_> = self.lines.borrow().values().filter_map(Weak::upgrade).collect();
        for line in lines {
            line.wake();
        }
    }

    /// Counts a connection in, until the returned place is dropped.
    pub(crate) fn join(self: &Rc<Self>, line: &Rc<Line>) -> Place {
        let number = self.next.get();
        self.next.set(number + 1);
        self.lines.borrow_mut().insert(number, Rc::downgrade(line));
        Place { drain: Rc::clone(self), number }
    }

    /// Open connections.
    pub(crate) fn connections(&self) -> usize {
        self.lines.borrow().len()
    }

    /// Waits until a connection has closed.
    pub(crate) async fn fewer(&self) {
        self.fewer.notified().await;
    }
}

/// A connection's place in the list.
pub(crate) struct Place {
    drain: Rc<Drain>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.drain.lines.borrow_mut().remove(&self.number);
        self.drain.fewer.notify_waiters();
    }
}
