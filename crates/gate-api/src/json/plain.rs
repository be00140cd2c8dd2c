//! Where plain text ends in a JSON string, and digits in a number: found eight bytes at a time, for readers and the
//! writer alike.
//!
//! It does not read escapes or numbers, and it does not check that text is UTF-8.
//!
//! Invariant: the answer is the same as a look at each byte would give.

/// The byte 1 in each lane of a word.
const ONES: u64 = u64::from_ne_bytes([1; 8]);
/// The highest bit of each lane.
const HIGHS: u64 = ONES << 7;
/// The first byte that a JSON string may hold as it is.
const FIRST_PLAIN: u8 = 0x20;

/// How many bytes at the start of `text` stand for themselves in a JSON string: those before the first quote,
/// backslash or control character below space.
#[inline]
pub(crate) fn plain_len(text: &[u8]) -> usize {
    let mut rest = text;
    while let Some((word, more)) = rest.split_first_chunk::<8>() {
        let marks = marks(u64::from_le_bytes(*word));
        if marks != 0 {
            return text.len() - rest.len() + marks.trailing_zeros() as usize / 8;
        }
        rest = more;
    }
    match text.last_chunk::<8>() {
        // All but the rest is known to be plain, so a mark in this word is in the rest.
        Some(word) => match marks(u64::from_le_bytes(*word)) {
            0 => text.len(),
            marks => text.len() - 8 + marks.trailing_zeros() as usize / 8,
        },
        None => plain_len_by_bytes(text),
    }
}

/// The same for less than a word. Apart, so that the rest stays small where it is inlined.
#[inline(never)]
fn plain_len_by_bytes(text: &[u8]) -> usize {
    let ends = |byte: &u8| *byte < FIRST_PLAIN || matches!(byte, b'"' | b'\\');
    text.iter().position(ends).unwrap_or(text.len())
}

/// How many bytes at the start of `text` are decimal digits.
#[inline]
pub(crate) fn digits_len(text: &[u8]) -> usize {
    const ZEROS: u64 = ONES * b'0' as u64;
    const TO_TEN: u64 = ONES * (0x10 - 10);
    const TENS: u64 = ONES * 0xF0;
    let mut rest = text;
    while let Some((word, more)) = rest.split_first_chunk::<8>() {
        // A digit's high half is that of '0', and still is after adding as much as only a 9 can bear.
        let lanes = u64::from_le_bytes(*word) ^ ZEROS;
        let others = (lanes | lanes.wrapping_add(TO_TEN)) & TENS;
        if others != 0 {
            return text.len() - rest.len() + others.trailing_zeros() as usize / 8;
        }
        rest = more;
    }
    text.len() - rest.len() + rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// The highest bit of each lane that holds no plain byte. Lanes above the first such may be marked without reason,
/// since a subtraction borrows from the lane above.
fn marks(word: u64) -> u64 {
    // With this bit turned, a quote stands next to the control characters, and the space and what follows it above both.
    const TURNED: u8 = b'"' ^ FIRST_PLAIN;
    let controls_and_quotes = (word ^ (ONES * u64::from(TURNED))).wrapping_sub(ONES * u64::from(FIRST_PLAIN + 1));
    let backslashes = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
    (controls_and_quotes | backslashes) & !word & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_bytes(text: &[u8]) -> usize {
        text.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\').unwrap_or(text.len())
    }

    #[test]
    fn every_byte_is_judged_the_same_in_every_place() {
        for length in 1..20 {
            for place in 0..length {
                for byte in 0..=u8::MAX {
                    for filler in [b'a', b'!', b'#', b'[', b']', 0x7F, 0x80, 0xFF] {
                        let mut text = vec![filler; length];
                        text[place] = byte;
                        assert_eq!(plain_len(&text), by_bytes(&text), "{text:?}");
                        let mut digits = vec![b'0' + filler % 10; length];
                        digits[place] = byte;
                        let expected = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
                        assert_eq!(digits_len(&digits), expected, "{digits:?}");
                    }
                }
            }
        }
        assert_eq!((plain_len(b""), digits_len(b"")), (0, 0));
    }

    proptest! {
        #[test]
        fn words_and_bytes_agree(
            text in prop::collection::vec(prop_oneof![any::<u8>(), Just(b' '), Just(b'!'), Just(b'#'), Just(b'a')], 0..80)
        ) {
            let mut start = 0;
            while start < text.len() {
                let plain = plain_len(&text[start..]);
                prop_assert_eq!(plain, by_bytes(&text[start..]));
                start += plain + 1;
            }
        }
    }
}
