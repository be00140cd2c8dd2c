//! Fixed windows: at most `amount` from a key's first charge until its window ends, then afresh. A charge has a cost, and
//! one whose true cost is known only later is [settled](settle).
//!
//! It does not smooth: `amount` just before a window's end and as much after it are all admitted.
//!
//! A word is `tag 18 | window end 16 | count 30`. A count of 0 is a free word. Ends are in ticks of 1/1024 of the
//! window and are compared serially: a word is live when its end lies 1 to [`WINDOW_TICKS`] ticks ahead, else its
//! window is over. An ended word seems live again after 63 windows, for one window, unless it was [swept](sweep)
//! before.
//!
//! **At any time, the charges admitted in a key's live windows, less what was given back, cost at most `amount`.** A
//! window lives in one word. Charges bring a word from a count that leaves room for their cost to one of at most
//! `amount`, so one word never admits more. Two words of one key come about only when two processes claim different ways
//! at once. Take the admitted charge whose swap came last: it read the set after every other admitted swap, and what had
//! been taken out of the words by then had been given back; so its sum had all the others, and it was at most `amount`.
//! What is given back later only makes less of it. Processes killed on the way only leave counts that are too high.
//!
//! With one word, exactly `amount` is admitted: unless every round is lost, it refuses only what does not fit. With two,
//! processes may see each other's charges before these are taken back, and refuse too early.
//!
//! A charge that turns out to cost more than was taken is [charged the rest](settle), past `amount` if need be: nobody
//! can be refused what was done already. A count may so reach the top of its bits, where it stays until the window ends,
//! since what went beyond is not known any more.

use std::iter;
use std::slice;
use std::time::Duration;

use crate::limiter::{ROUNDS_MAX, Swept, WAYS};
use crate::word::Word;

pub(super) const COUNT_BITS: u32 = 30;
pub(super) const END_BITS: u32 = 16;
const TAG_BITS: u32 = 18;
pub(super) const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Ticks that fit into a window.
pub(super) const TICKS: u64 = 1024;

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
    pub(super) fn ticks_left(self, word: u64, now_ns: u64) -> Option<u16> {
        let entry = Entry::unpack(word);
        let left = entry.end.wrapping_sub(self.tick_at(now_ns) as u16);
        (entry.count > 0 && (1..=WINDOW_TICKS).contains(&left)).then_some(left)
    }

    pub(super) fn tick_at(self, now_ns: u64) -> u64 {
        now_ns / self.tick_ns
    }

    /// Time from `now_ns` to the end of the window that ends in `ticks` ticks, told as at most the window's length.
    pub(super) fn until(self, ticks: u16, now_ns: u64) -> Duration {
        let into_tick = now_ns % self.tick_ns;
        let ns = (u64::from(ticks) * self.tick_ns).saturating_sub(into_tick);
        Duration::from_nanos(ns).min(self.length)
    }
}

/// Tells keys of one set apart. A key shares a word of a full set with another by chance in 8 of 2^18 cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(pub(super) u32);

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
    /// What may be charged per window; 0 refuses all. More than [`AMOUNT_MAX`] counts as [`AMOUNT_MAX`].
    pub amount: u64,
    /// What it costs: 1 to `amount`. Less counts as 1, more as `amount`: a window never has more to give.
    pub cost: u64,
    /// The window, the same for all words of a region.
    pub window: Window,
}

/// What was taken by a charge, and where: what [`settle`] needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    way: Way,
    tag: Tag,
    cost: u64,
    /// When its window ends, in ticks since the epoch: all bits of it, since what is settled may be 64 windows old.
    end_tick: u64,
    window: Window,
}

/// Where a charge was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Of(u8),
    /// Together with others, in the overflow cell.
    Shared,
}

impl Taken {
    /// How much: the cost of the charge, or the whole amount where that is less.
    pub fn cost(&self) -> u64 {
        self.cost
    }
}

/// The answer to a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was counted.
    Admitted {
        /// What the window still has.
        remaining: u64,
        /// Until the window ends.
        reset: Duration,
        /// For a settlement; whose cost is final may forget it.
        taken: Taken,
    },
    /// It was not counted.
    Refused {
        /// Until it may be tried again, at most the window's length; less than two ticks short of the truth where the
        /// window, which may be that much longer, has only just begun.
        retry: Duration,
    },
}

/// Charges a key.
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
    let amount = charge.amount.min(AMOUNT_MAX);
    let charge = Charge { amount, cost: charge.cost.clamp(1, amount), ..charge };
    let cell_is_live = || View::take(slice::from_ref(cell()), charge.window, &now).is_live(0);
    charge_in(set, charge, &now, cell_is_live).unwrap_or_else(|_: NoWay| {
        let shared = Charge { tag: SHARED, ..charge };
        match charge_in(slice::from_ref(cell()), shared, &now, || false) {
            Ok(Verdict::Admitted { remaining, reset, taken }) => {
                Verdict::Admitted { remaining, reset, taken: Taken { way: Way::Shared, tag: charge.tag, ..taken } }
            }
            Ok(refused) => refused,
            Err(NoWay) => Verdict::Refused { retry: charge.window.tick() },
        }
    })
}

