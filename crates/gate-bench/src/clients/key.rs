//! What a request's key, its policy and its tokens cost: in this process, over a zone and a keyring as the gate makes them.
//!
//! A turn is what a worker does for each request of a key: digest and compare the key, look its policy up, see whether
//! route and model are allowed, count the request, reserve its tokens, settle them. The body has been read before.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hint;
use std::iter;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gate_api::Route;
use gate_api::call::{Call, judge};
use gate_api::models::Patterns;
use gate_limit::keys::{Door, Entry, Fresh, Keyring};
use gate_limit::{Budget, Clock, Limit, Subject, Tables};
use gate_zone::Zone;
use gate_zone::keyring::Record;

use super::keyfile::{self, KEYS, POLICIES, Row};
use crate::complaint::Complaint;
use crate::interrupt;
use crate::own_time::own_time;

/// Keys that take turns: one whose every word is at hand, and as many as a busy gate sees in a while.
pub(crate) const USED: [usize; 2] = [1, 1000];
/// Clients for whom there is room, unless told: `limit_entries`.
const ENTRIES: usize = 131_072;
/// Turns of a run: enough for the clock.
const TURNS: u32 = 500_000;
/// Runs, of which the median is taken.
const RUNS: usize = 7;
/// Never reached.
const AMOUNT: u64 = 1_000_000_000;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// Tokens of an answer that nothing bounds, as the gate guesses them.
const TOKENS_UNSAID: u64 = 512;
/// Tokens that were used in the end: fewer than were reserved, as mostly.
const USED_TOKENS: u64 = 12;
/// What a policy that names inference and reading allows, as many as that is.
const ROUTES: [&str; 16] = [
    "article",
    "generate",
    "chat",
    "embed",
    "embeddings",
    "chat_completions",
    "completions",
    "v1_embeddings",
    "responses",
    "messages",
    "show",
    "tags",
    "ps",
    "version",
    "models",
    "model",
];

/// Nanoseconds for each turn, run by run.
pub(crate) type Runs = Vec<f64>;

/// Measures with each number of keys.
pub(crate) fn measure() -> Result<[Runs; USED.len()], Complaint> {
    let keys = keyfile::keys(KEYS);
    let ground = Ground::new(&keys)?;
    let mut found: [Runs; USED.len()] = Default::default();
    for (used, runs) in USED.into_iter().zip(&mut found) {
        // In any order, so that none is fetched by the one before.
        let mut row = Row::from(used as u64);
        let mut any = |below: usize| (row.next() % below as u64) as usize;
        let known: Vec<&Fresh> = (0..used).map(|_| &keys[any(keys.len())]).collect();
        let fields: Vec<String> = known.iter().map(|key| format!("Bearer {}", key.text)).collect();
        let order: Vec<&[u8]> = (0..TURNS).map(|_| fields[any(fields.len())].as_bytes()).collect();
        // Caches and branch predictors settle.
        ground.run(&order)?;
        for run in 1..=RUNS {
            interrupt::check()?;
            let ns = ground.run(&order)?;
            eprintln!("key: run {run} of {RUNS}: {used} keys, {ns:.0} ns a request");
            runs.push(ns);
        }
    }
    Ok(found)
}

/// The keys of a gate, and what one of its workers knows of them.
struct Ground {
    zone: Zone,
    keyring: Keyring,
    door: Door,
    known: RefCell<Known>,
    call: Call,
}

/// Policies that have been read, of one generation.
#[derive(Default)]
struct Known {
    generation: u32,
    terms: HashMap<u32, Rc<Terms>>,
}

/// What a policy means.
struct Terms {
    routes: Vec<&'static str>,
    models: Patterns,
    budget: Rc<Budget>,
}

impl Ground {
    fn new(keys: &[Fresh]) -> Result<Self, Complaint> {
        let entries = NonZeroUsize::MIN.saturating_add(ENTRIES - 1);
        let (memory, zone) = Zone::create(entries, [1, 2]).map_err(Complaint::io("making a zone"))?;
        zone.assign_windows(&[MINUTE, HOUR], &[]).map_err(|why| wrong(&why.to_string()))?;
        let names: Vec<String> = (0..keys.len()).map(keyfile::name).collect();
        let policies: Vec<String> = (0..POLICIES).map(keyfile::policy).collect();
        let policies: Vec<&str> = policies.iter().map(String::as_str).collect();
        let records: Vec<Record<'_>> = iter::zip(keys, &names)
            .enumerate()
            .map(|(place, (key, name))| Record {
                id: key.id,
                salt: key.salt,
                digest: key.digest,
                expires: 0,
                policy: (place % POLICIES) as u32,
                name,
            })
            .collect();
        let keyring = zone.keyring();
        keyring.publish(&memory, &records, &policies).map_err(|why| wrong(&why.to_string()))?;
        let body = br#"{"model":"llama3.2:1b","prompt":"Why is the sky blue?","stream":false}"#;
        let call = judge(&Route::Generate, body).map_err(|why| wrong(&format!("{why:?}")))?;
        Ok(Self { zone, keyring, door: Door::new(keyring), known: RefCell::default(), call })
    }

