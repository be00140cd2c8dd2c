//! The access log: lines leave the event loop as bytes in a buffer, a thread writes them.
//!
//! The loop never waits for the disk. When the disk cannot follow, lines are dropped and counted.
//!
//! Invariant: a line stands whole in one file, and lines stand in their order, also where the file is opened anew.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gate_config::{AccessLog, Plan};
use gate_zone::layout::row;
use gate_zone::{OwnRow, Zone};

/// What may wait for the disk: about five thousand lines. More would be memory that a slow disk costs.
const BUFFER_MAX: usize = 1 << 20;

/// How long the writer gathers lines before it writes: one write for many requests under load, and nobody reads a log
/// faster than this.
const GATHER: Duration = Duration::from_millis(20);

/// How long the last lines may take at the end. A reader that does not read must not keep a worker from leaving.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// An access log that is open.
#[derive(Debug)]
pub struct AccessFile {
    file: File,
    /// `None` where there is nothing to open anew: standard output.
    path: Option<PathBuf>,
    /// How often files were to be reopened when it was opened.
    reopenings: u64,
}

/// Opens the access log of a plan, as the user that may.
///
/// # Errors
/// What the operator has to mend, with the key.
pub fn open_journal(plan: &Plan, zone: Zone) -> Result<Option<AccessFile>, String> {
    // Asked first: a file that is renamed in between is opened once more, and none is missed.
    let reopenings = zone.reopenings();
    let (opened, path) = match &plan.access_log {
        AccessLog::Off => return Ok(None),
        AccessLog::Stdout => (io::stdout().as_fd().try_clone_to_owned().map(File::from), None),
        AccessLog::File(path) => (append(path), Some(path.clone())),
    };
    match opened {
        Ok(file) => Ok(Some(AccessFile { file, path, reopenings })),
        Err(error) => Err(match path {
            Some(path) => format!("access_log: cannot append to {}: {error}", path.display()),
            None => format!("access_log: {error}"),
        }),
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

impl AccessFile {
    /// Opens the file that is at its path now; goes on with the old one where that fails.
    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match append(path) {
            Ok(file) => self.file = file,
            Err(error) => {
                log::error!("access_log: cannot reopen {}: {error}; the file that is open stays", path.display());
            }
        }
    }
}

#[derive(Default)]
struct Shared {
    lines: Mutex<Lines>,
    wake: Condvar,
}

#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    end: End,
    reopen: Reopen,
}

/// Whether the file is to be opened anew, behind the lines that wait.
#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum Reopen {
    #[default]
    No,
    Asked,
}

#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum End {
    #[default]
    Open,
    Asked,
    /// Everything is written.
    Done,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        // A panic while the lock is held leaves bytes of a line at worst.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log of one worker. Dropping it writes what is left, for as long as [`FLUSH_MAX`] allows.
pub(crate) struct Journal {
    shared: Arc<Shared>,
    row: Rc<OwnRow>,
    /// Up to which it has followed.
    reopenings: Cell<u64>,
}

impl Journal {
    /// Starts the writer.
    ///
    /// # Errors
    /// No thread can be had.
    pub(crate) fn open(file: AccessFile, row: Rc<OwnRow>) -> io::Result<Self> {
        let reopenings = Cell::new(file.reopenings);
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&theirs, file))?;
        Ok(Self { shared, row, reopenings })
    }

    /// Has the file opened anew, once, if that was asked for since: lines so far go into the old one.
    pub(crate) fn follow(&self, reopenings: u64) {
        if self.reopenings.replace(reopenings) != reopenings {
            self.shared.lock().reopen = Reopen::Asked;
            self.shared.wake.notify_one();
        }
    }

    /// Takes one line: `write` appends it to the buffer, with its newline.
    pub(crate) fn line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut lines = self.shared.lock();
        if lines.bytes.len() >= BUFFER_MAX {
            drop(lines);
            self.row.add_one(row::LOG_LOST);
            return;
        }
        let first = lines.bytes.is_empty();
        write(&mut lines.bytes);
        drop(lines);
        if first {
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let lost = self.row.row().count(row::LOG_LOST);
        if lost > 0 {
            log::warn!("{lost} lines of the access log were lost: the disk, or its reader, did not follow");
        }
        let mut lines = self.shared.lock();
        lines.end = End::Asked;
        self.shared.wake.notify_all();
        let written = |lines: &mut Lines| lines.end != End::Done;
        let (_lines, waited) =
            self.shared.wake.wait_timeout_while(lines, FLUSH_MAX, written).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            log::warn!("the access log's last lines are lost: nobody takes them");
        }
    }
}

