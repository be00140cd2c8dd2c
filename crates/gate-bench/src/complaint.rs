//! Why a measurement could not be made. A poor figure is no complaint.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What kept the bench from running.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum Complaint {
    /// The command line.
    Usage(String),
    /// A program that is not installed.
    NoProgram { program: &'static str, package: &'static str },
    /// A server that did not start, with the end of what it logged.
    NotReady { name: String, log: String },
    /// A program that ended badly or never, or said what we cannot read.
    Program { name: String, said: String },
    /// A server that gives other answers than it should.
    Answer { name: String, said: String },
    /// The gate could not be built.
    Build(String),
    /// A system call.
    Io { doing: String, why: io::Error },
    /// Ctrl-C, or a signal that asks to stop.
    Interrupted,
}

impl Complaint {
    /// Turns an I/O error into a complaint that says what was being done.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |why| Self::Io { doing, why }
    }

    /// A complaint about a file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        Self::io(path.into().display().to_string())
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => write!(out, "{text}; try --help"),
            Self::NoProgram { program, package } => {
                write!(out, "{program} is not installed (Debian's package {package} has it)")
            }
            Self::NotReady { name, log } => write!(out, "{name} did not become ready; it logged:\n{log}"),
            Self::Program { name, said } => write!(out, "{name} was no use: {said}"),
            Self::Answer { name, said } => write!(out, "{name} gives wrong answers: {said}"),
            Self::Build(said) => write!(out, "the gate could not be built: {said}"),
            Self::Io { doing, why } => write!(out, "{doing}: {why}"),
            Self::Interrupted => write!(out, "interrupted; everything that was started has been ended"),
        }
    }
}

impl std::error::Error for Complaint {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { why, .. } => Some(why),
            _ => None,
        }
    }
}
