//! Loads in progress: of the many that ask for a model which nobody has in memory, one backend loads it.
//!
//! A word for each model, found by its tag: whoever swaps it says which backend, the others read it. It promises nothing;
//! whether that load is still going on is seen in the backend's slots.
//!
//! Invariant: of any number that come at once, one swap wins. Two models that share a word (1 in 256) do not wait for each
//! other: the second is loaded without being noted.

use crate::word::Word;

const TAG: u32 = 32;
const BACKEND: u32 = 24;
const SECONDS_MASK: u64 = (1 << BACKEND) - 1;

/// For how long a load is believed without a request that is seen to want it.
const BEGINS_S: u64 = 1;

/// A load that somebody has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// The backend's cell.
    pub backend: usize,
    /// Seconds since.
    pub age_s: u64,
    seen: u64,
}

fn word_of<W: Word>(loads: &[W], tag: u32) -> Option<&W> {
    loads.get(tag as usize % loads.len().max(1))
}

/// Seconds since; none for one that was noted just after `now_s` was read.
fn age(seen: u64, now_s: u64) -> u64 {
    let age_s = now_s.wrapping_sub(seen) & SECONDS_MASK;
    if age_s > SECONDS_MASK / 2 { 0 } else { age_s }
}

/// The load of the model with this tag, if one was noted.
pub fn of<W: Word>(loads: &[W], tag: u32, now_s: u64) -> Option<Load> {
    let seen = word_of(loads, tag)?.load();
    let age_s = age(seen, now_s);
    (seen != 0 && (seen >> TAG) as u32 == tag).then_some(Load {
        backend: (seen >> BACKEND & 0xff) as usize,
        age_s,
        seen,
    })
}

/// The tags of the models that are noted to be loaded by a backend.
pub fn at<W: Word>(loads: &[W], backend: usize) -> impl Iterator<Item = u32> {
    let seen = loads.iter().map(Word::load).filter(|seen| *seen != 0);
    seen.filter(move |seen| (seen >> BACKEND & 0xff) as usize == backend).map(|seen| (seen >> TAG) as u32)
}

/// Notes a load at `backend`, in the place of `over` (one of the same model that is no longer going on). Gives the load that
/// counts: the caller's or, if another was quicker, that one's. `None` while the word belongs to another model.
pub fn begin<W: Word>(loads: &[W], (tag, backend): (u32, usize), over: Option<Load>, now_s: u64) -> Option<Load> {
    let word = word_of(loads, tag)?;
    let new = u64::from(tag) << TAG | (backend as u64 & 0xff) << BACKEND | now_s & SECONDS_MASK;
    let seen = over.map_or(0, |load| load.seen);
    match word.compare_exchange(seen, new) {
        Ok(_) => Some(Load { backend, age_s: 0, seen: new }),
        Err(_) => of(loads, tag, now_s),
    }
}

/// Notes that the model has been loaded, or has not: the word is free again.
pub fn end<W: Word>(loads: &[W], tag: u32, backend: usize) {
    let Some(word) = word_of(loads, tag) else { return };
    let seen = word.load();
    if (seen >> TAG) as u32 == tag && (seen >> BACKEND & 0xff) as usize == backend {
        let _another = word.compare_exchange(seen, 0);
    }
}

/// Whether a load that was noted so long ago is still going on, where `is_served` looks for a request that wants it: one
/// that was only just noted is about to take its slot.
pub fn goes_on(age_s: u64, is_served: impl FnOnce() -> bool) -> bool {
    age_s <= BEGINS_S || is_served()
}

/// Frees the words of loads that nobody ends any more, by what `is_served` says of a tag and a backend.
pub fn sweep<W: Word>(loads: &[W], now_s: u64, is_served: impl Fn(u32, usize) -> bool) {
    for word in loads {
        let seen = word.load();
        let (tag, backend) = ((seen >> TAG) as u32, (seen >> BACKEND & 0xff) as usize);
        let age_s = age(seen, now_s);
        if seen != 0 && !goes_on(age_s, || is_served(tag, backend)) {
            let _another = word.compare_exchange(seen, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn one_backend_loads() {
        let loads: [AtomicU64; 4] = Default::default();
        assert_eq!(of(&loads, 9, 100), None);
        assert_eq!(begin(&loads, (9, 3), None, 100).unwrap().backend, 3);
        assert_eq!(begin(&loads, (9, 5), None, 101).unwrap().backend, 3, "the first one counts");
        assert_eq!(begin(&loads, (13, 5), None, 101), None, "the word is another model's");
        let load = of(&loads, 9, 107).unwrap();
        assert_eq!((load.backend, load.age_s), (3, 7));
        assert_eq!([3, 5, 0].map(|backend| at(&loads, backend).collect::<Vec<_>>()), [vec![9], vec![], vec![]]);
        assert_eq!(begin(&loads, (9, 5), Some(load), 108).unwrap().backend, 5);
        assert_eq!(of(&loads, 9, 99).unwrap().age_s, 0, "noted just after the clock was read");
        end(&loads, 9, 3);
        assert_eq!(of(&loads, 9, 108).unwrap().backend, 5);
        end(&loads, 9, 5);
        assert_eq!(of(&loads, 9, 108), None);
        assert!(begin(&loads, (9, 1), None, 100).is_some());
        for (now_s, is_served, expected) in [(101, false, true), (110, true, true), (110, false, false)] {
            sweep(&loads, now_s, |tag, backend| is_served && (tag, backend) == (9, 1));
            assert_eq!(of(&loads, 9, now_s).is_some(), expected, "after {now_s} s");
        }
    }
}
