use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::fixed::{AMOUNT_MAX, Charge, Taken, Verdict, Window};
use super::{WAYS, cell_of, fixed, gcra, set_of};
use crate::word::Word;

const SECOND_NS: u64 = 1_000_000_000;

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

fn values(words: &[AtomicU64]) -> Vec<u64> {
    words.iter().map(|word| word.load(SeqCst)).collect()
}

fn second() -> Window {
    Window::new(Duration::from_secs(1)).unwrap()
}

fn ask(tag: u64, amount: u64) -> Charge {
    Charge { tag: fixed::Tag::new(tag), amount, cost: 1, window: second() }
}

/// A set, its cell, and a clock.
struct Bench {
    set: Vec<AtomicU64>,
    cell: AtomicU64,
    now_ns: Cell<u64>,
}

impl Bench {
    fn new() -> Self {
        Self { set: words(WAYS), cell: AtomicU64::new(0), now_ns: Cell::new(5 * SECOND_NS) }
    }

    fn charge(&self, charge: Charge) -> Verdict {
        fixed::charge(&self.set, || &self.cell, charge, || self.now_ns.get())
    }

    fn admits(&self, tag: u64, amount: u64) -> bool {
        matches!(self.charge(ask(tag, amount)), Verdict::Admitted { .. })
    }

    /// One cell each `period_ns`, `burst` at once.
    fn gcra(&self, tag: u64, period_ns: u64, burst: u64) -> Result<(), u64> {
        let now_ns = self.now_ns.get();
        let decide = |tat: Option<u64>| {
            let tat = tat.unwrap_or(now_ns);
            let earliest = tat.saturating_sub(period_ns * (burst - 1));
            if now_ns < earliest { Err(earliest) } else { Ok(((), tat.max(now_ns) + period_ns)) }
        };
        gcra::measure(&self.set, || &self.cell, gcra::Tag::new(tag), || now_ns, decide)
    }

    fn wait(&self, duration: Duration) {
        self.now_ns.set(self.now_ns.get() + duration.as_nanos() as u64);
    }
}

#[test]
fn hashes_reach_every_set_and_cell_and_nothing_beyond() {
    let region = words(3 * WAYS + 5);
    for (hash, set) in [(0, 0), (u64::MAX / 2, 1), (u64::MAX, 2)] {
        let found = set_of(&region, hash).unwrap();
        assert!(std::ptr::eq(&raw const found[0], &raw const region[set * WAYS]), "{hash}");
        assert_eq!(found.len(), WAYS);
    }
    assert!(set_of(&region[..WAYS - 1], 7).is_none());
    assert!(std::ptr::eq(cell_of(&region, u64::MAX).unwrap(), &raw const region[region.len() - 1]));
    assert!(cell_of(&region[..0], 7).is_none());
}

#[test]
fn ten_means_ten_and_then_the_window_ends() {
    let bench = Bench::new();
    for remaining in (0..10).rev() {
        let Verdict::Admitted { remaining: told, reset, .. } = bench.charge(ask(1, 10)) else { panic!("refused") };
        assert_eq!((told, reset), (remaining, Duration::from_secs(1)));
    }
    let full = values(&bench.set);
    bench.wait(Duration::from_millis(400));
    let Verdict::Refused { retry } = bench.charge(ask(1, 10)) else { panic!("admitted") };
    assert!(retry >= Duration::from_millis(600) && retry <= Duration::from_millis(602), "{retry:?}");
    assert_eq!(values(&bench.set), full, "a refusal writes nothing");
    bench.wait(retry);
    assert!(bench.admits(1, 10), "when the retry is over, it is admitted");
}

#[test]
fn a_window_is_never_shorter_than_asked_and_two_ticks_longer_at_most() {
    for length in [2_000_000, 2_000_001, 99_999_999, SECOND_NS, 3_600 * SECOND_NS, 360 * 86_400 * SECOND_NS] {
        let window = Window::new(Duration::from_nanos(length)).unwrap();
        let tick_ns = window.tick().as_nanos() as u64;
        for start in [0, 1, tick_ns - 1, tick_ns, 977 * tick_ns + tick_ns / 2, 65_535 * tick_ns] {
            let (set, cell) = (words(2), AtomicU64::new(0));
            let admits = |now_ns: u64| {
                let charge = Charge { tag: fixed::Tag::new(9), amount: 1, cost: 1, window };
                matches!(fixed::charge(&set, || &cell, charge, || now_ns), Verdict::Admitted { .. })
            };
            assert!(admits(start));
            assert!(!admits(start + length - 1), "{length} from {start} is shorter than asked");
            assert!(admits(start + length + 2 * tick_ns), "{length} from {start} is too long");
        }
    }
}

