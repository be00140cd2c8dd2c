//! What `/proc` says about processes and the machine. Read only; a process that is gone has used nothing.

use std::fs;

/// `/proc`'s clock ticks a second: fixed at 100 for user space on every architecture Linux serves here.
const TICKS_A_SECOND: f64 = 100.0;
/// How deep a server's process tree may be: master, worker, and one level to spare.
const DEPTH_MAX: usize = 3;

/// Processor time in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cpu {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl Cpu {
    /// User and system together.
    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }

    /// The time of one process, zombies included.
    pub(crate) fn of(pid: u32) -> Self {
        read(&format!("/proc/{pid}/stat")).as_deref().and_then(parse_stat).unwrap_or_default()
    }
}

/// The processor time of a process and all below it at one moment.
#[derive(Debug)]
pub(crate) struct Reading(Vec<(u32, Cpu)>);

impl Reading {
    /// Looks at a whole tree.
    pub(crate) fn of(root: u32) -> Self {
        Self(family(root).into_iter().map(|pid| (pid, Cpu::of(pid))).collect())
    }

    /// What was used since an earlier reading; a process that is new since then counts whole.
    pub(crate) fn since(&self, earlier: &Self) -> Cpu {
        let mut sum = Cpu::default();
        for (pid, now) in &self.0 {
            let before = earlier.0.iter().find(|(known, _)| known == pid).map_or(Cpu::default(), |(_, then)| *then);
            sum.user += now.user - before.user;
            sum.system += now.system - before.system;
        }
        sum
    }

    /// The process that has used the most so far: after a load, the worker.
    pub(crate) fn busiest(&self) -> Option<u32> {
        self.0.iter().max_by(|(_, a), (_, b)| a.total().total_cmp(&b.total())).map(|(pid, _)| *pid)
    }
}

/// A process and all its descendants.
pub(crate) fn family(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut generation = vec![root];
    for _ in 0..DEPTH_MAX {
        generation = generation.into_iter().flat_map(children).collect();
        found.extend(&generation);
    }
    found
}

/// The children of all of a process's threads, zombies included.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The living processes of a process group, whoever their parents are by now.
pub(crate) fn group(leader: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = read(&format!("/proc/{pid}/stat"));
        stat.as_deref().and_then(parse_group).is_some_and(|(state, group)| group == leader && !"ZX".contains(state))
    })
    .collect()
}

/// How a process calls itself: its arguments, with spaces between them.
pub(crate) fn title(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
}

/// Memory in MiB, what is shared counted by its part.
pub(crate) fn pss_mib(pid: u32) -> Option<f64> {
    let rollup = read(&format!("/proc/{pid}/smaps_rollup"))?;
    parse_kib(&rollup, "Pss:").map(|kib| kib as f64 / 1024.0)
}

/// How many threads a process has.
pub(crate) fn threads(pid: u32) -> Option<u64> {
    parse_kib(&read(&format!("/proc/{pid}/status"))?, "Threads:")
}

/// Resident memory in MiB.
pub(crate) fn rss_mib(pid: u32) -> Option<f64> {
    let status = read(&format!("/proc/{pid}/status"))?;
    parse_kib(&status, "VmRSS:").map(|kib| kib as f64 / 1024.0)
}

/// Seconds that all processors together have been busy since boot.
pub(crate) fn machine_busy() -> f64 {
    read("/proc/stat").as_deref().and_then(parse_machine).unwrap_or_default()
}

/// The machine in a few words.
pub(crate) fn machine() -> String {
    let info = read("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{processors} x {model}, Linux {}", kernel.trim())
}

/// Milliseconds for which a process's first thread has had a processor, as fine as the scheduler counts.
pub(crate) fn ran_ms(pid: u32) -> Option<f64> {
    parse_ran(&read(&format!("/proc/{pid}/schedstat"))?)
}

