//! Processes that die or hang, the master among them: who is replaced, who is left alone, what clients notice.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::orders::Control;
use crate::proc::server_of;
use crate::scene::{backend, end, gate_to, is_gone, prompt, said, successor};
use crate::stream::{Stream, expected};
use crate::support::http::Client;
use crate::support::{Gate, children_of, gate, wait_for};

/// Everybody but the worker in the middle.
fn others(gate: &Gate) -> Vec<Vec<Pid>> {
    ["worker 1", "worker 3", "monitor"].map(|role| gate.children(role)).to_vec()
}

#[test]
fn a_dead_worker_is_replaced_and_nobody_else() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, ["--workers", "3"]).start();
    let untouched = others(&gate);
    for signal in [Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGABRT]
    {
        let [old] = gate.children("worker 2")[..] else { panic!("one worker 2") };
        end(old, signal);
        let new = successor(&gate, "worker 2", old);
        gate.log_has(&format!("worker 2 ({old})"));
        gate.log_has(&format!("worker 2 ({new}) of generation 1 is ready"));
        assert_eq!(others(&gate), untouched, "{signal}");
        assert_eq!(gate.get("/healthz").status, 200);
    }
}

#[test]
fn streams_on_other_workers_go_on() {
    let backend = backend(50);
    let gate = gate_to(&backend, ["--workers", "3"]).start();
    let workers = gate.workers();
    let mut streams: Vec<Stream> = (0..9).map(|_| Stream::begin(gate.address(), "@sim:endless")).collect();
    let server = |stream: &Stream| server_of(stream.port(), &workers).expect("a worker serves it");
    let victim = server(&streams[0]);
    let mine: Vec<bool> = streams.iter().map(|stream| server(stream) == victim).collect();
    assert!(mine.contains(&false), "all on one worker");
    end(victim, Signal::SIGKILL);
    for (stream, mine) in streams.iter_mut().zip(mine) {
        if mine {
            wait_for("a cut stream", || stream.more().is_err().then_some(()));
        } else {
            (0..20).for_each(|_| assert!(stream.more().expect("this worker lives")));
        }
    }
}

#[test]
fn a_dead_monitor_is_replaced_and_the_gate_serves_on() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, []).start();
    let workers = gate.workers();
    wait_for("a healthy backend", || (gate.get("/readyz").status == 200).then_some(()));
    let [old] = gate.children("monitor")[..] else { panic!("one monitor") };
    end(old, Signal::SIGKILL);
    let new = successor(&gate, "monitor", old);
    assert_eq!(gate.get("/readyz").status, 200, "what it had seen is remembered");
    gate.log_has(&format!("monitor ({new}) of generation 1 is ready"));
    assert_eq!(gate.workers(), workers);
}

#[test]
fn a_dead_demo_is_replaced_and_answers_again() {
    let gate = gate(["--demo", "--workers", "2"]).start();
    let ask = || gate.post("/ollama_generate/", &json!({"prompt": "hi"})).status;
    assert_eq!(ask(), 200);
    let workers = gate.workers();
    let [old] = gate.children("demo")[..] else { panic!("one demo") };
    end(old, Signal::SIGKILL);
    successor(&gate, "demo", old);
    assert_eq!(ask(), 200);
    assert_eq!(gate.workers(), workers);
}

#[test]
fn a_hanging_worker_is_replaced_while_the_others_serve() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, ["--workers", "2", "--timeout", "1s"]).start();
    let [hanging, other] = gate.workers()[..] else { panic!("two workers") };
    kill(hanging, Signal::SIGSTOP).unwrap();
    wait_for("the hanging worker to be noticed", || {
        assert_eq!(gate.get("/healthz").status, 200);
        (said(&gate, "has not beaten within timeout") > 0).then_some(())
    });
    is_gone(hanging);
    let workers = gate.has_workers(2);
    assert!(workers.contains(&other) && !workers.contains(&hanging));
    gate.log_has("was ended by SIG");
    assert_eq!(said(&gate, "has not beaten within timeout"), 1, "the others beat");
}

#[test]
fn without_a_timeout_nobody_is_aborted() {
    let backend = backend(0);
    let gate = gate_to(&backend, ["--workers", "2", "--timeout", "0"]).start();
    let workers = gate.workers();
    kill(workers[0], Signal::SIGSTOP).unwrap();
    let until = Instant::now() + Duration::from_millis(1_500);
    wait_for("some time in which others would act", || {
        assert_eq!(gate.get("/healthz").status, 200);
        (Instant::now() > until).then_some(())
    });
    assert_eq!(gate.workers(), workers);
    kill(workers[0], Signal::SIGCONT).unwrap();
}

