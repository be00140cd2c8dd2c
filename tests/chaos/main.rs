//! The gate under constant load, with everything done to it that operators, kernels and bad luck do: nobody's request
//! is lost, but for what was in service on a worker that was killed.
//!
//! Real processes; random choices follow from a printed seed, which `GATE_CHAOS_SEED` repeats. The short forms run with
//! all tests; the long ones by `cargo test --release -- --ignored chaos`.
//!
//! Invariant: a failure is excused by what the kernel says of its connection, never by its time alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../support/mod.rs"]
mod support;

mod blows;
mod dice;
mod ends;
mod kernel;
mod ledger;
mod load;
mod mixed;
mod rig;
mod upgrades;

use std::time::{Duration, Instant};

use crate::ends::Step;
use crate::rig::{Mode, Rig};
use crate::upgrades::BROKEN;

/// Lets time pass between two blows.
fn until(at: Instant) {
    while Instant::now() < at {
        std::thread::sleep(at.saturating_duration_since(Instant::now())); // bounded poll
    }
}

fn pause(time: Duration) {
    until(Instant::now() + time);
}

/// A test for each way to listen.
macro_rules! in_both_modes {
    ($(#[$attribute:meta])* $name:ident, $run:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "not every test needs all of it")]
            use super::*;

            #[test]
            $(#[$attribute])*
            fn shared() {
                ($run)(Mode::Shared);
            }

            #[test]
            $(#[$attribute])*
            fn reuse_port() {
                ($run)(Mode::ReusePort);
            }
        }
    };
}

fn reloads(mode: Mode, count: usize) {
    let mut rig = Rig::start(mode, "");
    blows::hups(&mut rig, count);
    rig.finish();
}

fn successions(mode: Mode, count: usize) {
    let rig = Rig::start(mode, "");
    for turn in 0..count {
        upgrades::good(&rig, turn + 1);
    }
    rig.finish();
}

fn failed_successions(mode: Mode) {
    let rig = Rig::start(mode, "boot_timeout = \"1s\"");
    for kind in BROKEN {
        upgrades::broken(&rig, kind);
    }
    upgrades::good(&rig, 0);
    rig.finish();
}

fn massacre(mode: Mode, time: Duration) {
    let mut rig = Rig::start(mode, "");
    blows::kills(&mut rig, time);
    rig.goes_on(100);
    rig.finish();
}

fn standstills(mode: Mode) {
    let mut rig = Rig::start(mode, "timeout = \"2s\"");
    blows::stops(&mut rig);
    rig.finish();
}

fn numbers(mode: Mode, count: usize) {
    let mut rig = Rig::start(mode, "");
    blows::storm(&mut rig, count);
    blows::pauses(&mut rig);
    rig.finish();
}

fn overlaps(mode: Mode, rounds: usize) {
    let mut rig = Rig::start(mode, "");
    mixed::overlaps(&mut rig, rounds);
    rig.finish();
}

fn everything(mode: Mode, time: Duration) {
    let mut rig = Rig::start(mode, "");
    mixed::everything(&mut rig, time);
    rig.finish();
}

in_both_modes!(reloads_lose_nothing, |mode| reloads(mode, 20));
in_both_modes!(upgrades_lose_nothing_and_keep_the_counts, |mode| successions(mode, 6));
in_both_modes!(broken_candidates_change_nothing, failed_successions);
in_both_modes!(killed_workers_cost_what_they_had, |mode| massacre(mode, Duration::from_secs(5)));
in_both_modes!(whoever_stands_still_is_waited_for_or_replaced, standstills);
in_both_modes!(the_number_of_workers_storms, |mode| numbers(mode, 20));
in_both_modes!(reloads_and_upgrades_overlap, |mode| overlaps(mode, 3));
in_both_modes!(term_during_a_roll, |mode| ends::term_at(mode, Step::Roll));
in_both_modes!(term_during_a_canary, |mode| ends::term_at(mode, Step::Canary));
in_both_modes!(term_while_a_candidate_hangs, |mode| ends::term_at(mode, Step::CandidateHangs));
in_both_modes!(term_while_a_candidate_boots, |mode| ends::term_at(mode, Step::CandidateBoots));
in_both_modes!(term_right_after_the_hand_over, |mode| ends::term_at(mode, Step::HandedOver));
in_both_modes!(a_killed_master_leaves_orphans_that_finish, ends::orphans);
in_both_modes!(a_killed_master_leaves_a_candidate_that_takes_over, ends::inherited);
in_both_modes!(everything_at_once, |mode| everything(mode, Duration::from_secs(6)));

in_both_modes!(
    #[ignore = "long"]
    chaos_long_reloads,
    |mode| reloads(mode, 200)
);
in_both_modes!(
    #[ignore = "long"]
    chaos_long_upgrades,
    |mode| successions(mode, 30)
);
in_both_modes!(
    #[ignore = "long"]
    chaos_long_kills,
    |mode| massacre(mode, Duration::from_secs(60))
);
in_both_modes!(
    #[ignore = "long"]
    chaos_long_storms,
    |mode| numbers(mode, 300)
);
in_both_modes!(
    #[ignore = "long"]
    chaos_long_overlaps,
    |mode| overlaps(mode, 20)
);
in_both_modes!(
    #[ignore = "long"]
    chaos_long_ends,
    |mode| {
        for _ in 0..10 {
            ends::term_at(mode, Step::CandidateBoots);
            ends::term_at(mode, Step::HandedOver);
            ends::inherited(mode);
        }
    }
);
in_both_modes!(
    #[ignore = "long"]
    chaos_long_everything,
    |mode| everything(mode, Duration::from_secs(120))
);
