//! From what is wanted and what is to what must be done: the master's only decisions, without a system call.
//!
//! Pure: the same wish and world give the same steps. The steps of a call, once told back as events, leave the next
//! call nothing to do; a lost wake-up only delays.

use gate_config::{EX_CONFIG, EX_OK};
use gate_zone::{Place, Role};

use crate::candidate::CandidateState;
use crate::desired::{Desired, Duty, Reload, Reopen, Service, Trial, Upgrade, is_canary};
use crate::event::{Action, Ms, Order, Stop, Why};
use crate::observed::{Listening, Observed, Phase, Process, State};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trials;

/// What to do now, and when to look again if nothing happens before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Steps {
    /// In this order.
    pub actions: Vec<Action>,
    /// The earliest deadline; `None` when there is none.
    pub wake_at: Option<Ms>,
}

impl Steps {
    fn tell(&mut self, process: &Process, order: Order, why: Why) {
        self.actions.push(Action::Tell { pid: process.pid, order, why });
    }

    fn wake(&mut self, at: Ms) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Decides.
pub fn reconcile(want: &Desired, seen: &Observed, now: Ms) -> Steps {
    let mut steps = Steps::default();
    if let Some(code) = given_up(want, seen) {
        // Those that came up may have taken requests already, from a queue that another gate shares.
        return end(want, seen, now, (want.stop.unwrap_or(Stop::Graceful), code));
    }
    if let Some(stop) = want.stop {
        return end(want, seen, now, (stop, EX_OK));
    }
    if want.duty == Duty::Retiring {
        return end(want, seen, now, (Stop::Graceful, EX_OK));
    }
    for process in &seen.processes {
        watch(&mut steps, want, process, now);
    }
    if let (Some(_), Some(failed)) = (want.fallback, failed_target(want, seen)) {
        steps.actions.push(Action::RollBack { reason: failed });
        return steps;
    }
    if want.reopen == Reopen::Asked {
        steps.actions.push(Action::Reopen);
    }
    let mut budget = Budget::left(want, seen);
    for place in want.places() {
        fill(&mut steps, want, seen, (place, now), &mut budget);
    }
    try_out(&mut steps, want, seen, now);
    if all_run_target(want, seen) {
        if want.fallback.is_some() || seen.phase == Phase::FirstStart {
            steps.actions.push(Action::Commit);
            return steps;
        }
    } else if want.fallback.is_some() || seen.phase == Phase::FirstStart {
        return steps;
    }
    // A place that cannot be filled must not keep the operator from loading or starting what mends it.
    match (want.upgrade, &seen.candidate) {
        (Upgrade::Asked(zone), None) => steps.actions.push(Action::StartCandidate(zone)),
        (_, Some(_)) => succession(&mut steps, want, seen, now),
        (Upgrade::Idle, None) => {
            if let Reload::Asked(_) = want.reload {
                steps.actions.push(Action::Load);
            }
        }
    }
    steps
}

/// The code to leave with when the first start cannot succeed.
fn given_up(want: &Desired, seen: &Observed) -> Option<u8> {
    let failed = seen.failed_boot.as_ref().is_some_and(|failed| failed.generation == want.target);
    (seen.phase == Phase::FirstStart && failed).then_some(EX_CONFIG)
}

/// Why the newest configuration cannot go on rolling out.
fn failed_target(want: &Desired, seen: &Observed) -> Option<String> {
    if let Some(Trial::Failed(reason)) = &want.trial {
        return Some(reason.clone());
    }
    let failures = seen.failed_boot.iter().chain(&seen.failed_trial);
    failures.filter(|failed| failed.generation == want.target).map(|failed| failed.reason.clone()).next()
}

/// Deadlines of one process while the gate serves.
fn watch(steps: &mut Steps, want: &Desired, process: &Process, now: Ms) {
    match process.state {
        State::Starting { ready_by } => {
            if now >= ready_by {
                steps.tell(process, Order::Kill, Why::BootTimeout);
            } else {
                steps.wake(ready_by);
            }
        }
        State::Ready if !want.wants(process.place) => {
            let paused = process.place.role == Role::Worker && want.service == Service::Paused;
            steps.tell(process, Order::Drain, if paused { Why::Paused } else { Why::Surplus });
        }
        State::Ready => listen(steps, want, process, now),
        State::Draining { kill_at } => {
            if now >= kill_at {
                steps.tell(process, Order::Kill, Why::GraceOver);
            } else {
                steps.wake(kill_at);
                // What never was ready need not beat yet, and has a short deadline anyway.
                if process.ready_at.is_some() {
                    listen(steps, want, process, now);
                }
            }
        }
        State::Leaving { kill_at } => {
            if now >= kill_at {
                steps.tell(process, Order::Kill, Why::GraceOver);
            } else {
                steps.wake(kill_at);
            }
        }
        State::Killed => {}
    }
}

/// Whether its heart beats.
fn listen(steps: &mut Steps, want: &Desired, process: &Process, now: Ms) {
    if want.wish.liveness_ms > 0 {
        let late_at = process.beat_at + want.wish.liveness_ms;
        if now >= late_at {
            steps.tell(process, Order::Abort, Why::Silent);
        } else {
            steps.wake(late_at);
        }
    }
}

/// How many successors may still be started ahead of those they replace.
struct Budget {
    /// For a new configuration: successors on their way count.
    rolling: u32,
    /// For processes that are to be replaced: those that drain count too, so that memory stays bounded.
    recycling: u32,
}

impl Budget {
    fn left(want: &Desired, seen: &Observed) -> Self {
        let successor = |process: &&Process| {
            want.wants(process.place)
                && matches!(process.state, State::Starting { .. })
                && seen.at(process.place).any(|other| other.state == State::Ready)
        };
        let recycled = |process: &&Process| process.ripe.is_some() && is_leaving(want, seen, process);
        let starting = seen.processes.iter().filter(successor).count() as u32;
        let leaving = seen.processes.iter().filter(recycled).count() as u32;
        let rolling = want.wish.surge.saturating_sub(starting);
        Self { rolling, recycling: rolling.saturating_sub(leaving) }
    }

