//! One look at a whole head: RFC 9112 §2 to §6 as a strict server reads them.

use std::ops::Range;

use gate_api::Rejection;
use http::Uri;
use memchr::memchr;

use super::Framing;

/// Longest method: `OPTIONS` and its like, with room for those nobody serves, which get a 405.
const METHOD_MAX: usize = 16;

/// Bytes of a line's end.
const LINE_END: usize = b"\r\n".len();

/// Longest target that hyper's reader can hold, whatever the operator allows.
pub(super) const TARGET_MAX: usize = 65_534;

/// Bytes of a head that may be empty lines before the request line (RFC 9112 §2.2 asks to ignore at least one).
const LEADING_LINES_MAX: usize = 4;

/// Longest Content-Length in digits: more would not fit a u64.
const LENGTH_DIGITS_MAX: usize = 18;

/// How large a head may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caps {
    /// Bytes of the whole head.
    pub(crate) head: usize,
    /// Fields.
    pub(crate) fields: usize,
    /// Bytes of the request target.
    pub(crate) target: usize,
}

type Judged<T> = Result<T, Rejection>;

fn malformed<T>(reason: &'static str) -> Judged<T> {
    Err(Rejection::MalformedHead { reason })
}

/// A head that was found good.
#[derive(Debug)]
pub(super) struct Whole {
    /// Its bytes.
    pub(super) length: usize,
    /// How the body behind it is framed.
    pub(super) framing: Framing,
    /// Where the digits of its Content-Length stand; empty without one.
    pub(super) digits: Range<usize>,
}

impl Default for Whole {
    fn default() -> Self {
        Self { length: 0, framing: Framing::Length(0), digits: 0..0 }
    }
}

/// Judges the head that `bytes` begin with; `None` while its end has not come.
pub(super) fn judge(bytes: &[u8], searched: &mut usize, caps: &Caps) -> Judged<Option<Whole>> {
    let Some(end) = end(bytes, searched) else {
        if bytes.len() > caps.head {
            return too_large(bytes, caps);
        }
        // Garbage is told at once, not after the deadline of a head that never ends.
        if let Some(line_end) = memchr(b'\n', bytes) {
            let (line, blank) = without_crlf(&bytes[..=line_end])?;
            if !blank {
                request_line(line, caps)?;
            }
        }
        return Ok(None);
    };
    if end > caps.head {
        return too_large(bytes, caps);
    }
    let mut rest = &bytes[..end];
    let version = loop {
        let (line, blank) = without_crlf(next_line(&mut rest))?;
        if !blank {
            break request_line(line, caps)?;
        }
    };
    let mut seen = Seen { version, ..Seen::default() };
    loop {
        let (line, blank) = without_crlf(next_line(&mut rest))?;
        if blank {
            break;
        }
        field(line, &mut seen)?;
        if seen.digits.is_none() && seen.length.is_some() {
            seen.digits = Some(digits(line, end - rest.len() - LINE_END));
        }
        if seen.fields > caps.fields {
            return Err(Rejection::TooManyFields { limit: caps.fields as u64 });
        }
    }
    Ok(Some(Whole { length: end, framing: seen.framing()?, digits: seen.digits.unwrap_or_default() }))
}

/// The target is to blame when it alone is too long.
fn too_large<T>(bytes: &[u8], caps: &Caps) -> Judged<T> {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if target.len() > caps.target {
        return Err(Rejection::TargetTooLong { limit: caps.target as u64 });
    }
    Err(Rejection::HeadTooLarge { limit: caps.head as u64 })
}

/// The end of the head: behind the first empty line that is not before the request line.
fn end(bytes: &[u8], searched: &mut usize) -> Option<usize> {
    let mut start = 0;
    for _ in 0..LEADING_LINES_MAX {
        if bytes[start..].starts_with(b"\r\n") {
            start += 2;
        }
    }
    // The empty line may have begun in what was searched before.
    let from = searched.saturating_sub(3).max(start);
    *searched = bytes.len();
    let mut at = from;
    while let Some(newline) = memchr(b'\n', &bytes[at..]) {
        let after = at + newline + 1;
        if bytes[after..].starts_with(b"\r\n") {
            return Some(after + 2);
        }
        if bytes[after..].starts_with(b"\n") {
            // A bare LF ends it for lenient parsers; `without_crlf` will refuse it.
            return Some(after + 1);
        }
        at = after;
    }
    None
}

/// Takes the first line, with its end.
fn next_line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let length = memchr(b'\n', rest).map_or(rest.len(), |newline| newline + 1);
    let (line, left) = rest.split_at(length);
    *rest = left;
    line
}

