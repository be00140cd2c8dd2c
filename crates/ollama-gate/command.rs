//! The command line, built from the table of keys, and the way from it to a plan: at the start and at each reload.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{Arg, ArgAction, ArgMatches};
use gate_config::{
    Complaint, Complaints, ENV_PREFIX, KEYS, Key, LISTEN_FDS, OLLAMA_HOST, OLLAMA_ORIGINS, Plan, Repeats, Settings,
    Source, StartOnly,
};
use gate_master::Read;
use gate_master::event::{Change, Effect};

use crate::keys;
use crate::operator::{self, Errand};
use crate::selftest;

const ABOUT: &str = "One binary between clients and Ollama: validated requests, exact limits, lossless reloads";

const AFTER_HELP: &str = "Every key can also be set in the TOML file (--config) and by an OLLAMA_GATE_* environment \
variable; flags win over the environment, the environment over the file.\n\n\
Without a command the gate serves. A command asks one that is running, over its control socket; \
`ollama-gate COMMAND --help` has an example.\n\n\
Signals: TERM finishes what is in service and stops, INT and QUIT stop now, HUP reloads, USR2 upgrades, TTIN and TTOU \
add and remove a worker, USR1 opens the logs anew, WINCH drains all workers.\n\
Exit codes: 0 done, 64 usage, 69 an address cannot be bound, 70 a bug, 78 configuration; of a command also \
1 refused or failed, 69 nobody answers, 77 not permitted.";

/// What a command line asks for.
pub(crate) enum Asked {
    /// A gate of this process's own, or its configuration.
    Gate(Command),
    /// Something of a gate that is running.
    Operate(Errand),
    /// Something done to a key file.
    Keys(keys::Errand),
    /// A trial of this binary.
    Test(selftest::Part),
}

impl Asked {
    /// Parses.
    ///
    /// # Errors
    /// What clap has to say: a usage error, or the help and the version that were asked for.
    pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Self, clap::Error> {
        let matches = definition().try_get_matches_from(arguments)?;
        let Some((name, of_command)) = matches.subcommand() else {
            return Ok(Self::Gate(Command::of(&matches)));
        };
        match Errand::of(name, of_command) {
            Some(errand) => Ok(Self::Operate(errand)),
            None if name == "key" => keys::Errand::of(of_command).map(Self::Keys),
            None => Ok(Self::Test(selftest::Part::of(of_command))),
        }
    }
}

/// What the gate is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To serve.
    Serve,
    /// To say whether the configuration is good.
    Check,
    /// To show it.
    Print,
}

/// The command line of a gate.
pub(crate) struct Command {
    /// What for.
    pub(crate) purpose: Purpose,
    file: Option<PathBuf>,
    flags: Vec<(String, String)>,
    /// The sockets that were handed over, as `bind` names them.
    handed: Option<String>,
}

impl Command {
    fn of(matches: &ArgMatches) -> Self {
        let purpose = match (matches.get_flag("check_config"), matches.get_flag("print_config")) {
            (true, _) => Purpose::Check,
            (false, true) => Purpose::Print,
            (false, false) => Purpose::Serve,
        };
        let flags = KEYS.iter().flat_map(|key| given(key, matches)).collect();
        Self { purpose, file: matches.get_one::<PathBuf>("config").cloned(), flags, handed: None }
    }

    /// Sets what `bind` is where nobody says it: the sockets that were handed over.
    pub(crate) fn default_bind(&mut self, handed: Option<String>) {
        self.handed = handed;
    }

    /// Reads the file and the environment, and makes a plan of all.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn read(&self) -> Result<(Settings, Plan), Complaints> {
        let file = match &self.file {
            Some(path) => Some((path.display().to_string(), read_file(path)?)),
            None => None,
        };
        let file = file.as_ref().map(|(path, text)| (path.as_str(), text.as_str()));
        let ours = |(name, _): &(String, String)| {
            name.starts_with(ENV_PREFIX) || name == OLLAMA_HOST || name == OLLAMA_ORIGINS
        };
        let environment = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .filter(ours)
            .chain(self.handed.clone().map(|handed| (LISTEN_FDS.to_owned(), handed)));
        let settings = Settings::gather(file, environment, self.flags.iter().cloned())?;
        let plan = Plan::new(&settings)?;
        Ok((settings, plan))
    }

    /// Reads again for a reload, and says what changes and what cannot.
    ///
    /// # Errors
    /// Everything that is wrong, a line each.
    pub(crate) fn reread(&self, serving: &Plan) -> Result<Read, String> {
        let (_, plan) = self.read().map_err(|complaints| complaints.to_string())?;
        let fixed = plan.start_only_changes(serving).into_iter().map(|fixed| {
            let StartOnly { key, old, new } = fixed;
            log::warn!("{key} stays {old:?}: {new:?} takes effect with an upgrade (USR2), or a stop and a start");
            Change { key, old, new, effect: Effect::NeedsUpgrade }
        });
        let fixed: Vec<_> = fixed.collect();
        let plan = plan.with_start_only_from(serving);
        let rolled = plan.changes(serving).into_iter().map(|(key, old, new)| {
            log::info!("reload: {key} changes from {old:?} to {new:?}");
            Change { key, old, new, effect: Effect::RolledOut }
        });
        let changes = rolled.chain(fixed).collect();
        Ok(Read { plan, changes })
    }
}

