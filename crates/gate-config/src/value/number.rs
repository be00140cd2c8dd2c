//! Counts, times, sizes and switches.
//!
//! Whole numbers only: fractions are written in a smaller unit (`500ms`, `512KiB`). The invariant: what is read lies
//! inside the bounds that the remedy names.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Remedy;

/// More processes than this cannot share one machine's listeners and memory usefully.
pub(crate) const WORKERS_MAX: u64 = 64;
/// `listen(2)` takes more, but a queue that long holds connections whose clients have given up.
pub(crate) const BACKLOG_MAX: u64 = 65_535;
/// The open files a process may have on common systems, with room for the backend's connections.
pub(crate) const CONNECTIONS_MAX: u64 = 65_536;
/// A request with more fields than this is an attack on whoever reads them.
pub(crate) const FIELDS_MAX: u64 = 1_000;
/// The fewest fields with which browsers and client libraries work.
pub(crate) const FIELDS_MIN: u64 = 16;
/// One set of the limiter's table on each of a few cache lines; smaller tables only make strangers share counts.
pub(crate) const ENTRIES_MIN: u64 = 64;
/// 32 MiB for each window length, half a gibibyte for all that are allowed.
pub(crate) const ENTRIES_MAX: u64 = 4 << 20;
/// The smallest request head that real clients fit into.
pub(crate) const HEAD_MIN: u64 = KIB;
/// Heads are held in memory before anything is known about the client.
pub(crate) const HEAD_MAX: u64 = MIB;
/// As many requests as the limiter can count.
pub(crate) const REQUESTS_MAX: u64 = 1_000_000_000;
/// Less than an idle worker holds would replace workers without end.
pub(crate) const RSS_MIN: u64 = 16 * MIB;
/// A terabyte: more than any machine gives one worker.
pub(crate) const RSS_MAX: u64 = KIB * GIB;
/// The shortest path cap that leaves every route of the gate reachable.
pub(crate) const PATH_MIN: u64 = 256;
/// The smallest body cap with which a short prompt passes.
pub(crate) const BODY_MIN: u64 = KIB;
/// Bodies and whole answers are held in memory, one for each request in flight.
pub(crate) const BODY_MAX: u64 = GIB;
/// The shares by which backends and clients are told apart: more would leave the others nothing.
pub(crate) const WEIGHT_MAX: u64 = 100;
/// The slots for which a backend's cell has room.
pub(crate) const SLOTS_MAX: u64 = 256;
/// The places of the one queue of all workers.
pub(crate) const QUEUE_MAX: u64 = 1_024;
/// More failures in a row than this is no reason to wait any longer.
pub(crate) const FAILURES_MAX: u64 = 1_000;
/// The breaker's and the look-ups' shortest time: anything faster is a loop that burns a processor.
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Their longest: after an hour without a look nobody knows why a backend is still left alone.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// A day: longer waits are not waits but settings nobody meant.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(86_400);
/// The clocks behind the timeouts tick in milliseconds.
const TIME_MIN: Duration = Duration::from_millis(1);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Units of sizes, largest first.
const SIZE_UNITS: [(&str, u64); 3] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB)];

/// A whole number inside these bounds.
pub(crate) fn whole<T: TryFrom<u64>>(text: &str, bounds: RangeInclusive<u64>) -> Result<T, Remedy> {
    digits(text.trim())
        .filter(|number| bounds.contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("write a whole number from {} to {}", bounds.start(), bounds.end()))
}

/// A count of workers; `auto` is the number of processors this process may use.
pub(crate) fn workers(text: &str) -> Result<u16, Remedy> {
    if text.trim().eq_ignore_ascii_case("auto") {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        // Bounded by WORKERS_MAX, so the narrowing loses nothing.
        return Ok(processors.min(WORKERS_MAX) as u16);
    }
    whole(text, 1..=WORKERS_MAX).map_err(|remedy| remedy + ", or `auto`")
}

