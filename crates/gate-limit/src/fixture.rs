//! What tests of limits stand on: the zone's tables, a clock that is turned by hand, limits and clients by their text.
//!
//! It decides nothing. Invariant: no time passes but by [`Zone::wait`].

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use gate_zone::Region;
use gate_zone::limiter::WAYS;

use crate::client::{Client, Peer, Trust};
use crate::clock::Clock;
use crate::limit::{Limit, Tables};

pub(crate) const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfeed_beef];

const UNITS: [(&str, u64); 3] = [("second", 1), ("minute", 60), ("hour", 3600)];

pub(crate) fn region(sets: usize) -> Region {
    let words = |count| &*Vec::leak((0..count).map(|_| AtomicU64::new(0)).collect());
    Region { sets: words(sets * WAYS), overflow: words(64) }
}

/// The zone of several processes, and the clock they share.
pub(crate) struct Zone {
    pub(crate) tables: Tables,
    pub(crate) now_ns: Arc<AtomicU64>,
}

impl Zone {
    pub(crate) fn new() -> Self {
        let lengths = UNITS.iter().map(|(_, seconds)| *seconds).chain([120]).map(Duration::from_secs);
        let windows = lengths.map(|length| (length, region(1024))).collect();
        let now_ns = Arc::new(AtomicU64::new(1_000_000_000_000));
        Self { tables: Tables { windows, gcra: region(1024) }, now_ns }
    }

    pub(crate) fn clock(&self) -> Clock {
        let now_ns = Arc::clone(&self.now_ns);
        Clock::new(move || now_ns.load(SeqCst))
    }

    pub(crate) fn wait(&self, duration: Duration) {
        self.now_ns.fetch_add(duration.as_nanos() as u64, SeqCst);
    }
}

/// Limits as their text tells them, between semicolons.
pub(crate) fn limits(text: &str) -> Vec<Limit> {
    text.split(';').filter(|text| !text.is_empty()).map(limit).collect()
}

/// A limit as its text tells it: `10 per 2 minute`.
pub(crate) fn limit(text: &str) -> Limit {
    let words: Vec<_> = text.split(' ').collect();
    let [amount, "per", multiples, unit] = words.as_slice() else { panic!("{text}") };
    let (_, seconds) = UNITS.into_iter().find(|(name, _)| name == unit).unwrap();
    let unit = Duration::from_secs(seconds);
    Limit { amount: amount.parse().unwrap(), window: unit * multiples.parse().unwrap(), unit, text: text.to_owned() }
}

pub(crate) fn client(ip: &str) -> Client {
    Trust::networks(Vec::new()).client(Peer::Ip(ip.parse().unwrap()), [].into_iter())
}
