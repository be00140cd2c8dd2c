//! The key file: who may ask, with which key, and what each may do.
//!
//! A line is a key: its number, the salt and the hash of its text, whose it is, from when until when, and the words of
//! its policy. Nothing is read or hashed here, and the text of a key is nowhere to be found. Several lines may have one
//! name: that is one client with several keys, as while one takes the place of another.
//!
//! Invariant: no number stands in a [`KeyFile`] twice, every time and every policy in it is good, and what is wrong with
//! a file is told with its lines, never with a salt or a hash.

mod policy;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::complaint::shortened;

pub use self::policy::{Policy, PolicyError, ROUTE_WORDS, WORDS};

/// As many keys as the workers' table has room for.
pub const KEYS_MAX: usize = 200_000;

/// As many keys with long policies. More is no key file.
pub const FILE_BYTES_MAX: usize = 128 << 20;

/// Faults that are told of one file: whoever mends these sees the next ones.
const FAULTS_MAX: usize = 20;

/// What stands in the place of a time where a key never expires.
pub const NEVER: &str = "-";

/// How a line begins, as faults say it.
const FORM: &str = "ID SALT HASH NAME CREATED EXPIRES";

/// Digits of a key's number.
const ID_CHARS: usize = 12;

/// Names stand in log lines.
const NAME_BYTES_MAX: usize = 64;

/// The alphabet of numbers and keys: Crockford's, which has no letter that is taken for a digit.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The keys of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyFile<'a> {
    /// In the order of the file.
    pub lines: Vec<KeyLine<'a>>,
    /// The words of every policy, none twice; lines name them by their place.
    pub policies: Vec<&'a str>,
    /// What they mean.
    pub meanings: Vec<Policy>,
}

/// One key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyLine<'a> {
    /// Where it stands, counted from 1.
    pub line: usize,
    /// Its number.
    pub id: u64,
    /// What is hashed in front of its text.
    pub salt: [u8; 16],
    /// The hash.
    pub digest: [u8; 32],
    /// Whose it is.
    pub name: &'a str,
    /// When it was made, in seconds of Unix.
    pub created: u32,
    /// Until when it is good, in seconds of Unix; 0 is for ever.
    pub expires: u32,
    /// The place of its policy.
    pub policy: u32,
}

/// Without salt and hash.
impl fmt::Debug for KeyLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, id, name, created, expires, policy, .. } = self;
        write!(f, "KeyLine({line}: {} {name} {created} {expires} {policy})", id_text(*id))
    }
}

/// What is wrong with a key file: lines, counted from 1, and what would be right there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyFaults {
    /// The first of them, in the order of the file; line 0 is the file as a whole.
    pub faults: Vec<(usize, String)>,
    /// How many more there are.
    pub more: usize,
}

impl KeyFaults {
    /// A line of text for each, with the file's name in front.
    pub fn told(&self, path: &str) -> Vec<String> {
        let path = shortened(path);
        let one = |(line, remedy): &(usize, String)| match line {
            0 => format!("{path}: {remedy}"),
            line => format!("{path}:{line}: {remedy}"),
        };
        let more = (self.more > 0).then(|| format!("{path}: and {} more", self.more));
        self.faults.iter().map(one).chain(more).collect()
    }

    fn add(&mut self, line: usize, remedy: String) {
        if self.faults.len() < FAULTS_MAX { self.faults.push((line, remedy)) } else { self.more += 1 }
    }
}

impl fmt::Display for KeyFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told("keys").join("\n"))
    }
}

impl std::error::Error for KeyFaults {}

impl KeyFile<'_> {
    /// How many clients there are.
    pub fn names(&self) -> usize {
        self.lines.iter().map(|line| line.name).collect::<HashSet<_>>().len()
    }

    /// The lengths of the windows in which their limits and tokens count, shortest first.
    pub fn windows(&self) -> Vec<Duration> {
        let mut windows: Vec<Duration> = self.meanings.iter().flat_map(Policy::windows).collect();
        windows.sort_unstable();
        windows.dedup();
        windows
    }
}

/// Reads a key file.
///
/// # Errors
/// Everything that is wrong with it, as far as that can be told.
pub fn parse(text: &str) -> Result<KeyFile<'_>, KeyFaults> {
    let mut reading = Reading::default();
    if text.len() > FILE_BYTES_MAX {
        reading.faults.add(0, format!("the file is too large: at most {FILE_BYTES_MAX} bytes"));
        return Err(reading.faults);
    }
    for (line, number) in text.split('\n').zip(1..) {
        let line = line.trim_ascii();
        if !line.is_empty() && !line.starts_with('#') {
            reading.read(number, line);
        }
    }
    let Reading { file, seen, mut faults, .. } = reading;
    if file.lines.len() > KEYS_MAX {
        faults.add(0, format!("{} keys: write at most {KEYS_MAX}", file.lines.len()));
    }
    doubles(seen, &mut faults);
    if faults.faults.is_empty() { Ok(file) } else { Err(faults) }
}

