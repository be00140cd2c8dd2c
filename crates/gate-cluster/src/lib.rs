//! Limits that hold over several gates, by a store that all of them ask: Redis or Valkey.
//!
//! A window begins with the first request at any gate, and lasts as long on the store's clock. Everything told to the store
//! may be told twice: a gate says how much it has taken and given back in this window, both only growing, and the larger
//! number holds. So a store that came back empty learns again what it had known, from whoever is asked or from a worker
//! that noticed (`cluster`); what a gate knows of others covers for those that are gone.
//!
//! Each gate takes its grants in batches and keeps them in its zone, where all its workers use them ([`Passage`]); a
//! refusal is kept there as well. While the store is away each gate holds the limits by itself, within its share.
//!
//! It knows no configuration and no HTTP; what the words in the zone mean is `gate_zone::limiter::pool`'s affair, and one
//! script (`count.lua`) is all that is ever asked.
//!
//! Invariants: a request waits for the store at most once and at most as long as it may; no text, log line or error holds
//! a password.
#![forbid(unsafe_code)]

mod cluster;
mod count;
mod known;
mod link;
mod recent;
mod script;
mod terms;

pub use gate_zone::store::Health;

pub use crate::cluster::{Cluster, Visit};
pub use crate::count::Passage;
pub use crate::terms::{ClusterError, Terms, judge_url};
