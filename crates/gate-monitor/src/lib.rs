//! The monitor: one process beside the workers that asks the backend how it is and sweeps the limiter's tables.
//!
//! It serves no request. What it learns it writes into the zone; killed, it leaves the last known state there and is
//! respawned.
//!
//! Invariant: nothing a request waits for happens here.
#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use gate_config::{Plan, Strategy};
use gate_upstream::{Backend, Timeouts};
use gate_zone::limiter::{fixed, gcra};
use gate_zone::{OwnRow, Probe, Stage, Zone, clock};
use tokio::net::unix::pipe::Receiver;
use tokio::task::LocalSet;
use tokio::time::{interval, sleep, timeout};

/// How often a healthy backend is asked.
const HEALTHY_PAUSE: Duration = Duration::from_secs(2);

/// How often one is asked that is not: an operator who has just started Ollama watches `/readyz`.
const SICK_PAUSE: Duration = Duration::from_millis(250);

/// How long an answer may take. Ollama answers this question without touching a model.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// How often the heart beats.
const BEAT: Duration = Duration::from_millis(250);

/// How often a piece of each limiter region is swept.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// In how many pieces: the whole region every 16 seconds, well within the 64 windows after which the ends of the
/// shortest windows (a second) would come around again.
const SWEEP_PIECES: usize = 16;

/// What a monitor is given.
pub struct Post {
    /// Its configuration.
    pub plan: Rc<Plan>,
    /// The shared memory.
    pub zone: Zone,
    /// Its own row there.
    pub row: OwnRow,
    /// The simulated backend, in place of the configured one.
    pub demo: Option<SocketAddr>,
    /// Reads end-of-file when the master is gone.
    pub lifeline: OwnedFd,
    /// Tells the master that it watches.
    pub ready: Box<dyn FnOnce() -> io::Result<()>>,
}

/// Watches until a signal ends the process: it holds nothing that would have to be finished.
///
/// # Errors
/// Why it cannot begin.
pub fn run(post: Post) -> Result<u8, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot make an event loop: {error}"))?;
    LocalSet::new().block_on(&runtime, watch(post))
}

async fn watch(post: Post) -> Result<u8, String> {
    let Post { plan, zone, row, demo, lifeline, ready } = post;
    let row = Rc::new(row);
    let timeouts = Timeouts { connect: plan.connect_timeout.min(PROBE_MAX), first_byte: PROBE_MAX };
    let backend = match demo {
        Some(address) => Backend::new(&address.to_string(), "", timeouts, Rc::clone(&row)),
        None => {
            let target = &plan.upstream[0].target;
            Backend::new(&target.authority(), target.prefix(), timeouts, Rc::clone(&row))
        }
    };
    row.beat(clock::monotonic_ms());
    row.enter(Stage::Ready);
    tokio::task::spawn_local(keep_beating(Rc::clone(&row)));
    let gcra = plan.flood.is_some() || plan.limit_strategy == Strategy::Gcra;
    tokio::task::spawn_local(sweep(zone, if gcra { Gcra::Used } else { Gcra::Unused }));
    ready().map_err(|error| error.to_string())?;
    tokio::select! {
        () = probe(&backend, zone) => {}
        () = orphaned(lifeline) => {}
    }
    Ok(0)
}

/// Waits until the master is gone: nothing is ever written into the lifeline.
///
/// Without a lifeline that can be watched it waits for ever, and the signal at the master's death has to do.
pub async fn orphaned(lifeline: OwnedFd) {
    match Receiver::from_owned_fd(lifeline) {
        Ok(lifeline) => drop(lifeline.readable().await),
        Err(error) => {
            log::warn!("cannot watch for the master's end: {error}");
            std::future::pending::<()>().await;
        }
    }
}

/// Beats for ever, as every process must that the master watches.
pub async fn keep_beating(row: Rc<OwnRow>) {
    let mut ticks = interval(BEAT);
    loop {
        ticks.tick().await;
        row.beat(clock::monotonic_ms());
    }
}

/// Asks for ever; each change is one line for the operator.
async fn probe(backend: &Backend, zone: Zone) {
    let mut last = Probe::Unknown;
    loop {
        let seen = timeout(PROBE_MAX, backend.probe()).await.unwrap_or(Probe::Silent);
        if seen != last {
            match seen {
                Probe::Healthy => log::info!("backend {backend} answers"),
                Probe::Status(status) => log::warn!("backend {backend} answers with status {status}"),
                Probe::Silent => log::warn!("backend {backend} does not answer within {PROBE_MAX:?}"),
                Probe::NotHttp => log::warn!("backend {backend} does not speak HTTP"),
                Probe::Foreign => log::warn!("backend {backend} answers, but not as Ollama does"),
                Probe::Unreachable | Probe::Unknown => log::warn!("backend {backend} cannot be reached"),
            }
        }
        zone.tell_probe(seen);
        last = seen;
        sleep(if seen == Probe::Healthy { HEALTHY_PAUSE } else { SICK_PAUSE }).await;
    }
}

/// Whether anything counts by GCRA. A region that nobody touches costs no memory, and sweeping touches it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gcra {
    Used,
    Unused,
}

/// Frees ended entries of the limiter, a piece at a time.
async fn sweep(zone: Zone, gcra_region: Gcra) {
    let mut ticks = interval(SWEEP_PAUSE);
    let mut piece = 0;
    loop {
        ticks.tick().await;
        for (length, region) in zone.windows() {
            let Some(window) = fixed::Window::new(length) else { continue };
            let (from, budget) = share(region.sets.len(), piece);
            fixed::sweep(region.sets, window, from, budget, || zone.now_ns());
            fixed::sweep(region.overflow, window, 0, region.overflow.len(), || zone.now_ns());
        }
        if gcra_region == Gcra::Used {
            let region = zone.gcra_region();
            let (from, budget) = share(region.sets.len(), piece);
            gcra::sweep(region.sets, from, budget, || zone.now_ns());
        }
        piece = (piece + 1) % SWEEP_PIECES;
    }
}

/// Start and length of one piece of a region.
fn share(words: usize, piece: usize) -> (usize, usize) {
    let length = words.div_ceil(SWEEP_PIECES);
    let from = (piece * length).min(words);
    (from, length.min(words - from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_region() {
        for words in [8, 64, 1000, 131_072] {
            let mut next = 0;
            for piece in 0..SWEEP_PIECES {
                let (from, length) = share(words, piece);
                assert_eq!(from, next);
                next = from + length;
            }
            assert_eq!(next, words);
        }
    }
}
