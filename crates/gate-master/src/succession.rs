//! From one master to the next: starting the candidate, handing over, and on the other side taking over.
//!
//! The two never wait for each other: each does its part when the other's word comes, and goes on alone if the other
//! dies.

use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use gate_config::Plan;
use gate_sys::clock;
use gate_sys::control::ControlSocket;
use gate_sys::handed;
use gate_sys::listen::{Address, Listener};
use gate_sys::process::{self, Pid};
use gate_sys::shared::SharedWords;
use gate_sys::signals::Signal;
use gate_zone::Zone;

use crate::birth::Awaited;
use crate::desired::{Desired, Reload};
use crate::estate::{self, Estate};
use crate::event::{Event, Ms, Wish, ZoneFate};
use crate::hands::Hands;
use crate::observed::Observed;
use crate::refused::Refused;
use crate::{StartError, fleet};

/// How often the rows of processes that are not our children are looked at.
const STRANGERS_EVERY_MS: Ms = 1_000;

/// How this master stands to others that share its sockets and its zone.
#[derive(Debug)]
pub(crate) enum Standing {
    /// There is no other that serves.
    Alone,
    /// Another one serves until it tells us through this pipe that we do.
    Candidate(File),
    /// Another one serves now.
    Retired,
}

impl Standing {
    /// As the estate says.
    pub(crate) fn of(estate: &mut Estate) -> Self {
        estate.go.take().map_or(Self::Alone, Self::Candidate)
    }

    pub(crate) fn is_alone(&self) -> bool {
        matches!(self, Self::Alone)
    }

    /// What to wait for, for a candidate.
    pub(crate) fn watched(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Candidate(go) => Some(go.as_fd()),
            Self::Alone | Self::Retired => None,
        }
    }

    /// Whether the gate before us has let go, or is gone.
    pub(crate) fn is_promoted(&mut self) -> bool {
        let Self::Candidate(go) = self else { return false };
        // A byte is the word, end-of-file the death of whoever would have said it.
        let transient = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
        !matches!(go.read(&mut [0]), Err(error) if transient.contains(&error.kind()))
    }
}

/// Processes in the scoreboard that are nobody's children of ours: those of a master before us.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    next_look: Option<Ms>,
}

impl Strangers {
    /// Looks for them from now on, until none is left.
    pub(crate) fn expect(&mut self, now: Ms) {
        self.next_look = Some(now);
    }

    pub(crate) fn due(&self) -> Option<Ms> {
        self.next_look
    }

    /// Settles the rows of those that are gone.
    pub(crate) fn settle(&mut self, zone: Zone, seen: &Observed, now: Ms) {
        if self.next_look.is_none_or(|at| now < at) {
            return;
        }
        let (board, own) = (zone.scoreboard(), process::own_pid());
        let mut left = 0;
        for (index, row) in board.used() {
            if let Some(pid) = row.pid() {
                let is_ours = seen.processes.iter().any(|known| known.row == index);
                if is_ours {
                    continue;
                }
                if process::is_gone(pid, row.born()) {
                    fleet::settle(zone, index, pid);
                } else {
                    left += 1;
                }
            } else if let Some(master) = row.set_aside_by().filter(|master| *master != own) {
                if process::born(master).is_some() {
                    left += 1;
                } else {
                    board.free(index);
                }
            }
        }
        self.next_look = (left > 0).then_some(now + STRANGERS_EVERY_MS);
    }
}

/// The zone of a gate that starts: the one that was left to it, or a new one.
pub(crate) fn zone(
    estate: &mut Estate,
    plan: &Plan,
    entries: NonZeroUsize,
    seed: [u64; 2],
) -> Result<(SharedWords, Zone), StartError> {
    let Some(left) = estate.zone.take() else { return Zone::create(entries, seed).map_err(StartError::Machine) };
    match Zone::adopt(left) {
        Ok((memory, zone)) => {
            if zone.entries() != entries.get() {
                log::warn!(
                    "limit_entries stays {}: {} takes effect with a zone of its own (upgrade --fresh-zone, or a stop and \
                     a start)",
                    zone.entries(),
                    plan.limit_entries
                );
            }
            Ok((memory, zone))
        }
        Err(foreign) if estate.is_candidate() => Err(StartError::Load(Refused::of(foreign.to_string()))),
        Err(foreign) => {
            // Nobody is there to go on in our place.
            log::warn!("the zone in the service manager's keeping is not used, counts start afresh: {foreign}");
            Zone::create(entries, seed).map_err(StartError::Machine)
        }
    }
}

impl Hands {
    /// Starts the program again, with all that the next master needs.
    pub(crate) fn start_candidate(&mut self, zone: ZoneFate) -> Event {
        match self.try_start_candidate(zone) {
            Ok(pid) => {
                log::info!("upgrade: the candidate is started as {pid}; this gate serves until it does");
                Event::CandidateStarted { pid }
            }
            Err(reason) => {
                log::error!("upgrade failed, this gate keeps serving: {reason}");
                Event::UpgradeFailed { reason }
            }
        }
    }

