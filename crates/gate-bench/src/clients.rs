//! The command `clients`: what keys and dialects may cost, measured on this machine in one run.
//!
//! It is no test: figures and bars are printed, and only a run that could not be made is a failure.

mod bars;
mod key;
mod keyfile;
mod keys;
pub(crate) mod options;
mod rate;
mod relay;
mod store;

use std::path::Path;

pub(crate) use options::Options;

use crate::build;
use crate::chunks::{self, line::Shape};
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
    println!("# gate-bench clients\n\n- {}; {}", processes::machine(), processes::load());
    let mut found = bars::Found::default();
    if options.does(Part::Key) {
        found.key = key::measure()?;
    }
    if Part::ALL.into_iter().any(|part| part != Part::Key && options.does(part)) {
        let folder = Folder::create()?;
        let gate = build::named_or_built(options.gate.as_deref(), &folder)?;
        measure(&Ground { gate: &gate, folder: &folder }, options, &mut found)?;
    }
    tell_setting(options);
    if !found.chunks.is_empty() {
        println!("{}", chunks::table(Shape::Events, &found.chunks));
    }
    println!("{}", bars::table(&found));
    Ok(())
}

fn measure(ground: &Ground<'_>, options: &Options, found: &mut bars::Found) -> Result<(), Complaint> {
    let Options { rounds, seconds, .. } = *options;
    if options.does(Part::Rate) {
        found.rate = unless_missing(rate::measure(ground, rounds, seconds))?.unwrap_or_default();
    }
    if options.does(Part::Chunks) {
        found.chunks = unless_missing(relay::measure(ground, rounds, seconds))?.unwrap_or_default();
    }
    if options.does(Part::Keys) {
        found.keys = Some(keys::measure(ground, rounds)?);
    }
    if options.does(Part::Store) {
        found.store = unless_missing(store::measure(ground, rounds, seconds))?.unwrap_or_default();
    }
    Ok(())
}

/// A part whose peer is not installed is left out.
pub(crate) fn unless_missing<T>(found: Result<T, Complaint>) -> Result<Option<T>, Complaint> {
    match found {
        Err(missing @ Complaint::NoProgram { .. }) => {
            println!("- left out: {missing}");
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn tell_setting(options: &Options) {
    let Options { rounds, seconds, .. } = options;
    let (keys, policies) = (keyfile::KEYS, keyfile::POLICIES);
    println!("- a request's key and policy: in process, processor time, over {keys} keys of {policies} policies");
    println!("- requests/s, CPU a chunk: medians of {rounds} interleaved rounds, {seconds} s each, one worker each");
    println!("- requests/s: the gate asks for a key and counts its requests and tokens, nginx asks for none");
    println!("- loading: from asking the master over its control socket to its answer; the file was just written");
    println!("- memory: PSS of master, monitor and {} workers, with keys less without", keys::WORKERS);
    println!("- a shared store: {} requests a second, each of a client that was not seen before\n", store::RATE);
}