#[test]
fn windows_of_microseconds_or_of_centuries_are_none() {
    assert!(Window::new(Duration::ZERO).is_none());
    assert!(Window::new(Duration::from_micros(1999)).is_none());
    assert!(Window::new(Duration::from_secs(200 * 365 * 86_400)).is_none());
    assert!(Window::new(Duration::MAX).is_none());
}

#[test]
fn zero_refuses_all_and_writes_nothing() {
    let bench = Bench::new();
    assert_eq!(bench.charge(ask(1, 0)), Verdict::Refused { retry: Duration::from_secs(1) });
    assert_eq!(values(&bench.set), [0; WAYS]);
}

#[test]
fn amounts_are_exact_to_a_thousand_million() {
    let bench = Bench::new();
    assert!(bench.admits(1, u64::MAX));
    let first = bench.set[0].load(SeqCst);
    for (count, admitted) in [(AMOUNT_MAX - 1, true), (AMOUNT_MAX, false)] {
        bench.set[0].store(first - 1 + count, SeqCst);
        assert_eq!(bench.admits(1, u64::MAX), admitted, "{count}");
    }
    bench.set[0].store(u64::MAX, SeqCst);
    assert!(bench.admits(2, 1), "a word of nonsense is another key's");
}

impl Bench {
    fn take(&self, tag: u64, amount: u64, cost: u64) -> Option<Taken> {
        match self.charge(Charge { cost, ..ask(tag, amount) }) {
            Verdict::Admitted { taken, .. } => Some(taken),
            Verdict::Refused { .. } => None,
        }
    }

    fn settle(&self, taken: Taken, used: u64) {
        fixed::settle(&self.set, || &self.cell, taken, used, || self.now_ns.get());
    }

    /// What the first way counts.
    fn count(&self) -> u64 {
        self.set[0].load(SeqCst) & 0x3fff_ffff
    }
}

#[test]
fn a_cost_is_charged_whole_or_not_at_all() {
    let bench = Bench::new();
    for (cost, amount, charged, count) in [
        (6, 10, Some(6), 6),
        (5, 10, None, 6),
        (4, 10, Some(4), 10),
        (0, 10, None, 10),
        (0, 11, Some(1), 11),
        (u64::MAX, 11, None, 11),
        (u64::MAX, u64::MAX, None, 11),
    ] {
        assert_eq!(bench.take(1, amount, cost).map(|taken| taken.cost()), charged, "{cost} of {amount}");
        assert_eq!(bench.count(), count, "{cost} of {amount}");
    }
    let whole = Bench::new().take(1, u64::MAX, u64::MAX).unwrap();
    assert_eq!(whole.cost(), AMOUNT_MAX, "who asks for more than there is takes all there is");
}

#[test]
fn a_settlement_gives_back_or_charges_the_rest() {
    for (used, count, then_fits) in [(0, 3, 7), (2, 5, 5), (6, 9, 1), (7, 10, 0), (8, 11, 0), (1_000, 1_003, 0)] {
        let bench = Bench::new();
        let taken = bench.take(1, 10, 6).unwrap();
        bench.take(1, 10, 3).unwrap();
        bench.settle(taken, used);
        assert_eq!(bench.count(), count, "{used}");
        assert_eq!((0..20).filter(|_| bench.admits(1, 10)).count(), then_fits, "{used}");
    }
    let bench = Bench::new();
    let taken = bench.take(1, 10, 6).unwrap();
    bench.settle(taken, 0);
    assert_eq!(values(&bench.set), [0; WAYS], "nothing charged is a free way");
}

#[test]
fn what_is_given_back_late_is_nobodys_and_what_was_used_late_is_charged_now() {
    let bench = Bench::new();
    let (early, spent) = (bench.take(1, 10, 5).unwrap(), bench.take(1, 10, 5).unwrap());
    bench.wait(Duration::from_millis(1_002));
    bench.take(1, 10, 4).unwrap();
    bench.settle(early, 0);
    assert_eq!(bench.count(), 4, "the window that it was taken from is over");
    bench.settle(spent, 11);
    assert_eq!(bench.count(), 4 + 6, "six more than were taken");
    bench.wait(Duration::from_millis(1_002));
    bench.settle(early, 5 + 12);
    assert!(!bench.admits(1, 10), "a window began with it");
    assert_eq!(bench.count(), 12);
}

