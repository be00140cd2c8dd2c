//! Writes one answer to a connection, at its pace and with its fault. What the answer says is settled before; here it
//! is only framed, timed and broken.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::answer::{Answer, Body, reason};
use crate::counters::Stage;
use crate::fault::{Break, Fault, Point};
use crate::voice::Telling;
use crate::wire::{Afterwards, Gone, Request, Version, Wire};

/// The sizes of the pieces that `split` cuts lines into, in turn: some boundary hits every place in a character.
const PIECES: [usize; 4] = [1, 2, 3, 5];
/// Bytes no HTTP client accepts as a head.
const GARBAGE: &[u8] = b"\x00\x01nonsense, not a status line\r\n\r\n";
/// What an `error` fault says.
pub(crate) const STREAM_ERROR: &str = "an error was encountered while running the model: unexpected EOF";

/// Why an answer did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client left.
    Gone(Stage),
    /// A fault ended the connection.
    Broken,
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone(Stage::Sending)
    }
}

/// One answer on its way.
pub(crate) struct Sender<'a> {
    wire: &'a mut Wire,
    fault: Fault,
    version: Version,
    afterwards: Afterwards,
    content: Content,
    /// Stream lines sent.
    pub(crate) lines: u64,
}

/// Whether the body is sent with the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Sent,
    /// A HEAD request.
    Left,
}

impl<'a> Sender<'a> {
    pub(crate) fn new(wire: &'a mut Wire, request: &Request, fault: Fault) -> Self {
        Self {
            wire,
            fault,
            version: request.version,
            afterwards: request.afterwards,
            content: if request.method == "HEAD" { Content::Left } else { Content::Sent },
            lines: 0,
        }
    }

    /// Sends the answer whole, unless the fault or the client is against it.
    pub(crate) async fn send(&mut self, answer: Answer) -> Result<(), End> {
        if matches!(answer.body, Body::HangUp) {
            return Err(self.break_off(Break::Close).await);
        }
        self.head(&answer).await?;
        if self.content == Content::Left {
            return Ok(self.wire.flush().await?);
        }
        match answer.body {
            Body::Full(body) => self.full(&body).await?,
            Body::OneChunk(body) => {
                self.put_chunk(&body);
                self.put_end();
            }
            Body::Stream(telling) => self.stream(*telling).await?,
            Body::Short(body, _) => {
                self.wire.put(body);
                return Err(self.break_off(Break::Close).await);
            }
            Body::HangUp => {}
        }
        Ok(self.wire.flush().await?)
    }

    async fn head(&mut self, answer: &Answer) -> Result<(), End> {
        let head = self.head_text(answer);
        self.break_at(Point::BeforeHead).await?;
        match self.fault {
            Fault::GarbageHead => {
                self.wire.put(GARBAGE);
                return Err(self.break_off(Break::Close).await);
            }
            Fault::Break(how, Point::MidHead) => {
                self.wire.put(&head.as_bytes()[..head.len() / 2]);
                return Err(self.break_off(how).await);
            }
            Fault::SlowHead(pause) => {
                for byte in head.as_bytes() {
                    self.wire.put(&[*byte]);
                    self.wire.flush().await?;
                    self.pause(Instant::now() + pause).await?;
                }
            }
            _ => self.wire.put(head.as_bytes()),
        }
        self.break_at(Point::AfterHead).await
    }

