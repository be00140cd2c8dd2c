//! The books: every request is fine, or was in service on a worker that was killed, or is lost.
//!
//! Invariant: a failure is excused only where the kernel said, while the worker stood still, that its connection
//! belonged to that worker; or where the connection was made after the gate had been told to end.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A request that did not get its answer.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) client: String,
    pub(crate) what: String,
    /// Before the connection was asked for.
    pub(crate) begun: Instant,
    /// When it was there, and from which port.
    pub(crate) connected: Option<(Instant, u16)>,
    pub(crate) at: Instant,
}

struct Excuse {
    ports: HashSet<u16>,
    at: Instant,
}

#[derive(Default)]
struct Pages {
    failures: Vec<Failure>,
    excuses: Vec<Excuse>,
    ending: Option<Instant>,
}

/// All of a run.
#[derive(Default)]
pub(crate) struct Ledger {
    requests: AtomicU64,
    streams: AtomicU64,
    kills: AtomicU64,
    pages: Mutex<Pages>,
}

/// What a run came to.
pub(crate) struct Balance {
    pub(crate) requests: u64,
    pub(crate) streams: u64,
    pub(crate) kills: u64,
    pub(crate) excused: usize,
    pub(crate) lost: Vec<Failure>,
}

impl Ledger {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn answered(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn streamed(&self) {
        self.streams.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self, failure: Failure) {
        self.pages().failures.push(failure);
    }

    /// A worker that holds these connections stands still now, and will be killed.
    pub(crate) fn excuse(&self, ports: HashSet<u16>) {
        self.kills.fetch_add(1, Ordering::Relaxed);
        self.pages().excuses.push(Excuse { ports, at: Instant::now() });
    }

    /// The gate is told to end now: who comes later comes too late.
    pub(crate) fn end(&self) {
        self.pages().ending = Some(Instant::now());
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.pages().ending.is_some()
    }

    pub(crate) fn balance(&self) -> Balance {
        let pages = self.pages();
        let lost: Vec<Failure> = pages.failures.iter().filter(|failure| !pages.excuses(failure)).cloned().collect();
        Balance {
            requests: self.requests(),
            streams: self.streams.load(Ordering::Relaxed),
            kills: self.kills.load(Ordering::Relaxed),
            excused: pages.failures.len() - lost.len(),
            lost,
        }
    }
}

impl Pages {
    fn excuses(&self, failure: &Failure) -> bool {
        let too_late = |ending: Instant| match failure.connected {
            Some((at, _)) => at >= ending,
            None => failure.at >= ending,
        };
        let port = failure.connected.map(|(_, port)| port);
        let held = |excuse: &Excuse| {
            port.is_some_and(|port| excuse.ports.contains(&port)) && (failure.begun..=failure.at).contains(&excuse.at)
        };
        self.ending.is_some_and(too_late) || self.excuses.iter().any(held)
    }
}

#[test]
fn only_what_a_killed_worker_held_is_excused() {
    let (ledger, begun) = (Ledger::default(), Instant::now());
    ledger.excuse(HashSet::from([1000]));
    let at = |port: Option<u16>, begun: Instant| Failure {
        client: String::new(),
        what: String::new(),
        begun,
        connected: port.map(|port| (begun, port)),
        at: Instant::now(),
    };
    ledger.failed(at(Some(1000), begun));
    assert!(ledger.balance().lost.is_empty());
    ledger.failed(at(Some(1001), begun));
    ledger.failed(at(None, begun));
    ledger.failed(at(Some(1000), Instant::now()));
    assert_eq!((ledger.balance().lost.len(), ledger.balance().excused), (3, 1));
    ledger.end();
    ledger.failed(at(None, begun));
    ledger.failed(at(Some(1), Instant::now()));
    assert_eq!((ledger.balance().lost.len(), ledger.balance().excused), (3, 3));
    ledger.failed(at(Some(1), begun));
    assert_eq!(ledger.balance().lost.len(), 4, "it was connected before the end");
}
