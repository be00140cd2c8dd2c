//! What only the kernel knows: who belongs to a gate, who holds which connection, who is stopped, how somebody ended.
//!
//! The test process adopts everybody whose parent dies, so that the end of a gate that took over can be seen too.
//! Invariant: ends are collected in one place, and nothing else in this binary waits for a process.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

use crate::pause;
use crate::support::{title, wait_for};

static ENDS: Mutex<Option<HashMap<Pid, WaitStatus>>> = Mutex::new(None);

/// Collects the ends of all children, own and adopted ones, from here on.
pub(crate) fn adopt_orphans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        prctl::set_child_subreaper(true).expect("every Linux has subreapers");
        std::thread::spawn(|| {
            loop {
                match wait() {
                    Ok(status) => {
                        let mut ends = ENDS.lock().unwrap_or_else(PoisonError::into_inner);
                        if let Some(pid) = status.pid() {
                            ends.get_or_insert_default().insert(pid, status);
                        }
                    }
                    Err(Errno::ECHILD) => pause(Duration::from_millis(2)),
                    Err(error) => panic!("waiting for children: {error}"),
                }
            }
        });
    });
}

/// How a child ended, once it has. A new process with an old pid is not told apart.
pub(crate) fn end_of(pid: Pid) -> Option<WaitStatus> {
    ENDS.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.get(&pid).copied()
}

/// Waits for the end of a process of a gate, and asserts that it ended well. Whoever ends before its parent is the
/// parent's to collect, and only known to be gone.
#[track_caller]
pub(crate) fn ends_well(pid: Pid) {
    let end = wait_for(&format!("the end of {pid}"), || {
        let is_there = stat(pid).is_some();
        end_of(pid).map(Some).or((!is_there).then_some(None))
    });
    assert!(matches!(end, None | Some(WaitStatus::Exited(_, 0))), "{pid} did not end well: {end:?}");
}

/// Whether a process is gone, collected by whomever.
pub(crate) fn is_gone(pid: Pid) -> bool {
    stat(pid).is_none()
}

/// A process of a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) pid: Pid,
    pub(crate) title: String,
}

/// State and process group.
fn stat(pid: Pid) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(1)?.parse().ok()?))
}

/// Everybody alive in this process group: masters, candidates, workers, whoever their parent is.
pub(crate) fn group(leader: Pid) -> Vec<Member> {
    let entries = fs::read_dir("/proc").expect("procfs").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    let alive = pids.filter(|pid| {
        stat(*pid).is_some_and(|(state, group)| group == leader.as_raw() && state != 'Z' && state != 'X')
    });
    alive.map(|pid| Member { pid, title: title(pid) }).collect()
}

/// Stops a process and waits until it has stopped; `None` when it is gone instead.
pub(crate) fn stop(pid: Pid) -> Option<()> {
    kill(pid, Signal::SIGSTOP).ok()?;
    wait_for(&format!("{pid} to stop"), || match stat(pid) {
        Some(('T' | 't', _)) => Some(Some(())),
        Some(('Z' | 'X', _)) | None => Some(None),
        Some(_) => None,
    })
}

/// The ports at the other end of the TCP connections that a process holds.
pub(crate) fn peers(pid: Pid) -> HashSet<u16> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return HashSet::new() };
    let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let inodes: HashSet<String> =
        links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let table = fs::read_to_string("/proc/net/tcp").expect("procfs");
    let peer = |row: &str| {
        let fields: Vec<&str> = row.split_ascii_whitespace().collect();
        let port = u16::from_str_radix(fields.get(2)?.rsplit_once(':')?.1, 16).ok()?;
        inodes.contains(*fields.get(9)?).then_some(port)
    };
    table.lines().skip(1).filter_map(peer).collect()
}
