//! API keys: their text, their digests, and the door that lets requests in by them.
//!
//! A key reads `og-ID-SECRET`, in lower-case Crockford base32: 60 bits by which it is found and 200 that nobody guesses.
//! Only a salted digest is kept; with so many random bits one round of SHA-256 is as good as a slow hash. What a key
//! allows, and how a refusal looks, is not known here.
//!
//! Invariants: whatever was wrong with a key, finding out costs the same: one look-up, one digest and one comparison in
//! constant time. No text of a key leaves [`Fresh`], be it by `Debug`.

use std::array;
use std::fmt;

use gate_zone::keyring::ID_BITS;
pub use gate_zone::keyring::{Entry, Keyring, Name};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

mod shown;
#[cfg(test)]
mod tests;

use shown::Shown;

/// What every key begins with, so that people and scanners for secrets know one when they see it.
const PREFIX: &str = "og-";

/// Characters of an id: five bits each.
const ID_CHARS: usize = ID_BITS as usize / BITS_PER_CHAR;

/// Characters of a secret: 200 bits.
const SECRET_CHARS: usize = 40;

/// Bytes of a secret before it is written out.
const SECRET_BYTES: usize = SECRET_CHARS * BITS_PER_CHAR / 8;

const BITS_PER_CHAR: usize = 5;

/// Characters of a key.
pub const TEXT_CHARS: usize = PREFIX.len() + ID_CHARS + 1 + SECRET_CHARS;

/// Random bytes that a key is made of; the last of them are not needed.
pub const RANDOM_BYTES: usize = 56;

/// Crockford's base32: no letter that could be taken for another.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// What a value of [`VALUES`] is for a character that is not in the alphabet.
const NO_VALUE: u8 = 0xff;

/// The value of each character.
const VALUES: [u8; 256] = {
    let mut values = [NO_VALUE; 256];
    let mut at = 0;
    while at < ALPHABET.len() {
        values[ALPHABET[at] as usize] = at as u8;
        at += 1;
    }
    values
};

/// A key that was just made: the only place that its text is ever in.
pub struct Fresh {
    /// What it is found by.
    pub id: u64,
    /// The whole text, for the one who will use it.
    pub text: String,
    /// What the digest is salted with.
    pub salt: [u8; 16],
    /// What is kept of the text.
    pub digest: [u8; 32],
}

impl Fresh {
    /// The key that random bytes make. Whether there is one with its id already is not known here.
    pub fn from_random(bytes: [u8; RANDOM_BYTES]) -> Self {
        let (salt, id) = (array::from_fn(|at| bytes[at]), array::from_fn(|at| bytes[16 + at]));
        let secret: [u8; SECRET_BYTES] = array::from_fn(|at| bytes[24 + at]);
        let id = u64::from_le_bytes(id) & ((1 << ID_BITS) - 1);
        let text = format!("{PREFIX}{}-{}", id_text(id), secret_text(&secret));
        let digest = digest(&salt, text.as_bytes());
        Self { id, text, salt, digest }
    }
}

impl fmt::Debug for Fresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fresh").field("id", &id_text(self.id)).finish_non_exhaustive()
    }
}

/// An id as it stands in a key: 12 characters. Bits beyond the 60 of an id are left out.
pub fn id_text(id: u64) -> String {
    let shifts = (0..ID_CHARS).rev().map(|char| char * BITS_PER_CHAR);
    shifts.map(|shift| char::from(ALPHABET[(id >> shift & 31) as usize])).collect()
}

/// The id that reads so; `None` for anything but 12 characters of the alphabet.
pub fn id_of(text: &str) -> Option<u64> {
    let (id, fault) = read_id(text.as_bytes());
    (text.len() == ID_CHARS && !fault).then_some(id)
}

/// What every character adds to an id, and whether one is not in the alphabet; in the same time for all.
fn read_id(chars: &[u8]) -> (u64, bool) {
    let values = chars.iter().map(|char| VALUES[usize::from(*char)]);
    let (id, seen) =
        values.fold((0, 0), |(id, seen), value| (id << BITS_PER_CHAR | u64::from(value & 31), seen | value));
    (id, seen >= 32)
}

fn secret_text(secret: &[u8; SECRET_BYTES]) -> String {
    let (groups, _) = secret.as_chunks::<BITS_PER_CHAR>();
    let bits = |group: &[u8; 5]| group.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
    let chars = |bits: u64| (0..8).rev().map(move |char| ALPHABET[(bits >> (char * BITS_PER_CHAR) & 31) as usize]);
    groups.iter().flat_map(|group| chars(bits(group))).map(char::from).collect()
}

/// What is kept of a key's text.
fn digest(salt: &[u8; 16], text: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(text).finalize().into()
}

/// Why a request's key does not open the door. Fault: client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFault {
    /// It brings none.
    Missing,
    /// It brings something that is no key of this gate.
    Unknown,
    /// The key was right once.
    Expired,
    /// It brings several that differ.
    Ambiguous,
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "there is no API key",
            Self::Unknown => "there is no such API key",
            Self::Expired => "the API key has expired",
            Self::Ambiguous => "there are several API keys that differ",
        })
    }
}

impl std::error::Error for KeyFault {}

/// Lets requests in by their keys.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    keyring: Keyring,
}

impl Door {
    /// A door for the keys of this ring, as they are at each time.
    pub fn new(keyring: Keyring) -> Self {
        Self { keyring }
    }

    /// The key that a request brings, by the values of all its `authorization` fields (`Bearer KEY`, `Basic` with the
    /// key as password, or the key alone) and of all its `x-api-key` fields. Empty ones do not count; several are fine if they are the same.
    ///
    /// # Errors
    /// [`KeyFault`]: expired only for those who know the secret.
    pub fn check<'a>(
        &self,
        authorization: impl Iterator<Item = &'a [u8]>,
        x_api_key: impl Iterator<Item = &'a [u8]>,
        now_unix: u64,
    ) -> Result<Entry, KeyFault> {
        let mut all = authorization.filter_map(Shown::authorization).chain(x_api_key.filter_map(Shown::plain));
        let shown = all.next().ok_or(KeyFault::Missing)?;
        if all.any(|other| other != shown) {
            return Err(KeyFault::Ambiguous);
        }
        let entry = self.open(&shown).ok_or(KeyFault::Unknown)?;
        if entry.expires != 0 && u64::from(entry.expires) <= now_unix {
            return Err(KeyFault::Expired);
        }
        Ok(entry)
    }

    /// The key that was shown, if it is one. Nothing returns early: a key that is not there is compared as well, with
    /// another one's digest or with none, and one that is no key at all is looked up and digested like any other.
    fn open(self, shown: &Shown) -> Option<Entry> {
        const ID: usize = PREFIX.len();
        const DASH: usize = ID + ID_CHARS;
        let text = shown.text();
        let (id, fault) = read_id(&text[ID..DASH]);
        let well_formed = shown.is_whole() && text.starts_with(PREFIX.as_bytes()) && text[DASH] == b'-' && !fault;
        let nearest = self.keyring.nearest(id);
        let (salt, kept) = nearest.map_or(([0; 16], [0; 32]), |entry| (entry.salt, entry.digest));
        let same = digest(&salt, text).ct_eq(&kept);
        let same = same & u8::from(well_formed).ct_eq(&1) & nearest.map_or(!0, |entry| entry.id).ct_eq(&id);
        nearest.filter(|_| same.into())
    }
}
