//! How a conversation begins, as a number: equal for all its turns, different for others.
//!
//! It decides nothing: whoever chooses a backend may send equal numbers to the same one, where the beginning is still
//! in the model's cache. Texts that meet by chance, or by design, only share that preference.
//!
//! Invariant: the number depends on what texts mean, not on how JSON spelled them, and nothing is copied for it.

use super::name;
use super::text::{self, Part};

/// Bytes of a prompt that count: a prompt may hold all turns so far, and its later ones must not change the number.
const PROMPT_MAX: usize = 512;

/// Follows a body's texts as they are read.
#[derive(Default)]
pub(crate) struct Opening {
    digest: Digest,
    user: User,
}

/// Whether the first message of the user has been heard.
#[derive(Default, PartialEq)]
enum User {
    #[default]
    Awaited,
    Heard,
}

impl Opening {
    /// The next message, by the JSON text of its role and content; ignored behind the first of the user.
    pub(super) fn hear(&mut self, role: Option<&str>, content: Option<&str>) {
        self.hear_all(role, content.into_iter());
    }

    /// The same for a content in several strings, which count as one.
    pub(super) fn hear_all<'a>(&mut self, role: Option<&str>, contents: impl Iterator<Item = &'a str>) {
        if self.user == User::Heard {
            return;
        }
        let role = text::string(role.unwrap_or(""));
        if role.eq_ignore_ascii_case("user") {
            self.user = User::Heard;
        }
        self.digest.add_folded(&role);
        self.digest.end_text();
        contents.for_each(|content| self.add(content, usize::MAX));
        self.digest.end_text();
    }

    /// The texts of a call without messages.
    pub(super) fn hear_prompt(&mut self, system: Option<&str>, prompt: Option<&str>) {
        self.add(system.unwrap_or(""), usize::MAX);
        self.digest.end_text();
        self.add(prompt.unwrap_or(""), PROMPT_MAX);
        self.digest.end_text();
    }

    /// The number of what was heard, for a model that is named `model`; never 0.
    pub(crate) fn conversation(&mut self, model: &str) -> u64 {
        let (name, tag) = name::listed_parts(model);
        self.digest.add_folded(name);
        self.digest.add_folded(tag);
        self.digest.end_text();
        self.digest.finish().max(1)
    }

    /// Adds at most `max` bytes of what the JSON string `raw` means.
    fn add(&mut self, raw: &str, mut max: usize) {
        for part in text::parts(raw, max) {
            let mut utf8 = [0; 4];
            let bytes = match part {
                Part::Plain(run) => run.as_bytes(),
                Part::Escaped(letter) => letter.encode_utf8(&mut utf8).as_bytes(),
            };
            let bytes = &bytes[..bytes.len().min(max)];
            self.digest.add(bytes);
            max -= bytes.len();
            if max == 0 {
                break;
            }
        }
    }
}

/// Words that are mixed side by side, so that none waits for the multiplication of the one before.
const LANES: usize = 4;

/// In the manner of FNV-1a, yet eight bytes at a time: byte by byte it takes longer than all the rest of a body's reading.
struct Digest {
    lanes: [u64; LANES],
    /// The lane of the next word.
    lane: usize,
    /// Bytes that are not a word yet, the first lowest, and how many bits they are: under 64.
    pending: u64,
    bits: u32,
}

impl Default for Digest {
    fn default() -> Self {
        let basis = 0xcbf2_9ce4_8422_2325_u64;
        Self { lanes: std::array::from_fn(|lane| basis.wrapping_add(lane as u64)), lane: 0, pending: 0, bits: 0 }
    }
}

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if self.bits == 0 && self.lane == 0 {
            let (blocks, tail) = rest.as_chunks::<{ LANES * 8 }>();
            for block in blocks {
                for (lane, word) in self.lanes.iter_mut().zip(block.as_chunks::<8>().0) {
                    *lane = mixed(*lane, u64::from_le_bytes(*word));
                }
            }
            rest = tail;
        }
        for chunk in rest.chunks(8) {
            self.add_bits(word(chunk), 8 * chunk.len() as u32);
        }
    }

    /// Adds the lower `bits` of `word`, 8 to 64 of them; those above are zero.
    fn add_bits(&mut self, word: u64, bits: u32) {
        let whole = self.pending | word << self.bits;
        if self.bits + bits < 64 {
            (self.pending, self.bits) = (whole, self.bits + bits);
            return;
        }
        self.put(whole);
        // Zero where nothing was pending.
        self.pending = word.unbounded_shr(64 - self.bits);
        self.bits = self.bits + bits - 64;
    }

    /// Letters of ASCII as lower-case ones.
    fn add_folded(&mut self, text: &str) {
        for chunk in text.as_bytes().chunks(8) {
            self.add_bits(folded(word(chunk)), 8 * chunk.len() as u32);
        }
    }

    /// Ends a text with a byte that no text has; the next begins with a word of its own.
    fn end_text(&mut self) {
        self.put(self.pending | 0xff << self.bits);
        (self.pending, self.bits) = (0, 0);
    }

    fn put(&mut self, word: u64) {
        self.lanes[self.lane] = mixed(self.lanes[self.lane], word);
        self.lane = (self.lane + 1) % LANES;
    }

    fn finish(&self) -> u64 {
        let folded = self.lanes.iter().copied().fold(self.lane as u64, mixed);
        mixed(mixed(folded, 0), 0)
    }
}

/// Up to eight bytes as a number, the first lowest.
fn word(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(whole) => u64::from_le_bytes(*whole),
        None => bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    }
}

/// The capitals among eight bytes as small letters.
fn folded(word: u64) -> u64 {
    let mut bytes = word.to_le_bytes();
    bytes.make_ascii_lowercase();
    u64::from_le_bytes(bytes)
}

/// One step. The shift brings down what multiplication only moves up.
fn mixed(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}
