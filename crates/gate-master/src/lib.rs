//! The master: binds, forks, watches, replaces, reloads, stops.
//!
//! A loop around a pure function. Every wake-up is an [`event::Event`]; events change what is wanted
//! ([`desired::Desired`]) or what is ([`observed::Observed`]); [`reconcile::reconcile`] turns the two into
//! [`event::Action`]s; the hands do the system calls. Nothing in the loop blocks but the one wait, and the exec of a
//! candidate.
//!
//! It has one thread, no tokio and no hyper, and reads no request of a client.
//!
//! Invariant: whatever fails after the first start, healthy processes keep serving.
#![forbid(unsafe_code)]

pub mod birth;
mod canary;
pub mod candidate;
mod chronicle;
pub mod desired;
mod desk;
mod estate;
pub mod event;
mod fleet;
mod hands;
mod keys;
pub mod observed;
pub mod protocol;
mod reception;
pub mod reconcile;
mod refused;
pub mod secrets;
mod sockets;
mod status;
mod succession;
mod systemd;
mod watch;

use std::io;
use std::path::{Path, PathBuf};

use gate_config::{EX_CONFIG, EX_OK, EX_SOFTWARE, EX_UNAVAILABLE, Plan};
use gate_sys::clock;
use gate_sys::control::ControlSocket;
use gate_sys::limits;
use gate_sys::listen;
use gate_sys::pidfile::{PidFile, PidFileError};
use gate_sys::privilege;
pub use gate_sys::privilege::Identity;
use gate_sys::process::Pid;
use gate_sys::signals::Signals;
use gate_zone::WorkersWord;

pub use crate::birth::{Announce, Birth, Handed, Notice};
use crate::desired::{Desired, Service};
use crate::desk::Desk;
pub use crate::estate::Estate;
use crate::event::{Action, Event, Ms};
pub use crate::hands::{Adopt, Crew, Program, Read, Reread};
use crate::hands::{Hands, Opening, Outcome};
pub use crate::keys::check as check_secrets;
use crate::observed::{Observed, Phase};
use crate::reconcile::reconcile;
pub use crate::refused::{Cause, Refused};
use crate::succession::Standing;
use crate::systemd::Systemd;
pub use gate_sys::listen::Kind;
pub use gate_sys::privilege::{forbid_cores, sandbox};
pub use gate_sys::title;
pub use gate_zone::Role;

/// Actions that one wake-up may lead to before the master looks at its signals again. Each round of the loop changes
/// the world, so more than a few rounds means that two decisions undo each other: a bug that must not spin.
const ROUNDS_MAX: usize = 1024;

/// The control socket's name in the directory that systemd makes for such files.
pub const CONTROL_FILE: &str = "control.sock";

/// Why the gate does not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration cannot be put into service. Fault: operator.
    Load(Refused),
    /// The pid file cannot be had. Fault: operator.
    PidFile(std::path::PathBuf, PidFileError),
    /// The control socket cannot be had. Fault: operator.
    Control(PathBuf, io::Error),
    /// Out of memory or descriptors. Fault: machine.
    Machine(io::Error),
}

impl StartError {
    /// The exit code for it.
    pub fn code(&self) -> u8 {
        match self {
            Self::Load(Refused { cause: Cause::Address, .. }) => EX_UNAVAILABLE,
            Self::Load(_) | Self::PidFile(..) | Self::Control(..) => EX_CONFIG,
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
            Self::Control(path, error) if error.kind() == io::ErrorKind::AddrInUse && !listen::is_socket(path) => {
                write!(
                    f,
                    "control {}: a file that is no socket is in the way; remove it, or name another",
                    path.display()
                )
            }
            Self::Control(path, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "control {}: a running gate answers there; stop it, or name another file", path.display())
            }
            Self::Control(path, error) => write!(f, "control {}: {error}", path.display()),
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

/// Tells the operator of a gate that serves as root though nobody said so; gives up what the master does not need where
/// its children are to be somebody else. Before anything is bound: a start can do no more than a reload.
fn settle_privileges(plan: &Plan) -> Result<(), StartError> {
    let found = Identity::find(plan.user.as_deref(), plan.group.as_deref());
    let identity = found.map_err(|reason| StartError::Load(Refused::of(reason)))?;
    if let Some(warning) = privilege::warning(&identity) {
        log::warn!("{warning}");
    }
    if identity.is_own() {
        return Ok(());
    }
    let told = |error: io::Error| io::Error::new(error.kind(), format!("giving up capabilities: {error}"));
    privilege::trim_master().map_err(|error| StartError::Machine(told(error)))
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
    /// The program, to start it again for an upgrade.
    pub program: Program,
    /// Names of the requests' routes, by their numbers in the zone.
    pub routes: &'static [&'static str],
    /// What was handed to this process.
    pub estate: Estate,
    /// Random numbers: two for the zone's hash, one for jitter.
    pub seed: [u64; 3],
}

/// A running master.
pub struct Master {
    desired: Desired,
    observed: Observed,
    hands: Hands,
    desk: Desk,
    systemd: Systemd,
    signals: Signals,
    started: Ms,
    wake_at: Option<Ms>,
    /// What the service manager keeps for us, or for a gate before us, by name.
    kept: Vec<String>,
}

impl Master {
    /// Takes signals, the pid file, the control socket, the sockets and the zone, in this order: from the first moment
    /// on that somebody can find this process, it acts on signals as documented.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing has been forked then; a gate that waits for this one has been told why.
    pub fn start(mut setup: Setup) -> Result<Self, StartError> {
        let verdict = setup.estate.verdict();
        Self::try_start(setup).inspect_err(|error| estate::refuse(verdict, &error.to_string()))
    }

