//! The one place where the master waits: for a signal, a ready byte, or its next deadline.

use std::os::fd::AsFd;
use std::time::Duration;

use gate_sys::clock;
use gate_sys::process::{self, Ended, Exit};
use gate_sys::signals::{Caught, Sender, Signal, Signals};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::birth::More;
use crate::desk::Desk;
use crate::event::{Blame, Event, Ms, Resize, Stop, ZoneFate};
use crate::hands::Hands;
use crate::observed::{Observed, Phase, Process, State, Wanted, told};

/// Pause after a wait that failed for lack of memory: without one the loop would spin until the lack is over.
const POLL_PAUSE: Duration = Duration::from_millis(200);

/// Waits until something has happened or `wake_at` has come, and tells what.
pub(crate) fn wait(
    hands: &mut Hands,
    desk: &Desk,
    (signals, seen): (&Signals, &Observed),
    wake_at: Option<Ms>,
) -> Vec<Event> {
    let mut watched = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    watched.extend(hands.awaited.iter().map(|awaited| PollFd::new(awaited.as_fd(), PollFlags::POLLIN)));
    watched.extend(hands.standing.watched().map(|go| PollFd::new(go, PollFlags::POLLIN)));
    watched.extend(desk.watched(hands.control.as_ref().filter(|_| hands.standing.is_alone())));
    let timeout = wake_at.map_or(PollTimeout::NONE, |at| {
        let left = at.saturating_sub(clock::monotonic_ms());
        PollTimeout::try_from(left.min(i32::MAX as u64) as i32).unwrap_or(PollTimeout::MAX)
    });
    if let Err(error) = poll(&mut watched, timeout)
        && error != nix::errno::Errno::EINTR
    {
        log::error!("poll: {error}; trying on");
        std::thread::sleep(POLL_PAUSE); // bounded poll
    }
    drop(watched);
    let mut events = Vec::new();
    // Words before deaths: a child that says why it fails and exits at once must be heard first.
    hear(hands, &mut events);
    if hands.standing.is_promoted() {
        events.push(Event::Promoted);
    }
    obey(signals, &mut events);
    bury(hands, seen, &mut events);
    events.push(Event::Beats(beats(hands, seen)));
    events
}

fn hear(hands: &mut Hands, events: &mut Vec<Event>) {
    hands.awaited.retain_mut(|awaited| awaited.read(events) == More::Open);
}

fn obey(signals: &Signals, events: &mut Vec<Event>) {
    loop {
        match signals.next() {
            Ok(Some(caught)) => events.extend(order(caught)),
            Ok(None) => return,
            Err(error) => {
                log::error!("reading signals: {error}");
                return;
            }
        }
    }
}

/// What a signal asks for.
fn order(caught: Caught) -> Option<Event> {
    let from_terminal = caught.sender == Sender::Kernel;
    match caught.signal {
        Signal::SIGTERM => Some(Event::StopAsked(Stop::Graceful)),
        Signal::SIGINT | Signal::SIGQUIT => Some(Event::StopAsked(Stop::Quick)),
        // The terminal closed, or changed its size: nobody's order.
        Signal::SIGHUP | Signal::SIGWINCH if from_terminal => {
            log::debug!("{} from the terminal: no order", caught.signal);
            None
        }
        Signal::SIGHUP => Some(Event::ReloadAsked(None)),
        Signal::SIGTTIN => Some(Event::ResizeAsked(Resize::More)),
        Signal::SIGTTOU => Some(Event::ResizeAsked(Resize::Fewer)),
        Signal::SIGUSR1 => Some(Event::ReopenAsked),
        Signal::SIGUSR2 => Some(Event::UpgradeAsked(ZoneFate::HandedOn)),
        Signal::SIGWINCH => Some(Event::PauseAsked),
        // SIGCHLD only wakes the loop.
        _ => None,
    }
}

