//! One half of the keyring: how keys, names and policies lie in its words.
//!
//! Keys lie in buckets by a hash of their ids, each with its name behind it; a bucket's word tells where its first one
//! begins. So a key costs one cache line, its name no word more than it has, and both are fetched together. Whether the half
//! holds is not known here.
//!
//! Invariant: loads acquire and stores release, as [`super::turns`] asks for; whatever stands in the words, reading them
//! neither panics nor goes on for long.

use std::array;
use std::iter;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use super::{Entry, ID_BITS, KEYS_MAX, NAME_BYTES_MAX, Name, POLICIES_MAX, Record, Unpublished};
use crate::layout::keyring::{self, record};

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// The id in a record's first word.
const ID_MASK: u64 = (1 << ID_BITS) - 1;

/// The words of one half.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub(super) words: &'static [AtomicU64],
}

/// Whether these can be published.
pub(super) fn check(keys: &[Record<'_>], policies: &[&str]) -> Result<(), Unpublished> {
    if keys.len() > KEYS_MAX {
        return Err(Unpublished::Keys(keys.len()));
    }
    if policies.len() > POLICIES_MAX {
        return Err(Unpublished::Policies(policies.len()));
    }
    if policies.iter().map(|text| words_of(text)).sum::<usize>() > keyring::TEXT_WORDS {
        return Err(Unpublished::Texts(policies.iter().map(|text| text.len()).sum()));
    }
    let fits = |key: &Record| key.id >> ID_BITS == 0 && Name::fits(key.name) && (key.policy as usize) < policies.len();
    keys.iter().position(|key| !fits(key)).map_or(Ok(()), |place| Err(Unpublished::Record(place)))
}

/// Words that a text takes.
fn words_of(text: &str) -> usize {
    text.len().div_ceil(WORD)
}

/// A text in words, the last one filled up with zeros.
fn packed(text: &str) -> impl Iterator<Item = u64> {
    text.as_bytes().chunks(WORD).map(|chunk| {
        let mut bytes = [0; WORD];
        bytes[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(bytes)
    })
}

/// The bucket of an id among `count`. Ids are the operator's own; they need to be spread, not to be guarded.
fn bucket_of(id: u64, count: usize) -> usize {
    let mixed = (id ^ id >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((u128::from(mixed ^ mixed >> 31) * count as u128) >> 64) as usize
}

fn halves(word: u64) -> (usize, usize) {
    ((word >> 32) as usize, (word & u64::from(u32::MAX)) as usize)
}

fn pair(high: usize, low: usize) -> u64 {
    (high as u64) << 32 | low as u64
}

impl Table {
    fn load(self, at: usize) -> u64 {
        self.words.get(at).map_or(0, |word| word.load(Acquire))
    }

    fn store(self, at: usize, value: u64) {
        self.words[at].store(value, Release);
    }

    /// Writes what [`check`] has found good into a half that nobody reads.
    pub(super) fn write(self, keys: &[Record<'_>], policies: &[&str]) {
        let buckets = keys.len().max(1);
        let mut next = self.write_buckets(keys, buckets);
        // In the order of the keys, as they and their names lie in memory: to wait for what is read costs more than for
        // what is written.
        for key in keys {
            let at = &mut next[bucket_of(key.id, buckets)];
            *at = self.write_record(*at, key);
        }
        let mut start = 0;
        for (place, text) in policies.iter().enumerate() {
            self.store(keyring::POLICIES + place, pair(start, text.len()));
            for word in packed(text) {
                self.store(keyring::TEXTS + start, word);
                start += 1;
            }
        }
        self.store(keyring::KEY_COUNT, keys.len() as u64);
        self.store(keyring::BUCKET_COUNT, buckets as u64);
        self.store(keyring::POLICY_COUNT, policies.len() as u64);
    }

    /// Writes where each bucket begins; gives back where the first record of each goes.
    fn write_buckets(self, keys: &[Record<'_>], buckets: usize) -> Vec<usize> {
        let mut next = vec![0; buckets];
        for key in keys {
            next[bucket_of(key.id, buckets)] += record::WORDS + words_of(key.name);
        }
        let mut at = 0;
        for (bucket, words) in next.iter_mut().enumerate() {
            self.store(keyring::BUCKETS + bucket, at as u64);
            (*words, at) = (keyring::RECORDS + at, at + *words);
        }
        self.store(keyring::BUCKETS + buckets, at as u64);
        self.store(keyring::RECORDS_USED, at as u64);
        next
    }

    /// Writes a record and its name; gives back where the next one begins.
    fn write_record(self, at: usize, key: &Record<'_>) -> usize {
        let (salt, _) = key.salt.as_chunks::<WORD>();
        let (digest, _) = key.digest.as_chunks::<WORD>();
        let octets = salt.iter().chain(digest).map(|chunk| u64::from_le_bytes(*chunk));
        let id = (words_of(key.name) as u64) << ID_BITS | key.id;
        let terms = pair(key.expires as usize, key.policy as usize);
        let mut next = at;
        for word in iter::once(id).chain(octets).chain([terms]).chain(packed(key.name)) {
            self.store(next, word);
            next += 1;
        }
        next
    }

    /// How many keys it holds.
    pub(super) fn len(self) -> usize {
        self.load(keyring::KEY_COUNT) as usize
    }

    /// The key with this id, or else another.
    pub(super) fn nearest(self, id: u64, generation: u32) -> Option<Entry> {
        let used = (self.load(keyring::RECORDS_USED) as usize).min(keyring::RECORDS_MAX);
        let records = &self.words[keyring::RECORDS..keyring::RECORDS + used];
        let buckets = (self.load(keyring::BUCKET_COUNT) as usize).min(keyring::BUCKET_COUNT_MAX);
        let bucket = keyring::BUCKETS + bucket_of(id, buckets);
        let (start, end) = (self.load(bucket) as usize, self.load(bucket + 1) as usize);
        // An empty bucket lends a key of the next one, and the last of them the very first key.
        let start = if start < used { start } else { 0 };
        entry(records.get(search(records, id, start, end)..)?, generation)
    }

    /// The text of a policy.
    pub(super) fn policy(self, index: u32) -> Option<String> {
        let known = u64::from(index) < self.load(keyring::POLICY_COUNT).min(POLICIES_MAX as u64);
        let (start, length) = halves(self.load(keyring::POLICIES + index as usize));
        let end = start.checked_add(length.div_ceil(WORD)).filter(|end| known && *end <= keyring::TEXT_WORDS)?;
        let mut bytes: Vec<u8> = (start..end).flat_map(|at| self.load(keyring::TEXTS + at).to_le_bytes()).collect();
        bytes.truncate(length);
        String::from_utf8(bytes).ok()
    }
}

/// Where the key with this id is between the begin and the end of its bucket; the first one if it is not there. All are
/// looked at either way, so that both cost the same.
fn search(records: &[AtomicU64], id: u64, start: usize, end: usize) -> usize {
    let (mut found, mut at) = (None, start);
    while let Some(word) = records.get(at).map(|word| word.load(Acquire)) {
        if word & ID_MASK == id && found.is_none() {
            found = Some(at);
        }
        at += record::WORDS + (word >> ID_BITS) as usize;
        if at >= end {
            break;
        }
    }
    found.unwrap_or(start)
}

/// The key whose record stands in front.
fn entry(words: &[AtomicU64], generation: u32) -> Option<Entry> {
    let (record, rest) = words.split_first_chunk::<{ record::WORDS }>()?;
    let words: [u64; record::WORDS] = array::from_fn(|at| record[at].load(Acquire));
    let mut entry = Entry {
        id: words[record::ID] & ID_MASK,
        salt: [0; 16],
        digest: [0; 32],
        expires: (words[record::TERMS] >> 32) as u32,
        policy: words[record::TERMS] as u32,
        generation,
        name: Name { bytes: [0; NAME_BYTES_MAX], length: 0 },
    };
    unpack(&words[record::SALT..record::DIGEST], &mut entry.salt);
    unpack(&words[record::DIGEST..record::TERMS], &mut entry.digest);
    let length = (words[record::ID] >> ID_BITS) as usize;
    let name = rest.get(..length.min(keyring::NAME_WORDS))?;
    let mut last = 0;
    for (chunk, word) in entry.name.bytes.chunks_exact_mut(WORD).zip(name) {
        last = word.load(Acquire);
        chunk.copy_from_slice(&last.to_le_bytes());
    }
    // Names hold no zero, so those at the end fill up the last word.
    entry.name.length = ((name.len() * WORD) as u8).saturating_sub((last.leading_zeros() / 8) as u8);
    Some(entry)
}

fn unpack(words: &[u64], octets: &mut [u8]) {
    for (chunk, word) in octets.chunks_exact_mut(WORD).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
}
