//! The monitor: one process beside the workers that asks the backends how they are and what they have, looks their names
//! up, and sweeps the zone's tables.
//!
//! It serves no request. What it learns it writes into the zone; killed, it leaves the last known state there and is
//! respawned.
//!
//! Invariant: nothing a request waits for happens here.
#![forbid(unsafe_code)]

mod agenda;
mod cells;
mod finder;
mod names;
mod observer;
mod roster;
mod spread;
mod sweeps;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use gate_config::{Plan, Strategy};
use gate_zone::{OwnRow, Stage, Zone, clock};
use tokio::net::unix::pipe::Receiver;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::interval;

use crate::sweeps::Gcra;

/// How often the heart beats.
const BEAT: Duration = Duration::from_millis(250);

/// What a monitor is given.
pub struct Post {
    /// Its configuration.
    pub plan: Rc<Plan>,
    /// The shared memory.
    pub zone: Zone,
    /// Its own row there.
    pub row: OwnRow,
    /// The simulated backend, in place of all configured ones.
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
    row.beat(clock::monotonic_ms());
    row.enter(Stage::Ready);
    spawn_local(keep_beating(Rc::clone(&row)));
    let gcra = plan.flood.is_some() || plan.limit_strategy == Strategy::Gcra;
    spawn_local(sweeps::limiter(zone, if gcra { Gcra::Used } else { Gcra::Unused }));
    spawn_local(sweeps::lost_loads(zone));
    roster::watch_all(&plan, demo, zone, &row);
    ready().map_err(|error| error.to_string())?;
    orphaned(lifeline).await;
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
