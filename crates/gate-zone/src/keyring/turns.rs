//! Whose turn it is: readers that take no lock, and publishers of whom only one writes at a time.
//!
//! One word tells the generation, whose lowest bit is the half that holds. A publisher writes the other half and then adds
//! one. A half is written anew only after the word has moved on, so a reader that finds the word as it was has read what
//! was published. What is in the halves is not known here.
//!
//! It asks of who reads and writes the halves that loads acquire and stores release: then whoever sees a word of the next
//! table also sees that the generation has moved on.
//!
//! Invariant: the half that the word names is not written; a publisher that is gone holds up nobody.

use crate::word::{Word, update};

/// How often a reader begins anew: each time, all keys were published while it looked at one.
const ROUNDS_MAX: usize = 64;

/// Bits of a start time: clock ticks for three centuries.
const BORN_BITS: u32 = 40;

/// A process by pid and start time, in a word that is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity(u64);

impl Identity {
    /// The process with this pid and start time.
    pub fn new(pid: u32, born: u64) -> Self {
        Self(u64::from(pid) << BORN_BITS | born & ((1 << BORN_BITS) - 1))
    }

    /// Its pid.
    pub fn pid(self) -> u32 {
        (self.0 >> BORN_BITS) as u32
    }

    /// When it was started.
    pub fn born(self) -> u64 {
        self.0 & ((1 << BORN_BITS) - 1)
    }
}

/// The generation that holds.
pub fn generation<W: Word>(word: &W) -> u32 {
    word.load() as u32
}

/// What `look` finds in the half of the generation that holds, looked at anew where another was published meanwhile.
/// `None` as well where nothing was ever published.
pub fn read<W: Word, T>(word: &W, look: impl Fn(u32) -> Option<T>) -> Option<T> {
    let mut held = generation(word);
    for _ in 0..ROUNDS_MAX {
        if held == 0 {
            return None;
        }
        let found = look(held);
        let now = generation(word);
        if now == held {
            return found;
        }
        held = now;
    }
    None
}

/// The right to write the half that does not hold, given back on drop.
#[must_use]
pub struct Turn<'a, W: Word> {
    word: &'a W,
    publisher: &'a W,
    me: Identity,
    generation: u32,
}

impl<'a, W: Word> Turn<'a, W> {
    /// Takes it, from a publisher that `is_gone` as well; `None` while one that lives has it.
    pub fn begin(word: &'a W, publisher: &'a W, me: Identity, is_gone: impl Fn(Identity) -> bool) -> Option<Self> {
        let holder = publisher.load();
        if holder != 0 && !is_gone(Identity(holder)) {
            return None;
        }
        publisher.compare_exchange(holder, me.0).ok()?;
        Some(Self { word, publisher, me, generation: generation(word).wrapping_add(1) })
    }

    /// The generation to write.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Makes it the one that holds. Until the drop, the half of the one before may be given back.
    pub fn commit(&self) {
        self.word.store(u64::from(self.generation));
    }
}

impl<W: Word> Drop for Turn<'_, W> {
    fn drop(&mut self) {
        update(self.publisher, |holder| (holder == self.me.0).then_some(0));
    }
}
