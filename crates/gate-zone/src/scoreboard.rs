//! The scoreboard: one row per process, written by that process, read by all, settled by the master.
//!
//! It holds pairs of counters that only grow (started/finished), never a number that a process which may be dead has
//! to decrement later.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Duration;

use crate::layout::{ROWS, SETTLED_ROW, row};

/// What a process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Serves requests.
    Worker,
    /// Watches the backends.
    Monitor,
    /// The simulated backend of `--demo`.
    Demo,
}

/// A role and its slot: the place that a process fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// What for.
    pub role: Role,
    /// Which one of that role, from 0.
    pub slot: u32,
}

impl Place {
    fn to_word(self) -> u64 {
        let role = match self.role {
            Role::Worker => 1,
            Role::Monitor => 2,
            Role::Demo => 3,
        };
        role << 32 | u64::from(self.slot)
    }

    fn from_word(word: u64) -> Option<Self> {
        let role = match word >> 32 {
            1 => Role::Worker,
            2 => Role::Monitor,
            3 => Role::Demo,
            _ => return None,
        };
        Some(Self { role, slot: word as u32 })
    }
}

impl std::fmt::Display for Place {
    /// As in a process title: `worker 1`, `monitor`. Workers are numbered from 1 for people.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.role {
            Role::Worker => write!(f, "worker {}", self.slot + 1),
            Role::Monitor => f.write_str("monitor"),
            Role::Demo => f.write_str("demo"),
        }
    }
}

/// Where in its life a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Forked, not yet ready.
    Starting,
    /// Serving.
    Ready,
    /// Finishing what it has.
    Draining,
}

/// One row, as its readers see it.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    words: &'static [AtomicU64],
}

/// A process's load at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests in service.
    pub in_flight: u64,
    /// Open client connections.
    pub connections: u64,
}

impl Row {
    pub(crate) fn new(words: &'static [AtomicU64]) -> Self {
        debug_assert_eq!(words.len(), row::WORDS);
        Self { words }
    }

    fn load(self, word: usize) -> u64 {
        self.words[word].load(Acquire)
    }

    fn store(self, word: usize, value: u64) {
        self.words[word].store(value, Release);
    }

    /// The owner's pid; `None` for a free row.
    pub fn pid(self) -> Option<u32> {
        match self.load(row::OWNER) {
            0 => None,
            owner => Some((owner >> 32) as u32),
        }
    }

    /// The generation of the configuration that the owner runs.
    pub fn generation(self) -> u32 {
        self.load(row::OWNER) as u32
    }

    /// What the owner is there for; `None` before it has said so.
    pub fn place(self) -> Option<Place> {
        Place::from_word(self.load(row::PLACE))
    }

    /// Where in its life the owner is.
    pub fn stage(self) -> Stage {
        match self.load(row::STAGE) {
            1 => Stage::Ready,
            2 => Stage::Draining,
            _ => Stage::Starting,
        }
    }

    /// `CLOCK_MONOTONIC` in ms of the last beat; 0 before the first.
    pub fn heartbeat_ms(self) -> u64 {
        self.load(row::HEARTBEAT)
    }

    /// Requests in service and connections open.
    pub fn load_now(self) -> Load {
        let finished = self.load(row::FINISHED);
        let closed = self.load(row::CLOSED);
        Load {
            in_flight: self.load(row::STARTED).saturating_sub(finished),
            connections: self.load(row::OPENED).saturating_sub(closed),
        }
    }

    /// One counter of the row, by its name in [`crate::layout::row`].
    pub fn count(self, word: usize) -> u64 {
        self.load(word)
    }
}

/// One row, as its only writer sees it.
#[derive(Debug)]
pub struct OwnRow {
    row: Row,
}

impl OwnRow {
    /// Takes over a row that the master has set aside for this process.
    pub fn claim(row: Row, place: Place, generation: u32, now_ms: u64) -> Self {
        let pid = gate_sys::process::own_pid();
        row.store(row::PLACE, place.to_word());
        row.store(row::BORN, gate_sys::process::born(pid).unwrap_or(0));
        row.store(row::HEARTBEAT, now_ms);
        row.store(row::OWNER, u64::from(pid) << 32 | u64::from(generation));
        Self { row }
    }

