//! Single decisions about canaries and candidates, by hand.

use gate_sys::process::{Core, Exit, Pid};
use gate_sys::signals::Signal;
use gate_zone::WorkersWord;

use super::stage::{Stage, WISH, beat, forks};
use super::*;
use crate::event::{Blame, Canary, Event, Resize, Wish, ZoneFate};

/// A reload with one canary that serves beside the worker before it.
fn with_canary() -> Stage {
    let mut stage = Stage::serving();
    stage.event(Event::ReloadAsked(Some(Canary { workers: 1, hold_ms: 5_000 })));
    assert_eq!(forks(&stage.act()), 1);
    stage.all_ready();
    assert_eq!(stage.act(), [Action::BeginTrial]);
    assert_eq!(stage.ready().len(), 4, "the canary serves beside the one before it");
    stage
}

#[test]
fn canaries_are_tried_before_the_others_follow() {
    let mut stage = with_canary();
    let old = stage.ready()[1];
    stage.dies(old);
    let actions = stage.act();
    assert!(matches!(actions[..], [Action::Fork { generation: 1, .. }]), "others stay with the old one: {actions:?}");
    stage.all_ready();
    stage.now = 5_000;
    beat(&mut stage);
    let actions = stage.act();
    assert_eq!(actions[0], Action::Judge);
    while stage.want.fallback.is_some() {
        stage.all_ready();
        stage.act();
    }
    assert_eq!(stage.want.target, 2);
}

#[test]
fn canaries_that_are_worse_or_die_are_rolled_back() {
    let mut stage = with_canary();
    stage.verdict = Err("answers take longer".into());
    stage.now = 5_000;
    beat(&mut stage);
    let actions = stage.act();
    assert_eq!(actions[..2], [Action::Judge, Action::RollBack { reason: "answers take longer".into() }]);
    assert_eq!((stage.want.target, stage.ready().len()), (1, 3));

    let mut stage = with_canary();
    let canary = stage.seen.processes.iter().find(|process| process.generation == 2).expect("it serves").pid;
    stage.dies(canary);
    let actions = stage.act();
    assert!(matches!(&actions[0], Action::RollBack { reason } if reason.contains("after it was ready")), "{actions:?}");
    assert_eq!((stage.want.target, stage.ready().len()), (1, 3));
}

fn upgrading() -> (Stage, Pid) {
    let mut stage = Stage::serving();
    stage.event(Event::UpgradeAsked(ZoneFate::HandedOn));
    assert_eq!(stage.act(), [Action::StartCandidate(ZoneFate::HandedOn)]);
    let pid = Pid::from_raw(stage.pids);
    (stage, pid)
}

#[test]
fn a_candidate_that_serves_takes_over_and_the_rest_drains() {
    let (mut stage, pid) = upgrading();
    stage.event(Event::UpgradeAsked(ZoneFate::HandedOn));
    stage.event(Event::ReloadAsked(None));
    assert_eq!(stage.act(), [], "one at a time, and no reload in between");
    stage.event(Event::Ready(pid));
    stage.event(Event::Version { pid, version: "9".into() });
    let actions = stage.act();
    assert_eq!(actions[0], Action::HandOver { pid, version: "9".into() });
    assert_eq!(stage.in_state(|state| matches!(state, State::Draining { .. })).len(), 2);
    stage.event(Event::StopAsked(Stop::Graceful));
    let quit = |action: &Action| matches!(action, Action::Tell { order: Order::Quit, .. });
    assert!(!stage.act().iter().any(quit), "told once to stop, it goes on draining");
    for pid in stage.in_state(|_| true) {
        stage.event(Event::Exited { pid, exit: Exit::Code(0), blame: Blame::Itself });
    }
    assert_eq!(stage.act(), [Action::Done(EX_OK)]);
}

/// A way in which a candidate fails.
type Fails = fn(&mut Stage, Pid);