fn bury(hands: &mut Hands, seen: &Observed, events: &mut Vec<Event>) {
    loop {
        match process::reap() {
            Ok(Some(Ended { pid, exit })) => {
                // It may have spoken between the reading of the pipes and its end.
                let heard = events.len();
                hands.last_words(pid, events);
                let known = seen.known(pid);
                let blame = known.map_or(Blame::Itself, |process| hands.blame(process, exit));
                if let Some(process) = known {
                    // Its last words may say why, or that it leaves as told by somebody else.
                    let mut dead = process.clone();
                    events[heard..].iter().for_each(|event| dead.heard(event));
                    if dead.wanted == Wanted::Yes {
                        hands.mourn(&dead, (exit, blame), seen.phase);
                    }
                }
                hands.bury(pid, known.map(|process| process.row));
                events.push(Event::Exited { pid, exit, blame });
            }
            Ok(None) => return,
            Err(error) => {
                log::error!("waitpid: {error}");
                return;
            }
        }
    }
}

impl Hands {
    /// Through whom a process has ended.
    fn blame(&mut self, process: &Process, exit: Exit) -> Blame {
        let killed = matches!(exit, Exit::Signal { signal: Signal::SIGKILL, .. });
        if !killed || process.state == State::Killed {
            return Blame::Itself;
        }
        if let Some((counter, known)) = &mut self.oom
            && let Some(count) = counter.count()
            && count > *known
        {
            *known += 1;
            return Blame::Memory;
        }
        Blame::Outside
    }

    /// One structured record of a death that nobody wanted, for the log and for whoever asks later.
    fn mourn(&mut self, dead: &Process, (exit, blame): (Exit, Blame), phase: Phase) {
        let death = self.report(dead, (exit, blame), clock::monotonic_ms());
        let what_follows = match phase {
            Phase::FirstStart if dead.ready_at.is_none() => "",
            Phase::FirstStart | Phase::Serving => ": it will be replaced",
        };
        let before = if dead.ready_at.is_none() { " before it was ready" } else { "" };
        let record = serde_json::to_string(&death).unwrap_or_default();
        log::error!("{} ({}) {}{before}{what_follows}; {}; {record}", dead.place, dead.pid, death.how, death.cause);
        self.chronicle.died(dead.place, death);
    }
}

fn beats(hands: &Hands, seen: &Observed) -> Vec<(process::Pid, Ms)> {
    let board = hands.zone().scoreboard();
    let beat = |process: &crate::observed::Process| (process.pid, board.row(process.row).heartbeat_ms());
    seen.processes.iter().map(beat).collect()
}

/// One line for the operator about an event, before it is taken in.
pub(crate) fn tell(event: &Event, seen: &Observed) {
    match event {
        Event::StopAsked(Stop::Graceful) => log::info!("stopping: finishing what is in service"),
        Event::StopAsked(Stop::Quick) => log::info!("stopping now"),
        Event::ReloadAsked(_) => log::info!("reload asked for"),
        Event::ResizeAsked(Resize::More) => log::info!("one worker more"),
        Event::ResizeAsked(Resize::Fewer) => log::info!("one worker fewer"),
        Event::ResizeAsked(Resize::To(workers)) => log::info!("{workers} workers are wanted"),
        Event::PauseAsked => log::info!("pausing: no workers until a reload, TTIN or a word on their number"),
        Event::UpgradeAsked(_) => log::info!("upgrade asked for"),
        Event::BootFailed { reason, .. } => log::error!("{reason}"),
        Event::Leaving(pid) => {
            // Who was told by us says so too.
            if let Some(process) = seen.known(*pid).filter(|process| process.wanted == Wanted::Yes) {
                log::info!("{} ({pid}) was told by somebody else to leave", process.place);
            }
        }
        Event::Ripe { pid, reason } => {
            if let Some(process) = seen.known(*pid) {
                log::info!("{} ({pid}) is to be replaced: {reason}", process.place);
            }
        }
        Event::Ready(pid) => {
            if let Some(process) = seen.known(*pid) {
                log::info!("{} ({pid}) of generation {} is ready", process.place, process.generation);
            }
        }
        Event::Exited { pid, exit, .. } => {
            let Some(process) = seen.known(*pid) else { return };
            let place = process.place;
            match (process.wanted, process.state) {
                (Wanted::No, State::Draining { .. }) => log::info!("{place} ({pid}) has left"),
                (Wanted::No, _) => log::info!("{place} ({pid}) {}", told(*exit)),
                // It has had its record.
                (Wanted::Yes, _) => {}
            }
        }
        _ => {}
    }
}
