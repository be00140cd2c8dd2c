//! A simulated Ollama in a thread of the test, so that a test can read its counters and script its faults.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use ollama_sim::{Config, Sim};

/// A running simulation; ends when dropped.
pub struct Backend {
    pub sim: Sim,
    pub address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    pub fn start(config: Config) -> Self {
        Self::on(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), config)
    }

    /// One that answers on this listener.
    pub fn on(listener: std::net::TcpListener, config: Config) -> Self {
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let sim = Sim::new(config);
        let served = sim.clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                served.serve(listener, stopped).await.unwrap();
            });
        });
        Self { sim, address, stop: Some(stop), thread: Some(thread) }
    }

    /// As the gate's `--upstream` wants it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
