//! Forking children that cannot fall back into the master, and asking what became of them.
//!
//! The rules of the fork: signals blocked around it, every descriptor closed that the child was not given, the
//! master's death noticed, no return into the master's frames. Measured reasons for each stand in the architecture
//! notes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::{self, SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{self, ForkResult};

use crate::signals;

pub use nix::unistd::Pid;

/// Exit code of a child that panicked: `EX_SOFTWARE`.
const EX_SOFTWARE: u8 = 70;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(u8),
    /// A signal ended it.
    Signal {
        /// Which.
        signal: Signal,
        /// Whether the kernel says that it has left a core.
        core: Core,
    },
}

/// What a process that a signal has ended left of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// A core, to where `core_pattern` says.
    Dumped,
    /// Nothing.
    None,
}

/// A child that has ended and has been reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub pid: Pid,
    /// How.
    pub exit: Exit,
}

/// What a child is given: of all descriptors it holds these and the standard three.
pub trait Inheritance {
    /// The descriptors inside the value.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;
}

impl Inheritance for () {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}

/// Forks a child that runs `body` on what it is `given` and exits with the code it returns. The parent's copy of
/// `given` is dropped.
///
/// The child holds standard input, output and error, and of all other descriptors only those inside `given`. It gets
/// SIGTERM when the calling thread's process dies, ignores the signals that are the master's, and has TERM and QUIT
/// blocked until it calls [`signals::admit_orders`]. A panic in `body` ends the child with code 70.
///
/// # Errors
/// What fork answers (`EAGAIN`, `ENOMEM`), or [`io::ErrorKind::Unsupported`] when the caller has more than one thread:
/// locks held by the others would stay held in the child for ever.
pub fn spawn<T: Inheritance>(given: T, body: impl FnOnce(T) -> u8) -> io::Result<Pid> {
    one_thread()?;
    spawn_unchecked_threads(given, body)
}

/// Refuses with [`io::ErrorKind::Unsupported`] in a process that has more than one thread.
pub(crate) fn one_thread() -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the process has several threads"));
    }
    Ok(())
}

/// [`spawn`] without the check for threads: for tests, whose harness has some.
pub(crate) fn spawn_unchecked_threads<T: Inheritance>(given: T, body: impl FnOnce(T) -> u8) -> io::Result<Pid> {
    let parent = unistd::getpid();
    // The parent's copy of `given` goes with the closure.
    fork_into(move || match settle_in(parent, &given.descriptors()) {
        Ok(()) => body(given),
        Err(_) => EX_SOFTWARE,
    })
}

/// Forks a child that lives in `life`, with all signals blocked, and exits with the code it returns.
///
/// For callers that have made sure of there being [`one_thread`].
pub(crate) fn fork_into(life: impl FnOnce() -> u8) -> io::Result<Pid> {
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    // SAFETY: the process has one thread (checked by the callers), so the child finds no lock held by somebody who is
    // not there, and may allocate. It never returns into the frames below.
    let forked = unsafe { unistd::fork() };
    if let Ok(ForkResult::Child) = forked {
        leave(catch_unwind(AssertUnwindSafe(life)).unwrap_or(EX_SOFTWARE));
    }
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    match forked? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => unreachable!("the child has left"),
    }
}

fn settle_in(parent: Pid, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    die_with_parent()?;
    if unistd::getppid() != parent {
        leave(0); // The parent died before the request to be told of it was in place.
    }
    close_all_but(keep)?;
    signals::become_child()
}

/// Asks the kernel for SIGTERM at the parent's death. A change of user clears the request, so it is made again then.
pub(crate) fn die_with_parent() -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    Ok(())
}

/// Leaves the process at once: no destructors, no exit handlers. Those it inherited are the master's.
fn leave(code: u8) -> ! {
    // SAFETY: `_exit` takes no pointer and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Closes every descriptor from 3 up that is not in `keep`.
fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    let mut from = 3u32;
    for fd in kept.iter().map(|fd| fd.unsigned_abs()) {
        if from < fd {
            close_range(from, fd - 1)?;
        }
        from = fd + 1;
    }
    close_range(from, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: descriptors are closed under the `OwnedFd`s that the child inherited as copies of the master's memory;
    // the child never touches or drops those, since it never returns into the frames that hold them.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes one ended child from the kernel, if there is one. Never blocks.
///
/// # Errors
/// None that Linux documents, once "no children" is told as `None`.
pub fn reap() -> io::Result<Option<Ended>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(status) => match ended(status) {
                Some(ended) => return Ok(Some(ended)),
                None if status == WaitStatus::StillAlive => return Ok(None),
                None => {}
            },
            Err(Errno::ECHILD) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(other) => return Err(other.into()),
        }
    }
}

