//! What the operator wants: changed by events, read by [`crate::reconcile::reconcile`].

use gate_zone::{Place, Role, WorkersWord};

use crate::event::{Canary, Demo, Event, Generation, Ms, Resize, Stop, Wish, ZoneFate};

/// Workers that TTIN may reach: as many as `workers` itself may be set to, and few enough that each can have a
/// predecessor draining beside it in the scoreboard's 255 rows.
pub const WORKERS_MAX: u32 = 64;

/// How often canaries are looked at: what fails plainly should not go on failing until the trial's end.
const LOOK_EVERY_MS: Ms = 1_000;

/// Whether somebody has asked for a reload that has not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// Nothing asked.
    Idle,
    /// Asked; any number of requests are one, with the newest canary among them.
    Asked(Option<Canary>),
}

/// How far the trial of a new configuration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// The canaries are on their way.
    Filling(Canary),
    /// They are watched.
    Running {
        /// As asked for.
        canary: Canary,
        /// Until then.
        until: Ms,
        /// They are looked at next then.
        look_at: Ms,
    },
    /// They were worse.
    Failed(String),
}

/// Whether requests are to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// They are.
    Open,
    /// Not until further notice: no workers, and clients wait in the queue.
    Paused,
}

/// Whether somebody has asked for an upgrade that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// Nothing asked.
    Idle,
    /// Asked, or under way.
    Asked(ZoneFate),
}

/// What this master is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// To serve.
    Serving,
    /// Another one serves; this one sees its own processes out.
    Retiring,
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
    /// The trial of the target, while there is one.
    pub trial: Option<Trial>,
    /// Whether requests are to be served.
    pub service: Service,
    /// Whether an upgrade is wanted.
    pub upgrade: Upgrade,
    /// Whether log files are to be opened again.
    pub reopen: Reopen,
    /// What this master is there for.
    pub duty: Duty,
    /// Whether to end.
    pub stop: Option<Stop>,
    /// The number of workers that the target configuration asked for, before anybody's later word.
    configured: u32,
    /// The same of the configuration to go back to.
    configured_before: u32,
}

/// Whether log files are to be opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reopen {
    /// No.
    Idle,
    /// Somebody has asked.
    Asked,
}

impl Desired {
    /// The wish of a first start, as generation `target`.
    pub fn first(wish: Wish, target: Generation) -> Self {
        Self {
            wish,
            target,
            fallback: None,
            reload: Reload::Idle,
            trial: None,
            service: Service::Open,
            upgrade: Upgrade::Idle,
            reopen: Reopen::Idle,
            duty: Duty::Serving,
            stop: None,
            configured: wish.workers,
            configured_before: wish.workers,
        }
    }

