//! Whatever is wrong with a key, finding out takes the same time: measured, and judged by medians.
//!
//! All kinds of faults are measured in turns of a few checks each, so that what disturbs the machine disturbs all of them;
//! the median leaves out the turns in which somebody else had the processor. A machine may still be unquiet for as long as
//! all of it takes, so it is tried again; a difference that is in the code is there each time.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::*;

/// Keys that are asked for in turn, among more that are not.
const ASKED: usize = 64;
const KEYS: usize = 1000;

/// Measurements of each kind.
const TURNS: usize = 501;

/// Checks in one measurement: enough to be longer than reading the clock.
const CHECKS: usize = 8;

/// By how much the medians of two kinds may differ, in percent. A digest that is left out makes far more of a difference.
const DIFFERENCE_MAX: f64 = 5.0;

/// How often all of it is tried.
const TRIES: usize = 20;

/// One kind of wrong keys.
struct Kind {
    name: &'static str,
    texts: Vec<String>,
    turns: Vec<Duration>,
}

impl Kind {
    fn of(name: &'static str, keys: &[Fresh], wrong: impl Fn(&str) -> String) -> Self {
        Self { name, texts: keys.iter().map(|key| wrong(&key.text)).collect(), turns: Vec::new() }
    }

    fn measure(&mut self, door: Door, turn: usize) {
        let texts: Vec<&[u8]> = (0..CHECKS).map(|at| self.texts[(turn * CHECKS + at) % ASKED].as_bytes()).collect();
        let begun = Instant::now();
        for text in texts {
            let found = door.check(std::iter::empty(), std::iter::once(black_box(text)), 5);
            assert_eq!(black_box(found).unwrap_err(), KeyFault::Unknown, "{}", self.name);
        }
        self.turns.push(begun.elapsed());
    }

    fn median(&mut self) -> Duration {
        self.turns.sort_unstable();
        self.turns[self.turns.len() / 2]
    }
}

fn random_key(number: usize) -> Fresh {
    // SplitMix64: each byte of a key looks random, and every run has the same ones.
    let byte = |at: usize| {
        let mixed = ((number * RANDOM_BYTES + at) as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8
    };
    Fresh::from_random(array::from_fn(byte))
}

fn kinds(keys: &[Fresh], strangers: &[Fresh]) -> Vec<Kind> {
    let asked = &keys[..ASKED];
    let last = |text: &str| if text.ends_with('0') { "1" } else { "0" };
    vec![
        Kind::of("wrong in its last character", asked, |text| format!("{}{}", &text[..TEXT_CHARS - 1], last(text))),
        Kind::of("wrong in all of its secret", asked, |text| format!("{}-{}", &text[..15], "0".repeat(SECRET_CHARS))),
        Kind::of("of an unknown id", strangers, str::to_owned),
        Kind::of("of a character that no id has", asked, |text| text.replacen(&text[14..15], "i", usize::MAX)),
        Kind::of("with another beginning", asked, |text| text.replace("og-", "sk-")),
        Kind::of("too short", asked, |text| text[..20].to_owned()),
        Kind::of("too long", asked, |text| text.repeat(4)),
    ]
}

/// The most that a kind's median differs from the first one's, in percent, and all medians in words.
fn measure(door: Door, mut kinds: Vec<Kind>) -> (f64, String) {
    for turn in 0..TURNS {
        for kind in &mut kinds {
            kind.measure(door, turn);
        }
    }
    let medians: Vec<_> = kinds.iter_mut().map(|kind| (kind.median(), kind.name)).collect();
    let first = medians[0].0.as_secs_f64();
    let difference = |(median, _): &(Duration, _)| (median.as_secs_f64() / first - 1.0).abs() * 100.0;
    let told: Vec<_> = medians.iter().map(|(median, name)| format!("{median:?} {name}")).collect();
    (medians.iter().map(difference).fold(0.0, f64::max), told.join(", "))
}

#[test]
fn whatever_is_wrong_takes_the_same_time() {
    let keys: Vec<Fresh> = (0..KEYS).map(random_key).collect();
    let strangers: Vec<Fresh> = (KEYS..KEYS + ASKED).map(random_key).collect();
    let records: Vec<_> = keys.iter().map(|key| record(key, 0)).collect();
    let door = door(&records);
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let (difference, medians) = measure(door, kinds(&keys, &strangers));
        seen.push(format!("{difference:.1} %: {medians}"));
        if difference <= DIFFERENCE_MAX {
            return println!("{CHECKS} checks took\n{}", seen.join("\n"));
        }
    }
    panic!("{CHECKS} checks took\n{}", seen.join("\n"));
}
