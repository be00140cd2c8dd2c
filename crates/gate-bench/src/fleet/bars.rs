//! What the fleet must reach, and whether it does. Printed, never asserted.

use super::{cancel, fairness, kills, lease, rate, swaps};
use crate::article;
use crate::bars::{Bar, compared, rounds_of, row};
use crate::peer::Kind;
use crate::stats::{Ratio, median, quantile};
use crate::table::Table;

/// All that was measured; parts that were not run are empty.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) lease: [lease::Runs; lease::SLOTS.len()],
    pub(crate) rate: Vec<article::Found>,
    pub(crate) fairness: Option<fairness::Found>,
    pub(crate) kills: Option<kills::Found>,
    pub(crate) cancel: Vec<f64>,
    pub(crate) swaps: Vec<swaps::Found>,
}

type Measured = Option<(f64, String)>;

/// The verdicts.
pub(crate) fn table(found: &Found) -> Table {
    let mut table = Table::new("Bars", &["fleet", "bar", "measured", "verdict"]);
    for (slots, runs) in lease::SLOTS.into_iter().zip(&found.lease) {
        let name = format!("choosing and leasing, 16 backends of {slots} slots, ns");
        let measured = median(runs.iter().copied()).map(|ns| (ns, spread(ns, runs)));
        table.row(row(&name, Bar::AtMost(1000.0), measured));
    }
    for (name, bar, measured) in
        rate_rows(found).into_iter().chain(fairness_rows(found)).chain(kill_rows(found)).chain(swap_rows(found))
    {
        table.row(row(&name, bar, measured));
    }
    table
}

fn rate_rows(found: &Found) -> [(String, Bar, Measured); 3] {
    let ratio = |figure: fn(&article::Round) -> f64| {
        let of = |kind| rounds_of(&found.rate, kind).map(|all| all.iter().map(figure).collect());
        let ratio = compared(of(Kind::Gate), of(Kind::Nginx));
        ratio.map(|Ratio { median, low, high }| (median, format!("{median:.2} ({low:.2} to {high:.2})")))
    };
    let failed = rounds_of(&found.rate, Kind::Gate).map(|all| all.iter().map(article::Round::failed).sum::<u64>());
    let backends = rate::BACKENDS;
    [
        (
            format!("requests/s, {backends} backends, x nginx least_conn"),
            Bar::AtLeast(0.95),
            ratio(article::Round::rate),
        ),
        ("CPU a request, x nginx least_conn".to_owned(), Bar::AtMost(1.1), ratio(article::Round::cpu_us)),
        ("failed requests".to_owned(), Bar::AtMost(0.0), failed.map(|count| (count as f64, count.to_string()))),
    ]
}

fn fairness_rows(found: &Found) -> [(String, Bar, Measured); 3] {
    let fairness = found.fairness.as_ref();
    let share = fairness.and_then(fairness::Found::unfairness).map(|off| (off * 100.0, format!("{:.1}", off * 100.0)));
    let wait = fairness.and_then(|fairness| {
        let p50 = quantile(&fairness.waits_us, 0.5).unwrap_or(0) / 1000;
        let fair = fairness::fair_wait().as_millis();
        fairness.wait().map(|wait| (wait, format!("{wait:.2} (fair {fair} ms, p50 {p50} ms)")))
    });
    let failed = fairness.map(|fairness| (fairness.failed as f64, fairness.failed.to_string()));
    [
        ("share of each client beside a greedy one, % off fair".to_owned(), Bar::AtMost(10.0), share),
        ("p99 wait of theirs, x fair wait".to_owned(), Bar::AtMost(2.0), wait),
        ("failed requests".to_owned(), Bar::AtMost(0.0), failed),
    ]
}

fn kill_rows(found: &Found) -> [(String, Bar, Measured); 3] {
    let kills = found.kills;
    let leaked = kills.map(|kills| (kills.leaked() as f64, format!("{} ({} held)", kills.leaked(), kills.held)));
    let count = kills.map(|kills| (kills.kills as f64, format!("{} ({} answered)", kills.kills, kills.answered)));
    let late = cancel::late(&found.cancel);
    let cancel = found.cancel.last().map(|worst| {
        let p50 = median(found.cancel.iter().copied()).unwrap_or(f64::NAN);
        (late as f64, format!("{late} of {} (p50 {p50:.1}, max {worst:.1} ms)", found.cancel.len()))
    });
    [
        ("workers killed under load".to_owned(), Bar::AtLeast(kills::KILLS as f64), count),
        ("leases leaked by them".to_owned(), Bar::AtMost(0.0), leaked),
        (format!("cancellations that take more than {} ms", cancel::SOON.as_millis()), Bar::AtMost(0.0), cancel),
    ]
}

fn swap_rows(found: &Found) -> [(String, Bar, Measured); 3] {
    let sum = |sharer| swaps::sum(&found.swaps, sharer);
    let both = sum(swaps::Sharer::Gate).zip(sum(swaps::Sharer::RoundRobin));
    let swapped = both.map(|(gate, other)| {
        let ratio = gate.swaps as f64 / other.swaps as f64;
        (ratio, format!("{ratio:.2} ({} to {})", gate.swaps, other.swaps))
    });
    let time = both.map(|(gate, other)| {
        let ratio = other.seconds / gate.seconds;
        (ratio, format!("{ratio:.2} ({:.1} s to {:.1} s)", other.seconds, gate.seconds))
    });
    let failed = both.map(|(gate, _)| (gate.failed as f64, gate.failed.to_string()));
    [
        ("model swaps, x round robin's".to_owned(), Bar::AtMost(0.5), swapped),
        ("round robin's total time, x the gate's".to_owned(), Bar::AtLeast(1.5), time),
        ("failed requests".to_owned(), Bar::AtMost(0.0), failed),
    ]
}

fn spread(value: f64, values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    format!("{value:.0} ({low:.0} to {high:.0})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_is_judged() {
        let swap = |sharer, swaps, seconds| swaps::Found { sharer, swaps, loads: 9, seconds, failed: 0 };
        let found = Found {
            lease: [vec![300.0, 310.0, 290.0], vec![1001.0]],
            rate: Vec::new(),
            fairness: Some(fairness::Found { served: vec![10, 10], waits_us: vec![100_001], failed: 0 }),
            kills: Some(kills::Found { kills: 1000, held: 7, answered: 9, left: 0, missing: 0 }),
            cancel: vec![1.0, 2.0, 101.0],
            swaps: vec![swap(swaps::Sharer::Gate, 5, 10.0), swap(swaps::Sharer::RoundRobin, 10, 15.0)],
        };
        let text = table(&found).to_string();
        for part in ["300 (290 to 310)", "1 of 3 (p50 2.0, max 101.0 ms)", "0.50 (5 to 10)", "1.50 (15.0 s to 10.0 s)"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let counts = ["bar met", "bar missed", "not measured"].map(|verdict| text.matches(verdict).count());
        assert_eq!(counts, [8, 3, 3], "{text}");
        assert_eq!(table(&Found::default()).to_string().matches("not measured").count(), 14);
    }
}
