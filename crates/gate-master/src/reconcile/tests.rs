//! Single decisions, by hand. Whole lives are in the simulation beside this file.

use gate_sys::process::{Core, Exit, Pid};
use gate_sys::signals::Signal;

use super::stage::{Stage, WISH, beat, forks};
use super::*;
use crate::event::{Blame, Event, Resize};

#[test]
fn a_first_start_forks_all_at_once_and_commits_when_all_are_ready() {
    let mut stage = Stage::new();
    assert_eq!(forks(&stage.act()), 3);
    let starting = stage.starting();
    stage.event(Event::Ready(starting[0]));
    assert_eq!(stage.act(), []);
    stage.all_ready();
    assert_eq!(stage.act(), [Action::Commit]);
}

#[test]
fn a_first_start_that_cannot_boot_ends_with_a_code() {
    let mut stage = Stage::new();
    stage.act();
    let pid = stage.starting()[0];
    stage.event(Event::BootFailed { pid, reason: "no".into() });
    stage.event(Event::Exited { pid, exit: Exit::Code(78), blame: Blame::Itself });
    stage.act();
    for pid in stage.in_state(|_| true) {
        stage.dies(pid);
    }
    assert_eq!(stage.act(), [Action::Done(EX_CONFIG)]);
}

#[test]
fn a_dead_worker_is_replaced_at_once_and_a_dying_one_ever_more_slowly() {
    let mut stage = Stage::serving();
    stage.now = 5_000;
    let beats = stage.ready().into_iter().map(|pid| (pid, stage.now)).collect();
    stage.event(Event::Beats(beats));
    let victim = stage.ready()[0];
    stage.dies(victim);
    assert_eq!(forks(&stage.act()), 1, "one that had lived is replaced at once");
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let pid = stage.starting()[0];
        stage.dies(pid);
        let died_at = stage.now;
        while forks(&stage.act()) == 0 {
            stage.now = stage.steps().wake_at.expect("a pause has an end");
            let beats = stage.seen.processes.iter().map(|process| (process.pid, stage.now)).collect();
            stage.event(Event::Beats(beats));
        }
        pauses.push(stage.now - died_at);
    }
    assert_eq!(pauses[0], 0);
    assert!(pauses[1] >= 50 && pauses[11] >= 15_000 && pauses.iter().all(|pause| *pause <= 30_000), "{pauses:?}");
    assert!(pauses.windows(2).skip(1).take(7).all(|pair| pair[1] > pair[0] / 2), "{pauses:?}");
}

#[test]
fn a_configuration_does_not_wait_for_what_those_before_it_have_died_of() {
    let mut stage = Stage::serving();
    for _ in 0..8 {
        stage.event(Event::ReloadAsked(None));
        stage.act();
        let [new] = stage.starting()[..] else { panic!("one successor at a time") };
        stage.dies(new);
        assert!(matches!(stage.act()[..], [Action::RollBack { .. }, ..]));
    }
    stage.event(Event::ReloadAsked(None));
    let done = stage.act();
    assert!(matches!(done[..], [Action::Load, Action::Fork { .. }]), "at once: {done:?}");
}

#[test]
fn a_process_that_a_reload_overtakes_may_finish_what_it_has_begun() {
    let mut stage = Stage::serving();
    stage.event(Event::PauseAsked);
    stage.act();
    for pid in stage.in_state(|state| matches!(state, State::Draining { .. })) {
        stage.event(Event::Exited { pid, exit: Exit::Code(0), blame: Blame::Itself });
    }
    stage.event(Event::ReloadAsked(None));
    let done = stage.act();
    let told = done.iter().filter_map(|action| match action {
        Action::Tell { pid, order, why: Why::Abandoned } => Some((*pid, *order)),
        _ => None,
    });
    let told: Vec<(Pid, Order)> = told.collect();
    assert_eq!(told.iter().map(|(_, order)| *order).collect::<Vec<_>>(), [Order::Drain; 2], "{done:?}");
    // It has served before it could hear the order.
    stage.event(Event::Ready(told[0].0));
    // Longer than what never served may take to leave.
    stage.now += WISH.drain_ms + 500;
    beat(&mut stage);
    let late = stage.steps().actions;
    let killed = |pid: Pid| late.iter().any(|action| matches!(action, Action::Tell { pid: told, .. } if *told == pid));
    assert!(!killed(told[0].0), "{late:?}");
}

