//! The control socket of a running gate: what each request does and answers, and who is listened to.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::heirs::Installed;
use crate::identity::may_change;
use crate::orders::{Asked, Control, Running, reasons};
use crate::recycling::line_of;
use crate::scene::{Latch, backend, catches_up, gate_to, generate, is_gone, prompt, said, successor};
use crate::stream::{Stream, expected};
use crate::support::http::{Client, Request};
use crate::support::{Dir, gate, is_alive, wait_for};

fn reload() -> Value {
    json!({"command": "reload", "wait": true})
}

#[test]
fn a_reload_tells_what_has_changed_and_what_has_not() {
    let (backend, control) = (backend(0), Control::new());
    let config = format!("{}workers = 1\nbacklog = 100\n", control.key());
    let mut gate = gate_to(&backend, []).config(&config).start();
    let answer = control.ask(&reload());
    assert_eq!((&answer["generation"], &answer["changes"]), (&json!(2), &json!([])), "{answer}");
    gate.configure(&format!("{}workers = 2\nbacklog = 64\nlog_level = \"debug\"\n", control.key()));
    let answer = control.ask(&reload());
    assert_eq!((&answer["ok"], &answer["generation"]), (&json!(true), &json!(3)));
    let change =
        |key: &str, old: &str, new: &str, effect: &str| json!({"key": key, "old": old, "new": new, "effect": effect});
    let mut changes = answer["changes"].as_array().unwrap().clone();
    changes.sort_by_key(|change| change["key"].to_string());
    let wanted = [
        change("backlog", "100", "64", "needs an upgrade"),
        change("log_level", "info", "debug", "rolled out"),
        change("workers", "1", "2", "rolled out"),
    ];
    assert_eq!(changes, wanted);
    assert_eq!(gate.workers().len(), 2, "the answer comes when they serve");
    gate.configure(&config);
    control.run("reload --wait").did("generation 4 serves\n");
    control.run("reload").did("reload begun");
    gate.log_has("generation 5 serves");
}

#[test]
fn a_reload_that_is_refused_or_fails_gives_every_reason() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = gate_to(&backend, []).config(&format!("{}bind = \"127.0.0.1:0\"", control.key())).start();
    let workers = gate.workers();
    gate.configure(&format!("{}workers = \"many\"\nlimmit = \"1/minute\"\ntimeout = \"soon\"\n", control.key()));
    control.run("reload --wait").was_refused(1, &["workers = \"many\"", "limmit", "timeout = \"soon\""]);
    assert_eq!(control.status()["last_reload"]["reasons"].as_array().unwrap().len(), 3);
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = held.local_addr().unwrap();
    gate.configure(&format!("{}bind = [\"127.0.0.1:0\", \"{busy}\", \"192.0.2.1:80\"]", control.key()));
    control.run("reload --wait").was_refused(1, &[&busy.to_string(), "another process listens there", "192.0.2.1:80"]);
    gate.configure(&format!("{}access_log = \"/nonexistent/x\"", control.key()));
    control.run("reload --wait").was_refused(1, &["access_log: cannot append to /nonexistent/x"]);
    let last = &control.status()["last_reload"];
    assert_eq!((&last["ok"], &last["generation"]), (&json!(false), &json!(1)), "{last}");
    assert_eq!(gate.workers(), workers);
    catches_up(&mut gate);
    gate.configure(&control.key());
    control.run("reload --wait").did("serves\n");
}

#[test]
fn all_who_wait_get_the_answer_to_their_own_reload() {
    let (dir, backend, control) = (Dir::new(), backend(0), Control::new());
    let latch = Latch::new(dir.path("access"));
    let mut gate = gate_to(&backend, []).config(&control.key()).start();
    gate.configure(&format!("{}access_log = {:?}", control.key(), latch.path()));
    let mut first = control.begin(&reload());
    gate.has_workers(2);
    assert_eq!(control.status()["state"], "reloading");
    let mut later = [control.begin(&reload()), control.begin(&reload())];
    // One that does not stay for its answer.
    drop(control.begin(&reload()));
    catches_up(&mut gate);
    assert!(first.is_waiting() && later.iter_mut().all(Asked::is_waiting));
    let _open = latch.open();
    assert_eq!(first.answer()["generation"], 2);
    for later in later {
        assert_eq!(later.answer()["generation"], 3);
    }
    gate.signal(Signal::SIGTERM);
    assert_eq!(gate.ends_with_code(), 0);
    assert_eq!(said(&gate, "generation 4"), 0);
}

