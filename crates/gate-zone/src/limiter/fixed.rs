//! Fixed windows: at most `amount` charges from a key's first charge until its window ends, then afresh.
//!
//! It does not smooth: `amount` charges just before a window's end and as many after it are all admitted.
//!
//! A word is `tag 18 | window end 16 | count 30`. A count of 0 is a free word. Ends are in ticks of 1/1024 of the
//! window and are compared serially: a word is live when its end lies 1 to [`WINDOW_TICKS`] ticks ahead, else its
//! window is over. An ended word seems live again after 63 windows, for one window, unless it was [swept](sweep)
//! before.
//!
//! **At any time, the charges admitted in a key's live windows are at most `amount`.** A window lives in one word.
//! Within a word counts go up from below `amount` by one, so one word never admits more. Two words of one key come
//! about only when two processes claim different ways at once. Take the admitted charge whose swap came last: it read
//! the set after every other admitted swap, none of which is ever taken back, so its sum had them all, and it was at
//! most `amount`. Processes killed on the way only leave counts that are too high.
//!
//! With one word, exactly `amount` are admitted: unless every round is lost, it refuses only when the count is
//! `amount`. With two, processes may see each other's charges before these are taken back, and refuse too early.

use std::iter;
use std::slice;
use std::time::Duration;

use crate::limiter::{ROUNDS_MAX, Swept, WAYS};
use crate::word::Word;

const COUNT_BITS: u32 = 30;
const END_BITS: u32 = 16;
const TAG_BITS: u32 = 18;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Ticks that fit into a window.
const TICKS: u64 = 1024;

/// Ticks from the one in which a window begins to its end. One more than a window has, because the first has partly
/// passed: a window is never shorter than asked, and longer by less than two ticks.
pub const WINDOW_TICKS: u16 = TICKS as u16 + 1;

/// The largest amount. Counts up to it are exact and fit into the word.
pub const AMOUNT_MAX: u64 = 1_000_000_000;

/// The shortest window. In shorter ones, rounding ticks up to whole nanoseconds would add more than a tick.
const LENGTH_MIN: Duration = Duration::from_millis(2);

/// The longest window: 100 years. Five times that would still fit the clock.
const LENGTH_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The tag in an overflow cell, where keys are not told apart.
const SHARED: Tag = Tag(0);

/// A window's length, and its ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    length: Duration,
    tick_ns: u64,
}

impl Window {
    /// A window of this length; `None` for less than 2 milliseconds and for more than 100 years.
    pub fn new(length: Duration) -> Option<Self> {
        let tick_ns = (length.as_nanos() as u64).div_ceil(TICKS);
        (LENGTH_MIN..=LENGTH_MAX).contains(&length).then_some(Self { length, tick_ns })
    }

    /// The length asked for.
    pub fn length(self) -> Duration {
        self.length
    }

    /// How long one tick is.
    pub fn tick(self) -> Duration {
        Duration::from_nanos(self.tick_ns)
    }

    /// Ticks from `now_ns` to the end that `word` tells; `None` when the word is free or its window is over.
    fn ticks_left(self, word: u64, now_ns: u64) -> Option<u16> {
        let entry = Entry::unpack(word);
        let left = entry.end.wrapping_sub(self.tick_at(now_ns) as u16);
        (entry.count > 0 && (1..=WINDOW_TICKS).contains(&left)).then_some(left)
    }

    fn tick_at(self, now_ns: u64) -> u64 {
        now_ns / self.tick_ns
    }

    /// Time from `now_ns` to the end of the window that ends in `ticks` ticks, told as at most the window's length.
    fn until(self, ticks: u16, now_ns: u64) -> Duration {
        let into_tick = now_ns % self.tick_ns;
        let ns = (u64::from(ticks) * self.tick_ns).saturating_sub(into_tick);
        Duration::from_nanos(ns).min(self.length)
    }
}

/// Tells keys of one set apart. A key shares a word of a full set with another by chance in 8 of 2^18 cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(u32);

impl Tag {
    /// The tag of a hash: its low bits.
    pub fn new(hash: u64) -> Self {
        Self((hash & ((1 << TAG_BITS) - 1)) as u32)
    }
}

/// One charge: whose, against which limit.
#[derive(Debug, Clone, Copy)]
pub struct Charge {
    /// The key within its set.
    pub tag: Tag,
    /// Charges per window; 0 refuses all. More than [`AMOUNT_MAX`] counts as [`AMOUNT_MAX`].
    pub amount: u64,
    /// The window, the same for all words of a region.
    pub window: Window,
}

/// The answer to a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was counted.
    Admitted {
        /// Charges that the window still has.
        remaining: u64,
        /// Until the window ends.
        reset: Duration,
    },
    /// It was not counted.
    Refused {
        /// Until it may be tried again, at most the window's length; less than two ticks short of the truth where the
        /// window, which may be that much longer, has only just begun.
        retry: Duration,
    },
}

/// Charges a key once.
///
/// A key that is not in `set` while all ways hold other live keys is counted in `cell`, together with all other keys
/// that this happens to and that are hashed to the same cell; and as long as that cell is live, so is every key of that
/// cell which has no way yet. Such keys may be refused too early. Should one process find the set full at the very
/// moment that another finds a way, a key can be counted in both for one window, and have up to `amount` in each.
///
/// After 128 lost rounds, the charge is refused with a retry after one tick.
pub fn charge<'cell, W: Word + 'cell>(
    set: &[W],
    cell: impl Fn() -> &'cell W,
    charge: Charge,
    now: impl Fn() -> u64,
) -> Verdict {
    if charge.amount == 0 {
        return Verdict::Refused { retry: charge.window.length };
    }
    let charge = Charge { amount: charge.amount.min(AMOUNT_MAX), ..charge };
    let cell_is_live = || View::take(slice::from_ref(cell()), charge.window, &now).is_live(0);
    charge_in(set, charge, &now, cell_is_live).unwrap_or_else(|_: NoWay| {
        let shared = Charge { tag: SHARED, ..charge };
        charge_in(slice::from_ref(cell()), shared, &now, || false)
            .unwrap_or(Verdict::Refused { retry: charge.window.tick() })
    })
}

