//! When keys expire: a time, or how long from now.

use jiff::Timestamp;

/// Units of a time span, in seconds.
const UNITS: [(&str, u32); 5] = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400), ("w", 7 * 86_400)];

const FORM: &str = "write how long, such as 90d or 12h, or a day or time such as 2027-01-01 or 2027-01-01T12:00:00Z";

/// When a key expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    /// So many seconds from now.
    After(u32),
    /// At this second of Unix.
    At(u32),
}

/// Reads one.
pub(super) fn expiry(text: &str) -> Result<Expiry, String> {
    if let Ok(seconds) = span(text) {
        return if seconds > 0 { Ok(Expiry::After(seconds)) } else { Err(FORM.to_owned()) };
    }
    let midnight = || format!("{text}T00:00:00Z");
    let time = if text.contains(['T', 't', ' ']) { text.parse() } else { midnight().parse::<Timestamp>() };
    let seconds = time.ok().and_then(|time| u32::try_from(time.as_second()).ok());
    seconds.map(Expiry::At).ok_or_else(|| FORM.to_owned())
}

/// A time span in seconds; 0 too.
pub(super) fn span(text: &str) -> Result<u32, String> {
    let unit = UNITS.iter().find_map(|(name, factor)| Some((text.strip_suffix(name)?, *factor)));
    let read = |(number, factor): (&str, u32)| number.parse::<u32>().ok()?.checked_mul(factor);
    let seconds = unit.and_then(read).or_else(|| (text == "0").then_some(0));
    seconds.ok_or_else(|| "write a time span such as 24h: a number with s, m, h, d or w".to_owned())
}

/// The second of Unix at which it is.
pub(super) fn moment(expiry: Expiry, now: u32) -> Result<u32, String> {
    match expiry {
        Expiry::After(seconds) => {
            now.checked_add(seconds).ok_or_else(|| "that is later than 2106, which no key outlives".to_owned())
        }
        Expiry::At(at) if at > now => Ok(at),
        Expiry::At(_) => Err("that time is over: write one to come".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_spans() {
        for (text, expected) in [
            ("90d", Expiry::After(7_776_000)),
            ("2w", Expiry::After(1_209_600)),
            ("1s", Expiry::After(1)),
            ("2027-01-01", Expiry::At(1_798_761_600)),
            ("2027-01-01T12:00:00Z", Expiry::At(1_798_804_800)),
            ("2027-01-01T12:00:00+02:00", Expiry::At(1_798_797_600)),
        ] {
            assert_eq!(expiry(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "0d", "d", "90", "-1d", "soon", "2027-13-01", "2200-01-01", "1960-01-01", "99999999999d"]
        {
            assert_eq!(expiry(text), Err(FORM.to_owned()), "{text}");
        }
        assert_eq!((span("0"), span("24h")), (Ok(0), Ok(86_400)));
        assert!(span("24").is_err() && span("1.5h").is_err());
        assert_eq!((moment(Expiry::After(5), 10), moment(Expiry::At(11), 10)), (Ok(15), Ok(11)));
        assert!(moment(Expiry::At(10), 10).is_err() && moment(Expiry::After(1), u32::MAX).is_err());
    }
}
