use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use gate_zone::Region;
use proptest::prelude::{any, prop, prop_assert, proptest};

use super::*;
use crate::client::Client;
use crate::fixture::{SEED, Zone, client, limit, limits, region};
use crate::flood::Flood;

impl Zone {
    /// A process whose routes all have these limits.
    fn process(&self, strategy: Strategy, text: &str) -> Admission {
        self.try_process(strategy, text).unwrap()
    }

    fn try_process(&self, strategy: Strategy, text: &str) -> Result<Admission, LimitError> {
        let limits = limits(text);
        let spec = Spec { strategy, article_body: limits.clone(), article_item: limits.clone(), api: limits };
        Admission::new(&self.tables, SEED, self.clock(), spec)
    }
}

fn nth_client(n: u32) -> Client {
    client(&IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n)).to_string())
}

fn admitted(process: &Admission, from: &Client, tries: usize) -> usize {
    (0..tries).filter(|_| process.admit(&from.subject(), Scope::ArticleBody).is_ok()).count()
}

#[test]
fn processes_admit_together_what_the_limit_says() {
    for strategy in [Strategy::FixedWindow, Strategy::Gcra] {
        let zone = Zone::new();
        let mut total = 0;
        for _ in 0..3 {
            // Each process starts later than the one before it, and later than the clients.
            let process = zone.process(strategy, "10 per 1 minute");
            zone.wait(Duration::from_millis(500));
            total += admitted(&process, &client("192.0.2.1"), 4);
        }
        assert_eq!(total, 10, "{strategy:?}");
    }
}

#[test]
fn late_processes_do_not_starve() {
    let zone = Zone::new();
    let early = zone.process(Strategy::Gcra, "10 per 1 second");
    zone.wait(Duration::from_secs(3600));
    let late = zone.process(Strategy::Gcra, "10 per 1 second");
    for process in [&early, &late, &early, &late] {
        assert_eq!(admitted(process, &client("192.0.2.1"), 20), 10);
        zone.wait(Duration::from_millis(1001));
    }
}

#[test]
fn gcra_lets_the_whole_amount_through_at_once() {
    for amount in [1, 2, 3, 7, 10, 999, 10_000] {
        let zone = Zone::new();
        let process = zone.process(Strategy::Gcra, &format!("{amount} per 1 second"));
        zone.wait(Duration::from_nanos(12_345));
        assert_eq!(admitted(&process, &client("192.0.2.1"), amount + 5), amount);
    }
}

#[test]
fn clients_and_scopes_count_apart() {
    let zone = Zone::new();
    let process = zone.process(Strategy::FixedWindow, "1 per 1 minute");
    for (ip, scope, passes) in [
        ("192.0.2.1", Scope::ArticleBody, true),
        ("192.0.2.1", Scope::ArticleItem, true),
        ("192.0.2.1", Scope::Api, true),
        ("192.0.2.1", Scope::ArticleBody, false),
        ("192.0.2.2", Scope::ArticleBody, true),
        ("::ffff:192.0.2.2", Scope::ArticleBody, false),
        ("2001:db8::1", Scope::ArticleBody, true),
        ("2001:db8::2", Scope::ArticleBody, false),
        ("2001:db8:0:1::2", Scope::ArticleBody, true),
    ] {
        assert_eq!(process.admit(&client(ip).subject(), scope).is_ok(), passes, "{ip} {scope:?}");
    }
}

#[test]
fn several_limits_are_charged_in_order_and_keep_what_they_took() {
    let zone = Zone::new();
    let process = zone.process(Strategy::FixedWindow, "5 per 1 hour;1 per 1 second");
    let from = client("192.0.2.1");
    let failed: Vec<_> = (0..8)
        .map(|_| {
            process.admit(&from.subject(), Scope::Api).map_or_else(|refused| refused.limit.text.clone(), |_| "-".into())
        })
        .collect();
    let (second, hour) = ("1 per 1 second", "5 per 1 hour");
    assert_eq!(failed, ["-", second, second, second, second, hour, hour, hour]);
    zone.wait(Duration::from_millis(1002));
    let refused = process.admit(&from.subject(), Scope::Api).unwrap_err();
    assert_eq!((refused.limit.text.as_str(), refused.standing().remaining), (hour, 0));
    assert!(refused.retry > Duration::from_secs(3598) && refused.retry <= Duration::from_secs(3600));
    assert_eq!(refused.standing().reset, refused.retry);
}

#[test]
fn an_allowed_answer_shows_the_first_limit_of_the_smallest_unit() {
    for (limits, shown, remaining) in [
        ("10 per 1 minute", "10 per 1 minute", 9),
        ("5 per 1 hour;9 per 1 second", "9 per 1 second", 8),
        ("7 per 120 second;9 per 1 minute", "7 per 120 second", 6),
        ("9 per 1 minute;8 per 2 minute;2 per 1 hour", "9 per 1 minute", 8),
    ] {
        for strategy in [Strategy::FixedWindow, Strategy::Gcra] {
            let process = Zone::new().process(strategy, limits);
            let permit = process.admit(&client("192.0.2.1").subject(), Scope::Api).unwrap();
            let standing = permit.standing().unwrap();
            assert_eq!((standing.limit.text.as_str(), standing.remaining), (shown, remaining), "{limits}");
            assert!(standing.reset > Duration::ZERO && standing.reset <= standing.limit.window);
        }
    }
}

