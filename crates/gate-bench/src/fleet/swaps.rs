//! Three models on two backends that hold two each: how often models make room for others, and how long all takes, beside
//! round robin over the same backends with the same requests.
//!
//! Loads take a few seconds and answers about one; both are divided by a scale, so that a run does not take all day. The
//! gate's own clocks are not: it looks at a backend's memory each second, and a large scale makes it look seldom.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use ollama_sim::{Config, Model};

use super::client::{self, drawn};
use super::gate::Gate;
use super::{Ground, slots};
use crate::backend::Backend;
use crate::complaint::Complaint;
use crate::folder;
use crate::peer::{self, Balance, nginx_configuration};
use crate::probe;
use crate::started::Started;
use crate::tools;

/// The models, and how long each takes to load, before scaling.
const MODELS: [(&str, Duration); 3] =
    [("small:1b", Duration::from_secs(3)), ("middle:3b", Duration::from_secs(4)), ("large:8b", Duration::from_secs(5))];
/// Backends.
const BACKENDS: usize = 2;
/// Models that fit in the memory of each.
const MEMORY: usize = 2;
/// Slots of each.
const SLOTS: u16 = 4;
/// Requests of one run.
const REQUESTS: u64 = 240;
/// Clients, as many as there are slots.
const CLIENTS: usize = 8;
/// The shortest answer, before scaling, in ms.
const SERVICE_MIN_MS: u64 = 600;
/// Answers take up to so much longer.
const SERVICE_SPREAD_MS: u64 = 800;
/// Sequences, each with backends of their own, whose memory is empty at first.
const SEQUENCES: u64 = 2;

/// Who shares the requests out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharer {
    /// The gate.
    Gate,
    /// nginx in turn.
    RoundRobin,
}

impl fmt::Display for Sharer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Gate => "gate",
            Self::RoundRobin => "nginx, round robin",
        })
    }
}

/// One sequence through one of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) sharer: Sharer,
    /// Loads that took another model's memory.
    pub(crate) swaps: u64,
    pub(crate) loads: u64,
    pub(crate) seconds: f64,
    /// Requests that were not answered with 200.
    pub(crate) failed: usize,
}

/// Runs every sequence through both.
pub(crate) fn measure(ground: &Ground<'_>, scale: u32) -> Result<Vec<Found>, Complaint> {
    let mut found = Vec::new();
    for sequence in 0..SEQUENCES {
        for sharer in [Sharer::RoundRobin, Sharer::Gate] {
            let one = run(ground, sharer, (sequence, scale))?;
            eprintln!(
                "swaps: {sharer}: {} swaps, {} loads, {:.1} s, {} failed",
                one.swaps, one.loads, one.seconds, one.failed
            );
            found.push(one);
        }
    }
    Ok(found)
}

/// The sums of one of them over all sequences; none where it was not run.
pub(crate) fn sum(found: &[Found], sharer: Sharer) -> Option<Found> {
    let own = found.iter().filter(|one| one.sharer == sharer).copied();
    own.reduce(|sum, one| Found {
        swaps: sum.swaps + one.swaps,
        loads: sum.loads + one.loads,
        seconds: sum.seconds + one.seconds,
        failed: sum.failed + one.failed,
        ..sum
    })
}

fn run(ground: &Ground<'_>, sharer: Sharer, (sequence, scale): (u64, u32)) -> Result<Found, Complaint> {
    let models = MODELS.map(|(name, load)| Model { load_time: load / scale, ..Model::named(name) });
    let config = Config { models: models.into(), memory: MEMORY, slots: slots(SLOTS), recorded: 0, ..Config::echo() };
    let backends: Vec<Backend> = (0..BACKENDS).map(|_| Backend::of(config.clone())).collect::<Result<_, _>>()?;
    let ports: Vec<u16> = backends.iter().map(|backend| backend.port).collect();
    let (slots, name) = (SLOTS.to_string(), format!("swaps-{sequence}"));
    // Held to the end of the run.
    let (port, _server) = match sharer {
        Sharer::Gate => {
            let gate = Gate::start(ground, &name, &ports, &["--workers", "2", "--slots", &slots])?;
            (gate.port, Server::Gate(gate))
        }
        Sharer::RoundRobin => {
            let (port, nginx) = round_robin(ground, &format!("{name}-nginx"), &ports)?;
            (port, Server::Nginx(nginx))
        }
    };
    let asked = Cell::new(0);
    let next = move || {
        asked.set(asked.get() + 1);
        (asked.get() <= REQUESTS).then(|| (asked.get(), body(sequence << 32 | asked.get(), scale)))
    };
    let records = client::run(port, &[1; CLIENTS], &(Rc::new(next) as Rc<client::Next>))?;
    let counters: Vec<_> = backends.iter().map(|backend| backend.sim.counters()).collect();
    Ok(Found {
        sharer,
        swaps: counters.iter().map(|one| one.swaps).sum(),
        loads: counters.iter().map(|one| one.loads).sum(),
        seconds: records.last().map_or(0.0, |last| last.ended.as_secs_f64()),
        failed: records.iter().filter(|record| record.status != Some(200)).count(),
    })
}

/// Whoever it is, it ends when dropped.
#[expect(dead_code, reason = "held for its drop")]
enum Server {
    Gate(Gate),
    Nginx(Started),
}

fn round_robin(ground: &Ground<'_>, name: &str, upstream: &[u16]) -> Result<(u16, Started), Complaint> {
    let program = tools::find("nginx").ok_or(Complaint::NoProgram { program: "nginx", package: "nginx-light" })?;
    let (room, port) = (ground.folder.room(name)?, probe::free_port()?);
    let file = room.join("nginx.conf");
    folder::write(&file, &nginx_configuration(&room, port, (Balance::RoundRobin, upstream)))?;
    let mut command = std::process::Command::new(program);
    command.arg("-c").arg(&file).arg("-e").arg(room.join("error.log"));
    let started = Started::spawn("nginx", command, &room.join("output"))?;
    peer::wait_ready("nginx", &started, port, "/healthz")?;
    Ok((port, started))
}

/// Each model as often as the others, in an order that a seed gives.
fn body(seed: u64, scale: u32) -> String {
    let (model, _) = MODELS[(drawn(seed) % MODELS.len() as u64) as usize];
    let service = Duration::from_millis(SERVICE_MIN_MS + drawn(!seed) % SERVICE_SPREAD_MS) / scale;
    format!(r#"{{"model":"{model}","prompt":"@sleep:{}","stream":false}}"#, service.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_the_same_each_time_and_even() {
        let bodies: Vec<String> = (0..3000).map(|seed| body(seed, 10)).collect();
        assert_eq!(bodies, (0..3000).map(|seed| body(seed, 10)).collect::<Vec<_>>());
        for (model, _) in MODELS {
            let count = bodies.iter().filter(|body| body.contains(model)).count();
            assert!((900..1100).contains(&count), "{model}: {count}");
        }
    }

    #[test]
    fn sequences_are_added_up() {
        let one = |sharer, swaps| Found { sharer, swaps, loads: 1, seconds: 1.5, failed: 0 };
        let found = [one(Sharer::Gate, 1), one(Sharer::RoundRobin, 7), one(Sharer::Gate, 2)];
        assert_eq!(sum(&found, Sharer::Gate), Some(Found { loads: 2, seconds: 3.0, ..one(Sharer::Gate, 3) }));
        assert_eq!(sum(&[], Sharer::Gate), None);
    }
}
