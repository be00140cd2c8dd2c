//! Where a subject's count lies in a region: key to set, tag and overflow cell.
//!
//! It reads no count. Invariant: the place depends only on the zone's seed, the subject's octets and the limit, so all
//! processes and all later generations of a gate find the same one, an unchanged limit keeps its counts over a
//! reload, and a changed one starts fresh; and without the seed nobody can choose addresses that meet in one set.

use std::sync::atomic::AtomicU64;

use gate_zone::Region;
use gate_zone::limiter::{cell_of, set_of};
use siphasher::sip128::SipHasher24;

use crate::client::Prefix;
use crate::limit::{Limit, LimitError};
use crate::subject::Subject;

/// The hash input: a prefix, then scope, amount and window.
const INPUT_OCTETS: usize = Prefix::OCTETS + 3 * size_of::<u64>();

/// One count per subject in a region.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    region: Region,
    hasher: SipHasher24,
    /// Scope, amount and window in nanoseconds.
    count: [u64; 3],
}

/// A subject's set, and the hash it is told apart by in there.
pub(crate) struct Place {
    pub(crate) set: &'static [AtomicU64],
    pub(crate) tag: u64,
}

impl Places {
    pub(crate) fn new(region: Region, seed: [u64; 2], scope: u64, limit: &Limit) -> Result<Self, LimitError> {
        if set_of(region.sets, 0).is_none() || cell_of(region.overflow, 0).is_none() {
            return Err(LimitError::RegionTooSmall);
        }
        let count = [scope, limit.amount, limit.window.as_nanos() as u64];
        Ok(Self { region, hasher: SipHasher24::new_with_keys(seed[0], seed[1]), count })
    }

    pub(crate) fn find(&self, subject: &Subject) -> Place {
        let (set, tag) = self.hash(subject.own());
        Place { set: set_of(self.region.sets, set).expect("`new` refuses a region without a set"), tag }
    }

    pub(crate) fn cell(&self, subject: &Subject) -> &'static AtomicU64 {
        let (cell, _) = self.hash(subject.wider());
        cell_of(self.region.overflow, cell).expect("`new` refuses a region without a cell")
    }

    fn hash(&self, prefix: &Prefix) -> (u64, u64) {
        let mut input = [0; INPUT_OCTETS];
        input[..Prefix::OCTETS].copy_from_slice(prefix.as_octets());
        for (octets, number) in input[Prefix::OCTETS..].chunks_exact_mut(size_of::<u64>()).zip(self.count) {
            octets.copy_from_slice(&number.to_le_bytes());
        }
        self.hasher.hash(&input).as_u64()
    }
}
