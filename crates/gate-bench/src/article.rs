//! One request, the article's mostly, through every server: requests a second, processor time for each, latency, memory.

use crate::Bench;
use crate::complaint::Complaint;
use crate::peer::{Kind, Running};
use crate::probe;
use crate::processes::{self, Cpu, Reading};
use crate::stats::median;
use crate::table::Table;
use crate::upstream::{TEXT, Upstream};
use crate::wrk::{Figures, Request, Wrk};

/// How long each server is loaded before anything counts: connections, caches and branch predictors settle.
const WARM_UP_SECONDS: u32 = 1;

/// All that was found about one server.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    pub(crate) rounds: Vec<Round>,
    /// Of the worker, before the first request of the load.
    pub(crate) idle_mib: Option<f64>,
    loaded_mib: Option<f64>,
    ready_ms: f64,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    figures: Figures,
    server: Cpu,
    /// Processors that went to processes outside the measurement.
    others: f64,
}

impl Round {
    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        self.figures.requests as f64 / self.figures.seconds
    }

    /// Microseconds of processor time a request.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.server.total() * 1e6 / self.figures.requests as f64
    }

    /// Requests a second of processor time.
    pub(crate) fn rate_by_cpu(&self) -> f64 {
        self.figures.requests as f64 / self.server.total().max(f64::MIN_POSITIVE)
    }

    /// Requests that were not answered with success.
    pub(crate) fn failed(&self) -> u64 {
        self.figures.refused + self.figures.broken
    }
}

/// Starts all servers side by side and loads one after the other, in another order each round; each with its request.
pub(crate) fn measure(
    bench: &Bench<'_>,
    upstream: &Upstream,
    request: impl Fn(Kind) -> Request,
) -> Result<Vec<Found>, Complaint> {
    let (mut servers, mut loads) = (Vec::new(), Vec::new());
    for kind in bench.peers.present() {
        let room = bench.folder.room(&format!("article-{kind}"))?;
        servers.push(bench.peers.start(kind, bench.tools, room, &upstream.ports)?);
        loads.push(Wrk::prepare(bench.tools, bench.folder.room(&format!("wrk-{kind}"))?, request(kind))?);
    }
    let idle: Vec<Vec<(u32, Option<f64>)>> = servers.iter().map(memory).collect();
    for (server, wrk) in servers.iter().zip(&loads) {
        check(server, &request(server.kind))?;
        wrk.run(server.port, WARM_UP_SECONDS, bench.options.connections)?;
    }
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); servers.len()];
    for round in 0..bench.options.rounds as usize {
        for turn in 0..servers.len() {
            let place = (round + turn) % servers.len();
            let found = one_round(bench, &loads[place], &servers[place], upstream)?;
            eprintln!(
                "requests: round {} of {}: {} {:.0}/s, {:.1} us each, others {:.2} cores",
                round + 1,
                bench.options.rounds,
                servers[place].kind,
                found.rate(),
                found.cpu_us(),
                found.others
            );
            rounds[place].push(found);
        }
    }
    Ok(servers
        .into_iter()
        .zip(idle)
        .zip(rounds)
        .map(|((server, idle), rounds)| summary(&server, &idle, rounds))
        .collect())
}

fn summary(server: &Running, idle: &[(u32, Option<f64>)], rounds: Vec<Round>) -> Found {
    let worker = Reading::of(server.started.pid()).busiest();
    Found {
        kind: server.kind,
        rounds,
        idle_mib: worker.and_then(|worker| idle.iter().find(|(pid, _)| *pid == worker)).and_then(|(_, mib)| *mib),
        loaded_mib: worker.and_then(processes::rss_mib),
        ready_ms: server.ready_after.as_secs_f64() * 1e3,
    }
}

fn memory(server: &Running) -> Vec<(u32, Option<f64>)> {
    processes::family(server.started.pid()).into_iter().map(|pid| (pid, processes::rss_mib(pid))).collect()
}

/// The upstream's text has to come through, or the fastest server is the one that does nothing.
fn check(server: &Running, request: &Request) -> Result<(), Complaint> {
    let wrong = |said: String| Complaint::Answer { name: server.kind.name().to_owned(), said };
    match probe::post(server.port, request.path, &request.body, request.key.as_deref()) {
        Ok(reply) if reply.status == 200 && reply.body.contains(TEXT) => Ok(()),
        Ok(reply) => Err(wrong(format!("{} {}", reply.status, reply.body))),
        Err(why) => Err(wrong(why.to_string())),
    }
}

fn one_round(bench: &Bench<'_>, wrk: &Wrk<'_>, server: &Running, upstream: &Upstream) -> Result<Round, Complaint> {
    let readings = || [server.started.pid(), upstream.started.pid()].map(Reading::of);
    let (before, busy_before) = (readings(), processes::machine_busy());
    let (figures, load) = wrk.run(server.port, bench.options.seconds, bench.options.connections)?;
    let (after, busy_after) = (readings(), processes::machine_busy());
    server.empty_log()?;
    let server = after[0].since(&before[0]);
    let ours = server.total() + after[1].since(&before[1]).total() + load.total();
    let others = ((busy_after - busy_before - ours) / figures.seconds).max(0.0);
    Ok(Round { figures, server, others })
}

/// The figures of all servers.
pub(crate) fn table(all: &[Found]) -> Table {
    let mut table = Table::new(
        "The article's POST",
        &[
            "server",
            "requests/s",
            "CPU us/request",
            "user",
            "system",
            "CPU busy",
            "p50 ms",
            "p99 ms",
            "failed",
            "idle MiB",
            "loaded MiB",
            "ready ms",
            "others' CPU",
        ],
    );
    for found in all {
        let of = |figure: fn(&Round) -> f64| median(found.rounds.iter().map(figure)).unwrap_or(f64::NAN);
        let mib = |value: Option<f64>| value.map_or("?".to_owned(), |mib| format!("{mib:.1}"));
        table.row([
            found.kind.name().to_owned(),
            format!("{:.0}", of(Round::rate)),
            format!("{:.2}", of(Round::cpu_us)),
            format!("{:.2}", of(|round| round.server.user * 1e6 / round.figures.requests as f64)),
            format!("{:.2}", of(|round| round.server.system * 1e6 / round.figures.requests as f64)),
            format!("{:.2}", of(|round| round.server.total() / round.figures.seconds)),
            format!("{:.2}", of(|round| round.figures.p50_ms)),
            format!("{:.2}", of(|round| round.figures.p99_ms)),
            found.rounds.iter().map(Round::failed).sum::<u64>().to_string(),
            mib(found.idle_mib),
            mib(found.loaded_mib),
            format!("{:.0}", found.ready_ms),
            format!("{:.2}", of(|round| round.others)),
        ]);
    }
    table
}
