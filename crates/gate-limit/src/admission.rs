//! The limits: how often one client may call the routes of a scope.
//!
//! It counts what it is asked about; that only valid requests are counted is the caller's affair. Several limits are
//! charged in the order written and nothing is given back, so what a later limit refuses is gone from an earlier one.
//!
//! Invariant: all processes that share the zone admit together what the limits say, not each.

use std::sync::Arc;

use gate_zone::limiter::fixed::{self, AMOUNT_MAX, Charge, Verdict, Window};

use crate::client::Client;
use crate::clock::Clock;
use crate::gcra::{self, Answer, GcraLimit};
use crate::limit::{Limit, LimitError, Refused, Standing, Tables};
use crate::place::Places;

#[cfg(test)]
mod tests;

/// What one count is kept for, next to the client. The numbers are part of the zone's keys: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// `POST /ollama_generate/`.
    ArticleBody = 1,
    /// `GET /ollama_generate/{prompt}`, one count for all prompts.
    ArticleItem = 2,
    /// The routes of Ollama's own API.
    Api = 3,
}

/// How limits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The amount in a window that begins with a client's first request.
    FixedWindow,
    /// The amount at once, then evenly.
    Gcra,
}

/// The limits of each scope, in the order in which they are charged.
#[derive(Debug, Clone)]
pub struct Spec {
    /// How all of them count.
    pub strategy: Strategy,
    /// For [`Scope::ArticleBody`].
    pub article_body: Vec<Limit>,
    /// For [`Scope::ArticleItem`].
    pub article_item: Vec<Limit>,
    /// For [`Scope::Api`].
    pub api: Vec<Limit>,
}

/// Says who may pass.
pub struct Admission {
    clock: Clock,
    article_body: Vec<Rule>,
    article_item: Vec<Rule>,
    api: Vec<Rule>,
}

/// A request was counted and may pass.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Permit {
    standing: Option<Standing>,
}

impl Permit {
    /// Where the client stands now: of several limits, with the first of the smallest unit. `None` without limits.
    pub fn standing(&self) -> Option<&Standing> {
        self.standing.as_ref()
    }
}

impl Admission {
    /// Sets up the limits over the zone's tables.
    ///
    /// # Errors
    /// A limit is outside what can be counted, or the tables have no place for it.
    pub fn new(tables: &Tables, seed: [u64; 2], clock: Clock, spec: Spec) -> Result<Self, LimitError> {
        let ground = Ground { tables, seed, clock: &clock, strategy: spec.strategy };
        let rules = |scope, limits: Vec<Limit>| {
            limits.into_iter().map(|limit| ground.rule(scope, limit)).collect::<Result<Vec<_>, _>>()
        };
        let article_body = rules(Scope::ArticleBody, spec.article_body)?;
        let article_item = rules(Scope::ArticleItem, spec.article_item)?;
        let api = rules(Scope::Api, spec.api)?;
        Ok(Self { clock, article_body, article_item, api })
    }

    /// Counts a request of this client.
    ///
    /// # Errors
    /// A limit refuses; the first one that does is named.
    pub fn admit(&self, client: &Client, scope: Scope) -> Result<Permit, Refused> {
        let mut standing: Option<Standing> = None;
        for rule in self.rules(scope) {
            let limit = &rule.limit;
            match rule.charge(client, &self.clock) {
                Ok((remaining, reset)) if standing.as_ref().is_none_or(|shown| limit.unit < shown.limit.unit) => {
                    standing = Some(Standing { limit: Arc::clone(limit), remaining, reset });
                }
                Ok(_) => {}
                Err(retry) => return Err(Refused { limit: Arc::clone(limit), retry }),
            }
        }
        Ok(Permit { standing })
    }

    fn rules(&self, scope: Scope) -> &[Rule] {
        match scope {
            Scope::ArticleBody => &self.article_body,
            Scope::ArticleItem => &self.article_item,
            Scope::Api => &self.api,
        }
    }
}

/// What all rules of one [`Admission`] are made from.
struct Ground<'a> {
    tables: &'a Tables,
    seed: [u64; 2],
    clock: &'a Clock,
    strategy: Strategy,
}

impl Ground<'_> {
    fn rule(&self, scope: Scope, limit: Limit) -> Result<Rule, LimitError> {
        let count = match self.strategy {
            Strategy::FixedWindow => self.fixed(scope, &limit)?,
            Strategy::Gcra => {
                let clock = self.clock.clone();
                Count::Gcra(gcra::over_zone(&limit, self.tables.gcra, self.seed, scope as u64, clock)?)
            }
        };
        Ok(Rule { limit: Arc::new(limit), count })
    }

    fn fixed(&self, scope: Scope, limit: &Limit) -> Result<Count, LimitError> {
        let window = Window::new(limit.window).filter(|_| limit.amount <= AMOUNT_MAX);
        let window = window.ok_or_else(|| LimitError::Bounds(limit.text.clone()))?;
        let region = self.tables.windows.iter().find(|(length, _)| *length == limit.window);
        let (_, region) = region.ok_or(LimitError::NoRegion(limit.window))?;
        Ok(Count::Fixed { places: Places::new(*region, self.seed, scope as u64, limit)?, window })
    }
}

/// A limit and where it counts.
struct Rule {
    limit: Arc<Limit>,
    count: Count,
}

enum Count {
    Fixed { places: Places, window: Window },
    Gcra(GcraLimit),
}

impl Rule {
    fn charge(&self, client: &Client, clock: &Clock) -> Answer {
        let (places, window) = match &self.count {
            Count::Fixed { places, window } => (places, *window),
            Count::Gcra(limit) => return limit.charge(client),
        };
        let place = places.find(client);
        let charge = Charge { tag: fixed::Tag::new(place.tag), amount: self.limit.amount, window };
        match fixed::charge(place.set, || places.cell(client), charge, || clock.now_ns()) {
            Verdict::Admitted { remaining, reset } => Ok((remaining, reset)),
            Verdict::Refused { retry } => Err(retry),
        }
    }
}
