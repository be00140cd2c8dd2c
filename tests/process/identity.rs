//! Running as somebody else. Needs root; without, the tests say so and pass.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Uid, User};

use crate::proc::status;
use crate::scene::{backend, gate_to, generate, is_gone};
use crate::support::{Dir, children_of, wait_for};

/// Says why there is nothing to test, if there is not.
pub(crate) fn may_change() -> bool {
    let may = Uid::effective().is_root();
    if !may {
        eprintln!("skipped: only root can become another user");
    }
    may
}

#[test]
fn workers_become_the_user_and_the_master_stays() {
    if !may_change() {
        return;
    }
    let (dir, backend) = (Dir::new(), backend(0));
    let log = dir.path("access");
    let nobody = User::from_name("nobody").unwrap().expect("nobody is everywhere");
    let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
    let arguments = ["-u", "nobody", "-g", &gid, "--workers", "2", "--access-log", log.to_str().unwrap()];
    let mut gate = gate_to(&backend, arguments).start();
    let all = |pid, name: &str| status(pid, name).split_ascii_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>();
    for _ in 0..2 {
        for child in children_of(gate.pid(), "") {
            wait_for("the child's new user", || (all(child, "Uid")[..] == [&uid; 4].map(Clone::clone)).then_some(()));
            assert_eq!(all(child, "Gid"), [&gid; 4].map(Clone::clone));
            assert!(!all(child, "Groups").contains(&"0".to_owned()), "root's groups are left");
        }
        assert_eq!(all(gate.pid(), "Uid"), ["0"; 4]);
        assert_eq!(gate.ask(&generate("hi")).status, 200);
        gate.reload();
    }
    wait_for("two lines in a log that only root can make", || {
        (fs::read_to_string(&log).is_ok_and(|text| text.lines().count() == 2)).then_some(())
    });
    let children = children_of(gate.pid(), "");
    kill(gate.pid(), Signal::SIGKILL).unwrap();
    children.into_iter().for_each(is_gone);
}

#[test]
fn a_user_or_group_that_does_not_exist_is_a_reason() {
    let backend = backend(0);
    for (flag, what) in [("--user", "user"), ("--group", "group")] {
        let mut gate = gate_to(&backend, [flag, "no-such-name"]).spawn();
        assert_eq!(gate.ends_with_code(), 78);
        assert!(gate.log().contains(&format!("no {what} \"no-such-name\"")), "{}", gate.log());
    }
}
