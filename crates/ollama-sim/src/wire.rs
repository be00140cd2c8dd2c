//! One connection as bytes: requests in, bytes out, and the notice that the client has left. It knows HTTP/1.1's
//! framing and nothing of what is asked. Its invariant: reading a request leaves exactly the bytes behind it.

use std::future::ready;
use std::time::{Duration, Instant};

use crate::stream::{Reading, Stream};

/// Larger heads are refused: many times what a proxy adds to a client's.
const HEAD_MAX: usize = 64 << 10;
/// More headers are refused.
const HEADERS_MAX: usize = 128;
/// Larger bodies are refused: images come in bodies, and memory has an end.
const BODY_MAX: usize = 64 << 20;
/// A client that sends this much while it is being answered is taken for gone: nothing here needs pipelining.
const AHEAD_MAX: usize = 64 << 10;
/// Buffered output is sent from this size on.
const FLUSH_AT: usize = 16 << 10;
/// How long the client may take to close after an answer that ends the connection; Go waits as long.
const LINGER: Duration = Duration::from_millis(500);

/// A request as it arrived.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// As sent, with the query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) version: Version,
    pub(crate) afterwards: Afterwards,
}

/// The versions that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// No chunks and no second request.
    Http10,
    Http11,
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Afterwards {
    Keep,
    Close,
}

/// Why there is no request.
#[derive(Debug)]
pub(crate) enum NoRequest {
    /// The client has left, between requests or inside one.
    Gone,
    /// It must be told this status.
    Refused(u16),
}

impl Request {
    /// The target without its query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether a header that is a list has this word.
    fn lists(&self, name: &str, word: &str) -> bool {
        let same = |item: &str| item.trim().eq_ignore_ascii_case(word);
        self.headers.iter().any(|(own, value)| own.eq_ignore_ascii_case(name) && value.split(',').any(same))
    }
}

/// A connection.
pub(crate) struct Wire {
    stream: Stream,
    inbox: Vec<u8>,
    out: Vec<u8>,
    /// When something was last sent or received.
    pub(crate) active_at: Instant,
}

