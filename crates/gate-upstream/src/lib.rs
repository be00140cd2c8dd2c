//! The way to the backends: which one, when, over connections that are really used again; requests that are sent once,
//! answers whose end is known.
//!
//! It does not decide who may ask, and does not read what it carries but for the lists of models.
//!
//! Invariant: a connection goes back into the pool only when the answer it carried has ended; whatever is dropped
//! before is closed, which tells the backend to stop.
#![forbid(unsafe_code)]

mod ask;
mod backend;
mod body;
mod decode;
pub mod fit;
mod fleet;
mod gather;
mod head;
mod lease;
mod loading;
mod member;
mod models;
mod pool;
#[cfg(test)]
mod rig;
mod turnstile;
mod upload;
mod watch;
mod within;

pub use crate::ask::{Ask, FIELDS, Method};
pub use crate::backend::{Backend, Exchange, Failed, Patience, Ran, Timeouts};
pub use crate::body::{Cut, ReadFailed, UpstreamBody};
pub use crate::fleet::{Fleet, Rules, Want};
pub use crate::gather::{Gather, OverCap};
pub use crate::head::Head;
pub use crate::lease::{Lease, Queued, Way, Why};
pub use crate::member::{Member, Reach, Spec};
pub use crate::models::NewestModel;
pub use crate::turnstile::LOOK;
pub use crate::watch::Unread;
pub use crate::within::{Late, within};
