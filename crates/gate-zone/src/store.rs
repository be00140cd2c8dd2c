//! How the store of limits over hosts is, for all processes of a gate: whether it is asked, and since when it is away.
//!
//! It asks nobody. After a failure nobody asks until a probe is due; one process at a time is chosen for it, and only a
//! probe that was answered closes the breaker. One that dies with the probe in hand costs nothing: the next is due all
//! the same.
//!
//! The breaker is `when the next probe is due 48 | step 16`, in milliseconds of the limits' clock; 0 is closed. The other
//! word is `in use 1 | away 1 | since when 62`. Times are one more than they are, since the clock begins with 0.

use std::time::Duration;

use crate::word::{Word, update};

/// The first pause after a failure: long next to a store that restarts, short next to a window.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause, and so how long limits hold locally while the store is back already.
const PAUSE_MAX: Duration = Duration::from_secs(1);

const STEP_BITS: u32 = 16;
const IN_USE: u64 = 1 << 63;
const AWAY: u64 = 1 << 62;

/// What the zone knows of the store. Copies name the same words.
#[derive(Debug)]
pub struct Store<W: 'static> {
    /// Whether it is asked.
    pub breaker: &'static W,
    /// How it is.
    pub since: &'static W,
}

impl<W> Clone for Store<W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Store<W> {}

/// What to do about the store now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Ask it.
    Ask,
    /// Do without it.
    Local,
    /// Do without it, and find out whether it is back; the only one that was told so.
    Probe,
}

/// How the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Limits are this gate's own.
    Unused,
    /// It answers, as far as anybody knows.
    Well,
    /// It does not; limits hold locally.
    Away {
        /// When that was noticed, on the clock of limits.
        since: Duration,
    },
}

impl<W: Word> Store<W> {
    /// Says that limits are shared through a store.
    pub fn begin(self) {
        update(self.since, |word| (word & IN_USE == 0).then_some(word | IN_USE));
    }

    /// Whether to ask it at `now`.
    pub fn turn(self, now: Duration) -> Turn {
        let now_ms = now.as_millis() as u64;
        let seen = self.breaker.load();
        if seen == 0 {
            return Turn::Ask;
        }
        if now_ms < seen >> STEP_BITS {
            return Turn::Local;
        }
        let step = (seen & ((1 << STEP_BITS) - 1)).min(u64::from(u8::MAX));
        let next = Self::due(now_ms, step) << STEP_BITS | (step + 1);
        if self.breaker.compare_exchange(seen, next).is_err() {
            return Turn::Local;
        }
        // Whoever noticed may have died before it could say since when.
        update(self.since, |word| (word & AWAY == 0).then_some(IN_USE | AWAY | (now_ms + 1)));
        Turn::Probe
    }

    /// It did not answer. Whether this process is the first to say so.
    pub fn failed(self, now: Duration) -> bool {
        let now_ms = now.as_millis() as u64;
        let is_first = self.breaker.compare_exchange(0, Self::due(now_ms, 0) << STEP_BITS | 1).is_ok();
        if is_first {
            update(self.since, |_| Some(IN_USE | AWAY | (now_ms + 1)));
        }
        is_first
    }

    /// A probe was answered. For how long it was away, if this process is the first to say that it is back.
    pub fn answered(self, now: Duration) -> Option<Duration> {
        if update(self.breaker, |word| (word != 0).then_some(0)) == 0 {
            return None;
        }
        let before = update(self.since, |_| Some(IN_USE));
        let since = (before & AWAY != 0).then(|| Self::since(before));
        Some(now.saturating_sub(since.unwrap_or(now)))
    }

    /// How it is.
    pub fn health(self) -> Health {
        match self.since.load() {
            0 => Health::Unused,
            word if word & AWAY == 0 || self.breaker.load() == 0 => Health::Well,
            word => Health::Away { since: Self::since(word) },
        }
    }

    fn since(word: u64) -> Duration {
        Duration::from_millis((word & (AWAY - 1)).saturating_sub(1))
    }

    /// When the probe of this step is due.
    fn due(now_ms: u64, step: u64) -> u64 {
        let pause = PAUSE_MIN.saturating_mul(1 << step.min(8)).min(PAUSE_MAX);
        now_ms + pause.as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn store() -> Store<AtomicU64> {
        let word = || &*Box::leak(Box::new(AtomicU64::new(0)));
        Store { breaker: word(), since: word() }
    }

    #[test]
    fn one_probe_at_a_time_at_growing_distances() {
        let store = store();
        assert_eq!(store.turn(ms(0)), Turn::Ask);
        assert!(store.failed(ms(0)));
        assert!(!store.failed(ms(1)), "told once");
        let probes: Vec<_> = (0..5000).filter(|now| store.turn(ms(*now)) == Turn::Probe).collect();
        assert_eq!(probes, [100, 300, 700, 1500, 2500, 3500, 4500]);
        assert!(!store.failed(ms(5000)), "a probe that fails is no news");
        assert_eq!(store.answered(ms(5001)), Some(ms(5001)));
        assert_eq!(store.answered(ms(5002)), None, "told once");
        assert_eq!(store.turn(ms(5003)), Turn::Ask);
        assert!(store.failed(ms(6000)));
        assert_eq!((store.turn(ms(6099)), store.turn(ms(6100))), (Turn::Local, Turn::Probe), "pauses begin anew");
    }

    #[test]
    fn health_is_told_since_when() {
        let store = store();
        assert_eq!(store.health(), Health::Unused);
        store.begin();
        assert_eq!(store.health(), Health::Well);
        store.failed(ms(0));
        store.begin();
        assert_eq!(store.health(), Health::Away { since: ms(0) });
        store.answered(ms(70));
        assert_eq!(store.health(), Health::Well);
    }
}