/// Reads a configuration file.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read_file(path: &std::path::Path) -> Result<String, Complaints> {
    std::fs::read_to_string(path).map_err(|error| {
        Complaints(vec![Complaint {
            key: "config".to_owned(),
            value: path.display().to_string(),
            source: Source::Flag,
            remedy: format!("cannot be read: {error}"),
        }])
    })
}

fn definition() -> clap::Command {
    let config = Arg::new("config").short('c').long("config").value_name("FILE").help("Read this TOML file");
    let switch = |name: &'static str, long: &'static str, help: &'static str| {
        Arg::new(name).long(long).action(ArgAction::SetTrue).help(help)
    };
    clap::Command::new("ollama-gate")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .after_help(AFTER_HELP)
        .args_conflicts_with_subcommands(true)
        .subcommands(operator::definitions())
        .subcommand(keys::definition())
        .subcommand(selftest::definition())
        .arg(config.value_parser(clap::value_parser!(PathBuf)))
        .arg(switch("check_config", "check-config", "Say whether the configuration is good, and exit"))
        .arg(switch("print_config", "print-config", "Show every key, its value and where it comes from, and exit"))
        .args(KEYS.iter().map(argument))
}

/// Values are text here: the plan judges them, together with those of the file and the environment.
fn argument(key: &'static Key) -> Arg {
    let help = match key.default {
        "" => key.doc.to_owned(),
        default => format!("{} [{default}]", key.doc),
    };
    let argument = Arg::new(key.name).long(key.flag()[2..].to_owned()).help(help).help_heading(key.section);
    let argument = match key.short {
        Some(short) => argument.short(short),
        None => argument,
    };
    match (key.metavar, key.repeats) {
        // A switch may still be switched off: `--demo=false` over a file that switches it on.
        (None, _) => argument
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .hide_possible_values(true)
            .value_name("BOOL")
            .value_parser([PossibleValue::new("true"), PossibleValue::new("false")])
            .action(ArgAction::Set),
        (Some(metavar), Repeats::Many | Repeats::Tables) => {
            argument.value_name(metavar).action(ArgAction::Append).allow_hyphen_values(true)
        }
        (Some(metavar), Repeats::Once) => {
            argument.value_name(metavar).action(ArgAction::Set).overrides_with(key.name).allow_hyphen_values(true)
        }
    }
}

fn given(key: &'static Key, matches: &ArgMatches) -> Vec<(String, String)> {
    let values = matches.get_many::<String>(key.name).into_iter().flatten();
    values.map(|value| (key.name.to_owned(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        definition().debug_assert();
    }

    #[test]
    fn flags_reach_the_plan() {
        let arguments = ["ollama-gate", "-w", "3", "-b", "127.0.0.1:0", "-b", "[::1]:0", "--demo", "--limit", "none"];
        let Ok(Asked::Gate(command)) = Asked::parse(arguments.map(Into::into).to_vec()) else { panic!("no gate") };
        let (_, plan) = command.read().unwrap();
        assert_eq!((plan.workers, plan.bind.len(), plan.demo, plan.limit.len()), (3, 2, true, 0));
    }

    #[test]
    fn commands_stand_alone() {
        let asked = |line: &str| Asked::parse(line.split(' ').map(Into::into).collect());
        assert!(matches!(asked("ollama-gate status --json -c x.toml"), Ok(Asked::Operate(_))));
        assert!(matches!(asked("ollama-gate selftest"), Ok(Asked::Test(_))));
        for (line, part) in [
            ("ollama-gate statsu", "'status'"),
            ("ollama-gate reload --wiat", "'--wait'"),
            ("ollama-gate scale", "<N>"),
            ("ollama-gate scale 0", "'0'"),
            ("ollama-gate drain two", "'two'"),
            ("ollama-gate reload --canary-time 30s", "--canary"),
            ("ollama-gate reload --canary 1 --canary-time soon", "from 1s to 24h"),
            ("ollama-gate --workers 2 status", "status"),
            ("ollama-gate status --workers 2", "--workers"),
        ] {
            let said = asked(line).err().unwrap_or_else(|| panic!("{line}"));
            assert!(said.use_stderr() && said.to_string().contains(part), "{line}: {said}");
        }
    }
}
