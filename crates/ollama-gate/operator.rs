//! The commands with which an operator asks a running gate: their flags, what they ask, how the answer reads.
//!
//! The gate decides and does everything; this is its remote control. Invariant: what was done goes to standard output,
//! what was not to standard error, and the exit code says which.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, value_parser};
use gate_config::exit::{EX_CONFIG, EX_NOPERM, EX_OK, EX_REFUSED, EX_SOFTWARE, EX_UNAVAILABLE};
use gate_master::protocol::{Answer, CANARY_SECONDS_MAX, Canary, NOT_PERMITTED, Reloaded, Request};

use crate::ask::{self, Reply, Silence};
use crate::socket::Place;
use crate::{say, status};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 the gate refused or it failed, 64 usage, 69 nobody answers on the \
control socket, 70 a bug, 77 not permitted, 78 the file of --config.";

/// A command as clap needs it, but for its own flags.
struct Row {
    name: &'static str,
    about: &'static str,
    example: &'static str,
}

const ROWS: [Row; 7] = [
    Row { name: "status", about: "Show how a running gate stands", example: "ollama-gate status --json" },
    Row {
        name: "reload",
        about: "Have it read its configuration again and replace worker by worker",
        example: "ollama-gate reload --wait --canary 1 --canary-time 30s",
    },
    Row {
        name: "upgrade",
        about: "Have the binary that is installed now take over, without losing a connection",
        example: "ollama-gate upgrade --wait",
    },
    Row {
        name: "scale",
        about: "Set the number of workers until a reload names another",
        example: "ollama-gate scale 4",
    },
    Row { name: "stop", about: "Have it finish what is in service, and leave", example: "ollama-gate stop --wait" },
    Row { name: "reopen", about: "Have it open its log files anew, after a rotation", example: "ollama-gate reopen" },
    Row {
        name: "drain",
        about: "Replace one worker once its requests are done",
        example: "ollama-gate drain 2 --wait",
    },
];

/// A question, to whom, and how the answer is to be shown.
pub(crate) struct Errand {
    request: Request,
    form: Form,
    control: Option<PathBuf>,
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// For people.
    Text,
    /// As it came.
    Json,
}

/// The commands, for clap.
pub(crate) fn definitions() -> impl Iterator<Item = clap::Command> {
    ROWS.iter().map(|row| {
        clap::Command::new(row.name)
            .about(row.about)
            .after_help(format!("Example: {}\n\n{EXIT_CODES}", row.example))
            .args(flags(row.name))
            .arg(path("control", "PATH").help(
                "The gate's control socket [OLLAMA_GATE_CONTROL, control in the file of --config, \
                 $RUNTIME_DIRECTORY/control.sock, /run/ollama-gate/control.sock]",
            ))
            .arg(path("config", "FILE").short('c').help("The gate's configuration file, to find the control socket"))
    })
}

/// As many workers as there can be.
const WORKERS_MAX: i64 = gate_master::desired::WORKERS_MAX as i64;

fn flags(command: &str) -> Vec<Arg> {
    let switch =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let range = value_parser!(u32).range(1..=WORKERS_MAX);
    let count = |name: &'static str| Arg::new(name).value_name("N").value_parser(range);
    match command {
        "status" => vec![switch("json", "Print the answer as it comes: one line of JSON")],
        "reload" => vec![
            switch("wait", "Wait until the new workers serve, or the old ones are back"),
            count("canary").long("canary").help("Replace only so many workers first, and watch them"),
            Arg::new("canary-time")
                .long("canary-time")
                .value_name("TIME")
                .requires("canary")
                .default_value("30s")
                .value_parser(seconds)
                .help("How long they are watched before the others follow"),
        ],
        "upgrade" => vec![
            switch("wait", "Wait until the new binary serves, or has failed and is gone"),
            switch("fresh-zone", "Begin with empty counts, where the new binary cannot read the old one's memory"),
        ],
        "scale" => vec![count("workers").required(true).help("How many workers there should be, from 1 to 64")],
        "stop" => vec![switch("wait", "Wait until the gate is gone"), switch("quick", "Cut off what is in service")],
        "drain" => vec![
            count("slot").value_name("SLOT").required(true).help("The worker's number: 2 for `worker 2`"),
            switch("wait", "Wait until it has left"),
        ],
        _ => Vec::new(),
    }
}

fn path(name: &'static str, value: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).value_parser(value_parser!(PathBuf))
}

