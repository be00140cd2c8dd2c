//! Texts of keys, what opens the door and what does not, and how long that takes.

use std::num::NonZeroUsize;

use gate_zone::Zone;
use gate_zone::keyring::Record;
use proptest::prelude::*;

use super::*;

mod timing;

fn fresh(seed: u8) -> Fresh {
    Fresh::from_random(array::from_fn(|at| (at as u8).wrapping_mul(37).wrapping_add(seed)))
}

fn record(fresh: &Fresh, expires: u32) -> Record<'static> {
    Record { id: fresh.id, salt: fresh.salt, digest: fresh.digest, expires, policy: 0, name: "somebody" }
}

fn door(keys: &[Record<'_>]) -> Door {
    let (memory, zone) = Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap();
    zone.keyring().publish(&memory, keys, &[""]).unwrap();
    Door::new(zone.keyring())
}

fn ask(door: Door, authorization: &[&str], x_api_key: &[&str], now: u64) -> Result<u64, KeyFault> {
    let [authorization, x_api_key] = [authorization, x_api_key].map(|fields| fields.iter().map(|text| text.as_bytes()));
    door.check(authorization, x_api_key, now).map(|entry| entry.id)
}

/// RFC 4648 §4, with padding.
fn base64(bytes: &[u8]) -> String {
    const CHARS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(*group.get(at).unwrap_or(&0)));
        let char = |at: usize| if at <= group.len() { CHARS[bits >> (18 - 6 * at) & 63] } else { b'=' };
        [0, 1, 2, 3].map(|at| char::from(char(at)))
    };
    bytes.chunks(3).flat_map(group).collect()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

#[test]
fn a_key_reads_as_it_always_did() {
    let fresh = Fresh::from_random(array::from_fn(|at| at as u8));
    assert_eq!(fresh.text, "og-e5gn2g9h448g-30chm6rw3mf1y81148hj89964wm2jahb5gpjwbsg");
    assert_eq!((fresh.id, fresh.text.len()), (510_618_783_716_610_320, TEXT_CHARS));
    assert_eq!(fresh.salt, array::from_fn(|at| at as u8));
    // sha256sum of the salt and the text.
    let digest: Vec<u64> = fresh.digest.as_chunks().0.iter().map(|chunk| u64::from_be_bytes(*chunk)).collect();
    assert_eq!(digest, [0xf36f_7562_e08c_d11a, 0x3da4_3ee8_4eaa_604c, 0x8629_4cb7_2d6c_4480, 0xfac7_026f_e866_9a0c]);
    assert_eq!(format!("{fresh:?}"), "Fresh { id: \"e5gn2g9h448g\", .. }");
    // All of 225 bits are drawn: no text of a key is longer or shorter, or the same for other bits.
    let ends = [[0; RANDOM_BYTES], [0xff; RANDOM_BYTES]].map(|bytes| Fresh::from_random(bytes).text);
    assert_eq!(
        ends,
        [["og-", &"0".repeat(12), "-", &"0".repeat(40)], ["og-", &"z".repeat(12), "-", &"z".repeat(40)]]
            .map(|parts| parts.concat())
    );
}

#[test]
fn an_id_is_read_as_it_is_written() {
    for (id, text) in [(0, "000000000000"), (31, "00000000000z"), ((1 << 60) - 1, "zzzzzzzzzzzz")] {
        assert_eq!((id_text(id).as_str(), id_of(text)), (text, Some(id)));
    }
    let others = ["", "00000000000", "0000000000000", "00000000000i", "00000000000Z", "0000-0000000", "00000000000é"];
    for text in others {
        assert_eq!(id_of(text), None, "{text}");
    }
}

#[test]
fn a_right_key_opens_however_it_comes() {
    let fresh = fresh(1);
    let (text, door) = (fresh.text.as_str(), door(&[record(&fresh, 0), record(&self::fresh(2), 0)]));
    let bearer = |scheme: &str| format!("{scheme} {text}");
    for authorization in [
        bearer("Bearer"),
        bearer("bearer"),
        bearer("BEARER "),
        format!("  Bearer\u{20}{text}\t"),
        basic("", text),
        basic("anybody", text),
        basic("anybody", text).replace("Basic", "bASIC "),
        basic(&"u".repeat(700), text),
        basic("anybody", text).trim_end_matches('=').to_owned(),
        text.to_owned(),
    ] {
        assert_eq!(ask(door, &[&authorization], &[], 5), Ok(fresh.id), "{authorization}");
        assert_eq!(ask(door, &[&authorization], &[text], 5), Ok(fresh.id), "{authorization} twice");
        assert_eq!(ask(door, &[&authorization], &[""], 5), Ok(fresh.id), "{authorization} and an empty one");
    }
    let (bearer, basic) = (bearer("Bearer"), basic("u", text));
    assert_eq!(ask(door, &[], &[text], 5), Ok(fresh.id));
    assert_eq!(ask(door, &["Bearer ", &bearer, &basic], &[text, text], 5), Ok(fresh.id));
}

