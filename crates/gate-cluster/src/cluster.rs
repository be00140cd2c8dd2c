//! Says who may pass: by what is in the zone, else by asking the store, else alone.
//!
//! Invariants: of all requests of this process that need the same count, one asks, and the others wait for its answer;
//! a question that is under way is finished whether or not somebody still waits, so no grant is lost with a client.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use gate_limit::{Limit, Refused, Subject};
use gate_zone::Zone;
use gate_zone::store::{Health, Store, Turn};
use log::{info, warn};
use siphasher::sip128::SipHasher24;
use tokio::sync::{Notify, oneshot};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::count::{Count, Look, Passage, Tell};
use crate::link::Link;
use crate::script::Counter;
use crate::terms::{Address, ClusterError, Terms};

/// How often what has arrived already is looked for after the time has run out: once for the connection's task, and once
/// for the question's. A process that did not run for a while has the answer lying there.
const LAST_LOOKS: usize = 3;

/// Limits that hold over several gates. One for each worker; copies are the same one. To be used within its `LocalSet`.
#[derive(Clone)]
pub struct Cluster(Rc<Inner>);

struct Inner {
    zone: Zone,
    store: Store<AtomicU64>,
    link: Rc<Link>,
    counter: Counter,
    prefix: String,
    share: f64,
    timeout: Duration,
    /// Counts that the store is being asked about.
    trips: RefCell<HashMap<(u64, u64), Rc<Notify>>>,
}

/// What a question came to: a passage, or how long to wait; none without an answer.
type Outcome = Option<Result<Passage, Duration>>;

impl Cluster {
    /// Sets up what is needed to ask; connects only when somebody does.
    ///
    /// # Errors
    /// The URL or the share cannot be used.
    pub fn new(zone: Zone, terms: Terms) -> Result<Self, ClusterError> {
        let Terms { url, password, share, timeout, prefix } = terms;
        if !(share > 0.0 && share <= 1.0) {
            return Err(ClusterError::Share);
        }
        let address = Address::parse(&url, password.as_deref()).map_err(ClusterError::Url)?;
        let store = zone.limit_store();
        store.begin();
        // The zone's seed is drawn at random for each gate, and kept when a gate takes over from another.
        let [low, high] = zone.seed();
        let gate = format!("{:016x}", SipHasher24::new_with_keys(low, high).hash(b"gate").as_u64().0);
        let link = Rc::new(Link::new(address));
        let counter = Counter::new(gate);
        let trips = RefCell::default();
        Ok(Self(Rc::new(Inner { zone, store, link, counter, prefix, share, timeout, trips })))
    }

    /// Connects before anybody waits for it. Returns when it has, or has failed to.
    pub async fn connect(&self) {
        if let Err(why) = self.0.link.line().await {
            self.0.failed(&why);
        }
    }

    /// Takes `cost` of a limit for a subject; a cost above the whole amount takes the whole amount.
    ///
    /// # Errors
    /// There is not as much left in this window.
    pub async fn take(&self, subject: &Subject, scope: u64, limit: &Arc<Limit>, cost: u64) -> Result<Passage, Refused> {
        let refused = || Refused { limit: Arc::clone(limit), retry: limit.window };
        let count = Count::new(self.0.zone, subject, scope, limit).filter(|_| limit.amount > 0).ok_or_else(refused)?;
        let cost = cost.clamp(1, limit.amount);
        let mut deadline = None;
        loop {
            match count.look(cost) {
                Look::Passes(passage) => return Ok(passage),
                Look::Refused(retry) => return Err(count.refused(retry)),
                Look::Ask => {}
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.0.timeout);
            let key = || self.0.key(subject, scope, limit);
            match self.0.turn() {
                Turn::Ask => {}
                Turn::Probe => {
                    spawn_local(Rc::clone(&self.0).probe(count.clone(), key()));
                    return self.0.locally(&count, cost);
                }
                Turn::Local => return self.0.locally(&count, cost),
            }
            let under_way = self.0.trips.borrow().get(&count.id()).cloned();
            let Some(trip) = under_way else {
                return match timeout_at(deadline, self.0.depart(&count, key(), cost)).await {
                    Ok(Ok(Some(Ok(passage)))) => Ok(passage),
                    Ok(Ok(Some(Err(retry)))) => Err(count.refused(retry)),
                    _ => self.0.locally(&count, cost),
                };
            };
            if timeout_at(deadline, trip.notified()).await.is_err() {
                return self.0.locally(&count, cost);
            }
        }
    }

