//! Which models a backend has in memory: what the monitor reads from `/api/ps`, and what workers have just seen answer.
//!
//! A model is loaded with certain options; asked for with others, Ollama loads it anew. So a model with its options is
//! one instance, and a backend has at most one instance of a model.
//!
//! Invariant: what a worker has seen answer is not taken back by a list that was asked for before.

use crate::word::Word;

const NAME: u32 = 32;
const OPTIONS: u32 = 16;

/// Stamps are compared around their end, which is 70 minutes away. A model that stays is stamped anew with each list.
const STAMP_HALF: u16 = 1 << 15;

/// Milliseconds of a stamp's unit, as a power of two: fine enough to tell what was seen before a list from what came after.
const TICK: u32 = 6;

/// A stamp for this millisecond.
pub(super) fn tick(now_ms: u64) -> u16 {
    (now_ms >> TICK) as u16
}

/// A model with the options that it is loaded with, by hashes of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instance {
    /// Hash of the name in the form in which Ollama lists it; never 0.
    pub name: u32,
    /// Hash of the options that make Ollama load it anew; 0 is none.
    pub options: u16,
}

impl Instance {
    /// As a word.
    pub fn to_word(self) -> u64 {
        u64::from(self.name) << OPTIONS | u64::from(self.options)
    }

    /// From a word.
    pub fn from_word(word: u64) -> Self {
        Self { name: (word >> OPTIONS) as u32, options: word as u16 }
    }

    /// What a slot's word says of it.
    pub fn tag(self) -> u32 {
        self.name ^ (u32::from(self.options) << 13 | u32::from(self.options) >> 3)
    }

    fn resident(self, now: u16) -> u64 {
        u64::from(self.name) << NAME | u64::from(self.options) << OPTIONS | u64::from(now)
    }
}

fn instance(word: u64) -> Instance {
    Instance { name: (word >> NAME) as u32, options: (word >> OPTIONS) as u16 }
}

/// The instances in memory.
pub fn all<W: Word>(residents: &[W]) -> impl Iterator<Item = Instance> {
    residents.iter().map(Word::load).filter(|word| *word != 0).map(instance)
}

/// Whether this one is.
pub fn holds<W: Word>(residents: &[W], wanted: Instance) -> bool {
    all(residents).any(|instance| instance == wanted)
}

/// Notes that this instance has just answered. One more than there is room for is not noted.
pub fn note<W: Word>(residents: &[W], seen: Instance, now: u16) {
    let new = seen.resident(now);
    for word in residents {
        let held = word.load();
        if (held >> NAME) as u32 == seen.name {
            // On a busy backend most answers find the word as they would write it. And who was quicker has noted the same; to
            // look for another place would note the model twice.
            let _quicker = held == new || word.compare_exchange(held, new).is_ok();
            return;
        }
    }
    for word in residents {
        if word.load() == 0 && word.compare_exchange(0, new).is_ok() {
            return;
        }
    }
}

/// Notes that a model has left memory.
pub fn forget<W: Word>(residents: &[W], name: u32) {
    for word in residents {
        let held = word.load();
        if (held >> NAME) as u32 == name {
            // Somebody who has noted it anew in between knows better.
            let _newer = word.compare_exchange(held, 0);
        }
    }
}

