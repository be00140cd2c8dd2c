//! Another binary takes over: what it is, what it inherits, and what it leaves alone when it cannot.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::heirs::{Heir, Installed, OLDER, candidate, upgrade};
use crate::load::{Load, MIXED};
use crate::orders::{Control, reasons};
use crate::proc::listening;
use crate::scene::{Latch, backend, catches_up, gate_to, generate, is_gone, is_open, own_address, prompt, said};
use crate::stream::{Stream, expected};
use crate::support::http::{Request, ask};
use crate::support::sim::Backend;
use crate::support::{Dir, Gate, Plan, children_of, gate, is_alive, wait_for};

const MODES: [&str; 2] = ["--reuse-port=false", "--reuse-port=true"];

/// A gate with limits in front of the backend.
fn limited(backend: &Backend, limit: &str) -> Plan {
    gate([format!("--upstream={}", backend.url()), format!("--api-limit={limit}")])
}

/// How many of these requests are let through.
fn admitted(address: SocketAddr, count: usize) -> usize {
    let statuses = (0..count).map(|_| ask(address, &generate("hi")).status);
    statuses.inspect(|status| assert!([200, 429].contains(status), "{status}")).filter(|status| *status == 200).count()
}

/// The gate that was upgraded has left as it should.
#[track_caller]
fn retires(gate: &mut Gate) {
    assert_eq!(gate.ends_with_code(), 0);
}

/// Somebody who looks again and again, until told to stop.
struct Watch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Watch {
    /// Panics in its thread when `look` does; tells at the end.
    fn begin(look: impl Fn() + Send + 'static) -> Self {
        let over = Arc::<AtomicBool>::default();
        let told = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut looks = 0;
            while !told.load(Ordering::Relaxed) {
                look();
                looks += 1;
            }
            looks
        });
        Self { over, thread }
    }

    #[track_caller]
    fn saw_nothing_wrong(self) {
        self.over.store(true, Ordering::Relaxed);
        assert!(self.thread.join().expect("nothing was wrong") > 0);
    }
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("the file is there").ino()
}

fn first_line(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

#[test]
fn the_installed_binary_takes_over_however_the_gate_was_called() {
    let backend = backend(0);
    for call in [
        "exec {folder}gate",
        "cd {folder}; exec ./gate",
        "cd {folder}/..; exec {name}/gate",
        "PATH={folder}:$PATH; exec gate",
    ] {
        let (installed, control) = (Installed::new(), Control::new());
        let folder = installed.folder();
        let name = folder.file_name().unwrap().to_str().unwrap();
        let call = call.replace("{folder}", folder.to_str().unwrap()).replace("{name}", name);
        let script = format!("shift; {call} \"$@\"");
        let plan = gate_to(&backend, [&*control.flag(), "--workers=2"]);
        let mut gate = plan.launched_by(&["sh", "-c", &script, "sh"]).start();
        installed.downgrade();
        let old = gate.pid();
        let said = control.run("upgrade --wait");
        let heir = candidate(&mut gate);
        let status = control.status();
        said.did(&format!("version {OLDER} serves as pid {}\n", heir.pid()));
        assert_ne!(heir.pid(), old);
        assert_eq!((&status["pid"], &status["version"]), (&json!(heir.pid().as_raw()), &json!(OLDER)), "{call}");
        assert_eq!(heir.file(), installed.path(), "{call}");
        assert_eq!(heir.has_workers(2).len(), 2, "the arguments are the same");
        retires(&mut gate);
        assert_eq!(gate.get("/healthz").status, 200);

        installed.put_back();
        heir.signal(Signal::SIGUSR2);
        let second = candidate(&mut gate);
        is_gone(heir.pid());
        let status = control.status();
        assert_eq!((status["pid"].as_i64(), &status["version"]), (Some(second.pid().as_raw().into()), &json!("0.1.0")));
        assert_eq!(status["last_upgrade"]["ok"], true);
        assert_eq!(gate.get("/healthz").status, 200);
        second.stops();
    }
}

#[test]
fn counts_go_on_and_so_does_the_environment() {
    let (backend, control) = (backend(0), Control::new());
    let plan = gate([format!("--upstream={}", backend.url()), control.flag()]);
    let mut gate = plan.env("OLLAMA_GATE_API_LIMIT", "10/minute").start();
    let address = gate.address();
    assert_eq!(admitted(address, 4), 4);
    let heir = upgrade(&control);
    retires(&mut gate);
    assert_eq!(admitted(address, 3), 3);
    let second = upgrade(&control);
    is_gone(heir.pid());
    assert_eq!(admitted(address, 5), 3, "ten of all");
    let totals = &control.status()["totals"];
    assert_eq!((&totals["requests"], &totals["limited"]), (&json!(12), &json!(2)), "{totals}");
    second.stops();
}

#[test]
fn a_fresh_zone_counts_afresh() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = limited(&backend, "3/minute").config(&control.key()).start();
    let address = gate.address();
    assert_eq!(admitted(address, 5), 3);
    control.run("upgrade --wait --fresh-zone").did("serves as pid");
    let heir = candidate(&mut gate);
    retires(&mut gate);
    assert_eq!(admitted(address, 5), 3);
    heir.stops();
}

