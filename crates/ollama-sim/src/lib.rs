//! A simulated Ollama: the routes, answers and error texts of the real one, with text from a can instead of a model.
//!
//! It stands behind the gate in demonstrations, tests and benchmarks. It knows Ollama's own routes, OpenAI's and
//! Anthropic's as Ollama has them, models that load, stay, make room for others and are loaded anew for other options
//! as Ollama's scheduler has it, slots and queues, streams at a set rate, clients that leave, and every way an upstream
//! can misbehave ([`Fault`]). It does no inference: a model says the same whatever it is asked, in JSON where a format
//! is asked for; it calls the first tool it is offered when the last message is a user's and contains `use the tool`,
//! and all of them for `use the tools`; it thinks first when it can and is not told not to.
//!
//! It speaks HTTP/1.1 itself over the plain socket, because a reset in the middle of a head, or a chunk boundary
//! inside a character, is what an HTTP library exists to prevent. Its invariant: an answer without a fault is one a
//! strict client accepts.
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! runtime.block_on(async {
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//!     ollama_sim::serve(listener, ollama_sim::Config::demo(), async {}).await
//! })
//! # }
//! ```
#![forbid(unsafe_code)]

mod answer;
mod ask;
mod catalog;
mod clock;
mod config;
mod contract;
mod counters;
mod dialect;
mod embedding;
mod fault;
mod generation;
mod go;
mod library;
mod listener;
mod members;
mod memory;
mod python;
mod residence;
mod routes;
mod sample;
mod sender;
mod server;
mod sim;
mod speaking;
mod stream;
mod terms;
mod voice;
mod wire;

pub use config::{Config, Model, Personality};
pub use counters::{Cancellation, Connections, Counters, RecordedRequest, Stage};
pub use fault::{Break, Fault, FaultError, Point, Rule};
pub use server::serve;
pub use sim::Sim;
