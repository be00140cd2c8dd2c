//! Words to the service manager, in systemd's protocol (`sd_notify(3)`): datagrams to the socket in `NOTIFY_SOCKET`.
//!
//! It knows how to send, and nothing of what is to be said: the caller writes the lines. What it is said to is left in
//! the environment, for the program that takes over from this one.
//!
//! Invariant: sending never blocks. A manager that does not listen costs a message, not the gate.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use crate::{handed, process};

/// The service manager's ear.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    to: UnixAddr,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The one that the environment tells of: `NOTIFY_SOCKET` is a path, or an abstract name after `@`.
    ///
    /// `None` without the variable, with an address of another kind, or when no socket can be made.
    pub fn from_environment() -> Option<Self> {
        Self::told(|name| std::env::var_os(name), process::own_pid())
    }

    fn told(variable: impl Fn(&str) -> Option<OsString>, own_pid: u32) -> Option<Self> {
        let to = address(&variable("NOTIFY_SOCKET")?)?;
        let number = |name| variable(name).and_then(|text| text.to_str()?.parse::<u64>().ok());
        let is_for_us = variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(u64::from(own_pid));
        let watchdog = number("WATCHDOG_USEC").filter(|us| is_for_us && *us > 0).map(Duration::from_micros);
        // Made once and kept: words are most needed when there are no descriptors left.
        let socket = UnixDatagram::unbound().ok()?;
        Some(Self { socket, to, watchdog })
    }

    /// The longest silence (without `WATCHDOG=1`) that the manager puts up with; `None` when it does not watch.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends `text`: lines of `NAME=value`.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when the manager's queue is full; `ENOENT` or `ECONNREFUSED` when nobody listens.
    pub fn send(&self, text: &str) -> io::Result<()> {
        self.send_with(text, &[])
    }

    /// Leaves a copy of `fd` with the manager, which hands it to the next start of the service under this `name`. It
    /// keeps as many as its `FileDescriptorStoreMax` says, and does not answer.
    ///
    /// # Errors
    /// As [`Notifier::send`]; [`io::ErrorKind::InvalidInput`] for a name that cannot be one.
    pub fn store(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        handed::check_name(name)?;
        self.send_with(&format!("FDSTORE=1\nFDNAME={name}"), &[ControlMessage::ScmRights(&[fd.as_raw_fd()])])
    }

    /// Makes the manager close all that it keeps under this name.
    ///
    /// # Errors
    /// As [`Notifier::store`].
    pub fn unstore(&self, name: &str) -> io::Result<()> {
        handed::check_name(name)?;
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"))
    }

    fn send_with(&self, text: &str, beside: &[ControlMessage<'_>]) -> io::Result<()> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        // A datagram goes as a whole or not at all.
        sendmsg(self.socket.as_raw_fd(), &[IoSlice::new(text.as_bytes())], beside, flags, Some(&self.to))?;
        Ok(())
    }
}

fn address(text: &OsStr) -> Option<UnixAddr> {
    match text.as_bytes() {
        [b'@', name @ ..] if !name.is_empty() => UnixAddr::new_abstract(name).ok(),
        [b'/', ..] => UnixAddr::new(text).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{IoSliceMut, Read, Write};
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::sys::socket::{ControlMessageOwned, recvmsg};

    use super::*;

    fn notifier(pairs: &[(&str, &str)]) -> Option<Notifier> {
        let find = |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
        Notifier::told(find, 7)
    }

    /// One datagram, and the descriptor that came with it.
    fn received(socket: &UnixDatagram) -> (String, Option<OwnedFd>) {
        let mut bytes = [0; 512];
        let mut space = nix::cmsg_space!(i32);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags).unwrap();
        let beside = message.cmsgs().unwrap().find_map(|beside| match beside {
            // SAFETY: the kernel has just made it, and nobody else knows it.
            ControlMessageOwned::ScmRights(fds) => Some(unsafe { OwnedFd::from_raw_fd(fds[0]) }),
            _ => None,
        });
        let length = message.bytes;
        (String::from_utf8(bytes[..length].to_vec()).unwrap(), beside)
    }

    fn check(manager: &UnixDatagram, name: &str) {
        let notifier = notifier(&[("NOTIFY_SOCKET", name)]).unwrap();
        assert_eq!(notifier.watchdog(), None);
        notifier.send("READY=1\nSTATUS=2 workers").unwrap();
        assert_eq!(received(manager).0, "READY=1\nSTATUS=2 workers");
        let (read, write) = process::pipe().unwrap();
        notifier.store("gate.zone", read.as_fd()).unwrap();
        let (text, stored) = received(manager);
        assert_eq!(text, "FDSTORE=1\nFDNAME=gate.zone");
        drop(read);
        File::from(write).write_all(b"kept").unwrap();
        let mut kept = String::new();
        File::from(stored.unwrap()).read_to_string(&mut kept).unwrap();
        assert_eq!(kept, "kept", "what was stored is the pipe");
        notifier.unstore("gate.zone").unwrap();
        assert_eq!(received(manager).0, "FDSTOREREMOVE=1\nFDNAME=gate.zone");
        for name in ["a\nMAINPID=1", "a:b", ""] {
            assert_eq!(notifier.unstore(name).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(notifier.store(name, manager.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        let flags = fcntl(&notifier.socket, FcntlArg::F_GETFD).unwrap();
        assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
    }

    #[test]
    fn words_and_descriptors_reach_the_manager() {
        let path = std::env::temp_dir().join(format!("gate-notify-{}", process::own_pid()));
        let manager = UnixDatagram::bind(&path).unwrap();
        check(&manager, path.to_str().unwrap());
        std::fs::remove_file(&path).unwrap();
        let gone = notifier(&[("NOTIFY_SOCKET", path.to_str().unwrap())]).unwrap();
        assert_eq!(gone.send("READY=1").unwrap_err().kind(), io::ErrorKind::NotFound);
        let name = format!("gate-notify-{}", process::own_pid());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        check(&manager, &format!("@{name}"));
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        /// More than any queue of datagrams holds.
        const MANY: usize = 100_000;
        let name = format!("gate-notify-full-{}", process::own_pid());
        let _manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notifier = notifier(&[("NOTIFY_SOCKET", &format!("@{name}"))]).unwrap();
        let full = (0..MANY).find_map(|_| notifier.send("WATCHDOG=1").err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_environment_tells_whom_and_how_often() {
        let second = Some(Duration::from_secs(1));
        for (pid, us, expected) in [
            (None, "1000000", second),
            (Some("7"), "1000000", second),
            (Some("8"), "1000000", None),
            (Some("x"), "1000000", None),
            (None, "0", None),
            (None, "x", None),
        ] {
            let mut pairs = vec![("NOTIFY_SOCKET", "/run/x"), ("WATCHDOG_USEC", us)];
            pairs.extend(pid.map(|pid| ("WATCHDOG_PID", pid)));
            assert_eq!(notifier(&pairs).unwrap().watchdog(), expected, "{pid:?} {us}");
        }
        for none in ["", "@", "relative", "vsock:2:1234", &format!("/{}", "x".repeat(200))] {
            assert!(notifier(&[("NOTIFY_SOCKET", none)]).is_none(), "{none}");
        }
        assert!(notifier(&[]).is_none());
    }
}
