//! Single requests to a server: is it ready, is it right. Blocking, one connection each, never under load.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::complaint::Complaint;

/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How much of an answer is read: `/openapi.json` is the largest.
const BYTES_MAX: u64 = 1 << 20;

/// What was asked and comes back.
#[derive(Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// A port that is free now.
pub(crate) fn free_port() -> Result<u16, Complaint> {
    let found = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    found.map(|address| address.port()).map_err(Complaint::io("looking for a free port"))
}

/// So many of them, each another one.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>, Complaint> {
    // All are held until the last one is known.
    let found: io::Result<Vec<TcpListener>> = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect();
    let ports = found.and_then(|all| all.iter().map(|one| one.local_addr().map(|address| address.port())).collect());
    ports.map_err(Complaint::io("looking for free ports"))
}

/// Asks for a path.
pub(crate) fn get(port: u16, path: &str) -> io::Result<Reply> {
    get_with(port, path, None)
}

/// Asks for a path with an API key.
pub(crate) fn get_with(port: u16, path: &str, key: Option<&str>) -> io::Result<Reply> {
    let key = field(key);
    ask(port, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{key}Connection: close\r\n\r\n"))
}

/// Sends a JSON body.
pub(crate) fn post(port: u16, path: &str, body: &str, key: Option<&str>) -> io::Result<Reply> {
    let (length, key) = (body.len(), field(key));
    ask(
        port,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{key}Connection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ),
    )
}

fn field(key: Option<&str>) -> String {
    key.map_or(String::new(), |key| format!("Authorization: Bearer {key}\r\n"))
}

fn ask(port: u16, request: &str) -> io::Result<Reply> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(BYTES_MAX).read_to_end(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::Error::other("no HTTP answer"))
}

/// Splits an answer; a body keeps the framing it came in.
fn parse(answer: &str) -> Option<Reply> {
    let status = answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some(Reply { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_field() {
        assert_eq!(field(None), "");
        assert_eq!(field(Some("og-1")), "Authorization: Bearer og-1\r\n");
    }

    #[test]
    fn answers() {
        let reply = |status, body: &str| Some(Reply { status, body: body.to_owned() });
        assert_eq!(parse("HTTP/1.1 200 OK\r\nA: b\r\n\r\nyes"), reply(200, "yes"));
        assert_eq!(parse("HTTP/1.1 503 \r\nA: b\r\n\r\n"), reply(503, ""));
        for bad in ["", "HTTP/1.1 2", "HTTP/1.1 abc OK\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
