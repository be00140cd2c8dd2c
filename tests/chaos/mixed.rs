//! Everything at once, as the dice fall.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::blows;
use crate::rig::{Rig, WORKERS};
use crate::support::{binary, wait_for};
use crate::upgrades::Broken;
use crate::{pause, until};

/// Longest pause between two blows, in milliseconds.
const GAP_MS: u64 = 250;

/// How long somebody stands still who is not to be given up for it.
const NAP: Duration = Duration::from_millis(250);

/// HUP during HUP during an upgrade, USR2 during USR2, so often.
#[track_caller]
pub(crate) fn overlaps(rig: &mut Rig, rounds: usize) {
    use Signal::{SIGHUP, SIGUSR2};
    for round in 0..rounds {
        let signals: &[Signal] = match round % 3 {
            0 => &[SIGHUP, SIGHUP, SIGUSR2, SIGHUP],
            1 => &[SIGUSR2, SIGUSR2],
            _ => &[SIGUSR2, SIGHUP, SIGHUP, SIGUSR2],
        };
        let (old, from) = (rig.master(), rig.log_end());
        for signal in signals {
            rig.signal(*signal);
            let gap = rig.dice.below(30);
            pause(Duration::from_millis(gap));
        }
        rig.log_has(from, "this gate has taken over");
        wait_for("another master", || (rig.master() != old).then_some(()));
        let _status = rig.settles(WORKERS);
        rig.goes_on(50);
    }
}

/// Blows of all kinds for so long, most of them into the middle of the one before.
#[track_caller]
pub(crate) fn everything(rig: &mut Rig, time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        blow(rig);
        let gap = rig.dice.below(GAP_MS);
        until(Instant::now() + Duration::from_millis(gap));
    }
    rig.configure("");
    rig.install(&binary());
    // Whatever is still under way ends; a word over the control socket may go to a gate that is about to leave.
    wait_for("a word on the number of workers", || {
        rig.ask(&json!({"command": "scale", "workers": WORKERS})).ok().filter(|answer| answer["ok"] == true)
    });
    let _status = rig.settles(WORKERS);
    blows::reload(rig);
}

fn blow(rig: &mut Rig) {
    match rig.dice.below(14) {
        0..=2 => blows::kill_one(rig),
        3 | 4 => rig.signal(Signal::SIGHUP),
        5 => {
            rig.configure("workers = \"many\"");
            rig.signal(Signal::SIGHUP);
        }
        6 | 7 => {
            rig.configure("");
            rig.install(&binary());
            rig.signal(Signal::SIGUSR2);
        }
        8 => {
            let kind = *rig.dice.one_of(&[Broken::Missing, Broken::NoProgram, Broken::Crashes, Broken::OtherLayout]);
            rig.install(&binary());
            rig.tell(&format!("a program that is broken: {kind:?}"));
            kind.install(rig);
            rig.signal(Signal::SIGUSR2);
        }
        9 => rig.signal(Signal::SIGTTIN),
        10 => rig.signal(Signal::SIGTTOU),
        11 => {
            rig.signal(Signal::SIGWINCH);
            pause(NAP);
            rig.signal(Signal::SIGTTIN);
        }
        12 => blows::nap(rig, rig.master(), NAP),
        _ => {
            let workers = rig.members("worker");
            if !workers.is_empty() {
                let worker = *rig.dice.one_of(&workers);
                blows::nap(rig, worker, NAP);
            }
        }
    }
}
