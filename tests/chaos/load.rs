//! Clients that never let up: short requests of both habits, and streams that follow each other. Each client enters what
//! it gets into the ledger, and goes on whatever happens.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::ledger::{Failure, Ledger};
use crate::pause;
use crate::support::http::{Client, Request, ask};
use crate::support::wait_for;

/// Between two requests of a client: leaves two processors something for the gate, and keeps the closed connections
/// that the kernel remembers for a minute few enough to be listed at every kill.
const THINKING: Duration = Duration::from_millis(8);

/// After a failure, so that a gate that is down is not asked a million times.
const SHOCK: Duration = Duration::from_millis(20);

/// Tokens a second of the backend.
pub(crate) const TOKEN_RATE: u32 = 20;

/// Tokens of the streams' prompts: half a second to two and a half.
const LENGTHS: [usize; 5] = [8, 20, 30, 40, 48];

/// How a client uses its connections.
#[derive(Clone, Copy, Debug)]
enum Habit {
    /// One for as many requests as the gate allows.
    KeepAlive,
    /// One for each request.
    Anew,
}

/// How many clients of which kind.
#[derive(Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) keep_alive: usize,
    pub(crate) anew: usize,
    pub(crate) streams: usize,
}

/// The usual crowd.
pub(crate) const CROWD: Crowd = Crowd { keep_alive: 3, anew: 3, streams: 50 };

/// What a stream's client asks, and what it must get.
struct Song {
    request: Request,
    wanted: Vec<u8>,
}

struct Shared {
    address: SocketAddr,
    ledger: Arc<Ledger>,
    stop: AtomicBool,
    open: AtomicUsize,
    songs: Vec<Song>,
}

/// Running clients.
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts all, and waits until every stream is open. `reference` is a backend of the same kind without a pace.
    #[track_caller]
    pub(crate) fn start(address: SocketAddr, reference: SocketAddr, ledger: &Arc<Ledger>, crowd: Crowd) -> Self {
        let songs = LENGTHS.iter().map(|length| song(*length, reference)).collect();
        let (stop, open) = (AtomicBool::new(false), AtomicUsize::new(0));
        let shared = Arc::new(Shared { address, ledger: Arc::clone(ledger), stop, open, songs });
        let habits = [(Habit::KeepAlive, crowd.keep_alive), (Habit::Anew, crowd.anew)];
        let mut threads = Vec::new();
        for (habit, number) in habits.into_iter().flat_map(|(habit, count)| (0..count).map(move |n| (habit, n))) {
            let shared = Arc::clone(&shared);
            threads.push(thread::spawn(move || ask_on(&shared, habit, number)));
        }
        for number in 0..crowd.streams {
            let shared = Arc::clone(&shared);
            threads.push(thread::spawn(move || listen_on(&shared, number)));
        }
        let load = Self { shared, threads };
        wait_for("all streams to be open", || {
            (load.shared.open.load(Ordering::Relaxed) >= crowd.streams * 9 / 10).then_some(())
        });
        load
    }

    /// No client begins anything new.
    pub(crate) fn let_up(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until everything that was begun is over.
    pub(crate) fn end(self) {
        self.let_up();
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
    }
}

fn song(tokens: usize, reference: SocketAddr) -> Song {
    let prompt: Vec<String> = (0..tokens).map(|number| format!("word{number}")).collect();
    let request = Request::post("/api/generate", &json!({"model": "m", "prompt": prompt.join(" ")}));
    let wanted = ask(reference, &request).body;
    assert!(wanted.ends_with(b"}\n") && wanted.windows(11).any(|window| window == b"\"done\":true"));
    Song { request, wanted }
}

/// A connection of one client, and what the ledger has to know of it.
struct Line {
    client: Client,
    begun: Instant,
    connected: Instant,
    port: u16,
    earlier: u32,
}

