//! The gate under a service manager: what it says to it, what it leaves in its keeping, and what it takes from it. The
//! tests play the manager, over a real notification socket and with real descriptors.
//!
//! Invariant: a test waits for what it can observe, and never for time to pass.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../process/scene.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod scene;

#[path = "../process/stream.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod stream;

mod activation;
mod keeping;
mod manager;
mod words;
