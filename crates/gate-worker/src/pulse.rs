//! What a worker does four times a second beside its requests: its heart beats, and it looks around.
//!
//! It acts on what is told at its leisure: a log to be reopened, a time of failures that is over, its own age. Invariant:
//! nothing here waits for anything but the next beat.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use gate_zone::clock;
use gate_zone::layout::row;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::interval;

use crate::gate::Gate;
use crate::orders::{Upward, Word};
use crate::ripe::{self, Ripeness};

/// How often: four times within the age at which other workers stop counting this one.
const BEAT: Duration = Duration::from_millis(250);

/// How often memory is looked at: the text that the kernel makes for it costs more than a heartbeat.
const SAMPLE_PAUSE_MS: u64 = 1_000;

/// The heart of one worker.
pub(crate) struct Pulse {
    gate: Rc<Gate>,
    upward: Rc<Upward>,
    woken: Signal,
    /// `None` once the master has been told.
    ripeness: Option<Ripeness>,
    /// When memory is looked at next, on the clock of the heartbeat.
    sample_at_ms: u64,
}

impl Pulse {
    /// Makes one; it does not beat yet.
    ///
    /// # Errors
    /// USR1 cannot be caught.
    pub(crate) fn new(gate: &Rc<Gate>, upward: &Rc<Upward>) -> io::Result<Self> {
        // Without random numbers the bounds are as they are written.
        let chance = || getrandom::u64().unwrap_or(0);
        Ok(Self {
            gate: Rc::clone(gate),
            upward: Rc::clone(upward),
            woken: signal(SignalKind::user_defined1())?,
            ripeness: Some(Ripeness::of(&gate.plan, [chance(), chance()])),
            sample_at_ms: 0,
        })
    }

    /// Beats for ever; USR1 brings the next beat forward.
    pub(crate) async fn beat(mut self) {
        let mut ticks = interval(BEAT);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = self.woken.recv() => {}
            }
            let now_ms = clock::monotonic_ms();
            self.gate.row.beat(now_ms);
            self.sample(now_ms);
            self.look_around(now_ms);
        }
    }

    /// Leaves in the row how much memory is held, for whoever asks and for the report of a death.
    fn sample(&mut self, now_ms: u64) {
        if now_ms >= self.sample_at_ms {
            self.sample_at_ms = now_ms + SAMPLE_PAUSE_MS;
            self.gate.row.holds(ripe::rss().unwrap_or(0));
        }
    }

    fn look_around(&mut self, now_ms: u64) {
        let gate = &self.gate;
        if let Some(journal) = &gate.journal {
            journal.follow(gate.zone.reopenings());
        }
        if let Some(failures) = gate.scarcity.over(now_ms) {
            log::warn!("connections are accepted again: {failures} attempts had failed");
        }
        if gate.ground.drain.since().is_some() {
            return;
        }
        let (age, served) = (gate.start.age(), gate.row.row().count(row::FINISHED));
        let held = || Some(gate.row.row().rss_bytes()).filter(|bytes| *bytes > 0);
        let reason = self.ripeness.as_mut().and_then(|ripeness| ripeness.reason(age, served, held));
        if let Some(reason) = reason {
            self.ripeness = None;
            self.upward.tell(Word::Replace(reason));
        }
    }
}
