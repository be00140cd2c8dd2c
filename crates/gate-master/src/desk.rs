//! The control socket: who asks, what for, and who still waits for an answer.
//!
//! One line in, one line out. Nothing blocks: a visitor that does not speak or does not listen is sent away.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use gate_sys::control::{ControlSocket, permitted};
use gate_sys::process::Pid;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::event::{Change, Effect, Event, Generation, Ms};
use crate::protocol::{self, Answer, ChangeLine, Drained, Reloaded, Request, Upgraded};

/// Visitors at once; more wait in the socket's queue.
const VISITORS_MAX: usize = 64;

/// How long a visitor may take to say its line, and to take in its answer.
const PATIENCE_MS: Ms = 5_000;

/// How long the door stays shut after somebody could not be let in, for lack of descriptors or memory: without a pause
/// the master would spin.
const SCARCE_PAUSE_MS: Ms = 500;

/// Where the operators come.
#[derive(Default)]
pub(crate) struct Desk {
    visitors: Vec<Visitor>,
    next: u64,
    /// Until then nobody is let in.
    shut_until: Option<Ms>,
}

/// Names a visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

struct Visitor {
    ticket: Ticket,
    stream: UnixStream,
    said: Vec<u8>,
    out: Vec<u8>,
    stage: Stage,
    until: Option<Ms>,
}

/// What a visitor is about.
enum Stage {
    /// Its line is not complete.
    Speaking,
    /// Its request is being looked at.
    Heard,
    /// It waits.
    Waiting(Matter),
    /// It has its answer, which may not be written yet.
    Answered(Then),
}

/// What becomes of a connection once its answer is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It is closed.
    Close,
    /// It stays open for as long as the master lives: its end tells.
    Hold,
}

/// What a visitor waits for.
pub(crate) enum Matter {
    /// The next configuration to be loaded.
    Reload,
    /// This configuration to be rolled out.
    Roll {
        /// Which.
        generation: Generation,
        /// What it changes.
        changes: Vec<Change>,
        /// What was said about its canaries.
        canary: Option<String>,
    },
    /// A successor.
    Upgrade,
    /// The end of this process.
    Left(Pid),
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// What to wait for, and on whose behalf. Without room for one more visitor the `door` is not looked at.
    pub(crate) fn watched<'a>(&'a self, door: Option<&'a ControlSocket>) -> Vec<PollFd<'a>> {
        let visitor = |visitor: &'a Visitor| {
            let flags = match (&visitor.stage, visitor.out.is_empty()) {
                (_, false) => PollFlags::POLLOUT,
                (Stage::Speaking | Stage::Heard | Stage::Answered(_), true) => PollFlags::POLLIN,
                // Only its leaving matters, which is told unasked.
                (Stage::Waiting(_), true) => PollFlags::empty(),
            };
            PollFd::new(visitor.stream.as_fd(), flags)
        };
        let door = door.filter(|_| self.has_room()).map(|door| PollFd::new(door.as_fd(), PollFlags::POLLIN));
        door.into_iter().chain(self.visitors.iter().map(visitor)).collect()
    }

    fn has_room(&self) -> bool {
        self.visitors.len() < VISITORS_MAX && self.shut_until.is_none()
    }

    /// When somebody's patience ends.
    pub(crate) fn due(&self) -> Option<Ms> {
        self.visitors.iter().filter_map(|visitor| visitor.until).chain(self.shut_until).min()
    }

    /// Whether somebody speaks, or takes in an answer. That ends with their patience.
    pub(crate) fn is_busy(&self) -> bool {
        self.visitors.iter().any(|visitor| visitor.until.is_some())
    }

    /// Lets visitors in, hears what they say, goes on with what is to be written to them.
    pub(crate) fn open(&mut self, door: Option<&ControlSocket>, now: Ms) -> Vec<(Ticket, Request)> {
        self.shut_until = self.shut_until.filter(|until| now < *until);
        if let Some(door) = door {
            self.let_in(door, now);
        }
        let mut requests = Vec::new();
        for visitor in &mut self.visitors {
            visitor.write();
            match visitor.hear() {
                Some(Ok(request)) => requests.push((visitor.ticket, request)),
                Some(Err(reason)) => visitor.answer(&Answer::refused(reason), Then::Close, now),
                None => {}
            }
        }
        requests
    }

    /// Closes the connections of those who have their answer, or have used up their patience.
    pub(crate) fn see_out(&mut self, now: Ms) {
        self.visitors.retain(|visitor| !visitor.is_over(now));
    }

    fn let_in(&mut self, door: &ControlSocket, now: Ms) {
        while self.has_room() {
            match door.accept() {
                Ok(Some(peer)) => {
                    let ticket = Ticket(self.next);
                    let (said, out) = (Vec::new(), Vec::new());
                    let (stage, until) = (Stage::Speaking, Some(now + PATIENCE_MS));
                    let mut visitor = Visitor { ticket, stream: peer.stream, said, out, stage, until };
                    if !permitted(peer.uid) {
                        log::warn!("control: refused to process {} of user {}", peer.pid, peer.uid);
                        visitor.answer(&Answer::refused(protocol::NOT_PERMITTED), Then::Close, now);
                    }
                    self.next += 1;
                    self.visitors.push(visitor);
                }
                Ok(None) => return,
                Err(error) => {
                    log::warn!("control: cannot accept: {error}");
                    self.shut_until = Some(now + SCARCE_PAUSE_MS);
                }
            }
        }
    }

    /// Gives a visitor its answer.
    pub(crate) fn answer(&mut self, ticket: Ticket, answer: &Answer, then: Then, now: Ms) {
        if let Some(visitor) = self.visitors.iter_mut().find(|visitor| visitor.ticket == ticket) {
            visitor.answer(answer, then, now);
        }
    }

    /// Lets a visitor wait.
    pub(crate) fn wait(&mut self, ticket: Ticket, matter: Matter) {
        if let Some(visitor) = self.visitors.iter_mut().find(|visitor| visitor.ticket == ticket) {
            visitor.stage = Stage::Waiting(matter);
            visitor.until = None;
        }
    }

    /// Answers those whom an event concerns.
    pub(crate) fn take_in(&mut self, event: &Event, now: Ms) {
        for visitor in &mut self.visitors {
            let Stage::Waiting(matter) = &mut visitor.stage else { continue };
            if let Some(answer) = matter.take_in(event) {
                visitor.answer(&answer, Then::Close, now);
            }
        }
    }

    /// Tells all that wait that nothing will come of it.
    pub(crate) fn dismiss(&mut self, reason: &str, now: Ms) {
        for visitor in &mut self.visitors {
            if matches!(visitor.stage, Stage::Waiting(Matter::Reload | Matter::Roll { .. } | Matter::Upgrade)) {
                visitor.answer(&Answer::refused(reason), Then::Close, now);
            }
        }
    }
}

