//! What a child is given at its birth, and how it speaks to the master: one pipe up, one pipe that tells of the
//! master's death.

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use gate_config::Plan;
use gate_sys::bells::Bells;
use gate_sys::clock;
use gate_sys::listen::Kind;
use gate_sys::privilege::Identity;
use gate_sys::process::{Inheritance, Pid};
use gate_zone::{OwnRow, Place, Row, Zone};

use crate::event::{Event, Generation};
use crate::secrets::Secret;

/// Longest reason that a child can give.
const REASON_MAX: usize = 4096;

/// Bells for the rows of the scoreboard, by their index: as many as processes there usually are. Each is a descriptor in
/// every worker. Whoever has a row beyond them (64 processes live, most of them draining) looks without being woken.
const BELLS: usize = 64;

/// Makes the bells that this master's workers wake each other with. Once, before the first fork.
///
/// A successor in an upgrade makes its own. A worker of one generation that rings for one of the other then rings a bell
/// that nobody hears; who waits looks again each 100 ms anyway, and so the ring is late by that and not lost.
///
/// # Errors
/// Out of file descriptors or memory.
pub(crate) fn bells() -> std::io::Result<Rc<Bells>> {
    Bells::create(BELLS).map(Rc::new)
}

/// The byte that says "I serve".
const READY: u8 = b'1';

/// The byte before the reason why not. Of its own, so that no reason can be taken for a word.
pub(crate) const FAILED: u8 = b'E';

/// The byte that says "I am leaving".
const LEAVING: u8 = b'L';

/// The byte before a reason to be replaced; a newline ends the reason.
const REPLACE: u8 = b'R';

/// The byte before a version, which a new master says after it is ready; a newline ends it.
const VERSION: u8 = b'V';

/// All that a fresh child has. It inherited the rest of the master's memory too, and must not look at it.
#[derive(Debug)]
pub struct Birth {
    /// What it is there for.
    pub place: Place,
    /// Number of its configuration.
    pub generation: Generation,
    /// Its configuration.
    pub plan: Rc<Plan>,
    /// The sockets it accepts from: descriptors of its own, so that it can close them.
    pub listeners: Vec<Handed>,
    /// Where the simulated backend listens, under `--demo`.
    pub demo: Option<SocketAddr>,
    /// The shared memory.
    pub zone: Zone,
    /// Its row of the scoreboard, to be claimed.
    pub row: Row,
    /// Which row that is; its bell has the same number.
    pub row_index: usize,
    /// What workers wake each other with; nobody else has any.
    pub bells: Rc<Bells>,
    /// Whom to become once its files are open.
    pub identity: Identity,
    /// The password of the store in which several gates count, where it stands in a file.
    pub cluster_password: Option<Rc<Secret>>,
    /// Its word to the master.
    pub announce: Announce,
    /// Reads end-of-file when the master is gone, however it went.
    pub lifeline: OwnedFd,
}

/// A listening socket that is handed to a child.
#[derive(Debug)]
pub struct Handed {
    /// What kind of peers it brings.
    pub kind: Kind,
    /// It.
    pub socket: OwnedFd,
}

impl Birth {
    /// Takes over the row that the master has set aside. In the child, once.
    pub fn claim(&self) -> OwnRow {
        OwnRow::claim(self.row, self.place, self.generation, clock::monotonic_ms())
    }
}

impl Inheritance for Birth {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let own = [self.announce.pipe.as_fd(), self.lifeline.as_fd()];
        let listeners = self.listeners.iter().map(|handed| handed.socket.as_fd());
        listeners.chain(own).chain(self.bells.descriptors()).collect()
    }
}

/// What a child that serves has to tell the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It finishes what it has and goes, on somebody else's order.
    Leaving,
    /// It should be replaced, for this reason; it serves until it is told to go.
    Replace(String),
}

/// The child's end of the pipe to the master.
#[derive(Debug)]
pub struct Announce {
    pipe: File,
}

impl Announce {
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        Self { pipe: File::from(pipe) }
    }

    /// Says that requests are served, and lets TERM and QUIT in. Call when the handlers for both are in place.
    ///
    /// # Errors
    /// The master is gone.
    pub fn ready(&mut self) -> std::io::Result<()> {
        self.pipe.write_all(&[READY])?;
        gate_sys::signals::admit_orders()
    }

    /// Says something after [`Announce::ready`].
    ///
    /// # Errors
    /// The master is gone, or does not listen.
    pub fn tell(&mut self, notice: &Notice) -> std::io::Result<()> {
        match notice {
            Notice::Leaving => self.pipe.write_all(&[LEAVING]),
            Notice::Replace(reason) => {
                let mut line = vec![REPLACE];
                line.extend(reason.bytes().filter(|byte| *byte != b'\n').take(REASON_MAX / 2));
                line.push(b'\n');
                // One write, and less than a pipe takes whole.
                self.pipe.write_all(&line)
            }
        }
    }

    /// Says why there is no serving. The caller leaves next.
    pub fn failed(mut self, reason: &str) {
        if let Err(error) = self.pipe.write_all(&failure(reason)) {
            log::error!("cannot tell the master ({error}): {reason}");
        }
    }
}

/// A reason why not, as it is said.
pub(crate) fn failure(reason: &str) -> Vec<u8> {
    [FAILED].into_iter().chain(reason.bytes().take(REASON_MAX - 1)).collect()
}

/// The master's end.
#[derive(Debug)]
pub(crate) struct Awaited {
    pub(crate) pid: Pid,
    pipe: File,
    stage: Heard,
    said: Vec<u8>,
}

