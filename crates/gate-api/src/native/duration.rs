//! `keep_alive`: a number of seconds, or a duration as Go writes it.
//!
//! It says what a client asked for and clamps nothing. Invariant: a value is accepted only where Ollama reads the same
//! span from it.

use std::time::Duration;

use super::text;

/// How long a model is to stay loaded after the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// Until it is evicted; any negative span says so.
    Forever,
    /// For a span; zero unloads it after the call.
    For(Duration),
}

/// Nanoseconds of the units, in Go's spelling; micro has two signs.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The longest span, in nanoseconds: Go holds them in 63 bits and a sign.
const NANOS_MAX: u64 = i64::MAX as u64;

/// The value of a `keep_alive`, as JSON text; none for null.
pub(super) fn keep_alive(raw: &str) -> Result<Option<KeepAlive>, String> {
    match raw.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => from_text(&text::string(raw)).map(Some),
        Some(b't' | b'f') => Err("Unsupported type: 'bool'".to_owned()),
        Some(b'[') => Err("Unsupported type: '[]interface {}'".to_owned()),
        Some(b'{') => Err("Unsupported type: 'map[string]interface {}'".to_owned()),
        _ => from_number(raw).map(Some),
    }
}

fn from_number(raw: &str) -> Result<KeepAlive, String> {
    let nanos = raw.parse::<f64>().unwrap_or(f64::INFINITY) * 1e9;
    if nanos < 0.0 {
        return Ok(KeepAlive::Forever);
    }
    // Beyond this Go's conversion gives whatever the machine does.
    if nanos >= NANOS_MAX as f64 {
        return Err(format!("keep_alive is out of range: {}", text::shortened(raw)));
    }
    Ok(KeepAlive::For(Duration::from_nanos(nanos as u64)))
}

/// Go's `time.ParseDuration`, negative spans as [`KeepAlive::Forever`].
fn from_text(sent: &str) -> Result<KeepAlive, String> {
    let invalid = || format!("time: invalid duration {}", byte_quoted(sent));
    let is_negative = sent.starts_with('-');
    let mut rest = sent.strip_prefix(['-', '+']).unwrap_or(sent);
    if rest == "0" {
        return Ok(KeepAlive::For(Duration::ZERO));
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos = 0_u64;
    while !rest.is_empty() {
        let (whole, fraction, tail) = number(rest).ok_or_else(invalid)?;
        let unit = tail.find(|letter: char| letter == '.' || letter.is_ascii_digit()).unwrap_or(tail.len());
        let (name, tail) = tail.split_at(unit);
        rest = tail;
        if name.is_empty() {
            return Err(format!("time: missing unit in duration {}", byte_quoted(sent)));
        }
        let Some(&(_, scale)) = UNITS.iter().find(|(unit, _)| *unit == name) else {
            return Err(format!("time: unknown unit {} in duration {}", byte_quoted(name), byte_quoted(sent)));
        };
        let part = whole.checked_mul(scale).and_then(|part| part.checked_add((fraction * scale as f64) as u64));
        nanos =
            part.and_then(|part| nanos.checked_add(part)).filter(|&nanos| nanos <= NANOS_MAX).ok_or_else(invalid)?;
    }
    // -0s is zero.
    if is_negative && nanos > 0 { Ok(KeepAlive::Forever) } else { Ok(KeepAlive::For(Duration::from_nanos(nanos))) }
}

/// A decimal without a sign at the start of `text`: its whole part, its fraction, and what follows.
fn number(text: &str) -> Option<(u64, f64, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, tail) = text.split_at(digits(text));
    let (fraction, tail) = match tail.strip_prefix('.') {
        Some(tail) => tail.split_at(digits(tail)),
        None => ("", tail),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = if fraction.is_empty() { 0.0 } else { format!("0.{fraction}").parse().ok()? };
    Some((whole, fraction, tail))
}

/// As Go's `time` package quotes: each byte outside ASCII by its number.
fn byte_quoted(sent: &str) -> String {
    let sent = text::shortened(sent);
    let escaped = sent.bytes().flat_map(|byte| match byte {
        b'"' | b'\\' => vec!['\\', char::from(byte)],
        b' '..=0x7f => vec![char::from(byte)],
        _ => format!("\\x{byte:02x}").chars().collect(),
    });
    std::iter::once('"').chain(escaped).chain(std::iter::once('"')).collect()
}
