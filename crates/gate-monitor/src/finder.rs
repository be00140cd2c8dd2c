//! A name watched: its addresses are looked up again and again, each has a cell and an observer of its own.
//!
//! Which backends there are is decided here, and not how they are: an address that the name has and that nobody answers at
//! stays, for its probe to tell.
//!
//! Invariant: no answer, an empty one or one with gaps takes no address away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use gate_upstream::Backend;
use gate_zone::fleet::NoCell;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::sleep;

use crate::cells::Cells;
use crate::names::{Found, Resolver, Wanted};
use crate::observer::{Observer, Standing, Subject};
use crate::spread;

/// Addresses of a name that are used: half of what the fleet has room for, so that one name does not take it all.
const ADDRESSES_MAX: usize = 32;

/// The shortest pause between two look-ups: shorter times are written where nothing is to be remembered, not to be asked
/// many times a second.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Makes the way to an address.
pub(crate) type Opener = Rc<dyn Fn(SocketAddr) -> Backend>;

/// What is watched.
pub(crate) struct Name {
    /// For the operator: what the configuration calls the backends, and their name.
    pub(crate) label: String,
    /// The configuration's text for it, from which keys of its addresses are made.
    pub(crate) url: String,
    pub(crate) wanted: Wanted,
    /// The longest time between two look-ups.
    pub(crate) refresh: Duration,
    pub(crate) open: Opener,
}

/// Watches one name.
pub(crate) struct Finder {
    name: Name,
    parent: u64,
    cells: Cells,
    resolver: Resolver,
    observed: BTreeMap<SocketAddr, Observed>,
    said: Said,
    /// Look-ups in a row that gave no whole answer.
    failures: u32,
}

/// An address under observation, which ends with this.
struct Observed(AbortHandle);

impl Drop for Observed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the last look-up came to, as the operator was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Nothing yet, or that all is well.
    Well,
    Empty,
    Partly,
    Failed,
    /// There are more addresses than are used.
    TooMany,
}

impl Finder {
    pub(crate) fn new(name: Name, cells: Cells, resolver: Resolver) -> Self {
        let parent = cells.fleet().hash(name.url.as_bytes());
        Self { name, parent, cells, resolver, observed: BTreeMap::new(), said: Said::Well, failures: 0 }
    }

    /// Looks up for ever. What a monitor before this one has found is observed at once.
    pub(crate) async fn watch(mut self, first: Duration) {
        for (_, address) in self.cells.fleet().found(self.parent) {
            self.observe(address);
        }
        sleep(first).await;
        loop {
            let found = self.resolver.look_up(&self.name.wanted).await;
            let used: BTreeSet<_> = self.observed.keys().copied().collect();
            let (next, said) = decide(&used, &found);
            self.say(said, &found);
            self.use_these(&next);
            self.failures = if matches!(said, Said::Well | Said::TooMany) { 0 } else { self.failures + 1 };
            sleep(pause(found.ttl, self.failures, self.name.refresh)).await;
        }
    }

    /// Makes these the addresses of the name.
    fn use_these(&mut self, next: &BTreeSet<SocketAddr>) {
        let gone: Vec<_> = self.observed.keys().filter(|address| !next.contains(address)).copied().collect();
        for address in &gone {
            drop(self.observed.remove(address));
            self.cells.give_up(self.key(*address), self.parent);
        }
        let mut come = Vec::new();
        for address in next {
            // Those that are known as well: their cells may have been given to others.
            match self.cells.claim_found(self.key(*address), self.parent, *address) {
                Ok(_) if self.observed.contains_key(address) => {}
                Ok(_) => {
                    self.observe(*address);
                    come.push(*address);
                }
                Err(NoCell) => log::warn!("{} has also {address}: {NoCell}", self.name.label),
            }
        }
        if come.is_empty() && gone.is_empty() {
            return;
        }
        self.cells.fleet().tell_change();
        log::info!("{}: {}; addresses in all: {}", self.name.label, changes(&come, &gone), self.observed.len());
    }

    fn observe(&mut self, address: SocketAddr) {
        let subject = Subject {
            label: format!("{} at {address}", self.name.label),
            key: self.key(address),
            standing: Standing::Found,
            backend: (self.name.open)(address),
        };
        let observer = Observer::new(subject, self.cells.clone());
        let task = spawn_local(observer.watch(spread::first(self.observed.len())));
        self.observed.insert(address, Observed(task.abort_handle()));
    }

    fn key(&self, address: SocketAddr) -> u64 {
        self.cells.fleet().hash(format!("{} {address}", self.name.url).as_bytes())
    }

