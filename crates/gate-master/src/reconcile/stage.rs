//! A wish and a world, fed by hand: what the tests of single decisions stand on.

use gate_sys::process::{Core, Exit, Pid};
use gate_sys::signals::Signal;

use super::*;
use crate::event::{Blame, Demo, Event, Wish};

pub(super) const WISH: Wish =
    Wish { workers: 2, boot_ms: 100, drain_ms: 1_000, liveness_ms: 500, surge: 1, demo: Demo::Off };

/// A wish and a world, fed by hand.
pub(super) struct Stage {
    pub(super) want: Desired,
    pub(super) seen: Observed,
    pub(super) now: Ms,
    pub(super) pids: i32,
    pub(super) verdict: Result<String, String>,
}

impl Stage {
    pub(super) fn new() -> Self {
        let mut seen = Observed::new(0, 1);
        seen.allow(WISH.boot_ms, WISH.drain_ms);
        Self { want: Desired::first(WISH, 1), seen, now: 0, pids: 100, verdict: Ok(String::new()) }
    }

    /// Two workers and a monitor, ready and committed.
    pub(super) fn serving() -> Self {
        let mut stage = Self::new();
        stage.act();
        stage.all_ready();
        stage.act();
        assert_eq!(stage.seen.phase, Phase::Serving);
        stage
    }

    #[expect(clippy::needless_pass_by_value, reason = "a hundred calls that make their event in place")]
    pub(super) fn event(&mut self, event: Event) {
        self.want.apply(&event, self.now);
        self.seen.apply(&event, self.now);
    }

    pub(super) fn steps(&self) -> Steps {
        reconcile(&self.want, &self.seen, self.now)
    }

    /// Does what is decided, until nothing is; returns it all.
    pub(super) fn act(&mut self) -> Vec<Action> {
        let mut done = Vec::new();
        for _ in 0..100 {
            let steps = self.steps();
            if steps.actions.is_empty() || steps.actions.iter().any(|action| matches!(action, Action::Done(_))) {
                done.extend(steps.actions);
                return done;
            }
            for action in steps.actions {
                self.perform(&action);
                done.push(action);
            }
        }
        panic!("decisions without end: {done:?}");
    }

    fn perform(&mut self, action: &Action) {
        let event = match action {
            Action::Load => Event::Loaded { generation: self.want.target + 1, wish: WISH, changes: vec![] },
            Action::Fork { place, generation } => {
                self.pids += 1;
                let (place, generation) = (*place, *generation);
                Event::Forked { pid: Pid::from_raw(self.pids), place, generation, row: 1 }
            }
            Action::Tell { pid, order, why } => Event::Ordered { pid: *pid, order: *order, why: *why },
            Action::BeginTrial => Event::TrialBegan,
            Action::Judge if self.now < self.trial_until() => Event::TrialGoesOn,
            Action::Judge => Event::Judged(self.verdict.clone()),
            Action::Commit => Event::Committed { generation: self.want.target },
            Action::RollBack { reason } => Event::RolledBack { reason: reason.clone() },
            Action::StartCandidate(_) => {
                self.pids += 1;
                Event::CandidateStarted { pid: Pid::from_raw(self.pids) }
            }
            Action::HandOver { pid, version } => Event::HandedOver { pid: *pid, version: version.clone() },
            Action::GiveUpUpgrade { reason } => Event::UpgradeFailed { reason: reason.clone() },
            Action::Reopen => Event::Reopening,
            Action::CloseListeners => Event::ListenersClosed,
            Action::Done(_) => return,
        };
        self.event(event);
    }

    fn trial_until(&self) -> Ms {
        match self.want.trial {
            Some(Trial::Running { until, .. }) if self.want.reload == Reload::Idle => until,
            _ => 0,
        }
    }

    pub(super) fn in_state(&self, wanted: fn(State) -> bool) -> Vec<Pid> {
        self.seen.processes.iter().filter(|process| wanted(process.state)).map(|process| process.pid).collect()
    }

    pub(super) fn starting(&self) -> Vec<Pid> {
        self.in_state(|state| matches!(state, State::Starting { .. }))
    }

    pub(super) fn ready(&self) -> Vec<Pid> {
        self.in_state(|state| state == State::Ready)
    }

    pub(super) fn all_ready(&mut self) {
        for pid in self.starting() {
            self.event(Event::Ready(pid));
        }
    }

    pub(super) fn dies(&mut self, pid: Pid) {
        let exit = Exit::Signal { signal: Signal::SIGSEGV, core: Core::None };
        self.event(Event::Exited { pid, exit, blame: Blame::Itself });
    }
}

pub(super) fn forks(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Fork { .. })).count()
}

/// All hearts beat.
pub(super) fn beat(stage: &mut Stage) {
    let beats = stage.seen.processes.iter().map(|process| (process.pid, stage.now)).collect();
    stage.event(Event::Beats(beats));
}
