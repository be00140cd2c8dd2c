//! The keys of a gate, as all its processes see them: who may come in, and under which policy.
//!
//! The master publishes all keys at once, and every worker reads the same table from that moment, one that drains as well.
//! A half is written that nobody reads, then one word is changed ([`turns`]), then the other half's memory is given back.
//! Which header a key comes in, whether it is right and what a policy means is not known here.
//!
//! Invariants: a reader takes no lock, and what it gives back stood in one published table; a publisher killed at any
//! instruction leaves the old table or the new one; no secret is in here, only salted digests.

mod table;
#[cfg(test)]
mod tests;
pub mod turns;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicU64;

use gate_sys::process;
use gate_sys::shared::SharedWords;

use crate::Zone;
use crate::keyring::table::Table;
use crate::keyring::turns::{Identity, Turn};
use crate::layout::{self, keyring};

/// The most keys that can be published.
pub const KEYS_MAX: usize = keyring::KEYS;

/// The most policies.
pub const POLICIES_MAX: usize = keyring::POLICY_COUNT_MAX;

/// The most bytes of a key's name.
pub const NAME_BYTES_MAX: usize = keyring::NAME_WORDS * size_of::<u64>();

/// Bits of a key's id.
pub const ID_BITS: u32 = 60;

/// The keys of a zone. Copies name the same words.
#[derive(Debug, Clone, Copy)]
pub struct Keyring {
    words: &'static [AtomicU64],
}

/// A key to publish.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// What it is found by, below 1 << [`ID_BITS`].
    pub id: u64,
    /// What its digest was salted with.
    pub salt: [u8; 16],
    /// The digest of its text.
    pub digest: [u8; 32],
    /// When it expires, in Unix seconds; 0 is never.
    pub expires: u32,
    /// Its place among the policies.
    pub policy: u32,
    /// Whose it is: 1 to [`NAME_BYTES_MAX`] bytes, none of them 0.
    pub name: &'a str,
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, salt: _, digest: _, expires, policy, name } = self;
        let mut shown = f.debug_struct("Record");
        shown.field("id", id).field("expires", expires).field("policy", policy).field("name", name);
        shown.finish_non_exhaustive()
    }
}

/// A key as it was published: a copy. Comparing digests is left to who can do it in constant time.
#[derive(Clone, Copy)]
pub struct Entry {
    /// What it was found by.
    pub id: u64,
    /// What its digest was salted with.
    pub salt: [u8; 16],
    /// The digest of its text.
    pub digest: [u8; 32],
    /// When it expires, in Unix seconds; 0 is never.
    pub expires: u32,
    /// Its place among the policies of its generation.
    pub policy: u32,
    /// The generation of the table that it was read from.
    pub generation: u32,
    /// Whose it is.
    pub name: Name,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, salt: _, digest: _, expires, policy, generation, name } = self;
        let mut shown = f.debug_struct("Entry");
        shown.field("id", id).field("expires", expires).field("policy", policy);
        shown.field("generation", generation).field("name", name).finish_non_exhaustive()
    }
}

/// A key's name, which needs no memory of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    bytes: [u8; NAME_BYTES_MAX],
    length: u8,
}

impl Name {
    /// The name that reads so; `None` for one that is empty, too long or holds a zero.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes.get_mut(..text.len()).filter(|_| Self::fits(text))?.copy_from_slice(text.as_bytes());
        Some(Self { bytes, length: text.len() as u8 })
    }

    fn fits(text: &str) -> bool {
        (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.as_bytes().contains(&0)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        // Only whole texts are published, and torn ones never leave this module.
        str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Why keys were not published. The table that held still holds.
#[derive(Debug)]
#[non_exhaustive]
pub enum Unpublished {
    /// There are more keys than [`KEYS_MAX`]: this many.
    Keys(usize),
    /// There are more policies than [`POLICIES_MAX`]: this many.
    Policies(usize),
    /// The policies' texts are longer together than there is room: this many bytes.
    Texts(usize),
    /// The record at this place has a name, an id or a policy that cannot be. Fault: the caller's.
    Record(usize),
    /// Another process is publishing, and lives.
    Busy,
    /// The kernel does not give memory back, or this memory is not the keyring's.
    Io(io::Error),
}

impl fmt::Display for Unpublished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys(count) => write!(f, "there are {count} keys, and room for {KEYS_MAX}"),
            Self::Policies(count) => write!(f, "there are {count} different policies, and room for {POLICIES_MAX}"),
            Self::Texts(bytes) => {
                let room = keyring::TEXT_WORDS * size_of::<u64>();
                write!(f, "the texts of the different policies have {bytes} bytes, and there is room for {room}")
            }
            Self::Record(place) => write!(f, "key {place} has a name, an id or a policy that cannot be"),
            Self::Busy => f.write_str("another process of this gate is publishing keys"),
            Self::Io(error) => write!(f, "the memory of the keys cannot be used: {error}"),
        }
    }
}

