//! Texts and readings of Go's standard library: JSON errors and durations, for the cases that clients meet. It knows
//! nothing of Ollama.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use crate::clock::FOREVER;

/// What `encoding/json` says about a body that serde did not accept.
pub(crate) fn syntax_text(body: &[u8], why: &serde_json::Error) -> String {
    if why.is_eof() {
        return "unexpected EOF".to_owned();
    }
    let text = why.to_string();
    let place = if text.starts_with("key must be") {
        "looking for beginning of object key string"
    } else if text.starts_with("expected `:`") {
        "after object key"
    } else if text.starts_with("expected `,` or `}`") {
        "after object key:value pair"
    } else if text.starts_with("expected `,` or `]`") {
        "after array element"
    } else if text.starts_with("control character") {
        "in string literal"
    } else if text.starts_with("invalid escape") {
        "in string escape code"
    } else {
        "looking for beginning of value"
    };
    format!("invalid character {} {place}", quoted(offending(body, why)))
}

/// The byte that an error points at, by its line and column.
fn offending(body: &[u8], why: &serde_json::Error) -> u8 {
    let line = body.split(|byte| *byte == b'\n').nth(why.line().saturating_sub(1)).unwrap_or_default();
    line.get(why.column().saturating_sub(1)).copied().unwrap_or(b'\n')
}

/// A byte as Go's JSON scanner quotes it.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        b' '..=b'~' => format!("'{}'", char::from(byte)),
        0..=0x7f => format!(r"'\x{byte:02x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

/// What a value of the wrong type is told.
pub(crate) fn type_text(value: &Value, field: &str, wanted: &str) -> String {
    format!("json: cannot unmarshal {} into Go struct field {field} of type {wanted}", kind(value))
}

/// What a body that is no object is told.
pub(crate) fn body_type_text(value: &Value, wanted: &str) -> String {
    format!("json: cannot unmarshal {} into Go value of type {wanted}", kind(value))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A text in Go's `%q` form, for texts without control characters.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => write!(out, "\\x{:02x}", c as u32).expect("a String takes everything"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `time.ParseDuration`, with negative spans as forever, which is what Ollama makes of them.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "" => return Err(format!("time: missing unit in duration {}", quote(text))),
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            other => return Err(format!("time: unknown unit {} in duration {}", quote(other), quote(text))),
        };
        nanos += number * unit;
        rest = &rest[letters..];
    }
    Ok(if negative { FOREVER } else { Duration::from_nanos(nanos as u64).min(FOREVER) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let cases = [
            ("0", Duration::ZERO),
            ("5m", Duration::from_secs(300)),
            ("1h30m", Duration::from_secs(5400)),
            ("1.5s", Duration::from_millis(1500)),
            ("300ms", Duration::from_millis(300)),
            ("+2us", Duration::from_micros(2)),
            ("-1s", FOREVER),
        ];
        for (text, wanted) in cases {
            assert_eq!(duration(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn bad_durations_get_gos_words() {
        let cases = [
            ("soon", "time: invalid duration \"soon\""),
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            ("1.2.3s", "time: invalid duration \"1.2.3s\""),
            ("300", "time: missing unit in duration \"300\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
        ];
        for (text, wanted) in cases {
            assert_eq!(duration(text), Err(wanted.to_owned()), "{text}");
        }
    }

    #[test]
    fn syntax_errors_get_gos_words() {
        let cases = [
            ("{\"model\":", "unexpected EOF"),
            ("[1", "unexpected EOF"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{\"a\":'b'}", r"invalid character '\'' looking for beginning of value"),
            ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("\n\n {\"a\":\n  ?}", "invalid character '?' looking for beginning of value"),
            ("\"a\tb\"", r"invalid character '\t' in string literal"),
            ("\"\\q\"", "invalid character 'q' in string escape code"),
        ];
        for (body, wanted) in cases {
            let why = serde_json::from_slice::<Value>(body.as_bytes()).unwrap_err();
            assert_eq!(syntax_text(body.as_bytes(), &why), wanted, "{body}");
        }
    }
}
