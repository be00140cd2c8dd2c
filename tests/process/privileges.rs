//! What each process of the gate may do: nothing for those that read requests, little for the master. Most of it can
//! only be seen as root; without, the tests say so and pass.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::identity::may_change;
use crate::proc::status;
use crate::scene::{backend, end, gate_to, generate, said, successor};
use crate::support::http::Request;
use crate::support::{Dir, Gate, children_of, gate, wait_for};

/// `CHOWN`, `DAC_OVERRIDE`, `KILL`, `SETGID`, `SETUID`, `SETPCAP`, `NET_BIND_SERVICE`, by the kernel's numbers.
const MASTERS: u64 = 1 << 0 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10;

fn capabilities(pid: Pid, set: &str) -> u64 {
    u64::from_str_radix(&status(pid, set), 16).unwrap_or(u64::MAX)
}

/// Waits until a fresh process has given up everything.
#[track_caller]
fn has_no_capabilities(pid: Pid) {
    wait_for(&format!("no_new_privs of {pid}"), || (status(pid, "NoNewPrivs") == "1").then_some(()));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(capabilities(pid, set), 0, "{set} of {pid}");
    }
}

#[track_caller]
fn numbers(pid: Pid, line: &str) -> Vec<String> {
    status(pid, line).split_ascii_whitespace().map(ToOwned::to_owned).collect()
}

#[test]
fn children_have_nothing_and_the_master_has_what_it_needs() {
    if !may_change() {
        return;
    }
    let of_this_machine = capabilities(Pid::this(), "CapPrm");
    let mut gate = gate(["--demo", "--workers=2", "--user=nobody", "--group=65534", "--limit=none"]).start();
    let check = |gate: &Gate| {
        let children = wait_for("two workers, the monitor and the demo, and none that leaves", || {
            Some(children_of(gate.pid(), "")).filter(|children| children.len() == 4)
        });
        for child in children {
            has_no_capabilities(child);
            assert_eq!(numbers(child, "Uid"), ["65534"; 4]);
            assert_eq!(numbers(child, "Gid"), ["65534"; 4]);
            assert!(!numbers(child, "Groups").contains(&"0".to_owned()), "root's groups are left");
        }
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(capabilities(gate.pid(), set), MASTERS & of_this_machine, "{set} of the master");
        }
        assert_eq!(status(gate.pid(), "NoNewPrivs"), "0", "an upgrade may need what a file brings");
        assert_eq!(gate.get("/api/tags").status, 200);
    };
    check(&gate);
    gate.reload();
    check(&gate);
    let worker = gate.children("worker 1")[0];
    end(worker, Signal::SIGKILL);
    successor(&gate, "worker 1", worker);
    check(&gate);
    assert_eq!(said(&gate, "serving as root"), 0);
    gate.signal(Signal::SIGTERM);
    assert_eq!(gate.ends_with_code(), 0);
}

#[test]
fn root_is_said_aloud_unless_it_was_asked_for() {
    if !may_change() {
        return;
    }
    let backend = backend(0);
    for (arguments, warnings) in [(&[][..], 1), (&["--user=root"], 0), (&["--group=65534"], 1)] {
        let mut gate = gate_to(&backend, arguments.iter().copied()).start();
        assert_eq!(said(&gate, "serving as root"), warnings, "{arguments:?}");
        for child in children_of(gate.pid(), "") {
            has_no_capabilities(child);
            assert_eq!(numbers(child, "Uid"), ["0"; 4]);
        }
        if arguments == ["--group=65534"] {
            assert_eq!(numbers(gate.workers()[0], "Groups"), Vec::<String>::new(), "root's groups are left");
        }
        gate.reload();
        assert_eq!(said(&gate, "serving as root"), warnings, "once is enough");
        assert_eq!(gate.ask(&generate("hi")).status, 200);
    }
}

/// Whether this kernel confines; where it does not, a gate that was told to does not start.
fn may_confine() -> bool {
    let mut gate = gate(["--demo", "--workers=1", "--sandbox"]).spawn();
    let said = wait_for("a word on the sandbox", || {
        let log = gate.log();
        ["generation 1 serves", "no Landlock on this kernel", "no seccomp filter"]
            .into_iter()
            .find(|text| log.contains(text))
    });
    let may = said == "generation 1 serves";
    if !may {
        assert_eq!(gate.ends_with_code(), 78, "a sandbox that cannot be had refuses the start");
        eprintln!("skipped: {said}");
    }
    may
}

#[test]
fn a_sandboxed_gate_serves_reloads_and_respawns() {
    if !may_confine() {
        return;
    }
    let dir = Dir::new();
    let log = dir.path("access");
    let log_key = format!("--access-log={}", log.display());
    let mut gate = gate(["--demo", "--workers=1", "--sandbox", "--limit=none", &log_key]).start();
    let confined = |pid| wait_for("the sandbox", || (filters(pid) == filters(Pid::this()) + 2).then_some(()));
    let generate = Request::post("/ollama_generate/", &serde_json::json!({"prompt": "Why is the sky blue?"}));
    for round in 1..=2 {
        for child in ["worker", "monitor"].into_iter().flat_map(|role| gate.children(role)) {
            confined(child);
            assert_eq!(status(child, "Seccomp"), "2");
        }
        assert_eq!(filters(gate.pid()), filters(Pid::this()), "the master forks and may execute");
        assert_eq!(gate.get("/api/tags").status, 200);
        assert_eq!(gate.ask(&generate).status, 200);
        wait_for("two more lines in the log", || (lines(&log) == 2 * round).then_some(()));
        gate.reload();
    }
    let worker = gate.workers()[0];
    end(worker, Signal::SIGKILL);
    confined(successor(&gate, "worker", worker));
    assert_eq!(gate.get("/api/tags").status, 200);
    gate.signal(Signal::SIGTERM);
    assert_eq!(gate.ends_with_code(), 0);
}

#[test]
fn a_log_that_only_root_can_reach_is_no_reason_against_a_sandbox() {
    if !may_change() || !may_confine() {
        return;
    }
    let (dir, backend) = (Dir::new(), backend(0));
    let log = dir.path("hidden").join("access");
    fs::DirBuilder::new().mode(0o700).create(dir.path("hidden")).unwrap();
    let log_key = format!("--access-log={}", log.display());
    let gate = gate_to(&backend, ["--workers=1", "--sandbox", "--user=nobody", &log_key]).start();
    assert_eq!(filters(gate.workers()[0]), filters(Pid::this()) + 2);
    assert_eq!(gate.ask(&generate("hi")).status, 200);
    wait_for("a line in the log", || (lines(&log) == 1).then_some(()));
}

#[test]
fn without_the_key_there_is_no_sandbox() {
    let backend = backend(0);
    let gate = gate_to(&backend, ["--workers=1"]).start();
    assert_eq!(filters(gate.workers()[0]), filters(Pid::this()));
}

/// How many seccomp filters a process has.
fn filters(pid: Pid) -> u32 {
    status(pid, "Seccomp_filters").parse().unwrap_or(0)
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}
