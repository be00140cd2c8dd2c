//! The system calls the gate is built on, and the only crate with `unsafe` in it.
//!
//! It holds processes ([`process`]), signals ([`signals`]), listening sockets ([`listen`]), the shared words
//! ([`shared`]) and the bells beside them ([`bells`]), the title that `ps` shows ([`title`]), what one program hands to
//! the next ([`handed`]), words to the service manager ([`notify`]), the operator's socket ([`control`]), clocks, limits,
//! the pid file's lock and the change of user.
//! It decides nothing: what to fork, when to stop and what a word means is said elsewhere.
//!
//! Invariant: no file descriptor leaves this crate as a number, and no pointer leaves it at all.

pub mod bells;
pub mod clock;
pub mod control;
pub mod handed;
pub mod limits;
pub mod listen;
pub mod memory;
pub mod notify;
pub mod oom;
pub mod pidfile;
pub mod privilege;
pub mod process;
pub mod shared;
pub mod signals;
pub mod title;
