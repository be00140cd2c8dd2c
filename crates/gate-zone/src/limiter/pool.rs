//! Numbers of a key that live as long as its window: what a gate was granted of a count that it shares with other
//! hosts, how much of that it has left, and what it last heard.
//!
//! It grants nothing itself and knows no store: who asks one puts the answers in here, and all processes of the gate
//! take from them.
//!
//! Words are those of [`fixed`](super::fixed), `tag 18 | window end 16 | count 30`, in the same regions: what sweeps and
//! reports on those does so here. Only the end comes from outside, since the window began on another host. Different
//! numbers of one key have different tags, and usually lie in different sets.
//!
//! **What is taken from a pool was put into it before, and once.** Every change is one swap from the word that was
//! decided upon. A number that two processes bring into two ways at once is found out by the look after the swap, and
//! one of them takes its own back; where that is too late, because others have changed it already, both stay: a
//! number is the sum of its ways. A process killed on the way leaves what it was granted unused, or nothing.

use std::iter;
use std::time::Duration;

use super::fixed::{COUNT_BITS, COUNT_MASK, END_BITS, TICKS, Tag, WINDOW_TICKS, Window};
use super::{ROUNDS_MAX, WAYS};
use crate::word::Word;

/// The largest number that a word holds. Larger ones become it.
pub const NUMBER_MAX: u64 = COUNT_MASK;

/// Ends that lie less than half a window apart are of one window: they differ by how long answers took. Windows of one
/// key follow each other by a whole one at least.
const APART_MAX: u64 = TICKS / 2;

/// When a window ends, in ticks since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct End(u64);

impl End {
    /// The end of a window that has `left` to go at `now_ns`; never later than that, so that nothing of one window is
    /// used in the next.
    pub fn after(window: Window, now_ns: u64, left: Duration) -> Self {
        let ends_ns = now_ns.saturating_add(left.as_nanos().min(u128::from(u64::MAX)) as u64);
        Self(window.tick_at(ends_ns).min(window.tick_at(now_ns) + u64::from(WINDOW_TICKS)))
    }

    /// The end of a window that begins now.
    pub fn of_new(window: Window, now_ns: u64) -> Self {
        Self(window.tick_at(now_ns) + u64::from(WINDOW_TICKS))
    }

    /// Whether both are ends of the same window, told at different times.
    pub fn is_same(self, other: Self) -> bool {
        self.0.abs_diff(other.0) < APART_MAX
    }

    /// Time from `now_ns` to the end, at most the window's length.
    pub fn until(self, window: Window, now_ns: u64) -> Duration {
        let ticks = self.0.saturating_sub(window.tick_at(now_ns)).min(u64::from(WINDOW_TICKS));
        if ticks == 0 { Duration::ZERO } else { window.until(ticks as u16, now_ns) }
    }
}

/// A number as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The number: more than 0.
    pub number: u64,
    /// When its window ends.
    pub end: End,
}

/// There is no way for the number: all are other keys'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoWay;

/// One number of one key: where it lies.
#[derive(Debug, Clone, Copy)]
pub struct Number<'a, W> {
    /// The set.
    pub set: &'a [W],
    /// The key and which of its numbers, within the set.
    pub tag: Tag,
    /// The window, the same for all words of a region.
    pub window: Window,
}

