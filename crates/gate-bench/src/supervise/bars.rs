//! What the gate's supervision must reach by itself, and whether it does. Printed, never asserted.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::contender::Contender;
use super::load::Load;
use super::server::{Server, Site};
use super::tally::{Counts, Tally};
use super::{CALM, Ground, rest, wait};
use crate::bars::{Bar, row};
use crate::complaint::Complaint;
use crate::probe;
use crate::processes;
use crate::stats::median;
use crate::table::Table;

/// Starts, and kills, of which the median is taken.
const SAMPLES: usize = 10;
/// Reloads under load, of which the longest counts.
const RELOADS: usize = 5;
/// Workers that are reloaded.
const RELOADED_WORKERS: usize = 4;
/// How often the log is looked at; well below a bar of 20 ms.
const LOG_GLANCE: Duration = Duration::from_micros(200);
/// What the log says of each process that has come up.
const READY: &str = " is ready";

/// All that was measured; times are milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// From SIGKILL to an answer of the successor.
    respawn_answer: Vec<f64>,
    /// From SIGKILL to the log line of its readiness.
    respawn_log: Vec<f64>,
    cold_start: Vec<f64>,
    /// From HUP to the log line that says that the new generation serves.
    reload: Vec<f64>,
    /// Requests during all the reloads.
    requests: Counts,
    master_mib: Option<f64>,
    master_threads: Option<u64>,
}

/// Measures them all, with gates of its own.
pub(crate) fn measure(ground: &Ground<'_>) -> Result<Found, Complaint> {
    let mut found = Found::default();
    eprintln!("bars: {SAMPLES} starts and kills");
    for number in 0..SAMPLES {
        // A new gate each time: the second death of a worker in a short time is answered later on purpose.
        let site = ground.site(Contender::Gate, &format!("respawn-{number}"), 1)?;
        let server = Server::start(ground.programs, &site)?;
        found.cold_start.push(milliseconds(server.ready_after));
        let (answer, log) = respawn(ground, &site, &server)?;
        found.respawn_answer.push(milliseconds(answer));
        found.respawn_log.push(milliseconds(log));
    }
    eprintln!("bars: {RELOADS} reloads of {RELOADED_WORKERS} workers");
    reload_under_load(ground, &mut found)?;
    Ok(found)
}

/// Kills the only worker; how long until its successor answers, and until the log says that it is ready.
fn respawn(ground: &Ground<'_>, site: &Site, server: &Server) -> Result<(Duration, Duration), Complaint> {
    let trouble = |said: &str| Complaint::Program { name: "gate".to_owned(), said: said.to_owned() };
    // Worker and monitor: what is counted from now on is the successor alone.
    if wait(ground.limit, || Ok(server.said(READY) == 2))?.is_none() {
        return Err(trouble("its log does not tell of two ready processes"));
    }
    let worker = *server.workers().first().ok_or_else(|| trouble("it has no worker"))?;
    let until = Instant::now() + ground.limit;
    let began = Instant::now();
    kill(Pid::from_raw(worker.cast_signed()), Signal::SIGKILL)
        .map_err(|why| Complaint::io("killing a worker")(why.into()))?;
    let seen = |happened: &dyn Fn() -> bool| {
        while !happened() {
            if Instant::now() > until {
                return None;
            }
            thread::sleep(LOG_GLANCE);
        }
        Some(began.elapsed())
    };
    let (answer, log) = thread::scope(|scope| {
        let log = scope.spawn(|| seen(&|| server.said(READY) >= 3));
        let answer = seen(&|| probe::get(site.port, "/healthz").is_ok_and(|reply| reply.status == 200));
        (answer, log.join().ok().flatten())
    });
    answer.zip(log).ok_or_else(|| trouble("no successor of a killed worker"))
}

fn reload_under_load(ground: &Ground<'_>, found: &mut Found) -> Result<(), Complaint> {
    let site = ground.site(Contender::Gate, "reloads", RELOADED_WORKERS)?;
    let server = Server::start(ground.programs, &site)?;
    let load = Load::start(site.port)?;
    rest(CALM)?;
    let mut events = Vec::new();
    for reload in 0..RELOADS {
        let began = Instant::now();
        events.push(load.at(began));
        server.reload()?;
        let line = format!("generation {} serves", reload + 2);
        let until = began + ground.limit;
        while server.said(&line) == 0 {
            if Instant::now() > until {
                let said = format!("reload {} did not end:\n{}", reload + 1, server.started.last_words());
                return Err(Complaint::Program { name: "gate".to_owned(), said });
            }
            thread::sleep(LOG_GLANCE);
        }
        found.reload.push(milliseconds(began.elapsed()));
        rest(CALM)?;
    }
    let over = load.at(Instant::now());
    let master = server.started.pid();
    (found.master_mib, found.master_threads) = (processes::pss_mib(master), processes::threads(master));
    found.requests = Tally::of(&load.stop().records, &events, over).map(|tally| tally.counts).unwrap_or_default();
    Ok(())
}

/// The verdicts.
pub(crate) fn table(found: &Found) -> Table {
    let mut table = Table::new("Bars", &["gate", "bar", "measured", "verdict"]);
    let middle = |values: &[f64]| median(values.iter().copied()).map(|value| (value, spread(value, values)));
    let longest = found.reload.iter().copied().reduce(f64::max);
    let counts = found.requests;
    let lost = (counts.all() > 0).then(|| (counts.lost() as f64, format!("{} of {}", counts.lost(), counts.all())));
    let rows = [
        ("worker killed to answer again, ms", Bar::AtMost(20.0), middle(&found.respawn_answer)),
        ("worker killed to `is ready` in the log, ms", Bar::AtMost(20.0), middle(&found.respawn_log)),
        ("cold start to the first 200, ms", Bar::AtMost(50.0), middle(&found.cold_start)),
        ("master's PSS after 5 reloads, MiB", Bar::AtMost(3.0), found.master_mib.map(|mib| (mib, format!("{mib:.2}")))),
        (
            "master's threads",
            Bar::AtMost(1.0),
            found.master_threads.map(|threads| (threads as f64, threads.to_string())),
        ),
        (
            "reload of 4 workers, the longest of 5, ms",
            Bar::AtMost(500.0),
            longest.map(|ms| (ms, spread(ms, &found.reload))),
        ),
        ("requests lost in them", Bar::AtMost(0.0), lost),
    ];
    for (name, bar, measured) in rows {
        table.row(row(name, bar, measured));
    }
    table
}

fn spread(value: f64, values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    format!("{value:.1} ({low:.1} to {high:.1})")
}

fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_is_judged() {
        let found = Found {
            respawn_answer: vec![1.0, 30.0, 2.0],
            respawn_log: vec![21.0],
            cold_start: vec![5.0],
            reload: vec![10.0, 501.0],
            requests: Counts { answered: 9, broken: 1, ..Counts::default() },
            master_mib: Some(1.25),
            master_threads: Some(1),
        };
        let text = table(&found).to_string();
        for part in ["2.0 (1.0 to 30.0)", "501.0 (10.0 to 501.0)", "1 of 10", "1.25"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!((text.matches("bar met").count(), text.matches("bar missed").count()), (4, 3), "{text}");
        assert_eq!(table(&Found::default()).to_string().matches("not measured").count(), 7);
    }
}
