//! A slot of a backend, held for one request.
//!
//! Invariant: it is given back exactly once: by dropping it, or, when the process is killed, by the master.

use std::rc::Rc;
use std::time::{Duration, Instant};

use gate_zone::Fleet as Cells;
use gate_zone::clock;
use gate_zone::fleet::queue::Waiter;
use gate_zone::fleet::slots::{self, Holder, Slot};
use gate_zone::fleet::{Cell, Instance, breaker, loads};
use gate_zone::layout::backend::SLOT_COUNT;
use gate_zone::word::Word;

use crate::ask::Ask;
use crate::backend::{Exchange, Failed, Patience};
use crate::fit::Fit;
use crate::fleet::Fleet;
use crate::loading;
use crate::member::Member;

/// Why a backend was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Why {
    /// What serving means for it.
    pub fit: Fit,
    /// How it came to the request.
    pub way: Way,
}

/// How a request came to its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It was the only backend that could serve it.
    Only,
    /// It was the best of several.
    Best,
    /// Its breaker was open, and this request tries it.
    Trial,
    /// The request waited in the queue.
    Queue,
}

impl Way {
    /// As it stands in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Only => "only",
            Self::Best => "best",
            Self::Trial => "trial",
            Self::Queue => "queue",
        }
    }
}

/// How a request waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Queued {
    /// For how long.
    pub waited: Duration,
    /// How many were in front of it when it came, itself included; 0 if it did not wait.
    pub position: usize,
}

/// A slot of a backend.
pub struct Lease {
    fleet: Rc<Fleet>,
    /// The backend.
    pub member: Rc<Member>,
    slot: usize,
    instance: Instance,
    /// Since when it is held.
    pub since: Instant,
    answered: bool,
    /// Its client has left, and it goes on for others.
    pub(crate) is_left_behind: bool,
    /// It tries a backend whose breaker was open, and that is not decided yet.
    tries: bool,
    /// Why this backend.
    pub why: Why,
    /// How long the request waited for it.
    pub queued: Queued,
}

impl Lease {
    pub(crate) fn new(
        fleet: &Rc<Fleet>,
        member: Rc<Member>,
        (slot, instance): (usize, Instance),
        why: Why,
        queued: Queued,
    ) -> Self {
        let fleet = Rc::clone(fleet);
        let is_trial = || matches!(member.cell.breaker_state(clock::monotonic_ms()), breaker::State::Trial);
        let tries = why.way == Way::Trial || (why.way == Way::Queue && is_trial());
        Self {
            fleet,
            member,
            slot,
            instance,
            since: Instant::now(),
            answered: false,
            is_left_behind: false,
            tries,
            why,
            queued,
        }
    }

    /// Sends the request and waits for the head of the answer. Dropped before, it is cancelled; but where the model is
    /// being loaded for others as well, it goes on until that is done. Called on a `LocalSet`.
    ///
    /// # Errors
    /// See [`Backend::ask`](crate::Backend::ask); the breaker has been told, and the slot is given back.
    pub async fn serve(mut self, ask: &Ask, load: Duration, first_byte: Duration) -> Result<(Exchange, Self), Failed> {
        if self.why.fit == Fit::Loaded {
            return self.ask(ask, load, first_byte).await.map(|exchange| (exchange, self));
        }
        // In a box: few requests load a model.
        Box::pin(loading::ask(self, ask.clone(), (load, first_byte))).await
    }

    /// Sends the request and waits for the head of the answer, with the patience that the model's state asks for.
    pub(crate) async fn ask(&mut self, ask: &Ask, load: Duration, first_byte: Duration) -> Result<Exchange, Failed> {
        let (cell, instance) = (self.member.cell, self.instance);
        let is_loaded = || cell.holds(instance);
        self.member.backend.heed(cell.failed_count());
        let asked = self.member.backend.ask(ask, Patience { load, first_byte, is_loaded: &is_loaded }).await;
        self.tries = false;
        match &asked {
            Ok(exchange) if exchange.head.status.is_success() => self.answers(),
            // It lives, and has not loaded the model for that.
            Ok(_) => breaker::succeeded(cell.breaker()),
            Err(_) => self.broke(),
        }
        asked
    }