/// How busy the machine is: processes that want a processor, over one, five and fifteen minutes.
pub(crate) fn load() -> String {
    let said = read("/proc/loadavg").unwrap_or_default();
    let averages: Vec<&str> = said.split_whitespace().take(3).collect();
    format!("load {}", averages.join(" "))
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// `utime` and `stime` of a `/proc/PID/stat` line. The name before them is in parentheses and may hold any character.
fn parse_stat(text: &str) -> Option<Cpu> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Cpu { user: user as f64 / TICKS_A_SECOND, system: system as f64 / TICKS_A_SECOND })
}

/// State and process group of a `/proc/PID/stat` line.
fn parse_group(text: &str) -> Option<(char, u32)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(1)?.parse().ok()?))
}

/// Busy seconds in `/proc/stat`: user, nice, system, irq and softirq of its first line.
fn parse_machine(text: &str) -> Option<f64> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let busy: Option<u64> = [0, 1, 2, 5, 6].into_iter().map(|field| fields.get(field)).sum::<Option<u64>>();
    busy.map(|ticks| ticks as f64 / TICKS_A_SECOND)
}

/// The number in a line of `/proc/PID/status` or of a file like it; memory is in kilobytes there.
fn parse_ran(schedstat: &str) -> Option<f64> {
    let ns: u64 = schedstat.split_whitespace().next()?.parse().ok()?;
    Some(ns as f64 / 1e6)
}

fn parse_kib(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "4711 (a) b) (c) S 1 4711 4711 0 -1 4194560 1180 0 0 0 1234 5678 9 9 20 0 1 0 30 1000 100";

    #[test]
    fn stat_lines() {
        assert_eq!(parse_stat(STAT), Some(Cpu { user: 12.34, system: 56.78 }));
        for bad in ["", "1 (x", "1 (x) S 1", "1 (x) S 1 2 3 4 5 6 7 8 9 10 u s"] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
        assert_eq!(parse_group(STAT), Some(('S', 4711)));
        assert_eq!(parse_group("1 (x) S 1"), None);
    }

    #[test]
    fn machine_time_leaves_out_idle_and_guests() {
        let text = "cpu  100 20 300 5000 600 7 80 90 1000 1000\ncpu0 1 1 1 1\n";
        assert_eq!(parse_machine(text), Some(5.07));
        assert_eq!(parse_machine("cpu0 1 2 3 4 5 6 7\n"), None);
        assert_eq!(parse_machine("cpu  1 2\n"), None);
    }

    #[test]
    fn time_on_a_processor() {
        assert_eq!(parse_ran("12500000 34 56\n"), Some(12.5));
        assert_eq!(parse_ran(""), None);
        assert!(ran_ms(std::process::id()).is_some_and(|ms| ms > 0.0));
    }

    #[test]
    fn resident_memory() {
        let status = "Name:\tx\nVmRSS:\t    4096 kB\nVmSwap: 1 kB\n";
        assert_eq!(parse_kib(status, "VmRSS:"), Some(4096));
        assert_eq!(parse_kib(status, "VmHWM:"), None);
    }

    #[test]
    fn a_reading_counts_growth_and_newcomers() {
        let cpu = |user, system| Cpu { user, system };
        let earlier = Reading(vec![(1, cpu(1.0, 1.0)), (2, cpu(5.0, 5.0))]);
        let later = Reading(vec![(1, cpu(2.0, 1.5)), (3, cpu(0.25, 0.0))]);
        assert_eq!(later.since(&earlier), cpu(1.25, 0.5));
        assert_eq!(later.busiest(), Some(1));
    }

    #[test]
    fn our_own_process_is_read() {
        let own = std::process::id();
        assert!(family(own).contains(&own));
        assert!(rss_mib(own).is_some_and(|mib| mib > 0.1));
        assert!(machine_busy() > 0.0);
        assert!(pss_mib(own).is_some_and(|mib| mib > 0.1) && threads(own).is_some_and(|count| count > 0));
        assert!(title(own).contains("gate_bench"), "{}", title(own));
        let leader = nix::unistd::getpgrp().as_raw().cast_unsigned();
        assert!(group(leader).contains(&own));
    }
}
