//! Bells: how one process wakes another that waits for something in the shared words.
//!
//! An eventfd each, made before the first fork and kept by whoever is to ring or to hear. A ring carries no news: who
//! is woken looks at the words. Several rings before a look are one.
//!
//! Invariant: ringing never blocks and never fails; who cannot be rung looks again by itself after a while, so a lost
//! ring is a delay and nothing else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd;

use crate::process::Inheritance;

/// One added to what an eventfd counts.
const RING: [u8; 8] = 1u64.to_ne_bytes();

/// A row of bells, shared with every process forked from the one that made it, for those that inherit it.
#[derive(Debug)]
pub struct Bells {
    bells: Vec<OwnedFd>,
}

impl Bells {
    /// Makes `count` of them, silent.
    ///
    /// # Errors
    /// Out of file descriptors or memory.
    pub fn create(count: usize) -> io::Result<Self> {
        let bell = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map(OwnedFd::from);
        Ok(Self { bells: (0..count).map(|_| bell()).collect::<Result<_, _>>()? })
    }

    /// Not one: for a process that wakes nobody.
    pub fn none() -> Self {
        Self { bells: Vec::new() }
    }

    /// Rings one. Beyond the last nothing happens.
    pub fn ring(&self, index: usize) {
        if let Some(bell) = self.bells.get(index) {
            // One that cannot be rung any louder rings already, and an eventfd knows no other failure.
            let _rung = unistd::write(bell, &RING);
        }
    }

    /// Something to hear one by, `None` beyond the last: readable from a ring on, until eight bytes are read from it. Read
    /// before looking at the words, so that a ring behind the look is heard. One process listens to a bell; of two, one
    /// would silence what the other has not heard.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn ear(&self, index: usize) -> Option<io::Result<OwnedFd>> {
        self.bells.get(index).map(OwnedFd::try_clone)
    }
}

impl Inheritance for Bells {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.bells.iter().map(AsFd::as_fd).collect()
    }
}

/// Silences a bell, as who hears it does.
#[cfg(test)]
pub(crate) fn hush(ear: &OwnedFd) -> io::Result<()> {
    match unistd::read(ear, &mut [0; RING.len()]) {
        Ok(_) | Err(nix::errno::Errno::EAGAIN) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::process::{Exit, spawn_unchecked_threads, wait};

    impl Inheritance for Rc<Bells> {
        fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
            Bells::descriptors(self)
        }
    }

    fn rings(ear: &OwnedFd) -> bool {
        let mut polled = [PollFd::new(ear.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).unwrap() > 0
    }

    fn ear(bells: &Bells, index: usize) -> OwnedFd {
        bells.ear(index).expect("there is such a bell").unwrap()
    }

    #[test]
    fn a_ring_is_heard_until_it_is_hushed_and_by_nobody_else() {
        let bells = Bells::create(3).unwrap();
        let ears = [0, 1, 2].map(|index| ear(&bells, index));
        let heard = || ears.each_ref().map(rings);
        assert_eq!(heard(), [false; 3]);
        bells.ring(1);
        bells.ring(1);
        assert_eq!(heard(), [false, true, false]);
        hush(&ears[1]).unwrap();
        assert_eq!(heard(), [false; 3], "several rings are one");
        hush(&ears[1]).expect("a silent bell can be hushed");
        bells.ring(1);
        assert_eq!(heard(), [false, true, false]);
    }

    #[test]
    fn beyond_the_last_bell_nothing_happens() {
        for (bells, count) in [(Bells::none(), 0), (Bells::create(2).unwrap(), 2)] {
            bells.ring(count);
            bells.ring(usize::MAX);
            assert!(bells.ear(count).is_none());
            assert_eq!(bells.descriptors().len(), count);
            assert!((0..count).all(|index| !rings(&ear(&bells, index))));
        }
    }

    #[test]
    fn a_bell_that_is_as_loud_as_it_gets_blocks_nobody() {
        let bells = Bells::create(1).unwrap();
        let ear = ear(&bells, 0);
        unistd::write(&ear, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        bells.ring(0);
        assert!(rings(&ear));
        hush(&ear).unwrap();
        assert!(!rings(&ear));
    }

    #[test]
    fn a_child_that_inherits_bells_is_rung_and_rings() {
        let bells = Rc::new(Bells::create(2).unwrap());
        let (to_child, to_parent) = (ear(&bells, 0), ear(&bells, 1));
        bells.ring(0);
        let child = spawn_unchecked_threads(Rc::clone(&bells), |bells| {
            let own = ear(&bells, 0);
            let woken = rings(&own);
            hush(&own).unwrap();
            bells.ring(1);
            u8::from(!woken)
        });
        assert_eq!(wait(child.unwrap()).unwrap(), Exit::Code(0));
        assert_eq!([rings(&to_child), rings(&to_parent)], [false, true]);
    }

    #[test]
    fn no_bell_is_left_to_another_program() {
        let bells = Bells::create(2).unwrap();
        let ear = ear(&bells, 1);
        for held in bells.descriptors().into_iter().chain([ear.as_fd()]) {
            let flags = fcntl(held, FcntlArg::F_GETFD).unwrap();
            assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
        }
    }
}
