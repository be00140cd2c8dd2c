use std::time::Duration;

use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;
use crate::admission::{Admission, Scope, Spec};
use crate::fixture::{SEED, Zone, client, limits};

impl Zone {
    fn budget(&self, requests: &str, tokens: &str) -> Rc<Budget> {
        let budget = Budget::new(&self.tables, SEED, self.clock(), limits(requests), limits(tokens));
        Rc::new(budget.unwrap())
    }
}

fn anna() -> Subject {
    Subject::of_key("anna")
}

/// Tokens that can still be reserved.
fn left(budget: &Rc<Budget>, subject: &Subject) -> u64 {
    let mut left = 0;
    let mut kept = Vec::new();
    for power in (0..24).rev() {
        while let Ok(reservation) = budget.reserve(subject, 1 << power) {
            // More than the whole amount is the whole amount.
            left += reservation.held.first.unwrap().cost();
            kept.push(reservation);
        }
    }
    left
}

fn refused_by<T>(outcome: Result<T, Refused>) -> Option<String> {
    outcome.err().map(|refused| refused.limit.text.clone())
}

#[test]
fn names_share_a_budget_over_processes_and_policies_and_nothing_else() {
    let zone = Zone::new();
    let (budget, other) = (zone.budget("2 per 1 minute", ""), zone.budget("2 per 1 minute", "9 per 1 hour"));
    assert!(budget.admit(&anna()).is_ok() && other.admit(&anna()).is_ok());
    assert_eq!(refused_by(budget.admit(&anna())).unwrap(), "2 per 1 minute");
    assert!(budget.admit(&Subject::of_key("anne")).is_ok());
    assert!(budget.admit(&client("192.0.2.1").subject()).is_ok());
    assert!(zone.budget("3 per 1 minute", "").admit(&anna()).is_ok(), "another limit is another count");
}

#[test]
fn requests_tokens_and_routes_count_apart() {
    let zone = Zone::new();
    let budget = zone.budget("3 per 1 minute", "3 per 1 minute");
    let spec = Spec {
        strategy: crate::Strategy::FixedWindow,
        article_body: vec![],
        article_item: vec![],
        api: limits("3 per 1 minute"),
    };
    let admission = Admission::new(&zone.tables, SEED, zone.clock(), spec).unwrap();
    let all = budget.reserve(&anna(), 3).unwrap();
    assert_eq!((0..9).filter(|_| budget.admit(&anna()).is_ok()).count(), 3);
    assert_eq!((0..9).filter(|_| admission.admit(&anna(), Scope::Api).is_ok()).count(), 3);
    drop(all);
    assert_eq!(left(&budget, &anna()), 3);
}

#[test]
fn a_reservation_costs_what_was_used_in_the_end() {
    for (reserved, used, remaining) in [
        (40, 40, 60),
        (40, 10, 90),
        (40, 0, 100),
        (40, 70, 30),
        (40, 1_000, 0),
        (1_000, 90, 10),
        (0, 0, 100),
        (0, 7, 93),
    ] {
        let zone = Zone::new();
        let budget = zone.budget("", "100 per 1 minute");
        let reservation = budget.reserve(&anna(), reserved).unwrap();
        assert_eq!(reservation.standing().unwrap().remaining, 100 - reserved.clamp(1, 100));
        reservation.settle(used);
        assert_eq!(left(&budget, &anna()), remaining, "{used} of {reserved}");
        zone.wait(Duration::from_millis(60_200));
        assert_eq!(left(&budget, &anna()), 100);
    }
}

#[test]
fn a_reservation_that_is_dropped_costs_nothing() {
    let budget = Zone::new().budget("", "100 per 1 minute;500 per 1 hour;600 per 1 second");
    drop(budget.reserve(&anna(), 60).unwrap());
    assert_eq!(left(&budget, &anna()), 100);
    let reservation = budget.reserve(&anna(), 60).unwrap();
    assert_eq!(refused_by(budget.reserve(&anna(), 41)).unwrap(), "100 per 1 minute");
    reservation.settle(60);
    assert_eq!(left(&budget, &anna()), 40, "what is settled is not given back as well");
}

#[test]
fn all_windows_are_charged_or_none() {
    let zone = Zone::new();
    let (both, hour) = (zone.budget("", "100 per 1 hour;30 per 1 minute"), zone.budget("", "100 per 1 hour"));
    let _first = both.reserve(&anna(), 20).unwrap();
    for _ in 0..9 {
        assert_eq!(refused_by(both.reserve(&anna(), 20)).unwrap(), "30 per 1 minute");
    }
    assert_eq!(left(&hour, &anna()), 80, "nothing of the hour is gone");
    let requests = zone.budget("3 per 1 hour;1 per 1 minute", "");
    for minute in 0..3 {
        assert!(requests.admit(&anna()).is_ok(), "{minute}");
        assert!(requests.admit(&anna()).is_err(), "{minute}");
        zone.wait(Duration::from_millis(60_200));
    }
    assert_eq!(refused_by(requests.admit(&anna())).unwrap(), "3 per 1 hour");
}

#[test]
fn a_request_larger_than_a_whole_amount_reserves_that_and_is_charged_the_rest() {
    let zone = Zone::new();
    let both = zone.budget("", "100 per 1 minute;1000 per 1 hour");
    let hour = zone.budget("", "1000 per 1 hour");
    let reservation = both.reserve(&anna(), 500).unwrap();
    assert_eq!(left(&hour, &anna()), 500);
    assert_eq!(refused_by(both.reserve(&anna(), 1)).unwrap(), "100 per 1 minute");
    reservation.settle(300);
    assert_eq!(left(&hour, &anna()), 700, "of the hour 200 were too much; of the minute 200 too little");
    assert_eq!(refused_by(both.reserve(&anna(), 1)).unwrap(), "100 per 1 minute");
}

