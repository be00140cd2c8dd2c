use std::cell::Cell;

use super::*;

struct Bench {
    head: Vec<AtomicU64>,
    entries: Vec<AtomicU64>,
    tags: Vec<AtomicU64>,
    slots: Vec<AtomicU64>,
}

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

impl Bench {
    fn new(places: usize, slots: usize) -> Self {
        Self { head: words(queue::WORDS), entries: words(places * entry::WORDS), tags: words(64), slots: words(slots) }
    }

    fn queue(&self) -> Queue<'_> {
        Queue::new(&self.head, &self.entries, &self.tags)
    }

    fn enter(&self, holder: Holder, client: u64, cost: u64) -> Result<Ticket, Full> {
        let arrival = Arrival { holder, client, want: 1, backends: 1, cost, now_ms: 1 };
        self.queue().enter(&arrival, Bounds { all: 64, per_client: 3 })
    }

    /// The next by start tag, as its client's hash.
    fn serve(&self) -> Option<u64> {
        let by = Holder::new(9, 9);
        let held = Slot::Held { by, tag: 0 }.to_word();
        self.slots[0].store(held, std::sync::atomic::Ordering::SeqCst);
        let client = Cell::new(None);
        let passed = self.queue().pass_on(&self.slots[0], (held, 0, 0), || {
            let next = self.queue().waiters().min_by_key(|waiter| (waiter.start, waiter.ticket.number));
            client.set(next);
            next
        });
        let waiter = client.get()?;
        assert_eq!(passed, Passed::To(waiter.holder));
        assert_eq!(self.queue().standing(waiter.ticket), Standing::Granted(Grant { backend: 0, slot: 0 }));
        assert!(self.queue().accept(waiter.ticket, &self.slots[0], waiter.holder, 5));
        Some(waiter.client)
    }
}

const ME: Holder = Holder::new(1, 11);

#[test]
fn clients_take_turns_however_much_one_asks() {
    let bench = Bench::new(64, 1);
    for _ in 0..3 {
        bench.enter(ME, 1, COST).unwrap();
    }
    for client in [2, 3, 2] {
        bench.enter(ME, client, COST).unwrap();
    }
    let served: Vec<u64> = std::iter::from_fn(|| bench.serve()).collect();
    assert_eq!(served, [1, 2, 3, 1, 2, 1]);
    assert!(bench.queue().is_empty());
}

#[test]
fn weights_give_shares() {
    let bench = Bench::new(64, 1);
    let mut served = [0; 2];
    for client in [0, 1, 0, 1, 0, 1] {
        bench.enter(ME, client + 1, if client == 0 { COST } else { COST / 3 }).unwrap();
    }
    for _ in 0..400 {
        let client = bench.serve().unwrap() - 1;
        served[client as usize] += 1;
        bench.enter(ME, client + 1, if client == 0 { COST } else { COST / 3 }).unwrap();
    }
    assert!((95..=105).contains(&served[0]), "{served:?}");
}

/// One whose requests are given up as often as they are served, first come first, beside one that always waits to the end.
#[test]
fn who_leaves_unserved_is_not_charged() {
    let bench = Bench::new(64, 1);
    let mut served = [0_u32; 2];
    let mut waiting = std::collections::VecDeque::new();
    bench.enter(ME, 2, COST).unwrap();
    for _ in 0..100 {
        while let Ok(ticket) = bench.enter(ME, 1, COST) {
            waiting.push_back(ticket);
        }
        let client = bench.serve().unwrap();
        served[client as usize - 1] += 1;
        if client == 2 {
            bench.enter(ME, 2, COST).unwrap();
        }
        let is_there = |ticket: &Ticket| bench.queue().waiters().any(|waiter| waiter.ticket == *ticket);
        waiting.retain(is_there);
        assert_eq!(bench.queue().leave(waiting.pop_front().unwrap(), ME), None);
    }
    assert!(served[0].abs_diff(served[1]) <= 2, "{served:?}");
}

