//! The scoreboard: one row per process, written by that process, read by all, settled by the master.
//!
//! It holds pairs of counters that only grow (started/finished), never a number that a process which may be dead has
//! to decrement later.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
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

    /// The owner's pid; `None` for a row that is free or only set aside.
    pub fn pid(self) -> Option<u32> {
        match self.load(row::OWNER) {
            0 => None,
            owner if owner as u32 == SET_ASIDE => None,
            owner => Some((owner >> 32) as u32),
        }
    }

    /// The master that has set the row aside, or was settling it; `None` for a free row and for one with an owner.
    pub fn set_aside_by(self) -> Option<u32> {
        let owner = self.load(row::OWNER);
        (owner as u32 == SET_ASIDE).then_some((owner >> 32) as u32)
    }

    /// The owner's start time: see [`gate_sys::process::born`].
    pub fn born(self) -> u64 {
        self.load(row::BORN)
    }

    /// Bytes of memory that the owner held when it last looked; 0 before.
    pub fn rss_bytes(self) -> u64 {
        self.load(row::RSS)
    }

    /// Streams open.
    pub fn streams(self) -> u64 {
        let closed = self.load(row::STREAMS_CLOSED);
        self.load(row::STREAMS_OPENED).saturating_sub(closed)
    }

    /// The requests in service that the row describes, oldest first.
    pub fn in_service(self) -> Vec<InService> {
        let words = (row::IN_SERVICE..row::IN_SERVICE + row::IN_SERVICE_COUNT).map(|word| self.load(word));
        let mut found: Vec<_> = words.filter_map(InService::from_word).collect();
        found.sort_unstable_by_key(|request| request.since_ms);
        found
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

/// One request in service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InService {
    /// `CLOCK_MONOTONIC` in ms at its begin.
    pub since_ms: u64,
    /// Its route, by a number that the worker's crate gives names to.
    pub route: u8,
}

impl InService {
    fn to_word(self) -> u64 {
        self.since_ms << 8 | u64::from(self.route)
    }

    fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self { since_ms: word >> 8, route: word as u8 })
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

    /// Says how many bytes of memory this process holds.
    pub fn holds(&self, bytes: u64) {
        self.row.store(row::RSS, bytes);
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

    /// Describes a request in service; the place it takes is given to [`OwnRow::ended`]. `None` when all are taken.
    pub fn begun(&self, request: InService) -> Option<u8> {
        let free = (0..row::IN_SERVICE_COUNT).find(|place| self.row.load(row::IN_SERVICE + place) == 0)?;
        self.row.store(row::IN_SERVICE + free, request.to_word());
        Some(free as u8)
    }

    /// Describes a request anew, at the place that [`OwnRow::begun`] gave it.
    pub fn describe(&self, place: u8, request: InService) {
        let place = usize::from(place).min(row::IN_SERVICE_COUNT - 1);
        self.row.store(row::IN_SERVICE + place, request.to_word());
    }

    /// Frees the place of a request that has ended.
    pub fn ended(&self, place: u8) {
        let place = usize::from(place).min(row::IN_SERVICE_COUNT - 1);
        self.row.store(row::IN_SERVICE + place, 0);
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

/// In place of a generation: nobody owns the row yet, or nobody any more.
const SET_ASIDE: u32 = u32::MAX;

fn set_aside_by(master: u32) -> u64 {
    u64::from(master) << 32 | u64::from(SET_ASIDE)
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
        self.used().filter(|(_, row)| row.pid().is_some())
    }

    /// Sets a row aside for a process that `master` is about to fork. `None` when all are in use. Masters only.
    pub fn set_aside(self, master: u32) -> Option<usize> {
        let mark = set_aside_by(master);
        let index = (SETTLED_ROW + 1..ROWS).find(|index| {
            let owner = &self.words[index * row::WORDS + row::OWNER];
            owner.compare_exchange(0, mark, AcqRel, Relaxed).is_ok()
        })?;
        self.used.fetch_max(index as u64 + 1, AcqRel);
        Some(index)
    }

    /// Settles the row of a process that is gone: what it counted is added to the settled row, and the row is free
    /// again. Of two masters that try at once, one does it; a row that is somebody else's by now is left alone. Masters
    /// only.
    pub fn settle(self, index: usize, master: u32, gone: u32) {
        let (dead, sums) = (self.row(index), self.row(SETTLED_ROW));
        let (owner, mark) = (dead.load(row::OWNER), set_aside_by(master));
        let is_ours = owner == mark || (owner as u32 != SET_ASIDE && (owner >> 32) as u32 == gone);
        if owner == 0 || !is_ours || dead.words[row::OWNER].compare_exchange(owner, mark, AcqRel, Relaxed).is_err() {
            return;
        }
        let sum = |word: usize, counted: u64| {
            if counted != 0 {
                sums.words[word].fetch_add(counted, AcqRel);
            }
        };
        for word in row::COUNTERS.into_iter().flatten() {
            sum(word, dead.load(word));
        }
        for (begun, ended) in row::PAIRS {
            let count = dead.load(begun);
            sum(begun, count);
            sum(ended, count);
        }
        self.free(index);
    }

    /// Frees a row that a master had set aside, or had not finished settling, and that is gone itself. Masters only.
    pub fn free(self, index: usize) {
        let row = self.row(index);
        for word in (0..row::WORDS).filter(|word| *word != row::OWNER) {
            row.store(word, 0);
        }
        row.store(row::OWNER, 0);
    }

    /// How many more rows can be set aside.
    pub fn free_rows(self) -> usize {
        (SETTLED_ROW + 1..ROWS).filter(|index| self.row(*index).load(row::OWNER) == 0).count()
    }

    /// Every row that was ever in use, with its index.
    pub fn used(self) -> impl Iterator<Item = (usize, Row)> {
        let used = (self.used.load(Acquire) as usize).min(ROWS);
        (SETTLED_ROW + 1..used).map(move |index| (index, self.row(index)))
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