/// Waits until `child` has ended.
///
/// # Errors
/// When `child` is no child of this process.
pub fn wait(child: Pid) -> io::Result<Exit> {
    loop {
        match waitpid(child, None) {
            Ok(status) => {
                if let Some(ended) = ended(status) {
                    return Ok(ended.exit);
                }
            }
            Err(Errno::EINTR) => {}
            Err(other) => return Err(other.into()),
        }
    }
}

fn ended(status: WaitStatus) -> Option<Ended> {
    match status {
        WaitStatus::Exited(pid, code) => Some(Ended { pid, exit: Exit::Code(code as u8) }),
        WaitStatus::Signaled(pid, signal, dumped) => {
            let core = if dumped { Core::Dumped } else { Core::None };
            Some(Ended { pid, exit: Exit::Signal { signal, core } })
        }
        _ => None,
    }
}

/// Sends `signal` to `pid`. A process that is already gone is no error: its end is on the way.
///
/// # Errors
/// `EPERM`: the process belongs to somebody else.
pub fn kill(pid: Pid, signal: Signal) -> io::Result<()> {
    match signal::kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

/// This process's pid.
pub fn own_pid() -> u32 {
    std::process::id()
}

/// A process's start time in clock ticks since boot (`/proc/PID/stat`, field 22): with the pid it names a process for
/// good. `None` when there is no such process.
pub fn born(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether the process that had this pid and start time is gone. One whose start time cannot be read (somebody else's,
/// under `hidepid`) is taken for there while its pid is.
pub fn is_gone(pid: u32, born_at: u64) -> bool {
    let signal: Option<Signal> = None;
    signal::kill(Pid::from_raw(pid.cast_signed()), signal) == Err(Errno::ESRCH)
        || born(pid).is_some_and(|born| born != born_at)
}

/// A pipe whose two ends close on exec and never block.
///
/// # Errors
/// Out of file descriptors.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::*;

    impl Inheritance for OwnedFd {
        fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
            vec![self.as_fd()]
        }
    }

    fn exit_of<T: Inheritance>(given: T, body: impl FnOnce(T) -> u8) -> Exit {
        wait(spawn_unchecked_threads(given, body).unwrap()).unwrap()
    }

    #[test]
    fn a_child_ends_with_the_code_its_body_returns() {
        assert_eq!(exit_of((), |()| 42), Exit::Code(42));
    }

    #[test]
    fn a_panic_in_a_child_stays_there() {
        assert_eq!(exit_of((), |()| panic!("on purpose")), Exit::Code(EX_SOFTWARE));
    }

    #[test]
    fn a_child_holds_only_what_it_was_given() {
        let (kept, lost) = pipe().unwrap();
        let open = |fd: RawFd| std::fs::exists(format!("/proc/self/fd/{fd}")).unwrap();
        let (kept_fd, lost_fd) = (kept.as_raw_fd(), lost.as_raw_fd());
        let exit = exit_of(kept, move |_kept| u8::from(!open(kept_fd)) + 2 * u8::from(open(lost_fd)));
        assert_eq!(exit, Exit::Code(0));
    }

    #[test]
    fn orders_wait_until_they_are_admitted() {
        let exit = exit_of((), |()| {
            kill(unistd::getpid(), Signal::SIGTERM).unwrap();
            kill(unistd::getpid(), Signal::SIGHUP).unwrap();
            signals::admit_orders().unwrap();
            1
        });
        assert_eq!(exit, Exit::Signal { signal: Signal::SIGTERM, core: Core::None });
    }

    #[test]
    fn a_core_is_told_of_where_one_is_left() {
        let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let (_, most) = getrlimit(Resource::RLIMIT_CORE).unwrap();
        if most < 1 << 20 || pattern.starts_with(['|', '/', '\n']) {
            return eprintln!("skipped: cores of this machine (limit {most}) go to {pattern:?}");
        }
        let dir = std::env::temp_dir().join(format!("gate-core-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let ends = |limit: u64| {
            exit_of((), |()| {
                std::env::set_current_dir(&dir).unwrap();
                setrlimit(Resource::RLIMIT_CORE, limit, most).unwrap();
                kill(unistd::getpid(), Signal::SIGABRT).unwrap();
                1
            })
        };
        let exits = [ends(most), ends(0)];
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(exits, [Core::Dumped, Core::None].map(|core| Exit::Signal { signal: Signal::SIGABRT, core }));
    }

    #[test]
    fn two_processes_differ_in_pid_or_birth() {
        let own = born(own_pid()).unwrap();
        assert!(own > 0);
        assert_eq!(born(own_pid()), Some(own));
        assert_eq!(born(u32::MAX), None);
        assert!(!is_gone(own_pid(), own) && is_gone(own_pid(), own + 1));
        let child = spawn_unchecked_threads((), |()| 0).unwrap();
        wait(child).unwrap();
        assert!(is_gone(child.as_raw().cast_unsigned(), own));
    }
}
