//! The client of the stream part: reads all streams at once and notes for every read what it brought.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::framing::Framing;
use super::line::{self, Place, Shape};
use super::{CHUNKS, PACE, STREAMS};
use crate::complaint::Complaint;
use crate::stats::quantile;

/// How long one stream may take: its second, and what a slow machine adds.
const STREAM_MAX: Duration = Duration::from_secs(20);
/// What is kept unread of a stream: a head, or the beginning of a line.
const HELD_MAX: usize = 64 << 10;
/// One read at most.
const READ_MAX: usize = 8 << 10;

/// What arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) chunks: u64,
    /// Reads that completed a chunk or several.
    pub(crate) reads: u64,
    /// Chunks that were the only one of their read.
    pub(crate) alone: u64,
    /// Streams that did not come whole.
    pub(crate) failed: u64,
    pub(crate) p50_us: u32,
    pub(crate) p99_us: u32,
}

impl Tally {
    /// Reads what [`Display`](fmt::Display) wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text.trim()).ok()?;
        let number = |name: &str| value.get(name)?.as_u64();
        let micros = |name: &str| u32::try_from(number(name)?).ok();
        Some(Self {
            chunks: number("chunks")?,
            reads: number("reads")?,
            alone: number("alone")?,
            failed: number("failed")?,
            p50_us: micros("p50_us")?,
            p99_us: micros("p99_us")?,
        })
    }

    fn add(&mut self, stream: &Arrivals) {
        self.chunks += stream.delays_us.len() as u64;
        self.reads += stream.reads;
        self.alone += stream.alone;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chunks, reads, alone, failed, p50_us, p99_us } = self;
        let value = json!({ "chunks": chunks, "reads": reads, "alone": alone, "failed": failed, "p50_us": p50_us, "p99_us": p99_us });
        write!(out, "{value}")
    }
}

/// Runs waves of streams one after the other.
pub(crate) fn read_waves(port: u16, waves: u32, shape: Shape) -> Result<Tally, Complaint> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Complaint::io("starting the chunk sink"))?;
    let mut tally = Tally::default();
    let mut delays_us = Vec::new();
    for _ in 0..waves {
        runtime.block_on(read_wave((port, shape), &mut tally, &mut delays_us));
    }
    delays_us.sort_unstable();
    tally.p50_us = quantile(&delays_us, 0.5).unwrap_or(0);
    tally.p99_us = quantile(&delays_us, 0.99).unwrap_or(0);
    Ok(tally)
}

async fn read_wave(from: (u16, Shape), tally: &mut Tally, delays_us: &mut Vec<u32>) {
    let streams: Vec<_> = (0..STREAMS)
        .map(|number| {
            // Spread over one pace, as clients are that do not know of each other.
            let start = PACE * number / STREAMS;
            tokio::spawn(timeout(STREAM_MAX, async move {
                sleep(start).await;
                read_stream(from).await
            }))
        })
        .collect();
    for stream in streams {
        match stream.await {
            Ok(Ok(Ok(arrivals))) => {
                tally.add(&arrivals);
                delays_us.extend(arrivals.delays_us);
            }
            Ok(Ok(Err(why))) => {
                tally.failed += 1;
                eprintln!("a stream failed: {why}");
            }
            Ok(Err(_)) | Err(_) => tally.failed += 1,
        }
    }
}

async fn read_stream((port, shape): (u16, Shape)) -> io::Result<Arrivals> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    let (path, body) = (shape.path(), shape.body());
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut arrivals = Arrivals { terminator: shape.terminator(), ..Arrivals::default() };
    let mut piece = vec![0; READ_MAX];
    while !arrivals.complete() {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            return Err(io::Error::other(format!("it ended after {} chunks", arrivals.delays_us.len())));
        }
        arrivals.take(&piece[..count], line::now_ns())?;
    }
    Ok(arrivals)
}

/// What one stream has brought so far.
#[derive(Debug, Default)]
struct Arrivals {
    /// What stands behind the last chunk.
    terminator: &'static str,
    /// The head, then what is not taken yet of the body.
    held: Vec<u8>,
    head_seen: bool,
    framing: Framing,
    last_seen: bool,
    delays_us: Vec<u32>,
    reads: u64,
    alone: u64,
}

impl Arrivals {
    /// One read's bytes, and when it returned.
    fn take(&mut self, bytes: &[u8], now_ns: u64) -> io::Result<()> {
        if self.head_seen {
            self.framing.take(bytes, &mut self.held)?;
        } else {
            self.held.extend_from_slice(bytes);
            let Some(length) = line::find(&self.held, b"\r\n\r\n") else { return self.bounded() };
            if !self.held.starts_with(b"HTTP/1.1 200 ") {
                return Err(io::Error::other(String::from_utf8_lossy(&self.held).into_owned()));
            }
            self.head_seen = true;
            let first = self.held.split_off(length + 4);
            self.held.clear();
            self.framing.take(&first, &mut self.held)?;
        }
        let before = self.delays_us.len();
        while let Some(end) = line::find(&self.held, b"}\n") {
            let (sent_ns, place) = line::read(&self.held[..end]).ok_or_else(|| io::Error::other("a strange line"))?;
            self.delays_us.push((now_ns.saturating_sub(sent_ns) / 1000).try_into().unwrap_or(u32::MAX));
            self.last_seen = place == Place::End;
            self.held.drain(..end + 2);
        }
        let brought = self.delays_us.len() - before;
        self.reads += u64::from(brought > 0);
        self.alone += u64::from(brought == 1);
        self.bounded()
    }