#[test]
fn without_limits_everything_passes_and_nothing_is_shown() {
    let zone = Zone::new();
    let spec = Spec { strategy: Strategy::Gcra, article_body: vec![], article_item: vec![], api: vec![] };
    let process = Admission::new(&zone.tables, SEED, zone.clock(), spec).unwrap();
    assert_eq!(process.admit(&client("192.0.2.1").subject(), Scope::Api).unwrap().standing(), None);
}

#[test]
fn counts_outlive_the_process_and_changed_limits_start_fresh() {
    for strategy in [Strategy::FixedWindow, Strategy::Gcra] {
        let zone = Zone::new();
        let from = client("192.0.2.1");
        for (limits, passes) in
            [("2 per 1 minute", 2), ("2 per 1 minute", 0), ("3 per 1 minute", 3), ("2 per 1 minute", 0)]
        {
            assert_eq!(admitted(&zone.process(strategy, limits), &from, 5), passes, "{strategy:?} {limits}");
        }
    }
}

#[test]
fn zero_refuses_all() {
    for strategy in [Strategy::FixedWindow, Strategy::Gcra] {
        let refused = Zone::new().process(strategy, "0 per 1 minute").admit(&client("192.0.2.1").subject(), Scope::Api);
        assert_eq!(refused.unwrap_err().retry, Duration::from_secs(60));
    }
}

#[test]
fn thousands_of_clients_get_exactly_theirs() {
    let zone = Zone::new();
    let process = zone.process(Strategy::FixedWindow, "3 per 1 minute");
    let count: Vec<_> = (0..2000).map(|n| admitted(&process, &nth_client(n), 5)).collect();
    assert!(count.iter().all(|count| *count <= 3));
    // 2000 clients on 1024 sets of eight: hardly any set sees more than eight of them.
    assert!(count.iter().filter(|count| **count == 3).count() >= 1990, "{count:?}");
}

#[test]
fn what_cannot_be_counted_is_an_error() {
    let zone = Zone::new();
    let bounds = |text: &str| LimitError::Bounds(text.into());
    for (strategy, text, expected) in [
        (Strategy::FixedWindow, "1 per 7 second", LimitError::NoRegion(Duration::from_secs(7))),
        (Strategy::FixedWindow, "1000000001 per 1 minute", bounds("1000000001 per 1 minute")),
        (Strategy::FixedWindow, "1 per 999999999 hour", bounds("1 per 999999999 hour")),
        (Strategy::Gcra, "1000000001 per 1 hour", bounds("1000000001 per 1 hour")),
        (Strategy::Gcra, "9999999999 per 1 hour", bounds("9999999999 per 1 hour")),
        (Strategy::Gcra, "1 per 9999 hour", bounds("1 per 9999 hour")),
        (Strategy::Gcra, "10001 per 1 second", LimitError::TooFast("10001 per 1 second".into())),
    ] {
        assert_eq!(zone.try_process(strategy, text).err(), Some(expected), "{text}");
    }
    assert!(zone.try_process(Strategy::Gcra, "10000 per 1 second").is_ok());
    let flood = Flood::new(Region { sets: &[], ..region(1) }, SEED, zone.clock(), limit("1 per 1 second"));
    assert_eq!(flood.err(), Some(LimitError::RegionTooSmall));
}

#[test]
fn the_flood_guard_counts_apart() {
    let zone = Zone::new();
    let flood = Flood::new(zone.tables.gcra, SEED, zone.clock(), limit("5 per 1 second")).unwrap();
    let process = zone.process(Strategy::Gcra, "5 per 1 second");
    let from = client("192.0.2.1");
    assert_eq!((0..9).filter(|_| flood.guard(&from).is_ok()).count(), 5);
    assert_eq!(admitted(&process, &from, 9), 5);
    let refused = flood.guard(&from).unwrap_err();
    assert!(refused.retry > Duration::from_millis(199) && refused.retry < Duration::from_millis(201));
    zone.wait(refused.retry);
    assert!(flood.guard(&from).is_ok());
}

proptest! {
    #[test]
    fn waiting_as_told_is_enough_and_no_window_holds_more(
        amount in 1..20_u64, multiples in 1..3_u64, gcra in any::<bool>(),
        waits in prop::collection::vec(0..30_000_u64, 1..60),
    ) {
        let strategy = if gcra { Strategy::Gcra } else { Strategy::FixedWindow };
        let zone = Zone::new();
        let process = zone.process(strategy, &format!("{amount} per {multiples} minute"));
        let from = client("192.0.2.1");
        let window = Duration::from_secs(60) * multiples as u32;
        let mut passed = Vec::new();
        for wait in waits {
            zone.wait(Duration::from_millis(wait));
            let refused = process.admit(&from.subject(), Scope::Api).err();
            if let Some(refused) = refused {
                prop_assert!(refused.retry <= window);
                // The two ticks that a window may be longer than it is told.
                zone.wait(refused.retry + window / 512);
                prop_assert!(process.admit(&from.subject(), Scope::Api).is_ok(), "waited {:?}", refused.retry);
            }
            passed.push(zone.now_ns.load(SeqCst));
        }
        // Any stretch of one window lies in two fixed windows at most, or gets the burst and what comes back meanwhile.
        for start in &passed {
            let until = start + window.as_nanos() as u64;
            let within = passed.iter().filter(|at| (*start..until).contains(at)).count() as u64;
            prop_assert!(within <= 2 * amount, "{within} in a window of {amount}");
        }
    }
}
