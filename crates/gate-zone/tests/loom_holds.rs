//! Every interleaving of a few processes that take, release and settle places of a key.
//!
//! Threads stand for processes, groups are of two words, and runs are bounded to [`PREEMPTIONS`] forced switches.

use gate_zone::fleet::slots::Holder;
use gate_zone::holds::{self, Held, Table};
use gate_zone::word::Word;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

/// Two forced switches show the known races here; a third is for those that are not known.
const PREEMPTIONS: usize = 3;

/// Both of the same home and of different tags.
const KEY: u64 = 5;
const OTHER: u64 = 6;

const DEAD: Holder = Holder::new(9, 99);

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

/// Eight groups of two words. Processes of even and of odd rows begin at different ones.
struct Shared {
    reach: [Cell; 1],
    words: [Cell; 16],
}

impl Shared {
    fn new() -> Arc<Self> {
        let cell = |_| Cell(AtomicU64::new(0));
        Arc::new(Self { reach: [cell(0)], words: std::array::from_fn(cell) })
    }

    fn table(&self) -> Table<'_, Cell> {
        Table { reach: &self.reach, words: &self.words }
    }

    fn take(&self, row: usize, key: u64, max: usize) -> Option<Held> {
        holds::take(self.table(), key, max, Holder::new(row, 7))
    }

    fn count(&self) -> usize {
        holds::count(self.table(), KEY)
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

/// Runs each job, with its row, as a process of its own, and tells how many were let in.
fn let_in<const N: usize>(shared: &Arc<Shared>, jobs: [fn(&Shared, usize) -> bool; N]) -> usize {
    let run = |(row, job): (usize, &fn(&Shared, usize) -> bool)| {
        let (shared, job) = (Arc::clone(shared), *job);
        thread::spawn(move || job(&shared, row))
    };
    let others: Vec<_> = jobs.iter().enumerate().skip(1).map(run).collect();
    let own = usize::from(jobs[0](shared, 0));
    own + others.into_iter().filter_map(|other| other.join().ok()).filter(|was_let_in| *was_let_in).count()
}

#[test]
fn two_that_take_the_only_place_are_one() {
    check(|| {
        let shared = Shared::new();
        let count = let_in(&shared, [|s, row| s.take(row, KEY, 1).is_some(), |s, row| s.take(row, KEY, 1).is_some()]);
        assert_eq!((count, shared.count()), (1, 1));
    });
}

#[test]
fn two_that_take_the_last_of_two_places_are_one() {
    check(|| {
        let shared = Shared::new();
        let _first = shared.take(5, KEY, 2).expect("nobody else is there");
        let count = let_in(&shared, [|s, row| s.take(row, KEY, 2).is_some(), |s, row| s.take(row, KEY, 2).is_some()]);
        assert_eq!((count, shared.count()), (1, 2));
    });
}

#[test]
fn two_that_find_their_home_full_of_others_are_one() {
    check(|| {
        let shared = Shared::new();
        // So that the reach is still of one group.
        let _others = [OTHER, OTHER + 1].map(|other| shared.take(other as usize, other, 1).expect("there is room"));
        let count = let_in(&shared, [|s, row| s.take(row, KEY, 1).is_some(), |s, row| s.take(row, KEY, 1).is_some()]);
        assert_eq!((count, shared.count()), (1, 1));
    });
}

#[test]
fn a_reach_that_grows_hides_nobody() {
    check(|| {
        let shared = Shared::new();
        let second = Arc::clone(&shared);
        // The second of these goes beyond the home, where whoever looked before them does not look.
        let second = thread::spawn(move || (0..2).filter(|_| second.take(0, KEY, 2).is_some()).count());
        let first = usize::from(shared.take(1, KEY, 2).is_some());
        let count = first + second.join().expect("no thread of a model panics");
        assert_eq!((count, shared.count()), (2, 2));
    });
}

#[test]
fn a_place_that_is_given_back_is_taken_once() {
    check(|| {
        let shared = Shared::new();
        let first = shared.take(5, KEY, 1).expect("nobody else is there");
        let giver = Arc::clone(&shared);
        let giver = thread::spawn(move || holds::release(giver.table(), first));
        let count = let_in(&shared, [|s, row| s.take(row, KEY, 1).is_some(), |s, row| s.take(row, KEY, 1).is_some()]);
        giver.join().expect("no thread of a model panics");
        assert!(count <= 1 && shared.count() == count, "{count} in service");
        assert_eq!(shared.take(4, KEY, 1).is_some(), count == 0);
    });
}

#[test]
fn what_the_dead_held_is_freed_under_those_who_take() {
    check(|| {
        let shared = Shared::new();
        let _dead = holds::take(shared.table(), KEY, 1, DEAD).expect("nobody else is there");
        let master = Arc::clone(&shared);
        let master = thread::spawn(move || holds::settle(master.table(), |holder| holder == DEAD));
        let count = let_in(&shared, [|s, row| s.take(row, KEY, 1).is_some(), |s, row| s.take(row, KEY, 1).is_some()]);
        assert_eq!(master.join().expect("no thread of a model panics"), 1);
        assert!(count <= 1 && shared.count() == count, "{count} in service");
    });
}