/// Brings the words to what the backend listed when it was asked at `asked`. Gives for each listed name the place where
/// it stands, if there was room.
pub fn follow<W: Word>(residents: &[W], listed: &[u32], asked: u16) -> Vec<Option<usize>> {
    for (place, word) in residents.iter().enumerate() {
        let held = word.load();
        let is_name = |other: &W| other.load() >> NAME == held >> NAME;
        // Two that noted it at once, as the first, have noted it twice.
        if held != 0 && residents[..place].iter().any(is_name) {
            let _newer = word.compare_exchange(held, 0);
            continue;
        }
        let is_listed = listed.contains(&((held >> NAME) as u32));
        // A worker that saw it answer in the same tick may have seen it after the list was made.
        let is_older = asked.wrapping_sub(held as u16).wrapping_sub(1) < STAMP_HALF;
        if held != 0 && is_older {
            let new = if is_listed { held & !u64::from(u16::MAX) | u64::from(asked) } else { 0 };
            let _newer = word.compare_exchange(held, new);
        }
    }
    let stands = |name: u32| residents.iter().position(|word| (word.load() >> NAME) as u32 == name);
    let place = |name: u32| {
        stands(name).or_else(|| {
            let new = Instance { name, options: 0 }.resident(asked);
            residents.iter().position(|word| word.load() == 0 && word.compare_exchange(0, new).is_ok())
        })
    };
    listed.iter().map(|name| place(*name)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn plain(name: u32) -> Instance {
        Instance { name, options: 0 }
    }

    #[test]
    fn a_model_has_one_instance() {
        let words: [AtomicU64; 4] = Default::default();
        note(&words, plain(1), 10);
        note(&words, Instance { name: 1, options: 9 }, 11);
        note(&words, plain(2), 11);
        assert!(!holds(&words, plain(1)));
        assert!(holds(&words, Instance { name: 1, options: 9 }));
        assert_eq!(all(&words).count(), 2);
        forget(&words, 1);
        assert_eq!(all(&words).collect::<Vec<_>>(), [plain(2)]);
        assert_eq!(Instance::from_word(plain(7).to_word()), plain(7));
    }

    #[test]
    fn lists_are_followed_but_not_against_what_came_later() {
        let words: [AtomicU64; 3] = Default::default();
        for start in [100_u16, u16::MAX] {
            let later = |ticks| start.wrapping_add(ticks);
            note(&words, plain(1), start);
            note(&words, plain(2), later(5));
            assert_eq!(follow(&words, &[3, 4, 5], later(5)), [Some(0), Some(2), None]);
            assert!(holds(&words, plain(2)), "it answered while the list was made");
            assert_eq!(follow(&words, &[3], later(6)), [Some(0)]);
            assert_eq!(all(&words).collect::<Vec<_>>(), [plain(3)]);
            assert_eq!(follow(&words, &[], later(9)), []);
            assert_eq!(all(&words).count(), 0);
        }
    }

    #[test]
    fn a_model_that_stays_for_hours_can_still_leave() {
        let words: [AtomicU64; 1] = Default::default();
        note(&words, plain(1), 0);
        let hours = (0..5 * 3600 * 1000_u64).step_by(60_000);
        let last = hours.map(tick).inspect(|asked| assert_eq!(follow(&words, &[1], *asked), [Some(0)])).last().unwrap();
        follow(&words, &[], last.wrapping_add(2));
        assert_eq!(all(&words).count(), 0);
    }

    /// A word that another process has changed whenever it is swapped.
    struct Contended(AtomicU64);

    impl Word for Contended {
        fn load(&self) -> u64 {
            Word::load(&self.0)
        }
        fn compare_exchange(&self, seen: u64, new: u64) -> Result<u64, u64> {
            if seen == 0 { Word::compare_exchange(&self.0, seen, new) } else { Err(seen + 1) }
        }
        fn store(&self, new: u64) {
            Word::store(&self.0, new);
        }
        fn fence() {}
    }

    #[test]
    fn who_loses_against_another_note_of_the_model_adds_none() {
        let words: [_; 2] = std::array::from_fn(|_| Contended(AtomicU64::new(0)));
        note(&words, plain(1), 10);
        note(&words, plain(1), 11);
        assert_eq!(all(&words).count(), 1);
    }

    #[test]
    fn a_model_that_was_noted_twice_is_noted_once_after_the_next_list() {
        let noted = |options| AtomicU64::new(Instance { name: 1, options }.resident(10));
        let words = [noted(9), noted(0), AtomicU64::new(plain(2).resident(10))];
        assert_eq!(follow(&words, &[1, 2], 10), [Some(0), Some(2)]);
        assert_eq!(all(&words).collect::<Vec<_>>(), [Instance { name: 1, options: 9 }, plain(2)]);
    }

    #[test]
    fn options_are_kept_while_the_model_is_listed() {
        let words: [AtomicU64; 2] = Default::default();
        let wide = Instance { name: 1, options: 9 };
        note(&words, wide, 10);
        follow(&words, &[1], 20);
        assert!(holds(&words, wide));
    }
}