/// A line without its end, and whether it is empty.
fn without_crlf(line: &[u8]) -> Judged<(&[u8], bool)> {
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok((line, line.is_empty())),
        None => malformed("a line that does not end with CR LF"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Version {
    #[default]
    Http11,
    Http10,
}

fn request_line(line: &[u8], caps: &Caps) -> Judged<Version> {
    let parts = memchr(b' ', line).and_then(|first| {
        let second = first + 1 + memchr(b' ', &line[first + 1..])?;
        Some((&line[..first], &line[first + 1..second], &line[second + 1..]))
    });
    let Some((method, target, version)) = parts.filter(|(_, _, version)| !version.contains(&b' ')) else {
        return malformed("a request line that is not METHOD TARGET VERSION");
    };
    if method.is_empty() || method.len() > METHOD_MAX || !method.iter().all(u8::is_ascii_uppercase) {
        return malformed("a method that is not a word in capitals");
    }
    if method == b"CONNECT" {
        return malformed("CONNECT, which only a forward proxy serves");
    }
    if target.len() > caps.target {
        return Err(Rejection::TargetTooLong { limit: caps.target as u64 });
    }
    if !is_target(target) {
        return malformed("a request target that is not a path or has a byte that must be percent-encoded");
    }
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        _ => malformed("a version other than HTTP/1.1 and HTTP/1.0"),
    }
}

/// Origin form, absolute form, or `*`; of bytes that both hyper and RFC 3986's reading of real clients take.
fn is_target(target: &[u8]) -> bool {
    let form_ok = match target {
        [b'/', ..] | [b'*'] => true,
        _ => target.starts_with(b"http://") || target.starts_with(b"https://"),
    };
    form_ok && all(target, TARGET) && (is_plain(target) || Uri::try_from(target).is_ok())
}

/// Whether hyper's own reader takes the target for sure. About an authority, and a quote in a query, it has further
/// rules, and would answer by itself what breaks them.
fn is_plain(target: &[u8]) -> bool {
    target.starts_with(b"/") && !target.contains(&b'"')
}

/// Classes of bytes, one bit each, so that a byte is judged by one look.
const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const HOST: u8 = 4;

static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        if byte.is_ascii_alphanumeric() || in_set(byte, b"!#$%&'*+-.^_`|~") {
            classes[at] |= TOKEN;
        }
        if matches!(byte, 0x21..=0x7e) && !in_set(byte, b"#<>`") {
            classes[at] |= TARGET;
        }
        if byte.is_ascii_alphanumeric() || in_set(byte, b"-._~!$&'()*+,;=:[]%") {
            classes[at] |= HOST;
        }
        at += 1;
    }
    classes
};

const fn in_set(byte: u8, set: &[u8]) -> bool {
    let mut at = 0;
    while at < set.len() {
        if set[at] == byte {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether all bytes are of a class.
fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|byte| CLASSES[usize::from(*byte)] & class != 0)
}

#[derive(Debug, Default)]
struct Seen {
    version: Version,
    fields: usize,
    hosts: usize,
    length: Option<u64>,
    /// Where the digits of that stand in the head.
    digits: Option<Range<usize>>,
    chunked: Chunked,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Chunked {
    #[default]
    No,
    Yes,
}

fn field(line: &[u8], seen: &mut Seen) -> Judged<()> {
    seen.fields += 1;
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return malformed("a folded header line");
    }
    let Some(colon) = memchr(b':', line) else {
        return malformed("a header line without a colon");
    };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return malformed("a header name that is not a token");
    }
    if !is_value(value) {
        return malformed("a control character in a header value");
    }
    // Of what this trims, only blanks and tabs can still be there.
    let value = value.trim_ascii();
    match name.len() {
        4 if name.eq_ignore_ascii_case(b"host") => host(value, seen),
        14 if name.eq_ignore_ascii_case(b"content-length") => length(value, seen),
        17 if name.eq_ignore_ascii_case(b"transfer-encoding") => encoding(value, seen),
        _ => Ok(()),
    }
}

fn host(value: &[u8], seen: &mut Seen) -> Judged<()> {
    seen.hosts += 1;
    if seen.hosts > 1 {
        return malformed("two Host fields");
    }
    if all(value, HOST) { Ok(()) } else { malformed("a Host that is not a host and port") }
}

fn length(value: &[u8], seen: &mut Seen) -> Judged<()> {
    if seen.length.is_some() {
        return malformed("two Content-Length fields");
    }
    let digits = !value.is_empty() && value.len() <= LENGTH_DIGITS_MAX && value.iter().all(u8::is_ascii_digit);
    if !digits {
        return malformed("a Content-Length that is not a number");
    }
    seen.length = Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')));
    Ok(())
}

/// Where the digits stand that a line of Content-Length, which ends at `end`, ends with.
fn digits(line: &[u8], end: usize) -> Range<usize> {
    let end = end - (line.len() - line.trim_ascii_end().len());
    let count = line.trim_ascii_end().iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    end - count..end
}

fn encoding(value: &[u8], seen: &mut Seen) -> Judged<()> {
    if seen.chunked == Chunked::Yes || !value.eq_ignore_ascii_case(b"chunked") {
        return malformed("a Transfer-Encoding other than chunked");
    }
    seen.chunked = Chunked::Yes;
    Ok(())
}

impl Seen {
    fn framing(&self) -> Judged<Framing> {
        if self.version == Version::Http11 && self.hosts == 0 {
            return malformed("no Host field");
        }
        match (&self.chunked, self.length) {
            (Chunked::No, length) => Ok(Framing::Length(length.unwrap_or(0))),
            (Chunked::Yes, Some(_)) => malformed("both Content-Length and Transfer-Encoding"),
            (Chunked::Yes, None) if self.version == Version::Http10 => malformed("Transfer-Encoding in HTTP/1.0"),
            (Chunked::Yes, None) => Ok(Framing::Chunked),
        }
    }
}

/// RFC 9110 §5.6.2.
pub(super) fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && all(name, TOKEN)
}

/// RFC 9110 §5.5, obs-text included. Every byte is looked at, many at once, for values are long and nearly always good.
pub(super) fn is_value(value: &[u8]) -> bool {
    value.iter().fold(true, |good, byte| good & matches!(byte, b'\t' | 0x20..=0x7e | 0x80..))
}