/// A file that is being read.
#[derive(Default)]
struct Reading<'a> {
    file: KeyFile<'a>,
    /// The policies that were seen, and which one it is; `None` is a bad one.
    known: HashMap<&'a str, Option<u32>>,
    /// Numbers and their lines.
    seen: Vec<(u64, usize)>,
    faults: KeyFaults,
}

impl<'a> Reading<'a> {
    fn read(&mut self, number: usize, line: &'a str) {
        let mut words = Words(line);
        let Some([id, salt, digest, name, created, expires]) = words.six() else {
            return self.faults.add(number, format!("a line has at least six words: {FORM}"));
        };
        let id = id_of(id).ok_or("ID: write 12 digits and small letters, without i, l, o and u");
        let salt = hex::<16>(salt).ok_or("SALT: write 32 hexadecimal digits");
        let digest = hex::<32>(digest).ok_or("HASH: write 64 hexadecimal digits");
        let named = is_name(name).then_some(name);
        let named = named.ok_or("NAME: write 1 to 64 letters, digits, `.`, `_`, `@` or `-`");
        let created = seconds(created).ok_or("CREATED: write a time such as 2026-11-23T22:00:00Z");
        let expires = if expires == NEVER { Some(0) } else { seconds(expires) };
        let expires = expires.ok_or("EXPIRES: write a time such as 2027-11-23T22:00:00Z, or `-`");
        let policy = self.policy(number, words.rest());
        self.seen.extend(id.ok().map(|id| (id, number)));
        let faults = [id.err(), salt.err(), digest.err(), named.err(), created.err(), expires.err()];
        faults.into_iter().flatten().for_each(|fault| self.faults.add(number, fault.to_owned()));
        if let (Ok(id), Ok(salt), Ok(digest), Ok(name), Ok(created), Ok(expires), Some(policy)) =
            (id, salt, digest, named, created, expires, policy)
        {
            self.file.lines.push(KeyLine { line: number, id, salt, digest, name, created, expires, policy });
        }
    }

    /// The place of these words among the policies; what is wrong with them is told where they stand first.
    fn policy(&mut self, number: usize, text: &'a str) -> Option<u32> {
        if let Some(known) = self.known.get(text) {
            return *known;
        }
        let place = match Policy::parse(text) {
            Ok(policy) => {
                self.file.policies.push(text);
                self.file.meanings.push(policy);
                Some(self.file.policies.len() as u32 - 1)
            }
            Err(PolicyError(remedies)) => {
                for remedy in remedies {
                    self.faults.add(number, remedy);
                }
                None
            }
        };
        self.known.insert(text, place);
        place
    }
}

/// Numbers that stand in several lines.
fn doubles(mut seen: Vec<(u64, usize)>, faults: &mut KeyFaults) {
    seen.sort_unstable();
    for pair in seen.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        faults.add(
            pair[1].1,
            format!("{} stands in line {} already: each key has a number of its own", id_text(pair[0].0), pair[0].1),
        );
    }
    faults.faults.sort_by_key(|(line, _)| *line);
}

/// The words of a line, between blanks.
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn six(&mut self) -> Option<[&'a str; 6]> {
        let mut words = [""; 6];
        for word in &mut words {
            *word = self.next()?;
        }
        Some(words)
    }

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.trim_ascii_start();
        let end = text.bytes().position(|byte| byte.is_ascii_whitespace()).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }

    fn rest(&self) -> &'a str {
        self.0.trim_ascii_start()
    }
}

/// A number as lines and keys have it.
pub fn id_text(id: u64) -> String {
    let digit = |place: usize| char::from(BASE32[(id >> (5 * place) & 31) as usize]);
    (0..ID_CHARS).rev().map(digit).collect()
}

/// The number that this text is.
pub fn id_of(text: &str) -> Option<u64> {
    let digit = |byte: u8| BASE32.iter().position(|known| *known == byte).map(|place| place as u64);
    let add = |id: u64, byte: u8| Some(id << 5 | digit(byte)?);
    (text.len() == ID_CHARS).then(|| text.bytes().try_fold(0, add)).flatten()
}

/// Whether a client may be called so.
pub fn is_name(text: &str) -> bool {
    let spelled = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'@' | b'-');
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(spelled)
}

/// A time as lines have it.
pub fn time_text(seconds: u32) -> String {
    Timestamp::from_second(i64::from(seconds))
        .map_or_else(|_| NEVER.to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The seconds of Unix of a time in the one form that lines have: `2026-11-23T22:00:00Z`.
fn seconds(text: &str) -> Option<u32> {
    let bytes = text.as_bytes();
    let has = |place: usize, byte| bytes[place] == byte;
    let is_formed = bytes.len() == 20 && has(10, b'T') && has(19, b'Z') && has(13, b':') && has(16, b':');
    let time: Timestamp = is_formed.then(|| text.parse().ok()).flatten()?;
    u32::try_from(time.as_second()).ok().filter(|seconds| *seconds > 0)
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
