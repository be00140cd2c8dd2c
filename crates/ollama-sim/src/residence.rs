//! Who may use which model, and who waits: for a turn to load, for memory, for a load, for a slot. What fits and who
//! has to go is decided in `memory`. It knows nothing of requests beyond what they wish. Its invariant: a model is used
//! only with a [`Lease`], and a lease gives everything back when it is dropped.
//!
//! It is the scheduler of Ollama in small. A request for a loaded model on the terms it was loaded with goes straight
//! to that model's slots. All others stand in one line: whose turn it is finds room, if need be by waiting until a
//! model's requests have ended, and loads; those behind wait meanwhile, whatever they want. A request for the very
//! model that is loading waits beside the line.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use crate::config::{Config, Model, Personality};
use crate::memory::{Claim, Found, Loads, Memory, Used};
use crate::terms::Wish;

/// How many models there may be, for clients that make some: beyond any test.
const MODELS_MAX: usize = 1024;

/// All models of a simulation.
pub(crate) struct Residence {
    seats: Mutex<Seats>,
    /// Takes names that no model has, where any name is taken.
    anything: Option<Arc<Seat>>,
    commons: Arc<Commons>,
    /// Held from the search for room to the end of the load; those who wait for it are served in their order.
    turn: tokio::sync::Mutex<()>,
    pending: AtomicU64,
    pending_max: u64,
    waiting: AtomicU64,
    waiting_max: u64,
    keep_alive: Duration,
    /// One moment on both clocks: Ollama's clients are told wall time.
    epoch: (Instant, SystemTime),
}

/// The models there are now, in the order of their coming.
struct Seats {
    list: Vec<Arc<Seat>>,
    /// The place of the next: none is given twice, so that a model's runner is never another's.
    next: usize,
}

/// What leases share with the residence they give back to.
struct Commons {
    memory: Mutex<Memory>,
    /// A runner came or went, or a load was given up.
    changed: Notify,
}

/// One model.
pub(crate) struct Seat {
    pub(crate) model: Arc<Model>,
    place: usize,
    requests: AtomicU64,
}

/// Too many wait already.
#[derive(Debug)]
pub(crate) struct Busy;

/// A slot of a loaded model.
pub(crate) struct Lease {
    /// How long it took to have the model in memory; nothing when it was there.
    pub(crate) load: Duration,
    /// How long it took to have a slot.
    pub(crate) waited: Duration,
    _slot: OwnedSemaphorePermit,
    _usage: Usage,
}

/// A model that is in memory now.
pub(crate) struct Resident {
    pub(crate) model: Arc<Model>,
    pub(crate) expires_at: SystemTime,
    pub(crate) context_length: u64,
}

/// The use of a runner. The model's time in memory starts anew when the last one is dropped.
struct Usage {
    commons: Arc<Commons>,
    used: Used,
}

impl Drop for Usage {
    fn drop(&mut self) {
        if self.commons.memory().release(self.used.id, Instant::now()) {
            self.commons.changed.notify_waiters();
        }
    }
}

/// A load that has begun; dropped before its end, it is given up.
struct Loading<'a>(&'a Arc<Commons>);

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        if self.0.memory().abort() {
            self.0.changed.notify_waiters();
        }
    }
}

