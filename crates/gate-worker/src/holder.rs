//! Whose request it is, by the key that came with it, and what he may do.
//!
//! Where the gate has no keys, everybody is a holder of none and may do what Ollama lets anybody do, but for changing its
//! models. Policies come from the keyring as text and are read once in each of its generations.
//!
//! Invariants: where the gate has keys, nothing but its open pages is answered without one; what cannot be read lets nobody
//! in; a key's text is kept nowhere.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use gate_api::call::{Call, Source};
use gate_api::clamp::{Clamps, CountUsage};
use gate_api::models::Patterns;
use gate_api::rejection::{Denial, KeyFault};
use gate_api::route::Class;
use gate_api::{Rejection, Route};
use gate_config::Rate;
use gate_config::keyfile::Policy;
use gate_limit::keys::{self, Door, Entry, Keyring, Name};
use gate_limit::{Budget, Client, Clock, Concurrency, Hold, Subject, Tables};
use gate_zone::Zone;
use gate_zone::fleet::slots::Holder as Process;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::gate;

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// How often a key is looked up whose policy is gone, because the keys were published anew between the two. That takes the
/// master milliseconds, a round microseconds.
const ROUNDS: u32 = 3;

/// Whose request it is.
#[derive(Clone)]
pub(crate) struct Holder {
    /// The name of his keys; none where the gate has no keys.
    pub(crate) name: Option<Name>,
    /// Whose counts his requests go to.
    pub(crate) subject: Subject,
    pub(crate) terms: Rc<Terms>,
}

/// Which limit of requests holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requests {
    /// The gate's, for each route.
    Gate,
    /// The key's own, for all routes together.
    Own,
}

/// What a policy means here.
pub(crate) struct Terms {
    /// Names of routes; none is every route that changes nothing.
    routes: Option<Vec<&'static str>>,
    models: Patterns,
    pub(crate) clamps: Clamps,
    pub(crate) requests: Requests,
    pub(crate) budget: Rc<Budget>,
    /// Whether tokens are counted.
    pub(crate) has_tokens: bool,
    pub(crate) concurrency: Option<u32>,
    /// Shares of the queue; none takes those of the client's address.
    pub(crate) weight: Option<u32>,
}

/// Where holders are known.
pub(crate) struct Lodge {
    /// `None` for a gate without keys.
    door: Option<Door>,
    keyring: Keyring,
    anybody: Rc<Terms>,
    known: RefCell<Known>,
    ground: Ground,
    pub(crate) concurrency: Concurrency,
}

/// Policies that have been read, of one generation of the keyring.
#[derive(Default)]
struct Known {
    generation: u32,
    terms: HashMap<u32, Result<Rc<Terms>, Unkept>>,
}

/// A policy that cannot be kept here: a newer gate's, for one, that an older worker does not know.
#[derive(Clone, Copy)]
struct Unkept;

/// What budgets count in.
struct Ground {
    zone: Zone,
}

impl Ground {
    fn budget(&self, requests: &[Rate], tokens: &[Rate]) -> Result<Budget, gate_limit::LimitError> {
        let zone = self.zone;
        let tables = Tables { windows: zone.windows().collect(), gcra: zone.gcra_region() };
        let clock = Clock::new(move || zone.now_ns());
        let requests = requests.iter().map(gate::limit).collect();
        let tokens = tokens.iter().map(gate::token_limit).collect();
        Budget::new(&tables, zone.seed(), clock, requests, tokens)
    }
}

impl Lodge {
    /// Asks for keys if `has_keys`; `process` is this one.
    ///
    /// # Errors
    /// The zone has no place for limits.
    pub(crate) fn new(keys: Keys, zone: Zone, process: Process) -> Result<Self, gate_limit::LimitError> {
        let ground = Ground { zone };
        let anybody = Terms {
            routes: None,
            models: Patterns::new(&[]),
            clamps: Clamps::default(),
            requests: Requests::Gate,
            budget: Rc::new(ground.budget(&[], &[])?),
            has_tokens: false,
            concurrency: None,
            weight: None,
        };
        let keyring = zone.keyring();
        Ok(Self {
            door: (keys == Keys::Asked).then(|| Door::new(keyring)),
            keyring,
            anybody: Rc::new(anybody),
            known: RefCell::default(),
            ground,
            concurrency: Concurrency::new(zone, process),
        })
    }

    /// Who a request is from, given its fields and the address that it came from.
    ///
    /// # Errors
    /// [`Rejection::Unauthorized`], or [`Rejection::Internal`] where a key's policy cannot be read.
    pub(crate) fn holder(&self, fields: &HeaderMap, client: &Client, route: &Route) -> Result<Holder, Rejection> {
        let Some(door) = self.door.filter(|_| route.class() != Class::Open) else {
            return Ok(Holder { name: None, subject: client.subject(), terms: Rc::clone(&self.anybody) });
        };
        let values = |name: &HeaderName| fields.get_all(name).into_iter().map(HeaderValue::as_bytes);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for _ in 0..ROUNDS {
            let entry = door.check(values(&AUTHORIZATION), values(&X_API_KEY), now).map_err(unauthorized)?;
            // A generation that passed in between: the next round finds the new one.
            let Some(terms) = self.terms(&entry) else { continue };
            let terms = terms.map_err(|Unkept| Rejection::Internal)?;
            return Ok(Holder { name: Some(entry.name), subject: Subject::of_key(entry.name.as_str()), terms });
        }
        Err(Rejection::Internal)
    }

