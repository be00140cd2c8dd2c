//! Many Ollamas behind one address, with real processes: which backend gets a request, who waits and for how long, what a
//! sick one costs, and what changes while requests run.
//!
//! It tests what clients, backends and operators can see; which words of the zone make it so is tested beside them.
//! Invariant: no test depends on how long anything takes, but for those whose subject is a time; what is waited for is
//! observed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod accounting;
mod backends;
mod breaker;
mod choosing;
mod discovery;
mod fairness;
mod leases;
#[path = "../process/orders.rs"]
#[allow(dead_code, reason = "shared with another test binary, each uses a part of it")]
mod orders;
mod phases;
mod queue;
mod reload;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod yard;
