//! A reload is a transaction: everything that can be wrong with it leaves the old generation serving.

use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};

use crate::scene::{Latch, backend, catches_up, gate_to, is_gone, is_open, own_address, said};
use crate::support::http::{Request, ask};
use crate::support::{Dir, Gate, wait_for};

/// Reloads this configuration, which is not taken; the workers stay. Gives the log since then.
#[track_caller]
fn refuses(gate: &mut Gate, text: &str) -> String {
    let (workers, before) = (gate.workers(), gate.log().len());
    gate.configure(text);
    gate.signal(Signal::SIGHUP);
    gate.log_has("reload refused, generation 1 keeps serving");
    catches_up(gate);
    assert_eq!(gate.workers(), workers);
    assert_eq!(gate.get("/healthz").status, 200);
    gate.log()[before..].to_owned()
}

#[test]
fn every_mistake_is_named_with_its_remedy() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, []).config("workers = 2").start();
    let first = gate.workers();
    let said = refuses(&mut gate, "workers = \"many\"\nlimmit = \"1/minute\"\ntimeout = \"soon\"\n");
    for (key, value, remedy) in
        [("workers", "many", "whole number"), ("limmit", "1/minute", "`limit`"), ("timeout", "soon", "write a time")]
    {
        let line = said.lines().find(|line| line.contains(&format!("{key} = \"{value}\"")));
        let line = line.unwrap_or_else(|| panic!("{key} in:\n{said}"));
        assert!(line.contains("reload refused: ") && line.contains("gate.toml:") && line.contains(remedy), "{line}");
    }
    gate.configure("workers = 2");
    gate.reload();
    assert!(gate.has_workers(2).iter().all(|worker| !first.contains(worker)));
}

#[test]
fn a_file_that_is_gone_changes_nothing() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, []).config("workers = 2").start();
    let workers = gate.workers();
    fs::remove_file(gate.dir().path("gate.toml")).unwrap();
    gate.signal(Signal::SIGHUP);
    gate.log_has("cannot be read");
    assert_eq!(gate.workers(), workers);
    gate.configure("workers = 2");
    gate.reload();
}

#[test]
fn a_busy_port_is_refused_with_everything_else_of_the_reload() {
    let backend = backend(0);
    let (own, busy) = (own_address(), TcpListener::bind("127.0.0.1:0").unwrap());
    let mut gate = gate_to(&backend, []).config(&format!("bind = \"{own}\"")).start();
    let busy = busy.local_addr().unwrap();
    let text = format!("bind = [\"{own}\", \"{busy}\"]\nlog_level = \"debug\"\nworkers = 3");
    let said_then = refuses(&mut gate, &text);
    assert!(said_then.contains(&format!("cannot listen on http://{busy}")), "{said_then}");
    gate.signal(Signal::SIGTERM);
    assert_eq!(gate.ends_with_code(), 0);
    assert_eq!(said(&gate, " debug "), 0, "the level of the refused configuration");
}

#[test]
fn a_new_address_is_served_before_the_old_one_goes() {
    let backend = backend(0);
    let (old, new) = (own_address(), own_address());
    let mut gate = gate_to(&backend, []).config(&format!("workers = 2\nbind = \"{old}\"")).start();
    let over = Arc::<AtomicBool>::default();
    let watch = {
        let over = Arc::clone(&over);
        // The old one first: once it is closed, the new one must have been there before.
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                assert!(is_open(old) || is_open(new), "nobody listens");
            }
        })
    };
    gate.configure(&format!("workers = 2\nbind = \"{new}\""));
    gate.reload();
    assert_eq!(said(&gate, &format!("listening on http://{new}")), 1);
    wait_for("the old address to close", || (!is_open(old)).then_some(()));
    over.store(true, Ordering::Relaxed);
    watch.join().unwrap();
    assert_eq!(ask(new, &Request::get("/healthz")).status, 200);
    assert_eq!(gate.workers().iter().map(|worker| crate::proc::listening(*worker)).sum::<usize>(), 2);
}

