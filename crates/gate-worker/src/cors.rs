//! Pages of other origins: which may ask, and how a browser is told.
//!
//! As Ollama does, on the routes of its dialects: a page that is not allowed is refused also where no preflight came before. The
//! other routes have never known origins, and tell browsers nothing.
//!
//! Invariant: an answer to a page that was not admitted has no field by which a browser would let it read the answer.

use gate_api::origin::Own;
use gate_api::rejection::Denial;
use gate_api::{Dialect, Rejection};
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderName, HeaderValue, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use crate::gate::Gate;
use crate::outbound::Answering;

/// The origin that is asking, if it is one and the dialect knows of origins.
fn origin(head: &Parts, dialect: Dialect) -> Option<&[u8]> {
    let knows = matches!(dialect, Dialect::Ollama | Dialect::OpenAi | Dialect::Anthropic);
    head.headers.get(ORIGIN).filter(|_| knows).map(HeaderValue::as_bytes)
}

fn is_admitted(gate: &Gate, head: &Parts, origin: &[u8]) -> bool {
    let own = if gate.plan.keys.is_some() { Own::Any } else { Own::Near };
    gate.origins.admits(origin, head.headers.get(HOST).map(HeaderValue::as_bytes), own)
}

/// The answer to a browser that asks before it lets a page ask; none if it is no such question. It needs no key: browsers
/// send none with it.
///
/// # Errors
/// [`Rejection::Denied`].
pub(crate) fn preflight(gate: &Gate, head: &Parts, dialect: Dialect) -> Option<Result<Answering, Rejection>> {
    if head.method != Method::OPTIONS || !head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let origin = origin(head, dialect)?;
    if !is_admitted(gate, head, origin) {
        return Some(Err(Rejection::Denied { what: Denial::Origin }));
    }
    let mut answering = Answering::empty(StatusCode::NO_CONTENT);
    insert(&mut answering.fields, &gate.origins.preflight(origin));
    Some(Ok(answering))
}

/// Whether the page that asks may.
///
/// # Errors
/// [`Rejection::Denied`].
pub(crate) fn judge(gate: &Gate, head: &Parts, dialect: Dialect) -> Result<(), Rejection> {
    match origin(head, dialect) {
        Some(origin) if !is_admitted(gate, head, origin) => Err(Rejection::Denied { what: Denial::Origin }),
        _ => Ok(()),
    }
}

/// Lets the page that asked read the answer, if it may.
pub(crate) fn tell(gate: &Gate, head: &Parts, dialect: Dialect, fields: &mut HeaderMap) {
    let Some(origin) = origin(head, dialect) else { return };
    if head.method != Method::OPTIONS && is_admitted(gate, head, origin) {
        insert(fields, &gate.origins.fields(origin));
    }
}

fn insert(fields: &mut HeaderMap, all: &[(&'static str, &[u8])]) {
    for (name, value) in all {
        // The origin came as a header's value.
        if let Ok(value) = HeaderValue::from_bytes(value) {
            fields.insert(HeaderName::from_static(name), value);
        }
    }
}
