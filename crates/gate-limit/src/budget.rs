//! A key's own limits: requests per window, and tokens per window.
//!
//! What a request costs in tokens is known when it has ended, so tokens are reserved by an estimate and settled by the
//! truth. Who estimates and who counts is not known here.
//!
//! Invariants: of several windows all are charged or none; a [`Reservation`] that is dropped without being settled costs
//! nothing; tokens in reserve and tokens used together pass a window's amount only by what requests used beyond what they
//! had reserved.

use std::iter;
use std::rc::Rc;
use std::sync::Arc;

use gate_zone::limiter::fixed::Taken;

use crate::admission::Permit;
use crate::clock::Clock;
use crate::counter::Counter;
use crate::limit::{Limit, LimitError, Refused, Standing, Tables};
use crate::subject::Subject;

#[cfg(test)]
mod tests;

/// The limits of all keys with one policy. They count in fixed windows, for each subject apart.
#[derive(Debug)]
pub struct Budget {
    clock: Clock,
    requests: Vec<Counter>,
    tokens: Vec<Counter>,
}

/// Tokens that a request may use. Dropped, it gives all of them back.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    budget: Rc<Budget>,
    subject: Subject,
    held: Held,
}

/// What was taken of each limit, in their order. Without memory of its own where there is one limit, as there mostly is.
#[derive(Debug, Default)]
struct Held {
    standing: Option<Standing>,
    first: Option<Taken>,
    rest: Vec<Taken>,
}

impl Held {
    fn push(&mut self, taken: Taken) {
        match self.first {
            None => self.first = Some(taken),
            Some(_) => self.rest.push(taken),
        }
    }

    fn taken(&self) -> impl Iterator<Item = Taken> {
        self.first.into_iter().chain(self.rest.iter().copied())
    }
}

impl Budget {
    /// What requests are counted under; [`crate::Scope`] has the other numbers.
    pub const REQUESTS: u64 = 4;
    /// What tokens are counted under.
    pub const TOKENS: u64 = 5;

    /// Sets up limits of requests and of tokens over the zone's tables.
    ///
    /// # Errors
    /// A limit is outside what can be counted, or the tables have no place for it.
    pub fn new(
        tables: &Tables,
        seed: [u64; 2],
        clock: Clock,
        requests: Vec<Limit>,
        tokens: Vec<Limit>,
    ) -> Result<Self, LimitError> {
        let counters = |scope, limits: Vec<Limit>| {
            let counter = |limit| Counter::new(tables, seed, scope, Arc::new(limit));
            limits.into_iter().map(counter).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { clock, requests: counters(Self::REQUESTS, requests)?, tokens: counters(Self::TOKENS, tokens)? })
    }

    /// The limits of requests.
    pub fn request_limits(&self) -> impl Iterator<Item = &Arc<Limit>> {
        self.requests.iter().map(Counter::limit)
    }

    /// The limits of tokens.
    pub fn token_limits(&self) -> impl Iterator<Item = &Arc<Limit>> {
        self.tokens.iter().map(Counter::limit)
    }

    /// Counts a request.
    ///
    /// # Errors
    /// A limit refuses; the first one that does is named.
    pub fn admit(&self, subject: &Subject) -> Result<Permit, Refused> {
        self.take(&self.requests, subject, 1).map(|held| Permit::new(held.standing))
    }

    /// Reserves tokens: of a limit whose whole amount is less, the whole amount. No tokens count as one, so that nobody is
    /// let in whose window has none left.
    ///
    /// # Errors
    /// A limit refuses, and none is charged; the first one that does is named.
    pub fn reserve(self: &Rc<Self>, subject: &Subject, tokens: u64) -> Result<Reservation, Refused> {
        let held = self.take(&self.tokens, subject, tokens)?;
        Ok(Reservation { budget: Rc::clone(self), subject: *subject, held })
    }

    fn take(&self, counters: &[Counter], subject: &Subject, cost: u64) -> Result<Held, Refused> {
        let mut held = Held::default();
        for counter in counters {
            match counter.take(subject, cost, &self.clock) {
                Ok((standing, taken)) => {
                    standing.show_in(&mut held.standing);
                    held.push(taken);
                }
                Err(refused) => {
                    self.settle(counters, subject, &held, 0);
                    return Err(refused);
                }
            }
        }
        Ok(held)
    }

    fn settle(&self, counters: &[Counter], subject: &Subject, held: &Held, used: u64) {
        for (counter, taken) in iter::zip(counters, held.taken()) {
            counter.settle(subject, taken, used, &self.clock);
        }
    }
}

impl Reservation {
    /// Where the key stands with its tokens now: of several limits, with the first of the smallest unit. `None` without
    /// limits.
    pub fn standing(&self) -> Option<&Standing> {
        self.held.standing.as_ref()
    }

    /// Makes it cost what was used. What was reserved beyond that is given back, in the windows that it was taken from only.
    /// What was used beyond what was reserved is charged to the present windows, though it may pass their amounts.
    pub fn settle(mut self, used: u64) {
        self.conclude(used);
    }

    fn conclude(&mut self, used: u64) {
        let held = std::mem::take(&mut self.held);
        self.budget.settle(&self.budget.tokens, &self.subject, &held, used);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.conclude(0);
    }
}
