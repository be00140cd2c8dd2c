//! What was published is found, and nothing else; how the halves take turns; what it costs.

use std::num::NonZeroUsize;

use super::*;

fn ring() -> (SharedWords, Keyring) {
    let (memory, zone) = Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap();
    (memory, zone.keyring())
}

/// An id that looks random.
fn id(number: usize) -> u64 {
    (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 4
}

fn records<'a>(names: &'a [String], policies: usize) -> Vec<Record<'a>> {
    let record = |(number, name): (usize, &'a String)| Record {
        id: id(number),
        salt: [number as u8; 16],
        digest: [(number >> 8) as u8; 32],
        expires: number as u32,
        policy: (number % policies) as u32,
        name,
    };
    names.iter().enumerate().map(record).collect()
}

fn assert_same(entry: &Entry, record: &Record<'_>, generation: u32) {
    assert_eq!((entry.id, entry.salt, entry.digest), (record.id, record.salt, record.digest));
    assert_eq!((entry.expires, entry.policy, entry.generation), (record.expires, record.policy, generation));
    assert_eq!(entry.name.as_str(), record.name);
}

#[test]
fn every_key_is_found_as_it_was_published() {
    for count in [1, 2, 3, 7, 1000] {
        let (memory, ring) = ring();
        let names: Vec<String> = (0..count).map(|number| "ab".repeat(number % 32 + 1)).collect();
        let keys = records(&names, 3);
        let policies = ["", "limit=60/minute", "models=qwen3:*  routes=read"];
        assert_eq!(ring.publish(&memory, &keys, &policies).unwrap(), 1);
        for key in &keys {
            assert_same(&ring.find(key.id).unwrap(), key, 1);
        }
        assert_eq!((ring.len(), ring.is_empty(), ring.generation()), (count, false, 1));
        for unknown in (count..2 * count).map(id) {
            assert!(ring.find(unknown).is_none());
            assert!(keys.iter().any(|key| key.id == ring.nearest(unknown).unwrap().id));
        }
        for (index, text) in policies.iter().enumerate() {
            assert_eq!(ring.policy(1, index as u32).as_deref(), Some(*text));
        }
        assert_eq!((ring.policy(1, 3), ring.policy(0, 0), ring.policy(2, 0)), (None, None, None));
    }
}
