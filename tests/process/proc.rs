//! What the kernel tells about a process: its descriptors, sockets, users and ignored signals.

use std::fs;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// One TCP socket of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tcp {
    pub(crate) state: State,
    pub(crate) remote_port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Established,
    Listening,
    Other,
}

/// What its descriptors point to.
pub(crate) fn descriptors(pid: Pid) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links.map(|link| link.display().to_string()).collect()
}

/// The TCP (IPv4) sockets that a process holds.
pub(crate) fn tcp(pid: Pid) -> Vec<Tcp> {
    let held = descriptors(pid);
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let rows = table.lines().skip(1).map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    let own = rows.filter(|row| held.contains(&format!("socket:[{}]", row[9])));
    own.map(|row| Tcp {
        state: match row[3] {
            "01" => State::Established,
            "0A" => State::Listening,
            _ => State::Other,
        },
        remote_port: row[2].rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok()).unwrap(),
    })
    .collect()
}

/// How many sockets it listens on.
pub(crate) fn listening(pid: Pid) -> usize {
    tcp(pid).iter().filter(|socket| socket.state == State::Listening).count()
}

/// The sockets that it listens on, as the kernel names them.
pub(crate) fn listening_sockets(pid: Pid) -> Vec<String> {
    let held = descriptors(pid);
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let rows = table.lines().skip(1).map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    let names = rows.filter(|row| row[3] == "0A").map(|row| format!("socket:[{}]", row[9]));
    names.filter(|name| held.contains(name)).collect()
}

/// The process among `pids` that serves the client at this port.
pub(crate) fn server_of(port: u16, pids: &[Pid]) -> Option<Pid> {
    let serves = |socket: &Tcp| socket.state == State::Established && socket.remote_port == port;
    pids.iter().copied().find(|pid| tcp(*pid).iter().any(serves))
}

/// How many files it may have open: by the limit that the kernel keeps to, and by the one up to which it may raise that.
pub(crate) fn open_files(pid: Pid) -> [String; 2] {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    let mut words = line.split_ascii_whitespace().map(ToOwned::to_owned);
    [(); 2].map(|()| words.next().unwrap_or_default())
}

/// A line of `/proc/PID/status`, without its name.
pub(crate) fn status(pid: Pid, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// Whether it ignores the signal.
pub(crate) fn ignores(pid: Pid, signal: Signal) -> bool {
    let mask = u64::from_str_radix(&status(pid, "SigIgn"), 16).unwrap_or(0);
    mask & (1 << (signal as u32 - 1)) != 0
}
