//! Descriptors: every process holds what it needs, and reloads do not pile any up.

use crate::proc::{descriptors, listening, open_files};
use crate::scene::{backend, gate_to, is_gone};
use crate::support::wait_for;

/// What a process holds, by kind: pipes and sockets without their numbers.
fn kinds(pid: nix::unistd::Pid) -> Vec<String> {
    let kind = |link: String| link.split_once(":[").map_or(link.clone(), |(kind, _)| kind.to_owned());
    let mut kinds: Vec<String> = descriptors(pid).into_iter().map(kind).collect();
    kinds.sort();
    kinds
}

#[test]
fn reloads_leave_no_descriptors_behind() {
    for (mode, of_master) in [("--reuse-port=false", 2), ("--reuse-port=true", 6)] {
        let backend = backend(0);
        let arguments = [mode, "--workers", "3", "--bind", "127.0.0.1:0", "--bind", "127.0.0.2:0"];
        let mut gate = gate_to(&backend, arguments).start();
        assert_eq!(gate.workers().iter().map(|worker| listening(*worker)).collect::<Vec<_>>(), [2, 2, 2], "{mode}");
        assert_eq!(listening(gate.pid()), of_master, "{mode}");
        let (master, worker) = (kinds(gate.pid()), kinds(gate.workers()[0]));
        for _ in 0..5 {
            let old = gate.workers();
            gate.reload();
            old.into_iter().for_each(is_gone);
        }
        wait_for("the master's descriptors of the start", || (kinds(gate.pid()) == master).then_some(()));
        for pid in gate.workers() {
            assert_eq!(kinds(pid), worker, "{mode}");
            assert_eq!(listening(pid), 2, "{mode}");
        }
        let [monitor] = gate.children("monitor")[..] else { panic!("one monitor") };
        assert_eq!(listening(monitor), 0);
    }
}

#[test]
fn workers_share_their_bells_with_the_master_and_others_have_none() {
    let backend = backend(0);
    let gate = gate_to(&backend, ["--workers", "2"]).start();
    let count = |pid| descriptors(pid).iter().filter(|link| *link == "anon_inode:[eventfd]").count();
    let [monitor] = gate.children("monitor")[..] else { panic!("one monitor") };
    // An event loop has one of its own.
    assert_eq!((count(gate.pid()), count(monitor)), (64, 1));
    // A worker hears its own bell through a descriptor of its own.
    assert_eq!(gate.workers().into_iter().map(count).collect::<Vec<_>>(), [66, 66]);
}

#[test]
fn as_many_files_may_be_open_as_the_higher_limit_allows() {
    let backend = backend(0);
    let low = ["sh", "-c", "ulimit -Sn 200; ulimit -Hn 900; exec \"$@\"", "sh"];
    let gate = gate_to(&backend, []).launched_by(&low).start();
    for pid in [gate.workers(), vec![gate.pid()]].concat() {
        assert_eq!(open_files(pid), ["900", "900"]);
    }
    assert_eq!(gate.log().matches("limit of open files").count(), 0);
}
