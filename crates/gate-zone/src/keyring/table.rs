//! One half of the keyring: how keys, names and policies lie in its words.
//!
//! Keys lie in buckets by a hash of their ids, the names in the same order behind them; a bucket's word tells where both
//! begin, so that a key costs one cache line and its name no word more than it has. Whether the half holds is not known here.
//!
//! Invariant: loads acquire and stores release, as [`super::turns`] asks for; whatever stands in the words, reading them
//! neither panics nor goes on for long.

use std::iter;
use std::ops::Range;
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
    let fits = |key: &Record| {
        key.id >> ID_BITS == 0 && Name::new(key.name).is_some() && (key.policy as usize) < policies.len()
    };
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
        let buckets = (keys.len() / 2).max(1);
        let order = self.write_buckets(keys, buckets);
        let mut name = keyring::NAMES;
        for (place, key) in order.iter().map(|place| &keys[*place as usize]).enumerate() {
            self.write_record(keyring::RECORDS + place * record::WORDS, key);
            for word in packed(key.name) {
                self.store(name, word);
                name += 1;
            }
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

    /// Writes where each bucket begins; gives back the places of the keys in the order of their buckets.
    fn write_buckets(self, keys: &[Record<'_>], buckets: usize) -> Vec<u32> {
        let mut sizes = vec![(0, 0); buckets];
        for key in keys {
            let (records, names) = &mut sizes[bucket_of(key.id, buckets)];
            *records += 1;
            *names += words_of(key.name);
        }
        let (mut record, mut name) = (0, 0);
        for (bucket, (records, names)) in sizes.iter_mut().enumerate() {
            self.store(keyring::BUCKETS + bucket, pair(record, name));
            (record, name) = (record + *records, name + *names);
            // From here on: where the next one of this bucket goes.
            *records = record - *records;
        }
        self.store(keyring::BUCKETS + buckets, pair(record, name));
        let mut order = vec![0; keys.len()];
        for (place, key) in keys.iter().enumerate() {
            let (next, _) = &mut sizes[bucket_of(key.id, buckets)];
            order[*next] = place as u32;
            *next += 1;
        }
        order
    }

    fn write_record(self, at: usize, key: &Record<'_>) {
        let (salt, _) = key.salt.as_chunks::<WORD>();
        let (digest, _) = key.digest.as_chunks::<WORD>();
        let octets = salt.iter().chain(digest).map(|chunk| u64::from_le_bytes(*chunk));
        let id = (words_of(key.name) as u64) << ID_BITS | key.id;
        let terms = pair(key.expires as usize, key.policy as usize);
        for (offset, word) in iter::once(id).chain(octets).chain([terms]).enumerate() {
            self.store(at + offset, word);
        }
    }

    /// How many keys it holds.
    pub(super) fn len(self) -> usize {
        self.load(keyring::KEY_COUNT) as usize
    }

    /// The key with this id, or else another.
    pub(super) fn nearest(self, id: u64, generation: u32) -> Option<Entry> {
        let keys = self.len().min(KEYS_MAX);
        let buckets = (self.load(keyring::BUCKET_COUNT) as usize).min(keyring::BUCKET_COUNT_MAX);
        let bucket = keyring::BUCKETS + bucket_of(id, buckets);
        let (first, name) = halves(self.load(bucket));
        let (end, _) = halves(self.load(bucket + 1));
        // An empty bucket lends a key of the next one, and the last of them the very first key.
        let (first, name) = if first < keys { (first, name) } else { (0, 0) };
        (keys > 0).then(|| {
            let (place, name) = self.search(id, first..end.clamp(first + 1, keys), name);
            self.entry(place, name, generation)
        })
    }

    /// Where the key with this id and its name are, among keys whose names begin at `name`; the first key of them if it is
    /// not there. All are looked at either way, so that both cost the same.
    fn search(self, id: u64, places: Range<usize>, mut name: usize) -> (usize, usize) {
        let first = (places.start, name);
        let mut found = None;
        for place in places {
            let word = self.load(keyring::RECORDS + place * record::WORDS + record::ID);
            if word & ID_MASK == id && found.is_none() {
                found = Some((place, name));
            }
            name += (word >> ID_BITS) as usize;
        }
        found.unwrap_or(first)
    }

    fn entry(self, place: usize, name: usize, generation: u32) -> Entry {
        let at = keyring::RECORDS + place * record::WORDS;
        let id = self.load(at + record::ID);
        let (expires, policy) = halves(self.load(at + record::TERMS));
        Entry {
            id: id & ID_MASK,
            salt: self.octets(at + record::SALT, 2),
            digest: self.octets(at + record::DIGEST, 4),
            expires: expires as u32,
            policy: policy as u32,
            generation,
            name: self.name(keyring::NAMES + name, (id >> ID_BITS) as usize),
        }
    }

    fn octets<const BYTES: usize>(self, at: usize, words: usize) -> [u8; BYTES] {
        let mut octets = [0; BYTES];
        for (chunk, word) in octets.chunks_exact_mut(WORD).zip(at..at + words) {
            chunk.copy_from_slice(&self.load(word).to_le_bytes());
        }
        octets
    }

    fn name(self, at: usize, words: usize) -> Name {
        let words = words.min(keyring::NAME_WORDS);
        let bytes: [u8; NAME_BYTES_MAX] = self.octets(at, words);
        // Names hold no zero, so those at the end fill up the last word.
        let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Name { bytes, length: length as u8 }
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
