//! What is: the processes, each in one state, and what each place has been through. Changed by events alone.

use std::collections::BTreeMap;

use gate_sys::process::{Core, Exit, Pid};
use gate_zone::{Place, Role};

use crate::candidate::Candidate;
use crate::event::{Blame, Event, Generation, Ms, Order, Why};

/// A process that ends sooner than this after its fork, or before it was ready, counts as a failure of its place; one
/// that lived longer has shown that the place works.
const STABLE_MS: Ms = 1_000;

/// First pause after the second failure in a row (the first is made good at once), doubled with each further one.
const BACKOFF_FIRST_MS: Ms = 100;

/// Longest pause: an operator who mends the cause does not wait longer than this for the next try.
const BACKOFF_MAX_MS: Ms = 30_000;

/// How long a process may take to leave after QUIT or before it was ready, or to write its core after ABRT.
const LAST_WORDS_MS: Ms = 1_000;

/// The master gives its children this much beyond the timeouts that they keep themselves: for the last words to their
/// clients, and the last lines of their log.
const GRACE_MARGIN_MS: Ms = 2_000;

/// While nobody serves at all, a place is tried again this long after its last failure, however many there were: the
/// crash of one process is not worth an outage that outlasts its cause.
const ALONE_PAUSE_MS: Ms = 1_000;

/// A master that wakes this much later than it meant to was stopped itself (SIGSTOP, a debugger, a suspended machine):
/// old heartbeats say nothing then.
const OVERSLEPT_MS: Ms = 1_000;

/// Where in its life a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Forked; must be ready by then.
    Starting {
        /// Deadline.
        ready_by: Ms,
    },
    /// Serving.
    Ready,
    /// Told to finish; must be gone by then.
    Draining {
        /// Deadline.
        kill_at: Ms,
    },
    /// Told to leave at once, or to abort; must be gone by then.
    Leaving {
        /// Deadline.
        kill_at: Ms,
    },
    /// Sent the signal that cannot be refused.
    Killed,
}

/// One process of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: Pid,
    /// Where it belongs.
    pub place: Place,
    /// What it runs.
    pub generation: Generation,
    /// Its row of the scoreboard.
    pub row: usize,
    /// Where in its life it is.
    pub state: State,
    /// When it was forked.
    pub forked_at: Ms,
    /// When it said it serves.
    pub ready_at: Option<Ms>,
    /// When its heart last beat.
    pub beat_at: Ms,
    /// Whether its end is meant.
    pub wanted: Wanted,
    /// What it said it could not start for.
    pub excuse: Option<String>,
    /// Why it should be replaced, once there is a reason.
    pub ripe: Option<String>,
}

impl Process {
    /// Whether its place is filled: it serves, or is on its way to.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Ready | State::Starting { .. })
    }

    /// Takes in what it said last, before its end is judged.
    pub(crate) fn heard(&mut self, event: &Event) {
        match event {
            Event::Ready(pid) if *pid == self.pid => self.ready_at = self.ready_at.or(Some(self.forked_at)),
            Event::BootFailed { pid, reason } if *pid == self.pid => self.excuse = Some(reason.clone()),
            Event::Leaving(pid) if *pid == self.pid => self.wanted = Wanted::No,
            _ => {}
        }
    }
}

/// Whether a process should be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Its end would be a failure.
    Yes,
    /// It was told to go; its end is none.
    No,
}

/// What a place has been through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct History {
    failures: u32,
    failed_at: Ms,
    not_before: Ms,
}

/// How far the master is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The first generation has not been ready yet: a process that cannot boot is the operator's to know at once.
    FirstStart,
    /// It has; from here on nothing that fails to boot takes the rest down.
    Serving,
}

/// A process that ended without having been ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedBoot {
    /// What it ran.
    pub generation: Generation,
    /// What it died of.
    pub reason: String,
}

/// What is.
#[derive(Debug, Clone)]
pub struct Observed {
    /// All processes of ours, oldest first.
    pub processes: Vec<Process>,
    /// How far the master is.
    pub phase: Phase,
    /// Since the last load, commit or rollback: the first process that could not boot.
    pub failed_boot: Option<FailedBoot>,
    /// Since the last load: the first process that failed after it had been ready, of the newest generation that has one.
    pub failed_trial: Option<FailedBoot>,
    /// The candidate for the succession, while there is one.
    pub candidate: Option<Candidate>,
    /// Whether the master still holds its listeners.
    pub listening: Listening,
    places: BTreeMap<Place, History>,
    woken_by: Ms,
    boot_ms: Ms,
    drain_ms: Ms,
    dice: u64,
}

/// Whether the master still holds its listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    /// It does.
    Open,
    /// It has closed its copies.
    Closed,
}

