//! Many keys: their texts, and the key file that has them all. The same in every run.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use gate_limit::keys::{Fresh, RANDOM_BYTES, id_text};

use crate::complaint::Complaint;

/// Keys, as the bar has it.
pub(crate) const KEYS: usize = 100_000;
/// Policies that they share: what an operator of so many keys has at most.
pub(crate) const POLICIES: usize = 50;
/// What the limits of a key start at: never reached here.
const AMOUNT: u64 = 1_000_000_000 - POLICIES as u64;
/// For whoever may read a key file.
const MODE: u32 = 0o600;

/// A row of numbers that looks like chance and is the same in every run: splitmix64.
pub(crate) struct Row(u64);

impl Row {
    /// The row that begins here.
    pub(crate) fn from(seed: u64) -> Self {
        Self(seed)
    }

    /// Its next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// So many keys.
pub(crate) fn keys(count: usize) -> Vec<Fresh> {
    let mut row = Row::from(6);
    let mut random = || {
        let mut bytes = [0; RANDOM_BYTES];
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&row.next().to_le_bytes()[..chunk.len()]));
        bytes
    };
    (0..count).map(|_| Fresh::from_random(random())).collect()
}

/// Whose the key at this place is: 16 bytes, as many a name of a project or a person has.
pub(crate) fn name(place: usize) -> String {
    format!("project-{place:08}")
}

/// The policy of the key at this place.
pub(crate) fn policy(place: usize) -> String {
    let amount = AMOUNT + (place % POLICIES) as u64;
    format!("limit={amount}/minute tokens={amount}/hour models=llama3.2:*,qwen3:* routes=infer,read num_ctx=8192")
}

/// The lines of these keys.
pub(crate) fn text(keys: &[Fresh]) -> String {
    let mut text = String::new();
    for (place, key) in keys.iter().enumerate() {
        let (id, salt, digest) = (id_text(key.id), hex(&key.salt), hex(&key.digest));
        writeln!(text, "{id} {salt} {digest} {} 2026-01-02T03:04:05Z - {}", name(place), policy(place)).ok(); // It is a String.
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok(); // It is a String.
        text
    })
}

/// Writes a key file; what was in it is gone.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Complaint> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(Complaint::file(path))
}

#[cfg(test)]
mod tests {
    use gate_config::keyfile::parse;

    use super::*;

    #[test]
    fn the_gate_reads_what_is_written() {
        let made = keys(2 * POLICIES);
        let text = text(&made);
        let file = parse(&text).unwrap();
        assert_eq!((file.lines.len(), file.names, file.policies.len()), (2 * POLICIES, 2 * POLICIES, POLICIES));
        for (line, key) in file.lines.iter().zip(&made) {
            assert_eq!((line.id, line.salt, line.digest, line.expires), (key.id, key.salt, key.digest, 0));
        }
        assert_eq!(file.lines[7].name, name(7));
        assert_eq!(file.policies[file.lines[POLICIES + 7].policy as usize], policy(7));
    }

    #[test]
    fn runs_are_alike() {
        let texts = |count| keys(count).into_iter().map(|key| key.text).collect::<Vec<_>>();
        assert_eq!(texts(3)[..2], texts(2));
        assert_ne!(texts(2)[0], texts(2)[1]);
    }
}
