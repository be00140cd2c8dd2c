//! One backend watched: asked in turn for its health and its models, each answer written into its cell.
//!
//! It proves nothing about inference, and so touches no breaker: a backend may answer all of this and generate nothing.
//! Only questions are sent that load, keep and unload no model.
//!
//! Invariant: what was last known stands in the cell and not here, so that the next monitor goes on from it, and two that
//! overlap for a moment of a reload say each thing once.

use std::time::Duration;

use gate_api::native::listed_as;
use gate_upstream::{Backend, Unread};
use gate_zone::fleet::inventory::Listed;
use gate_zone::fleet::{Cell, loads};
use gate_zone::{Probe, clock};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::agenda::{Agenda, Answer, Loading, Question};
use crate::cells::Cells;
use crate::spread::Spread;

/// How long an answer may take. Ollama answers these questions without touching a model.
pub(crate) const PROBE_MAX: Duration = Duration::from_secs(5);

/// Models in memory that the backend was asked about once and does not list: removed ones stay loaded for a while. No
/// machine holds more at once than a cell remembers.
const UNLISTED_MAX: usize = 16;

/// Whose a cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The configuration names the backend: it is claimed anew if it was lost.
    Named,
    /// It was found: whoever found it claims.
    Found,
}

/// Which backend is watched.
pub(crate) struct Subject {
    /// For the operator: its name and where it is.
    pub(crate) label: String,
    pub(crate) key: u64,
    pub(crate) standing: Standing,
    pub(crate) backend: Backend,
}

/// Watches one backend.
pub(crate) struct Observer {
    subject: Subject,
    cells: Cells,
    agenda: Agenda,
    /// What was said in the log last, of each list.
    in_memory: Said,
    listed: Said,
    /// Hashes of models in memory that are known not to be listed.
    unlisted: Vec<u32>,
    /// Hashes of the models that were in memory when it was last asked.
    resident: Vec<u32>,
}

/// What was last said of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    NoList,
}

impl Observer {
    pub(crate) fn new(subject: Subject, cells: Cells) -> Self {
        let agenda = Agenda::new(Instant::now(), Spread::new(subject.key));
        Self {
            subject,
            cells,
            agenda,
            in_memory: Said::Nothing,
            listed: Said::Nothing,
            unlisted: Vec::new(),
            resident: Vec::new(),
        }
    }

    /// Asks for ever, after this pause.
    pub(crate) async fn watch(mut self, first: Duration) {
        sleep(first).await;
        let mut lost = false;
        loop {
            let (due, question) = self.agenda.next();
            sleep_until(due).await;
            let Some(cell) = self.cell() else {
                if !lost {
                    log::warn!("{} has no place in the fleet's table, and gets no requests", self.subject.label);
                }
                lost = true;
                self.agenda.sick(Instant::now());
                continue;
            };
            lost = false;
            match question {
                Question::Health => self.ask_health().await,
                Question::InMemory => self.ask_in_memory().await,
                Question::Listed => self.ask_listed(cell).await,
            }
        }
    }

    /// Its cell: looked up each time, since it may have been given to another.
    fn cell(&self) -> Option<Cell> {
        match self.subject.standing {
            Standing::Named => self.cells.claim(self.subject.key).ok(),
            Standing::Found => self.cells.find(self.subject.key),
        }
    }

    async fn ask_health(&mut self) {
        let seen = timeout(PROBE_MAX, self.subject.backend.probe()).await.unwrap_or(Probe::Silent);
        let now = Instant::now();
        let Some(cell) = self.cell() else { return self.agenda.sick(now) };
        let before = cell.probe();
        if seen != before {
            log_probe(&self.subject.label, seen);
            // It may be another program by now. Before it is told to be healthy, or it would be chosen by its old list.
            if seen == Probe::Healthy {
                cell.tell_listed(None);
            }
            if seen == Probe::Healthy && before != Probe::Unknown {
                cell.tell_in_memory(&[], clock::monotonic_ms());
            }
            self.resident.clear();
            // Connections that workers keep to it are no good any more.
            if before == Probe::Healthy {
                cell.count_failure();
            }
        }
        cell.tell_probe(seen);
        match (before, seen) {
            (Probe::Healthy, Probe::Healthy) => self.agenda.healthy(now),
            (_, Probe::Healthy) => self.agenda.recovered(now),
            _ => self.agenda.sick(now),
        }
    }

