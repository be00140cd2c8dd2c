//! A backend in the test's own hands: it reads a request and says each byte of the answer when the test wants it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::support::PATIENCE;

/// A listening backend that does nothing by itself.
pub(crate) struct Scripted {
    listener: TcpListener,
}

/// One request that it was asked, and the connection to answer on.
pub(crate) struct Asked {
    pub(crate) request_line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    stream: TcpStream,
}

impl Scripted {
    pub(crate) fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Takes the next request that is not the monitor's, which is told that all is well.
    pub(crate) fn asked(&self) -> Asked {
        loop {
            let (stream, _) = self.listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let Some(mut asked) = Asked::read(stream) else { continue };
            if !asked.request_line.contains("/api/version") {
                return asked;
            }
            asked.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
        }
    }
}

impl Asked {
    fn read(mut stream: TcpStream) -> Option<Self> {
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
                let (request_line, fields) = head.split_once("\r\n").unwrap();
                let headers: Vec<(String, String)> = fields
                    .lines()
                    .filter_map(|line| line.split_once(": "))
                    .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                    .collect();
                let length = headers.iter().find(|(name, _)| name == "content-length");
                let length = length.map_or(0, |(_, length)| length.parse().unwrap());
                if bytes.len() >= end + 4 + length {
                    let body = String::from_utf8(bytes[end + 4..].to_vec()).unwrap();
                    return Some(Self { request_line: request_line.to_owned(), headers, body, stream });
                }
            }
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
            }
        }
    }

    pub(crate) fn say(&mut self, text: &str) {
        // The gate may have closed: the test will see that from the other side.
        let _sent = self.stream.write_all(text.as_bytes());
    }

    /// Begins a stream of lines, the last answer on this connection.
    pub(crate) fn begin_stream(&mut self) {
        self.say("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n");
        self.say("Transfer-Encoding: chunked\r\n\r\n");
    }

    pub(crate) fn chunk(&mut self, text: &str) {
        self.say(&format!("{:x}\r\n{text}\r\n", text.len()));
    }

    /// Answers with a whole body, the last on this connection.
    pub(crate) fn answer(&mut self, status: &str, fields: &str, body: &str) {
        let length = body.len();
        self.say(&format!("HTTP/1.1 {status}\r\n{fields}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"));
    }
}
