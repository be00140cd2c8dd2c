//! A real `redis-server` on a free port of loopback, which keeps nothing on disk and goes with the test.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Dir, wait_for};

/// An answer that takes longer is asked for again.
const ANSWER_MAX: Duration = Duration::from_secs(1);

pub(crate) struct Server {
    dir: Dir,
    port: u16,
    password: Option<&'static str>,
    child: Option<Child>,
}

impl Server {
    /// One that is not started yet; `None`, and a word why, where there is none to be started.
    pub(crate) fn find(password: Option<&'static str>) -> Option<Self> {
        let mut version = Command::new("redis-server");
        version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        if !version.status().is_ok_and(|status| status.success()) {
            eprintln!("skipped: no redis-server on this machine (Debian: apt-get install redis-server)");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Some(Self { dir: Dir::new(), port, password, child: None })
    }

    /// One that runs.
    pub(crate) fn start() -> Option<Self> {
        let mut server = Self::find(None)?;
        server.restart();
        Some(server)
    }

    /// Starts it again, with nothing in it.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.kill();
        wait_for(&format!("redis-server on port {}", self.port), || {
            // Somebody's connection may have the port for a moment: then it is gone at once.
            let has_ended = |child: &mut Child| child.try_wait().unwrap().is_some();
            if self.child.as_mut().is_none_or(has_ended) {
                self.child = Some(self.spawn());
            }
            (self.ask("PING").as_deref() == Some("+PONG")).then_some(())
        });
    }

    fn spawn(&self) -> Child {
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(self.dir.path(".")).stdin(Stdio::null()).stdout(Stdio::null());
        if let Some(password) = self.password {
            command.args(["--requirepass", password]);
        }
        command.spawn().unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    }

    /// As the gate wants it.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Counts that it has.
    #[track_caller]
    pub(crate) fn counts(&self) -> u64 {
        let size = self.ask("DBSIZE").expect("it answers");
        size.strip_prefix(':').and_then(|size| size.parse().ok()).unwrap_or_else(|| panic!("{size}"))
    }

    /// The first line of its answer.
    fn ask(&self, line: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        for line in self.password.map(|password| format!("AUTH {password}")).iter().map(String::as_str).chain([line]) {
            stream.write_all(format!("{line}\r\n").as_bytes()).ok()?;
            let answer = lines.next()?.ok()?;
            if answer != "+OK" {
                return Some(answer);
            }
        }
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
