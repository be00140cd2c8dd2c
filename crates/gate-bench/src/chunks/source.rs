//! The Ollama of the stream part: every POST is answered by a paced stream of lines or events, one write for each chunk.

use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval};

use super::line::{self, Place, Shape};
use super::{CHUNKS, PACE, STREAMS};
use crate::complaint::Complaint;
use crate::upstream;

/// Connections at once: all streams of a wave, those kept from the last one, and some for health checks.
const CONNECTIONS_MAX: usize = 4 * STREAMS as usize;
/// The largest request: head and body of a short prompt.
const REQUEST_MAX: usize = 16 << 10;

/// Answers until it is ended.
pub(crate) fn serve(port: u16) -> Result<(), Complaint> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Complaint::io("starting the chunk source"))?;
    runtime.block_on(accept(port)).map_err(Complaint::io(format!("127.0.0.1:{port}")))
}

async fn accept(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let open = Arc::new(());
    loop {
        let (stream, _) = listener.accept().await?;
        if Arc::strong_count(&open) > CONNECTIONS_MAX {
            continue;
        }
        let one = Arc::clone(&open);
        tokio::spawn(async move {
            // A client that goes away in the middle is its own affair; the sink counts what it misses.
            answer_all(stream).await.ok();
            drop(one);
        });
    }
}

async fn answer_all(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut held = Vec::new();
    while let Some(target) = next_request(&mut stream, &mut held).await? {
        if let Some(path) = target.strip_prefix("POST ") {
            send_stream(&mut stream, Shape::of_path(path)).await?;
        } else {
            return stream.write_all(small_answer(&target).as_bytes()).await;
        }
    }
    Ok(())
}

/// Reads one request with its body; none at the end of the connection.
async fn next_request(stream: &mut TcpStream, held: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some((target, length)) = request_in(held) {
            held.drain(..length);
            return Ok(Some(target));
        }
        if held.len() > REQUEST_MAX {
            return Err(io::Error::other("a request beyond all bounds"));
        }
        if stream.read_buf(held).await? == 0 {
            return Ok(None);
        }
    }
}

/// A complete request at the beginning of what was read: method and path, and the length of it all.
fn request_in(held: &[u8]) -> Option<(String, usize)> {
    let body = line::find(held, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&held[..body]).into_owned();
    let fields: Vec<(String, &str)> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let field = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
    let length = if field("transfer-encoding").is_some() {
        // The last chunk ends the body; a prompt in JSON cannot hold these bytes.
        body + line::find(&held[body..], b"0\r\n\r\n")? + 5
    } else {
        body + field("content-length").map_or(Some(0), |value| value.parse().ok())?
    };
    let target = text.lines().next()?.rsplit_once(' ')?.0.to_owned();
    (held.len() >= length).then_some((target, length))
}

async fn send_stream(stream: &mut TcpStream, shape: Shape) -> io::Result<()> {
    let media = shape.media_type();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut content, mut chunk) = (String::new(), String::new());
    for number in 1..=CHUNKS {
        pace.tick().await;
        content.clear();
        chunk.clear();
        shape.write(&mut content, line::now_ns(), if number == CHUNKS { Place::End } else { Place::Middle });
        write!(chunk, "{:x}\r\n{content}\r\n", content.len()).map_err(io::Error::other)?;
        stream.write_all(chunk.as_bytes()).await?;
    }
    let end = shape.terminator();
    if !end.is_empty() {
        stream.write_all(format!("{:x}\r\n{end}\r\n", end.len()).as_bytes()).await?;
    }
    stream.write_all(b"0\r\n\r\n").await
}

fn small_answer(target: &str) -> String {
    let body = match target {
        "GET /api/tags" => upstream::tags(),
        "GET /api/ps" => r#"{"models":[]}"#.to_owned(),
        "GET /api/version" => r#"{"version":"0.24.0"}"#.to_owned(),
        _ => "Ollama is running".to_owned(),
    };
    let length = if target.starts_with("HEAD ") { 0 } else { body.len() };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{}",
        &body[..length]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_cut_from_what_was_read() {
        for (held, expected) in [
            ("GET /api/tags HTTP/1.1\r\nHost: a\r\n\r\nGET", Some(("GET /api/tags", 35))),
            ("POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcPOST", Some(("POST /x", 42))),
            ("POST /x HTTP/1.1\r\ncontent-length: 3\r\n\r\nab", None),
            ("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", Some(("POST /x", 59))),
            ("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", None),
            ("GET / HTTP/1.1\r\n", None),
        ] {
            let found = request_in(held.as_bytes());
            assert_eq!(found, expected.map(|(target, length)| (target.to_owned(), length)), "{held}");
        }
    }
}
