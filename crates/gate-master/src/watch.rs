//! The one place where the master waits: for a signal, a ready byte, or its next deadline.

use std::os::fd::AsFd;

use gate_sys::clock;
use gate_sys::process;
use gate_sys::signals::{Caught, Sender, Signal, Signals};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::birth::More;
use crate::event::{Event, Ms, Stop};
use crate::hands::Hands;
use crate::observed::{Observed, Phase, State, Wanted, told};

/// Waits until something has happened or `wake_at` has come, and tells what.
pub(crate) fn wait(hands: &mut Hands, signals: &Signals, seen: &Observed, wake_at: Option<Ms>) -> Vec<Event> {
    let mut watched = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    watched.extend(hands.awaited.iter().map(|awaited| PollFd::new(awaited.as_fd(), PollFlags::POLLIN)));
    let timeout = wake_at.map_or(PollTimeout::NONE, |at| {
        let left = at.saturating_sub(clock::monotonic_ms());
        PollTimeout::try_from(left.min(i32::MAX as u64) as i32).unwrap_or(PollTimeout::MAX)
    });
    if let Err(error) = poll(&mut watched, timeout)
        && error != nix::errno::Errno::EINTR
    {
        log::error!("poll: {error}");
    }
    drop(watched);
    let mut events = Vec::new();
    // Words before deaths: a child that says why it fails and exits at once must be heard first.
    hear(hands, &mut events);
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
        Signal::SIGHUP => Some(Event::ReloadAsked),
        Signal::SIGTTIN => Some(Event::WorkerMoreAsked),
        Signal::SIGTTOU => Some(Event::WorkerFewerAsked),
        Signal::SIGUSR1 | Signal::SIGUSR2 | Signal::SIGWINCH => {
            log::warn!("{} is not supported yet; nothing was done", caught.signal);
            None
        }
        // SIGCHLD only wakes the loop.
        _ => None,
    }
}

fn bury(hands: &mut Hands, seen: &Observed, events: &mut Vec<Event>) {
    loop {
        match process::reap() {
            Ok(Some(ended)) => {
                // It may have spoken between the reading of the pipes and its end.
                hands.last_words(ended.pid, events);
                let known = seen.processes.iter().find(|process| process.pid == ended.pid);
                hands.bury(ended.pid, known.map(|process| process.row));
                events.push(Event::Exited { pid: ended.pid, exit: ended.exit });
            }
            Ok(None) => return,
            Err(error) => {
                log::error!("waitpid: {error}");
                return;
            }
        }
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
        Event::ReloadAsked => log::info!("reload asked for"),
        Event::WorkerMoreAsked => log::info!("one worker more"),
        Event::WorkerFewerAsked => log::info!("one worker fewer"),
        Event::BootFailed { reason, .. } => log::error!("{reason}"),
        Event::Leaving(pid) => {
            if let Some(process) = seen.processes.iter().find(|process| process.pid == *pid) {
                log::info!("{} ({pid}) was told by somebody else to leave", process.place);
            }
        }
        Event::Ripe { pid, reason } => {
            if let Some(process) = seen.processes.iter().find(|process| process.pid == *pid) {
                log::info!("{} ({pid}) is to be replaced: {reason}", process.place);
            }
        }
        Event::Ready(pid) => {
            if let Some(process) = seen.processes.iter().find(|process| process.pid == *pid) {
                log::info!("{} ({pid}) of generation {} is ready", process.place, process.generation);
            }
        }
        Event::Exited { pid, exit } => {
            let Some(process) = seen.processes.iter().find(|process| process.pid == *pid) else { return };
            let (place, told) = (process.place, told(*exit));
            match (process.wanted, process.state) {
                (Wanted::No, State::Draining { .. }) => log::info!("{place} ({pid}) has left"),
                (Wanted::No, _) => log::info!("{place} ({pid}) {told}"),
                (Wanted::Yes, _) if seen.phase == Phase::FirstStart && process.ready_at.is_none() => {
                    log::error!("{place} ({pid}) {told} before it was ready");
                }
                (Wanted::Yes, _) => log::error!("{place} ({pid}) {told}: it will be replaced"),
            }
        }
        _ => {}
    }
}