#[test]
fn a_worker_that_dies_again_and_again_is_forked_with_growing_pauses() {
    let backend = backend(0);
    let gate = gate_to(&backend, ["--log-level", "debug"]).start();
    let until = Instant::now() + Duration::from_secs(4);
    wait_for("the end of the killing", || {
        // A death of its own: whom somebody else kills, has a successor at once.
        gate.workers().into_iter().for_each(|worker| kill(worker, Signal::SIGSEGV).unwrap_or_default());
        (Instant::now() > until).then_some(())
    });
    // The first at once, then after 0.1, 0.2, 0.4 … seconds, less up to half of each.
    let forks = said(&gate, "worker 1 of generation 1 is forked");
    assert!((4..=10).contains(&forks), "{forks} forks in 4 seconds");
    gate.has_workers(1);
    assert_eq!(gate.get("/healthz").status, 200);
}

#[test]
fn whoever_is_killed_from_outside_is_replaced_at_once_however_often() {
    let (backend, control) = (backend(0), Control::new());
    let gate = gate_to(&backend, [&*control.flag()]).start();
    let [mut worker] = gate.workers()[..] else { panic!("one worker") };
    // With the pauses of a place that fails by itself, this would take minutes.
    for round in 1..=20 {
        wait_for("it to be ready", || (control.status()["processes"][1]["state"] == "ready").then_some(()));
        end(worker, Signal::SIGKILL);
        worker = successor(&gate, "worker", worker);
        let slot = &control.status()["slots"][0];
        assert_eq!((&slot["restarts"], &slot["backoff_ms"]), (&json!(round), &json!(0)));
        assert_eq!(slot["last_restart"], "was ended by SIGKILL: somebody else sent it KILL");
    }
    assert_eq!(gate.get("/healthz").status, 200);
}

/// The record of a death in the log, and the line that it stands in.
#[track_caller]
fn record(gate: &mut Gate, pid: Pid) -> (String, Value) {
    let line = gate.log_has(&format!("({pid}) was ended by"));
    let at = line.find("{\"time\"").expect("a record");
    (line[..at].to_owned(), serde_json::from_str(&line[at..]).expect("JSON up to the line's end"))
}

#[test]
fn a_death_leaves_one_line_that_says_all() {
    for (signal, name, cause) in [
        (Signal::SIGSEGV, "SIGSEGV", "it crashed, or somebody sent it that signal"),
        (Signal::SIGKILL, "SIGKILL", "somebody else sent it KILL"),
    ] {
        let (backend, control) = (backend(40), Control::new());
        let mut gate = gate_to(&backend, [&*control.flag()]).start();
        let [old] = gate.workers()[..] else { panic!("one worker") };
        let _stream = Stream::begin(gate.address(), "@sim:endless");
        kill(old, signal).unwrap();
        let (words, told) = record(&mut gate, old);
        assert!(
            words.contains(&format!(" error master[{}]: worker 1 ({old}) was ended by {name}", gate.pid())),
            "{words}"
        );
        assert!(words.contains(": it will be replaced; ") && words.contains(cause), "{words}");
        assert_eq!((&told["place"], &told["pid"]), (&json!("worker 1"), &json!(old.as_raw())));
        assert_eq!((&told["generation"], &told["in_flight"]), (&json!(1), &json!(1)));
        assert!(told["how"].as_str().unwrap().starts_with(&format!("was ended by {name}")), "{told}");
        assert!(told["cause"].as_str().unwrap().contains(cause), "{told}");
        assert!(told["uptime_s"].is_u64() && told["rss_bytes"].as_u64() > Some(1 << 20), "{told}");
        let in_service = told["in_service"].as_array().unwrap();
        assert!(
            in_service.len() == 1 && in_service[0].as_str().unwrap().starts_with("POST /api/generate for 0."),
            "{told}"
        );
        successor(&gate, "worker 1", old);
        let status = control.status();
        assert_eq!(status["deaths"], json!([told]), "status tells the same");
        assert_eq!((&status["totals"]["in_flight"], &status["totals"]["streams"]), (&json!(0), &json!(0)));
        assert_eq!(gate.log().matches("\"place\":").count(), 1);
    }
}

#[test]
fn a_hanging_workers_death_says_so() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = gate_to(&backend, [&*control.flag(), "--timeout=1s"]).start();
    let [hanging] = gate.workers()[..] else { panic!("one worker") };
    kill(hanging, Signal::SIGSTOP).unwrap();
    let (words, told) = record(&mut gate, hanging);
    assert!(words.contains("it showed no sign of life within timeout and was ended"), "{words}");
    assert_eq!(control.status()["deaths"], json!([told]));
}

