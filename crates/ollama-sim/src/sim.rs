//! The state that all connections of one simulation share: counters, script, models. It does no I/O.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::net::{TcpListener, UnixListener};

use crate::config::Config;
use crate::counters::{Cancellation, Counters, RecordedRequest};
use crate::fault::{Fault, FaultError, Rule, magic};
use crate::library::Blobs;
use crate::listener::Listener;
use crate::residence::Residence;
use crate::routes;
use crate::sender::End;
use crate::wire::{Request, Wire};

/// How much of a body is kept with a recorded request: any prompt of a test, no image.
const BODY_KEPT: usize = 64 << 10;
/// How many cancellations are kept.
const CANCELLATIONS_KEPT: usize = 64;
/// The header that names a fault.
const FAULT_HEADER: &str = "x-sim-fault";

/// A handle on one simulated Ollama, for the process that runs it.
#[derive(Clone)]
pub struct Sim {
    shared: Arc<Shared>,
}

impl Sim {
    /// Builds a simulation that does not listen yet.
    pub fn new(config: Config) -> Self {
        Self { shared: Arc::new(Shared::new(config)) }
    }

    /// Answers on a listener until `shutdown` completes; open connections end with it.
    ///
    /// Needs a tokio runtime with I/O and time; one thread is enough. A `refuse` fault binds the listener's address
    /// anew, which closes it for others only where no other process holds the same socket.
    ///
    /// # Errors
    /// Where the listener's address cannot be read, or not be bound again after a `refuse` fault.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future) -> io::Result<()> {
        crate::server::run(&self.shared, Listener::Tcp(listener), shutdown).await
    }

    /// The same on a Unix socket with a path. Such a socket knows no resets: faults that reset just end it. The file is
    /// the caller's to remove.
    ///
    /// # Errors
    /// Where a `refuse` fault finds the listener without a path, or cannot bind it again.
    pub async fn serve_unix(&self, listener: UnixListener, shutdown: impl Future) -> io::Result<()> {
        crate::server::run(&self.shared, Listener::Unix(listener), shutdown).await
    }

    /// What it has seen so far.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Sets all counters but those of the present to zero and drops the script. Models stay loaded.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Replaces the script: each request takes the first rule that is for its path.
    pub fn script(&self, rules: impl IntoIterator<Item = Rule>) {
        self.shared.script(rules);
    }
}

/// What a [`Sim`] and its connections share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) residence: Residence,
    pub(crate) blobs: Blobs,
    totals: Mutex<Counters>,
    script: Mutex<VecDeque<Rule>>,
    open: AtomicU64,
    in_flight: AtomicU64,
    generating: AtomicU64,
}

/// One more of something while it lives.
pub(crate) struct Present<'a>(&'a AtomicU64);

impl<'a> Present<'a> {
    /// Gives how many there are with it, too.
    fn among(count: &'a AtomicU64) -> (Self, u64) {
        let now = count.fetch_add(1, Ordering::Relaxed) + 1;
        (Self(count), now)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn new(config: Config) -> Self {
        Self {
            residence: Residence::new(&config),
            blobs: Blobs::default(),
            totals: Mutex::default(),
            script: Mutex::new(config.script.iter().cloned().collect()),
            open: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            generating: AtomicU64::new(0),
            config,
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        // Held to the end, so that no present is above its peak.
        let totals = self.totals();
        let mut counters = totals.clone();
        counters.connections.open = self.open.load(Ordering::Relaxed);
        counters.in_flight = self.in_flight.load(Ordering::Relaxed);
        counters.generating = self.generating.load(Ordering::Relaxed);
        counters.queued = self.residence.waiting();
        counters.pending_loads = self.residence.pending();
        counters.requests_by_model = self.residence.requests().collect();
        let loads = self.residence.loads();
        (counters.loads, counters.aborted_loads) = (loads.begun, loads.aborted);
        (counters.swaps, counters.reloads) = (loads.swaps, loads.reloads);
        counters
    }

    pub(crate) fn reset(&self) {
        *self.totals() = Counters::default();
        self.residence.reset();
        self.script([]);
    }

    pub(crate) fn script(&self, rules: impl IntoIterator<Item = Rule>) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = rules.into_iter().collect();
    }

    /// A connection was accepted.
    pub(crate) fn connected(&self) -> Present<'_> {
        self.totals().connections.accepted += 1;
        Present::among(&self.open).0
    }

