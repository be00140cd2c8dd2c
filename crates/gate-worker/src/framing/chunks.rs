//! A chunked body, followed to its last byte (RFC 9112 §7.1), without a lenient line end anywhere.

use super::head::{is_token, is_value};

/// Longest line with a chunk's size, its extensions included. Nobody we know of sends extensions.
const SIZE_LINE_MAX: usize = 64;

/// Most hexadecimal digits of a size: 2^60 bytes are no body.
const SIZE_DIGITS_MAX: usize = 15;

/// Bytes of all trailer lines together.
const TRAILERS_MAX: usize = 8 * 1024;

/// Fields that would change where a message ends or whom it is for.
const FORBIDDEN_TRAILERS: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];

/// Where in a chunked body the next byte is.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    at: At,
    trailers: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    SizeLine,
    Data(u64),
    DataEnd,
    Trailer,
    Ended,
}

impl Chunks {
    /// Whether the last byte has been released.
    pub(crate) fn ended(&self) -> bool {
        self.at == At::Ended
    }

    /// How many of `bytes` belong to this body and are well formed; 0 until a line is whole.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let mut done = 0;
        while done < bytes.len() && !self.ended() {
            let step = self.step(&bytes[done..])?;
            if step == 0 {
                break;
            }
            done += step;
        }
        Ok(done)
    }

    fn step(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        match &mut self.at {
            At::SizeLine => {
                let Some(line) = line(bytes, SIZE_LINE_MAX, "a chunk's size line that is too long")? else {
                    return Ok(0);
                };
                let size = size(line)?;
                self.at = if size == 0 { At::Trailer } else { At::Data(size) };
                Ok(line.len() + 2)
            }
            At::Data(left) => {
                let here = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= here as u64;
                if *left == 0 {
                    self.at = At::DataEnd;
                }
                Ok(here)
            }
            At::DataEnd if bytes.starts_with(b"\r\n") => {
                self.at = At::SizeLine;
                Ok(2)
            }
            At::DataEnd if bytes == b"\r" => Ok(0),
            At::DataEnd => Err("a chunk that is longer than it said"),
            At::Trailer => self.trailer(bytes),
            At::Ended => Ok(0),
        }
    }

    fn trailer(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let Some(line) = line(bytes, TRAILERS_MAX.saturating_sub(self.trailers), "trailers that are too long")? else {
            return Ok(0);
        };
        if line.is_empty() {
            self.at = At::Ended;
            return Ok(2);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or("a trailer line without a colon")?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if !is_token(name) {
            return Err("a trailer name that is not a token");
        }
        if !is_value(value) {
            return Err("a control character in a trailer");
        }
        if FORBIDDEN_TRAILERS.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden)) {
            return Err("a trailer that belongs into the head");
        }
        self.trailers += line.len() + 2;
        Ok(line.len() + 2)
    }
}

/// The line that `bytes` begin with, without its CR LF; `None` while its end has not come.
fn line<'a>(bytes: &'a [u8], max: usize, too_long: &'static str) -> Result<Option<&'a [u8]>, &'static str> {
    let near = &bytes[..bytes.len().min(max + 2)];
    match near.iter().position(|byte| *byte == b'\n') {
        Some(newline) => {
            near[..newline].strip_suffix(b"\r").map(Some).ok_or("a line of a chunked body that does not end with CR LF")
        }
        None if near.len() == max + 2 => Err(too_long),
        None => Ok(None),
    }
}

fn size(line: &[u8]) -> Result<u64, &'static str> {
    let (digits, extension) = match line.iter().position(|byte| *byte == b';') {
        Some(at) => (&line[..at], &line[at..]),
        None => (line, &line[line.len()..]),
    };
    if digits.is_empty() || digits.len() > SIZE_DIGITS_MAX || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err("a chunk size that is not a hexadecimal number");
    }
    if !extension.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e)) {
        return Err("a control character in a chunk extension");
    }
    let text = std::str::from_utf8(digits).map_err(|_| "a chunk size that is not a hexadecimal number")?;
    u64::from_str_radix(text, 16).map_err(|_| "a chunk size that is not a hexadecimal number")
}
