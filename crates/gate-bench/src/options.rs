//! The command line. It looks at nothing outside its arguments and the environment.

use std::path::PathBuf;
use std::str::FromStr;

use crate::chunks::line::Shape;
use crate::clients;
use crate::complaint::Complaint;
use crate::fleet;
use crate::peer::Kind;
use crate::supervise;

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
Measures ollama-gate beside nginx and beside the FastAPI stack, on this machine. Needs nginx and wrk.

Usage: gate-bench compare|peers [OPTIONS]
       gate-bench supervise [OPTIONS]
       gate-bench fleet [OPTIONS]
       gate-bench clients [OPTIONS]

  compare                 run everything, print Markdown tables and whether each bar is met
  peers                   say which servers could be compared, start none
  supervise               reload, kill and break servers under load, count what is lost; a server that is not
                          installed takes no part
  fleet                   what the gate must reach in front of several backends; nginx and wrk only where they are
                          compared with
  clients                 what keys and dialects may cost; nginx, wrk and redis-server only where they are wanted

  --rounds N              interleaved rounds of each part (5)
  --seconds N             length of a measurement (5)
  --connections N         connections of wrk (32)
  --only NAME,NAME        of the servers gate, nginx, fastapi and the parts start, article, chunks (all)
  --gate FILE             the gate's binary (built by cargo build --release)
  --fastapi-dir DIR       where the FastAPI stack's main.py is ($GATE_BENCH_FASTAPI, else skipped)
  --fastapi-python FILE   the Python that has its packages (DIR/.venv/bin/python or DIR/venv/bin/python)
  --help                  this text

Options of supervise:
  --seconds N             how long recovery is waited for (10)
  --only NAME,NAME        of the servers gate, gate-reuse-port, gunicorn, nginx, haproxy and the trials reload, kill,
                          broken, hung, orphans, restart, bars (all)
  --gate FILE             the gate's binary (built by cargo build --release)
  --python FILE           the Python that has gunicorn and uvicorn (python3)

Options of fleet:
  --rounds N              interleaved rounds beside nginx (5)
  --seconds N             length of each (5)
  --scale N               what loads and answers are divided by in the part swaps (3)
  --only NAME,NAME        of lease, rate, fairness, kills, cancel, swaps (all)
  --gate FILE             the gate's binary (built by cargo build --release)

Options of clients:
  --rounds N              interleaved rounds beside nginx, and pairs of gates with and without keys (5)
  --seconds N             length of each beside nginx (5)
  --only NAME,NAME        of key, rate, chunks, keys, store (all)
  --gate FILE             the gate's binary (built by cargo build --release)

The FastAPI stack reads its backend from OLLAMA_HOST and its limit from PEER_LIMIT.
";

/// Rounds: more only makes a run longer than anyone waits.
pub(crate) const ROUNDS_MAX: u32 = 100;
/// Seconds of one measurement; the access log of one stays well below 1 GB.
pub(crate) const SECONDS_MAX: u32 = 60;
/// Connections: half of what the upstream's worker may hold open, as each needs another one behind it.
const CONNECTIONS_MAX: u32 = 500;
/// Where the FastAPI stack is, unless a flag says so.
const FASTAPI_ENV: &str = "GATE_BENCH_FASTAPI";

/// What to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Help,
    Peers(Options),
    Compare(Options),
    Supervise(supervise::Options),
    Fleet(fleet::Options),
    Clients(clients::Options),
    /// The server of the stream part, in a process of its own.
    ChunkSource {
        port: u16,
    },
    /// The client of the stream part, in a process of its own.
    ChunkSink {
        port: u16,
        waves: u32,
        shape: Shape,
    },
}

/// What a comparison consists of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Part {
    Start,
    Article,
    Chunks,
}

/// How to compare.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    pub(crate) connections: u32,
    pub(crate) gate: Option<PathBuf>,
    pub(crate) fastapi_dir: Option<PathBuf>,
    pub(crate) fastapi_python: Option<PathBuf>,
    /// Empty is all.
    peers: Vec<Kind>,
    /// Empty is all.
    parts: Vec<Part>,
}

impl Options {
    /// Whether a server is to be measured.
    pub(crate) fn wants(&self, kind: Kind) -> bool {
        self.peers.is_empty() || self.peers.contains(&kind)
    }

    /// Whether a part is to be run.
    pub(crate) fn does(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    /// The gate beside nginx alone.
    pub(crate) fn beside_nginx(rounds: u32, seconds: u32) -> Self {
        Self { rounds, seconds, peers: vec![Kind::Gate, Kind::Nginx], ..Self::default() }
    }

    fn select(&mut self, names: &str) -> Result<(), Complaint> {
        for name in names.split(',') {
            match name {
                "start" => self.parts.push(Part::Start),
                "article" => self.parts.push(Part::Article),
                "chunks" => self.parts.push(Part::Chunks),
                other => match Kind::ALL.into_iter().find(|kind| kind.name() == other) {
                    Some(kind) => self.peers.push(kind),
                    None => return Err(usage(format!("--only {other}: no such server or part"))),
                },
            }
        }
        Ok(())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rounds: 5,
            seconds: 5,
            connections: 32,
            gate: None,
            fastapi_dir: None,
            fastapi_python: None,
            peers: Vec::new(),
            parts: Vec::new(),
        }
    }
}

