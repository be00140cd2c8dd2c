//! One shared word: what the protocols of [`crate::limiter`] need of an atomic `u64`.
//!
//! It exists so that the very code that runs on the zone also runs under a model checker, which brings its own atomics.
//! It offers no add: every change is one swap or one store, so a process that is killed has either changed a word or not.
//!
//! Invariant: a [`Word::fence`] between one's own swap and one's next loads means that of two processes which both swap
//! and then look, at least one sees the other's swap.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{self, AtomicU64};

/// An atomic `u64` that several processes share.
pub trait Word {
    /// Reads the word.
    fn load(&self) -> u64;

    /// Replaces `seen` by `new`.
    ///
    /// # Errors
    /// The word is no longer `seen`; it holds the value given back.
    fn compare_exchange(&self, seen: u64, new: u64) -> Result<u64, u64>;

    /// Writes a word that has one writer at this time.
    fn store(&self, new: u64);

    /// Keeps loads after it from being done before swaps in front of it.
    fn fence();
}

impl Word for AtomicU64 {
    fn load(&self) -> u64 {
        self.load(SeqCst)
    }

    fn compare_exchange(&self, seen: u64, new: u64) -> Result<u64, u64> {
        self.compare_exchange(seen, new, SeqCst, SeqCst)
    }

    fn store(&self, new: u64) {
        self.store(new, SeqCst);
    }

    fn fence() {
        atomic::fence(SeqCst);
    }
}

/// Changes a word to what `change` makes of it, over as many rounds as others interfere. `None` from `change` leaves it.
/// Gives back what the word held before.
pub fn update<W: Word>(word: &W, change: impl Fn(u64) -> Option<u64>) -> u64 {
    let mut seen = word.load();
    while let Some(new) = change(seen) {
        match word.compare_exchange(seen, new) {
            Ok(_) => return seen,
            Err(now) => seen = now,
        }
    }
    seen
}
