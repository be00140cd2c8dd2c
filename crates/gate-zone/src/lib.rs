//! What each word of the shared memory means: the head, the scoreboard, the fleet, the keyring, who is in service and the
//! limiter's tables.
//!
//! It does not decide who may pass or which process to start; it knows layouts and the protocols (single writer, or
//! compare-and-swap) by which processes share them without locks.
//!
//! Invariant: a process may be killed at any instruction and leaves nothing held; all-zero words are a valid start.
#![forbid(unsafe_code)]

pub use gate_sys::bells::Bells;
pub use gate_sys::clock;

mod adopted;
pub mod fleet;
pub mod holds;
pub mod keyring;
pub mod layout;
pub mod limiter;
pub mod probe;
pub mod scoreboard;
pub mod store;
pub mod word;

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Duration;

use gate_sys::shared::SharedWords;

pub use crate::adopted::Foreign;
pub use crate::fleet::Fleet;
use crate::layout::{OVERFLOW_CELLS, SCOREBOARD, header};
use crate::limiter::fixed::{self, Window};
pub use crate::probe::Probe;
pub use crate::scoreboard::{InService, OwnRow, Place, Role, Row, Scoreboard, Stage};
pub use crate::store::Store;

/// The shared memory of one gate. Copies of this handle name the same memory, in every process forked from the
/// master that made it.
#[derive(Debug, Clone, Copy)]
pub struct Zone {
    words: &'static [AtomicU64],
}

/// One limiter region: the sets, and the cells that stand in for a full set.
#[derive(Debug, Clone, Copy)]
pub struct Region {
    /// Sets of eight ways.
    pub sets: &'static [AtomicU64],
    /// Overflow cells.
    pub overflow: &'static [AtomicU64],
}

/// How full one fixed-window region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// The length of its windows.
    pub window: Duration,
    /// Keys that it has room for.
    pub entries: usize,
    /// Keys whose window has not ended.
    pub used: usize,
}

/// What operators have said about the number of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkersWord {
    /// What the configuration asked for then.
    pub configured: u32,
    /// What is wanted instead.
    pub wanted: u32,
    /// Whether there are to be none for now.
    pub none: bool,
}

/// There are more window lengths than regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyWindows;

impl std::fmt::Display for TooManyWindows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "limits use more than {} different window lengths, those of the configuration in service included",
            header::WINDOW_COUNT
        )
    }
}

impl std::error::Error for TooManyWindows {}

impl Zone {
    /// Makes a zone whose limiter regions hold `entries` entries each, and the handle that keeps its memory file.
    ///
    /// # Errors
    /// Out of memory or file descriptors.
    pub fn create(entries: NonZeroUsize, seed: [u64; 2]) -> io::Result<(SharedWords, Self)> {
        let words = NonZeroUsize::new(layout::zone_words(entries.get())).ok_or(io::ErrorKind::InvalidInput)?;
        let shared = SharedWords::create(words)?;
        let zone = Self { words: shared.words() };
        zone.store(header::EPOCH, clock::boottime_ns());
        zone.store(header::SEED_LOW, seed[0]);
        zone.store(header::SEED_HIGH, seed[1]);
        zone.store(header::ENTRIES, entries.get() as u64);
        zone.store(header::VERSION, layout::VERSION);
        zone.store(header::MAGIC, layout::MAGIC);
        Ok((shared, zone))
    }

    fn load(self, word: usize) -> u64 {
        self.words[word].load(Acquire)
    }

    fn store(self, word: usize, value: u64) {
        self.words[word].store(value, Release);
    }

    /// Entries of each limiter region.
    pub fn entries(self) -> usize {
        self.load(header::ENTRIES) as usize
    }

    /// How full the fixed-window regions are, by the zone's own `memory`. Costs no memory, but reads all of it: for the
    /// operator's question, not for every request.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for memory that is not this zone's; what reading it answers.
    pub fn fill(self, memory: &SharedWords) -> io::Result<Vec<Fill>> {
        let entries = self.entries();
        let mut all = Vec::new();
        for index in 0..header::WINDOW_COUNT {
            let Some(window) = Window::new(Duration::from_nanos(self.load(header::WINDOWS + index))) else { continue };
            let start = layout::LIMITER + index * layout::region_words(entries);
            let mut used = 0;
            memory.read_range(start..start + entries, &mut |words| {
                // After the words, so that none is older than its window seems.
                let now_ns = self.now_ns();
                used += words.iter().filter(|word| fixed::is_live(**word, window, now_ns)).count();
            })?;
            all.push(Fill { window: window.length(), entries, used });
        }
        Ok(all)
    }

    /// Nanoseconds since the zone was made, on the clock that limits use.
    pub fn now_ns(self) -> u64 {
        clock::boottime_ns().saturating_sub(self.load(header::EPOCH))
    }

    /// Seed of the limiter's key hash.
    pub fn seed(self) -> [u64; 2] {
        [self.load(header::SEED_LOW), self.load(header::SEED_HIGH)]
    }

