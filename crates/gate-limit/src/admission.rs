//! The limits: how often one client, or the holder of a key, may call the routes of a scope.
//!
//! It counts what it is asked about; that only valid requests are counted is the caller's affair. Several limits are
//! charged in the order written and nothing is given back, so what a later limit refuses is gone from an earlier one.
//!
//! Invariant: all processes that share the zone admit together what the limits say, not each.

use std::sync::Arc;

use crate::clock::Clock;
use crate::counter::Counter;
use crate::gcra::{self, GcraLimit};
use crate::limit::{Limit, LimitError, Refused, Standing, Tables};
use crate::subject::Subject;

#[cfg(test)]
mod tests;

/// What one count is kept for, next to the subject. The numbers are part of the zone's keys: they never change.
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
    /// The amount in a window that begins with a subject's first request.
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
    pub(crate) fn new(standing: Option<Standing>) -> Self {
        Self { standing }
    }

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

    /// Counts a request of this subject.
    ///
    /// # Errors
    /// A limit refuses; the first one that does is named.
    pub fn admit(&self, subject: &Subject, scope: Scope) -> Result<Permit, Refused> {
        let mut shown = None;
        for rule in self.rules(scope) {
            rule.charge(subject, &self.clock)?.show_in(&mut shown);
        }
        Ok(Permit::new(shown))
    }

    /// The limits of a scope, in the order in which they are charged.
    pub fn limits(&self, scope: Scope) -> impl Iterator<Item = &Arc<Limit>> {
        self.rules(scope).iter().map(Rule::limit)
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
        let (scope, limit) = (scope as u64, Arc::new(limit));
        match self.strategy {
            Strategy::FixedWindow => Counter::new(self.tables, self.seed, scope, limit).map(Rule::Fixed),
            Strategy::Gcra => {
                let gcra = gcra::over_zone(&limit, self.tables.gcra, self.seed, scope, self.clock.clone())?;
                Ok(Rule::Gcra(limit, gcra))
            }
        }
    }
}

/// A limit and how it counts.
enum Rule {
    Fixed(Counter),
    Gcra(Arc<Limit>, GcraLimit),
}

impl Rule {
    fn limit(&self) -> &Arc<Limit> {
        match self {
            Self::Fixed(counter) => counter.limit(),
            Self::Gcra(limit, _) => limit,
        }
    }

    fn charge(&self, subject: &Subject, clock: &Clock) -> Result<Standing, Refused> {
        match self {
            Self::Fixed(counter) => counter.take(subject, 1, clock).map(|(standing, _final)| standing),
            Self::Gcra(limit, gcra) => {
                let limit = || Arc::clone(limit);
                match gcra.charge(subject) {
                    Ok((remaining, reset)) => Ok(Standing { limit: limit(), remaining, reset }),
                    Err(retry) => Err(Refused { limit: limit(), retry }),
                }
            }
        }
    }
}
