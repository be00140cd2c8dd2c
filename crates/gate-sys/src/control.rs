//! The operator's socket: a unix socket that only its owner and root can connect to, and that knows who did.
//!
//! It reads and writes nothing; what is said over a connection is known elsewhere.
//!
//! Invariant: its file never has a mode that lets others in, not even before it listens.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::listen::{clear_stale, handed_over};

/// Orders that may wait: operators are few, and their scripts try again.
const BACKLOG: i32 = 16;

/// A unix socket that listens for orders, without blocking. Dropping it closes this process's copy and leaves the file.
#[derive(Debug)]
pub struct ControlSocket {
    socket: Socket,
    path: PathBuf,
}

/// A connection, and who made it.
#[derive(Debug)]
pub struct Peer {
    /// Without blocking.
    pub stream: UnixStream,
    /// The effective user of the process when it connected.
    pub uid: u32,
    /// The process; 0 when it lives in another pid namespace.
    pub pid: u32,
}

impl ControlSocket {
    /// Listens at `path`, on a file of mode 0600. A socket file that nobody answers on is replaced.
    ///
    /// # Errors
    /// `EADDRINUSE` when somebody answers there, or when the file is no socket; `EACCES`, `ENOENT`;
    /// [`io::ErrorKind::InvalidInput`] for a path that is too long for a socket.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let address = SockAddr::unix(path)?;
        clear_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        // Linux gives the file the mode of the socket, less the umask: no moment is left in which others could connect.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
        socket.bind(&address)?;
        socket.listen(BACKLOG)?;
        Ok(Self { socket, path: path.to_path_buf() })
    }

    /// Takes the listening socket at `path` that another process has handed over.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for what is no listening unix socket of that path.
    pub fn adopt(path: &Path, fd: OwnedFd) -> io::Result<Self> {
        let (socket, local) = handed_over(fd)?;
        if local.as_pathname() != Some(path) {
            let what = format!("not the control socket at {}", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(Self { socket, path: path.to_path_buf() })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection, if one waits. Never blocks.
    ///
    /// # Errors
    /// Out of file descriptors or memory: the connection waits on.
    pub fn accept(&self) -> io::Result<Option<Peer>> {
        let stream = match self.socket.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {
                        Ok(None)
                    }
                    _ => Err(error),
                };
            }
        };
        stream.set_nonblocking(true)?;
        let peer = getsockopt(&stream, PeerCredentials)?;
        // The kernel tells 0 for a process that has no number here.
        let pid = u32::try_from(peer.pid()).unwrap_or(0);
        Ok(Some(Peer { stream: UnixStream::from(OwnedFd::from(stream)), uid: peer.uid(), pid }))
    }

    /// Removes the file. Connections and copies in other processes stay as they are.
    ///
    /// # Errors
    /// What `unlink` answers.
    pub fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether this user may give orders: root, and whom this process acts as. The file's mode says the same, unless
/// somebody has changed it.
pub fn permitted(uid: u32) -> bool {
    permitted_by(geteuid().as_raw(), uid)
}

fn permitted_by(own: u32, uid: u32) -> bool {
    const ROOT: u32 = 0;
    uid == ROOT || uid == own
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;
    use crate::process;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("gate-control-{name}-{}", process::own_pid()))
    }

    fn closes_on_exec(fd: impl AsFd) -> bool {
        FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap()).contains(FdFlag::FD_CLOEXEC)
    }

    #[test]
    fn it_is_the_owners_alone_from_the_first_moment() {
        let path = path("mode");
        let address = SockAddr::unix(&path).unwrap();
        // As `bind` does it, stopped before it listens.
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        socket.bind(&address).unwrap();
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        drop(socket);
        let control = ControlSocket::bind(&path).expect("nobody answers there");
        assert_eq!((mode(), control.path()), (0o600, path.as_path()));
        assert!(closes_on_exec(&control));
        control.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_live_one_is_in_the_way_and_a_stale_one_is_not() {
        let path = path("stale");
        let first = ControlSocket::bind(&path).unwrap();
        assert_eq!(ControlSocket::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(path.exists(), "dropping it leaves the file");
        let second = ControlSocket::bind(&path).expect("nobody answers there any more");
        second.remove().unwrap();
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(ControlSocket::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        std::fs::remove_file(&path).unwrap();
        let long = ControlSocket::bind(Path::new(&format!("/{}", "x".repeat(200)))).unwrap_err();
        assert_eq!(long.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn it_knows_who_connects() {
        let path = path("peer");
        let control = ControlSocket::bind(&path).unwrap();
        assert!(control.accept().unwrap().is_none());
        let mut client = UnixStream::connect(&path).unwrap();
        let mut peer = control.accept().unwrap().unwrap();
        assert_eq!((peer.uid, peer.pid), (geteuid().as_raw(), process::own_pid()));
        assert!(closes_on_exec(&peer.stream));
        let mut line = [0; 8];
        assert_eq!(peer.stream.read(&mut line).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"status").unwrap();
        assert_eq!(peer.stream.read(&mut line).unwrap(), 6);
        control.remove().unwrap();
    }

    #[test]
    fn it_is_adopted_where_it_was() {
        let path = path("adopted");
        let control = ControlSocket::bind(&path).unwrap();
        let fd = || control.as_fd().try_clone_to_owned().unwrap();
        let adopted = ControlSocket::adopt(&path, fd()).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        assert!(adopted.accept().unwrap().is_some());
        let elsewhere = ControlSocket::adopt(Path::new("/run/elsewhere"), fd()).unwrap_err();
        assert_eq!(elsewhere.to_string(), "not the control socket at /run/elsewhere");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for other in [OwnedFd::from(tcp), OwnedFd::from(file)] {
            assert_eq!(ControlSocket::adopt(&path, other).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        control.remove().unwrap();
    }

    #[test]
    fn root_and_the_owner_are_permitted() {
        for (own, uid, expected) in
            [(0, 0, true), (0, 1000, false), (1000, 1000, true), (1000, 0, true), (1000, 1001, false)]
        {
            assert_eq!(permitted_by(own, uid), expected, "{own} {uid}");
        }
        assert!(permitted(geteuid().as_raw()));
    }
}