/// Makes a charge cost what it has `used`, 0 included; `set` and `cell` are those that it was charged with.
///
/// What was taken too much is given back in the window that it was taken from, and is nobody's once that is over. What
/// was taken too little is charged in the key's present window, past the amount if need be; it is so whichever window
/// the charge was in, else whoever takes longer than a window would never pay. Between two processes that charge it for
/// one key at once it may get into two ways, whose sum counts.
///
/// After 128 lost rounds it is left as it is.
pub fn settle<'cell, W: Word + 'cell>(
    set: &[W],
    cell: impl Fn() -> &'cell W,
    taken: Taken,
    used: u64,
    now: impl Fn() -> u64,
) {
    if used < taken.cost {
        match taken.way {
            Way::Of(way) => give_back(&set[usize::from(way)], taken, taken.cost - used, now),
            Way::Shared => give_back(cell(), Taken { tag: SHARED, ..taken }, taken.cost - used, now),
        }
    } else if used > taken.cost {
        let rest = Charge { tag: taken.tag, amount: COUNT_MASK, cost: used - taken.cost, window: taken.window };
        let cell_is_live = || View::take(slice::from_ref(cell()), taken.window, &now).is_live(0);
        if let Err(NoWay) = overdraw(set, rest, &now, cell_is_live) {
            // Nothing keeps a key from its cell.
            overdraw(slice::from_ref(cell()), Charge { tag: SHARED, ..rest }, &now, || false).ok();
        }
    }
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
    let Charge { tag, amount, cost, window } = charge;
    for _ in 0..ROUNDS_MAX {
        let view = View::take(set, window, &now);
        let held = view.held(tag);
        if held.count + cost > amount {
            return Ok(Verdict::Refused { retry: window.until(held.ticks_left, view.now_ns) });
        }
        let (way, entry) = view.with(charge, held.way, &cell_is_live)?;
        if set[way].compare_exchange(view.words[way], entry.pack()).is_err() {
            continue;
        }
        W::fence();
        let taken = Taken { way: Way::Of(way as u8), tag, cost, end_tick: view.end_tick(entry), window };
        let view = View::take(set, window, &now);
        if !(view.is_live(way) && entry.is_window_of(view.words[way])) {
            // The window ended before it was certain that the charge fits; what it counted is no one's concern now.
            continue;
        }
        let held = view.held(tag);
        if held.count <= amount {
            let reset = window.until(held.ticks_left, view.now_ns);
            return Ok(Verdict::Admitted { remaining: amount - held.count, reset, taken });
        }
        give_back(&set[way], taken, cost, &now);
    }
    Ok(Verdict::Refused { retry: window.tick() })
}

/// Charges whatever the amount is, up to what a word can tell.
fn overdraw<W: Word>(
    set: &[W],
    charge: Charge,
    now: impl Fn() -> u64,
    cell_is_live: impl Fn() -> bool,
) -> Result<(), NoWay> {
    for _ in 0..ROUNDS_MAX {
        let view = View::take(set, charge.window, &now);
        let (way, entry) = view.with(charge, view.held(charge.tag).way, &cell_is_live)?;
        if set[way].compare_exchange(view.words[way], entry.pack()).is_ok() {
            break;
        }
    }
    Ok(())
}

/// Takes `cost` off the window of a charge, unless that window is gone. While the charge is in, the count is not 0, so
/// the word can only be another window's once this one is over.
fn give_back<W: Word>(word: &W, taken: Taken, cost: u64, now: impl Fn() -> u64) {
    let entry = Entry { tag: taken.tag.0, end: taken.end_tick as u16, count: taken.cost };
    for _ in 0..ROUNDS_MAX {
        let seen = word.load();
        let is_over = taken.window.tick_at(now()) >= taken.end_tick;
        let held = Entry::unpack(seen);
        if is_over || !entry.is_window_of(seen) || held.count == COUNT_MASK {
            return;
        }
        let new = match held.count.saturating_sub(cost) {
            0 => 0,
            count => Entry { count, ..held }.pack(),
        };
        if word.compare_exchange(seen, new).is_ok() {
            return;
        }
    }
    // Left as charged too much, as if this process had been killed.
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

    /// What the word of a key becomes by a charge: the one that it has, or a free one.
    fn with(
        &self,
        charge: Charge,
        held: Option<usize>,
        cell_is_live: impl Fn() -> bool,
    ) -> Result<(usize, Entry), NoWay> {
        let (way, entry) = match held {
            Some(way) => (way, Entry::unpack(self.words[way])),
            None if cell_is_live() => return Err(NoWay),
            None => {
                let end = (self.window.tick_at(self.now_ns) as u16).wrapping_add(WINDOW_TICKS);
                (self.free().ok_or(NoWay)?, Entry { tag: charge.tag.0, end, count: 0 })
            }
        };
        let count = entry.count.saturating_add(charge.cost).min(COUNT_MASK);
        Ok((way, Entry { count, ..entry }))
    }

    /// When a window that is live or begins now ends, in ticks since the epoch.
    fn end_tick(&self, entry: Entry) -> u64 {
        let tick = self.window.tick_at(self.now_ns);
        tick + u64::from(entry.end.wrapping_sub(tick as u16))
    }
}
