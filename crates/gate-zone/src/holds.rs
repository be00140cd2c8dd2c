//! Who is in service for a key: a word for each request, so that how many there are is counted and never kept.
//!
//! It knows hashes and processes. Whose a hash is and how many it may have comes in.
//!
//! The table is groups of words. A key begins at one group, its home, and its words lie in the groups that its home
//! reaches: from it on, 2^n of them. A reach only grows, and is raised before a word beyond it is taken: for a key that
//! has many in service, and where a key's reach is full of others'. A take looks whether there is room, swaps a free word
//! of the emptiest group and counts again, since another process may have done the same; who then counts too many frees
//! its word and looks anew.
//!
//! **At any time at most `max` are admitted of a key**, for the `max` of the last of them: take the admitted one whose
//! swap came last; it counted after it, all that were admitted before and not yet released among them. **Once nobody else
//! takes, exactly `max` are**: who is refused saw as many. While several take the last place at once, all of them may be
//! refused.
//!
//! Invariants: every change is one swap, and a word names its process, so a process may be killed anywhere and what it
//! held be freed by whoever knows that; refusals write nothing but the reach.

use std::sync::atomic::AtomicU64;

use crate::fleet::is_stray;
use crate::fleet::slots::Holder;
use crate::layout::{self, holds};
use crate::scoreboard::Scoreboard;
use crate::word::{Word, update};
use crate::{Zone, limiter};

const FREE: u64 = 0;
const TAG_BITS: u32 = 24;
const ROW: u32 = 32;
const TAG: u32 = 40;

/// Reaches in a word.
const REACHES: usize = 8;

/// Takes begun anew because of another process on the same key. Each time it has lost a swap, or found its claim to be
/// one too many and others' claims gone when it looked again.
const ROUNDS_MAX: usize = 32;

/// Words in a key's reach for each that it has: so a key with many leaves half of each group to others.
const ROOM: usize = 2;

/// Which words, in which groups.
#[derive(Debug)]
pub struct Table<'a, W> {
    /// A byte for each group: 0 is none, n a reach of 2^(n-1) groups. As many groups as there are bytes, a power of two.
    pub reach: &'a [W],
    /// The words, whole groups of them.
    pub words: &'a [W],
}

impl<W> Clone for Table<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Table<'_, W> {}

/// A request's place. It is given back by [`release`] or, when its process is gone, by [`settle`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Held {
    index: usize,
    word: u64,
}

/// Takes a place for one more request of the key with this hash, which may have `max` at once.
///
/// `None`: that many are in service already, or more processes than can be are at it at once, or the table is full.
/// Keys whose hashes agree in their low 24 bits and that meet in the table count as one.
pub fn take<W: Word>(table: Table<'_, W>, hash: u64, max: usize, by: Holder) -> Option<Held> {
    let key = Key::of(hash, table);
    let word = key.tag << TAG | (by.row() as u64) << ROW | u64::from(by.pid());
    for _ in 0..ROUNDS_MAX {
        let reach = table.reached_by(key.home);
        let Seen { held, emptiest } = table.look(key, reach);
        if held >= max {
            return None;
        }
        let free = table.find_free(emptiest, held + by.row() * 7);
        let is_narrow = (held + 1) * ROOM > reach * table.group() || free.is_none();
        if is_narrow && reach < table.groups() {
            table.stretch(key.home, (reach * 2).max(1));
            continue;
        }
        let index = free?;
        if table.words[index].compare_exchange(FREE, word).is_err() {
            continue;
        }
        W::fence();
        // The reach anew: it may have been raised by somebody who counted before this swap.
        if table.look(key, table.reached_by(key.home)).held <= max {
            return Some(Held { index, word });
        }
        release(table, Held { index, word });
    }
    None
}

/// Gives a place back. One that was [settled](settle) meanwhile is left to whoever has it now.
pub fn release<W: Word>(table: Table<'_, W>, Held { index, word }: Held) {
    table.words[index].compare_exchange(word, FREE).ok();
}

/// How many requests of the key with this hash are in service.
pub fn count<W: Word>(table: Table<'_, W>, hash: u64) -> usize {
    let key = Key::of(hash, table);
    table.look(key, table.reached_by(key.home)).held
}

/// Frees all places of processes that are gone; how many. It looks at no group that nobody has reached.
pub fn settle<W: Word>(table: Table<'_, W>, is_gone: impl Fn(Holder) -> bool) -> usize {
    let freed = table.in_use().filter(|word| {
        let seen = word.load();
        let holder = Holder::new((seen >> ROW & 0xff) as usize, seen as u32);
        seen != FREE && is_gone(holder) && word.compare_exchange(seen, FREE).is_ok()
    });
    freed.count()
}

#[derive(Debug, Clone, Copy)]
struct Key {
    home: usize,
    tag: u64,
}

