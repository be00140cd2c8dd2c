use std::os::unix::fs::PermissionsExt;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::*;
use crate::process::{Exit, spawn_unchecked_threads, wait};

/// Says why there is nothing to test, if there is not.
fn is_root() -> bool {
    let is = Uid::effective().is_root();
    if !is {
        eprintln!("skipped: only root has something to give up");
    }
    is
}

/// Runs `checks` in a child; what failed there is printed there.
fn holds_in_a_child(checks: impl FnOnce()) {
    let child = spawn_unchecked_threads((), |()| {
        checks();
        0
    });
    assert_eq!(wait(child.unwrap()).unwrap(), Exit::Code(0), "see the panic above");
}

fn status(name: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
}

fn has_nothing() {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&status(set), 16).unwrap(), 0, "{set}");
    }
    assert_eq!(status("NoNewPrivs"), "1");
}

#[test]
fn finds_by_name_and_number_and_says_what_is_missing() {
    let root = Identity::find(Some("root"), None).unwrap();
    assert_eq!(root, Identity::find(Some("0"), Some("0")).unwrap());
    assert_eq!(Identity::find(Some("no-such-user"), None).unwrap_err(), "no user \"no-such-user\" on this machine");
    assert!(Identity::find(None, None).unwrap().is_own());
}

#[test]
fn another_user_has_nothing_of_roots() {
    if !is_root() {
        return;
    }
    holds_in_a_child(|| {
        unistd::setgroups(&[Gid::from_raw(0), Gid::from_raw(7)]).unwrap();
        let nobody = Identity::find(Some("nobody"), None).unwrap();
        nobody.assume().unwrap();
        has_nothing();
        let (uid, gid) = (nobody.user.as_ref().unwrap().0, nobody.group.unwrap());
        assert_eq!(status("Uid"), [&*uid.to_string(); 4].join("\t"));
        assert_eq!(status("Gid"), [&*gid.to_string(); 4].join("\t"));
        assert_eq!(status("Groups"), gid.to_string());
        assert_eq!(unistd::setuid(Uid::from_raw(0)), Err(Errno::EPERM));
        assert_eq!(prctl::get_pdeathsig().unwrap(), Some(nix::sys::signal::Signal::SIGTERM));
        assert!(!prctl::get_dumpable().unwrap(), "its memory is nobody else's");
        for own in ["fd", "task", "stat", "statm", "maps", "mountinfo", "cgroup"] {
            let path = format!("/proc/self/{own}");
            let read = if own == "fd" || own == "task" {
                std::fs::read_dir(path).map(drop)
            } else {
                std::fs::read(path).map(drop)
            };
            read.unwrap_or_else(|error| panic!("{own}: {error}"));
        }
    });
}

#[test]
fn a_group_alone_takes_roots_groups_away() {
    if !is_root() {
        return;
    }
    for (group, gid) in [("0", "0"), ("65534", "65534")] {
        holds_in_a_child(|| {
            unistd::setgroups(&[Gid::from_raw(0), Gid::from_raw(7)]).unwrap();
            Identity::find(None, Some(group)).unwrap().assume().unwrap();
            has_nothing();
            assert_eq!(status("Groups"), "");
            assert_eq!(status("Gid"), [gid; 4].join("\t"));
            assert_eq!(status("Uid"), ["0"; 4].join("\t"));
        });
    }
}

#[test]
fn root_that_stays_root_keeps_no_capability_and_its_groups_unless_named() {
    if !is_root() {
        return;
    }
    for (user, groups) in [(None, "0 7"), (Some("root"), "0")] {
        holds_in_a_child(|| {
            unistd::setgroups(&[Gid::from_raw(0), Gid::from_raw(7)]).unwrap();
            let identity = Identity::find(user, None).unwrap();
            assert_eq!(warning(&identity).is_some(), user.is_none());
            identity.assume().unwrap();
            has_nothing();
            assert_eq!(status("Uid"), ["0"; 4].join("\t"));
            assert_eq!(status("Groups"), groups);
            identity.assume().expect("once more changes nothing");
        });
    }
}

