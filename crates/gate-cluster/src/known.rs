//! What a gate last heard of a count, in the thirty bits that a word of the zone has for it.
//!
//! Numbers are told in units of 1/8191 of the amount, rounded down; amounts up to 8191 exactly.

/// Bits of a number.
const BITS: u32 = 13;
const MAX: u64 = (1 << BITS) - 1;
const STEP_MAX: u64 = 7;

/// What it heard, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// What all gates had taken, this one included.
    pub(crate) total: u64,
    /// What this gate may have taken in this window, should the store be away.
    pub(crate) bound: u64,
    /// How often it asked: batches double each time.
    pub(crate) step: u32,
}

impl Known {
    /// As a number above 0.
    pub(crate) fn pack(self, amount: u64) -> u64 {
        let unit = unit(amount);
        let scaled = |number: u64| (number / unit).min(MAX);
        let step = u64::from(self.step).min(STEP_MAX);
        1 | step << 1 | scaled(self.total) << 4 | scaled(self.bound) << (4 + BITS)
    }

    pub(crate) fn unpack(number: u64, amount: u64) -> Self {
        let unit = unit(amount);
        let number_at = |shift: u32| (number >> shift & MAX) * unit;
        Self { total: number_at(4), bound: number_at(4 + BITS), step: (number >> 1 & STEP_MAX) as u32 }
    }
}

fn unit(amount: u64) -> u64 {
    amount.div_ceil(MAX).max(1)
}

#[cfg(test)]
mod tests {
    use gate_zone::limiter::pool::NUMBER_MAX;

    use super::*;

    #[test]
    fn numbers_come_back_at_most_a_unit_smaller() {
        for amount in [1, 2, 10, 8191, 8192, 100_000, 1_000_000_000] {
            for (total, bound) in [(0, 0), (1, amount), (amount / 3, amount / 7), (amount, 1)] {
                let known = Known { total, bound, step: 5 };
                let packed = known.pack(amount);
                assert!((1..=NUMBER_MAX).contains(&packed));
                let back = Known::unpack(packed, amount);
                let slack = if amount <= 8191 { 0 } else { amount / 8191 };
                assert!(back.total <= total && total - back.total <= slack, "{amount}: {total} {back:?}");
                assert!(back.bound <= bound && bound - back.bound <= slack, "{amount}: {bound} {back:?}");
                assert_eq!(back.step, 5);
            }
        }
        let beyond = Known { total: u64::MAX, bound: u64::MAX, step: 99 };
        assert_eq!(Known::unpack(beyond.pack(10), 10), Known { total: 8191, bound: 8191, step: 7 });
    }
}