impl Wire {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, inbox: Vec::with_capacity(4096), out: Vec::with_capacity(4096), active_at: Instant::now() }
    }

    /// Reads the next request with its body.
    pub(crate) async fn request(&mut self) -> Result<Request, NoRequest> {
        let mut request = loop {
            if let Some((request, length)) = parse_head(&self.inbox)? {
                self.inbox.drain(..length);
                break request;
            }
            if self.inbox.len() >= HEAD_MAX {
                return Err(NoRequest::Refused(431));
            }
            self.more().await?;
        };
        let chunked = request.lists("transfer-encoding", "chunked");
        let length = match request.header("content-length") {
            Some(_) if chunked => return Err(NoRequest::Refused(400)),
            Some(text) => text.parse::<usize>().map_err(|_| NoRequest::Refused(400))?,
            None => 0,
        };
        if request.lists("expect", "100-continue") && (chunked || length > self.inbox.len()) {
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.flush().await.map_err(|Gone| NoRequest::Gone)?;
        }
        if chunked {
            self.chunks(&mut request.body).await?;
        } else {
            self.exactly(length, &mut request.body).await?;
        }
        self.active_at = Instant::now();
        Ok(request)
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> Result<(), NoRequest> {
        loop {
            let line = self.line().await?;
            let size = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            let size = std::str::from_utf8(size).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
            let size = size.ok_or(NoRequest::Refused(400))?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(());
            }
            self.exactly(size, body).await?;
            if !self.line().await?.is_empty() {
                return Err(NoRequest::Refused(400));
            }
        }
    }

    /// A line without its end.
    async fn line(&mut self) -> Result<Vec<u8>, NoRequest> {
        loop {
            if let Some(end) = self.inbox.windows(2).position(|window| window == b"\r\n") {
                let line = self.inbox[..end].to_vec();
                self.inbox.drain(..end + 2);
                return Ok(line);
            }
            if self.inbox.len() >= HEAD_MAX {
                return Err(NoRequest::Refused(400));
            }
            self.more().await?;
        }
    }

    /// Moves this many bytes to the end of `body`.
    async fn exactly(&mut self, mut length: usize, body: &mut Vec<u8>) -> Result<(), NoRequest> {
        if length > BODY_MAX - body.len() {
            return Err(NoRequest::Refused(413));
        }
        loop {
            let here = length.min(self.inbox.len());
            body.extend(self.inbox.drain(..here));
            length -= here;
            if length == 0 {
                return Ok(());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), NoRequest> {
        match self.stream.split().0.read(&mut self.inbox).await {
            Ok(0) | Err(_) => Err(NoRequest::Gone),
            Ok(_) => Ok(()),
        }
    }

    /// Puts bytes behind those that wait to be sent.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Sends when enough bytes wait.
    pub(crate) async fn flush_large(&mut self) -> Result<(), Gone> {
        if self.out.len() < FLUSH_AT {
            return Ok(());
        }
        self.flush().await?;
        // A client may have left without a trace in our writes; asking costs nothing while it is there.
        tokio::select! {
            biased;
            () = self.gone() => Err(Gone),
            () = ready(()) => Ok(()),
        }
    }

    /// Sends all bytes that wait; watches for the client's end while it cannot.
    pub(crate) async fn flush(&mut self) -> Result<(), Gone> {
        let (mut reading, mut writing) = self.stream.split();
        let sent = tokio::select! {
            biased;
            sent = writing.write_all(&self.out) => sent.map_err(|_| Gone),
            () = read_to_end(&mut reading, &mut self.inbox) => Err(Gone),
        };
        self.out.clear();
        if sent.is_ok() {
            self.active_at = Instant::now();
        }
        sent
    }

    /// Returns when the client has closed its side, which Go's server takes for its leave too.
    pub(crate) async fn gone(&mut self) {
        read_to_end(&mut self.stream.split().0, &mut self.inbox).await;
    }

    /// Ends the connection with a reset as soon as it is dropped.
    pub(crate) fn reset_on_drop(&mut self) {
        if let Err(why) = self.stream.reset_on_drop() {
            // The client sees an orderly end instead of a reset: a test of ours will say so.
            eprintln!("ollama-sim: no reset possible: {why}");
        }
    }

    /// Ends our side of the connection, and waits a moment for the client to end its own: closing over unread bytes
    /// would reset the connection, and the client might lose the answer.
    pub(crate) async fn finish(&mut self) {
        if self.shut().await.is_ok() {
            drop(tokio::time::timeout(LINGER, self.gone()).await);
        }
    }

    /// Ends our side of the connection.
    pub(crate) async fn shut(&mut self) -> Result<(), Gone> {
        self.stream.shutdown().await.map_err(|_| Gone)
    }
}

/// The client has left.
#[derive(Debug)]
pub(crate) struct Gone;

async fn read_to_end(reading: &mut Reading<'_>, inbox: &mut Vec<u8>) {
    while inbox.len() < AHEAD_MAX {
        if matches!(reading.read(inbox).await, Ok(0) | Err(_)) {
            return;
        }
    }
}

/// Parses a head that is complete; gives it with its length.
fn parse_head(bytes: &[u8]) -> Result<Option<(Request, usize)>, NoRequest> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(NoRequest::Refused(431)),
        Err(_) => return Err(NoRequest::Refused(400)),
    };
    let owned =
        |header: &httparse::Header<'_>| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned());
    let mut request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        target: head.path.unwrap_or_default().to_owned(),
        headers: head.headers.iter().map(owned).collect(),
        body: Vec::new(),
        version: if head.version == Some(0) { Version::Http10 } else { Version::Http11 },
        afterwards: Afterwards::Keep,
    };
    if request.version == Version::Http10 || request.lists("connection", "close") {
        request.afterwards = Afterwards::Close;
    }
    Ok(Some((request, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_whole_or_not_at_all() {
        let head = b"POST /api/chat?x=1 HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\nrest";
        for cut in 0..head.len() - 4 {
            assert!(matches!(parse_head(&head[..cut]), Ok(None)), "{cut}");
        }
        let (request, length) = parse_head(head).unwrap().unwrap();
        assert_eq!(&head[length..], b"rest");
        assert_eq!((request.method.as_str(), request.path()), ("POST", "/api/chat"));
        assert_eq!(request.header("HOST"), Some("a"));
        assert_eq!(request.afterwards, Afterwards::Close);
    }

    #[test]
    fn other_bytes_are_refused() {
        assert!(matches!(parse_head(b"\x16\x03\x01 tls\r\n\r\n"), Err(NoRequest::Refused(400))));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        assert!(matches!(parse_head(many.as_bytes()), Err(NoRequest::Refused(431))));
    }
}