#[test]
fn nobody_can_become_nobody_and_not_root() {
    if !is_root() {
        return;
    }
    holds_in_a_child(|| {
        let nobody = Identity::find(Some("nobody"), None).unwrap();
        nobody.assume().unwrap();
        assert_eq!(warning(&Identity::find(None, None).unwrap()), None);
        nobody.assume().unwrap();
        let root = Identity::find(Some("root"), None).unwrap();
        assert_eq!(root.assume().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    });
}

#[test]
fn nothing_is_given_up_while_other_threads_would_keep_it() {
    holds_in_a_child(|| {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv().is_err());
        let refused = Identity::find(None, None).unwrap().assume().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
        assert!(sandbox(&[]).unwrap_err().contains("several threads"));
        drop(go);
        assert!(other.join().unwrap());
    });
}

#[test]
fn who_has_nothing_to_give_up_needs_no_call_that_a_service_manager_refuses() {
    if !is_root() {
        return;
    }
    let refused = [libc::SYS_capset, libc::SYS_setresuid, libc::SYS_setresgid, libc::SYS_setgroups];
    holds_in_a_child(|| {
        let nobody = Identity::find(Some("nobody"), None).unwrap();
        unistd::setgroups(&[]).unwrap();
        unistd::setgid(nobody.group.unwrap()).unwrap();
        unistd::setuid(nobody.user.as_ref().unwrap().0).unwrap();
        let rules = refused.map(|call| (call, Vec::new())).into();
        let deny = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, deny, arch).unwrap();
        seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
        nobody.assume().unwrap();
        Identity::find(None, None).unwrap().assume().unwrap();
        assert_eq!(Held::now().unwrap(), Held::NOTHING);
    });
}

#[test]
fn a_step_that_did_not_take_is_found() {
    if !is_root() {
        return;
    }
    holds_in_a_child(|| {
        let nobody = Identity::find(Some("nobody"), None).unwrap();
        assert!(nobody.verify(None).unwrap_err().to_string().contains("user"));
        let group = Identity::find(None, Some("65534")).unwrap();
        assert!(group.verify(None).unwrap_err().to_string().contains("group"));
        let own = Identity::find(None, None).unwrap();
        assert!(own.verify(None).unwrap_err().to_string().contains("capabilities"));
        let (root, other) = (Uid::from_raw(0), Uid::from_raw(65534));
        unistd::setresuid(other, other, root).unwrap();
        assert!(own.verify(None).unwrap_err().to_string().contains("back to root"));
    });
}

#[test]
fn a_trimmed_master_keeps_seven_capabilities_and_can_still_make_children() {
    if !is_root() {
        return;
    }
    holds_in_a_child(|| {
        let before = Held::now().unwrap().permitted;
        trim_master().unwrap();
        let kept = before.within(Set::of(&MASTERS));
        assert_eq!(Held::now().unwrap(), Held { permitted: kept, effective: kept, inheritable: Set::NONE });
        assert_eq!(status("CapBnd"), status("CapPrm"));
        assert_eq!(status("NoNewPrivs"), "0");
        trim_master().expect("once more changes nothing");
        Identity::find(Some("nobody"), None).unwrap().assume().unwrap();
        has_nothing();
    });
}

#[test]
fn the_umask_is_taken_from_new_files() {
    let path = std::env::temp_dir().join(format!("gate-umask-{}", std::process::id()));
    holds_in_a_child(|| {
        set_umask(0o027);
        std::fs::write(&path, "").unwrap();
    });
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn files_of_root_and_of_the_gate_are_believed() {
    let own = unistd::geteuid().as_raw();
    let identity = Identity { user: Some((Uid::from_raw(4_711), c"somebody".to_owned())), group: None };
    for (owner, trusted) in [(0, true), (own, true), (4_711, true), (4_712, false)] {
        assert_eq!(identity.trusts(owner), trusted, "{owner}");
    }
    assert!(!Identity { user: None, group: None }.trusts(4_711));
}

#[test]
fn a_process_without_cores_says_so_and_so_do_those_that_it_forks() {
    let child = process::spawn_unchecked_threads((), |()| {
        let before = prctl::get_dumpable().unwrap();
        forbid_cores().unwrap();
        let forked = process::spawn_unchecked_threads((), |()| u8::from(prctl::get_dumpable().unwrap()));
        let hint = crate::memory::core_hint().unwrap();
        let inherited = process::wait(forked.unwrap()).unwrap() == Exit::Code(0);
        u8::from(!(before && inherited && !prctl::get_dumpable().unwrap() && hint.contains("secrets")))
    });
    assert_eq!(process::wait(child.unwrap()).unwrap(), Exit::Code(0));
}
