//! What was published is found, and nothing else; how the halves take turns; what it costs.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering::SeqCst;

use proptest::prelude::*;

use super::*;
use crate::layout::keyring::record;

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

#[test]
fn before_anything_is_published_there_is_nothing() {
    let (memory, ring) = ring();
    assert_eq!((ring.generation(), ring.len(), ring.is_empty(), ring.policy(0, 0)), (0, 0, true, None));
    assert!(ring.find(5).is_none() && ring.nearest(5).is_none());
    ring.publish(&memory, &[], &["models=*"]).unwrap();
    assert_eq!((ring.generation(), ring.len(), ring.policy(1, 0).as_deref()), (1, 0, Some("models=*")));
    assert!(ring.find(5).is_none() && ring.nearest(5).is_none());
}

#[test]
fn a_publication_takes_the_place_of_the_one_before() {
    let (memory, ring) = ring();
    let names = ["one".to_owned(), "two".to_owned()];
    let keys = records(&names, 1);
    for generation in 1..=5 {
        // Each key is in every other publication.
        let key = &keys[generation as usize % 2];
        let policy = format!("limit={generation}/minute");
        assert_eq!(ring.publish(&memory, &[*key], &[&policy]).unwrap(), generation);
        assert_same(&ring.find(key.id).unwrap(), key, generation);
        assert!(ring.find(keys[1 - generation as usize % 2].id).is_none());
        assert_eq!(ring.policy(generation, 0), Some(policy));
        assert_eq!(ring.policy(generation - 1, 0), None, "its generation has passed");
    }
}

#[test]
fn of_several_keys_with_one_id_the_first_is_found() {
    let (memory, ring) = ring();
    let names = ["a", "b", "c", "d"].map(str::to_owned);
    let mut keys = records(&names, 1);
    for key in &mut keys[1..] {
        key.id = 77;
    }
    ring.publish(&memory, &keys, &[""]).unwrap();
    assert_same(&ring.find(77).unwrap(), &keys[1], 1);
}

#[test]
fn what_cannot_be_published_changes_nothing() {
    let (memory, ring) = ring();
    let good = Record { id: 9, salt: [1; 16], digest: [2; 32], expires: 0, policy: 0, name: "somebody" };
    ring.publish(&memory, &[good], &["a"]).unwrap();
    let long = "n".repeat(NAME_BYTES_MAX + 1);
    let wrong = [
        Record { name: "", ..good },
        Record { name: &long, ..good },
        Record { name: "zero\0", ..good },
        Record { id: 1 << ID_BITS, ..good },
        Record { policy: 1, ..good },
    ];
    let refused = |keys: &[Record<'_>], policies: &[&str]| {
        let refused = ring.publish(&memory, keys, policies).unwrap_err();
        assert_same(&ring.find(9).unwrap(), &good, 1);
        (refused.to_string(), refused)
    };
    for key in wrong {
        assert!(matches!(refused(&[good, key], &["a"]).1, Unpublished::Record(1)), "{key:?}");
    }
    assert!(matches!(refused(&vec![good; KEYS_MAX + 1], &["a"]).1, Unpublished::Keys(200_001)));
    assert!(matches!(refused(&[], &vec![""; POLICIES_MAX + 1]).1, Unpublished::Policies(200_001)));
    let room = keyring::TEXT_WORDS * size_of::<u64>();
    let (text, _) = refused(&[], &[&"x".repeat(room), "y"]);
    assert_eq!(text, "the texts of the different policies have 8388609 bytes, and there is room for 8388608");
    let (other, _) = Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap();
    assert!(matches!(ring.publish(&other, &[good], &["a"]), Err(Unpublished::Io(_))), "memory of another zone");
    assert_eq!(ring.generation(), 1);
}

#[test]
fn a_name_is_as_long_as_it_is() {
    for text in ["a", "12345678", "123456789", "ключ-ü", &"n".repeat(NAME_BYTES_MAX)] {
        let name = Name::new(text).unwrap();
        assert_eq!((name.as_str(), name.to_string()), (text, text.to_owned()));
        let (memory, ring) = ring();
        let key = Record { id: 3, salt: [1; 16], digest: [2; 32], expires: 0, policy: 0, name: text };
        ring.publish(&memory, &[key], &[""]).unwrap();
        assert_eq!(ring.find(3).unwrap().name, name, "a word in the zone is the same as one made here");
    }
    assert_eq!((Name::new(""), Name::new("a\0"), Name::new(&"n".repeat(65))), (None, None, None));
}

#[test]
fn digests_are_not_shown() {
    let (memory, ring) = ring();
    let key = Record { id: 3, salt: [123; 16], digest: [234; 32], expires: 5, policy: 0, name: "somebody" };
    ring.publish(&memory, &[key], &[""]).unwrap();
    let shown = format!("{key:?} {:?}", ring.find(3).unwrap());
    assert!(shown.contains("somebody") && !shown.contains("123") && !shown.contains("234"), "{shown}");
}