#[test]
fn the_window_that_gets_back_is_the_one_it_was_taken_from() {
    let zone = Zone::new();
    let budget = zone.budget("", "100 per 1 minute");
    let (dropped, settled) = (budget.reserve(&anna(), 50).unwrap(), budget.reserve(&anna(), 50).unwrap());
    zone.wait(Duration::from_millis(60_200));
    budget.reserve(&anna(), 30).unwrap().settle(30);
    drop(dropped);
    assert_eq!(left(&budget, &anna()), 70);
    settled.settle(60);
    assert_eq!(left(&budget, &anna()), 60, "ten more than were reserved");
}

#[test]
fn a_refusal_says_when_and_writes_nothing() {
    let zone = Zone::new();
    let budget = zone.budget("", "100 per 1 minute;0 per 1 hour");
    assert_eq!(refused_by(budget.reserve(&anna(), 1)).unwrap(), "0 per 1 hour");
    let budget = zone.budget("", "100 per 1 minute");
    budget.reserve(&anna(), 90).unwrap().settle(90);
    zone.wait(Duration::from_secs(20));
    let refused = budget.reserve(&anna(), 20).unwrap_err();
    assert!(refused.retry > Duration::from_secs(39) && refused.retry <= Duration::from_millis(40_100), "{refused}");
    assert_eq!(left(&budget, &anna()), 10);
    zone.wait(refused.retry);
    assert!(budget.reserve(&anna(), 20).is_ok());
}

#[test]
fn without_limits_everything_passes() {
    let budget = Zone::new().budget("", "");
    assert_eq!(budget.admit(&anna()).unwrap().standing(), None);
    let reservation = budget.reserve(&anna(), u64::MAX).unwrap();
    assert_eq!(reservation.standing(), None);
    reservation.settle(u64::MAX);
    assert_eq!((budget.request_limits().count(), budget.token_limits().count()), (0, 0));
}

#[test]
fn the_smallest_unit_is_shown() {
    let budget = Zone::new().budget("", "1000 per 1 hour;100 per 1 minute;900 per 2 minute");
    let reservation = budget.reserve(&anna(), 30).unwrap();
    let standing = reservation.standing().unwrap();
    assert_eq!((&*standing.limit.text, standing.remaining), ("100 per 1 minute", 70));
    assert_eq!(budget.token_limits().map(|limit| limit.amount).collect::<Vec<_>>(), [1000, 100, 900]);
}

#[test]
fn what_cannot_be_counted_is_an_error() {
    let zone = Zone::new();
    for (requests, tokens, expected) in [
        ("1 per 7 second", "", LimitError::NoRegion(Duration::from_secs(7))),
        ("", "1 per 7 second", LimitError::NoRegion(Duration::from_secs(7))),
        ("", "1000000001 per 1 hour", LimitError::Bounds("1000000001 per 1 hour".into())),
    ] {
        let budget = Budget::new(&zone.tables, SEED, zone.clock(), limits(requests), limits(tokens));
        assert_eq!(budget.err(), Some(expected));
    }
    assert!(zone.budget("", "1000000000 per 1 hour").reserve(&anna(), 1).is_ok());
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(u64),
    /// One of those in reserve; `None` drops it.
    Conclude(prop::sample::Index, Option<u64>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let used = prop_oneof![1 => Just(None), 3 => (0..60_u64).prop_map(Some)];
    let step = prop_oneof![
        (0..70_u64).prop_map(Step::Reserve),
        (any::<prop::sample::Index>(), used).prop_map(|(index, used)| Step::Conclude(index, used)),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    /// Within one window: what is in reserve and what was used is what is gone, of each limit.
    #[test]
    fn what_is_gone_is_what_is_reserved_and_used(steps in steps()) {
        let zone = Zone::new();
        let both = zone.budget("", "50 per 1 hour;200 per 2 minute");
        let each = [(zone.budget("", "50 per 1 hour"), 50), (zone.budget("", "200 per 2 minute"), 200)];
        let mut reserved: Vec<(u64, Reservation)> = Vec::new();
        let mut used_up = 0;
        for step in steps {
            match step {
                Step::Reserve(tokens) => {
                    let gone = |amount: u64| {
                        used_up + reserved.iter().map(|(tokens, _)| (*tokens).min(amount)).sum::<u64>()
                    };
                    let tokens = tokens.max(1);
                    let fits = each.iter().all(|(_, amount)| gone(*amount) + tokens.min(*amount) <= *amount);
                    let outcome = both.reserve(&anna(), tokens);
                    prop_assert_eq!(outcome.is_ok(), fits);
                    reserved.extend(outcome.ok().map(|reservation| (tokens, reservation)));
                }
                Step::Conclude(index, used) if !reserved.is_empty() => {
                    let (_, reservation) = reserved.swap_remove(index.index(reserved.len()));
                    used_up += used.unwrap_or(0);
                    if let Some(used) = used {
                        reservation.settle(used);
                    }
                }
                Step::Conclude(..) => {}
            }
            for (budget, amount) in &each {
                let gone = used_up + reserved.iter().map(|(tokens, _)| (*tokens).min(*amount)).sum::<u64>();
                prop_assert_eq!(left(budget, &anna()), amount.saturating_sub(gone));
            }
        }
        prop_assert!(reserved.len() <= 50);
    }
}
