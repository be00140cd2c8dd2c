//! The gate's own log: one line a record on standard error, written at once, or not at all.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{PoisonError, RwLock};

use gate_config::LogLevel;
use jiff::Timestamp;
use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

static LOGGER: Logger = Logger { who: RwLock::new(String::new()), lost: AtomicU64::new(0) };

struct Logger {
    /// `master`, `worker 2`: set once in each process.
    who: RwLock<String>,
    /// Lines that could not be written.
    lost: AtomicU64,
}

/// Longest line. A pipe that can be written to takes this much without blocking (`PIPE_BUF`), and whole.
const LINE_MAX: usize = 4096;

impl Logger {
    /// One write a line, so that lines of several processes do not mix; none where it would block, since a gate whose log
    /// nobody reads has to serve all the same. What was lost is told when it can be.
    fn write(&self, line: &[u8]) {
        let stderr = std::io::stderr();
        let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let takes = poll(&mut ready, PollTimeout::ZERO).is_ok_and(|count| count > 0);
        if !takes {
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        let lost = self.lost.swap(0, Relaxed);
        let mut told =
            if lost > 0 { format!("({lost} lines of this log were lost)\n").into_bytes() } else { Vec::new() };
        told.extend_from_slice(&line[..line.len().min(LINE_MAX - told.len())]);
        if std::io::stderr().write_all(&told).is_err() {
            // Nobody is left to tell.
            self.lost.fetch_add(lost + 1, Relaxed);
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What libraries have to say is for their developers.
        let ours = ["gate_", "ollama_"].iter().any(|prefix| metadata.target().starts_with(prefix));
        ours || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug | Level::Trace => "debug",
        };
        let who = self.who.read().unwrap_or_else(PoisonError::into_inner);
        let pid = std::process::id();
        let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ");
        // Text from outside may be part of a message: one record stays one line.
        let text = record.args().to_string().replace(|c: char| c.is_control(), " ");
        let line = format!("{time} {level} {who}[{pid}]: {text}");
        // Cut inside a character at worst: nobody writes such a line but by accident.
        let mut line = line.into_bytes();
        line.truncate(LINE_MAX - 1);
        line.push(b'\n');
        self.write(&line);
    }

    fn flush(&self) {}
}

/// Begins to log, as the master.
pub(crate) fn start(level: LogLevel) {
    name("master");
    set_level(level);
    if log::set_logger(&LOGGER).is_err() {
        eprintln!("ollama-gate: a logger was set before");
    }
}

/// Says which process this is.
pub(crate) fn name(who: &str) {
    who.clone_into(&mut LOGGER.who.write().unwrap_or_else(PoisonError::into_inner));
}

/// Sets the least serious level that is logged.
pub(crate) fn set_level(level: LogLevel) {
    log::set_max_level(match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
    });
}
