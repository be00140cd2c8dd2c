//! Who listens on a port of 127.0.0.1, by the kernel's own word (`sock_diag`, as `ss` asks it).
//!
//! Not from `/proc/net/tcp`: that lists every closed connection of the last minute too, and reading it takes long
//! enough to show in what is measured.

use std::fs;
use std::io::{self, Read, Write};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::complaint::Complaint;

/// `AF_NETLINK` and `NETLINK_SOCK_DIAG`.
const NETLINK: i32 = 16;
const SOCK_DIAG: i32 = 4;
/// `SOCK_DIAG_BY_FAMILY`: the question, and each line of the answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` and `NLM_F_DUMP`.
const REQUEST_DUMP: u16 = 0x301;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Lengths of a message's head, and of the two bodies: `inet_diag_req_v2` and `inet_diag_msg`.
const HEAD: usize = 16;
const QUESTION: usize = 56;
const LINE: usize = 72;
/// Where things are in a line: the local port in network order, and the socket's inode at the end.
const LINE_PORT: usize = 4;
const LINE_INODE: usize = 68;
/// The state `LISTEN`, as a bit.
const LISTEN: u32 = 1 << 10;
/// The kernel answers at once; longer is a fault of ours, not something to wait for.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// What is read at once: dozens of lines, and a port has a few.
const PART: usize = 16 << 10;

/// Whether any process listens there.
pub(crate) fn is_held(port: u16) -> Result<bool, Complaint> {
    Ok(!sockets(port)?.is_empty())
}

/// Whether one of these processes listens there.
pub(crate) fn is_held_by(port: u16, processes: &[u32]) -> Result<bool, Complaint> {
    let wanted: Vec<String> = sockets(port)?.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let holds = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|target| wanted.iter().any(|socket| target.as_os_str() == socket.as_str()))
    };
    Ok(!wanted.is_empty() && processes.iter().any(holds))
}

fn sockets(port: u16) -> Result<Vec<u32>, Complaint> {
    ask(port).map_err(Complaint::io("asking the kernel who listens"))
}

/// The inodes of a port's listening sockets.
fn ask(port: u16) -> io::Result<Vec<u32>> {
    let mut diag = Socket::new(Domain::from(NETLINK), Type::RAW, Some(Protocol::from(SOCK_DIAG)))?;
    diag.set_read_timeout(Some(ANSWER_MAX))?;
    diag.write_all(&question(port))?;
    let (mut inodes, mut read) = (Vec::new(), vec![0; PART]);
    loop {
        let length = diag.read(&mut read)?;
        let answer = read.get(..length).unwrap_or_default();
        if lines(answer, port, &mut inodes)? == Rest::Nothing {
            return Ok(inodes);
        }
    }
}

/// A request for the listening IPv4 sockets of one port.
fn question(port: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + QUESTION);
    bytes.extend(((HEAD + QUESTION) as u32).to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST_DUMP.to_ne_bytes());
    // Sequence and sender: one question a socket, so nothing to tell apart.
    bytes.extend([0; 8]);
    // AF_INET, IPPROTO_TCP, no extensions, padding.
    bytes.extend([2, 6, 0, 0]);
    bytes.extend(LISTEN.to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.resize(HEAD + QUESTION, 0);
    bytes
}

/// Whether more of an answer follows.
#[derive(Debug, PartialEq)]
enum Rest {
    More,
    Nothing,
}

fn lines(mut answer: &[u8], port: u16, inodes: &mut Vec<u32>) -> io::Result<Rest> {
    let bad = || io::Error::other("an answer that is none");
    while !answer.is_empty() {
        let length = u32::from_ne_bytes(field(answer, 0).ok_or_else(bad)?) as usize;
        let message = answer.get(..length).filter(|message| message.len() >= HEAD).ok_or_else(bad)?;
        match u16::from_ne_bytes(field(message, 4).ok_or_else(bad)?) {
            DONE => return Ok(Rest::Nothing),
            ERROR => {
                let code = i32::from_ne_bytes(field(message, HEAD).ok_or_else(bad)?);
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            BY_FAMILY => {
                let line = message.get(HEAD..HEAD + LINE).ok_or_else(bad)?;
                if field(line, LINE_PORT).map(u16::from_be_bytes) == Some(port) {
                    inodes.extend(field(line, LINE_INODE).map(u32::from_ne_bytes));
                }
            }
            _ => {}
        }
        // Messages begin at multiples of four bytes.
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Rest::More)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = ((HEAD + body.len()) as u32).to_ne_bytes();
        [&length[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
    }

    #[test]
    fn answers_are_read_to_their_end() {
        let mut line = [0; LINE];
        line[LINE_PORT..LINE_PORT + 2].copy_from_slice(&8080u16.to_be_bytes());
        line[LINE_INODE..].copy_from_slice(&4711u32.to_ne_bytes());
        let mut inodes = Vec::new();
        let first = message(BY_FAMILY, &line);
        assert_eq!(lines(&first, 8080, &mut inodes).unwrap(), Rest::More);
        assert_eq!(lines(&first, 8081, &mut inodes).unwrap(), Rest::More);
        assert_eq!(lines(&message(DONE, &[0; 4]), 8080, &mut inodes).unwrap(), Rest::Nothing);
        assert_eq!(inodes, [4711]);
        let refused = lines(&message(ERROR, &(-2i32).to_ne_bytes()), 8080, &mut inodes).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        for bad in [&first[..20], &[0; 16], &[1], &message(BY_FAMILY, &[0; 8])] {
            assert!(lines(bad, 8080, &mut inodes).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn our_own_listener_is_found_and_connections_are_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let port = address.port();
        let own = [std::process::id()];
        assert!(is_held(port).unwrap() && is_held_by(port, &own).unwrap());
        assert!(!is_held_by(port, &[]).unwrap());
        let _kept = TcpStream::connect(address).unwrap();
        let _accepted = listener.accept().unwrap();
        drop(listener);
        assert!(!is_held_by(port, &own).unwrap());
    }
}
