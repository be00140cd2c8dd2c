//! How the fleet stands: each backend of the configuration in service, and the queue in front of them.
//!
//! Everything is read from the zone while it changes: what is told is what each word said when it was looked at.

use gate_zone::fleet::breaker::{self, State};
use gate_zone::fleet::queue::Waiter;
use gate_zone::fleet::{Cell, Fleet};
use gate_zone::word::Word;
use gate_zone::{Probe, Zone};

use crate::event::Ms;
use crate::fleet::{Member, Whereabouts};
use crate::protocol::{BackendState, BackendUse, BreakerState, QueueUse};

/// One look at the fleet.
pub(crate) struct Look<'a> {
    fleet: Fleet,
    members: &'a [Member],
    waiters: Vec<Waiter>,
    /// On `CLOCK_MONOTONIC`.
    now: Ms,
}

impl<'a> Look<'a> {
    /// Takes it.
    pub(crate) fn at(zone: Zone, members: &'a [Member], now: Ms) -> Self {
        let fleet = zone.fleet();
        Self { fleet, members, waiters: fleet.queue().waiters().collect(), now }
    }

    /// Each backend; of a name every address that it has, and a line of its own while it has none.
    pub(crate) fn backends(&self) -> Vec<BackendUse> {
        let lines = self.members.iter().flat_map(|member| {
            let seen: Vec<_> = self.cells(member).into_iter().map(|(url, cell)| self.seen(member, url, cell)).collect();
            match (&member.whereabouts, seen.is_empty()) {
                (_, false) => seen,
                (Whereabouts::Fixed, true) => vec![unseen(member, BackendState::Unknown)],
                (Whereabouts::Found { .. }, true) => vec![unseen(member, BackendState::NotFound)],
            }
        });
        lines.collect()
    }

    /// The queue, of which at most `limit` requests may be.
    pub(crate) fn queue(&self, limit: usize) -> QueueUse {
        let oldest = self.waiters.iter().map(|waiter| self.now.saturating_sub(waiter.since_ms)).max();
        let cells = self.members.iter().flat_map(|member| self.cells(member));
        let (spent_us, served) = cells.fold((0u128, 0u128), |(spent_us, served), (_, cell)| {
            let count = u128::from(cell.served_count());
            (spent_us + u128::from(cell.service_us()) * count, served + count)
        });
        QueueUse {
            length: self.waiters.len() as u64,
            limit: limit as u64,
            oldest_ms: oldest,
            mean_service_ms: spent_us.checked_div(served).map(|us| us.div_ceil(1_000) as u64),
        }
    }

    /// The cells of a backend, each with its URL.
    fn cells(&self, member: &Member) -> Vec<(String, Cell)> {
        match &member.whereabouts {
            Whereabouts::Fixed => {
                self.fleet.find(member.key).map(|cell| (member.url.clone(), cell)).into_iter().collect()
            }
            Whereabouts::Found { prefix } => {
                let mut found: Vec<_> = self.fleet.found(member.key).collect();
                found.sort_unstable_by_key(|(_, address)| *address);
                found.into_iter().map(|(cell, address)| (format!("http://{address}{prefix}"), cell)).collect()
            }
        }
    }

    fn seen(&self, member: &Member, url: String, cell: Cell) -> BackendUse {
        let (state, status) = state(cell.probe());
        let (breaker, breaker_ms) = match breaker::state(Word::load(cell.breaker()), self.now) {
            State::Closed { .. } => (BreakerState::Closed, None),
            State::Open { for_ms } => (BreakerState::Open, Some(for_ms)),
            State::Due { .. } => (BreakerState::Open, Some(0)),
            State::Trial => (BreakerState::Trial, None),
        };
        let might_get = |waiter: &&Waiter| waiter.backends & cell.bit() != 0;
        BackendUse {
            url,
            status,
            breaker,
            breaker_ms,
            in_flight: cell.in_flight() as u64,
            waiting: self.waiters.iter().filter(might_get).count() as u64,
            loaded: cell.names_in_memory(self.fleet),
            listed: cell.listed().map(u64::from),
            ..unseen(member, state)
        }
    }
}

/// A backend that nothing is known of but its state.
fn unseen(member: &Member, state: BackendState) -> BackendUse {
    BackendUse {
        name: member.name.clone(),
        url: member.url.clone(),
        state,
        status: None,
        breaker: BreakerState::Closed,
        breaker_ms: None,
        in_flight: 0,
        slots: member.slots as u64,
        waiting: 0,
        loaded: Vec::new(),
        listed: None,
    }
}

