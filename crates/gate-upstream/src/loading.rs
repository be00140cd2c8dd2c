//! Requests for which a backend has to load a model, and clients that do not wait for it.
//!
//! Ollama gives up a load when the client that brought it about leaves. The next in line then begins it anew, and where
//! clients are less patient than a load takes, the model is never there. So a request whose client has left goes on while
//! others want the same model of the same backend, until it is in memory; then it is cancelled like any other.
//!
//! Invariant: a client that leaves alone cancels at once.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use gate_api::Rejection;
use tokio::task::spawn_local;

use crate::ask::Ask;
use crate::backend::{Exchange, Failed, Ran};
use crate::lease::Lease;
use crate::turnstile::LOOK;
use crate::within::within;

/// Whether the client is there.
#[derive(Default)]
struct Client {
    has_left: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Dropped with the client's request.
struct Presence(Rc<Client>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.has_left.set(true);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }
}

/// As [`Lease::ask`], in a task of its own, which a client that leaves does not take with it at once.
pub(crate) async fn ask(
    lease: Lease,
    ask: Ask,
    (load, first_byte): (Duration, Duration),
) -> Result<(Exchange, Lease), Failed> {
    let client = Rc::new(Client::default());
    let presence = Presence(Rc::clone(&client));
    let asked = spawn_local(stay(lease, ask, (load, first_byte), client)).await;
    drop(presence);
    // It ends without an answer only when nobody is there to take it, or with the event loop.
    asked.ok().flatten().unwrap_or(Err(Failed { why: Rejection::Draining, ran: Ran::Maybe }))
}

/// Asks, and stays with it for others.
async fn stay(
    mut lease: Lease,
    ask: Ask,
    (load, first_byte): (Duration, Duration),
    client: Rc<Client>,
) -> Option<Result<(Exchange, Lease), Failed>> {
    let wish = lease.wish();
    let mut is_left_behind = false;
    let asked = {
        let mut asking = pin!(lease.ask(&ask, load, first_byte));
        let while_there = std::future::poll_fn(|cx| match asking.as_mut().poll(cx) {
            Poll::Ready(asked) => Poll::Ready(Some(asked)),
            Poll::Pending if client.has_left.get() => Poll::Ready(None),
            Poll::Pending => {
                client.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        });
        let mut asked = while_there.await;
        if asked.is_none() {
            wish.leave_behind();
            is_left_behind = true;
        }
        while asked.is_none() && wish.is_shared() {
            asked = within(LOOK, asking.as_mut()).await.ok();
        }
        asked
    };
    lease.is_left_behind = is_left_behind;
    asked.map(|asked| asked.map(|exchange| (exchange, lease)))
}
