//! A zone that another process has made: whether it can be used, and why not.
//!
//! It does not repair or convert: memory of another layout is refused before anything is mapped. What the zone's
//! processes were about is not known here either; whoever adopts it settles the rows of the dead.
//!
//! Invariant: an adopted zone has our layout, and is exactly as large as its head says.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use gate_sys::shared::{self, SharedWords};

use crate::Zone;
use crate::layout::{self, LIMITER, OVERFLOW_CELLS, header};

/// Why memory that was handed over cannot be our zone.
#[derive(Debug)]
#[non_exhaustive]
pub enum Foreign {
    /// It is something else.
    NotAZone,
    /// It is the zone of a program that lays it out differently.
    OtherLayout {
        /// The version of its layout.
        theirs: u64,
        /// The version of ours.
        ours: u64,
    },
    /// It is not as large as its head says.
    Size {
        /// Words that it has.
        words: usize,
        /// Entries of each limiter region, as its head says.
        entries: u64,
    },
    /// It cannot be read or mapped.
    Io(io::Error),
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAZone => f.write_str("what was handed over as the shared memory is something else")?,
            Self::OtherLayout { theirs, ours } => {
                write!(f, "the shared memory has layout {theirs}, and this program works with layout {ours}")?;
            }
            Self::Size { words, entries } => {
                write!(f, "the shared memory has {words} words, which is not the size for {entries} entries")?;
            }
            Self::Io(error) => write!(f, "the shared memory cannot be taken over: {error}")?,
        }
        f.write_str("; upgrade with --fresh-zone: counts of limits start afresh")
    }
}

impl std::error::Error for Foreign {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::NotAZone | Self::OtherLayout { .. } | Self::Size { .. } => None,
        }
    }
}

impl From<io::Error> for Foreign {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Too short for a head, not in memory, or not even a file.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::NotSeekable => Self::NotAZone,
            _ => Self::Io(error),
        }
    }
}

impl Zone {
    /// Maps a zone that another process has made with [`Zone::create`], counts and all.
    ///
    /// # Errors
    /// [`Foreign`], with what the operator can do. Nothing has been written then.
    pub fn adopt(fd: OwnedFd) -> Result<(SharedWords, Self), Foreign> {
        let head = shared::peek(fd.as_fd(), header::WORDS)?;
        if head[header::MAGIC] != layout::MAGIC {
            return Err(Foreign::NotAZone);
        }
        let (theirs, ours) = (head[header::VERSION], layout::VERSION);
        if theirs != ours {
            return Err(Foreign::OtherLayout { theirs, ours });
        }
        let memory = SharedWords::adopt(fd)?;
        let (words, entries) = (memory.words().len(), head[header::ENTRIES]);
        if entries_in(words).is_none_or(|held| held as u64 != entries) {
            return Err(Foreign::Size { words, entries });
        }
        let zone = Self { words: memory.words() };
        Ok((memory, zone))
    }
}

/// The reverse of [`layout::zone_words`], which could overflow on what somebody else wrote.
fn entries_in(words: usize) -> Option<usize> {
    let regions = header::WINDOW_COUNT + 1;
    let limiter = words.checked_sub(LIMITER)?;
    let entries = (limiter / regions).checked_sub(OVERFLOW_CELLS)?;
    (limiter.is_multiple_of(regions) && entries > 0).then_some(entries)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::atomic::Ordering::SeqCst;
    use std::time::Duration;

    use super::*;

    fn zone() -> (SharedWords, Zone) {
        Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap()
    }

    fn adopt(memory: &SharedWords) -> Result<(SharedWords, Zone), Foreign> {
        Zone::adopt(memory.as_fd().try_clone_to_owned().unwrap())
    }

    #[test]
    fn a_zone_is_adopted_with_all_that_it_holds() {
        let (memory, zone) = zone();
        let minute = Duration::from_secs(60);
        zone.assign_windows(&[minute], &[]).unwrap();
        zone.window_region(minute).unwrap().sets[63].store(9, SeqCst);
        zone.tell_generation(4);
        let (_memory, adopted) = adopt(&memory).unwrap();
        assert_eq!((adopted.entries(), adopted.seed(), adopted.generation()), (64, [1, 2], 4));
        assert_eq!(adopted.window_region(minute).unwrap().sets[63].load(SeqCst), 9);
        adopted.ask_to_reopen();
        assert_eq!(zone.reopenings(), 1, "both name the same memory");
    }

    #[test]
    fn the_size_tells_the_entries() {
        for entries in [1, 8, 64, 100_000] {
            let words = layout::zone_words(entries);
            assert_eq!(entries_in(words), Some(entries));
            assert_eq!((entries_in(words - 1), entries_in(words + 1)), (None, None));
        }
        assert_eq!((entries_in(0), entries_in(layout::zone_words(0))), (None, None));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_way_out() {
        let (memory, _) = zone();
        let set = |word: usize, value: u64| memory.words()[word].store(value, SeqCst);
        let refused = || {
            let refused = adopt(&memory).unwrap_err();
            assert!(refused.to_string().contains("--fresh-zone"), "{refused}");
            refused
        };
        for entries in [0, 63, 65, u64::MAX] {
            set(header::ENTRIES, entries);
            assert!(matches!(refused(), Foreign::Size { entries: told, .. } if told == entries));
        }
        set(header::VERSION, layout::VERSION + 1);
        let (newer, ours) = (layout::VERSION + 1, layout::VERSION);
        assert!(matches!(refused(), Foreign::OtherLayout { theirs, ours: own } if (theirs, own) == (newer, ours)));
        set(header::MAGIC, 0);
        assert!(matches!(refused(), Foreign::NotAZone));
    }

    #[test]
    fn what_is_no_memory_of_ours_is_not_a_zone() {
        let short = SharedWords::create(NonZeroUsize::new(8).unwrap()).unwrap();
        assert!(matches!(adopt(&short), Err(Foreign::NotAZone)));
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(matches!(Zone::adopt(socket.into()), Err(Foreign::NotAZone)));
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(matches!(Zone::adopt(file.into()), Err(Foreign::NotAZone)));
    }
}
