//! System calls that fail, one kind after the other, under a gate that serves: `strace` has the kernel answer with the
//! error instead of doing the call. Nobody exits for it, nobody spins, and once it is over the gate serves as before.
//!
//! Where `strace` is missing or may not trace, the tests say so and pass.
//!
//! Invariant: a test waits for what it can observe, and never for time to pass, but for counting what is done in it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../process/scene.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod scene;

mod injector;
mod master;
mod worker;
