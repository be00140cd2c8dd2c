//! What limits are made of, and what they answer with.
//!
//! It decides nothing. Invariant: a [`Refused`] carries all that an answer to the client needs.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use gate_zone::Region;

/// So many requests in a window, or tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Requests or tokens per window; 0 refuses all.
    pub amount: u64,
    /// The window's length.
    pub window: Duration,
    /// The unit in which the window was written: a minute for `5 per 2 minutes`.
    pub unit: Duration,
    /// How clients are told: `10 per 1 minute`.
    pub text: String,
}

/// Where a client stands with one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The limit.
    pub limit: Arc<Limit>,
    /// Requests or tokens it still lets through now.
    pub remaining: u64,
    /// Until the window ends; under GCRA until the whole amount is there again. For a refusal, the time to wait.
    pub reset: Duration,
}

impl Standing {
    /// Takes the place of what is `shown` if its limit has a smaller unit.
    pub fn show_in(self, shown: &mut Option<Self>) {
        if shown.as_ref().is_none_or(|shown| self.limit.unit < shown.limit.unit) {
            *shown = Some(self);
        }
    }
}

/// A client came too often. Fault: client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The limit that failed.
    pub limit: Arc<Limit>,
    /// How long to wait, at most the limit's window.
    pub retry: Duration,
}

impl Refused {
    /// The refusal as a standing, for headers.
    pub fn standing(&self) -> Standing {
        Standing { limit: Arc::clone(&self.limit), remaining: 0, reset: self.retry }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rate limit exceeded: {}, again in {:?}", self.limit.text, self.retry)
    }
}

impl Error for Refused {}

/// The zone's tables that counts are kept in.
#[derive(Debug, Clone)]
pub struct Tables {
    /// For fixed windows: a region for each length.
    pub windows: Vec<(Duration, Region)>,
    /// For GCRA.
    pub gcra: Region,
}

/// Why a limit cannot be set up. Fault: the operator's for [`LimitError::TooFast`] and [`LimitError::Bounds`], else the
/// gate's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitError {
    /// The zone has no region for windows of this length.
    NoRegion(Duration),
    /// A region has no set or no overflow cell.
    RegionTooSmall,
    /// The amount or the window of the limit with this text cannot be counted.
    Bounds(String),
    /// The rate of the limit with this text is above what GCRA can count.
    TooFast(String),
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRegion(window) => write!(f, "the zone has no region for windows of {window:?}"),
            Self::RegionTooSmall => f.write_str("a limiter region of the zone has no set or no overflow cell"),
            Self::Bounds(text) => {
                write!(f, "`{text}` cannot be counted: at most 1000000000 per window, windows of 2 ms to 366 days")
            }
            Self::TooFast(text) => write!(f, "`{text}` is too fast for gcra: at most 10000 per second"),
        }
    }
}

impl Error for LimitError {}
