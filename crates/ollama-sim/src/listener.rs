//! Where connections come from, and a way to be away for a time without losing the place. It answers nothing.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::{TcpListener, TcpSocket, UnixListener};

use crate::stream::Stream;

/// Connections that may wait to be accepted after a `refuse` fault; what std and tokio use at the start is no more.
const BACKLOG: u32 = 1024;

/// A listening socket.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// An address that is kept while nobody listens there: connections are refused.
pub(crate) enum Held {
    Tcp(TcpSocket),
    Unix(PathBuf),
}

impl Listener {
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }

    /// Listens no more.
    pub(crate) fn close(self) -> io::Result<Held> {
        match self {
            Self::Tcp(listener) => {
                let address = listener.local_addr()?;
                drop(listener);
                hold(address).map(Held::Tcp)
            }
            // The file stays, and with it the place.
            Self::Unix(listener) => match listener.local_addr()?.as_pathname() {
                Some(path) => Ok(Held::Unix(path.to_owned())),
                None => Err(io::Error::new(ErrorKind::Unsupported, "the socket has no path to be bound to again")),
            },
        }
    }
}

impl Held {
    /// Listens again.
    pub(crate) fn listen(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(socket) => socket.listen(BACKLOG).map(Listener::Tcp),
            Self::Unix(path) => {
                fs::remove_file(&path)?;
                UnixListener::bind(path).map(Listener::Unix)
            }
        }
    }
}

/// Binds without listening, so that nobody else gets the port meanwhile.
fn hold(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of before are no obstacle then.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}