#[test]
fn whoever_is_killed_after_a_stable_life_has_shown_that_the_place_works() {
    let mut stage = Stage::serving();
    for _ in 0..8 {
        let pid = stage.ready()[0];
        stage.dies(pid);
        stage.now = stage.steps().wake_at.map_or(stage.now, |at| stage.now.max(at));
        stage.act();
        stage.all_ready();
    }
    stage.now += 2_000;
    let pids: Vec<Pid> = stage.ready();
    let exit = Exit::Signal { signal: Signal::SIGKILL, core: Core::None };
    for pid in pids {
        stage.event(Event::Exited { pid, exit, blame: Blame::Outside });
    }
    stage.act();
    for pid in stage.starting() {
        stage.dies(pid);
    }
    assert!(stage.steps().actions.iter().any(|action| matches!(action, Action::Fork { .. })), "the first is free");
}

#[test]
fn a_reload_replaces_one_after_the_other_and_never_waits_for_a_drain() {
    let mut stage = Stage::serving();
    stage.event(Event::ReloadAsked(None));
    assert_eq!(forks(&stage.act()), 1);
    for round in 1..=3 {
        let pid = stage.starting()[0];
        stage.event(Event::Ready(pid));
        let actions = stage.act();
        assert_eq!(stage.ready().len(), 3, "as many serve as ever");
        assert_eq!(stage.in_state(|state| matches!(state, State::Draining { .. })).len(), round);
        assert_eq!(actions.last() == Some(&Action::Commit), round == 3);
    }
    assert!(stage.seen.processes.iter().filter(|process| process.state == State::Ready).all(|p| p.generation == 2));
}

#[test]
fn a_generation_that_does_not_come_up_is_rolled_back_slot_by_slot() {
    let mut stage = Stage::serving();
    stage.event(Event::ReloadAsked(None));
    stage.act();
    let pid = stage.starting()[0];
    stage.event(Event::Ready(pid));
    stage.act();
    let second = stage.starting()[0];
    stage.event(Event::BootFailed { pid: second, reason: "no such file".into() });
    stage.event(Event::Exited { pid: second, exit: Exit::Code(78), blame: Blame::Itself });
    let actions = stage.act();
    assert_eq!(actions[0], Action::RollBack { reason: "no such file".into() });
    assert_eq!(stage.want.target, 1);
    stage.all_ready();
    stage.act();
    let ready: Vec<_> = stage.seen.processes.iter().filter(|process| process.state == State::Ready).collect();
    assert!(ready.len() == 3 && ready.iter().all(|process| process.generation == 1), "{ready:?}");
    assert_eq!(stage.act(), []);
}

#[test]
fn a_reload_during_a_reload_waits_and_a_stop_does_not() {
    let mut stage = Stage::serving();
    stage.event(Event::ReloadAsked(None));
    stage.act();
    stage.event(Event::ReloadAsked(None));
    stage.event(Event::ReloadAsked(None));
    assert_eq!(stage.act(), []);
    while stage.want.fallback.is_some() {
        stage.all_ready();
        stage.act();
    }
    assert_eq!(stage.want.target, 3, "two requests during a roll are one more reload");
    stage.event(Event::StopAsked(Stop::Graceful));
    let actions = stage.act();
    assert!(actions.contains(&Action::CloseListeners));
    assert_eq!(forks(&actions), 0);
}

#[test]
fn a_silent_worker_is_aborted_then_killed_and_a_slept_master_blames_nobody() {
    let mut stage = Stage::serving();
    let silent = stage.ready()[0];
    let beat = |stage: &Stage| -> Vec<_> {
        stage.ready().into_iter().filter(|pid| *pid != silent).map(|pid| (pid, stage.now)).collect()
    };
    stage.now = 600;
    stage.seen.woke(stage.now, None);
    let beats = beat(&stage);
    stage.event(Event::Beats(beats));
    let actions = stage.act();
    assert_eq!(actions[0], Action::Tell { pid: silent, order: Order::Abort, why: Why::Silent });
    assert_eq!(forks(&actions), 1, "its successor does not wait for its end");
    stage.now = 1_700;
    let beats = beat(&stage);
    stage.event(Event::Beats(beats));
    assert!(stage.act().contains(&Action::Tell { pid: silent, order: Order::Kill, why: Why::GraceOver }));

    let mut stage = Stage::serving();
    stage.seen.woke(0, Some(100));
    stage.now = 60_000;
    stage.event(Event::Beats(Vec::new()));
    assert_eq!(stage.act(), [], "the master itself had been stopped");
}

#[test]
fn fewer_and_more_workers() {
    let mut stage = Stage::serving();
    stage.event(Event::ResizeAsked(Resize::Fewer));
    assert!(matches!(stage.act()[..], [Action::Tell { order: Order::Drain, why: Why::Surplus, .. }]));
    stage.event(Event::ResizeAsked(Resize::Fewer));
    assert_eq!(stage.want.wish.workers, 1, "one stays");
    stage.event(Event::ResizeAsked(Resize::More));
    stage.event(Event::ResizeAsked(Resize::More));
    assert_eq!(forks(&stage.act()), 2);
    stage.all_ready();
    stage.event(Event::ReloadAsked(None));
    stage.act();
    assert_eq!(stage.want.wish.workers, 3, "a reload that names the same number keeps what was asked since");
}

