//! The limiter against a model a reader can check by eye, and against processes that die at any of their steps.
//!
//! Time, clients and amounts are random; everything is single-threaded here. Interleavings are `tests/loom.rs`.

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use gate_zone::limiter::fixed::{self, AMOUNT_MAX, Charge, Taken, Verdict, Window};
use gate_zone::limiter::{WAYS, gcra};
use gate_zone::word::Word;
use proptest::prelude::*;

fn words() -> Vec<AtomicU64> {
    (0..WAYS).map(|_| AtomicU64::new(0)).collect()
}

/// A window per client, begun by its first charge.
struct FixedModel {
    tick_ns: u128,
    length_ns: u128,
    /// End in ticks, count.
    windows: HashMap<u64, (u128, u64)>,
}

impl FixedModel {
    fn new(length: Duration) -> Self {
        let length_ns = length.as_nanos();
        Self { tick_ns: length_ns.div_ceil(1024), length_ns, windows: HashMap::new() }
    }

    /// The window of a client now, or the one that would begin: its end in ticks, what is charged.
    fn window(&self, client: u64, tick: u128) -> (u128, u64) {
        *self.windows.get(&client).filter(|(end, _)| *end > tick).unwrap_or(&(tick + 1025, 0))
    }

    fn charge(&mut self, client: u64, (cost, amount): (u64, u64), now_ns: u64) -> Told {
        let now_ns = u128::from(now_ns);
        let told = |ns: u128| Duration::from_nanos(ns.min(self.length_ns) as u64);
        if amount == 0 {
            return Told::Refused(told(self.length_ns));
        }
        let cost = cost.clamp(1, amount);
        let (end, count) = self.window(client, now_ns / self.tick_ns);
        let left = told(end * self.tick_ns - now_ns);
        if count + cost > amount {
            return Told::Refused(left);
        }
        self.windows.insert(client, (end, count + cost));
        Told::Admitted { remaining: amount - count - cost, reset: left, taken: (end, cost) }
    }

    fn settle(&mut self, client: u64, (end, cost): (u128, u64), used: u64, now_ns: u64) {
        let (now_end, count) = self.window(client, u128::from(now_ns) / self.tick_ns);
        let new = if used > cost {
            count.saturating_add(used - cost).min(COUNT_TOP)
        } else if now_end == end && count > 0 && count < COUNT_TOP {
            count - (cost - used)
        } else {
            return;
        };
        match new {
            0 => self.windows.remove(&client),
            new => self.windows.insert(client, (now_end, new)),
        };
    }
}

/// What a word can tell.
const COUNT_TOP: u64 = (1 << 30) - 1;

/// What a charge was answered, with the window's end and the cost where it is to be settled.
#[derive(Debug)]
enum Told {
    Admitted { remaining: u64, reset: Duration, taken: (u128, u64) },
    Refused(Duration),
}

#[derive(Debug, Clone)]
enum Step {
    Charge {
        client: u64,
        amount: u64,
        cost: u64,
    },
    /// One of the charges that are not settled yet, by so much.
    Settle {
        charge: prop::sample::Index,
        used: u64,
    },
    /// In thousandths of the window.
    Wait(u64),
    Sweep {
        from: usize,
        budget: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..WAYS as u64;
    let step = prop_oneof![
        6 => (client, prop_oneof![0..6_u64, 0..AMOUNT_MAX * 2], costs())
            .prop_map(|(client, amount, cost)| Step::Charge { client, amount, cost }),
        4 => (any::<prop::sample::Index>(), costs()).prop_map(|(charge, used)| Step::Settle { charge, used }),
        3 => prop_oneof![0..50_u64, 900..1100_u64, 0..5000_u64].prop_map(Step::Wait),
        1 => (0..WAYS, 0..WAYS).prop_map(|(from, budget)| Step::Sweep { from, budget }),
    ];
    prop::collection::vec(step, 1..300)
}

fn costs() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(1), 4 => 0..6_u64, 2 => 0..AMOUNT_MAX, 1 => Just(u64::MAX)]
}

/// Milliseconds, up to a year, with odd nanoseconds.
fn lengths() -> impl Strategy<Value = Duration> {
    prop_oneof![2_000_000..2_000_000_000_u64, 1_000_000_000..31_104_000_000_000_000_u64].prop_map(Duration::from_nanos)
}

