//! What the master says to operators and to the service manager, and what it does by itself between two events.

use std::os::fd::AsFd;

use gate_sys::clock;
use gate_zone::{Place, Role};

use crate::Master;
use crate::desired::{Desired, Duty, Upgrade, WORKERS_MAX};
use crate::desk::{Matter, Then, Ticket};
use crate::estate;
use crate::event::{Action, Canary, Event, Ms, Resize, Stop, ZoneFate};
use crate::keys::{Published, log_refusal};
use crate::observed::{Observed, Phase, Process, State};
use crate::protocol::{Answer, Drained, KeysRead, Request, Scaled};
use crate::systemd::{Health, Offer};
use crate::watch;

/// What a visitor is told when the gate is on its way out.
const STOPPING: &str = "the gate is stopping";

/// What a request comes to.
enum Reply {
    /// This answer, now.
    Now(Answer),
    /// An answer when this is settled.
    Later(Matter),
    /// An answer now, and the connection stays for as long as the master.
    Hold(Answer),
}

impl Master {
    /// Hears what operators want.
    pub(crate) fn receive(&mut self) {
        let now = clock::monotonic_ms();
        let door = self.hands.control.as_ref().filter(|_| self.hands.standing.is_alone());
        for (ticket, request) in self.desk.open(door, now) {
            match request {
                Request::Status {} => log::debug!("control: {}", request.name()),
                _ => log::info!("control: {}", request.name()),
            }
            let (reply, event) = self.consider(&request, now);
            // First the waiting, then what is waited for.
            self.reply(ticket, reply, now);
            if let Some(event) = event {
                watch::tell(&event, &self.observed);
                self.take_in(&event);
            }
        }
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply, now: Ms) {
        match reply {
            Reply::Now(answer) => self.desk.answer(ticket, &answer, Then::Close, now),
            Reply::Hold(answer) => self.desk.answer(ticket, &answer, Then::Hold, now),
            Reply::Later(matter) => self.desk.wait(ticket, matter),
        }
    }

    /// What to answer, and what happens.
    fn consider(&mut self, request: &Request, now: Ms) -> (Reply, Option<Event>) {
        let refused = |reason: &str| (Reply::Now(Answer::refused(reason)), None);
        let later = |wait: bool, matter| if wait { Reply::Later(matter) } else { Reply::Now(Answer::Accepted) };
        let leaving = self.desired.stop.is_some() || self.desired.duty != Duty::Serving;
        match request {
            Request::Status {} => {
                let status = self.hands.status(&self.desired, &self.observed, (self.started, now));
                (Reply::Now(Answer::Status(Box::new(status))), None)
            }
            Request::Stop { wait, quick } => {
                let stop = if *quick { Stop::Quick } else { Stop::Graceful };
                let reply = if *wait { Reply::Hold(Answer::Accepted) } else { Reply::Now(Answer::Accepted) };
                // A second word hurries. Whoever asks for a graceful stop, and maybe waits for it, does not mean that.
                let is_news = self.desired.stop.is_none() || *quick;
                (reply, is_news.then_some(Event::StopAsked(stop)))
            }
            _ if leaving => refused(STOPPING),
            Request::Reload { canary: Some(canary), .. } if canary.workers.get() > self.desired.workers() => {
                refused(&format!("{} canaries cannot be had of {} workers", canary.workers, self.desired.workers()))
            }
            Request::Reload { wait, canary } => {
                let canary = canary.map(|canary| Canary {
                    workers: canary.workers.get(),
                    hold_ms: Ms::from(canary.seconds.get()) * 1_000,
                });
                (later(*wait, Matter::Reload), Some(Event::ReloadAsked(canary)))
            }
            Request::Upgrade { wait, fresh_zone } => {
                if let Some(under_way) = upgrade_under_way(&self.desired, &self.observed) {
                    return refused(&under_way);
                }
                let zone = if *fresh_zone { ZoneFate::Fresh } else { ZoneFate::HandedOn };
                (later(*wait, Matter::Upgrade), Some(Event::UpgradeAsked(zone)))
            }
            Request::Scale { workers } if workers.get() > WORKERS_MAX => {
                refused(&format!("write a number of workers from 1 to {WORKERS_MAX}, not {workers}"))
            }
            Request::Scale { workers } => {
                let scaled = Scaled { workers: workers.get(), before: self.desired.workers() };
                (Reply::Now(Answer::Scale(scaled)), Some(Event::ResizeAsked(Resize::To(workers.get()))))
            }
            Request::Reopen {} => {
                let answer = self.hands.offer_log().map_or_else(Answer::refused, |()| Answer::Done);
                (Reply::Now(answer), Some(Event::ReopenAsked))
            }
            Request::Drain { slot, wait } => self.drain(slot.get(), *wait),
            Request::Keys {} => (Reply::Now(self.reread_keys()), None),
        }
    }

