//! Listening sockets: bound by the master, kept for its life, handed to workers.
//!
//! A busy address is an error even though siblings share it: the first socket of an address is bound without
//! `SO_REUSEPORT`, which fails beside any other listener, and gets the option before it listens, so that our own
//! further sockets can join.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// A TCP address; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A unix socket at this path.
    Unix(PathBuf),
    /// A socket that somebody else has bound and left open for us under this descriptor number.
    Inherited(u32),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inherited(number) => write!(f, "fd://{number}"),
        }
    }
}

/// What kind of peers a listener brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TCP, with peer addresses.
    Tcp,
    /// Unix: peers have no address.
    Unix,
}

/// A socket that listens, without blocking. Dropping it closes this process's copy; a unix socket's file is removed
/// by [`Listener::retire`] only.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
    kind: Kind,
}

impl Listener {
    /// Binds `address` and listens with a queue of `backlog`.
    ///
    /// A unix socket file that nobody listens on any more is replaced. An inherited descriptor must be a listening
    /// stream socket; its queue length is left alone.
    ///
    /// # Errors
    /// `EADDRINUSE` when anybody listens there already, `EACCES`, `EADDRNOTAVAIL`; for an inherited descriptor
    /// [`io::ErrorKind::InvalidInput`] with what it is instead.
    pub fn bind(address: &Address, backlog: i32) -> io::Result<Self> {
        match address {
            Address::Tcp(tcp) => {
                let socket = tcp_socket(*tcp)?;
                socket.bind(&(*tcp).into())?;
                socket.set_reuse_port(true)?;
                Self::listening(socket, backlog)
            }
            Address::Unix(path) => {
                clear_stale(path)?;
                let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
                socket.bind(&SockAddr::unix(path)?)?;
                socket.listen(backlog)?;
                Ok(Self { socket, address: address.clone(), kind: Kind::Unix })
            }
            Address::Inherited(number) => adopt(*number),
        }
    }

    /// Binds a further socket to the same TCP address, with a queue of its own.
    ///
    /// # Errors
    /// As [`Listener::bind`]; [`io::ErrorKind::Unsupported`] for sockets that are not TCP or not ours.
    pub fn sibling(&self, backlog: i32) -> io::Result<Self> {
        let Address::Tcp(tcp) = &self.address else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "only TCP sockets of our own have siblings"));
        };
        let socket = tcp_socket(*tcp)?;
        socket.set_reuse_port(true)?;
        socket.bind(&(*tcp).into())?;
        Self::listening(socket, backlog)
    }

    fn listening(socket: Socket, backlog: i32) -> io::Result<Self> {
        socket.listen(backlog)?;
        let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { socket, address: Address::Tcp(local), kind: Kind::Tcp })
    }

    /// The address, with the port that the kernel chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What kind of peers it brings.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Another descriptor of the same socket, for a runtime that wants to own one.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn share(&self) -> io::Result<OwnedFd> {
        Ok(self.socket.try_clone()?.into())
    }

    /// Removes the file of a unix socket that we made. The socket itself closes with its last holder.
    ///
    /// # Errors
    /// What `unlink` answers.
    pub fn retire(&self) -> io::Result<()> {
        match &self.address {
            Address::Unix(path) => std::fs::remove_file(path),
            Address::Tcp(_) | Address::Inherited(_) => Ok(()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it on Linux, which saves a call for each connection.
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Removes a socket file that nobody answers on. Anything else at that path is left for `bind` to complain about.
fn clear_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn adopt(number: u32) -> io::Result<Listener> {
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    let raw =
        RawFd::try_from(number).ok().filter(|raw| *raw > 2).ok_or_else(|| wrong("not a number from 3 up".into()))?;
    if !std::fs::exists(format!("/proc/self/fd/{raw}"))? {
        return Err(wrong("no such descriptor is open".into()));
    }
    // SAFETY: the descriptor is open (just checked) and was left to us by whoever started this process: the operator
    // names it in the configuration. Two `fd://` entries with one number would own it twice; the configuration refuses
    // that. If the number is one of our own, the operator has named a descriptor that was not handed over, which
    // the checks below catch unless it listens.
    let owned = unsafe { OwnedFd::from_raw_fd(raw) };
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let socket = Socket::from(owned);
    if !socket.is_listener().unwrap_or(false) {
        return Err(wrong("not a listening socket".into()));
    }
    socket.set_nonblocking(true)?;
    let local = socket.local_addr()?;
    let kind = if local.as_socket().is_some() { Kind::Tcp } else { Kind::Unix };
    if kind == Kind::Tcp {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(Listener { socket, address: Address::Inherited(number), kind })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::IntoRawFd;

    use super::*;

    fn loopback(port: u16) -> Address {
        Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn port(listener: &Listener) -> u16 {
        match listener.address() {
            Address::Tcp(address) => address.port(),
            Address::Unix(_) | Address::Inherited(_) => 0,
        }
    }

    #[test]
    fn a_busy_address_is_an_error_and_siblings_join() {
        let first = Listener::bind(&loopback(0), 16).unwrap();
        let second = Listener::bind(&loopback(port(&first)), 16);
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(port(&first.sibling(16).unwrap()), port(&first));
    }

    #[test]
    fn a_foreign_listener_that_allows_sharing_is_still_in_the_way() {
        let foreign = tcp_socket(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        foreign.set_reuse_port(true).unwrap();
        foreign.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        foreign.listen(1).unwrap();
        let port = foreign.local_addr().unwrap().as_socket().unwrap().port();
        assert_eq!(Listener::bind(&loopback(port), 16).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("gate-listen-{}.sock", std::process::id()));
        let address = Address::Unix(path.clone());
        drop(Listener::bind(&address, 16).unwrap());
        let live = Listener::bind(&address, 16).expect("nobody listens there any more");
        assert_eq!(Listener::bind(&address, 16).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        live.retire().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn only_a_listening_socket_is_adopted() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap().into_raw_fd().unsigned_abs();
        assert_eq!(Listener::bind(&Address::Inherited(listening), 16).unwrap().kind(), Kind::Tcp);
        let file = std::fs::File::open("/dev/null").unwrap().into_raw_fd().unsigned_abs();
        let refused = Listener::bind(&Address::Inherited(file), 16).unwrap_err();
        assert_eq!(refused.to_string(), "not a listening socket");
        assert!(Listener::bind(&Address::Inherited(60_000), 16).is_err());
    }
}
