//! Whom a request is counted for: the peer, or whom a trusted proxy says it speaks for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;

use crate::stage::{article, echo, gate};
use crate::support::http::{self, Client};
use crate::support::{Dir, Gate};

/// The status for a client that a proxy on this machine names.
fn as_client(gate: &Gate, forwarded_for: &str) -> u16 {
    gate.ask(&article("hi").header("X-Forwarded-For", forwarded_for)).status
}

#[test]
fn a_trusted_proxy_is_believed_as_far_as_it_can_know() {
    let backend = echo();
    let gate = gate(&backend, &["--workers", "2", "--limit", "1/hour"]).start();
    let cases = [
        ("192.0.2.1", 200),
        ("192.0.2.1", 429),
        ("192.0.2.2", 200),
        // What a client put in front of what the proxy appended changes nothing.
        ("203.0.113.7, 192.0.2.1", 429),
        ("203.0.113.7, 192.0.2.1, 127.0.0.1", 429),
        ("192.0.2.1:5000", 429),
        ("::ffff:192.0.2.1", 429),
        ("\"[2001:db8::1]:9\"", 200),
        // One subscriber has all of a /64.
        ("2001:db8::ffff:1", 429),
        ("2001:db8:0:1::1", 200),
    ];
    for (forwarded_for, status) in cases {
        assert_eq!(as_client(&gate, forwarded_for), status, "{forwarded_for}");
    }
    let other = article("hi").header("X-Real-IP", "192.0.2.99").header("Forwarded", "for=192.0.2.98");
    assert_eq!([1, 2].map(|_| gate.ask(&other).status), [200, 429], "the peer: only X-Forwarded-For is read");
}

#[test]
fn several_lines_are_one_list() {
    let backend = echo();
    let gate = gate(&backend, &["--limit", "1/hour"]).start();
    assert_eq!(as_client(&gate, "192.0.2.1"), 200);
    let request = article("hi").header("X-Forwarded-For", "203.0.113.5").header("X-Forwarded-For", "192.0.2.1");
    assert_eq!(gate.ask(&request).status, 429);
}

#[test]
fn an_untrusted_peer_is_one_client_whatever_it_forges() {
    let backend = echo();
    let gate = gate(&backend, &["--workers", "2", "--limit", "10/minute", "--forwarded-allow-ips", ""]).start();
    let mut client = Client::connect(gate.address());
    let forged = |number: u32| {
        let address = if number.is_multiple_of(2) {
            Ipv4Addr::from(0x0a00_0000 + number).to_string()
        } else {
            Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(number) << 64).to_string()
        };
        article("hi").header("X-Forwarded-For", &address)
    };
    let passed = (0..1000).filter(|number| client.ask(&forged(*number)).unwrap().status == 200).count();
    assert_eq!(passed, 10);
}

#[test]
fn who_trusts_everyone_lets_clients_choose() {
    let backend = echo();
    let gate = gate(&backend, &["--limit", "1/hour", "--forwarded-allow-ips", "*"]).start();
    assert_eq!(as_client(&gate, "203.0.113.1, 192.0.2.1"), 200);
    assert_eq!(as_client(&gate, "203.0.113.2, 192.0.2.1"), 200);
    assert_eq!(as_client(&gate, "203.0.113.1"), 429);
}

#[test]
fn one_address_is_one_client_over_both_families() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("no IPv6 on this machine: nothing to see");
        return;
    }
    let backend = echo();
    let gate = gate(&backend, &["--limit", "1/hour", "--bind", "[::]:0"]).start();
    let port = gate.address().port();
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let ask = |to: SocketAddr, client: &str| {
        let request = article("hi");
        let request = if client.is_empty() { request } else { request.header("X-Forwarded-For", client) };
        http::ask(to, &request).status
    };
    assert_eq!(ask(v6, "127.0.0.1"), 200);
    // The peer is ::ffff:127.0.0.1 to the socket.
    assert_eq!(ask(v4, ""), 429);
    assert_eq!(ask(v4, "192.0.2.1"), 200, "which is as trusted as 127.0.0.1");
    assert_eq!(ask(v6, "192.0.2.1"), 429);
    assert_eq!([ask(v6, ""), ask(v6, "")], [200, 429], "::1 is another client");
}

#[test]
fn unix_peers_are_one_client_and_are_not_believed() {
    let backend = echo();
    let dir = Dir::new();
    let path = dir.path("gate.sock");
    let bind = format!("unix:{}", path.display());
    let _gate = gate(&backend, &["--workers", "2", "--limit", "2/hour", "--bind", &bind]).start();
    let ask = |forwarded_for: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        let request = article("hi").header("Connection", "close").header("X-Forwarded-For", forwarded_for);
        stream.write_all(&request.bytes()).unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).unwrap();
        told.split(' ').nth(1).map(ToOwned::to_owned).unwrap()
    };
    assert_eq!(["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(ask), ["200", "200", "429"]);
}