    fn reread_keys(&mut self) -> Answer {
        match self.hands.reread_keys() {
            Ok(keys) => Answer::Keys(KeysRead { keys: keys.map(Published::told).cloned() }),
            Err(refused) => {
                log_refusal(&refused.reasons);
                Answer::Refused { reasons: refused.reasons }
            }
        }
    }

    fn drain(&self, number: u32, wait: bool) -> (Reply, Option<Event>) {
        let place = Place { role: Role::Worker, slot: number - 1 };
        let mut ready = self.observed.at(place).filter(|process| process.state == State::Ready);
        let Some(worker) = ready.next() else {
            let wanted = self.desired.workers();
            let reason = format!("no worker serves in slot {number}; there are {wanted}, numbered from 1");
            return (Reply::Now(Answer::refused(reason)), None);
        };
        let drained = Drained { pid: worker.pid.as_raw().cast_unsigned() };
        let reply = if wait { Reply::Later(Matter::Left(worker.pid)) } else { Reply::Now(Answer::Drain(drained)) };
        (reply, Some(Event::Ripe { pid: worker.pid, reason: "was drained by an operator".to_owned() }))
    }

    /// Tells the service manager what it has to know before something is done.
    pub(crate) fn foretell(&mut self, action: &Action) {
        if let Action::HandOver { pid, .. } = action {
            // Whatever the new master says before it is the main process is not heard.
            self.systemd.main_pid(*pid);
        }
    }

    /// Tells the service manager, and whoever waits in vain, what an event means.
    pub(crate) fn announce(&mut self, event: &Event, phase: Phase, now: Ms) {
        let alone = self.hands.standing.is_alone();
        match event {
            Event::Loaded { .. } => self.systemd.reloading(),
            Event::LoadRefused { reasons } => {
                self.systemd.reloading();
                let reason = reasons.first().map_or("", String::as_str);
                self.systemd.ready(&format!("reload refused: {reason}"));
            }
            Event::RolledBack { reason } => self.systemd.ready(&format!("reload failed: {reason}")),
            Event::Committed { .. } if phase == Phase::FirstStart && !alone => {}
            Event::Committed { .. } | Event::Promoted => {
                let summary = self.hands.summary(&self.desired, &self.observed);
                self.systemd.ready(&summary);
            }
            Event::StopAsked(_) => {
                if alone {
                    self.systemd.stopping(now);
                }
                self.desk.dismiss(STOPPING, now);
            }
            Event::HandedOver { .. } => {
                self.desk.dismiss("another gate has taken over meanwhile; ask that one", now);
            }
            _ => {}
        }
    }

    /// What is due by the clock.
    pub(crate) fn tend(&mut self, now: Ms) {
        self.hands.strangers.settle(self.hands.zone, &self.observed, now);
        if !self.hands.standing.is_alone() {
            return;
        }
        self.hands.strays.settle(self.hands.zone, now);
        self.keep(now);
        let health = health(&self.desired, &self.observed);
        let (hands, want, seen) = (&self.hands, &self.desired, &self.observed);
        self.systemd.tend(now, health, || hands.summary(want, seen));
    }

    /// Leaves with the service manager what a next master would need if this one were killed.
    fn keep(&mut self, now: Ms) {
        let settled = self.observed.phase == Phase::Serving && self.desired.stop.is_none();
        if !settled || !self.systemd.may_offer(now) {
            return;
        }
        let (sockets, systemd) = (self.hands.keepsakes(), &mut self.systemd);
        let zone = (estate::ZONE, self.hands.memory.as_fd());
        let sockets = sockets.iter().map(|(name, socket)| (name.as_str(), socket.as_fd()));
        let wanted: Vec<_> = [zone].into_iter().chain(sockets).collect();
        let is_wanted = |kept: &String| wanted.iter().any(|(name, _)| name == kept);
        // What is still to be let go of stays in the list.
        self.kept.retain(|name| is_wanted(name) || systemd.unstore(name, now) == Offer::Pending);
        for (name, descriptor) in wanted {
            let is_kept = self.kept.iter().any(|kept| kept == name);
            if !is_kept && systemd.store(name, descriptor, now) == Offer::Settled {
                self.kept.push(name.to_owned());
            }
        }
    }
}

/// Why no other upgrade can begin, while that is so.
pub(crate) fn upgrade_under_way(want: &Desired, seen: &Observed) -> Option<String> {
    match &seen.candidate {
        Some(candidate) => Some(format!("an upgrade is under way already: {} is on its way", candidate.pid)),
        None => match want.upgrade {
            Upgrade::Asked(_) => Some("an upgrade is asked for already".to_owned()),
            Upgrade::Idle => None,
        },
    }
}

/// Whether every place has a process that serves, or one that is on its way and in time.
fn health(want: &Desired, seen: &Observed) -> Health {
    let is_filled = |place| seen.at(place).any(Process::is_up);
    if want.places().all(is_filled) { Health::Good } else { Health::Poor }
}
