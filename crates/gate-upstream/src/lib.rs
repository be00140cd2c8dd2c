//! The way to the backend: connections that are really used again, requests that are sent once, answers whose end is
//! known.
//!
//! It does not decide who may ask, and does not read what it carries but for the list of models.
//!
//! Invariant: a connection goes back into the pool only when the answer it carried has ended; whatever is dropped
//! before is closed, which tells the backend to stop.
#![forbid(unsafe_code)]

mod backend;
mod body;
mod decode;
mod gather;
mod head;
mod models;
mod pool;
mod watch;
mod within;

pub use crate::backend::{Ask, Backend, Exchange, Timeouts};
pub use crate::body::{Cut, ReadFailed, UpstreamBody};
pub use crate::gather::{Gather, OverCap};
pub use crate::head::Head;
pub use crate::models::NewestModel;
pub use crate::watch::Unread;
pub use crate::within::within;