impl Observed {
    /// A world without processes. `dice` seeds the jitter of backoff.
    pub fn new(now: Ms, dice: u64) -> Self {
        Self {
            processes: Vec::new(),
            phase: Phase::FirstStart,
            failed_boot: None,
            failed_trial: None,
            candidate: None,
            listening: Listening::Open,
            places: BTreeMap::new(),
            woken_by: now,
            boot_ms: 0,
            drain_ms: 0,
            dice,
        }
    }

    /// Sets the deadlines that later orders and forks get.
    pub fn allow(&mut self, boot_ms: Ms, drain_ms: Ms) {
        self.boot_ms = boot_ms;
        self.drain_ms = drain_ms;
    }

    /// Tells that time has passed, and until when the master means to sleep next.
    pub fn woke(&mut self, now: Ms, wake_at: Option<Ms>) {
        self.woken_by = wake_at.unwrap_or(now).max(now);
    }

    /// Takes in what has happened, at `now`.
    pub fn apply(&mut self, event: &Event, now: Ms) {
        if self.candidate.as_mut().is_some_and(|candidate| candidate.took_in(event, now)) {
            return;
        }
        match event {
            Event::Forked { pid, place, generation, row } => self.forked((*pid, *place), *generation, *row, now),
            Event::ForkFailed { place } => self.failed(*place, now),
            Event::Ready(pid) => self.ready(*pid, now),
            Event::BootFailed { pid, reason } => {
                if let Some(process) = self.process(*pid) {
                    process.excuse = Some(reason.clone());
                }
            }
            Event::Leaving(pid) => self.leaving(*pid, now),
            Event::Ripe { pid, reason } => {
                if let Some(process) = self.process(*pid) {
                    process.ripe.get_or_insert_with(|| reason.clone());
                }
            }
            Event::Ordered { pid, order, why } => self.ordered(*pid, (*order, *why), now),
            Event::Exited { pid, exit, blame } => self.exited(*pid, (*exit, *blame), now),
            Event::Beats(beats) => self.beats(beats, now),
            Event::Loaded { .. } => {
                self.forget_failures();
                // What its predecessors have died of says nothing of it.
                self.places.clear();
            }
            Event::RolledBack { .. } => {
                self.forget_failures();
                // The failures were those of the configuration that is given up.
                self.places.clear();
            }
            Event::Committed { .. } => {
                self.forget_failures();
                self.phase = Phase::Serving;
            }
            Event::CandidateStarted { pid } => self.candidate = Some(Candidate::new(*pid, now, self.boot_ms)),
            Event::UpgradeFailed { .. } | Event::HandedOver { .. } => self.candidate = None,
            Event::ListenersClosed => self.listening = Listening::Closed,
            Event::StopAsked(_)
            | Event::ReloadAsked(_)
            | Event::ResizeAsked(_)
            | Event::PauseAsked
            | Event::ReopenAsked
            | Event::Reopening
            | Event::UpgradeAsked(_)
            | Event::TrialBegan
            | Event::TrialGoesOn
            | Event::Judged(_)
            | Event::Promoted
            | Event::Version { .. }
            | Event::LoadRefused { .. } => {}
        }
    }

    fn forget_failures(&mut self) {
        self.failed_boot = None;
        self.failed_trial = None;
    }

    fn forked(&mut self, (pid, place): (Pid, Place), generation: Generation, row: usize, now: Ms) {
        self.processes.push(Process {
            pid,
            place,
            generation,
            row,
            state: State::Starting { ready_by: now + self.boot_ms },
            forked_at: now,
            ready_at: None,
            beat_at: now,
            wanted: Wanted::Yes,
            excuse: None,
            ripe: None,
        });
    }

    /// One process, by pid, to look at.
    pub fn known(&self, pid: Pid) -> Option<&Process> {
        self.processes.iter().find(|process| process.pid == pid)
    }

