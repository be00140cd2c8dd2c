//! What several tests need to begin with: backends, gates in front of them, addresses of their own, requests.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use ollama_sim::Config;
use serde_json::json;

use crate::support::http::Request;
use crate::support::sim::Backend;
use crate::support::{Gate, Plan, gate, is_alive, wait_for};

/// A prompt whose answer has about this many tokens.
pub(crate) fn prompt(tokens: usize) -> String {
    (0..tokens).map(|number| format!("word{number}")).collect::<Vec<_>>().join(" ")
}

/// A backend that repeats the prompt, this many tokens a second (0: at once), for any number of requests together.
pub(crate) fn backend(token_rate: u32) -> Backend {
    Backend::start(echo(token_rate))
}

pub(crate) fn echo(token_rate: u32) -> Config {
    Config { token_rate, slots: NonZeroUsize::new(256).unwrap(), ..Config::echo() }
}

/// A gate in front of it, without limits.
pub(crate) fn gate_to<'a>(backend: &Backend, arguments: impl IntoIterator<Item = &'a str>) -> Plan {
    let own = [&format!("--upstream={}", backend.url()), "--limit=none", "--api-limit=none"].map(ToOwned::to_owned);
    gate(own.into_iter().chain(arguments.into_iter().map(ToOwned::to_owned)))
}

pub(crate) fn generate(prompt: &str) -> Request {
    Request::post("/api/generate", &json!({"model": "m", "prompt": prompt}))
}

/// A free address that nobody else is given: on a loopback address of this test's own.
pub(crate) fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let test_run = (std::process::id() % 100) as u8;
    let host = Ipv4Addr::new(127, 100 + test_run, high, low);
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}

/// Whether somebody listens there.
pub(crate) fn is_open(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

#[track_caller]
pub(crate) fn is_gone(pid: Pid) {
    wait_for(&format!("the end of {pid}"), || (!is_alive(pid)).then_some(()));
}

/// Sends the signal once and waits for the end.
#[track_caller]
pub(crate) fn end(pid: Pid, signal: Signal) {
    kill(pid, signal).expect("it is there");
    is_gone(pid);
}

/// Waits until another process has the place of `old`; returns it.
#[track_caller]
pub(crate) fn successor(gate: &Gate, role: &str, old: Pid) -> Pid {
    wait_for(&format!("a successor of {role} {old}"), || match gate.children(role)[..] {
        [new] if new != old => Some(new),
        _ => None,
    })
}

/// How often the log says it so far.
pub(crate) fn said(gate: &Gate, text: &str) -> usize {
    gate.log().matches(text).count()
}

/// Waits until the master has worked off everything that was sent to it before.
#[track_caller]
pub(crate) fn catches_up(gate: &mut Gate) {
    gate.signal(Signal::SIGUSR1);
    gate.log_has("log files are opened again");
}

/// An access log whose opening takes until the test says so: whoever opens it for writing waits for a reader.
pub(crate) struct Latch(PathBuf);

impl Latch {
    pub(crate) fn new(path: PathBuf) -> Self {
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Waits until somebody opens it, and lets them.
    pub(crate) fn let_one_pass(&self) {
        drop(std::fs::File::open(&self.0).unwrap());
    }

    /// Lets everybody pass from now on, while the returned file lives.
    pub(crate) fn open(&self) -> std::fs::File {
        std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&self.0).unwrap()
    }

    /// Nobody can open it any more; those who wait go on waiting.
    pub(crate) fn remove(&self) {
        std::fs::remove_dir_all(self.0.parent().unwrap()).unwrap();
    }
}