#[test]
fn nonsense_is_answered_with_what_would_be_right() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = gate_to(&backend, [&*control.flag()]).start();
    for (said, reason) in [
        (&b"hello\n"[..], "this is no JSON"),
        (b"\n", "this is no JSON"),
        (b"\xff\xfe\0\n", "this is no JSON"),
        (b"[1]\n", "this is JSON, but no object"),
        (b"{}\n", "a \"command\" is missing; there are status, reload, upgrade"),
        (b"{\"command\":\"statsu\"}\n", "no such command: \"statsu\""),
        (b"{\"command\":\"status\",\"v\":2}\n", "version 2 is not spoken here"),
        (b"{\"command\":\"scale\"}\n", "missing field `workers`"),
        (b"{\"command\":\"scale\",\"workers\":65}\n", "write a number of workers from 1 to 64, not 65"),
        (b"{\"command\":\"scale\",\"workers\":0}\n", "scale: "),
        (b"{\"command\":\"drain\",\"slot\":2}\n", "no worker serves in slot 2; there are 1"),
        (&[b'x'; 5000], "the request is longer than 4096 bytes"),
    ] {
        let answer = Asked::with(&control.path(), said).answer();
        assert!(reasons(&answer).contains(reason), "{reason}: {answer}");
    }
    let two = Asked::with(&control.path(), b"{\"command\":\"reopen\"}\n{\"command\":\"stop\"}\n").line();
    assert_eq!(two["ok"], true, "what follows the first line is not read");
    catches_up(&mut gate);
    assert_eq!(control.status()["state"], "serving");
    assert_eq!(gate.get("/healthz").status, 200);
}

#[test]
fn whoever_says_half_a_line_is_sent_away() {
    let (backend, control) = (backend(0), Control::new());
    let _gate = gate_to(&backend, [&*control.flag()]).start();
    let mut stream = UnixStream::connect(control.path()).unwrap();
    stream.write_all(b"{\"command\":\"status\"").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(std::io::read_to_string(stream).unwrap(), "");
    // And at the end of the master's patience.
    assert!(Asked::with(&control.path(), b"{\"command\":\"status\"").is_over());
    assert_eq!(control.status()["state"], "serving");
}

#[test]
fn whoever_has_said_all_there_is_may_close_that_side() {
    let (dir, backend, control) = (Dir::new(), backend(0), Control::new());
    let latch = Latch::new(dir.path("access"));
    let gate = gate_to(&backend, []).config(&control.key()).start();
    gate.configure(&format!("{}access_log = {:?}", control.key(), latch.path()));
    let mut stream = UnixStream::connect(control.path()).unwrap();
    stream.write_all(format!("{}\n", reload()).as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    gate.has_workers(2);
    let _open = latch.open();
    let answer = std::io::read_to_string(stream).unwrap();
    assert!(answer.contains("\"generation\":2"), "{answer:?}");
}

#[test]
fn visitors_beyond_those_that_are_let_in_wait_for_their_turn() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = gate_to(&backend, [&*control.flag()]).start();
    let mut inside: Vec<Asked> = (0..64).map(|_| Asked::with(&control.path(), b"{\"command\":")).collect();
    let mut outside = control.begin(&json!({"command": "status"}));
    for _ in 0..3 {
        catches_up(&mut gate);
        assert!(outside.is_waiting());
    }
    inside[7].say(b"\"status\"}\n");
    assert_eq!(inside.swap_remove(7).answer()["ok"], true);
    assert_eq!(outside.answer()["ok"], true);
    drop(inside);

    let crowd: Vec<_> = (0..150)
        .map(|_| {
            let path = control.path();
            std::thread::spawn(move || Asked::begin(&path, &json!({"command": "status"})).answer())
        })
        .collect();
    for visitor in crowd {
        assert_eq!(visitor.join().unwrap()["ok"], true);
    }
}