/// Whole seconds, with the units of the configuration that make such.
fn seconds(text: &str) -> Result<NonZeroU32, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600)];
    let unit = units.iter().find_map(|(name, factor)| Some((text.strip_suffix(name)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1));
    let number: Option<u32> = number.parse().ok().and_then(|number: u32| number.checked_mul(factor));
    number
        .filter(|seconds| *seconds <= CANARY_SECONDS_MAX)
        .and_then(NonZeroU32::new)
        .ok_or_else(|| "write a time from 1s to 24h: whole seconds, or a number with s, m or h".to_owned())
}

impl Errand {
    /// What these matches of one of [`definitions`] ask; `None` for another command.
    pub(crate) fn of(command: &str, matches: &ArgMatches) -> Option<Self> {
        let is_set = |name: &str| matches.try_get_one::<bool>(name).ok().flatten().is_some_and(|set| *set);
        let number = |name: &str| matches.try_get_one::<u32>(name).ok().flatten().copied().and_then(NonZeroU32::new);
        let wait = is_set("wait");
        let request = match command {
            "status" => Request::Status {},
            "reload" => {
                let time = matches.try_get_one::<NonZeroU32>("canary-time").ok().flatten().copied();
                let canary = number("canary").zip(time);
                Request::Reload { wait, canary: canary.map(|(workers, seconds)| Canary { workers, seconds }) }
            }
            "upgrade" => Request::Upgrade { wait, fresh_zone: is_set("fresh-zone") },
            "scale" => Request::Scale { workers: number("workers")? },
            "stop" => Request::Stop { wait, quick: is_set("quick") },
            "reopen" => Request::Reopen {},
            "drain" => Request::Drain { slot: number("slot")?, wait },
            _ => return None,
        };
        Some(Self {
            request,
            form: if is_set("json") { Form::Json } else { Form::Text },
            control: matches.get_one("control").cloned(),
            config: matches.get_one("config").cloned(),
        })
    }

    /// Asks, and shows the answer; the exit code.
    pub(crate) fn run(&self) -> u8 {
        let place = match Place::find(self.control.as_deref(), self.config.as_deref()) {
            Ok(place) => place,
            Err(complaints) => {
                eprintln!("{complaints}");
                return EX_CONFIG;
            }
        };
        let within = if waits(&self.request) { None } else { Some(ask::ANSWER) };
        match ask::ask(&place.path, &self.request, within) {
            Ok(reply) => self.show(reply),
            Err(silence) => {
                eprintln!("ollama-gate {}: {}: {silence}", self.request.name(), place);
                eprintln!("{}", remedy(&silence, &self.request));
                code(&silence)
            }
        }
    }

    fn show(&self, reply: Reply) -> u8 {
        let answer = Answer::parse(&reply.line, &self.request);
        if self.form == Form::Json {
            let said = say(&reply.line);
            if said != EX_OK {
                return said;
            }
        }
        let answer = match answer {
            Ok(Answer::Refused { reasons }) => {
                for reason in &reasons {
                    eprintln!("ollama-gate {}: {}", self.request.name(), status::printable(reason));
                }
                return if reasons.iter().any(|reason| reason == NOT_PERMITTED) { EX_NOPERM } else { EX_REFUSED };
            }
            Ok(answer) => answer,
            Err(error) => {
                eprintln!("ollama-gate {}: {}", self.request.name(), Silence::Strange(error));
                return EX_SOFTWARE;
            }
        };
        if let Request::Stop { wait: true, .. } = self.request
            && let Err(silence) = reply.closes()
        {
            eprintln!("ollama-gate stop: {silence}");
            return code(&silence);
        }
        if self.form == Form::Json { EX_OK } else { say(&status::printable(&told(&self.request, &answer))) }
    }
}

/// Whether the answer comes when the work is done, however long that takes.
fn waits(request: &Request) -> bool {
    match request {
        Request::Reload { wait, .. }
        | Request::Upgrade { wait, .. }
        | Request::Stop { wait, .. }
        | Request::Drain { wait, .. } => *wait,
        Request::Status {} | Request::Scale { .. } | Request::Reopen {} | Request::Keys {} => false,
    }
}

fn code(silence: &Silence) -> u8 {
    match silence {
        Silence::Nobody(_) | Silence::Late(_) => EX_UNAVAILABLE,
        Silence::NotPermitted(_) => EX_NOPERM,
        Silence::Closed => EX_REFUSED,
        Silence::Strange(_) => EX_SOFTWARE,
    }
}

