//! A service manager as the gate sees it: a datagram socket that it speaks to, descriptors that are kept for it, and a
//! start with descriptors handed over.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg, setsockopt};
use nix::unistd::Pid;

use crate::support::{Dir, Plan, wait_for};

/// Becomes the gate with the descriptors that wait in its standard input, from 3 up, as systemd would have it. Its words:
/// whom `LISTEN_PID` names (`own` or a pid), and how many descriptors come.
const LAUNCHER: &str = "
import fcntl, os, socket, sys
pid, count, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
door = socket.socket(fileno=0)
fds = socket.recv_fds(door, 1, 253)[1] if count else []
assert len(fds) == count
high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 500) for fd in fds]
[os.close(fd) for fd in fds]
[os.dup2(fd, 3 + place) for place, fd in enumerate(high)]
door.detach()
os.dup2(os.open('/dev/null', os.O_RDONLY | os.O_CLOEXEC), 0)
os.environ['LISTEN_PID'] = str(os.getpid()) if pid == 'own' else pid
os.execv(command[0], command)
";

/// One datagram.
#[derive(Debug, Clone)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) sender: Pid,
    pub(crate) at: Instant,
}

/// What has arrived, and what is kept by name.
#[derive(Default)]
struct Heard {
    words: Vec<Word>,
    kept: BTreeMap<String, Vec<RawFd>>,
}

/// The manager.
pub(crate) struct Manager {
    socket: Arc<UnixDatagram>,
    address: String,
    heard: Arc<Mutex<Heard>>,
    listener: Option<JoinHandle<()>>,
    read: usize,
    _dir: Dir,
}

impl Manager {
    /// One that listens at a path.
    pub(crate) fn new() -> Self {
        Self::at(Dir::new())
    }

    /// One that listens at `notify` in this directory.
    pub(crate) fn at(dir: Dir) -> Self {
        let path = dir.path("notify");
        Self::on(UnixDatagram::bind(&path).unwrap(), path.display().to_string(), dir)
    }

    /// One that listens at an abstract name.
    pub(crate) fn nameless() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gate-manager-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Self::on(socket, format!("@{name}"), Dir::new())
    }

    fn on(socket: UnixDatagram, address: String, dir: Dir) -> Self {
        setsockopt(&socket, PassCred, &true).unwrap();
        let (socket, heard) = (Arc::new(socket), Arc::<Mutex<Heard>>::default());
        let (ear, memory) = (Arc::clone(&socket), Arc::clone(&heard));
        let listener = std::thread::spawn(move || {
            while let Some((word, fd)) = receive(&ear) {
                memory.lock().unwrap().take_in(word, fd);
            }
        });
        Self { socket, address, heard, listener: Some(listener), read: 0, _dir: dir }
    }

    /// A gate that speaks to it.
    pub(crate) fn tells(&self, plan: Plan) -> Plan {
        plan.env("NOTIFY_SOCKET", &self.address)
    }

    /// Everything so far.
    pub(crate) fn words(&self) -> Vec<Word> {
        self.heard.lock().unwrap().words.clone()
    }

    /// How often it was said so far, as a line of its own.
    pub(crate) fn count(&self, line: &str) -> usize {
        self.words().iter().filter(|word| word.text.lines().any(|said| said == line)).count()
    }

    /// Waits for a datagram behind those of earlier waits that has a line beginning with `line`; returns it.
    #[track_caller]
    pub(crate) fn hears(&mut self, line: &str) -> Word {
        let from = self.read;
        let (index, word) = wait_for(&format!("{line} to the manager, after {:?}", self.words().get(from)), || {
            let words = self.words();
            let has = |word: &Word| word.text.lines().any(|said| said.starts_with(line));
            let index = words[from..].iter().position(has)?;
            Some((from + index, words[from + index].clone()))
        });
        self.read = index + 1;
        word
    }

    /// The names of what it keeps.
    pub(crate) fn names(&self) -> Vec<String> {
        self.heard.lock().unwrap().kept.keys().cloned().collect()
    }

    /// Waits until it keeps exactly these.
    #[track_caller]
    pub(crate) fn keeps(&self, names: &[&str]) {
        wait_for(&format!("{names:?} kept"), || (self.names() == names).then_some(()));
    }

    /// The number, in this process, of what it keeps under a name.
    pub(crate) fn kept(&self, name: &str) -> RawFd {
        self.heard.lock().unwrap().kept[name][0]
    }

    /// A gate that is handed all that is kept, as after the death of the one before.
    pub(crate) fn hands_on(&self, plan: Plan) -> Plan {
        let heard = self.heard.lock().unwrap();
        let all: Vec<(&str, RawFd)> =
            heard.kept.iter().flat_map(|(name, fds)| fds.iter().map(|fd| (name.as_str(), *fd))).collect();
        handed(self.tells(plan), &all)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _woken = self.socket.shutdown(Shutdown::Both);
        if let Some(listener) = self.listener.take() {
            let _ended = listener.join();
        }
    }
}

impl Heard {
    fn take_in(&mut self, word: Word, fd: Option<RawFd>) {
        let lines: Vec<&str> = word.text.lines().collect();
        let name = lines.iter().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default().to_owned();
        if lines.contains(&"FDSTOREREMOVE=1") {
            self.kept.remove(&name).into_iter().flatten().for_each(close);
        }
        if let Some(fd) = fd {
            assert!(lines.contains(&"FDSTORE=1"), "{lines:?}");
            self.kept.entry(name).or_default().push(fd);
        }
        self.words.push(word);
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        std::mem::take(&mut self.kept).into_values().flatten().for_each(close);
    }
}

fn close(fd: RawFd) {
    nix::unistd::close(fd).expect("it is kept open until here");
}

/// One datagram and the descriptor beside it; `None` once the socket is shut.
fn receive(socket: &UnixDatagram) -> Option<(Word, Option<RawFd>)> {
    let mut bytes = [0; 4096];
    let mut space = nix::cmsg_space!(RawFd, nix::libc::ucred);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let (mut sender, mut fd) = (None, None);
    for beside in message.cmsgs().unwrap() {
        match beside {
            ControlMessageOwned::ScmCredentials(who) => sender = Some(Pid::from_raw(who.pid())),
            ControlMessageOwned::ScmRights(fds) => fd = fds.first().copied(),
            _ => {}
        }
    }
    let length = message.bytes;
    let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
    (length > 0).then(|| (Word { text, sender: sender.expect("credentials"), at: Instant::now() }, fd))
}

/// A gate that is handed these, under these names.
pub(crate) fn handed(plan: Plan, all: &[(&str, RawFd)]) -> Plan {
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let plan = plan.env("LISTEN_FDS", &all.len().to_string()).env("LISTEN_FDNAMES", &names.join(":"));
    let fds: Vec<RawFd> = all.iter().map(|(_, fd)| *fd).collect();
    launched(plan, "own", &fds)
}

/// A gate that finds these descriptors from 3 up, and this word for `LISTEN_PID`.
pub(crate) fn launched(plan: Plan, pid: &str, fds: &[RawFd]) -> Plan {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let beside = [ControlMessage::ScmRights(fds)];
    let beside: &[_] = if fds.is_empty() { &[] } else { &beside };
    sendmsg::<()>(ours.as_raw_fd(), &[IoSlice::new(b"x")], beside, MsgFlags::empty(), None).unwrap();
    plan.stdin(OwnedFd::from(theirs)).launched_by(&["python3", "-c", LAUNCHER, pid, &fds.len().to_string()])
}
