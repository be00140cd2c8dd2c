//! A trial of this very binary on this very machine: a private gate under load goes through everything that must not
//! lose a request.
//!
//! It uses the control socket like any operator and knows nothing of the inside. Everything is on loopback and in a
//! directory of its own. Invariant: it ends within [`TRIAL`] and the clients' patience, and whatever ends it, nothing
//! that it has started is left behind.

mod clients;
mod guard;

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, value_parser};
use gate_config::exit::EX_REFUSED;
use gate_master::protocol::{Answer, GateState, ProcessLine, ProcessRole, ProcessState, Request, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::clients::{Load, Loss, Tally};
use self::guard::Scene;
use crate::{ask, say};

/// How long everything together may take, but for what clients still wait for then: 20 s in all. Half of it is usual.
const TRIAL: Duration = Duration::from_secs(17);

/// Between two looks at the status.
const LOOK: Duration = Duration::from_millis(10);

/// Workers of the private gate: enough that one can be lost.
const WORKERS: u32 = 2;

/// And when it is scaled up.
const WORKERS_MORE: u32 = 4;

/// How many losses are told one by one: they repeat themselves.
const LOSSES_TOLD: usize = 10;

const LOG_ENDS: &str = "the private gate's log ends with:";

/// Configurations that the private gate is given: another value, and what is wrong in two ways.
const FILE_CHANGED: &str = "keep_alive = \"74s\"\n";
const FILE_BROKEN: &str = "keep_alive = \"soon\"\nlimmit = \"1/minute\"\n";

/// What this process does for the trial.
pub(crate) enum Part {
    /// Runs it.
    Trial,
    /// Holds the private gate in this directory, and removes both when the trial's process is gone.
    Guard(PathBuf),
}

/// The command, for clap.
pub(crate) fn definition() -> clap::Command {
    let guard = Arg::new("guard").long("guard").value_name("DIRECTORY").hide(true);
    clap::Command::new("selftest")
        .about("Try this binary on this machine: a private gate under load is reloaded, killed, scaled and upgraded")
        .after_help(
            "Example: ollama-gate selftest\n\nIt takes a few seconds, listens on loopback only and leaves nothing \
             behind.\n\nExit codes: 0 nothing was lost, 1 something was, or a step failed.",
        )
        .arg(guard.value_parser(value_parser!(PathBuf)))
}

impl Part {
    /// What the matches of [`definition`] ask.
    pub(crate) fn of(matches: &ArgMatches) -> Self {
        matches.get_one::<PathBuf>("guard").map_or(Self::Trial, |directory| Self::Guard(directory.clone()))
    }

    /// Does it; the exit code.
    pub(crate) fn run(self) -> u8 {
        match self {
            Self::Guard(directory) => guard::hold(&directory),
            Self::Trial => trial(),
        }
    }
}

type Step = fn(&mut Run) -> Result<(), String>;

/// Every step in turn, until one fails.
fn trial() -> u8 {
    let until = Instant::now() + TRIAL;
    let began = Instant::now();
    let mut run = match Scene::open().and_then(|scene| Run::start(scene, until)) {
        Ok(run) => run,
        Err(why) => {
            eprintln!("ollama-gate selftest: the private gate does not start: {why}");
            return EX_REFUSED;
        }
    };
    let heading =
        format!("{:<34}{:>9}{:>10}{:>8}{:>9}{:>11}\n", "STEP", "TOOK", "ANSWERED", "FAILED", "STREAMS", "TRUNCATED");
    let mut said = say(&heading).max(say(&row("start", began.elapsed(), &Tally::default())));
    let steps: [(&str, Step); 8] = [
        ("load", |_| Ok(())),
        ("reload", Run::reload),
        ("reload of a broken file, refused", Run::refuse),
        ("SIGKILL of a worker", Run::kill_a_worker),
        ("scale up", |run| run.scale(WORKERS_MORE)),
        ("scale down", |run| run.scale(WORKERS)),
        ("upgrade", Run::upgrade),
        ("stop", Run::stop),
    ];
    let mut failed = None;
    for (name, step) in steps {
        let (began, before) = (Instant::now(), run.load.tally());
        let ended = step(&mut run).and_then(|()| run.load.turns(until));
        said = said.max(say(&row(name, began.elapsed(), &run.load.tally().since(&before))));
        if let Err(why) = ended {
            failed = Some(format!("{name}: {why}"));
            break;
        }
    }
    run.verdict(failed.as_deref()).max(said)
}

fn row(name: &str, took: Duration, tally: &Tally) -> String {
    let Tally { answered, streams, losses } = tally;
    let truncated = losses.iter().filter(|loss| loss.is_stream).count();
    let failed = losses.len() - truncated;
    let took = format!("{} ms", took.as_millis());
    format!("{name:<34}{took:>9}{answered:>10}{failed:>8}{streams:>9}{truncated:>11}\n")
}

/// A running trial.
struct Run {
    scene: Scene,
    load: Load,
    until: Instant,
    /// When a worker was killed, when it was gone, and when every client had gone on without it.
    killed: Option<[Instant; 3]>,
}

impl Run {
    /// Waits until the gate serves, and begins to load it.
    fn start(scene: Scene, until: Instant) -> Result<Self, String> {
        let mut address = None;
        look(&scene, until, "its workers", |status| {
            let http = |listener: &str| listener.strip_prefix("http://").and_then(|rest| rest.parse().ok());
            address = status.listeners.iter().find_map(|listener| http(&listener.address));
            settled(status, WORKERS)
        })
        .map_err(|why| format!("{why}\n{LOG_ENDS}\n{}", scene.last_log()))?;
        let address: SocketAddr = address.ok_or("its status names no TCP listener")?;
        Ok(Self { scene, load: Load::start(address, until), until, killed: None })
    }

    fn ask(&self, request: &Request) -> Result<Answer, String> {
        ask_within(&self.scene, self.until, request)
    }

    /// Waits until the status is as `is_so` wants it.
    fn look(&self, what: &str, is_so: impl FnMut(&Status) -> bool) -> Result<(), String> {
        look(&self.scene, self.until, what, is_so)
    }

    fn status(&self) -> Result<Status, String> {
        match self.ask(&Request::Status {})? {
            Answer::Status(status) => Ok(*status),
            other => Err(format!("status answered {other:?}")),
        }
    }

    fn reload(&mut self) -> Result<(), String> {
        let before = self.status()?;
        self.scene.configure(FILE_CHANGED)?;
        match self.ask(&Request::Reload { wait: true, canary: None })? {
            Answer::Reload(reloaded) if reloaded.generation > before.generation => {
                let names_it = reloaded.changes.iter().any(|change| change.key == "keep_alive");
                names_it.then_some(()).ok_or_else(|| format!("keep_alive is not among {:?}", reloaded.changes))?;
                self.look("workers of the new generation only", |status| {
                    let new = workers(status).all(|worker| worker.generation == reloaded.generation);
                    new && settled(status, WORKERS)
                })
            }
            other => Err(format!("it answered {other:?}")),
        }
    }

    fn refuse(&mut self) -> Result<(), String> {
        let before = self.status()?;
        self.scene.configure(FILE_BROKEN)?;
        let answer = self.ask(&Request::Reload { wait: true, canary: None })?;
        self.scene.configure(FILE_CHANGED)?;
        let Answer::Refused { reasons } = answer else {
            return Err(format!("it was taken: {answer:?}"));
        };
        for key in ["keep_alive", "limmit"] {
            if !reasons.iter().any(|reason| reason.contains(key)) {
                return Err(format!("{key} is not among the reasons: {reasons:?}"));
            }
        }
        let after = self.status()?;
        let same = workers(&before).map(|worker| worker.pid).eq(workers(&after).map(|worker| worker.pid));
        if same && after.generation == before.generation {
            Ok(())
        } else {
            Err("the workers are not those of before".to_owned())
        }
    }

    fn kill_a_worker(&mut self) -> Result<(), String> {
        let before = self.status()?;
        let victim = workers(&before).next().ok_or("there is no worker")?.pid;
        let killed = Instant::now();
        kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL).map_err(|error| format!("kill: {error}"))?;
        let mut gone = None;
        self.look("a worker in its place", |status| {
            let is_gone = !workers(status).any(|worker| worker.pid == victim);
            if is_gone && gone.is_none() {
                gone = Some(Instant::now());
            }
            let told = status.deaths.iter().any(|death| death.pid == victim);
            is_gone && told && settled(status, WORKERS)
        })?;
        let turned = self.load.turns(self.until);
        self.killed = Some([killed, gone.unwrap_or(killed), Instant::now()]);
        turned
    }

    fn scale(&mut self, count: u32) -> Result<(), String> {
        let workers = NonZeroU32::new(count).ok_or("no workers")?;
        match self.ask(&Request::Scale { workers })? {
            Answer::Scale(scaled) if scaled.workers == count => {
                self.look(&format!("{count} workers"), |status| settled(status, count))
            }
            other => Err(format!("it answered {other:?}")),
        }
    }

    fn upgrade(&mut self) -> Result<(), String> {
        let old = self.status()?;
        let new = match self.ask(&Request::Upgrade { wait: true, fresh_zone: false })? {
            Answer::Upgrade(upgraded) if upgraded.pid != old.pid => upgraded.pid,
            other => return Err(format!("it answered {other:?}")),
        };
        self.look("the new master", |status| status.pid == new && settled(status, WORKERS))?;
        self.wait_for("the old master's end", || !is_alive(old.pid))
    }

    /// The clients leave first: what comes after a stop is refused, and rightly.
    fn stop(&mut self) -> Result<(), String> {
        let master = self.status()?.pid;
        self.load.end();
        let request = Request::Stop { wait: true, quick: false };
        let reply = ask::ask(&self.scene.control(), &request, Some(left(self.until)?));
        let reply = reply.map_err(|silence| silence.to_string())?;
        match Answer::parse(&reply.line, &request)? {
            Answer::Accepted | Answer::Done => reply.closes().map_err(|silence| silence.to_string())?,
            other => return Err(format!("it answered {other:?}")),
        }
        self.wait_for("the master's end", || !is_alive(master))
    }

    fn wait_for(&self, what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), String> {
        while !is_so() {
            left(self.until).map_err(|late| format!("{late}: waited for {what}"))?;
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The last lines; the exit code. Which worker a connection led to cannot be seen from outside: the killed one is
    /// blamed for connections from before its end that broke between the signal and the next answer of every client.
    fn verdict(mut self, failed: Option<&str>) -> u8 {
        self.load.end();
        let losses = self.load.tally().losses;
        let [killed, gone, over] = self.killed.unwrap_or([Instant::now(); 3]);
        let died_with_it = |loss: &&Loss| loss.opened <= gone && (killed..=over).contains(&loss.at);
        let (with_it, lost): (Vec<_>, Vec<_>) = losses.iter().partition(died_with_it);
        let said = say(&format!("\nin service on the killed worker: {}\nlost: {}\n", with_it.len(), lost.len()));
        for loss in lost.iter().take(LOSSES_TOLD) {
            eprintln!("lost: {}", loss.what);
        }
        if let Some(why) = failed {
            eprintln!("ollama-gate selftest: {why}\n{LOG_ENDS}\n{}", self.scene.last_log());
        }
        if failed.is_none() && lost.is_empty() { said } else { EX_REFUSED }
    }
}

/// Time that is left.
fn left(until: Instant) -> Result<Duration, String> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(format!("not done within {} s", TRIAL.as_secs())) } else { Ok(left) }
}