    /// What a policy means; none if its generation has passed.
    fn terms(&self, entry: &Entry) -> Option<Result<Rc<Terms>, Unkept>> {
        let mut known = self.known.borrow_mut();
        if known.generation != entry.generation {
            *known = Known { generation: entry.generation, terms: HashMap::new() };
        }
        if let Some(terms) = known.terms.get(&entry.policy) {
            return Some(terms.clone());
        }
        let text = self.keyring.policy(entry.generation, entry.policy)?;
        let read = self.read(&text).inspect_err(|why| log::error!("the policy `{text}` cannot be kept: {why}"));
        let terms = read.map(Rc::new).map_err(|_| Unkept);
        known.terms.insert(entry.policy, terms.clone());
        Some(terms)
    }

    fn read(&self, text: &str) -> Result<Terms, String> {
        let policy = Policy::parse(text).map_err(|error| error.to_string())?;
        let own = policy.limit.as_deref().unwrap_or_default();
        let budget = self.ground.budget(own, &policy.tokens).map_err(|error| error.to_string())?;
        let count = if policy.tokens.is_empty() { CountUsage::No } else { CountUsage::Yes };
        Ok(Terms {
            models: Patterns::new(&policy.models),
            clamps: Clamps {
                num_ctx: policy.num_ctx,
                tokens: policy.num_predict,
                keep_alive: policy.keep_alive,
                images: policy.images,
                messages: policy.messages,
                count,
            },
            requests: if policy.limit.is_some() { Requests::Own } else { Requests::Gate },
            budget: Rc::new(budget),
            has_tokens: !policy.tokens.is_empty(),
            concurrency: policy.concurrency,
            weight: policy.weight,
            routes: Some(policy.routes),
        })
    }
}

/// Whether a gate asks for keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    Asked,
    Unasked,
}

fn unauthorized(fault: keys::KeyFault) -> Rejection {
    let why = match fault {
        keys::KeyFault::Missing => KeyFault::Missing,
        keys::KeyFault::Unknown => KeyFault::Unknown,
        keys::KeyFault::Expired => KeyFault::Expired,
        keys::KeyFault::Ambiguous => KeyFault::Ambiguous,
    };
    Rejection::Unauthorized { why }
}

impl Holder {
    /// Whether he may use the route.
    ///
    /// # Errors
    /// [`Rejection::Denied`].
    pub(crate) fn may_use(&self, route: &Route) -> Result<(), Rejection> {
        match (&self.terms.routes, route.class()) {
            (_, Class::Open) | (None, Class::Infer | Class::Read) => Ok(()),
            (None, Class::Manage) => Err(Rejection::Denied { what: Denial::Route }),
            (Some(routes), _) if routes.contains(&word(route)) => Ok(()),
            (Some(_), _) => Err(Rejection::Denied { what: Denial::KeyRoute }),
        }
    }

    /// Whether he may name the models that a call names.
    ///
    /// # Errors
    /// [`Rejection::Denied`] for what runs elsewhere, [`Rejection::ModelNotFound`] in the backend's words for the rest: what
    /// he may not use he need not know of.
    pub(crate) fn may_name(&self, call: &Call) -> Result<(), Rejection> {
        if self.terms.models.admits(call) {
            return Ok(());
        }
        if call.source == Source::Cloud {
            return Err(Rejection::Denied { what: Denial::CloudModel });
        }
        if call.remote.is_some() {
            return Err(Rejection::Denied { what: Denial::RemoteHost });
        }
        Err(Rejection::ModelNotFound { model: call.model.clone() })
    }

    /// Whether he may know of a model, by the name that it is listed under.
    pub(crate) fn may_see(&self, listed: &str) -> bool {
        self.terms.models.admits_listed(listed)
    }

    /// A place among his requests in service; none is needed where nothing bounds them.
    ///
    /// # Errors
    /// [`Rejection::TooManyAtOnce`].
    pub(crate) fn hold(&self, concurrency: &Concurrency) -> Result<Option<Hold>, Rejection> {
        let Some(max) = self.terms.concurrency else { return Ok(None) };
        let hold = concurrency.take(&self.subject, max).ok_or(Rejection::TooManyAtOnce { limit: max.into() })?;
        Ok(Some(hold))
    }
}

/// What a policy calls a route.
fn word(route: &Route) -> &'static str {
    match route {
        Route::ArticleBody | Route::ArticleItem { .. } => "article",
        other => other.name(),
    }
}

#[cfg(test)]
mod tests {
    use gate_config::keyfile::ROUTE_WORDS;

    use super::*;
    use crate::routes;

    #[test]
    fn every_route_can_be_named_in_a_policy_under_its_class() {
        for route in routes::samples() {
            let class = match route.class() {
                Class::Infer => "infer",
                Class::Read => "read",
                Class::Manage => "manage",
                Class::Open => continue,
            };
            let (_, words) = ROUTE_WORDS.iter().find(|(group, _)| *group == class).unwrap();
            assert!(words.contains(&word(&route)), "{} is not among {class}", word(&route));
        }
    }
}
