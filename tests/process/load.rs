//! Clients that ask without pause, and count what they get: everything but the right answer is a failure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::json;

use crate::support::http::{Client, Request};
use crate::support::wait_for;

/// How a client uses its connections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Habit {
    /// One for as many requests as the gate allows.
    KeepAlive,
    /// One for each request.
    Anew,
}

/// Two clients of each habit, the usual load.
pub(crate) const MIXED: [Habit; 4] = [Habit::KeepAlive, Habit::Anew, Habit::KeepAlive, Habit::Anew];

/// Running clients.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    pub(crate) fn start(address: SocketAddr, habits: &[Habit]) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let threads = habits.iter().map(|habit| {
            let (habit, stop, answered) = (*habit, Arc::clone(&stop), Arc::clone(&answered));
            thread::spawn(move || ask_on(address, habit, &stop, &answered))
        });
        let threads = threads.collect();
        Self { stop, answered, threads }
    }

    /// Waits until this many more requests have been answered; also when clients have failed, which the end tells.
    #[track_caller]
    pub(crate) fn goes_on(&self, more: u64) {
        let target = self.answered.load(Ordering::Relaxed) + more;
        wait_for("the load to go on", || {
            let over = self.threads.iter().any(JoinHandle::is_finished);
            (over || self.answered.load(Ordering::Relaxed) >= target).then_some(())
        });
    }

    /// Ends it. Panics unless every request got its answer.
    #[track_caller]
    pub(crate) fn lost_nothing(self) {
        self.stop.store(true, Ordering::Relaxed);
        let failures: Vec<String> = self
            .threads
            .into_iter()
            .filter_map(|thread| thread.join().expect("a client does not panic").err())
            .collect();
        let answered = self.answered.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "of {answered} requests failed: {failures:#?}");
        assert!(answered > 0);
    }
}

fn ask_on(address: SocketAddr, habit: Habit, stop: &AtomicBool, answered: &AtomicU64) -> Result<(), String> {
    let body = json!({"model": "m", "prompt": "hello", "stream": false});
    let request = Request::post("/api/generate", &body);
    let request = match habit {
        Habit::KeepAlive => request,
        Habit::Anew => request.header("Connection", "close"),
    };
    let mut client: Option<Client> = None;
    let mut earlier = 0;
    while !stop.load(Ordering::Relaxed) {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            format!("{habit:?}: {what} after {earlier} requests on the connection: {error}")
        };
        let mut own = match client.take() {
            Some(client) => client,
            None => Client::try_connect(address).map_err(|error| failed("connect", &error))?,
        };
        let answer = own.ask(&request).map_err(|error| failed("no answer", &error))?;
        let right = answer.status == 200 && answer.text().contains(r#""response":"echo: hello""#);
        if !right {
            return Err(failed("wrong answer", &format!("{} {}", answer.status, answer.text())));
        }
        answered.fetch_add(1, Ordering::Relaxed);
        let last = answer.header("connection") == Some("close");
        earlier = if last { 0 } else { earlier + 1 };
        client = (!last).then_some(own);
    }
    Ok(())
}
