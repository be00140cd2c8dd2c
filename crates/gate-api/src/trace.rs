//! What ties a request's records together over several programs: request ids and W3C trace contexts.
//!
//! It only says which of a client's values may be kept, for a header or a log; it makes none and changes none.
//!
//! Invariant: what is kept is visible ASCII of bounded length, so it can end no header, no log line and no field of one.

/// Bytes of a request id: room for a UUID, a ULID or a name with a UUID behind it, and little of a log line.
const REQUEST_ID_MAX: usize = 128;

/// Bytes of a `traceparent` of version 00, and of the part that every later version begins with.
const TRACEPARENT: usize = 55;

/// Bytes of a `traceparent` of a later version: several times what is defined, and little of a head.
const TRACEPARENT_MAX: usize = 256;

/// Whether a client's request id is kept: 1 to 128 of `A-Z a-z 0-9 . _ ~ + / = : @ -`.
pub fn request_id_is_kept(id: &[u8]) -> bool {
    (1..=REQUEST_ID_MAX).contains(&id.len())
        && id.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"._~+/=:@-".contains(&byte))
}

/// Whether a `traceparent` is one by W3C's Trace Context, level 1 or 2: `00-trace-parent-flags`, hexadecimal in lower
/// case, neither id all zeros. A later version, `ff` excepted, may have more behind a further dash.
pub fn traceparent_is_valid(value: &[u8]) -> bool {
    let Some((known, more)) = value.split_at_checked(TRACEPARENT) else { return false };
    let parts: [&[u8]; 4] = [&known[..2], &known[3..35], &known[36..52], &known[53..]];
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &[u8]| part.iter().all(|&byte| byte == b'0');
    let [version, trace, parent, _flags] = parts;
    [2, 35, 52].iter().all(|&at| known[at] == b'-')
        && parts.into_iter().all(is_hex)
        && !is_zero(trace)
        && !is_zero(parent)
        && match version {
            b"00" => more.is_empty(),
            b"ff" => false,
            _ => more.is_empty() || is_continuation(more, value.len()),
        }
}

/// Whether `more` can be what a later version adds, in a value of `whole` bytes.
fn is_continuation(more: &[u8], whole: usize) -> bool {
    whole <= TRACEPARENT_MAX && more[0] == b'-' && more.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn request_ids() {
        let longest = "a".repeat(REQUEST_ID_MAX);
        for kept in ["a", "-", "0b9f6c0e-8a4b-4d6e-9d3c-1f2e3d4c5b6a", "svc/a:1@host~x+y=._", "AZaz09", &longest] {
            assert!(request_id_is_kept(kept.as_bytes()), "{kept}");
        }
        let too_long = "a".repeat(REQUEST_ID_MAX + 1);
        for not in ["", " a", "a b", "a\r\nb", "a\0", "a,b", "a;b", "a\"", "\\", "é", "a\u{7f}", "%20", "{}", &too_long]
        {
            assert!(!request_id_is_kept(not.as_bytes()), "{not:?}");
        }
        assert!(!request_id_is_kept(b"\xff"));
    }

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";

    #[test]
    fn traceparents() {
        let check = |value: String, valid: bool| assert_eq!(traceparent_is_valid(value.as_bytes()), valid, "{value:?}");
        for flags in ["00", "01", "02", "03", "ff"] {
            check(format!("00-{TRACE}-{PARENT}-{flags}"), true);
        }
        check(format!("00-{}1-{PARENT}-00", "0".repeat(31)), true);
        check(format!("00-{TRACE}-{}1-00", "0".repeat(15)), true);
        check(format!("00-{}-{PARENT}-01", "0".repeat(32)), false);
        check(format!("00-{TRACE}-{}-01", "0".repeat(16)), false);
        check(format!("00-{}-{PARENT}-01", TRACE.to_uppercase()), false);
        check(format!("00-{TRACE}-{PARENT}-0A"), false);
        check(format!("00-{TRACE}-{PARENT}-0g"), false);
        check(format!("0x-{TRACE}-{PARENT}-01"), false);
        check(format!("0A-{TRACE}-{PARENT}-01"), false);
        check(format!("00-{TRACE}-{PARENT}-0"), false);
        check(format!("00-{TRACE}-{PARENT}-"), false);
        check(format!("00-{TRACE}-{PARENT}"), false);
        check(format!("00-{TRACE}-{PARENT}-01-"), false);
        check(format!("00-{TRACE}-{PARENT}-01 "), false);
        check(format!(" 00-{TRACE}-{PARENT}-01"), false);
        check(format!("00_{TRACE}_{PARENT}_01"), false);
        check(format!("00-{PARENT}-{TRACE}-01"), false);
        check(String::new(), false);
        check("00-".into(), false);
        // Later versions.
        check(format!("ff-{TRACE}-{PARENT}-01"), false);
        check(format!("ff-{TRACE}-{PARENT}-01-x"), false);
        check(format!("01-{TRACE}-{PARENT}-01"), true);
        check(format!("cc-{TRACE}-{PARENT}-01-"), true);
        check(format!("cc-{TRACE}-{PARENT}-01-what.the/future=has"), true);
        check(format!("cc-{TRACE}-{PARENT}-01.what"), false);
        check(format!("cc-{TRACE}-{PARENT}-011"), false);
        check(format!("cc-{TRACE}-{PARENT}-01-a b"), false);
        check(format!("cc-{TRACE}-{PARENT}-01-é"), false);
        check(format!("cc-{TRACE}-{PARENT}-01-{}", "x".repeat(TRACEPARENT_MAX - TRACEPARENT - 1)), true);
        check(format!("cc-{TRACE}-{PARENT}-01-{}", "x".repeat(TRACEPARENT_MAX - TRACEPARENT)), false);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(value in proptest::collection::vec(any::<u8>(), 0..140)) {
            if request_id_is_kept(&value) || traceparent_is_valid(&value) {
                prop_assert!(!value.is_empty() && value.iter().all(u8::is_ascii_graphic));
            }
        }

        /// One byte of a valid value replaced: only lower-case hexadecimal in the ids and the flags keeps it valid.
        #[test]
        fn one_byte_changed(at in 0_usize..TRACEPARENT, byte: u8) {
            let mut value = format!("00-{TRACE}-{PARENT}-01").into_bytes();
            let same = std::mem::replace(&mut value[at], byte) == byte;
            let is_hex = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            // Any version but 00 and ff, in the first two, is a later one.
            let is_place_for_hex = ![2, 35, 52].contains(&at);
            prop_assert_eq!(traceparent_is_valid(&value), same || (is_hex && is_place_for_hex), "{:?}", value);
        }
    }
}
