//! The private gate, and the process that outlives the trial to clear it away.
//!
//! The trial may be ended by anything: a key, a signal that nobody can catch. So a guard starts the gate, in a process
//! group of its own, and reads from a pipe that only the trial holds: at its end the group is killed, whoever leads it
//! by then, and the directory removed. Invariant: neither the guard nor the gate is in the terminal's foreground group,
//! so a key that ends the trial does not end them in an order of its own.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gate_config::exit::{EX_OK, EX_SOFTWARE};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::say;

/// This program, also when another one has been installed in its place.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Lines of the gate's log that are shown where something failed.
const LOG_LINES: usize = 20;

/// The trial's end of it.
pub(super) struct Scene {
    directory: PathBuf,
    guard: Child,
}

impl Scene {
    /// A directory, a guard, a gate that is starting.
    pub(super) fn open() -> Result<Self, String> {
        let directory = std::env::temp_dir().join(format!("ollama-gate-selftest-{}", std::process::id()));
        let failed = |error: io::Error| format!("{}: {error}", directory.display());
        DirBuilder::new().mode(0o700).create(&directory).map_err(failed)?;
        fs::write(directory.join("gate.toml"), "").map_err(failed)?;
        let spawned = Command::new(THIS_PROGRAM)
            .args(["selftest", "--guard"])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn();
        let guard = match spawned {
            Ok(guard) => guard,
            Err(error) => {
                let cleared = fs::remove_dir_all(&directory);
                return Err(format!(
                    "{THIS_PROGRAM}: {error}{}",
                    cleared.err().map_or(String::new(), |e| format!("; {e}"))
                ));
            }
        };
        let mut scene = Self { directory, guard };
        let mut word = String::new();
        if let Some(pipe) = scene.guard.stdout.take() {
            BufReader::new(pipe).read_line(&mut word).map_err(|error| error.to_string())?;
        }
        if word.is_empty() { Err("its guard has ended".to_owned()) } else { Ok(scene) }
    }

    pub(super) fn control(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// Writes its configuration file.
    pub(super) fn configure(&self, text: &str) -> Result<(), String> {
        fs::write(self.directory.join("gate.toml"), text).map_err(|error| format!("its file: {error}"))
    }

    /// The end of its log.
    pub(super) fn last_log(&self) -> String {
        let log = fs::read(self.directory.join("gate.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // The pipe's end is the guard's word to clear away.
        drop(self.guard.stdin.take());
        if let Err(error) = self.guard.wait() {
            eprintln!("ollama-gate selftest: its guard: {error}");
        }
    }
}

/// The guard's whole life; its exit code.
pub(super) fn hold(directory: &Path) -> u8 {
    let mut gate = match start(directory) {
        Ok(gate) => gate,
        Err(error) => {
            eprintln!("ollama-gate selftest: {error}");
            return clear(directory).max(EX_SOFTWARE);
        }
    };
    let said = say("started\n");
    // Whatever ends this reading, the trial is over.
    let read = io::stdin().lock().read_to_end(&mut Vec::new()).map(drop);
    // All of them: the leader may have been replaced, and may have left a child behind.
    let killed = killpg(Pid::from_raw(gate.id().cast_signed()), Signal::SIGKILL);
    let reaped = gate.wait().map(drop);
    for error in [read.err(), reaped.err()].into_iter().flatten() {
        eprintln!("ollama-gate selftest: {error}");
    }
    if let Err(error) = killed
        && error != nix::errno::Errno::ESRCH
    {
        eprintln!("ollama-gate selftest: the private gate cannot be killed: {error}");
    }
    clear(directory).max(said)
}

fn start(directory: &Path) -> io::Result<Child> {
    let log = File::create(directory.join("gate.log"))?;
    let gate = Command::new(THIS_PROGRAM)
        .arg("--config")
        .arg(directory.join("gate.toml"))
        .arg("--control")
        .arg(directory.join("control.sock"))
        .args(["--demo", "--workers", "2", "--bind", "127.0.0.1:0", "--limit", "none", "--api-limit", "none"])
        .args(["--graceful-timeout", "5s", "--stream-timeout", "5s"])
        // Nothing of what this machine's own gate is told, by its operator or by systemd.
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .spawn()?;
    Ok(gate)
}

fn clear(directory: &Path) -> u8 {
    match fs::remove_dir_all(directory) {
        Ok(()) => EX_OK,
        Err(error) => {
            eprintln!("ollama-gate selftest: {} is left behind: {error}", directory.display());
            EX_SOFTWARE
        }
    }
}
