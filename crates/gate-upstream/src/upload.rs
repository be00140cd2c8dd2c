//! Bodies that are too large to be held: passed on piece by piece as they come from the client.
//!
//! Invariant: at most one piece is held, a backend that takes none for longer than an answer may take is given up, and a body that does not come to its end never looks to the backend as if it had.

use std::pin::pin;

use bytes::Bytes;
use gate_api::Rejection;
use gate_api::rejection::Phase;

use crate::ask::{Ask, Framing};
use crate::backend::{Backend, Exchange, Patience, Sent, send_all};
use crate::pool::Conn;
use crate::within::within;

/// A last chunk of length zero, and no trailers: the end of a body in chunks.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Backend {
    /// Sends `ask` with a body of `length` bytes (or of an unknown length), of which `next` gives the pieces and then none, and
    /// waits for the head of the answer. A backend that answers before the end is not sent the rest.
    ///
    /// The connection is a new one: what has been given away cannot be sent again over another.
    ///
    /// # Errors
    /// What `next` fails with; [`Rejection::BackendUnreachable`], [`Rejection::BackendTimeout`] or
    /// [`Rejection::BackendBroken`].
    pub async fn upload(
        &self,
        ask: &Ask,
        length: Option<u64>,
        mut next: impl AsyncFnMut() -> Result<Option<Bytes>, Rejection>,
    ) -> Result<Exchange, Rejection> {
        let framing = length.map_or(Framing::Chunked, Framing::Length);
        let mut conn = self.open().await?;
        let mut goes_on = self.wrote(&mut conn, &[self.opening(ask, framing), Bytes::new()]).await?;
        while goes_on {
            let Some(piece) = next().await? else { break };
            if piece.is_empty() {
                // As a chunk it would be the last one.
                continue;
            }
            goes_on = match framing {
                Framing::Length(_) => self.wrote(&mut conn, &[piece, Bytes::new()]).await?,
                Framing::Chunked => {
                    let size = Bytes::from(format!("{:x}\r\n", piece.len()));
                    self.wrote(&mut conn, &[size, piece]).await?
                        && self.wrote(&mut conn, &[Bytes::from_static(b"\r\n"), Bytes::new()]).await?
                }
            };
        }
        if goes_on && framing == Framing::Chunked {
            self.wrote(&mut conn, &[Bytes::from_static(LAST_CHUNK), Bytes::new()]).await?;
        }
        let first_byte = self.first_byte();
        let patience = Patience { load: first_byte, first_byte, is_loaded: &|| true };
        let begun = patience.watch(pin!(self.hear(&mut conn))).await?;
        Ok(self.exchange(begun, conn, ask.method))
    }

    /// Whether it went out. Where it did not, the answer may say why.
    async fn wrote(&self, conn: &mut Conn, parts: &[Bytes; 2]) -> Result<bool, Rejection> {
        let after = self.first_byte();
        let sent = within(after, send_all(conn, parts)).await;
        let sent = sent.map_err(|_| Rejection::BackendTimeout { phase: Phase::FirstByte, after })?;
        Ok(matches!(sent, Sent::All))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::ask::Method;
    use crate::rig::Yard;

    const ANSWER: &[u8] = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n";
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A backend that reads up to `end`, answers, and tells what it read; or what it had when the connection ended.
    fn backend(end: &'static [u8]) -> (Yard, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let (mut conn, _) = listener.accept().unwrap();
            let mut read = Vec::new();
            while !read.ends_with(end) {
                let mut byte = [0];
                if conn.read(&mut byte).unwrap() == 0 {
                    break;
                }
                read.extend_from_slice(&byte);
            }
            conn.write_all(ANSWER).ok();
            tell.send(String::from_utf8(read).unwrap()).unwrap();
        });
        let mut yard = Yard::new(&[1]);
        yard.specs[0].reach = crate::Reach::Http { authority, prefix: String::new() };
        (yard, told)
    }

    async fn sent(
        yard: &Yard,
        length: Option<u64>,
        pieces: &[Result<&'static str, Rejection>],
    ) -> Result<u16, Rejection> {
        let fleet = yard.process();
        let member = fleet.any(0).unwrap();
        let ask = Ask { method: Method::Post, ..Ask::get("/api/blobs/x") };
        let mut pieces = pieces.iter().cloned();
        let next =
            async || pieces.next().transpose().map(|piece| piece.map(|text| Bytes::from_static(text.as_bytes())));
        member.backend.upload(&ask, length, next).await.map(|exchange| exchange.head.status.as_u16())
    }

    fn body(read: &str) -> &str {
        read.split_once("\r\n\r\n").unwrap().1
    }

    #[tokio::test]
    async fn pieces_are_framed_as_their_length_is_known() {
        let (yard, told) = backend(b"end");
        assert_eq!(sent(&yard, Some(9), &[Ok("be"), Ok(""), Ok("gin"), Ok(" end")]).await, Ok(201));
        let read = told.recv_timeout(PATIENCE).unwrap();
        assert!(read.contains("content-length: 9\r\n"), "{read}");
        assert_eq!(body(&read), "begin end");
        let (yard, told) = backend(b"0\r\n\r\n");
        assert_eq!(sent(&yard, None, &[Ok("be"), Ok(""), Ok("0123456789abcdefg")]).await, Ok(201));
        let read = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(body(&read), "2\r\nbe\r\n11\r\n0123456789abcdefg\r\n0\r\n\r\n");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_has_no_end() {
        let (yard, told) = backend(b"0\r\n\r\n");
        let left = Rejection::BodyTimeout { after: PATIENCE };
        assert_eq!(sent(&yard, None, &[Ok("be"), Err(left.clone())]).await, Err(left));
        assert_eq!(body(&told.recv_timeout(PATIENCE).unwrap()), "2\r\nbe\r\n");
    }

    #[tokio::test]
    async fn an_answer_before_the_end_is_the_answer() {
        let (yard, told) = backend(b"\r\n\r\n");
        let endless = std::iter::repeat_n(Ok("0123456789abcdef"), 1_000_000).collect::<Vec<_>>();
        assert_eq!(sent(&yard, None, &endless).await, Ok(201));
        assert!(body(&told.recv_timeout(PATIENCE).unwrap()).is_empty());
    }

    #[test]
    fn a_backend_that_takes_no_more_is_given_up() {
        let mut yard = Yard::new(&[1]);
        let path = std::env::temp_dir().join(format!("gate-upload-{}", std::process::id()));
        drop(std::fs::remove_file(&path));
        // The kernel takes the connection and some of what is sent, and nobody reads it.
        let _listener = UnixListener::bind(&path).unwrap();
        yard.specs[0].reach = crate::Reach::Unix(path.clone());
        // Its clock goes on when everybody waits.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        for length in [None, Some(1 << 40)] {
            let endless = std::iter::repeat_n(Ok("0123456789abcdef"), 1_000_000).collect::<Vec<_>>();
            let sent = runtime.block_on(async { timeout(PATIENCE, sent(&yard, length, &endless)).await });
            let is_late = |why: &Rejection| matches!(why, Rejection::BackendTimeout { phase: Phase::FirstByte, .. });
            assert!(sent.as_ref().is_ok_and(|sent| sent.as_ref().is_err_and(is_late)), "{length:?}: {sent:?}");
        }
        std::fs::remove_file(path).unwrap();
    }
}
