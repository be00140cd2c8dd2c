//! The key file: who may ask, with which key, and what each may do.
//!
//! A line is a key: its number, the salt and the hash of its text, whose it is, from when until when, and the words of
//! its policy. Nothing is read or hashed here, and the text of a key is nowhere to be found. Several lines may have one
//! name: that is one client with several keys, as while one takes the place of another. What is counted of them is counted
//! together, so the words that count are the same in all lines of a name.
//!
//! Invariant: no number stands in a [`KeyFile`] twice, every time and every policy in it is good, and what is wrong with
//! a file is told with its lines, never with a salt or a hash.

mod policy;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use foldhash::fast::RandomState;
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

/// Bytes of the shortest line: a name of one letter, no policy, and never expired.
const LINE_BYTES_MIN: usize = ID_CHARS + 1 + 32 + 1 + 64 + 1 + 1 + 1 + "2026-11-23T22:00:00Z".len() + 1 + NEVER.len();

/// Names stand in log lines.
const NAME_BYTES_MAX: usize = 64;

/// The alphabet of numbers and keys: Crockford's, which has no letter that is taken for a digit.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// What stands in a table of digits for a byte that is none.
const NO_DIGIT: u8 = u8::MAX;

/// The digits of [`BASE32`] by their bytes.
const BASE32_DIGITS: [u8; 256] = digits(BASE32, BASE32);

/// Hexadecimal digits by their bytes.
const HEX_DIGITS: [u8; 256] = digits(b"0123456789abcdef", b"0123456789ABCDEF");

/// Two ways to write each digit, by their bytes: files have a hundred digits a line, and a hundred thousand lines.
const fn digits(one: &[u8], other: &[u8]) -> [u8; 256] {
    let mut digits = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < one.len() {
        digits[one[digit] as usize] = digit as u8;
        digits[other[digit] as usize] = digit as u8;
        digit += 1;
    }
    digits
}

/// The keys of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyFile<'a> {
    /// In the order of the file.
    pub lines: Vec<KeyLine<'a>>,
    /// The words of every policy, none twice; lines name them by their place.
    pub policies: Vec<&'a str>,
    /// What they mean.
    pub meanings: Vec<Policy>,
    /// How many clients there are.
    pub names: usize,
}

/// By texts of the file. It is the operator's own: a fast hash will do.
type ByText<'a, T> = HashMap<&'a str, T, RandomState>;

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
    // Room for all lines at once: moving them each time that there is too little is a good part of reading them.
    let mut reading = Reading::for_lines((text.len() / LINE_BYTES_MIN).min(KEYS_MAX) + 1);
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
    let Reading { mut file, seen, mut faults, .. } = reading;
    if file.lines.len() > KEYS_MAX {
        faults.add(0, format!("{} keys: write at most {KEYS_MAX}", file.lines.len()));
    }
    doubles(seen, &mut faults);
    file.names = clients(&file, &mut faults);
    faults.faults.sort_by_key(|(line, _)| *line);
    if faults.faults.is_empty() { Ok(file) } else { Err(faults) }
}

/// A file that is being read.
#[derive(Default)]
struct Reading<'a> {
    file: KeyFile<'a>,
    /// The policies that were seen, and which one it is; `None` is a bad one.
    known: ByText<'a, Option<u32>>,
    /// Numbers and their lines.
    seen: Vec<(u64, usize)>,
    faults: KeyFaults,
}

impl<'a> Reading<'a> {
    fn for_lines(count: usize) -> Self {
        let file = KeyFile { lines: Vec::with_capacity(count), ..KeyFile::default() };
        Self { file, seen: Vec::with_capacity(count), ..Self::default() }
    }

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
}

/// How many names there are. Lines whose limits are not those of another line of their name are faults: each would count
/// for itself.
fn clients(file: &KeyFile<'_>, faults: &mut KeyFaults) -> usize {
    let counted = |line: &KeyLine<'_>| {
        let policy = &file.meanings[line.policy as usize];
        (&policy.limit, &policy.tokens, policy.concurrency)
    };
    let mut known: ByText<'_, &KeyLine<'_>> =
        HashMap::with_capacity_and_hasher(file.lines.len(), RandomState::default());
    for line in &file.lines {
        let first = *known.entry(line.name).or_insert(line);
        if first.policy != line.policy && counted(first) != counted(line) {
            let (name, other) = (line.name, first.line);
            faults.add(
                line.line,
                format!("line {other} is of {name} too: write the same limit, tokens and concurrency in both"),
            );
        }
    }
    known.len()
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
    let (mut id, mut seen) = (0, 0);
    for byte in text.bytes() {
        let digit = BASE32_DIGITS[usize::from(byte)];
        id = id << 5 | u64::from(digit & 31);
        seen |= digit;
    }
    (text.len() == ID_CHARS && seen != NO_DIGIT).then_some(id)
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
    let [y1, y2, y3, y4, b'-', mo1, mo2, b'-', d1, d2, b'T', h1, h2, b':', mi1, mi2, b':', s1, s2, b'Z'] =
        *text.as_bytes()
    else {
        return None;
    };
    let number = |digits: &[u8]| {
        let add = |sum: i64, digit: &u8| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0'));
        digits.iter().try_fold(0, add)
    };
    let (year, month, day) = (number(&[y1, y2, y3, y4])?, number(&[mo1, mo2])?, number(&[d1, d2])?);
    let (hour, minute, second) = (number(&[h1, h2])?, number(&[mi1, mi2])?, number(&[s1, s2])?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(is_leap),
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => return None,
    };
    let is_time = (1..=days).contains(&day) && hour < 24 && minute < 60 && second < 60;
    // A year that begins in March has its leap day at its end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - DAYS_TO_1970;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    u32::try_from(seconds).ok().filter(|seconds| is_time && *seconds > 0)
}

/// Days from the first of March of the year 0 to the first of January 1970.
const DAYS_TO_1970: i64 = 719_468;

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let (mut bytes, mut seen) = ([0; N], 0);
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let [high, low] = [*high, *low].map(|digit| HEX_DIGITS[usize::from(digit)]);
        *byte = high << 4 | low & 15;
        seen |= high | low;
    }
    (seen != NO_DIGIT).then_some(bytes)
}

#[cfg(test)]
mod tests;
