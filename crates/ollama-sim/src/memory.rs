//! What is in memory: a runner for each loaded model, and the model that is loading. It decides who is served, who has
//! to go and what a load replaces; it waits for nobody and reads no clock. Its invariants: a runner in use stays, and
//! one model has one runner at most.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::terms::{Terms, Wish};

/// All runners, in the order of their loading.
pub(crate) struct Memory {
    /// How many fit.
    room: usize,
    /// Of each.
    slots: usize,
    runners: Vec<Runner>,
    /// The place of the model that is loading.
    loading: Option<usize>,
    loaded: u64,
    pub(crate) loads: Loads,
}

/// What happened since the last reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loads {
    pub(crate) begun: u64,
    pub(crate) aborted: u64,
    pub(crate) swaps: u64,
    pub(crate) reloads: u64,
}

/// A loaded model.
pub(crate) struct Runner {
    id: u64,
    pub(crate) place: usize,
    pub(crate) terms: Terms,
    slots: Arc<Semaphore>,
    uses: u64,
    keep_alive: Duration,
    /// When it leaves memory unless it is used again.
    pub(crate) until: Instant,
    stay: Stay,
}

/// Whether a runner may stay when its last request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    Welcome,
    /// A load waits for its memory.
    Leaving,
}

/// One more use of a runner, to be given back with [`Memory::release`].
pub(crate) struct Used {
    pub(crate) id: u64,
    pub(crate) slots: Arc<Semaphore>,
}

/// What a request finds when it comes.
pub(crate) enum Found {
    Ready(Used),
    /// Its model is loading, on whatever terms.
    Loading,
    /// Its model must be loaded for it.
    Absent,
}

/// What a request finds whose turn to load it is.
pub(crate) enum Claim {
    /// Somebody before it has loaded its model.
    Ready(Used),
    /// There is room.
    Free,
    /// A runner was taken out; look again.
    Evicted(Cause),
    /// A runner goes when its requests have ended.
    Full(Cause),
}

/// Why a runner has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Another model needs its memory.
    Swap,
    /// Its own model is wanted on other terms.
    Reload,
}

impl Memory {
    /// Empty; `room` 0 is room for any number.
    pub(crate) fn new(room: usize, slots: usize) -> Self {
        let slots = slots.min(Semaphore::MAX_PERMITS);
        let room = if room == 0 { usize::MAX } else { room };
        Self { room, slots, runners: Vec::new(), loading: None, loaded: 0, loads: Loads::default() }
    }

    /// Those in memory now.
    pub(crate) fn runners(&mut self, now: Instant) -> &[Runner] {
        self.sweep(now);
        &self.runners
    }

    /// Uses the runner of a model, where there is one that serves this wish. One that has to leave serves as well.
    pub(crate) fn find(&mut self, place: usize, wish: &Wish, now: Instant) -> Found {
        self.sweep(now);
        match self.runners.iter_mut().find(|runner| runner.place == place) {
            Some(runner) if runner.terms.serve(&wish.terms) => Found::Ready(runner.taken(wish.keep_alive)),
            None if self.loading == Some(place) => Found::Loading,
            _ => Found::Absent,
        }
    }

    /// The next step of a request whose turn to load it is. Calling it again goes on where the last call ended.
    pub(crate) fn claim(&mut self, place: usize, wish: &Wish, now: Instant) -> Claim {
        if let Found::Ready(used) = self.find(place, wish, now) {
            return Claim::Ready(used);
        }
        let own = self.runners.iter().position(|runner| runner.place == place);
        let (victim, cause) = match own.or_else(|| self.victim()) {
            Some(own_or_other) => (own_or_other, if own.is_some() { Cause::Reload } else { Cause::Swap }),
            None => return Claim::Free,
        };
        if self.runners[victim].uses == 0 {
            self.runners.remove(victim);
            return Claim::Evicted(cause);
        }
        self.runners[victim].stay = Stay::Leaving;
        Claim::Full(cause)
    }

    /// Who goes for another model: whoever has to go already, else an idle one, else the one kept for the shortest
    /// time. `keep_alive` protects nobody.
    fn victim(&self) -> Option<usize> {
        if self.runners.len() < self.room {
            return None;
        }
        let order = |runner: &Runner| (runner.stay == Stay::Welcome, runner.uses > 0, runner.keep_alive, runner.id);
        (0..self.runners.len()).min_by_key(|index| order(&self.runners[*index]))
    }

    /// A load begins; there is room, and no other load.
    pub(crate) fn begin(&mut self, place: usize, cause: Option<Cause>) {
        self.loading = Some(place);
        self.loads.begun += 1;
        self.loads.swaps += u64::from(cause == Some(Cause::Swap));
        self.loads.reloads += u64::from(cause == Some(Cause::Reload));
    }

    /// The load has ended well; its runner is in use at once.
    pub(crate) fn finish(&mut self, place: usize, terms: Terms, keep_alive: Duration, now: Instant) -> Used {
        self.loading = None;
        self.loaded += 1;
        self.runners.push(Runner {
            id: self.loaded,
            place,
            terms,
            slots: Arc::new(Semaphore::new(self.slots)),
            uses: 1,
            keep_alive,
            until: now + keep_alive,
            stay: Stay::Welcome,
        });
        let newest = &self.runners[self.runners.len() - 1];
        Used { id: newest.id, slots: Arc::clone(&newest.slots) }
    }

    /// The load has ended without a runner, if there was one; gives whether.
    pub(crate) fn abort(&mut self) -> bool {
        let was = self.loading.take().is_some();
        self.loads.aborted += u64::from(was);
        was
    }

    /// A use has ended; gives whether the runner left with it.
    pub(crate) fn release(&mut self, id: u64, now: Instant) -> bool {
        let Some(index) = self.runners.iter().position(|runner| runner.id == id) else { return false };
        let runner = &mut self.runners[index];
        runner.uses -= 1;
        if runner.uses > 0 {
            return false;
        }
        runner.until = now + runner.keep_alive;
        let leaves = runner.stay == Stay::Leaving || runner.keep_alive.is_zero();
        if leaves {
            self.runners.remove(index);
        }
        leaves
    }

    /// A model is not wanted any more: its runner leaves when its requests have ended, unless one of those to come says
    /// otherwise. Gives whether it left at once.
    pub(crate) fn unload(&mut self, place: usize, now: Instant) -> bool {
        let Some(index) = self.runners.iter().position(|runner| runner.place == place) else { return false };
        let runner = &mut self.runners[index];
        (runner.keep_alive, runner.until) = (Duration::ZERO, now);
        let idle = runner.uses == 0;
        if idle {
            self.runners.remove(index);
        }
        idle
    }

    fn sweep(&mut self, now: Instant) {
        self.runners.retain(|runner| runner.uses > 0 || runner.until > now);
    }
}

impl Runner {
    fn taken(&mut self, keep_alive: Option<Duration>) -> Used {
        self.uses += 1;
        self.keep_alive = keep_alive.unwrap_or(self.keep_alive);
        Used { id: self.id, slots: Arc::clone(&self.slots) }
    }
}

#[cfg(test)]
mod tests;
