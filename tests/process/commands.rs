//! The commands that ask a running gate, against a listener that answers as it is told: what they send, show and return.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use serde_json::{Value, json};

use crate::support::{Dir, binary, wait_for};

/// A control socket behind which every connection gets the same answer.
struct Control {
    dir: Dir,
    /// Requests as they came.
    asked: Receiver<Value>,
}

impl Control {
    fn answers(answer: &str) -> Self {
        Self::serve(answer, None)
    }

    /// After the answer, a connection stays open while the returned sender lives.
    fn answers_and_holds(answer: &str) -> (Self, Sender<()>) {
        let (hold, released) = mpsc::channel();
        (Self::serve(answer, Some(released)), hold)
    }

    fn serve(answer: &str, held: Option<Receiver<()>>) -> Self {
        let dir = Dir::new();
        let listener = UnixListener::bind(dir.path("control.sock")).unwrap();
        let (sender, asked) = mpsc::channel();
        let answer = answer.to_owned();
        // Ends with the test's process at the latest.
        thread::spawn(move || {
            for connection in listener.incoming() {
                let connection: UnixStream = connection.unwrap();
                let mut line = String::new();
                BufReader::new(&connection).read_line(&mut line).unwrap();
                // A client may have had enough of a long answer.
                let _closed = (&connection).write_all(answer.as_bytes());
                if sender.send(serde_json::from_str(&line).unwrap_or(Value::String(line))).is_err() {
                    return;
                }
                if let Some(held) = &held {
                    let _released = held.recv();
                }
            }
        });
        Self { dir, asked }
    }

    fn path(&self) -> PathBuf {
        self.dir.path("control.sock")
    }

    fn was_asked(&self) -> Value {
        wait_for("a request", || self.asked.try_recv().ok())
    }

    /// Runs `ollama-gate LINE --control PATH`.
    fn run(&self, line: &str) -> Said {
        let path = self.path().display().to_string();
        run(line.split(' ').chain(["--control", &path]), &[])
    }
}

/// What a command said, and its exit code.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn is(&self, code: i32, out: &str, errors: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (code, out), "{self:?}");
        let missing: Vec<_> = errors.iter().filter(|part| !self.err.contains(*part)).collect();
        assert!(missing.is_empty() && (self.err.is_empty() == errors.is_empty()), "{missing:?} of {self:?}");
    }
}

/// A command that runs.
struct Running {
    child: Child,
    dir: Dir,
}

impl Running {
    fn start<'a>(arguments: impl IntoIterator<Item = &'a str>, environment: &[(&str, &str)]) -> Self {
        let dir = Dir::new();
        let mut command = Command::new(binary());
        command.args(arguments).env_clear().envs(environment.iter().copied());
        command.stdout(File::create(dir.path("out")).unwrap()).stderr(File::create(dir.path("err")).unwrap());
        Self { child: command.spawn().unwrap(), dir }
    }

    #[track_caller]
    fn ends(&mut self) -> Said {
        let status = wait_for("the command's end", || self.child.try_wait().unwrap());
        let said = |name: &str| fs::read_to_string(self.dir.path(name)).unwrap();
        Said { code: status.code().unwrap(), out: said("out"), err: said("err") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[track_caller]
fn run<'a>(arguments: impl IntoIterator<Item = &'a str>, environment: &[(&str, &str)]) -> Said {
    Running::start(arguments, environment).ends()
}

const RELOADED: &str = r#"{"v":1,"ok":true,"generation":3,"changes":[
{"key":"limit","old":"10/minute","new":"20/minute","effect":"rolled out"},
{"key":"pid","old":"","new":"/run/x","effect":"needs an upgrade"}],"canary":"1 worker held for 30 s"}"#;

const STATUS: &str = r#"{"ok":true,"version":"0.1.0","pid":10,"uptime_s":61,"generation":3,"state":"paused",
"workers_wanted":0,"processes":[],"slots":[],"deaths":[],"listeners":[],"backends":[],
"queue":{"length":0,"limit":512,"oldest_ms":null,"mean_service_ms":null},"limiter":[],"totals":{"requests":7,
"in_flight":1,"streams":1,"connections":2,"answers":{"2xx":5,"3xx":0,"4xx":1,"5xx":0},"limited":1,"left":0},
"upgrade":null,"last_reload":null,"last_upgrade":null}"#;