/// What has been heard so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// Nothing: what comes is the ready byte or a reason why not.
    Nothing,
    /// The ready byte: what comes are notices.
    Ready,
}

/// Whether more may come through a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum More {
    /// It may.
    Open,
    /// The child has closed it.
    Closed,
}

impl Awaited {
    pub(crate) fn new(pid: Pid, pipe: OwnedFd) -> Self {
        Self { pid, pipe: File::from(pipe), stage: Heard::Nothing, said: Vec::new() }
    }

    /// Reads what has come, as events.
    pub(crate) fn read(&mut self, events: &mut Vec<Event>) -> More {
        let mut buffer = [0; REASON_MAX];
        loop {
            match self.pipe.read(&mut buffer) {
                Ok(0) => {
                    if self.stage == Heard::Nothing && !self.said.is_empty() {
                        let said = self.said.strip_prefix(&[FAILED]).unwrap_or(&self.said);
                        let reason = String::from_utf8_lossy(said).into_owned();
                        events.push(Event::BootFailed { pid: self.pid, reason });
                    }
                    return More::Closed;
                }
                Ok(count) => self.take_in(&buffer[..count], events),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return More::Open,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return More::Closed,
            }
        }
    }

    fn take_in(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) {
        if self.stage == Heard::Nothing && self.said.is_empty() && bytes.first() == Some(&READY) {
            self.stage = Heard::Ready;
            events.push(Event::Ready(self.pid));
            bytes = &bytes[1..];
        }
        let room = REASON_MAX - self.said.len().min(REASON_MAX);
        self.said.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if self.stage == Heard::Ready {
            self.take_notices(events);
        }
    }

    fn take_notices(&mut self, events: &mut Vec<Event>) {
        while let Some(first) = self.said.first() {
            let length = match *first {
                REPLACE | VERSION => match self.said.iter().position(|byte| *byte == b'\n') {
                    Some(end) => end + 1,
                    None => return,
                },
                _ => 1,
            };
            let notice: Vec<u8> = self.said.drain(..length).collect();
            let text = || String::from_utf8_lossy(&notice[1..length - 1]).into_owned();
            match notice[0] {
                REPLACE => events.push(Event::Ripe { pid: self.pid, reason: text() }),
                VERSION => events.push(Event::Version { pid: self.pid, version: text() }),
                LEAVING => events.push(Event::Leaving(self.pid)),
                _ => {}
            }
        }
    }
}

impl AsFd for Awaited {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Awaited, Announce) {
        let (read, write) = gate_sys::process::pipe().unwrap();
        (Awaited::new(Pid::from_raw(7), read), Announce::new(write))
    }

    fn heard(awaited: &mut Awaited) -> (Vec<Event>, More) {
        let mut events = Vec::new();
        let more = awaited.read(&mut events);
        (events, more)
    }

    #[test]
    fn a_word_is_ready_or_a_reason_or_nothing() {
        let pid = Pid::from_raw(7);
        let (mut awaited, announce) = pair();
        assert_eq!(heard(&mut awaited), (vec![], More::Open));
        announce.failed("no such model");
        let reason = "no such model".to_owned();
        assert_eq!(heard(&mut awaited), (vec![Event::BootFailed { pid, reason }], More::Closed));

        let (mut awaited, mut announce) = pair();
        announce.ready().unwrap();
        assert_eq!(heard(&mut awaited), (vec![Event::Ready(pid)], More::Open));

        let (mut awaited, announce) = pair();
        drop(announce);
        assert_eq!(heard(&mut awaited), (vec![], More::Closed));
    }

    #[test]
    fn notices_follow_the_ready_byte_in_any_pieces() {
        let pid = Pid::from_raw(7);
        let (mut awaited, mut announce) = pair();
        announce.ready().unwrap();
        announce.tell(&Notice::Replace("served 500\nrequests".to_owned())).unwrap();
        announce.tell(&Notice::Leaving).unwrap();
        drop(announce);
        let reason = "served 500requests".to_owned();
        let events = vec![Event::Ready(pid), Event::Ripe { pid, reason }, Event::Leaving(pid)];
        assert_eq!(heard(&mut awaited), (events, More::Closed));

        let (mut awaited, mut announce) = pair();
        announce.ready().unwrap();
        announce.pipe.write_all(b"Rold").unwrap();
        assert_eq!(heard(&mut awaited), (vec![Event::Ready(pid)], More::Open));
        announce.pipe.write_all(b" age\n").unwrap();
        assert_eq!(heard(&mut awaited), (vec![Event::Ripe { pid, reason: "old age".to_owned() }], More::Open));
    }

    #[test]
    fn a_reason_that_begins_like_a_word_is_a_reason() {
        let pid = Pid::from_raw(7);
        for reason in ["10-prod.toml:3: no such key", "L", "R\n", "V9\n"] {
            let (mut awaited, announce) = pair();
            announce.failed(reason);
            let said = Event::BootFailed { pid, reason: reason.to_owned() };
            assert_eq!(heard(&mut awaited), (vec![said], More::Closed));
        }
    }

    #[test]
    fn a_long_reason_is_cut() {
        let (mut awaited, announce) = pair();
        announce.failed(&"x".repeat(REASON_MAX * 3));
        let (events, _) = heard(&mut awaited);
        let [Event::BootFailed { reason, .. }] = &events[..] else { panic!("a reason was given") };
        assert_eq!(reason.len(), REASON_MAX - 1);
    }
}