    /// Nanoseconds a turn.
    fn run(&self, fields: &[&[u8]]) -> Result<f64, Complaint> {
        let began = own_time()?;
        for field in fields {
            self.turn(field)?;
        }
        Ok(own_time()?.saturating_sub(began).as_nanos() as f64 / fields.len() as f64)
    }

    fn turn(&self, field: &[u8]) -> Result<(), Complaint> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let entry = self.door.check(iter::once(field), iter::empty(), now).map_err(|why| wrong(&why.to_string()))?;
        let terms = self.terms(&entry)?;
        let subject = Subject::of_key(entry.name.as_str());
        if !(terms.routes.contains(&Route::Generate.name()) && terms.models.admits(&self.call)) {
            return Err(wrong("a key may not use its route or model"));
        }
        let permit = terms.budget.admit(&subject).map_err(|why| wrong(&why.to_string()))?;
        hint::black_box(permit.standing().cloned());
        let tokens = self.call.estimate(TOKENS_UNSAID);
        let reserved = terms.budget.reserve(&subject, tokens).map_err(|why| wrong(&why.to_string()))?;
        reserved.settle(USED_TOKENS);
        Ok(())
    }

    fn terms(&self, entry: &Entry) -> Result<Rc<Terms>, Complaint> {
        let mut known = self.known.borrow_mut();
        if known.generation != entry.generation {
            *known = Known { generation: entry.generation, terms: HashMap::new() };
        }
        if let Some(terms) = known.terms.get(&entry.policy) {
            return Ok(Rc::clone(terms));
        }
        let terms = Rc::new(self.read(entry)?);
        known.terms.insert(entry.policy, Rc::clone(&terms));
        Ok(terms)
    }

    fn read(&self, entry: &Entry) -> Result<Terms, Complaint> {
        let text = self.keyring.policy(entry.generation, entry.policy).ok_or_else(|| wrong("a policy is missing"))?;
        let models = text.split(' ').find_map(|word| word.strip_prefix("models=")).unwrap_or_default();
        let models: Vec<String> = models.split(',').map(str::to_owned).collect();
        let zone = self.zone;
        let tables = Tables { windows: zone.windows().collect(), gcra: zone.gcra_region() };
        let limit = |window| Limit { amount: AMOUNT, window, unit: window, text: "many".to_owned() };
        let clock = Clock::new(move || zone.now_ns());
        let budget = Budget::new(&tables, zone.seed(), clock, vec![limit(MINUTE)], vec![limit(HOUR)]);
        let budget = Rc::new(budget.map_err(|why| wrong(&why.to_string()))?);
        Ok(Terms { routes: ROUTES.to_vec(), models: Patterns::new(&models), budget })
    }
}

fn wrong(said: &str) -> Complaint {
    Complaint::Answer { name: "the keyring".to_owned(), said: said.to_owned() }
}

#[cfg(test)]
mod tests {
    use gate_config::keyfile::Policy;

    use super::*;

    #[test]
    fn a_turn_counts_a_request_and_its_tokens() {
        let keys = keyfile::keys(POLICIES + 1);
        let ground = Ground::new(&keys).unwrap();
        let field = |place: usize| format!("Bearer {}", keys[place].text);
        for place in [0, 0, POLICIES] {
            ground.turn(field(place).as_bytes()).unwrap();
        }
        assert!(ground.turn(&field(0).as_bytes()[..20]).is_err());
        let entry = ground.keyring.find(keys[0].id).unwrap();
        let terms = ground.terms(&entry).unwrap();
        let left = |place| {
            let subject = Subject::of_key(&keyfile::name(place));
            let requests = terms.budget.admit(&subject).unwrap().standing().unwrap().remaining;
            let tokens = terms.budget.reserve(&subject, 1).unwrap().standing().unwrap().remaining;
            (AMOUNT - requests, AMOUNT - tokens)
        };
        assert_eq!(left(0), (3, 2 * USED_TOKENS + 1));
        assert_eq!(left(POLICIES), (2, USED_TOKENS + 1));
    }

    #[test]
    fn routes_are_those_of_the_policies() {
        let policy = Policy::parse(&keyfile::policy(0)).unwrap();
        assert_eq!(policy.routes.len(), ROUTES.len());
        assert!(ROUTES.iter().all(|route| policy.routes.contains(route)));
    }
}
