//! Asking a backend: which one, what goes along, what comes back whole, what is relayed, and when another one is asked.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use gate_api::call::{Call, KeepAlive, Usage, Work};
use gate_api::frames::{Frames, Stats, Strip, whole_stats};
use gate_api::rejection::Breakage;
use gate_api::{Rejection, Route, article};
use gate_config::Retry;
use gate_upstream::{Ask, Exchange, Lease, Member, Method, Ran, UpstreamBody, Want};
use gate_zone::clock;
use gate_zone::fleet::queue::COST;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use crate::gate::Gate;
use crate::ledger::Ledger;
use crate::outbound::{Answering, Content, Stream};
use crate::pipeline::{Caller, Origin};

/// Longest text of a backend's error that is repeated to a client.
const ERROR_TEXT_MAX: usize = 4096;

/// What a request needs, as the fleet wants to know it.
pub(crate) fn want(gate: &Gate, caller: &Caller, model: &Rc<str>, (options, conversation): (&str, u64)) -> Want {
    let Caller { origin, holder } = caller;
    let of_address = || origin.client.ip().map_or(1, |ip| gate.plan.weight_of(ip));
    let weight = holder.terms.weight.unwrap_or_else(of_address);
    Want {
        instance: gate.fleet.instance(model, options),
        model: Rc::clone(model),
        client: gate.fleet.hash(holder.subject.as_octets()),
        cost: COST / u64::from(weight.max(1)),
        conversation,
        tried: 0,
    }
}

/// Asks for an article's answer: `{"response": …}`, made from the backend's whole answer.
pub(crate) async fn article(
    gate: &Gate,
    caller: &Caller,
    (mut want, body): (Want, Bytes),
    ledger: &mut Ledger,
) -> Result<Vec<u8>, Rejection> {
    let ask = ask(caller, &Route::Generate, Some(body));
    let (Exchange { head, body }, lease) = serve(gate, &mut want, &ask, ledger).await?;
    if head.status == StatusCode::OK {
        ledger.begins();
    }
    let whole = whole(gate, body, Some(&lease)).await?;
    if head.status != StatusCode::OK {
        return Err(refused(head.status, head.retry_after, &whole));
    }
    let (answer, stats) = article::answer_body(&whole).ok_or_else(|| Rejection::BackendBroken {
        what: Breakage::NotJson,
        cause: "the answer is no object with a text `response`".to_owned(),
    })?;
    settle(stats, &lease, ledger);
    lease.completed();
    Ok(answer)
}

/// Hands a call for a model on, and its answer back.
pub(crate) async fn infer(
    gate: &Gate,
    caller: &Caller,
    (route, call, body): (&Route, &Call, Bytes),
    ledger: &mut Ledger,
) -> Result<Answering, Rejection> {
    let model: Rc<str> = call.model.as_str().into();
    ledger.model(&model);
    let mut want = want(gate, caller, &model, (&call.load_options, call.conversation));
    let ask = ask(caller, route, Some(body));
    let (exchange, lease) = serve(gate, &mut want, &ask, ledger).await?;
    if leaves_memory(call) {
        lease.unloads();
    }
    let strip = if call.usage == Usage::Added { Strip::Yes } else { Strip::No };
    answering(gate, (exchange, Some(lease)), (route, strip), ledger).await
}

/// Hands a question about a model on, which needs no slot, to a backend that has the model.
pub(crate) async fn about(
    gate: &Gate,
    caller: &Caller,
    (route, call, body): (&Route, &Call, Bytes),
    ledger: &mut Ledger,
) -> Result<Answering, Rejection> {
    let model: Rc<str> = call.model.as_str().into();
    ledger.model(&model);
    let mut want = want(gate, caller, &model, ("", 0));
    let body = (route.method() == "POST").then_some(body);
    ask_in_turn(gate, &ask(caller, route, body), (route, ledger), || {
        let member = gate.fleet.any_for(&want)?;
        want.tried |= member.cell().bit();
        Ok((member, gate.fleet.has_another(&want)))
    })
    .await
}