    fn spend(&mut self) {
        self.rolling = self.rolling.saturating_sub(1);
        self.recycling = self.recycling.saturating_sub(1);
    }
}

/// Whether a process drains, or is about to be told to.
fn is_leaving(want: &Desired, seen: &Observed, process: &Process) -> bool {
    let succeeds = |other: &Process| other.state == State::Ready && other.ripe.is_none() && is_right(want, other);
    match process.state {
        State::Draining { .. } => true,
        State::Ready => seen.at(process.place).any(succeeds),
        State::Starting { .. } | State::Leaving { .. } | State::Killed => false,
    }
}

/// Whether a process runs what its place should run.
fn is_right(want: &Desired, process: &Process) -> bool {
    process.generation == want.generation_for(process.place) || Observed::ageless(process.place.role)
}

/// Brings one place towards: one process, ready, running what it should.
fn fill(steps: &mut Steps, want: &Desired, seen: &Observed, (place, now): (Place, Ms), budget: &mut Budget) {
    let ready = || seen.at(place).filter(|process| process.state == State::Ready);
    let starting = seen.at(place).find(|process| matches!(process.state, State::Starting { .. }));
    // Of several that are right the newest stays, ripe again or not.
    let newest = ready().filter(|process| is_right(want, process)).last();
    if newest.is_some() {
        let wrong = || ready().filter(|process| !is_right(want, process));
        // Beside a canary one stays, to compare it with: of the configuration to go back to, if there is one.
        let before = want.fallback.map(|(generation, _)| generation);
        let kept = wrong().filter(|old| Some(old.generation) == before).last().or_else(|| wrong().last());
        let kept = kept.filter(|_| want.keeps_both(place)).map(|kept| kept.pid);
        wrong().filter(|old| kept != Some(old.pid)).for_each(|old| steps.tell(old, Order::Drain, Why::Replaced));
    }
    let succeeded =
        ready().filter(|process| is_right(want, process) && newest.is_some_and(|new| new.pid != process.pid));
    succeeded.for_each(|ripe| steps.tell(ripe, Order::Drain, Why::Replaced));
    if newest.is_some_and(|newest| newest.ripe.is_none()) {
        return;
    }
    if let Some(starting) = starting {
        if !is_right(want, starting) {
            // Not KILL: its word that it serves may be on its way, and clients with it.
            steps.tell(starting, Order::Drain, Why::Abandoned);
        }
        return;
    }
    let replaces = ready().next().is_some();
    let left = if newest.is_some() { budget.recycling } else { budget.rolling };
    if replaces && left == 0 {
        return;
    }
    let not_before = seen.not_before(place);
    if now < not_before {
        steps.wake(not_before);
        return;
    }
    if replaces {
        budget.spend();
    }
    steps.actions.push(Action::Fork { place, generation: want.generation_for(place) });
}

/// The trial of a new configuration on a few workers.
fn try_out(steps: &mut Steps, want: &Desired, seen: &Observed, now: Ms) {
    match &want.trial {
        Some(Trial::Filling(canary)) => {
            let canaries: Vec<_> = want.places().filter(|place| is_canary(*place, canary.workers)).collect();
            if !canaries.is_empty() && canaries.iter().all(|place| serves(want, seen, *place)) {
                steps.actions.push(Action::BeginTrial);
            }
        }
        Some(Trial::Running { until, look_at, .. }) => {
            // Whoever asks for the next configuration does not wait for the end of this one's trial.
            if now >= *until.min(look_at) || want.reload != Reload::Idle {
                steps.actions.push(Action::Judge);
            } else {
                steps.wake(*until.min(look_at));
            }
        }
        Some(Trial::Failed(_)) | None => {}
    }
}

fn serves(want: &Desired, seen: &Observed, place: Place) -> bool {
    let runs_target = |process: &Process| process.generation == want.target || Observed::ageless(process.place.role);
    seen.at(place).any(|process| process.state == State::Ready && runs_target(process))
}

fn all_run_target(want: &Desired, seen: &Observed) -> bool {
    want.trial.is_none() && want.places().all(|place| serves(want, seen, place))
}

/// One more step towards a successor of this master.
fn succession(steps: &mut Steps, want: &Desired, seen: &Observed, now: Ms) {
    let Some(candidate) = &seen.candidate else { return };
    let pid = candidate.pid;
    match &candidate.state {
        CandidateState::Starting { ready_by: deadline } | CandidateState::Leaving { kill_at: deadline } => {
            if now >= *deadline {
                steps.actions.push(Action::Tell { pid, order: Order::Kill, why: Why::BootTimeout });
            } else {
                steps.wake(*deadline);
            }
        }
        CandidateState::Ready if want.stop.is_some() => {
            steps.actions.push(Action::Tell { pid, order: Order::Drain, why: Why::Stopping });
        }
        CandidateState::Ready => {
            steps.actions.push(Action::HandOver { pid, version: candidate.version.clone() });
        }
        CandidateState::Killed => {}
        CandidateState::Gone { reason } => steps.actions.push(Action::GiveUpUpgrade { reason: reason.clone() }),
    }
}

/// The way out: workers first, then what they lean on; `code` when all are gone.
fn end(want: &Desired, seen: &Observed, now: Ms, (stop, code): (Stop, u8)) -> Steps {
    let mut steps = Steps::default();
    if want.reopen == Reopen::Asked {
        steps.actions.push(Action::Reopen);
    }
    if seen.listening == Listening::Open {
        steps.actions.push(Action::CloseListeners);
    }
    if let Some(candidate) = &seen.candidate {
        if matches!(candidate.state, CandidateState::Starting { .. }) {
            let (pid, why) = (candidate.pid, Why::Stopping);
            steps.actions.push(Action::Tell { pid, order: Order::Drain, why });
        } else {
            succession(&mut steps, want, seen, now);
        }
    }
    let workers_left = seen.processes.iter().any(|process| process.place.role == Role::Worker);
    for process in &seen.processes {
        let waits = process.place.role != Role::Worker && workers_left && stop == Stop::Graceful;
        dismiss(&mut steps, process, stop, now, waits.then_some(want));
    }
    if seen.processes.is_empty() && seen.candidate.is_none() {
        steps.actions.push(Action::Done(code));
    }
    steps
}

/// Sees one process out. `Some(wish)` keeps it for now, watched as ever.
fn dismiss(steps: &mut Steps, process: &Process, stop: Stop, now: Ms, keep: Option<&Desired>) {
    let order = match stop {
        Stop::Graceful => Order::Drain,
        Stop::Quick => Order::Quit,
    };
    match (process.state, keep) {
        (State::Ready | State::Starting { .. }, Some(want)) => watch(steps, want, process, now),
        (State::Ready | State::Starting { .. }, None) => steps.tell(process, order, Why::Stopping),
        (State::Draining { .. }, _) if stop == Stop::Quick => steps.tell(process, Order::Quit, Why::Stopping),
        (State::Draining { kill_at } | State::Leaving { kill_at }, _) => {
            if now >= kill_at {
                steps.tell(process, Order::Kill, Why::GraceOver);
            } else {
                steps.wake(kill_at);
            }
        }
        (State::Killed, _) => {}
    }
}