/// Reads the command line.
pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Command, Complaint> {
    match arguments.next().as_deref() {
        Some("compare") => options(arguments, Command::Compare),
        Some("peers") => options(arguments, Command::Peers),
        Some("supervise") => Ok(supervise::options::parse(arguments)?.map_or(Command::Help, Command::Supervise)),
        Some("fleet") => Ok(fleet::options::parse(arguments)?.map_or(Command::Help, Command::Fleet)),
        Some("clients") => Ok(clients::options::parse(arguments)?.map_or(Command::Help, Command::Clients)),
        Some("chunk-source") => Ok(Command::ChunkSource { port: number("port", arguments.next(), 1..=u16::MAX)? }),
        Some("chunk-sink") => Ok(Command::ChunkSink {
            port: number("port", arguments.next(), 1..=u16::MAX)?,
            waves: number("waves", arguments.next(), 1..=SECONDS_MAX)?,
            shape: arguments
                .next()
                .as_deref()
                .and_then(Shape::named)
                .ok_or_else(|| usage("lines or events are wanted"))?,
        }),
        Some("--help" | "-h") => Ok(Command::Help),
        Some(other) => Err(usage(format!("{other} is no command"))),
        None => Err(usage("compare, peers, supervise, fleet or clients is wanted")),
    }
}

fn options(
    arguments: impl Iterator<Item = String>,
    command: impl FnOnce(Options) -> Command,
) -> Result<Command, Complaint> {
    let mut options = Options::default();
    let asked = each_option(arguments, |name, value| {
        match name {
            "--rounds" => options.rounds = number(name, value(), 1..=ROUNDS_MAX)?,
            "--seconds" => options.seconds = number(name, value(), 1..=SECONDS_MAX)?,
            "--connections" => options.connections = number(name, value(), 1..=CONNECTIONS_MAX)?,
            "--only" => options.select(&value().ok_or_else(|| usage("--only needs a value"))?)?,
            "--gate" => options.gate = Some(path(name, value())?),
            "--fastapi-dir" => options.fastapi_dir = Some(path(name, value())?),
            "--fastapi-python" => options.fastapi_python = Some(path(name, value())?),
            _ => return Err(usage(format!("{name} is no option"))),
        }
        Ok(())
    })?;
    if asked == Asked::Help {
        return Ok(Command::Help);
    }
    if options.fastapi_dir.is_none() {
        options.fastapi_dir = std::env::var_os(FASTAPI_ENV).filter(|value| !value.is_empty()).map(PathBuf::from);
    }
    Ok(command(options))
}

/// What a row of options asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// What they say.
    Work,
    /// Help; what stands behind that was not read.
    Help,
}

/// Hands each option to `take`, by its name and with a way to its value, which stands behind `=` or is the next argument.
pub(crate) fn each_option(
    mut arguments: impl Iterator<Item = String>,
    mut take: impl FnMut(&str, &mut dyn FnMut() -> Option<String>) -> Result<(), Complaint>,
) -> Result<Asked, Complaint> {
    while let Some(argument) = arguments.next() {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        if matches!(name, "--help" | "-h") {
            return Ok(Asked::Help);
        }
        take(name, &mut || inline.clone().or_else(|| arguments.next()))?;
    }
    Ok(Asked::Work)
}

pub(crate) fn number<T>(name: &str, value: Option<String>, range: std::ops::RangeInclusive<T>) -> Result<T, Complaint>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    let value = value.ok_or_else(|| usage(format!("{name} needs a value")))?;
    value.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        usage(format!("{name} {value}: a whole number from {} to {} is wanted", range.start(), range.end()))
    })
}

pub(crate) fn path(name: &str, value: Option<String>) -> Result<PathBuf, Complaint> {
    match value {
        // Servers run in folders of their own, so a relative path would lose its meaning.
        Some(value) if !value.is_empty() => std::path::absolute(&value).map_err(Complaint::file(value)),
        _ => Err(usage(format!("{name} needs a path"))),
    }
}

pub(crate) fn usage(text: impl Into<String>) -> Complaint {
    Complaint::Usage(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(str::to_owned)).map_err(|why| why.to_string())
    }

    #[test]
    fn defaults_and_flags() {
        let Ok(Command::Compare(options)) = read("compare") else { panic!("no comparison") };
        assert_eq!((options.rounds, options.seconds, options.connections), (5, 5, 32));
        assert!(options.wants(Kind::Article) && options.does(Part::Start));
        let Ok(Command::Compare(options)) = read("compare --rounds=2 --seconds 1 --only nginx,chunks --gate /bin/g")
        else {
            panic!("no comparison")
        };
        assert_eq!((options.rounds, options.seconds), (2, 1));
        assert!(options.wants(Kind::Nginx) && !options.wants(Kind::Gate));
        assert!(options.does(Part::Chunks) && !options.does(Part::Article));
        assert_eq!(options.gate, Some(PathBuf::from("/bin/g")));
        assert!(matches!(read("supervise --only gate"), Ok(Command::Supervise(_))));
        assert_eq!(read("supervise --help"), Ok(Command::Help));
        assert_eq!(read("chunk-sink 80 3 events"), Ok(Command::ChunkSink { port: 80, waves: 3, shape: Shape::Events }));
    }

    #[test]
    fn bad_usage_is_named() {
        for (line, part) in [
            ("", "compare, peers, supervise, fleet or clients is wanted"),
            ("run", "run is no command"),
            ("compare --speed", "--speed is no option"),
            ("compare --rounds", "--rounds needs a value"),
            ("compare --rounds 0", "from 1 to 100"),
            ("compare --connections x", "from 1 to 500"),
            ("compare --only haproxy", "no such server or part"),
            ("compare --gate=", "--gate needs a path"),
            ("chunk-source 65536", "from 1 to 65535"),
            ("chunk-sink 80 3 words", "lines or events are wanted"),
            ("clients --scale 2", "--scale is no option of clients"),
        ] {
            let said = read(line).unwrap_err();
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}
