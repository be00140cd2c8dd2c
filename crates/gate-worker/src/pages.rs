//! The gate's own pages: health, the API's description, and the line by which Ollama's clients know an Ollama.

use gate_api::docs::{CONTENT_SECURITY_POLICY, Page};
use gate_api::{Route, openapi};
use gate_zone::Probe;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY as CSP, HeaderValue};

use crate::gate::Gate;
use crate::outbound::Answering;

const TEXT: &str = "text/plain; charset=utf-8";

/// The answer of a page that needs no backend.
pub(crate) fn page(gate: &Gate, route: &Route) -> Answering {
    match route {
        Route::Root => Answering::whole(StatusCode::OK, TEXT, &b"Ollama is running"[..]),
        Route::OpenApi => Answering::whole(StatusCode::OK, "application/json", openapi::document()),
        Route::Docs(page) => docs(*page),
        Route::Readyz => readiness(gate),
        _ => Answering::whole(StatusCode::OK, TEXT, &b"ok\n"[..]),
    }
}

fn docs(page: Page) -> Answering {
    let asset = page.asset();
    let mut answering = Answering::whole(StatusCode::OK, asset.content_type, asset.bytes);
    answering.fields.insert(CSP, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    if let Some(encoding) = asset.encoding.content_encoding() {
        answering.fields.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    answering
}

/// Whether requests can be answered, as the monitor last saw the backends: one that answers is enough.
fn readiness(gate: &Gate) -> Answering {
    let members = gate.fleet.members();
    let mut probes = members.iter().map(|member| member.cell().probe());
    let seen = probes.clone().find(|probe| *probe == Probe::Healthy).or_else(|| probes.next());
    let (status, text) = match seen.unwrap_or(Probe::Unknown) {
        _ if seen.is_none() => (StatusCode::SERVICE_UNAVAILABLE, "no backend has an address\n".to_owned()),
        probe if probe != Probe::Healthy && members.len() > 1 => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("none of {} backends answers\n", members.len()))
        }
        Probe::Healthy => (StatusCode::OK, "ok\n".to_owned()),
        Probe::Unknown => (StatusCode::SERVICE_UNAVAILABLE, "the backend has not been asked yet\n".to_owned()),
        Probe::Unreachable => (StatusCode::SERVICE_UNAVAILABLE, "the backend cannot be reached\n".to_owned()),
        Probe::Silent => (StatusCode::SERVICE_UNAVAILABLE, "the backend does not answer\n".to_owned()),
        Probe::NotHttp => (StatusCode::SERVICE_UNAVAILABLE, "the backend does not speak HTTP\n".to_owned()),
        Probe::Foreign => (StatusCode::SERVICE_UNAVAILABLE, "the backend does not answer as Ollama does\n".to_owned()),
        Probe::Status(status) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("the backend answers with status {status}\n"))
        }
    };
    let mut answering = Answering::whole(status, TEXT, text);
    answering.fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answering
}
