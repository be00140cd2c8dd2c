//! The command `ollama-sim`: reads its arguments, listens, says where, and answers until it is killed.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ollama_sim::{Config, Model, Rule, Sim};
use tokio::net::{TcpListener, UnixListener};

const USAGE: &str = "\
A simulated Ollama, for demonstrations, tests and benchmarks.

Usage: ollama-sim [OPTIONS]

  --bind ADDRESS:PORT       where to listen (127.0.0.1:0, port 0 is any free one)
  --unix PATH               a Unix socket to listen on instead
  --personality demo|echo   a canned text, or the prompt echoed (demo)
  --token-rate N            tokens a second, 0 is as fast as possible (demo 25, echo 0)
  --models NAME,NAME        the models it has (llama3.2:1b)
  --capabilities WORD,WORD  what they can do: completion, tools, thinking, embedding,
                            insert (completion, tools, embedding)
  --slots N                 requests answered at once, for each model (4)
  --queue N                 requests that may wait for a slot (no bound)
  --memory N                models that fit in memory at once, 0 is no bound (0)
  --load-queue N            requests that may wait behind one that loads (512)
  --load-time TIME          how long a model takes to load, such as 2s or 300ms (0s)
  --load-ms N               the same in milliseconds
  --prompt-time TIME        how long a prompt takes before the first token (0s)
  --keep-alive TIME         how long a model stays loaded after its last request (5m)
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

/// Where to listen.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(out, "http://{address}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

/// What to do.
#[derive(Debug)]
enum Command {
    Help,
    Serve { place: Place, config: Box<Config> },
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        Ok(Command::Serve { place, config }) => match serve(&place, *config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("ollama-sim: {place}: {why}");
                ExitCode::FAILURE
            }
        },
        Err(why) => {
            eprintln!("ollama-sim: {why}");
            ExitCode::from(EX_USAGE)
        }
    }
}

fn serve(place: &Place, config: Config) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let sim = Sim::new(config);
        let forever = std::future::pending::<()>();
        match place {
            Place::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                announce(&Place::Tcp(listener.local_addr()?))?;
                sim.serve(listener, forever).await
            }
            Place::Unix(path) => {
                let listener = bind_unix(path)?;
                announce(place)?;
                sim.serve_unix(listener, forever).await
            }
        }
    })
}

/// Binds to a path; takes the place of a socket at which nobody listens any more.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(why) if why.kind() == ErrorKind::AddrInUse && is_left_over(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

fn is_left_over(path: &Path) -> bool {
    // Any other file refuses connections in the same words.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket());
    is_socket && UnixStream::connect(path).is_err_and(|why| why.kind() == ErrorKind::ConnectionRefused)
}

/// Says where it listens.
fn announce(place: &Place) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "ollama-sim on {place}")?;
    out.flush()
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Command, UsageError> {
    let mut place = Place::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut config = Config::demo();
    let mut token_rate = None;
    let mut load_time = Duration::ZERO;
    let (mut models, mut capabilities) = (None, None);
    while let Some(argument) = arguments.next() {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || inline.clone().or_else(|| arguments.next()).ok_or(UsageError::NoValue(name.clone()));
        match name.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--bind" => place = Place::Tcp(read("--bind", value()?, "ADDRESS:PORT with a numeric address")?),
            "--unix" => place = Place::Unix(value()?.into()),
            "--personality" => {
                let base = match value()?.as_str() {
                    "demo" => Config::demo(),
                    "echo" => Config::echo(),
                    other => return Err(bad("--personality", other, "demo or echo")),
                };
                (config.personality, config.token_rate) = (base.personality, base.token_rate);
            }
            "--token-rate" => token_rate = Some(read("--token-rate", value()?, "a whole number")?),
            "--models" => models = Some(names(&value()?)?),
            "--capabilities" => capabilities = Some(words(&value()?)?),
            "--slots" => config.slots = read("--slots", value()?, "a whole number above 0")?,
            "--queue" => config.queue = read("--queue", value()?, "a whole number")?,
            "--memory" => config.memory = read("--memory", value()?, "a whole number")?,
            "--load-queue" => config.load_queue = read("--load-queue", value()?, "a whole number")?,
            "--load-time" => load_time = time("--load-time", &value()?)?,
            "--prompt-time" => config.prompt_time = time("--prompt-time", &value()?)?,
            "--keep-alive" => config.keep_alive = time("--keep-alive", &value()?)?,
            "--load-ms" => load_time = Duration::from_millis(read("--load-ms", value()?, "a whole number")?),
            "--script" => config.script = script(value()?)?,
            _ => return Err(UsageError::Unknown(name)),
        }
    }
    config.token_rate = token_rate.unwrap_or(config.token_rate);
    let able = capabilities.unwrap_or_else(|| config.models[0].capabilities.clone());
    config.models = models.unwrap_or(config.models);
    for model in &mut config.models {
        model.load_time = load_time;
        model.capabilities.clone_from(&able);
    }
    Ok(Command::Serve { place, config: Box::new(config) })
}

