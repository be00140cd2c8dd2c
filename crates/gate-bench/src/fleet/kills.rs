//! SIGKILL to workers under load, again and again: whether every slot that they held comes back.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ollama_sim::Config;

use super::client::{self, Record, drawn};
use super::gate::Gate;
use super::{Ground, slots};
use crate::backend::Backend;
use crate::complaint::Complaint;
use crate::interrupt;

/// Kills, as the bar has it.
pub(crate) const KILLS: u64 = 1_000;
/// Backends.
const BACKENDS: usize = 2;
/// Slots of each.
const SLOTS: u16 = 4;
/// Workers: while one is made anew, the others serve.
const WORKERS: &str = "4";
/// Connections of each of the clients: six times as many requests as slots.
const CONNECTIONS: [usize; 4] = [12; 4];
/// From one kill to the next: a worker lives for four of these, several services long.
const PACE: Duration = Duration::from_millis(30);
/// How long all kills may take.
const KILLS_MAX: Duration = Duration::from_secs(180);
/// How long what was in service may take to end.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How long each request of the last burst is in service: long enough for all to be so at once.
const BURST: Duration = Duration::from_millis(500);
/// What the master's log says of a dead process, before the number of slots.
const LEFT: &str = " has left ";

/// What the kills left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) kills: u64,
    /// Slots that the dead held, by the master's log.
    pub(crate) held: u64,
    /// Requests that were answered meanwhile.
    pub(crate) answered: usize,
    /// Slots still held, and places still taken, when nobody asked any more.
    pub(crate) left: u64,
    /// How many of a burst of as many requests as slots were not in service at once.
    pub(crate) missing: u64,
}

impl Found {
    /// Leases that nobody gave back.
    pub(crate) fn leaked(&self) -> u64 {
        self.left.max(self.missing)
    }
}

/// Kills, lets the load end, and looks.
pub(crate) fn measure(ground: &Ground<'_>) -> Result<Found, Complaint> {
    let backends: Vec<Backend> = (0..BACKENDS)
        .map(|_| Backend::of(Config { slots: slots(SLOTS), recorded: 0, ..Config::echo() }))
        .collect::<Result<_, _>>()?;
    let slots = SLOTS.to_string();
    let settings = ["--workers", WORKERS, "--slots", &slots, "--log-level", "debug"];
    let gate = Gate::start_warm(ground, "kills", &backends, &settings)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (load, port) = (Arc::clone(&stop), gate.port);
    let load = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
        let asked = std::cell::Cell::new(0);
        let next = move || {
            asked.set(asked.get() + 1);
            let body = ask(Duration::from_millis(5 + drawn(asked.get()) % 50));
            (!load.load(Ordering::Relaxed)).then(|| (asked.get(), body))
        };
        client::run(port, &CONNECTIONS, &(Rc::new(next) as Rc<client::Next>))
    });
    let load = load.map_err(Complaint::io("starting a load"))?;
    let killed = kill_workers(&gate);
    stop.store(true, Ordering::Relaxed);
    let records = load.join().unwrap_or(Ok(Vec::new()));
    let mut found = Found { kills: killed?, answered: answered(&records?), ..Found::default() };
    found.held = gate.started.said().map(|log| held(&log))?;
    gate.wait(DRAIN_MAX, |seen| seen.in_flight + seen.waiting == 0)?;
    let seen = gate.usage()?;
    found.left = seen.in_flight + seen.waiting;
    found.missing = burst(&gate, &backends)?;
    Ok(found)
}

fn ask(service: Duration) -> String {
    format!(r#"{{"model":"llama3.2:1b","prompt":"@sleep:{}","stream":false}}"#, service.as_secs_f64())
}

fn answered(records: &[Record]) -> usize {
    records.iter().filter(|record| record.status == Some(200)).count()
}

fn kill_workers(gate: &Gate) -> Result<u64, Complaint> {
    let until = Instant::now() + KILLS_MAX;
    let mut kills = 0;
    // In turn: the successor of one has the youngest id, until ids begin anew.
    let mut killed = Vec::new();
    while kills < KILLS && Instant::now() < until {
        interrupt::check()?;
        let began = Instant::now();
        let workers = gate.workers();
        killed.retain(|pid| workers.contains(pid));
        if let Some(victim) = workers.into_iter().find(|worker| !killed.contains(worker)) {
            // Its master has not reaped it while it is listed, so the id is its own; one that died meanwhile counts not.
            kills += u64::from(kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL).is_ok());
            killed.push(victim);
            if kills % 100 == 0 {
                eprintln!("kills: {kills} of {KILLS}");
            }
        }
        sleep(PACE.saturating_sub(began.elapsed()));
    }
    Ok(kills)
}

/// As many requests as there are slots, at once: how many of them the backends did not have at one time.
fn burst(gate: &Gate, backends: &[Backend]) -> Result<u64, Complaint> {
    let all = BACKENDS * usize::from(SLOTS);
    for backend in backends {
        backend.sim.reset();
    }
    let asked = std::cell::Cell::new(0);
    let next = move || {
        asked.set(asked.get() + 1);
        (asked.get() <= all as u64).then(|| (asked.get(), ask(BURST)))
    };
    client::run(gate.port, &vec![1; all], &(Rc::new(next) as Rc<client::Next>))?;
    let most: u64 = backends.iter().map(|backend| backend.sim.counters().generating_max).sum();
    Ok((all as u64).saturating_sub(most))
}

/// The slots that the dead held, added up from the log.
fn held(log: &str) -> u64 {
    let slots = log.lines().filter_map(|line| line.split_once(LEFT)?.1.split(' ').next()?.parse::<u64>().ok());
    slots.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_the_dead_are_added_up() {
        let log = "a 17 has left 3 slots of backends and 2 places in the queue\nb\n19 has left 0 slots of\n";
        assert_eq!(held(log), 3);
    }

    #[test]
    fn a_lease_is_leaked_once_however_it_is_seen() {
        assert_eq!(Found { left: 2, missing: 2, ..Found::default() }.leaked(), 2);
        assert_eq!(Found { missing: 1, ..Found::default() }.leaked(), 1);
    }
}
