//! The trials: a server under steady load, an event, and what its clients noticed.
//!
//! Each trial has a server of its own, so that none suffers from an earlier one. Nothing is judged here.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use super::contender::Contender;
use super::listening;
use super::load::{Load, Seen};
use super::server::{Server, Site};
use super::settings::{self, FIFO, Flavour};
use super::tally::Tally;
use super::{CALM, Ground, rest, wait};
use crate::complaint::Complaint;
use crate::processes;

/// Reloads and kills of a trial.
pub(crate) const EVENTS: usize = 5;
/// How long a bad configuration is watched: two rounds of the shortest timeouts of the hanging ones.
const BAD_WATCH: Duration = Duration::from_secs(6);
/// How long a service manager waits before it starts a service again: systemd's own default.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// What is done to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    /// Reloads of an unchanged configuration.
    Reload,
    /// SIGKILL to workers, one after the other.
    Kill,
    /// A reload of a configuration that cannot be read.
    Broken,
    /// A reload of one whose workers never become ready.
    Hung,
    /// SIGKILL to the master, and nobody starts it again.
    Orphans,
    /// SIGKILL to the master, and it is started again at once, as a service manager does it.
    Restart,
}

impl Trial {
    /// Every trial, in the order of tables.
    pub(crate) const ALL: [Self; 6] =
        [Self::Reload, Self::Kill, Self::Broken, Self::Hung, Self::Orphans, Self::Restart];

    /// Its name in options.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Kill => "kill",
            Self::Broken => "broken",
            Self::Hung => "hung",
            Self::Orphans => "orphans",
            Self::Restart => "restart",
        }
    }

    /// What a table calls it.
    pub(crate) fn title(self) -> String {
        match self {
            Self::Reload => format!("reload x {EVENTS}"),
            Self::Kill => format!("worker killed x {EVENTS}"),
            Self::Broken => "broken configuration".to_owned(),
            Self::Hung => "workers hang at start".to_owned(),
            Self::Orphans => "master killed".to_owned(),
            Self::Restart => "master killed, started again".to_owned(),
        }
    }

    /// Whether a server can be put to it: nginx and `HAProxy` load nothing that could keep a worker from its start.
    pub(crate) fn suits(self, contender: Contender) -> bool {
        self != Self::Hung || !matches!(contender, Contender::Nginx | Contender::HaProxy)
    }
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) trial: Trial,
    pub(crate) contender: Contender,
    pub(crate) tally: Tally,
    /// By how much the load's own clock was late at most.
    pub(crate) lag: Duration,
    /// From each event until as many new workers were there as wanted, in milliseconds.
    pub(crate) back_ms: Vec<f64>,
    /// What else there is to say.
    pub(crate) says: String,
}

/// A server under load.
struct Stage<'a> {
    ground: &'a Ground<'a>,
    site: Site,
    server: Server,
    load: Load,
    /// The moments of the events so far.
    events: Vec<Instant>,
    back_ms: Vec<f64>,
    /// The server that was started after the first one.
    successor: Option<Server>,
}

/// Makes a trial with one server.
pub(crate) fn make(ground: &Ground<'_>, trial: Trial, contender: Contender) -> Result<Found, Complaint> {
    let site = ground.site(contender, &format!("{}-{contender}", trial.name()), super::WORKERS)?;
    let server = Server::start(ground.programs, &site)?;
    let load = Load::start(site.port)?;
    let (events, back_ms) = (Vec::new(), Vec::new());
    let mut stage = Stage { ground, site, server, load, events, back_ms, successor: None };
    rest(CALM)?;
    let says = match trial {
        Trial::Reload => stage.reload()?,
        Trial::Kill => stage.kill_workers()?,
        Trial::Broken => stage.take_on(Flavour::Broken)?,
        Trial::Hung => stage.take_on(Flavour::Hanging)?,
        Trial::Orphans => stage.leave_orphans()?,
        Trial::Restart => stage.start_again()?,
    };
    rest(CALM)?;
    let over = stage.load.at(Instant::now());
    let events: Vec<u64> = stage.events.iter().map(|event| stage.load.at(*event)).collect();
    let Seen { records, lag } = stage.load.stop();
    let name = trial.name().to_owned();
    let tally = Tally::of(&records, &events, over);
    let tally = tally.ok_or(Complaint::Program { name, said: format!("nothing happened to {contender}") })?;
    Ok(Found { trial, contender, tally, lag, back_ms: stage.back_ms, says })
}

