//! One request and what became of it, over a plain socket. It never asks twice: what a server loses is counted.
//!
//! Invariant: a connection is kept only after a whole and right answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long one request may take with its connection: several times the slowest answer a server is asked for.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The largest answer: a head and a line of JSON.
pub(crate) const BYTES_MAX: usize = 64 << 10;
/// What is read at once.
const PART: usize = 4 << 10;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The right answer came whole.
    Answered,
    /// Nobody listened.
    Refused,
    /// The connection ended before the answer was whole.
    Broken,
    /// Another status, or another's answer.
    Wrong,
    /// No whole answer in time.
    Late,
}

/// What a client does with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Keeps it for as many requests as the server allows.
    Keep,
    /// Takes a new one for each request.
    Anew,
}

/// A client of one server, with the connection it keeps.
#[derive(Debug)]
pub(crate) struct Client {
    server: SocketAddr,
    habit: Habit,
    kept: Option<TcpStream>,
}

impl Client {
    /// A client without a connection yet.
    pub(crate) fn new(port: u16, habit: Habit) -> Self {
        Self { server: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), habit, kept: None }
    }

    /// Asks for an answer that takes the server so long and holds the mark, which no other request may have.
    pub(crate) fn ask(&mut self, delay: Duration, mark: &str) -> Outcome {
        let until = Instant::now() + ANSWER_MAX;
        // As a pool of connections does it: one that the server has closed is not used, and costs no request.
        let kept = self.kept.take().filter(is_open);
        let mut stream = match kept.map_or_else(|| connect(self.server), Ok) {
            Ok(stream) => stream,
            Err(why) => return fate(&why),
        };
        match exchange(&mut stream, &self.request(delay, mark), until) {
            Ok(answer) if answer.status != 200 || !answer.text.contains(mark) => Outcome::Wrong,
            Ok(answer) => {
                self.kept = Some(stream).filter(|_| answer.after == After::Kept && self.habit == Habit::Keep);
                Outcome::Answered
            }
            Err(why) => fate(&why),
        }
    }

    fn request(&self, delay: Duration, mark: &str) -> String {
        let body = format!(r#"{{"model":"m","prompt":"@sim:delay:{} {mark}","stream":false}}"#, delay.as_millis());
        let close = if self.habit == Habit::Anew { "Connection: close\r\n" } else { "" };
        format!(
            "POST /api/generate HTTP/1.1\r\nHost: {}\r\n{close}Content-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.server,
            body.len()
        )
    }
}

fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, ANSWER_MAX)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether nothing has come on an idle connection: an end, an error and stray bytes all make it useless.
fn is_open(stream: &TcpStream) -> bool {
    let look = || {
        stream.set_nonblocking(true)?;
        let seen = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        seen
    };
    look().is_err_and(|why| why.kind() == ErrorKind::WouldBlock)
}

fn fate(why: &io::Error) -> Outcome {
    match why.kind() {
        ErrorKind::ConnectionRefused => Outcome::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Outcome::Late,
        ErrorKind::InvalidData => Outcome::Wrong,
        _ => Outcome::Broken,
    }
}

/// Whether the server leaves the connection open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Kept,
    Closed,
}

/// A whole answer; a body keeps the framing it came in.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) after: After,
    pub(crate) text: String,
}

fn exchange(stream: &mut TcpStream, request: &str, until: Instant) -> io::Result<Answer> {
    stream.write_all(request.as_bytes())?;
    let (mut held, mut part) = (Vec::new(), [0; PART]);
    loop {
        if let Some(answer) = whole(&held)? {
            return Ok(answer);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            _ if held.len() > BYTES_MAX => return Err(ErrorKind::InvalidData.into()),
            read => held.extend_from_slice(&part[..read]),
        }
    }
}

/// The answer, once all of it is there; an error where it is no HTTP or has no length.
pub(crate) fn whole(read: &[u8]) -> io::Result<Option<Answer>> {
    let text = String::from_utf8_lossy(read);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or(ErrorKind::InvalidData)?;
    let (mut length, mut chunked, mut after) = (None, false, After::Kept);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse::<usize>().ok(),
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" if value.eq_ignore_ascii_case("close") => after = After::Closed,
            _ => {}
        }
    }
    let complete = match length {
        Some(length) => body.len() >= length,
        None if chunked => body.ends_with("0\r\n\r\n"),
        None => return Err(ErrorKind::InvalidData.into()),
    };
    Ok(complete.then(|| Answer { status, after, text: body.to_owned() }))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn answers_are_whole_or_not_yet() {
        let answer = |status, after, text: &str| Some(Answer { status, after, text: text.to_owned() });
        for (held, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes", answer(200, After::Kept, "yes")),
            ("HTTP/1.1 502 Bad\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", answer(502, After::Closed, "")),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
                answer(200, After::Kept, "1\r\na\r\n0\r\n\r\n"),
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nyes", None),
            ("HTTP/1.1 200 OK\r\ncontent", None),
        ] {
            assert_eq!(whole(held.as_bytes()).unwrap(), expected, "{held}");
        }
        for bad in ["nothing\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nno length"] {
            assert_eq!(whole(bad.as_bytes()).unwrap_err().kind(), ErrorKind::InvalidData, "{bad}");
        }
    }

    /// Asks a server that reads each request and answers the connections in turn with these texts.
    fn asked(habit: Habit, connections: &'static [&'static [&'static str]]) -> Vec<Outcome> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = connections.iter().map(|answers| answers.len()).sum();
        let server = std::thread::spawn(move || {
            for answers in connections {
                let (mut stream, _) = listener.accept().unwrap();
                for answer in *answers {
                    let mut held = [0; PART];
                    assert!(stream.read(&mut held).unwrap() > 0);
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        let mut client = Client::new(port, habit);
        let seen = (0..requests).map(|_| client.ask(Duration::ZERO, "mark")).collect();
        server.join().unwrap();
        seen
    }

    #[test]
    fn every_fate_is_told_apart() {
        const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmark";
        const OTHER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbark";
        const FAILED: &str = "HTTP/1.1 502 Bad\r\ncontent-length: 4\r\n\r\nmark";
        assert_eq!(asked(Habit::Keep, &[&[GOOD, GOOD]]), [Outcome::Answered; 2]);
        assert_eq!(asked(Habit::Anew, &[&[GOOD], &[GOOD]]), [Outcome::Answered; 2]);
        assert_eq!(asked(Habit::Keep, &[&[OTHER], &[FAILED]]), [Outcome::Wrong; 2]);
        assert_eq!(asked(Habit::Keep, &[&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nmark"]]), [Outcome::Broken]);
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        assert_eq!(Client::new(nobody, Habit::Keep).ask(Duration::ZERO, "mark"), Outcome::Refused);
    }
}
