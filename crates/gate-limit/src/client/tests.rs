use std::collections::HashSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn peer(text: &str) -> Peer {
    match text {
        "unix" => Peer::Unix,
        ip => Peer::Ip(ip.parse().unwrap()),
    }
}

fn trust(networks: &[&str]) -> Trust {
    match networks {
        ["*"] => Trust::everyone(),
        list => Trust::networks(
            list.iter()
                .map(|text| text.parse().unwrap_or_else(|_| IpNet::from(text.parse::<IpAddr>().unwrap())))
                .collect(),
        ),
    }
}

fn client(trust: &Trust, from: &str, lines: &[&str]) -> String {
    trust.client(peer(from), lines.iter().map(|line| line.as_bytes())).addr().to_string()
}

const LOCAL: &[&str] = &["127.0.0.1", "::1"];
const TIERS: &[&str] = &["127.0.0.1", "::1", "10.0.0.0/8", "2001:db8:f::/48"];

#[test]
fn names_the_client() {
    for (networks, from, lines, expected) in [
        // Peers that are not trusted speak for themselves.
        (LOCAL, "198.51.100.1", &["203.0.113.7"][..], "198.51.100.1"),
        (&[][..], "127.0.0.1", &["203.0.113.7"], "127.0.0.1"),
        // Trusted ones speak for the rightmost address that is not.
        (LOCAL, "127.0.0.1", &[], "127.0.0.1"),
        (LOCAL, "127.0.0.1", &["203.0.113.7"], "203.0.113.7"),
        (LOCAL, "::1", &["203.0.113.7"], "203.0.113.7"),
        (LOCAL, "127.0.0.1", &["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (LOCAL, "127.0.0.1", &["203.0.113.7, 127.0.0.1"], "203.0.113.7"),
        (LOCAL, "127.0.0.1", &["198.51.100.1", "203.0.113.7", "127.0.0.1"], "203.0.113.7"),
        (LOCAL, "127.0.0.1", &["203.0.113.7, 10.0.0.4"], "10.0.0.4"),
        (TIERS, "127.0.0.1", &["198.51.100.1, 203.0.113.7, 10.0.0.4"], "203.0.113.7"),
        (TIERS, "2001:db8:f:1::9", &["2001:db8:5::1,2001:db8:f::2"], "2001:db8:5::1"),
        // All trusted: the leftmost.
        (TIERS, "127.0.0.1", &["10.0.0.9, 10.0.0.4, ::1"], "10.0.0.9"),
        // Ways to write an entry.
        (LOCAL, "127.0.0.1", &["203.0.113.7:55"], "203.0.113.7"),
        (LOCAL, "127.0.0.1", &["203.0.113.7 ,127.0.0.1:80"], "203.0.113.7"),
        (LOCAL, "127.0.0.1", &["2001:db8::7"], "2001:db8::7"),
        (LOCAL, "127.0.0.1", &["[2001:db8::7]"], "2001:db8::7"),
        (LOCAL, "127.0.0.1", &["[2001:db8::7]:55, [::1]:443"], "2001:db8::7"),
        (LOCAL, "127.0.0.1", &["\"[2001:db8::7]:55\""], "2001:db8::7"),
        (LOCAL, "127.0.0.1", &["\t\"203.0.113.7\" "], "203.0.113.7"),
        // What cannot be read ends the walk at the last hop that could.
        (LOCAL, "127.0.0.1", &[""], "127.0.0.1"),
        (LOCAL, "127.0.0.1", &["203.0.113.7,"], "127.0.0.1"),
        (LOCAL, "127.0.0.1", &["203.0.113.7, unknown"], "127.0.0.1"),
        (TIERS, "127.0.0.1", &["203.0.113.7, _hidden, 10.0.0.4"], "10.0.0.4"),
        (LOCAL, "127.0.0.1", &["203.0.113.7:http"], "127.0.0.1"),
        (LOCAL, "127.0.0.1", &["203.0.113.700"], "127.0.0.1"),
        (LOCAL, "127.0.0.1", &["[203.0.113.7]"], "127.0.0.1"),
        (LOCAL, "127.0.0.1", &["\""], "127.0.0.1"),
        // Everyone is believed: the leftmost that can be read.
        (&["*"], "198.51.100.1", &["203.0.113.7, 192.0.2.1"], "203.0.113.7"),
        (&["*"], "198.51.100.1", &["203.0.113.8", "203.0.113.7"], "203.0.113.8"),
        (&["*"], "198.51.100.1", &["unknown, 203.0.113.7, 192.0.2.1"], "203.0.113.7"),
        (&["*"], "198.51.100.1", &["unknown"], "198.51.100.1"),
        (&["*"], "198.51.100.1", &[], "198.51.100.1"),
        // Unix peers.
        (LOCAL, "unix", &["203.0.113.7"], "unix"),
        (&["0.0.0.0/0", "::/0"], "unix", &["203.0.113.7"], "unix"),
        (&["*"], "unix", &["203.0.113.7"], "203.0.113.7"),
        (&["*"], "unix", &[], "unix"),
        // A `[::]` listener sees IPv4 peers as IPv6.
        (LOCAL, "::ffff:198.51.100.1", &["203.0.113.7"], "198.51.100.1"),
        (LOCAL, "::ffff:127.0.0.1", &["203.0.113.7"], "203.0.113.7"),
        (LOCAL, "127.0.0.1", &["::ffff:203.0.113.7"], "203.0.113.7"),
        (LOCAL, "127.0.0.1", &["203.0.113.7, [::ffff:127.0.0.1]:80"], "203.0.113.7"),
        (&["::ffff:10.0.0.0/104"], "10.9.9.9", &["203.0.113.7"], "203.0.113.7"),
    ] {
        assert_eq!(client(&trust(networks), from, lines), expected, "{networks:?} {from} {lines:?}");
    }
}

#[test]
fn trusts_the_same_peers_for_other_headers() {
    for (networks, from, expected) in [
        (LOCAL, "127.0.0.1", true),
        (LOCAL, "::ffff:127.0.0.1", true),
        (LOCAL, "127.0.0.2", false),
        (LOCAL, "unix", false),
        (&["0.0.0.0/0"], "203.0.113.7", true),
        (&["0.0.0.0/0"], "2001:db8::1", false),
        (&["*"], "2001:db8::1", true),
        (&["*"], "unix", true),
    ] {
        assert_eq!(trust(networks).is_trusted(peer(from)), expected, "{networks:?} {from}");
    }
}

fn direct(from: &str) -> Client {
    trust(&[]).client(peer(from), [].into_iter())
}

#[test]
fn counts_by_prefix() {
    let same_key = |a, b| direct(a).key() == direct(b).key();
    let same_wider = |a, b| direct(a).wider() == direct(b).wider();
    for (a, b, key, wider) in [
        ("192.0.2.1", "192.0.2.1", true, true),
        ("192.0.2.1", "::ffff:192.0.2.1", true, true),
        ("192.0.2.1", "192.0.2.2", false, true),
        ("192.0.2.1", "192.0.3.1", false, false),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", true, true),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", false, true),
        ("2001:db8:0:1::1", "2001:db8:1:1::1", false, false),
        ("unix", "unix", true, true),
        ("unix", "0.0.0.0", false, false),
        ("0.0.0.0", "::", false, false),
    ] {
        assert_eq!((same_key(a, b), same_wider(a, b)), (key, wider), "{a} {b}");
    }
}

#[test]
fn a_thousand_forged_values_are_one_client() {
    let keys = |networks, from: &str, lines: fn(Ipv4Addr) -> Vec<String>| {
        let trust = trust(networks);
        let forged = (0..1000_u32).map(|n| Ipv4Addr::from(0xc633_0000 + n));
        let keys = forged.map(|ip| {
            let lines = lines(ip);
            trust.client(peer(from), lines.iter().map(String::as_bytes)).key()
        });
        keys.collect::<HashSet<_>>().len()
    };
    assert_eq!(keys(LOCAL, "203.0.113.7", |ip| vec![ip.to_string()]), 1);
    assert_eq!(keys(LOCAL, "127.0.0.1", |ip| vec![format!("{ip}, 203.0.113.7")]), 1);
    assert_eq!(keys(LOCAL, "127.0.0.1", |ip| vec![ip.to_string(), "203.0.113.7".into()]), 1);
    assert_eq!(keys(TIERS, "127.0.0.1", |ip| vec![format!("{ip}, 203.0.113.7, 10.0.0.4")]), 1);
    assert_eq!(keys(&["*"], "127.0.0.1", |ip| vec![ip.to_string()]), 1000, "which is why `*` is not the default");
}

proptest! {
    #[test]
    fn nothing_in_front_of_what_a_proxy_appends_matters(forged in prop::collection::vec(any::<u8>(), 0..80)) {
        let appended = [forged.as_slice(), b", 203.0.113.7"].concat();
        let trust = trust(LOCAL);
        let behind = trust.client(peer("127.0.0.1"), [appended.as_slice()].into_iter());
        prop_assert_eq!(behind.addr().to_string(), "203.0.113.7");
        let lines = [forged.as_slice(), b"203.0.113.7"];
        prop_assert_eq!(trust.client(peer("127.0.0.1"), lines.into_iter()), behind);
    }

    #[test]
    fn nothing_from_a_stranger_matters(
        lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4)
    ) {
        let found = trust(LOCAL).client(peer("198.51.100.1"), lines.iter().map(Vec::as_slice));
        prop_assert_eq!(found, direct("198.51.100.1"));
    }

    #[test]
    fn every_address_reads_back_in_every_form(bits in any::<u128>(), v4 in any::<u32>(), port in any::<u16>()) {
        let (v6, v4) = (Ipv6Addr::from(bits), Ipv4Addr::from(v4));
        let forms = [
            (v6.into(), format!("{v6}")), (v6.into(), format!("[{v6}]")), (v6.into(), format!("[{v6}]:{port}")),
            (v4.into(), format!("{v4}")), (v4.into(), format!("\"{v4}:{port}\"")),
        ];
        for (ip, form) in forms {
            let ip: IpAddr = ip;
            prop_assert_eq!(hop(form.as_bytes()), Some(Peer::Ip(ip.to_canonical())));
        }
    }
}