#[test]
fn what_is_wrong_is_told_in_one_word() {
    let (fresh, other) = (fresh(1), self::fresh(2));
    let door = door(&[record(&fresh, 0), record(&other, 0)]);
    let text = fresh.text.as_str();
    let check = |authorization: &[&str], x_api_key: &[&str], expected| {
        assert_eq!(ask(door, authorization, x_api_key, 5), Err(expected), "{authorization:?} {x_api_key:?}");
    };
    let bearer = format!("Bearer {text}");
    for empty in ["", " ", "Bearer", "bearer  ", &basic("user", "")] {
        check(&[empty], &[], KeyFault::Missing);
        check(&[empty], &[" "], KeyFault::Missing);
    }
    check(&[], &[], KeyFault::Missing);
    for ambiguous in [&other.text, "ollama", &text[1..]] {
        check(&[&bearer], &[ambiguous], KeyFault::Ambiguous);
        check(&[&bearer, &format!("Bearer {ambiguous}")], &[], KeyFault::Ambiguous);
        check(&[], &[ambiguous, text], KeyFault::Ambiguous);
    }
    check(&[&bearer, "Negotiate abc"], &[], KeyFault::Ambiguous);
    let (start, end) = (&text[..55], &text[55..]);
    let last = if end == "0" { "1" } else { "0" };
    for unknown in [
        "ollama".to_owned(),
        "og-".to_owned(),
        start.to_owned(),
        format!("{text}0"),
        format!("{start}{last}"),
        format!("0{}", &text[1..]),
        text.to_uppercase(),
        text.replace("og-", "og_"),
        [&text[..15], "_", &text[16..]].concat(),
        [&text[..3], &other.text[3..15], &text[15..]].concat(),
        [&text[..3], "iiiiiiiiiiii", &text[15..]].concat(),
        "ü".repeat(28),
    ] {
        check(&[], &[&unknown], KeyFault::Unknown);
        check(&[&format!("Bearer {unknown}")], &[], KeyFault::Unknown);
        check(&[&basic("user", &unknown)], &[], KeyFault::Unknown);
    }
    let nothing = Door::new(self::door(&[]).keyring);
    assert_eq!(ask(nothing, &[&bearer], &[], 5), Err(KeyFault::Unknown));
    for unread in ["Negotiate abc", "Basic", "Basic ?", "Basic QUJD", "Basic QUJDR", &basic(&"u".repeat(800), text)] {
        check(&[unread], &[], KeyFault::Unknown);
    }
}

#[test]
fn a_key_opens_only_under_its_own_id() {
    let fresh = fresh(1);
    let moved = Record { id: fresh.id ^ 1, ..record(&fresh, 0) };
    assert_eq!(ask(door(&[moved]), &[], &[&fresh.text], 5), Err(KeyFault::Unknown));
    // What is kept of no key, and what stands in for a key that there is not, opens nothing.
    let zeros = Record { salt: [0; 16], digest: [0; 32], ..record(&fresh, 0) };
    assert_eq!(ask(door(&[zeros]), &[], &[&fresh.text], 5), Err(KeyFault::Unknown));
}

#[test]
fn a_key_expires_in_its_second_for_those_who_know_it() {
    let fresh = fresh(1);
    let door = door(&[record(&fresh, 1000), record(&self::fresh(2), 0)]);
    let wrong = format!("{}0", &fresh.text[..55]);
    assert_eq!(ask(door, &[], &[&fresh.text], 999), Ok(fresh.id));
    for now in [1000, 1001, u64::MAX] {
        assert_eq!(ask(door, &[], &[&fresh.text], now), Err(KeyFault::Expired));
        assert_eq!(ask(door, &[], &[&wrong], now), Err(KeyFault::Unknown));
    }
    assert!(ask(door, &[], &[&self::fresh(2).text], u64::MAX).is_ok(), "0 is never");
}

#[test]
fn what_is_published_next_holds_at_once() {
    let (memory, zone) = Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap();
    let (door, fresh) = (Door::new(zone.keyring()), fresh(1));
    for (keys, expected) in [(vec![record(&fresh, 0)], Ok(fresh.id)), (vec![], Err(KeyFault::Unknown))] {
        zone.keyring().publish(&memory, &keys, &[""]).unwrap();
        assert_eq!(ask(door, &[], &[&fresh.text], 5), expected);
    }
}

proptest! {
    #[test]
    fn every_key_opens_and_none_with_one_character_changed(
        seeds in prop::collection::vec(prop::collection::vec(any::<u8>(), RANDOM_BYTES), 1..5),
        at in 0..TEXT_CHARS,
        with in prop_oneof![Just(b'-'), prop::sample::select(ALPHABET.to_vec()), 0x21..0x7f_u8],
    ) {
        let keys: Vec<_> = seeds.iter().map(|seed| Fresh::from_random(array::from_fn(|at| seed[at]))).collect();
        let records: Vec<_> = keys.iter().map(|key| record(key, 0)).collect();
        let door = door(&records);
        for key in &keys {
            prop_assert_eq!(id_of(&key.text[3..15]), Some(key.id));
            prop_assert_eq!(&id_text(key.id), &key.text[3..15]);
            prop_assert_eq!(ask(door, &[], &[&key.text], 5), Ok(key.id));
            let mut changed = key.text.clone().into_bytes();
            changed[at] = with;
            let changed = String::from_utf8(changed).unwrap();
            let expected = if changed == key.text { Ok(key.id) } else { Err(KeyFault::Unknown) };
            prop_assert_eq!(ask(door, &[], &[&changed], 5), expected);
        }
    }

    #[test]
    fn any_field_is_read_without_harm(
        fields in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            "(Bearer|Basic) [A-Za-z0-9+/=]{0,2000}".prop_map(String::into_bytes),
        ], 0..3),
    ) {
        let door = door(&[record(&fresh(1), 0)]);
        let all = || fields.iter().map(Vec::as_slice);
        prop_assert!(door.check(all(), std::iter::empty(), 5).is_err());
        prop_assert!(door.check(all(), all(), 5).is_err());
    }
}
