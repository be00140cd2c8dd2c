//! What a count that several gates share costs a request: one gate that asks a store for every client, beside one that does
//! not, under the same steady load. Every request comes from a client that was not seen before, so each costs a question.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use super::Ground;
use crate::backend::Backend;
use crate::complaint::Complaint;
use crate::fleet::client::request;
use crate::interrupt;
use crate::peer::{self, forget_environment};
use crate::probe;
use crate::started::Started;
use crate::stats::quantile;
use crate::supervise::exchange::{BYTES_MAX, whole};
use crate::tools;

/// Connections of the load.
const CONNECTIONS: u32 = 8;
/// How often each of them asks: a fraction of what a worker can do.
const PAUSE: Duration = Duration::from_millis(5);
/// Requests a second of all together.
pub(crate) const RATE: u128 = CONNECTIONS as u128 * 1000 / PAUSE.as_millis();
/// How long an answer, or the start of the store, may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How often the store is asked whether it is there.
const GLANCE: Duration = Duration::from_millis(5);
/// What a client asks.
const BODY: &str = r#"{"model":"llama3.2:1b","prompt":"hello","stream":false}"#;

/// Microseconds of the requests of one round: the median, and what 99 of a hundred do not exceed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) p50: u32,
    pub(crate) p99: u32,
}

/// One round: without a store and with one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) alone: Times,
    pub(crate) shared: Times,
}

impl Round {
    /// What the store adds, in milliseconds.
    pub(crate) fn added_ms(self, figure: fn(Times) -> u32) -> f64 {
        (f64::from(figure(self.shared)) - f64::from(figure(self.alone))) / 1e3
    }
}

/// Loads gates without a store and with one, turn by turn.
pub(crate) fn measure(ground: &Ground<'_>, rounds: u32, seconds: u32) -> Result<Vec<Round>, Complaint> {
    let program = "redis-server";
    let program = tools::find(program).ok_or(Complaint::NoProgram { program, package: program })?;
    let backend = Backend::start()?;
    let store = Store::start(&program, ground)?;
    let url = format!("redis://127.0.0.1:{}", store.port);
    let mut found = Vec::new();
    for number in 1..=rounds {
        let load = |name: &str, settings: &[&str]| {
            interrupt::check()?;
            let gate = Gate::start(ground, &format!("{name}-{number}"), backend.port, settings)?;
            load(gate.port, number, Duration::from_secs(seconds.into()))
        };
        let round = Round { alone: load("alone", &[])?, shared: load("shared", &["--cluster-url", &url])? };
        let (p50, p99) = (round.added_ms(|times| times.p50), round.added_ms(|times| times.p99));
        eprintln!("store: round {number} of {rounds}: {p50:.3} ms more, {p99:.3} ms at the 99th of a hundred");
        found.push(round);
    }
    Ok(found)
}

/// A store that keeps nothing.
struct Store {
    port: u16,
    _started: Started,
}

impl Store {
    fn start(program: &Path, ground: &Ground<'_>) -> Result<Self, Complaint> {
        let (room, port) = (ground.folder.room("store")?, probe::free_port()?);
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
        command.current_dir(&room);
        let started = Started::spawn("redis-server", command, &room.join("output"))?;
        let until = Instant::now() + ANSWER_MAX;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if Instant::now() > until || started.ended().is_some() {
                return Err(Complaint::NotReady { name: "redis-server".to_owned(), log: started.last_words() });
            }
            sleep(GLANCE);
        }
        Ok(Self { port, _started: started })
    }
}

struct Gate {
    port: u16,
    _started: Started,
}

impl Gate {
    fn start(ground: &Ground<'_>, name: &str, upstream: u16, settings: &[&str]) -> Result<Self, Complaint> {
        let (room, port) = (ground.folder.room(name)?, probe::free_port()?);
        let mut command = Command::new(ground.gate);
        command
            .args(["--bind", &format!("127.0.0.1:{port}"), "--upstream", &format!("http://127.0.0.1:{upstream}")])
            .args(["--workers", "1", "--slots", "64", "--api-limit", "100000/minute"])
            .args(["--forwarded-allow-ips", "127.0.0.1"])
            .args(settings)
            .current_dir(&room);
        forget_environment(&mut command, "OLLAMA_");
        let started = Started::spawn("gate", command, &room.join("output"))?;
        peer::wait_ready("gate", &started, port, "/readyz")?;
        Ok(Self { port, _started: started })
    }
}

/// How long requests take under a steady load.
fn load(port: u16, round: u32, lasts: Duration) -> Result<Times, Complaint> {
    let ask = |connection| move || ask_steadily(port, address(round, connection), lasts);
    let threads: Vec<_> = (0..CONNECTIONS).map(|connection| thread::spawn(ask(connection))).collect();
    let mut all = Vec::new();
    for thread in threads {
        let times = thread.join().unwrap_or_else(|_| Err(io::Error::other("a client panicked")));
        all.extend(times.map_err(Complaint::io("asking the gate"))?);
    }
    all.sort_unstable();
    let at = |share| quantile(&all, share).unwrap_or(u32::MAX);
    Ok(Times { p50: at(0.5), p99: at(0.99) })
}

/// The first address of a connection's clients; there are 2^18 of them before the next connection's.
fn address(round: u32, connection: u32) -> u32 {
    u32::from(Ipv4Addr::new(10, 0, 0, 0)) + ((round % 8 * CONNECTIONS + connection) << 18)
}

/// Microseconds of each request of a connection.
fn ask_steadily(port: u16, first: u32, lasts: Duration) -> io::Result<Vec<u32>> {
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let (mut times, until) = (Vec::new(), Instant::now() + lasts);
    for client in first.. {
        let began = Instant::now();
        if began > until {
            break;
        }
        stream.write_all(request(server, client.into(), BODY).as_bytes())?;
        let status = answered(&mut stream)?;
        if status != 200 {
            return Err(io::Error::other(format!("answered {status}")));
        }
        let took = began.elapsed();
        times.push(took.as_micros() as u32);
        sleep(PAUSE.saturating_sub(took));
    }
    Ok(times)
}

fn answered(stream: &mut TcpStream) -> io::Result<u16> {
    let (mut held, mut part) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(answer) = whole(&held)? {
            return Ok(answer.status);
        }
        match stream.read(&mut part)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            _ if held.len() > BYTES_MAX => return Err(ErrorKind::InvalidData.into()),
            read => held.extend_from_slice(&part[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_new() {
        let most_asked = 100_u32 * 200;
        let mut firsts: Vec<u32> =
            (0..8).flat_map(|round| (0..CONNECTIONS).map(move |connection| address(round, connection))).collect();
        firsts.sort_unstable();
        assert!(firsts.windows(2).all(|pair| pair[1] - pair[0] > most_asked));
        assert!(firsts.iter().all(|first| first >> 24 == 10));
    }

    #[test]
    fn a_steady_load_is_timed() {
        let backend = Backend::start().unwrap();
        let times = load(backend.port, 1, Duration::from_millis(60)).unwrap();
        assert!(times.p50 > 0 && times.p99 >= times.p50, "{times:?}");
        let round = Round { alone: times, shared: Times { p50: times.p50 + 40, p99: times.p99 + 1500 } };
        assert!((round.added_ms(|times| times.p99) - 1.5).abs() < 1e-9);
    }
}