#[test]
fn the_number_of_workers_that_was_asked_for_stays() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = gate_to(&backend, [&*control.flag(), "--workers=1"]).start();
    control.run("scale 3").did("1 -> 3");
    gate.has_workers(3);
    gate.signal(Signal::SIGTTIN);
    gate.has_workers(4);
    let heir = upgrade(&control);
    heir.has_workers(4);
    retires(&mut gate);
    assert_eq!(control.status()["workers_wanted"], 4);
    heir.signal(Signal::SIGWINCH);
    heir.has_workers(0);
    let second = upgrade(&control);
    is_gone(heir.pid());
    let status = control.status();
    assert_eq!((&status["state"], &status["workers_wanted"]), (&json!("paused"), &json!(0)));
    assert_eq!((second.workers().len(), second.children("monitor").len()), (0, 1));
    second.signal(Signal::SIGTTIN);
    second.has_workers(4);
    assert_eq!(gate.get("/healthz").status, 200);
    second.stops();
}

#[test]
fn what_is_said_to_the_old_gate_meanwhile_holds_for_the_new_one() {
    let (dir, backend, control) = (Dir::new(), backend(0), Control::new());
    let latch = Latch::new(dir.path("access"));
    let mut gate = gate_to(&backend, []).config(&control.key()).start();
    gate.configure(&format!("{}access_log = {:?}", control.key(), latch.path()));
    let mut asked = control.begin(&json!({"command": "upgrade", "wait": true}));
    let heir = candidate(&mut gate);
    heir.has_workers(1);
    let status = control.status();
    assert_eq!((&status["state"], &status["upgrade"]["pid"]), (&json!("upgrading"), &json!(heir.pid().as_raw())));
    gate.configure(&format!("{}log_level = \"debug\"", control.key()));
    gate.signal(Signal::SIGTTIN).signal(Signal::SIGHUP);
    catches_up(&mut gate);
    assert!(asked.is_waiting());
    assert_eq!(gate.get("/healthz").status, 200);
    let _open = latch.open();
    assert_eq!(asked.line()["pid"], heir.pid().as_raw());
    retires(&mut gate);
    gate.log_has("generation 3 serves with 2 workers");
    heir.has_workers(2);
    assert!(
        heir.workers()
            .iter()
            .all(|worker| !crate::proc::descriptors(*worker).contains(&latch.path().display().to_string()))
    );
    heir.stops();
}

#[test]
fn files_follow_the_gate_that_serves() {
    let (backend, control) = (backend(0), Control::new());
    let (pid_file, moved) = (control.beside("gate.pid"), control.beside("moved.pid"));
    let config = |pid: &Path, control: &Path| format!("pid = {pid:?}\ncontrol = {control:?}\n");
    let mut gate = gate_to(&backend, []).config(&config(&pid_file, &control.path())).start();
    let (own, control_own) = (inode(&pid_file), inode(&control.path()));
    let heir = upgrade(&control);
    retires(&mut gate);
    assert_eq!((inode(&pid_file), inode(&control.path())), (own, control_own));
    assert_eq!(first_line(&pid_file), heir.pid().to_string());

    let elsewhere = Control::new();
    gate.configure(&config(&moved, &elsewhere.path()));
    let second = upgrade(&control);
    is_gone(heir.pid());
    assert_eq!(first_line(&moved), second.pid().to_string());
    assert_eq!(elsewhere.status()["pid"], second.pid().as_raw());
    wait_for("the old files to go", || (!pid_file.exists() && !control.path().exists()).then_some(()));
    assert_eq!(control.run("status").code, 69);
    second.stops();
    assert!(!moved.exists() && !elsewhere.path().exists());
}