fn write_all(shared: &Shared, mut log: AccessFile) {
    let mut batch = Vec::new();
    loop {
        let mut lines = shared.lock();
        while lines.bytes.is_empty() && lines.end == End::Open && lines.reopen == Reopen::No {
            lines = shared.wake.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
        if lines.end == End::Open && lines.reopen == Reopen::No {
            drop(lines);
            std::thread::sleep(GATHER);
            lines = shared.lock();
        }
        std::mem::swap(&mut batch, &mut lines.bytes);
        let (end, reopen) = (lines.end, std::mem::take(&mut lines.reopen));
        drop(lines);
        if let Err(error) = log.file.write_all(&batch) {
            log::error!("access log: {error}; {} bytes of it are lost", batch.len());
        }
        batch.clear();
        if reopen == Reopen::Asked {
            log.reopen();
        }
        if end != End::Open {
            shared.lock().end = End::Done;
            shared.wake.notify_all();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use gate_zone::{Place, Role, Zone};

    use super::*;

    fn own_row() -> Rc<OwnRow> {
        let (_memory, zone) = Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap();
        Rc::new(OwnRow::claim(zone.scoreboard().row(1), Place { role: Role::Worker, slot: 0 }, 1, 1))
    }

    /// A journal in a directory of its own.
    fn journal(name: &str) -> (PathBuf, Journal) {
        let dir = std::env::temp_dir().join(format!("gate-journal-{}-{name}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("access.log");
        let file = AccessFile { file: append(&path).unwrap(), path: Some(path.clone()), reopenings: 0 };
        (path, Journal::open(file, own_row()).unwrap())
    }

    fn write(journal: &Journal, numbers: std::ops::Range<u32>) {
        for number in numbers {
            journal.line(|line| line.extend_from_slice(format!("{number}\n").as_bytes()));
        }
    }

    fn written(path: &Path) -> Vec<u32> {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "whole lines");
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    #[test]
    fn every_line_is_written_in_order_before_it_closes() {
        let (path, journal) = journal("order");
        write(&journal, 0..10_000);
        drop(journal);
        assert!(written(&path).into_iter().eq(0..10_000));
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn lines_go_on_in_a_new_file_where_the_old_one_ends() {
        const ROUNDS: u32 = 20;
        const LINES: u32 = 500;
        let (path, journal) = journal("reopen");
        let old = |round: u32| path.with_extension(round.to_string());
        for round in 0..ROUNDS {
            write(&journal, round * LINES..(round + 1) * LINES);
            std::fs::rename(&path, old(round)).unwrap();
            journal.follow(u64::from(round) + 1);
            journal.follow(u64::from(round) + 1);
            let until = std::time::Instant::now() + Duration::from_secs(20);
            while !path.exists() {
                assert!(std::time::Instant::now() < until, "a new file");
                std::thread::yield_now();
            }
        }
        write(&journal, ROUNDS * LINES..(ROUNDS + 1) * LINES);
        drop(journal);
        for round in 0..ROUNDS {
            assert!(written(&old(round)).into_iter().eq(round * LINES..(round + 1) * LINES), "round {round}");
        }
        assert!(written(&path).into_iter().eq(ROUNDS * LINES..(ROUNDS + 1) * LINES));
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_opened_anew_leaves_the_old_one() {
        let (path, journal) = journal("stays");
        write(&journal, 0..100);
        let dir = path.parent().unwrap();
        let moved = dir.with_extension("moved");
        std::fs::rename(dir, &moved).unwrap();
        journal.follow(1);
        write(&journal, 100..200);
        drop(journal);
        assert!(!dir.exists());
        assert!(written(&moved.join("access.log")).into_iter().eq(0..200));
        std::fs::remove_dir_all(moved).unwrap();
    }

    #[test]
    fn a_reader_that_does_not_follow_costs_lines_and_no_time() {
        let (reader, writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let row = own_row();
        let journal = Journal::open(AccessFile { file, path: None, reopenings: 0 }, Rc::clone(&row)).unwrap();
        let line = vec![b'x'; 4096];
        for _ in 0..2_000 {
            journal.line(|buffer| buffer.extend_from_slice(&line));
        }
        assert!(row.row().count(row::LOG_LOST) > 0, "8 MB do not fit into a pipe and 1 MiB");
        drop(reader);
        drop(journal);
    }
}