impl Stage<'_> {
    fn reload(&mut self) -> Result<String, Complaint> {
        for event in 0..EVENTS {
            let old = self.server.workers();
            let began = self.begin();
            self.server.reload()?;
            if let Some(end) = self.recover(began, &old)? {
                return Ok(format!("{end} after reload {}", event + 1));
            }
            rest(CALM)?;
        }
        Ok(self.recoveries())
    }

    fn kill_workers(&mut self) -> Result<String, Complaint> {
        for event in 0..EVENTS {
            let workers = self.server.workers();
            // In turn, as far as process ids tell: the successor of one is the youngest.
            let Some(victim) = workers.first() else {
                return Ok(format!("no worker is left after {event} kills"));
            };
            let began = self.begin();
            kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL)
                .map_err(|why| Complaint::io("killing a worker")(why.into()))?;
            if let Some(end) = self.recover(began, &[*victim])? {
                return Ok(format!("{end} after kill {}", event + 1));
            }
            rest(CALM)?;
        }
        Ok(self.recoveries())
    }

    /// Reloads a bad configuration and watches.
    fn take_on(&mut self, flavour: Flavour) -> Result<String, Complaint> {
        if flavour == Flavour::Hanging {
            let fifo = self.site.room.join(FIFO);
            mkfifo(&fifo, Mode::S_IRWXU).map_err(|why| Complaint::file(fifo)(why.into()))?;
        }
        self.site.write(self.ground.programs, flavour)?;
        self.begin();
        self.server.reload()?;
        rest(BAD_WATCH.min(self.ground.limit))?;
        let asked = Instant::now();
        let answered = wait(CALM, || Ok(self.load.answered_since(asked)))?.is_some();
        let mut says = match (self.server.end(), answered) {
            (None, true) => "serves on".to_owned(),
            (None, false) => "the master lives, nobody answers".to_owned(),
            (Some(end), true) => format!("the master left ({end}), orphans serve on"),
            (Some(end), false) => format!("the master left ({end}), nobody answers"),
        };
        if self.server.said_anywhere(&self.site, settings::evidence(self.site.contender, flavour)) == 0 {
            says.push_str("; its log does not mention the fault");
        }
        Ok(says)
    }

    fn leave_orphans(&mut self) -> Result<String, Complaint> {
        let (port, group) = (self.site.port, self.server.started.pid());
        let began = self.begin();
        self.server.started.signal(Signal::SIGKILL)?;
        let port_free = wait(self.ground.limit, || Ok(!listening::is_held(port)?))?;
        let left = self.ground.limit.saturating_sub(began.elapsed());
        let gone = wait(left, || Ok(processes::group(group).is_empty()))?.map(|_| began.elapsed());
        let told = |span: Option<Duration>| match span {
            Some(span) => format!("{} ms", span.as_millis()),
            None => format!("> {} s", self.ground.limit.as_secs()),
        };
        let mut says = format!("port held {}, last orphan {}", told(port_free), told(gone));
        if port_free.is_none() {
            let asked = Instant::now();
            let answered = wait(CALM, || Ok(self.load.answered_since(asked)))?.is_some();
            says.push_str(if answered { ", they serve on" } else { ", nobody answers" });
        }
        Ok(says)
    }

    fn start_again(&mut self) -> Result<String, Complaint> {
        let began = self.begin();
        self.server.started.signal(Signal::SIGKILL)?;
        let until = began + self.ground.limit;
        let (mut starts, mut first) = (0, String::new());
        while Instant::now() < until {
            starts += 1;
            let next = Server::launch(self.ground.programs, &self.site, &format!("output-{starts}"))?;
            let group = next.started.pid();
            let port = self.site.port;
            let holds = || listening::is_held_by(port, &processes::group(group));
            let left = until.saturating_duration_since(Instant::now());
            let bound = wait(left, || Ok(next.end().is_some() || holds()?))?.map(|_| began.elapsed());
            if let Some(end) = next.end() {
                if starts == 1 {
                    first = format!("the first start failed ({end}), ");
                }
                rest(RESTART_PAUSE)?;
                continue;
            }
            self.successor = Some(next);
            if let Some(bound) = bound {
                return Ok(format!("{first}bound by start {starts} after {} ms", bound.as_millis()));
            }
        }
        Ok(format!("{first}not bound by {starts} starts within {} s", self.ground.limit.as_secs()))
    }

    fn begin(&mut self) -> Instant {
        let now = Instant::now();
        self.events.push(now);
        now
    }

    /// Waits until there are as many workers as wanted besides the old ones, and an answer; says how the master ended,
    /// if it did.
    fn recover(&mut self, began: Instant, old: &[u32]) -> Result<Option<String>, Complaint> {
        let (server, load, wanted) = (&self.server, &self.load, self.site.processes());
        let there = || server.workers().iter().filter(|worker| !old.contains(worker)).count() >= wanted;
        let mut back = None;
        let settled = wait(self.ground.limit, || {
            if back.is_none() && there() {
                back = Some(began.elapsed());
            }
            Ok(server.end().is_some() || (back.is_some() && load.answered_since(began)))
        })?;
        self.back_ms.extend(settled.and(back).map(|span| span.as_secs_f64() * 1e3));
        Ok(self.server.end().map(|end| format!("the master left ({end})")))
    }

    fn recoveries(&self) -> String {
        match self.back_ms.len() {
            EVENTS => "recovered each time".to_owned(),
            some => format!("recovered {some} of {EVENTS} times"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trial_has_a_name_of_its_own() {
        let mut names: Vec<&str> = Trial::ALL.iter().map(|trial| trial.name()).collect();
        names.extend(Contender::ALL.iter().map(|contender| contender.name()));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Trial::ALL.len() + Contender::ALL.len());
    }

    #[test]
    fn only_who_can_hang_is_let_hang() {
        assert!(Trial::Hung.suits(Contender::Gunicorn) && !Trial::Hung.suits(Contender::HaProxy));
        assert!(Contender::ALL.into_iter().all(|contender| Trial::Broken.suits(contender)));
    }
}