#[test]
fn files_of_a_candidate_that_fails_go_with_it() {
    let (backend, control, elsewhere) = (backend(0), Control::new(), Control::new());
    let pid_file = control.beside("gate.pid");
    let config = |control: &Control| format!("pid = {:?}\n{}", control.beside("gate.pid"), control.key());
    let mut gate = gate_to(&backend, []).config(&config(&control)).start();
    let bind = format!("bind = [\"127.0.0.1:0\", \"unix:{}\"]", elsewhere.beside("gate.sock").display());
    gate.configure(&format!("{}{bind}\naccess_log = \"/nonexistent/x\"", config(&elsewhere)));
    control.run("upgrade --wait").was_refused(1, &["access_log: cannot append to /nonexistent/x"]);
    for name in ["gate.pid", "control.sock", "gate.sock"] {
        assert!(!elsewhere.beside(name).exists(), "{name}");
    }
    assert_eq!(first_line(&pid_file), gate.pid().to_string());
    assert_eq!(control.status()["pid"], gate.pid().as_raw());
    gate.signal(Signal::SIGTERM);
    retires(&mut gate);
    assert!(!pid_file.exists() && !control.path().exists());
}

#[test]
fn nobody_is_turned_away_from_the_control_socket() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = gate_to(&backend, [&*control.flag()]).start();
    let path = control.path();
    let watch = Watch::begin(move || {
        let answer = crate::orders::Asked::begin(&path, &json!({"command": "status"})).answer();
        assert_eq!(answer["ok"], true, "{answer}");
    });
    let first = upgrade(&control);
    retires(&mut gate);
    let second = upgrade(&control);
    is_gone(first.pid());
    watch.saw_nothing_wrong();
    second.stops();
}

#[test]
fn a_visitor_of_the_old_gate_may_still_speak() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = gate_to(&backend, [&*control.flag()]).start();
    let mut slow = crate::orders::Asked::with(&control.path(), b"{\"command\":");
    control.status();
    let heir = upgrade(&control);
    slow.say(b"\"status\"}\n");
    assert_eq!(slow.answer()["ok"], true);
    retires(&mut gate);
    heir.stops();
}

#[test]
fn sockets_are_kept_closed_and_opened_as_the_new_configuration_says() {
    let (dir, backend, control) = (Dir::new(), backend(0), Control::new());
    let [kept, dropped, new] = ["kept", "dropped", "new"].map(|name| dir.path(name));
    let [tcp_dropped, tcp_new] = [own_address(), own_address()];
    let config = |sockets: [&Path; 2], tcp: SocketAddr| {
        let [one, other] = sockets.map(|path| format!("\"unix:{}\"", path.display()));
        format!("{}workers = 2\nbind = [\"127.0.0.1:0\", {one}, {other}, \"{tcp}\"]", control.key())
    };
    let mut gate = gate_to(&backend, []).config(&config([&kept, &dropped], tcp_dropped)).start();
    let inode_before = inode(&kept);
    let watch = {
        let kept = kept.clone();
        Watch::begin(move || drop(UnixStream::connect(&kept).expect("never refused")))
    };
    gate.configure(&config([&kept, &new], tcp_new));
    let heir = upgrade(&control);
    retires(&mut gate);
    watch.saw_nothing_wrong();
    assert_eq!(inode(&kept), inode_before);
    wait_for("the dropped sockets to go", || (!dropped.exists() && !is_open(tcp_dropped)).then_some(()));
    assert!(UnixStream::connect(&new).is_ok());
    assert_eq!(ask(tcp_new, &Request::get("/healthz")).status, 200);
    assert_eq!(gate.get("/healthz").status, 200, "the port that the kernel chose is the same");
    let listeners = control.status()["listeners"].as_array().unwrap().len();
    assert_eq!(listeners, 4);
    heir.stops();
    assert!(!kept.exists() && !new.exists());
}

#[test]
fn streams_end_whole_and_the_old_gate_leaves_after_them() {
    let text = prompt(60);
    let wanted = expected(&text);
    for mode in MODES {
        let (backend, control) = (backend(40), Control::new());
        let mut gate = gate_to(&backend, [mode, "--workers=2", &*control.flag()]).start();
        let streams: Vec<Stream> = (0..4).map(|_| Stream::begin(gate.address(), &text)).collect();
        let old = gate.workers();
        let heir = upgrade(&control);
        assert!(is_alive(gate.pid()), "it has streams to finish");
        wait_for("the old workers to take no more", || old.iter().all(|worker| listening(*worker) == 0).then_some(()));
        assert_eq!(gate.get("/healthz").status, 200);
        for stream in streams {
            assert_eq!(String::from_utf8_lossy(&stream.finish().unwrap()), String::from_utf8_lossy(&wanted));
        }
        retires(&mut gate);
        heir.stops();
    }
}

