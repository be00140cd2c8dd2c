//! Lists of rates for the limits, and the one rate of the flood guard.
//!
//! The grammar is [`crate::parse_many`]'s; here are the bounds that a limiter puts on it.

use super::Remedy;
use crate::rate::{Rate, parse_many};

/// Each limit costs every request one look at the shared table.
const LIMITS_MAX: usize = 16;

/// The GCRA table keeps time in ticks too coarse to tell requests of a faster rate apart.
pub(crate) const GCRA_PER_SECOND_MAX: u64 = 10_000;

/// Any number of limits, none too.
pub(crate) fn limits(text: &str) -> Result<Vec<Rate>, Remedy> {
    let rates = parse_many(text).map_err(|error| error.to_string())?;
    if rates.len() > LIMITS_MAX { Err(format!("write at most {LIMITS_MAX} rates")) } else { Ok(rates) }
}

/// At most one rate, which GCRA can count.
pub(crate) fn flood(text: &str) -> Result<Option<Rate>, Remedy> {
    match limits(text)?[..] {
        [] => Ok(None),
        [rate] => gcra(&rate).map_or(Ok(Some(rate)), Err),
        _ => Err("write one rate, or `none`".to_owned()),
    }
}

/// Why GCRA cannot count this rate, as a remedy.
pub(crate) fn gcra(rate: &Rate) -> Option<Remedy> {
    let most = GCRA_PER_SECOND_MAX.saturating_mul(rate.window().as_secs());
    if rate.amount == 0 {
        Some("gcra cannot count to 0: write a rate of at least 1".to_owned())
    } else if rate.amount > most {
        Some(format!("gcra counts at most {GCRA_PER_SECOND_MAX} a second: write at most {most} for this window"))
    } else {
        None
    }
}

pub(crate) fn limits_text(rates: &[Rate]) -> String {
    match rates {
        [] => "none".to_owned(),
        _ => rates.iter().map(Rate::short).collect::<Vec<_>>().join(","),
    }
}

pub(crate) fn flood_text(rate: Option<Rate>) -> String {
    rate.map_or_else(|| "none".to_owned(), |rate| rate.short())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_bounded_in_number() {
        assert_eq!(limits("none"), Ok(vec![]));
        assert_eq!(limits(&vec!["1/second"; 16].join(";")).unwrap().len(), 16);
        assert_eq!(limits(&vec!["1/second"; 17].join(";")), Err("write at most 16 rates".to_owned()));
        assert!(limits("10/min").unwrap_err().starts_with("`min` is no unit; write a rate like `10/minute`"));
    }

    #[test]
    fn the_flood_guard_takes_one_rate_that_gcra_can_count() {
        assert_eq!(flood(" None "), Ok(None));
        assert_eq!(flood_text(flood("10000/second").unwrap()), "10000/second");
        assert_eq!(flood_text(flood("600000/minute").unwrap()), "600000/minute");
        for (text, remedy) in [
            ("1/second,2/minute", "write one rate"),
            ("0/second", "at least 1"),
            ("10001/second", "at most 10000 for this window"),
            ("600001/minute", "at most 600000 for this window"),
        ] {
            assert!(flood(text).unwrap_err().contains(remedy), "{text}");
        }
    }

    #[test]
    fn texts_are_read_back() {
        for text in ["none", "10/minute", "100/hour,10/second", "5/2 seconds", "0/day"] {
            assert_eq!(limits_text(&limits(text).unwrap()), text);
        }
    }
}
