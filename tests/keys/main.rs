//! A gate that asks for keys, with real processes: who is let in, what each key may do and what it is charged, over several
//! workers, through their deaths, and while keys change.
//!
//! It tests what clients, backends and operators can see of it. The commands that write key files, and when a gate reads
//! them, are tested with the processes. Invariant: no test depends on how long anything takes, but for those whose subject
//! is a time; what is waited for is observed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod clamps;
mod doors;
mod leaks;
mod live;
#[path = "../process/orders.rs"]
#[allow(dead_code, reason = "shared with another test binary, each uses a part of it")]
mod orders;
mod places;
mod requests;
mod rig;
#[path = "../fleet/stage.rs"]
#[allow(dead_code, reason = "shared with another test binary, each uses a part of it")]
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod tokens;