fn ask_within(scene: &Scene, until: Instant, request: &Request) -> Result<Answer, String> {
    let reply = ask::ask(&scene.control(), request, Some(left(until)?)).map_err(|silence| silence.to_string())?;
    Answer::parse(&reply.line, request)
}

fn look(scene: &Scene, until: Instant, what: &str, mut is_so: impl FnMut(&Status) -> bool) -> Result<(), String> {
    let mut seen = "nothing yet".to_owned();
    loop {
        left(until).map_err(|late| format!("{late}: waited for {what}, last seen: {seen}"))?;
        // While masters change places nobody may answer for a moment.
        seen = match ask_within(scene, until, &Request::Status {}) {
            Ok(Answer::Status(status)) if is_so(&status) => return Ok(()),
            Ok(Answer::Status(status)) => {
                let line = |process: &ProcessLine| format!("{} {}", process.place, process.state);
                status.processes.iter().map(line).collect::<Vec<_>>().join(", ")
            }
            Ok(other) => format!("status answered {other:?}"),
            Err(silence) => silence,
        };
        thread::sleep(LOOK);
    }
}

fn workers(status: &Status) -> impl Iterator<Item = &ProcessLine> {
    status.processes.iter().filter(|process| process.role == ProcessRole::Worker)
}

/// Whether so many workers serve and nothing else is going on.
fn settled(status: &Status, count: u32) -> bool {
    let ready = status.processes.iter().all(|process| process.state == ProcessState::Ready);
    ready && status.state == GateState::Serving && workers(status).count() == count as usize
}

/// Whether a process is there and not a zombie.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
