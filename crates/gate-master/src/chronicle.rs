//! What has happened to the gate, kept for whoever asks: deaths, restarts, the last reload and the last upgrade.

use std::collections::{BTreeMap, VecDeque};

use gate_zone::Place;

use crate::event::{Event, Generation};
use crate::protocol::{Death, LastReload, LastUpgrade};

/// Deaths that are remembered. An operator who comes later finds all of them in the log.
const DEATHS_MAX: usize = 16;

/// What has happened.
#[derive(Default)]
pub(crate) struct Chronicle {
    /// Newest first.
    pub(crate) deaths: VecDeque<Death>,
    /// By place: how often it got a new process in place of one before, and why the last time.
    pub(crate) restarts: BTreeMap<Place, (u64, String)>,
    /// How the last reload ended.
    pub(crate) reload: Option<LastReload>,
    /// How the last upgrade ended.
    pub(crate) upgrade: Option<LastUpgrade>,
}

impl Chronicle {
    /// Remembers a death.
    pub(crate) fn died(&mut self, place: Place, death: Death) {
        self.restarted(place, format!("{}: {}", death.how, death.cause));
        self.deaths.push_front(death);
        self.deaths.truncate(DEATHS_MAX);
    }

    /// Remembers that a place needed another process.
    pub(crate) fn restarted(&mut self, place: Place, why: String) {
        let (count, reason) = self.restarts.entry(place).or_default();
        *count += 1;
        *reason = why;
    }

    /// Remembers how a reload or an upgrade ended; `serving` is the generation that serves now.
    pub(crate) fn take_in(&mut self, event: &Event, serving: Generation, time: impl FnOnce() -> String) {
        let reload = |ok, generation: Generation, reasons: &[String], time: String| LastReload {
            time,
            ok,
            generation: u64::from(generation),
            reasons: reasons.to_vec(),
        };
        match event {
            Event::Committed { generation } => self.reload = Some(reload(true, *generation, &[], time())),
            Event::LoadRefused { reasons } => self.reload = Some(reload(false, serving, reasons, time())),
            Event::RolledBack { reason } => {
                self.reload = Some(reload(false, serving, std::slice::from_ref(reason), time()));
            }
            Event::UpgradeFailed { reason } => {
                self.upgrade = Some(LastUpgrade { time: time(), ok: false, pid: None, reasons: vec![reason.clone()] });
            }
            _ => {}
        }
    }
}
