//! One gate under load: its program, which a test may replace, its configuration, its processes, and the story of what
//! was done to it, told when a test fails.
//!
//! Invariant: whoever belongs to the gate's process group is gone when the rig is.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use ollama_sim::Config;
use serde_json::{Value, json};

use crate::dice::{Dice, VARIABLE};
use crate::kernel::{self, Member};
use crate::ledger::{Failure, Ledger};
use crate::load::{CROWD, Crowd, Load, TOKEN_RATE};
use crate::support::sim::Backend;
use crate::support::{Dir, binary, wait_for};

/// Lines of the gate's log that a failing test shows.
const LOG_TAIL: usize = 80;

/// Lost requests that a failing test shows.
const LOST_SHOWN: usize = 12;

/// How long the control socket may take to answer: an upgrade of a slow machine.
const ANSWER_MAX: Duration = Duration::from_secs(40);

/// Serialises the tests of this binary: each is a load for a whole machine.
static TURN: Mutex<()> = Mutex::new(());

/// How the workers listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    ReusePort,
}

/// The workers that every gate begins with.
pub(crate) const WORKERS: usize = 3;

pub(crate) struct Rig {
    pub(crate) dice: Dice,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) backend: Backend,
    pub(crate) address: SocketAddr,
    load: Option<Load>,
    dir: Dir,
    mode: Mode,
    extra: String,
    first: Pid,
    began: Instant,
    story: Mutex<Vec<String>>,
    _turn: MutexGuard<'static, ()>,
}

fn backend(token_rate: u32) -> Backend {
    Backend::start(Config { token_rate, slots: NonZeroUsize::new(512).unwrap(), recorded: 0, ..Config::echo() })
}

impl Rig {
    /// A gate with the usual crowd before it.
    #[track_caller]
    pub(crate) fn start(mode: Mode, extra: &str) -> Self {
        Self::with(mode, extra, CROWD)
    }

