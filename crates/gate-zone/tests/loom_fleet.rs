//! Every interleaving of a few processes on slots, queue, breaker and loads, under a memory model that may show stale
//! values; and processes that die after any of their writes beside others that live.
//!
//! Threads stand for processes, a queue has one or two places and a backend one or two slots. Runs are bounded to
//! [`PREEMPTIONS`] forced switches, which keeps the whole file within seconds.

use std::cell::Cell as Local;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use gate_zone::fleet::queue::{Arrival, Bounds, COST, Full, Grant, Passed, Queue, Standing, Ticket, Waiter};
use gate_zone::fleet::slots::{self, FREE, Holder, Slot};
use gate_zone::fleet::{breaker, loads, settlement};
use gate_zone::layout::{entry, queue};
use gate_zone::word::Word;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

/// Two forced switches show each of the races that were planted here to try it; four take minutes.
const PREEMPTIONS: usize = 3;

/// Where three processes do all that a request does, three take minutes.
const PREEMPTIONS_OF_MANY: usize = 2;

/// More writes than any job here makes.
const WRITES_MAX: usize = 24;

loom::thread_local! {
    /// How many writes the process lives for.
    static WRITES_LEFT: Local<usize> = Local::new(usize::MAX);
}

struct Cell(AtomicU64);

impl Cell {
    fn new(word: u64) -> Self {
        Self(AtomicU64::new(word))
    }
}

fn live_to_write() {
    WRITES_LEFT.with(|left| match left.get().checked_sub(1) {
        Some(fewer) => left.set(fewer),
        None => resume_unwind(Box::new("killed")),
    });
}

