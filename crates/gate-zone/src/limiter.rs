//! Counting over shared words: fixed windows ([`fixed`]), GCRA ([`gcra`]), and what a gate holds of a count that several
//! hosts share ([`pool`]).
//!
//! It decides for a hashed key; who the client is, which limits apply and how keys are hashed is not known here, nor is
//! the clock, which comes in as a closure that tells nanoseconds since the zone's epoch.
//!
//! A region is a row of sets of [`WAYS`] words; a key belongs to one set and is found in it by its tag. Both protocols
//! work in rounds: read the whole set, *then* read the clock, decide, swap one word, read the set again.
//!
//! - The clock is read after the words, so every word read was written at or before that time. A process that was
//!   stopped for long holds old words as well as an old time, and its swap fails.
//! - The set is read again after the swap, so two processes that brought the same key into two ways find out: at least
//!   one of them sees both, takes its charge back and starts over.
//!
//! Invariants: every change is one swap, so a process killed anywhere leaves at most a charge nobody was served for;
//! refusals write nothing; a swap moves a word only from the value that was decided upon. The clock is one that all
//! processes share and that never goes back.

pub mod fixed;
pub mod gcra;
pub mod pool;
#[cfg(test)]
mod tests;

use crate::word::Word;

/// Words of a set: one cache line, so that a look-up touches one line.
pub const WAYS: usize = 8;

/// Rounds before a decision is given up and refused. A round is lost only because another process's swap on the same
/// set succeeded, so this many losses in a row mean hundreds of processes that all hit one key at once.
const ROUNDS_MAX: usize = 128;

/// Words that [`sweep`] reads between two looks at the clock.
const SWEEP_STRIDE: usize = 64;

/// The set that a hash belongs to, `None` when the region has none. Words beyond the last whole set are not used.
///
/// It looks at the high bits of the hash, tags at the low ones.
pub fn set_of<W: Word>(region: &[W], hash: u64) -> Option<&[W]> {
    let start = scale(hash, region.len() / WAYS)? * WAYS;
    region.get(start..start + WAYS)
}

/// The overflow cell that a hash belongs to, `None` when there are none.
pub fn cell_of<W: Word>(cells: &[W], hash: u64) -> Option<&W> {
    cells.get(scale(hash, cells.len())?)
}

/// Spreads a hash over `0..count` evenly without a division.
pub(crate) fn scale(hash: u64, count: usize) -> Option<usize> {
    (count > 0).then(|| ((u128::from(hash) * count as u128) >> 64) as usize)
}

/// What a part of a sweep found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Words in use.
    pub live: usize,
    /// Words that had ended and are free now.
    pub freed: usize,
    /// Where the next part begins.
    pub next: usize,
}

/// Frees words that `ended(word, now)` says are over: `budget` of them at most, from `from` on, and around the end at
/// most once.
fn sweep<W: Word>(
    words: &[W],
    from: usize,
    budget: usize,
    now: impl Fn() -> u64,
    ended: impl Fn(u64, u64) -> bool,
) -> Swept {
    let mut swept = Swept { live: 0, freed: 0, next: if from < words.len() { from } else { 0 } };
    let mut left = budget.min(words.len());
    while left > 0 {
        let end = (swept.next + left.min(SWEEP_STRIDE)).min(words.len());
        let stride = &words[swept.next..end];
        let mut seen = [0; SWEEP_STRIDE];
        for (seen, word) in seen.iter_mut().zip(stride) {
            *seen = word.load();
        }
        let now_ns = now();
        for (word, seen) in stride.iter().zip(seen).filter(|(_, seen)| *seen != 0) {
            if !ended(seen, now_ns) {
                swept.live += 1;
            } else if word.compare_exchange(seen, 0).is_ok() {
                swept.freed += 1;
            }
        }
        left -= stride.len();
        swept.next = end % words.len();
    }
    swept
}
