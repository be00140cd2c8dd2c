use std::fs::{self, OpenOptions};
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::bells::Bells;
use crate::process::{self, Exit};

/// Two directories of a test's own, removed at its end.
struct Place {
    root: PathBuf,
    inside: PathBuf,
    outside: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("gate-sandbox-{name}-{}", std::process::id()));
        let (inside, outside) = (root.join("inside"), root.join("outside"));
        for dir in [&inside, &outside] {
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join("old"), "old").unwrap();
        }
        Self { root, inside, outside }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.root);
    }
}

fn landlock_version() -> c_long {
    // SAFETY: asked for the version, the kernel reads no attribute.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, 1) }
}

/// Says why there is nothing to test, if there is not.
fn may_confine() -> bool {
    let may = landlock_version() > 0;
    if !may {
        eprintln!("skipped: no Landlock on this kernel");
    }
    may
}

/// Runs `checks` in a child; what failed there is printed there.
fn holds_in_a_child(checks: impl FnOnce()) {
    let child = process::spawn_unchecked_threads((), |()| {
        checks();
        0
    });
    assert_eq!(process::wait(child.unwrap()).unwrap(), Exit::Code(0), "see the panic above");
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.expect_err("it is refused").raw_os_error().expect("by the kernel")
}

/// The errno of a system call without arguments that matter.
fn call(number: c_long, first: c_long) -> i32 {
    // SAFETY: every call that the tests make is refused, or does nothing when it is given zeros.
    let done = unsafe { libc::syscall(number, first, 0, 0, 0, 0, 0) };
    if done == -1 { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
}

#[test]
fn files_are_read_anywhere_written_in_one_place_and_never_executed() {
    if !may_confine() {
        return;
    }
    let place = Place::new("files");
    let file = place.outside.join("old");
    holds_in_a_child(|| {
        let append = |path: &Path| OpenOptions::new().append(true).create(true).open(path);
        sandbox(&[&place.inside, &file]).unwrap();
        fs::read_to_string("/etc/passwd").unwrap();
        fs::read_dir("/").unwrap();
        for good in [place.inside.join("old"), place.inside.join("new"), file.clone()] {
            append(&good).unwrap();
            fs::write(&good, "truncated").unwrap();
        }
        assert_eq!(errno(append(&place.outside.join("new"))), libc::EACCES);
        assert_eq!(errno(append(&place.root.join("new"))), libc::EACCES);
        assert_eq!(errno(append(Path::new("/dev/null"))), libc::EACCES);
        assert_eq!(errno(fs::remove_file(place.inside.join("old"))), libc::EACCES);
        assert_eq!(errno(fs::create_dir(place.inside.join("dir"))), libc::EACCES);
        assert_eq!(errno(std::process::Command::new("/bin/true").status()), libc::EPERM);
    });
    assert_eq!(fs::read_to_string(place.inside.join("new")).unwrap(), "truncated");
}

#[test]
fn what_workers_never_need_is_refused() {
    if !may_confine() {
        return;
    }
    holds_in_a_child(|| {
        sandbox(&[]).unwrap();
        for number in DENIED {
            assert_eq!(call(*number, 0), libc::EPERM, "system call {number}");
        }
        for flag in NAMESPACES {
            assert_eq!(call(libc::SYS_clone, flag.into()), libc::EPERM, "clone with {flag:#x}");
        }
        assert_eq!(call(libc::SYS_clone3, 0), libc::ENOSYS);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(call(0x4000_0000 | libc::SYS_getpid, 0), libc::EPERM, "the second number of a call");
    });
}

#[test]
fn other_processes_get_no_signal_where_the_kernel_can_tell() {
    /// Linux 6.12.
    const SIGNALS_SINCE: c_long = 6;
    if landlock_version() < SIGNALS_SINCE {
        return eprintln!("skipped: this kernel's Landlock knows nothing of signals");
    }
    holds_in_a_child(|| {
        sandbox(&[]).unwrap();
        assert_eq!(call(libc::SYS_kill, nix::unistd::getppid().as_raw().into()), libc::EPERM);
        assert_eq!(call(libc::SYS_kill, nix::unistd::getpid().as_raw().into()), 0);
    });
}

#[test]
fn threads_names_and_sockets_work_as_before() {
    if !may_confine() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    holds_in_a_child(|| {
        sandbox(&[]).unwrap();
        assert_eq!(std::thread::spawn(|| call(libc::SYS_unshare, 0)).join().unwrap(), libc::EPERM);
        assert!(("localhost", 80).to_socket_addrs().unwrap().next().is_some());
        TcpStream::connect(address).unwrap();
        TcpListener::bind("127.0.0.1:0").unwrap();
    });
}

#[test]
fn bells_ring_and_are_heard_as_before() {
    if !may_confine() {
        return;
    }
    holds_in_a_child(|| {
        let bells = Bells::create(1).unwrap();
        sandbox(&[]).unwrap();
        let ear = bells.ear(0).unwrap().unwrap();
        let rings = || poll(&mut [PollFd::new(ear.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap();
        bells.ring(0);
        assert_eq!(rings(), 1);
        crate::bells::hush(&ear).unwrap();
        assert_eq!(rings(), 0);
    });
}

#[test]
fn a_kernel_without_the_means_is_a_reason_with_a_remedy() {
    let refused = |number: c_long| {
        holds_in_a_child(|| {
            let rules = BTreeMap::from([(number, Vec::new())]);
            let deny = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
            let arch = std::env::consts::ARCH.try_into().unwrap();
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, deny, arch).unwrap();
            seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
            let reason = sandbox(&[]).unwrap_err();
            let name = if number == libc::SYS_seccomp { "seccomp" } else { "Landlock" };
            assert!(reason.contains(name) && reason.contains("or set sandbox = false"), "{reason}");
        });
    };
    refused(libc::SYS_landlock_create_ruleset);
    refused(libc::SYS_landlock_restrict_self);
    if may_confine() {
        refused(libc::SYS_seccomp);
        holds_in_a_child(|| {
            let reason = sandbox(&[Path::new("/no/such/directory")]).unwrap_err();
            assert!(reason.contains("/no/such/directory"), "{reason}");
        });
    }
}