#[test]
fn only_the_owner_and_root_are_listened_to() {
    if !may_change() {
        return;
    }
    let (installed, backend, control) = (Installed::new(), backend(0), Control::new());
    let mut gate = gate_to(&backend, [&*control.flag()]).start();
    let mode = fs::metadata(control.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let stranger = |line: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(installed.path());
        Running::start(command.args(line.split(' ')).arg(control.flag())).said()
    };
    stranger("stop --wait").was_refused(77, &["ermission denied"]);
    // Should somebody have opened the file to all.
    fs::set_permissions(control.path(), fs::Permissions::from_mode(0o666)).unwrap();
    for line in ["status", "stop --wait", "reload --wait"] {
        stranger(line).was_refused(77, &["not permitted: the control socket is for the gate's own user and for root"]);
        let line = gate.log_has("control: refused to process");
        assert!(line.contains("of user 65534"), "{line}");
    }
    assert_eq!(control.status()["generation"], 1);
}

#[test]
fn its_place_is_kept_free_of_the_living_and_taken_from_the_dead() {
    let (backend, control) = (backend(0), Control::new());
    let mut first = gate_to(&backend, [&*control.flag()]).start();
    let mut second = gate_to(&backend, [&*control.flag()]).spawn();
    assert_eq!(second.ends_with_code(), 78);
    let log = second.log();
    assert!(log.contains("a running gate answers there; stop it, or name another file"), "{log}");
    assert_eq!(control.status()["pid"], first.pid().as_raw(), "the first one's is left alone");
    kill(first.pid(), Signal::SIGKILL).unwrap();
    first.ends();
    assert!(control.path().exists());
    let mut third = gate_to(&backend, [&*control.flag()]).start();
    assert_eq!(control.status()["pid"], third.pid().as_raw());
    third.signal(Signal::SIGTERM);
    assert_eq!(third.ends_with_code(), 0);
    assert!(!control.path().exists());

    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let mut fourth = gate_to(&backend, [&*control.flag(), "--bind", &address]).spawn();
    assert_eq!(fourth.ends_with_code(), 69);
    assert!(!control.path().exists(), "a start that fails leaves none");
    fs::write(control.path(), "precious").unwrap();
    let mut fifth = gate_to(&backend, [&*control.flag()]).spawn();
    assert_eq!(fifth.ends_with_code(), 78);
    assert_eq!(fs::read_to_string(control.path()).unwrap(), "precious");
}

#[test]
fn systemds_directory_is_the_default_and_no_obligation() {
    let (backend, control) = (backend(0), Control::new());
    let folder = control.path().parent().unwrap().display().to_string();
    let gate = gate_to(&backend, []).env("RUNTIME_DIRECTORY", &folder).start();
    assert_eq!(control.status()["pid"], gate.pid().as_raw());
    assert!(fs::metadata(control.path()).unwrap().file_type().is_socket());
    let mut other = gate_to(&backend, []).env("RUNTIME_DIRECTORY", &folder).start();
    assert_eq!(said(&other, "no control socket at"), 1, "nobody has asked for one");
    other.signal(Signal::SIGTERM);
    assert_eq!(other.ends_with_code(), 0);
    assert_eq!(control.status()["pid"], gate.pid().as_raw());
}

/// A stale socket file of somebody else's program counts as dead too.
#[test]
fn a_stale_file_is_replaced() {
    let (backend, control) = (backend(0), Control::new());
    drop(UnixListener::bind(control.path()).unwrap());
    let gate = gate_to(&backend, [&*control.flag()]).start();
    assert_eq!(control.status()["pid"], gate.pid().as_raw());
}

