//! The pid file: written under a lock that dies with its holder, so a stale file never blocks a start.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

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

/// A locked pid file of this process. Dropping it removes the file.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    _lock: Flock<File>,
}

impl PidFile {
    /// Opens `path`, locks it and writes this process's pid and a newline into it (mode 0644).
    ///
    /// # Errors
    /// [`PidFileError::Held`] when another live process holds it; a file left by a dead one is taken over.
    pub fn claim(path: &Path) -> Result<Self, PidFileError> {
        for _ in 0..TRIES_MAX {
            let lock = Self::lock(path)?;
            // A holder that leaves removes the file first: what was opened before is locked after, under no name.
            let (own, named) = (lock.metadata()?, std::fs::metadata(path));
            if named.is_ok_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino())) {
                return Self::fill(path, lock);
            }
        }
        Err(PidFileError::Held(None))
    }

    fn lock(path: &Path) -> Result<Flock<File>, PidFileError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(lock),
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut said = String::new();
                let holder = file.read_to_string(&mut said).ok().and_then(|_| said.trim().parse().ok());
                Err(PidFileError::Held(holder))
            }
            Err((_, other)) => Err(PidFileError::Io(other.into())),
        }
    }

    fn fill(path: &Path, mut lock: Flock<File>) -> Result<Self, PidFileError> {
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            log_once(&self.path, &error);
        }
    }
}

/// Nobody is left to hand the error to: it goes to standard error.
fn log_once(path: &Path, error: &io::Error) {
    eprintln!("ollama-gate: cannot remove pid file {}: {error}", path.display());
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
