//! Runs the real gate as real processes, each test in a directory and on ports of its own, and talks to it over plain
//! sockets. A test that fails prints the command line, the process tree, the configuration and the gate's log.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::format_push_string,
    clippy::missing_panics_doc,
    clippy::new_without_default,
    reason = "support of tests: a panic is how it reports, and each test binary uses a part of it"
)]

pub mod http;
pub mod sim;

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// How long anything may take before a test fails: far above what is ever needed, also with all tests in parallel on a
/// slow machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Looks until `found` finds something; the deadline's panic names what was waited for.
///
/// # Panics
/// After [`PATIENCE`].
#[track_caller]
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < until, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(2)); // bounded poll
    }
}

/// The binary under test: the one cargo built, or the one that `GATE_TEST_BINARY` names.
pub fn binary() -> PathBuf {
    std::env::var_os("GATE_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_ollama-gate").into(), PathBuf::from)
}

/// A directory of a test's own, removed at its end.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gate-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// How a gate is to be started.
pub struct Plan {
    arguments: Vec<String>,
    config: Option<String>,
    environment: Vec<(String, String)>,
    launcher: Vec<String>,
    stdin: Stdio,
}

/// Arguments for a gate; `--bind 127.0.0.1:0` is added unless a bind is among them.
pub fn gate<S: AsRef<str>>(arguments: impl IntoIterator<Item = S>) -> Plan {
    let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
    Plan { arguments, config: None, environment: Vec::new(), launcher: Vec::new(), stdin: Stdio::null() }
}

impl Plan {
    /// Writes this configuration file and passes it with `--config`.
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// Sets a variable for the gate.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has another program become the gate: it is given the gate's command line behind these words, and its pid stays.
    pub fn launched_by(mut self, words: &[&str]) -> Self {
        self.launcher = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// What it reads as its standard input; nothing otherwise.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Starts it, and does not wait for anything.
    pub fn spawn(self) -> Gate {
        let dir = Dir::new();
        let mut arguments = self.arguments;
        let config = dir.path("gate.toml");
        if let Some(text) = &self.config {
            fs::write(&config, text).unwrap();
            arguments.extend(["--config".into(), config.display().to_string()]);
        }
        let binds = arguments.iter().any(|argument| argument.starts_with("--bind") || argument == "-b")
            || self.config.as_ref().is_some_and(|text| text.contains("bind"));
        if !binds {
            arguments.extend(["--bind".into(), "127.0.0.1:0".into()]);
        }
        let log = dir.path("gate.log");
        let words: Vec<_> = self.launcher.iter().map(Into::into).chain([binary().into_os_string()]).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(&arguments).stdin(self.stdin);
        for name in std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("OLLAMA_")) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(fs::File::create(dir.path("gate.out")).unwrap()).stderr(fs::File::create(&log).unwrap());
        let child = command.spawn().expect("the gate's binary starts");
        Gate { child, dir, log, config, arguments, read: 0 }
    }

    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn start(self) -> Gate {
        let mut gate = self.spawn();
        gate.log_has("generation 1 serves");
        gate
    }
}

/// A running gate. Dropped, it is killed with all its processes; in a failing test it tells what it knows.
pub struct Gate {
    child: Child,
    dir: Dir,
    log: PathBuf,
    config: PathBuf,
    arguments: Vec<String>,
    /// Bytes of the log that earlier waits have consumed.
    read: usize,
}

impl Gate {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// What went to standard output.
    pub fn output(&self) -> String {
        fs::read_to_string(self.dir.path("gate.out")).unwrap_or_default()
    }

    /// Waits until a line behind those of earlier waits holds `text`; returns that line.
    #[track_caller]
    pub fn log_has(&mut self, text: &str) -> String {
        let (line, end) = wait_for(&format!("a log line with {text:?}"), || {
            let log = self.log();
            let tail = log.get(self.read..)?;
            let at = tail.find(text)?;
            let end = at + tail[at..].find('\n')? + 1;
            let start = tail[..at].rfind('\n').map_or(0, |newline| newline + 1);
            Some((tail[start..end].to_owned(), self.read + end))
        });
        self.read = end;
        line
    }

    /// The TCP address it listens on, from its log.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        wait_for("the address in the log", || {
            let log = self.log();
            let at = log.split("listening on http://").nth(1)?;
            at.lines().next()?.parse().ok()
        })
    }

    pub fn signal(&self, signal: Signal) -> &Self {
        signal::kill(self.pid(), signal).expect("the master takes a signal");
        self
    }

    /// Writes another configuration over the one it was started with.
    pub fn configure(&self, text: &str) -> &Self {
        fs::write(&self.config, text).unwrap();
        self
    }

    /// HUP, and the word that the next generation serves.
    #[track_caller]
    pub fn reload(&mut self) {
        self.signal(Signal::SIGHUP);
        self.log_has("serves with");
    }

    /// The master's children with this role in their title, by pid: `worker`, `worker 2`, `monitor`, `demo`.
    pub fn children(&self, role: &str) -> Vec<Pid> {
        children_of(self.pid(), role)
    }

    /// Workers of the moment.
    pub fn workers(&self) -> Vec<Pid> {
        self.children("worker")
    }

    /// Waits until there are `count` workers.
    #[track_caller]
    pub fn has_workers(&self, count: usize) -> Vec<Pid> {
        wait_for(&format!("{count} workers"), || Some(self.workers()).filter(|workers| workers.len() == count))
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ends(&mut self) -> ExitStatus {
        wait_for("the gate's end", || self.child.try_wait().unwrap())
    }

    /// The exit code it ends with.
    #[track_caller]
    pub fn ends_with_code(&mut self) -> i32 {
        self.ends().code().expect("it ends by itself")
    }

    /// A request on a connection of its own.
    #[track_caller]
    pub fn ask(&self, request: &http::Request) -> http::Answer {
        http::ask(self.address(), request)
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> http::Answer {
        self.ask(&http::Request::get(path))
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &serde_json::Value) -> http::Answer {
        self.ask(&http::Request::post(path, body))
    }

    fn story(&self) -> String {
        let mut story = format!("\n--- {} {}\n", binary().display(), self.arguments.join(" "));
        for pid in children_of(self.pid(), "") {
            let _infallible = writeln!(story, "    {pid} {}", title(pid));
        }
        if let Ok(config) = fs::read_to_string(&self.config) {
            let _infallible = writeln!(story, "--- configuration\n{config}");
        }
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(60)..];
        let _infallible = writeln!(story, "--- log\n{}", last.join("\n"));
        story
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.story());
        }
        let children = children_of(self.pid(), "");
        if let Ok(None) = self.child.try_wait() {
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
        for child in children {
            let _gone = signal::kill(child, Signal::SIGKILL);
        }
    }
}

/// Children of a process whose title begins with `ollama-gate: ROLE`.
pub fn children_of(parent: Pid, role: &str) -> Vec<Pid> {
    let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let pids = listed.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw);
    pids.filter(|pid| role.is_empty() || title(*pid).starts_with(&format!("ollama-gate: {role}"))).collect()
}

/// What `ps` shows.
pub fn title(pid: Pid) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = line.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// Whether a process is there and not a zombie.
pub fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// A path in the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