/// What to do where no answer came.
fn remedy(silence: &Silence, request: &Request) -> String {
    let other_way = match request {
        Request::Status {} => "`ps f -C ollama-gate` shows the processes of one that has none",
        Request::Reload { .. } => "without one, `kill -HUP PID` reloads",
        Request::Upgrade { .. } => "without one, `kill -USR2 PID` upgrades",
        Request::Scale { .. } => "without one, `kill -TTIN PID` adds a worker and `kill -TTOU PID` removes one",
        Request::Stop { quick: false, .. } => "without one, `kill -TERM PID` stops",
        Request::Stop { quick: true, .. } => "without one, `kill -QUIT PID` stops at once",
        Request::Reopen {} => "without one, `kill -USR1 PID` opens the logs anew",
        Request::Keys {} => "without one, `kill -HUP PID` reads them with everything else",
        Request::Drain { .. } => "without one, `kill -TERM` with the worker's pid replaces it",
    };
    match silence {
        Silence::Nobody(_) => {
            format!("Start the gate with --control PATH, or name its socket with --control PATH here; {other_way}.")
        }
        Silence::NotPermitted(_) => {
            format!("Run this as root or as the user that the gate runs as, with sudo for one; {other_way}.")
        }
        Silence::Late(_) => "The master hangs or is stopped: look at its log.".to_owned(),
        Silence::Closed | Silence::Strange(_) => "Look at the gate's log, and at `ollama-gate status`.".to_owned(),
    }
}

/// What an answer says, for people.
fn told(request: &Request, answer: &Answer) -> String {
    match (answer, request) {
        (Answer::Status(status), _) => status::text(status, jiff::Timestamp::now()),
        (Answer::Reload(reloaded), _) => reload_text(reloaded),
        (Answer::Upgrade(upgraded), _) => format!("version {} serves as pid {}\n", upgraded.version, upgraded.pid),
        (Answer::Scale(scaled), _) => format!("workers: {} -> {}\n", scaled.before, scaled.workers),
        (Answer::Drain(drained), Request::Drain { slot, wait }) => {
            let does = if *wait { "has left" } else { "is leaving" };
            format!("worker {slot} ({}) {does}\n", drained.pid)
        }
        (_, Request::Stop { wait: true, .. }) => "stopped\n".to_owned(),
        (_, Request::Stop { .. }) => "stopping\n".to_owned(),
        (_, Request::Reopen {}) => "log files are opened anew\n".to_owned(),
        (Answer::Accepted, _) => format!("{} begun; `ollama-gate status` shows how it ends\n", request.name()),
        _ => "done\n".to_owned(),
    }
}

fn reload_text(reloaded: &Reloaded) -> String {
    let shown = |value: &str| if value.is_empty() { "(empty)".to_owned() } else { value.to_owned() };
    let line = |change: &gate_master::protocol::ChangeLine| {
        format!("{}: {} -> {} ({})\n", change.key, shown(&change.old), shown(&change.new), change.effect)
    };
    let same = reloaded.changes.is_empty().then(|| "the configuration is the same\n".to_owned());
    let canary = reloaded.canary.as_ref().map(|canary| format!("canary: {canary}\n"));
    let serves = format!("generation {} serves\n", reloaded.generation);
    reloaded.changes.iter().map(line).chain(same).chain(canary).chain([serves]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_trial_are_whole_seconds() {
        for (text, expected) in [("30", 30), ("30s", 30), ("5m", 300), ("24h", 86_400)] {
            assert_eq!(seconds(text).map(NonZeroU32::get), Ok(expected), "{text}");
        }
        for text in ["", "0", "0s", "500ms", "-1s", "25h", "soon", "99999999h", "s"] {
            assert!(seconds(text).unwrap_err().contains("from 1s to 24h"), "{text}");
        }
    }

    #[test]
    fn every_command_becomes_a_request() {
        for (line, expected) in [
            ("status", r#"{"command":"status"}"#),
            ("reload", r#"{"command":"reload"}"#),
            ("reload --wait --canary 2", r#"{"command":"reload","wait":true,"canary":{"workers":2,"seconds":30}}"#),
            ("reload --canary 1 --canary-time 5m", r#"{"command":"reload","canary":{"workers":1,"seconds":300}}"#),
            ("upgrade --wait --fresh-zone", r#"{"command":"upgrade","wait":true,"fresh_zone":true}"#),
            ("scale 4", r#"{"command":"scale","workers":4}"#),
            ("stop --quick", r#"{"command":"stop","quick":true}"#),
            ("reopen", r#"{"command":"reopen"}"#),
            ("drain 2 --wait", r#"{"command":"drain","slot":2,"wait":true}"#),
        ] {
            let words = ["gate"].into_iter().chain(line.split(' '));
            let matches = clap::Command::new("gate").subcommands(definitions()).get_matches_from(words);
            let (command, matches) = matches.subcommand().unwrap();
            assert_eq!(Ok(Errand::of(command, matches).unwrap().request), Request::parse(expected), "{line}");
        }
    }
}
