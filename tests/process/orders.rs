//! What an operator says to a running gate over its control socket: lines of their own, or by the command.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::{Dir, PATIENCE, binary, wait_for};

/// Where a gate is to listen for orders, in a directory of its own.
pub(crate) struct Control {
    dir: Dir,
    name: &'static str,
}

impl Control {
    pub(crate) fn new() -> Self {
        Self { dir: Dir::new(), name: "control.sock" }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path(self.name)
    }

    /// Another file beside the socket.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path(name)
    }

    /// As the gate and the commands want it.
    pub(crate) fn flag(&self) -> String {
        format!("--control={}", self.path().display())
    }

    /// The same in a configuration file.
    pub(crate) fn key(&self) -> String {
        format!("control = \"{}\"\n", self.path().display())
    }

    /// Says this, without waiting for the answer.
    #[track_caller]
    pub(crate) fn begin(&self, request: &Value) -> Asked {
        Asked::begin(&self.path(), request)
    }

    /// Says this; the answer.
    #[track_caller]
    pub(crate) fn ask(&self, request: &Value) -> Value {
        self.begin(request).answer()
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        let status = self.ask(&json!({"command": "status"}));
        assert_eq!(status["ok"], true, "{status}");
        status
    }

    /// Runs `ollama-gate LINE --control PATH` to its end.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> Said {
        self.start(line).said()
    }

    /// The same, without waiting.
    #[track_caller]
    pub(crate) fn start(&self, line: &str) -> Running {
        let mut command = Command::new(binary());
        command.args(line.split(' ')).arg(self.flag());
        Running::start(&mut command)
    }
}

/// A request that waits for its answer.
pub(crate) struct Asked(BufReader<UnixStream>);

impl Asked {
    #[track_caller]
    pub(crate) fn begin(path: &Path, request: &Value) -> Self {
        Self::with(path, format!("{request}\n").as_bytes())
    }

    /// Says these bytes, whatever they are.
    #[track_caller]
    pub(crate) fn with(path: &Path, bytes: &[u8]) -> Self {
        let mut stream = UnixStream::connect(path).expect("somebody listens for orders");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).expect("the gate reads");
        Self(BufReader::new(stream))
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("the gate reads");
    }

    /// Whether there is neither an answer nor an end yet.
    pub(crate) fn is_waiting(&mut self) -> bool {
        self.0.get_ref().set_nonblocking(true).unwrap();
        let waits = self.0.fill_buf().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        self.0.get_ref().set_nonblocking(false).unwrap();
        waits
    }

    /// The line that comes, and nothing behind it but the end.
    #[track_caller]
    pub(crate) fn answer(mut self) -> Value {
        let answer = self.line();
        assert!(self.is_over(), "one line is all");
        answer
    }

    /// The line that comes.
    #[track_caller]
    pub(crate) fn line(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Waits for the other side to close; whether it did so without a further byte. It may have left words of ours
    /// unread.
    pub(crate) fn is_over(&mut self) -> bool {
        let end = self.0.read(&mut [0]);
        matches!(end, Ok(0)) || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    }
}

/// The reasons in an answer, one a line.
pub(crate) fn reasons(answer: &Value) -> String {
    assert_eq!(answer["ok"], false, "{answer}");
    let reasons = answer["reasons"].as_array().expect("reasons");
    reasons.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

/// A command on its way.
pub(crate) struct Running(Option<std::process::Child>);

impl Running {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(command.spawn().expect("the command starts")))
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn said(mut self) -> Said {
        wait_for("the command's end", || (!self.is_running()).then_some(()));
        let child = self.0.take().expect("it was started");
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: status.code().expect("it ends by itself"), out: text(stdout), err: text(stderr) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// What a command said, and its exit code.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// It has done what it was asked for, and says so.
    #[track_caller]
    pub(crate) fn did(&self, text: &str) {
        assert!(self.code == 0 && self.out.contains(text) && self.err.is_empty(), "{text:?} in {self:?}");
    }

    /// It was refused for this.
    #[track_caller]
    pub(crate) fn was_refused(&self, code: i32, reasons: &[&str]) {
        let missing: Vec<_> = reasons.iter().filter(|reason| !self.err.contains(*reason)).collect();
        assert!(self.code == code && missing.is_empty(), "{missing:?} of {self:?}");
    }
}