    fn try_start(setup: Setup) -> Result<Self, StartError> {
        let Setup { plan, crew, reread, adopt, program, routes, mut estate, seed: [low, high, dice] } = setup;
        let signals = Signals::open().map_err(StartError::Machine)?;
        if let Err(error) = limits::raise_open_files() {
            log::warn!(
                "cannot raise the limit of open files to what is allowed: {error}; connections may run short of them"
            );
        }
        if let Some(mask) = plan.umask {
            privilege::set_umask(mask);
        }
        settle_privileges(&plan)?;
        if plan.holds_secrets() {
            forbid_cores().map_err(StartError::Machine)?;
        }
        let kept = estate.kept_names();
        let pidfile = pidfile(&plan, &mut estate)?;
        let control = control(&plan, &mut estate)?;
        let seed = [low, high];
        let own_control = control.iter().map(ControlSocket::path).find(|path| !estate.shares_control(path));
        let own_control = own_control.map(Path::to_path_buf);
        let opening = Opening { plan, crew, reread, adopt, program, routes, seed, estate, pidfile, control };
        let mut hands =
            Hands::open(opening).inspect_err(|_| own_control.iter().for_each(|path| estate::remove(path)))?;
        for address in hands.addresses() {
            log::info!("listening on {address}");
        }
        hands.warn_of_strangers(None);
        let wish = hands.wish().ok_or_else(|| StartError::Machine(io::ErrorKind::InvalidData.into()))?;
        let now = clock::monotonic_ms();
        let mut observed = Observed::new(now, dice);
        observed.allow(wish.boot_ms, wish.drain_ms);
        let desired = hands.first_wish(wish);
        if hands.standing.is_alone() {
            hands.estate.settle();
            hands.strangers.expect(now);
            hands.steer_afresh(desired.workers());
        }
        title::set("ollama-gate: master");
        let (desk, systemd) = (Desk::new(), Systemd::open());
        Ok(Self { desired, observed, hands, desk, systemd, signals, started: now, wake_at: None, kept })
    }

    /// Serves until told to stop; returns the exit code.
    pub fn run(mut self) -> u8 {
        loop {
            let left = self.settle();
            let now = clock::monotonic_ms();
            self.desk.see_out(now);
            if let Some(code) = left.filter(|_| !self.owes_an_answer()) {
                return self.leave(code);
            }
            self.tend(now);
            let ours = [self.systemd.due(), Some(self.hands.strays.due())];
            let ours = ours.map(|due| due.filter(|_| self.hands.standing.is_alone()));
            let due = [self.wake_at, self.hands.strangers.due(), self.desk.due()].into_iter().chain(ours);
            let wake_at = due.flatten().min();
            self.observed.woke(now, wake_at);
            for event in watch::wait(&mut self.hands, &self.desk, (&self.signals, &self.observed), wake_at) {
                watch::tell(&event, &self.observed);
                self.take_in(&event);
            }
            self.receive();
        }
    }

