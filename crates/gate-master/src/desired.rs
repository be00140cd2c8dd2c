//! What the operator wants: changed by events, read by [`crate::reconcile::reconcile`].

use gate_zone::{Place, Role};

use crate::event::{Demo, Event, Generation, Stop, Wish};

/// Workers that TTIN may reach: as many as `workers` itself may be set to, and few enough that each can have a
/// predecessor draining beside it in the scoreboard's 255 rows.
pub const WORKERS_MAX: u32 = 64;

/// Whether somebody has asked for a reload that has not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// Nothing asked.
    Idle,
    /// Asked; any number of requests are one.
    Asked,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// What the target configuration wants, with the operator's later words on the number of workers.
    pub wish: Wish,
    /// The configuration that every place should run.
    pub target: Generation,
    /// While the target rolls out: what was wanted before, to go back to.
    pub fallback: Option<(Generation, Wish)>,
    /// Whether a reload waits.
    pub reload: Reload,
    /// Whether to end.
    pub stop: Option<Stop>,
    /// The number of workers that the target configuration asked for, before TTIN and TTOU.
    configured: u32,
    /// The same of the configuration to go back to.
    configured_before: u32,
}

impl Desired {
    /// The wish of a first start.
    pub fn first(wish: Wish) -> Self {
        Self {
            wish,
            target: 1,
            fallback: None,
            reload: Reload::Idle,
            stop: None,
            configured: wish.workers,
            configured_before: wish.workers,
        }
    }

    /// Takes in what has happened.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::StopAsked(stop) => self.stop_asked(*stop),
            Event::ReloadAsked => self.reload = Reload::Asked,
            Event::WorkerMoreAsked => self.resize(|workers| (workers + 1).min(WORKERS_MAX)),
            Event::WorkerFewerAsked => self.resize(|workers| (workers - 1).max(1)),
            Event::Loaded { generation, wish } => self.loaded(*generation, *wish),
            Event::LoadRefused => self.reload = Reload::Idle,
            Event::Committed => self.fallback = None,
            Event::RolledBack => self.rolled_back(),
            Event::ListenersClosed
            | Event::Forked { .. }
            | Event::ForkFailed { .. }
            | Event::Ready(_)
            | Event::BootFailed { .. }
            | Event::Leaving(_)
            | Event::Ripe { .. }
            | Event::Ordered { .. }
            | Event::Exited { .. }
            | Event::Beats(_) => {}
        }
    }

    /// A second word of any kind while stopping means: do not wait any longer.
    fn stop_asked(&mut self, stop: Stop) {
        self.stop = Some(if self.stop.is_some() { Stop::Quick } else { stop });
    }

    /// The operator's word holds for the configuration to go back to as well.
    fn resize(&mut self, step: impl Fn(u32) -> u32) {
        self.wish.workers = step(self.wish.workers);
        if let Some((_, wish)) = &mut self.fallback {
            wish.workers = step(wish.workers);
        }
    }

    /// A number set by TTIN or TTOU outlives a reload unless the configuration itself names another one now.
    fn loaded(&mut self, generation: Generation, wish: Wish) {
        let adjusted = if wish.workers == self.configured { self.wish.workers } else { wish.workers };
        self.fallback = Some((self.target, self.wish));
        self.configured_before = self.configured;
        self.configured = wish.workers;
        self.wish = Wish { workers: adjusted, ..wish };
        self.target = generation;
        self.reload = Reload::Idle;
    }

    fn rolled_back(&mut self) {
        if let Some((generation, wish)) = self.fallback.take() {
            self.target = generation;
            self.wish = wish;
            self.configured = self.configured_before;
        }
    }

    /// Every place that should have a process, backends first: a worker may need the demo at once.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let demo = (self.wish.demo == Demo::On).then_some(Place { role: Role::Demo, slot: 0 });
        let workers = (0..self.wish.workers).map(|slot| Place { role: Role::Worker, slot });
        demo.into_iter().chain(workers).chain([Place { role: Role::Monitor, slot: 0 }])
    }

    /// Whether a place should have a process.
    pub fn wants(&self, place: Place) -> bool {
        match place.role {
            Role::Worker => place.slot < self.wish.workers,
            Role::Monitor => true,
            Role::Demo => self.wish.demo == Demo::On,
        }
    }
}