/// Whether the model is unloaded when the call is done.
fn leaves_memory(call: &Call) -> bool {
    call.work == Work::Unload || call.keep_alive.is_some_and(|kept| kept == KeepAlive::For(Duration::ZERO))
}

/// Hands a question on that needs no model, and its answer back. GET for HEAD as well: hyper leaves the body out, and the
/// length is true.
pub(crate) async fn question(
    gate: &Gate,
    caller: &Caller,
    route: &Route,
    ledger: &mut Ledger,
) -> Result<Answering, Rejection> {
    let mut tried = 0;
    ask_in_turn(gate, &ask(caller, route, None), (route, ledger), || {
        let member = gate.fleet.any(tried)?;
        tried |= member.cell().bit();
        Ok((member, gate.fleet.has_more(tried)))
    })
    .await
}

/// Asks one backend after another, as `next` names them and says whether there are more. A question changes nothing: however
/// one failed, another may be asked.
async fn ask_in_turn(
    gate: &Gate,
    ask: &Ask,
    (route, ledger): (&Route, &mut Ledger),
    mut next: impl FnMut() -> Result<(Rc<Member>, bool), Rejection>,
) -> Result<Answering, Rejection> {
    loop {
        let (member, has_more) = next()?;
        ledger.asks(&member);
        let asked = Instant::now();
        match member.backend.send(ask).await {
            Ok(exchange) => {
                ledger.upstream(asked.elapsed());
                return answering(gate, (exchange, None), (route, Strip::No), ledger).await;
            }
            Err(_) if gate.plan.retry != Retry::Never && has_more && gate.fleet.may_retry() => {}
            Err(why) => return Err(why),
        }
    }
}

/// A request as it goes out. Nothing of the client's own goes along: no credentials, no cookies, no Origin.
pub(crate) fn ask(caller: &Caller, route: &Route, body: Option<Bytes>) -> Ask {
    let Origin { text, trace, .. } = &caller.origin;
    // So that a further gate behind this one can tell clients apart. A client without an address has none to tell.
    let forwarded = (text.as_bytes() != b"unix").then(|| text.clone());
    let fields = [
        forwarded.map(|client| ("x-forwarded-for", client)),
        Some(("x-request-id", trace.id.clone())),
        trace.parent.clone().map(|parent| ("traceparent", parent)),
        trace.state.clone().map(|state| ("tracestate", state)),
    ];
    let method = match route.method() {
        "POST" => Method::Post,
        "DELETE" => Method::Delete,
        "HEAD" => Method::Head,
        _ if body.is_some() => Method::Post,
        _ => Method::Get,
    };
    Ask { method, path: route.path(), body, fields }
}

/// Asks one backend, and another where the first surely did not run the request (or, where the operator allows it, did
/// not answer) and the retry budget has something left.
async fn serve(gate: &Gate, want: &mut Want, ask: &Ask, ledger: &mut Ledger) -> Result<(Exchange, Lease), Rejection> {
    loop {
        let lease = gate.fleet.turn(want).await?;
        ledger.serves(&lease);
        let member = Rc::clone(&lease.member);
        want.tried |= member.cell().bit();
        let asked = lease.since;
        let answered = lease.serve(ask, gate.plan.load_timeout, gate.plan.first_byte_timeout).await;
        let ran = match &answered {
            // "Busy" says that it was not run.
            Ok((exchange, _)) if exchange.head.status == StatusCode::SERVICE_UNAVAILABLE => Ran::No,
            Ok(_) => {
                ledger.upstream(asked.elapsed());
                gate.fleet.earn_retry();
                return answered.map_err(|failed| failed.why);
            }
            Err(failed) => failed.ran,
        };
        if ran == Ran::No {
            ledger.never_ran();
        }
        let may = match gate.plan.retry {
            Retry::Never => false,
            Retry::Unsent => ran == Ran::No,
            Retry::Unanswered => true,
        };
        if !may || !gate.fleet.has_another(want) || !gate.fleet.may_retry() {
            ledger.upstream(asked.elapsed());
            return answered.map_err(|failed| failed.why);
        }
        let why = answered.map_or_else(|failed| failed.why.to_string(), |_| "it is busy (503)".to_owned());
        if gate.warnings.pass(clock::monotonic_ms()).is_some() {
            log::warn!("{}: {why}; the request goes to another backend", member.backend);
        }
    }
}

