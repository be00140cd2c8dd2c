//! A backend's breaker in one word: failures in a row, and until when it is left alone.
//!
//! Closed, it counts; open, nobody asks; when its time is over, one request tries, and its end decides. What is a failure is
//! said by the caller: a client's mistake is none, and neither is a load that takes long and ends.
//!
//! Invariant: a trial whose process is gone ends by itself, at the time it was given.

use std::time::Duration;

use crate::word::{Word, update};

const KIND: u32 = 62;
const OPEN: u64 = 1;
const TRIAL: u64 = 2;
const FAILURES: u32 = 48;
const FAILURES_MAX: u64 = (1 << (KIND - FAILURES)) - 1;
const UNTIL_MASK: u64 = (1 << FAILURES) - 1;

/// How often its time is doubled at most.
const DOUBLINGS_MAX: u64 = 3;

/// What a breaker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Requests pass.
    Closed {
        /// Failures in a row so far.
        failures: u32,
    },
    /// None passes for so long.
    Open {
        /// Milliseconds until one may try.
        for_ms: u64,
    },
    /// One may try: whoever wins [`begin_trial`] with this word.
    Due {
        /// The word that says so.
        seen: u64,
    },
    /// One is trying.
    Trial,
}

/// When it opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Failures in a row; 0 never opens.
    pub failures: u32,
    /// For how long at first; each further failure doubles it, up to eight times this.
    pub time: Duration,
}

/// What the breaker says at `now_ms` of `CLOCK_MONOTONIC`.
pub fn state(word: u64, now_ms: u64) -> State {
    let until = word & UNTIL_MASK;
    match word >> KIND {
        OPEN if now_ms < until => State::Open { for_ms: until - now_ms },
        TRIAL if now_ms < until => State::Trial,
        OPEN | TRIAL => State::Due { seen: word },
        _ => State::Closed { failures: failures(word) as u32 },
    }
}

/// Makes the caller the one that tries, for at most `longest`: of several that saw the same word, one.
pub fn begin_trial<W: Word>(breaker: &W, seen: u64, now_ms: u64, longest: Duration) -> bool {
    let until = (now_ms + longest.as_millis() as u64) & UNTIL_MASK;
    breaker.compare_exchange(seen, TRIAL << KIND | failures(seen) << FAILURES | until).is_ok()
}

/// Takes back a trial that was not made, or is not decided: another may try at once.
pub fn leave_trial<W: Word>(breaker: &W, now_ms: u64) {
    update(breaker, |word| {
        let due = OPEN << KIND | failures(word) << FAILURES | now_ms & UNTIL_MASK;
        (word >> KIND == TRIAL).then_some(due)
    });
}

/// Tells it of an answer.
pub fn succeeded<W: Word>(breaker: &W) {
    update(breaker, |word| (word != 0).then_some(0));
}

/// Tells it of a failure.
pub fn failed<W: Word>(breaker: &W, terms: Terms, now_ms: u64) {
    if terms.failures == 0 {
        return;
    }
    update(breaker, |word| {
        let count = (failures(word) + 1).min(FAILURES_MAX);
        match state(word, now_ms) {
            // Of a request that was on its way when it opened: nothing new.
            State::Open { .. } => None,
            State::Closed { .. } if count < u64::from(terms.failures) => Some(count << FAILURES),
            _ => {
                let doublings = count.saturating_sub(u64::from(terms.failures)).min(DOUBLINGS_MAX);
                let until = now_ms + ((terms.time.as_millis() as u64) << doublings);
                Some(OPEN << KIND | count << FAILURES | until & UNTIL_MASK)
            }
        }
    });
}

fn failures(word: u64) -> u64 {
    word >> FAILURES & FAILURES_MAX
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    const TERMS: Terms = Terms { failures: 3, time: Duration::from_millis(100) };

    fn at(breaker: &AtomicU64, now_ms: u64) -> State {
        state(Word::load(breaker), now_ms)
    }

    fn due(breaker: &AtomicU64, now_ms: u64) -> u64 {
        match at(breaker, now_ms) {
            State::Due { seen } => seen,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_opens_after_so_many_in_a_row() {
        let breaker = AtomicU64::new(0);
        failed(&breaker, TERMS, 10);
        failed(&breaker, TERMS, 10);
        assert_eq!(at(&breaker, 10), State::Closed { failures: 2 });
        succeeded(&breaker);
        assert_eq!(at(&breaker, 10), State::Closed { failures: 0 });
        for _ in 0..5 {
            failed(&breaker, TERMS, 10);
        }
        assert_eq!(at(&breaker, 10), State::Open { for_ms: 100 }, "failures of requests on their way add nothing");
    }

    #[test]
    fn one_tries_and_decides() {
        let breaker = AtomicU64::new(0);
        (0..3).for_each(|_| failed(&breaker, TERMS, 0));
        let seen = due(&breaker, 100);
        assert!(begin_trial(&breaker, seen, 100, Duration::from_millis(50)));
        assert!(!begin_trial(&breaker, seen, 100, Duration::from_millis(50)));
        assert_eq!(at(&breaker, 120), State::Trial);
        failed(&breaker, TERMS, 130);
        assert_eq!(at(&breaker, 130), State::Open { for_ms: 200 });
        let seen = due(&breaker, 330);
        assert!(begin_trial(&breaker, seen, 330, Duration::from_millis(50)));
        succeeded(&breaker);
        assert_eq!(at(&breaker, 340), State::Closed { failures: 0 });
    }

    #[test]
    fn a_trial_that_is_never_decided_ends() {
        let breaker = AtomicU64::new(0);
        (0..3).for_each(|_| failed(&breaker, TERMS, 0));
        assert!(begin_trial(&breaker, due(&breaker, 100), 100, Duration::from_millis(50)));
        assert!(begin_trial(&breaker, due(&breaker, 150), 150, Duration::from_millis(50)));
    }

    #[test]
    fn a_trial_that_is_left_is_anothers() {
        let breaker = AtomicU64::new(0);
        leave_trial(&breaker, 0);
        assert_eq!(at(&breaker, 0), State::Closed { failures: 0 });
        (0..3).for_each(|_| failed(&breaker, TERMS, 0));
        leave_trial(&breaker, 50);
        assert_eq!(at(&breaker, 50), State::Open { for_ms: 50 });
        assert!(begin_trial(&breaker, due(&breaker, 100), 100, Duration::from_millis(50)));
        leave_trial(&breaker, 110);
        assert!(begin_trial(&breaker, due(&breaker, 110), 110, Duration::from_millis(50)));
        failed(&breaker, TERMS, 120);
        assert_eq!(at(&breaker, 120), State::Open { for_ms: 200 }, "it is no new failure in between");
    }

    #[test]
    fn its_time_has_an_end() {
        let breaker = AtomicU64::new(0);
        let mut now = 0;
        for _ in 0..20 {
            failed(&breaker, TERMS, now);
            if let State::Open { for_ms } = at(&breaker, now) {
                assert!(for_ms <= 800, "{for_ms}");
                now += for_ms;
            }
        }
        failed(&breaker, Terms { failures: 0, ..TERMS }, now);
        assert!(matches!(at(&breaker, now), State::Due { .. }), "told never to open, it does not");
    }
}
