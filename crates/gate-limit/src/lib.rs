//! Who a client is, and whether it may pass: addresses behind proxies, limits per route and per key, the flood guard.
//!
//! It keeps no state of its own: counts live in the zone's limiter tables, so all processes of a gate count together.
//! It reads no configuration, speaks no HTTP and knows no status codes; rates come in parsed, refusals go out as data.
//!
//! Invariant: nothing here blocks or locks, or allocates for a request, but for a reservation of several windows.
#![forbid(unsafe_code)]

pub mod admission;
pub mod budget;
pub mod client;
mod clock;
pub mod concurrency;
mod counter;
#[cfg(test)]
mod fixture;
pub mod flood;
mod gcra;
pub mod keys;
mod limit;
mod place;
mod subject;

pub use crate::admission::{Admission, Permit, Scope, Spec, Strategy};
pub use crate::budget::{Budget, Reservation};
pub use crate::client::{Client, Peer, Prefix, Trust};
pub use crate::clock::Clock;
pub use crate::concurrency::{Concurrency, Hold};
pub use crate::flood::Flood;
pub use crate::limit::{Limit, LimitError, Refused, Standing, Tables};
pub use crate::subject::Subject;
