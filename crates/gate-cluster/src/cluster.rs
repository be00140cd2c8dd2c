//! Says who may pass: by what is in the zone, else by asking the store, else alone.
//!
//! Invariants: of all requests of this process that need the same count, one asks, and the others wait for its answer;
//! a question that is under way is finished whether or not somebody still waits, so no grant is lost with a client.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Write;
use std::future::Future;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use gate_limit::{Limit, Refused, Subject};
use gate_zone::Zone;
use gate_zone::store::{Health, Store, Turn};
use log::{info, warn};
use redis::RedisResult;
use siphasher::sip128::SipHasher24;
use tokio::sync::{Notify, oneshot};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::count::{Count, Look, Passage, Tell};
use crate::link::{Line, Link};
use crate::recent::{COUNTS_MAX, Recent, Told};
use crate::script::{Counter, Question};
use crate::terms::{Address, ClusterError, Terms};

/// How often what has arrived already is looked for after the time has run out: once for the connection's task, and once
/// for the question's. A process that did not run for a while has the answer lying there.
const LAST_LOOKS: usize = 3;

/// How often the store is looked after by each process that knows of counts, and so how long it takes an idle gate to tell
/// what a store that was restarted has lost.
const WATCH: Duration = Duration::from_millis(250);

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
    /// Counts that it was asked about, to be told again to a store that has lost them.
    recent: RefCell<Recent<Told>>,
    /// Counts that it should hear of soon.
    soon: RefCell<HashMap<(u64, u64), Told>>,
    /// Wakes the watch for them.
    news: Rc<Notify>,
    /// The connection that was used last; 0 before the first.
    serial: Cell<u64>,
    /// Whether it is being told all that this process knows.
    is_telling: Cell<bool>,
}

/// What one request has to do with the store: it waits for it in vain once at most.
pub struct Visit<'a> {
    cluster: &'a Cluster,
    has_waited: bool,
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
        let inner = Inner {
            zone,
            store,
            link,
            counter,
            prefix,
            share,
            timeout,
            trips: RefCell::default(),
            recent: RefCell::default(),
            soon: RefCell::default(),
            news: Rc::default(),
            serial: Cell::new(0),
            is_telling: Cell::new(false),
        };
        Ok(Self(Rc::new(inner)))
    }

    /// Connects before anybody waits for it, and looks after the store from now on. Returns when it has connected, or has
    /// failed to. To be called once.
    pub async fn connect(&self) {
        spawn_local(Inner::watch(Rc::downgrade(&self.0)));
        match self.0.link.line().await {
            Ok((_, serial)) => self.0.connected(serial),
            Err(why) => self.0.failed(&why),
        }
    }

    /// For one request, whatever limits it has.
    pub fn visit(&self) -> Visit<'_> {
        Visit { cluster: self, has_waited: false }
    }

    /// Makes a passage cost what was `used`: nothing, if it was given up. What was not used is given back in the window
    /// that it was taken from only; what was used beyond is taken, past the amount if need be.
    pub fn settle(&self, subject: &Subject, scope: u64, passage: &Passage, used: u64) {
        let limit = &passage.standing.limit;
        let Some(count) = Count::new(self.0.zone, subject, scope, limit) else { return };
        if count.settle(passage, used) == Tell::Soon {
            // By the watch: whoever settles may be on its way out, where no task can be begun.
            let mut soon = self.0.soon.borrow_mut();
            if soon.len() < COUNTS_MAX {
                soon.insert(count.id(), (count, self.0.key(subject, scope, limit)));
            }
            self.0.news.notify_one();
        }
    }

    /// How the store is, as all processes of the gate see it.
    pub fn health(&self) -> Health {
        self.0.store.health()
    }
}