    /// Whether the last line and the end of the body are there.
    fn complete(&self) -> bool {
        let is_ended = self.framing.is_ended && self.last_seen && self.delays_us.len() >= CHUNKS as usize;
        is_ended && self.held.ends_with(self.terminator.as_bytes())
    }

    fn bounded(&self) -> io::Result<()> {
        if self.held.len() > HELD_MAX { Err(io::Error::other("a line without end")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(sent_ns: u64, place: Place) -> Vec<u8> {
        let mut text = String::new();
        Shape::Lines.write(&mut text, sent_ns, place);
        format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
    }

    #[test]
    fn every_read_is_counted_by_what_it_brought() {
        let mut arrivals = Arrivals::default();
        arrivals.take(b"HTTP/1.1 200 OK\r\nA: b\r\n", 0).unwrap();
        arrivals.take(b"\r\n", 0).unwrap();
        assert_eq!((arrivals.reads, arrivals.alone), (0, 0));
        arrivals.take(&chunk(1_000_000, Place::Middle), 1_500_000).unwrap();
        assert_eq!((arrivals.reads, arrivals.alone, &arrivals.delays_us[..]), (1, 1, &[500][..]));
        let two = [chunk(2_000_000, Place::Middle), chunk(3_000_000, Place::Middle)].concat();
        let (most, rest) = two.split_at(two.len() - 10);
        arrivals.take(most, 3_000_000).unwrap();
        assert_eq!((arrivals.reads, arrivals.alone, arrivals.delays_us.len()), (2, 2, 2));
        arrivals.take(rest, 3_000_000).unwrap();
        assert_eq!((arrivals.reads, arrivals.alone, arrivals.delays_us.len()), (3, 3, 3));
        arrivals.take(&[chunk(4_000_000, Place::Middle), chunk(4_000_000, Place::Middle)].concat(), 0).unwrap();
        assert_eq!((arrivals.reads, arrivals.alone, arrivals.delays_us.len()), (4, 3, 5));
        assert!(!arrivals.complete());
    }

    #[test]
    fn a_stream_is_complete_with_its_last_line_and_the_end_of_its_body() {
        let mut arrivals = Arrivals::default();
        arrivals.take(b"HTTP/1.1 200 OK\r\n\r\n", 0).unwrap();
        for number in 1..=CHUNKS {
            arrivals.take(&chunk(0, if number == CHUNKS { Place::End } else { Place::Middle }), 0).unwrap();
            assert!(!arrivals.complete());
        }
        arrivals.take(b"0\r\n\r\n", 0).unwrap();
        assert!(arrivals.complete());
        assert_eq!(arrivals.alone, u64::from(CHUNKS));
    }

    #[test]
    fn a_stream_of_events_is_complete_with_its_terminator() {
        let shape = Shape::Events;
        let stream = |terminator: &str| {
            let mut arrivals = Arrivals { terminator: shape.terminator(), ..Arrivals::default() };
            arrivals.take(b"HTTP/1.1 200 OK\r\n\r\n", 0).unwrap();
            for number in 1..=CHUNKS {
                let mut text = String::new();
                shape.write(&mut text, 0, if number == CHUNKS { Place::End } else { Place::Middle });
                arrivals.take(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes(), 0).unwrap();
            }
            arrivals.take(terminator.as_bytes(), 0).unwrap();
            assert!(!arrivals.complete());
            arrivals.take(b"0\r\n\r\n", 0).unwrap();
            assert_eq!((arrivals.alone, arrivals.delays_us.len()), (u64::from(CHUNKS), CHUNKS as usize));
            arrivals.complete()
        };
        assert!(stream("e\r\ndata: [DONE]\n\n\r\n"));
        assert!(!stream(""));
    }

    #[test]
    fn refusals_and_strange_lines_are_errors() {
        assert!(Arrivals::default().take(b"HTTP/1.1 429 No\r\n\r\n", 0).is_err());
        assert!(Arrivals::default().take(b"HTTP/1.1 200 OK\r\n\r\n8\r\n{\"a\":1}\n\r\n", 0).is_err());
        assert!(Arrivals::default().take(&vec![b'x'; HELD_MAX + 1], 0).is_err());
    }

    #[test]
    fn a_tally_is_read_back() {
        let tally = Tally { chunks: 20_000, reads: 19_900, alone: 19_800, failed: 1, p50_us: 60, p99_us: 300 };
        assert_eq!(Tally::parse(&format!("{tally}\n")), Some(tally));
        assert_eq!(Tally::parse("a stream failed: no\n{}"), None);
    }
}
