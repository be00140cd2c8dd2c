//! Listening sockets: bound by the master, kept for its life, handed to workers.
//!
//! A busy address is an error even though siblings share it: the first socket of an address is bound without
//! `SO_REUSEPORT`, which fails beside any other listener, and gets the option before it listens, so that our own
//! further sockets can join.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
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
    /// A socket that somebody else has bound and handed to us under this name.
    Named(String),
}

impl Address {
    /// The address as it is configured, which [`str::parse`] reads back: `127.0.0.1:0`, `unix:/p`, `fd://3` or
    /// `fd://name`.
    pub fn text(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(_) | Self::Inherited(_) | Self::Named(_) => self.to_string(),
        }
    }
}

/// A text that names no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnAddress;

impl fmt::Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither IP:PORT, unix:PATH, fd://N nor fd://NAME")
    }
}

impl std::error::Error for NotAnAddress {}

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(NotAnAddress) } else { Ok(Self::Unix(path.into())) };
        }
        let Some(called) = text.strip_prefix("fd://") else {
            return text.parse().map(Self::Tcp).map_err(|_| NotAnAddress);
        };
        match called.as_bytes() {
            [] => Err(NotAnAddress),
            [b'0'..=b'9', ..] => called.parse().map(Self::Inherited).map_err(|_| NotAnAddress),
            _ => Ok(Self::Named(called.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inherited(number) => write!(f, "fd://{number}"),
            Self::Named(name) => write!(f, "fd://{name}"),
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

/// The queue of connections that are established and not yet accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// How many wait.
    pub waiting: u32,
    /// How many may; the kernel lets one more in before it turns clients away.
    pub max: u32,
}

/// A socket that listens, without blocking. Dropping it closes this process's copy; a unix socket's file is removed
/// by [`Listener::retire`] only.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// As it was asked for: who made the socket, and with it what we may do to it.
    wanted: Address,
    /// As it is.
    address: Address,
    kind: Kind,
}

impl Listener {
    /// Binds `address` and listens with a queue of `backlog`.
    ///
    /// A unix socket file that nobody listens on any more is replaced. An inherited descriptor must be a listening
    /// stream socket; its queue length is left alone. One that [`crate::handed::take`] has taken has an owner already,
    /// as has any that was handed over under a name: those are for [`Listener::adopt`].
    ///
    /// # Errors
    /// `EADDRINUSE` when anybody listens there already, `EACCES`, `EADDRNOTAVAIL`; for an inherited descriptor
    /// [`io::ErrorKind::InvalidInput`] with what it is instead, or that nothing was handed over under its name.
    pub fn bind(address: &Address, backlog: i32) -> io::Result<Self> {
        match address {
            Address::Tcp(tcp) => {
                let socket = tcp_socket(*tcp)?;
                socket.bind(&(*tcp).into())?;
                socket.set_reuse_port(true)?;
                Self::listening(socket, *tcp, backlog)
            }
            Address::Unix(path) => {
                clear_stale(path)?;
                let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
                socket.bind(&SockAddr::unix(path)?)?;
                socket.listen(backlog)?;
                Ok(Self { socket, wanted: address.clone(), address: address.clone(), kind: Kind::Unix })
            }
            Address::Inherited(number) => {
                let (socket, local) = handed_over(inherited(*number)?)?;
                Ok(Self { socket, wanted: address.clone(), address: address.clone(), kind: kind_of(&local) })
            }
            Address::Named(name) => {
                Err(wrong(format!("no socket named {name} was handed over: LISTEN_FDNAMES has none of that name")))
            }
        }
    }

    /// Takes a socket that was handed over for `address`: by the service manager, or by a gate that had bound it.
    ///
    /// Its queue length is left alone.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for what is no listening stream socket, or one of another family than `address`.
    pub fn adopt(address: Address, fd: OwnedFd) -> io::Result<Self> {
        let (socket, local) = handed_over(fd)?;
        let kind = kind_of(&local);
        let wanted_kind = match &address {
            Address::Tcp(_) => Some(Kind::Tcp),
            Address::Unix(_) => Some(Kind::Unix),
            Address::Inherited(_) | Address::Named(_) => None,
        };
        if wanted_kind.is_some_and(|wanted| wanted != kind) {
            return Err(wrong("a socket of another family".into()));
        }
        let tcp = local.as_socket().map(Address::Tcp);
        let actual = tcp.or_else(|| local.as_pathname().map(|path| Address::Unix(path.into())));
        Ok(Self { socket, address: actual.unwrap_or_else(|| address.clone()), wanted: address, kind })
    }

    /// Binds a further socket to the same TCP address, with a queue of its own.
    ///
    /// # Errors
    /// As [`Listener::bind`]; [`io::ErrorKind::Unsupported`] for sockets that are not TCP or not ours.
    pub fn sibling(&self, backlog: i32) -> io::Result<Self> {
        let (Address::Tcp(_), Address::Tcp(tcp)) = (&self.wanted, &self.address) else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "only TCP sockets of our own have siblings"));
        };
        let socket = tcp_socket(*tcp)?;
        socket.set_reuse_port(true)?;
        socket.bind(&(*tcp).into())?;
        Self::listening(socket, *tcp, backlog)
    }

    fn listening(socket: Socket, wanted: SocketAddr, backlog: i32) -> io::Result<Self> {
        socket.listen(backlog)?;
        let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { socket, wanted: Address::Tcp(wanted), address: Address::Tcp(local), kind: Kind::Tcp })
    }

    /// The address that was asked for. Only where it is [`Address::Tcp`] can the socket have siblings.
    pub fn wanted(&self) -> &Address {
        &self.wanted
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

    /// Spreads new connections evenly over the first `sockets` of this address's sockets, in the order in which they
    /// were bound; without it, over all. Connections that wait already stay where they are.
    ///
    /// # Errors
    /// A kernel that does not let us; a socket that is not TCP or not ours.
    pub fn steer(&self, sockets: u32) -> io::Result<()> {
        // BPF of the classic kind: A = a random number; A %= sockets; return A, the socket's place in its group.
        const LOAD_WORD: u16 = 0x20;
        const MODULO: u16 = 0x94;
        const RETURN_A: u16 = 0x16;
        const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned();
        let step = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
        let mut steps = [step(LOAD_WORD, RANDOM), step(MODULO, sockets.max(1)), step(RETURN_A, 0)];
        let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
        // SAFETY: the kernel copies the program before it returns; `program` and the steps it points to live until
        // then, and the length given is that of `program`.
        let done = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_CBPF,
                (&raw const program).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// How long its queue is now. `None` for unix sockets, of which the kernel does not tell.
    pub fn queue(&self) -> Option<Queue> {
        if self.kind != Kind::Tcp {
            return None;
        }
        let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `info`, which has that many, and its length to `length`.
        let done = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        // SAFETY: it was zeroed, and holds integers only; what an older kernel does not write stays 0.
        let info = unsafe { info.assume_init() };
        // Of a listening socket the two fields tell of the queue.
        (done == 0).then_some(Queue { waiting: info.tcpi_unacked, max: info.tcpi_sacked })
    }

    /// Removes the file of a unix socket that we made. The socket itself closes with its last holder.
    ///
    /// # Errors
    /// What `unlink` answers.
    pub fn retire(&self) -> io::Result<()> {
        match &self.wanted {
            Address::Unix(path) => std::fs::remove_file(path),
            Address::Tcp(_) | Address::Inherited(_) | Address::Named(_) => Ok(()),
        }
    }
}

/// Whether [`Listener::steer`] does on this machine what it says: some kernels and most stand-ins for one take the
/// program and spread connections by their own hash all the same. Takes about a millisecond, on a loopback port of the
/// kernel's choice, and leaves nothing behind.
///
/// # Errors
/// Out of descriptors or ports, or no loopback interface.
pub fn steering_works() -> io::Result<bool> {
    /// Connections to try with. By chance, all go where they should once in 2^16 times where steering does not work.
    const TO_ONE: usize = 16;
    /// By chance, one of two sockets gets none of these once in 2^23 times where steering works.
    const TO_TWO: usize = 24;
    let first = Listener::bind(&Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))), TRIAL_BACKLOG)?;
    let second = first.sibling(TRIAL_BACKLOG)?;
    if first.steer(1).is_err() || arrivals([&first, &second], TO_ONE)? != [TO_ONE, 0] {
        return Ok(false);
    }
    if first.steer(2).is_err() {
        return Ok(false);
    }
    let [to_first, to_second] = arrivals([&first, &second], TO_TWO)?;
    Ok(to_first > 0 && to_second > 0 && to_first + to_second == TO_TWO)
}