    /// The scoreboard.
    pub fn scoreboard(self) -> Scoreboard {
        let end = SCOREBOARD + layout::ROWS * layout::row::WORDS;
        Scoreboard { words: &self.words[SCOREBOARD..end], used: &self.words[header::ROWS_USED] }
    }

    /// How the store of shared limits is.
    pub fn limit_store(self) -> Store<AtomicU64> {
        Store { breaker: &self.words[header::STORE_BREAKER], since: &self.words[header::STORE_SINCE] }
    }

    /// The generation that serves.
    pub fn generation(self) -> u32 {
        self.load(header::GENERATION) as u32
    }

    /// Says which generation serves. Master only.
    pub fn tell_generation(self, generation: u32) {
        self.store(header::GENERATION, u64::from(generation));
    }

    /// What operators have said about the number of workers.
    pub fn workers_word(self) -> Option<WorkersWord> {
        let word = self.load(header::WORKERS);
        let (said, none) = (word >> 63 == 1, (word >> 62) & 1 == 1);
        said.then_some(WorkersWord { configured: (word >> 32) as u32 & 0xffff, wanted: word as u32, none })
    }

    /// Notes what operators have said about the number of workers. Master only.
    pub fn tell_workers_word(self, said: WorkersWord) {
        let flags = 1 << 63 | u64::from(said.none) << 62;
        self.store(header::WORKERS, flags | u64::from(said.configured & 0xffff) << 32 | u64::from(said.wanted));
    }

    /// Forgets it: the next gate begins as its configuration says. Master only.
    pub fn forget_workers_word(self) {
        self.store(header::WORKERS, 0);
    }

    /// How often the log files were to be reopened.
    pub fn reopenings(self) -> u64 {
        self.load(header::REOPEN)
    }

    /// Asks every worker to open its log file again. Master only.
    pub fn ask_to_reopen(self) {
        self.store(header::REOPEN, self.reopenings() + 1);
    }

    /// Gives each of the `wanted` window lengths a region. Those in service keep theirs, counts and all; a region that
    /// neither needs is emptied and given anew. Master only, before it forks a worker that wants them.
    ///
    /// # Errors
    /// [`TooManyWindows`]; nothing has changed then.
    pub fn assign_windows(self, wanted: &[Duration], in_service: &[Duration]) -> Result<(), TooManyWindows> {
        let ns = |window: &Duration| window.as_nanos() as u64;
        let mut table: Vec<u64> = (0..header::WINDOW_COUNT).map(|i| self.load(header::WINDOWS + i)).collect();
        let mut changed = Vec::new();
        for window in wanted.iter().map(ns) {
            if table.contains(&window) {
                continue;
            }
            let needed = |held: u64| wanted.iter().chain(in_service).map(ns).any(|window| window == held);
            // Unused ones first: workers that still drain may count in a region that nobody else needs.
            let unused = table.iter().position(|held| *held == 0);
            let index = unused.or_else(|| table.iter().position(|held| !needed(*held))).ok_or(TooManyWindows)?;
            // One that was never used holds nothing, and looking would make the kernel give it memory.
            let was_used = table[index] != 0;
            table[index] = window;
            changed.push((index, was_used));
        }
        for (index, was_used) in changed {
            let region = self.region(index);
            for word in region.sets.iter().chain(region.overflow).filter(|_| was_used) {
                if word.load(Acquire) != 0 {
                    word.store(0, Release);
                }
            }
            self.store(header::WINDOWS + index, table[index]);
        }
        Ok(())
    }

    /// The fixed-window region for windows of this length; `None` when the master has not assigned one.
    pub fn window_region(self, window: Duration) -> Option<Region> {
        let ns = window.as_nanos() as u64;
        self.windows().find(|(held, _)| *held == window && ns != 0).map(|(_, region)| region)
    }

    /// All fixed-window regions in use, with their window lengths.
    pub fn windows(self) -> impl Iterator<Item = (Duration, Region)> {
        (0..header::WINDOW_COUNT)
            .map(move |index| (Duration::from_nanos(self.load(header::WINDOWS + index)), self.region(index)))
            .filter(|(window, _)| !window.is_zero())
    }

    /// The region for GCRA.
    pub fn gcra_region(self) -> Region {
        self.region(header::WINDOW_COUNT)
    }

