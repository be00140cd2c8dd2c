//! A client in the middle of a streamed answer.

use std::io;
use std::net::SocketAddr;

use crate::scene::{backend, generate};
use crate::support::http::{Client, ask};

/// An answer that has begun.
pub(crate) struct Stream {
    client: Client,
    got: Vec<u8>,
}

impl Stream {
    /// Asks, and reads the first line.
    #[track_caller]
    pub(crate) fn begin(address: SocketAddr, prompt: &str) -> Self {
        let mut client = Client::connect(address);
        client.send(&generate(prompt).bytes()).unwrap();
        let (status, _) = client.head().expect("an answer begins");
        assert_eq!(status, 200);
        let mut stream = Self { client, got: Vec::new() };
        assert!(stream.more().expect("a first line"));
        stream
    }

    /// Reads a piece; `false` at the end.
    pub(crate) fn more(&mut self) -> io::Result<bool> {
        let chunk = self.client.chunk()?;
        self.got.extend_from_slice(chunk.as_deref().unwrap_or_default());
        Ok(chunk.is_some())
    }

    /// Everything, when it has come to its proper end.
    pub(crate) fn finish(mut self) -> io::Result<Vec<u8>> {
        while self.more()? {}
        Ok(self.got)
    }

    /// Whether the gate ends it, and says so in a last line.
    pub(crate) fn was_ended(self) -> bool {
        let got = String::from_utf8(self.finish().expect("an end in its proper form")).unwrap();
        got.lines().last().is_some_and(|line| line.starts_with(r#"{"error":"#))
    }

    /// The client's own port.
    pub(crate) fn port(&self) -> u16 {
        self.client.socket().local_addr().unwrap().port()
    }
}

/// What the backend itself says to this prompt.
pub(crate) fn expected(prompt: &str) -> Vec<u8> {
    let answer = ask(backend(0).address, &generate(prompt)).body;
    assert!(answer.ends_with(b"}\n") && answer.windows(11).any(|window| window == b"\"done\":true"));
    answer
}
