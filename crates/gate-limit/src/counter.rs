//! One limit over fixed windows of the zone: charged, and settled.
//!
//! It does not choose limits. Invariant: what was taken is settled where it was taken.

use std::sync::Arc;

use gate_zone::limiter::fixed::{self, AMOUNT_MAX, Charge, Taken, Verdict, Window};

use crate::clock::Clock;
use crate::limit::{Limit, LimitError, Refused, Standing, Tables};
use crate::place::Places;
use crate::subject::Subject;

/// A limit and where it counts.
#[derive(Debug)]
pub(crate) struct Counter {
    limit: Arc<Limit>,
    places: Places,
    window: Window,
}

impl Counter {
    pub(crate) fn new(tables: &Tables, seed: [u64; 2], scope: u64, limit: Arc<Limit>) -> Result<Self, LimitError> {
        let window = Window::new(limit.window).filter(|_| limit.amount <= AMOUNT_MAX);
        let window = window.ok_or_else(|| LimitError::Bounds(limit.text.clone()))?;
        let region = tables.windows.iter().find(|(length, _)| *length == limit.window);
        let (_, region) = region.ok_or(LimitError::NoRegion(limit.window))?;
        let places = Places::new(*region, seed, scope, &limit)?;
        Ok(Self { limit, places, window })
    }

    pub(crate) fn limit(&self) -> &Arc<Limit> {
        &self.limit
    }

    /// Takes `cost`, or the whole amount where that is less.
    pub(crate) fn take(&self, subject: &Subject, cost: u64, clock: &Clock) -> Result<(Standing, Taken), Refused> {
        let place = self.places.find(subject);
        let charge = Charge { tag: fixed::Tag::new(place.tag), amount: self.limit.amount, cost, window: self.window };
        let limit = || Arc::clone(&self.limit);
        match fixed::charge(place.set, || self.places.cell(subject), charge, || clock.now_ns()) {
            Verdict::Admitted { remaining, reset, taken } => Ok((Standing { limit: limit(), remaining, reset }, taken)),
            Verdict::Refused { retry } => Err(Refused { limit: limit(), retry }),
        }
    }

    /// Makes what was taken cost what was used.
    pub(crate) fn settle(&self, subject: &Subject, taken: Taken, used: u64, clock: &Clock) {
        if used != taken.cost() {
            let set = self.places.find(subject).set;
            fixed::settle(set, || self.places.cell(subject), taken, used, || clock.now_ns());
        }
    }
}