impl Matter {
    fn take_in(&mut self, event: &Event) -> Option<Answer> {
        match (&mut *self, event) {
            (Self::Reload, Event::LoadRefused { reasons }) => Some(Answer::Refused { reasons: reasons.clone() }),
            (Self::Reload, Event::Loaded { generation, changes, .. }) => {
                *self = Self::Roll { generation: *generation, changes: changes.clone(), canary: None };
                None
            }
            (Self::Roll { canary, .. }, Event::Judged(Ok(verdict))) => {
                *canary = Some(verdict.clone());
                None
            }
            (Self::Roll { generation, changes, canary }, Event::Committed { generation: serves }) => {
                (*generation == *serves).then(|| {
                    Answer::Reload(Reloaded {
                        generation: u64::from(*generation),
                        changes: changes.iter().map(line).collect(),
                        canary: canary.clone(),
                    })
                })
            }
            (Self::Roll { .. }, Event::RolledBack { reason }) | (Self::Upgrade, Event::UpgradeFailed { reason }) => {
                Some(Answer::refused(reason.clone()))
            }
            (Self::Upgrade, Event::HandedOver { pid, version }) => {
                Some(Answer::Upgrade(Upgraded { pid: pid.as_raw().cast_unsigned(), version: version.clone() }))
            }
            (Self::Left(left), Event::Exited { pid, .. }) if left == pid => {
                Some(Answer::Drain(Drained { pid: pid.as_raw().cast_unsigned() }))
            }
            _ => None,
        }
    }
}

fn line(change: &Change) -> ChangeLine {
    let effect = match change.effect {
        Effect::RolledOut => protocol::Effect::RolledOut,
        Effect::NeedsUpgrade => protocol::Effect::NeedsUpgrade,
    };
    ChangeLine { key: change.key.to_owned(), old: change.old.clone(), new: change.new.clone(), effect }
}

impl Visitor {
    /// The request, once its line is complete.
    fn hear(&mut self) -> Option<Result<Request, String>> {
        let mut buffer = [0; protocol::REQUEST_LINE_MAX];
        loop {
            match self.stream.read(&mut buffer) {
                // It has said all that it wanted to, and still listens.
                Ok(0) if matches!(self.stage, Stage::Waiting(_)) && !self.is_gone() => return None,
                Ok(0) => {
                    // Nobody is there to answer; what was begun goes on.
                    self.stage = Stage::Answered(Then::Close);
                    self.out.clear();
                    return None;
                }
                Ok(count) if matches!(self.stage, Stage::Speaking) => {
                    self.said.extend_from_slice(&buffer[..count]);
                    if let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
                        self.stage = Stage::Heard;
                        return Some(Request::parse(&String::from_utf8_lossy(&self.said[..end])));
                    }
                    if self.said.len() > protocol::REQUEST_LINE_MAX {
                        self.stage = Stage::Heard;
                        return Some(Err(format!("the request is longer than {} bytes", protocol::REQUEST_LINE_MAX)));
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(_) => {
                    self.stage = Stage::Answered(Then::Close);
                    self.out.clear();
                    return None;
                }
            }
        }
    }

    /// Whether it has closed its connection, and not only its own direction of it.
    fn is_gone(&self) -> bool {
        let mut polled = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    fn answer(&mut self, answer: &Answer, then: Then, now: Ms) {
        self.out = answer.to_line().into_bytes();
        self.stage = Stage::Answered(then);
        self.until = (then == Then::Close).then_some(now + PATIENCE_MS);
        self.write();
    }

    fn write(&mut self) {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(count) => {
                    self.out.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.stage = Stage::Answered(Then::Close);
                    self.out.clear();
                }
            }
        }
    }

    fn is_over(&self, now: Ms) -> bool {
        let done = matches!(self.stage, Stage::Answered(Then::Close)) && self.out.is_empty();
        done || self.until.is_some_and(|until| now >= until)
    }
}
