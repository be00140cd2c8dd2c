//! An answer's body, taken out of the bytes it comes in (RFC 9112 §6 and §7). Strict: a backend that frames its answer
//! in a way that two readers could understand differently is broken.
//!
//! It does no I/O. Invariant: what is given out is content, and its end is told only when the framing says so.

use bytes::{Buf, Bytes, BytesMut};

/// Longest line with a chunk's size. Ollama sends no extensions; proxies that do stay far below.
const SIZE_LINE_MAX: usize = 256;

/// Most hexadecimal digits of a chunk's size: 2^60 bytes are no chunk.
const SIZE_DIGITS_MAX: usize = 15;

/// Bytes of all trailers together; they are dropped.
const TRAILERS_MAX: usize = 8 * 1024;

/// A piece up to this size is copied out, so that the inbox keeps its buffer for the next one: a stream's chunks are some
/// hundred bytes each, and a buffer given away with each of them would have to be allocated anew.
const COPY_MAX: usize = 2 * 1024;

/// How far a body has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// This many bytes are to come.
    Length(u64),
    /// Chunks, and where in them the next byte is.
    Chunked(Chunk),
    /// Everything up to the end of the connection.
    UntilClose,
    /// Nothing more.
    Ended,
}

/// A place in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Before a size line.
    Size,
    /// Inside a chunk with this many bytes to come.
    Data(u64),
    /// Behind a chunk, before its line end.
    DataEnd,
    /// In the trailers, of which so many bytes have passed.
    Trailers(usize),
}

/// What the bytes at hand hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A piece of content, never empty.
    Data(Bytes),
    /// Nothing before more bytes have come.
    More,
    /// The body has ended.
    End,
}

/// The rule that a body broke.
pub(crate) type Broken = &'static str;

impl Body {
    /// Takes the next piece out of `inbox`.
    pub(crate) fn decode(&mut self, inbox: &mut BytesMut) -> Result<Step, Broken> {
        loop {
            match self {
                Self::Ended => return Ok(Step::End),
                Self::Length(left) | Self::Chunked(Chunk::Data(left)) if *left > 0 => return Ok(take(inbox, left)),
                Self::Length(_) => *self = Self::Ended,
                Self::UntilClose if inbox.is_empty() => return Ok(Step::More),
                Self::UntilClose => return Ok(Step::Data(inbox.split().freeze())),
                Self::Chunked(chunk) => match chunk.advance(inbox)? {
                    Advance::To(next) => *self = Self::Chunked(next),
                    Advance::Ended => *self = Self::Ended,
                    Advance::More => return Ok(Step::More),
                },
            }
        }
    }

    /// The connection has ended: whether the body had a right to.
    pub(crate) fn closed(&mut self) -> Result<(), Broken> {
        match self {
            Self::UntilClose | Self::Length(0) | Self::Ended => {
                *self = Self::Ended;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) => Err("the connection ended before the answer did"),
        }
    }

    /// Whether nothing more is to come.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Ended | Self::Length(0))
    }
}

fn take(inbox: &mut BytesMut, left: &mut u64) -> Step {
    if inbox.is_empty() {
        return Step::More;
    }
    let here = inbox.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= here as u64;
    if here > COPY_MAX {
        return Step::Data(inbox.split_to(here).freeze());
    }
    let data = Bytes::copy_from_slice(&inbox[..here]);
    inbox.advance(here);
    Step::Data(data)
}

enum Advance {
    To(Chunk),
    Ended,
    More,
}

impl Chunk {
    /// One step beside the content; behind a chunk whose last byte has passed, too.
    fn advance(self, inbox: &mut BytesMut) -> Result<Advance, Broken> {
        match self {
            Self::Size => {
                let Some(length) = line(inbox, SIZE_LINE_MAX)? else { return Ok(Advance::More) };
                let size = size(&inbox[..length])?;
                inbox.advance(length + 2);
                Ok(Advance::To(if size == 0 { Self::Trailers(0) } else { Self::Data(size) }))
            }
            Self::DataEnd if inbox.starts_with(b"\r\n") => {
                inbox.advance(2);
                Ok(Advance::To(Self::Size))
            }
            Self::DataEnd if inbox.is_empty() || inbox[..] == *b"\r" => Ok(Advance::More),
            Self::DataEnd => Err("a chunk that is longer than it said"),
            Self::Trailers(passed) => {
                let Some(length) = line(inbox, TRAILERS_MAX.saturating_sub(passed))? else { return Ok(Advance::More) };
                inbox.advance(length + 2);
                Ok(if length == 0 { Advance::Ended } else { Advance::To(Self::Trailers(passed + length + 2)) })
            }
            Self::Data(_) => Ok(Advance::To(Self::DataEnd)),
        }
    }
}

