//! How far a worker is in leaving: it serves, it drains, it cuts; first what has no answer yet, then everything.
//!
//! It ends nothing itself: connections and requests look here and end in their own dialect. Invariant: from one step to
//! the next there is no way back.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::gate::Gate;
use crate::orders::{Order, Orders};
use crate::wire::Line;

/// What is cut at the deadline gets this long to be written.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Lets what is in service finish: requests within the graceful timeout, answers that have begun within the stream
/// timeout. Then ends it, or at once where that was the order.
pub(crate) async fn leave(gate: &Gate, accepting: Vec<JoinHandle<()>>, orders: &mut Orders, order: Order) {
    let drain = &gate.ground.drain;
    drain.begin();
    match order {
        Order::Drain => finish(gate, accepting, orders).await,
        Order::Quit => {}
    }
    if drain.connections() == 0 {
        return;
    }
    drain.cut_all();
    // What is not written by then is lost to a client that does not read.
    if timeout(LAST_WORDS, drain.down_to_none(Drain::connections)).await.is_err() {
        log::warn!("{} clients did not take their last answer", drain.connections());
    }
}

/// Waits until nothing is left, or may be left any longer.
async fn finish(gate: &Gate, accepting: Vec<JoinHandle<()>>, orders: &mut Orders) {
    let drain = &gate.ground.drain;
    let began = Instant::now();
    let empty = async {
        // Those that wait to be accepted are in service too.
        for task in accepting {
            if let Err(error) = task.await {
                log::error!("a listener's task ended early: {error}");
            }
        }
        drain.down_to_none(Drain::connections).await;
    };
    tokio::select! {
        () = empty => return,
        () = sleep_until(began + gate.plan.graceful_timeout) => {}
        () = orders.quit() => return,
    }
    drain.cut_unanswered();
    let (open, staying) = (drain.connections(), drain.staying());
    log::warn!("{open} connections are still open at the end of graceful_timeout: {staying} may finish their answer");
    tokio::select! {
        () = drain.down_to_none(Drain::staying) => {}
        () = sleep_until(began + gate.plan.stream_timeout) => {
            log::warn!("{} answers are not finished at the end of stream_timeout: ending them", drain.staying());
        }
        () = orders.quit() => {}
    }
}

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

/// What of that which is still in service ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Cut {
    /// Nothing: it may finish.
    #[default]
    NotYet,
    /// Requests whose answer had not begun at the deadline.
    Unanswered,
    /// Everything.
    All,
}

impl Drain {
    /// When draining began; `None` while the worker serves.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since.get()
    }

    /// What must end.
    pub(crate) fn cut(&self) -> Cut {
        self.cut.get()
    }

    /// Whether a request on this connection must end, unless its answer has begun.
    pub(crate) fn ends_requests_of(&self, line: &Line) -> bool {
        match self.cut.get() {
            Cut::NotYet => false,
            // Behind an answer that went on, the client may have asked again before it could know.
            Cut::Unanswered => !line.stays(),
            Cut::All => true,
        }
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

    /// Ends requests whose answer has not begun. Connections with one that has stay until they are done.
    pub(crate) fn cut_unanswered(&self) {
        for line in self.lines() {
            line.stay_if_answering();
        }
        self.cut.set(Cut::Unanswered);
        self.wake_all();
    }

    /// Ends everything.
    pub(crate) fn cut_all(&self) {
        self.cut.set(Cut::All);
        self.wake_all();
    }

    fn wake_all(&self) {
        for line in self.lines() {
            line.wake();
        }
    }

    /// A copy: a connection that is looked at may go and change the list.
    fn lines(&self) -> Vec<Rc<Line>> {
        self.lines.borrow().values().filter_map(Weak::upgrade).collect()
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

    /// Open connections that were in the middle of an answer when those without one were ended.
    fn staying(&self) -> usize {
        self.lines().iter().filter(|line| line.stays()).count()
    }

    /// Waits until there are none of those that `count` counts.
    async fn down_to_none(&self, count: impl Fn(&Self) -> usize) {
        while count(self) > 0 {
            self.fewer().await;
        }
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
