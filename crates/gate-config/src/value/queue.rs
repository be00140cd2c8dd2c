//! Who gets more than one share of the queue.
//!
//! The invariant: no block stands here twice, and blocks are written in the form in which clients are compared.

use std::net::IpAddr;

use ipnet::IpNet;

use super::proxies::{block, block_text};
use super::{Remedy, items, number};

/// The list is walked for every request that has to wait.
const WEIGHTS_MAX: usize = 256;

/// What every other client has.
const WEIGHT: u32 = 1;

const FORM: &str = "write CLIENTS=WEIGHT with an address or a CIDR block, such as 10.1.0.0/16=4";

pub(crate) fn weights(text: &str) -> Result<Vec<(IpNet, u32)>, Remedy> {
    let mut weights: Vec<(IpNet, u32)> = Vec::new();
    for item in items(text) {
        let (clients, weight) = item.rsplit_once('=').ok_or_else(|| FORM.to_owned())?;
        let clients = block(clients.trim(), FORM)?;
        let weight =
            number::whole(weight, 1..=number::WEIGHT_MAX).map_err(|remedy| format!("{remedy} behind the `=`"))?;
        if weights.iter().any(|(earlier, _)| *earlier == clients) {
            return Err(format!("write {} only once", block_text(&clients)));
        }
        weights.push((clients, weight));
        if weights.len() > WEIGHTS_MAX {
            return Err(format!("write at most {WEIGHTS_MAX} weights; a CIDR block stands for many clients"));
        }
    }
    Ok(weights)
}

pub(crate) fn weights_text(weights: &[(IpNet, u32)]) -> String {
    let texts = weights.iter().map(|(clients, weight)| format!("{}={weight}", block_text(clients)));
    texts.collect::<Vec<_>>().join(",")
}

/// The weight of the narrowest block that holds the client.
pub(crate) fn weight_of(weights: &[(IpNet, u32)], client: IpAddr) -> u32 {
    let client = client.to_canonical();
    let around = weights.iter().filter(|(clients, _)| clients.contains(&client));
    around.max_by_key(|(clients, _)| clients.prefix_len()).map_or(WEIGHT, |(_, weight)| *weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        for (text, shown) in [
            ("", ""),
            ("10.1.0.0/16=4", "10.1.0.0/16=4"),
            (" 10.0.0.1 = 100 , fd00::/8=1 ", "10.0.0.1=100,fd00::/8=1"),
            ("::ffff:10.0.0.0/104=2", "10.0.0.0/8=2"),
        ] {
            let read = weights(text).unwrap();
            assert_eq!(weights_text(&read), shown, "{text}");
            assert_eq!(weights(shown).unwrap(), read, "{shown}");
        }
    }

    #[test]
    fn refusals() {
        for (text, remedy) in [
            ("10.0.0.1", "write CLIENTS=WEIGHT"),
            ("*=2", "write CLIENTS=WEIGHT"),
            ("host=2", "write CLIENTS=WEIGHT"),
            ("10.0.0.1=2,", "write CLIENTS=WEIGHT"),
            ("10.0.0.1/8=2", "write 10.0.0.1 or 10.0.0.0/8"),
            ("10.0.0.1=0", "from 1 to 100 behind the `=`"),
            ("10.0.0.1=101", "from 1 to 100 behind the `=`"),
            ("10.0.0.1=2,10.0.0.1/32=3", "write 10.0.0.1 only once"),
        ] {
            let refusal = weights(text).unwrap_err();
            assert!(refusal.contains(remedy), "{text}: {refusal}");
        }
        let many: Vec<String> = (0..=256).map(|host| format!("10.0.{}.{}=2", host / 256, host % 256)).collect();
        assert!(weights(&many.join(",")).unwrap_err().contains("at most 256"));
    }

    #[test]
    fn the_narrowest_block_wins() {
        let weights = weights("10.0.0.0/8=2,10.1.0.0/16=4,10.1.2.3=8,0.0.0.0/0=3,fd00::/8=5").unwrap();
        for (client, weight) in [
            ("10.2.0.1", 2),
            ("10.1.0.1", 4),
            ("10.1.2.3", 8),
            ("::ffff:10.1.2.3", 8),
            ("192.0.2.1", 3),
            ("fd00::1", 5),
            ("2001:db8::1", 1),
        ] {
            assert_eq!(weight_of(&weights, client.parse().unwrap()), weight, "{client}");
        }
    }
}
