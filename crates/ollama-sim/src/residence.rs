//! Which models are in memory, who holds their slots and who waits. It knows nothing of requests beyond the model they
//! name. Its invariant: a model is used only with a [`Lease`], and a lease gives everything back when it is dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{Config, Model, Personality};

/// All models of a simulation.
pub(crate) struct Residence {
    seats: Vec<Arc<Seat>>,
    /// Takes names that no model has, where any name is taken.
    anything: Option<Arc<Seat>>,
    queue: u64,
    waiting: AtomicU64,
    keep_alive: Duration,
}

/// One model and its state.
pub(crate) struct Seat {
    pub(crate) model: Model,
    slots: Arc<Semaphore>,
    loading: tokio::sync::Mutex<()>,
    /// When it leaves memory; in the past when it is not there.
    until: Mutex<SystemTime>,
}

/// The queue is full.
#[derive(Debug)]
pub(crate) struct Busy;

/// A slot of a loaded model. The model's time in memory starts anew when it is dropped.
pub(crate) struct Lease {
    seat: Arc<Seat>,
    keep_alive: Duration,
    /// How long the model took to load for this lease.
    pub(crate) load: Duration,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.seat.keep(self.keep_alive);
    }
}

/// One more in the queue while it lives.
struct Waiting<'a>(&'a AtomicU64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Residence {
    pub(crate) fn new(config: &Config) -> Self {
        let seat = |model: &Model| Arc::new(Seat::new(model.clone(), config.slots.get()));
        Self {
            seats: config.models.iter().map(seat).collect(),
            anything: (config.personality == Personality::Echo).then(|| seat(&Model::named("anything"))),
            queue: config.queue as u64,
            waiting: AtomicU64::new(0),
            keep_alive: config.keep_alive,
        }
    }

    /// The seat of a model by the name a request uses: any letter case, `:latest` understood.
    pub(crate) fn seat(&self, name: &str) -> Option<&Arc<Seat>> {
        let wanted = full_name(name);
        self.seats.iter().find(|seat| full_name(&seat.model.name) == wanted).or(self.anything.as_ref())
    }

    /// All models, in the order of the configuration.
    pub(crate) fn seats(&self) -> &[Arc<Seat>] {
        &self.seats
    }

    /// Requests that wait for a slot.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for a slot and for the model to be loaded. Dropping the future gives up the place, and a load with it.
    pub(crate) async fn admit(&self, seat: &Arc<Seat>, keep_alive: Option<Duration>) -> Result<Lease, Busy> {
        let slots = Arc::clone(&seat.slots);
        let slot = if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
            slot
        } else {
            let before = self.waiting.fetch_add(1, Ordering::Relaxed);
            let _waiting = Waiting(&self.waiting);
            if before >= self.queue {
                return Err(Busy);
            }
            slots.acquire_owned().await.expect("the semaphore lives as long as its seat and is never closed")
        };
        let keep_alive = keep_alive.unwrap_or(self.keep_alive);
        let load = seat.load(keep_alive).await;
        Ok(Lease { seat: Arc::clone(seat), keep_alive, load, _slot: slot })
    }
}

impl Seat {
    fn new(model: Model, slots: usize) -> Self {
        Self {
            model,
            slots: Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS))),
            loading: tokio::sync::Mutex::new(()),
            until: Mutex::new(SystemTime::UNIX_EPOCH),
        }
    }

    /// When the model leaves memory, if it is there.
    pub(crate) fn resident_until(&self) -> Option<SystemTime> {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        (until > SystemTime::now()).then_some(until)
    }

    /// Keeps the model in memory for this long from now; not at all for zero.
    pub(crate) fn keep(&self, span: Duration) {
        let until = if span.is_zero() { SystemTime::UNIX_EPOCH } else { SystemTime::now() + span };
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Loads the model unless it is there; all that come meanwhile wait for the same load.
    async fn load(&self, keep_alive: Duration) -> Duration {
        if self.resident_until().is_some() {
            return Duration::ZERO;
        }
        let _alone = self.loading.lock().await;
        if self.resident_until().is_some() {
            return Duration::ZERO;
        }
        if !self.model.load_time.is_zero() {
            tokio::time::sleep(self.model.load_time).await;
        }
        self.keep(keep_alive);
        self.model.load_time
    }
}

fn full_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    if name.rsplit('/').next().is_some_and(|last| last.contains(':')) { name } else { name + ":latest" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroUsize;

    fn residence(queue: usize) -> Residence {
        let model = Model { load_time: Duration::from_millis(50), ..Model::named("Small") };
        Residence::new(&Config { models: vec![model], slots: NonZeroUsize::MIN, queue, ..Config::default() })
    }

    #[test]
    fn names_match_in_any_case_and_with_latest() {
        let residence = residence(0);
        for name in ["small", "SMALL:latest", "Small"] {
            assert!(residence.seat(name).is_some(), "{name}");
        }
        for name in ["", "small:1b", "other"] {
            assert!(residence.seat(name).is_none(), "{name}");
        }
        assert!(Residence::new(&Config::echo()).seat("other").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_loads_once_and_leaves_when_told() {
        let residence = residence(0);
        let seat = residence.seat("small").unwrap();
        assert_eq!(residence.admit(seat, None).await.unwrap().load, Duration::from_millis(50));
        assert_eq!(residence.admit(seat, Some(Duration::ZERO)).await.unwrap().load, Duration::ZERO);
        assert_eq!(seat.resident_until(), None, "keep_alive 0 unloads");
        assert_eq!(residence.admit(seat, None).await.unwrap().load, Duration::from_millis(50));
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_has_an_end_and_the_slot_comes_back() {
        let residence = residence(1);
        let seat = residence.seat("small").unwrap();
        let first = residence.admit(seat, None).await.unwrap();
        let mut second = std::pin::pin!(residence.admit(seat, None));
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut second).await.is_err(), "it has to wait");
        assert_eq!(residence.waiting(), 1);
        let third = tokio::time::timeout(Duration::from_secs(1), residence.admit(seat, None)).await;
        assert!(matches!(third, Ok(Err(Busy))), "the queue is full");
        drop(first);
        assert!(second.await.is_ok());
        assert_eq!(residence.waiting(), 0);
    }
}