    /// One line for the operator, when it is another than the last.
    fn say(&mut self, said: Said, found: &Found) {
        if said == self.said {
            return;
        }
        let label = &self.name.label;
        let kept = self.observed.len();
        let why = found.gap.as_deref().unwrap_or_default();
        match said {
            Said::Well => log::info!("{label} can be looked up again"),
            Said::Empty if kept == 0 => log::warn!("{label} has no addresses"),
            Said::Empty => log::warn!("{label} has no addresses any more: the last {kept} are kept"),
            Said::Partly => {
                log::warn!("{label} could be looked up in part only ({why}): none of its addresses is dropped");
            }
            Said::Failed if kept == 0 => log::warn!("{label} cannot be looked up ({why})"),
            Said::Failed => log::warn!("{label} cannot be looked up ({why}): the last {kept} addresses are kept"),
            Said::TooMany => {
                log::warn!("{label} has {} addresses: {ADDRESSES_MAX} of them are used", found.addresses.len());
            }
        }
        self.said = said;
    }
}

/// The addresses to use after a look-up, and what it was.
fn decide(used: &BTreeSet<SocketAddr>, found: &Found) -> (BTreeSet<SocketAddr>, Said) {
    let said = match (found.addresses.len(), &found.gap) {
        (0, None) => Said::Empty,
        (0, Some(_)) => Said::Failed,
        (_, Some(_)) => Said::Partly,
        (count, None) if count > ADDRESSES_MAX => Said::TooMany,
        _ => Said::Well,
    };
    // Those in use first, so that of too many always the same are used; and then those that only a gap keeps.
    let still = used.intersection(&found.addresses);
    let new = found.addresses.difference(used);
    let kept = used.difference(&found.addresses).filter(|_| !matches!(said, Said::Well | Said::TooMany));
    (still.chain(new).chain(kept).take(ADDRESSES_MAX).copied().collect(), said)
}

/// How long an answer is used: as long as it says, within bounds. After failures it is asked soon, then less and less often.
fn pause(ttl: Option<Duration>, failures: u32, refresh: Duration) -> Duration {
    let least = PAUSE_MIN.min(refresh);
    if failures > 0 {
        return least.saturating_mul(1 << (failures - 1).min(16)).min(refresh);
    }
    ttl.unwrap_or(refresh).clamp(least, refresh)
}

/// `+10.0.0.7:11434 -10.0.0.8:11434`.
fn changes(come: &[SocketAddr], gone: &[SocketAddr]) -> String {
    let come = come.iter().map(|address| format!("+{address}"));
    let gone = gone.iter().map(|address| format!("-{address}"));
    come.chain(gone).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(last: impl IntoIterator<Item = u16>) -> BTreeSet<SocketAddr> {
        last.into_iter().map(|last| SocketAddr::from(([10, 0, (last >> 8) as u8, last as u8], 80))).collect()
    }

    fn found(addresses: impl IntoIterator<Item = u16>, gap: Option<&str>) -> Found {
        Found { addresses: set(addresses), ttl: None, gap: gap.map(str::to_owned) }
    }

    #[test]
    fn only_a_whole_answer_takes_addresses_away() {
        let gap = Some("no answer");
        for (answer, expected, said) in [
            (found([2, 3], None), set([2, 3]), Said::Well),
            (found([], None), set([1, 2]), Said::Empty),
            (found([], gap), set([1, 2]), Said::Failed),
            (found([3], gap), set([1, 2, 3]), Said::Partly),
        ] {
            assert_eq!(decide(&set([1, 2]), &answer), (expected, said), "{answer:?}");
        }
        assert_eq!(decide(&set([]), &found([], None)), (set([]), Said::Empty));
    }

    #[test]
    fn of_too_many_the_used_ones_stay_and_the_kept_go_first() {
        let (next, said) = decide(&set([90]), &found(1..=99, None));
        assert_eq!((next, said), (set((1..=31).chain([90])), Said::TooMany));
        let (next, _) = decide(&set([200]), &found(1..=31, Some("late")));
        assert_eq!(next, set((1..=31).chain([200])));
        let (next, _) = decide(&set([200]), &found(1..=32, Some("late")));
        assert_eq!(next, set(1..=32), "found ones count more");
    }

    #[test]
    fn times_are_followed_within_bounds() {
        let s = Duration::from_secs;
        let ms = Duration::from_millis;
        for (ttl, failures, refresh, expected) in [
            (Some(s(5)), 0, s(10), s(5)),
            (Some(s(0)), 0, s(10), s(1)),
            (Some(s(3600)), 0, s(10), s(10)),
            (None, 0, s(10), s(10)),
            (Some(s(0)), 0, ms(100), ms(100)),
            (None, 1, s(10), s(1)),
            (None, 3, s(10), s(4)),
            (Some(s(5)), 99, s(10), s(10)),
            (None, u32::MAX, s(3600), s(3600)),
        ] {
            assert_eq!(pause(ttl, failures, refresh), expected, "{ttl:?} {failures} {refresh:?}");
        }
    }
}
