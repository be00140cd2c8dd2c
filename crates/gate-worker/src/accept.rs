//! Taking connections, in such shares that no worker sits idle beside a busy one.
//!
//! All workers listen on one queue. Whoever has more than its share lets the others take the next connection: long
//! streams would pile up on whoever woke first otherwise. A worker that is stuck cannot hold the others up, because
//! none pauses for longer than [`PAUSE_MAX`] while somebody waits.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use gate_limit::Peer;
use gate_zone::clock;
use gate_zone::layout::row;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use crate::gate::Gate;
use crate::inbound::Inbound;
use crate::pipeline;
use crate::wire::{Line, Socket, Wire};

/// A pausing worker looks again after this.
const PAUSE_STEP: Duration = Duration::from_millis(5);

/// Longest pause while a connection waits.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// How old the heartbeat of a worker may be that counts in the mean.
const FRESH_MS: u64 = 1_000;

/// How much above the mean, rounded up, a worker may be before it pauses: one request, eight idle connections.
const ABOVE_REQUESTS: u64 = 1;
const ABOVE_CONNECTIONS: u64 = 8;

/// Pause after an accept that failed for lack of descriptors or memory: the lack does not end sooner than that, and
/// without a pause the loop would spin.
const SCARCE_PAUSE: Duration = Duration::from_millis(100);

/// How long a worker with a socket of its own takes connections after it was told to leave. New ones are steered away by
/// then; one that was beginning becomes a connection within a round trip, and this is the slowest of those.
const HANDSHAKE_LINGER: Duration = Duration::from_millis(300);

/// Connections taken from the queue at once when draining begins: as many as a queue holds by default.
const SWEEP_MAX: usize = 2_048;

/// Fields of a head that hyper takes unasked, and reads without memory of their own. The gate's own cap comes first.
const HYPER_FIELDS: usize = 100;

/// What hyper holds of a connection's input and output at most: its own default, unless the operator's heads are larger.
const BUFFER_MAX: usize = 408 * 1024;

/// Room in hyper for a head beyond the gate's own cap, so that the gate answers first.
const HEAD_BEYOND: usize = 1024;

/// A listening socket in this worker's runtime.
pub(crate) enum Source {
    Tcp(TcpListener, Option<SocketAddr>),
    Unix(UnixListener),
}

type Accepted = (Socket, Rc<Line>);

impl Source {
    pub(crate) fn tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        let local = listener.local_addr().ok();
        Ok(Self::Tcp(TcpListener::from_std(listener)?, local))
    }

    pub(crate) fn unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        Ok(Self::Unix(UnixListener::from_std(listener)?))
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Tcp(listener, local) => listener.poll_accept(cx).map_ok(|(tcp, peer)| {
                let line = Line::new(Peer::Ip(peer.ip()), *local);
                (Socket::Tcp(tcp), Rc::new(line))
            }),
            Self::Unix(listener) => {
                let unnamed = |unix| (Socket::Unix(unix), Rc::new(Line::new(Peer::Unix, None)));
                listener.poll_accept(cx).map_ok(|(unix, _)| unnamed(unix))
            }
        }
    }

    /// The next connection that it is this worker's turn to take.
    async fn accept(&self, gate: &Gate) -> io::Result<Accepted> {
        // Not a matter of shares but of what the operator allows at all.
        while gate.ground.drain.connections() >= gate.plan.worker_connections {
            gate.ground.drain.fewer().await;
        }
        let mut pause: Option<(Instant, Pin<Box<Sleep>>)> = None;
        std::future::poll_fn(|cx| {
            while is_above_share(gate) {
                let now = Instant::now();
                let (until, nap) = pause.get_or_insert_with(|| (now + PAUSE_MAX, Box::pin(sleep(PAUSE_STEP))));
                if now >= *until {
                    break;
                }
                match nap.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => nap.as_mut().reset(now + PAUSE_STEP),
                }
            }
            // When nobody waits any more, the next pause begins with the next arrival.
            pause = None;
            self.poll_accept(cx)
        })
        .await
    }

    /// A connection that waits now, if one does.
    async fn waiting(&self) -> Option<Accepted> {
        std::future::poll_fn(|cx| match self.poll_accept(cx) {
            Poll::Ready(accepted) => Poll::Ready(accepted.ok()),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }
}

/// Accepts until the worker drains; then takes what still waits, and lets the socket go.
pub(crate) async fn accept_all(gate: Rc<Gate>, source: Source) {
    let mut drained = pin!(gate.ground.drain.begun());
    loop {
        tokio::select! {
            biased;
            () = &mut drained => break,
            accepted = source.accept(&gate) => match accepted {
                Ok((socket, line)) => serve(&gate, socket, line),
                Err(error) => failed(&gate, &error).await,
            },
        }
    }
    if gate.plan.reuse_port {
        let until = Instant::now() + HANDSHAKE_LINGER;
        while let Ok(accepted) = timeout_at(until, std::future::poll_fn(|cx| source.poll_accept(cx))).await {
            match accepted {
                Ok((socket, line)) => serve(&gate, socket, line),
                Err(error) => failed(&gate, &error).await,
            }
        }
    }
    // Clients in the queue have been told by the kernel that they are connected.
    for _ in 0..SWEEP_MAX {
        let Some((socket, line)) = source.waiting().await else { break };
        serve(&gate, socket, line);
    }
}

fn is_above_share(gate: &Gate) -> bool {
    if gate.plan.reuse_port {
        // Nobody else can take what waits in a socket of this worker's own.
        return false;
    }
    let Some(mean) = gate.zone.scoreboard().mean_load(clock::monotonic_ms(), FRESH_MS) else { return false };
    let (own, mean) = (gate.row.row().load_now(), mean.ceil());
    own.in_flight > mean.in_flight + ABOVE_REQUESTS || own.connections > mean.connections + ABOVE_CONNECTIONS
}

/// A failed accept is nobody's end: the connection is gone, or the process is short of something.
async fn failed(gate: &Gate, error: &io::Error) {
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {}
        _ => {
            if gate.scarcity.struck(clock::monotonic_ms()) {
                log::error!("cannot accept connections: {error}; trying on");
            }
            sleep(SCARCE_PAUSE).await;
        }
    }
}

/// Serves a connection in a task of its own.
fn serve(gate: &Rc<Gate>, socket: Socket, line: Rc<Line>) {
    let gate = Rc::clone(gate);
    gate.row.add_one(row::OPENED);
    let place = gate.ground.drain.join(&line);
    tokio::task::spawn_local(async move {
        let wire = Wire::new(socket, Rc::clone(&line), Rc::clone(&gate.ground));
        let counted = Counted { gate: Rc::clone(&gate) };
        let service = service_fn(|request: Request<Incoming>| {
            // At once, before the wire reads on.
            let aside = line.aside.begin();
            let request = request.map(|incoming| Inbound::new(aside, incoming));
            pipeline::handle(Rc::clone(&gate), Rc::clone(&line), request)
        });
        let mut builder = http1::Builder::new();
        // One plain send is cheaper than a vector of two or three short pieces.
        builder.writev(false).max_buf_size(BUFFER_MAX.max(gate.plan.max_head + HEAD_BEYOND));
        if gate.plan.max_fields > HYPER_FIELDS {
            builder.max_headers(gate.plan.max_fields);
        }
        let connection = builder.serve_connection(wire, service);
        if let Err(error) = connection.await {
            log::debug!("a client's connection ended: {error}");
        }
        drop(counted);
        drop(place);
    });
}

/// Counts a connection out, also when its task panics.
struct Counted {
    gate: Rc<Gate>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gate.row.add_one(row::CLOSED);
    }
}
