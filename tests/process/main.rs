//! The process model, with real processes: who is started, replaced, reloaded and seen out, and what clients notice of
//! it. What is said on the wire is tested elsewhere.
//!
//! Invariant: a test waits for what it can observe, and never for time to pass.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../support/mod.rs"]
mod support;

mod canary;
mod commands;
mod control;
mod deaths;
mod descriptors;
mod heirs;
mod identity;
mod keyring;
mod keys;
mod listeners;
mod load;
mod orders;
mod pidfile;
mod privileges;
mod proc;
mod recycling;
mod refusals;
mod reload;
mod rolling;
mod scene;
mod selftest;
mod signals;
mod sockets;
mod start;
mod stop;
mod stream;
mod terminal;
mod upgrade;