#[test]
fn stopping_escalates() {
    let mut stage = Stage::serving();
    stage.event(Event::StopAsked(Stop::Graceful));
    let told = |actions: &[Action], wanted: Order| {
        actions.iter().filter(|action| matches!(action, Action::Tell { order, .. } if *order == wanted)).count()
    };
    assert_eq!(told(&stage.act(), Order::Drain), 2, "the monitor stays while workers drain");
    stage.event(Event::StopAsked(Stop::Graceful));
    assert_eq!(told(&stage.act(), Order::Quit), 3);
    stage.now += 1_000;
    assert_eq!(told(&stage.act(), Order::Kill), 3);
    for pid in stage.in_state(|_| true) {
        stage.dies(pid);
    }
    assert_eq!(stage.act(), [Action::Done(EX_OK)]);
}

#[test]
fn one_that_somebody_else_killed_is_replaced_at_once_however_often() {
    let mut stage = Stage::serving();
    for _ in 0..50 {
        let pid = stage.ready()[0];
        let exit = Exit::Signal { signal: Signal::SIGKILL, core: Core::None };
        stage.event(Event::Exited { pid, exit, blame: Blame::Outside });
        assert_eq!(forks(&stage.act()), 1);
        stage.all_ready();
        stage.act();
        stage.now += 10;
    }
}

#[test]
fn while_nobody_serves_a_place_is_tried_every_second() {
    let mut stage = Stage::serving();
    for pid in stage.ready() {
        stage.dies(pid);
    }
    let mut longest = 0;
    for _ in 0..20 {
        stage.act();
        for pid in stage.starting() {
            stage.dies(pid);
        }
        let died_at = stage.now;
        stage.now = stage.steps().wake_at.unwrap_or(stage.now).max(stage.now);
        longest = longest.max(stage.now - died_at);
    }
    assert!(longest <= 1_000, "{longest}");
}

#[test]
fn a_ripe_worker_goes_when_its_successor_serves_and_only_so_many_at_once() {
    let mut stage = Stage::serving();
    let workers: Vec<Pid> =
        stage.seen.processes.iter().filter(|p| p.place.role == Role::Worker).map(|p| p.pid).collect();
    for pid in &workers {
        stage.event(Event::Ripe { pid: *pid, reason: "old".into() });
    }
    assert_eq!(forks(&stage.act()), 1, "one successor ahead");
    assert_eq!(stage.ready().len(), 3);
    stage.all_ready();
    let actions = stage.act();
    assert_eq!(actions, [Action::Tell { pid: workers[0], order: Order::Drain, why: Why::Replaced }]);
    let exit = Exit::Code(0);
    stage.event(Event::Exited { pid: workers[0], exit, blame: Blame::Itself });
    assert_eq!(forks(&stage.act()), 1, "the second follows when the first has left");
    stage.all_ready();
    assert_eq!(stage.act(), [Action::Tell { pid: workers[1], order: Order::Drain, why: Why::Replaced }]);
    stage.event(Event::Exited { pid: workers[1], exit, blame: Blame::Itself });
    assert_eq!(stage.act(), []);
}

#[test]
fn with_more_surge_more_are_replaced_at_once() {
    let mut stage = Stage::serving();
    stage.want.wish.surge = 2;
    for pid in stage.ready() {
        stage.event(Event::Ripe { pid, reason: "old".into() });
    }
    assert_eq!(forks(&stage.act()), 2);
}

#[test]
fn one_that_leaves_by_somebody_elses_order_has_a_successor_at_once() {
    let mut stage = Stage::serving();
    let pid = stage.ready()[0];
    stage.event(Event::Leaving(pid));
    assert_eq!(forks(&stage.act()), 1);
    stage.event(Event::Exited { pid, exit: Exit::Code(0), blame: Blame::Itself });
    assert_eq!(stage.act(), []);
}

#[test]
fn a_pause_drains_all_workers_until_somebody_wants_them_again() {
    for back in [Event::ReloadAsked(None), Event::ResizeAsked(Resize::More), Event::ResizeAsked(Resize::To(2))] {
        let mut stage = Stage::serving();
        stage.event(Event::PauseAsked);
        let actions = stage.act();
        let drained = |action: &&Action| matches!(action, Action::Tell { order: Order::Drain, why: Why::Paused, .. });
        assert_eq!(actions.iter().filter(drained).count(), 2);
        assert_eq!((stage.ready().len(), stage.act().len()), (1, 0), "the monitor stays");
        stage.event(back);
        stage.act();
        assert_eq!(stage.want.workers(), 2);
    }
}
