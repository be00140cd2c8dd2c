//! A process that we started, ended when it goes out of scope. It touches no process but its own and their group.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::complaint::Complaint;
use crate::interrupt;
use crate::processes::Cpu;

/// How long a process may take to end after TERM, before its group is killed: servers drain idle clients first.
const END_MAX: Duration = Duration::from_secs(10);
/// How often an ending process is looked at.
const GLANCE: Duration = Duration::from_millis(5);
/// How often a running load is looked at: seldom enough to cost it nothing.
const WATCH: Duration = Duration::from_millis(50);
/// How much of a log is shown with a complaint.
const LOG_SHOWN: usize = 4 << 10;

/// A child in a process group of its own; what it prints goes to a file.
#[derive(Debug)]
pub(crate) struct Started {
    child: Child,
    name: String,
    output: PathBuf,
}

impl Started {
    /// Starts a command whose standard output and error go to a file.
    pub(crate) fn spawn(name: &str, mut command: Command, output: &Path) -> Result<Self, Complaint> {
        let out = File::create(output).map_err(Complaint::file(output))?;
        let error = out.try_clone().map_err(Complaint::file(output))?;
        command.stdin(Stdio::null()).stdout(out).stderr(error);
        let child = command.process_group(0).spawn().map_err(Complaint::io(format!("starting {name}")))?;
        Ok(Self { child, name: name.to_owned(), output: output.to_owned() })
    }

    /// Its process id, and that of its group.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal; one that has ended takes no harm, as its id is still its own.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Complaint> {
        kill(self.as_pid(), signal).map_err(|why| Complaint::io(format!("{signal} to {}", self.name))(why.into()))
    }

    /// Kills it with all that it started, where an orderly end would measure nothing more.
    pub(crate) fn kill_group(&self) {
        // Not reaped yet, so the group is surely ours; none left in it is as good.
        killpg(self.as_pid(), Signal::SIGKILL).ok();
    }

    /// Whether it has ended. It stays a zombie, so its id and its group's cannot be taken by another process.
    pub(crate) fn ended(&self) -> Option<WaitStatus> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        loop {
            match waitid(Id::Pid(self.as_pid()), flags) {
                Ok(WaitStatus::StillAlive) => return None,
                Ok(status) => return Some(status),
                Err(Errno::EINTR) => {}
                Err(_) => return Some(WaitStatus::Exited(self.as_pid(), 0)),
            }
        }
    }

    /// Waits for a program to end well and returns what it printed and the processor time it took.
    pub(crate) fn finish(self, within: Duration) -> Result<(String, Cpu), Complaint> {
        let until = Instant::now() + within;
        loop {
            interrupt::check()?;
            match self.ended() {
                Some(WaitStatus::Exited(_, 0)) => return Ok((self.said()?, Cpu::of(self.pid()))),
                Some(status) => return Err(self.no_use(&format!("{status:?}"))),
                None if Instant::now() > until => return Err(self.no_use("it does not end")),
                None => sleep(WATCH),
            }
        }
    }

    /// The end of what it printed.
    pub(crate) fn last_words(&self) -> String {
        let said = std::fs::read(&self.output).unwrap_or_default();
        let shown = &said[said.len().saturating_sub(LOG_SHOWN)..];
        String::from_utf8_lossy(shown).trim_end().to_owned()
    }

    /// All that it printed so far.
    pub(crate) fn said(&self) -> Result<String, Complaint> {
        let bytes = std::fs::read(&self.output).map_err(Complaint::file(&self.output))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn no_use(&self, why: &str) -> Complaint {
        Complaint::Program { name: self.name.clone(), said: format!("{why}\n{}", self.last_words()) }
    }

    fn as_pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let pid = self.as_pid();
        if self.ended().is_none() {
            kill(pid, Signal::SIGTERM).ok();
        }
        let until = Instant::now() + END_MAX;
        while self.ended().is_none() && Instant::now() < until {
            sleep(GLANCE);
        }
        if self.ended().is_none() {
            eprintln!("gate-bench: {} (process {pid}) does not end and is killed", self.name);
        }
        // What it left behind goes with it. The child itself is not reaped yet, so the group is surely ours.
        killpg(pid, Signal::SIGKILL).ok();
        self.child.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    #[test]
    fn a_program_is_finished_and_a_server_is_ended_with_its_children() {
        let folder = Folder::create().unwrap();
        let room = folder.room("started").unwrap();
        let run = |script: &str, file: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            Started::spawn("sh", command, &room.join(file)).unwrap()
        };
        let (said, _) = run("echo out; echo err >&2", "a").finish(END_MAX).unwrap();
        assert_eq!(said, "out\nerr\n");
        assert!(run("echo why; exit 3", "b").finish(END_MAX).unwrap_err().to_string().contains("why"));
        // Its child ignores TERM and would outlive it.
        let server = run("sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait", "c");
        let child = until(|| server.said().unwrap().strip_suffix('\n').map(str::to_owned));
        drop(server);
        // Killed, it may stay a zombie until whoever inherited it looks.
        until(|| match std::fs::read_to_string(format!("/proc/{child}/stat")) {
            Ok(stat) => stat.contains(") Z ").then_some(()),
            Err(_) => Some(()),
        });
    }

    fn until<T>(look: impl Fn() -> Option<T>) -> T {
        let until = Instant::now() + END_MAX;
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            assert!(Instant::now() < until, "it did not happen");
            std::thread::yield_now();
        }
    }
}