/// A control group of memory below this process's own, of either version. Dropping it removes it.
struct Group(PathBuf);

impl Group {
    /// # Errors
    /// Why this machine does not let us.
    fn make(limit: &str) -> Result<Self, String> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let of = |line: &str| -> Option<PathBuf> {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
            let root = if controllers == "memory" { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" };
            let fits =
                controllers == "memory" || (controllers.is_empty() && Path::new(root).join("cgroup.procs").exists());
            fits.then(|| Path::new(root).join(path))
        };
        let own = groups.lines().find_map(of).ok_or("no memory control group is mounted here")?;
        let group = Self(own.join(format!("gate-deaths-test-{}", std::process::id())));
        fs::create_dir(&group.0).map_err(|error| format!("no control group can be made: {error}"))?;
        let set = |name: &str, value: &str| {
            let file = fs::OpenOptions::new().write(true).open(group.0.join(name));
            file.is_ok_and(|mut file| file.write_all(value.as_bytes()).is_ok())
        };
        let limited = ["memory.limit_in_bytes", "memory.max"].map(|name| set(name, limit)).contains(&true);
        let _swap = [set("memory.memsw.limit_in_bytes", limit), set("memory.swap.max", "0")];
        if limited { Ok(group) } else { Err("a new control group has no memory limit to set".to_owned()) }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(5);
        // The kernel holds it for a moment longer than its members.
        while fs::remove_dir(&self.0).is_err() && Instant::now() < until {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_death_for_want_of_memory_is_told_apart() {
    let group = match Group::make("50331648") {
        Ok(group) => group,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let backend = backend(0);
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
    let mut gate = gate_to(&backend, []).launched_by(&["sh", "-c", &enter, "sh"]).start();
    let [old] = gate.workers()[..] else { panic!("one worker") };
    // Bodies that never end: the worker holds what has come of them.
    let (head, part) =
        ("POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n", vec![b' '; 7_000_000]);
    let clients: Vec<Client> = (0..8)
        .map(|_| {
            let mut client = Client::connect(gate.address());
            // It may be dead before the last one has said all.
            let _cut = client.send(head.as_bytes()).and_then(|()| client.send(&part));
            client
        })
        .collect();
    let (words, told) = record(&mut gate, old);
    assert!(words.contains("the kernel killed it for memory (its cgroup's oom_kill count went up)"), "{words}");
    assert!(told["in_flight"].as_u64() > Some(0), "{told}");
    drop(clients);
    successor(&gate, "worker 1", old);
    wait_for("an answer", || (gate.get("/healthz").status == 200).then_some(()));
    drop(gate);
}

#[test]
fn nothing_outlives_the_master() {
    let gate = gate(["--workers", "3", "--demo"]).start();
    let (address, children) = (gate.address(), children_of(gate.pid(), ""));
    assert_eq!(children.len(), 5);
    kill(gate.pid(), Signal::SIGKILL).unwrap();
    children.into_iter().for_each(is_gone);
    wait_for("a free port", || TcpListener::bind(address).ok());
}

#[test]
fn orphaned_workers_finish_their_streams_first() {
    let text = prompt(40);
    let wanted = expected(&text);
    let backend = backend(40);
    let mut gate = gate_to(&backend, ["--workers", "2"]).start();
    let (address, children) = (gate.address(), children_of(gate.pid(), ""));
    let stream = Stream::begin(address, &text);
    let server = server_of(stream.port(), &children).unwrap();
    kill(gate.pid(), Signal::SIGKILL).unwrap();
    gate.log_has("the master is gone");
    wait_for("a free port", || TcpListener::bind(address).ok());
    assert!(crate::support::is_alive(server), "it has a stream to finish");
    assert_eq!(stream.finish().unwrap(), wanted);
    children.into_iter().for_each(is_gone);
}

#[test]
fn a_gate_that_was_told_to_ignore_its_children_still_notices_their_end() {
    let ignoring =
        "import os,signal,sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])";
    let mut gate = gate(["--workers", "2", "--demo"]).launched_by(&["python3", "-c", ignoring]).start();
    let before = gate.workers();
    kill(before[0], Signal::SIGKILL).unwrap();
    wait_for("a successor", || Some(gate.workers()).filter(|now| now.len() == 2 && *now != before));
    gate.signal(Signal::SIGTERM);
    assert_eq!(gate.ends_with_code(), 0);
}