#[test]
fn the_number_of_workers_changes() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, []).config("workers = 2").start();
    for count in [4, 1, 3] {
        gate.configure(&format!("workers = {count}"));
        gate.reload();
        gate.has_workers(count);
        assert_eq!(gate.get("/healthz").status, 200);
    }
}

#[test]
fn what_only_a_start_can_change_stays_and_is_told() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, []).config("backlog = 100").start();
    gate.configure("backlog = 64\nreuse_port = true");
    gate.signal(Signal::SIGHUP);
    let line = gate.log_has("backlog stays");
    assert!(line.contains(" warn ") && line.contains("\"100\"") && line.contains("\"64\""), "{line}");
    gate.log_has("reuse_port stays \"false\"");
    gate.log_has("generation 2 serves");
}

#[test]
fn a_generation_that_cannot_boot_is_rolled_back() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, []).config("workers = 3").start();
    let workers = gate.workers();
    gate.configure("workers = 3\naccess_log = \"/nonexistent/x\"");
    gate.signal(Signal::SIGHUP);
    let line = gate.log_has("reload failed, back to generation 1");
    assert!(line.contains("access_log: cannot append to /nonexistent/x"), "{line}");
    catches_up(&mut gate);
    assert_eq!(gate.has_workers(3), workers, "none had been replaced");
    assert_eq!(gate.get("/healthz").status, 200);
    gate.configure("workers = 3");
    gate.reload();
    assert!(gate.has_workers(3).iter().all(|worker| !workers.contains(worker)));
}

#[test]
fn a_roll_that_fails_half_way_is_undone() {
    let (dir, backend) = (Dir::new(), backend(0));
    fs::create_dir(dir.path("logs")).unwrap();
    let latch = Latch::new(dir.path("logs").join("access"));
    let mut gate = gate_to(&backend, []).config("workers = 3").start();
    let first = gate.workers();
    gate.configure(&format!("workers = 3\naccess_log = {:?}", latch.path()));
    gate.signal(Signal::SIGHUP);
    let new = gate.has_workers(4).into_iter().find(|worker| !first.contains(worker)).unwrap();
    // Stopped, the master starts no second worker until the log has gone.
    kill(gate.pid(), Signal::SIGSTOP).unwrap();
    latch.let_one_pass();
    latch.remove();
    kill(gate.pid(), Signal::SIGCONT).unwrap();
    gate.log_has(&format!("({new}) of generation 2 is ready"));
    gate.log_has("reload failed, back to generation 1");
    gate.log_has("of generation 1 is ready");
    is_gone(new);
    let workers = gate.has_workers(3);
    assert_eq!(workers.iter().filter(|worker| first.contains(worker)).count(), 2);
    assert_eq!(gate.get("/healthz").status, 200);
}

#[test]
fn reloads_asked_for_during_a_reload_are_one() {
    let (dir, backend) = (Dir::new(), backend(0));
    let latch = Latch::new(dir.path("access"));
    let mut gate = gate_to(&backend, []).config("workers = 2").start();
    gate.configure(&format!("workers = 2\naccess_log = {:?}", latch.path()));
    gate.signal(Signal::SIGHUP);
    gate.log_has("reload asked for");
    gate.has_workers(3);
    for _ in 0..4 {
        gate.signal(Signal::SIGHUP);
        gate.log_has("reload asked for");
    }
    let _open = latch.open();
    gate.log_has("generation 2 serves");
    gate.log_has("generation 3 serves");
    catches_up(&mut gate);
    assert_eq!(said(&gate, "generation 4"), 0);
    gate.has_workers(2);
}

#[test]
fn a_worker_that_hangs_at_its_start_is_rolled_back() {
    let (dir, backend) = (Dir::new(), backend(0));
    let latch = Latch::new(dir.path("access"));
    let mut gate = gate_to(&backend, []).config("workers = 2").start();
    let workers = gate.workers();
    gate.configure(&format!("boot_timeout = \"1s\"\nworkers = 2\naccess_log = {:?}", latch.path()));
    gate.signal(Signal::SIGHUP);
    gate.log_has("was not ready within boot_timeout");
    gate.log_has("reload failed, back to generation 1");
    catches_up(&mut gate);
    assert_eq!(gate.has_workers(2), workers);
}
