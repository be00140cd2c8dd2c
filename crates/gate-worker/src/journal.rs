//! The access log: lines leave the event loop as bytes in a buffer, a thread writes them.
//!
//! The loop never waits for the disk. When the disk cannot follow, lines are dropped and counted.

use std::fs::File;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gate_zone::OwnRow;
use gate_zone::layout::row;

/// What may wait for the disk: about five thousand lines. More would be memory that a slow disk costs.
const BUFFER_MAX: usize = 1 << 20;

/// How long the writer gathers lines before it writes: one write for many requests under load, and nobody reads a log
/// faster than this.
const GATHER: Duration = Duration::from_millis(20);

/// How long the last lines may take at the end. A reader that does not read must not keep a worker from leaving.
const FLUSH_MAX: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Shared {
    lines: Mutex<Lines>,
    wake: Condvar,
}

#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    end: End,
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
}

impl Journal {
    /// Starts the writer.
    ///
    /// # Errors
    /// No thread can be had.
    pub(crate) fn open(file: File, row: Rc<OwnRow>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&theirs, file))?;
        Ok(Self { shared, row })
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

fn write_all(shared: &Shared, mut file: File) {
    let mut batch = Vec::new();
    loop {
        let mut lines = shared.lock();
        while lines.bytes.is_empty() && lines.end == End::Open {
            lines = shared.wake.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
        if lines.end == End::Open {
            drop(lines);
            std::thread::sleep(GATHER);
            lines = shared.lock();
        }
        std::mem::swap(&mut batch, &mut lines.bytes);
        let end = lines.end;
        drop(lines);
        if let Err(error) = file.write_all(&batch) {
            log::error!("access log: {error}; {} bytes of it are lost", batch.len());
        }
        batch.clear();
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

    #[test]
    fn every_line_is_written_in_order_before_it_closes() {
        let path = std::env::temp_dir().join(format!("gate-journal-{}", std::process::id()));
        let journal = Journal::open(File::create(&path).unwrap(), own_row()).unwrap();
        for number in 0..10_000 {
            journal.line(|line| line.extend_from_slice(format!("{number}\n").as_bytes()));
        }
        drop(journal);
        let written = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(written.lines().map(|line| line.parse::<u32>().unwrap()).eq(0..10_000));
    }

    #[test]
    fn a_reader_that_does_not_follow_costs_lines_and_no_time() {
        let (reader, writer) = io::pipe().unwrap();
        let row = own_row();
        let journal = Journal::open(File::from(std::os::fd::OwnedFd::from(writer)), Rc::clone(&row)).unwrap();
        let line = vec![b'x'; 4096];
        for _ in 0..2_000 {
            journal.line(|buffer| buffer.extend_from_slice(&line));
        }
        assert!(row.row().count(row::LOG_LOST) > 0, "8 MB do not fit into a pipe and 1 MiB");
        drop(reader);
        drop(journal);
    }
}
