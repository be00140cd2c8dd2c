//! One worker's HTTP life: it takes connections, walks each request through the pipeline, relays the answer, drains.
//!
//! It does not fork, bind or decide about other processes; it hears of them through the zone. One event
//! loop in one thread; the only others write the access log and look up a backend that has a name.
//!
//! Invariant: every request that was begun is accounted for once, whichever way it ends.
#![forbid(unsafe_code)]

mod accept;
mod bill;
mod cors;
mod drain;
mod exchange;
mod framing;
mod gate;
mod holder;
mod inbound;
mod journal;
mod ledger;
mod lists;
mod manage;
mod orders;
mod outbound;
mod pages;
mod pipeline;
mod pulse;
mod queue;
mod ripe;
mod routes;
mod throttle;
mod trace;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use gate_cluster::Cluster;
pub use gate_cluster::judge_url;
use gate_config::Plan;
pub use gate_limit::keys;
use gate_upstream::Fleet;
use gate_zone::fleet::slots::Holder as Process;
use gate_zone::{Bells, OwnRow, Place, Stage, Zone, clock};
use tokio::task::LocalSet;

use crate::accept::{Source, accept_all};
use crate::framing::Caps;
use crate::gate::Gate;
use crate::journal::Journal;
pub use crate::journal::{AccessFile, open_journal};
use crate::orders::{Orders, Upward};
pub use crate::orders::{Word, Words};
use crate::pulse::Pulse;
pub use crate::routes::route_names;
use crate::wire::{Ground, Patience};

/// Look-ups of a backend's name at once, each in a thread of its own.
const LOOKUPS_MAX: usize = 4;

/// What a worker is given.
pub struct Post {
    /// Its configuration.
    pub plan: Rc<Plan>,
    /// Its place.
    pub place: Place,
    /// The shared memory.
    pub zone: Zone,
    /// Its own row there.
    pub row: OwnRow,
    /// Which row that is; its bell has the same number.
    pub row_index: usize,
    /// What wakes another worker, and this one.
    pub bells: Rc<Bells>,
    /// The simulated backend, in place of the configured one.
    pub demo: Option<SocketAddr>,
    /// The sockets it accepts from, non-blocking.
    pub listeners: Vec<Listening>,
    /// The password of the store in which several gates count, where it does not stand in its URL.
    pub cluster_password: Option<String>,
    /// The access log, already open.
    pub journal: Option<AccessFile>,
    /// Reads end-of-file when the master is gone.
    pub lifeline: OwnedFd,
    /// Its way to speak to the master.
    pub words: Words,
}

/// A listening socket of either kind.
pub enum Listening {
    /// With peer addresses.
    Tcp(std::net::TcpListener),
    /// Without.
    Unix(std::os::unix::net::UnixListener),
}

/// Serves until told to leave; returns the exit code.
///
/// # Errors
/// Why it cannot begin to serve.
pub fn run(post: Post) -> Result<u8, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(LOOKUPS_MAX)
        .build()
        .map_err(|error| format!("cannot make an event loop: {error}"))?;
    let ended = LocalSet::new().block_on(&runtime, serve(post));
    // A name that is still being looked up keeps nobody waiting.
    runtime.shutdown_background();
    ended
}

async fn serve(post: Post) -> Result<u8, String> {
    let Post { plan, place, zone, row, row_index, bells, demo, listeners, cluster_password, journal, lifeline, words } =
        post;
    let text = |error: io::Error| error.to_string();
    let mut orders = Orders::listen(lifeline).map_err(text)?;
    let row = Rc::new(row);
    let ear = bells.ear(row_index).transpose().map_err(text)?;
    let process = gate::process(&row, row_index);
    let fleet = Rc::new(gate::fleet(&plan, demo, (zone, Rc::clone(&row), process), bells));
    let cluster = gate::cluster(&plan, zone, cluster_password).map_err(|error| format!("cluster_url: {error}"))?;
    let gate = Rc::new(build(plan, (place, zone, Rc::clone(&row), process), (fleet, cluster), journal)?);
    if let Some(cluster) = gate.cluster.clone() {
        tokio::task::spawn_local(async move { cluster.connect().await });
    }
    let sources: Vec<Source> = listeners.into_iter().map(source).collect::<io::Result<_>>().map_err(text)?;
    row.beat(clock::monotonic_ms());
    row.enter(Stage::Ready);
    let accepting: Vec<_> =
        sources.into_iter().map(|source| tokio::task::spawn_local(accept_all(Rc::clone(&gate), source))).collect();
    let upward = Rc::new(Upward::new(words));
    let beating = tokio::task::spawn_local(Pulse::new(&gate, &upward).map_err(text)?.beat());
    tokio::task::spawn_local(queue::look(Rc::clone(&gate.fleet)));
    if let Some(ear) = ear {
        tokio::task::spawn_local(queue::hear(Rc::clone(&gate.fleet), ear).map_err(text)?);
    }
    upward.ready().map_err(text)?;
    let order = orders.next().await;
    row.enter(Stage::Draining);
    // Somebody else than the master may have sent the signal, and it has to see to a successor now.
    upward.tell(Word::Leaving);
    drain::leave(&gate, accepting, &mut orders, order).await;
    beating.abort();
    Ok(0)
}

fn source(listening: Listening) -> io::Result<Source> {
    match listening {
        Listening::Tcp(listener) => Source::tcp(listener),
        Listening::Unix(listener) => Source::unix(listener),
    }
}

fn build(
    plan: Rc<Plan>,
    (place, zone, row, process): (Place, Zone, Rc<OwnRow>, Process),
    (fleet, cluster): (Rc<Fleet>, Option<Cluster>),
    journal: Option<AccessFile>,
) -> Result<Gate, String> {
    let patience = Patience { head: plan.head_timeout, keep_alive: plan.keep_alive, write: plan.write_timeout };
    let caps = Caps { head: plan.max_head, fields: plan.max_fields, target: plan.max_path };
    let journal = match journal {
        Some(file) => Some(Journal::open(file, Rc::clone(&row)).map_err(|error| format!("access log: {error}"))?),
        None => None,
    };
    Ok(Gate {
        trust: gate::trust(&plan),
        admission: gate::admission(&plan, zone).map_err(|error| error.to_string())?,
        lodge: gate::lodge(&plan, zone, process).map_err(|error| error.to_string())?,
        cluster,
        origins: gate_api::origin::Origins::new(&plan.origins),
        flood: gate::flood(&plan, zone).map_err(|error| error.to_string())?,
        fleet,
        ids: trace::Ids::new([getrandom::u64().unwrap_or(0), getrandom::u64().unwrap_or(0)]),
        model: plan.model.as_deref().map(Into::into),
        newest: gate_upstream::NewestModel::default(),
        journal,
        clock: ledger::LogClock::new(),
        warnings: throttle::Throttle::default(),
        scarcity: throttle::Spell::default(),
        ground: Rc::new(Ground::new(patience, caps)),
        plan,
        place,
        zone,
        row,
        start: gate::Start::now(),
    })
}
