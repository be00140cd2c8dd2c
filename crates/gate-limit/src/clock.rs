//! The clock that limits go by: nanoseconds since the zone's epoch.
//!
//! It comes in as a closure, so that tests turn it by hand; where time comes from is not known here. Invariant asked of
//! it: all processes of a gate read the same clock, and it never goes back.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gate_zone::limiter::gcra;
use governor::clock;
use governor::nanos::Nanos;

/// Tells nanoseconds since the zone's epoch.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// A clock that reads `now_ns`.
    pub fn new(now_ns: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_ns))
    }

    /// Nanoseconds since the epoch.
    pub fn now_ns(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now_ns()).finish()
    }
}

/// The same clock for governor. A governor limiter counts from its clock's first reading, and limiters that were made
/// at different times would starve each other in one table; so the first reading is the epoch.
///
/// Later readings are in whole ticks of the zone's GCRA words. With periods in whole ticks too, nothing is left to be
/// rounded when a time is put into a word, which would cost each burst its last request.
#[derive(Debug, Clone)]
pub(crate) struct EpochClock {
    clock: Clock,
    started: Arc<AtomicBool>,
}

impl EpochClock {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, started: Arc::default() }
    }
}

impl clock::Clock for EpochClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        if self.started.load(Ordering::Relaxed) {
            let now_ns = self.clock.now_ns();
            Nanos::new(now_ns - now_ns % gcra::TICK_NS)
        } else {
            self.started.store(true, Ordering::Relaxed);
            Nanos::new(0)
        }
    }
}
