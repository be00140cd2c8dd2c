//! Messages that a busy gate would otherwise repeat without end: one a second with how many were left out, or one at the
//! beginning and one at the end of the time in which they come.
//!
//! It counts and logs nothing itself. Invariant: none is forgotten in the count.

use std::cell::Cell;

/// Lets one message through in this time.
const PAUSE_MS: u64 = 1_000;

/// Counts what it holds back.
#[derive(Default)]
pub(crate) struct Throttle {
    last_ms: Cell<Option<u64>>,
    held_back: Cell<u64>,
}

impl Throttle {
    /// Whether a message may pass at `now_ms`, and how many like it were held back before it.
    pub(crate) fn pass(&self, now_ms: u64) -> Option<u64> {
        if self.last_ms.get().is_some_and(|last| now_ms.saturating_sub(last) < PAUSE_MS) {
            self.held_back.set(self.held_back.get() + 1);
            return None;
        }
        self.last_ms.set(Some(now_ms));
        Some(self.held_back.take())
    }
}

/// A time of failures is over when there was none for this long: far above the pause between two attempts.
const QUIET_MS: u64 = 1_000;

/// A time of failures: the first is told, and at the end how many there were.
#[derive(Default)]
pub(crate) struct Spell {
    last_ms: Cell<u64>,
    failures: Cell<u64>,
}

impl Spell {
    /// Counts a failure; whether it is the first.
    pub(crate) fn struck(&self, now_ms: u64) -> bool {
        self.last_ms.set(now_ms);
        let before = self.failures.replace(self.failures.get() + 1);
        before == 0
    }

    /// How many failures there were, once, when the time is over.
    pub(crate) fn over(&self, now_ms: u64) -> Option<u64> {
        let quiet = now_ms.saturating_sub(self.last_ms.get()) >= QUIET_MS;
        (quiet && self.failures.get() > 0).then(|| self.failures.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spell_has_one_beginning_and_one_end() {
        let spell = Spell::default();
        assert_eq!(spell.over(0), None);
        assert_eq!([spell.struck(100), spell.struck(200), spell.struck(1_150)], [true, false, false]);
        assert_eq!([spell.over(2_149), spell.over(2_150), spell.over(2_151)], [None, Some(3), None]);
        assert!(spell.struck(2_200));
    }

    #[test]
    fn one_a_second_and_none_forgotten() {
        let throttle = Throttle::default();
        assert_eq!(throttle.pass(5), Some(0));
        assert_eq!([throttle.pass(6), throttle.pass(1_004)], [None, None]);
        assert_eq!(throttle.pass(1_005), Some(2));
        assert_eq!(throttle.pass(9_000), Some(0));
    }
}
