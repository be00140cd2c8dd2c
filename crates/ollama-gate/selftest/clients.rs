//! Clients that ask without pause and count what they get: on connections that are kept, on new ones, and for streams.
//!
//! They never try again: what a client of the gate would notice is a loss. Invariant: every wait of a client is bounded,
//! and every request is counted once, as answered or as lost.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::left;

/// How long an answer, or the next part of one, may take: the simulated backend needs a twentieth of a second.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two requests of a client: constant load, not a benchmark.
const PAUSE: Duration = Duration::from_millis(2);

/// Longest line of a head or a chunk's size, and longest body: the simulated backend's are far shorter.
const LINE_MAX: u64 = 8 << 10;
const BODY_MAX: usize = 1 << 20;

/// Losses that are remembered; a gate that loses more is judged all the same.
const LOSSES_MAX: usize = 1000;

/// A short answer, and a stream of about half a second.
const SHORT: &str = r#"{"model":"llama3.2:1b","prompt":"hello","stream":false,"options":{"num_predict":1}}"#;
const STREAM: &str = r#"{"model":"llama3.2:1b","prompt":"hello","options":{"num_predict":12}}"#;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Lists of models over one connection for as long as the gate keeps it.
    Kept,
    /// A connection for each answer.
    Anew,
    /// One stream after the other.
    Stream,
}

/// The usual load. Streams and short answers together stay below what the simulated backend does at once.
const HABITS: [Habit; 6] = [Habit::Kept, Habit::Anew, Habit::Stream, Habit::Kept, Habit::Anew, Habit::Stream];

/// A request without its answer, or a stream without its end.
#[derive(Debug, Clone)]
pub(super) struct Loss {
    pub(super) is_stream: bool,
    /// When its connection was asked for.
    pub(super) opened: Instant,
    /// When it was noticed.
    pub(super) at: Instant,
    /// What happened.
    pub(super) what: String,
}

/// What came of all requests so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// Requests answered as they should be, streams apart.
    pub(super) answered: u64,
    /// Streams that came whole.
    pub(super) streams: u64,
    /// All others.
    pub(super) losses: Vec<Loss>,
}

impl Tally {
    /// What was added to an earlier one.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            answered: self.answered - earlier.answered,
            streams: self.streams - earlier.streams,
            losses: self.losses[earlier.losses.len()..].to_vec(),
        }
    }
}

/// Running clients.
pub(super) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    until: Instant,
    stop: AtomicBool,
    tally: Mutex<Tally>,
    /// Requests that each client is through with.
    rounds: [AtomicU64; HABITS.len()],
}