#[test]
fn bounds_hold_and_leave_nothing_behind() {
    let bench = Bench::new(64, 1);
    let mine: Vec<_> = (0..3).map(|_| bench.enter(ME, 1, COST).unwrap()).collect();
    assert_eq!(bench.enter(ME, 1, COST), Err(Full::Client));
    for client in 2..63 {
        bench.enter(ME, client, COST).unwrap();
    }
    assert_eq!(bench.enter(ME, 99, COST), Err(Full::All));
    assert_eq!(bench.queue().leave(mine[1], ME), None);
    assert_eq!(bench.enter(ME, 1, COST).map(|_| ()), Ok(()));
    assert_eq!(bench.queue().waiters().count(), 64);
}

#[test]
fn who_leaves_while_granted_has_the_slot() {
    let bench = Bench::new(64, 1);
    let ticket = bench.enter(ME, 1, COST).unwrap();
    let held = Slot::Held { by: ME, tag: 0 }.to_word();
    bench.slots[0].store(held, std::sync::atomic::Ordering::SeqCst);
    let queue = bench.queue();
    assert_eq!(queue.pass_on(&bench.slots[0], (held, 0, 0), || queue.waiters().next()), Passed::To(ME));
    assert_eq!(queue.leave(ticket, ME), Some(Grant { backend: 0, slot: 0 }));
    assert!(queue.accept(ticket, &bench.slots[0], ME, 3));
    let held = Slot::Held { by: ME, tag: 3 }.to_word();
    assert_eq!(queue.pass_on(&bench.slots[0], (held, 0, 0), || queue.waiters().next()), Passed::Free);
    assert_eq!((slots::in_flight(&bench.slots), queue.is_empty()), (0, true));
}

/// Who picks may have begun something for the one picked, and would not pick it again.
#[test]
fn whom_the_second_look_finds_has_the_slot() {
    let bench = Bench::new(64, 1);
    let held = Slot::Held { by: ME, tag: 0 }.to_word();
    bench.slots[0].store(held, std::sync::atomic::Ordering::SeqCst);
    let queue = bench.queue();
    let mut looks = 0;
    let passed = queue.pass_on(&bench.slots[0], (held, 0, 0), || {
        looks += 1;
        (looks == 2).then(|| {
            bench.enter(ME, 1, COST).unwrap();
            queue.waiters().next().unwrap()
        })
    });
    assert_eq!((passed, looks), (Passed::To(ME), 2));
}

#[test]
fn a_slot_that_was_freed_under_a_waiter_is_taken_or_waited_for_again() {
    let bench = Bench::new(64, 1);
    let giver = Holder::new(2, 22);
    for other in [false, true] {
        let ticket = bench.enter(ME, 1, COST).unwrap();
        let held = Slot::Held { by: giver, tag: 0 }.to_word();
        bench.slots[0].store(held, std::sync::atomic::Ordering::SeqCst);
        let queue = bench.queue();
        queue.pass_on(&bench.slots[0], (held, 0, 0), || queue.waiters().next());
        assert!(queue.is_promised(Slot::from_word(Word::load(&bench.slots[0]))));
        assert_eq!(slots::settle(&bench.slots, |slot| slot.holder() == Some(giver)), 1, "the giver has died");
        if other {
            slots::take(&bench.slots, 0, Holder::new(3, 33), 0).unwrap();
        }
        assert_eq!(queue.accept(ticket, &bench.slots[0], ME, 5), !other);
        if other {
            assert_eq!(queue.standing(ticket), Standing::Waiting);
            assert_eq!(queue.leave(ticket, ME), None);
        }
        assert!(queue.is_empty());
    }
}

#[test]
fn retries_have_a_budget() {
    let bench = Bench::new(1, 1);
    let queue = bench.queue();
    assert_eq!((0..20).filter(|_| queue.may_retry()).count(), 10);
    (0..25).for_each(|_| queue.earn_retry());
    assert_eq!((0..20).filter(|_| queue.may_retry()).count(), 2);
}

#[test]
fn passing_is_noted_once() {
    let bench = Bench::new(4, 1);
    bench.enter(ME, 1, COST).unwrap();
    let queue = bench.queue();
    let waiter = queue.waiters().next().unwrap();
    queue.note_passed(&waiter, 50);
    queue.note_passed(&waiter, 90);
    assert_eq!(queue.waiters().next().unwrap().passed_ms, 50);
}