    /// Header names and order are those of Go's server.
    fn head_text(&self, answer: &Answer) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
        let mut line = |name: &str, value: &str| {
            head.extend([name, ": ", value, "\r\n"]);
        };
        let close = self.afterwards == Afterwards::Close;
        for (name, value) in answer.extra.iter().filter(|(name, _)| !(close && *name == "Connection")) {
            line(name, value);
        }
        if !answer.content_type.is_empty() {
            line("Content-Type", answer.content_type);
        }
        line("Date", &httpdate::fmt_http_date(SystemTime::now()));
        match &answer.body {
            Body::Full(body) => line("Content-Length", &body.len().to_string()),
            Body::Short(_, promised) => line("Content-Length", &promised.to_string()),
            Body::OneChunk(_) | Body::Stream(_) | Body::HangUp => {}
        }
        if close {
            line("Connection", "close");
        }
        if matches!(answer.body, Body::OneChunk(_) | Body::Stream(_)) && self.version == Version::Http11 {
            line("Transfer-Encoding", "chunked");
        }
        head.push_str("\r\n");
        head
    }

    /// A body with a length is one chunk as far as faults go.
    async fn full(&mut self, body: &[u8]) -> Result<(), End> {
        let half = &body[..body.len() / 2];
        match self.fault {
            Fault::Break(how, Point::Chunks(_)) => Err(self.break_off(how).await),
            Fault::Break(how, Point::MidChunk(_)) => {
                self.wire.put(half);
                Err(self.break_off(how).await)
            }
            Fault::Cut(_) | Fault::CutMidLine(_) => {
                self.wire.put(half);
                Err(self.break_off(Break::Close).await)
            }
            _ => {
                self.wire.put(body);
                Ok(())
            }
        }
    }

    async fn stream(&mut self, mut telling: Telling) -> Result<(), End> {
        let (prompt_time, gap) = (telling.generation.prompt_time, telling.generation.gap);
        let mut due = Instant::now() + prompt_time;
        let after = match self.fault {
            Fault::Break(_, Point::Chunks(after) | Point::MidChunk(after))
            | Fault::Cut(after)
            | Fault::CutMidLine(after)
            | Fault::ErrorLine(after)
            | Fault::ErrorEvent(after) => Some(after as u64),
            _ => None,
        };
        // The head goes out with the first token, as Ollama's does.
        if prompt_time > Duration::ZERO {
            self.pause(due).await?;
        }
        loop {
            if telling.takes_time() && gap > Duration::ZERO {
                due += gap;
                self.pause(due).await?;
            }
            let (line, last) = telling.chunk();
            if after.is_some_and(|after| self.lines == after || last) {
                return self.strike(&telling, &line).await;
            }
            self.put_line(&line).await?;
            self.lines += 1;
            if last {
                self.put_end();
                return Ok(());
            }
            if gap > Duration::ZERO {
                self.wire.flush().await?;
            } else {
                self.wire.flush_large().await?;
            }
        }
    }

    /// The fault's moment has come, in place of this line.
    async fn strike(&mut self, telling: &Telling, line: &[u8]) -> Result<(), End> {
        match self.fault {
            Fault::Break(how, Point::MidChunk(_)) => {
                let head = format!("{:x}\r\n", line.len());
                self.wire.put(head.as_bytes());
                self.wire.put(&line[..line.len() / 2]);
                return Err(self.break_off(how).await);
            }
            Fault::Break(how, _) => return Err(self.break_off(how).await),
            Fault::CutMidLine(_) => self.put_chunk(&line[..line.len() / 2]),
            Fault::ErrorLine(_) => self.put_chunk(&telling.swallowed(STREAM_ERROR)),
            Fault::ErrorEvent(_) => self.put_chunk(&telling.told(STREAM_ERROR)),
            _ => {}
        }
        self.put_end();
        Ok(())
    }

    async fn put_line(&mut self, line: &[u8]) -> Result<(), End> {
        if self.fault != Fault::Split {
            self.put_chunk(line);
            return Ok(());
        }
        let mut rest = line;
        for size in PIECES.iter().cycle() {
            let (piece, behind) = rest.split_at((*size).min(rest.len()));
            self.put_chunk(piece);
            self.wire.flush().await?;
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn put_chunk(&mut self, bytes: &[u8]) {
        // An empty chunk would be the end.
        if bytes.is_empty() {
            return;
        }
        if self.version == Version::Http10 {
            return self.wire.put(bytes);
        }
        self.wire.put(format!("{:x}\r\n", bytes.len()).as_bytes());
        self.wire.put(bytes);
        self.wire.put(b"\r\n");
    }

    fn put_end(&mut self) {
        if self.version == Version::Http11 {
            self.wire.put(b"0\r\n\r\n");
        }
    }

    async fn pause(&mut self, until: Instant) -> Result<(), End> {
        tokio::select! {
            () = tokio::time::sleep_until(until) => Ok(()),
            () = self.wire.gone() => Err(End::Gone(Stage::Sending)),
        }
    }

    async fn break_at(&mut self, here: Point) -> Result<(), End> {
        match self.fault {
            Fault::Break(how, point) if point == here => Err(self.break_off(how).await),
            _ => Ok(()),
        }
    }

    /// Sends what is ready and breaks the connection.
    async fn break_off(&mut self, how: Break) -> End {
        if self.wire.flush().await.is_err() {
            return End::Gone(Stage::Sending);
        }
        match how {
            Break::Reset => self.wire.reset_on_drop(),
            Break::Stall => {
                self.wire.gone().await;
                return End::Gone(Stage::Stalled);
            }
            // A client that is gone needs no end of ours.
            Break::Close => drop(self.wire.shut().await),
        }
        End::Broken
    }
}
