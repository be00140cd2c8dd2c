//! The command `fleet`: what the gate must reach in front of several backends, measured on this machine in one run.
//!
//! It is no test: figures and bars are printed, and only a run that could not be made is a failure.

mod bars;
mod cancel;
pub(crate) mod client;
mod fairness;
mod gate;
mod kills;
mod lease;
pub(crate) mod options;
mod rate;
mod swaps;

use std::num::NonZeroUsize;
use std::path::Path;

pub(crate) use options::Options;

use crate::build;
use crate::clients::unless_missing;
use crate::complaint::Complaint;
use crate::folder::Folder;
use crate::processes;
use options::Part;

/// What every part needs that starts a gate.
struct Ground<'a> {
    gate: &'a Path,
    folder: &'a Folder,
}

/// Measures all that is asked for.
pub(crate) fn run(options: &Options) -> Result<(), Complaint> {
    println!("# gate-bench fleet\n\n- {}", processes::machine());
    let mut found = bars::Found::default();
    if options.does(Part::Lease) {
        found.lease = lease::measure()?;
    }
    if Part::ALL.into_iter().any(|part| part != Part::Lease && options.does(part)) {
        let folder = Folder::create()?;
        let gate = build::named_or_built(options.gate.as_deref(), &folder)?;
        measure(&Ground { gate: &gate, folder: &folder }, options, &mut found)?;
    }
    tell_setting(options);
    println!("{}", bars::table(&found));
    Ok(())
}

fn measure(ground: &Ground<'_>, options: &Options, found: &mut bars::Found) -> Result<(), Complaint> {
    if options.does(Part::Rate) {
        found.rate = unless_missing(rate::measure(ground, options.rounds, options.seconds))?.unwrap_or_default();
    }
    if options.does(Part::Fairness) {
        found.fairness = Some(fairness::measure(ground)?);
    }
    if options.does(Part::Kills) {
        found.kills = Some(kills::measure(ground)?);
    }
    if options.does(Part::Cancel) {
        found.cancel = cancel::measure(ground)?;
    }
    if options.does(Part::Swaps) {
        found.swaps = unless_missing(swaps::measure(ground, options.scale))?.unwrap_or_default();
    }
    Ok(())
}

fn tell_setting(options: &Options) {
    let Options { rounds, seconds, scale, .. } = options;
    println!("- leasing: in process, processor time, medians of runs of 10^6; every backend has the model in memory");
    println!("- requests/s: medians of {rounds} interleaved rounds, {seconds} s each, wrk -t1 -c32, one worker each");
    println!("- fair wait: clients x mean service / slots; waits are all of an answer's time but the backend's");
    println!("- swaps: 3 models that load in 3, 4 and 5 s, answers of 0.6 to 1.4 s, all times over {scale}\n");
}

/// A number of slots, as the simulation takes it.
fn slots(count: u16) -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(usize::from(count).saturating_sub(1))
}
