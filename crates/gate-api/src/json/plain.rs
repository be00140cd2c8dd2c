//! Where plain text ends in a JSON string: found eight bytes at a time, for readers and the writer alike.
//!
//! It does not read escapes, and it does not check that text is UTF-8.
//!
//! Invariant: the answer is the same as a look at each byte would give.

/// Bytes that are looked at together.
const WORD: usize = 8;
/// The byte 1 in each lane of a word.
const ONES: u64 = u64::from_ne_bytes([1; WORD]);
/// The highest bit of each lane.
const HIGHS: u64 = ONES << 7;
/// The first byte that a JSON string may hold as it is.
const FIRST_PLAIN: u8 = 0x20;

/// How many bytes at the start of `text` stand for themselves in a JSON string: those before the first quote,
/// backslash or control character below space.
#[inline]
pub(crate) fn plain_len(text: &[u8]) -> usize {
    let mut rest = text;
    while let Some((word, more)) = rest.split_first_chunk::<WORD>() {
        let marks = marks(*word);
        if marks != 0 {
            return text.len() - rest.len() + marks.trailing_zeros() as usize / 8;
        }
        rest = more;
    }
    end_of_plain_len(text)
}

/// The same for a text with no mark in its whole words. Apart, so that the loop stays small where it is inlined.
#[inline(never)]
fn end_of_plain_len(text: &[u8]) -> usize {
    if let Some(word) = text.last_chunk::<WORD>() {
        // What this word shares with the one before is known to be plain.
        let marks = marks(*word);
        if marks == 0 { text.len() } else { text.len() - WORD + marks.trailing_zeros() as usize / 8 }
    } else {
        let ends = |byte: &u8| *byte < FIRST_PLAIN || matches!(byte, b'"' | b'\\');
        text.iter().position(ends).unwrap_or(text.len())
    }
}

/// The highest bit of each lane that holds no plain byte. Lanes above the first such may be marked without reason,
/// since a subtraction borrows from the lane above.
fn marks(word: [u8; WORD]) -> u64 {
    // With this bit turned, a quote is the byte after the control characters, and only they and it are so low.
    const TURNED: u8 = b'"' ^ FIRST_PLAIN;
    let word = u64::from_le_bytes(word);
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
                    }
                }
            }
        }
        assert_eq!(plain_len(b""), 0);
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