impl<W: Word> Number<'_, W> {
    /// Reads it; `None` when there is none, or its window is over.
    pub fn read(&self, now: impl Fn() -> u64) -> Option<Held> {
        View::take(self, &now).sum()
    }

    /// Takes `cost` off, if one way has as much. What is left then.
    pub fn take(&self, cost: u64, now: impl Fn() -> u64) -> Option<Held> {
        for _ in 0..ROUNDS_MAX {
            let view = View::take(self, &now);
            let (way, held) = view.largest()?;
            let left = Held { number: held.number.checked_sub(cost)?, ..held };
            if self.swap(&view, way, left) {
                return Some(left);
            }
        }
        None
    }

    /// Adds to it, in the window that ends at `end`; what is of another window is forgotten.
    ///
    /// # Errors
    /// There is no way for it.
    pub fn add(&self, more: u64, end: End, now: impl Fn() -> u64) -> Result<(), NoWay> {
        self.change(end, now, |of_window, way| {
            way + of_window.saturating_add(more).min(NUMBER_MAX).saturating_sub(of_window)
        })
    }

    /// Makes it at least `least` in the window that ends at `end`; what is of another window is forgotten.
    ///
    /// # Errors
    /// There is no way for it.
    pub fn raise(&self, least: u64, end: End, now: impl Fn() -> u64) -> Result<(), NoWay> {
        self.change(end, now, |of_window, way| way + least.min(NUMBER_MAX).saturating_sub(of_window))
    }

    /// Makes it `number` in the window that ends at `end`, whatever it was.
    ///
    /// # Errors
    /// There is no way for it.
    pub fn write(&self, number: u64, end: End, now: impl Fn() -> u64) -> Result<(), NoWay> {
        self.change(end, now, |_, _| number.min(NUMBER_MAX))
    }

    /// `decide` makes a way's new number of the sum in that window and what the way has of it.
    fn change(&self, end: End, now: impl Fn() -> u64, decide: impl Fn(u64, u64) -> u64) -> Result<(), NoWay> {
        for _ in 0..ROUNDS_MAX {
            let view = View::take(self, &now);
            if view.is_over(end) {
                return Ok(());
            }
            let of_window =
                |held: Option<Held>| held.filter(|held| held.end.is_same(end)).map_or(0, |held| held.number);
            let sum = of_window(view.sum());
            let Some((way, held)) = view.largest() else {
                let way = view.free().ok_or(NoWay)?;
                if self.claim(&view, way, Held { number: decide(0, 0), end }, &now) {
                    return Ok(());
                }
                continue;
            };
            let number = decide(sum, of_window(Some(held)));
            if self.swap(&view, way, Held { number, end }) {
                return Ok(());
            }
        }
        // Lost, as if this process had been killed.
        Ok(())
    }

    /// Puts a number into a free way, and takes it back when another process has done so elsewhere. Whether it is in.
    fn claim(&self, view: &View<'_, W>, way: usize, held: Held, now: impl Fn() -> u64) -> bool {
        if held.number == 0 {
            return true;
        }
        if !self.swap(view, way, held) {
            return false;
        }
        W::fence();
        let is_alone = View::take(self, now).ways().all(|(other, _)| other == way);
        // Whom the swap fails for, others have built on: it is theirs by now.
        is_alone || self.set[way].compare_exchange(self.pack(held), 0).is_err()
    }

    fn swap(&self, view: &View<'_, W>, way: usize, new: Held) -> bool {
        self.set[way].compare_exchange(view.words[way], self.pack(new)).is_ok()
    }

    fn pack(&self, held: Held) -> u64 {
        if held.number == 0 {
            return 0;
        }
        let end = u64::from(held.end.0 as u16);
        u64::from(self.tag.0) << (END_BITS + COUNT_BITS) | end << COUNT_BITS | held.number.min(NUMBER_MAX)
    }
}

/// A set as it was read, and the time right after.
struct View<'a, W> {
    number: &'a Number<'a, W>,
    words: [u64; WAYS],
    now_ns: u64,
}

impl<'a, W: Word> View<'a, W> {
    fn take(number: &'a Number<'a, W>, now: impl Fn() -> u64) -> Self {
        let mut words = [0; WAYS];
        for (word, way) in iter::zip(&mut words, number.set) {
            *word = way.load();
        }
        Self { number, words, now_ns: now() }
    }

    /// The live ways that hold the number.
    fn ways(&self) -> impl Iterator<Item = (usize, Held)> {
        let window = self.number.window;
        let count = self.number.set.len().min(WAYS);
        self.words.into_iter().take(count).enumerate().filter_map(move |(way, word)| {
            let is_own = word >> (END_BITS + COUNT_BITS) == u64::from(self.number.tag.0);
            let left = window.ticks_left(word, self.now_ns).filter(|_| is_own)?;
            let end = End(window.tick_at(self.now_ns) + u64::from(left));
            Some((way, Held { number: word & COUNT_MASK, end }))
        })
    }

    /// The one with the most in it.
    fn largest(&self) -> Option<(usize, Held)> {
        self.ways().max_by_key(|(_, held)| held.number)
    }

    fn sum(&self) -> Option<Held> {
        let (_, largest) = self.largest()?;
        let number = self.ways().map(|(_, held)| held.number).sum();
        Some(Held { number, ..largest })
    }

    fn free(&self) -> Option<usize> {
        let window = self.number.window;
        let count = self.number.set.len().min(WAYS);
        (0..count).find(|way| window.ticks_left(self.words[*way], self.now_ns).is_none())
    }

