//! Texts of keys, what opens the door and what does not.

use std::num::NonZeroUsize;

use gate_zone::Zone;
use gate_zone::keyring::Record;

use super::*;

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
    let fields = |all: &[&str]| all.iter().map(|field| field.as_bytes().to_vec()).collect::<Vec<_>>();
    let (authorization, x_api_key) = (fields(authorization), fields(x_api_key));
    let found = door.check(authorization.iter().map(Vec::as_slice), x_api_key.iter().map(Vec::as_slice), now);
    found.map(|entry| entry.id)
}

#[test]
fn a_key_opens_in_either_field() {
    let fresh = fresh(1);
    let door = door(&[record(&fresh, 0)]);
    let bearer = format!("bearer {}", fresh.text);
    assert_eq!(ask(door, &[&bearer], &[], 5), Ok(fresh.id));
    assert_eq!(ask(door, &[], &[&fresh.text], 5), Ok(fresh.id));
    assert_eq!(ask(door, &[], &[], 5), Err(KeyFault::Missing));
}
