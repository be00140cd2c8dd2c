//! One question to the master over its control socket, and its answer.
//!
//! What is asked and what an answer means are not known here. Invariant: nothing waits without a bound, unless the
//! caller asked for it, and then the end of the master ends it.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gate_master::protocol::{ANSWER_LINE_MAX, Request};

/// How long connecting may take, and sending: the master does not block, so it has ended or hangs by then.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a question may take that waits for no work: even one that stands behind a reload's preparations.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);

/// Why no answer came.
#[derive(Debug)]
pub(crate) enum Silence {
    /// Nobody listens there, or the listener does not accept.
    Nobody(io::Error),
    /// Not for this user.
    NotPermitted(io::Error),
    /// Nothing came in this time.
    Late(Duration),
    /// The master closed the connection, or has ended, and said nothing.
    Closed,
    /// Something came that is no line.
    Strange(String),
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(error) => write!(f, "nobody answers: {error}"),
            Self::NotPermitted(error) => write!(f, "not permitted: {error}"),
            Self::Late(time) => write!(f, "no answer within {} s", time.as_secs()),
            Self::Closed => f.write_str("the gate closed the connection without an answer"),
            Self::Strange(what) => write!(f, "no answer that this release understands: {what}"),
        }
    }
}

impl std::error::Error for Silence {}

/// What came, and the connection it came on.
pub(crate) struct Reply {
    /// The line, with its line break.
    pub(crate) line: String,
    reader: BufReader<UnixStream>,
}

impl Reply {
    /// Waits until the master closes, which is its end where it keeps the connection open until then.
    ///
    /// # Errors
    /// It did not in time.
    pub(crate) fn closes(mut self) -> Result<(), Silence> {
        let mut rest = [0; 512];
        loop {
            match self.reader.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(broken(&error, self.reader.get_ref())),
            }
        }
    }
}

/// Asks; `within` bounds the wait for the answer, nothing does otherwise.
///
/// # Errors
/// No answer came.
pub(crate) fn ask(path: &Path, request: &Request, within: Option<Duration>) -> Result<Reply, Silence> {
    let mut socket = connect(path)?;
    socket.set_write_timeout(Some(CONNECT)).map_err(Silence::Nobody)?;
    socket.set_read_timeout(within).map_err(Silence::Nobody)?;
    match socket.write_all(request.to_line().as_bytes()) {
        // Whoever refuses a peer may have answered and closed by now.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(Silence::Nobody(error)),
        _ => {}
    }
    let mut reader = BufReader::new(socket);
    let mut line = Vec::new();
    let read = (&mut reader).take(ANSWER_LINE_MAX as u64 + 1).read_until(b'\n', &mut line);
    match read {
        Ok(0) => return Err(Silence::Closed),
        Ok(_) if line.ends_with(b"\n") => {}
        Ok(_) if line.len() > ANSWER_LINE_MAX => return Err(Silence::Strange("it is too long".to_owned())),
        Ok(_) => return Err(Silence::Strange("it is cut short".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(Silence::Closed),
        Err(error) => return Err(broken(&error, reader.get_ref())),
    }
    match String::from_utf8(line) {
        Ok(line) => Ok(Reply { line, reader }),
        Err(error) => Err(Silence::Strange(error.to_string())),
    }
}

/// On a thread of its own: connecting waits for ever where a listener's queue is full, and has no timeout.
fn connect(path: &Path) -> Result<UnixStream, Silence> {
    let (sender, receiver) = mpsc::channel();
    let path = path.to_owned();
    thread::spawn(move || {
        // Nobody takes it when the time is over.
        drop(sender.send(UnixStream::connect(path)));
    });
    match receiver.recv_timeout(CONNECT) {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Err(Silence::NotPermitted(error)),
        Ok(Err(error)) => Err(Silence::Nobody(error)),
        Err(_) => Err(Silence::Late(CONNECT)),
    }
}

fn broken(error: &io::Error, socket: &UnixStream) -> Silence {
    let timed_out = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
    let within = socket.read_timeout().ok().flatten().filter(|_| timed_out);
    within.map_or_else(|| Silence::Strange(error.to_string()), Silence::Late)
}