    fn answers(&mut self) {
        self.answered = true;
        let cell = self.member.cell;
        // Others need not wait for the end of a long answer. Failures in a row end with an answer that is whole.
        if matches!(self.why.way, Way::Trial | Way::Queue) && !cell.is_closed() {
            breaker::succeeded(cell.breaker());
        }
        // Most answers prove nothing new: the monitor keeps what is known.
        if self.why.fit != Fit::Loaded || !cell.holds(self.instance) {
            cell.note(self.instance, clock::monotonic_ms());
        }
    }

    /// Says that the answer came to its end.
    pub fn completed(&self) {
        breaker::succeeded(self.member.cell.breaker());
    }

    /// Says that the answer broke off.
    pub fn broke(&self) {
        let cell = self.member.cell;
        cell.count_failure();
        breaker::failed(cell.breaker(), self.fleet.rules.breaker, clock::monotonic_ms());
    }

    /// Says how long the model took to load, as the backend told.
    pub fn loaded_in(&self, load: Duration) {
        if self.why.fit.is_load() {
            self.member.cell.loaded(load.as_millis() as u64);
        }
    }

    /// Says that the model leaves memory with this request.
    pub fn unloads(&self) {
        self.member.cell.forget(self.instance.name);
    }

    /// What it is to load, and where.
    pub(crate) fn wish(&self) -> Wish {
        let (by, instance) = (self.fleet.holder, self.instance);
        Wish { cells: self.cells(), cell: self.member.cell, slot: self.slot, by, instance }
    }

    fn cells(&self) -> Cells {
        self.fleet.cells
    }
}

/// A model that a backend is to load.
#[derive(Clone, Copy)]
pub(crate) struct Wish {
    cells: Cells,
    cell: Cell,
    slot: usize,
    by: Holder,
    instance: Instance,
}

impl Wish {
    /// Says that the client has left: the slot does not count as somebody's who wants the model any more.
    pub(crate) fn leave_behind(self) {
        let tag = self.instance.tag();
        let held = |tag| Slot::Held { by: self.by, tag }.to_word();
        let slot = &self.cell.slots(SLOT_COUNT)[self.slot];
        // Nobody else changes a slot that is held.
        let _always = Word::compare_exchange(slot, held(tag), held(slots::left_behind(tag)));
    }

    /// Whether another request for the model, whose client is there, is in service here.
    fn is_served_to_others(self) -> bool {
        let tag = self.instance.tag();
        self.cell.slots(SLOT_COUNT).iter().enumerate().any(|(place, word)| {
            place != self.slot
                && matches!(Slot::from_word(Word::load(word)), Slot::Held { tag: held, .. } if held == tag)
        })
    }

    /// Whether the model is not there yet, and others want it of this backend.
    pub(crate) fn is_shared(self) -> bool {
        let wants = |waiter: Waiter| waiter.want == self.instance.to_word() && waiter.backends & self.cell.bit() != 0;
        !self.cell.holds(self.instance) && (self.is_served_to_others() || self.cells.queue().waiters().any(wants))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.answered {
            self.member.cell.served(self.since.elapsed().as_micros() as u64);
        }
        if self.tries {
            breaker::leave_trial(self.member.cell.breaker(), clock::monotonic_ms());
        }
        // A backend that has not loaded the model yet does so for others that ask for it here.
        let is_over = || self.answered || self.member.cell.holds(self.instance) || !self.wish().is_served_to_others();
        if self.why.fit != Fit::Loaded && is_over() {
            loads::end(self.cells().loads(), self.instance.tag(), self.member.cell.index());
        }
        let tag = self.instance.tag();
        let tag = if self.is_left_behind { slots::left_behind(tag) } else { tag };
        let held = Slot::Held { by: self.fleet.holder, tag };
        self.fleet.give(&self.member, self.slot, held.to_word());
    }
}

#[cfg(test)]
mod tests;
