//! Who the client is: the peer of the connection, or whom trusted proxies say they speak for.
//!
//! It reads `X-Forwarded-For` only; `X-Real-IP` and `Forwarded` are never believed. It does not parse lists of proxies.
//!
//! Invariants: a header from a peer that is not trusted changes nothing; behind trusted proxies, whatever a client puts
//! in front of what they append changes nothing; an IPv4 address is the same client whether it came over an IPv4 or an
//! IPv6 socket.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

use crate::subject::Subject;

#[cfg(test)]
mod tests;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A TCP connection from this address.
    Ip(IpAddr),
    /// A connection over a unix socket, which has no address.
    Unix,
}

impl Peer {
    /// IPv4 addresses in their IPv6 form (`::ffff:192.0.2.1`), as a `[::]` listener sees them, become IPv4 again.
    fn canonical(self) -> Self {
        match self {
            Self::Ip(ip) => Self::Ip(ip.to_canonical()),
            Self::Unix => Self::Unix,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Unix => f.pad("unix"),
        }
    }
}

/// Which proxies are believed when they say whom they speak for.
#[derive(Debug, Clone)]
pub struct Trust(Believed);

#[derive(Debug, Clone)]
enum Believed {
    Everyone,
    Networks(Vec<IpNet>),
}

impl Trust {
    /// Believes everyone. Clients then choose their own address.
    pub fn everyone() -> Self {
        Self(Believed::Everyone)
    }

    /// Believes peers in these networks: nobody, if there are none. IPv4 networks in IPv6 form mean the IPv4 ones.
    pub fn networks(networks: Vec<IpNet>) -> Self {
        Self(Believed::Networks(networks.into_iter().map(canonical_network).collect()))
    }

    /// Whether the headers of this peer are believed. A unix peer is only when everyone is.
    pub fn is_trusted(&self, peer: Peer) -> bool {
        match (&self.0, peer.canonical()) {
            (Believed::Everyone, _) => true,
            (Believed::Networks(networks), Peer::Ip(ip)) => networks.iter().any(|network| network.contains(&ip)),
            (Believed::Networks(_), Peer::Unix) => false,
        }
    }

    /// The client behind `peer`, given the values of the `X-Forwarded-For` lines in their order.
    ///
    /// The entries of all lines are one list, to which each proxy appended at the right. From there, entries of trusted
    /// proxies are skipped, and the first other one is the client; if all are trusted, it is the leftmost. Entries are
    /// addresses, with or without port, brackets or quotes. What is none of these ends the walk: the client is then the
    /// last trusted hop that could be read, at worst the peer. When everyone is believed, the client is the leftmost
    /// entry that can be read.
    pub fn client<'a>(&self, peer: Peer, forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>) -> Client {
        let peer = peer.canonical();
        if !self.is_trusted(peer) {
            return Client(peer);
        }
        let is_comma = |byte: &u8| *byte == b',';
        if matches!(self.0, Believed::Everyone) {
            return Client(forwarded_for.flat_map(|line| line.split(is_comma)).find_map(hop).unwrap_or(peer));
        }
        let mut client = peer;
        for entry in forwarded_for.rev().flat_map(|line| line.rsplit(is_comma)) {
            let Some(hop) = hop(entry) else { break };
            client = hop;
            if !self.is_trusted(hop) {
                break;
            }
        }
        Client(client)
    }
}

fn canonical_network(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    v4.and_then(|(addr, length)| Ipv4Net::new(addr, length).ok()).map_or(network, IpNet::V4)
}

/// One entry of the header as an address.
fn hop(entry: &[u8]) -> Option<Peer> {
    let text = str::from_utf8(entry).ok()?.trim_ascii();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(|ip: Ipv6Addr| ip.into());
    let with_port = || text.parse().ok().map(|socket: SocketAddr| socket.ip());
    let ip: Option<IpAddr> = text.parse().ok().or_else(with_port).or_else(bracketed);
    ip.map(|ip| Peer::Ip(ip).canonical())
}

/// Whom requests are counted for and logged as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(Peer);

impl Client {
    /// How it appears in logs: its whole address, or `unix`.
    pub fn addr(&self) -> impl fmt::Display + use<> {
        self.0
    }

    /// Its address; none has one who comes over a unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.0 {
            Peer::Ip(ip) => Some(ip),
            Peer::Unix => None,
        }
    }

    /// What it is counted by: an IPv4 address, an IPv6 /64 (which one subscriber can fill at will), or all unix peers.
    pub fn key(&self) -> Prefix {
        self.prefix(32, 64)
    }

    /// What it is counted by where clients cannot be told apart: an IPv4 /24, an IPv6 /48, or all unix peers.
    pub fn wider(&self) -> Prefix {
        self.prefix(24, 48)
    }

    /// Whom it is counted as where it has no key.
    pub fn subject(&self) -> Subject {
        Subject::of_blocks(self.key(), self.wider())
    }

    fn prefix(&self, v4_bits: u8, v6_bits: u8) -> Prefix {
        let mut octets = [0; Prefix::OCTETS];
        match self.0 {
            Peer::Ip(IpAddr::V4(ip)) => {
                let kept = u32::from(ip) & (u32::MAX << (32 - u32::from(v4_bits)));
                octets[..2].copy_from_slice(&[4, v4_bits]);
                octets[2..6].copy_from_slice(&kept.to_be_bytes());
            }
            Peer::Ip(IpAddr::V6(ip)) => {
                let kept = u128::from(ip) & (u128::MAX << (128 - u32::from(v6_bits)));
                octets[..2].copy_from_slice(&[6, v6_bits]);
                octets[2..].copy_from_slice(&kept.to_be_bytes());
            }
            Peer::Unix => octets[0] = 1,
        }
        Prefix(octets)
    }
}

/// A block of clients that share a count: family, length and leading bits of their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix([u8; Prefix::OCTETS]);

impl Prefix {
    /// Octets of [`Prefix::as_octets`]: one for the family, one for the length, 16 for the address.
    pub const OCTETS: usize = 18;

    /// A block, or what else is to have the octets of one: its family (4 and 6 are IP's, 1 unix peers) and 17 more.
    pub(crate) fn of(family: u8, bits: u8, address: [u8; 16]) -> Self {
        let mut octets = [0; Self::OCTETS];
        octets[..2].copy_from_slice(&[family, bits]);
        octets[2..].copy_from_slice(&address);
        Self(octets)
    }

    /// The same for the same block in every process and release, different for different blocks.
    pub fn as_octets(&self) -> &[u8; Self::OCTETS] {
        &self.0
    }
}