/// Whether a word that was read before `now_ns` counts in a window that is not over.
pub fn is_live(word: u64, window: Window, now_ns: u64) -> bool {
    window.ticks_left(word, now_ns).is_some()
}

/// Frees words whose window is over: at most `budget` words from `from` on. Ends wrap around after 64 windows, so the
/// whole region is to be swept well within that time.
pub fn sweep<W: Word>(words: &[W], window: Window, from: usize, budget: usize, now: impl Fn() -> u64) -> Swept {
    super::sweep(words, from, budget, now, |word, now_ns| window.ticks_left(word, now_ns).is_none())
}

/// The key has no way and cannot have one now.
struct NoWay;

fn charge_in<W: Word>(
    set: &[W],
    charge: Charge,
    now: impl Fn() -> u64,
    cell_is_live: impl Fn() -> bool,
) -> Result<Verdict, NoWay> {
    let Charge { tag, amount, window } = charge;
    for _ in 0..ROUNDS_MAX {
        let view = View::take(set, window, &now);
        let held = view.held(tag);
        if held.count >= amount {
            return Ok(Verdict::Refused { retry: window.until(held.ticks_left, view.now_ns) });
        }
        let (way, entry) = match held.way {
            Some(way) => {
                let entry = Entry::unpack(view.words[way]);
                (way, Entry { count: entry.count + 1, ..entry })
            }
            None if cell_is_live() => return Err(NoWay),
            None => (view.free().ok_or(NoWay)?, view.first(tag)),
        };
        if set[way].compare_exchange(view.words[way], entry.pack()).is_err() {
            continue;
        }
        W::fence();
        let view = View::take(set, window, &now);
        if !(view.is_live(way) && entry.is_window_of(view.words[way])) {
            // The window ended before it was certain that the charge fits; what it counted is no one's concern now.
            continue;
        }
        let held = view.held(tag);
        if held.count <= amount {
            let reset = window.until(held.ticks_left, view.now_ns);
            return Ok(Verdict::Admitted { remaining: amount - held.count, reset });
        }
        take_back(&set[way], entry);
    }
    Ok(Verdict::Refused { retry: window.tick() })
}

/// Takes one charge off the window of `entry`, unless that window is gone. While the charge is in, the count is not 0,
/// so the word can only be another window's once this one is over.
fn take_back<W: Word>(word: &W, entry: Entry) {
    for _ in 0..ROUNDS_MAX {
        let seen = word.load();
        if !entry.is_window_of(seen) {
            return;
        }
        let held = Entry::unpack(seen);
        let new = if held.count == 1 { 0 } else { Entry { count: held.count - 1, ..held }.pack() };
        if word.compare_exchange(seen, new).is_ok() {
            return;
        }
    }
    // Left as a charge too many, as if this process had been killed.
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u32,
    end: u16,
    count: u64,
}

impl Entry {
    fn unpack(word: u64) -> Self {
        Self {
            tag: (word >> (END_BITS + COUNT_BITS)) as u32,
            end: (word >> COUNT_BITS) as u16,
            count: word & COUNT_MASK,
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.tag) << (END_BITS + COUNT_BITS) | u64::from(self.end) << COUNT_BITS | self.count
    }

    fn is_window_of(self, word: u64) -> bool {
        let other = Self::unpack(word);
        (self.tag, self.end) == (other.tag, other.end) && other.count > 0
    }
}

/// A set as it was read, and the time right after.
struct View {
    words: [u64; WAYS],
    ways: usize,
    window: Window,
    now_ns: u64,
}

/// What a key has in a set.
struct Held {
    /// The first of its live ways.
    way: Option<usize>,
    /// Charges in all of them.
    count: u64,
    /// Until the last of them ends.
    ticks_left: u16,
}

impl View {
    fn take<W: Word>(set: &[W], window: Window, now: impl Fn() -> u64) -> Self {
        let mut words = [0; WAYS];
        for (word, way) in iter::zip(&mut words, set) {
            *word = way.load();
        }
        Self { words, ways: set.len().min(WAYS), window, now_ns: now() }
    }

    fn is_live(&self, way: usize) -> bool {
        self.window.ticks_left(self.words[way], self.now_ns).is_some()
    }

    fn held(&self, tag: Tag) -> Held {
        let mut held = Held { way: None, count: 0, ticks_left: 0 };
        for (way, word) in self.words.into_iter().enumerate() {
            let entry = Entry::unpack(word);
            if let Some(left) = self.window.ticks_left(word, self.now_ns).filter(|_| entry.tag == tag.0) {
                held.way = held.way.or(Some(way));
                held.count += entry.count;
                held.ticks_left = held.ticks_left.max(left);
            }
        }
        held
    }

    fn free(&self) -> Option<usize> {
        (0..self.ways).find(|way| !self.is_live(*way))
    }

    /// The first charge of a window that begins now.
    fn first(&self, tag: Tag) -> Entry {
        let end = (self.window.tick_at(self.now_ns) as u16).wrapping_add(WINDOW_TICKS);
        Entry { tag: tag.0, end, count: 1 }
    }
}