/// The backend's answer as it is: frames as they come, anything else whole.
pub(crate) async fn answering(
    gate: &Gate,
    (exchange, lease): (Exchange, Option<Lease>),
    (route, strip): (&Route, Strip),
    ledger: &mut Ledger,
) -> Result<Answering, Rejection> {
    let Exchange { head, body: upstream } = exchange;
    let status = head.status;
    if status.is_redirection() {
        let cause = format!("status {status}, which is never followed");
        return Err(Rejection::BackendBroken { what: Breakage::NotJson, cause });
    }
    let streams = status == StatusCode::OK && head.content_type.as_ref().is_some_and(is_stream);
    // Room for one of them and those that are told of each request; more is more than malloc keeps at hand.
    let mut fields = HeaderMap::with_capacity(6);
    for (name, value) in
        [(CONTENT_TYPE, head.content_type), (RETRY_AFTER, head.retry_after), (CACHE_CONTROL, head.cache_control)]
    {
        if let Some(value) = value {
            fields.insert(name, value);
        }
    }
    if streams {
        let stream = Stream { upstream, lease, frames: Frames::of(route, strip), route: route.clone(), changing: None };
        return Ok(Answering { status, fields, content: Content::Stream(Box::new(stream)) });
    }
    if status.is_success() {
        ledger.begins();
    }
    let whole = whole(gate, upstream, lease.as_ref()).await?;
    if let Some(lease) = lease.as_ref().filter(|_| status.is_success()) {
        // One that says nothing of its cost, as `/api/embeddings` does, has read the prompt all the same.
        settle(whole_stats(route, &whole).unwrap_or_default(), lease, ledger);
        lease.completed();
    }
    // Its slot is free as soon as the backend has done its part.
    drop(lease);
    Ok(Answering { status, fields, content: Content::Whole(whole) })
}

/// Whether a content type is one of those that answers have which come in pieces.
fn is_stream(content_type: &HeaderValue) -> bool {
    let kind = content_type.as_bytes();
    kind.starts_with(b"application/x-ndjson") || kind.starts_with(b"text/event-stream")
}

/// Takes what an answer says of its making.
fn settle(stats: Stats, lease: &Lease, ledger: &mut Ledger) {
    if let Some(load) = stats.load {
        lease.loaded_in(load);
    }
    ledger.made(stats);
}

pub(crate) async fn whole(gate: &Gate, body: UpstreamBody, lease: Option<&Lease>) -> Result<Bytes, Rejection> {
    let (max, pause) = (gate.plan.max_answer, gate.plan.chunk_timeout);
    body.whole(max, pause).await.map_err(|failed| {
        if let Some(lease) = lease {
            lease.broke();
        }
        failed.rejection(max, pause)
    })
}

/// What a backend answered instead of what it was asked for.
pub(crate) fn refused(status: StatusCode, retry_after: Option<HeaderValue>, body: &[u8]) -> Rejection {
    let retry_after = retry_after.and_then(|value| value.to_str().ok().map(ToOwned::to_owned));
    Rejection::BackendStatus { status: status.as_u16(), text: error_text(body), retry_after }
}

/// The backend's own words: the `error` of its JSON, or the text as it is.
fn error_text(body: &[u8]) -> String {
    let told = serde_json::from_slice::<serde_json::Value>(body).ok();
    let told = told.as_ref().and_then(|object| object.get("error")?.as_str());
    let text = told.map_or_else(|| String::from_utf8_lossy(body), Into::into);
    text.chars().take(ERROR_TEXT_MAX).collect()
}
