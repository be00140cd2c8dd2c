//! What a backend is asked, as bytes.
//!
//! Invariant: nothing that a client wrote stands in a head but what was judged before: a path of the route table, values of
//! `HeaderValue`.

use std::borrow::Cow;
use std::cell::RefCell;

use bytes::Bytes;
use http::HeaderValue;

/// A body up to this size is sent in one piece with the head, which saves a system call; a larger one is not copied.
const ONE_PIECE_MAX: usize = 16 * 1024;

/// Fields that can go along with a request.
pub const FIELDS: usize = 4;

/// How a backend is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A question.
    Get,
    /// A question for the head of its answer.
    Head,
    /// Work.
    Post,
    /// Taking something away.
    Delete,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// What a backend is asked.
#[derive(Debug, Clone)]
pub struct Ask {
    /// How.
    pub method: Method,
    /// The path, below the backend's prefix.
    pub path: Cow<'static, str>,
    /// The JSON that goes along.
    pub body: Option<Bytes>,
    /// Fields that go along: whose request it is, and by which name it is followed.
    pub fields: [Option<(&'static str, HeaderValue)>; FIELDS],
}

impl Ask {
    /// A GET on nobody's behalf.
    pub fn get(path: &'static str) -> Self {
        Self { method: Method::Get, path: Cow::Borrowed(path), body: None, fields: Default::default() }
    }
}

/// How the length of a body is told that is not at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes.
    Length(u64),
    /// In chunks, until the last one.
    Chunked,
}

/// Where requests to one backend begin: request lines and fixed fields, made once for each path that is known.
#[derive(Debug)]
pub(crate) struct Heads {
    authority: String,
    prefix: String,
    made: RefCell<Vec<(&'static str, Method, Bytes)>>,
}

impl Heads {
    pub(crate) fn new(authority: &str, prefix: &str) -> Self {
        Self { authority: authority.to_owned(), prefix: prefix.to_owned(), made: RefCell::default() }
    }

    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The bytes of a request: its head, with the body where that is small, and the rest of the body.
    pub(crate) fn request(&self, ask: &Ask) -> [Bytes; 2] {
        let body = ask.body.clone().unwrap_or_default();
        let mut head = self.begin(ask, 128 + body.len().min(ONE_PIECE_MAX));
        if ask.body.is_some() || ask.method == Method::Post {
            length(&mut head, body.len() as u64);
        }
        head.extend_from_slice(b"\r\n");
        if body.len() <= ONE_PIECE_MAX {
            head.extend_from_slice(&body);
            return [head.into(), Bytes::new()];
        }
        [head.into(), body]
    }

    /// The head of a request whose body follows piece by piece.
    pub(crate) fn opening(&self, ask: &Ask, framing: Framing) -> Bytes {
        let mut head = self.begin(ask, 128);
        match framing {
            Framing::Length(bytes) => length(&mut head, bytes),
            Framing::Chunked => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        head.extend_from_slice(b"\r\n");
        head.into()
    }

    fn begin(&self, ask: &Ask, room: usize) -> Vec<u8> {
        let fixed = self.fixed(ask);
        let mut head = Vec::with_capacity(fixed.len() + room);
        head.extend_from_slice(&fixed);
        for (name, value) in ask.fields.iter().flatten() {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head
    }

    fn fixed(&self, ask: &Ask) -> Bytes {
        let Cow::Borrowed(path) = ask.path else { return self.make(ask.method, &ask.path) };
        let mut made = self.made.borrow_mut();
        if let Some((.., head)) = made.iter().find(|(own, method, _)| *own == path && *method == ask.method) {
            return head.clone();
        }
        let head = self.make(ask.method, path);
        made.push((path, ask.method, head.clone()));
        head
    }

    /// Host is the backend's own: a loopback Ollama answers 403 to a public name. No coding is accepted, since bodies
    /// are passed on as they come.
    fn make(&self, method: Method, path: &str) -> Bytes {
        let Self { prefix, authority, .. } = self;
        let verb = method.name();
        let kind = match method {
            Method::Get | Method::Head => "",
            Method::Post | Method::Delete => "content-type: application/json\r\n",
        };
        Bytes::from(format!(
            "{verb} {prefix}{path} HTTP/1.1\r\nhost: {authority}\r\naccept: application/json\r\n\
             accept-encoding: identity\r\n{kind}"
        ))
    }
}

fn length(head: &mut Vec<u8>, bytes: u64) {
    head.extend_from_slice(b"content-length: ");
    head.extend_from_slice(itoa::Buffer::new().format(bytes).as_bytes());
    head.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ask: &Ask) -> String {
        let [head, rest] = Heads::new("gpu1:11434", "/ollama").request(ask);
        assert!(rest.is_empty());
        String::from_utf8(head.to_vec()).unwrap()
    }

    #[test]
    fn each_method_says_what_goes_along() {
        let body = Some(Bytes::from_static(b"{}"));
        let cases = [
            (Method::Get, None, "GET /ollama/x ", None),
            (Method::Head, None, "HEAD /ollama/x ", None),
            (Method::Post, body.clone(), "POST /ollama/x ", Some("content-length: 2\r\n")),
            (Method::Post, None, "POST /ollama/x ", Some("content-length: 0\r\n")),
            (Method::Delete, body, "DELETE /ollama/x ", Some("content-length: 2\r\n")),
        ];
        for (method, body, line, length) in cases {
            for path in [Cow::Borrowed("/x"), Cow::Owned("/x".to_owned())] {
                let text = text(&Ask { method, path, body: body.clone(), ..Ask::get("/") });
                assert!(text.starts_with(line), "{text}");
                assert!(text.contains("\r\nhost: gpu1:11434\r\n"), "{text}");
                assert_eq!(text.contains("content-length"), length.is_some(), "{text}");
                assert!(length.is_none_or(|length| text.contains(length)), "{text}");
                assert_eq!(text.ends_with("\r\n\r\n{}"), body.is_some(), "{text}");
            }
        }
    }

    #[test]
    fn a_body_that_follows_is_framed() {
        let ask = Ask { method: Method::Post, ..Ask::get("/blob") };
        for (framing, field) in
            [(Framing::Length(7), "content-length: 7\r\n"), (Framing::Chunked, "transfer-encoding: chunked\r\n")]
        {
            let head = Heads::new("a:1", "").opening(&ask, framing);
            let head = String::from_utf8(head.to_vec()).unwrap();
            assert!(head.starts_with("POST /blob ") && head.contains(field) && head.ends_with("\r\n\r\n"), "{head}");
        }
    }
}
