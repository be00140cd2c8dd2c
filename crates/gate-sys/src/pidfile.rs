//! The pid file: written under a lock that dies with its holder, so a stale file never blocks a start.
//!
//! It can be handed to another process, lock and all. It does not tell whether the process in it is well.
//!
//! Invariant: whoever's pid is in the file removes it, and nobody else does.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// How often the file may be taken away between opening and locking: each time, a process has just left.
const TRIES_MAX: usize = 16;

/// Why there is no pid file.
#[derive(Debug)]
pub enum PidFileError {
    /// Another live process holds the lock; the number it wrote, when readable.
    Held(Option<u32>),
    /// The file cannot be opened, locked or written.
    Io(io::Error),
}

impl From<io::Error> for PidFileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for PidFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(Some(pid)) => write!(f, "process {pid} holds it"),
            Self::Held(None) => f.write_str("another process holds it"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PidFileError {}

/// A locked pid file. Dropping it removes the file if it still names this process; the lock ends with the last copy of
/// its descriptor, in whichever process that is.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Opens `path`, locks it and writes this process's pid and a newline into it (mode 0644).
    ///
    /// # Errors
    /// [`PidFileError::Held`] when another live process holds it; a file left by a dead one is taken over.
    pub fn claim(path: &Path) -> Result<Self, PidFileError> {
        for _ in 0..TRIES_MAX {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(path)?;
            lock(&file)?;
            // A holder that leaves removes the file first: what was opened before is locked after, under no name.
            if is_at(path, &file) {
                if !is_pid_file(&file) {
                    let text = "it holds something else than a pid; name another file, or remove it";
                    return Err(PidFileError::Io(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                let mut claimed = Self { path: path.to_path_buf(), file };
                claimed.take_over()?;
                return Ok(claimed);
            }
        }
        Err(PidFileError::Held(None))
    }

    /// Takes the open and locked file that another process has handed over. The file still names that process, until
    /// [`PidFile::take_over`].
    ///
    /// # Errors
    /// [`PidFileError::Held`] when somebody else holds the lock; [`PidFileError::Io`] with
    /// [`io::ErrorKind::InvalidData`] when `path` is another file by now, or none.
    pub fn adopt(path: &Path, fd: OwnedFd) -> Result<Self, PidFileError> {
        let file = File::from(fd);
        if !is_at(path, &file) {
            let what = format!("{} is not the pid file that was handed over", path.display());
            return Err(PidFileError::Io(io::Error::new(io::ErrorKind::InvalidData, what)));
        }
        // The lock is the open file's, whose descriptor was handed over: who holds it already is given it again.
        lock(&file)?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Writes this process's pid into the file: from here on it is this process that removes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn take_over(&mut self) -> io::Result<()> {
        let text = format!("{}\n", std::process::id());
        // In this order its first line is a pid at all times.
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes it and leaves the file where it is, even if its heir has not written into it yet.
    pub fn leave_to_heir(mut self) {
        // Under no path there is nothing to remove.
        self.path = PathBuf::new();
    }
}

impl AsFd for PidFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let is_ours = said_by(&self.file) == Some(std::process::id()) && is_at(&self.path, &self.file);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            log_once(&self.path, &error);
        }
    }
}

/// Whether `path` names the open file.
fn is_at(path: &Path, file: &File) -> bool {
    let identity = |found: Metadata| (found.dev(), found.ino());
    let (own, named) = (file.metadata().map(identity), std::fs::metadata(path).map(identity));
    matches!((own, named), (Ok(own), Ok(named)) if own == named)
}

/// Locks the open file, for every process that shares it. Unlike nix's, this lock is not given back by whoever drops
/// its copy first: only closing the last one does.
fn lock(file: &File) -> Result<(), PidFileError> {
    // SAFETY: takes a number, of a descriptor that lives through the call.
    let done = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    match Errno::result(done) {
        Ok(_) => Ok(()),
        Err(Errno::EWOULDBLOCK) => Err(PidFileError::Held(said_by(file))),
        Err(other) => Err(PidFileError::Io(other.into())),
    }
}

/// Whether the file is empty or holds a number: anything else is somebody's whom we do not want to harm.
fn is_pid_file(file: &File) -> bool {
    said_by(file).is_some() || file.metadata().is_ok_and(|found| found.len() == 0)
}

/// The pid in the file's first line.
fn said_by(file: &File) -> Option<u32> {
    /// Longer than any number.
    const LINE_BYTES: usize = 32;
    let mut bytes = [0; LINE_BYTES];
    let read = file.read_at(&mut bytes, 0).ok()?;
    std::str::from_utf8(&bytes[..read]).ok()?.lines().next()?.trim().parse().ok()
}

/// Nobody is left to hand the error to: it goes to standard error.
fn log_once(path: &Path, error: &io::Error) {
    eprintln!("ollama-gate: cannot remove pid file {}: {error}", path.display());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    #[test]
    fn is_held_once_and_taken_over_when_stale() {
        let path = std::env::temp_dir().join(format!("gate-pidfile-{}", std::process::id()));
        std::fs::write(&path, "999999\n").unwrap();
        let first = PidFile::claim(&path).expect("a file without a lock is stale");
        assert!(matches!(PidFile::claim(&path), Err(PidFileError::Held(Some(pid))) if pid == std::process::id()));
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn whoever_holds_it_holds_the_file_of_that_name() {
        let path = std::env::temp_dir().join(format!("gate-pidfile-race-{}", std::process::id()));
        let claim_often = || {
            let claims = (0..2_000).filter_map(|_| PidFile::claim(&path).ok());
            claims.map(|_held| assert!(std::fs::exists(&path).unwrap())).count()
        };
        let claimed = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(claim_often)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert!(claimed > 0);
    }

    /// What a child that gets the open file does with it.
    fn heir(path: &Path, held: &PidFile, life: impl FnOnce(PidFile) -> u8) -> process::Pid {
        let fd = held.as_fd().try_clone_to_owned().unwrap();
        let path = path.to_path_buf();
        let child = process::spawn_unchecked_threads(fd, move |fd| PidFile::adopt(&path, fd).map_or(9, life)).unwrap();
        assert_eq!(process::wait(child).unwrap(), process::Exit::Code(0));
        child
    }

    #[test]
    fn the_one_whose_pid_is_in_it_removes_it() {
        let path = std::env::temp_dir().join(format!("gate-pidfile-heir-{}", std::process::id()));
        let read = || std::fs::read_to_string(&path).unwrap();
        let held = PidFile::claim(&path).unwrap();
        heir(&path, &held, |_dropped| 0);
        assert_eq!(read(), format!("{}\n", std::process::id()), "an heir that fails changes nothing");
        assert!(matches!(PidFile::claim(&path), Err(PidFileError::Held(Some(_)))), "nor does it end the lock");
        let child = heir(&path, &held, |mut heir| {
            let written = heir.take_over();
            heir.leave_to_heir();
            u8::from(written.is_err())
        });
        drop(held);
        assert_eq!(read(), format!("{child}\n"));
        PidFile::claim(&path).expect("all that held it are gone").leave_to_heir();
        assert_eq!(read(), format!("{}\n", std::process::id()));
        let mut held = PidFile::claim(&path).unwrap();
        std::fs::write(&path, "123456789\n").unwrap();
        held.take_over().unwrap();
        assert_eq!(read(), format!("{}\n", std::process::id()), "nothing of a longer pid is left");
        heir(&path, &held, |mut heir| u8::from(heir.take_over().is_err()));
        assert!(!path.exists(), "the heir was the last to write");
    }

    #[test]
    fn only_the_file_of_that_name_is_adopted() {
        let path = std::env::temp_dir().join(format!("gate-pidfile-other-{}", std::process::id()));
        let held = PidFile::claim(&path).unwrap();
        let fd = || held.as_fd().try_clone_to_owned().unwrap();
        let opened_again = File::open(&path).unwrap();
        let locked = PidFile::adopt(&path, opened_again.into());
        assert!(matches!(locked, Err(PidFileError::Held(Some(pid))) if pid == std::process::id()));
        std::fs::rename(&path, path.with_extension("old")).unwrap();
        assert!(matches!(PidFile::adopt(&path, fd()), Err(PidFileError::Io(_))));
        let next = PidFile::claim(&path).unwrap();
        assert!(matches!(PidFile::adopt(&path, fd()), Err(PidFileError::Io(_))));
        drop(held);
        assert!(path.exists(), "it is another's file by now");
        drop(next);
        std::fs::remove_file(path.with_extension("old")).unwrap();
    }
}
