//! The trial that a binary puts itself through: it passes, is over in time, and leaves nothing behind however it ends.

use std::fs::{self, File};
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Dir, binary, children_of, is_alive, wait_for};

/// A trial that runs in a directory of its own.
struct Trial {
    child: Child,
    dir: Dir,
}

impl Trial {
    fn start() -> Self {
        let dir = Dir::new();
        let mut command = Command::new(binary());
        // What this machine's own gate would be told must not reach the private one.
        let strange = [("OLLAMA_GATE_WORKERS", "7"), ("OLLAMA_GATE_BIND", "192.0.2.1:80"), ("OLLAMA_HOST", "x y")];
        command.arg("selftest").envs(strange).env("TMPDIR", dir.path(""));
        command.stdout(File::create(dir.path("out")).unwrap()).stderr(File::create(dir.path("err")).unwrap());
        Self { child: command.spawn().unwrap(), dir }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path(name)).unwrap()
    }

    fn folders(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path("")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("ollama-gate-selftest-")).collect()
    }

    /// Everybody below it: guard, master, workers.
    fn descendants(&self) -> Vec<Pid> {
        let mut found = vec![self.pid()];
        let mut next = 0;
        while let Some(parent) = found.get(next) {
            found.extend(children_of(*parent, ""));
            next += 1;
        }
        found.split_off(1)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn this_binary_loses_nothing() {
    let mut trial = Trial::start();
    let status = wait_for("the trial's end", || trial.child.try_wait().unwrap());
    let (out, err) = (trial.said("out"), trial.said("err"));
    assert_eq!(status.code(), Some(0), "{out}\n{err}");
    for step in [
        "start ",
        "load ",
        "reload ",
        "reload of a broken file",
        "SIGKILL",
        "scale up",
        "scale down",
        "upgrade",
        "stop",
    ] {
        assert!(out.lines().any(|line| line.starts_with(step)), "{step} in:\n{out}");
    }
    assert!(out.ends_with("\nlost: 0\n"), "{out}");
    assert_eq!(trial.folders(), [""; 0]);
}

#[test]
fn whatever_ends_it_nothing_is_left() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut trial = Trial::start();
        // The guard, the master, two workers, the monitor and the demo.
        let family = wait_for("its processes", || Some(trial.descendants()).filter(|family| family.len() >= 6));
        kill(trial.pid(), signal).unwrap();
        assert!(!wait_for("its end", || trial.child.try_wait().unwrap()).success());
        for pid in family {
            wait_for(&format!("the end of {pid} after {signal}"), || (!is_alive(pid)).then_some(()));
        }
        wait_for("the directory's removal", || trial.folders().is_empty().then_some(()));
    }
}