/// A power of two for the limiter's table.
pub(crate) fn entries(text: &str) -> Result<usize, Remedy> {
    whole(text, ENTRIES_MIN..=ENTRIES_MAX)
        .ok()
        .filter(|entries: &usize| entries.is_power_of_two())
        .ok_or_else(|| format!("write a power of two from {ENTRIES_MIN} to {ENTRIES_MAX}, such as 131072"))
}

/// A time of at least a millisecond.
pub(crate) fn time(text: &str) -> Result<Duration, Remedy> {
    duration(text)
        .filter(|time| (TIME_MIN..=TIME_MAX).contains(time))
        .ok_or_else(|| "write a time from 1ms to 24h: whole seconds, or a number with ms, s, m or h".to_owned())
}

/// A time between two looks at something that may have come back.
pub(crate) fn pause(text: &str) -> Result<Duration, Remedy> {
    duration(text)
        .filter(|time| (PAUSE_MIN..=PAUSE_MAX).contains(time))
        .ok_or_else(|| "write a time from 100ms to 1h: whole seconds, or a number with ms, s, m or h".to_owned())
}

/// A time, or `None` for 0, which turns its check off.
pub(crate) fn time_or_off(text: &str) -> Result<Option<Duration>, Remedy> {
    match duration(text) {
        Some(Duration::ZERO) => Ok(None),
        _ => time(text).map(Some).map_err(|remedy| remedy + "; 0 turns it off"),
    }
}

/// A number of bytes inside these bounds.
pub(crate) fn size(text: &str, bounds: RangeInclusive<u64>) -> Result<usize, Remedy> {
    let text = text.trim();
    let unit = SIZE_UNITS.iter().find_map(|(name, bytes)| Some((strip_suffix(text, name)?, *bytes)));
    let (number, unit) = unit.unwrap_or((text, 1));
    digits(number.trim_end())
        .and_then(|number| number.checked_mul(unit))
        .filter(|bytes| bounds.contains(bytes))
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| {
            let [least, most] = [*bounds.start(), *bounds.end()].map(bytes_text);
            format!("write a size from {least} to {most}: bytes, or a number with KiB, MiB or GiB")
        })
}

/// A bound on a worker's memory, or `None` for 0.
pub(crate) fn rss(text: &str) -> Result<Option<usize>, Remedy> {
    if digits(text.trim()) == Some(0) {
        return Ok(None);
    }
    size(text, RSS_MIN..=RSS_MAX).map(Some).map_err(|remedy| remedy + "; 0 turns it off")
}

pub(crate) fn rss_text(bytes: Option<usize>) -> String {
    bytes.map_or_else(|| "0".to_owned(), size_text)
}

/// Permission bits in octal, or `None` for empty text.
pub(crate) fn umask(text: &str) -> Result<Option<u16>, Remedy> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let octal = text.len() <= 4 && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mask = octal.then(|| u16::from_str_radix(text, 8).ok()).flatten().filter(|mask| *mask <= 0o777);
    mask.map(Some).ok_or_else(|| "write permission bits in octal, such as 0077".to_owned())
}

pub(crate) fn umask_text(mask: Option<u16>) -> String {
    mask.map(|mask| format!("{mask:04o}")).unwrap_or_default()
}

/// `true` or `false`, in the spellings that environments use.
pub(crate) fn switch(text: &str) -> Result<bool, Remedy> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("write `true` or `false`".to_owned()),
    }
}

/// Anything that prints as it is read.
pub(crate) fn plain<T: Display>(value: &T) -> String {
    value.to_string()
}

/// A time in whole seconds where it can be.
pub(crate) fn time_text(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{}s", time.as_secs()) } else { format!("{}ms", time.as_millis()) }
}

/// A time, or 0 for a check that is off.
pub(crate) fn time_or_off_text(time: Option<Duration>) -> String {
    time.map_or_else(|| "0".to_owned(), time_text)
}

/// A size in the largest unit that divides it.
pub(crate) fn size_text(bytes: usize) -> String {
    bytes_text(bytes as u64)
}

