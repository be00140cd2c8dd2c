//! Medians and ratios. Rounds are interleaved, so ratios are taken round by round: drift of the machine cancels.

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The value that a share of the sorted values does not exceed.
pub(crate) fn quantile(sorted: &[u32], share: f64) -> Option<u32> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// How one server compares with another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// The ratios of two servers' figures, round by round; none where a round is missing or zero.
pub(crate) fn ratio(over: impl IntoIterator<Item = f64>, under: impl IntoIterator<Item = f64>) -> Option<Ratio> {
    let ratios: Vec<f64> = over.into_iter().zip(under).filter(|(_, under)| *under > 0.0).map(|(a, b)| a / b).collect();
    Some(Ratio {
        median: median(ratios.iter().copied())?,
        low: ratios.iter().copied().reduce(f64::min)?,
        high: ratios.iter().copied().reduce(f64::max)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([7.0]), Some(7.0));
        assert_eq!(median([]), None);
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let sorted: Vec<u32> = (1..=200).collect();
        for (share, expected) in [(0.5, 100), (0.99, 198), (1.0, 200), (0.0, 1)] {
            assert_eq!(quantile(&sorted, share), Some(expected), "{share}");
        }
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[9], 0.99), Some(9));
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let found = ratio([10.0, 30.0, 20.0], [10.0, 10.0, 40.0]);
        assert_eq!(found, Some(Ratio { median: 1.0, low: 0.5, high: 3.0 }));
        assert_eq!(ratio([1.0], [0.0]), None);
        assert_eq!(ratio([], [1.0]), None);
    }
}