/// Queue of a socket that [`steering_works`] tries with: longer than what it sends there.
const TRIAL_BACKLOG: i32 = 64;

/// Opens `count` connections to the address that both share, and tells how many come to each.
fn arrivals(sockets: [&Listener; 2], count: usize) -> io::Result<[usize; 2]> {
    /// How long they may take to come; they are there at once, but a machine may stall.
    const PATIENCE: Duration = Duration::from_millis(200);
    let address = sockets[0].socket.local_addr()?;
    let client = |_| {
        let client = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        // Closed, it is forgotten at once instead of keeping its port for a minute.
        client.set_linger(Some(Duration::ZERO))?;
        match client.connect(&address) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            Ok(()) | Err(_) => Ok(client),
        }
    };
    let _clients: Vec<Socket> = (0..count).map(client).collect::<io::Result<_>>()?;
    let until = Instant::now() + PATIENCE;
    let mut got = [0; 2];
    let accept = |socket: &Listener| std::iter::from_fn(|| socket.socket.accept().ok()).count();
    loop {
        for (got, socket) in got.iter_mut().zip(sockets) {
            *got += accept(socket);
        }
        let left = until.saturating_duration_since(Instant::now());
        if got.iter().sum::<usize>() >= count || left.is_zero() {
            return Ok(got);
        }
        let mut waits = sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        match poll(&mut waits, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(other) => return Err(other.into()),
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
pub(crate) fn clear_stale(path: &Path) -> io::Result<()> {
    if !is_socket(path) {
        return Ok(());
    }
    // Without blocking: somebody whose queue is full is alive too.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// The descriptor of this number that whoever started the process left to us.
fn inherited(number: u32) -> io::Result<OwnedFd> {
    let raw =
        RawFd::try_from(number).ok().filter(|raw| *raw > 2).ok_or_else(|| wrong("not a number from 3 up".into()))?;
    if !std::fs::exists(format!("/proc/self/fd/{raw}"))? {
        return Err(wrong("no such descriptor is open".into()));
    }
    // SAFETY: the descriptor is open (just checked), and no other thread is there to close it meanwhile.
    let flags = fcntl(unsafe { BorrowedFd::borrow_raw(raw) }, FcntlArg::F_GETFD)?;
    if FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC) {
        return Err(wrong("no such descriptor was handed over".into()));
    }
    // SAFETY: the descriptor is open, and nobody else in this process owns it: all that we open ourselves closes on
    // exec, as does what was taken before, and this one does not. Whoever started this process left it to us: the
    // operator names it in the configuration.
    let owned = unsafe { OwnedFd::from_raw_fd(raw) };
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(owned)
}

/// Makes a socket that somebody else has bound one that does not block, if it listens, and tells where.
pub(crate) fn handed_over(fd: OwnedFd) -> io::Result<(Socket, SockAddr)> {
    let socket = Socket::from(fd);
    let is_stream = socket.r#type().is_ok_and(|kind| kind == Type::STREAM);
    if !is_stream || !socket.is_listener().unwrap_or(false) {
        return Err(wrong("not a listening socket".into()));
    }
    socket.set_nonblocking(true)?;
    let local = socket.local_addr()?;
    if kind_of(&local) == Kind::Tcp {
        socket.set_tcp_nodelay(true)?;
    }
    Ok((socket, local))
}

fn kind_of(local: &SockAddr) -> Kind {
    if local.as_socket().is_some() { Kind::Tcp } else { Kind::Unix }
}

/// Whether there is a unix socket's file at this path.
pub fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Where a TCP socket is bound that somebody else has opened; `None` for any other descriptor.
pub fn local_address(socket: BorrowedFd<'_>) -> Option<Address> {
    let local = socket2::SockRef::from(&socket).local_addr().ok()?;
    local.as_socket().map(Address::Tcp)
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
            Address::Unix(_) | Address::Inherited(_) | Address::Named(_) => 0,
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
    fn connections_go_to_the_sockets_they_are_steered_to() {
        let first = Listener::bind(&loopback(0), 64).unwrap();
        let others: Vec<Listener> = (0..3).map(|_| first.sibling(64).unwrap()).collect();
        let waiting = |listener: &Listener| std::iter::from_fn(|| listener.socket.accept().ok()).count();
        let check = |sockets: u32, counts: fn(usize, usize, usize) -> bool| {
            first.steer(sockets).unwrap();
            let address = (std::net::Ipv4Addr::LOCALHOST, port(&first));
            let clients: Vec<_> = (0..40).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            let got = [waiting(&first), waiting(&others[0]), waiting(&others[1]) + waiting(&others[2])];
            assert_eq!(got.iter().sum::<usize>(), clients.len());
            assert!(counts(got[0], got[1], got[2]), "{sockets}: {got:?}");
        };
        check(1, |first, second, rest| first == 40 && second + rest == 0);
        check(2, |first, second, rest| first > 0 && second > 0 && rest == 0);
        check(4, |_, _, rest| rest > 0);
    }

    #[test]
    fn steering_is_known_to_work_and_the_trial_leaves_nothing() {
        // In a child: other tests open descriptors meanwhile.
        let child = crate::process::spawn_unchecked_threads((), |()| {
            let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            let before = open();
            assert!(steering_works().unwrap());
            assert_eq!(open(), before);
            0
        });
        assert_eq!(crate::process::wait(child.unwrap()).unwrap(), crate::process::Exit::Code(0));
    }

    #[test]
    fn arrivals_without_steering_go_to_both() {
        let first = Listener::bind(&loopback(0), 64).unwrap();
        let second = first.sibling(64).unwrap();
        let got = arrivals([&first, &second], 32).unwrap();
        assert!(got[0] > 0 && got[1] > 0 && got[0] + got[1] == 32, "{got:?}");
        assert_eq!(first.queue(), Some(Queue { waiting: 0, max: 64 }));
    }

    #[test]
    fn a_queue_tells_who_waits_and_how_many_may() {
        let listener = Listener::bind(&loopback(0), 16).unwrap();
        assert_eq!(listener.queue(), Some(Queue { waiting: 0, max: 16 }));
        let address = (std::net::Ipv4Addr::LOCALHOST, port(&listener));
        let _clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        assert_eq!(listener.queue(), Some(Queue { waiting: 3, max: 16 }));
        drop(listener.socket.accept().unwrap());
        assert_eq!(listener.queue(), Some(Queue { waiting: 2, max: 16 }));
        let path = std::env::temp_dir().join(format!("gate-queue-{}.sock", std::process::id()));
        let unix = Listener::bind(&Address::Unix(path), 16).unwrap();
        assert_eq!(unix.queue(), None);
        unix.retire().unwrap();
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
        let handed = |fd: OwnedFd| {
            fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
            Address::Inherited(fd.into_raw_fd().unsigned_abs())
        };
        let listening = handed(TcpListener::bind("127.0.0.1:0").unwrap().into());
        let adopted = Listener::bind(&listening, 16).unwrap();
        assert_eq!(adopted.kind(), Kind::Tcp);
        assert!(Listener::bind(&listening, 16).is_err(), "it is adopted already");
        let file = handed(std::fs::File::open("/dev/null").unwrap().into());
        assert_eq!(Listener::bind(&file, 16).unwrap_err().to_string(), "not a listening socket");
        let own = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = Address::Inherited(own.as_raw_fd().unsigned_abs());
        assert_eq!(Listener::bind(&number, 16).unwrap_err().to_string(), "no such descriptor was handed over");
        assert!(Listener::bind(&Address::Inherited(60_000), 16).is_err());
    }

    #[test]
    fn texts_of_addresses_are_read_back() {
        for text in ["127.0.0.1:0", "[::1]:80", "unix:/p", "unix:p:q", "fd://3", "fd://web.socket"] {
            assert_eq!(text.parse::<Address>().unwrap().text(), text);
        }
        for text in ["", "127.0.0.1", "localhost:1", "http://127.0.0.1:80", "unix:", "fd://", "fd://3x", "3"] {
            assert_eq!(text.parse::<Address>(), Err(NotAnAddress), "{text}");
        }
    }

    #[test]
    fn what_a_gate_hands_over_is_as_it_was() {
        let hand = |listener: &Listener| Listener::adopt(listener.wanted().clone(), listener.share().unwrap()).unwrap();
        let bound = Listener::bind(&loopback(0), 16).unwrap();
        let adopted = hand(&bound);
        assert_eq!((adopted.wanted(), adopted.address()), (&loopback(0), bound.address()));
        assert_eq!(port(&adopted.sibling(16).unwrap()), port(&bound));
        let path = std::env::temp_dir().join(format!("gate-adopt-{}.sock", std::process::id()));
        let adopted = hand(&Listener::bind(&Address::Unix(path.clone()), 16).unwrap());
        assert_eq!((adopted.kind(), adopted.address()), (Kind::Unix, &Address::Unix(path.clone())));
        adopted.retire().unwrap();
        assert!(!path.exists(), "it is the gate's");
        let other = Listener::adopt(Address::Unix(path), bound.share().unwrap()).unwrap_err();
        assert_eq!(other.to_string(), "a socket of another family");
    }

    #[test]
    fn what_the_service_manager_has_bound_is_left_to_it() {
        let path = std::env::temp_dir().join(format!("gate-activated-{}.sock", std::process::id()));
        let activated = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let adopted = Listener::adopt(Address::Inherited(3), activated.into()).unwrap();
        assert_eq!((adopted.kind(), adopted.address()), (Kind::Unix, &Address::Unix(path.clone())));
        adopted.retire().unwrap();
        assert!(path.exists());
        std::fs::remove_file(path).unwrap();
        let web = Address::Named("web".into());
        let activated = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = activated.local_addr().unwrap();
        let adopted = Listener::adopt(web.clone(), activated.into()).unwrap();
        assert_eq!((adopted.wanted(), adopted.address()), (&web, &Address::Tcp(local)));
        assert_eq!(adopted.socket.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(adopted.sibling(16).unwrap_err().kind(), io::ErrorKind::Unsupported);
        let missing = Listener::bind(&web, 16).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::InvalidInput);
        assert!(missing.to_string().starts_with("no socket named web was handed over"), "{missing}");
    }
}
