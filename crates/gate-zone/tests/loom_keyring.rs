//! Every interleaving of readers and publishers on halves of two words, under a memory model that may show stale values; and
//! publishers that die after any of their writes.
//!
//! Threads stand for processes. What a half holds is its generation, twice. Runs are bounded to [`PREEMPTIONS`] forced
//! switches, which keeps the whole file within seconds.

use std::cell::Cell as Local;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use gate_zone::keyring::turns::{self, Identity, Turn};
use gate_zone::word::Word;
use loom::sync::Arc;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Release, SeqCst};
use loom::sync::atomic::{AtomicBool, AtomicU64};
use loom::thread;

/// Two forced switches show each of the races that were planted here to try it.
const PREEMPTIONS: usize = 3;

/// Where three processes do all that there is to do, three take a minute.
const PREEMPTIONS_OF_MANY: usize = 2;

/// Writes of one publication: the claim, two words zeroed, two written, the generation, two zeroed, the claim's end.
const WRITES: usize = 9;

loom::thread_local! {
    /// How many writes the process lives for.
    static WRITES_LEFT: Local<usize> = Local::new(usize::MAX);
}

/// Whether a write still happens. The dead write nothing while their stack is unwound.
fn live_to_write() -> bool {
    if std::thread::panicking() {
        return false;
    }
    WRITES_LEFT.with(|left| match left.get().checked_sub(1) {
        Some(fewer) => left.set(fewer),
        None => resume_unwind(Box::new("killed")),
    });
    true
}

/// A word of the head. It is no more ordered than the halves are: sequentially consistent ones would hide in the model what
/// the order of the halves is for.
struct Cell(AtomicU64);

impl Word for Cell {
    fn load(&self) -> u64 {
        self.0.load(Acquire)
    }
    fn compare_exchange(&self, seen: u64, new: u64) -> Result<u64, u64> {
        if live_to_write() { self.0.compare_exchange(seen, new, AcqRel, Acquire) } else { Ok(seen) }
    }
    fn store(&self, new: u64) {
        if live_to_write() {
            self.0.store(new, Release);
        }
    }
    fn fence() {
        loom::sync::atomic::fence(SeqCst);
    }
}

struct Shared {
    generation: Cell,
    publisher: Cell,
    halves: [[AtomicU64; 2]; 2],
    /// Whether the publisher with the pid 1 is gone.
    is_gone: AtomicBool,
}

impl Shared {
    fn new() -> Arc<Self> {
        let cell = || Cell(AtomicU64::new(0));
        let half = || [AtomicU64::new(0), AtomicU64::new(0)];
        let (generation, publisher) = (cell(), cell());
        Arc::new(Self { generation, publisher, halves: [half(), half()], is_gone: AtomicBool::new(false) })
    }

    /// What [`gate_zone::keyring::Keyring::publish`] does.
    fn publish(&self, pid: u32) -> Option<u32> {
        let is_gone = |other: Identity| other.pid() == 1 && self.is_gone.load(SeqCst);
        let turn = Turn::begin(&self.generation, &self.publisher, Identity::new(pid, 7), is_gone)?;
        let generation = turn.generation();
        self.fill(generation, 0);
        self.fill(generation, generation);
        turn.commit();
        self.fill(generation + 1, 0);
        Some(generation)
    }

    fn fill(&self, generation: u32, value: u32) {
        for word in &self.halves[generation as usize & 1] {
            live_to_write();
            word.store(u64::from(value), Release);
        }
    }

    /// Reads a half; the two words differ if it was torn.
    fn read(&self) -> Option<u32> {
        turns::read(&self.generation, |generation| {
            let [first, second] = &self.halves[generation as usize & 1];
            Some((generation, first.load(Acquire), second.load(Acquire)))
        })
        .map(|(generation, first, second)| {
            assert_eq!((first, second), (generation.into(), generation.into()), "torn");
            generation
        })
    }
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Runs a job as a process of its own.
fn beside<T: 'static>(shared: &Arc<Shared>, job: impl FnOnce(&Shared) -> T + 'static) -> thread::JoinHandle<T> {
    let shared = Arc::clone(shared);
    thread::spawn(move || job(&shared))
}

#[test]
fn readers_see_whole_tables_in_their_order() {
    check(PREEMPTIONS, || {
        let shared = Shared::new();
        assert_eq!(shared.read(), None, "nothing was published");
        shared.publish(2);
        let publisher = beside(&shared, |s| [s.publish(2), s.publish(2)]);
        let (first, second) = (shared.read(), shared.read());
        assert!(Some(1) <= first && first <= second, "{first:?} and then {second:?}");
        assert_eq!(publisher.join().unwrap(), [Some(2), Some(3)]);
        assert_eq!(shared.read(), Some(3));
    });
}

#[test]
fn of_publishers_that_live_one_has_the_turn() {
    check(PREEMPTIONS, || {
        let shared = Shared::new();
        let other = beside(&shared, |s| s.publish(2));
        let own = shared.publish(3);
        let other = other.join().unwrap();
        assert!(matches!((own, other), (Some(1), Some(2) | None) | (Some(2) | None, Some(1))), "{own:?} {other:?}");
        assert_eq!(shared.read(), own.max(other));
        assert_eq!(shared.publisher.load(), 0);
    });
}

#[test]
fn a_publisher_that_dies_leaves_a_table_and_the_turn() {
    for writes in 0..=WRITES {
        check(PREEMPTIONS_OF_MANY, move || {
            let shared = Shared::new();
            shared.publish(2);
            let mortal = beside(&shared, move |s| {
                WRITES_LEFT.with(|left| left.set(writes));
                let _killed = catch_unwind(AssertUnwindSafe(|| s.publish(1)));
                WRITES_LEFT.with(|left| left.set(usize::MAX));
                s.is_gone.store(true, SeqCst);
            });
            let successor = beside(&shared, |s| s.publish(3));
            assert!(shared.read() >= Some(1), "the old table or a new one");
            mortal.join().unwrap();
            let published = successor.join().unwrap();
            let held = shared.read();
            assert!(held >= published && held >= Some(1));
            let next = shared.publish(4);
            assert_eq!(next, held.map(|held| held + 1), "the dead hold up nobody");
            assert_eq!(shared.read(), next);
        });
    }
}
