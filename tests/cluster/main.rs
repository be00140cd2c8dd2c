//! Several gates that count in one store, with real processes: three gates of two workers each, before one backend, beside
//! a real `redis-server` that is killed, restarted with nothing in it and stopped under load.
//!
//! It tests what clients and operators can see of it; what is told to the store is the business of the crate that tells it.
//! Where there is no `redis-server`, it says so and tests only what needs none. Invariant: a store that is away costs
//! nobody an answer, and no time but its deadline, once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod access;
mod counts;
#[path = "../process/orders.rs"]
#[allow(dead_code, reason = "shared with another test binary, each uses a part of it")]
mod orders;
mod outages;
mod server;
mod site;
#[path = "../fleet/stage.rs"]
#[allow(dead_code, reason = "shared with another test binary, each uses a part of it")]
mod stage;
#[path = "../support/mod.rs"]
mod support;
