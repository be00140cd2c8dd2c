//! The head of a backend's answer: what the gate needs of it, and how its body is framed (RFC 9112 §6.3).

use std::mem::MaybeUninit;

use bytes::Buf;
use bytes::BytesMut;
use http::{HeaderValue, StatusCode};

use crate::decode::{Body, Broken, Chunk};

/// Fields of an answer's head. Ollama sends five; the rest is room for proxies in front of it.
const FIELDS_MAX: usize = 96;

/// Bytes of an answer's head.
const HEAD_MAX: usize = 64 * 1024;

/// Interim answers (1xx) that are passed over at once; the first-byte timeout bounds those that come later.
const INTERIM_MAX: usize = 8;

/// What an answer begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// Its content type, as it came.
    pub content_type: Option<HeaderValue>,
    /// Its Retry-After, as it came.
    pub retry_after: Option<HeaderValue>,
    /// Its Cache-Control, as it came.
    pub cache_control: Option<HeaderValue>,
}

/// An answer's head, and what follows from it for the connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) head: Head,
    pub(crate) body: Body,
    pub(crate) after: After,
}

/// What becomes of the connection behind the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// It may carry another request.
    Keep,
    /// It may not.
    Close,
}

/// Takes the head out of `inbox`; `None` while its end has not come.
pub(crate) fn begin(inbox: &mut BytesMut) -> Result<Option<Begun>, Broken> {
    for _ in 0..=INTERIM_MAX {
        if inbox.is_empty() {
            return Ok(None);
        }
        // Not written before it is used: that would take longer than to read a usual head.
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut answer = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, inbox, &mut fields);
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if inbox.len() < HEAD_MAX => return Ok(None),
            Ok(httparse::Status::Partial) => return Err("a head that is too long"),
            Err(httparse::Error::TooManyHeaders) => return Err("a head with too many fields"),
            Err(_) => return Err("a head that is not HTTP"),
        };
        let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("a status that is none")?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err("another protocol than was asked for");
        }
        if status.is_informational() {
            inbox.advance(length);
            continue;
        }
        let begun = read(status, answer.version, answer.headers)?;
        inbox.advance(length);
        return Ok(Some(begun));
    }
    Err("interim answers without end")
}

fn read(status: StatusCode, version: Option<u8>, fields: &[httparse::Header<'_>]) -> Result<Begun, Broken> {
    let mut head = Head { status, content_type: None, retry_after: None, cache_control: None };
    let mut after = if version == Some(1) { After::Keep } else { After::Close };
    let (mut length, mut chunked) = (None, false);
    for field in fields {
        // Told apart by length first: most fields are none of these.
        match field.name.len() {
            12 if is(field, "content-type") => head.content_type = HeaderValue::from_bytes(field.value).ok(),
            11 if is(field, "retry-after") => head.retry_after = HeaderValue::from_bytes(field.value).ok(),
            13 if is(field, "cache-control") => head.cache_control = HeaderValue::from_bytes(field.value).ok(),
            14 if is(field, "content-length") => {
                let said = number(field.value).ok_or("a Content-Length that is not a number")?;
                if length.replace(said).is_some_and(|before| before != said) {
                    return Err("two different Content-Length fields");
                }
            }
            17 if is(field, "transfer-encoding") => {
                if chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                    return Err("a Transfer-Encoding other than chunked");
                }
                chunked = true;
            }
            10 if is(field, "connection") && says_close(field.value) => after = After::Close,
            _ => {}
        }
    }
    let body = match (chunked, length) {
        _ if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) => Body::Ended,
        (true, Some(_)) => return Err("both Content-Length and Transfer-Encoding"),
        (true, None) => Body::Chunked(Chunk::Size),
        (false, Some(length)) => Body::Length(length),
        (false, None) => {
            after = After::Close;
            Body::UntilClose
        }
    };
    Ok(Begun { head, body, after })
}

fn is(field: &httparse::Header<'_>, name: &str) -> bool {
    field.name.eq_ignore_ascii_case(name)
}

fn says_close(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Digits alone, and few enough of them to fit.
fn number(value: &[u8]) -> Option<u64> {
    const DIGITS_MAX: usize = 18;
    let digits = !value.is_empty() && value.len() <= DIGITS_MAX && value.iter().all(u8::is_ascii_digit);
    digits.then(|| value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(text: &str) -> Result<Option<Begun>, Broken> {
        begin(&mut BytesMut::from(text))
    }

    #[test]
    fn framing_follows_from_the_fields() {
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Body::Length(5), After::Keep),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", Body::Chunked(Chunk::Size), After::Keep),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x, Close\r\n\r\n", Body::Length(5), After::Close),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Body::Length(5), After::Close),
            ("HTTP/1.1 200 OK\r\n\r\n", Body::UntilClose, After::Close),
            ("HTTP/1.1 204 No Content\r\n\r\n", Body::Ended, After::Keep),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Body::Length(0), After::Keep),
        ];
        for (text, body, after) in cases {
            let begun = begun(text).unwrap().unwrap();
            assert_eq!((begun.body, begun.after), (body, after), "{text:?}");
        }
    }

    #[test]
    fn a_head_may_come_in_pieces_and_leaves_what_follows() {
        let text = "HTTP/1.1 503 busy\r\nRetry-After: 7\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nab";
        let head = text.len() - 2;
        let mut inbox = BytesMut::new();
        for byte in &text.as_bytes()[..head - 1] {
            inbox.extend_from_slice(&[*byte]);
            assert_eq!(begin(&mut inbox), Ok(None));
        }
        inbox.extend_from_slice(&text.as_bytes()[head - 1..]);
        let begun = begin(&mut inbox).unwrap().unwrap();
        assert_eq!(begun.head.status, 503);
        assert_eq!(begun.head.retry_after.unwrap(), "7");
        assert_eq!(begun.head.content_type.unwrap(), "text/plain");
        assert_eq!(inbox, "ab");
    }

    #[test]
    fn what_cannot_be_trusted_is_broken() {
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(HEAD_MAX));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(FIELDS_MAX + 1));
        let interim = "HTTP/1.1 102 Wait\r\n\r\n".repeat(INTERIM_MAX + 1);
        let cases = [
            "<html>",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 99 x\r\n\r\n",
            "HTTP/1.1 101 Switching\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            long.as_str(),
            many.as_str(),
            interim.as_str(),
        ];
        for text in cases {
            assert!(begun(text).is_err(), "{:?}", &text[..text.len().min(80)]);
        }
    }
}
