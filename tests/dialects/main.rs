//! Every dialect of the gate with real processes: what passes as it came, what each refusal and each broken stream looks
//! like in it, whose pages may ask, what is listed, and who may change models.
//!
//! It tests what clients and backends can see; how bodies and frames are read is tested beside the code. Invariant: no
//! test depends on how long anything takes, but for those whose subject is a time; what is waited for is observed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod broken;
mod lists;
mod managing;
mod names;
mod origins;
mod recorded;
mod refusals;
mod scripted;
mod stage;
#[path = "../support/mod.rs"]
mod support;
