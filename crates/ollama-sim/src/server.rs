//! Accepts connections and takes each through its requests. What is answered is decided in the routes; how it is
//! written, in the sender.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::answer::{Answer, BARE_TEXT, reason};
use crate::config::Config;
use crate::counters::Stage;
use crate::dialect::Dialect;
use crate::fault::Fault;
use crate::listener::Listener;
use crate::routes;
use crate::sender::{End, Sender};
use crate::sim::{Shared, Sim};
use crate::stream::Stream;
use crate::wire::{Afterwards, NoRequest, Request, Version, Wire};

/// The pause after a failed accept, which is nearly always a lack of file descriptors that takes time to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// `refuse` faults that may wait for the listener; more wait for a place.
const REFUSALS: usize = 8;

/// Runs a simulated Ollama on a listener until `shutdown` completes. [`Sim::serve`] is the same with a handle.
///
/// # Errors
/// As [`Sim::serve`].
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future) -> io::Result<()> {
    Sim::new(config).serve(listener, shutdown).await
}

/// A wish to close the listener for a time, and the word that it is closed.
struct Refusal {
    span: Duration,
    closed: oneshot::Sender<()>,
}

pub(crate) async fn run(shared: &Arc<Shared>, listener: Listener, shutdown: impl Future) -> io::Result<()> {
    let (wish, mut wishes) = mpsc::channel(REFUSALS);
    let mut connections = JoinSet::new();
    let mut listener = listener;
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            _ = &mut shutdown => return Ok(()),
            Some(Refusal { span, closed }) = wishes.recv() => {
                let place = listener.close()?;
                // Whoever wished it may have lost its client meanwhile.
                closed.send(()).unwrap_or_default();
                tokio::select! {
                    _ = &mut shutdown => return Ok(()),
                    () = tokio::time::sleep(span) => listener = place.listen()?,
                }
            }
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(stream) => drop(connections.spawn(connection(Arc::clone(shared), stream, wish.clone()))),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: Stream, wish: mpsc::Sender<Refusal>) {
    if stream.send_at_once().is_err() {
        return;
    }
    let _open = shared.connected();
    let mut wire = Wire::new(stream);
    let mut earlier = 0;
    loop {
        let request = match wire.request().await {
            Ok(request) => request,
            Err(NoRequest::Gone) => return,
            Err(NoRequest::Refused(status)) => return refuse_request(&mut wire, status).await,
        };
        let result = if request.path().starts_with("/sim/") {
            let answer = routes::control(&shared, &request);
            Sender::new(&mut wire, &request, Fault::Ok).send(answer).await
        } else {
            let working = shared.arrived(&request, earlier);
            let (result, lines) = exchange(&shared, &mut wire, &request, &wish).await;
            // Whoever sees the end counted must not see the request in flight any more.
            drop(working);
            shared.finished(&request, &wire, (result, lines));
            earlier += 1;
            result
        };
        if result.is_err() {
            return;
        }
        if request.afterwards == Afterwards::Close {
            return wire.finish().await;
        }
    }
}

/// Answers one request; gives how that ended, and the stream lines sent.
async fn exchange(
    shared: &Shared,
    wire: &mut Wire,
    request: &Request,
    wish: &mpsc::Sender<Refusal>,
) -> (Result<(), End>, u64) {
    let fault = match shared.fault(request) {
        Ok(Fault::Refuse(span)) => return (Err(refuse_connections(wire, span, wish).await), 0),
        Ok(fault) => fault,
        Err(why) => {
            let mut sender = Sender::new(wire, request, Fault::Ok);
            let answer = Dialect::of(request.path()).tell(Answer::error(400, &why.to_string()));
            return (sender.send(answer).await, 0);
        }
    };
    // An answer that is ready goes out even to a client that has closed its side already.
    let answer = tokio::select! {
        biased;
        answer = routes::answer(shared, request, fault) => answer,
        () = wire.gone() => return (Err(End::Gone(Stage::Waiting)), 0),
    };
    let mut sender = Sender::new(wire, request, fault);
    let result = sender.send(answer).await;
    (result, sender.lines)
}

/// Resets this connection once the listener is closed, so that the client's next attempt is refused.
async fn refuse_connections(wire: &mut Wire, span: Duration, wish: &mpsc::Sender<Refusal>) -> End {
    let (closed, done) = oneshot::channel();
    if wish.send(Refusal { span, closed }).await.is_ok() {
        // The listener drops the sender only when it is going away itself.
        drop(done.await);
    }
    wire.reset_on_drop();
    End::Broken
}

/// Tells a client that its bytes were no request, in the words of Go's server.
async fn refuse_request(wire: &mut Wire, status: u16) {
    let request = Request {
        method: String::new(),
        target: String::new(),
        headers: Vec::new(),
        body: Vec::new(),
        version: Version::Http11,
        afterwards: Afterwards::Close,
    };
    let answer = Answer::text(status, BARE_TEXT, &format!("{status} {}", reason(status)));
    if Sender::new(wire, &request, Fault::Ok).send(answer).await.is_ok() {
        wire.finish().await;
    }
}
