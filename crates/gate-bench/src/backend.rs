//! An Ollama behind the servers of a run: a simulation in a thread of this process, so that its counters can be read.

use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::thread::JoinHandle;

use ollama_sim::{Config, Sim};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::complaint::Complaint;

/// Requests that one without bounds answers at once: more than any load has clients, so that it is never what is waited
/// for.
const SLOTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);

/// A running simulation; ends when dropped.
pub(crate) struct Backend {
    pub(crate) port: u16,
    pub(crate) sim: Sim,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    /// Starts one that is never what is waited for.
    pub(crate) fn start() -> Result<Self, Complaint> {
        Self::of(Config { slots: SLOTS, recorded: 0, ..Config::echo() })
    }

    /// Starts one on a port of the kernel's choice.
    pub(crate) fn of(config: Config) -> Result<Self, Complaint> {
        let trouble = || Complaint::io("starting the simulated backend");
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(trouble())?;
        listener.set_nonblocking(true).map_err(trouble())?;
        let port = listener.local_addr().map_err(trouble())?.port();
        let (stop, stopped) = oneshot::channel::<()>();
        let sim = Sim::new(config);
        let served = sim.clone();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            tokio::task::LocalSet::new()
                .block_on(&runtime, async { served.serve(TcpListener::from_std(listener)?, stopped).await })
        };
        let thread = std::thread::Builder::new().name("backend".to_owned()).spawn(move || {
            if let Err(why) = serve() {
                // Every request of every proxy fails from here on, so nobody takes the figures for good ones.
                eprintln!("gate-bench: the simulated backend has ended: {why}");
            }
        });
        Ok(Self { port, sim, stop: Some(stop), thread: Some(thread.map_err(trouble())?) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It returns nothing, and a panic of it has been printed.
            thread.join().ok();
        }
    }
}
