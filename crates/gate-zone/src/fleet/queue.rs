//! The queue: requests of all processes that wait for a slot, in one bounded array.
//!
//! An entry goes EMPTY → CLAIMED → WAITING → GRANTED → CLAIMED → EMPTY; while it is CLAIMED it is one process's to write.
//! Whoever has a slot to give ([`Queue::pass_on`]) makes the slot an offer to one waiter, then grants that entry; the
//! waiter takes the offer. So a slot is at every moment free, held or offered, and never in two hands:
//!
//! - The one that gives dies before the grant: its slot names it, and is freed by whoever settles the dead. Nobody has
//!   been promised anything.
//! - It dies behind the grant: the slot may be freed under the waiter, which then takes it if it is still free, or waits on.
//! - The waiter dies: its entry names it, and so does what it took.
//! - The waiter leaves while it is granted: it has the slot then, and passes it on itself.
//!
//! No wake-up is lost: whoever gives a slot back looks at the queue again after the slot is free, and whoever enters looks
//! at the slots again after its entry can be seen. Of the two, at least one sees the other.
//!
//! Who goes first is said by the start tag (start-time fair queueing, Goyal, Vin and Cheng 1996): a request's tag is the
//! later of virtual time and its client's last finish tag, and the finish tag is one cost later. A client that asks more
//! than the others gets tags that lie further and further ahead. Who leaves unserved gives one cost back, else a client whose
//! requests time out would pay for what it never got, and starve.
//!
//! Invariants: every step is one swap; an entry that is not EMPTY names its process; the number of waiters of all, and of
//! one client, is never above its bound (two that come at the same moment for the last place may both be refused).

use std::sync::atomic::AtomicU64;

use super::slots::{self, FREE, Holder, Slot};
use crate::layout::{entry, queue};
use crate::limiter;
use crate::word::{Word, update};

const EMPTY: u64 = 0;
const CLAIMED: u64 = 1;
const WAITING: u64 = 2;
const GRANTED: u64 = 3;
const KIND_MASK: u64 = 0xff;
const BACKEND: u32 = 8;
const SLOT: u32 = 16;
const TICKET: u32 = 24;

/// Beside its owner, an entry keeps what its client's finish tag was moved by.
const PAID: u32 = 32;

/// Virtual time is kept in so many bits beside a client's tag.
const VIRTUAL_BITS: u32 = 44;
const VIRTUAL_MASK: u64 = (1 << VIRTUAL_BITS) - 1;

/// The cost of a request of a client with weight 1, in units of virtual time. 44 bits are room for 1.7e10 of them.
pub const COST: u64 = 1024;

/// What the retry budget holds, in tenths of a retry.
const BUDGET: u64 = 100;

/// What a retry costs of it. A request gives back one tenth.
const RETRY: u64 = 10;

/// The queue's words.
#[derive(Debug)]
pub struct Queue<'a, W = AtomicU64> {
    head: &'a [W],
    entries: &'a [W],
    tags: &'a [W],
}

impl<W> Clone for Queue<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Queue<'_, W> {}

/// A request that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Its process.
    pub holder: Holder,
    /// Hash of its client.
    pub client: u64,
    /// The instance it needs, as a word.
    pub want: u64,
    /// A bit for each backend that may serve it.
    pub backends: u64,
    /// [`COST`] over its client's weight; at least 1.
    pub cost: u64,
    /// `CLOCK_MONOTONIC` in ms.
    pub now_ms: u64,
}

/// How many may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Of all clients.
    pub all: usize,
    /// Of one.
    pub per_client: usize,
}

/// Why a request cannot wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Every place is taken.
    All,
    /// Every place that its client may have is taken.
    Client,
}

/// A place in the queue, taken by [`Queue::enter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    entry: u16,
    number: u64,
}

/// A slot that a waiter was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The backend's cell.
    pub backend: usize,
    /// The slot there.
    pub slot: usize,
}

/// How a place stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its turn has not come.
    Waiting,
    /// It has: [`Queue::accept`] comes next.
    Granted(Grant),
}