#[test]
fn a_candidate_that_fails_changes_nothing() {
    let crash = |stage: &mut Stage, pid| {
        stage.event(Event::Exited { pid, exit: Exit::Code(1), blame: Blame::Itself });
    };
    let refuse = |stage: &mut Stage, pid| {
        stage.event(Event::BootFailed { pid, reason: "no such key".into() });
        stage.event(Event::Exited { pid, exit: Exit::Code(78), blame: Blame::Itself });
    };
    let hang = |stage: &mut Stage, pid| {
        stage.now = 60_000;
        beat(stage);
        assert_eq!(stage.act(), [Action::Tell { pid, order: Order::Kill, why: Why::BootTimeout }]);
        let exit = Exit::Signal { signal: Signal::SIGKILL, core: Core::None };
        stage.event(Event::Exited { pid, exit, blame: Blame::Itself });
    };
    let cases: [(Fails, &str); 3] =
        [(crash, "exited with code 1"), (refuse, "no such key"), (hang, "did not serve in time")];
    for (fails, wanted) in cases {
        let (mut stage, pid) = upgrading();
        let before = stage.ready();
        fails(&mut stage, pid);
        let actions = stage.act();
        assert!(matches!(&actions[..], [Action::GiveUpUpgrade { reason }] if reason.contains(wanted)), "{actions:?}");
        assert_eq!((stage.ready(), stage.act().len()), (before, 0));
        stage.event(Event::UpgradeAsked(ZoneFate::Fresh));
        assert_eq!(stage.act(), [Action::StartCandidate(ZoneFate::Fresh)], "another one may be tried");
    }
}

#[test]
fn a_stop_takes_the_candidate_along() {
    let (mut stage, pid) = upgrading();
    stage.event(Event::StopAsked(Stop::Graceful));
    assert!(stage.act().contains(&Action::Tell { pid, order: Order::Drain, why: Why::Stopping }));
    for pid in stage.in_state(|_| true) {
        stage.event(Event::Exited { pid, exit: Exit::Code(0), blame: Blame::Itself });
    }
    stage.now += 3_000;
    assert_eq!(stage.act(), [Action::Tell { pid, order: Order::Kill, why: Why::BootTimeout }]);
    let exit = Exit::Signal { signal: Signal::SIGKILL, core: Core::None };
    stage.event(Event::Exited { pid, exit, blame: Blame::Itself });
    assert!(matches!(stage.act()[..], [Action::GiveUpUpgrade { .. }, Action::Done(EX_OK)]));
}

#[test]
fn a_crash_of_the_newest_configuration_counts_also_after_one_of_the_old() {
    let mut stage = with_canary();
    let old = stage.seen.processes.iter().rfind(|process| process.generation == 1).expect("it serves").pid;
    stage.dies(old);
    let canary = stage.seen.processes.iter().find(|process| process.generation == 2).expect("it serves").pid;
    stage.dies(canary);
    assert!(stage.act().iter().any(|action| matches!(action, Action::RollBack { .. })));
}

#[test]
fn workers_too_many_for_a_new_configuration_go_when_it_has_proved_itself() {
    let mut stage = Stage::serving();
    stage.event(Event::ReloadAsked(Some(Canary { workers: 1, hold_ms: 5_000 })));
    stage.event(Event::Loaded { generation: 2, wish: Wish { workers: 1, ..WISH }, changes: vec![] });
    stage.act();
    stage.all_ready();
    assert_eq!(stage.act(), [Action::BeginTrial]);
    assert_eq!(stage.ready().len(), 4, "both old workers and the monitor, and the canary");
    stage.now = 5_000;
    beat(&mut stage);
    while stage.want.fallback.is_some() {
        stage.act();
        stage.all_ready();
    }
    stage.act();
    assert_eq!(stage.ready().len(), 2);
}

#[test]
fn a_pause_keeps_canaries_from_being_judged_untried() {
    let mut stage = Stage::serving();
    stage.event(Event::ReloadAsked(Some(Canary { workers: 1, hold_ms: 5_000 })));
    stage.event(Event::ReloadAsked(None));
    stage.act();
    stage.event(Event::PauseAsked);
    for pid in stage.starting() {
        stage.event(Event::Ready(pid));
    }
    assert!(!stage.act().contains(&Action::BeginTrial), "there is none");
    stage.event(Event::ResizeAsked(Resize::More));
    stage.act();
    stage.all_ready();
    assert!(stage.act().contains(&Action::BeginTrial), "a plain reload did not undo the wish for a trial");
}

#[test]
fn what_was_said_to_the_master_before_holds_both_ways() {
    let mut want = Desired::first(WISH, 2);
    want.heed(WorkersWord { configured: 2, wanted: 5, none: true });
    assert_eq!((want.workers(), want.wish.workers), (0, 5));
    want.heed(WorkersWord { configured: 2, wanted: 4, none: false });
    assert_eq!(want.workers(), 4);
    want.heed(WorkersWord { configured: 3, wanted: 9, none: false });
    assert_eq!(want.workers(), 4, "it was said about another configuration");
}
