//! The master: binds, forks, watches, replaces, reloads, stops.
//!
//! A loop around a pure function. Every wake-up is an [`event::Event`]; events change what is wanted
//! ([`desired::Desired`]) or what is ([`observed::Observed`]); [`reconcile::reconcile`] turns the two into
//! [`event::Action`]s; the hands do the system calls. Nothing in the loop blocks but the one wait.
//!
//! It has one thread, no tokio and no hyper, reads no request and opens no connection.
//!
//! Invariant: whatever fails after the first start, healthy processes keep serving.
#![forbid(unsafe_code)]

pub mod birth;
pub mod desired;
pub mod event;
mod hands;
pub mod observed;
pub mod protocol;
pub mod reconcile;
mod sockets;
mod watch;

use std::io;

use gate_config::{EX_CONFIG, EX_SOFTWARE, EX_UNAVAILABLE, Plan};
use gate_sys::clock;
use gate_sys::pidfile::{PidFile, PidFileError};
use gate_sys::privilege::Identity;
use gate_sys::signals::Signals;

pub use crate::birth::{Announce, Birth, Handed, Notice};
use crate::desired::Desired;
use crate::event::{Event, Ms};
pub use crate::hands::{Adopt, Cause, Crew, Refused, Reread};
use crate::hands::{Hands, Outcome};
use crate::observed::Observed;
use crate::reconcile::reconcile;
pub use gate_sys::listen::Kind;
pub use gate_sys::title;
pub use gate_zone::Role;

/// Actions that one wake-up may lead to before the master looks at its signals again. Each round of the loop changes
/// the world, so more than a few rounds means that two decisions undo each other: a bug that must not spin.
const ROUNDS_MAX: usize = 1024;

/// Why the gate does not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration cannot be put into service. Fault: operator.
    Load(Refused),
    /// The pid file cannot be had. Fault: operator.
    PidFile(std::path::PathBuf, PidFileError),
    /// Out of memory or descriptors. Fault: machine.
    Machine(io::Error),
}

impl StartError {
    /// The exit code for it.
    pub fn code(&self) -> u8 {
        match self {
            Self::Load(Refused { cause: Cause::Address, .. }) => EX_UNAVAILABLE,
            Self::Load(_) | Self::PidFile(..) => EX_CONFIG,
            Self::Machine(_) => EX_SOFTWARE,
        }
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Load(refused) => f.write_str(&refused.reasons.join("\n")),
            Self::PidFile(path, PidFileError::Held(Some(pid))) => {
                write!(f, "pid file {}: the gate with pid {pid} holds it; stop that one first", path.display())
            }
            Self::PidFile(path, PidFileError::Held(None)) => {
                write!(f, "pid file {}: a running gate holds it; stop that one first", path.display())
            }
            Self::PidFile(path, PidFileError::Io(error)) => write!(f, "pid file {}: {error}", path.display()),
            Self::Machine(error) => {
                write!(f, "cannot set up shared memory, signals or sockets of the gate's own: {error}")
            }
        }
    }
}

impl std::error::Error for StartError {}

/// Whether the plan's user and group are there.
///
/// # Errors
/// The name that this machine does not know.
pub fn identity_exists(plan: &Plan) -> Result<(), String> {
    Identity::find(plan.user.as_deref(), plan.group.as_deref()).map(drop)
}

/// What a master is made of.
pub struct Setup {
    /// The first configuration.
    pub plan: Plan,
    /// What children run.
    pub crew: Crew,
    /// How to read the configuration again.
    pub reread: Reread,
    /// What the master itself takes from a configuration once it serves.
    pub adopt: Adopt,
    /// Random numbers: two for the zone's hash, one for jitter.
    pub seed: [u64; 3],
}

/// A running master.
pub struct Master {
    desired: Desired,
    observed: Observed,
    hands: Hands,
    signals: Signals,
    wake_at: Option<Ms>,
    _pidfile: Option<PidFile>,
}

impl Master {
    /// Takes signals, the pid file, the sockets and the zone, in this order: from the first moment on that somebody
    /// can find this process, it acts on signals as documented.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing has been forked then.
    pub fn start(setup: Setup) -> Result<Self, StartError> {
        let Setup { plan, crew, reread, adopt, seed: [low, high, dice] } = setup;
        let signals = Signals::open().map_err(StartError::Machine)?;
        let pidfile = match &plan.pid {
            Some(path) => Some(PidFile::claim(path).map_err(|error| StartError::PidFile(path.clone(), error))?),
            None => None,
        };
        let hands = Hands::open(plan, (crew, reread, adopt), [low, high])?;
        for address in hands.addresses() {
            log::info!("listening on {address}");
        }
        let wish = hands.wish().ok_or_else(|| StartError::Machine(io::ErrorKind::InvalidData.into()))?;
        let mut observed = Observed::new(clock::monotonic_ms(), dice);
        observed.allow(wish.boot_ms, wish.graceful_ms);
        let desired = Desired::first(wish);
        title::set("ollama-gate: master");
        Ok(Self { desired, observed, hands, signals, wake_at: None, _pidfile: pidfile })
    }

    /// Serves until told to stop; returns the exit code.
    pub fn run(mut self) -> u8 {
        loop {
            if let Some(code) = self.settle() {
                return code;
            }
            self.observed.woke(clock::monotonic_ms(), self.wake_at);
            for event in watch::wait(&mut self.hands, &self.signals, &self.observed, self.wake_at) {
                watch::tell(&event, &self.observed);
                self.take_in(&event);
            }
        }
    }

    /// Acts until nothing is left to do for now. `Some(code)` when that is: leave.
    fn settle(&mut self) -> Option<u8> {
        for _ in 0..ROUNDS_MAX {
            let steps = reconcile(&self.desired, &self.observed, clock::monotonic_ms());
            self.wake_at = steps.wake_at;
            if steps.actions.is_empty() {
                return None;
            }
            for action in &steps.actions {
                match self.hands.perform(action, &self.observed) {
                    Outcome::Event(event) => self.take_in(&event),
                    Outcome::Done(code) => return Some(code),
                }
            }
        }
        log::error!("a bug: {ROUNDS_MAX} rounds of decisions without rest; pausing for a second");
        self.wake_at = Some(clock::monotonic_ms() + 1000);
        None
    }

    fn take_in(&mut self, event: &Event) {
        self.desired.apply(event);
        self.hands.steer_to(self.desired.wish.workers);
        self.observed.allow(self.desired.wish.boot_ms, self.desired.wish.graceful_ms);
        self.observed.apply(event, clock::monotonic_ms());
    }
}