impl Key {
    /// Homes by the high bits of a hash, tags by the low ones.
    fn of<W: Word>(hash: u64, table: Table<'_, W>) -> Self {
        let home = limiter::scale(hash, table.groups()).unwrap_or(0);
        Self { home, tag: hash & ((1 << TAG_BITS) - 1) }
    }
}

/// What a key's reach holds.
struct Seen {
    /// Words of the key.
    held: usize,
    /// The group with the most free words.
    emptiest: usize,
}

impl<'a, W: Word> Table<'a, W> {
    fn groups(self) -> usize {
        self.reach.len() * REACHES
    }

    /// Words of a group.
    fn group(self) -> usize {
        self.words.len() / self.groups()
    }

    /// How many groups, from this one on, may hold what begins here.
    fn reached_by(self, home: usize) -> usize {
        let said = self.reach[home / REACHES].load() >> (home % REACHES * 8) & 0xff;
        reach_of(said, self.groups())
    }

    /// Makes a reach at least so large.
    fn stretch(self, home: usize, groups: usize) {
        let said = u64::from(groups.clamp(1, self.groups()).next_power_of_two().trailing_zeros()) + 1;
        let shift = home % REACHES * 8;
        update(&self.reach[home / REACHES], |word| {
            let less = word >> shift & 0xff < said;
            less.then_some(word & !(0xff << shift) | said << shift)
        });
    }

    fn words_of(self, group: usize) -> &'a [W] {
        &self.words[group * self.group()..][..self.group()]
    }

    fn look(self, key: Key, reach: usize) -> Seen {
        let (mut held, mut least, mut emptiest) = (0, usize::MAX, key.home);
        for group in (0..reach).map(|n| (key.home + n) % self.groups()) {
            let mut used = 0;
            for word in self.words_of(group) {
                let seen = word.load();
                used += usize::from(seen != FREE);
                held += usize::from(seen != FREE && seen >> TAG == key.tag);
            }
            if used < least {
                (least, emptiest) = (used, group);
            }
        }
        Seen { held, emptiest }
    }

    /// A free word of a group, from some place on: processes that begin at different places seldom meet.
    fn find_free(self, group: usize, from: usize) -> Option<usize> {
        let places = (0..self.group()).map(|n| group * self.group() + (from + n) % self.group());
        places.into_iter().find(|place| self.words[*place].load() == FREE)
    }

    /// Every word that was ever in reach. The others have no memory, and looking at them would give them some.
    fn in_use(self) -> impl Iterator<Item = &'a W> {
        let mut reached = vec![false; self.groups()];
        for home in 0..self.groups() {
            for n in 0..self.reached_by(home) {
                reached[(home + n) % self.groups()] = true;
            }
        }
        let groups = reached.into_iter().enumerate().filter_map(|(group, reached)| reached.then_some(group));
        groups.flat_map(move |group| self.words_of(group))
    }
}

/// What a byte of a reach says: groups.
fn reach_of(said: u64, groups: usize) -> usize {
    match said.checked_sub(1) {
        None => 0,
        Some(power) => 1_usize.checked_shl(power as u32).unwrap_or(groups).min(groups),
    }
}

/// The table of a zone.
#[derive(Debug, Clone, Copy)]
pub struct Holds {
    words: &'static [AtomicU64],
}

impl Zone {
    /// Who is in service for which key.
    pub fn holds(self) -> Holds {
        Holds { words: &self.words[layout::HOLDS..layout::HOLDS + holds::WORDS] }
    }
}

impl Holds {
    fn table(self) -> Table<'static, AtomicU64> {
        let (reach, words) = self.words.split_at(holds::TABLE);
        Table { reach, words }
    }

    /// As [`take`]. More than [`holds::MAX`] counts as that.
    pub fn take(self, hash: u64, max: usize, by: Holder) -> Option<Held> {
        take(self.table(), hash, max.min(holds::MAX), by)
    }

    /// As [`release`].
    pub fn release(self, held: Held) {
        release(self.table(), held);
    }

    /// As [`count`].
    pub fn count(self, hash: u64) -> usize {
        count(self.table(), hash)
    }

    /// All that are in service, of whichever key.
    pub fn in_service(self) -> usize {
        self.table().in_use().filter(|word| Word::load(*word) != FREE).count()
    }

    /// Frees what the process `pid`, which had `row`, has left; how many. Masters only, before the row is settled.
    pub fn settle(self, row: usize, pid: u32) -> usize {
        let gone = Holder::new(row, pid);
        settle(self.table(), |holder| holder == gone)
    }

    /// Frees what is held by processes that no row of the scoreboard knows any more. Masters only.
    pub fn settle_strays(self, board: Scoreboard) -> usize {
        settle(self.table(), |holder| is_stray(board, holder))
    }
}

#[cfg(test)]
mod tests;
