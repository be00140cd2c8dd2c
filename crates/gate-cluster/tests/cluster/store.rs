//! A real `redis-server` on a free port of loopback, which keeps nothing on disk and goes with the test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than a start takes on a busy machine.
const START_MAX: Duration = Duration::from_secs(20);

pub(crate) struct Store {
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Store {
    /// Whether there is a server to be started.
    pub(crate) fn is_installed() -> bool {
        Command::new("redis-server")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    pub(crate) fn start(folder: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = free.local_addr().expect("a bound socket has an address").port();
        drop(free);
        let mut store = Self { folder: folder.to_owned(), port, child: None };
        store.restart();
        store
    }

    /// Starts it again, with nothing in it.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let port = self.port.to_string();
        let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let mut command = Command::new("redis-server");
        command.args(arguments).arg("--dir").arg(&self.folder).stdout(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server starts"));
        let began = Instant::now();
        while self.try_ask::<String>(&["PING"]).is_err() {
            assert!(began.elapsed() < START_MAX, "redis-server does not answer on port {port}");
            std::thread::sleep(Duration::from_millis(5)); // bounded poll
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it can be waited for");
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("it runs");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// How often it was asked by the gates so far.
    pub(crate) fn questions(&self) -> u64 {
        let stats: String = self.try_ask(&["INFO", "commandstats"]).expect("it answers");
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        calls.and_then(|rest| rest.split(',').next()).map_or(0, |calls| calls.parse().expect("a number"))
    }

    /// Counts that it knows of.
    pub(crate) fn counts(&self) -> u64 {
        let script = "return #redis.call('KEYS', 'test:3-*')";
        self.try_ask::<u64>(&["EVAL", script, "0"]).expect("it answers")
    }

    /// What gates gave back of the counts whose keys are like this.
    pub(crate) fn given_back(&self, keys: &str) -> u64 {
        let script = "local sum = 0
            for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
                local fields = redis.call('HGETALL', key)
                for i = 1, #fields, 2 do
                    if string.sub(fields[i], -1) == '-' then sum = sum + fields[i + 1] end
                end
            end
            return sum";
        self.try_ask::<u64>(&["EVAL", script, "0", keys]).expect("it answers")
    }

    fn try_ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut line = client.get_connection_with_timeout(Duration::from_secs(1))?;
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(word);
        }
        command.query(&mut line)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.kill();
    }
}
