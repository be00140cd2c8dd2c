//! Faults in a running process, for as long as a value lives.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Dir, wait_for};

/// In which calls are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// Calls of a kind that fail, of a process that pauses between its tries; one that spins makes thousands.
const CALLS_MAX: usize = 200;

/// A tracer that makes calls fail.
pub(crate) struct Injector {
    strace: Child,
    dir: Dir,
}

impl Injector {
    /// Makes the calls (`accept4`, `?poll,?ppoll`) of a process fail with this error: all, or those that `when` counts
    /// (`1..3`). `None` where this machine cannot.
    pub(crate) fn into(pid: Pid, calls: &str, (error, when): (&str, Option<&str>)) -> Option<Self> {
        let dir = Dir::new();
        let when = when.map(|when| format!(":when={when}")).unwrap_or_default();
        let told = fs::File::create(dir.path("told")).unwrap();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", &format!("trace={calls}"), "-e", "signal=none"]);
        command.args(["-e", &format!("inject={calls}:error={error}{when}"), "-o"]).arg(dir.path("calls"));
        command.args(["-p", &pid.to_string()]).stdin(Stdio::null()).stderr(told);
        let Ok(mut strace) = command.spawn() else {
            println!("skipped: no strace on this machine");
            return None;
        };
        let attached = wait_for("strace to attach", || {
            if strace.try_wait().unwrap().is_some() {
                return Some(false);
            }
            is_traced(pid, strace.id()).then_some(true)
        });
        if !attached {
            let why = fs::read_to_string(dir.path("told")).unwrap();
            assert!(why.contains("Operation not permitted"), "{calls}: {why}");
            println!("skipped: this machine does not let strace trace: {why}");
            return None;
        }
        Some(Self { strace, dir })
    }

    /// How many calls have failed so far.
    pub(crate) fn struck(&self) -> usize {
        fs::read_to_string(self.dir.path("calls")).unwrap_or_default().matches("(INJECTED)").count()
    }

    /// Waits until so many have failed.
    #[track_caller]
    pub(crate) fn strikes(&self, times: usize) {
        wait_for(&format!("{times} faults"), || (self.struck() >= times).then_some(()));
    }

    /// Checks that the process does not make them as fast as it can.
    #[track_caller]
    pub(crate) fn is_not_spun(&self) {
        let (before, until) = (self.struck(), Instant::now() + WINDOW);
        wait_for("the end of the counting", || (Instant::now() > until).then_some(()));
        let calls = self.struck() - before;
        assert!(calls < CALLS_MAX, "{calls} failing calls in {WINDOW:?}");
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        // Told to end, it lets go of what it traces first.
        let _gone = kill(Pid::from_raw(self.strace.id().cast_signed()), Signal::SIGTERM);
        let _reaped = self.strace.wait();
    }
}

fn is_traced(pid: Pid, by: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|tracer| tracer.trim() == by.to_string())
}
