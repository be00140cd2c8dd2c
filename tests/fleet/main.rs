//! Many Ollamas behind one address, with real processes: which backend gets a request, what a sick one costs, and what
//! changes while requests run.
//!
//! Invariant: a test waits for what it can observe, and never for time to pass.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../process/orders.rs"]
#[allow(dead_code, reason = "shared with another test binary, each uses a part of it")]
mod orders;
#[path = "../support/mod.rs"]
mod support;

mod backends;
mod breaker;
mod discovery;
mod phases;
mod reload;
mod yard;
