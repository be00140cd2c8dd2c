//! What a child is given at its birth, and how it speaks to the master: one pipe up, one pipe that tells of the
//! master's death.

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use gate_config::Plan;
use gate_sys::clock;
use gate_sys::listen::Kind;
use gate_sys::privilege::Identity;
use gate_sys::process::{Inheritance, Pid};
use gate_zone::{OwnRow, Place, Row, Zone};

use crate::event::{Event, Generation};

/// Longest reason that a child can give.
const REASON_MAX: usize = 4096;

/// The byte that says "I serve".
const READY: u8 = b'1';

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
    /// Whom to become once its files are open.
    pub identity: Identity,
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
        self.listeners.iter().map(|handed| handed.socket.as_fd()).chain(own).collect()
    }
}

/// The child's end of the ready pipe.
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
    pub fn ready(mut self) -> std::io::Result<()> {
        self.pipe.write_all(&[READY])?;
        gate_sys::signals::admit_orders()
    }

    /// Says why there is no serving. The caller leaves next.
    pub fn failed(mut self, reason: &str) {
        let text = &reason.as_bytes()[..reason.len().min(REASON_MAX)];
        if let Err(error) = self.pipe.write_all(text) {
            log::error!("cannot tell the master ({error}): {reason}");
        }
    }
}

/// The master's end.
#[derive(Debug)]
pub(crate) struct Awaited {
    pub(crate) pid: Pid,
    pipe: File,
    said: Vec<u8>,
}

/// What came of reading a ready pipe.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Something was said, and nothing more will be.
    Said(Event),
    /// The child closed the pipe without a word: its exit will tell.
    Nothing,
    /// More may come.
    Open,
}

impl Awaited {
    pub(crate) fn new(pid: Pid, pipe: OwnedFd) -> Self {
        Self { pid, pipe: File::from(pipe), said: Vec::new() }
    }

    pub(crate) fn read(&mut self) -> Word {
        let mut buffer = [0; REASON_MAX];
        loop {
            match self.pipe.read(&mut buffer) {
                Ok(0) if self.said.is_empty() => return Word::Nothing,
                Ok(0) => {
                    let reason = String::from_utf8_lossy(&self.said).into_owned();
                    return Word::Said(Event::BootFailed { pid: self.pid, reason });
                }
                Ok(_) if self.said.is_empty() && buffer[0] == READY => return Word::Said(Event::Ready(self.pid)),
                Ok(count) => {
                    let room = REASON_MAX - self.said.len().min(REASON_MAX);
                    self.said.extend_from_slice(&buffer[..count.min(room)]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Word::Open,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Word::Nothing,
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

    #[test]
    fn a_word_is_ready_or_a_reason_or_nothing() {
        let (mut awaited, announce) = pair();
        assert_eq!(awaited.read(), Word::Open);
        announce.failed("no such model");
        let reason = "no such model".to_owned();
        assert_eq!(awaited.read(), Word::Said(Event::BootFailed { pid: Pid::from_raw(7), reason }));

        let (mut awaited, announce) = pair();
        announce.ready().unwrap();
        assert_eq!(awaited.read(), Word::Said(Event::Ready(Pid::from_raw(7))));

        let (mut awaited, announce) = pair();
        drop(announce);
        assert_eq!(awaited.read(), Word::Nothing);
    }

    #[test]
    fn a_long_reason_is_cut() {
        let (mut awaited, announce) = pair();
        announce.failed(&"x".repeat(REASON_MAX * 3));
        let Word::Said(Event::BootFailed { reason, .. }) = awaited.read() else { panic!("a reason was given") };
        assert_eq!(reason.len(), REASON_MAX);
    }
}