impl Line {
    fn open(address: SocketAddr) -> Result<Self, (Instant, io::Error)> {
        let begun = Instant::now();
        let client = Client::try_connect(address).map_err(|error| (begun, error))?;
        let port = client.socket().local_addr().map_err(|error| (begun, error))?.port();
        Ok(Self { client, begun, connected: Instant::now(), port, earlier: 0 })
    }
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn line(&self, who: &str) -> Option<Line> {
        match Line::open(self.address) {
            Ok(line) => Some(line),
            Err((begun, error)) => {
                let what = format!("connect: {error}");
                self.ledger.failed(Failure {
                    client: who.to_owned(),
                    what,
                    begun,
                    connected: None,
                    at: Instant::now(),
                });
                pause(SHOCK);
                None
            }
        }
    }

    fn failed(&self, who: &str, line: &Line, what: &str) {
        let what = format!("{what}, after {} requests on the connection", line.earlier);
        let connected = Some((line.connected, line.port));
        let client = who.to_owned();
        self.ledger.failed(Failure { client, what, begun: line.begun, connected, at: Instant::now() });
        pause(SHOCK);
    }
}

fn ask_on(shared: &Shared, habit: Habit, number: usize) {
    let who = format!("{habit:?} {number}");
    let prompt = json!({"model": "m", "prompt": "hello", "stream": false});
    let questions = [
        (Request::get("/api/version"), r#""version":"#),
        (Request::post("/api/generate", &prompt), r#""response":"echo: hello""#),
    ];
    let mut held: Option<Line> = None;
    for turn in 0.. {
        if !shared.goes_on() {
            return;
        }
        let Some(mut line) = held.take().or_else(|| shared.line(&who)) else { continue };
        let (request, wanted) = &questions[usize::from(turn % 4 == number)];
        let request = match habit {
            Habit::KeepAlive => request.clone(),
            Habit::Anew => request.clone().header("Connection", "close"),
        };
        match line.client.ask(&request) {
            Err(error) => shared.failed(&who, &line, &format!("no answer: {error}")),
            Ok(answer) if answer.status != 200 || !answer.text().contains(wanted) => {
                shared.failed(&who, &line, &format!("wrong answer: {} {}", answer.status, answer.text()));
            }
            Ok(answer) => {
                shared.ledger.answered();
                line.earlier += 1;
                held = (answer.header("connection") != Some("close")).then_some(line);
            }
        }
        pause(THINKING);
    }
}

fn listen_on(shared: &Shared, number: usize) {
    let who = format!("stream {number}");
    for turn in 0.. {
        if !shared.goes_on() {
            return;
        }
        let Some(mut line) = shared.line(&who) else { continue };
        let song = &shared.songs[(number + turn) % shared.songs.len()];
        shared.open.fetch_add(1, Ordering::Relaxed);
        let heard = hear(&mut line.client, &song.request);
        shared.open.fetch_sub(1, Ordering::Relaxed);
        match heard {
            (got, None) if got == song.wanted => shared.ledger.streamed(),
            (got, end) => {
                let last = String::from_utf8_lossy(&got).lines().last().unwrap_or_default().to_owned();
                let (count, all) = (got.len(), song.wanted.len());
                let what = end.unwrap_or_else(|| "other bytes".to_owned());
                shared.failed(&who, &line, &format!("{what} at byte {count} of {all} behind {last:?}"));
            }
        }
    }
}

/// All that comes, and why it is not whole.
fn hear(client: &mut Client, request: &Request) -> (Vec<u8>, Option<String>) {
    let mut got = Vec::new();
    let mut listen = || {
        client.send(&request.bytes())?;
        let (status, _) = client.head()?;
        if status != 200 {
            return Err(io::Error::other(format!("status {status}")));
        }
        while let Some(chunk) = client.chunk()? {
            got.extend_from_slice(&chunk);
        }
        Ok(())
    };
    let end = listen().err().map(|error| error.to_string());
    (got, end)
}