    /// Makes a passage cost what was `used`: nothing, if it was given up. What was not used is given back in the window
    /// that it was taken from only; what was used beyond is taken, past the amount if need be.
    pub fn settle(&self, subject: &Subject, scope: u64, passage: &Passage, used: u64) {
        let limit = &passage.standing.limit;
        let Some(count) = Count::new(self.0.zone, subject, scope, limit) else { return };
        if count.settle(passage, used) == Tell::Soon && self.0.turn_is_to_ask() {
            spawn_local(Rc::clone(&self.0).tell(count, self.0.key(subject, scope, limit)));
        }
    }

    /// How the store is, as all processes of the gate see it.
    pub fn health(&self) -> Health {
        self.0.store.health()
    }
}

impl Inner {
    /// A question in a task of its own, which many may wait for; what it answers is for who caused it.
    fn depart(self: &Rc<Self>, count: &Count, key: String, cost: u64) -> oneshot::Receiver<Outcome> {
        let (tell, told) = oneshot::channel();
        let (inner, count, done) = (Rc::clone(self), count.clone(), Rc::new(Notify::new()));
        self.trips.borrow_mut().insert(count.id(), Rc::clone(&done));
        spawn_local(async move {
            let outcome = inner.ask(&count, &key, cost).await;
            if let Err(why) = &outcome {
                inner.failed(why);
            }
            inner.trips.borrow_mut().remove(&count.id());
            if let Err(Some(Ok(passage))) = tell.send(outcome.ok()) {
                count.give(&passage, passage.cost());
            }
            done.notify_waiters();
        });
        told
    }

    async fn probe(self: Rc<Self>, count: Count, key: String) {
        match self.ask(&count, &key, 0).await {
            Ok(_) => {
                if let Some(away) = self.store.answered(self.now()) {
                    info!("the store of limits answers again, after {away:.1?}: limits hold over all gates");
                }
            }
            Err(why) => self.failed(&why),
        }
    }

    async fn tell(self: Rc<Self>, count: Count, key: String) {
        if let Err(why) = self.ask(&count, &key, 0).await {
            self.failed(&why);
        }
    }

    /// One question, answered in time.
    async fn ask(&self, count: &Count, key: &str, cost: u64) -> Result<Result<Passage, Duration>, String> {
        let asked = async {
            let mut is_again = false;
            loop {
                let mut line = self.link.line().await?;
                let (question, sent_ns) = (count.question(cost), count.now_ns());
                let of = (count.limit().amount, count.limit().window);
                match self.counter.ask(&mut line, key, of, question).await {
                    Ok(answer) => return Ok(count.answered(question, answer, sent_ns, self.share)),
                    // A connection from before a restart, or to a server that is not the first any more.
                    Err(_) if !is_again => self.link.forget(),
                    Err(error) => return Err(error.to_string()),
                }
                is_again = true;
            }
        };
        let late = || format!("no answer within {:?}", self.timeout);
        within(Instant::now() + self.timeout, asked).await.unwrap_or_else(|| Err(late()))
    }

    fn failed(&self, why: &str) {
        self.link.forget();
        if self.store.failed(self.now()) {
            warn!("the store of limits is away ({why}): limits hold locally, this gate's share is {:.3}", self.share);
        }
    }

    fn locally(&self, count: &Count, cost: u64) -> Result<Passage, Refused> {
        count.locally(cost, self.share).map_err(|retry| count.refused(retry))
    }

    fn turn(&self) -> Turn {
        self.store.turn(self.now())
    }

    fn turn_is_to_ask(&self) -> bool {
        !matches!(self.store.health(), Health::Away { .. })
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.zone.now_ns())
    }

    /// The store's key of a count: the same at all gates.
    fn key(&self, subject: &Subject, scope: u64, limit: &Limit) -> String {
        let mut key = format!("{}:{scope}-{}-{}:", self.prefix, limit.amount, limit.window.as_millis());
        for octet in subject.as_octets() {
            write!(key, "{octet:02x}").expect("a String takes all that is written");
        }
        key
    }
}

/// What `future` comes to by `deadline`, or has come to without being looked at by then.
async fn within<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let late = async {
        sleep_until(deadline).await;
        for _ in 0..LAST_LOOKS {
            yield_now().await;
        }
    };
    tokio::select! {
        biased;
        value = &mut future => Some(value),
        () = late => None,
    }
}