impl Word for Cell {
    fn load(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn compare_exchange(&self, seen: u64, new: u64) -> Result<u64, u64> {
        live_to_write();
        self.0.compare_exchange(seen, new, Ordering::SeqCst, Ordering::SeqCst)
    }
    fn store(&self, new: u64) {
        live_to_write();
        self.0.store(new, Ordering::SeqCst);
    }
    fn fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// What the processes share: a queue, the slots of one backend, a word for what is tried on a single one.
struct Shared {
    head: [Cell; queue::OCCUPIED + 1],
    entries: Vec<Cell>,
    slots: Vec<Cell>,
    word: Cell,
}

const GIVER: Holder = Holder::new(1, 11);
const WAITER: Holder = Holder::new(2, 22);
const OTHER: Holder = Holder::new(3, 33);
const MASTER: Holder = Holder::new(0, 44);

impl Shared {
    /// With so many places and slots; the first `held` slots are the giver's.
    fn new(places: usize, slots: usize, held: usize) -> Arc<Self> {
        let slot = |index| Cell::new(if index < held { held_by(GIVER) } else { FREE });
        Arc::new(Self {
            head: std::array::from_fn(|_| Cell::new(0)),
            entries: (0..places * entry::WORDS).map(|_| Cell::new(0)).collect(),
            slots: (0..slots).map(slot).collect(),
            word: Cell::new(0),
        })
    }

    fn queue(&self) -> Queue<'_, Cell> {
        // Without finish tags: they are one swap each, and decide only who is first.
        Queue::new(&self.head, &self.entries, &[])
    }

    fn enter(&self, holder: Holder, per_client: usize) -> Result<Ticket, Full> {
        let arrival = Arrival { holder, client: 7, want: 1, backends: 1, cost: COST, now_ms: 1 };
        self.queue().enter(&arrival, Bounds { all: 8, per_client })
    }

    fn first(&self) -> Option<Waiter> {
        self.queue().waiters().next()
    }

    fn pass_on(&self, at: usize, by: Holder) -> Passed {
        self.queue().pass_on(&self.slots[at], (held_by(by), 0, at), || self.first())
    }

    /// What whoever has entered does next.
    fn look(&self, by: Holder) {
        if let Some(at) = slots::take(&self.slots, 0, by, 0) {
            self.pass_on(at, by);
        }
    }

    fn accepts(&self, ticket: Ticket, by: Holder) -> bool {
        match self.queue().standing(ticket) {
            Standing::Granted(Grant { slot, .. }) => self.queue().accept(ticket, &self.slots[slot], by, 0),
            Standing::Waiting => false,
        }
    }

    /// Gives up a place; a slot that was granted in that moment is passed on.
    fn leave(&self, ticket: Ticket, by: Holder) {
        if let Some(Grant { slot, .. }) = self.queue().leave(ticket, by)
            && self.queue().accept(ticket, &self.slots[slot], by, 0)
        {
            self.pass_on(slot, by);
        }
    }

    fn settle(&self, gone: Holder) -> (usize, usize) {
        settlement::free(self.queue(), &[&self.slots], |holder| holder == gone, MASTER)
    }

    fn slot(&self, at: usize) -> Slot {
        Slot::from_word(self.slots[at].load())
    }

    fn held(&self, by: Holder) -> usize {
        (0..self.slots.len()).filter(|at| self.slot(*at) == Slot::Held { by, tag: 0 }).count()
    }
}

fn held_by(by: Holder) -> u64 {
    Slot::Held { by, tag: 0 }.to_word()
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    check_within(PREEMPTIONS, model);
}

fn check_within(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Runs a job as a process of its own.
fn beside<T: 'static>(shared: &Arc<Shared>, job: impl FnOnce(&Shared) -> T + 'static) -> thread::JoinHandle<T> {
    let shared = Arc::clone(shared);
    thread::spawn(move || job(&shared))
}

/// Runs a job that is killed behind its `writes`-th write, and is settled then or when it has ended.
fn mortal(shared: &Arc<Shared>, writes: usize, holder: Holder, job: fn(&Shared)) -> thread::JoinHandle<()> {
    beside(shared, move |s| {
        WRITES_LEFT.with(|left| left.set(writes));
        let _killed = catch_unwind(AssertUnwindSafe(|| job(s)));
        WRITES_LEFT.with(|left| left.set(usize::MAX));
        s.settle(holder);
    })
}

/// Whoever still waits looks again, as all do each tenth of a second, and has the slot then; it gives it back, and nothing
/// is left.
fn served_in_the_end(s: &Shared, ticket: Ticket, by: Holder) {
    if !s.accepts(ticket, by) {
        s.look(by);
        assert!(s.accepts(ticket, by), "a slot is free, and nobody else waits: {:?}", s.slot(0));
    }
    let at = (0..s.slots.len()).find(|at| s.slot(*at) == Slot::Held { by, tag: 0 });
    assert_eq!(s.pass_on(at.expect("it was accepted"), by), Passed::Free);
    nothing_is_left(s);
}

fn nothing_is_left(s: &Shared) {
    assert!(s.slots.iter().all(|slot| slot.load() == FREE), "{:?}", s.slot(0));
    assert!(s.queue().is_empty());
    assert!(s.entries.chunks(entry::WORDS).all(|entry| entry[entry::STATE].load() == 0));
}

#[test]
fn two_take_one_slot() {
    check(|| {
        let shared = Shared::new(1, 1, 0);
        let other = beside(&shared, |s| slots::take(&s.slots, 0, OTHER, 0).is_some());
        let own = slots::take(&shared.slots, 0, WAITER, 0).is_some();
        assert!(other.join().unwrap() ^ own);
        assert_eq!(shared.held(if own { WAITER } else { OTHER }), 1);
    });
}

#[test]
fn three_take_two_slots() {
    check(|| {
        let shared = Shared::new(1, 2, 0);
        let others = [OTHER, GIVER].map(|by| beside(&shared, move |s| slots::take(&s.slots, 1, by, 0).is_some()));
        let own = slots::take(&shared.slots, 0, WAITER, 0).is_some();
        let taken = others.map(|other| usize::from(other.join().unwrap()));
        assert_eq!(taken.into_iter().sum::<usize>() + usize::from(own), 2);
        assert_eq!(shared.held(OTHER) + shared.held(GIVER) + shared.held(WAITER), 2);
    });
}

#[test]
fn a_slot_is_taken_while_another_is_settled() {
    check(|| {
        let shared = Shared::new(1, 1, 1);
        let master = beside(&shared, |s| s.settle(GIVER));
        let taken = slots::take(&shared.slots, 0, WAITER, 0);
        assert_eq!(master.join().unwrap(), (1, 0));
        let expected = if taken.is_some() { Slot::Held { by: WAITER, tag: 0 } } else { Slot::Free };
        assert_eq!(shared.slot(0), expected);
    });
}

#[test]
fn who_enters_while_a_slot_is_given_back_has_it() {
    check(|| {
        let shared = Shared::new(1, 1, 1);
        let giver = beside(&shared, |s| s.pass_on(0, GIVER));
        let ticket = shared.enter(WAITER, 8).unwrap();
        shared.look(WAITER);
        giver.join().unwrap();
        assert!(shared.accepts(ticket, WAITER), "it waits beside {:?}", shared.slot(0));
        assert_eq!(shared.held(WAITER), 1);
    });
}

#[test]
fn of_two_that_enter_while_a_slot_is_given_back_one_has_it() {
    check_within(PREEMPTIONS_OF_MANY, || {
        let shared = Shared::new(2, 1, 1);
        let enter = |s: &Shared, by| {
            let ticket = s.enter(by, 8).unwrap();
            s.look(by);
            ticket
        };
        let giver = beside(&shared, |s| s.pass_on(0, GIVER));
        let other = beside(&shared, move |s| enter(s, OTHER));
        let own = enter(&shared, WAITER);
        giver.join().unwrap();
        let other = other.join().unwrap();
        assert!(shared.accepts(own, WAITER) ^ shared.accepts(other, OTHER));
        assert_eq!(shared.held(WAITER) + shared.held(OTHER), 1);
    });
}

#[test]
fn a_slot_that_is_given_to_one_that_leaves_is_not_lost() {
    check(|| {
        let shared = Shared::new(1, 1, 1);
        let ticket = shared.enter(WAITER, 8).unwrap();
        let giver = beside(&shared, |s| s.pass_on(0, GIVER));
        shared.leave(ticket, WAITER);
        giver.join().unwrap();
        nothing_is_left(&shared);
    });
}

#[test]
fn a_slot_that_is_given_to_one_that_leaves_goes_to_the_next() {
    check(|| {
        let shared = Shared::new(2, 1, 1);
        let leaves = shared.enter(WAITER, 8).unwrap();
        let stays = shared.enter(OTHER, 8).unwrap();
        let giver = beside(&shared, |s| s.pass_on(0, GIVER));
        shared.leave(leaves, WAITER);
        giver.join().unwrap();
        assert!(shared.accepts(stays, OTHER), "it waits beside {:?}", shared.slot(0));
    });
}

#[test]
fn of_two_slots_given_back_one_waiter_has_one() {
    check(|| {
        let shared = Shared::new(1, 2, 2);
        let ticket = shared.enter(WAITER, 8).unwrap();
        let other = beside(&shared, |s| s.pass_on(1, GIVER));
        let passed = [shared.pass_on(0, GIVER), other.join().unwrap()];
        assert!(passed == [Passed::To(WAITER), Passed::Free] || passed == [Passed::Free, Passed::To(WAITER)]);
        assert!(shared.accepts(ticket, WAITER));
        assert_eq!((slots::in_flight(&shared.slots), shared.held(WAITER)), (1, 1));
    });
}

/// One waiter that was granted the only slot, whose giver has died since.
fn granted_by_the_dead() -> (Arc<Shared>, Ticket) {
    let shared = Shared::new(1, 1, 1);
    let ticket = shared.enter(WAITER, 8).expect("there is a place");
    assert_eq!(shared.pass_on(0, GIVER), Passed::To(WAITER));
    (shared, ticket)
}

#[test]
fn a_slot_is_accepted_while_its_dead_giver_is_settled() {
    check(|| {
        let (shared, ticket) = granted_by_the_dead();
        let master = beside(&shared, |s| s.settle(GIVER));
        assert!(shared.accepts(ticket, WAITER), "nobody else wants it");
        master.join().unwrap();
        assert_eq!(shared.held(WAITER), 1);
        assert!(shared.queue().is_empty());
    });
}

#[test]
fn a_slot_of_a_dead_giver_is_in_one_hand() {
    check(|| {
        let (shared, ticket) = granted_by_the_dead();
        let master = beside(&shared, |s| s.settle(GIVER));
        let other = beside(&shared, |s| slots::take(&s.slots, 0, OTHER, 0).is_some());
        let accepted = shared.accepts(ticket, WAITER);
        master.join().unwrap();
        assert!(accepted ^ other.join().unwrap());
        assert_eq!((shared.held(WAITER), shared.held(OTHER)), (usize::from(accepted), usize::from(!accepted)));
        assert_eq!(shared.queue().standing(ticket), Standing::Waiting);
    });
}

#[test]
fn who_has_to_wait_on_sees_what_was_freed_meanwhile() {
    check(|| {
        // The waiter's slot has gone to another; a second one is given back while it finds out.
        let (shared, ticket) = {
            let shared = Shared::new(1, 2, 2);
            let ticket = shared.enter(WAITER, 8).unwrap();
            assert_eq!(shared.pass_on(0, GIVER), Passed::To(WAITER));
            shared.slots[0].store(held_by(OTHER));
            (shared, ticket)
        };
        let giver = beside(&shared, |s| s.pass_on(1, GIVER));
        assert!(!shared.accepts(ticket, WAITER));
        shared.look(WAITER);
        giver.join().unwrap();
        assert!(shared.accepts(ticket, WAITER), "it waits beside {:?}", shared.slot(1));
    });
}

#[test]
fn the_bound_of_a_client_holds_for_those_that_come_at_once() {
    for before in [0, 1] {
        check(move || {
            let shared = Shared::new(3, 1, 1);
            (0..before).for_each(|_| assert!(shared.enter(GIVER, 8).is_ok()));
            let other = beside(&shared, move |s| s.enter(OTHER, before + 1).is_ok());
            let own = shared.enter(WAITER, before + 1).is_ok();
            let entered = before + usize::from(own) + usize::from(other.join().unwrap());
            assert!(entered <= before + 1);
            assert_eq!(shared.queue().waiters().count(), entered);
        });
    }
}

#[test]
fn the_last_place_is_taken_once() {
    check(|| {
        let shared = Shared::new(1, 1, 1);
        let other = beside(&shared, |s| s.enter(OTHER, 8).is_ok());
        let own = shared.enter(WAITER, 8).is_ok();
        assert!(own ^ other.join().unwrap());
        assert_eq!(shared.queue().waiters().count(), 1);
    });
}

#[test]
fn a_waiter_is_read_whole_or_not_at_all() {
    check(|| {
        let shared = Shared::new(1, 1, 1);
        let arrival =
            |holder, client| Arrival { holder, client, want: client, backends: client, cost: COST, now_ms: client };
        let bounds = Bounds { all: 8, per_client: 8 };
        let ticket = shared.queue().enter(&arrival(WAITER, 5), bounds).unwrap();
        let next = beside(&shared, move |s| {
            s.leave(ticket, WAITER);
            s.queue().enter(&arrival(OTHER, 6), bounds).unwrap();
        });
        if let Some(seen) = shared.first() {
            let holder = if seen.client == 5 { WAITER } else { OTHER };
            let all = (seen.holder, seen.want, seen.backends, seen.since_ms, seen.ticket == ticket);
            assert_eq!(all, (holder, seen.client, seen.client, seen.client, holder == WAITER));
        }
        next.join().unwrap();
        assert_eq!(shared.first().unwrap().client, 6);
    });
}

#[test]
fn one_begins_a_trial() {
    check(|| {
        let shared = Shared::new(1, 1, 0);
        let terms = breaker::Terms { failures: 1, time: Duration::from_millis(10) };
        breaker::failed(&shared.word, terms, 0);
        let tries = |s: &Shared| match breaker::state(s.word.load(), 10) {
            breaker::State::Due { seen } => breaker::begin_trial(&s.word, seen, 10, Duration::from_millis(50)),
            _ => false,
        };
        let other = beside(&shared, tries);
        assert!(tries(&shared) ^ other.join().unwrap());
        assert_eq!(breaker::state(shared.word.load(), 20), breaker::State::Trial);
    });
}

#[test]
fn one_begins_a_load() {
    check(|| {
        let shared = Shared::new(1, 1, 0);
        let begins = |s: &Shared, backend: usize| {
            loads::begin(std::slice::from_ref(&s.word), (9, backend), None, 5).map(|load| load.backend)
        };
        let other = beside(&shared, move |s| begins(s, 3));
        let own = begins(&shared, 4);
        assert_eq!(own, other.join().unwrap(), "both are told of one");
        assert!(own.is_some());
    });
}

#[test]
fn one_begins_a_load_in_the_place_of_one_that_is_over() {
    check(|| {
        let shared = Shared::new(1, 1, 0);
        let begins = |s: &Shared, backend: usize| {
            let word = std::slice::from_ref(&s.word);
            let over = loads::of(word, 9, 50).filter(|load| load.age_s == 45);
            loads::begin(word, (9, backend), over, 50).map(|load| load.backend)
        };
        loads::begin(std::slice::from_ref(&shared.word), (9, 2), None, 5);
        let other = beside(&shared, move |s| begins(s, 3));
        let own = begins(&shared, 4);
        assert_eq!(own, other.join().unwrap(), "both are told of one");
        assert!(own == Some(3) || own == Some(4));
    });
}

#[test]
fn a_giver_killed_anywhere_costs_nobody_anything() {
    for writes in 0..WRITES_MAX {
        check(move || {
            let shared = Shared::new(1, 1, 1);
            let ticket = shared.enter(WAITER, 8).unwrap();
            let giver = mortal(&shared, writes, GIVER, |s| {
                s.pass_on(0, GIVER);
            });
            let early = shared.accepts(ticket, WAITER);
            giver.join().unwrap();
            if early {
                assert_eq!(shared.pass_on(0, WAITER), Passed::Free);
                nothing_is_left(&shared);
            } else {
                served_in_the_end(&shared, ticket, WAITER);
            }
        });
    }
}

/// What a request does from its entry to its end, if it is granted the slot at once.
fn live(s: &Shared, by: Holder) {
    let Ok(ticket) = s.enter(by, 8) else { return };
    s.look(by);
    if s.accepts(ticket, by) {
        let at = (0..s.slots.len()).find(|at| s.slot(*at) == Slot::Held { by, tag: 0 });
        s.pass_on(at.expect("it was accepted"), by);
    } else {
        s.leave(ticket, by);
    }
}

#[test]
fn a_request_killed_anywhere_leaves_slot_and_queue_to_the_others() {
    for writes in 0..WRITES_MAX {
        check(move || {
            let shared = Shared::new(2, 1, 1);
            let ticket = shared.enter(OTHER, 8).unwrap();
            let dies = mortal(&shared, writes, WAITER, |s| live(s, WAITER));
            shared.pass_on(0, GIVER);
            dies.join().unwrap();
            served_in_the_end(&shared, ticket, OTHER);
        });
    }
}

#[test]
fn a_request_killed_anywhere_beside_two_that_live_leaves_nothing() {
    for writes in 0..WRITES_MAX {
        check_within(PREEMPTIONS_OF_MANY - 1, move || {
            let shared = Shared::new(2, 1, 1);
            let dies = mortal(&shared, writes, WAITER, |s| live(s, WAITER));
            let giver = beside(&shared, |s| s.pass_on(0, GIVER));
            let ticket = shared.enter(OTHER, 8).unwrap();
            shared.look(OTHER);
            giver.join().unwrap();
            dies.join().unwrap();
            served_in_the_end(&shared, ticket, OTHER);
        });
    }
}

#[test]
fn a_waiter_killed_anywhere_while_it_is_granted_leaves_the_slot() {
    for writes in 0..WRITES_MAX / 2 {
        check(move || {
            let shared = Shared::new(1, 1, 0);
            let dies = mortal(&shared, writes, WAITER, |s| live(s, WAITER));
            let own = shared.enter(OTHER, 8);
            shared.look(OTHER);
            dies.join().unwrap();
            match own {
                Ok(ticket) => served_in_the_end(&shared, ticket, OTHER),
                Err(full) => {
                    assert_eq!(full, Full::All);
                    nothing_is_left(&shared);
                }
            }
        });
    }
}

#[test]
fn a_master_killed_while_it_settles_is_made_good_by_the_next() {
    for writes in 0..WRITES_MAX / 2 {
        check(move || {
            // The giver lives: nobody else would free what it has offered.
            let (shared, _ticket) = granted_by_the_dead();
            let first = mortal(&shared, writes, MASTER, |s| {
                s.settle(WAITER);
            });
            first.join().unwrap();
            shared.settle(WAITER);
            settlement::free_unpromised(shared.queue(), &[&shared.slots]);
            nothing_is_left(&shared);
        });
    }
}

#[test]
fn two_masters_settle_one_process_beside_one_that_lives() {
    check(|| {
        let shared = Shared::new(2, 1, 1);
        shared.enter(WAITER, 8).unwrap();
        let other = beside(&shared, |s| {
            let own = Holder::new(0, 55);
            settlement::free(s.queue(), &[&s.slots], |holder| holder == WAITER, own).1
        });
        let ticket = shared.enter(OTHER, 8).unwrap();
        let places = shared.settle(WAITER).1 + other.join().unwrap();
        assert_eq!(places, 1);
        assert_eq!(shared.first().map(|waiter| waiter.ticket), Some(ticket));
    });
}

#[test]
fn an_offer_just_being_made_may_be_freed_and_is_in_one_hand_then() {
    check(|| {
        let shared = Shared::new(1, 1, 1);
        let ticket = shared.enter(WAITER, 8).unwrap();
        let giver = beside(&shared, |s| s.pass_on(0, GIVER));
        let strays = beside(&shared, |s| settlement::free_unpromised(s.queue(), &[&s.slots]));
        let taken = slots::take(&shared.slots, 0, OTHER, 0).is_some();
        giver.join().unwrap();
        strays.join().unwrap();
        assert_eq!(shared.accepts(ticket, WAITER), !taken);
        assert_eq!((shared.held(WAITER), shared.held(OTHER)), (usize::from(!taken), usize::from(taken)));
    });
}