#[test]
fn more_and_fewer_workers_lose_nothing() {
    for mode in MODES {
        let (backend, control) = (backend(0), Control::new());
        let config = |workers: usize| format!("{}workers = {workers}", control.key());
        let mut gate = gate_to(&backend, [mode]).config(&config(2)).start();
        let load = Load::start(gate.address(), &MIXED);
        let mut heirs: Vec<Heir> = Vec::new();
        for workers in [4, 1, 3] {
            load.goes_on(30);
            gate.configure(&config(workers));
            let heir = upgrade(&control);
            heir.has_workers(workers);
            is_gone(heirs.last().map_or(gate.pid(), Heir::pid));
            heirs.push(heir);
        }
        load.goes_on(50);
        load.lost_nothing();
        retires(&mut gate);
    }
}

#[test]
fn what_only_a_start_can_change_an_upgrade_changes() {
    let (backend, control) = (backend(0), Control::new());
    let mut gate = gate_to(&backend, []).config(&format!("{}workers = 3", control.key())).start();
    gate.configure(&format!("{}workers = 3\nreuse_port = true", control.key()));
    control.run("reload --wait").did("reuse_port: false -> true (needs an upgrade)");
    assert_eq!(control.status()["listeners"][0]["sockets"], 1);
    let heir = upgrade(&control);
    retires(&mut gate);
    assert_eq!(control.status()["listeners"][0]["sockets"], 3);
    (0..20).for_each(|_| assert_eq!(gate.get("/healthz").status, 200));
    gate.configure(&format!("{}workers = 3", control.key()));
    let second = upgrade(&control);
    is_gone(heir.pid());
    (0..20).for_each(|_| assert_eq!(gate.get("/healthz").status, 200));
    second.stops();
}

#[test]
fn a_candidate_that_cannot_serve_changes_nothing() {
    let (backend, installed, control) = (backend(0), Installed::new(), Control::new());
    let config = format!("{}workers = 2\nboot_timeout = \"1s\"\n", control.key());
    let mut gate = installed.launch(gate_to(&backend, []).config(&config)).start();
    let workers = gate.workers();
    let foreign = control.beside("foreign");
    fs::write(&foreign, [0x55_u8; 4096]).unwrap();
    // The zone's descriptor is replaced by this file, as its place in LISTEN_FDNAMES says.
    let zone = format!(
        "#!/bin/sh\nn=3\nIFS=:\nfor name in $LISTEN_FDNAMES; do [ $name = gate.zone ] && eval \"exec $n<>{}\"; n=$((n+1)); done\nexec {} \"$@\"\n",
        foreign.display(),
        crate::support::binary().display()
    );
    for (what, mode, reason) in [
        (None, 0, "gate: No such file or directory"),
        (Some("#!/bin/sh\nexit 0\n"), 0o644, "gate: Permission denied"),
        (Some("no program"), 0o755, "Exec format error"),
        (Some("#!/bin/sh\nexit 3\n"), 0o755, "exited with code 3 before it served"),
        (Some("#!/bin/sh\nkill -9 $$\n"), 0o755, "was ended by SIGKILL before it served"),
        (Some("#!/bin/sh\nexec sleep 60\n"), 0o755, "did not serve in time and was ended by SIGKILL"),
        (Some(&*zone), 0o755, "handed over as the shared memory is something else; upgrade with --fresh-zone"),
    ] {
        match what {
            Some(text) => installed.write(text, mode),
            None => installed.remove(),
        }
        control.run("upgrade --wait").was_refused(1, &[reason]);
        let status = control.status();
        assert_eq!((&status["last_upgrade"]["ok"], &status["state"]), (&json!(false), &json!("serving")), "{reason}");
        assert!(status["last_upgrade"]["reasons"][0].as_str().unwrap().contains(reason), "{status}");
        assert_eq!(gate.workers(), workers, "{reason}");
        assert_eq!(gate.get("/healthz").status, 200);
    }
    installed.put_back();
    gate.configure(&format!("{config}limmit = 1\nkeep_alive = \"soon\""));
    control.run("upgrade --wait").was_refused(1, &["limmit", "keep_alive = \"soon\""]);
    assert_eq!(gate.workers(), workers);
    gate.configure(&config);
    let heir = upgrade(&control);
    retires(&mut gate);
    heir.stops();
}

