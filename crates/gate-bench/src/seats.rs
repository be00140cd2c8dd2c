//! Who runs on which processor: the server that is measured has one for itself, load and upstream share another.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which side of a measurement a process is on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seat {
    /// The server that is measured.
    Server,
    /// The load generator, and the upstream behind the server.
    Load,
}

/// How processes are placed.
#[derive(Debug)]
pub(crate) enum Seats {
    /// By `taskset`, each side on one processor.
    Pinned { taskset: PathBuf, server: u32, load: u32 },
    /// Wherever the kernel likes.
    Free { why: &'static str },
}

impl Seats {
    /// Takes the first two processors that we may use.
    pub(crate) fn of_this_machine(taskset: Option<PathBuf>) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
        match (taskset, processors(allowed)) {
            (None, _) => Self::Free { why: "taskset is not installed" },
            (Some(taskset), [Some(server), Some(load)]) => Self::Pinned { taskset, server, load },
            _ => Self::Free { why: "there is one processor only" },
        }
    }

    /// A command that will run in its seat. `taskset` replaces itself, so the process id is the program's.
    pub(crate) fn command(&self, seat: Seat, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Free { .. } => Command::new(program),
            Self::Pinned { taskset, server, load } => {
                let processor = match seat {
                    Seat::Server => server,
                    Seat::Load => load,
                };
                let mut command = Command::new::<&Path>(taskset);
                command.arg("-c").arg(processor.to_string()).arg(program);
                command
            }
        }
    }
}

impl fmt::Display for Seats {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned { server, load, .. } => {
                write!(out, "pinned: server on CPU {server}, load and upstream on CPU {load}")
            }
            Self::Free { why } => write!(out, "not pinned: {why}"),
        }
    }
}

/// The first two of a list such as `0-3,8`.
fn processors(list: &str) -> [Option<u32>; 2] {
    let mut found = list.trim().split(',').filter_map(span).flatten();
    [found.next(), found.next()]
}

fn span(part: &str) -> Option<std::ops::RangeInclusive<u32>> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        for (list, expected) in [
            ("\t0-3", [Some(0), Some(1)]),
            ("4,7-9", [Some(4), Some(7)]),
            ("2", [Some(2), None]),
            ("", [None, None]),
            ("x-y", [None, None]),
        ] {
            assert_eq!(processors(list), expected, "{list}");
        }
    }

    #[test]
    fn a_seat_is_a_prefix() {
        let seats = Seats::Pinned { taskset: "/bin/taskset".into(), server: 2, load: 5 };
        let command = seats.command(Seat::Load, "wrk");
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(
            (command.get_program(), arguments),
            (OsStr::new("/bin/taskset"), vec!["-c".as_ref(), "5".as_ref(), "wrk".as_ref()])
        );
        let free = Seats::Free { why: "a test" };
        assert_eq!(free.command(Seat::Server, "wrk").get_program(), OsStr::new("wrk"));
    }
}