    fn try_start_candidate(&mut self, zone: ZoneFate) -> Result<Pid, String> {
        if process::own_pid() == 1 {
            return Err(
                "this gate is process 1 of its container, and the kernel would end the new one with it: restart \
                        the container, or start it with an init of its own (docker run --init)"
                    .to_owned(),
            );
        }
        self.clear_keys().map_err(|error| error.to_string())?;
        let program = &self.program;
        let name = program.argument0.to_string_lossy();
        let path = std::env::var_os("PATH");
        let resolved = handed::resolve(&program.argument0, &program.directory, path.as_deref())
            .ok_or_else(|| format!("{name}: no such program, or it is not executable"))?;
        let pipes = process::pipe().and_then(|verdict| Ok((verdict, process::pipe()?)));
        let ((verdict_read, verdict), (go, go_write)) = pipes.map_err(|error| format!("no pipe: {error}"))?;
        let mut given: Vec<(String, BorrowedFd<'_>)> =
            vec![(estate::VERDICT.to_owned(), verdict.as_fd()), (estate::GO.to_owned(), go.as_fd())];
        let sockets: Vec<_> = self.current.iter().flat_map(|current| current.sockets.named()).collect();
        if zone == ZoneFate::HandedOn {
            given.push((estate::ZONE.to_owned(), self.memory.as_fd()));
        }
        given.extend(sockets.iter().map(|(name, listener)| (name.clone(), listener.as_fd())));
        if let Some(pidfile) = &self.pidfile {
            given.push((estate::pid_name(pidfile.path()), pidfile.as_fd()));
        }
        let control = self.control.as_ref();
        if let Some(control) = control {
            given.push((estate::control_name(control.path()), control.as_fd()));
        }
        let arguments: Vec<_> = [&program.argument0].into_iter().chain(&program.arguments).cloned().collect();
        let pid = handed::spawn_program(&resolved, &arguments, &program.directory, &given)
            .map_err(|error| format!("{}: {error}", resolved.display()))?;
        self.awaited.push(Awaited::new(pid, verdict_read));
        self.go = Some(File::from(go_write));
        Ok(pid)
    }

    /// Lets the candidate be the master.
    pub(crate) fn hand_over(&mut self, pid: Pid, version: &str, want: &Desired) -> Event {
        // The word first: should it be gone again by now, nothing has changed yet.
        let heard = self.go.take().is_some_and(|mut go| go.write_all(b"1").is_ok());
        if !heard {
            return self.give_up_upgrade(&format!("{pid} was gone again as soon as it served"), want);
        }
        log::info!("upgrade: {pid} (version {version}) serves; finishing what is in service here");
        if let Reload::Asked(_) = want.reload {
            // It has read its configuration before somebody asked for this.
            if let Err(error) = process::kill(pid, Signal::SIGHUP) {
                log::error!("cannot pass the reload on to {pid}: {error}");
            }
        }
        if let Some(pidfile) = self.pidfile.take() {
            pidfile.leave_to_heir();
        }
        self.standing = Standing::Retired;
        Event::HandedOver { pid, version: version.to_owned() }
    }

    /// Goes on without the candidate.
    pub(crate) fn give_up_upgrade(&mut self, reason: &str, want: &Desired) -> Event {
        self.go = None;
        match want.stop {
            None => log::error!("upgrade failed, this gate keeps serving: {reason}"),
            Some(_) => log::info!("upgrade given up, the gate is stopping: {reason}"),
        }
        // Killed, it has left rows behind, and processes that may need a while to notice.
        self.strangers.expect(clock::monotonic_ms());
        self.steer_afresh(want.workers());
        Event::UpgradeFailed { reason: reason.to_owned() }
    }

    /// What follows from the first generation of this master being in service.
    pub(crate) fn first_commit(&mut self) {
        let version = self.program.version;
        self.estate.accept(version);
    }

    /// This master is the only one that serves from here on.
    pub(crate) fn promoted(&mut self, want: &Desired, now: Ms) {
        self.standing = Standing::Alone;
        if let Some(current) = &self.current {
            self.zone.tell_generation(current.generation);
        }
        // The gate before us may have read the file since we did, and nobody else publishes any more.
        self.refresh_keys();
        self.strangers.expect(now);
        self.estate.settle();
        self.steer_afresh(want.workers());
        if let Some(pidfile) = &mut self.pidfile
            && let Err(error) = pidfile.take_over()
        {
            log::error!("cannot write {}: {error}", pidfile.path().display());
        }
    }

    /// What the first configuration wants, with what operators have said to the master before.
    pub(crate) fn first_wish(&self, wish: Wish) -> Desired {
        let generation = self.current.as_ref().map_or(1, |current| current.generation);
        let mut desired = Desired::first(wish, generation);
        if let Some(said) = self.zone.workers_word() {
            desired.heed(said);
        }
        desired
    }

    /// The sockets that a next master would need if this one were killed, with the names it would look for. Those that
    /// somebody has opened for us are kept by whoever did.
    pub(crate) fn keepsakes(&self) -> Vec<(String, Rc<Listener>)> {
        let is_own = |listener: &Rc<Listener>| !matches!(listener.wanted(), Address::Inherited(_) | Address::Named(_));
        let sockets = self.current.iter().flat_map(|current| current.sockets.named());
        sockets.filter(|(_, listener)| is_own(listener)).collect()
    }

    /// Takes the control socket's file away, unless another gate has it now, or still.
    pub(crate) fn remove_control(&self) {
        let is_ours = |control: &&ControlSocket| match self.standing {
            Standing::Alone => true,
            Standing::Candidate(_) => !self.estate.shares_control(control.path()),
            Standing::Retired => false,
        };
        if let Some(control) = self.control.as_ref().filter(is_ours)
            && let Err(error) = control.remove()
        {
            log::warn!("cannot remove {}: {error}", control.path().display());
        }
    }
}
