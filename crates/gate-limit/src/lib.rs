//! Who a client is, and whether it may pass: addresses behind proxies, limits per route, the flood guard.
//!
//! It keeps no state of its own: counts live in the zone's limiter tables, so all processes of a gate count together.
//! It reads no configuration, speaks no HTTP and knows no status codes; rates come in parsed, refusals go out as data.
//!
//! Invariant: nothing here blocks, locks, or allocates for a request.
#![forbid(unsafe_code)]

pub mod admission;
pub mod client;
mod clock;
pub mod flood;
mod gcra;
pub mod keys;
mod limit;
mod place;

pub use crate::admission::{Admission, Permit, Scope, Spec, Strategy};
pub use crate::client::{Client, Peer, Prefix, Trust};
pub use crate::clock::Clock;
pub use crate::flood::Flood;
pub use crate::limit::{Limit, LimitError, Refused, Standing, Tables};
