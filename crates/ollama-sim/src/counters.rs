//! What the simulation has seen, as plain data that reads the same in-process and over HTTP. It decides nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything counted since the start or the last reset. Requests to `/sim/…` are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Connections.
    pub connections: Connections,
    /// Requests by method and path; paths that Ollama does not have count together as `other`.
    pub requests: BTreeMap<String, u64>,
    /// Generating and embedding requests by the model they name, as it is configured; names that no model has are
    /// not here, but those that [`Personality::Echo`](crate::Personality::Echo) takes all the same, as `anything`.
    pub requests_by_model: BTreeMap<String, u64>,
    /// Requests being worked on now, waiting ones included; a reset does not touch it.
    pub in_flight: u64,
    /// The most at once so far.
    pub in_flight_max: u64,
    /// Those in flight that generate or embed, without the lists and versions that a proxy asks for meanwhile; a reset
    /// does not touch it.
    pub generating: u64,
    /// The most of them at once so far.
    pub generating_max: u64,
    /// Requests that wait for a slot now; a reset does not touch it.
    pub queued: u64,
    /// Requests in the line for loads now, with the one whose turn it is, but without those that wait for the model
    /// that is loading; a reset does not touch it.
    pub pending_loads: u64,
    /// Loads begun.
    pub loads: u64,
    /// Those that took another model's memory.
    pub swaps: u64,
    /// Those that replaced the same model, for other options.
    pub reloads: u64,
    /// Those given up because the client left.
    pub aborted_loads: u64,
    /// Answers sent to their end.
    pub completed: u64,
    /// Answers broken off by a fault.
    pub broken: u64,
    /// Requests whose client went away before the end of the answer.
    pub cancelled: u64,
    /// The last of those.
    pub cancellations: Vec<Cancellation>,
    /// The last requests.
    pub last_requests: Vec<RecordedRequest>,
}

/// Connection counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Accepted.
    pub accepted: u64,
    /// Open now, with those that read counters; a reset does not touch it.
    pub open: u64,
    /// Requests that came on a connection which had carried one before.
    pub reused: u64,
}

/// A client that left, and when this was noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancellation {
    /// The request's method and path.
    pub route: String,
    /// What the request was doing.
    pub stage: Stage,
    /// Stream lines sent until then.
    pub lines: u64,
    /// The wall clock when it was noticed, in microseconds since 1970: less the caller's time of cancelling, this is
    /// the time from cancel to notice.
    pub noticed_unix_us: u64,
    /// Microseconds from the last byte sent (or the request's arrival) to the notice: the most that the notice can
    /// have taken when the client read to the end of what was sent.
    pub silent_us: u64,
}

/// What a request was doing when its client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Waiting for a slot, a load, a delay or a whole answer.
    Waiting,
    /// Sending.
    Sending,
    /// Held by a `stall` fault.
    Stalled,
}

/// One request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedRequest {
    /// The method.
    pub method: String,
    /// The target as sent, with its query.
    pub target: String,
    /// The headers in order, names as sent.
    pub headers: Vec<(String, String)>,
    /// The first 64 KiB of the body, as text.
    pub body: String,
}

impl RecordedRequest {
    /// The first header of this name, in any letter case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}