impl std::error::Error for Unpublished {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Unpublished {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Zone {
    /// The keyring.
    pub fn keyring(self) -> Keyring {
        Keyring { words: &self.words[layout::KEYRING..layout::KEYRING + keyring::WORDS] }
    }
}

/// Whether there is room for these keys.
///
/// # Errors
/// [`Unpublished`], as [`Keyring::publish`] would say.
pub fn check(keys: &[Record<'_>], policies: &[&str]) -> Result<(), Unpublished> {
    table::check(keys, policies)
}

impl Keyring {
    /// Puts `keys` in the place of all that were published before, and gives the memory of those back to the kernel by the
    /// zone's own `memory`. Of several keys with one id the first is found. Gives back the generation. Master only.
    ///
    /// # Errors
    /// [`Unpublished`]; nobody sees anything of these keys then.
    pub fn publish(self, memory: &SharedWords, keys: &[Record<'_>], policies: &[&str]) -> Result<u32, Unpublished> {
        table::check(keys, policies)?;
        let turn = self.turn(memory)?;
        let generation = turn.generation();
        // A publisher that was killed may have left memory that this table does not need.
        memory.give_back(half_range(generation))?;
        self.table(generation).write(keys, policies);
        turn.commit();
        // A failure costs memory until the next publication, and nobody can do anything about it.
        drop(memory.give_back(half_range(generation.wrapping_add(1))));
        Ok(generation)
    }

    fn turn(self, memory: &SharedWords) -> Result<Turn<'static, AtomicU64>, Unpublished> {
        let own = memory.words().get(layout::KEYRING..).is_some_and(|words| words.as_ptr() == self.words.as_ptr());
        if !own {
            return Err(Unpublished::Io(io::ErrorKind::InvalidInput.into()));
        }
        let pid = process::own_pid();
        let me = Identity::new(pid, process::born(pid).unwrap_or_default());
        let (generation, publisher) = (&self.words[keyring::GENERATION], &self.words[keyring::PUBLISHER]);
        Turn::begin(generation, publisher, me, |other| process::is_gone(other.pid(), other.born()))
            .ok_or(Unpublished::Busy)
    }

    /// How often keys were published; 0 is never.
    pub fn generation(self) -> u32 {
        turns::generation(&self.words[keyring::GENERATION])
    }

    /// How many keys there are.
    pub fn len(self) -> usize {
        self.read(|_, table| Some(table.len())).unwrap_or_default()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The key with this id.
    pub fn find(self, id: u64) -> Option<Entry> {
        self.nearest(id).filter(|entry| entry.id == id)
    }

    /// The key with this id, or else any other, so that looking costs as much for an id that there is not. `None` only
    /// where there are no keys.
    pub fn nearest(self, id: u64) -> Option<Entry> {
        self.read(|generation, table| table.nearest(id, generation))
    }

    /// The text of a policy; `None` once other keys were published.
    pub fn policy(self, generation: u32, index: u32) -> Option<String> {
        self.read(|held, table| Some(table.policy(index).filter(|_| held == generation)))?
    }

    fn read<T>(self, look: impl Fn(u32, Table) -> Option<T>) -> Option<T> {
        turns::read(&self.words[keyring::GENERATION], |generation| look(generation, self.table(generation)))
    }

    fn table(self, generation: u32) -> Table {
        let start = half(generation);
        Table { words: &self.words[start..start + keyring::HALF_WORDS] }
    }
}

/// Where the half of a generation begins in the keyring.
fn half(generation: u32) -> usize {
    keyring::HALVES + (generation & 1) as usize * keyring::HALF_WORDS
}

/// Where it lies in the zone.
fn half_range(generation: u32) -> Range<usize> {
    let start = layout::KEYRING + half(generation);
    start..start + keyring::HALF_WORDS
}