#[test]
fn workers_are_scaled_and_the_monitor_stays() {
    let (backend, control) = (backend(0), Control::new());
    let gate = gate_to(&backend, [&*control.flag()]).start();
    let monitor = gate.children("monitor");
    for (line, told, count) in [("scale 4", "1 -> 4", 4), ("scale 2", "4 -> 2", 2), ("scale 2", "2 -> 2", 2)] {
        control.run(line).did(&format!("workers: {told}\n"));
        gate.has_workers(count);
    }
    control.run("scale 65").was_refused(64, &["65 is not in 1..=64"]);
    let answer = control.ask(&json!({"command": "scale", "workers": 65}));
    assert_eq!(answer["reasons"], json!(["write a number of workers from 1 to 64, not 65"]));
    gate.signal(Signal::SIGWINCH);
    gate.has_workers(0);
    assert_eq!(control.status()["state"], "paused");
    control.run("scale 3").did("0 -> 3");
    gate.has_workers(3);
    assert_eq!(gate.children("monitor"), monitor);
    wait_for("an answer", || (gate.get("/healthz").status == 200).then_some(()));
}

#[test]
fn a_drained_worker_has_a_successor_first_and_goes_last() {
    let text = prompt(60);
    let wanted = expected(&text);
    let (backend, control) = (backend(40), Control::new());
    let mut gate = gate_to(&backend, [&*control.flag(), "--workers=2"]).start();
    let [old] = gate.children("worker 2")[..] else { panic!("one worker 2") };
    let other = gate.children("worker 1");
    let streams: Vec<Stream> = (0..8).map(|_| Stream::begin(gate.address(), &text)).collect();
    let mut command = control.start("drain 2 --wait");
    gate.log_has("worker 2 (");
    wait_for("a successor", || (gate.children("worker 2").len() == 2).then_some(()));
    assert!(command.is_running(), "it has streams to finish");
    for stream in streams {
        assert_eq!(stream.finish().unwrap(), wanted);
    }
    command.said().did(&format!("worker 2 ({old}) has left\n"));
    assert!(!is_alive(old));
    let new = successor(&gate, "worker 2", old);
    let ready = line_of(&gate, &format!("worker 2 ({new}) of generation 1 is ready"));
    assert!(ready < line_of(&gate, &format!("worker 2 ({old}) has left")));
    assert_eq!(gate.children("worker 1"), other);
    let slot = &control.status()["slots"][1];
    assert_eq!((&slot["restarts"], &slot["last_restart"]), (&json!(1), &json!("was drained by an operator")));
    control.run("drain 3").was_refused(1, &["no worker serves in slot 3; there are 2, numbered from 1"]);
    control.run("drain 2").did(&format!("worker 2 ({new}) is leaving\n"));
    is_gone(new);
}

#[test]
fn a_stop_is_over_when_everybody_is_gone() {
    let text = prompt(40);
    let wanted = expected(&text);
    let (backend, control) = (backend(40), Control::new());
    let mut gate = gate_to(&backend, [&*control.flag()]).start();
    let stream = Stream::begin(gate.address(), &text);
    let mut stop = control.start("stop --wait");
    gate.log_has("stopping: finishing what is in service");
    let status = control.ask(&json!({"command": "status"}));
    assert_eq!((&status["state"], &status["totals"]["streams"]), (&json!("stopping"), &json!(1)));
    for line in ["reload --wait", "upgrade --wait", "scale 2", "drain 1"] {
        control.run(line).was_refused(1, &["the gate is stopping"]);
    }
    assert!(stop.is_running());
    assert_eq!(stream.finish().unwrap(), wanted);
    stop.said().did("stopped\n");
    is_gone(gate.pid());
    assert_eq!(gate.ends_with_code(), 0);
    assert!(!control.path().exists());
}

#[test]
fn a_quick_stop_cuts_what_is_in_service() {
    let (backend, control) = (backend(40), Control::new());
    let mut gate = gate_to(&backend, [&*control.flag()]).start();
    let stream = Stream::begin(gate.address(), "@sim:endless");
    control.run("stop --wait --quick").did("stopped\n");
    assert_eq!(gate.ends_with_code(), 0);
    assert!(stream.was_ended());
}