#[test]
fn as_many_as_there_is_room_for_are_published() {
    let (memory, ring) = ring();
    let names: Vec<String> = (0..KEYS_MAX).map(|number| format!("{number:064}")).collect();
    let keys = records(&names, POLICIES_MAX);
    let texts: Vec<String> = (0..POLICIES_MAX).map(|number| format!("limit={number:09}/minute")).collect();
    let policies: Vec<&str> = texts.iter().map(String::as_str).collect();
    ring.publish(&memory, &keys, &policies).unwrap();
    let generation = ring.publish(&memory, &keys, &policies).unwrap();
    for place in [0, 1, KEYS_MAX / 2, KEYS_MAX - 1] {
        assert_same(&ring.find(keys[place].id).unwrap(), &keys[place], generation);
        assert_eq!(ring.policy(generation, place as u32).as_deref(), Some(policies[place]));
    }
    let beyond = memory.words()[layout::LIMITER..].iter().filter(|word| word.load(SeqCst) != 0);
    assert_eq!(beyond.count(), 0, "nothing is written behind the keyring");
}

#[test]
fn a_hundred_thousand_keys_cost_ten_megabytes_and_old_ones_nothing() {
    const MOST: usize = 10_000_000;
    let (memory, ring) = ring();
    let names: Vec<String> = (0..100_000).map(|number| format!("team-{number:011}")).collect();
    let keys = records(&names, 50);
    let file = File::from(memory.as_fd().try_clone_to_owned().unwrap());
    let held = || file.metadata().unwrap().blocks() as usize * 512;
    let before = held();
    for generation in 1..=3 {
        ring.publish(&memory, &keys, &["limit=60/minute tokens=100000/hour models=llama3.2,qwen3:*"; 50]).unwrap();
        let cost = held() - before;
        assert!((8_000_000..=MOST).contains(&cost), "{cost} bytes in generation {generation}");
    }
    ring.publish(&memory, &keys[..1], &[""; 50]).unwrap();
    assert!(held() - before < 64 << 10, "few keys cost little again: {}", held() - before);
}

proptest! {
    #[test]
    fn whatever_is_published_is_found_and_nothing_else(
        keys in prop::collection::vec((0..40_u64, 0..3_u32, "[a-zA-Z0-9._@-]{1,64}", any::<[u8; 32]>()), 0..60),
        spread in prop::sample::select(vec![1, 1 << 20, (1 << 54) + 1]),
        policies in prop::collection::vec(".{0,40}", 3),
    ) {
        let (memory, ring) = ring();
        let record = |(id, policy, name, digest): &'_ (u64, u32, String, [u8; 32])| {
            (id * spread, name.clone(), *digest, *policy)
        };
        let owned: Vec<_> = keys.iter().map(record).collect();
        let records: Vec<_> = owned
            .iter()
            .map(|(id, name, digest, policy)| Record {
                id: *id, salt: [7; 16], digest: *digest, expires: *policy + 5, policy: *policy, name,
            })
            .collect();
        let texts: Vec<&str> = policies.iter().map(String::as_str).collect();
        ring.publish(&memory, &records, &texts).unwrap();
        prop_assert_eq!(ring.len(), records.len());
        for id in (0..41).map(|id| id * spread) {
            match (ring.find(id), records.iter().find(|record| record.id == id)) {
                (Some(entry), Some(record)) => assert_same(&entry, record, 1),
                (found, expected) => prop_assert!(found.is_none() && expected.is_none()),
            }
            prop_assert_eq!(ring.nearest(id).is_some(), !records.is_empty());
        }
        for (index, text) in texts.iter().enumerate() {
            prop_assert_eq!(ring.policy(1, index as u32), Some((*text).to_owned()));
        }
    }

    #[test]
    fn whatever_stands_in_the_words_is_read_without_harm(
        counts in prop::array::uniform4(prop_oneof![0..64_u64, any::<u64>()]),
        words in prop::collection::vec(prop_oneof![0..8_u64, any::<u64>(), (0..9_u64).prop_map(|low| 3 << 32 | low)], 64),
        ids in prop::collection::vec(any::<u64>(), 8),
    ) {
        let (memory, zone) = Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap();
        let half = &memory.words()[half_range(1)];
        let regions = [keyring::BUCKETS, keyring::RECORDS, keyring::RECORDS + record::WORDS, keyring::POLICIES];
        for (index, word) in words.iter().enumerate() {
            half[regions[index % 4] + index / 4].store(*word, SeqCst);
        }
        for (word, count) in half.iter().zip(counts) {
            word.store(count, SeqCst);
        }
        memory.words()[layout::KEYRING].store(1, SeqCst);
        let ring = zone.keyring();
        for id in ids {
            if let Some(entry) = ring.nearest(id) {
                prop_assert!(entry.name.as_str().len() <= NAME_BYTES_MAX);
            }
            drop(ring.policy(1, id as u32 % 8));
        }
    }
}
