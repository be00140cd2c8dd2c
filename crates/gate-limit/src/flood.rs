//! The flood guard: how often one client may send requests at all, valid or not.
//!
//! It comes before the body is read, so it knows no route and no dialect. Invariant: it counts apart from all limits
//! of [`crate::admission`], even of the same rate.

use std::sync::Arc;

use gate_zone::Region;

use crate::client::Client;
use crate::clock::Clock;
use crate::gcra::{self, GcraLimit};
use crate::limit::{Limit, LimitError, Refused};

/// What the flood guard's counts are kept under; [`crate::Scope`] has the other numbers.
const SCOPE: u64 = 0;

/// Counts every request by GCRA.
pub struct Flood {
    limit: Arc<Limit>,
    gcra: GcraLimit,
}

impl Flood {
    /// A guard of this rate: `amount` at once, then one each `window / amount`.
    ///
    /// # Errors
    /// The rate is outside what GCRA can count, or the region holds nothing.
    pub fn new(region: Region, seed: [u64; 2], clock: Clock, limit: Limit) -> Result<Self, LimitError> {
        let gcra = gcra::over_zone(&limit, region, seed, SCOPE, clock)?;
        Ok(Self { limit: Arc::new(limit), gcra })
    }

    /// Counts a request.
    ///
    /// # Errors
    /// The client sends too many.
    pub fn guard(&self, client: &Client) -> Result<(), Refused> {
        match self.gcra.charge(&client.subject()) {
            Ok(_) => Ok(()),
            Err(retry) => Err(Refused { limit: Arc::clone(&self.limit), retry }),
        }
    }
}