/// One that waits, as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    /// Its place.
    pub ticket: Ticket,
    /// Its process.
    pub holder: Holder,
    /// Hash of its client.
    pub client: u64,
    /// When it is due, in virtual time.
    pub start: u64,
    /// The instance it needs, as a word.
    pub want: u64,
    /// The backends that may serve it.
    pub backends: u64,
    /// When it came, in ms.
    pub since_ms: u64,
    /// When it was first passed by another for want of a loaded model, in ms; 0 if never.
    pub passed_ms: u64,
}

impl Waiter {
    /// Who is due first has the lower one; no two are alike.
    pub fn due(&self) -> (u64, u64) {
        (self.start, self.ticket.number)
    }
}

/// What became of a slot that was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// It is free, or another process's business by now.
    Free,
    /// A waiter of this process has it and is to be woken.
    To(Holder),
}

impl<'a, W: Word> Queue<'a, W> {
    /// A queue over its words: the head, whole entries, and sets of finish tags.
    pub fn new(head: &'a [W], entries: &'a [W], tags: &'a [W]) -> Self {
        Self { head, entries, tags }
    }

    fn word(self, index: usize, offset: usize) -> &'a W {
        &self.entries[index * entry::WORDS + offset]
    }

    fn room(self) -> usize {
        self.entries.len() / entry::WORDS
    }

    /// The entries in use, lowest first.
    fn occupied(self) -> impl Iterator<Item = usize> {
        let words = self.room().div_ceil(64);
        (0..words).flat_map(move |word| {
            let mut bits = self.head[queue::OCCUPIED + word].load();
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
                bits &= bits - 1;
                Some(word * 64 + bit)
            })
        })
    }

    /// Whether nobody waits, by one look at few words.
    pub fn is_empty(self) -> bool {
        let words = self.room().div_ceil(64);
        self.head[queue::OCCUPIED..queue::OCCUPIED + words].iter().all(|word| word.load() == 0)
    }

    /// All that wait, in no order. Each was whole when it was read.
    pub fn waiters(self) -> impl Iterator<Item = Waiter> {
        self.occupied().filter_map(move |index| self.waiter(index))
    }

    fn waiter(self, index: usize) -> Option<Waiter> {
        let state = self.word(index, entry::STATE).load();
        if state & KIND_MASK != WAITING {
            return None;
        }
        let load = |offset| self.word(index, offset).load();
        let waiter = Waiter {
            ticket: Ticket { entry: index as u16, number: state >> TICKET },
            holder: Holder::from_word(load(entry::OWNER)),
            client: load(entry::CLIENT),
            start: load(entry::START),
            want: load(entry::WANT),
            backends: load(entry::BACKENDS),
            since_ms: load(entry::SINCE),
            passed_ms: load(entry::PASSED),
        };
        // Fields are written while the entry is CLAIMED, and the next owner has another ticket.
        (self.word(index, entry::STATE).load() == state).then_some(waiter)
    }

    /// Takes a place at the end of its client's line.
    ///
    /// The caller looks at the slots next: one may have become free that nobody who gives has seen it wait for.
    ///
    /// # Errors
    /// [`Full`]; nothing is left behind.
    pub fn enter(self, arrival: &Arrival, bounds: Bounds) -> Result<Ticket, Full> {
        let of_client = |own: usize| {
            let others = self.occupied().filter(|index| *index != own).filter_map(|index| self.client_of(index));
            others.filter(|client| *client == arrival.client).count()
        };
        if of_client(usize::MAX) >= bounds.per_client {
            return Err(Full::Client);
        }
        let claimed = CLAIMED | arrival.holder.to_word() << BACKEND;
        let index = self.claim(bounds.all, claimed).ok_or(Full::All)?;
        self.mark(index);
        let number = update(&self.head[queue::TICKETS], |drawn| Some(drawn + 1)) & (u64::MAX >> TICKET);
        let store = |offset, value| self.word(index, offset).store(value);
        let cost = arrival.cost.clamp(1, u64::from(u32::MAX));
        store(entry::OWNER, cost << PAID | arrival.holder.to_word());
        store(entry::CLIENT, arrival.client);
        store(entry::START, self.start_tag(arrival.client, cost));
        store(entry::WANT, arrival.want);
        store(entry::BACKENDS, arrival.backends);
        store(entry::SINCE, arrival.now_ms);
        store(entry::PASSED, 0);
        self.word(index, entry::STATE).store(WAITING | number << TICKET);
        W::fence();
        let ticket = Ticket { entry: index as u16, number };
        if of_client(index) >= bounds.per_client && self.leave(ticket, arrival.holder).is_none() {
            return Err(Full::Client);
        }
        Ok(ticket)
    }

    fn client_of(self, index: usize) -> Option<u64> {
        let state = self.word(index, entry::STATE).load() & KIND_MASK;
        matches!(state, WAITING | GRANTED).then(|| self.word(index, entry::CLIENT).load())
    }

    fn claim(self, bound: usize, claimed: u64) -> Option<usize> {
        (0..self.room().min(bound)).find(|index| {
            let state = self.word(*index, entry::STATE);
            state.load() == EMPTY && state.compare_exchange(EMPTY, claimed).is_ok()
        })
    }

    fn mark(self, index: usize) {
        update(&self.head[queue::OCCUPIED + index / 64], |bits| Some(bits | 1 << (index % 64)));
    }

    /// Empties an entry that is CLAIMED by the caller.
    fn vacate(self, index: usize) {
        update(&self.head[queue::OCCUPIED + index / 64], |bits| Some(bits & !(1 << (index % 64))));
        self.word(index, entry::OWNER).store(0);
        self.word(index, entry::STATE).store(EMPTY);
    }

    /// How many stand in front of one's own place for one of these backends, itself included.
    pub fn position(self, ticket: Ticket, backends: u64) -> usize {
        let own = self.word(usize::from(ticket.entry), entry::START).load();
        let is_ahead = |waiter: &Waiter| waiter.due() < (own, ticket.number);
        1 + self.waiters().filter(|waiter| waiter.backends & backends != 0 && is_ahead(waiter)).count()
    }

    /// Changes which backends may serve one's own waiter.
    pub fn change_backends(self, ticket: Ticket, backends: u64) {
        let word = self.word(usize::from(ticket.entry), entry::BACKENDS);
        if word.load() != backends {
            word.store(backends);
        }
    }

    /// How one's own place stands.
    pub fn standing(self, ticket: Ticket) -> Standing {
        let state = self.word(usize::from(ticket.entry), entry::STATE).load();
        if state & KIND_MASK == GRANTED && state >> TICKET == ticket.number {
            let (backend, slot) = ((state >> BACKEND & 0xff) as usize, (state >> SLOT & 0xff) as usize);
            return Standing::Granted(Grant { backend, slot });
        }
        Standing::Waiting
    }

    /// Takes the slot that one's own place was granted, for a request with this tag, and gives up the place. False if the
    /// slot went another way, because the process that gave it has died: the place waits as before then, and the caller
    /// looks at the slots as after [`enter`](Self::enter), for whoever freed one meanwhile has not seen it wait.
    pub fn accept(self, ticket: Ticket, slot: &W, by: Holder, tag: u32) -> bool {
        let index = usize::from(ticket.entry);
        let state = self.word(index, entry::STATE);
        let granted = state.load();
        if granted & KIND_MASK != GRANTED || granted >> TICKET != ticket.number {
            return false;
        }
        let mine = Slot::Held { by, tag }.to_word();
        let mut seen = slot.load();
        while seen == FREE || is_offer_to(Slot::from_word(seen), ticket) {
            match slot.compare_exchange(seen, mine) {
                Ok(_) => {
                    // Only its owner changes a granted entry.
                    let _always = state.compare_exchange(granted, CLAIMED | by.to_word() << BACKEND);
                    self.vacate(index);
                    return true;
                }
                // Freed in this moment, by whoever settles the one that gave it; or gone.
                Err(now) => seen = now,
            }
        }
        let _always = state.compare_exchange(granted, WAITING | ticket.number << TICKET);
        W::fence();
        false
    }

    /// Gives up one's own place. Where a slot was granted in this very moment the place stays, and the caller has to
    /// [`accept`](Self::accept) and give the slot back.
    pub fn leave(self, ticket: Ticket, by: Holder) -> Option<Grant> {
        let index = usize::from(ticket.entry);
        let claimed = CLAIMED | by.to_word() << BACKEND;
        match self.word(index, entry::STATE).compare_exchange(WAITING | ticket.number << TICKET, claimed) {
            Ok(_) => {
                self.give_back(index);
                self.vacate(index);
                None
            }
            Err(_) => match self.standing(ticket) {
                Standing::Granted(grant) => Some(grant),
                Standing::Waiting => None,
            },
        }
    }

    /// Passes a slot on that the caller holds as `held`: to the waiter that `pick` names, else to nobody. `backend` and
    /// `at` say which slot it is. A waiter that was picked has the slot, unless it has left or the slot is somebody else's
    /// by now; whom `pick` names, and whether anybody, is asked anew each time.
    pub fn pass_on(
        self,
        slot: &W,
        (held, backend, at): (u64, usize, usize),
        mut pick: impl FnMut() -> Option<Waiter>,
    ) -> Passed {
        let Some(by) = Slot::from_word(held).holder() else { return Passed::Free };
        let (mut mine, mut picked) = (held, pick());
        loop {
            let Some(waiter) = picked else {
                if slot.compare_exchange(mine, FREE).is_err() {
                    return Passed::Free;
                }
                // One that entered before the slot was free may have been seen by nobody.
                W::fence();
                mine = Slot::Held { by, tag: 0 }.to_word();
                picked = pick();
                if picked.is_none() || slot.compare_exchange(FREE, mine).is_err() {
                    return Passed::Free;
                }
                continue;
            };
            let ticket = waiter.ticket;
            let short = slots::short_ticket(ticket.number);
            let offer = Slot::Offered { by, entry: ticket.entry, ticket: short }.to_word();
            if slot.compare_exchange(mine, offer).is_err() {
                return Passed::Free;
            }
            mine = offer;
            let granted = GRANTED | (backend as u64) << BACKEND | (at as u64) << SLOT | ticket.number << TICKET;
            let state = self.word(usize::from(ticket.entry), entry::STATE);
            if state.compare_exchange(WAITING | ticket.number << TICKET, granted).is_ok() {
                update(&self.head[queue::VIRTUAL], |now| (waiter.start > now).then_some(waiter.start));
                return Passed::To(waiter.holder);
            }
            picked = pick();
        }
    }

    /// Notes that a waiter was passed by another, if it is the first time.
    pub fn note_passed(self, waiter: &Waiter, now_ms: u64) {
        // At worst it is the next owner's entry, which counts as passed a moment early.
        let _earlier = self.word(usize::from(waiter.ticket.entry), entry::PASSED).compare_exchange(0, now_ms.max(1));
    }

    /// The start tag of a client's next request; its finish tag lies `cost` further on.
    fn start_tag(self, client: u64, cost: u64) -> u64 {
        let now = self.head[queue::VIRTUAL].load();
        let Some(set) = limiter::set_of(self.tags, client) else { return now };
        let is_over = |word: u64| word & VIRTUAL_MASK <= now;
        loop {
            let found = set.iter().map(|word| (word, word.load()));
            let own = found.clone().find(|(_, seen)| is_tag_of(client, *seen));
            let word = own.or_else(|| found.clone().find(|(_, seen)| is_over(*seen)));
            // Eight clients of one set wait, and theirs count: this one begins anew.
            let Some((word, seen)) = word else { return now };
            let start = if is_tag_of(client, seen) { now.max(seen & VIRTUAL_MASK) } else { now };
            let finish = (start + cost) & VIRTUAL_MASK;
            if word.compare_exchange(seen, tag_of(client) << VIRTUAL_BITS | finish).is_ok() {
                return start;
            }
        }
    }

    /// Gives back what the request in an entry that is CLAIMED by the caller has paid: it is not served.
    fn give_back(self, index: usize) {
        let (client, paid) = (self.word(index, entry::CLIENT).load(), self.word(index, entry::OWNER).load() >> PAID);
        for word in limiter::set_of(self.tags, client).into_iter().flatten() {
            update(word, |seen| {
                let finish = seen & VIRTUAL_MASK;
                (is_tag_of(client, seen) && finish != 0).then(|| seen - paid.min(finish))
            });
        }
    }

    /// Takes a retry out of the budget of all processes: one for ten requests, ten at once. False when it is spent.
    pub fn may_retry(self) -> bool {
        let spent = update(&self.head[queue::SPENT], |spent| (spent + RETRY <= BUDGET).then_some(spent + RETRY));
        spent + RETRY <= BUDGET
    }

    /// Counts a request towards the budget.
    pub fn earn_retry(self) {
        update(&self.head[queue::SPENT], |spent| spent.checked_sub(1));
    }

    /// Frees what processes that are gone have left in the queue, and calls `freed` with the slots that they were granted
    /// and had not taken; how many places.
    pub fn settle(self, is_gone: impl Fn(Holder) -> bool, own: Holder, mut freed: impl FnMut(Ticket, Grant)) -> usize {
        let mut places = 0;
        let claimed = CLAIMED | own.to_word() << BACKEND;
        for index in 0..self.room() {
            let Some(seen) = self.claim_of(index, claimed, &is_gone) else { continue };
            match seen & KIND_MASK {
                WAITING => self.give_back(index),
                GRANTED => {
                    let (backend, slot) = ((seen >> BACKEND & 0xff) as usize, (seen >> SLOT & 0xff) as usize);
                    freed(Ticket { entry: index as u16, number: seen >> TICKET }, Grant { backend, slot });
                }
                _ => {}
            }
            self.vacate(index);
            places += 1;
        }
        places
    }

    /// Claims an entry whose process is gone; what its state was.
    fn claim_of(self, index: usize, claimed: u64, is_gone: impl Fn(Holder) -> bool) -> Option<u64> {
        let state = self.word(index, entry::STATE);
        let mut seen = state.load();
        loop {
            let owner = match seen & KIND_MASK {
                EMPTY => return None,
                CLAIMED => Holder::from_word(seen >> BACKEND),
                _ => Holder::from_word(self.word(index, entry::OWNER).load()),
            };
            if !is_gone(owner) {
                return None;
            }
            match state.compare_exchange(seen, claimed) {
                Ok(_) => return Some(seen),
                // Somebody who did not know has granted it a slot.
                Err(now) => seen = now,
            }
        }
    }

    /// Whether an offered slot has a waiter that can take it. Tickets are told apart by 22 bits here: of 4 million that are
    /// lost, one may be taken for another's.
    pub fn is_promised(self, slot: Slot) -> bool {
        let Slot::Offered { entry, ticket, .. } = slot else { return false };
        let index = usize::from(entry);
        index < self.room() && {
            let state = self.word(index, entry::STATE).load();
            state & KIND_MASK == GRANTED && slots::short_ticket(state >> TICKET) == ticket
        }
    }
}

/// What tells a client's finish tag from others of its set. 0 would read as an unused word.
fn tag_of(client: u64) -> u64 {
    (client & ((1 << (64 - VIRTUAL_BITS)) - 1)).max(1)
}

fn is_tag_of(client: u64, word: u64) -> bool {
    word >> VIRTUAL_BITS == tag_of(client)
}

/// Whether a slot is on offer to this ticket.
pub(crate) fn is_offer_to(slot: Slot, ticket: Ticket) -> bool {
    matches!(slot, Slot::Offered { entry, ticket: short, .. }
        if entry == ticket.entry && short == slots::short_ticket(ticket.number))
}

#[cfg(test)]
mod tests;
