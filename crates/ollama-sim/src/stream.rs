//! One connection's socket, TCP or Unix. It moves bytes and keeps none.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

/// A connected socket.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Has every write leave at once: otherwise a token waits for the acknowledgement of the one before.
    pub(crate) fn send_at_once(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Both directions, to be waited for at once.
    pub(crate) fn split(&mut self) -> (Reading<'_>, Writing<'_>) {
        match self {
            Self::Tcp(stream) => {
                let (reading, writing) = stream.split();
                (Reading::Tcp(reading), Writing::Tcp(writing))
            }
            Self::Unix(stream) => {
                let (reading, writing) = stream.split();
                (Reading::Unix(reading), Writing::Unix(writing))
            }
        }
    }

    /// Ends our side.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown().await,
            Self::Unix(stream) => stream.shutdown().await,
        }
    }

    /// Has the connection end with a reset when it is dropped, where there is such a thing.
    pub(crate) fn reset_on_drop(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_zero_linger(),
            Self::Unix(_) => Ok(()),
        }
    }
}

/// What comes in.
pub(crate) enum Reading<'a> {
    Tcp(tcp::ReadHalf<'a>),
    Unix(unix::ReadHalf<'a>),
}

impl Reading<'_> {
    /// Reads what is there, or waits for it; 0 bytes is the end. Nothing is lost when the future is dropped.
    pub(crate) async fn read(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Tcp(reading) => reading.read_buf(into).await,
            Self::Unix(reading) => reading.read_buf(into).await,
        }
    }
}

/// What goes out.
pub(crate) enum Writing<'a> {
    Tcp(tcp::WriteHalf<'a>),
    Unix(unix::WriteHalf<'a>),
}

impl Writing<'_> {
    /// Writes all of it.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(writing) => writing.write_all(bytes).await,
            Self::Unix(writing) => writing.write_all(bytes).await,
        }
    }
}