#[test]
fn a_window_that_ends_at_the_same_tick_64_windows_later_is_another() {
    let bench = Bench::new();
    let taken = bench.take(1, 10, 5).unwrap();
    let old = bench.set[0].load(SeqCst);
    bench.set[0].store(0, SeqCst);
    bench.wait(second().tick() * 65_536);
    bench.take(1, 10, 5).unwrap();
    assert_eq!(bench.set[0].load(SeqCst), old, "by the word alone they are the same");
    bench.settle(taken, 0);
    assert_eq!(bench.count(), 5);
}

#[test]
fn a_count_at_its_top_stays_there() {
    const TOP: u64 = (1 << 30) - 1;
    let bench = Bench::new();
    let (one, other) = (bench.take(1, AMOUNT_MAX, 7).unwrap(), bench.take(1, AMOUNT_MAX, 7).unwrap());
    bench.settle(one, u64::MAX);
    assert_eq!(bench.count(), TOP);
    bench.settle(other, 0);
    assert_eq!(bench.count(), TOP, "how much went beyond is not known");
    bench.settle(other, TOP);
    assert_eq!(bench.count(), TOP);
    assert!(bench.take(1, AMOUNT_MAX, 1).is_none());
    assert_eq!(values(&bench.set[1..]), [0; WAYS - 1], "nor does it spill elsewhere");
}

#[test]
fn what_was_charged_in_the_cell_is_settled_there() {
    let bench = Bench::new();
    for tag in 0..WAYS as u64 {
        assert!(bench.admits(tag, 1));
    }
    let (one, other) = (bench.take(100, 10, 6).unwrap(), bench.take(101, 10, 4).unwrap());
    assert!(bench.take(102, 10, 1).is_none());
    bench.settle(one, 2);
    assert!(bench.take(102, 10, 5).is_none());
    bench.settle(other, 7);
    assert_eq!(bench.cell.load(SeqCst) & 0x3fff_ffff, 2 + 7);
    assert!(bench.take(102, 10, 1).is_some() && bench.take(102, 10, 1).is_none());
    assert!(bench.set.iter().all(|word| word.load(SeqCst) & 0x3fff_ffff == 1), "keys with a way are not touched");
    bench.set[3].store(0, SeqCst);
    bench.settle(one, 8);
    assert_eq!(bench.cell.load(SeqCst) & 0x3fff_ffff, 10 + 2, "what a key did is in the cell, free ways or not");
    assert_eq!(bench.set[3].load(SeqCst), 0);
}

#[test]
fn a_full_set_spills_into_the_shared_cell_until_that_ends() {
    let bench = Bench::new();
    for tag in 0..WAYS as u64 {
        assert!(bench.admits(tag, 2));
    }
    bench.wait(Duration::from_millis(500));
    assert!(bench.admits(100, 2) && bench.admits(101, 2), "the cell admits the amount once for all");
    assert!(!bench.admits(100, 2) && !bench.admits(102, 2));
    assert!(bench.admits(3, 2), "keys with a way are not touched");
    bench.wait(Duration::from_millis(505));
    assert!(!bench.admits(100, 2), "ways are free, but what the key did is in the cell");
    assert_eq!(values(&bench.set).iter().filter(|word| **word & 0x3fff_ffff == 1).count(), WAYS - 1);
    bench.wait(Duration::from_millis(500));
    assert!(bench.admits(100, 2));
    assert!(bench.set.iter().any(|word| word.load(SeqCst) >> 46 == 100), "back in a way");
}

#[test]
fn sweeping_in_parts_frees_what_has_ended_before_it_comes_back_to_life() {
    let region = words(200);
    let window = second();
    let now_ns = Cell::new(0);
    for (n, set) in region.chunks(WAYS).enumerate() {
        let charge = ask(n as u64, 1);
        if n % 2 == 1 {
            now_ns.set(SECOND_NS / 2);
        }
        fixed::charge(set, || &region[199], charge, || now_ns.get());
        now_ns.set(0);
    }
    now_ns.set(SECOND_NS + SECOND_NS / 100);
    let (mut from, mut live, mut freed) = (0, 0, 0);
    for _ in 0..4 {
        let swept = fixed::sweep(&region, window, from, 50, || now_ns.get());
        (from, live, freed) = (swept.next, live + swept.live, freed + swept.freed);
    }
    assert_eq!((from, live, freed), (0, 12, 13));
    assert_eq!(values(&region).iter().filter(|word| **word != 0).count(), 12);
    let swept = fixed::sweep(&region, window, 999, usize::MAX, || 10 * SECOND_NS);
    assert_eq!((swept.next, swept.live, swept.freed), (0, 0, 12));
    assert_eq!(fixed::sweep(&region[..0], window, 3, 9, || 0).next, 0);
}

