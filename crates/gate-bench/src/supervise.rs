//! The command `supervise`: what clients notice while servers are reloaded, killed and given bad configurations.
//!
//! All contenders go through the same trials under the same load, one after the other. It is no test: losses and times
//! are printed, and only a run that could not be made is a failure.

mod bars;
mod contender;
pub(crate) mod exchange;
mod listening;
mod load;
pub(crate) mod options;
mod report;
mod server;
mod settings;
mod tally;
mod trial;

use std::thread::sleep;
use std::time::{Duration, Instant};

pub(crate) use options::Options;

use crate::backend::Backend;
use crate::build;
use crate::complaint::Complaint;
use crate::folder::Folder;
use crate::interrupt;
use crate::probe;
use crate::processes;
use contender::{Contender, Programs};
use server::Site;
use trial::Trial;

/// Workers of every server that can have them.
const WORKERS: usize = 2;
/// How long the load runs undisturbed before an event and after it.
const CALM: Duration = Duration::from_secs(1);
/// How often what is waited for is looked at: short, as the time is itself measured.
const GLANCE: Duration = Duration::from_millis(1);
/// How often a rest looks whether it is interrupted.
const NAP: Duration = Duration::from_millis(20);

/// What every trial needs.
struct Ground<'a> {
    programs: &'a Programs,
    folder: &'a Folder,
    upstream: u16,
    /// How long recovery is waited for.
    limit: Duration,
}

impl Ground<'_> {
    /// A folder and a port for a server.
    fn site(&self, contender: Contender, name: &str, workers: usize) -> Result<Site, Complaint> {
        let room = self.folder.room(name)?;
        Ok(Site { contender, room, port: probe::free_port()?, upstream: self.upstream, workers })
    }
}

/// Makes all trials that are asked for with all servers that are there.
pub(crate) fn run(options: &Options) -> Result<(), Complaint> {
    let folder = Folder::create()?;
    let gate = if options.wants(Contender::Gate) || options.wants(Contender::GateReusePort) {
        Ok(build::named_or_built(options.gate.as_deref(), &folder)?)
    } else {
        Err("not asked for".to_owned())
    };
    let programs = Programs::find(options, gate);
    let contenders: Vec<Contender> = Contender::ALL.into_iter().filter(|one| options.wants(*one)).collect();
    tell_setting(&programs, &contenders);
    let backend = Backend::start()?;
    let limit = Duration::from_secs(options.seconds.into());
    let ground = Ground { programs: &programs, folder: &folder, upstream: backend.port, limit };
    let mut found = Vec::new();
    for trial in Trial::ALL.into_iter().filter(|trial| options.does(*trial)) {
        for contender in contenders.iter().copied().filter(|one| programs.place(*one).is_ok()) {
            if trial.suits(contender) {
                eprintln!("{}: {contender}", trial.title());
                found.push(report::cells(&trial::make(&ground, trial, contender)?));
            } else {
                found.push(report::not_applicable(trial, contender));
            }
        }
    }
    if !found.is_empty() {
        println!("{}", report::table(found));
    }
    if options.does_bars() {
        println!("{}", bars::table(&bars::measure(&ground)?));
    }
    Ok(())
}

fn tell_setting(programs: &Programs, contenders: &[Contender]) {
    println!("# gate-bench supervise\n");
    println!("- {}", processes::machine());
    for contender in contenders {
        match programs.place(*contender) {
            Err(why) => println!("- {contender} is left out: {why}"),
            Ok(_) if *contender == Contender::GateReusePort => {}
            Ok(_) => println!("- {contender}: {}", programs.version(*contender).unwrap_or_default()),
        }
    }
    println!("{}", report::SETTING);
}

/// Lets time pass.
fn rest(span: Duration) -> Result<(), Complaint> {
    let until = Instant::now() + span;
    loop {
        interrupt::check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        sleep(left.min(NAP));
    }
}

/// Waits until something has happened, and says how long that took; none where it did not.
fn wait(limit: Duration, mut happened: impl FnMut() -> Result<bool, Complaint>) -> Result<Option<Duration>, Complaint> {
    let began = Instant::now();
    loop {
        interrupt::check()?;
        if happened()? {
            return Ok(Some(began.elapsed()));
        }
        if began.elapsed() >= limit {
            return Ok(None);
        }
        sleep(GLANCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_what_it_waits_for_or_with_its_limit() {
        let mut looks = 0;
        let happened = wait(Duration::from_secs(60), || {
            looks += 1;
            Ok(looks == 3)
        });
        assert!(matches!(happened, Ok(Some(_))));
        assert!(matches!(wait(Duration::ZERO, || Ok(false)), Ok(None)));
        assert!(wait(Duration::from_secs(60), || Err(Complaint::Interrupted)).is_err());
    }
}
