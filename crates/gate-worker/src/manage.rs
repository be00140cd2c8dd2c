//! Routes that change which models there are, for keys that name them.
//!
//! Each backend has models of its own, so where there are several the client says which one it means. No slot is needed: no
//! model runs.
//!
//! Invariant: a body of any size passes through with one piece of it held at a time.

use std::rc::Rc;

use bytes::Bytes;
use gate_api::call::Call;
use gate_api::frames::Strip;
use gate_api::route::BlobMethod;
use gate_api::{Rejection, Route};
use gate_upstream::Member;
use http::request::Parts;
use tokio::time::Instant;

use crate::exchange::{self, answering};
use crate::gate::Gate;
use crate::inbound::Inbound;
use crate::ledger::{Ledger, X_GATE_BACKEND};
use crate::outbound::{Answering, Content};
use crate::pipeline::{Caller, piece};
use crate::wire::Line;

/// A body on its way from a client.
pub(crate) struct Upload<'a> {
    pub(crate) gate: &'a Gate,
    pub(crate) line: &'a Line,
    pub(crate) head: &'a Parts,
    pub(crate) body: &'a mut Option<Inbound>,
}

/// A backend whose models are being changed. Dropped, it says that they were, whatever came of it.
pub(crate) struct Changing(Rc<Member>);

impl Drop for Changing {
    fn drop(&mut self) {
        self.0.cell().models_changed();
    }
}

/// Has a backend change its models, and hands on what it says of it.
pub(crate) async fn work(
    gate: &Gate,
    caller: &Caller,
    (route, call, body): (&Route, &Call, Bytes),
    (head, ledger): (&Parts, &mut Ledger),
) -> Result<Answering, Rejection> {
    ledger.model(&call.model.as_str().into());
    let member = named(gate, head)?;
    ledger.asks(&member);
    let asked = Instant::now();
    let changing = Changing(Rc::clone(&member));
    let exchange = member.backend.send(&exchange::ask(caller, route, Some(body))).await?;
    ledger.upstream(asked.elapsed());
    let mut answering = answering(gate, (exchange, None), (route, Strip::No), ledger).await?;
    if let Content::Stream(stream) = &mut answering.content {
        stream.changing = Some(changing);
    }
    Ok(answering)
}

/// Asks a backend for a blob, or hands one on.
pub(crate) async fn blob(
    caller: &Caller,
    route: &Route,
    upload: Upload<'_>,
    ledger: &mut Ledger,
) -> Result<Answering, Rejection> {
    let Upload { gate, line, head, body } = upload;
    let member = named(gate, head)?;
    ledger.asks(&member);
    let ask = exchange::ask(caller, route, None);
    let asked = Instant::now();
    let exchange = match (route, body.take()) {
        (Route::Blob { method: BlobMethod::Post, .. }, Some(mut body)) => {
            let length = body.length();
            member.backend.upload(&ask, length, async || piece(gate, line, &mut body).await).await?
        }
        _ => member.backend.send(&ask).await?,
    };
    ledger.upstream(asked.elapsed());
    answering(gate, (exchange, None), (route, Strip::No), ledger).await
}

/// The backend that a client means.
fn named(gate: &Gate, head: &Parts) -> Result<Rc<Member>, Rejection> {
    let members = gate.fleet.members();
    let said = head.headers.get(&X_GATE_BACKEND);
    let meant = match said {
        Some(name) => members.iter().find(|member| member.name() == name),
        None if members.len() == 1 => members.first(),
        None => None,
    };
    meant.map(Rc::clone).ok_or_else(|| {
        let names = members.iter().filter_map(|member| member.name().to_str().ok());
        Rejection::NameBackend { names: names.collect::<Vec<_>>().join(", ") }
    })
}