    /// A request arrived; `earlier` came before it on its connection.
    pub(crate) fn arrived(&self, request: &Request, earlier: u64) -> (Present<'_>, Option<Present<'_>>) {
        let mut totals = self.totals();
        let (present, in_flight) = Present::among(&self.in_flight);
        let generating = routes::generates(request.path()).then(|| Present::among(&self.generating));
        totals.in_flight_max = totals.in_flight_max.max(in_flight);
        totals.generating_max = totals.generating_max.max(generating.as_ref().map_or(0, |(_, now)| *now));
        totals.connections.reused += u64::from(earlier > 0);
        *totals.requests.entry(label(request)).or_default() += 1;
        if self.config.recorded > 0 {
            let body = &request.body[..request.body.len().min(BODY_KEPT)];
            push_bounded(
                &mut totals.last_requests,
                self.config.recorded,
                RecordedRequest {
                    method: request.method.clone(),
                    target: request.target.clone(),
                    headers: request.headers.clone(),
                    body: String::from_utf8_lossy(body).into_owned(),
                },
            );
        }
        (present, generating.map(|(present, _)| present))
    }

    /// An answer came to its end, or not, after this many lines.
    pub(crate) fn finished(&self, request: &Request, wire: &Wire, (result, lines): (Result<(), End>, u64)) {
        let mut totals = self.totals();
        match result {
            Ok(()) => totals.completed += 1,
            Err(End::Broken) => totals.broken += 1,
            Err(End::Gone(stage)) => {
                totals.cancelled += 1;
                let noticed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                push_bounded(
                    &mut totals.cancellations,
                    CANCELLATIONS_KEPT,
                    Cancellation {
                        route: label(request),
                        stage,
                        lines,
                        noticed_unix_us: noticed.as_micros() as u64,
                        silent_us: wire.active_at.elapsed().as_micros() as u64,
                    },
                );
            }
        }
    }

    /// The fault of a request: named by its header, else by its prompt, else by the script.
    pub(crate) fn fault(&self, request: &Request) -> Result<Fault, FaultError> {
        match request.header(FAULT_HEADER).or_else(|| magic(&request.body)) {
            Some(text) => text.parse(),
            None => Ok(self.scripted(request.path())),
        }
    }

    fn scripted(&self, path: &str) -> Fault {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.retain(|rule| rule.times > 0);
        let Some(rule) = script.iter_mut().find(|rule| rule.path.as_deref().is_none_or(|own| own == path)) else {
            return Fault::Ok;
        };
        rule.times -= 1;
        rule.fault
    }

    fn totals(&self) -> MutexGuard<'_, Counters> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of a request's route in counters; a bounded set whatever clients send.
fn label(request: &Request) -> String {
    match (request.method.as_str(), routes::known(request.path())) {
        (method @ ("GET" | "HEAD" | "POST" | "DELETE"), Some(route)) => format!("{method} {route}"),
        _ => "other".to_owned(),
    }
}

fn push_bounded<T>(list: &mut Vec<T>, most: usize, item: T) {
    if list.len() >= most {
        list.remove(0);
    }
    list.push(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_used_up_in_order_by_the_paths_they_are_for() {
        let sim = Sim::new(Config::default());
        let chat = Rule { fault: Fault::Html, path: Some("/api/chat".to_owned()), times: 2 };
        sim.script([chat, Fault::Status(503).into(), Fault::Ok.into(), Fault::Split.into()]);
        let taken = ["/api/tags", "/api/chat", "/api/tags", "/api/chat", "/api/chat", "/api/tags"];
        let wanted = [Fault::Status(503), Fault::Html, Fault::Ok, Fault::Html, Fault::Split, Fault::Ok];
        assert_eq!(taken.map(|path| sim.shared.scripted(path)), wanted);
    }

    #[test]
    fn lists_keep_their_newest() {
        let mut list = Vec::new();
        (0..5).for_each(|item| push_bounded(&mut list, 3, item));
        assert_eq!(list, [2, 3, 4]);
    }
}
