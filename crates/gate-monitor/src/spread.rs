//! Pauses that differ a little, so that questions to many backends do not fall into one instant.
//!
//! It draws no secrets: each backend's sequence follows from its key.

use std::time::Duration;

/// Between the first questions to two backends: 32 of them, as many as a configuration names, begin within a quarter of
/// a second.
const STEP: Duration = Duration::from_millis(8);

/// After how many backends the steps begin anew.
const STEPS: usize = 32;

/// A sequence of pauses.
#[derive(Debug, Clone)]
pub(crate) struct Spread(u64);

impl Spread {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `pause`, by up to an eighth shorter or longer.
    pub(crate) fn around(&mut self, pause: Duration) -> Duration {
        pause * 7 / 8 + pause.mul_f64(self.share() / 4.0)
    }

    /// Some of `longest`.
    pub(crate) fn within(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.share())
    }

    /// A number from 0 to below 1, by splitmix64.
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper half has as many bits as are needed to tell milliseconds apart, and fits an f64.
        f64::from(((mixed ^ mixed >> 31) >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
    }
}

/// How long the backend at this place waits for its first question.
pub(crate) fn first(place: usize) -> Duration {
    STEP * (place % STEPS) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_near_what_was_asked_and_differ() {
        let second = Duration::from_secs(1);
        let mut spread = Spread::new(7);
        let pauses: Vec<_> = (0..1000).map(|_| spread.around(second)).collect();
        assert!(pauses.iter().all(|pause| (875..=1125).contains(&pause.as_millis())));
        let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*most > *least + Duration::from_millis(200), "{least:?} {most:?}");
        assert!((0..1000).all(|_| spread.within(second) < second));
        assert_ne!(Spread::new(1).around(second), Spread::new(2).around(second));
    }

    #[test]
    fn first_questions_are_apart() {
        assert_eq!(first(0), Duration::ZERO, "a single backend does not wait");
        assert_eq!(first(33), first(1));
        assert!(first(31) <= Duration::from_millis(250));
    }
}