    #[track_caller]
    pub(crate) fn with(mode: Mode, extra: &str, crowd: Crowd) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        kernel::adopt_orphans();
        let (dir, backend, dice) = (Dir::new(), backend(TOKEN_RATE), Dice::new());
        println!("{VARIABLE}={}", dice.seed);
        fs::create_dir_all(dir.path("bin")).unwrap();
        let mut rig = Self {
            dice,
            ledger: Arc::default(),
            backend,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            load: None,
            dir,
            mode,
            extra: extra.to_owned(),
            first: Pid::from_raw(0),
            began: Instant::now(),
            story: Mutex::default(),
            _turn: turn,
        };
        rig.install(&binary());
        rig.configure("");
        rig.launch();
        rig.address = wait_for("the address in the log", || {
            rig.log().split("listening on http://").nth(1)?.lines().next()?.parse().ok()
        });
        wait_for("the first generation", || rig.log().contains("generation 1 serves").then_some(()));
        let reference = self::backend(0);
        rig.load = Some(Load::start(rig.address, reference.address, &rig.ledger, crowd));
        rig
    }

    #[expect(clippy::zombie_processes, reason = "its end is collected with all others")]
    fn launch(&mut self) {
        let log = fs::File::options().append(true).create(true).open(self.path("gate.log")).unwrap();
        let mut command = Command::new(self.program());
        command.arg("--config").arg(self.path("gate.toml")).process_group(0);
        for name in std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("OLLAMA_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().expect("the gate's binary starts");
        self.first = Pid::from_raw(child.id().cast_signed());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path(name)
    }

    /// Where the program is that an upgrade starts.
    pub(crate) fn program(&self) -> PathBuf {
        self.path("bin/ollama-gate")
    }

    /// Puts a copy of this file there, in one step.
    pub(crate) fn install(&self, from: &std::path::Path) {
        let next = self.path("bin/next");
        fs::copy(from, &next).unwrap();
        fs::rename(next, self.program()).unwrap();
    }

    /// Writes the configuration; these lines, and the test's own, take the place of those with the same key.
    pub(crate) fn configure(&self, lines: &str) {
        let dir = self.path("");
        let base = format!(
            "upstream = \"{}\"\nbind = \"127.0.0.1:0\"\nworkers = {WORKERS}\nreuse_port = {}\nlimit = \"10/hour\"\n\
             api_limit = \"none\"\nboot_timeout = \"10s\"\nstream_timeout = \"30s\"\ngraceful_timeout = \"20s\"\n\
             pid = \"{dir}gate.pid\"\ncontrol = \"{dir}control.sock\"\n",
            self.backend.url(),
            self.mode == Mode::ReusePort,
            dir = dir.display(),
        );
        let key = |line: &str| line.split(" =").next().unwrap_or_default().to_owned();
        let own: Vec<&str> = self.extra.lines().chain(lines.lines()).collect();
        let replaced = |line: &&str| own.iter().any(|own| key(own) == key(line));
        let kept: Vec<&str> = base.lines().filter(|line| !replaced(line)).chain(own.iter().copied()).collect();
        fs::write(self.path("gate.toml.next"), kept.join("\n")).unwrap();
        fs::rename(self.path("gate.toml.next"), self.path("gate.toml")).unwrap();
    }

    /// Notes what is done, with the time.
    pub(crate) fn tell(&self, what: &str) {
        let at = self.began.elapsed();
        self.story.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{:8.3} s  {what}", at.as_secs_f64()));
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("gate.log")).unwrap_or_default()).into_owned()
    }

    /// How much the log says so far, to look behind it later.
    pub(crate) fn log_end(&self) -> usize {
        fs::metadata(self.path("gate.log")).map_or(0, |file| file.len() as usize)
    }

    /// Waits until a line behind `from` holds the text; gives the line.
    #[track_caller]
    pub(crate) fn log_has(&self, from: usize, text: &str) -> String {
        wait_for(&format!("a log line with {text:?}"), || {
            let log = self.log();
            log.get(from..)?.lines().find(|line| line.contains(text)).map(ToOwned::to_owned)
        })
    }

    /// The master that the pid file names.
    #[track_caller]
    pub(crate) fn master(&self) -> Pid {
        wait_for("a pid in the pid file", || {
            fs::read_to_string(self.path("gate.pid")).ok()?.trim().parse().ok().map(Pid::from_raw)
        })
    }

    /// Sends the master a signal, if it is still there.
    pub(crate) fn signal(&self, signal: Signal) {
        let master = self.master();
        self.tell(&format!("{signal} to the master {master}"));
        let _may_have_left = kill(master, signal);
    }

    /// Everybody of the gate who is alive.
    pub(crate) fn group(&self) -> Vec<Member> {
        kernel::group(self.first)
    }

    pub(crate) fn members(&self, role: &str) -> Vec<Pid> {
        let wanted = format!("ollama-gate: {role}");
        self.group().into_iter().filter(|member| member.title.starts_with(&wanted)).map(|member| member.pid).collect()
    }

    /// Asks over the control socket. Which gate answers is the kernel's choice while one takes over from the other.
    pub(crate) fn ask(&self, request: &Value) -> std::io::Result<Value> {
        let mut stream = UnixStream::connect(self.path("control.sock"))?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        serde_json::from_str(&line).map_err(|error| std::io::Error::other(format!("{error}: {line:?}")))
    }

    /// Asks, and notes the answer.
    #[track_caller]
    pub(crate) fn command(&self, request: &Value) -> Value {
        let answer = self.ask(request).unwrap_or_else(|error| panic!("{request}: {error}"));
        self.tell(&format!("{request}: {answer}"));
        answer
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        wait_for("a status", || self.ask(&json!({"command": "status"})).ok().filter(|status| status["ok"] == true))
    }

    /// Waits until nothing is under way and so many workers serve.
    #[track_caller]
    pub(crate) fn settles(&self, workers: usize) -> Value {
        let ready = |process: &&Value| process["role"] == "worker" && process["state"] == "ready";
        wait_for(&format!("{workers} workers that serve"), || {
            let status = self.status();
            let count = status["processes"].as_array()?.iter().filter(ready).count();
            (status["state"] == "serving" && count == workers).then_some(status)
        })
    }

    /// Waits for so many more answers.
    #[track_caller]
    pub(crate) fn goes_on(&self, more: u64) {
        let target = self.ledger.requests() + more;
        wait_for("more answers", || (self.ledger.requests() >= target).then_some(()));
    }

    /// Kills a process as nobody can refuse; what it held at that moment is excused.
    pub(crate) fn kill(&self, pid: Pid) {
        if self.stand_still(pid).is_some() {
            let _may_have_left = kill(pid, Signal::SIGKILL);
        }
    }

    /// Stops a process that is to be killed, by us or by its master; what it holds is excused.
    pub(crate) fn stand_still(&self, pid: Pid) -> Option<()> {
        kernel::stop(pid)?;
        let ports = kernel::peers(pid);
        self.tell(&format!("{pid} stands still, with {} connections", ports.len()));
        self.ledger.excuse(ports);
        Some(())
    }

    /// From here on connections may be refused, and no client begins anything new.
    pub(crate) fn let_up(&self) {
        if let Some(load) = &self.load {
            load.let_up();
        }
        self.ledger.end();
    }

    /// Waits until all clients are done, and gives how many were let down.
    pub(crate) fn quiet(&mut self) {
        if let Some(load) = self.load.take() {
            load.end();
        }
    }

    /// Nobody of the gate is left.
    #[track_caller]
    pub(crate) fn is_empty(&self) {
        wait_for("the end of everybody", || self.group().is_empty().then_some(()));
        assert!(!self.path("control.sock").exists(), "the control socket's file is left");
        assert!(!self.path("gate.pid").exists(), "the pid file is left");
    }

    /// Ends the load, and the gate if it is there. Panics unless every request is accounted for.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        if !self.ledger.is_ending() {
            let _status = self.settles(WORKERS);
            self.quiet();
            self.ledger.end();
            let master = self.master();
            self.signal(Signal::SIGTERM);
            kernel::ends_well(master);
        }
        self.quiet();
        self.is_empty();
        let balance = self.ledger.balance();
        let lost = balance.lost.len();
        println!(
            "{:?}: {} requests, {} streams, {} kills, {} excused, {lost} lost, {:.1} s",
            self.mode,
            balance.requests,
            balance.streams,
            balance.kills,
            balance.excused,
            self.began.elapsed().as_secs_f64()
        );
        assert!(balance.requests > 0 && balance.streams > 0, "there was a load");
        if lost > 0 {
            let shown: Vec<String> = balance.lost.iter().take(LOST_SHOWN).map(|failure| self.line(failure)).collect();
            panic!("{lost} lost:\n{}", shown.join("\n"));
        }
    }

    fn line(&self, failure: &Failure) -> String {
        let since = |at: Instant| at.saturating_duration_since(self.began).as_secs_f64();
        let connection = failure.connected.map_or_else(
            || "no connection".to_owned(),
            |(at, port)| format!("connected {:.3} s from port {port}", since(at)),
        );
        let Failure { client, what, begun, at, .. } = failure;
        format!("{:8.3} s  {client}: {what} ({connection}, begun {:.3} s)", since(*at), since(*begun))
    }

    fn report(&self) -> String {
        let mut text = format!("\n--- {VARIABLE}={} {:?}\n--- what was done\n", self.dice.seed, self.mode);
        for line in self.story.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _infallible = writeln!(text, "{line}");
        }
        for Member { pid, title } in self.group() {
            let _infallible = writeln!(text, "    {pid} {title}");
        }
        for failure in self.ledger.balance().lost.iter().take(LOST_SHOWN) {
            let _infallible = writeln!(text, "lost: {}", self.line(failure));
        }
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
        let _infallible = writeln!(text, "--- log\n{}", tail.join("\n"));
        text
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
            if let Some(kept) = std::env::var_os("GATE_CHAOS_KEEP_LOG") {
                let _kept = fs::copy(self.path("gate.log"), kept);
            }
        }
        if self.first.as_raw() > 0 {
            let _gone = killpg(self.first, Signal::SIGKILL);
        }
        self.quiet();
    }
}
