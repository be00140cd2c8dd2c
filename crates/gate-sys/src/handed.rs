//! Descriptors that one program hands to the next, in the format of systemd's socket activation: from descriptor 3 up,
//! counted by `LISTEN_FDS`, named by `LISTEN_FDNAMES`, meant for the process in `LISTEN_PID`.
//!
//! It does not know what the names mean. The same format serves activated sockets, descriptors that the service manager
//! kept, and the program that takes over from this one.
//!
//! Invariant: what is handed over has exactly one owner, and is never inherited by accident: it closes on exec from the
//! moment it is taken.

use std::ffi::{CString, OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::{self, AccessFlags};

use crate::process::{self, Pid};

/// The first descriptor that is handed over; below are the standard streams.
const FIRST: u32 = 3;

/// Sixteen addresses with a socket for each of 256 workers, and room for what else there is.
const COUNT_MAX: u32 = 8_192;

/// systemd refuses longer names.
pub const NAME_BYTES_MAX: usize = 255;

/// The name of what was handed over without one, as systemd has it.
const NAMELESS: &str = "unknown";

/// Whom the descriptors are for.
const PID: &str = "LISTEN_PID";

/// How many there are.
const COUNT: &str = "LISTEN_FDS";

/// What they are called.
const NAMES: &str = "LISTEN_FDNAMES";

/// Whom the service manager watches over.
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// A descriptor that was handed to this process.
#[derive(Debug)]
pub struct Given {
    number: u32,
    name: String,
    fd: OwnedFd,
}

impl Given {
    /// The number under which it was handed over, which is how people name it: `fd://3`. Only a name from here on.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its name, as it was handed over; `unknown` where there was none.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The descriptor. It closes on exec.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Given {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Takes over what was handed to this process, in the order of the numbers, and removes the three variables from the
/// environment, whomever they were for. Call first thing in `main`, before anything else opens a descriptor.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] in a process with several threads; [`io::ErrorKind::InvalidData`] with what is wrong
/// in words for the operator: a variable that cannot be read, or a descriptor that was not handed over. Nothing has
/// been taken then.
pub fn take() -> io::Result<Vec<Given>> {
    process::one_thread()?;
    let [pid, count, names] = [PID, COUNT, NAMES].map(|name| {
        let value = std::env::var_os(name);
        // SAFETY: the process has one thread (just checked), so nobody reads the environment meanwhile.
        unsafe { std::env::remove_var(name) };
        value.map(|value| value.to_string_lossy().into_owned())
    });
    own(told(pid.as_deref(), count.as_deref(), names.as_deref(), process::own_pid())?)
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The names of all descriptors from [`FIRST`] up that the variables promise to the process `own_pid`.
fn told(pid: Option<&str>, count: Option<&str>, names: Option<&str>, own_pid: u32) -> io::Result<Vec<String>> {
    let (Some(pid), Some(count)) = (pid, count) else { return Ok(Vec::new()) };
    let number = |name: &str, text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|_| digits).ok_or_else(|| wrong(format!("{name}={text} is not a number")))
    };
    if number(PID, pid)? != own_pid {
        return Ok(Vec::new());
    }
    let count = number(COUNT, count)?;
    if count > COUNT_MAX {
        return Err(wrong(format!("{COUNT}={count} is more than the {COUNT_MAX} descriptors that can be taken over")));
    }
    let count = count as usize;
    let mut all: Vec<String> = names.into_iter().filter(|names| !names.is_empty()).flat_map(split).collect();
    if all.len() > count {
        return Err(wrong(format!("{NAMES} has {} names where {COUNT} says {count}", all.len())));
    }
    all.resize_with(count, || NAMELESS.to_owned());
    Ok(all)
}

fn split(names: &str) -> impl Iterator<Item = String> {
    names.split(':').map(|name| if name.is_empty() { NAMELESS.to_owned() } else { name.to_owned() })
}

fn own(names: Vec<String>) -> io::Result<Vec<Given>> {
    let numbers = FIRST..FIRST + names.len() as u32;
    for number in numbers.clone() {
        // SAFETY: the one thread there is does not close it meanwhile; when it is not open, the kernel says so.
        let seen = fcntl(unsafe { BorrowedFd::borrow_raw(number.cast_signed()) }, FcntlArg::F_GETFD);
        match seen.map(FdFlag::from_bits_retain) {
            Ok(flags) if !flags.contains(FdFlag::FD_CLOEXEC) => {}
            Ok(_) | Err(Errno::EBADF) => {
                let count = names.len();
                return Err(wrong(format!("{COUNT}={count} promises descriptor {number}, which was not handed over")));
            }
            Err(other) => return Err(other.into()),
        }
    }
    // SAFETY: all are open (just checked) and nobody in this process owns one: what we open ourselves closes on exec,
    // as does what has been taken before, and these do not. Whoever started this process says that they are for it.
    let owned = |number: u32| unsafe { OwnedFd::from_raw_fd(number.cast_signed()) };
    let given = numbers.zip(names).map(|(number, name)| Given { number, name, fd: owned(number) });
    let given: Vec<Given> = given.collect();
    for given in &given {
        fcntl(given, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    Ok(given)
}

/// Writes any text as a part of a name: `%`, `:` and everything but printable ASCII become `%XX`.
pub fn encode(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for byte in text.bytes() {
        if is_plain(byte) && byte != b'%' {
            name.push(char::from(byte));
        } else {
            write!(name, "%{byte:02X}").expect("a string takes what is written");
        }
    }
    name
}

/// The text that [`encode`] wrote as `name`; `None` when it cannot have.
pub fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, after @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let [high, low, after @ ..] = after else { return None };
        let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
        bytes.push(digit(high)? << 4 | digit(low)?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// What systemd takes in a name.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b':'
}

/// Whether a descriptor can be handed over under this name.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] with what is wrong.
pub(crate) fn check_name(name: &str) -> io::Result<()> {
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_plain) {
        return Ok(());
    }
    let what = format!(
        "{name:?} cannot be a descriptor's name: 1 to {NAME_BYTES_MAX} bytes of printable ASCII without a colon can"
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

/// Starts `program` in `directory`, with `arguments` (the first is the name it is called by) and with the descriptors
/// that it is `given`, and returns once the kernel runs it.
///
/// It gets the standard streams and what it is given, from descriptor 3 up and in that order, and of all other
/// descriptors none; this process's environment with the variables that say so; no blocked signal and every signal's
/// default action. Where the service manager watches over this process (`WATCHDOG_PID`), the program is told to be the
/// one. It is a child of this process, and outlives it.
///
/// # Errors
/// Why the program cannot be run, as the kernel has it (`ENOENT`, `EACCES`, `ENOEXEC`); that the directory cannot be
/// entered, with its name; [`io::ErrorKind::InvalidInput`] for a name that cannot be one or text with a zero byte;
/// [`io::ErrorKind::Unsupported`] in a process with several threads. There is no child then.
pub fn spawn_program(
    program: &Path,
    arguments: &[OsString],
    directory: &Path,
    given: &[(String, BorrowedFd<'_>)],
) -> io::Result<Pid> {
    process::one_thread()?;
    let image = Image::new(program, arguments, directory, given)?;
    let (told, tell) = unistd::pipe2(OFlag::O_CLOEXEC)?;
    let child = process::fork_into(|| image.become_it(&tell))?;
    drop(tell);
    let mut failure = Vec::new();
    std::fs::File::from(told).take(Failure::BYTES as u64).read_to_end(&mut failure)?;
    let Some(failure) = Failure::read(&failure) else { return Ok(child) };
    process::wait(child)?;
    Err(failure.explained(directory))
}

/// Why a child could not become the program.
struct Failure {
    step: u8,
    errno: i32,
}

impl Failure {
    const BYTES: usize = 5;
    const DIRECTORY: u8 = 1;
    const OTHER: u8 = 0;

    fn read(bytes: &[u8]) -> Option<Self> {
        let (step, errno) = bytes.split_first()?;
        Some(Self { step: *step, errno: i32::from_ne_bytes(errno.try_into().ok()?) })
    }

    fn bytes(&self) -> [u8; Self::BYTES] {
        let [a, b, c, d] = self.errno.to_ne_bytes();
        [self.step, a, b, c, d]
    }

    fn explained(&self, directory: &Path) -> io::Error {
        let error = io::Error::from_raw_os_error(self.errno);
        match self.step {
            Self::DIRECTORY => io::Error::new(error.kind(), format!("cannot enter {}: {error}", directory.display())),
            _ => error,
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self { step: Self::OTHER, errno: errno as i32 }
    }
}

/// All that the child needs, made before the fork.
struct Image {
    program: CString,
    directory: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    is_watched: bool,
    given: Vec<RawFd>,
}

impl Image {
    fn new(
        program: &Path,
        arguments: &[OsString],
        directory: &Path,
        given: &[(String, BorrowedFd<'_>)],
    ) -> io::Result<Self> {
        given.iter().try_for_each(|(name, _)| check_name(name))?;
        if given.len() > COUNT_MAX as usize {
            let what = format!("{} descriptors are more than the {COUNT_MAX} that can be handed over", given.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let names: Vec<&str> = given.iter().map(|(name, _)| name.as_str()).collect();
        let ours = [PID, COUNT, NAMES, WATCHDOG_PID];
        let others = std::env::vars_os().filter(|(name, _)| !ours.iter().any(|ours| name == ours));
        let told = [(COUNT, given.len().to_string()), (NAMES, names.join(":"))];
        let told = told.into_iter().map(|(name, value)| (name.into(), value.into()));
        let watched = std::env::var(WATCHDOG_PID).ok();
        let is_watched = watched.as_deref() == Some(process::own_pid().to_string().as_str());
        let foreign = watched.filter(|_| !is_watched).map(|pid| (WATCHDOG_PID.into(), pid.into()));
        let environment = others.chain(told).chain(foreign).map(variable).collect::<io::Result<_>>()?;
        let first = if arguments.is_empty() { Some(program.as_os_str()) } else { None };
        let arguments = first.into_iter().chain(arguments.iter().map(OsString::as_os_str));
        Ok(Self {
            program: CString::new(program.as_os_str().as_bytes())?,
            directory: CString::new(directory.as_os_str().as_bytes())?,
            arguments: arguments.map(|text| CString::new(text.as_bytes())).collect::<Result<_, _>>()?,
            environment,
            is_watched,
            given: given.iter().map(|(_, fd)| fd.as_raw_fd()).collect(),
        })
    }

    /// The child's life: it ends in the program, or with word of why not.
    fn become_it(mut self, tell: &OwnedFd) -> u8 {
        let end = end_of(&self.given);
        // Out of the way of the numbers that the given ones are to have.
        let tell = match fcntl(tell, FcntlArg::F_DUPFD_CLOEXEC(end)) {
            // SAFETY: a fresh descriptor, which nobody else knows.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            // Nothing has been moved yet, so the number that is in the way still leads to the parent.
            Err(errno) => return last_word(tell, &errno.into()),
        };
        let failure = self.run().unwrap_or_else(|failure| failure);
        last_word(&tell, &failure)
    }

    fn run(&mut self) -> Result<Failure, Failure> {
        arrange(&self.given)?;
        let own_pid = process::own_pid();
        self.environment.push(CString::new(format!("{PID}={own_pid}")).map_err(|_| Errno::EINVAL)?);
        if self.is_watched {
            self.environment.push(CString::new(format!("{WATCHDOG_PID}={own_pid}")).map_err(|_| Errno::EINVAL)?);
        }
        unistd::chdir(self.directory.as_c_str())
            .map_err(|errno| Failure { step: Failure::DIRECTORY, errno: errno as i32 })?;
        forget_signals()?;
        match unistd::execve(&self.program, &self.arguments, &self.environment) {
            Err(errno) => Ok(errno.into()),
            Ok(never) => match never {},
        }
    }
}

fn variable((name, value): (OsString, OsString)) -> io::Result<CString> {
    let mut text = name.into_vec();
    text.push(b'=');
    text.extend(value.into_vec());
    Ok(CString::new(text)?)
}

/// The first number beyond the given descriptors' places.
fn end_of(given: &[RawFd]) -> RawFd {
    (FIRST + given.len() as u32).cast_signed()
}

/// Puts the given descriptors into their places, without "close on exec", and lets all beyond close on exec.
fn arrange(given: &[RawFd]) -> Result<(), Errno> {
    let end = end_of(given);
    // First all away: one of them may have the number that another is to get.
    let away = given.iter().map(|fd| {
        // SAFETY: the parent borrowed it over the fork, so it is open here as well.
        fcntl(unsafe { BorrowedFd::borrow_raw(*fd) }, FcntlArg::F_DUPFD_CLOEXEC(end))
    });
    let away = away.collect::<Result<Vec<RawFd>, Errno>>()?;
    for (fd, place) in away.into_iter().zip(FIRST.cast_signed()..) {
        // SAFETY: takes two numbers. What is closed at `place` belongs to the master's frames, into which this child
        // never returns.
        Errno::result(unsafe { libc::dup2(fd, place) })?;
    }
    // SAFETY: only marks descriptors; nothing is closed before the exec.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, end.cast_unsigned(), u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(done).map(drop)
}

/// Gives every signal its default action, real-time ones included, and blocks none: what is ignored or blocked stays so
/// over the exec.
fn forget_signals() -> Result<(), Errno> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL runs no code of ours. KILL, STOP and the C library's own cannot be set, nor need they.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Tells the parent; the code is for whoever sees the child before it is reaped.
fn last_word(tell: &OwnedFd, failure: &Failure) -> u8 {
    /// The shell's "found, but cannot be run".
    const NOT_RUN: u8 = 126;
    // With the pipe broken there is nobody left to tell.
    let _told = unistd::write(tell, &failure.bytes());
    NOT_RUN
}

/// The file of the program that was called as `argument0` when the process was in `directory`, as it is found now.
///
/// A name with a slash is a path from the directory, whatever is there now: whoever runs it learns why it does not run.
/// Any other is looked for in `path` (the value of `PATH`); where that leads nowhere, it is the file that this process
/// runs, by the name that it has or had. `None` when there is no executable file at any of these places.
pub fn resolve(argument0: &OsStr, directory: &Path, path: Option<&OsStr>) -> Option<PathBuf> {
    if argument0.as_bytes().contains(&b'/') {
        return Some(directory.join(argument0));
    }
    let is_program = |file: &PathBuf| file.is_file() && unistd::access(file.as_path(), AccessFlags::X_OK).is_ok();
    // An empty entry is the directory itself.
    let places = path.filter(|_| !argument0.is_empty()).map(std::env::split_paths).into_iter().flatten();
    let mut files = places.map(|place| directory.join(place).join(argument0));
    files.find(is_program).or_else(|| own_file().filter(is_program))
}

/// The file that this process runs, by the name that it has or had.
fn own_file() -> Option<PathBuf> {
    let file = std::fs::read_link("/proc/self/exe").ok()?.into_os_string().into_vec();
    // The kernel says so of a file that was replaced; by now another may have its name.
    let name = file.strip_suffix(b" (deleted)").unwrap_or(&file);
    Some(PathBuf::from(OsString::from_vec(name.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_variables_say() {
        let names = |count, names| told(Some("7"), Some(count), names, 7).map_err(|error| error.to_string());
        for (count, given, expected) in [
            ("0", None, vec![]),
            ("2", None, vec!["unknown", "unknown"]),
            ("2", Some("a:b"), vec!["a", "b"]),
            ("3", Some("a::gate.bind.0.127.0.0.1%3A80"), vec!["a", "unknown", "gate.bind.0.127.0.0.1%3A80"]),
            ("2", Some("a"), vec!["a", "unknown"]),
            ("1", Some(""), vec!["unknown"]),
        ] {
            assert_eq!(names(count, given).unwrap(), expected, "{count} {given:?}");
        }
        assert_eq!(names("1", Some("a:b")).unwrap_err(), "LISTEN_FDNAMES has 2 names where LISTEN_FDS says 1");
        assert_eq!(names("+1", None).unwrap_err(), "LISTEN_FDS=+1 is not a number");
        assert_eq!(names("", None).unwrap_err(), "LISTEN_FDS= is not a number");
        assert!(names("8193", None).unwrap_err().contains("more than the 8192"));
        assert!(told(Some("x"), Some("1"), None, 7).unwrap_err().to_string().contains("LISTEN_PID=x"));
        for (pid, count) in [(Some("8"), Some("1")), (None, Some("1")), (Some("7"), None), (Some("8"), Some("bad"))] {
            assert!(told(pid, count, None, 7).unwrap().is_empty(), "{pid:?} {count:?}");
        }
    }

    #[test]
    fn names_carry_any_text() {
        for (text, name) in [
            ("127.0.0.1:8000", "127.0.0.1%3A8000"),
            ("unix:/run/x", "unix%3A/run/x"),
            ("fd://3", "fd%3A//3"),
            ("100%", "100%25"),
            ("ü\n", "%C3%BC%0A"),
            ("a b~", "a b~"),
            ("", ""),
        ] {
            assert_eq!(encode(text), name);
            assert_eq!(decode(name).as_deref(), Some(text));
        }
        for name in ["%", "%3", "%3g", "%+1", "%FF"] {
            assert_eq!(decode(name), None, "{name}");
        }
        for name in ["", "a:b", "a\n", "ü", &"x".repeat(256)] {
            assert_eq!(check_name(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        check_name(&"x".repeat(255)).unwrap();
    }

    #[test]
    fn a_program_is_found_as_it_was_at_the_start() {
        let root = std::env::temp_dir().join(format!("gate-resolve-{}", std::process::id()));
        std::fs::create_dir_all(root.join("bin")).unwrap();
        for (file, mode) in [("gate", 0o755), ("bin/gate", 0o755), ("bin/plain", 0o644)] {
            use std::os::unix::fs::PermissionsExt;
            std::fs::write(root.join(file), "").unwrap();
            std::fs::set_permissions(root.join(file), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let own = std::env::current_exe().unwrap();
        let bin = root.join("bin").into_os_string();
        for (argument0, path, expected) in [
            ("./gate", None, root.join("./gate")),
            ("bin/gate", Some(""), root.join("bin/gate")),
            ("gate", Some(bin.to_str().unwrap()), root.join("bin/gate")),
            ("gate", Some("/nowhere:bin"), root.join("bin/gate")),
            ("gate", Some(":bin"), root.join("gate")),
            ("plain", Some("bin"), own.clone()),
            ("bin", Some(root.to_str().unwrap()), own.clone()),
            ("./lost", None, root.join("./lost")),
            ("gate", None, own.clone()),
            ("", Some("bin"), own),
        ] {
            let found = resolve(OsStr::new(argument0), &root, path.map(OsStr::new));
            assert_eq!(found, Some(expected), "{argument0} {path:?}");
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
