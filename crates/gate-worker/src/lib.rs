//! One worker's HTTP life: it takes connections, walks each request through the pipeline, relays the answer, drains.
//!
//! It does not fork, bind or decide about other processes; it hears of them through the zone. One event
//! loop in one thread; the only others write the access log and look up a backend that has a name.
//!
//! Invariant: every request that was begun is accounted for once, whichever way it ends.
#![forbid(unsafe_code)]

mod accept;
mod drain;
mod exchange;
mod framing;
mod gate;
mod journal;
mod ledger;
mod orders;
mod outbound;
mod pages;
mod pipeline;
mod routes;
mod throttle;
mod wire;

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use gate_config::{AccessLog, Plan};
use gate_zone::{OwnRow, Place, Stage, Zone, clock};
use tokio::task::LocalSet;
use tokio::time::interval;

use crate::accept::{Source, accept_all};
use crate::framing::Caps;
use crate::gate::Gate;
use crate::journal::Journal;
use crate::orders::{Order, Orders, Upward};
pub use crate::orders::{Word, Words};
pub use crate::routes::route_names;
use crate::wire::{Ground, Patience};

/// How often the heart beats: four times within the age at which other workers stop counting this one.
const BEAT: Duration = Duration::from_millis(250);

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
    /// The simulated backend, in place of the configured one.
    pub demo: Option<SocketAddr>,
    /// The sockets it accepts from, non-blocking.
    pub listeners: Vec<Listening>,
    /// The access log, already open.
    pub journal: Option<File>,
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

/// Opens the access log of a plan, as the user that may.
///
/// # Errors
/// What the operator has to mend, with the key.
pub fn open_journal(plan: &Plan) -> Result<Option<File>, String> {
    let opened = match &plan.access_log {
        AccessLog::Off => return Ok(None),
        AccessLog::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        AccessLog::File(path) => OpenOptions::new().append(true).create(true).open(path),
    };
    opened.map(Some).map_err(|error| match &plan.access_log {
        AccessLog::File(path) => format!("access_log: cannot append to {}: {error}", path.display()),
        _ => format!("access_log: {error}"),
    })
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
    let Post { plan, place, zone, row, demo, listeners, journal, lifeline, words } = post;
    let text = |error: io::Error| error.to_string();
    let mut orders = Orders::listen(lifeline).map_err(text)?;
    let row = Rc::new(row);
    let gate = Rc::new(build(plan, (place, zone, Rc::clone(&row)), demo, journal)?);
    let sources: Vec<Source> = listeners.into_iter().map(source).collect::<io::Result<_>>().map_err(text)?;
    row.beat(clock::monotonic_ms());
    row.enter(Stage::Ready);
    let beating = tokio::task::spawn_local(beat(Rc::clone(&row)));
    let accepting: Vec<_> =
        sources.into_iter().map(|source| tokio::task::spawn_local(accept_all(Rc::clone(&gate), source))).collect();
    let upward = Upward::new(words);
    upward.ready().map_err(text)?;
    if let Order::Drain = orders.next().await {
        row.enter(Stage::Draining);
        // Somebody else than the master may have sent the signal, and it has to see to a successor now.
        upward.tell(Word::Leaving);
        drain::leave(&gate, accepting, &mut orders).await;
    }
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
    (place, zone, row): (Place, Zone, Rc<OwnRow>),
    demo: Option<SocketAddr>,
    journal: Option<File>,
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
        flood: gate::flood(&plan, zone).map_err(|error| error.to_string())?,
        backend: gate::backend(&plan, demo, Rc::clone(&row)),
        model: plan.model.as_deref().map(Into::into),
        newest: gate_upstream::NewestModel::default(),
        journal,
        clock: ledger::LogClock::new(),
        warnings: throttle::Throttle::default(),
        ground: Rc::new(Ground::new(patience, caps)),
        plan,
        place,
        zone,
        row,
        birth: gate::Birth::now(),
    })
}

async fn beat(row: Rc<OwnRow>) {
    let mut ticks = interval(BEAT);
    loop {
        ticks.tick().await;
        row.beat(clock::monotonic_ms());
    }
}
