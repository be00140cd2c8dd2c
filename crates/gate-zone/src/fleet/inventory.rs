//! Which models a backend lists: two hash sets of name hashes, of which one holds while the other is written.
//!
//! Invariant: there is one writer (the monitor), and a reader sees one whole list, or parts of the list after the next:
//! between two lists lie seconds.

use crate::word::Word;

const KNOWN: u64 = 1 << 63;
const HALF: u64 = 1 << 62;
/// There are more than fit: any name may be listed.
const MORE: u64 = 1 << 61;

/// Whether a backend lists a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It has not been asked, or lists more than can be remembered.
    Unknown,
}

/// Writes a new list into the half that is not read, then turns to it. Names are never 0.
pub fn publish<W: Word>(listed: &W, halves: &[W], names: &[u32]) {
    let (first, second) = halves.split_at(halves.len() / 2);
    let to_second = listed.load() & HALF == 0;
    let half = if to_second { second } else { first };
    let turn = KNOWN | if to_second { HALF } else { 0 };
    // Beyond three quarters full, looking for a name takes long.
    if names.len() > half.len() / 4 * 3 {
        listed.store(turn | MORE | names.len() as u64);
        return;
    }
    for word in half.iter().filter(|word| word.load() != 0) {
        word.store(0);
    }
    for name in names {
        let free = chain(half, *name).find(|word| matches!(word.load(), 0) || word.load() == u64::from(*name));
        if let Some(word) = free {
            word.store(u64::from(*name));
        }
    }
    listed.store(turn | names.len() as u64);
}

/// Forgets all lists: the backend is to be asked anew.
pub fn unknown<W: Word>(listed: &W) {
    listed.store(listed.load() & HALF);
}

/// How many models are listed; `None` before the first list.
pub fn count(listed: u64) -> Option<u32> {
    (listed & KNOWN != 0).then_some(listed as u32)
}

/// Whether this name is listed.
pub fn lists<W: Word>(listed: u64, halves: &[W], name: u32) -> Listed {
    if listed & KNOWN == 0 || listed & MORE != 0 {
        return Listed::Unknown;
    }
    let (first, second) = halves.split_at(halves.len() / 2);
    let half = if listed & HALF == 0 { first } else { second };
    for word in chain(half, name) {
        match word.load() {
            0 => return Listed::No,
            held if held == u64::from(name) => return Listed::Yes,
            _ => {}
        }
    }
    Listed::No
}

fn chain<W: Word>(half: &[W], name: u32) -> impl Iterator<Item = &W> {
    let start = name as usize % half.len().max(1);
    half[start..].iter().chain(&half[..start])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn lists_replace_each_other() {
        let listed = AtomicU64::new(0);
        let halves: Vec<AtomicU64> = (0..32).map(|_| AtomicU64::new(0)).collect();
        let has = |name| lists(Word::load(&listed), &halves, name);
        assert_eq!((has(1), count(Word::load(&listed))), (Listed::Unknown, None));
        publish(&listed, &halves, &[1, 17, 33, 33]);
        assert_eq!([1, 17, 33, 49].map(has), [Listed::Yes, Listed::Yes, Listed::Yes, Listed::No]);
        publish(&listed, &halves, &[2]);
        assert_eq!([1, 2].map(has), [Listed::No, Listed::Yes]);
        publish(&listed, &halves, &[]);
        assert_eq!((has(2), count(Word::load(&listed))), (Listed::No, Some(0)));
        publish(&listed, &halves, &(1..=13).collect::<Vec<_>>());
        assert_eq!((has(99), count(Word::load(&listed))), (Listed::Unknown, Some(13)), "more than fit");
        publish(&listed, &halves, &(1..=12).collect::<Vec<_>>());
        assert!((1..=12).all(|name| has(name) == Listed::Yes) && has(13) == Listed::No);
        unknown(&listed);
        assert_eq!(has(1), Listed::Unknown);
    }
}
