//! How much memory a process holds, and what becomes of it when it crashes.
//!
//! It reads what the kernel tells and judges nothing, and gives back what nobody needs. Invariant: what cannot be read is
//! `None`, never a guess.

use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

/// The bytes of a process that are in memory now (`/proc/PID/statm`). `None` when there is no such process.
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    resident_pages(&statm)?.checked_mul(page)
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Gives the kernel back what this process has freed. glibc keeps freed memory for itself wherever large pieces came and
/// went before, as much as the largest of them; for a process that has just worked on a large file that is for nothing.
pub fn give_back_freed() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer and changes no memory that is in use; it may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What the kernel does with a core of this process and of its children, in words: by its own wish, by
/// `RLIMIT_CORE` and by `/proc/sys/kernel/core_pattern`. `None` where one of them cannot be read.
///
/// A child that has changed its user leaves a core only where `fs.suid_dumpable` allows it.
pub fn core_hint() -> Option<String> {
    if prctl::get_dumpable() == Ok(false) {
        return Some("no cores are written: the gate holds secrets".to_owned());
    }
    let (limit, _) = getrlimit(Resource::RLIMIT_CORE).ok()?;
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").ok()?;
    Some(hint(limit, pattern.trim_end_matches('\n')))
}

fn hint(limit: u64, pattern: &str) -> String {
    if let Some(command) = pattern.strip_prefix('|') {
        // The kernel lets a program have the core whatever the limit is, except for 1, which stops recursion.
        let program = command.split_ascii_whitespace().next().unwrap_or_default();
        return format!("cores go to the program {program}");
    }
    match (limit, pattern) {
        (0, _) => "no cores are written: RLIMIT_CORE is 0 (ulimit -c, LimitCORE=)".to_owned(),
        (_, "") => "no cores are written: kernel.core_pattern is empty".to_owned(),
        (RLIM_INFINITY, pattern) => format!("cores are written as {}", place(pattern)),
        (limit, pattern) => format!("cores are written as {}, cut at {limit} bytes", place(pattern)),
    }
}

fn place(pattern: &str) -> String {
    if pattern.starts_with('/') { pattern.to_owned() } else { format!("{pattern} in the working directory") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Exit, spawn_unchecked_threads, wait};

    #[test]
    fn the_second_number_is_what_is_resident() {
        assert_eq!(resident_pages("1200 345 67 8 0 90 0\n"), Some(345));
        for broken in ["", "1200", "1200 many 67"] {
            assert_eq!(resident_pages(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn own_memory_grows_by_what_is_touched() {
        const MORE: usize = 64 << 20;
        let own = std::process::id();
        let before = rss_bytes(own).unwrap();
        let touched = std::hint::black_box(vec![1u8; MORE]);
        let after = rss_bytes(own).unwrap();
        assert!(after >= before + (MORE as u64) / 2, "{before} -> {after} with {} more", touched.len());
        assert_eq!(rss_bytes(u32::MAX), None);
    }

    #[test]
    fn what_was_freed_is_given_back() {
        /// Below glibc's bound for pieces that come from the kernel one by one.
        const PIECE: usize = 64 << 10;
        const PIECES: usize = 1 << 10;
        let child = spawn_unchecked_threads((), |()| {
            let own = std::process::id();
            let mut pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| vec![1; PIECE]).collect();
            // The last one, behind all others, keeps their memory from going back by itself.
            let last = pieces.pop();
            drop(std::hint::black_box(pieces));
            let kept = rss_bytes(own).unwrap();
            give_back_freed();
            let left = rss_bytes(own).unwrap();
            drop(std::hint::black_box(last));
            u8::from(left + (PIECE * PIECES) as u64 / 2 > kept)
        });
        assert_eq!(wait(child.unwrap()).unwrap(), Exit::Code(0));
    }

    #[test]
    fn a_hint_says_where_cores_go_or_why_nowhere() {
        let check = |limit, pattern, expected: &str| assert_eq!(hint(limit, pattern), expected);
        check(RLIM_INFINITY, "core", "cores are written as core in the working directory");
        check(4096, "/var/crash/%e.%p", "cores are written as /var/crash/%e.%p, cut at 4096 bytes");
        check(0, "core", "no cores are written: RLIMIT_CORE is 0 (ulimit -c, LimitCORE=)");
        check(RLIM_INFINITY, "", "no cores are written: kernel.core_pattern is empty");
        check(
            0,
            "|/usr/lib/systemd/systemd-coredump %P %u",
            "cores go to the program /usr/lib/systemd/systemd-coredump",
        );
        assert!(core_hint().is_some());
    }
}
