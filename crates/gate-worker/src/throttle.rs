//! Warnings that a busy gate would otherwise repeat for each request: one a second, with how many were left out.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_and_none_forgotten() {
        let throttle = Throttle::default();
        assert_eq!(throttle.pass(5), Some(0));
        assert_eq!([throttle.pass(6), throttle.pass(1_004)], [None, None]);
        assert_eq!(throttle.pass(1_005), Some(2));
        assert_eq!(throttle.pass(9_000), Some(0));
    }
}
