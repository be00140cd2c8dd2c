//! Holds against a model a reader can check by eye, and against processes that die at any of their steps.
//!
//! Keys, rows and numbers are random; everything is single-threaded here. Interleavings are `tests/loom_holds.rs`, real
//! processes `tests/holds_processes.rs`.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicU64;

use gate_zone::fleet::slots::Holder;
use gate_zone::holds::{self, Held, Table};
use gate_zone::word::Word;
use proptest::prelude::*;

/// Groups of four words.
const GROUPS: usize = 16;
const WORDS: usize = GROUPS * 4;

/// Each process has a row of its own, and its pid tells its life.
const ROWS: usize = 4;

const KEYS: u64 = 6;

/// Some share a home, some lie at the end.
fn hash(key: u64) -> u64 {
    [0, 0, 0, 5, 15, 15][key as usize] << 60 | key
}

#[derive(Debug, Clone)]
enum Step {
    /// By a process that is killed after so many steps.
    Take {
        key: u64,
        max: usize,
        row: usize,
        steps: usize,
    },
    Release {
        held: prop::sample::Index,
        steps: usize,
    },
    Kill {
        row: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let steps = || prop_oneof![9 => Just(usize::MAX), 1 => 0..150_usize];
    let step = prop_oneof![
        6 => (0..KEYS, 0..12_usize, 0..ROWS, steps())
            .prop_map(|(key, max, row, steps)| Step::Take { key, max, row, steps }),
        4 => (any::<prop::sample::Index>(), steps()).prop_map(|(held, steps)| Step::Release { held, steps }),
        1 => (0..ROWS).prop_map(|row| Step::Kill { row }),
    ];
    prop::collection::vec(step, 1..200)
}

/// What is in service: of which key, by which row, as what.
type InService = Vec<(u64, usize, Held)>;

/// The table and the processes.
struct World<'a> {
    reach: Vec<Mortal<'a>>,
    words: Vec<Mortal<'a>>,
    steps_left: &'a Cell<usize>,
    lives: [u32; ROWS],
}

impl<'a> World<'a> {
    fn new(steps_left: &'a Cell<usize>) -> Self {
        let words =
            |count: usize| -> Vec<_> { (0..count).map(|_| Mortal { word: AtomicU64::new(0), steps_left }).collect() };
        Self { reach: words(GROUPS / 8), words: words(WORDS), steps_left, lives: [1; ROWS] }
    }

    fn table(&self) -> Table<'_, Mortal<'a>> {
        Table { reach: &self.reach, words: &self.words }
    }

    fn holder(&self, row: usize) -> Holder {
        Holder::new(row, self.lives[row])
    }

    /// What a process comes to within so many steps; `None` if it died.
    fn live<T>(&self, steps: usize, life: impl FnOnce() -> T) -> Option<T> {
        self.steps_left.set(steps);
        let outcome = catch_unwind(AssertUnwindSafe(life)).ok();
        self.steps_left.set(usize::MAX);
        outcome
    }

    /// What the master does after a death.
    fn settle(&mut self, row: usize) -> usize {
        let gone = self.holder(row);
        self.lives[row] += 1;
        holds::settle(self.table(), |holder| holder == gone)
    }

    fn bury(&mut self, row: usize, in_service: &mut InService) -> (usize, usize) {
        let before = in_service.len();
        in_service.retain(|(_, of, _)| *of != row);
        (self.settle(row), before - in_service.len())
    }
}

proptest! {
    #[test]
    fn as_many_are_let_in_as_the_model_says(steps in steps()) {
        let steps_left = Cell::new(usize::MAX);
        let mut world = World::new(&steps_left);
        let mut in_service: InService = Vec::new();
        for step in steps {
            match step {
                Step::Take { key, max, row, steps } => {
                    let holder = world.holder(row);
                    let has = in_service.iter().filter(|(of, ..)| *of == key).count();
                    let taken = world.live(steps, || holds::take(world.table(), hash(key), max, holder));
                    match taken {
                        Some(Some(held)) => {
                            prop_assert!(has < max, "{} of {}", has + 1, max);
                            in_service.push((key, row, held));
                        }
                        Some(None) => prop_assert!(has >= max || in_service.len() == WORDS, "refused at {has} of {max}"),
                        None => {
                            let (freed, had) = world.bury(row, &mut in_service);
                            prop_assert!((had..=had + 1).contains(&freed), "{freed} of {had}");
                        }
                    }
                }
                Step::Release { held, steps } if !in_service.is_empty() => {
                    let (_, row, held) = in_service.swap_remove(held.index(in_service.len()));
                    if world.live(steps, || holds::release(world.table(), held)).is_none() {
                        let (freed, had) = world.bury(row, &mut in_service);
                        prop_assert!((had..=had + 1).contains(&freed), "{freed} of {had}");
                    }
                }
                Step::Release { .. } => {}
                Step::Kill { row } => {
                    let (freed, had) = world.bury(row, &mut in_service);
                    prop_assert_eq!(freed, had);
                }
            }
            for key in 0..KEYS {
                let has = in_service.iter().filter(|(of, ..)| *of == key).count();
                prop_assert_eq!(holds::count(world.table(), hash(key)), has);
            }
        }
    }
}

/// A word of a process that is killed after so many steps.
struct Mortal<'a> {
    word: AtomicU64,
    steps_left: &'a Cell<usize>,
}

impl Mortal<'_> {
    fn step(&self) {
        match self.steps_left.get().checked_sub(1) {
            Some(left) => self.steps_left.set(left),
            None => resume_unwind(Box::new("killed")),
        }
    }
}

impl Word for Mortal<'_> {
    fn load(&self) -> u64 {
        self.step();
        Word::load(&self.word)
    }
    fn compare_exchange(&self, seen: u64, new: u64) -> Result<u64, u64> {
        self.step();
        Word::compare_exchange(&self.word, seen, new)
    }
    fn store(&self, new: u64) {
        self.step();
        Word::store(&self.word, new);
    }
    fn fence() {}
}
