//! Whose counts: a block of addresses, or the holder of API keys.
//!
//! It names; where a subject's counts lie is `place`'s affair, and whether a key is a true one nobody asks here.
//!
//! Invariants: the same subject has the same octets in every process, release and host; no block of addresses has those
//! of a name.

use siphasher::sip128::SipHasher24;

use crate::client::Prefix;

/// The first octet of a name's; the others are those of [`Prefix`]'s families.
const NAME: u8 = 2;

/// Names are hashed alike on all hosts. They are the operator's own, so nobody else chooses two that meet.
const NAME_SEED: [u64; 2] = [0x6f6c_6c61_6d61, 0x6761_7465];

/// Whom requests are counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject {
    own: Prefix,
    wider: Prefix,
}

impl Subject {
    /// A client known by its address: its block, and the wider one for where blocks cannot be told apart.
    pub(crate) fn of_blocks(own: Prefix, wider: Prefix) -> Self {
        Self { own, wider }
    }

    /// The holder of all API keys with this name.
    pub fn of_key(name: &str) -> Self {
        let hash = SipHasher24::new_with_keys(NAME_SEED[0], NAME_SEED[1]).hash(name.as_bytes()).as_u128();
        let own = Prefix::of(NAME, 0, hash.to_be_bytes());
        Self { own, wider: own }
    }

    /// What tells it from all others: family, length, address or hash.
    pub fn as_octets(&self) -> &[u8; Prefix::OCTETS] {
        self.own.as_octets()
    }

    pub(crate) fn own(&self) -> &Prefix {
        &self.own
    }

    pub(crate) fn wider(&self) -> &Prefix {
        &self.wider
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Peer, Trust};
    use crate::fixture::client;

    #[test]
    fn names_and_addresses_are_told_apart() {
        let unix = Trust::networks(Vec::new()).client(Peer::Unix, [].into_iter());
        let same_block = (client("2001:db8::1").subject(), client("2001:db8::2").subject());
        assert_eq!(same_block.0, same_block.1);
        let mut all: Vec<Subject> = ["", "anna", "anne", "192.0.2.1"].map(Subject::of_key).to_vec();
        all.extend([same_block.0, client("192.0.2.1").subject(), client("192.0.2.2").subject(), unix.subject()]);
        let mut octets: Vec<_> = all.iter().map(|subject| *subject.as_octets()).collect();
        octets.sort_unstable();
        octets.dedup();
        assert_eq!(octets.len(), all.len());
    }

    #[test]
    fn a_name_is_the_same_on_every_host() {
        let octets = *Subject::of_key("anna").as_octets();
        assert_eq!(octets[..2], [2, 0]);
        let hash = u128::from_be_bytes(octets[2..].try_into().unwrap());
        assert_eq!(format!("{hash:032x}"), "2ac9c481d63808eac559595ed08707f2");
    }
}
