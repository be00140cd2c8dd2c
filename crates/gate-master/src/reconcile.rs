//! From what is wanted and what is to what must be done: the master's only decisions, without a system call.
//!
//! Pure: the same wish and world give the same steps. The steps of a call, once told back as events, leave the next
//! call nothing to do; a lost wake-up only delays.

use gate_config::{EX_CONFIG, EX_OK};
use gate_zone::{Place, Role};

use crate::desired::{Desired, Reload};
use crate::event::{Action, Ms, Order, Stop, Why};
use crate::observed::{Listening, Observed, Phase, Process, State};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

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
        return end(want, seen, now, (Stop::Quick, code));
    }
    if let Some(stop) = want.stop {
        return end(want, seen, now, (stop, EX_OK));
    }
    for process in &seen.processes {
        watch(&mut steps, want, process, now);
    }
    if let (Some(_), Some(failed)) = (want.fallback, failed_target(want, seen)) {
        steps.actions.push(Action::RollBack { reason: failed.to_owned() });
        return steps;
    }
    let mut forks = Forks { rolling: is_rolling(want, seen) };
    for place in want.places() {
        fill(&mut steps, want, seen, (place, now), &mut forks);
    }
    if all_run_target(want, seen) {
        if want.fallback.is_some() || seen.phase == Phase::FirstStart {
            steps.actions.push(Action::Commit);
        } else if want.reload == Reload::Asked {
            steps.actions.push(Action::Load);
        }
    } else if want.reload == Reload::Asked && want.fallback.is_none() && seen.phase == Phase::Serving {
        // A place that cannot be filled must not keep the operator from loading what mends it.
        steps.actions.push(Action::Load);
    }
    steps
}

/// The code to leave with when the first start cannot succeed.
fn given_up(want: &Desired, seen: &Observed) -> Option<u8> {
    let hopeless = seen.phase == Phase::FirstStart && failed_target(want, seen).is_some();
    hopeless.then_some(EX_CONFIG)
}

fn failed_target<'a>(want: &Desired, seen: &'a Observed) -> Option<&'a str> {
    let failed = seen.failed_boot.as_ref()?;
    (failed.generation == want.target).then_some(failed.reason.as_str())
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
        State::Ready => {
            if !want.wants(process.place) {
                steps.tell(process, Order::Drain, Why::Surplus);
            } else if want.wish.liveness_ms > 0 {
                let late_at = process.beat_at + want.wish.liveness_ms;
                if now >= late_at {
                    steps.tell(process, Order::Abort, Why::Silent);
                } else {
                    steps.wake(late_at);
                }
            }
        }
        State::Draining { kill_at } | State::Leaving { kill_at } => {
            if now >= kill_at {
                steps.tell(process, Order::Kill, Why::GraceOver);
            } else {
                steps.wake(kill_at);
            }
        }
        State::Killed => {}
    }
}

/// At most one successor at a time is on its way while a roll goes on.
struct Forks {
    rolling: Rolling,
}

#[derive(PartialEq, Eq)]
enum Rolling {
    /// No successor is starting.
    Free,
    /// One is.
    Busy,
}

fn is_rolling(want: &Desired, seen: &Observed) -> Rolling {
    let successor = |process: &Process| {
        matches!(process.state, State::Starting { .. })
            && seen.at(process.place).any(|other| other.state == State::Ready)
    };
    let busy = seen.processes.iter().any(|process| want.wants(process.place) && successor(process));
    if busy { Rolling::Busy } else { Rolling::Free }
}

/// Whether a process runs what its place should run.
fn runs_target(want: &Desired, process: &Process) -> bool {
    process.generation == want.target || Observed::ageless(process.place.role)
}

/// Brings one place towards: one process, ready, running the target.
fn fill(steps: &mut Steps, want: &Desired, seen: &Observed, (place, now): (Place, Ms), forks: &mut Forks) {
    let ready = |process: &&Process| process.state == State::Ready;
    let served = seen.at(place).filter(ready).any(|process| runs_target(want, process));
    let old = seen.at(place).filter(ready).filter(|process| !runs_target(want, process));
    let starting = seen.at(place).find(|process| matches!(process.state, State::Starting { .. }));
    if served {
        old.for_each(|process| steps.tell(process, Order::Drain, Why::Replaced));
        return;
    }
    if let Some(starting) = starting {
        if !runs_target(want, starting) {
            steps.tell(starting, Order::Kill, Why::Abandoned);
        }
        return;
    }
    let replaces = old.count() > 0;
    if replaces && forks.rolling == Rolling::Busy {
        return;
    }
    let not_before = seen.not_before(place);
    if now < not_before {
        steps.wake(not_before);
        return;
    }
    if replaces {
        forks.rolling = Rolling::Busy;
    }
    steps.actions.push(Action::Fork { place, generation: want.target });
}

fn all_run_target(want: &Desired, seen: &Observed) -> bool {
    want.places().all(|place| {
        let mut at = seen.at(place);
        at.any(|process| process.state == State::Ready && runs_target(want, process))
    })
}

/// The way out: workers first, then what they lean on; `code` when all are gone.
fn end(want: &Desired, seen: &Observed, now: Ms, (stop, code): (Stop, u8)) -> Steps {
    let mut steps = Steps::default();
    if seen.listening == Listening::Open {
        steps.actions.push(Action::CloseListeners);
    }
    let workers_left = seen.processes.iter().any(|process| process.place.role == Role::Worker);
    for process in &seen.processes {
        let waits = process.place.role != Role::Worker && workers_left && stop == Stop::Graceful;
        dismiss(&mut steps, process, stop, now, waits.then_some(want));
    }
    if seen.processes.is_empty() {
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
