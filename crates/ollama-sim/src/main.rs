//! The command `ollama-sim`: reads its arguments, listens, says where, and answers until it is killed.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use ollama_sim::{Config, Model, Rule};
use tokio::net::TcpListener;

const USAGE: &str = "\
A simulated Ollama, for demonstrations, tests and benchmarks.

Usage: ollama-sim [OPTIONS]

  --bind ADDRESS:PORT       where to listen (127.0.0.1:0, port 0 is any free one)
  --personality demo|echo   a canned text, or the prompt echoed (demo)
  --token-rate N            tokens a second, 0 is as fast as possible (demo 25, echo 0)
  --models NAME,NAME        the models it has (llama3.2:1b)
  --slots N                 requests answered at once, for each model (4)
  --queue N                 requests that may wait for a slot (512)
  --load-ms N               how long a model takes to load (0)
  --script FILE             faults to play, a JSON list as for POST /sim/script
  --help                    this text
";

/// Bad usage, as `sysexits.h` numbers it.
const EX_USAGE: u8 = 64;

/// Why the arguments are no use.
#[derive(Debug)]
enum UsageError {
    Unknown(String),
    NoValue(String),
    BadValue { option: &'static str, value: String, wanted: &'static str },
    NoScript { path: String, why: io::Error },
    BadScript { path: String, why: serde_json::Error },
}

impl fmt::Display for UsageError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(out, "{name} is no option; try --help"),
            Self::NoValue(name) => write!(out, "{name} needs a value"),
            Self::BadValue { option, value, wanted } => write!(out, "{option} {value}: {wanted} is wanted"),
            Self::NoScript { path, why } => write!(out, "--script {path}: {why}"),
            Self::BadScript { path, why } => write!(out, "--script {path}: {why}"),
        }
    }
}

impl std::error::Error for UsageError {}

/// What to do.
#[derive(Debug)]
enum Command {
    Help,
    Serve { bind: SocketAddr, config: Box<Config> },
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        Ok(Command::Serve { bind, config }) => match serve(bind, *config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("ollama-sim: {bind}: {why}");
                ExitCode::FAILURE
            }
        },
        Err(why) => {
            eprintln!("ollama-sim: {why}");
            ExitCode::from(EX_USAGE)
        }
    }
}

fn serve(bind: SocketAddr, config: Config) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(bind).await?;
        let mut out = io::stdout().lock();
        writeln!(out, "ollama-sim on http://{}", listener.local_addr()?)?;
        out.flush()?;
        drop(out);
        ollama_sim::serve(listener, config, std::future::pending::<()>()).await
    })
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Command, UsageError> {
    let mut bind = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::demo();
    let mut token_rate = None;
    let mut load_time = Duration::ZERO;
    while let Some(argument) = arguments.next() {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || inline.clone().or_else(|| arguments.next()).ok_or(UsageError::NoValue(name.clone()));
        match name.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--bind" => bind = read("--bind", value()?, "ADDRESS:PORT with a numeric address")?,
            "--personality" => {
                let base = match value()?.as_str() {
                    "demo" => Config::demo(),
                    "echo" => Config::echo(),
                    other => return Err(bad("--personality", other, "demo or echo")),
                };
                (config.personality, config.token_rate) = (base.personality, base.token_rate);
            }
            "--token-rate" => token_rate = Some(read("--token-rate", value()?, "a whole number")?),
            "--models" => config.models = models(&value()?)?,
            "--slots" => config.slots = read("--slots", value()?, "a whole number above 0")?,
            "--queue" => config.queue = read("--queue", value()?, "a whole number")?,
            "--load-ms" => load_time = Duration::from_millis(read("--load-ms", value()?, "a whole number")?),
            "--script" => config.script = script(value()?)?,
            _ => return Err(UsageError::Unknown(name)),
        }
    }
    config.token_rate = token_rate.unwrap_or(config.token_rate);
    config.models.iter_mut().for_each(|model| model.load_time = load_time);
    Ok(Command::Serve { bind, config: Box::new(config) })
}

fn read<T: std::str::FromStr>(option: &'static str, value: String, wanted: &'static str) -> Result<T, UsageError> {
    value.parse().map_err(|_| UsageError::BadValue { option, value, wanted })
}

fn bad(option: &'static str, value: &str, wanted: &'static str) -> UsageError {
    UsageError::BadValue { option, value: value.to_owned(), wanted }
}

fn models(names: &str) -> Result<Vec<Model>, UsageError> {
    if names.split(',').any(str::is_empty) {
        return Err(bad("--models", names, "one name or several with commas between"));
    }
    Ok(names.split(',').map(Model::named).collect())
}

fn script(path: String) -> Result<Vec<Rule>, UsageError> {
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(why) => return Err(UsageError::NoScript { path, why }),
    };
    serde_json::from_slice(&text).map_err(|why| UsageError::BadScript { path, why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollama_sim::Personality;

    fn arguments(line: &str) -> Result<Command, UsageError> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_become_a_configuration() {
        let line = "--token-rate 7 --personality=echo --models a,b:1 --slots 2 --queue 0 --load-ms 5 --bind [::1]:80";
        let Ok(Command::Serve { bind, config }) = arguments(line) else { panic!("{line}") };
        assert_eq!(bind, "[::1]:80".parse().unwrap());
        assert_eq!((config.personality, config.token_rate, config.queue), (Personality::Echo, 7, 0));
        assert_eq!(config.slots.get(), 2);
        let models: Vec<_> = config.models.iter().map(|model| (model.name.as_str(), model.load_time)).collect();
        assert_eq!(models, [("a", Duration::from_millis(5)), ("b:1", Duration::from_millis(5))]);
        let Ok(Command::Serve { config, .. }) = arguments("") else { panic!("no arguments") };
        assert_eq!(*config, Config::demo());
    }

    #[test]
    fn bad_arguments_say_what_is_wanted() {
        let cases = [
            ("--nope", "--nope is no option; try --help"),
            ("--bind", "--bind needs a value"),
            ("--bind localhost", "--bind localhost: ADDRESS:PORT with a numeric address is wanted"),
            ("--slots 0", "--slots 0: a whole number above 0 is wanted"),
            ("--personality=sad", "--personality sad: demo or echo is wanted"),
            ("--models a,,b", "--models a,,b: one name or several with commas between is wanted"),
        ];
        for (line, wanted) in cases {
            assert_eq!(arguments(line).unwrap_err().to_string(), wanted, "{line}");
        }
        let why = arguments("--script /nonexistent/script").unwrap_err().to_string();
        assert!(why.starts_with("--script /nonexistent/script: "), "{why}");
    }
}
