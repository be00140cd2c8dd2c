//! Writing: `json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))`, byte for byte.
//!
//! It does not sort, indent or shorten.
//!
//! Invariant: what is written is UTF-8 and strict JSON, or [`Unwritable`] is the answer.
use super::{Number, Object, Text, Value, plain_len};
use std::fmt::{self, Write as _};

/// Somewhere in the value is a `NaN`, an infinity or a lone surrogate, which JSON in UTF-8 cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unwritable;

impl Value<'_> {
    /// Appends the value as compact JSON. After an error `out` holds a part of it.
    pub fn write(&self, out: &mut String) -> Result<(), Unwritable> {
        match self {
            Value::Null => out.push_str("null"),
            Value::Bool(true) => out.push_str("true"),
            Value::Bool(false) => out.push_str("false"),
            Value::Number(Number::Integer(digits)) => out.push_str(digits),
            Value::Number(Number::Decimal(text)) => out.push_str(text),
            Value::Number(Number::Float(double)) => write_float(*double, out)?,
            Value::Text(text) => text.write(out)?,
            Value::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.write(out)?;
                }
                out.push(']');
            }
            Value::Object(object) => object.write(out)?,
        }
        Ok(())
    }
}

impl Object<'_> {
    /// Appends the object as compact JSON. After an error `out` holds a part of it.
    pub fn write(&self, out: &mut String) -> Result<(), Unwritable> {
        out.push('{');
        for (at, (key, value)) in self.members().iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            key.write(out)?;
            out.push(':');
            value.write(out)?;
        }
        out.push('}');
        Ok(())
    }
}

impl Text<'_> {
    /// Appends the string as JSON, or nothing.
    pub fn write(&self, out: &mut String) -> Result<(), Unwritable> {
        match self {
            Text::Unicode(text) => {
                write_text(text, out);
                Ok(())
            }
            Text::Surrogates => Err(Unwritable),
        }
    }
}

/// Appends text as a JSON string: only quotes, backslashes and the control characters below space are escaped.
pub fn write_text(text: &str, out: &mut String) {
    out.reserve(text.len() + 2);
    out.push('"');
    let mut rest = text;
    loop {
        // What ends plain text is ASCII, so both ends are character boundaries.
        let (plain, escaped) = rest.split_at(plain_len(rest.as_bytes()));
        out.push_str(plain);
        let Some(&byte) = escaped.as_bytes().first() else { break };
        rest = &escaped[1..];
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            8 => out.push_str("\\b"),
            12 => out.push_str("\\f"),
            _ => {
                const DIGITS: [char; 16] =
                    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
                out.push_str("\\u00");
                out.push(DIGITS[usize::from(byte >> 4)]);
                out.push(DIGITS[usize::from(byte & 0xF)]);
            }
        }
    }
    out.push('"');
}

/// Appends `repr(double)`: the shortest digits that read back as the same double, with an exponent only where the
/// decimal point would stand more than 4 digits to the left or 16 to the right.
fn write_float(double: f64, out: &mut String) -> Result<(), Unwritable> {
    if !double.is_finite() {
        return Err(Unwritable);
    }
    let shortest = format!("{double:e}");
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: isize = exponent.parse().unwrap_or(0);
    let decimals = mantissa.bytes().filter(u8::is_ascii_digit).count() - 1;
    // Of two shortest candidates equally far away Python takes the even one, as Rust does only if told how many digits.
    if (-4..16).contains(&exponent) {
        let decimals = decimals.saturating_add_signed(-exponent).max(1);
        let even = format!("{double:.decimals$}");
        if even.parse() == Ok(double) {
            out.push_str(&even);
        } else {
            write!(out, "{double:?}").map_err(|_| Unwritable)?;
        }
    } else {
        let even = format!("{double:.decimals$e}");
        let digits = if even.parse() == Ok(double) { &even } else { &shortest };
        let mantissa = digits.split_once('e').map_or(mantissa, |(mantissa, _)| mantissa);
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "{mantissa}e{sign}{:02}", exponent.unsigned_abs()).map_err(|_| Unwritable)?;
    }
    Ok(())
}

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a NaN, an infinity or a lone surrogate cannot be written as JSON")
    }
}

impl std::error::Error for Unwritable {}
