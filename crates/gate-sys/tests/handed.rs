//! Programs that hand descriptors to each other, for real: this binary executes itself.
//!
//! It has no harness, because both ends need a process with one thread and an environment of their own.
#![expect(clippy::unwrap_used, reason = "all of this file is tests, though none is marked as one")]

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use gate_sys::handed::{self, Given};
use gate_sys::process::{self, Exit};
use gate_sys::signals::{Signal, Signals};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl;
use nix::sys::signal::{self, SigHandler};
use nix::unistd::pipe2;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("report") => report(),
        Some("broken") => broken(),
        _ => {
            a_program_gets_what_it_is_given_and_nothing_else();
            a_program_that_cannot_run_is_told_and_leaves_no_child();
            a_name_that_cannot_be_one_is_refused();
            promises_that_are_not_kept_are_told();
            println!("handed: all passed");
        }
    }
    ExitCode::SUCCESS
}

/// The program that is started: it tells what it finds.
fn report() {
    let mut given = handed::take().unwrap();
    let mut text = String::new();
    for given in &given {
        let number = given.as_fd().as_raw_fd();
        let closes = FdFlag::from_bits_retain(fcntl(given, FcntlArg::F_GETFD).unwrap()).contains(FdFlag::FD_CLOEXEC);
        let kind = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
        let kind = kind.to_string_lossy().split([':', '[']).next().unwrap().to_owned();
        writeln!(text, "{} {} {number} {kind} {closes}", given.name(), given.number()).unwrap();
    }
    writeln!(text, "again {}", handed::take().unwrap().len()).unwrap();
    let left = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].iter().filter(|name| std::env::var_os(name).is_some());
    writeln!(text, "left {}", left.count()).unwrap();
    writeln!(text, "watched {}", std::env::var("WATCHDOG_PID").unwrap() == process::own_pid().to_string()).unwrap();
    writeln!(text, "kept {}", std::env::var("HANDED_KEPT").unwrap()).unwrap();
    writeln!(text, "arguments {:?}", std::env::args().collect::<Vec<_>>()).unwrap();
    writeln!(text, "directory {}", std::env::current_dir().unwrap().display()).unwrap();
    writeln!(text, "at parent's death {:?}", prctl::get_pdeathsig().unwrap()).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    for name in ["SigBlk:", "SigIgn:"] {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        // Without the two that the C library keeps for itself: whoever runs the tests may have left them ignored.
        let set = u64::from_str_radix(line.trim(), 16).unwrap() & !(0b11 << 31);
        writeln!(text, "{name} {set:x}").unwrap();
    }
    // Up to what reading the directory takes itself.
    writeln!(text, "open {}", std::fs::read_dir("/proc/self/fd").unwrap().count() - 1).unwrap();
    let out = given.remove(given.iter().position(|given| given.name() == "out").unwrap());
    File::from(out.into_fd()).write_all(text.as_bytes()).unwrap();
}

fn a_program_gets_what_it_is_given_and_nothing_else() {
    let signals = Signals::open().unwrap();
    // SAFETY: SIG_IGN runs no code.
    unsafe { signal::signal(Signal::SIGPWR, SigHandler::SigIgn).unwrap() };
    // SAFETY: one thread.
    unsafe {
        std::env::set_var("WATCHDOG_PID", process::own_pid().to_string());
        std::env::set_var("HANDED_KEPT", "yes");
        std::env::set_var("LISTEN_FDNAMES", "of:somebody:else");
    }
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let second = File::open("/dev/null").unwrap();
    let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let bystander = fcntl(&second, FcntlArg::F_DUPFD(20)).unwrap();
    assert!(bystander >= 20, "it would be inherited by an ordinary exec");
    // In an order in which each number is wanted by another.
    let given: Vec<(String, BorrowedFd<'_>)> = vec![
        ("out".into(), write.as_fd()),
        ("gate.bind.0.127.0.0.1%3A80".into(), first.as_fd()),
        ("null".into(), second.as_fd()),
        ("again".into(), second.as_fd()),
    ];
    let arguments = ["handed by any name", "report"].map(OsString::from);
    let own = std::env::current_exe().unwrap();
    let child = handed::spawn_program(&own, &arguments, Path::new("/proc"), &given).unwrap();
    drop(write);
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).unwrap();
    assert_eq!(process::wait(child).unwrap(), Exit::Code(0), "{text}");
    // The SIGPIPE that std ignores at its start is bit 12.
    let expected = r#"out 3 3 pipe true
gate.bind.0.127.0.0.1%3A80 4 4 socket true
null 5 5 /dev/null true
again 6 6 /dev/null true
again 0
left 0
watched true
kept yes
arguments ["handed by any name", "report"]
directory /proc
at parent's death None
SigBlk: 0
SigIgn: 1000
open 7
"#;
    assert_eq!(text, expected);
    for fd in [first.as_fd(), second.as_fd()] {
        assert!(fcntl(fd, FcntlArg::F_GETFD).unwrap() != 0, "the parent's own are as they were");
    }
    drop(signals);
}

fn a_program_that_cannot_run_is_told_and_leaves_no_child() {
    let root = Scratch::new();
    let plain = root.file("plain", 0o644);
    let noise = root.file("noise", 0o755);
    let own = std::env::current_exe().unwrap();
    for (program, directory, errno) in [
        (Path::new("/nowhere/at/all"), "/", Some(libc::ENOENT)),
        (plain.as_path(), "/", Some(libc::EACCES)),
        (noise.as_path(), "/", Some(libc::ENOEXEC)),
        (own.as_path(), "/nowhere", None),
    ] {
        let error = handed::spawn_program(program, &[], Path::new(directory), &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), errno, "{error}");
        if errno.is_none() {
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            assert!(error.to_string().starts_with("cannot enter /nowhere: "), "{error}");
        }
        let nobody = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        assert_eq!(nobody, Err(nix::errno::Errno::ECHILD));
    }
}

fn a_name_that_cannot_be_one_is_refused() {
    let null = File::open("/dev/null").unwrap();
    for name in ["a:b", "", "a\nLISTEN_PID=1"] {
        let given = [(name.to_owned(), null.as_fd())];
        let error = handed::spawn_program(Path::new("/bin/true"), &[], Path::new("/"), &given).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
    }
}

/// The program that is promised more than it gets: descriptor 3 is there, 4 is not.
fn broken() {
    let error = handed::take().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    println!("{error}");
    assert_eq!(handed::take().map(|given: Vec<Given>| given.len()).unwrap(), 0, "the promise is gone");
    assert!(std::fs::exists("/proc/self/fd/3").unwrap(), "nothing was taken, so nothing was closed");
}

fn promises_that_are_not_kept_are_told() {
    let script = r#"LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES= exec "$0" broken 3</dev/null 4<&-"#;
    let own = std::env::current_exe().unwrap();
    let output = Command::new("/bin/sh").args([OsStr::new("-c"), script.as_ref(), own.as_os_str()]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "LISTEN_FDS=2 promises descriptor 4, which was not handed over\n");
}

/// A directory that is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("gate-handed-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, mode: u32) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(name);
        std::fs::write(&path, "\u{1}\u{2} neither a program nor a script").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
