//! One NDJSON line of a stream, with the time it was sent in the place of its token. Both ends agree on it here.

use nix::time::{ClockId, clock_gettime};

use crate::upstream::MODEL;

/// What comes before the time.
const MARK: &[u8] = b"\"response\":\" the sky ";
/// Digits of the time: nanoseconds since boot in any `u64`.
const DIGITS: usize = 20;
/// What ends a stream's last line.
const LAST: &[u8] = b"\"done\":true";

/// Whether more lines follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    Middle,
    End,
}

/// Nanoseconds on the clock that all processes of the machine share.
pub(crate) fn now_ns() -> u64 {
    // It can only fail for clocks that the kernel does not have; it has this one.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Appends a line.
pub(crate) fn write(out: &mut String, sent_ns: u64, place: Place) {
    use std::fmt::Write as _;
    let done = match place {
        Place::Middle => "false",
        Place::End => "true,\"done_reason\":\"stop\"",
    };
    writeln!(
        out,
        "{{\"model\":\"{MODEL}\",\"created_at\":\"2025-01-01T00:00:00.000000000Z\",\"response\":\" the sky {sent_ns:020} \",\"done\":{done}}}"
    )
    .ok(); // Writing to a String cannot fail.
}

/// Reads a line back: when it was sent, and whether it is the last.
pub(crate) fn read(line: &[u8]) -> Option<(u64, Place)> {
    let at = find(line, MARK)? + MARK.len();
    let digits = std::str::from_utf8(line.get(at..at + DIGITS)?).ok()?;
    let place = if find(line, LAST).is_some() { Place::End } else { Place::Middle };
    Some((digits.parse().ok()?, place))
}

/// Where something begins.
pub(crate) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_length_of_real_ones_and_come_back() {
        for (place, length) in [(Place::Middle, 127), (Place::End, 147)] {
            let mut line = String::new();
            write(&mut line, 1_234_567, place);
            assert_eq!(line.len(), length, "{line}");
            assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
            assert_eq!(read(line.as_bytes()), Some((1_234_567, place)));
        }
        assert_eq!(read(b"{\"response\":\" the sky 12\"}"), None);
        assert_eq!(read(b"HTTP/1.1 200 OK"), None);
    }

    #[test]
    fn the_clock_goes_on() {
        let before = now_ns();
        assert!(before > 0 && now_ns() >= before);
    }
}