fn state(probe: Probe) -> (BackendState, Option<u16>) {
    match probe {
        Probe::Unknown => (BackendState::Unknown, None),
        Probe::Healthy => (BackendState::Healthy, None),
        Probe::Unreachable => (BackendState::Unreachable, None),
        Probe::Silent => (BackendState::Silent, None),
        Probe::Status(status) => (BackendState::Failing, Some(status)),
        Probe::NotHttp => (BackendState::NotHttp, None),
        Probe::Foreign => (BackendState::Foreign, None),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use gate_zone::fleet::breaker::Terms;
    use gate_zone::fleet::queue::{Arrival, Bounds, COST};
    use gate_zone::fleet::slots::{self, Holder};

    use super::*;

    fn zone() -> Zone {
        Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap().1
    }

    fn member(key: u64, whereabouts: Whereabouts) -> Member {
        Member { name: format!("gpu{key}"), url: format!("url{key}"), key, slots: 4, whereabouts }
    }

    fn waits(fleet: Fleet, backends: u64, now_ms: Ms) {
        let arrival = Arrival { holder: Holder::new(1, 7), client: 1, want: 1, backends, cost: COST, now_ms };
        fleet.queue().enter(&arrival, Bounds { all: 8, per_client: 8 }).unwrap();
    }

    #[test]
    fn a_backend_is_told_as_its_cell_says() {
        let zone = zone();
        let fleet = zone.fleet();
        let members = [member(1, Whereabouts::Fixed), member(2, Whereabouts::Fixed)];
        let [first, second] = [1, 2].map(|key| fleet.claim(key, &[1, 2]).unwrap());
        first.tell_probe(Probe::Status(502));
        let terms = Terms { failures: 1, time: Duration::from_millis(500) };
        breaker::failed(first.breaker(), terms, 1_000);
        slots::take(first.slots(4), 0, Holder::new(1, 7), 9).unwrap();
        first.tell_listed(Some(&[3, 4, 5]));
        let name = "llama3.2:latest";
        first.tell_in_memory(&[(fleet.instance(name, "").name, name)], 1);
        waits(fleet, first.bit() | second.bit(), 400);
        waits(fleet, second.bit(), 900);
        let look = |now| Look::at(zone, &members, now).backends();
        let told = BackendUse {
            name: "gpu1".into(),
            url: "url1".into(),
            state: BackendState::Failing,
            status: Some(502),
            breaker: BreakerState::Open,
            breaker_ms: Some(200),
            in_flight: 1,
            slots: 4,
            waiting: 1,
            loaded: vec![name.into()],
            listed: Some(3),
        };
        let quiet = BackendUse { waiting: 2, ..unseen(&members[1], BackendState::Unknown) };
        assert_eq!(look(1_300), [told.clone(), quiet.clone()]);
        assert_eq!(look(1_500), [BackendUse { breaker_ms: Some(0), ..told.clone() }, quiet.clone()]);
        let State::Due { seen } = breaker::state(Word::load(first.breaker()), 1_500) else {
            panic!("its time is over")
        };
        assert!(breaker::begin_trial(first.breaker(), seen, 1_500, Duration::from_secs(1)));
        assert_eq!(look(1_600)[0], BackendUse { breaker: BreakerState::Trial, breaker_ms: None, ..told });
    }

    #[test]
    fn a_name_is_told_by_its_addresses() {
        let zone = zone();
        let members = [member(1, Whereabouts::Found { prefix: "/ollama".into() }), member(2, Whereabouts::Fixed)];
        let urls = || -> Vec<_> {
            Look::at(zone, &members, 1).backends().into_iter().map(|backend| (backend.url, backend.state)).collect()
        };
        let other = ("url2".to_owned(), BackendState::Unknown);
        assert_eq!(urls(), [("url1".to_owned(), BackendState::NotFound), other.clone()]);
        for (key, address) in [(11, "10.0.0.9:80"), (12, "10.0.0.7:80"), (13, "[fd00::7]:80")] {
            let cell = zone.fleet().claim_found(key, 1, address.parse().unwrap(), &[1, 2]).unwrap();
            cell.tell_probe(Probe::Healthy);
        }
        let found = ["http://10.0.0.7:80/ollama", "http://10.0.0.9:80/ollama", "http://[fd00::7]:80/ollama"];
        let found = found.map(|url| (url.to_owned(), BackendState::Healthy));
        assert_eq!(urls(), [&found[..], &[other]].concat());
    }

    #[test]
    fn the_queue_is_told_with_its_oldest_and_with_what_a_request_takes() {
        let zone = zone();
        let fleet = zone.fleet();
        let members = [member(1, Whereabouts::Fixed), member(2, Whereabouts::Fixed)];
        let queue = |now| Look::at(zone, &members, now).queue(512);
        let empty = QueueUse { length: 0, limit: 512, oldest_ms: None, mean_service_ms: None };
        assert_eq!(queue(1_000), empty);
        let [first, second, stranger] = [1, 2, 3].map(|key| fleet.claim(key, &[1, 2, 3]).unwrap());
        (0..3).for_each(|_| first.served(1_000_000));
        second.served(200_500);
        stranger.served(1);
        waits(fleet, 1, 900);
        waits(fleet, 1, 400);
        let busy = QueueUse { length: 2, limit: 512, oldest_ms: Some(600), mean_service_ms: Some(801) };
        assert_eq!(queue(1_000), busy, "each backend counts by how many it has served");
    }

    #[test]
    fn every_probe_has_its_word() {
        for (probe, expected) in [
            (Probe::Unknown, "unknown"),
            (Probe::Healthy, "healthy"),
            (Probe::Unreachable, "unreachable"),
            (Probe::Silent, "silent"),
            (Probe::NotHttp, "not http"),
            (Probe::Foreign, "not ollama"),
            (Probe::Status(503), "failing"),
        ] {
            assert_eq!(state(probe).0.to_string(), expected);
        }
    }
}
