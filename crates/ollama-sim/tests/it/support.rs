//! A running simulation, and a client that shows bytes and the way a connection ended. No assertions of its own beyond
//! deadlines.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ollama_sim::{Config, Counters, Sim};
use tokio::sync::oneshot;

/// Nothing here takes a tenth of this on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A simulation in a thread of its own; ends with the value.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) sim: Sim,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn new(config: Config) -> Self {
        let sim = Sim::new(config);
        let (stop, stopped) = oneshot::channel::<()>();
        let (told, address) = std::sync::mpsc::channel();
        let own = sim.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                own.serve(listener, stopped).await.unwrap();
            });
        });
        Self { address: address.recv_timeout(PATIENCE).unwrap(), sim, stop: Some(stop), thread: Some(thread) }
    }

    /// Waits until the counters are as wanted.
    pub(crate) fn wait(&self, what: &str, wanted: impl Fn(&Counters) -> bool) -> Counters {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counters = self.sim.counters();
            if wanted(&counters) {
                return counters;
            }
            assert!(Instant::now() < deadline, "{what} never came: {counters:#?}");
            std::thread::yield_now();
        }
    }

    /// Sends a generate request for this prompt on a connection of its own.
    pub(crate) fn ask(&self, prompt: &str) -> Client {
        self.post("/api/generate", &format!(r#"{{"model":"llama3.2:1b","prompt":"{prompt}"}}"#))
    }

    /// The same, not streamed.
    pub(crate) fn ask_whole(&self, prompt: &str) -> Client {
        self.post("/api/generate", &format!(r#"{{"model":"llama3.2:1b","prompt":"{prompt}","stream":false}}"#))
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Client {
        let mut client = Client::connect(self.address);
        client.post(path, body);
        client
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        let mut client = Client::connect(self.address);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n\r\n").as_bytes());
        client.answer()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            panic!("the simulation panicked");
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Closed,
    Reset,
    /// It is still open.
    Open,
}

/// A connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    /// What was read beyond the last answer.
    kept: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, kept: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn post(&mut self, path: &str, body: &str) {
        let length = body.len();
        self.send(format!("POST {path} HTTP/1.1\r\nHost: sim\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes());
    }

    /// Reads until the connection ends.
    pub(crate) fn rest(mut self) -> (Vec<u8>, Ending) {
        loop {
            match self.more() {
                Ending::Open => {}
                ending => return (self.kept, ending),
            }
        }
    }

    /// Reads once; panics when nothing comes in time.
    pub(crate) fn more(&mut self) -> Ending {
        let mut buffer = [0; 16384];
        match self.stream.read(&mut buffer) {
            Ok(0) => Ending::Closed,
            Ok(length) => {
                self.kept.extend_from_slice(&buffer[..length]);
                Ending::Open
            }
            Err(why) if why.kind() == ErrorKind::ConnectionReset => Ending::Reset,
            // A read with a timeout is not taken up again by the kernel.
            Err(why) if why.kind() == ErrorKind::Interrupted => Ending::Open,
            Err(why) => panic!("{why} after {:?}", String::from_utf8_lossy(&self.kept)),
        }
    }

    /// Reads until a text has come.
    pub(crate) fn until(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.kept).contains(text) {
            assert_eq!(self.more(), Ending::Open, "no {text:?} in {:?}", String::from_utf8_lossy(&self.kept));
        }
    }

    /// What has been read and not been made an answer.
    pub(crate) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }

    /// Whether the connection is open and silent right now.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let read = self.stream.read(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        matches!(read, Err(why) if why.kind() == ErrorKind::WouldBlock)
    }

    /// Reads one whole answer.
    pub(crate) fn answer(&mut self) -> Answer {
        loop {
            if let Some((answer, length)) = Answer::parse(&self.kept) {
                self.kept.drain(..length);
                return answer;
            }
            assert_eq!(self.more(), Ending::Open, "no whole answer in {:?}", String::from_utf8_lossy(&self.kept));
        }
    }
}

/// One answer with its framing taken off.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status_line: String,
    pub(crate) headers: Vec<(String, String)>,
    /// The chunks, or the body as the only one.
    pub(crate) chunks: Vec<Vec<u8>>,
}

impl Answer {
    /// Parses an answer that is complete; gives it with its length. An answer without framing has no body.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap().to_owned();
        let split = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        };
        let mut answer = Self { status_line, headers: lines.map(split).collect(), chunks: Vec::new() };
        let mut at = end + 4;
        if answer.header("Transfer-Encoding") == Some("chunked") {
            loop {
                let line = bytes[at..].windows(2).position(|window| window == b"\r\n")?;
                let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..at + line]).unwrap(), 16).unwrap();
                at += line + 2;
                let chunk = bytes.get(at..at + size)?;
                assert_eq!(bytes.get(at + size..at + size + 2)?, b"\r\n", "a chunk ends with a line end");
                at += size + 2;
                if size == 0 {
                    return Some((answer, at));
                }
                answer.chunks.push(chunk.to_vec());
            }
        }
        let length = answer.header("Content-Length").map_or(0, |text| text.parse().unwrap());
        answer.chunks.push(bytes.get(at..at + length)?.to_vec());
        Some((answer, at + length))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn status(&self) -> u16 {
        self.status_line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn body(&self) -> String {
        String::from_utf8(self.chunks.concat()).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body()).unwrap()
    }

    /// The lines of a stream, parsed.
    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
        self.body().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