impl Visit<'_> {
    /// Takes `cost` of a limit for a subject; a cost above the whole amount takes the whole amount.
    ///
    /// # Errors
    /// There is not as much left in this window.
    pub async fn take(
        &mut self,
        subject: &Subject,
        scope: u64,
        limit: &Arc<Limit>,
        cost: u64,
    ) -> Result<Passage, Refused> {
        let inner = &self.cluster.0;
        let refused = || Refused { limit: Arc::clone(limit), retry: limit.window };
        let count = Count::new(inner.zone, subject, scope, limit).filter(|_| limit.amount > 0).ok_or_else(refused)?;
        let cost = cost.clamp(1, limit.amount);
        let mut deadline = None;
        loop {
            match count.look(cost) {
                Look::Passes(passage) => return Ok(passage),
                Look::Refused(retry) => return Err(count.refused(retry)),
                // What it waited for may not have failed yet: they end at the same time.
                Look::Ask if self.has_waited => return inner.locally(&count, cost),
                Look::Ask => {}
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + inner.timeout);
            match inner.turn() {
                Turn::Ask => {}
                Turn::Probe => {
                    spawn_local(Rc::clone(inner).probe());
                    return inner.locally(&count, cost);
                }
                Turn::Local => return inner.locally(&count, cost),
            }
            let under_way = inner.trips.borrow().get(&count.id()).cloned();
            if let Some(trip) = under_way {
                self.has_waited = timeout_at(deadline, trip.notified()).await.is_err();
                continue;
            }
            return match timeout_at(deadline, inner.depart(&count, inner.key(subject, scope, limit), cost)).await {
                Ok(Ok(Some(Ok(passage)))) => Ok(passage),
                Ok(Ok(Some(Err(retry)))) => Err(count.refused(retry)),
                _ => {
                    self.has_waited = true;
                    inner.locally(&count, cost)
                }
            };
        }
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

    /// Finds out whether the store is back, and tells it what it may have lost.
    async fn probe(self: Rc<Self>) {
        match self.check().await {
            Ok(()) => {
                if let Some(away) = self.store.answered(self.now()) {
                    info!("the store of limits answers again, after {away:.1?}: limits hold over all gates");
                }
            }
            Err(why) => self.failed(&why),
        }
    }

    /// Looks after the store when nobody else does: an idle gate is to notice that it has lost what this gate knows.
    async fn watch(inner: Weak<Self>) {
        loop {
            let Some(news) = inner.upgrade().map(|inner| Rc::clone(&inner.news)) else { return };
            timeout(WATCH, news.notified()).await.ok();
            let Some(inner) = inner.upgrade() else { return };
            let soon: Vec<_> = inner.soon.borrow_mut().drain().map(|(_, told)| told).collect();
            match inner.turn() {
                // What is not told now is told when the count is next asked about.
                Turn::Ask if !soon.is_empty() => inner.tell(soon).await,
                Turn::Ask if !inner.recent.borrow().is_empty() => {
                    if let Err(why) = inner.reach(async |line| line.ping().await).await {
                        inner.failed(&why);
                    }
                }
                Turn::Probe => inner.probe().await,
                Turn::Ask | Turn::Local => {}
            }
        }
    }

    /// All that a question needs of the store, without a count.
    async fn check(self: &Rc<Self>) -> Result<(), String> {
        let question = Question { taken: 0, back: 0, known: 0, left: Duration::ZERO, need: 0, wish: 0 };
        let key = format!("{}:watch", self.prefix);
        self.reach(async |line| self.counter.ask(line, &key, (1, WATCH), question).await).await.map(drop)
    }

    /// Says again what this process knows of counts whose windows last.
    async fn tell_all(self: Rc<Self>) {
        if self.is_telling.replace(true) {
            return;
        }
        let recent = self.recent.borrow_mut().live();
        self.tell(recent).await;
        self.is_telling.set(false);
    }

    async fn tell(self: &Rc<Self>, counts: Vec<Told>) {
        for (count, key) in counts {
            if let Err(why) = self.ask(&count, &key, 0).await {
                return self.failed(&why);
            }
        }
    }

    /// One question about a count.
    async fn ask(self: &Rc<Self>, count: &Count, key: &str, cost: u64) -> Result<Result<Passage, Duration>, String> {
        let of = (count.limit().amount, count.limit().window);
        let asked = self.reach(async |line| {
            let (question, sent_ns) = (count.question(cost), self.zone.now_ns());
            let answer = self.counter.ask(line, key, of, question).await?;
            Ok((question, answer, sent_ns))
        });
        let (question, answer, sent_ns) = asked.await?;
        self.recent.borrow_mut().remember(count.id(), self.now(), || (count.clone(), key.to_owned()));
        Ok(count.answered(question, answer, sent_ns, self.share))
    }

    /// Says something to the store, and has its answer in time.
    async fn reach<T>(self: &Rc<Self>, say: impl AsyncFn(&mut Line) -> RedisResult<T>) -> Result<T, String> {
        let said = async {
            let mut is_again = false;
            loop {
                let (mut line, serial) = self.link.line().await?;
                self.connected(serial);
                match say(&mut line).await {
                    Ok(answer) => return Ok(answer),
                    // A connection from before a restart, or to a server that is not the first any more.
                    Err(_) if !is_again => self.link.forget(serial),
                    Err(error) => return Err(error.to_string()),
                }
                is_again = true;
            }
        };
        let late = || format!("no answer within {:?}", self.timeout);
        within(Instant::now() + self.timeout, said).await.unwrap_or_else(|| Err(late()))
    }

    /// Behind a new connection may be a store that knows nothing.
    fn connected(self: &Rc<Self>, serial: u64) {
        let before = self.serial.replace(serial);
        if before != 0 && before != serial {
            spawn_local(Rc::clone(self).tell_all());
        }
    }

    fn failed(&self, why: &str) {
        self.link.forget(self.serial.get());
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use tokio::task::LocalSet;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(50);

    #[test]
    fn a_request_with_many_limits_waits_in_vain_once() {
        // The kernel takes the connection, and nobody answers.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (_memory, zone) = Zone::create(NonZeroUsize::new(1 << 10).unwrap(), [1, 2]).unwrap();
        let window = Duration::from_secs(60);
        zone.assign_windows(&[window], &[]).unwrap();
        let limits = [10, 20, 30, 40].map(|amount| Limit { amount, window, unit: window, text: String::new() });
        let limits = limits.map(Arc::new);
        let terms = Terms { url, password: None, share: 1.0, timeout: TIMEOUT, prefix: "test".to_owned() };
        // Its clock goes on when everybody waits.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let cluster = Cluster::new(zone, terms).unwrap();
            let requests = ["first", "behind it"].map(|_| {
                let (cluster, limits) = (cluster.clone(), limits.clone());
                spawn_local(async move {
                    let (began, mut visit) = (Instant::now(), cluster.visit());
                    for limit in &limits {
                        drop(visit.take(&Subject::of_key("ada"), 3, limit, 1).await.unwrap());
                    }
                    began.elapsed()
                })
            });
            for request in requests {
                let waited = request.await.unwrap();
                assert!(waited >= TIMEOUT && waited < TIMEOUT * 2, "{waited:?}");
            }
        });
    }
}
