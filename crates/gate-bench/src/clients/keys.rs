//! How long a gate takes to load many keys, and what they cost it in memory: whole gates, with them and without.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gate_limit::keys::Fresh;
use serde_json::Value;

use super::Ground;
use super::keyfile::{self, KEYS};
use crate::backend::Backend;
use crate::complaint::Complaint;
use crate::interrupt;
use crate::peer::{self, forget_environment};
use crate::probe;
use crate::processes;
use crate::started::Started;
use crate::stats::median;

/// Workers of each gate, as the bar has it.
pub(crate) const WORKERS: usize = 4;
/// Loads of each gate.
const LOADS: usize = 5;
/// Requests of different keys before memory is read, so that the workers have looked at their share of the table.
const REQUESTS: usize = 400;
/// How long an answer of the master may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What was found, round by round.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Milliseconds from the request to the answer.
    pub(crate) load_ms: Vec<f64>,
    /// Milliseconds of the master's processor time in each: what is left where nobody else wants the machine.
    pub(crate) load_cpu_ms: Vec<f64>,
    /// MiB of all processes together, with keys less without.
    pub(crate) memory_mib: Vec<f64>,
}

/// Starts a gate without keys and one with, turn by turn.
pub(crate) fn measure(ground: &Ground<'_>, rounds: u32) -> Result<Found, Complaint> {
    let backend = Backend::start()?;
    let keys = keyfile::keys(KEYS);
    let text = keyfile::text(&keys);
    let mut found = Found::default();
    for round in 1..=rounds {
        interrupt::check()?;
        let without = Gate::start(ground, &format!("open-{round}"), backend.port, None)?.settled(&keys)?;
        let room = ground.folder.room(&format!("file-{round}"))?;
        let file = room.join("keys");
        keyfile::write(&file, &text)?;
        let gate = Gate::start(ground, &format!("keys-{round}"), backend.port, Some(&file))?;
        let mut loads_ms = Vec::new();
        for _ in 0..LOADS {
            let ran = || processes::ran_ms(gate.started.pid()).unwrap_or(f64::NAN);
            let before = ran();
            loads_ms.push(gate.load()?.as_secs_f64() * 1e3);
            found.load_cpu_ms.push(ran() - before);
        }
        let memory_mib = gate.settled(&keys)? - without;
        let typical = median(loads_ms.iter().copied()).unwrap_or(f64::NAN);
        eprintln!("keys: round {round} of {rounds}: {typical:.1} ms a load, {memory_mib:.1} MiB more");
        found.load_ms.extend(loads_ms);
        found.memory_mib.push(memory_mib);
    }
    Ok(found)
}

struct Gate {
    port: u16,
    control: PathBuf,
    has_keys: bool,
    started: Started,
}

impl Gate {
    fn start(ground: &Ground<'_>, name: &str, upstream: u16, keys: Option<&Path>) -> Result<Self, Complaint> {
        let room = ground.folder.room(name)?;
        let (port, control) = (probe::free_port()?, room.join("control.sock"));
        let mut command = Command::new(ground.gate);
        command
            .args(["--bind", &format!("127.0.0.1:{port}"), "--workers", &WORKERS.to_string()])
            .args(["--upstream", &format!("http://127.0.0.1:{upstream}"), "--control"])
            .arg(&control)
            .current_dir(&room);
        if let Some(keys) = keys {
            command.arg("--keys").arg(keys);
        }
        forget_environment(&mut command, "OLLAMA_");
        let started = Started::spawn("gate", command, &room.join("output"))?;
        peer::wait_ready("gate", &started, port, "/healthz")?;
        Ok(Self { port, control, has_keys: keys.is_some(), started })
    }

    /// Has the master read, judge and publish the key file anew.
    fn load(&self) -> Result<Duration, Complaint> {
        let mut answer = String::new();
        let began = Instant::now();
        let asked = UnixStream::connect(&self.control).and_then(|mut stream| {
            stream.set_read_timeout(Some(ANSWER_MAX))?;
            stream.write_all(b"{\"command\":\"keys\"}\n")?;
            BufReader::new(stream).read_line(&mut answer)
        });
        let took = began.elapsed();
        asked.map_err(Complaint::io("asking for the keys"))?;
        if loaded(&answer) == Some(KEYS as u64) { Ok(took) } else { Err(wrong(&answer)) }
    }

    /// MiB of all its processes together once its workers have served.
    fn settled(self, keys: &[Fresh]) -> Result<f64, Complaint> {
        for place in 0..REQUESTS {
            let key = &keys[place * (keys.len() / REQUESTS)];
            let reply = probe::get_with(self.port, "/api/version", self.has_keys.then_some(&*key.text));
            let reply = reply.map_err(Complaint::io("asking the gate"))?;
            if reply.status != 200 {
                return Err(wrong(&format!("{} {}", reply.status, reply.body)));
            }
        }
        let parts = processes::family(self.started.pid()).into_iter().map(processes::pss_mib);
        parts.sum::<Option<f64>>().ok_or_else(|| wrong("its memory cannot be read"))
    }
}

/// How many keys an answer of the master tells.
fn loaded(answer: &str) -> Option<u64> {
    let answer: Value = serde_json::from_str(answer).ok()?;
    answer["keys"]["keys"].as_u64().filter(|_| answer["ok"] == true)
}

fn wrong(said: &str) -> Complaint {
    Complaint::Answer { name: "gate".to_owned(), said: said.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_tell_how_many() {
        for (answer, expected) in [
            (r#"{"ok":true,"keys":{"file":"/k","keys":100000,"names":1}}"#, Some(100_000)),
            (r#"{"ok":true,"keys":null}"#, None),
            (r#"{"ok":false,"keys":{"keys":7}}"#, None),
            ("", None),
        ] {
            assert_eq!(loaded(answer), expected, "{answer}");
        }
    }
}
