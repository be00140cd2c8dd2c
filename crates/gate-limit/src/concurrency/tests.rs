use std::num::NonZeroUsize;

use super::*;
use crate::fixture::client;

fn zone() -> Zone {
    Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap().1
}

#[test]
fn processes_let_in_together_as_many_as_may_be() {
    let zone = zone();
    let (one, other) = (Concurrency::new(zone, Holder::new(1, 7)), Concurrency::new(zone, Holder::new(2, 8)));
    let anna = Subject::of_key("anna");
    let mut holds = [one.take(&anna, 3), other.take(&anna, 3), one.take(&anna, 3)].map(|hold| Some(hold.unwrap()));
    assert!(one.take(&anna, 3).is_none() && other.take(&anna, 3).is_none());
    assert!(one.take(&anna, 4).is_some(), "what it may have is said with each");
    for subject in [Subject::of_key("anne"), client("192.0.2.1").subject()] {
        assert!(other.take(&subject, 1).is_some());
    }
    holds[1] = None;
    assert_eq!(other.in_service(&anna), 2);
    assert!(one.take(&anna, 3).is_some(), "given back as it is dropped");
    assert!(one.take(&anna, 0).is_none());
}

#[test]
fn what_a_dead_process_had_is_free_when_it_is_settled() {
    let zone = zone();
    let (dead, living) = (Concurrency::new(zone, Holder::new(1, 7)), Concurrency::new(zone, Holder::new(2, 8)));
    let anna = Subject::of_key("anna");
    std::mem::forget(dead.take(&anna, 1));
    assert!(living.take(&anna, 1).is_none());
    assert_eq!(zone.holds().settle(1, 7), 1);
    assert!(living.take(&anna, 1).is_some());
}
