//! What a real Ollama answered, through the gate: the same to the byte, in whatever pieces it comes.

use std::fs;

use serde_json::Value;

use crate::scripted::{End, Framing, Say, Scripted};
use crate::stage::gate;
use crate::support::http::{Client, Request};
use crate::support::repository;

/// A recorded exchange.
struct Recorded {
    name: String,
    request: Request,
    method: String,
    status: u16,
    content_type: Option<String>,
    chunks: Vec<Vec<u8>>,
}

/// The gate's own answers to what Ollama answers in its place: its pages, routes that are not served, and its words for a
/// method that is not allowed.
const OWN: [&str; 5] = ["root", "root-head", "error-not-found", "error-method", "error-chat-role"];

/// What Ollama takes for a fault of its own.
const CLIENTS_FAULTS: [&str; 2] = ["error-bad-option", "error-bad-format"];

fn recorded() -> Vec<Recorded> {
    let folder = repository("crates/ollama-sim/tests/data/ollama");
    let requests = fs::read_to_string(folder.join("requests.jsonl")).unwrap();
    let all = requests.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.map(|asked| {
        let text = |key: &str| asked[key].as_str().unwrap().to_owned();
        let (name, method) = (text("name"), text("method"));
        let mut request = Request::new(&method, &text("path"));
        request = match &asked["body"] {
            Value::Null => request,
            Value::String(raw) => request.body(raw.as_bytes()),
            body => request.body(body.to_string().as_bytes()),
        };
        let answer = fs::read(folder.join(format!("{name}.http"))).unwrap();
        let at = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..at].to_vec()).unwrap();
        let field = |wanted: &str| head.lines().find_map(|line| line.strip_prefix(wanted)).map(ToOwned::to_owned);
        let is_chunked = field("Transfer-Encoding: ").is_some();
        Recorded {
            request,
            // Ollama answers 500 in the same words; that it is the client's fault says 400.
            status: if CLIENTS_FAULTS.contains(&name.as_str()) { 400 } else { head[9..12].parse().unwrap() },
            content_type: field("Content-Type: "),
            chunks: if is_chunked { chunks(&answer[at + 4..]) } else { vec![answer[at + 4..].to_vec()] },
            name,
            method,
        }
    })
    .collect()
}

fn chunks(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return chunks;
        }
        chunks.push(rest[end + 2..end + 2 + size].to_vec());
        rest = &rest[end + 2 + size + 2..];
    }
}

/// Ways to cut a body: as it came, byte by byte, a prime at a time, in halves, all at once.
fn cuttings(chunks: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let whole = chunks.concat();
    let by = |size: usize| whole.chunks(size.max(1)).map(<[u8]>::to_vec).collect::<Vec<_>>();
    vec![chunks.to_vec(), by(1), by(7), by(whole.len().div_ceil(2)), by(whole.len())]
}

#[test]
fn what_a_real_ollama_said_passes_to_the_byte_however_it_comes() {
    let backend = Scripted::start();
    let gate = gate(&backend.url(), &["--model", "gemma3:270m"]).start();
    let mut client = Client::connect(gate.address());
    let all = recorded();
    assert!(all.len() > 40, "{} exchanges", all.len());
    for one in all.iter().filter(|one| !OWN.contains(&one.name.as_str())) {
        let whole = one.chunks.concat();
        let content_type = one.content_type.clone().unwrap();
        let before = backend.count();
        for pieces in cuttings(&one.chunks) {
            for framing in [Framing::Chunked, Framing::Open, Framing::Length] {
                let head = format!("HTTP/1.1 {} Whatever\r\nContent-Type: {content_type}\r\n", one.status);
                backend.says(Say { head, pieces: pieces.clone(), framing, end: End::Well });
                client.send(&one.request.bytes()).unwrap();
                let answer = client.answer(&one.method).unwrap_or_else(|error| panic!("{}: {error}", one.name));
                let case = format!("{} in {} pieces, {framing:?}", one.name, pieces.len());
                assert_eq!(answer.status, one.status, "{case}: {}", answer.text());
                assert_eq!(answer.text(), String::from_utf8_lossy(&whole), "{case}");
                let kind = answer.header("content-type").unwrap();
                assert_eq!(kind.split(';').next(), content_type.split(';').next(), "{case}");
            }
        }
        let asked = backend.count() - before;
        let (first, last) = (one.name.contains("error"), backend.count());
        assert!(asked == 15 || (first && asked == 0), "{}: {asked} of {last} reached the backend", one.name);
    }
}