#[test]
fn there_is_one_upgrade_at_a_time() {
    let (dir, backend, control) = (Dir::new(), backend(0), Control::new());
    let latch = Latch::new(dir.path("access"));
    let mut gate = gate_to(&backend, []).config(&control.key()).start();
    gate.configure(&format!("{}access_log = {:?}", control.key(), latch.path()));
    let first = control.begin(&json!({"command": "upgrade", "wait": true}));
    let heir = candidate(&mut gate);
    let under_way = format!("an upgrade is under way already: {} is on its way", heir.pid());
    control.run("upgrade --wait").was_refused(1, &[&under_way]);
    assert_eq!(reasons(&control.ask(&json!({"command": "upgrade"}))), under_way);
    gate.signal(Signal::SIGUSR2);
    catches_up(&mut gate);
    let _open = latch.open();
    assert_eq!(first.answer()["pid"], heir.pid().as_raw());
    retires(&mut gate);
    assert_eq!(said(&gate, "the candidate is started as"), 1);
    assert_eq!(control.status()["upgrade"], json!(null));
    heir.stops();
}

#[test]
fn a_stop_during_an_upgrade_ends_both() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (dir, backend, control) = (Dir::new(), backend(0), Control::new());
        let latch = Latch::new(dir.path("access"));
        let mut gate = gate_to(&backend, []).config(&control.key()).start();
        let address = gate.address();
        gate.configure(&format!("{}access_log = {:?}", control.key(), latch.path()));
        let asked = control.begin(&json!({"command": "upgrade", "wait": true}));
        let heir = candidate(&mut gate);
        let theirs = heir.has_workers(1);
        let ours = children_of(gate.pid(), "");
        gate.signal(signal);
        assert_eq!(reasons(&asked.answer()), "the gate is stopping");
        retires(&mut gate);
        for pid in theirs.into_iter().chain(ours).chain([heir.pid()]) {
            is_gone(pid);
        }
        assert!(!is_open(address) && !control.path().exists());
    }
}

#[test]
fn a_candidate_whose_gate_is_killed_takes_its_place() {
    let text = prompt(60);
    let wanted = expected(&text);
    let (dir, backend, control) = (Dir::new(), backend(40), Control::new());
    let latch = Latch::new(dir.path("access"));
    let pid_file = control.beside("gate.pid");
    let config = format!("{}pid = {pid_file:?}\n", control.key());
    let mut gate = gate_to(&backend, []).config(&config).start();
    let (address, workers) = (gate.address(), gate.workers());
    let stream = Stream::begin(address, &text);
    gate.configure(&format!("{config}access_log = {:?}", latch.path()));
    gate.signal(Signal::SIGUSR2);
    let heir = candidate(&mut gate);
    heir.has_workers(1);
    kill(gate.pid(), Signal::SIGKILL).unwrap();
    gate.log_has("upgrade: this gate has taken over");
    let mut queued = crate::support::http::Client::connect(address);
    queued.send(&Request::get("/healthz").bytes()).unwrap();
    let _open = latch.open();
    assert_eq!(queued.answer("GET").unwrap().status, 200, "it waited in the queue");
    assert_eq!(control.status()["pid"], heir.pid().as_raw());
    assert_eq!(first_line(&pid_file), heir.pid().to_string());
    assert_eq!(stream.finish().unwrap(), wanted);
    workers.into_iter().for_each(is_gone);
    wait_for("their rows to be settled", || (control.status()["totals"]["in_flight"] == 0).then_some(()));
    heir.stops();
}

#[test]
fn a_candidate_that_is_killed_leaves_no_rows_behind() {
    let (dir, backend, control) = (Dir::new(), backend(0), Control::new());
    let mut gate = gate_to(&backend, []).config(&control.key()).start();
    // As many workers as there can be, each time: after four of them the scoreboard would be full.
    for turn in 0..4 {
        let latch = Latch::new(dir.path(&format!("access{turn}")));
        gate.configure(&format!("{}workers = 64\naccess_log = {:?}", control.key(), latch.path()));
        let asked = control.begin(&json!({"command": "upgrade", "wait": true}));
        let heir = candidate(&mut gate);
        let workers = heir.has_workers(64);
        kill(heir.pid(), Signal::SIGKILL).unwrap();
        assert!(reasons(&asked.answer()).contains("was ended by SIGKILL"));
        let _open = latch.open();
        workers.into_iter().for_each(is_gone);
    }
    gate.configure(&control.key());
    wait_for("room for a reload", || (control.run("reload --wait").code == 0).then_some(()));
    assert_eq!(gate.get("/healthz").status, 200);
}
