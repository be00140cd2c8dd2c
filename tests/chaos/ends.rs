//! Ends in the middle of something: what is in service finishes, nobody is left, the code is 0.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::kernel;
use crate::load::Crowd;
use crate::pause;
use crate::rig::{Mode, Rig, WORKERS};
use crate::support::wait_for;
use crate::upgrades::Broken;

/// Fewer clients: each end needs a gate of its own.
const FEW: Crowd = Crowd { keep_alive: 2, anew: 2, streams: 12 };

/// In the middle of what.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Roll,
    Canary,
    CandidateHangs,
    CandidateBoots,
    HandedOver,
}

/// TERM at this step; a moment later where there are several.
#[track_caller]
pub(crate) fn term_at(mode: Mode, step: Step) {
    let mut rig = Rig::with(mode, "", FEW);
    rig.goes_on(20);
    rig.tell(&format!("TERM at {step:?}"));
    let from = rig.log_end();
    match step {
        Step::Roll => {
            rig.signal(Signal::SIGHUP);
            rig.log_has(from, "rolling it out");
        }
        Step::Canary => {
            let canary = json!({"workers": 1, "seconds": 30});
            let answer = rig.command(&json!({"command": "reload", "wait": false, "canary": canary}));
            assert_eq!(answer["ok"], true, "{answer}");
            rig.log_has(from, "is tried for");
        }
        Step::CandidateHangs => {
            Broken::Hangs.install(&rig);
            rig.signal(Signal::SIGUSR2);
            rig.log_has(from, "the candidate is started as");
        }
        Step::CandidateBoots => {
            rig.signal(Signal::SIGUSR2);
            rig.log_has(from, "the candidate is started as");
            let gap = rig.dice.below(80);
            pause(Duration::from_millis(gap));
        }
        Step::HandedOver => {
            rig.signal(Signal::SIGUSR2);
            rig.log_has(from, "this gate has taken over");
        }
    }
    end(&mut rig, from);
    rig.finish();
}

/// TERM to whoever is the master; to its successor as well where it was too late to stop that one.
#[track_caller]
fn end(rig: &mut Rig, from: usize) {
    rig.let_up();
    let first = rig.master();
    term(rig, first);
    kernel::ends_well(first);
    let heir = rig.log()[from..]
        .split("the candidate is started as ")
        .nth(1)
        .and_then(|rest| rest.split(|char: char| !char.is_ascii_digit()).next()?.parse().ok().map(Pid::from_raw));
    if let Some(heir) = heir.filter(|heir| *heir != first) {
        // Either it was told by the one before, or it serves alone now.
        wait_for("the candidate's end or promotion", || {
            let told = rig.log()[from..].contains("this gate has taken over");
            (told || kernel::is_gone(heir)).then_some(())
        });
        if !kernel::is_gone(heir) {
            term(rig, heir);
            kernel::ends_well(heir);
        }
    }
}

fn term(rig: &Rig, pid: Pid) {
    rig.tell(&format!("SIGTERM to {pid}"));
    let _may_have_left = kill(pid, Signal::SIGTERM);
}

/// The master is killed: the others finish what they have and go.
#[track_caller]
pub(crate) fn orphans(mode: Mode) {
    let mut rig = Rig::with(mode, "", FEW);
    let _status = rig.settles(WORKERS);
    rig.goes_on(20);
    let master = rig.master();
    rig.let_up();
    rig.tell(&format!("SIGKILL to the master {master}"));
    kill(master, Signal::SIGKILL).unwrap();
    rig.quiet();
    wait_for("the end of everybody", || rig.group().is_empty().then_some(()));
    // Nobody was left who could have removed them.
    for name in ["gate.pid", "control.sock"] {
        let _may_be_gone = std::fs::remove_file(rig.path(name));
    }
    rig.finish();
}

/// The master is killed while its candidate boots: that one takes over.
#[track_caller]
pub(crate) fn inherited(mode: Mode) {
    let mut rig = Rig::with(mode, "", FEW);
    rig.goes_on(20);
    let (master, from) = (rig.master(), rig.log_end());
    rig.signal(Signal::SIGUSR2);
    rig.log_has(from, "the candidate is started as");
    let gap = rig.dice.below(40);
    pause(Duration::from_millis(gap));
    rig.tell(&format!("SIGKILL to the master {master}"));
    let _may_have_left = kill(master, Signal::SIGKILL);
    wait_for("another master", || (rig.master() != master).then_some(()));
    rig.goes_on(100);
    rig.finish();
}
