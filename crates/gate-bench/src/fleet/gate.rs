//! A gate in front of several backends, and what it says of them.

use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Ground;
use crate::backend::Backend;
use crate::complaint::Complaint;
use crate::interrupt;
use crate::peer::{self, forget_environment};
use crate::probe;
use crate::processes;
use crate::started::Started;
use crate::upstream::MODEL;

/// How long it may take until all backends are known: the monitor asks each within seconds.
const KNOWN_MAX: Duration = Duration::from_secs(15);
/// How often that is asked.
const GLANCE: Duration = Duration::from_millis(50);

/// A running gate, whose limits let everything pass.
pub(crate) struct Gate {
    pub(crate) port: u16,
    pub(crate) started: Started,
    program: PathBuf,
    control: PathBuf,
}

/// What its backends have and who waits for them, by its own `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// Slots that are not free.
    pub(crate) in_flight: u64,
    pub(crate) waiting: u64,
    /// Backends whose models are known.
    pub(crate) listed: usize,
    /// Backends that have a model in memory.
    pub(crate) loaded: usize,
}

impl Gate {
    /// Starts it in a folder of its own, and waits until it knows its backends.
    pub(crate) fn start(
        ground: &Ground<'_>,
        name: &str,
        upstream: &[u16],
        settings: &[&str],
    ) -> Result<Self, Complaint> {
        let room = ground.folder.room(name)?;
        let port = probe::free_port()?;
        let control = room.join("control.sock");
        let mut command = Command::new(ground.gate);
        let urls: Vec<String> = upstream.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        command
            .args(["--bind", &format!("127.0.0.1:{port}"), "--upstream", &urls.join(",")])
            .args(["--limit", "none", "--api-limit", "none", "--control"])
            .arg(&control)
            .args(settings)
            .current_dir(&room);
        forget_environment(&mut command, "OLLAMA_");
        let started = Started::spawn("gate", command, &room.join("output"))?;
        peer::wait_ready("gate", &started, port, "/healthz")?;
        let gate = Self { port, started, program: ground.gate.to_owned(), control };
        gate.wait(KNOWN_MAX, |seen| seen.listed == upstream.len())?
            .then_some(gate)
            .ok_or_else(|| wrong("it does not learn what its backends have"))
    }

    /// The same in front of backends that have the model in memory, and are known to.
    pub(crate) fn start_warm(
        ground: &Ground<'_>,
        name: &str,
        backends: &[Backend],
        settings: &[&str],
    ) -> Result<Self, Complaint> {
        let ports: Vec<u16> = backends.iter().map(|backend| backend.port).collect();
        let load = format!(r#"{{"model":"{MODEL}","prompt":"hello","stream":false}}"#);
        for port in &ports {
            probe::post(*port, "/api/generate", &load, None).map_err(Complaint::io("asking a backend"))?;
        }
        let gate = Self::start(ground, name, &ports, settings)?;
        gate.wait(KNOWN_MAX, |seen| seen.loaded == ports.len())?
            .then_some(gate)
            .ok_or_else(|| wrong("it does not learn what is in memory"))
    }

    /// Its workers, the oldest first.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let mut workers = processes::children(self.started.pid());
        workers.retain(|worker| processes::title(*worker).starts_with("ollama-gate: worker"));
        workers.sort_unstable();
        workers
    }

    /// What it says.
    pub(crate) fn usage(&self) -> Result<Use, Complaint> {
        let mut command = Command::new(&self.program);
        command.args(["status", "--json", "--control"]).arg(&self.control);
        forget_environment(&mut command, "OLLAMA_");
        let output = command.output().map_err(Complaint::io("asking the gate for its status"))?;
        parse(&output.stdout)
            .ok_or_else(|| wrong(&format!("its status cannot be read: {}", String::from_utf8_lossy(&output.stderr))))
    }

    /// Waits until it says what is waited for; whether it did.
    pub(crate) fn wait(&self, limit: Duration, happened: impl Fn(Use) -> bool) -> Result<bool, Complaint> {
        let until = Instant::now() + limit;
        loop {
            interrupt::check()?;
            if happened(self.usage()?) {
                return Ok(true);
            }
            if Instant::now() > until {
                return Ok(false);
            }
            sleep(GLANCE);
        }
    }
}

fn wrong(said: &str) -> Complaint {
    Complaint::Answer { name: "gate".to_owned(), said: said.to_owned() }
}

fn parse(status: &[u8]) -> Option<Use> {
    let status: Value = serde_json::from_slice(status).ok()?;
    let backends = status["backends"].as_array()?;
    Some(Use {
        in_flight: backends.iter().map(|backend| backend["in_flight"].as_u64()).sum::<Option<u64>>()?,
        waiting: status["queue"]["length"].as_u64()?,
        loaded: backends.iter().filter(|one| one["loaded"].as_array().is_some_and(|names| !names.is_empty())).count(),
        listed: backends.iter().filter(|backend| backend["listed"].as_u64().is_some()).count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_in_use_are_added_up() {
        let status = br#"{"queue":{"length":7},"backends":[{"in_flight":2,"listed":1,"loaded":["m"]},
            {"in_flight":3,"listed":null,"loaded":[]}]}"#;
        assert_eq!(parse(status), Some(Use { in_flight: 5, waiting: 7, listed: 1, loaded: 1 }));
        for bad in ["", "{}", r#"{"queue":{"length":7},"backends":[{}]}"#, r#"{"backends":[],"queue":{}}"#] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
