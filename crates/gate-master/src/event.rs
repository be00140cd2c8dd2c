//! Everything that can wake the master, and everything it can do: two closed enums.

use gate_sys::process::{Exit, Pid};
use gate_zone::Place;

/// Milliseconds of `CLOCK_MONOTONIC`. A plain number, so that the simulation can make its own time.
pub type Ms = u64;

/// Number of a configuration that was loaded, counted from 1.
pub type Generation = u32;

/// How the master was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Finish what is in service, within the graceful timeout.
    Graceful,
    /// Now.
    Quick,
}

/// What a configuration wants of the processes. All the master's decisions depend on no more of it than this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// How many workers.
    pub workers: u32,
    /// How long a process may take from its fork to its ready byte.
    pub boot_ms: Ms,
    /// How long a process may take to finish what it has, its streams included.
    pub drain_ms: Ms,
    /// How old a heartbeat may be; 0 is for ever.
    pub liveness_ms: Ms,
    /// How many successors may be on their way at once.
    pub surge: u32,
    /// Whether the simulated backend is part of the crew.
    pub demo: Demo,
}

/// How many workers somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// One more.
    More,
    /// One fewer.
    Fewer,
    /// So many.
    To(u32),
}

/// A reload that is to be tried on a few workers first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canary {
    /// On how many.
    pub workers: u32,
    /// For how long, once they serve.
    pub hold_ms: Ms,
}

/// What becomes of the shared memory in an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneFate {
    /// The successor takes it over: counts and limits go on.
    HandedOn,
    /// The successor makes its own: counts start afresh.
    Fresh,
}

/// What a reload changes of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: &'static str,
    /// The value before.
    pub old: String,
    /// The value asked for.
    pub new: String,
    /// What becomes of it.
    pub effect: Effect,
}

/// What becomes of a changed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The new workers have it.
    RolledOut,
    /// Only a new master has it: the old value stays.
    NeedsUpgrade,
}

/// Who is to blame for the end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// It ended by itself, or we ended it.
    Itself,
    /// Somebody else sent it KILL. That is no failure of its own.
    Outside,
    /// The kernel killed it for memory.
    Memory,
}

/// Whether the simulated backend runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demo {
    /// `--demo`.
    On,
    /// The usual case.
    Off,
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody asked for an end.
    StopAsked(Stop),
    /// Somebody asked for a reload.
    ReloadAsked(Option<Canary>),
    /// Somebody asked for another number of workers.
    ResizeAsked(Resize),
    /// Somebody asked for no workers at all, until further notice.
    PauseAsked,
    /// Somebody asked for the log files to be opened again.
    ReopenAsked,
    /// Somebody asked for an upgrade.
    UpgradeAsked(ZoneFate),
    /// A configuration was read, checked, and its sockets are bound.
    Loaded {
        /// Its number.
        generation: Generation,
        /// What it wants.
        wish: Wish,
        /// What is different from the one before.
        changes: Vec<Change>,
    },
    /// A configuration was refused.
    LoadRefused {
        /// Every reason.
        reasons: Vec<String>,
    },
    /// The canaries of the newest configuration serve; they are watched from now on.
    TrialBegan,
    /// The canaries were looked at before their time is over, and nothing speaks against them.
    TrialGoesOn,
    /// The canaries were compared with the others: well, or the reason why not.
    Judged(Result<String, String>),
    /// Every place runs the newest configuration; the one before is let go.
    Committed {
        /// Its number.
        generation: Generation,
    },
    /// The newest configuration does not come up; the one before is wanted again.
    RolledBack {
        /// Why.
        reason: String,
    },
    /// A candidate for the succession was started.
    CandidateStarted {
        /// It.
        pid: Pid,
    },
    /// There is no successor: the candidate failed, or could not be started.
    UpgradeFailed {
        /// Why.
        reason: String,
    },
    /// The candidate is the master now; what is left here drains.
    HandedOver {
        /// The new master.
        pid: Pid,
        /// Its version.
        version: String,
    },
    /// The gate before this one has told us to go on alone.
    Promoted,
    /// The log files are asked to be opened again.
    Reopening,
    /// The master's own listeners are closed.
    ListenersClosed,
    /// A process was forked.
    Forked {
        /// Its pid.
        pid: Pid,
        /// Where it belongs.
        place: Place,
        /// What it runs.
        generation: Generation,
        /// Its row of the scoreboard.
        row: usize,
    },
    /// A process could not be forked.
    ForkFailed {
        /// Where it was wanted.
        place: Place,
    },
    /// A process says it serves.
    Ready(Pid),
    /// A candidate says which version it is.
    Version {
        /// Which candidate.
        pid: Pid,
        /// Which version.
        version: String,
    },
    /// A process says why it cannot.
    BootFailed {
        /// Which.
        pid: Pid,
        /// In its own words.
        reason: String,
    },
    /// A process finishes what it has and goes, though we have not told it to.
    Leaving(Pid),
    /// A process asks to be replaced.
    Ripe {
        /// Which.
        pid: Pid,
        /// Why.
        reason: String,
    },
    /// A process was sent an order.
    Ordered {
        /// Which.
        pid: Pid,
        /// What it was told.
        order: Order,
        /// Why.
        why: Why,
    },
    /// A process has ended and been reaped.
    Exited {
        /// Which.
        pid: Pid,
        /// How.
        exit: Exit,
        /// Through whom.
        blame: Blame,
    },
    /// The heartbeats as they stand.
    Beats(Vec<(Pid, Ms)>),
}

/// What a process can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Finish and leave (TERM).
    Drain,
    /// Leave (QUIT).
    Quit,
    /// Die and say where you were (ABRT).
    Abort,
    /// Die (KILL).
    Kill,
}

/// Something to do. Each is told back as an [`Event`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Read the configuration again and bind what it adds.
    Load,
    /// Fork a process.
    Fork {
        /// For this place.
        place: Place,
        /// Running this configuration.
        generation: Generation,
    },
    /// Tell a process something.
    Tell {
        /// Which.
        pid: Pid,
        /// What.
        order: Order,
        /// Why, for the log.
        why: Why,
    },
    /// Begin to watch the canaries.
    BeginTrial,
    /// Compare the canaries with the others.
    Judge,
    /// Let the configuration before the newest go.
    Commit,
    /// Want the configuration before the newest again.
    RollBack {
        /// What the newest one died of.
        reason: String,
    },
    /// Start the program again, as a candidate for the succession.
    StartCandidate(ZoneFate),
    /// Let the candidate be the master.
    HandOver {
        /// It.
        pid: Pid,
        /// Its version.
        version: String,
    },
    /// Go on without the candidate.
    GiveUpUpgrade {
        /// What it died of.
        reason: String,
    },
    /// Have every worker open its log file again.
    Reopen,
    /// Close the master's own copies of the listeners.
    CloseListeners,
    /// Leave, with this code.
    Done(u8),
}

/// Why a process is told something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The gate stops.
    Stopping,
    /// A successor has taken its place.
    Replaced,
    /// No workers are wanted for now.
    Paused,
    /// Fewer workers are wanted.
    Surplus,
    /// It did not become ready in time.
    BootTimeout,
    /// Its heart has not beaten in time.
    Silent,
    /// It did not leave in time.
    GraceOver,
    /// Its configuration is not wanted any more.
    Abandoned,
}