/// The length of the first line, without its CR LF; `None` while its end has not come.
fn line(bytes: &[u8], max: usize) -> Result<Option<usize>, Broken> {
    let near = &bytes[..bytes.len().min(max + 2)];
    match memchr::memchr(b'\n', near) {
        Some(newline) if newline > 0 && near[newline - 1] == b'\r' => Ok(Some(newline - 1)),
        Some(_) => Err("a line of a chunked body that does not end with CR LF"),
        None if near.len() == max + 2 => Err("a line of a chunked body that is too long"),
        None => Ok(None),
    }
}

fn size(line: &[u8]) -> Result<u64, Broken> {
    const BAD: Broken = "a chunk size that is not a hexadecimal number";
    let digits = line.split(|byte| matches!(byte, b';' | b' ' | b'\t')).next().unwrap_or_default();
    let extension = line[digits.len()..].trim_ascii();
    if !extension.is_empty() && !extension.starts_with(b";") {
        return Err(BAD);
    }
    if digits.is_empty() || digits.len() > SIZE_DIGITS_MAX {
        return Err(BAD);
    }
    digits.iter().try_fold(0, |sum, digit| {
        let value = (*digit as char).to_digit(16).ok_or(BAD)?;
        Ok(sum << 4 | u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `bytes` in pieces of `step`; the content, how it ended, and what was left over.
    fn read(mut body: Body, bytes: &[u8], step: usize) -> Result<(Vec<u8>, bool, usize), Broken> {
        let (mut inbox, mut content) = (BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step.max(1)) {
            inbox.extend_from_slice(piece);
            while let Step::Data(data) = body.decode(&mut inbox)? {
                assert!(!data.is_empty());
                content.extend_from_slice(&data);
            }
        }
        Ok((content, body.is_over(), inbox.len()))
    }

    const CHUNKED: Body = Body::Chunked(Chunk::Size);

    #[test]
    fn content_ends_where_the_framing_says() {
        type Case = (Body, &'static [u8], &'static [u8], bool, usize);
        let cases: &[Case] = &[
            (Body::Length(0), b"", b"", true, 0),
            (Body::Length(3), b"abcd", b"abc", true, 1),
            (Body::Length(3), b"ab", b"ab", false, 0),
            (Body::UntilClose, b"abc", b"abc", false, 0),
            (CHUNKED, b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n", b"abcd", true, 0),
            (CHUNKED, b"A\r\n0123456789\r\n0\r\nx: y\r\n\r\nz", b"0123456789", true, 1),
            (CHUNKED, b"3\r\nabc\r\n", b"abc", false, 0),
            (CHUNKED, b"3\r\nab", b"ab", false, 0),
        ];
        for (body, bytes, content, over, left) in cases {
            for step in [1, 2, 100] {
                if bytes.is_empty() {
                    continue;
                }
                let got = read(*body, bytes, step).unwrap();
                assert_eq!((got.0.as_slice(), got.1), (*content, *over), "{:?}", String::from_utf8_lossy(bytes));
                assert_eq!(got.2, *left, "{:?} by {step}", String::from_utf8_lossy(bytes));
            }
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_broken() {
        for bytes in [
            "zz\r\n",
            "\r\n",
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "-3\r\n",
            "fffffffffffffffff\r\n",
            "3 zz\r\n",
            "0\r\nx\n\r\n",
        ] {
            assert!(read(CHUNKED, bytes.as_bytes(), 100).is_err(), "{bytes:?}");
        }
        let endless = format!("3;{}", "a".repeat(1000));
        assert!(read(CHUNKED, endless.as_bytes(), 100).is_err());
        let line = format!("0\r\nx: {}\r\ny: z\r\n\r\n", "a".repeat(TRAILERS_MAX - 3));
        assert!(read(CHUNKED, line.as_bytes(), 100).is_err(), "a line that fills the trailers leaves no room");
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(3000));
        assert!(read(CHUNKED, trailers.as_bytes(), 100).is_err());
    }

    #[test]
    fn only_a_body_without_a_length_may_end_with_its_connection() {
        assert!(Body::UntilClose.closed().is_ok());
        assert!(Body::Length(0).closed().is_ok());
        assert!(Body::Length(1).closed().is_err());
        let mut chunked = CHUNKED;
        assert!(chunked.closed().is_err());
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_content(pieces in proptest::collection::vec("[a-z]{1,40}", 0..8), step in 1usize..30) {
            let chunk = |piece: &String| format!("{:x}\r\n{piece}\r\n", piece.len());
            let wire = pieces.iter().map(chunk).collect::<String>() + "0\r\n\r\n";
            let (content, over, left) = read(CHUNKED, wire.as_bytes(), step).unwrap();
            prop_assert_eq!(content, pieces.concat().into_bytes());
            prop_assert!(over && left == 0);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 1..200), step in 1usize..30) {
            drop(read(CHUNKED, &bytes, step));
        }
    }
}
