//! How many requests a subject may have in service at once, over all processes of a gate.
//!
//! How many that are is the caller's to know. Invariants: a [`Hold`] is given back by `Drop`; what a process held that
//! was killed is freed by the master.

use gate_zone::Zone;
use gate_zone::fleet::slots::Holder;
use gate_zone::holds::{Held, Holds};
use siphasher::sip128::SipHasher24;

use crate::subject::Subject;

#[cfg(test)]
mod tests;

/// Lets requests of this process in.
#[derive(Debug)]
pub struct Concurrency {
    holds: Holds,
    holder: Holder,
    hasher: SipHasher24,
}

/// A request that is in service. Dropped, it makes room for another.
#[derive(Debug)]
#[must_use]
pub struct Hold {
    holds: Holds,
    /// `None` once it is given back.
    held: Option<Held>,
}

impl Concurrency {
    /// For the requests of the process that `holder` names, by its own row.
    pub fn new(zone: Zone, holder: Holder) -> Self {
        let [low, high] = zone.seed();
        Self { holds: zone.holds(), holder, hasher: SipHasher24::new_with_keys(low, high) }
    }

    /// Lets one more request of the subject in, unless it has `max` in service already. More than
    /// [`gate_zone::layout::holds::MAX`] counts as that.
    pub fn take(&self, subject: &Subject, max: u32) -> Option<Hold> {
        let held = self.holds.take(self.hash(subject), max as usize, self.holder)?;
        Some(Hold { holds: self.holds, held: Some(held) })
    }

    /// How many requests of the subject are in service.
    pub fn in_service(&self, subject: &Subject) -> usize {
        self.holds.count(self.hash(subject))
    }

    fn hash(&self, subject: &Subject) -> u64 {
        self.hasher.hash(subject.as_octets()).as_u64().0
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.holds.release(held);
        }
    }
}
