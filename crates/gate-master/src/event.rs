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
    /// How long a process may take to finish what it has.
    pub graceful_ms: Ms,
    /// How old a heartbeat may be; 0 is for ever.
    pub liveness_ms: Ms,
    /// Whether the simulated backend is part of the crew.
    pub demo: Demo,
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
    ReloadAsked,
    /// Somebody asked for one worker more.
    WorkerMoreAsked,
    /// Somebody asked for one worker fewer.
    WorkerFewerAsked,
    /// A configuration was read, checked, and its sockets are bound.
    Loaded {
        /// Its number.
        generation: Generation,
        /// What it wants.
        wish: Wish,
    },
    /// A configuration was refused; the reasons have been logged.
    LoadRefused,
    /// Every place runs the newest configuration; the one before is let go.
    Committed,
    /// The newest configuration does not come up; the one before is wanted again.
    RolledBack,
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
    /// Let the configuration before the newest go.
    Commit,
    /// Want the configuration before the newest again.
    RollBack {
        /// What the newest one died of.
        reason: String,
    },
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