#[test]
fn an_end_that_was_never_swept_locks_out_for_one_window_at_most() {
    let bench = Bench::new();
    assert!(bench.admits(1, 1));
    let tick_ns = second().tick().as_nanos() as u64;
    let mut refused = 0;
    for _ in 0..66 * 1024 {
        bench.now_ns.set(bench.now_ns.get() + tick_ns);
        let stale = bench.set[0].load(SeqCst);
        refused += u64::from(!bench.admits(1, 1));
        bench.set[0].store(stale, SeqCst);
    }
    // Once as its own window, and once as the alias.
    assert_eq!(refused, 1024 + 1025);
}

/// A word that somebody else always changes first.
struct Contended(AtomicU64);

impl Word for Contended {
    fn load(&self) -> u64 {
        self.0.load(SeqCst)
    }
    fn compare_exchange(&self, _: u64, _: u64) -> Result<u64, u64> {
        Err(self.load())
    }
    fn store(&self, _: u64) {}
    fn fence() {}
}

#[test]
fn losing_every_round_refuses() {
    let word = Contended(AtomicU64::new(0));
    let set = std::slice::from_ref(&word);
    assert_eq!(fixed::charge(set, || &word, ask(1, 5), || 0), Verdict::Refused { retry: second().tick() });
    let decide = |tat: Option<u64>| if tat.unwrap_or(0) > 1 << 50 { Err("never") } else { Ok(((), 9)) };
    assert_eq!(gcra::measure(set, || &word, gcra::Tag::new(1), || 0, decide), Err("never"));
}

#[test]
fn gcra_keeps_the_burst_and_then_the_rate() {
    let bench = Bench::new();
    let period_ns = SECOND_NS / 10;
    assert_eq!((0..20).filter(|_| bench.gcra(7, period_ns, 10).is_ok()).count(), 10);
    let before = values(&bench.set);
    assert!(bench.gcra(7, period_ns, 10).is_err());
    assert_eq!(values(&bench.set), before, "a refusal writes nothing");
    bench.wait(Duration::from_nanos(period_ns - gcra::TICK_NS));
    assert!(bench.gcra(7, period_ns, 10).is_err(), "never too soon");
    bench.wait(Duration::from_nanos(11 * gcra::TICK_NS));
    assert!(bench.gcra(7, period_ns, 10).is_ok(), "ten charges were rounded up by a tick each at most");
}

#[test]
fn gcra_reuses_what_has_passed_and_spills_when_nothing_has() {
    let bench = Bench::new();
    for tag in 0..WAYS as u64 {
        assert!(bench.gcra(tag, SECOND_NS, 1).is_ok());
    }
    bench.wait(Duration::from_millis(500));
    assert!(bench.gcra(100, SECOND_NS, 1).is_ok(), "the cell");
    assert!(bench.gcra(101, SECOND_NS, 1).is_err(), "is shared");
    bench.wait(Duration::from_millis(501));
    assert!(bench.gcra(100, SECOND_NS, 1).is_err(), "and remembers while ways are free");
    assert!(bench.gcra(3, SECOND_NS, 1).is_err(), "a key without a way is not told from the others there");
    bench.wait(Duration::from_millis(501));
    assert!(bench.gcra(100, SECOND_NS, 1).is_ok());
    assert!(bench.set.iter().any(|word| word.load(SeqCst) >> 44 == 100), "back in a way");
    let swept = gcra::sweep(&bench.set, 0, WAYS, || bench.now_ns.get());
    assert_eq!((swept.live, swept.freed), (1, WAYS - 1));
}

#[test]
fn gcra_charges_the_later_of_two_ways() {
    let bench = Bench::new();
    assert!(bench.gcra(7, SECOND_NS, 3).is_ok());
    let once = bench.set[0].load(SeqCst);
    assert!(bench.gcra(7, SECOND_NS, 3).is_ok());
    bench.set[5].store(once, SeqCst);
    assert!(bench.gcra(7, SECOND_NS, 3).is_ok());
    assert_eq!(bench.set[5].load(SeqCst), once);
    assert!(bench.gcra(7, SECOND_NS, 3).is_err());
}