/// One more in a line while it lives.
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    /// Joins unless this many are there already.
    fn join(line: &'a AtomicU64, most: u64) -> Result<Self, Busy> {
        let before = line.fetch_add(1, Ordering::Relaxed);
        let joined = Self(line);
        if before < most { Ok(joined) } else { Err(Busy) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Residence {
    pub(crate) fn new(config: &Config) -> Self {
        let list: Vec<_> = config.models.iter().cloned().enumerate().map(Seat::new).collect();
        let anything =
            (config.personality == Personality::Echo).then(|| Seat::new((list.len(), Model::named("anything"))));
        Self {
            anything,
            seats: Mutex::new(Seats { next: list.len() + 1, list }),
            commons: Arc::new(Commons {
                memory: Mutex::new(Memory::new(config.memory, config.slots.get())),
                changed: Notify::new(),
            }),
            turn: tokio::sync::Mutex::new(()),
            pending: AtomicU64::new(0),
            // Whose turn it is has left Ollama's queue.
            pending_max: (config.load_queue as u64).saturating_add(1),
            waiting: AtomicU64::new(0),
            waiting_max: config.queue as u64,
            keep_alive: config.keep_alive,
            epoch: (Instant::now(), SystemTime::now()),
        }
    }

    /// The seat of a model by the name a request uses: any letter case, `:latest` understood.
    pub(crate) fn seat(&self, name: &str) -> Option<Arc<Seat>> {
        self.seats().find(name).or(self.anything.as_ref()).cloned()
    }

    /// The models there are.
    pub(crate) fn models(&self) -> Vec<Arc<Model>> {
        self.seats().list.iter().map(|seat| Arc::clone(&seat.model)).collect()
    }

    /// The model of just this name.
    pub(crate) fn model(&self, name: &str) -> Option<Arc<Model>> {
        self.seats().find(name).map(|seat| Arc::clone(&seat.model))
    }

    /// Takes a model in, in place of one of its name; that one's requests go on.
    ///
    /// Gives it back where there are too many already.
    pub(crate) fn add(&self, model: Model) -> Result<(), Box<Model>> {
        let replaced = self.remove(&model.name);
        let mut seats = self.seats();
        if replaced.is_none() && seats.list.len() >= MODELS_MAX {
            return Err(Box::new(model));
        }
        let place = seats.next;
        seats.next += 1;
        seats.list.push(Seat::new((place, model)));
        Ok(())
    }

    /// Drops a model; it leaves memory when its requests have ended.
    pub(crate) fn remove(&self, name: &str) -> Option<Arc<Seat>> {
        let seat = {
            let mut seats = self.seats();
            let seat = Arc::clone(seats.find(name)?);
            seats.list.retain(|own| own.place != seat.place);
            seat
        };
        self.unload(&seat);
        Some(seat)
    }

    /// The models in memory. One that is loading is not there yet.
    pub(crate) fn resident(&self) -> Vec<Resident> {
        let (start, wall) = self.epoch;
        let seats = self.seats().list.clone();
        let mut memory = self.commons.memory();
        let listed = memory.runners(Instant::now()).iter().filter_map(|runner| {
            Some(Resident {
                model: Arc::clone(&seats.iter().find(|seat| seat.place == runner.place)?.model),
                expires_at: wall + runner.until.saturating_duration_since(start),
                context_length: runner.terms.context_length(),
            })
        });
        listed.collect()
    }

    /// Takes a model out of memory, once its requests have ended.
    pub(crate) fn unload(&self, seat: &Seat) {
        if self.commons.memory().unload(seat.place, Instant::now()) {
            self.commons.changed.notify_waiters();
        }
    }

    /// Requests that wait for a slot.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Requests in the line for loads, with the one whose turn it is.
    pub(crate) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// What was loaded so far.
    pub(crate) fn loads(&self) -> Loads {
        self.commons.memory().loads
    }

    /// Requests for each model that had any.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (String, u64)> {
        let counts =
            self.all().into_iter().map(|seat| (seat.model.name.clone(), seat.requests.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0)
    }

    /// Begins to count anew.
    pub(crate) fn reset(&self) {
        self.commons.memory().loads = Loads::default();
        self.all().iter().for_each(|seat| seat.requests.store(0, Ordering::Relaxed));
    }

    fn all(&self) -> Vec<Arc<Seat>> {
        self.seats().list.iter().chain(&self.anything).cloned().collect()
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the model to be loaded as wished, and for a slot. Dropping the future gives up the place, and a load
    /// with it.
    pub(crate) async fn admit(&self, seat: &Seat, wish: Wish) -> Result<Lease, Busy> {
        let wish = Wish { terms: wish.terms.of_model(seat.model.context_length), ..wish };
        let (usage, load) = self.runner(seat, &wish).await?;
        let slots = Arc::clone(&usage.used.slots);
        if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
            return Ok(Lease { load, waited: Duration::ZERO, _slot: slot, _usage: usage });
        }
        let _waiting = Waiting::join(&self.waiting, self.waiting_max)?;
        let start = Instant::now();
        let slot = slots.acquire_owned().await.expect("the semaphore lives as long as its uses and is never closed");
        Ok(Lease { load, waited: start.elapsed(), _slot: slot, _usage: usage })
    }

    /// The use of a runner, and how long it took to come.
    async fn runner(&self, seat: &Seat, wish: &Wish) -> Result<(Usage, Duration), Busy> {
        let mut start = None;
        loop {
            // It hears of all that happens from here on, so nothing is missed between the look and the wait.
            let changed = self.commons.changed.notified();
            let now = Instant::now();
            let found = self.commons.memory().find(seat.place, wish, now);
            match found {
                Found::Ready(used) => {
                    return Ok((self.usage(used), start.map_or(Duration::ZERO, |start| now - start)));
                }
                Found::Loading => changed.await,
                Found::Absent => break,
            }
            start.get_or_insert(now);
        }
        let start = start.unwrap_or_else(Instant::now);
        let _pending = Waiting::join(&self.pending, self.pending_max)?;
        let _turn = self.turn.lock().await;
        let usage = self.load(seat, wish).await;
        Ok((usage, start.elapsed()))
    }

    /// Makes room and loads, unless somebody did meanwhile; for the one whose turn it is.
    async fn load(&self, seat: &Seat, wish: &Wish) -> Usage {
        let mut replaced = None;
        loop {
            let changed = self.commons.changed.notified();
            let claim = self.commons.memory().claim(seat.place, wish, Instant::now());
            match claim {
                Claim::Ready(used) => return self.usage(used),
                Claim::Free => break,
                Claim::Evicted(cause) => replaced = Some(cause),
                Claim::Full(cause) => {
                    replaced = Some(cause);
                    changed.await;
                }
            }
        }
        self.commons.memory().begin(seat.place, replaced);
        let loading = Loading(&self.commons);
        // Even a sleep of no time lasts a tick of the timer.
        if !seat.model.load_time.is_zero() {
            tokio::time::sleep(seat.model.load_time).await;
        }
        let keep_alive = wish.keep_alive.unwrap_or(self.keep_alive);
        let used = self.commons.memory().finish(seat.place, wish.terms, keep_alive, Instant::now());
        drop(loading);
        self.commons.changed.notify_waiters();
        self.usage(used)
    }

    fn usage(&self, used: Used) -> Usage {
        Usage { commons: Arc::clone(&self.commons), used }
    }
}

impl Commons {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seats {
    fn find(&self, name: &str) -> Option<&Arc<Seat>> {
        let wanted = full_name(name);
        self.list.iter().find(|seat| full_name(&seat.model.name) == wanted)
    }
}

impl Seat {
    fn new((place, model): (usize, Model)) -> Arc<Self> {
        Arc::new(Self { model: Arc::new(model), place, requests: AtomicU64::new(0) })
    }

    /// Counts a request for this model.
    pub(crate) fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

fn full_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    if name.rsplit('/').next().is_some_and(|last| last.contains(':')) { name } else { name + ":latest" }
}

#[cfg(test)]
mod tests;