#[test]
fn an_answer_is_shown_as_people_read_it() {
    let reload = json!({"v": 1, "command": "reload", "wait": true, "canary": {"workers": 1, "seconds": 60}});
    let changes = "limit: 10/minute -> 20/minute (rolled out)\npid: (empty) -> /run/x (needs an upgrade)\n\
                   canary: 1 worker held for 30 s\ngeneration 3 serves\n";
    let accepted = r#"{"ok":true,"accepted":true}"#;
    for (line, request, answer, out) in [
        ("reload --wait --canary 1 --canary-time 1m", reload, RELOADED, changes),
        (
            "reload",
            json!({"v": 1, "command": "reload", "wait": false}),
            accepted,
            "reload begun; `ollama-gate status` shows how it ends\n",
        ),
        (
            "reload --wait",
            json!({"v": 1, "command": "reload", "wait": true}),
            r#"{"ok":true,"generation":4,"changes":[]}"#,
            "the configuration is the same\ngeneration 4 serves\n",
        ),
        (
            "upgrade --wait --fresh-zone",
            json!({"v": 1, "command": "upgrade", "wait": true, "fresh_zone": true}),
            r#"{"ok":true,"pid":4711,"version":"0.2.0"}"#,
            "version 0.2.0 serves as pid 4711\n",
        ),
        (
            "scale 4",
            json!({"v": 1, "command": "scale", "workers": 4}),
            r#"{"ok":true,"workers":4,"before":2}"#,
            "workers: 2 -> 4\n",
        ),
        ("stop --quick", json!({"v": 1, "command": "stop", "wait": false, "quick": true}), accepted, "stopping\n"),
        ("reopen", json!({"v": 1, "command": "reopen"}), r#"{"ok":true}"#, "log files are opened anew\n"),
        (
            "drain 2",
            json!({"v": 1, "command": "drain", "slot": 2, "wait": false}),
            r#"{"ok":true,"pid":123}"#,
            "worker 2 (123) is leaving\n",
        ),
        (
            "drain 2 --wait",
            json!({"v": 1, "command": "drain", "slot": 2, "wait": true}),
            r#"{"ok":true,"pid":123}"#,
            "worker 2 (123) has left\n",
        ),
    ] {
        let control = Control::answers(&format!("{}\n", answer.replace('\n', "")));
        control.run(line).is(0, out, &[]);
        assert_eq!(control.was_asked(), request, "{line}");
    }
}

#[test]
fn a_status_is_a_page_or_the_line_as_it_came() {
    let line = format!("{}\n", STATUS.replace('\n', " "));
    let control = Control::answers(&line);
    control.run("status --json").is(0, &line, &[]);
    assert_eq!(control.was_asked(), json!({"v": 1, "command": "status"}));
    let page = control.run("status");
    assert!(page.out.starts_with("ollama-gate 0.1.0, pid 10, up 1 min, generation 3, paused, 0 workers"), "{page:?}");
    assert_eq!((page.code, page.err.as_str()), (0, ""));
}

#[test]
fn a_refusal_gives_every_reason() {
    let control = Control::answers("{\"ok\":false,\"reasons\":[\"one\",\"two\\u001b[2J\"]}\n");
    let said = control.run("reload --wait");
    said.is(1, "", &["ollama-gate reload: one\n", "ollama-gate reload: two\u{fffd}[2J\n"]);
    let said = control.run("status --json");
    said.is(1, "{\"ok\":false,\"reasons\":[\"one\",\"two\\u001b[2J\"]}\n", &["status: one"]);
    let reason = "not permitted: the control socket is for the gate's own user and for root";
    let control = Control::answers(&format!("{{\"ok\":false,\"reasons\":[{reason:?}]}}\n"));
    control.run("stop --wait").is(77, "", &[reason]);
}

#[test]
fn a_stop_is_over_when_the_gate_is_gone() {
    let (control, hold) = Control::answers_and_holds("{\"ok\":true,\"accepted\":true}\n");
    let path = control.path().display().to_string();
    let mut stop = Running::start(["stop", "--wait", "--control", &path], &[]);
    assert_eq!(control.was_asked(), json!({"v": 1, "command": "stop", "wait": true, "quick": false}));
    assert_eq!(stop.child.try_wait().unwrap(), None);
    drop(hold);
    stop.ends().is(0, "stopped\n", &[]);
}

#[test]
fn where_nobody_answers_the_remedy_is_told() {
    let dir = Dir::new();
    let nowhere = dir.path("none.sock").display().to_string();
    let left_behind = dir.path("left.sock").display().to_string();
    drop(UnixListener::bind(&left_behind).unwrap());
    for (command, twin) in [
        ("status", "ps "),
        ("reload", "kill -HUP PID"),
        ("upgrade", "kill -USR2 PID"),
        ("scale 3", "kill -TTIN PID"),
        ("stop", "kill -TERM PID"),
        ("stop --quick", "kill -QUIT PID"),
        ("reopen", "kill -USR1 PID"),
        ("drain 1", "kill -TERM"),
    ] {
        for (path, why) in [(&nowhere, "No such file"), (&left_behind, "refused")] {
            let said = run(command.split(' ').chain(["--control", path]), &[]);
            said.is(69, "", &[path, "from --control", why, "--control PATH", twin]);
        }
    }
}

#[test]
fn the_socket_is_found_in_the_environment_and_the_file() {
    let control = Control::answers("{\"ok\":true}\n");
    let path = control.path().display().to_string();
    let folder = path.strip_suffix("/control.sock").unwrap();
    let file = control.dir.path("gate.toml").display().to_string();
    fs::write(&file, format!("workers = 2\ncontrol = {path:?}\n")).unwrap();
    let done = "log files are opened anew\n";
    run(["reopen"], &[("OLLAMA_GATE_CONTROL", &path)]).is(0, done, &[]);
    run(["reopen", "-c", &file], &[]).is(0, done, &[]);
    run(["reopen", "--config", &file], &[("RUNTIME_DIRECTORY", "/nonexistent")]).is(0, done, &[]);
    run(["reopen"], &[("RUNTIME_DIRECTORY", folder)]).is(0, done, &[]);
    fs::write(&file, format!("limmit = 1\ncontrol = {path:?}\nworkers = 2 3\n")).unwrap();
    run(["reopen", "-c", &file], &[]).is(0, done, &[]);
    run(["reopen", "-c", "/nonexistent/x.toml"], &[]).is(78, "", &["cannot be read"]);
}

#[test]
fn a_strange_answer_is_no_success() {
    for (answer, code, why) in [
        ("", 1, "closed the connection without an answer"),
        ("{\"ok\":true", 70, "cut short"),
        ("no json\n", 70, "this is no JSON"),
        ("{\"ok\":true}\n", 70, "missing field"),
        ("{\"v\":2,\"ok\":true}\n", 70, "version 2"),
        (&format!("{}\n", "x".repeat(2 << 20)), 70, "too long"),
    ] {
        Control::answers(answer).run("scale 4").is(code, "", &[why]);
    }
}

#[test]
fn a_command_that_cannot_be_parsed_is_a_usage_error() {
    for (line, parts) in [
        ("statsu", ["'statsu'", "'status'"]),
        ("reload --wiat", ["'--wiat'", "'--wait'"]),
        ("scale none", ["'none'", "<N>"]),
        ("drain 0", ["'0'", "<SLOT>"]),
        ("--demo status", ["status", "--demo"]),
    ] {
        run(line.split(' '), &[]).is(64, "", &parts);
    }
    for command in ["status", "reload", "upgrade", "scale", "stop", "reopen", "drain", "selftest"] {
        let help = run([command, "--help"], &[]);
        assert!(help.out.contains(&format!("Example: ollama-gate {command}")), "{help:?}");
        assert_eq!(help.code, 0);
    }
}
