//! Asking the backend: what goes along, what comes back whole, what is relayed.

use bytes::Bytes;
use gate_api::rejection::Breakage;
use gate_api::{Rejection, Route, article};
use gate_upstream::{Ask, Exchange, UpstreamBody};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use crate::gate::Gate;
use crate::ledger::Ledger;
use crate::outbound::{Answering, Content};
use crate::pipeline::Caller;

/// Longest text of a backend's error that is repeated to a client.
const ERROR_TEXT_MAX: usize = 4096;

/// Asks for an article's answer: `{"response": …}`, made from the backend's whole answer.
pub(crate) async fn article(
    gate: &Gate,
    client: &Caller,
    body: Bytes,
    ledger: &mut Ledger,
) -> Result<Vec<u8>, Rejection> {
    let Exchange { head, body } = ask(gate, client, ("/api/generate", Some(body)), ledger).await?;
    let whole = whole(gate, body).await?;
    if head.status != StatusCode::OK {
        let retry_after = head.retry_after.and_then(|value| value.to_str().ok().map(ToOwned::to_owned));
        return Err(Rejection::BackendStatus { status: head.status.as_u16(), text: error_text(&whole), retry_after });
    }
    article::answer_body(&whole).ok_or_else(|| Rejection::BackendBroken {
        what: Breakage::NotJson,
        cause: "the answer is no object with a text `response`".to_owned(),
    })
}

/// Hands a call of Ollama's own API on, with its body unchanged where it has one, and its answer back.
pub(crate) async fn native(
    gate: &Gate,
    client: &Caller,
    (route, body): (&Route, Option<Bytes>),
    ledger: &mut Ledger,
) -> Result<Answering, Rejection> {
    // GET for HEAD as well: hyper leaves the body out, and the length is true.
    let exchange = ask(gate, client, (path(route), body), ledger).await?;
    answering(gate, exchange).await
}

fn path(route: &Route) -> &'static str {
    match route {
        Route::Chat => "/api/chat",
        Route::Tags => "/api/tags",
        Route::Ps => "/api/ps",
        Route::Version => "/api/version",
        _ => "/api/generate",
    }
}

/// Asks. Nothing of the client's own goes along: no credentials, no cookies, no Origin.
async fn ask(
    gate: &Gate,
    client: &Caller,
    (path, body): (&'static str, Option<Bytes>),
    ledger: &mut Ledger,
) -> Result<Exchange, Rejection> {
    // So that a further gate behind this one can tell clients apart. A client without an address has none to tell.
    let client = (client.text.as_bytes() != b"unix").then(|| client.text.clone());
    let asked = Instant::now();
    let exchange = gate.backend.send(&Ask { path, body, client }).await?;
    ledger.upstream(asked.elapsed());
    Ok(exchange)
}

/// The backend's answer as it is: lines as they come, anything else whole.
async fn answering(gate: &Gate, exchange: Exchange) -> Result<Answering, Rejection> {
    let Exchange { head, body } = exchange;
    let status = head.status;
    if status.is_redirection() {
        let cause = format!("status {status}, which is never followed");
        return Err(Rejection::BackendBroken { what: Breakage::NotJson, cause });
    }
    let streams = status == StatusCode::OK
        && head.content_type.as_ref().is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-ndjson"));
    let mut fields = HeaderMap::with_capacity(4);
    for (name, value) in [(CONTENT_TYPE, head.content_type), (RETRY_AFTER, head.retry_after)] {
        if let Some(value) = value {
            fields.insert(name, value);
        }
    }
    let content = if streams { Content::Lines(body) } else { Content::Whole(whole(gate, body).await?) };
    Ok(Answering { status, fields, content })
}

async fn whole(gate: &Gate, body: UpstreamBody) -> Result<Bytes, Rejection> {
    let (max, pause) = (gate.plan.max_answer, gate.plan.chunk_timeout);
    body.whole(max, pause).await.map_err(|failed| failed.rejection(max, pause))
}

/// The backend's own words: the `error` of its JSON, or the text as it is.
fn error_text(body: &[u8]) -> String {
    let told = serde_json::from_slice::<serde_json::Value>(body).ok();
    let told = told.as_ref().and_then(|object| object.get("error")?.as_str());
    let text = told.map_or_else(|| String::from_utf8_lossy(body), Into::into);
    text.chars().take(ERROR_TEXT_MAX).collect()
}