    /// One process, by pid.
    pub fn process(&mut self, pid: Pid) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.pid == pid)
    }

    /// The processes of one place.
    pub fn at(&self, place: Place) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |process| process.place == place)
    }

    /// When a place may fork again. Sooner than its backoff says while no worker is there at all.
    pub fn not_before(&self, place: Place) -> Ms {
        let Some(history) = self.places.get(&place) else { return 0 };
        let alone = !self.processes.iter().any(|process| process.place.role == Role::Worker && process.is_up());
        if alone { history.not_before.min(history.failed_at + ALONE_PAUSE_MS) } else { history.not_before }
    }

    fn ready(&mut self, pid: Pid, now: Ms) {
        let grace = self.drain_ms + GRACE_MARGIN_MS;
        let Some(process) = self.process(pid) else { return };
        match process.state {
            State::Starting { .. } => {
                process.state = State::Ready;
                process.ready_at = Some(now);
                process.beat_at = now;
            }
            // It may have taken requests before the order came.
            State::Draining { .. } if process.ready_at.is_none() => {
                process.state = State::Draining { kill_at: now + grace };
                process.ready_at = Some(now);
            }
            State::Ready | State::Draining { .. } | State::Leaving { .. } | State::Killed => {}
        }
    }

    /// Somebody else told it to go: its place is free, and it has as long as if we had.
    fn leaving(&mut self, pid: Pid, now: Ms) {
        let grace = self.drain_ms + GRACE_MARGIN_MS;
        let Some(process) = self.process(pid) else { return };
        match process.state {
            State::Starting { .. } | State::Ready => {
                process.state = State::Draining { kill_at: now + grace };
                process.wanted = Wanted::No;
            }
            State::Draining { .. } | State::Leaving { .. } | State::Killed => {}
        }
    }

    fn ordered(&mut self, pid: Pid, (order, why): (Order, Why), now: Ms) {
        let grace = self.drain_ms + GRACE_MARGIN_MS;
        let Some(process) = self.process(pid) else { return };
        process.state = match order {
            // What has not said that it serves has nothing to finish, and may hang.
            Order::Drain if process.ready_at.is_none() => State::Draining { kill_at: now + LAST_WORDS_MS },
            Order::Drain => State::Draining { kill_at: now + grace },
            Order::Quit | Order::Abort => State::Leaving { kill_at: now + LAST_WORDS_MS },
            Order::Kill => State::Killed,
        };
        match why {
            Why::Stopping | Why::Replaced | Why::Surplus | Why::Paused | Why::Abandoned => process.wanted = Wanted::No,
            Why::BootTimeout | Why::Silent | Why::GraceOver => {}
        }
    }

    fn exited(&mut self, pid: Pid, (exit, blame): (Exit, Blame), now: Ms) {
        let Some(index) = self.processes.iter().position(|process| process.pid == pid) else { return };
        let dead = self.processes.remove(index);
        let was_ready = dead.ready_at.is_some();
        let was_stable = was_ready && now.saturating_sub(dead.forked_at) >= STABLE_MS;
        if dead.wanted == Wanted::No {
            return;
        }
        if was_stable {
            self.places.remove(&dead.place);
        }
        if blame == Blame::Outside {
            // It has not failed: it is replaced at once, however often, and says nothing of its configuration.
            if !was_ready {
                self.failed(dead.place, now);
            }
            return;
        }
        if was_ready {
            let reason = format!("{} {} after it was ready", dead.place, told(exit));
            let failed = FailedBoot { generation: dead.generation, reason };
            if self.failed_trial.as_ref().is_none_or(|known| known.generation < failed.generation) {
                self.failed_trial = Some(failed);
            }
        } else {
            let reason = dead.excuse.unwrap_or_else(|| format!("{} {} before it was ready", dead.place, told(exit)));
            self.boot_failed(FailedBoot { generation: dead.generation, reason });
        }
        if !was_stable {
            self.failed(dead.place, now);
        }
    }

    /// Keeps the first reason of a generation, and the newest generation that had one.
    fn boot_failed(&mut self, failed: FailedBoot) {
        if self.failed_boot.as_ref().is_none_or(|known| known.generation < failed.generation) {
            self.failed_boot = Some(failed);
        }
    }

    /// One more failure of a place: at once again after the first, then with doubled pauses.
    fn failed(&mut self, place: Place, now: Ms) {
        let jitter = self.roll();
        let history = self.places.entry(place).or_default();
        history.failures += 1;
        history.failed_at = now;
        let pause = match history.failures {
            1 => 0,
            more => (BACKOFF_FIRST_MS << (more - 2).min(20)).min(BACKOFF_MAX_MS),
        };
        // Between half and all of the pause, so that places that fail together do not fork together.
        history.not_before = now + pause - (pause / 2) * (jitter % 1024) / 1024;
    }

    fn beats(&mut self, beats: &[(Pid, Ms)], now: Ms) {
        let overslept = now > self.woken_by + OVERSLEPT_MS;
        for process in &mut self.processes {
            let beat = beats.iter().find(|(pid, _)| *pid == process.pid).map_or(0, |(_, at)| *at);
            process.beat_at = if overslept { now } else { process.beat_at.max(beat) };
        }
    }

    /// SplitMix64: enough for jitter, and the same for the same seed.
    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.dice ^ (self.dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 11
    }

    /// Whether a process of this role counts as running the target, whatever its generation.
    pub fn ageless(role: Role) -> bool {
        role == Role::Demo
    }
}

/// An exit in words: `exited with code 1`, `was ended by SIGKILL`.
pub fn told(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with code {code}"),
        Exit::Signal { signal, core: Core::Dumped } => format!("was ended by {signal} (core dumped)"),
        Exit::Signal { signal, core: Core::None } => format!("was ended by {signal}"),
    }
}
