//! Which peers are proxies whose word about their clients is believed.
//!
//! The invariant: blocks are written in the form in which peers are compared, so IPv4 addresses inside IPv6 ones stand
//! here as IPv4.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::{Remedy, items, joined};

/// The list is walked for every hop of every request.
const BLOCKS_MAX: usize = 256;

/// The bits in front of an IPv4 address inside an IPv6 one.
const MAPPED_BITS: u8 = 96;

const FORM: &str = "write IP addresses and CIDR blocks such as 10.0.0.0/8, or `*`";

/// Proxies whose X-Forwarded-For is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustedProxies {
    /// Everyone: clients can then choose their own address.
    Everyone,
    /// The peers in these blocks; none where there are none.
    Blocks(Vec<IpNet>),
}

pub(crate) fn proxies(text: &str) -> Result<TrustedProxies, Remedy> {
    let items: Vec<&str> = items(text).collect();
    if items == ["*"] {
        return Ok(TrustedProxies::Everyone);
    }
    if items.len() > BLOCKS_MAX {
        return Err(format!("write at most {BLOCKS_MAX} addresses; a CIDR block stands for many"));
    }
    if items.len() > 1 && items.contains(&"*") {
        return Err("write `*` alone: it already stands for everyone".to_owned());
    }
    items.into_iter().map(|item| block(item, FORM)).collect::<Result<_, _>>().map(TrustedProxies::Blocks)
}

pub(crate) fn proxies_text(proxies: &TrustedProxies) -> String {
    match proxies {
        TrustedProxies::Everyone => "*".to_owned(),
        TrustedProxies::Blocks(blocks) => joined(&blocks.iter().map(block_text).collect::<Vec<_>>()),
    }
}

/// One address or block; `form` says what would be right where it is neither.
pub(super) fn block(text: &str, form: &str) -> Result<IpNet, Remedy> {
    let block = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().map_err(|_| form.to_owned())?,
    };
    // A block whose address has bits beyond its prefix was not meant as it was written.
    if block.addr() != block.network() {
        return Err(format!("{text} names one address and a whole block: write {} or {}", block.addr(), block.trunc()));
    }
    Ok(unmapped(block))
}

fn unmapped(block: IpNet) -> IpNet {
    let IpNet::V6(v6) = block else { return block };
    let inside = v6.prefix_len().checked_sub(MAPPED_BITS);
    let v4 = v6.addr().to_ipv4_mapped().zip(inside).and_then(|(address, bits)| Ipv4Net::new(address, bits).ok());
    v4.map_or(block, IpNet::V4)
}

pub(super) fn block_text(block: &IpNet) -> String {
    if block.prefix_len() == block.max_prefix_len() { block.addr().to_string() } else { block.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        for (text, shown) in [
            ("127.0.0.1,::1", "127.0.0.1,::1"),
            (" 10.0.0.0/8 , fd00::/8 ", "10.0.0.0/8,fd00::/8"),
            ("", ""),
            (" ", ""),
            ("*", "*"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::/0", "::/0"),
        ] {
            let read = proxies(text).unwrap();
            assert_eq!(proxies_text(&read), shown, "{text}");
            assert_eq!(proxies(shown).unwrap(), read, "{shown}");
        }
        assert_eq!(proxies(""), Ok(TrustedProxies::Blocks(vec![])));
    }

    #[test]
    fn refusals() {
        for (text, remedy) in [
            ("localhost", "CIDR blocks such as"),
            ("127.0.0.1,", "CIDR blocks such as"),
            ("10.0.0.0/33", "CIDR blocks such as"),
            ("*,127.0.0.1", "write `*` alone"),
            ("10.0.0.1/8", "write 10.0.0.1 or 10.0.0.0/8"),
        ] {
            assert!(proxies(text).unwrap_err().contains(remedy), "{text}");
        }
        assert!(proxies(&vec!["::1"; 257].join(",")).unwrap_err().contains("at most 256"));
    }
}
