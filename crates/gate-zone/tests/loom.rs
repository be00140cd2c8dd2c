//! Every interleaving of a few processes on a small set, under a memory model that may show stale values.
//!
//! Threads stand for processes, sets have two ways and runs are bounded to [`PREEMPTIONS`] forced switches, which keeps
//! the whole file within seconds.

use std::time::Duration;

use gate_zone::limiter::fixed::{self, Charge, Taken, Verdict, Window};
use gate_zone::limiter::gcra;
use gate_zone::word::Word;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

/// Three forced switches show the known races here, each of which needs two; four take minutes.
const PREEMPTIONS: usize = 3;

const SECOND_NS: u64 = 1_000_000_000;

struct Cell(AtomicU64);

impl Word for Cell {
    fn load(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn compare_exchange(&self, seen: u64, new: u64) -> Result<u64, u64> {
        self.0.compare_exchange(seen, new, Ordering::SeqCst, Ordering::SeqCst)
    }
    fn store(&self, new: u64) {
        self.0.store(new, Ordering::SeqCst);
    }
    fn fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// What the processes share: a set of two ways, an overflow cell, a clock.
struct Shared {
    set: [Cell; 2],
    cell: Cell,
    now_ns: AtomicU64,
}

impl Shared {
    fn new(set: [u64; 2], now_ns: u64) -> Arc<Self> {
        let cell = |word| Cell(AtomicU64::new(word));
        Arc::new(Self { set: set.map(cell), cell: cell(0), now_ns: AtomicU64::new(now_ns) })
    }

    fn now(&self) -> u64 {
        self.now_ns.load(Ordering::SeqCst)
    }

    fn admits(&self, amount: u64) -> bool {
        self.take(1, amount).is_some()
    }

    fn take(&self, cost: u64, amount: u64) -> Option<Taken> {
        let charge = Charge { tag: fixed::Tag::new(TAG), amount, cost, window: window() };
        match fixed::charge(&self.set, || &self.cell, charge, || self.now()) {
            Verdict::Admitted { taken, .. } => Some(taken),
            Verdict::Refused { .. } => None,
        }
    }

    fn settle(&self, taken: Taken, used: u64) {
        fixed::settle(&self.set, || &self.cell, taken, used, || self.now());
    }

    /// One at once, and another after a second.
    fn gcra_admits(&self) -> bool {
        let now_ns = self.now();
        let decide = |tat: Option<u64>| match tat {
            Some(tat) if now_ns < tat => Err(()),
            _ => Ok(((), now_ns + SECOND_NS)),
        };
        gcra::measure(&self.set, || &self.cell, gcra::Tag::new(TAG), || self.now(), decide).is_ok()
    }

    /// Charges in the words that hold the tag.
    fn counted(&self) -> u64 {
        self.set.iter().map(Word::load).filter(|word| word >> 46 == TAG).map(|word| word & 0x3fff_ffff).sum()
    }
}

const TAG: u64 = 5;
const OTHER: u64 = 6;

fn window() -> Window {
    Window::new(Duration::from_secs(1)).expect("a second is long enough for a window")
}

/// A word with one charge whose window ends in the tick at `end_ns`.
fn fixed_word(tag: u64, end_ns: u64) -> u64 {
    let tick = end_ns / window().tick().as_nanos() as u64;
    tag << 46 | (tick & 0xffff) << 30 | 1
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

/// Runs each job as a process of its own and tells how many were admitted.
fn admitted<const N: usize>(shared: &Arc<Shared>, jobs: [fn(&Shared) -> bool; N]) -> u64 {
    let [first, rest @ ..] = jobs.as_slice() else { return 0 };
    let others: Vec<_> = rest
        .iter()
        .map(|job| {
            let (shared, job) = (Arc::clone(shared), *job);
            thread::spawn(move || job(&shared))
        })
        .collect();
    let own = u64::from(first(shared));
    own + others.into_iter().map(|other| u64::from(other.join().expect("no thread of a model panics"))).sum::<u64>()
}

#[test]
fn two_chargers_of_an_empty_set_admit_one_of_one() {
    check(|| {
        let shared = Shared::new([0, 0], 0);
        assert_eq!(admitted(&shared, [|s| s.admits(1), |s| s.admits(1)]), 1);
        assert_eq!(shared.counted(), 1);
    });
}

#[test]
fn two_chargers_of_an_empty_set_admit_two_of_two() {
    check(|| {
        let shared = Shared::new([0, 0], 0);
        assert_eq!(admitted(&shared, [|s| s.admits(2), |s| s.admits(2)]), 2);
        assert_eq!(shared.counted(), 2);
    });
}

#[test]
fn three_chargers_of_an_empty_set_admit_two_of_two() {
    check(|| {
        let shared = Shared::new([0, 0], 0);
        assert_eq!(admitted(&shared, [|s| s.admits(2), |s| s.admits(2), |s| s.admits(2)]), 2);
        assert_eq!(shared.counted(), 2);
    });
}

#[test]
fn a_way_freed_between_two_claims_does_not_admit_twice() {
    check(|| {
        // The first way's window ends just when the clock moves: who looks before claims the second, who looks after
        // claims the first.
        let edge = 2 * SECOND_NS;
        let shared = Shared::new([fixed_word(OTHER, edge), 0], edge - SECOND_NS / 100);
        let count = admitted(
            &shared,
            [
                |s| {
                    s.now_ns.store(2 * SECOND_NS, Ordering::SeqCst);
                    s.admits(1)
                },
                |s| s.admits(1),
            ],
        );
        assert!(count <= 1, "{count} admitted of 1");
        assert!(shared.counted() >= count);
    });
}

#[test]
fn a_way_freed_between_three_claims_does_not_admit_a_third() {
    check(|| {
        let edge = 2 * SECOND_NS;
        let shared = Shared::new([fixed_word(OTHER, edge), 0], edge - SECOND_NS / 100);
        let count = admitted(
            &shared,
            [
                |s| {
                    s.now_ns.store(2 * SECOND_NS, Ordering::SeqCst);
                    s.admits(2)
                },
                |s| s.admits(2),
                |s| s.admits(2),
            ],
        );
        assert!(count <= 2, "{count} admitted of 2");
        assert!(shared.counted() >= count);
    });
}

#[test]
fn an_expiring_window_of_the_key_itself_gives_way_to_one_new_one() {
    check(|| {
        let edge = 2 * SECOND_NS;
        let shared = Shared::new([fixed_word(TAG, edge), 0], edge - SECOND_NS / 100);
        let count = admitted(
            &shared,
            [
                |s| {
                    s.now_ns.store(2 * SECOND_NS, Ordering::SeqCst);
                    s.admits(1)
                },
                |s| s.admits(1),
            ],
        );
        assert_eq!(count, 1, "the old window is full, the new one has room for one");
        assert_eq!(shared.counted(), 1);
    });
}

#[test]
fn a_sweeper_takes_ended_words_and_never_a_fresh_one() {
    check(|| {
        let shared = Shared::new([fixed_word(TAG, SECOND_NS), fixed_word(OTHER, SECOND_NS)], 2 * SECOND_NS);
        let count = admitted(
            &shared,
            [
                |s| {
                    s.now_ns.store(2 * SECOND_NS + SECOND_NS / 2, Ordering::SeqCst);
                    s.admits(1)
                },
                |s| {
                    let swept = fixed::sweep(&s.set, window(), 0, 2, || s.now());
                    assert!(swept.freed <= 2);
                    false
                },
                |s| s.admits(1),
            ],
        );
        assert!(count <= 1, "{count} admitted of 1");
        assert!(shared.counted() >= count);
    });
}

#[test]
fn a_charger_killed_between_its_swap_and_its_second_look_costs_at_most_a_charge() {
    check(|| {
        let edge = 2 * SECOND_NS;
        let shared = Shared::new([fixed_word(OTHER, edge), 0], edge - SECOND_NS / 100);
        let count = admitted(
            &shared,
            [
                |s| s.admits(2),
                |s| {
                    s.now_ns.store(2 * SECOND_NS, Ordering::SeqCst);
                    let seen = Word::load(&s.set[0]);
                    // The claim of a process that does not live to look again.
                    s.set[0].compare_exchange(seen, fixed_word(TAG, 3 * SECOND_NS)).ok();
                    false
                },
                |s| s.admits(2),
            ],
        );
        assert!(count <= 2, "{count} admitted of 2");
    });
}

#[test]
fn costs_of_an_empty_set_admit_what_fits() {
    check(|| {
        let shared = Shared::new([0, 0], 0);
        let take = |cost| move |s: &Shared| s.take(cost, 4).is_some();
        let others = [2, 3].map(|cost| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || u64::from(take(cost)(&shared)) * cost)
        });
        let admitted: u64 = others.into_iter().map(|other| other.join().expect("no thread of a model panics")).sum();
        assert!(admitted == 2 || admitted == 3, "{admitted}: one fits, both do not");
        assert_eq!(shared.counted(), admitted);
    });
}

#[test]
fn costs_in_two_ways_of_a_key_never_admit_more() {
    check(|| {
        let edge = 2 * SECOND_NS;
        let shared = Shared::new([fixed_word(OTHER, edge), 0], edge - SECOND_NS / 100);
        let count = admitted(
            &shared,
            [
                |s| {
                    s.now_ns.store(2 * SECOND_NS, Ordering::SeqCst);
                    s.take(2, 3).is_some()
                },
                |s| s.take(2, 3).is_some(),
            ],
        );
        assert!(count <= 1, "{count} of cost 2 admitted of 3");
        assert!(shared.counted() >= 2 * count);
    });
}

#[test]
fn what_is_given_back_is_taken_once() {
    check(|| {
        let shared = Shared::new([0, 0], 0);
        let taken = shared.take(2, 3).expect("nobody else is there");
        let settler = Arc::clone(&shared);
        let settler = thread::spawn(move || settler.settle(taken, 0));
        let cost = |s: &Shared, cost| s.take(cost, 3).map_or(0, |taken| taken.cost());
        let other = Arc::clone(&shared);
        let other = thread::spawn(move || cost(&other, 2));
        let own = cost(&shared, 1);
        let sum = own + other.join().expect("no thread of a model panics");
        settler.join().expect("no thread of a model panics");
        assert!(own == 1, "one fits in any case");
        assert_eq!(shared.counted(), sum, "of 3");
    });
}

#[test]
fn what_was_used_beyond_is_charged_beside_others() {
    check(|| {
        let shared = Shared::new([0, 0], 0);
        let taken = shared.take(1, 4).expect("nobody else is there");
        let settler = Arc::clone(&shared);
        let settler = thread::spawn(move || settler.settle(taken, 3));
        let count = admitted(&shared, [|s| s.take(1, 4).is_some(), |s| s.take(2, 4).is_some()]);
        settler.join().expect("no thread of a model panics");
        let counted = shared.counted();
        assert!((3 + count..=3 + 2 * count).contains(&counted), "{counted} for {count}");
        assert!(!shared.admits(4) || counted < 4, "who comes later sees all of it");
    });
}

#[test]
fn a_settlement_leaves_the_next_window_alone() {
    check(|| {
        let shared = Shared::new([0, 0], 0);
        let taken = shared.take(2, 2).expect("nobody else is there");
        let count = {
            let settler = Arc::clone(&shared);
            let settler = thread::spawn(move || settler.settle(taken, 0));
            let count = admitted(
                &shared,
                [|s| {
                    s.now_ns.store(2 * SECOND_NS, Ordering::SeqCst);
                    s.take(2, 2).is_some()
                }],
            );
            settler.join().expect("no thread of a model panics");
            count
        };
        assert_eq!(count, 1, "the old window is over");
        assert_eq!(shared.counted(), 2);
    });
}

#[test]
fn gcra_claims_of_an_empty_set_admit_one() {
    check(|| {
        let shared = Shared::new([0, 0], SECOND_NS);
        assert_eq!(admitted(&shared, [Shared::gcra_admits, Shared::gcra_admits]), 1);
    });
}

/// Two ways that have passed: a claim takes the first, or the second once a sweeper has been there.
fn passed_ways() -> Arc<Shared> {
    let passed = |ticks: u64| OTHER << 44 | ticks;
    Shared::new([passed(5), passed(10)], SECOND_NS)
}

fn sweep_second(shared: &Shared) -> bool {
    gcra::sweep(&shared.set, 1, 1, || shared.now());
    false
}

#[test]
fn gcra_claims_of_two_ways_admit_one() {
    check(|| {
        let count = admitted(&passed_ways(), [sweep_second, Shared::gcra_admits, Shared::gcra_admits]);
        assert!(count <= 1, "{count} admitted of 1");
    });
}

#[test]
fn a_gcra_claim_beside_a_way_that_passes_is_admitted() {
    check(|| {
        let tat = TAG << 44 | (SECOND_NS / gcra::TICK_NS);
        let shared = Shared::new([tat, 0], SECOND_NS - gcra::TICK_NS);
        let count = admitted(
            &shared,
            [
                |s| {
                    s.now_ns.store(SECOND_NS, Ordering::SeqCst);
                    s.gcra_admits()
                },
                Shared::gcra_admits,
            ],
        );
        assert_eq!(count, 1, "the old charge has passed, and there is room for one");
    });
}
