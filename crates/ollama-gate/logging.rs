//! The gate's own log: one line a record on standard error, written at once.

use std::io::Write;
use std::sync::{PoisonError, RwLock};

use gate_config::LogLevel;
use jiff::Timestamp;
use log::{Level, LevelFilter, Log, Metadata, Record};

static LOGGER: Logger = Logger { who: RwLock::new(String::new()) };

struct Logger {
    /// `master`, `worker 2`: set once in each process.
    who: RwLock<String>,
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
        let line = format!("{time} {level} {who}[{pid}]: {text}\n");
        // One write a line, so that lines of several processes do not mix. Nobody is left to tell of a failure.
        if std::io::stderr().write_all(line.as_bytes()).is_err() {}
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
