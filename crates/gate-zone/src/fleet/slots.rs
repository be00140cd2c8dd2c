//! A backend's slots: one word each, so that a slot is taken by one compare-and-swap and in flight is a count of words.
//!
//! Which slot belongs to whom is all that is known here; who should have one is decided elsewhere.
//!
//! Invariant: a word that is not FREE names a process, and when that process is gone the word can be freed by anybody who
//! knows it. A slot is never in two hands: it changes hands in one swap from the word that was seen.

use std::fmt;

use crate::word::Word;

/// Nobody's.
pub const FREE: u64 = 0;

const KIND: u32 = 62;
const HELD: u64 = 1 << KIND;
const OFFERED: u64 = 2 << KIND;
const PID: u32 = 40;
const ROW: u32 = 32;
const ENTRY: u32 = 22;
const TICKET_MASK: u64 = (1 << ENTRY) - 1;

/// Linux gives no pid from 2^22 up.
const PID_MASK: u64 = (1 << 22) - 1;

/// A process, as slots and queue name it: by its row and its pid.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holder(u64);

impl Holder {
    /// The process `pid`, whose row of the scoreboard is `row` (below [`crate::layout::ROWS`]).
    pub const fn new(row: usize, pid: u32) -> Self {
        Self((pid as u64 & PID_MASK) << 8 | (row as u64 & 0xff))
    }

    /// Its row.
    pub fn row(self) -> usize {
        (self.0 & 0xff) as usize
    }

    /// Its pid.
    pub fn pid(self) -> u32 {
        (self.0 >> 8) as u32
    }

    pub(crate) fn to_word(self) -> u64 {
        self.0
    }

    pub(crate) fn from_word(word: u64) -> Self {
        Self(word & (PID_MASK << 8 | 0xff))
    }

    fn bits(self) -> u64 {
        u64::from(self.pid()) << PID | (self.row() as u64) << ROW
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {} of pid {}", self.row(), self.pid())
    }
}

/// Whose a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Nobody's.
    Free,
    /// A request's.
    Held {
        /// Of this process.
        by: Holder,
        /// For this model.
        tag: u32,
    },
    /// On its way from one request to another.
    Offered {
        /// By this process.
        by: Holder,
        /// To the waiter at this entry of the queue,
        entry: u16,
        /// if it still has this ticket (its low 22 bits).
        ticket: u32,
    },
}

impl Slot {
    /// As a word.
    pub fn to_word(self) -> u64 {
        match self {
            Self::Free => FREE,
            Self::Held { by, tag } => HELD | by.bits() | u64::from(tag),
            Self::Offered { by, entry, ticket } => {
                OFFERED | by.bits() | u64::from(entry) << ENTRY | (u64::from(ticket) & TICKET_MASK)
            }
        }
    }

    /// From a word. One that means nothing, and that nobody writes, reads as free.
    pub fn from_word(word: u64) -> Self {
        let by = Holder::new((word >> ROW) as usize & 0xff, (word >> PID & PID_MASK) as u32);
        match word >> KIND {
            1 => Self::Held { by, tag: word as u32 },
            2 => Self::Offered { by, entry: (word >> ENTRY & 0x3ff) as u16, ticket: (word & TICKET_MASK) as u32 },
            _ => Self::Free,
        }
    }

    /// The process that answers for it.
    pub fn holder(self) -> Option<Holder> {
        match self {
            Self::Free => None,
            Self::Held { by, .. } | Self::Offered { by, .. } => Some(by),
        }
    }
}

/// The tag of a request whose client has left, and that goes on for others which want the model with `tag`.
pub fn left_behind(tag: u32) -> u32 {
    !tag
}

/// The part of a ticket that an offered slot carries.
pub(crate) fn short_ticket(ticket: u64) -> u32 {
    (ticket & TICKET_MASK) as u32
}

/// Takes a free slot, looking from `start` on: processes that begin at different places seldom meet.
pub fn take<W: Word>(slots: &[W], start: usize, by: Holder, tag: u32) -> Option<usize> {
    let mine = Slot::Held { by, tag }.to_word();
    let (before, from) = slots.split_at(start % slots.len().max(1));
    let offset = before.len();
    let found = |(index, slot): (usize, &W)| {
        (slot.load() == FREE && slot.compare_exchange(FREE, mine).is_ok()).then_some(index)
    };
    let later = from.iter().enumerate().find_map(found).map(|index| index + offset);
    later.or_else(|| before.iter().enumerate().find_map(found))
}

/// How many are not free.
pub fn in_flight<W: Word>(slots: &[W]) -> usize {
    slots.iter().filter(|slot| slot.load() != FREE).count()
}

/// Whether one is free.
pub fn any_free<W: Word>(slots: &[W]) -> bool {
    slots.iter().any(|slot| slot.load() == FREE)
}

/// Frees all slots for which `is_gone` says that their holder is gone; how many.
pub fn settle<W: Word>(slots: &[W], is_gone: impl Fn(Slot) -> bool) -> usize {
    let freed = slots.iter().filter(|slot| {
        let word = slot.load();
        word != FREE && is_gone(Slot::from_word(word)) && slot.compare_exchange(word, FREE).is_ok()
    });
    freed.count()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn words_say_what_was_meant() {
        let by = Holder::new(255, (1 << 22) - 1);
        assert_eq!((by.row(), by.pid()), (255, (1 << 22) - 1));
        for slot in [
            Slot::Free,
            Slot::Held { by, tag: u32::MAX },
            Slot::Held { by: Holder::new(1, 1), tag: 0 },
            Slot::Offered { by, entry: 1023, ticket: (1 << 22) - 1 },
        ] {
            assert_eq!(Slot::from_word(slot.to_word()), slot);
        }
        assert_eq!(Holder::from_word(by.to_word()), by);
    }

    #[test]
    fn every_slot_is_taken_once_from_wherever_one_starts() {
        for start in 0..9 {
            let slots: [AtomicU64; 4] = Default::default();
            let by = Holder::new(1, 7);
            let mut taken: Vec<_> = (0..4).map(|_| take(&slots, start, by, 5).unwrap()).collect();
            taken.sort_unstable();
            assert_eq!((taken, take(&slots, start, by, 5)), (vec![0, 1, 2, 3], None));
            assert_eq!((in_flight(&slots), any_free(&slots)), (4, false));
            assert_eq!(settle(&slots, |slot| slot.holder() == Some(Holder::new(1, 8))), 0);
            assert_eq!(settle(&slots, |slot| slot.holder() == Some(by)), 4);
            assert_eq!(in_flight(&slots), 0);
        }
        assert_eq!(take::<AtomicU64>(&[], 3, Holder::new(1, 7), 5), None);
    }
}
