//! What is done to a gate that serves: reloads, another number of workers, and signals that nobody can refuse.
//!
//! Each blow leaves the gate as it found it, or says what must be waited for.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::kernel;
use crate::rig::{Rig, WORKERS};
use crate::support::wait_for;
use crate::{pause, until};

/// How often somebody is killed.
const KILL_EVERY: Duration = Duration::from_millis(100);

/// A reload of each of these is refused, or rolled back.
const BROKEN: [&str; 4] =
    ["workers = \"many\"", "limmit = \"1/minute\"", "access_log = \"/nonexistent/x\"", "this is no toml ="];

/// Reloads a good configuration and waits until it serves.
#[track_caller]
pub(crate) fn reload(rig: &Rig) {
    rig.configure("");
    wait_for("room for a reload", || {
        let answer = rig.command(&json!({"command": "reload", "wait": true}));
        // So many generations drain that there is no room for one more: the gate says so, and a moment later there is.
        let full = answer["reasons"][0].as_str().is_some_and(|reason| reason.contains("scoreboard has room"));
        assert!(answer["ok"] == true || full, "{answer}");
        (answer["ok"] == true).then_some(())
    });
}

/// Asks for a reload that must be refused; every second is by signal.
#[track_caller]
pub(crate) fn broken_reload(rig: &mut Rig) {
    let broken = *rig.dice.one_of(&BROKEN);
    rig.configure(broken);
    rig.tell(&format!("configuration with {broken:?}"));
    let answer = rig.command(&json!({"command": "reload", "wait": true}));
    assert_eq!(answer["ok"], false, "{answer}");
    assert!(!answer["reasons"][0].as_str().unwrap_or_default().is_empty(), "{answer}");
    rig.configure("");
}

/// So many reloads, one in four with a broken configuration before it.
#[track_caller]
pub(crate) fn hups(rig: &mut Rig, count: usize) {
    for turn in 0..count {
        if turn % 4 == 3 {
            broken_reload(rig);
        }
        if turn % 2 == 1 {
            let from = rig.log_end();
            rig.signal(Signal::SIGHUP);
            rig.log_has(from, "reload asked for");
        }
        reload(rig);
        rig.goes_on(10);
    }
}

/// Kills a random worker every so often; whoever is between two lives counts as well.
pub(crate) fn kills(rig: &mut Rig, time: Duration) {
    let began = Instant::now();
    for turn in 1.. {
        kill_one(rig);
        until(began + KILL_EVERY * turn);
        if began.elapsed() >= time {
            return;
        }
    }
}

pub(crate) fn kill_one(rig: &mut Rig) {
    let workers = rig.members("worker");
    if !workers.is_empty() {
        let worker = *rig.dice.one_of(&workers);
        rig.kill(worker);
    }
}

/// Stops somebody for a while who is not to be given up for it.
pub(crate) fn nap(rig: &Rig, pid: Pid, time: Duration) {
    if kernel::stop(pid).is_some() {
        rig.tell(&format!("{pid} stands still for {time:?}"));
        pause(time);
        let _may_have_left = kill(pid, Signal::SIGCONT);
    }
}

/// Stops somebody until the master gives it up.
#[track_caller]
pub(crate) fn hang(rig: &Rig, pid: Pid) {
    if rig.stand_still(pid).is_some() {
        wait_for(&format!("{pid} to be given up"), || {
            (!rig.group().iter().any(|member| member.pid == pid)).then_some(())
        });
    }
}

/// Everybody stands still in turn: for a while, and for too long.
#[track_caller]
pub(crate) fn stops(rig: &mut Rig) {
    for _ in 0..4 {
        let worker = *rig.dice.one_of(&rig.members("worker"));
        nap(rig, worker, Duration::from_millis(300));
    }
    let worker = *rig.dice.one_of(&rig.settled("worker"));
    hang(rig, worker);
    let monitor = rig.settled("monitor")[0];
    nap(rig, monitor, Duration::from_millis(300));
    hang(rig, monitor);
    let _status = rig.settles(WORKERS);
    nap(rig, rig.master(), Duration::from_secs(1));
    rig.goes_on(50);
    let _status = rig.settles(WORKERS);
}

/// Changes the number of workers so often, at last back to the usual one.
#[track_caller]
pub(crate) fn storm(rig: &mut Rig, count: usize) {
    for _ in 0..count {
        match rig.dice.below(3) {
            0 => rig.signal(Signal::SIGTTIN),
            1 => rig.signal(Signal::SIGTTOU),
            _ => scale(rig),
        }
        let gap = rig.dice.below(60);
        pause(Duration::from_millis(gap));
    }
    let answer = rig.command(&json!({"command": "scale", "workers": WORKERS}));
    assert_eq!(answer["ok"], true, "{answer}");
    let _status = rig.settles(WORKERS);
}

pub(crate) fn scale(rig: &mut Rig) {
    let workers = 1 + rig.dice.below(6);
    let _answer = rig.command(&json!({"command": "scale", "workers": workers}));
}

/// No workers, and back by each of the ways there are. Clients wait meanwhile.
#[track_caller]
pub(crate) fn pauses(rig: &mut Rig) {
    for turn in 0..3 {
        rig.signal(Signal::SIGWINCH);
        wait_for("no worker that serves", || {
            let status = rig.status();
            let workers = status["processes"].as_array()?.iter().filter(|process| process["role"] == "worker");
            (status["state"] == "paused" && workers.clone().all(|worker| worker["state"] != "ready")).then_some(())
        });
        match turn {
            0 => rig.signal(Signal::SIGTTIN),
            1 => rig.signal(Signal::SIGHUP),
            _ => drop(rig.command(&json!({"command": "scale", "workers": WORKERS}))),
        }
        let _status = rig.settles(WORKERS);
        rig.goes_on(50);
    }
}

impl Rig {
    /// The processes of a role that serve, when nothing is under way.
    #[track_caller]
    fn settled(&self, role: &str) -> Vec<Pid> {
        let status = self.settles(WORKERS);
        let processes = status["processes"].as_array().unwrap().iter();
        let ready = processes.filter(|process| process["role"] == role && process["state"] == "ready");
        ready.map(|process| Pid::from_raw(process["pid"].as_i64().unwrap() as i32)).collect()
    }
}
