//! A backend in the test's own hands: it says to every request the bytes that it was told to say next, in the pieces that it
//! was told, and keeps what it was asked.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::PATIENCE;

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As its framing says.
    Well,
    /// The connection is closed without the end that was due.
    Close,
    /// The connection is reset.
    Reset,
    /// Nothing more comes.
    Silence,
}

/// What is said to the next requests.
#[derive(Clone)]
pub(crate) struct Say {
    /// Status and fields, without framing.
    pub(crate) head: String,
    /// Pieces of the body.
    pub(crate) pieces: Vec<Vec<u8>>,
    pub(crate) framing: Framing,
    pub(crate) end: End,
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Chunked,
    Length,
    /// Up to the end of the connection.
    Open,
}

impl Say {
    /// A stream of this type, of these pieces.
    pub(crate) fn stream(content_type: &str, pieces: Vec<Vec<u8>>) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n");
        Self { head, pieces, framing: Framing::Chunked, end: End::Well }
    }
}

/// One request that was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) body: String,
}

struct Shared {
    say: Mutex<Say>,
    asked: Mutex<Vec<Asked>>,
}

/// A listening backend; its threads end with their connections.
pub(crate) struct Scripted {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Scripted {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let say = Say { framing: Framing::Length, ..Say::stream("application/json", Vec::new()) };
        let shared = Arc::new(Shared { say: Mutex::new(say), asked: Mutex::default() });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), shared) = (stream, Arc::clone(&serving)) else { return };
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it says from here on to all but the monitor.
    pub(crate) fn says(&self, say: Say) {
        *self.shared.say.lock().unwrap() = say;
    }

    /// What it was asked last.
    pub(crate) fn last(&self) -> Asked {
        self.shared.asked.lock().unwrap().last().unwrap().clone()
    }

    /// How often it was asked.
    pub(crate) fn count(&self) -> usize {
        self.shared.asked.lock().unwrap().len()
    }
}

/// What the monitor asks for without a request's id.
fn look(line: &str) -> Option<&'static str> {
    match line.split(' ').nth(1)? {
        "/api/version" => Some(r#"{"version":"0.12.0"}"#),
        "/api/ps" | "/api/tags" => Some(r#"{"models":[]}"#),
        _ => None,
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    while let Some((asked, is_clients)) = read(&mut stream) {
        if let Some(text) = look(&asked.line).filter(|_| !is_clients) {
            let length = text.len();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
            let _left = stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{text}").as_bytes());
            continue;
        }
        let is_head = asked.line.starts_with("HEAD");
        shared.asked.lock().unwrap().push(asked);
        let say = shared.say.lock().unwrap().clone();
        if tell(&mut stream, &say, is_head).is_err() || say.end != End::Well || say.framing == Framing::Open {
            return end(&mut stream, say.end);
        }
    }
}

/// The next request, and whether a client is behind it.
fn read(stream: &mut TcpStream) -> Option<(Asked, bool)> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..at].to_vec()).ok()?.to_ascii_lowercase();
            let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
            let length = field("content-length: ").map_or(0, |length| length.trim().parse().unwrap());
            if bytes.len() >= at + 4 + length {
                let line = String::from_utf8(bytes[..at].to_vec()).ok()?.lines().next()?.to_owned();
                let body = String::from_utf8_lossy(&bytes[at + 4..]).into_owned();
                return Some((Asked { line, body }, field("x-request-id: ").is_some()));
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

/// Says it: each piece in a write of its own.
fn tell(stream: &mut TcpStream, say: &Say, is_head: bool) -> std::io::Result<()> {
    let framing = match say.framing {
        Framing::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        Framing::Length => format!("Content-Length: {}\r\n", say.pieces.iter().map(Vec::len).sum::<usize>()),
        Framing::Open => "Connection: close\r\n".to_owned(),
    };
    stream.write_all(format!("{}{framing}\r\n", say.head).as_bytes())?;
    for piece in say.pieces.iter().filter(|_| !is_head) {
        match say.framing {
            Framing::Chunked => {
                let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                stream.write_all(&chunk)?;
            }
            _ => stream.write_all(piece)?,
        }
    }
    if say.end == End::Well && say.framing == Framing::Chunked {
        stream.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}

fn end(stream: &mut TcpStream, end: End) {
    match end {
        End::Well | End::Close => {
            let _left = stream.shutdown(Shutdown::Write);
        }
        End::Reset => {
            nix::sys::socket::setsockopt(
                stream,
                nix::sys::socket::sockopt::Linger,
                &nix::libc::linger { l_onoff: 1, l_linger: 0 },
            )
            .unwrap();
        }
        End::Silence => {
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let _left = stream.read(&mut [0; 1]);
        }
    }
}