    /// The row, to read.
    pub fn row(&self) -> Row {
        self.row
    }

    /// Says that the event loop turns.
    pub fn beat(&self, now_ms: u64) {
        self.row.store(row::HEARTBEAT, now_ms);
    }

    /// Says where in its life this process is.
    pub fn enter(&self, stage: Stage) {
        let word = match stage {
            Stage::Starting => 0,
            Stage::Ready => 1,
            Stage::Draining => 2,
        };
        self.row.store(row::STAGE, word);
    }

    /// Adds one to a counter of [`crate::layout::row`].
    pub fn add_one(&self, word: usize) {
        self.add(word, 1);
    }

    /// Adds `more` to a counter of [`crate::layout::row`].
    pub fn add(&self, word: usize, more: u64) {
        // One writer: a load and a store cannot lose anything.
        self.row.store(word, self.row.load(word).wrapping_add(more));
    }

    /// Counts one answer: its status class and how long it took, from head to last byte.
    pub fn answered(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(2, 5) - 2;
        self.add_one(row::ANSWERS + class);
        let micros = took.as_micros() as u64;
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.add_one(row::LATENCY + bucket.min(row::LATENCY_COUNT - 1));
    }
}

/// All rows.
#[derive(Debug, Clone, Copy)]
pub struct Scoreboard {
    pub(crate) words: &'static [AtomicU64],
    pub(crate) used: &'static AtomicU64,
}

impl Scoreboard {
    /// The row with this index, below [`ROWS`].
    ///
    /// # Panics
    /// Beyond the last row.
    pub fn row(self, index: usize) -> Row {
        Row::new(&self.words[index * row::WORDS..(index + 1) * row::WORDS])
    }

    /// All rows that have an owner, with their index.
    pub fn owned(self) -> impl Iterator<Item = (usize, Row)> {
        let used = (self.used.load(Acquire) as usize).min(ROWS);
        (SETTLED_ROW + 1..used).map(move |index| (index, self.row(index))).filter(|(_, row)| row.pid().is_some())
    }

    /// Sets a row aside for a process that is about to be forked: one that nobody owns and that is not among `taken`
    /// (rows given to processes which have not claimed them yet). `None` when all are in use. Master only.
    pub fn set_aside(self, taken: &[usize]) -> Option<usize> {
        let free = |index: &usize| self.row(*index).pid().is_none() && !taken.contains(index);
        let index = (SETTLED_ROW + 1..ROWS).find(free)?;
        let used = self.used.load(Acquire);
        self.used.store(used.max(index as u64 + 1), Release);
        Some(index)
    }

    /// Settles the row of a process that has been reaped: what it counted is added to the settled row, and the row is
    /// free again. Master only.
    pub fn settle(self, index: usize) {
        let (dead, sums) = (self.row(index), self.row(SETTLED_ROW));
        dead.store(row::OWNER, 0);
        for word in row::COUNTERS {
            sums.store(word, sums.load(word).wrapping_add(dead.load(word)));
        }
        for word in (0..row::WORDS).filter(|word| *word != row::OWNER) {
            dead.store(word, 0);
        }
    }

    /// Mean load of the workers that are ready and whose heart has beaten within `fresh_ms`; `None` when there is none.
    pub fn mean_load(self, now_ms: u64, fresh_ms: u64) -> Option<Mean> {
        let mut sum = Load::default();
        let mut workers = 0;
        for (_, row) in self.owned() {
            let counts = row.stage() == Stage::Ready
                && row.place().is_some_and(|place| place.role == Role::Worker)
                && now_ms.saturating_sub(row.heartbeat_ms()) < fresh_ms;
            if counts {
                let load = row.load_now();
                sum.in_flight += load.in_flight;
                sum.connections += load.connections;
                workers += 1;
            }
        }
        (workers > 0).then_some(Mean { sum, workers })
    }
}

/// The load of several workers.
#[derive(Debug, Clone, Copy)]
pub struct Mean {
    sum: Load,
    workers: u64,
}

impl Mean {
    /// Mean load, rounded up.
    pub fn ceil(self) -> Load {
        Load {
            in_flight: self.sum.in_flight.div_ceil(self.workers),
            connections: self.sum.connections.div_ceil(self.workers),
        }
    }
}
