//! The chunked framing of an answer's body, taken off as the bytes come.
//!
//! A proxy may cut a body anywhere, in the middle of a line too. Trailers are not read: nobody here sends any.

use std::io;

/// The longest line of a size: its digits, and the line ends before and behind.
const SIZE_LINE_MAX: usize = 24;

/// Where in the framing a body is.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    /// Bytes that are still to come of the chunk.
    left: usize,
    /// What there is of a size, with the end of the chunk before it.
    size_line: Vec<u8>,
    last_seen: bool,
    /// Whether the body is whole.
    pub(crate) is_ended: bool,
}

impl Framing {
    /// Appends what `bytes` bring of the body to `body`.
    pub(crate) fn take(&mut self, mut bytes: &[u8], body: &mut Vec<u8>) -> io::Result<()> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let (content, behind) = bytes.split_at(self.left.min(bytes.len()));
                body.extend_from_slice(content);
                self.left -= content.len();
                bytes = behind;
                continue;
            }
            self.size_line.push(*first);
            bytes = rest;
            if self.last_seen && self.size_line == b"\r\n" {
                self.is_ended = true;
                return Ok(());
            }
            let digits = self.size_line.strip_suffix(b"\r\n").unwrap_or_default().trim_ascii();
            if !digits.is_empty() {
                let size = str::from_utf8(digits).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
                self.left = size.ok_or_else(|| io::Error::other("a strange chunk"))?;
                self.last_seen = self.left == 0;
                self.size_line.clear();
            } else if self.size_line.len() > SIZE_LINE_MAX {
                return Err(io::Error::other("a strange chunk"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_it_is_cut_the_body_is_the_same() {
        let framed = b"5\r\none\r\n\r\nA\r\ntwo, three\r\n0\r\n\r\n";
        for step in 1..=framed.len() {
            let (mut framing, mut body) = (Framing::default(), Vec::new());
            for piece in framed.chunks(step) {
                assert!(!framing.is_ended);
                framing.take(piece, &mut body).unwrap();
            }
            assert!(framing.is_ended, "{step}");
            assert_eq!(body, b"one\r\ntwo, three", "{step}");
        }
    }

    #[test]
    fn what_is_no_framing_is_an_error() {
        for bad in ["x\r\n", "{\"a\":1}\r\n", "                                   "] {
            assert!(Framing::default().take(bad.as_bytes(), &mut Vec::new()).is_err(), "{bad}");
        }
    }
}
