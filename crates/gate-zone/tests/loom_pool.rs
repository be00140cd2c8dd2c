//! Every interleaving of a few processes on the numbers of a shared count, under a memory model that may show stale values.
//!
//! Threads stand for processes, sets have two ways, and runs are bounded to [`PREEMPTIONS`] forced switches.

use std::time::Duration;

use gate_zone::limiter::fixed::{Tag, Window};
use gate_zone::limiter::pool::{End, Number};
use gate_zone::word::Word;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

/// As many as in the limiter's own models.
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

/// A set of two ways, and a clock.
struct Shared {
    set: [Cell; 2],
    now_ns: AtomicU64,
}

impl Shared {
    fn new() -> Self {
        let cell = || Cell(AtomicU64::new(0));
        Self { set: [cell(), cell()], now_ns: AtomicU64::new(SECOND_NS / 2) }
    }

    fn number(&self) -> Number<'_, Cell> {
        Number { set: &self.set, tag: Tag::new(5), window: window() }
    }

    fn now(&self) -> u64 {
        self.now_ns.load(Ordering::SeqCst)
    }

    fn add(&self, more: u64) {
        self.number().add(more, end(1), || self.now()).expect("there is a way");
    }

    fn raise(&self, least: u64) {
        self.number().raise(least, end(1), || self.now()).expect("there is a way");
    }

    fn take(&self, cost: u64) -> u64 {
        self.number().take(cost, || self.now()).map_or(0, |_| cost)
    }

    fn left(&self) -> u64 {
        self.number().read(|| self.now()).map_or(0, |held| held.number)
    }
}

fn window() -> Window {
    Window::new(Duration::from_secs(1)).expect("a second is long enough for a window")
}

fn end(second: u64) -> End {
    End::after(window(), second * SECOND_NS - SECOND_NS / 2, Duration::from_millis(500))
}

/// Runs each job as a process of its own; what they took together, and what is left.
fn run<const N: usize>(before: u64, jobs: [fn(&Shared) -> u64; N]) -> (u64, u64) {
    let shared = Shared::new();
    if before > 0 {
        shared.add(before);
    }
    run_on(shared, jobs)
}

fn run_on<const N: usize>(shared: Shared, jobs: [fn(&Shared) -> u64; N]) -> (u64, u64) {
    let shared = Arc::new(shared);
    let [first, rest @ ..] = jobs.as_slice() else { return (0, 0) };
    let others: Vec<_> = rest
        .iter()
        .map(|job| {
            let (shared, job) = (Arc::clone(&shared), *job);
            thread::spawn(move || job(&shared))
        })
        .collect();
    let own = first(&shared);
    let taken = own + others.into_iter().map(|other| other.join().expect("no thread of a model panics")).sum::<u64>();
    (taken, shared.left())
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

#[test]
fn what_two_takers_want_one_gets() {
    check(|| assert_eq!(run(1, [|s| s.take(1), |s| s.take(1)]), (1, 0)));
}

#[test]
fn two_grants_at_once_are_both_there() {
    check(|| {
        let grant = run(
            0,
            [
                |s| {
                    s.add(1);
                    0
                },
                |s| {
                    s.add(2);
                    0
                },
            ],
        );
        assert_eq!(grant, (0, 3));
    });
}

#[test]
fn nothing_is_taken_that_was_not_granted() {
    check(|| {
        let (taken, left) = run(
            0,
            [
                |s| {
                    s.add(2);
                    s.take(1)
                },
                |s| {
                    s.add(1);
                    s.take(2)
                },
            ],
        );
        assert_eq!(taken + left, 3);
    });
}

#[test]
fn the_higher_of_two_tellings_holds() {
    check(|| {
        let (_, told) = run(
            0,
            [
                |s| {
                    s.raise(5);
                    0
                },
                |s| {
                    s.raise(8);
                    0
                },
            ],
        );
        assert_eq!(told, 8);
    });
}

#[test]
fn a_window_that_ends_takes_its_grants_along() {
    check(|| {
        let (taken, left) = run(
            1,
            [
                |s| {
                    s.now_ns.store(SECOND_NS + SECOND_NS / 2, Ordering::SeqCst);
                    s.number().add(2, end(2), || s.now()).expect("there is a way");
                    0
                },
                |s| {
                    let is_later = s.now() > SECOND_NS;
                    // What began in the new window has nothing of the old one.
                    s.take(1) + if is_later { 10 } else { 0 }
                },
            ],
        );
        match taken {
            // Before the new grants were there, or from them.
            0 | 1 | 10 | 11 => assert!(left == 2 || left == 1, "{taken} {left}"),
            _ => unreachable!("{taken}"),
        }
        if taken == 11 {
            assert_eq!(left, 1, "from the new window's two");
        }
    });
}

#[test]
fn a_way_freed_between_two_tellings_does_not_count_both() {
    check(|| {
        // The other key's window ends when the clock moves: who looks before claims the second way, who looks after the
        // first.
        let shared = Shared::new();
        let other = Number { tag: Tag::new(6), ..shared.number() };
        let early = End::after(window(), SECOND_NS / 2, Duration::from_millis(100));
        other.add(1, early, || shared.now()).expect("there is a way");
        let (_, told) = run_on(
            shared,
            [
                |s| {
                    s.now_ns.store(SECOND_NS * 7 / 10, Ordering::SeqCst);
                    s.raise(5);
                    0
                },
                |s| {
                    s.raise(5);
                    0
                },
            ],
        );
        assert_eq!(told, 5);
    });
}