#[test]
fn log_files_are_opened_anew() {
    let (dir, backend, control) = (Dir::new(), backend(0), Control::new());
    let [log, moved] = ["access", "access.1"].map(|name| dir.path(name));
    let lines = |path: &std::path::Path| fs::read_to_string(path).map_or(0, |text| text.lines().count());
    let gate = gate_to(&backend, [&*control.flag(), "--workers=2", "--access-log", log.to_str().unwrap()]).start();
    (0..10).for_each(|_| assert_eq!(gate.ask(&generate("hi")).status, 200));
    wait_for("ten lines", || (lines(&log) == 10).then_some(()));
    fs::rename(&log, &moved).unwrap();
    control.run("reopen").did("log files are opened anew\n");
    wait_for("the new file", || log.exists().then_some(()));
    wait_for("nobody to hold the old one", || {
        let held = moved.display().to_string();
        gate.workers().iter().all(|worker| !crate::proc::descriptors(*worker).contains(&held)).then_some(())
    });
    (0..10).for_each(|_| assert_eq!(gate.ask(&generate("hi")).status, 200));
    wait_for("ten more", || (lines(&log) == 10).then_some(()));
    assert_eq!(lines(&moved), 10);
}

/// The names in an object, in order.
fn names(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[track_caller]
fn has_every_field(status: &Value) {
    let all = [
        "backends",
        "deaths",
        "generation",
        "keys",
        "last_reload",
        "last_upgrade",
        "limiter",
        "listeners",
        "ok",
        "pid",
        "processes",
        "queue",
        "slots",
        "state",
        "store",
        "totals",
        "upgrade",
        "uptime_s",
        "v",
        "version",
        "workers_wanted",
    ];
    assert_eq!(names(status), all);
    assert_eq!(
        names(&status["totals"]),
        ["answers", "connections", "in_flight", "left", "limited", "requests", "streams"]
    );
    assert_eq!(names(&status["totals"]["answers"]), ["2xx", "3xx", "4xx", "5xx"]);
    let process = [
        "age_s",
        "beat_ms",
        "connections",
        "generation",
        "in_flight",
        "pid",
        "place",
        "requests",
        "role",
        "rss_bytes",
        "slot",
        "state",
        "streams",
    ];
    assert_eq!(names(&status["processes"][0]), process);
    assert_eq!(names(&status["slots"][0]), ["backoff_ms", "last_restart", "restarts", "slot"]);
    assert_eq!(names(&status["listeners"][0]), ["address", "backlog", "queue", "sockets"]);
    let backend = [
        "breaker",
        "breaker_ms",
        "in_flight",
        "listed",
        "loaded",
        "name",
        "slots",
        "state",
        "status",
        "url",
        "waiting",
    ];
    assert_eq!(names(&status["backends"][0]), backend);
    assert_eq!(names(&status["queue"]), ["length", "limit", "mean_service_ms", "oldest_ms"]);
    assert_eq!(names(&status["limiter"][0]), ["entries", "used", "window_s"]);
}

#[test]
fn a_status_has_every_field_and_counts_what_there_is() {
    let (backend, control) = (backend(40), Control::new());
    let gate =
        gate([&format!("--upstream={}", backend.url()), &control.flag(), "--workers=2", "--limit=10/minute"]).start();
    let address = gate.address();
    assert_eq!(gate.get("/nowhere").status, 404);
    let _streams: Vec<Stream> = (0..3).map(|_| Stream::begin(address, "@sim:endless")).collect();
    let stalled = json!({"model": "m", "prompt": "@sim:stall:before-head", "stream": false});
    let _waiting = [0, 1].map(|_| {
        let mut client = Client::connect(address);
        client.send(&Request::post("/api/generate", &stalled).bytes()).unwrap();
        client
    });
    let mut idle = Client::connect(address);
    assert_eq!(idle.ask(&generate("hi")).unwrap().status, 200);
    let load = json!({"in_flight": 5, "streams": 3, "connections": 6});
    let status = wait_for("the counts to settle", || {
        let status = control.status();
        let totals = &status["totals"];
        let seen = json!({"in_flight": totals["in_flight"], "streams": totals["streams"], "connections": totals["connections"]});
        (seen == load).then_some(status)
    });
    let totals = &status["totals"];
    assert_eq!(
        (&totals["requests"], &totals["limited"], &totals["left"]),
        (&json!(7), &json!(0), &json!(0)),
        "{totals}"
    );
    assert_eq!(totals["answers"]["4xx"], 1);
    let processes = status["processes"].as_array().unwrap();
    for count in ["requests", "in_flight", "streams", "connections"] {
        let sum: u64 = processes.iter().map(|process| process[count].as_u64().unwrap()).sum();
        assert_eq!(sum, totals[count].as_u64().unwrap(), "{count}");
    }
    let told: Vec<_> = processes.iter().map(|process| process["pid"].as_i64().unwrap() as i32).collect();
    assert!(gate.children("").iter().all(|child| told.contains(&child.as_raw())) && told.len() == 3);
    assert!(
        processes.iter().all(|process| process["state"] == "ready" && process["rss_bytes"].as_u64() > Some(1 << 20))
    );
    assert!(processes.iter().all(|process| process["beat_ms"].as_u64().is_some_and(|ms| ms < 20_000)));
    let used = status["limiter"].as_array().unwrap().iter().find(|window| window["window_s"] == 60);
    assert_eq!(used.unwrap()["used"], 1);
    let listener = &status["listeners"][0];
    assert_eq!((&listener["address"], &listener["sockets"]), (&json!(format!("http://{address}")), &json!(1)));
    let upstream = &status["backends"][0];
    assert_eq!((&upstream["name"], &upstream["url"]), (&json!("ollama-1"), &json!(backend.url())));
    assert_eq!((&upstream["breaker"], &upstream["breaker_ms"]), (&json!("closed"), &json!(null)));
    wait_for("a look at the backend", || (control.status()["backends"][0]["state"] == "healthy").then_some(()));
    assert_eq!((&status["version"], &status["workers_wanted"]), (&json!(env!("CARGO_PKG_VERSION")), &json!(2)));
    has_every_field(&status);
    let page = control.run("status");
    assert!(page.code == 0 && page.out.contains("worker 2"), "{page:?}");
    let line = control.run("status --json");
    has_every_field(&serde_json::from_str(&line.out).unwrap());
}

#[test]
fn a_status_tells_the_backends_of_the_configuration_that_serves() {
    let (first, second, control) = (backend(0), backend(0), Control::new());
    let tables = |tables: &[(&str, &str, u32)]| {
        let table = |(name, url, slots): &(&str, &str, u32)| {
            format!("[[upstream]]\nname = \"{name}\"\nurl = \"{url}\"\nslots = {slots}\n")
        };
        format!("{}queue = 7\n{}", control.key(), tables.iter().map(table).collect::<String>())
    };
    let told = || {
        let status = control.status();
        assert_eq!(status["queue"], json!({"length": 0, "limit": 7, "oldest_ms": null, "mean_service_ms": null}));
        let backends = status["backends"].as_array().unwrap().clone();
        backends.iter().map(|one| json!([one["name"], one["url"], one["slots"]])).collect::<Vec<_>>()
    };
    let gate = gate(["--limit=none"]).config(&tables(&[("a", &first.url(), 4)])).start();
    assert_eq!(told(), [json!(["a", first.url(), 4])]);
    gate.configure(&tables(&[("b", &second.url(), 2), ("a", &first.url(), 9)]));
    control.run("reload --wait").did("generation 2 serves\n");
    assert_eq!(told(), [json!(["b", second.url(), 2]), json!(["a", first.url(), 9])]);
    gate.configure(&tables(&[("b", &second.url(), 2)]));
    control.run("reload --wait").did("generation 3 serves\n");
    assert_eq!(told(), [json!(["b", second.url(), 2])]);
    let page = control.run("status");
    for part in ["BACKEND  STATE", "\nb ", &second.url(), "0 of at most 7 requests wait for a backend\n"] {
        assert!(page.out.contains(part), "{part:?} not in:\n{}", page.out);
    }
}
