//! Chance that can be had again: everything random in a run follows from one printed number.
//!
//! It does not reach into the scheduler: a seed repeats what is done to the gate, not how the kernel interleaves it.

use std::time::{SystemTime, UNIX_EPOCH};

/// The variable that names the seed of a run to be repeated.
pub(crate) const VARIABLE: &str = "GATE_CHAOS_SEED";

/// SplitMix64.
#[derive(Clone)]
pub(crate) struct Dice {
    pub(crate) seed: u64,
    state: u64,
}

impl Dice {
    /// With the seed of the environment, else one of the moment.
    pub(crate) fn new() -> Self {
        let given = std::env::var(VARIABLE).ok().map(|text| text.parse().expect("a seed is a number"));
        let moment = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = given.unwrap_or_else(moment);
        Self { seed, state: seed }
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// One of these.
    pub(crate) fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }
}
