//! What crosses the wire: routes, requests, validation, refusals in each dialect, stream frames, trace ids, OpenAPI.
//!
//! It does no I/O and knows no clock, process or socket: bytes in, values out. Both the worker and the monitor
//! speak through it.
//!
//! Invariant: whatever this crate accepts means to the backend what it meant to the gate's policy.
#![forbid(unsafe_code)]

mod anthropic;
pub mod article;
pub mod call;
pub mod clamp;
pub mod docs;
pub mod frames;
pub mod json;
pub mod lists;
pub mod models;
pub mod native;
pub mod ndjson;
mod openai;
pub mod openapi;
pub mod origin;
pub mod rejection;
pub mod route;
pub mod sse;
pub mod trace;

pub use call::{Call, judge};
pub use clamp::Clamps;
pub use rejection::{
    Answer, Breakage, Connection, Denial, Dialect, Fault, KeyFault, LimitHeaders, Phase, Rejection, Terms,
};
pub use route::{BlobMethod, Class, Route, route};
