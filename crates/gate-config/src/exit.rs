//! The exit codes, numbered as in BSD's `sysexits.h`, so that one code means one thing whatever path led to it.
//!
//! They do not say what happened in detail: the log does.

/// The work is done.
pub const EX_OK: u8 = 0;

/// The gate that was asked refused, what it was asked for failed, or the self-test lost something. Below the numbers of
/// `sysexits.h`, as for any command that worked and has bad news.
pub const EX_REFUSED: u8 = 1;

/// The command line cannot be parsed.
pub const EX_USAGE: u8 = 64;

/// An address cannot be bound, or nobody answers on the control socket.
pub const EX_UNAVAILABLE: u8 = 69;

/// A bug in the gate.
pub const EX_SOFTWARE: u8 = 70;

/// The control socket is not for this user.
pub const EX_NOPERM: u8 = 77;

/// A bad value, flags included, or a first start whose workers cannot boot.
pub const EX_CONFIG: u8 = 78;
