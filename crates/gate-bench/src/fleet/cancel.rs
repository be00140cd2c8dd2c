//! Clients that leave in the middle: how long until the backend notices.
//!
//! The time runs from before the client's close to the moment at which the simulated backend sees its connection end.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ollama_sim::Config;

use super::client::request;
use super::gate::Gate;
use super::{Ground, slots};
use crate::backend::Backend;
use crate::complaint::Complaint;
use crate::interrupt;

/// Tries, as the bar has it.
pub(crate) const TRIES: usize = 500;
/// The longest that it may take.
pub(crate) const SOON: Duration = Duration::from_millis(100);
/// How long what is waited for may take; one that is not noticed by then is not noticed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the backend's counters are looked at; its own clock tells when.
const GLANCE: Duration = Duration::from_micros(500);
/// Who leaves.
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Tokens a second of a stream.
const TOKEN_RATE: u32 = 20;

/// What the client waits for when it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// More of a stream.
    Stream,
    /// An answer in one piece.
    Whole,
    /// The first token of a stream.
    FirstToken,
}

impl Leaving {
    const ALL: [Self; 3] = [Self::Stream, Self::Whole, Self::FirstToken];

    fn body(self) -> &'static str {
        match self {
            Self::Stream => r#"{"model":"llama3.2:1b","prompt":"@sim:endless","stream":true}"#,
            Self::Whole => r#"{"model":"llama3.2:1b","prompt":"@sleep:30","stream":false}"#,
            Self::FirstToken => r#"{"model":"llama3.2:1b","prompt":"@sleep:30","stream":true}"#,
        }
    }
}

/// Milliseconds until the backend noticed, sorted; [`f64::INFINITY`] where it did not.
pub(crate) fn measure(ground: &Ground<'_>) -> Result<Vec<f64>, Complaint> {
    let backend = Backend::of(Config { token_rate: TOKEN_RATE, slots: slots(16), recorded: 0, ..Config::echo() })?;
    let gate = Gate::start(ground, "cancel", &[backend.port], &["--workers", "2", "--slots", "16"])?;
    let mut found = Vec::new();
    for (number, leaving) in Leaving::ALL.into_iter().cycle().take(TRIES).enumerate() {
        interrupt::check()?;
        found.push(leave(&gate, &backend, leaving)?);
        if (number + 1) % 100 == 0 {
            eprintln!("cancel: {} of {TRIES}", number + 1);
        }
    }
    found.sort_unstable_by(f64::total_cmp);
    Ok(found)
}

fn leave(gate: &Gate, backend: &Backend, leaving: Leaving) -> Result<f64, Complaint> {
    let before = backend.sim.counters().cancelled;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, gate.port));
    let trouble = || Complaint::io("asking the gate");
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).map_err(trouble())?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(trouble())?;
    stream.write_all(request(server, CLIENT, leaving.body()).as_bytes()).map_err(trouble())?;
    if leaving == Leaving::Stream {
        let mut held = Vec::new();
        while !held.windows(2).any(|pair| pair == b"}\n") {
            let mut part = [0; 1024];
            let read = stream.read(&mut part).map_err(trouble())?;
            held.extend_from_slice(&part[..read]);
            if read == 0 {
                return Err(wrong(&String::from_utf8_lossy(&held)));
            }
        }
    } else if !wait(|| backend.sim.counters().generating == 1) {
        return Err(wrong("a request does not reach the backend"));
    }
    let left_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    drop(stream);
    if !wait(|| backend.sim.counters().cancelled > before) {
        return Ok(f64::INFINITY);
    }
    let noticed = backend.sim.counters().cancellations.last().map_or(0, |last| last.noticed_unix_us);
    Ok(u128::from(noticed).saturating_sub(left_us) as f64 / 1e3)
}

fn wait(happened: impl Fn() -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    while !happened() {
        if Instant::now() > until {
            return false;
        }
        sleep(GLANCE);
    }
    true
}

fn wrong(said: &str) -> Complaint {
    Complaint::Answer { name: "gate".to_owned(), said: said.to_owned() }
}

/// How many were noticed too late or never.
pub(crate) fn late(found: &[f64]) -> usize {
    found.iter().filter(|ms| **ms > SOON.as_secs_f64() * 1e3).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_noticed_is_late() {
        assert_eq!(late(&[0.5, 100.0, 100.1, f64::INFINITY]), 2);
    }

    #[test]
    fn a_backend_alone_notices_at_once() {
        let backend = Backend::of(Config { token_rate: TOKEN_RATE, recorded: 0, ..Config::echo() }).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, backend.port)).unwrap();
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, backend.port));
        stream.write_all(request(server, CLIENT, Leaving::FirstToken.body()).as_bytes()).unwrap();
        assert!(wait(|| backend.sim.counters().generating == 1));
        drop(stream);
        assert!(wait(|| backend.sim.counters().cancelled == 1));
    }
}