    /// Takes in what has happened, at `now`.
    pub fn apply(&mut self, event: &Event, now: Ms) {
        match event {
            Event::StopAsked(stop) => self.stop_asked(*stop),
            Event::ReloadAsked(canary) => {
                // A reload that was to be tried first stays so, whoever else asks.
                let before = match self.reload {
                    Reload::Asked(canary) => canary,
                    Reload::Idle => None,
                };
                self.reload = Reload::Asked(canary.or(before));
                self.service = Service::Open;
            }
            Event::ResizeAsked(resize) => self.resize(*resize),
            Event::PauseAsked => self.service = Service::Paused,
            Event::ReopenAsked => self.reopen = Reopen::Asked,
            Event::Reopening => self.reopen = Reopen::Idle,
            Event::UpgradeAsked(zone) => self.upgrade = Upgrade::Asked(*zone),
            Event::UpgradeFailed { .. } => self.upgrade = Upgrade::Idle,
            Event::HandedOver { .. } => self.duty = Duty::Retiring,
            Event::Loaded { generation, wish, .. } => self.loaded(*generation, *wish),
            Event::LoadRefused { .. } => self.reload = Reload::Idle,
            Event::TrialBegan => self.trial_began(now),
            Event::TrialGoesOn => {
                if let Some(Trial::Running { look_at, .. }) = &mut self.trial {
                    *look_at = now + LOOK_EVERY_MS;
                }
            }
            Event::Judged(verdict) => self.trial = verdict.as_ref().err().map(|reason| Trial::Failed(reason.clone())),
            Event::Committed { .. } => {
                self.fallback = None;
                self.trial = None;
            }
            Event::RolledBack { .. } => self.rolled_back(),
            Event::ListenersClosed
            | Event::CandidateStarted { .. }
            | Event::Promoted
            | Event::Forked { .. }
            | Event::ForkFailed { .. }
            | Event::Ready(_)
            | Event::BootFailed { .. }
            | Event::Version { .. }
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
    fn resize(&mut self, resize: Resize) {
        // Back from a pause everything is as it was before.
        let was_paused = std::mem::replace(&mut self.service, Service::Open) == Service::Paused;
        let step = |workers: u32| match resize {
            Resize::More | Resize::Fewer if was_paused => workers,
            Resize::More => (workers + 1).min(WORKERS_MAX),
            Resize::Fewer => (workers - 1).max(1),
            Resize::To(wanted) => wanted.clamp(1, WORKERS_MAX),
        };
        self.wish.workers = step(self.wish.workers);
        if let Some((_, wish)) = &mut self.fallback {
            wish.workers = step(wish.workers);
        }
    }

    /// A number set by an operator outlives a reload unless the configuration itself names another one now.
    fn loaded(&mut self, generation: Generation, wish: Wish) {
        let adjusted = if wish.workers == self.configured { self.wish.workers } else { wish.workers };
        self.fallback = Some((self.target, self.wish));
        self.configured_before = self.configured;
        self.configured = wish.workers;
        self.wish = Wish { workers: adjusted, ..wish };
        self.target = generation;
        self.trial = match self.reload {
            Reload::Asked(canary) => canary.map(Trial::Filling),
            Reload::Idle => None,
        };
        self.reload = Reload::Idle;
    }

    fn trial_began(&mut self, now: Ms) {
        if let Some(Trial::Filling(canary)) = self.trial {
            self.trial = Some(Trial::Running { canary, until: now + canary.hold_ms, look_at: now + LOOK_EVERY_MS });
        }
    }

    fn rolled_back(&mut self) {
        self.trial = None;
        if let Some((generation, wish)) = self.fallback.take() {
            self.target = generation;
            self.wish = wish;
            self.configured = self.configured_before;
        }
    }

    /// Takes over what was said to the master before, where it was said about the same configured number.
    pub fn heed(&mut self, said: WorkersWord) {
        if said.configured == self.configured {
            self.wish.workers = said.wanted.clamp(1, WORKERS_MAX);
        }
        self.service = if said.none { Service::Paused } else { Service::Open };
    }

    /// The number of workers that the configuration asks for.
    pub fn configured(&self) -> u32 {
        self.configured
    }

    /// How many workers there should be now.
    pub fn workers(&self) -> u32 {
        match self.service {
            Service::Open => self.wish.workers,
            Service::Paused => 0,
        }
    }

    /// Every place that should have a process, backends first: a worker may need the demo at once.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let demo = (self.wish.demo == Demo::On).then_some(Place { role: Role::Demo, slot: 0 });
        let workers = (0..self.workers()).map(|slot| Place { role: Role::Worker, slot });
        demo.into_iter().chain(workers).chain([Place { role: Role::Monitor, slot: 0 }])
    }

    /// Whether a place may have a process. While a configuration that wants fewer workers has not proved itself, those of
    /// the one before may stay.
    pub fn wants(&self, place: Place) -> bool {
        let before = self.fallback.as_ref().map_or(0, |(_, wish)| wish.workers);
        match place.role {
            Role::Worker if self.service == Service::Paused => false,
            Role::Worker => place.slot < self.workers().max(before),
            Role::Monitor => true,
            Role::Demo => self.wish.demo == Demo::On,
        }
    }

    /// The configuration that a place should run now: while canaries are tried, all others stay with the one before.
    pub fn generation_for(&self, place: Place) -> Generation {
        let canaries = match &self.trial {
            None => return self.target,
            Some(Trial::Filling(canary) | Trial::Running { canary, .. }) => canary.workers,
            Some(Trial::Failed(_)) => 0,
        };
        match self.fallback {
            Some((before, _)) if !is_canary(place, canaries) => before,
            _ => self.target,
        }
    }

    /// Whether a place has a canary that is to run beside the worker before it.
    pub fn keeps_both(&self, place: Place) -> bool {
        match &self.trial {
            Some(Trial::Filling(canary) | Trial::Running { canary, .. }) => is_canary(place, canary.workers),
            Some(Trial::Failed(_)) | None => false,
        }
    }
}

/// Whether the trial of a configuration on so many workers holds this place.
pub fn is_canary(place: Place, canaries: u32) -> bool {
    place.role == Role::Worker && place.slot < canaries
}
