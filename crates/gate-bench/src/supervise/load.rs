//! The load of all trials: a dozen threads that ask at a steady pace and keep a record of every request.
//!
//! It does not judge. Invariant: every request that was begun is in the records, however it ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::exchange::{Client, Habit, Outcome};
use super::tally::{Pace, Record};
use crate::complaint::Complaint;

/// Clients that ask quickly, of each habit.
const QUICK_CLIENTS: usize = 4;
/// Clients with a slow request always under way, of each habit.
const SLOW_CLIENTS: usize = 2;
/// From one quick request of a client to its next: 1,600 a second of all, which leaves two processors some rest.
const QUICK_EVERY: Duration = Duration::from_millis(5);
/// How long a server takes for a quick answer: as long as a small proxied request.
const QUICK_DELAY: Duration = Duration::from_millis(2);
/// The shortest slow answer.
const SLOW_MIN: Duration = Duration::from_millis(300);
/// Slow answers take up to so many milliseconds longer.
const SLOW_SPREAD_MS: u64 = 700;
/// From one slow request to the next of the same length; prime to the spread, so that all lengths occur.
const SLOW_STEP_MS: u64 = 233;
/// How long a slow client waits after a loss, so that one does not turn into a flood.
const SLOW_PAUSE: Duration = Duration::from_millis(20);
/// Records of one client: minutes at the quick pace. One that has made so many stops.
const RECORDS_MAX: usize = 100_000;

/// How long the sleep of the load's own clock is.
const TICK: Duration = Duration::from_millis(1);

/// What the clients share with whoever watches them.
#[derive(Debug)]
struct Shared {
    epoch: Instant,
    stop: AtomicBool,
    /// When the youngest request that was answered was begun, in microseconds since `epoch`.
    answered: AtomicU64,
}

impl Shared {
    fn now(&self) -> u64 {
        micros(self.epoch.elapsed())
    }
}

/// Running clients; dropping it stops them.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Record>>>,
    clock: Option<JoinHandle<Duration>>,
}

/// What a load has seen.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) records: Vec<Record>,
    /// The longest by which a thread that only sleeps woke too late: what is not longer may be the machine's doing.
    pub(crate) lag: Duration,
}

impl Load {
    /// Starts all clients of one server.
    pub(crate) fn start(port: u16) -> Result<Self, Complaint> {
        let shared = Shared { epoch: Instant::now(), stop: AtomicBool::new(false), answered: AtomicU64::new(0) };
        let mut load = Self { shared: Arc::new(shared), clients: Vec::new(), clock: None };
        let shared = Arc::clone(&load.shared);
        let clock = thread::Builder::new().name("clock".to_owned()).spawn(move || longest_lag(&shared));
        load.clock = Some(clock.map_err(Complaint::io("starting a clock"))?);
        let both = [Habit::Keep, Habit::Anew];
        let quick = both.into_iter().flat_map(|habit| [(Pace::Quick, habit); QUICK_CLIENTS]);
        let slow = both.into_iter().flat_map(|habit| [(Pace::Slow, habit); SLOW_CLIENTS]);
        for (number, (pace, habit)) in quick.chain(slow).enumerate() {
            let shared = Arc::clone(&load.shared);
            let client = thread::Builder::new().name(format!("client {number}"));
            let client = client.spawn(move || ask_on(&shared, Client::new(port, habit), pace, number as u64));
            load.clients.push(client.map_err(Complaint::io("starting a client"))?);
        }
        Ok(load)
    }

    /// A moment as the records count it.
    pub(crate) fn at(&self, moment: Instant) -> u64 {
        micros(moment.saturating_duration_since(self.shared.epoch))
    }

    /// Whether a request that was begun after this moment has been answered.
    pub(crate) fn answered_since(&self, moment: Instant) -> bool {
        self.shared.answered.load(Ordering::Relaxed) > self.at(moment)
    }

    /// Lets every client end the request it has, and takes the records.
    pub(crate) fn stop(mut self) -> Seen {
        self.end()
    }

    fn end(&mut self) -> Seen {
        self.shared.stop.store(true, Ordering::Relaxed);
        // A thread that panicked has nothing to give; its message is on standard error.
        let records = self.clients.drain(..).flat_map(|client| client.join().unwrap_or_default()).collect();
        let lag = self.clock.take().and_then(|clock| clock.join().ok()).unwrap_or_default();
        Seen { records, lag }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn ask_on(shared: &Shared, mut client: Client, pace: Pace, number: u64) -> Vec<Record> {
    let mut records = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) && records.len() < RECORDS_MAX {
        let turn = records.len() as u64;
        let (start, begun) = (Instant::now(), shared.now());
        let outcome = client.ask(delay(pace, number + turn), &format!("mark-{number}-{turn}-"));
        records.push(Record { begun, ended: shared.now(), outcome, pace });
        if outcome == Outcome::Answered {
            shared.answered.fetch_max(begun, Ordering::Relaxed);
        }
        match pace {
            Pace::Quick => sleep(QUICK_EVERY.saturating_sub(start.elapsed())),
            Pace::Slow if outcome == Outcome::Answered => {}
            Pace::Slow => sleep(SLOW_PAUSE),
        }
    }
    records
}

fn longest_lag(shared: &Shared) -> Duration {
    let mut longest = Duration::ZERO;
    while !shared.stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        sleep(TICK);
        longest = longest.max(start.elapsed().saturating_sub(TICK));
    }
    longest
}

fn delay(pace: Pace, turn: u64) -> Duration {
    match pace {
        Pace::Quick => QUICK_DELAY,
        Pace::Slow => SLOW_MIN + Duration::from_millis(turn * SLOW_STEP_MS % SLOW_SPREAD_MS),
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;

    #[test]
    fn slow_answers_take_from_300_ms_to_a_second() {
        let delays: Vec<Duration> = (0..SLOW_SPREAD_MS).map(|turn| delay(Pace::Slow, turn)).collect();
        assert_eq!(delays.iter().min(), Some(&SLOW_MIN));
        assert_eq!(delays.iter().max(), Some(&Duration::from_millis(999)));
    }

    #[test]
    fn a_backend_alone_answers_every_request() {
        let backend = Backend::start().unwrap();
        let (load, began) = (Load::start(backend.port).unwrap(), Instant::now());
        while !load.answered_since(began) {
            assert!(began.elapsed() < Duration::from_secs(10), "no answer");
            thread::yield_now();
        }
        let Seen { records, lag } = load.stop();
        assert!(!records.is_empty() && lag > Duration::ZERO);
        let bad: Vec<&Record> = records.iter().filter(|record| record.outcome != Outcome::Answered).collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
}