    /// Whether somebody came to this master before another one took over, and has not been answered.
    fn owes_an_answer(&self) -> bool {
        matches!(self.hands.standing, Standing::Retired) && self.desk.is_busy()
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
                self.foretell(action);
                match self.hands.perform(action, &self.desired, &self.observed) {
                    Outcome::Event(event) => {
                        if let (Action::HandOver { .. }, Event::UpgradeFailed { .. }) = (action, &event) {
                            self.systemd.main_pid(Pid::this());
                        }
                        self.take_in(&event);
                    }
                    Outcome::Done(code) => return Some(code),
                }
            }
        }
        log::error!("a bug: {ROUNDS_MAX} rounds of decisions without rest; pausing for a second");
        self.wake_at = Some(clock::monotonic_ms() + 1000);
        None
    }

    fn take_in(&mut self, event: &Event) {
        let now = clock::monotonic_ms();
        let phase = self.observed.phase;
        self.desired.apply(event, now);
        self.hands.steer_to(self.desired.workers());
        self.observed.allow(self.desired.wish.boot_ms, self.desired.wish.drain_ms);
        // Before it is taken in: asked twice, a process is still replaced once.
        if let Event::Ripe { pid, reason } = event
            && let Some(process) = self.observed.process(*pid).filter(|process| process.ripe.is_none())
        {
            self.hands.chronicle.restarted(process.place, reason.clone());
        }
        self.observed.apply(event, now);
        if phase == Phase::Serving {
            self.hands.chronicle.take_in(event, self.hands.zone.generation(), status::time);
        }
        self.desk.take_in(event, now);
        if *event == Event::Promoted {
            self.promoted(now);
        }
        self.note_workers();
        self.announce(event, phase, now);
    }

    /// Leaves for whoever takes over what operators have said about the number of workers.
    fn note_workers(&self) {
        if self.hands.standing.is_alone() {
            let said = WorkersWord {
                configured: self.desired.configured(),
                wanted: self.desired.wish.workers,
                none: self.desired.service == Service::Paused,
            };
            if self.hands.zone.workers_word() != Some(said) {
                self.hands.zone.tell_workers_word(said);
            }
        }
    }

    fn promoted(&mut self, now: Ms) {
        log::info!("upgrade: this gate has taken over");
        // Somebody may have spoken to the gate before us while we started.
        if let Some(said) = self.hands.zone.workers_word() {
            self.desired.heed(said);
        }
        self.hands.promoted(&self.desired, now);
        let (pid, time) = (gate_sys::process::own_pid(), status::time());
        self.hands.chronicle.upgrade =
            Some(protocol::LastUpgrade { time, ok: true, pid: Some(pid), reasons: Vec::new() });
    }

    /// The last thing it does.
    fn leave(mut self, code: u8) -> u8 {
        if code != EX_OK {
            let reason = self.observed.failed_boot.as_ref().map_or("it cannot start", |failed| failed.reason.as_str());
            self.hands.estate.refuse(reason);
        }
        self.hands.remove_control();
        if self.hands.standing.is_alone() {
            self.hands.zone.forget_workers_word();
        }
        code
    }
}

/// The pid file: the one of the gate before us where it is the same, else one of our own.
fn pidfile(plan: &Plan, estate: &mut Estate) -> Result<Option<PidFile>, StartError> {
    let handed = estate.pid.take();
    let stale = handed.iter().map(|(path, _)| path).find(|path| plan.pid.as_ref() != Some(path));
    estate.stale.extend(stale.cloned());
    let Some(path) = &plan.pid else { return Ok(None) };
    let claimed = match handed {
        Some((handed, fd)) if handed == *path && path.exists() => PidFile::adopt(path, fd),
        Some(_) | None => PidFile::claim(path),
    };
    claimed.map(Some).map_err(|error| StartError::PidFile(path.clone(), error))
}

/// Where the control socket is in the directory that systemd makes for such files; of several the first.
pub fn runtime_control() -> Option<PathBuf> {
    let directories = std::env::var("RUNTIME_DIRECTORY").ok()?;
    let first = PathBuf::from(directories.split(':').next()?);
    first.is_absolute().then(|| first.join(CONTROL_FILE))
}

/// The control socket, where one is asked for, by the operator or by systemd's directory for such files.
fn control(plan: &Plan, estate: &mut Estate) -> Result<Option<ControlSocket>, StartError> {
    let handed = estate.control.take();
    let wanted = plan.control.clone().or_else(runtime_control);
    let stale = handed.iter().map(|(path, _)| path).find(|path| wanted.as_ref() != Some(path));
    estate.stale.extend(stale.cloned());
    let Some(path) = wanted else { return Ok(None) };
    let socket = match handed {
        Some((handed, fd)) if handed == path => ControlSocket::adopt(&path, fd),
        Some(_) | None => ControlSocket::bind(&path),
    };
    match socket {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if plan.control.is_some() => Err(StartError::Control(path, error)),
        Err(error) => {
            log::warn!("no control socket at {}: {error}", path.display());
            Ok(None)
        }
    }
}
