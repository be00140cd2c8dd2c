//! Ten clients before few slots, one of which asks for as much as ninety per cent of all: what the others get.
//!
//! All ask in a closed loop. For shares each of the others has a few requests under way, so that all are backlogged all
//! the time; for waits one, so that it waits behind others only, and not behind itself.

use std::rc::Rc;
use std::time::Duration;

use ollama_sim::Config;
use tokio::time::Instant;

use super::client::{self, Record, drawn};
use super::gate::Gate;
use super::{Ground, slots};
use crate::backend::Backend;
use crate::complaint::Complaint;
use crate::stats::quantile;

/// Clients; the first one is greedy.
pub(crate) const CLIENTS: usize = 10;
/// Backends.
const BACKENDS: usize = 2;
/// Slots of each.
const SLOTS: u16 = 2;
/// How much more than each other client the greedy one asks for: 81 of 90 is ninety per cent.
const GREED: usize = 81;
/// Requests that each of the others has under way while shares are measured: one in service now and then, others waiting.
const BACKLOG: usize = 3;
/// The shortest answer.
const SERVICE_MIN_MS: u64 = 10;
/// Answers take up to so much longer.
const SERVICE_SPREAD_MS: u64 = 21;
/// Before anything counts: connections are made, and the first wave gets its slots in the order in which it came.
const WARM_UP: Duration = Duration::from_secs(2);
/// What counts: some 200 requests of each client.
const MEASURED: Duration = Duration::from_secs(10);

/// What the clients got.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    /// Of each client, in requests; the greedy one first.
    pub(crate) served: Vec<usize>,
    /// Of the clients but the greedy one, in microseconds, sorted.
    pub(crate) waits_us: Vec<u32>,
    /// Requests that were not answered with 200.
    pub(crate) failed: usize,
}

impl Found {
    /// By how much the share of another client is off what is fair at most: a tenth of all.
    pub(crate) fn unfairness(&self) -> Option<f64> {
        let fair = self.served.iter().sum::<usize>() as f64 / self.served.len() as f64;
        let off = self.served.iter().skip(1).map(|served| (*served as f64 - fair).abs() / fair);
        off.reduce(f64::max).filter(|off| off.is_finite())
    }

    /// The 99th percentile of the others' waits, in fair waits.
    pub(crate) fn wait(&self) -> Option<f64> {
        let p99 = Duration::from_micros(quantile(&self.waits_us, 0.99)?.into());
        Some(p99.as_secs_f64() / fair_wait().as_secs_f64())
    }
}

/// What a client waits whose turn comes once a round: as many mean services as there are clients, over all slots.
pub(crate) fn fair_wait() -> Duration {
    let mean_ms = SERVICE_MIN_MS as f64 + (SERVICE_SPREAD_MS - 1) as f64 / 2.0;
    Duration::from_secs_f64(mean_ms / 1e3 * CLIENTS as f64 / (BACKENDS as f64 * f64::from(SLOTS)))
}

/// Measures shares, then waits.
pub(crate) fn measure(ground: &Ground<'_>) -> Result<Found, Complaint> {
    let backends: Vec<Backend> = (0..BACKENDS)
        .map(|_| Backend::of(Config { slots: slots(SLOTS), recorded: 0, ..Config::echo() }))
        .collect::<Result<_, _>>()?;
    let slots = SLOTS.to_string();
    let settings = ["--workers", "2", "--slots", &slots, "--queue", "1024", "--queue-per-client", "512"];
    let gate = Gate::start_warm(ground, "fairness", &backends, &settings)?;
    let mut found = Found::default();
    for backlog in [BACKLOG, 1] {
        let connections: Vec<usize> =
            (0..CLIENTS).map(|one| if one == 0 { GREED * backlog } else { backlog }).collect();
        let records = client::run(gate.port, &connections, &(Rc::new(asker()) as Rc<client::Next>))?;
        found.failed += records.iter().filter(|record| record.status != Some(200)).count();
        let counted = records.iter().filter(|record| (WARM_UP..WARM_UP + MEASURED).contains(&record.ended));
        if backlog == BACKLOG {
            found.served = vec![0; CLIENTS];
            counted.for_each(|record| found.served[record.client] += 1);
            eprintln!("fairness: served {:?}", found.served);
        } else {
            found.waits_us = counted.filter(|record| record.client != 0).map(waited_us).collect();
            found.waits_us.sort_unstable();
            eprintln!("fairness: waits {:?}", [0.5, 0.99, 1.0].map(|share| quantile(&found.waits_us, share)));
        }
    }
    Ok(found)
}

/// Asks until the time is over.
fn asker() -> impl Fn() -> Option<(u64, String)> {
    let asked = std::cell::Cell::new(0);
    let until = Instant::now() + WARM_UP + MEASURED;
    move || {
        asked.set(asked.get() + 1);
        let number: u64 = asked.get();
        let body =
            format!(r#"{{"model":"llama3.2:1b","prompt":"@sleep:{}","stream":false}}"#, service(number).as_secs_f64());
        (Instant::now() < until).then_some((number, body))
    }
}

fn service(number: u64) -> Duration {
    Duration::from_millis(SERVICE_MIN_MS + drawn(number) % SERVICE_SPREAD_MS)
}

/// All of an answer's time but that of the backend.
fn waited_us(record: &Record) -> u32 {
    let waited = record.ended.saturating_sub(record.began).saturating_sub(service(record.number));
    u32::try_from(waited.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_share_and_the_99th_wait_count() {
        let found =
            Found { served: vec![100, 100, 90, 110], waits_us: (1..=100).map(|ms| ms * 1000).collect(), failed: 0 };
        assert!((found.unfairness().unwrap() - 0.1).abs() < 1e-9);
        assert_eq!(fair_wait(), Duration::from_millis(50));
        assert!((found.wait().unwrap() - 99.0 / 50.0).abs() < 1e-9);
        assert_eq!((Found::default().unfairness(), Found::default().wait()), (None, None));
        // What the greedy one gets beside the others is its own affair, as long as theirs is fair.
        let greedy = Found { served: vec![310, 30, 30, 30], ..found };
        assert!(greedy.unfairness().unwrap() > 0.6);
    }

    #[test]
    fn services_spread_evenly() {
        let mean = (0..10_000).map(|number| service(number).as_secs_f64()).sum::<f64>() / 10_000.0;
        assert!((0.0195..0.0205).contains(&mean), "{mean}");
    }
}
