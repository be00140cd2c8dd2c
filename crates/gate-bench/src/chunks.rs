//! Streams through the gate and through nginx: what a relayed chunk costs, whether it comes alone, how late.
//!
//! Source and sink are processes of their own, so that they can be pinned and their work is not the servers'.

mod framing;
pub(crate) mod line;
pub(crate) mod sink;
pub(crate) mod source;

use std::path::Path;
use std::time::Duration;

use crate::Bench;
use crate::complaint::Complaint;
use crate::peer::{self, Kind, Running};
use crate::probe;
use crate::processes::{self, Cpu, Reading};
use crate::seats::Seat;
use crate::started::Started;
use crate::stats::median;
use crate::table::Table;
use line::Shape;
use sink::Tally;

/// Streams at once.
pub(crate) const STREAMS: u32 = 200;
/// Chunks of a stream.
pub(crate) const CHUNKS: u32 = 100;
/// Time between two chunks of a stream.
pub(crate) const PACE: Duration = Duration::from_millis(10);
/// How long a wave may take: far more than its second, on a machine that cannot keep up.
const WAVE_MAX: Duration = Duration::from_secs(30);

/// All that was found about one way from source to sink.
#[derive(Debug)]
pub(crate) struct Found {
    /// None is the direct way, with no server between.
    pub(crate) kind: Option<Kind>,
    pub(crate) rounds: Vec<Round>,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    tally: Tally,
    server: Cpu,
    others: f64,
}

impl Round {
    /// Microseconds of the server's processor time for a chunk that arrived.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.server.total() * 1e6 / self.tally.chunks.max(1) as f64
    }

    /// Streams that did not come through whole.
    pub(crate) fn failed(&self) -> u64 {
        self.tally.failed
    }
}

/// Starts source and servers, then sends waves of streams on each way, in another order each round.
pub(crate) fn measure(bench: &Bench<'_>, shape: Shape) -> Result<Vec<Found>, Complaint> {
    let room = bench.folder.room("chunks")?;
    let (source, port) = start_source(bench, &room)?;
    let mut ways: Vec<(u16, Option<Running>)> = vec![(port, None)];
    for kind in bench.peers.present().filter(|&kind| kind != Kind::Article) {
        let room = bench.folder.room(&format!("chunks-{kind}"))?;
        let server = bench.peers.start(kind, bench.tools, room, &[port])?;
        ways.push((server.port, Some(server)));
    }
    let mut found: Vec<Found> =
        ways.iter().map(|(_, server)| Found { kind: server.as_ref().map(|s| s.kind), rounds: Vec::new() }).collect();
    for round in 0..bench.options.rounds as usize {
        for turn in 0..ways.len() {
            let place = (round + turn) % ways.len();
            let (port, server) = &ways[place];
            let measured = one_round(bench, &Ends { room: &room, source: &source, shape }, (*port, server.as_ref()))?;
            eprintln!(
                "chunks: round {} of {}: {} {:.1} us each, others {:.2} cores",
                round + 1,
                bench.options.rounds,
                name(found[place].kind),
                measured.cpu_us(),
                measured.others
            );
            found[place].rounds.push(measured);
        }
    }
    Ok(found)
}

fn start_source(bench: &Bench<'_>, room: &Path) -> Result<(Started, u16), Complaint> {
    let port = probe::free_port()?;
    let mut command = bench.tools.seats.command(Seat::Load, ourselves()?);
    command.args(["chunk-source", &port.to_string()]);
    let source = Started::spawn("the chunk source", command, &room.join("source"))?;
    peer::wait_ready("the chunk source", &source, port, "/api/version")?;
    Ok((source, port))
}

fn ourselves() -> Result<std::path::PathBuf, Complaint> {
    std::env::current_exe().map_err(Complaint::io("looking for our own binary"))
}

/// Both ends of all ways.
struct Ends<'a> {
    room: &'a Path,
    source: &'a Started,
    shape: Shape,
}

fn one_round(
    bench: &Bench<'_>,
    Ends { room, source, shape }: &Ends<'_>,
    (port, server): (u16, Option<&Running>),
) -> Result<Round, Complaint> {
    // The chunks of a stream take one second.
    let waves = bench.options.seconds;
    let mut command = bench.tools.seats.command(Seat::Load, ourselves()?);
    command.args(["chunk-sink", &port.to_string(), &waves.to_string(), shape.name()]);
    let readings = || (server.map(|server| Reading::of(server.started.pid())), Reading::of(source.pid()));
    let (before, busy_before) = (readings(), processes::machine_busy());
    let began = std::time::Instant::now();
    let sink = Started::spawn("the chunk sink", command, &room.join("sink"))?;
    let (said, sink_cpu) = sink.finish(WAVE_MAX * waves)?;
    let took = began.elapsed().as_secs_f64();
    let (after, busy_after) = (readings(), processes::machine_busy());
    let server_cpu = match (&after.0, &before.0) {
        (Some(after), Some(before)) => after.since(before),
        _ => Cpu::default(),
    };
    if let Some(server) = server {
        server.empty_log()?;
    }
    let tally = Tally::parse(&said).filter(|tally| tally.chunks > 0);
    let tally = tally.ok_or_else(|| Complaint::Answer { name: name(server.map(|s| s.kind)).to_owned(), said })?;
    let ours = server_cpu.total() + after.1.since(&before.1).total() + sink_cpu.total();
    Ok(Round { tally, server: server_cpu, others: ((busy_after - busy_before - ours) / took).max(0.0) })
}

fn name(kind: Option<Kind>) -> &'static str {
    kind.map_or("direct", Kind::name)
}

/// The figures of all ways; delays are beyond those of the direct way.
pub(crate) fn table(shape: Shape, all: &[Found]) -> Table {
    let mut table = Table::new(
        format!("Streams of {}: {STREAMS} at once, {CHUNKS} chunks each, {} ms apart", shape.name(), PACE.as_millis()),
        &[
            "server",
            "CPU us/chunk",
            "reads/chunk",
            "came alone",
            "added p50 us",
            "added p99 us",
            "failed",
            "others' CPU",
        ],
    );
    let of = |found: &Found, figure: fn(&Round) -> f64| median(found.rounds.iter().map(figure)).unwrap_or(f64::NAN);
    let p50: fn(&Round) -> f64 = |round| f64::from(round.tally.p50_us);
    let p99: fn(&Round) -> f64 = |round| f64::from(round.tally.p99_us);
    let direct = all.iter().find(|found| found.kind.is_none()).map_or((0.0, 0.0), |way| (of(way, p50), of(way, p99)));
    for found in all {
        let delay = |figure, base: f64| match found.kind {
            None => format!("({base:.0})"),
            Some(_) => format!("{:.0}", of(found, figure) - base),
        };
        table.row([
            name(found.kind).to_owned(),
            found.kind.map_or("-".to_owned(), |_| format!("{:.2}", of(found, Round::cpu_us))),
            format!("{:.3}", of(found, |round| round.tally.reads as f64 / round.tally.chunks as f64)),
            format!("{:.1} %", of(found, |round| round.tally.alone as f64 * 100.0 / round.tally.chunks as f64)),
            delay(p50, direct.0),
            delay(p99, direct.1),
            found.rounds.iter().map(Round::failed).sum::<u64>().to_string(),
            format!("{:.2}", of(found, |round| round.others)),
        ]);
    }
    table
}