proptest! {
    #[test]
    fn fixed_windows_decide_as_the_model(length in lengths(), start in 0..1_u64 << 60, steps in steps()) {
        let (set, cell) = (words(), AtomicU64::new(0));
        let window = Window::new(length).unwrap();
        let mut model = FixedModel::new(length);
        let mut unsettled = Vec::new();
        let (mut now_ns, mut swept_ns) = (start, start);
        for step in steps {
            match step {
                Step::Charge { client, amount, cost } => {
                    let charge = Charge { tag: fixed::Tag::new(client), amount, cost, window };
                    let told = fixed::charge(&set, || &cell, charge, || now_ns);
                    match (told, model.charge(client, (cost, amount.min(AMOUNT_MAX)), now_ns)) {
                        (Verdict::Refused { retry }, Told::Refused(expected)) => prop_assert_eq!(retry, expected),
                        (
                            Verdict::Admitted { remaining, reset, taken },
                            Told::Admitted { remaining: left, reset: until, taken: as_modelled },
                        ) => {
                            prop_assert_eq!((remaining, reset, taken.cost()), (left, until, as_modelled.1));
                            unsettled.push((client, taken, as_modelled));
                        }
                        (told, expected) => prop_assert!(false, "{:?} is not {:?}", told, expected),
                    }
                }
                Step::Settle { charge, used } if !unsettled.is_empty() => {
                    let (client, taken, as_modelled) = unsettled.swap_remove(charge.index(unsettled.len()));
                    fixed::settle(&set, || &cell, taken, used, || now_ns);
                    model.settle(client, as_modelled, used, now_ns);
                }
                Step::Settle { .. } => {}
                Step::Wait(thousandths) => now_ns += length.as_nanos() as u64 / 1000 * thousandths,
                Step::Sweep { from, budget } => { fixed::sweep(&set, window, from, budget, || now_ns); }
            }
            // The whole region is swept well within 63 windows, as the limiter asks for.
            if now_ns - swept_ns > 20 * length.as_nanos() as u64 {
                fixed::sweep(&set, window, 0, WAYS, || now_ns);
                swept_ns = now_ns;
            }
        }
        prop_assert_eq!(Word::load(&cell), 0, "eight clients never overflow");
    }

    #[test]
    fn gcra_decides_as_the_model(
        period_ns in 100_000..100_000_000_u64, burst in 1..5_u64, start in 0..1_u64 << 50, steps in steps()
    ) {
        let (set, cell) = (words(), AtomicU64::new(0));
        let mut model: HashMap<u64, u64> = HashMap::new();
        let mut now_ns = start;
        for step in steps {
            match step {
                Step::Settle { .. } => {}
                Step::Charge { client, .. } => {
                    let decide = |tat: Option<u64>| {
                        let tat = tat.unwrap_or(now_ns);
                        let early = now_ns < tat.saturating_sub(period_ns * (burst - 1));
                        if early { Err(tat) } else { Ok((tat, tat.max(now_ns) + period_ns)) }
                    };
                    let told = gcra::measure(&set, || &cell, gcra::Tag::new(client), || now_ns, decide);
                    let expected = decide(model.get(&client).copied().filter(|tat| *tat > now_ns));
                    if let Ok((_, new_ns)) = expected {
                        model.insert(client, new_ns.next_multiple_of(gcra::TICK_NS));
                    }
                    prop_assert_eq!(told, expected.map(|(tat, _)| tat));
                }
                Step::Wait(thousandths) => now_ns += period_ns * thousandths / 1000,
                Step::Sweep { from, budget } => { gcra::sweep(&set, from, budget, || now_ns); }
            }
        }
        prop_assert_eq!(Word::load(&cell), 0);
    }

    #[test]
    fn processes_killed_anywhere_never_give_more(
        lives in prop::collection::vec((0..60_usize, 0..60_usize, 1..4_u64, 0..6_u64), 0..12),
        amount in 1..9_u64, tags in 1..12_u64
    ) {
        let steps_left = Cell::new(0);
        let mortal = |_| Mortal { word: AtomicU64::new(0), steps_left: &steps_left };
        let (set, cell): (Vec<_>, _) = ((0..WAYS).map(mortal).collect(), mortal(0));
        let window = Window::new(Duration::from_secs(1)).unwrap();
        // `None` is a death.
        let charge = |tag: u64, cost: u64, steps: usize| {
            steps_left.set(steps);
            let charge = Charge { tag: fixed::Tag::new(tag), amount, cost, window };
            catch_unwind(AssertUnwindSafe(|| fixed::charge(&set, || &cell, charge, || 0))).ok()
        };
        let settle = |taken: Taken, used: u64, steps: usize| {
            steps_left.set(steps);
            catch_unwind(AssertUnwindSafe(|| fixed::settle(&set, || &cell, taken, used, || 0))).is_ok()
        };
        // What was served, and what may have been taken for nobody.
        let (mut served, mut lost) = (vec![0; tags as usize], vec![0; tags as usize]);
        for (n, (steps, settling_steps, cost, used)) in lives.iter().enumerate() {
            let (tag, cost) = (n % tags as usize, (*cost).min(amount));
            match charge(tag as u64, cost, *steps) {
                None => lost[tag] += cost,
                Some(Verdict::Refused { .. }) => {}
                Some(Verdict::Admitted { taken, .. }) => {
                    // What is used beyond what was taken is no part of the bound, and only makes room less.
                    served[tag] += cost.min(*used);
                    lost[tag] += used.saturating_sub(cost);
                    if !settle(taken, *used, *settling_steps) {
                        lost[tag] += cost.saturating_sub(*used);
                    }
                }
            }
        }
        for (tag, (served, lost)) in served.iter_mut().zip(lost).enumerate() {
            let admits = |_: &u64| matches!(charge(tag as u64, 1, usize::MAX), Some(Verdict::Admitted { .. }));
            *served += (0..=amount).filter(admits).count() as u64;
            prop_assert!(*served <= amount);
            prop_assert!(tags > WAYS as u64 || *served + lost >= amount, "a death costs what its process had, no more");
        }
    }
}

/// A word of a process that is killed after so many steps.
struct Mortal<'a> {
    word: AtomicU64,
    steps_left: &'a Cell<usize>,
}

impl Mortal<'_> {
    fn step(&self) {
        match self.steps_left.get().checked_sub(1) {
            Some(left) => self.steps_left.set(left),
            None => resume_unwind(Box::new("killed")),
        }
    }
}

impl Word for Mortal<'_> {
    fn load(&self) -> u64 {
        self.step();
        Word::load(&self.word)
    }
    fn compare_exchange(&self, seen: u64, new: u64) -> Result<u64, u64> {
        self.step();
        Word::compare_exchange(&self.word, seen, new)
    }
    fn store(&self, new: u64) {
        self.step();
        Word::store(&self.word, new);
    }
    fn fence() {}
}
