//! Why a configuration is not put into service.
//!
//! Whoever finds a reason words it; here they are only kept together. Invariant: there is always one.

use crate::sockets::BindError;

/// Why a configuration cannot be put into service: every reason.
#[derive(Debug)]
pub struct Refused {
    /// One text each; a text may have several lines.
    pub reasons: Vec<String>,
    /// Whether an address is the reason.
    pub cause: Cause,
}

/// What kind of reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// An address cannot be bound.
    Address,
    /// Anything else.
    Configuration,
}

impl Refused {
    pub(crate) fn of(reason: impl Into<String>) -> Self {
        Self::all(vec![reason.into()])
    }

    pub(crate) fn all(reasons: Vec<String>) -> Self {
        Self { reasons, cause: Cause::Configuration }
    }

    pub(crate) fn binding(errors: &[BindError]) -> Self {
        Self { reasons: errors.iter().map(ToString::to_string).collect(), cause: Cause::Address }
    }
}
