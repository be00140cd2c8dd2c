//! Requests of this process that wait in the queue.
//!
//! A place is woken by whoever grants it: in this process directly, from another through a bell. Now and then each process
//! looks at its places by itself, so that a wake-up that was never sent costs a tenth of a second.
//!
//! Invariant: a place is given up exactly once: by taking the slot, or by dropping it, which passes on a slot that was
//! granted in that very moment.

use std::rc::Rc;
use std::time::{Duration, Instant};

use gate_api::Rejection;
use gate_zone::clock;
use gate_zone::fleet::queue::{Arrival, Full, Grant, Standing, Ticket};
use gate_zone::fleet::slots::Slot;
use gate_zone::layout::backend::SLOT_COUNT;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::fit::{Anywhere, Fit};
use crate::fleet::{Fleet, Want, facts_of};
use crate::lease::{Lease, Queued, Way, Why};

/// How often each process looks at those of its requests that wait.
pub const LOOK: Duration = Duration::from_millis(100);

/// A request of this process that waits.
pub(crate) struct Place {
    ticket: Ticket,
    want: Want,
    granted: Notify,
}

/// It while it is waited for.
struct Waiting {
    fleet: Rc<Fleet>,
    place: Rc<Place>,
    came: Instant,
    position: usize,
}

/// What came of a grant.
enum Taken {
    /// The slot; the place is given up.
    Lease(Lease),
    /// A slot of a backend that is not known any more, and is given back; so is the place.
    Gone,
    /// The slot went another way: the place waits on.
    Nothing,
}

impl Fleet {
    /// Waits for a slot of one of the backends in `mask`.
    pub(crate) async fn wait(self: &Rc<Self>, want: &Want, mut mask: u64, came: Instant) -> Result<Lease, Rejection> {
        let after = self.rules.queue_timeout;
        loop {
            let waiting = self.enter(want, mask, came)?;
            match timeout(after.saturating_sub(came.elapsed()), waiting.granted()).await {
                Ok(Some(lease)) => return Ok(lease),
                // Its address has gone while the request waited for it: there may be others.
                Ok(None) => mask = self.eligible(&self.members(), want)?,
                Err(_) => return Err(Rejection::QueueTimeout { after, retry: self.retry(mask) }),
            }
        }
    }

    fn enter(self: &Rc<Self>, want: &Want, mask: u64, came: Instant) -> Result<Waiting, Rejection> {
        let arrival = Arrival {
            holder: self.holder,
            client: want.client,
            want: want.instance.to_word(),
            backends: mask,
            cost: want.cost,
            now_ms: clock::monotonic_ms(),
        };
        let bounds = self.rules.queue;
        let ticket = self.queue().enter(&arrival, bounds).map_err(|full| match full {
            Full::All => Rejection::QueueFull { retry: self.retry(mask) },
            Full::Client => Rejection::ClientQueueFull { limit: bounds.per_client as u64, retry: self.retry(mask) },
        })?;
        let place = Rc::new(Place { ticket, want: want.clone(), granted: Notify::new() });
        self.waiting.borrow_mut().push(Rc::clone(&place));
        let position = self.queue().position(ticket, mask);
        let waiting = Waiting { fleet: Rc::clone(self), place, came, position };
        self.came.notify_one();
        // A slot may have become free that nobody has seen this request wait for.
        self.look_again(mask, Some(want));
        Ok(waiting)
    }

    /// Wakes those that have been granted a slot.
    pub fn attend(&self) {
        for place in self.waiting.borrow().iter() {
            if let Standing::Granted(_) = self.queue().standing(place.ticket) {
                place.granted.notify_one();
            }
        }
    }

    /// Looks at all that wait: which backends may serve them now, and whether one of those has a free slot.
    pub fn look(self: &Rc<Self>) {
        let members = self.members();
        let mut all = 0;
        for place in self.waiting.borrow().iter() {
            if let Ok(mask) = self.eligible(&members, &place.want) {
                self.queue().change_backends(place.ticket, mask);
                all |= mask;
            }
        }
        self.look_again(all, None);
        self.attend();
    }

    /// Whether a request of this process waits.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Comes back when one does.
    pub async fn one_waits(&self) {
        while !self.has_waiting() {
            self.came.notified().await;
        }
    }

    /// Takes what was granted.
    fn accept(self: &Rc<Self>, waiting: &Waiting, grant: Grant) -> Taken {
        let Place { ticket, want, .. } = &*waiting.place;
        let members = self.members();
        let cell = self.cells.cell(grant.backend);
        let slot = &cell.slots(SLOT_COUNT)[grant.slot];
        let tag = want.instance.tag();
        // Asked before it is taken: the note of the load is this request's own.
        let fit = if cell.holds(want.instance) { Fit::Loaded } else { self.loads_what(want, grant.backend) };
        if !self.queue().accept(*ticket, slot, self.holder, tag) {
            return Taken::Nothing;
        }
        let Some(member) = members.iter().find(|member| member.cell.index() == grant.backend) else {
            let held = Slot::Held { by: self.holder, tag }.to_word();
            self.queue().pass_on(slot, (held, grant.backend, grant.slot), || None);
            return Taken::Gone;
        };
        let queued = Queued { waited: waiting.came.elapsed(), position: waiting.position };
        let why = Why { fit, way: Way::Queue };
        Taken::Lease(Lease::new(self, Rc::clone(member), (grant.slot, want.instance), why, queued))
    }

    /// What a grant for a model that is not in memory means.
    fn loads_what(&self, want: &Want, backend: usize) -> Fit {
        let members = self.members();
        let Some(member) = members.iter().find(|member| member.cell.index() == backend) else { return Fit::Cold };
        if member.cell.serves(want.instance.tag()) {
            return Fit::Loading;
        }
        let elsewhere = members.iter().any(|member| member.cell.holds(want.instance));
        let anywhere = if elsewhere { Anywhere::InMemory } else { Anywhere::Nowhere };
        Fit::of(&facts_of(self.cells, member, want.instance), anywhere)
    }
}

impl Waiting {
    /// A lease; none if its place is given up for a backend that has gone.
    async fn granted(&self) -> Option<Lease> {
        loop {
            if let Standing::Granted(grant) = self.fleet.queue().standing(self.place.ticket) {
                match self.fleet.accept(self, grant) {
                    Taken::Lease(lease) => {
                        self.forget();
                        return Some(lease);
                    }
                    Taken::Gone => {
                        self.forget();
                        return None;
                    }
                    // Somebody else may wait for what this one did not get.
                    Taken::Nothing => self.fleet.look(),
                }
            }
            self.place.granted.notified().await;
        }
    }

    fn forget(&self) {
        self.fleet.waiting.borrow_mut().retain(|place| !Rc::ptr_eq(place, &self.place));
    }

    fn is_over(&self) -> bool {
        !self.fleet.waiting.borrow().iter().any(|place| Rc::ptr_eq(place, &self.place))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.is_over() {
            return;
        }
        self.forget();
        while let Some(grant) = self.fleet.queue().leave(self.place.ticket, self.fleet.holder) {
            match self.fleet.accept(self, grant) {
                // Its slot goes to the next with it.
                Taken::Lease(_) | Taken::Gone => return,
                Taken::Nothing => {}
            }
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