fn bytes_text(bytes: u64) -> String {
    let unit = SIZE_UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    // `ms` first: it ends in the letter of another unit.
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let unit = units.into_iter().find_map(|(name, millis)| Some((strip_suffix(text, name)?, millis)));
    let (number, millis) = unit.unwrap_or((text, 1_000));
    digits(number.trim_end())?.checked_mul(millis).map(Duration::from_millis)
}

/// Digits and nothing else: no sign, no blanks, no separators.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn strip_suffix<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let (head, tail) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
    tail.eq_ignore_ascii_case(suffix).then_some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers() {
        for (text, value) in [("1", Some(1)), (" 64 ", Some(64)), ("007", Some(7)), ("0", None), ("65", None)] {
            assert_eq!(whole::<u16>(text, 1..=64).ok(), value, "{text}");
        }
        for text in ["", "+1", "-1", "1.0", "1_0", "many", "٣", "99999999999999999999", "0x10"] {
            assert_eq!(whole::<u16>(text, 1..=64), Err("write a whole number from 1 to 64".to_owned()), "{text}");
        }
        assert!(whole::<u8>("300", 1..=400).is_err());
    }

    #[test]
    fn workers_are_counted_or_automatic() {
        assert_eq!(workers("3"), Ok(3));
        assert!((1..=64).contains(&workers("AUTO").unwrap()));
        assert_eq!(workers("0"), Err("write a whole number from 1 to 64, or `auto`".to_owned()));
    }

    #[test]
    fn times() {
        let cases = [
            ("30", 30_000),
            ("30s", 30_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("24H", 86_400_000),
            (" 5 s ", 5_000),
        ];
        for (text, millis) in cases {
            assert_eq!(time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0", "0ms", "s", "1d", "0.5", "-1", "25h", "86401", "1h30m", "99999999999999999999h", "µs"] {
            assert!(time(text).unwrap_err().contains("from 1ms to 24h"), "{text}");
        }
        for (text, millis) in [("100ms", 100), ("1h", 3_600_000)] {
            assert_eq!(pause(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["99ms", "3601", "0", ""] {
            assert!(pause(text).unwrap_err().contains("from 100ms to 1h"), "{text}");
        }
        assert_eq!(time_or_off("0"), Ok(None));
        assert_eq!(time_or_off("0s"), Ok(None));
        assert!(time_or_off("25h").unwrap_err().ends_with("0 turns it off"));
    }

    #[test]
    fn sizes() {
        let cases = [("1024", 1024), ("64KiB", 65_536), ("8 mib", 8 << 20), ("1GiB", 1 << 30)];
        for (text, bytes) in cases {
            assert_eq!(size(text, KIB..=GIB), Ok(bytes), "{text}");
        }
        for text in ["", "0", "1023", "KiB", "8MB", "8M", "1.5MiB", "2GiB", "18014398509481984KiB", "-1KiB"] {
            assert!(size(text, KIB..=GIB).unwrap_err().starts_with("write a size from 1KiB to 1GiB"), "{text}");
        }
    }

    #[test]
    fn entries_are_powers_of_two() {
        assert_eq!(entries("131072"), Ok(131_072));
        for text in ["131071", "32", "8388608", "lots"] {
            assert!(entries(text).unwrap_err().contains("power of two"), "{text}");
        }
    }

    #[test]
    fn switches() {
        for (text, value) in [("true", true), ("YES", true), ("1", true), ("off", false), ("0", false)] {
            assert_eq!(switch(text), Ok(value), "{text}");
        }
        assert!(switch("maybe").is_err());
        assert!(switch("").is_err());
    }

    #[test]
    fn texts_are_read_back() {
        for millis in [1, 500, 999, 1_000, 1_500, 60_000, 86_400_000] {
            let value = Duration::from_millis(millis);
            assert_eq!(time(&time_text(value)), Ok(value));
        }
        for bytes in [1024, 1025, 4096, 61_440, 1 << 20, (1 << 20) + 1024, 1 << 30] {
            assert_eq!(size(&size_text(bytes), KIB..=GIB), Ok(bytes));
        }
        assert_eq!(size_text(8 << 20), "8MiB");
        assert_eq!(time_or_off(&time_or_off_text(None)), Ok(None));
    }
}
