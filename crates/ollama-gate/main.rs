//! The command: reads the configuration, starts the master, and says what each of its children runs; or asks a gate
//! that is running.
//!
//! Nothing else is decided here. Invariant: every way out has one of the documented exit codes.
#![forbid(unsafe_code)]

mod ask;
mod command;
mod crew;
mod keys;
mod logging;
mod operator;
mod selftest;
mod socket;
mod status;
mod table;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use gate_config::{AccessLog, EX_CONFIG, EX_OK, EX_SOFTWARE, EX_USAGE, Plan};
use gate_master::{Estate, Master, Program, Setup, title};

use crate::command::{Asked, Command, Purpose};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    title::prepare();
    let estate = match Estate::take() {
        Ok(estate) => estate,
        Err(error) => {
            eprintln!("ollama-gate: what was handed over cannot be used: {error}");
            return ExitCode::from(EX_CONFIG);
        }
    };
    ExitCode::from(run(arguments, estate))
}

fn run(arguments: Vec<OsString>, mut estate: Estate) -> u8 {
    let program = Program {
        argument0: arguments.first().cloned().unwrap_or_default(),
        arguments: arguments.iter().skip(1).cloned().collect(),
        directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        version: env!("CARGO_PKG_VERSION"),
    };
    let mut command = match Asked::parse(arguments) {
        Ok(Asked::Gate(command)) => command,
        Ok(Asked::Operate(errand)) => return errand.run(),
        Ok(Asked::Keys(errand)) => return errand.run(),
        Ok(Asked::Test(part)) => return part.run(),
        Err(said) => {
            // Help and version are asked for; anything else cannot be parsed.
            estate.refuse(&said.to_string());
            let asked_for = !said.use_stderr();
            if said.print().is_err() {
                return EX_SOFTWARE;
            }
            return if asked_for { EX_OK } else { EX_USAGE };
        }
    };
    command.default_bind(estate.default_bind());
    let (settings, plan) = match command.read() {
        Ok(read) => read,
        Err(complaints) => {
            estate.refuse(&complaints.to_string());
            eprintln!("{complaints}");
            return EX_CONFIG;
        }
    };
    match command.purpose {
        Purpose::Check => match check(&plan) {
            Ok(()) => say("the configuration is good\n"),
            Err(why) => {
                eprintln!("{why}");
                EX_CONFIG
            }
        },
        Purpose::Print => say(&plan.render(&settings)),
        Purpose::Serve => serve(command, plan, program, estate),
    }
}

/// What a plan needs of this machine, as far as it can be seen without touching anything.
fn check(plan: &Plan) -> Result<(), String> {
    gate_master::identity_exists(plan)?;
    if let Some(url) = &plan.cluster_url {
        gate_worker::judge_url(url.reveal()).map_err(|why| format!("cluster_url = {url}: {why}"))?;
    }
    gate_master::check_secrets(plan)?;
    let log = match &plan.access_log {
        AccessLog::File(path) => Some(path),
        AccessLog::Off | AccessLog::Stdout => None,
    };
    for (key, path) in [("access_log", log), ("pid", plan.pid.as_ref())] {
        let Some(path) = path else { continue };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if parent.is_some_and(|parent| !parent.is_dir()) {
            // It may be made before the gate is started, by systemd for one.
            eprintln!("warning: {key} = {:?}: its directory does not exist yet", path.display().to_string());
        }
    }
    Ok(())
}

/// Writes to standard output; the exit code. A reader that has gone is no panic.
pub(crate) fn say(text: &str) -> u8 {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => EX_OK,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => EX_OK,
        Err(_) => EX_SOFTWARE,
    }
}

fn serve(command: Command, plan: Plan, program: Program, estate: Estate) -> u8 {
    logging::start(plan.log_level);
    let mut seed = [0; 24];
    if let Err(error) = getrandom::fill(&mut seed) {
        log::error!("no random numbers from the kernel: {error}");
        return EX_SOFTWARE;
    }
    let (words, _) = seed.as_chunks::<8>();
    let seed = [0, 1, 2].map(|index| u64::from_ne_bytes(words[index]));
    let reread = Box::new(move |serving: &Plan| command.reread(serving));
    let adopt = Box::new(|plan: &Plan| logging::set_level(plan.log_level));
    let (crew, routes) = (Box::new(crew::live), gate_worker::route_names());
    match Master::start(Setup { plan, crew, reread, adopt, program, routes, estate, seed }) {
        Ok(master) => master.run(),
        Err(error) => {
            for line in error.to_string().lines() {
                log::error!("{line}");
            }
            error.code()
        }
    }
}
