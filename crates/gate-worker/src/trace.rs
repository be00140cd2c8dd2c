//! The names by which a request is followed from the client to the backend: `X-Request-Id`, and the trace that W3C's
//! Trace Context gives it.
//!
//! Invariant: every request has an id, and what goes to the backend goes back to the client and into the log.

use std::cell::Cell;

use gate_api::trace;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The longest `tracestate` that is passed on: what the specification asks for at least.
const STATE_MAX: usize = 512;

const HEX: &[u8; 16] = b"0123456789abcdef";

pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// How a request is named.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    pub(crate) id: HeaderValue,
    pub(crate) parent: Option<HeaderValue>,
    pub(crate) state: Option<HeaderValue>,
}

impl Trace {
    /// What the client says, where it can be kept; an id of our own otherwise.
    pub(crate) fn of(headers: &HeaderMap, ids: &Ids) -> Self {
        let kept = headers.get(&X_REQUEST_ID).filter(|id| trace::request_id_is_kept(id.as_bytes()));
        let parent = headers.get(&TRACEPARENT).filter(|parent| trace::traceparent_is_valid(parent.as_bytes()));
        // Without the one the other means nothing.
        let state = parent.and_then(|_| headers.get(&TRACESTATE)).filter(|state| state.len() <= STATE_MAX);
        Self { id: kept.cloned().unwrap_or_else(|| ids.draw()), parent: parent.cloned(), state: state.cloned() }
    }
}

/// Draws ids: 32 hexadecimal digits that no other worker draws.
pub(crate) struct Ids {
    state: Cell<[u64; 2]>,
}

impl Ids {
    pub(crate) fn new(seed: [u64; 2]) -> Self {
        // All zero would stay so.
        Self { state: Cell::new([seed[0] | 1, seed[1]]) }
    }

    fn draw(&self) -> HeaderValue {
        // Blackman's and Vigna's xoroshiro128+: unlike each other, not secret.
        let [first, mut second] = self.state.get();
        let drawn = first.wrapping_add(second);
        second ^= first;
        let state = [first.rotate_left(24) ^ second ^ (second << 16), second.rotate_left(37)];
        self.state.set(state);
        let mut digits = [0; 32];
        let numbers = drawn.to_be_bytes().into_iter().chain(state[0].to_be_bytes());
        for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(numbers) {
            *pair = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]];
        }
        HeaderValue::from_bytes(&digits).unwrap_or_else(|_| HeaderValue::from_static("0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_is_kept_where_it_is_well_formed() {
        let ids = Ids::new([1, 2]);
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let said = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            Trace::of(&headers, &ids)
        };
        let all = said(&[("x-request-id", "job-7"), ("traceparent", parent), ("tracestate", "a=b")]);
        assert_eq!(
            (all.id, all.parent.unwrap(), all.state.unwrap()),
            ("job-7".parse().unwrap(), parent.parse().unwrap(), "a=b".parse().unwrap())
        );
        let none = said(&[("x-request-id", "job 7"), ("traceparent", "00-00-00-00"), ("tracestate", "a=b")]);
        assert_eq!((none.id.len(), none.parent, none.state), (32, None, None));
    }

    #[test]
    fn ids_differ() {
        let ids = Ids::new([0, 0]);
        let drawn: std::collections::HashSet<_> = (0..1000).map(|_| ids.draw().to_str().unwrap().to_owned()).collect();
        assert_eq!(drawn.len(), 1000);
        assert!(drawn.iter().all(|id| id.len() == 32));
    }
}
