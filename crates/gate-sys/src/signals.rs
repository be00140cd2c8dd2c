//! Signals: the master reads them from a file descriptor, its children ignore what is the master's.
//!
//! A signalfd instead of handlers: signals stay blocked for the life of the master, so a forked child inherits no
//! handler, no self-pipe and no race between the fork and its own set-up, and a signal tells where it came from.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, pthread_sigmask, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};

pub use nix::sys::signal::Signal;

/// What the master listens to.
const MASTER: [Signal; 10] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
];

/// What reaches a whole process group from a terminal, or is a word to the master only: children ignore it.
const MASTERS_OWN: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// What a child acts on. Blocked from the fork until [`admit_orders`], so that none is lost or deadly before the
/// child is ready to obey.
const ORDERS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGQUIT];

/// Who sent a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The kernel: a closing or resized terminal, a key typed at it.
    Kernel,
    /// A process, by its pid (0 when it lives in another pid namespace).
    Process(u32),
}

/// One signal taken from the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caught {
    /// Which.
    pub signal: Signal,
    /// Whose.
    pub sender: Sender,
}

/// The master's signal queue. Readable (for poll) when a signal waits.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the master's signals and opens their queue. From here on none of them acts on its own.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn open() -> io::Result<Self> {
        // Inherited as ignored, the kernel would reap our children itself, and nobody would learn of their end.
        disposition(Signal::SIGCHLD, SigHandler::SigDfl)?;
        let set: SigSet = MASTER.into_iter().collect();
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd })
    }

    /// The next waiting signal, if any. Never blocks.
    ///
    /// # Errors
    /// Any error of reading other than "nothing there".
    pub fn next(&self) -> io::Result<Option<Caught>> {
        let Some(info) = self.fd.read_signal()? else { return Ok(None) };
        let Ok(signal) = Signal::try_from(info.ssi_signo.cast_signed()) else { return Ok(None) };
        let sender = if info.ssi_code == libc::SI_KERNEL { Sender::Kernel } else { Sender::Process(info.ssi_pid) };
        Ok(Some(Caught { signal, sender }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// In a fresh child: ignores what is the master's, gives every other signal its default action, and leaves only the
/// orders (TERM, QUIT) blocked.
pub(crate) fn become_child() -> io::Result<()> {
    for signal in MASTERS_OWN {
        disposition(signal, SigHandler::SigIgn)?;
    }
    // A shell that starts us in the background leaves some of these ignored.
    // std catches SEGV and BUS to tell of a stack overflow, and lets the first one that somebody sends pass.
    let deadly = [Signal::SIGABRT, Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGCHLD];
    for signal in ORDERS.into_iter().chain(deadly) {
        disposition(signal, SigHandler::SigDfl)?;
    }
    let orders: SigSet = ORDERS.into_iter().collect();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&orders), None)?;
    Ok(())
}

fn disposition(signal: Signal, handler: SigHandler) -> io::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_IGN and SIG_DFL run no code of ours.
    unsafe { sigaction(signal, &action)? };
    Ok(())
}

/// In a child, once its own handlers for TERM and QUIT are in place: lets orders in, those that waited included.
///
/// # Errors
/// None that Linux documents for these arguments.
pub fn admit_orders() -> io::Result<()> {
    let orders: SigSet = ORDERS.into_iter().collect();
    orders.thread_unblock()?;
    Ok(())
}