    fn is_over(&self, end: End) -> bool {
        end.0 <= self.number.window.tick_at(self.now_ns)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::limiter::fixed;

    const SECOND_NS: u64 = 1_000_000_000;

    fn window() -> Window {
        Window::new(Duration::from_secs(60)).unwrap()
    }

    fn set() -> Vec<AtomicU64> {
        (0..WAYS).map(|_| AtomicU64::new(0)).collect()
    }

    fn number(set: &[AtomicU64], tag: u64) -> Number<'_, AtomicU64> {
        Number { set, tag: Tag::new(tag), window: window() }
    }

    fn after(now_s: u64, left_s: u64) -> End {
        End::after(window(), now_s * SECOND_NS, Duration::from_secs(left_s))
    }

    #[test]
    fn a_pool_lasts_as_long_as_its_window_and_never_longer() {
        let set = set();
        let pool = number(&set, 7);
        let now = |second: u64| move || second * SECOND_NS;
        pool.add(5, after(100, 30), now(100)).unwrap();
        assert_eq!(pool.take(6, now(100)), None, "more than there is");
        assert_eq!(pool.take(2, now(101)).unwrap().number, 3);
        assert_eq!(number(&set, 8).read(now(101)), None, "another key");
        assert!(pool.take(1, now(129)).is_some());
        assert_eq!((pool.take(1, now(130)), pool.read(now(130))), (None, None));
        // The next window begins with what it is granted.
        pool.add(1, after(129, 1), now(129)).unwrap();
        pool.add(9, after(130, 60), now(130)).unwrap();
        assert_eq!(pool.read(now(130)).unwrap().number, 9);
        pool.add(4, after(100, 30), now(131)).unwrap();
        assert_eq!(pool.read(now(131)).unwrap().number, 9, "a grant that comes too late is nobody's");
        // The store's clock was ahead: its next window has begun before this one's end was noticed.
        pool.add(3, after(189, 60), now(189)).unwrap();
        assert_eq!(pool.read(now(189)).unwrap().number, 3);
    }

    #[test]
    fn what_is_told_twice_counts_once() {
        let set = set();
        let taken = number(&set, 7);
        let now = || SECOND_NS;
        for (least, is) in [(5, 5), (3, 5), (5, 5), (8, 8)] {
            taken.raise(least, after(1, 30), now).unwrap();
            assert_eq!(taken.read(now).unwrap().number, is);
        }
        taken.write(2, after(1, 30), now).unwrap();
        assert_eq!(taken.read(now).unwrap().number, 2);
        for more in [u64::MAX / 2, u64::MAX] {
            taken.write(2, after(1, 30), now).unwrap();
            taken.add(more, after(1, 30), now).unwrap();
            assert_eq!(taken.read(now).unwrap().number, NUMBER_MAX, "{more}");
        }
        taken.raise(1, after(1, 60), || 31 * SECOND_NS).unwrap();
        assert_eq!(taken.read(|| 31 * SECOND_NS).unwrap().number, 1, "another window");
    }

    #[test]
    fn words_are_the_limiters_own() {
        let set = set();
        number(&set, 7).add(5, after(100, 30), || 100 * SECOND_NS).unwrap();
        let live = |second: u64| {
            set.iter().filter(|word| fixed::is_live(Word::load(*word), window(), second * SECOND_NS)).count()
        };
        assert_eq!((live(100), live(129), live(130)), (1, 1, 0));
        assert_eq!(fixed::sweep(&set, window(), 0, WAYS, || 130 * SECOND_NS).freed, 1);
        for tag in 0..WAYS as u64 {
            number(&set, tag).add(1, after(200, 30), || 200 * SECOND_NS).unwrap();
        }
        assert_eq!(number(&set, 99).add(1, after(200, 30), || 200 * SECOND_NS), Err(NoWay));
    }

    #[test]
    fn ends_are_early_rather_than_late() {
        for (now_ns, left_ms) in [(1, 1), (5 * SECOND_NS + 3, 59_999), (7 * SECOND_NS, 60_000), (SECOND_NS, u64::MAX)] {
            let end = End::after(window(), now_ns, Duration::from_millis(left_ms));
            let until = end.until(window(), now_ns);
            assert!(until <= Duration::from_millis(left_ms).min(window().length()), "{until:?}");
            assert!(until + window().tick() >= Duration::from_millis(left_ms).min(window().length()), "{until:?}");
        }
        assert!(after(100, 30).is_same(after(129, 1)) && !after(100, 30).is_same(after(130, 60)));
    }
}
