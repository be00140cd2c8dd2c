//! The program started again to take over: what this master knows of it.

use gate_sys::process::{Exit, Pid};

use crate::event::{Event, Ms, Order};
use crate::observed::told;

/// It gets this much beyond the boot timeout, which it keeps itself.
const MARGIN_MS: Ms = 2_000;

/// How long it may take to leave once it was told to. It gives its own children a second first, and one of them that
/// hangs would outlive it.
const LAST_WORDS_MS: Ms = 3_000;

/// A candidate for the succession.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its pid.
    pub pid: Pid,
    /// When it was started.
    pub since: Ms,
    /// How far it is.
    pub state: CandidateState,
    /// Which version it says it is.
    pub version: String,
    /// What it said it could not start for, or what we ended it for.
    excuse: Option<String>,
}

/// How far a candidate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CandidateState {
    /// It must say that it serves by then.
    Starting {
        /// Deadline.
        ready_by: Ms,
    },
    /// It serves.
    Ready,
    /// It was told to leave; must be gone by then.
    Leaving {
        /// Deadline.
        kill_at: Ms,
    },
    /// Sent the signal that cannot be refused.
    Killed,
    /// It has ended.
    Gone {
        /// What it died of.
        reason: String,
    },
}

impl Candidate {
    /// One that was started at `now` and may take `boot_ms` for its workers.
    pub(crate) fn new(pid: Pid, now: Ms, boot_ms: Ms) -> Self {
        let state = CandidateState::Starting { ready_by: now + boot_ms + MARGIN_MS };
        Self { pid, since: now, state, version: String::new(), excuse: None }
    }

    /// Takes in an event that is about it; says whether it was.
    pub(crate) fn took_in(&mut self, event: &Event, now: Ms) -> bool {
        match event {
            Event::Ready(pid) if *pid == self.pid => {
                if matches!(self.state, CandidateState::Starting { .. }) {
                    self.state = CandidateState::Ready;
                }
            }
            Event::Version { pid, version } if *pid == self.pid => self.version.clone_from(version),
            Event::BootFailed { pid, reason } if *pid == self.pid => self.excuse = Some(reason.clone()),
            Event::Ordered { pid, order, .. } if *pid == self.pid => self.ordered(*order, now),
            Event::Exited { pid, exit, .. } if *pid == self.pid => {
                let reason = self.excuse.take().unwrap_or_else(|| self.end(*exit));
                self.state = CandidateState::Gone { reason };
            }
            _ => return false,
        }
        true
    }

    fn ordered(&mut self, order: Order, now: Ms) {
        self.state = match order {
            Order::Kill => CandidateState::Killed,
            Order::Drain | Order::Quit | Order::Abort => CandidateState::Leaving { kill_at: now + LAST_WORDS_MS },
        };
    }

    fn end(&self, exit: Exit) -> String {
        let told = told(exit);
        match self.state {
            CandidateState::Killed => format!("the candidate ({}) did not serve in time and {told}", self.pid),
            CandidateState::Starting { .. }
            | CandidateState::Ready
            | CandidateState::Leaving { .. }
            | CandidateState::Gone { .. } => format!("the candidate ({}) {told} before it served", self.pid),
        }
    }
}
