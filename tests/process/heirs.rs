//! Binaries that a test may replace, and the masters that take over from the one that the test has started.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::orders::Control;
use crate::scene::is_gone;
use crate::support::{Dir, Gate, Plan, binary, children_of, is_alive, wait_for};

/// A version of the same length as the real one, so that a binary can be made to say it.
pub(crate) const OLDER: &str = "0.0.9";

/// A copy of the binary in a directory of its own.
pub(crate) struct Installed {
    dir: Dir,
}

impl Installed {
    pub(crate) fn new() -> Self {
        let installed = Self { dir: Dir::new() };
        installed.put_back();
        installed
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path("gate")
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path("")
    }

    /// The binary under test, as a new file.
    pub(crate) fn put_back(&self) {
        self.replace_by(&binary(), 0o755);
    }

    /// One that says it is [`OLDER`].
    pub(crate) fn downgrade(&self) {
        assert_eq!(env!("CARGO_PKG_VERSION").len(), OLDER.len());
        let (words, draft) =
            (format!("s/{}/{OLDER}/g", env!("CARGO_PKG_VERSION").replace('.', "\\.")), self.dir.path("draft"));
        let text = fs::File::create(&draft).unwrap();
        let mut sed = Command::new("sed");
        assert!(sed.env("LC_ALL", "C").arg(words).arg(binary()).stdout(text).status().unwrap().success());
        self.replace_by(&draft, 0o755);
    }

    /// This text instead of a binary.
    pub(crate) fn write(&self, text: &str, mode: u32) {
        let draft = self.dir.path("draft");
        fs::write(&draft, text).unwrap();
        self.replace_by(&draft, mode);
    }

    pub(crate) fn remove(&self) {
        fs::remove_file(self.path()).unwrap();
    }

    /// As a package does it: another file takes over the name. Copied by another process: a file that this one had open
    /// for writing while it forks could not be executed for a moment.
    fn replace_by(&self, file: &Path, mode: u32) {
        let copy = self.dir.path("copy");
        assert!(Command::new("cp").arg(file).arg(&copy).status().unwrap().success());
        fs::set_permissions(&copy, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(&copy, self.path()).unwrap();
    }

    /// Starts the copy in place of the binary under test.
    pub(crate) fn launch(&self, plan: Plan) -> Plan {
        let script = format!("shift; exec {} \"$@\"", self.path().display());
        plan.launched_by(&["sh", "-c", &script, "sh"])
    }
}

/// A master that nobody in this process has started. Dropped, it is killed with all its processes.
pub(crate) struct Heir(Pid);

impl Heir {
    pub(crate) fn new(pid: Pid) -> Self {
        Self(pid)
    }

    pub(crate) fn pid(&self) -> Pid {
        self.0
    }

    pub(crate) fn children(&self, role: &str) -> Vec<Pid> {
        children_of(self.0, role)
    }

    pub(crate) fn workers(&self) -> Vec<Pid> {
        self.children("worker")
    }

    #[track_caller]
    pub(crate) fn has_workers(&self, count: usize) -> Vec<Pid> {
        wait_for(&format!("{count} workers"), || Some(self.workers()).filter(|workers| workers.len() == count))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.0, signal).expect("it is there");
    }

    /// The file that it runs.
    pub(crate) fn file(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/exe", self.0)).unwrap()
    }

    /// Ends it as an operator does.
    #[track_caller]
    pub(crate) fn stops(self) {
        self.signal(Signal::SIGTERM);
        is_gone(self.0);
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        let children = children_of(self.0, "");
        for pid in [self.0].into_iter().chain(children).filter(|pid| is_alive(*pid)) {
            let _gone = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Upgrades by the control socket; the heir, once it serves.
#[track_caller]
pub(crate) fn upgrade(control: &Control) -> Heir {
    let answer = control.ask(&json!({"command": "upgrade", "wait": true}));
    assert_eq!(answer["ok"], true, "{answer}");
    Heir::new(Pid::from_raw(i32::try_from(answer["pid"].as_i64().unwrap()).unwrap()))
}

/// The process that is started to take over, once it is there.
#[track_caller]
pub(crate) fn candidate(gate: &mut Gate) -> Heir {
    let line = gate.log_has("the candidate is started as ");
    let (_, pid) = line.split_once("started as ").unwrap();
    Heir::new(Pid::from_raw(pid.split(';').next().unwrap().parse().unwrap()))
}
