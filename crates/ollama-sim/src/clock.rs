//! Times as Go writes them. It reads no clock itself, so that what it prints depends on its argument alone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Go's largest duration: what a negative `keep_alive` means.
pub(crate) const FOREVER: Duration = Duration::from_nanos(i64::MAX as u64);

/// Whole seconds since 1970.
pub(crate) fn unix(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// RFC 3339 in UTC with as many fraction digits as needed, as Go's `RFC3339Nano` has it.
pub(crate) fn rfc3339_nano(at: SystemTime) -> String {
    let full = humantime::format_rfc3339_nanos(at).to_string();
    let short = full.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
    format!("{short}Z")
}

/// The whole nanoseconds of a duration, at most what Go's `time.Duration` holds.
pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.min(FOREVER).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_lose_their_zeros() {
        let at = |nanos| rfc3339_nano(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(10_000_000_000), "1970-01-01T00:00:10Z");
        assert_eq!(at(1_500_000_000), "1970-01-01T00:00:01.5Z");
        assert_eq!(at(6), "1970-01-01T00:00:00.000000006Z");
    }

    #[test]
    fn forever_can_be_printed() {
        assert_eq!(rfc3339_nano(SystemTime::UNIX_EPOCH + FOREVER), "2262-04-11T23:47:16.854775807Z");
        assert_eq!(nanos(Duration::MAX), i64::MAX as u64);
    }
}
