//! One GCRA limit: governor's algorithm over the zone's words.
//!
//! governor decides, the zone remembers. Invariant: every limiter over a table counts from the zone's epoch, whenever
//! and in whichever process it was made.

use std::num::NonZeroU32;
use std::time::Duration;

use gate_zone::Region;
use gate_zone::limiter::{fixed, gcra};
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};

use crate::clock::{Clock, EpochClock};
use crate::limit::{Limit, LimitError};
use crate::place::Places;
use crate::subject::Subject;

/// The fastest rate, 10,000 per second: periods are rounded up to ticks of 16 microseconds, which must stay small next
/// to them. (This one becomes 112 microseconds, 8928 per second; 1000 per second become 992.)
const PERIOD_MIN: Duration = Duration::from_micros(100);

/// The longest window, a leap year: of the 8.9 years a word can tell, seven remain for the zone's age.
const WINDOW_MAX: Duration = Duration::from_secs(366 * 86_400);

/// What is left after a request, and how long until all of it is back; or how long to wait.
pub(crate) type Answer = Result<(u64, Duration), Duration>;

/// One limit for many subjects. Up to `amount` at once, then one each `window / amount` and a tick at most.
pub(crate) struct GcraLimit {
    window: Duration,
    clock: Clock,
    /// `None` for an amount of 0, which governor does not know.
    limiter: Option<(Quota, Limiter)>,
}

type Limiter = RateLimiter<Subject, ZoneStore, EpochClock, StateInformationMiddleware>;

impl GcraLimit {
    pub(crate) fn new(limit: &Limit, store: ZoneStore) -> Result<Self, LimitError> {
        let bounds = || LimitError::Bounds(limit.text.clone());
        let amount = u32::try_from(limit.amount).map_err(|_| bounds())?;
        if limit.window > WINDOW_MAX || u64::from(amount) > fixed::AMOUNT_MAX {
            return Err(bounds());
        }
        let clock = store.clock.clone();
        let limiter = match NonZeroU32::new(amount) {
            None => None,
            Some(burst) => {
                let period_ns = (limit.window.as_nanos() as u64).div_ceil(limit.amount);
                if Duration::from_nanos(period_ns) < PERIOD_MIN {
                    return Err(LimitError::TooFast(limit.text.clone()));
                }
                let period = Duration::from_nanos(period_ns.next_multiple_of(gcra::TICK_NS));
                let quota = Quota::with_period(period).ok_or_else(bounds)?.allow_burst(burst);
                Some((quota, Limiter::new(quota, store, EpochClock::new(clock.clone()))))
            }
        };
        Ok(Self { window: limit.window, clock, limiter })
    }

    pub(crate) fn charge(&self, subject: &Subject) -> Answer {
        let Some((quota, limiter)) = &self.limiter else { return Err(self.window) };
        match limiter.check_key(subject) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let missing = quota.burst_size().get().saturating_sub(remaining);
                Ok((u64::from(remaining), (quota.replenish_interval() * missing).min(self.window)))
            }
            Err(refused) => Err(refused.wait_time_from(Nanos::new(self.clock.now_ns())).min(self.window)),
        }
    }
}

/// The zone's GCRA region as governor's memory.
pub(crate) struct ZoneStore {
    places: Places,
    clock: Clock,
}

impl ZoneStore {
    pub(crate) fn new(places: Places, clock: Clock) -> Self {
        Self { places, clock }
    }
}

impl StateStore for ZoneStore {
    type Key = Subject;

    fn measure_and_replace<T, F, E>(&self, subject: &Subject, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let place = self.places.find(subject);
        gcra::measure(
            place.set,
            || self.places.cell(subject),
            gcra::Tag::new(place.tag),
            || self.clock.now_ns(),
            |tat| f(tat.map(Nanos::new)).map(|(answer, new)| (answer, new.as_u64())),
        )
    }
}

/// Sets up a limit over the zone's GCRA region.
pub(crate) fn over_zone(
    limit: &Limit,
    region: Region,
    seed: [u64; 2],
    scope: u64,
    clock: Clock,
) -> Result<GcraLimit, LimitError> {
    GcraLimit::new(limit, ZoneStore::new(Places::new(region, seed, scope, limit)?, clock))
}