    fn region(self, index: usize) -> Region {
        let entries = self.entries();
        let start = layout::LIMITER + index * layout::region_words(entries);
        let (sets, rest) = self.words[start..].split_at(entries);
        Region { sets, overflow: &rest[..OVERFLOW_CELLS] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap().1
    }

    #[test]
    fn regions_keep_their_windows_and_their_counts() {
        let zone = zone();
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        zone.assign_windows(&[minute], &[]).unwrap();
        zone.window_region(minute).unwrap().sets[5].store(9, Release);
        zone.assign_windows(&[hour, minute], &[minute]).unwrap();
        assert_eq!(zone.window_region(minute).unwrap().sets[5].load(Acquire), 9);
        assert!(zone.window_region(hour).is_some());
        assert!(zone.window_region(Duration::from_secs(1)).is_none());
    }

    #[test]
    fn a_region_that_nobody_needs_is_emptied_and_given_anew() {
        let zone = zone();
        let lengths: Vec<_> = (1..=16).map(Duration::from_secs).collect();
        zone.assign_windows(&lengths, &[]).unwrap();
        zone.window_region(lengths[0]).unwrap().sets[0].store(7, Release);
        let more = Duration::from_secs(99);
        assert_eq!(zone.assign_windows(&[more], &lengths), Err(TooManyWindows));
        zone.assign_windows(&[more], &lengths[1..]).unwrap();
        assert_eq!(zone.window_region(more).unwrap().sets[0].load(Acquire), 0);
        assert!(zone.window_region(lengths[0]).is_none());
    }

    #[test]
    fn rows_are_set_aside_claimed_and_settled() {
        let zone = zone();
        let board = zone.scoreboard();
        let first = board.set_aside(7).unwrap();
        let second = board.set_aside(8).unwrap();
        assert_ne!(first, second);
        assert_eq!((board.row(first).pid(), board.row(first).set_aside_by()), (None, Some(7)));
        let place = Place { role: Role::Worker, slot: 2 };
        let own = OwnRow::claim(board.row(first), place, 3, 100);
        own.enter(Stage::Ready);
        own.add_one(layout::row::STARTED);
        own.add_one(layout::row::OPENED);
        own.answered(404, Duration::from_micros(5));
        assert_eq!((own.row().place(), own.row().generation()), (Some(place), 3));
        assert_eq!(board.mean_load(150, 1000).unwrap().ceil().in_flight, 1);
        assert!(board.mean_load(1100, 1000).is_none(), "a stale heart does not count");
        assert_eq!(board.free_rows(), layout::ROWS - 3);
        let request = InService { since_ms: 77, route: 3 };
        let described = own.begun(request).unwrap();
        assert_eq!(own.row().in_service(), [request]);
        let routed = InService { route: 4, ..request };
        own.describe(described, routed);
        assert_eq!(own.row().in_service(), [routed]);
        own.ended(described);
        assert_eq!(own.row().in_service(), []);
        let own = gate_sys::process::own_pid();
        board.settle(first, 7, own + 1);
        assert_eq!(board.row(first).pid(), Some(own), "the row of another process");
        board.settle(first, 7, own);
        board.settle(first, 8, own);
        assert_eq!(board.row(first).pid(), None);
        assert_eq!(board.row(layout::SETTLED_ROW).count(layout::row::ANSWERS + 2), 1);
        let sums = board.row(layout::SETTLED_ROW);
        assert_eq!(sums.count(layout::row::LATENCY + 3), 1);
        let none = crate::scoreboard::Load::default();
        assert_eq!((sums.count(layout::row::STARTED), sums.load_now()), (1, none), "nothing of the dead is in flight");
        assert_eq!(board.set_aside(7), Some(first));
    }

    #[test]
    fn keys_are_counted_while_their_windows_last() {
        let (memory, zone) = Zone::create(NonZeroUsize::new(1 << 14).unwrap(), [1, 2]).unwrap();
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        zone.assign_windows(&[minute, hour], &[]).unwrap();
        let region = zone.window_region(minute).unwrap();
        let window = Window::new(minute).unwrap();
        let charge = |hash: u64, now_ns: u64| {
            let charge = fixed::Charge { tag: fixed::Tag::new(hash), amount: 9, cost: 1, window };
            let set = limiter::set_of(region.sets, hash).unwrap();
            fixed::charge(set, || limiter::cell_of(region.overflow, hash).unwrap(), charge, || now_ns);
        };
        for hash in [1, 1, 2, u64::MAX] {
            charge(hash, zone.now_ns());
        }
        // Ends are told modulo 64 windows: one that lies 63 ahead has ended a window ago.
        charge(1 << 63, zone.now_ns() + 62 * minute.as_nanos() as u64);
        let fill = |window, used| Fill { window, entries: 1 << 14, used };
        assert_eq!(zone.fill(&memory).unwrap(), [fill(minute, 3), fill(hour, 0)]);
        let other = Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap().0;
        assert_eq!(zone.fill(&other).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_word_on_workers_is_read_as_it_was_said() {
        let zone = zone();
        assert_eq!(zone.workers_word(), None);
        for said in [
            WorkersWord { configured: 4, wanted: 7, none: false },
            WorkersWord { configured: 64, wanted: 1, none: true },
        ] {
            zone.tell_workers_word(said);
            assert_eq!(zone.workers_word(), Some(said));
        }
    }

    #[test]
    fn all_rows_taken_is_told() {
        let board = zone().scoreboard();
        assert_eq!(std::iter::from_fn(|| board.set_aside(7)).count(), layout::ROWS - 1);
        board.settle(4, 8, 8);
        assert_eq!(board.set_aside(8), None, "a row that another master has set aside is not ours to settle");
        board.settle(4, 7, 7);
        assert_eq!(board.set_aside(8), Some(4));
    }
}