impl Load {
    pub(super) fn start(address: SocketAddr, until: Instant) -> Self {
        let shared = Arc::new(Shared {
            address,
            until,
            stop: AtomicBool::new(false),
            tally: Mutex::default(),
            rounds: Default::default(),
        });
        let client = |(number, habit)| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.ask_on(number, habit))
        };
        let threads = HABITS.into_iter().enumerate().map(client).collect();
        Self { shared, threads }
    }

    pub(super) fn tally(&self) -> Tally {
        self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until every client is through with a request that it began after now.
    pub(super) fn turns(&self, until: Instant) -> Result<(), String> {
        // The one that is under way began before.
        let marks = self.shared.rounds.each_ref().map(|round| round.load(Relaxed) + 2);
        while self.shared.rounds.iter().zip(marks).any(|(round, mark)| round.load(Relaxed) < mark) {
            if self.threads.is_empty() {
                return Ok(());
            }
            left(until).map_err(|late| format!("{late}: waited for the clients"))?;
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Lets every client finish what it has begun.
    pub(super) fn end(&mut self) {
        self.shared.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.lose(Habit::Kept, Instant::now(), "a client of the trial panicked");
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn ask_on(&self, number: usize, habit: Habit) {
        let mut kept = None;
        while !self.stop.load(Relaxed) && Instant::now() < self.until {
            let (opened, connection) = match kept.take() {
                Some((opened, connection)) => (opened, Ok(connection)),
                None => (Instant::now(), self.connect()),
            };
            match connection.and_then(|connection| exchange(connection, habit)) {
                Ok(connection) => {
                    self.count(habit);
                    kept = connection.map(|connection| (opened, connection));
                }
                Err(error) => self.lose(habit, opened, &error.to_string()),
            }
            self.rounds[number].fetch_add(1, Relaxed);
            thread::sleep(PAUSE);
        }
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let socket = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(BufReader::new(socket))
    }

    fn count(&self, habit: Habit) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        match habit {
            Habit::Stream => tally.streams += 1,
            Habit::Kept | Habit::Anew => tally.answered += 1,
        }
    }

    fn lose(&self, habit: Habit, opened: Instant, what: &str) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        if tally.losses.len() < LOSSES_MAX {
            let what = format!("{habit:?}: {what}");
            tally.losses.push(Loss { is_stream: habit == Habit::Stream, opened, at: Instant::now(), what });
        }
    }
}

/// One request and its answer; the connection where it may be used again.
fn exchange(mut connection: BufReader<TcpStream>, habit: Habit) -> io::Result<Option<BufReader<TcpStream>>> {
    let request = match habit {
        Habit::Kept => "GET /api/tags HTTP/1.1\r\nHost: selftest\r\n\r\n".to_owned(),
        Habit::Anew => post(SHORT, "Connection: close\r\n"),
        Habit::Stream => post(STREAM, ""),
    };
    connection.get_mut().write_all(request.as_bytes())?;
    let answer = answer(&mut connection)?;
    let right = match habit {
        Habit::Kept => answer.body.starts_with("{\"models\":["),
        Habit::Anew => answer.body.contains("\"done\":true"),
        Habit::Stream => answer.body.lines().last().is_some_and(|line| line.contains("\"done\":true")),
    };
    if answer.status != 200 || !right {
        let start: String = answer.body.chars().take(200).collect();
        return Err(io::Error::other(format!("status {} with {start:?}", answer.status)));
    }
    Ok((answer.ending == Ending::Open).then_some(connection))
}

fn post(body: &str, field: &str) -> String {
    let length = body.len();
    format!(
        "POST /api/generate HTTP/1.1\r\nHost: selftest\r\nContent-Type: application/json\r\n{field}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

struct Answer {
    status: u16,
    body: String,
    ending: Ending,
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Open,
    Closed,
}

fn answer(connection: &mut impl BufRead) -> io::Result<Answer> {
    let first = line(connection)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status line: {first:?}")))?;
    let (mut length, mut chunked, mut ending) = (None, false, Ending::Open);
    loop {
        let field = line(connection)?.to_ascii_lowercase();
        match field.split_once(':').map(|(name, value)| (name, value.trim())) {
            None => break,
            Some(("content-length", value)) => length = value.parse().ok(),
            Some(("transfer-encoding", value)) => chunked = value == "chunked",
            Some(("connection", "close")) => ending = Ending::Closed,
            Some(_) => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        while part(connection, &mut body)? > 0 {}
    } else {
        let length: usize = length.ok_or_else(|| io::Error::other("a body without a length"))?;
        take(connection, length, &mut body)?;
    }
    let body = String::from_utf8(body).map_err(io::Error::other)?;
    Ok(Answer { status, body, ending })
}

/// One chunk; its size.
fn part(connection: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<usize> {
    let size = line(connection)?;
    let size = usize::from_str_radix(&size, 16).map_err(|_| io::Error::other(format!("a chunk's size: {size:?}")))?;
    take(connection, size, body)?;
    let end = line(connection)?;
    if end.is_empty() { Ok(size) } else { Err(io::Error::other(format!("behind a chunk: {end:?}"))) }
}

fn take(connection: &mut impl BufRead, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
    if length > BODY_MAX - body.len().min(BODY_MAX) {
        return Err(io::Error::other("a body that is too long"));
    }
    let taken = connection.take(length as u64).read_to_end(body)?;
    if taken == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// A line without its end.
fn line(connection: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    connection.take(LINE_MAX).read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_or_errors() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let fixed = "HTTP/1.1 503 No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nabcd";
        let read = |text: &str| answer(&mut text.as_bytes());
        let Ok(Answer { status: 200, body, ending: Ending::Open }) = read(chunked) else { panic!("chunked") };
        assert_eq!(body, "abcde");
        let Ok(Answer { status: 503, body, ending: Ending::Closed }) = read(fixed) else { panic!("fixed") };
        assert_eq!(body, "abcd");
        for whole in [chunked, fixed] {
            for end in 0..whole.len() {
                assert!(read(&whole[..end]).is_err(), "{:?}", &whole[..end]);
            }
        }
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx").is_err());
    }
}
