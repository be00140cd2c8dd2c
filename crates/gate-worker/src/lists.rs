//! Lists of models: of all backends as one, and of that what a client may know.
//!
//! Every backend that is well is asked at once; those that do not answer, or with something else, are left out while one
//! does. Of each there are the models that it may be asked for. One whole list that the client may see all of passes as it
//! came.
//!
//! Invariant: no model is shown to a client that may not name it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use gate_api::lists::{List, merge};
use gate_api::rejection::{Breakage, Phase};
use gate_api::{Rejection, Route};
use gate_upstream::{Ask, Backend, Member, within};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::exchange;
use crate::gate::Gate;
use crate::ledger::Ledger;
use crate::outbound::Answering;
use crate::pipeline::Caller;

/// How long a list may take while others have come: it is read from disk, no model has to be loaded.
const LIST_MAX: Duration = Duration::from_secs(5);

const JSON_UTF8: &str = "application/json; charset=utf-8";

/// What one backend says.
struct Said {
    member: Rc<Member>,
    content_type: Option<HeaderValue>,
    body: Bytes,
}

/// Answers a route that lists models.
pub(crate) async fn answer(
    gate: &Rc<Gate>,
    caller: &Caller,
    route: &Route,
    ledger: &mut Ledger,
) -> Result<Answering, Rejection> {
    let kind = match route {
        Route::Ps => List::Ps,
        Route::Models => List::Models,
        _ => List::Tags,
    };
    let asked = Instant::now();
    let mut all = everyone(gate, &exchange::ask(caller, route, None)).await?;
    ledger.upstream(asked.elapsed());
    let hidden = Cell::new(false);
    let may_see = |name: &str| {
        let may = caller.holder.may_see(name);
        hidden.set(hidden.get() || !may);
        may
    };
    for said in all.iter_mut().filter(|said| !said.member.allows_all()) {
        let serves = |name: &str| said.member.allows(gate.fleet.instance(name, "").name);
        if let Ok(served) = merge(kind, std::slice::from_ref(&said.body), &serves) {
            said.body = served.into();
        }
    }
    let merged = loop {
        let bodies: Vec<Bytes> = all.iter().map(|said| said.body.clone()).collect();
        match merge(kind, &bodies, &may_see) {
            Ok(merged) => break merged,
            Err(not) if all.len() > 1 => drop(all.remove(not.index)),
            Err(not) => {
                let cause = format!("{}: {not}", all[not.index].member.backend);
                return Err(Rejection::BackendBroken { what: Breakage::NotJson, cause });
            }
        }
    };
    match all.pop() {
        Some(only) if all.is_empty() => {
            ledger.asks(&only.member);
            let body = if hidden.get() { merged.into() } else { only.body };
            let mut answering = Answering::whole(StatusCode::OK, JSON_UTF8, body);
            if let Some(content_type) = only.content_type {
                answering.fields.insert(CONTENT_TYPE, content_type);
            }
            Ok(answering)
        }
        _ => Ok(Answering::whole(StatusCode::OK, JSON_UTF8, merged)),
    }
}

/// What each backend says that says anything, in their order; at least one.
async fn everyone(gate: &Rc<Gate>, ask: &Ask) -> Result<Vec<Said>, Rejection> {
    let members = gate.fleet.members();
    // Those that are left alone keep nobody waiting, unless there are no others.
    let well = members.iter().any(|member| member.cell().is_closed());
    let mut asking = JoinSet::new();
    let asked = members.iter().filter(|member| !well || member.cell().is_closed());
    for (place, member) in asked.enumerate() {
        let (gate, member, ask) = (Rc::clone(gate), Rc::clone(member), ask.clone());
        asking.spawn_local(async move {
            let said = match within(LIST_MAX, list(&gate, &member.backend, &ask)).await {
                Ok(said) => said,
                Err(_) => Err(Rejection::BackendTimeout { phase: Phase::FirstByte, after: LIST_MAX }),
            };
            (place, said.map(|(content_type, body)| Said { member, content_type, body }))
        });
    }
    let mut all = Vec::with_capacity(members.len());
    let mut failed = None;
    while let Some(joined) = asking.join_next().await {
        match joined {
            Ok((place, Ok(said))) => all.push((place, said)),
            Ok((_, Err(why))) => failed = Some(why),
            Err(_) => failed = Some(Rejection::Internal),
        }
    }
    if all.is_empty() {
        return Err(failed.unwrap_or_else(|| Rejection::BackendUnreachable {
            backend: "upstream".to_owned(),
            cause: "no address is known".to_owned(),
        }));
    }
    all.sort_unstable_by_key(|(place, _)| *place);
    Ok(all.into_iter().map(|(_, said)| said).collect())
}

async fn list(gate: &Gate, backend: &Backend, ask: &Ask) -> Result<(Option<HeaderValue>, Bytes), Rejection> {
    let exchange = backend.send(ask).await?;
    let head = exchange.head;
    let whole = exchange::whole(gate, exchange.body, None).await?;
    if head.status == StatusCode::OK {
        return Ok((head.content_type, whole));
    }
    Err(exchange::refused(head.status, head.retry_after, &whole))
}
