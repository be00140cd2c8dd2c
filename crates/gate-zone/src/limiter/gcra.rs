//! GCRA's state: one theoretical arrival time (TAT) for each key, which a closure moves on.
//!
//! It knows neither quota nor rate: what a TAT means is the closure's affair. All it promises is that the closure sees
//! the key's present TAT and that what it answers takes its place, or nothing happens.
//!
//! A word is `tag 20 | TAT 44`, the TAT in ticks of 16 microseconds since the epoch, rounded up, so it never admits
//! sooner than asked; a limiter that keeps its clock and its periods in whole ticks loses nothing by that. 44 bits of
//! ticks are 8.9 years; a zone that gets older than that, less the longest TAT, limits nothing any more. A TAT that has
//! passed decides like none at all, so such a word is free.
//!
//! **The charges admitted for one key form one GCRA sequence.** Should a key get into two ways, every charge is decided
//! on the later of their TATs, and goes there. A charge counts only if no other way of the key changed since it was
//! decided; else it is taken back and decided anew. So of two charges in different ways, the later one was decided on a
//! TAT that includes the earlier. What cannot be taken back, because another charge was built on it already, stays: the
//! key then pays once too often.

use std::iter;
use std::slice;

use crate::limiter::{ROUNDS_MAX, Swept, WAYS};
use crate::word::Word;

const TAT_BITS: u32 = 44;
const TAT_MASK: u64 = (1 << TAT_BITS) - 1;
const TAG_BITS: u32 = 20;

/// What a TAT is rounded up to, in nanoseconds.
pub const TICK_NS: u64 = 16_000;

/// A TAT so late that a limiter must refuse.
const NEVER_NS: u64 = TAT_MASK * TICK_NS;

/// The tag in an overflow cell, where keys are not told apart.
const SHARED: Tag = Tag(0);

/// Tells keys of one set apart. A key shares a word of a full set with another by chance in 8 of 2^20 cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(u32);

impl Tag {
    /// The tag of a hash: its low bits.
    pub fn new(hash: u64) -> Self {
        Self((hash & ((1 << TAG_BITS) - 1)) as u32)
    }
}

/// Asks `decide` about the key's TAT in nanoseconds, and puts the one it answers with in its place.
///
/// `decide` may be called several times and must have no effects. `None` means that no TAT, or one that has passed, is
/// known. A key that is not in `set` while all ways hold other live keys shares `cell` with all other keys this happens
/// to; so does, while that cell is live, every key of that cell without a way. Such keys may be refused too early.
///
/// After 128 lost rounds, `decide` is asked about a TAT years ahead, so that it refuses.
///
/// # Errors
/// What `decide` refuses with; nothing is written then.
pub fn measure<'cell, W: Word + 'cell, T, E>(
    set: &[W],
    cell: impl Fn() -> &'cell W,
    tag: Tag,
    now: impl Fn() -> u64,
    decide: impl Fn(Option<u64>) -> Result<(T, u64), E>,
) -> Result<T, E> {
    let cell_is_live = || View::take(slice::from_ref(cell()), &now).is_live(0);
    let undecided = match measure_in(set, tag, &now, &decide, cell_is_live) {
        Outcome::NoWay => measure_in(slice::from_ref(cell()), SHARED, &now, &decide, || false),
        outcome => outcome,
    };
    match undecided {
        Outcome::Decided(answer) => answer,
        Outcome::NoWay | Outcome::Lost => decide(Some(NEVER_NS)).map(|(answer, _)| answer),
    }
}

/// Frees words whose TAT has passed: at most `budget` words from `from` on. Decisions do not depend on it.
pub fn sweep<W: Word>(words: &[W], from: usize, budget: usize, now: impl Fn() -> u64) -> Swept {
    super::sweep(words, from, budget, now, |word, now_ns| tat_ns(word) <= now_ns)
}

enum Outcome<T, E> {
    Decided(Result<T, E>),
    /// The key has no way and cannot have one now.
    NoWay,
    /// Others were faster in every round.
    Lost,
}

fn measure_in<W: Word, T, E>(
    set: &[W],
    tag: Tag,
    now: impl Fn() -> u64,
    decide: impl Fn(Option<u64>) -> Result<(T, u64), E>,
    cell_is_live: impl Fn() -> bool,
) -> Outcome<T, E> {
    for _ in 0..ROUNDS_MAX {
        let view = View::take(set, &now);
        let held = view.latest(tag);
        let (answer, new_ns) = match decide(held.map(|way| tat_ns(view.words[way]))) {
            Ok(admitted) => admitted,
            Err(refused) => return Outcome::Decided(Err(refused)),
        };
        let way = match held {
            Some(way) => way,
            None if cell_is_live() => return Outcome::NoWay,
            None => match view.free() {
                Some(way) => way,
                None => return Outcome::NoWay,
            },
        };
        let new = pack(tag, new_ns);
        if set[way].compare_exchange(view.words[way], new).is_err() {
            continue;
        }
        W::fence();
        if View::take(set, &now).agrees(&view, tag, way) {
            return Outcome::Decided(Ok(answer));
        }
        let before = if held.is_some() { view.words[way] } else { 0 };
        // Failing is fine: another charge was built on this one, which then stays.
        set[way].compare_exchange(new, before).ok();
    }
    Outcome::Lost
}

fn tat_ns(word: u64) -> u64 {
    (word & TAT_MASK) * TICK_NS
}

fn tag_of(word: u64) -> Tag {
    Tag((word >> TAT_BITS) as u32)
}

fn pack(tag: Tag, tat_ns: u64) -> u64 {
    u64::from(tag.0) << TAT_BITS | tat_ns.div_ceil(TICK_NS).min(TAT_MASK)
}

/// A set as it was read, and the time right after.
struct View {
    words: [u64; WAYS],
    ways: usize,
    now_ns: u64,
}

impl View {
    fn take<W: Word>(set: &[W], now: impl Fn() -> u64) -> Self {
        let mut words = [0; WAYS];
        for (word, way) in iter::zip(&mut words, set) {
            *word = way.load();
        }
        Self { words, ways: set.len().min(WAYS), now_ns: now() }
    }

    fn is_live(&self, way: usize) -> bool {
        tat_ns(self.words[way]) > self.now_ns
    }

    /// The live ways that hold a key.
    fn holders(&self, tag: Tag) -> impl Iterator<Item = usize> {
        (0..self.ways).filter(move |way| self.is_live(*way) && tag_of(self.words[*way]) == tag)
    }

    /// The one of them with the latest TAT.
    fn latest(&self, tag: Tag) -> Option<usize> {
        self.holders(tag).max_by_key(|way| self.words[*way])
    }

    /// The free way that passed first.
    fn free(&self) -> Option<usize> {
        (0..self.ways).filter(|way| !self.is_live(*way)).min_by_key(|way| tat_ns(self.words[*way]))
    }

    /// Whether the key's ways other than `own` are as they were in `before`.
    fn agrees(&self, before: &Self, tag: Tag, own: usize) -> bool {
        self.holders(tag).filter(|way| *way != own).all(|way| self.words[way] == before.words[way])
    }
}