    async fn ask_in_memory(&mut self) {
        let asked_ms = clock::monotonic_ms();
        let said = self.subject.backend.in_memory().await;
        let now = Instant::now();
        let Some(cell) = self.cell() else { return self.agenda.sick(now) };
        let answer = match said {
            Ok(names) => {
                self.in_memory = Said::Nothing;
                self.tell_in_memory(cell, &names, asked_ms);
                Answer::List
            }
            Err(Unread::NoList(why)) => {
                // Once: from then on, what workers see answer is the best that is known.
                if self.in_memory == Said::Nothing {
                    log::warn!("{} does not say which models it has in memory: {why}", self.subject.label);
                    cell.tell_in_memory(&[], asked_ms);
                }
                self.in_memory = Said::NoList;
                Answer::NoList
            }
            Err(Unread::NotNow(why)) => {
                log::debug!("{}: {why}", self.subject.label);
                Answer::NotNow
            }
        };
        let is_loading = loads::at(self.cells.fleet().loads(), cell.index()).next().is_some();
        let loading = if is_loading { Loading::Yes } else { Loading::No };
        self.agenda.asked_in_memory(Instant::now(), answer, loading);
    }

    fn tell_in_memory(&mut self, cell: Cell, names: &[String], asked_ms: u64) {
        let forms: Vec<String> = names.iter().map(|name| listed_as(name)).collect();
        let hashes = self.hashes(&forms);
        let listed: Vec<(u32, &str)> = hashes.iter().copied().zip(forms.iter().map(String::as_str)).collect();
        cell.tell_in_memory(&listed, asked_ms);
        if is_eviction(&self.resident, &hashes) {
            cell.tell_evicted();
        }
        self.resident.clone_from(&hashes);
        self.unlisted.retain(|name| hashes.contains(name));
        let new = |name: &u32| cell.lists(*name) == Listed::No && !self.unlisted.contains(name);
        let new: Vec<u32> = hashes.iter().copied().filter(new).collect();
        if cell.has_changed() {
            self.agenda.has_a_new_model(Instant::now());
        }
        if !new.is_empty() {
            self.unlisted.extend(new);
            self.unlisted.truncate(UNLISTED_MAX);
            self.agenda.has_a_new_model(Instant::now());
        }
    }

    async fn ask_listed(&mut self, cell_before: Cell) {
        // Read before the question: what changes meanwhile may be missing in the answer.
        let changes = cell_before.changes();
        let said = self.subject.backend.listed().await;
        let now = Instant::now();
        let Some(cell) = self.cell().filter(|cell| cell.index() == cell_before.index()) else {
            return self.agenda.sick(now);
        };
        let answer = match said {
            Ok(names) => {
                self.listed = Said::Nothing;
                let forms: Vec<String> = names.iter().map(|name| listed_as(name)).collect();
                let mut hashes = self.hashes(&forms);
                hashes.sort_unstable();
                hashes.dedup();
                if !is_told(cell, &hashes) {
                    cell.tell_listed(Some(&hashes));
                }
                cell.tell_changes_seen(changes);
                Answer::List
            }
            Err(Unread::NoList(why)) => {
                if self.listed == Said::Nothing {
                    log::warn!("{} does not say which models it has: {why}", self.subject.label);
                    cell.tell_listed(None);
                }
                self.listed = Said::NoList;
                Answer::NoList
            }
            Err(Unread::NotNow(why)) => {
                log::debug!("{}: {why}", self.subject.label);
                Answer::NotNow
            }
        };
        self.agenda.asked_listed(now, answer);
    }

    fn hashes(&self, forms: &[String]) -> Vec<u32> {
        let fleet = self.cells.fleet();
        forms.iter().map(|name| fleet.instance(name, "").name).collect()
    }
}

/// Whether a model has left memory while another came: there was no room for both. That one's time was over at that very
/// moment is rare, and costs no more than some caution.
fn is_eviction(before: &[u32], now: &[u32]) -> bool {
    before.iter().any(|name| !now.contains(name)) && now.iter().any(|name| !before.contains(name))
}

/// Whether the cell says just that already. What does not change is not written: so two monitors of a reload, which read
/// the same lists, do not write over each other.
fn is_told(cell: Cell, hashes: &[u32]) -> bool {
    cell.listed() == Some(hashes.len() as u32) && hashes.iter().all(|name| cell.lists(*name) == Listed::Yes)
}

/// One line for the operator.
fn log_probe(label: &str, seen: Probe) {
    match seen {
        Probe::Healthy => log::info!("backend {label} answers"),
        Probe::Status(status) => log::warn!("backend {label} answers with status {status}"),
        Probe::Silent => log::warn!("backend {label} does not answer within {PROBE_MAX:?}"),
        Probe::NotHttp => log::warn!("backend {label} does not speak HTTP"),
        Probe::Foreign => log::warn!("backend {label} answers, but not as Ollama does"),
        Probe::Unreachable | Probe::Unknown => log::warn!("backend {label} cannot be reached"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_leaves_while_another_comes_was_put_out() {
        let cases: [(&[u32], &[u32], bool); 6] = [
            (&[1], &[2], true),
            (&[1, 2], &[2, 3], true),
            (&[1], &[1, 2], false),
            (&[1, 2], &[1], false),
            (&[], &[1], false),
            (&[1], &[], false),
        ];
        for (before, now, evicted) in cases {
            assert_eq!(is_eviction(before, now), evicted, "{before:?} {now:?}");
        }
    }
}
