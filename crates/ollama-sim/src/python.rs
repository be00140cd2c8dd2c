//! JSON text as Python's `json.dumps(value, sort_keys=True)` writes it, from JSON text. Texts that Python could not
//! have read are not its business: it gives nothing for them.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::value::RawValue;

/// The nesting it follows; about where Python gives up too.
const DEPTH_MAX: usize = 900;

/// Rewrites one JSON value; `None` where it is too deep or holds half a surrogate pair.
pub(crate) fn dumps(json: &str) -> Option<String> {
    let mut out = String::with_capacity(json.len() + 16);
    value(json.trim_ascii(), DEPTH_MAX, &mut out)?;
    Some(out)
}

/// Appends a string with everything outside ASCII escaped.
pub(crate) fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                write!(out, "\\u{unit:04x}").expect("a String takes everything");
            }),
        }
    }
    out.push('"');
}

/// Each level parses its own text again, which costs depth times length: bodies here are small or flat.
fn value(json: &str, depth: usize, out: &mut String) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    match json.as_bytes().first()? {
        b'{' => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(json).ok()?;
            out.push('{');
            for (index, (name, member)) in members.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                string(name, out);
                out.push_str(": ");
                value(member.get(), depth, out)?;
            }
            out.push('}');
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                value(item.get(), depth, out)?;
            }
            out.push(']');
        }
        b'"' => string(&serde_json::from_str::<String>(json).ok()?, out),
        b't' | b'f' | b'n' => out.push_str(json),
        _ => number(json, out)?,
    }
    Some(())
}

/// Integers keep all their digits; everything else becomes a double, as in Python.
fn number(json: &str, out: &mut String) -> Option<()> {
    if json.contains(['.', 'e', 'E']) {
        out.push_str(&float(json.parse().ok()?));
    } else {
        out.push_str(if json == "-0" { "0" } else { json });
    }
    Some(())
}

/// Python's `repr` of a double: the shortest digits, with an exponent below 1e-4 and from 1e16.
fn float(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("the e format always has an e");
    let exponent: i32 = exponent.parse().expect("Rust wrote this exponent as a number");
    if (-4..16).contains(&exponent) {
        format!("{number:?}")
    } else {
        format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_in_python() {
        let cases = [
            ("1", "1"),
            ("-0", "0"),
            ("-0.0", "-0.0"),
            ("1.0", "1.0"),
            ("1e3", "1000.0"),
            ("1E-4", "0.0001"),
            ("1e-5", "1e-05"),
            ("0.000012345", "1.2345e-05"),
            ("1e15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("123456789012345678.0", "1.2345678901234568e+17"),
            ("1.5e300", "1.5e+300"),
            ("1e400", "Infinity"),
            ("-1e400", "-Infinity"),
            ("0.1", "0.1"),
            ("18446744073709551615", "18446744073709551615"),
            ("100000000000000000000000000000", "100000000000000000000000000000"),
        ];
        for (json, wanted) in cases {
            assert_eq!(dumps(json).as_deref(), Some(wanted), "{json}");
        }
    }

    #[test]
    fn structure_is_sorted_spaced_and_ascii() {
        let cases = [
            (r#" {"b":[1,{"z":null,"a":true}],"a":"x","b":[]} "#, r#"{"a": "x", "b": []}"#),
            ("{}", "{}"),
            (r#"["é🚀\u0001\"\\\n/\u007f"]"#, r#"["\u00e9\ud83d\ude80\u0001\"\\\n/\u007f"]"#),
            (r#"{"é":1,"z":2}"#, r#"{"z": 2, "\u00e9": 1}"#),
        ];
        for (json, wanted) in cases {
            assert_eq!(dumps(json).as_deref(), Some(wanted), "{json}");
        }
    }

    #[test]
    fn depth_has_an_end() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(dumps(&nested(100)), Some(nested(100)));
        assert_eq!(dumps(&nested(DEPTH_MAX + 1)), None);
    }
}