fn read<T: std::str::FromStr>(option: &'static str, value: String, wanted: &'static str) -> Result<T, UsageError> {
    value.parse().map_err(|_| UsageError::BadValue { option, value, wanted })
}

fn time(option: &'static str, value: &str) -> Result<Duration, UsageError> {
    humantime::parse_duration(value).map_err(|_| bad(option, value, "a time such as 2s or 300ms"))
}

fn bad(option: &'static str, value: &str, wanted: &'static str) -> UsageError {
    UsageError::BadValue { option, value: value.to_owned(), wanted }
}

fn words(list: &str) -> Result<Vec<String>, UsageError> {
    let known = |word: &str| ["completion", "tools", "thinking", "embedding", "insert"].contains(&word);
    if !list.split(',').all(known) {
        return Err(bad("--capabilities", list, "a list of completion, tools, thinking, embedding and insert"));
    }
    Ok(list.split(',').map(str::to_owned).collect())
}

fn names(names: &str) -> Result<Vec<Model>, UsageError> {
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
        let Ok(Command::Serve { place, config }) = arguments(line) else { panic!("{line}") };
        assert_eq!(place, Place::Tcp("[::1]:80".parse().unwrap()));
        assert_eq!((config.personality, config.token_rate, config.queue), (Personality::Echo, 7, 0));
        assert_eq!(config.slots.get(), 2);
        let models: Vec<_> = config.models.iter().map(|model| (model.name.as_str(), model.load_time)).collect();
        assert_eq!(models, [("a", Duration::from_millis(5)), ("b:1", Duration::from_millis(5))]);
        let line = "--unix /tmp/s --memory 2 --load-queue 3 --load-time 1s --prompt-time 20ms --keep-alive 1h";
        let Ok(Command::Serve { place, config }) = arguments(line) else { panic!("{line}") };
        assert_eq!(place, Place::Unix("/tmp/s".into()));
        assert_eq!((config.memory, config.load_queue, config.models[0].load_time), (2, 3, Duration::from_secs(1)));
        assert_eq!((config.prompt_time, config.keep_alive), (Duration::from_millis(20), Duration::from_secs(3600)));
        let Ok(Command::Serve { config, .. }) = arguments("--capabilities embedding --models a,b") else { panic!() };
        assert!(config.models.iter().all(|model| model.capabilities == ["embedding"]), "{config:?}");
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
            ("--load-time 5", "--load-time 5: a time such as 2s or 300ms is wanted"),
            ("--personality=sad", "--personality sad: demo or echo is wanted"),
            (
                "--capabilities tools,flying",
                "--capabilities tools,flying: a list of completion, tools, thinking, embedding and insert is wanted",
            ),
            ("--models a,,b", "--models a,,b: one name or several with commas between is wanted"),
        ];
        for (line, wanted) in cases {
            assert_eq!(arguments(line).unwrap_err().to_string(), wanted, "{line}");
        }
        let why = arguments("--script /nonexistent/script").unwrap_err().to_string();
        assert!(why.starts_with("--script /nonexistent/script: "), "{why}");
    }
}
