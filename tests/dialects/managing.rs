//! Changing a backend's models through the gate: who may, what is relayed, which backend is meant, and blobs larger than
//! anything that the gate would hold.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::scripted::{End, Framing, Say, Scripted};
use crate::stage::{Keys, Kind, MODEL, WAYS, Way, by, config, gate, gate_before, named, refused};
use crate::support::http::{self, Client, Request};
use crate::support::sim::Backend;
use crate::support::{Gate, PATIENCE, wait_for};

fn blob() -> String {
    format!("/api/blobs/sha256:{}", "ab".repeat(32))
}

/// A request for progress, told line by line.
fn progress(name: &str) -> Request {
    let way = named(name);
    let mut body = way.body(MODEL, "");
    body["stream"] = json!(true);
    way.with(&body.to_string(), MODEL)
}

fn managing() -> impl Iterator<Item = Way> {
    WAYS.into_iter().filter(|way| way.kind == Kind::Manages)
}

#[test]
fn models_are_changed_with_keys_that_name_it_and_with_no_other() {
    let (backend, keys) = (Backend::start(config(&[MODEL])), Keys::new());
    let plain = keys.make("plain", "");
    let each: Vec<_> = managing().map(|way| (way, keys.make(way.name, &format!("--routes {}", way.name)))).collect();
    let blobs = keys.make("blobs", "--routes blobs");
    let (open, keyed) = (gate(&backend.url(), &[]).start(), gate(&backend.url(), &[&keys.flag()]).start());
    let show = named("show");
    let uploads = ["HEAD", "POST"].map(|method| Request::new(method, &blob()).body(b"GGUF"));
    for way in managing() {
        let request = way.request(MODEL, "");
        refused(way, &open.ask(&request), 403);
        refused(way, &keyed.ask(&request), 401);
        for key in
            [&plain, &blobs].into_iter().chain(each.iter().filter(|(other, _)| *other != way).map(|(_, key)| key))
        {
            assert_eq!(refused(way, &keyed.ask(&by(key, &request)), 403), "this API key may not use this route");
        }
    }
    for upload in &uploads {
        for (gate, request, status) in
            [(&open, upload.clone(), 403), (&keyed, by(&each[0].1, upload), 403), (&keyed, upload.clone(), 401)]
        {
            let answer = http_of(gate, &request);
            assert_eq!(answer.status, status, "{:?}", answer.headers);
        }
    }
    let asked = backend.sim.counters().requests;
    assert!(
        !asked.keys().any(|route| managing().any(|way| route.ends_with(way.path)) || route.contains("blobs")),
        "{asked:?}"
    );
    // Each does what it is for; the last of them takes the model away.
    for (way, key) in &each {
        let answer = keyed.ask(&by(key, &way.request(MODEL, "")));
        assert_eq!(answer.status, 200, "{way:?}: {}", answer.text());
    }
    assert_eq!(refused(show, &keyed.ask(&by(&plain, &show.request(MODEL, ""))), 404), "model 'm:latest' not found");
    assert_eq!(keyed.ask(&by(&plain, &show.request("made", ""))).status, 200);
    let [head, post] = &uploads;
    let statuses = [head, post, post, head].map(|request| http_of(&keyed, &by(&blobs, request)).status);
    assert_eq!(statuses, [404, 201, 200, 200]);
    let wrong = Request::new("POST", "/api/blobs/sha256:xy").body(b"GGUF");
    assert_eq!(refused(show, &keyed.ask(&by(&blobs, &wrong)), 403), "this route is not open on this gate");
}

/// An answer to a request with a method of its own.
#[track_caller]
fn http_of(gate: &Gate, request: &Request) -> http::Answer {
    Client::connect(gate.address()).ask(request).unwrap()
}

#[test]
fn progress_is_relayed_as_it_comes_to_the_backend_that_is_meant() {
    let (backends, keys) = ([(); 3].map(|()| Backend::start(config(&[MODEL, "other:7b"]))), Keys::new());
    let key = keys.make("ada", "--routes manage");
    let urls = [format!("{} name=a", backends[0].url()), format!("{} name=b", backends[1].url())];
    let gate = gate_before(&[&urls[0], &urls[1]], &[&keys.flag()]).start();
    for way in managing() {
        let request = by(&key, &way.request(MODEL, ""));
        let text = "several backends: say which one in X-Gate-Backend: a, b";
        for request in [request.clone(), request.header("X-Gate-Backend", "c")] {
            assert_eq!(refused(way, &gate.ask(&request), 400), text, "{way:?}");
        }
    }
    for name in ["pull", "push", "create"] {
        let answer = gate.ask(&by(&key, &progress(name)).header("X-Gate-Backend", "b"));
        assert_eq!((answer.status, answer.header("x-gate-backend")), (200, Some("b")), "{}", answer.text());
        // The third is what the second was, and is asked past the gate.
        let direct = http::ask(backends[2].address, &progress(name));
        assert_eq!(answer.text(), direct.text(), "{name}");
        assert_eq!(answer.lines().last(), Some(&json!({"status": "success"})));
        assert!(answer.lines().len() > 3, "{}", answer.text());
    }
    let deleted = gate.ask(&by(&key, &named("delete").request("other:7b", "")).header("X-Gate-Backend", "a"));
    assert_eq!((deleted.status, deleted.text().as_str()), (200, ""));
    let has = |backend: &Backend| http::ask(backend.address, &Request::get("/api/tags")).text().contains("other:7b");
    assert_eq!([has(&backends[0]), has(&backends[1])], [false, true]);
}

#[test]
fn progress_that_breaks_is_told_and_errors_of_the_backend_pass() {
    let (backend, keys) = (Scripted::start(), Keys::new());
    let key = keys.make("ada", "--routes manage");
    let gate = gate(&backend.url(), &[&keys.flag(), "--chunk-timeout", "300ms"]).start();
    let mut client = Client::connect(gate.address());
    let first = "{\"status\":\"pulling manifest\"}\n";
    let closed = "{\"error\":\"Ollama closed the connection before its answer was complete\"}\n";
    let late = "{\"error\":\"Ollama sent nothing more within 0.3 s (chunk_timeout)\"}\n";
    let own = "{\"error\":\"pull model manifest: file does not exist\"}\n";
    let done = "{\"status\":\"success\"}\n";
    for name in ["pull", "push", "create"] {
        for (said, end, behind) in [
            (first.to_owned(), End::Well, closed),
            (first.to_owned(), End::Close, closed),
            (first.to_owned(), End::Silence, late),
            (format!("{first}{own}"), End::Well, ""),
            (format!("{first}{done}"), End::Well, ""),
            (format!("{first}{done}"), End::Close, ""),
        ] {
            backend.says(Say { end, ..Say::stream("application/x-ndjson", vec![said.clone().into_bytes()]) });
            let answer = client.ask(&by(&key, &progress(name))).unwrap();
            assert_eq!(answer.text(), format!("{said}{behind}"), "{name} {end:?}");
        }
        let head = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json; charset=utf-8\r\n".to_owned();
        let text = "{\"error\":\"open /models: no space left on device\"}";
        backend.says(Say { head, pieces: vec![text.into()], framing: Framing::Length, end: End::Well });
        let answer = client.ask(&by(&key, &progress(name))).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (500, text));
    }
    let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json; charset=utf-8\r\n".to_owned();
    let text = "{\"error\":\"digest mismatch, expected \\\"sha256:ab\\\", got \\\"sha256:cd\\\"\"}";
    backend.says(Say { head, pieces: vec![text.into()], framing: Framing::Length, end: End::Well });
    let answer = client.ask(&by(&key, &Request::new("POST", &blob()).body(b"not it"))).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (400, text));
    assert!(backend.last().line.starts_with("POST /api/blobs/sha256:abab") && backend.last().body == "not it");
}

/// What became of an upload at the backend.
struct Arrived {
    head: String,
    bytes: u64,
    sum: u64,
    /// Whether it came to the end that its framing says.
    whole: bool,
}

/// A backend that takes one blob after another, each when it is told to begin.
struct Sink {
    url: String,
    begin: Sender<()>,
    arrived: Receiver<Arrived>,
}

impl Sink {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let ((begin, told), (tell, arrived)) = (channel(), channel());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let Some(head) = head(&mut stream) else { continue };
                if !head.contains("/api/blobs/") {
                    let _left =
                        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}");
                    continue;
                }
                if told.recv().is_err() || tell.send(take(&mut stream, head)).is_err() {
                    return;
                }
            }
        });
        Self { url, begin, arrived }
    }

    #[track_caller]
    fn has(&self) -> Arrived {
        self.arrived.recv_timeout(PATIENCE).expect("an upload")
    }
}

/// A head, read to its end and no further.
fn head(stream: &mut TcpStream) -> Option<String> {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
    }
    Some(String::from_utf8(bytes).unwrap().to_ascii_lowercase())
}

/// Takes a body with a length, or in chunks, whose sizes and ends count for nothing.
fn take(stream: &mut TcpStream, head: String) -> Arrived {
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(|text| text.parse().unwrap());
    let mut arrived = Arrived { head, bytes: 0, sum: 0, whole: false };
    let (mut piece, mut size) = (vec![0; 1 << 16], Vec::new());
    let mut left: u64 = length.unwrap_or(0);
    loop {
        if left == 0 && length.is_none() {
            size.clear();
            let mut byte = [0];
            while !(size.ends_with(b"\r\n") && size.len() > 2) {
                if stream.read_exact(&mut byte).is_err() {
                    return arrived;
                }
                size.push(byte[0]);
            }
            left = u64::from_str_radix(std::str::from_utf8(&size).unwrap().trim(), 16).unwrap();
        }
        if left == 0 {
            arrived.whole = true;
            let _left = stream.write_all(b"HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            return arrived;
        }
        let most = piece.len().min(left as usize);
        let Ok(count @ 1..) = stream.read(&mut piece[..most]) else { return arrived };
        arrived.bytes += count as u64;
        arrived.sum =
            piece[..count].iter().fold(arrived.sum, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
        left -= count as u64;
    }
}

/// The most memory that a process has had at once, in bytes.
fn peak(pid: nix::unistd::Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Far more than the kernel holds on the way, and than the gate may have.
const LARGE: usize = 64 << 20;

const PIECE: usize = 1 << 16;

fn opening(key: &str, framing: &str) -> String {
    format!("POST {} HTTP/1.1\r\nHost: gate.test\r\nx-api-key: {key}\r\n{framing}\r\n\r\n", blob())
}

/// Sends from `sent` up to the end or until nobody takes more for a while; how much it has sent then.
fn push(client: &Client, body: &[u8], mut sent: usize) -> usize {
    let mut socket = client.socket();
    while sent < body.len() {
        match socket.write(&body[sent..]) {
            Ok(count) => sent += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("{error} behind {sent} bytes"),
        }
    }
    sent
}

#[test]
fn a_blob_of_any_size_passes_and_is_held_nowhere() {
    let (sink, keys) = (Sink::start(), Keys::new());
    let key = keys.make("ada", "--routes blobs");
    let gate = gate(&sink.url, &[&keys.flag(), "--max-body", "64KiB"]).start();
    let [worker] = gate.workers()[..] else { panic!("one worker") };
    let before = peak(worker);
    let plain: Vec<u8> = (0..LARGE).map(|at| (at * 7 + (at >> 12)) as u8).collect();
    let sum = plain.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    let chunked: Vec<u8> = plain
        .chunks(PIECE)
        .flat_map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
        .chain(*b"0\r\n\r\n")
        .collect();
    let length = format!("Content-Length: {LARGE}");
    for (framing, body, due) in [
        (length.as_str(), &plain, "content-length: "),
        ("Transfer-Encoding: chunked", &chunked, "transfer-encoding: chunked"),
    ] {
        let mut client = Client::connect(gate.address());
        client.send(opening(&key, framing).as_bytes()).unwrap();
        client.socket().set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        // The backend reads nothing yet, so neither does the gate in the end.
        let sent = push(&client, body, 0);
        assert!(sent < LARGE / 2, "{sent} bytes went somewhere");
        sink.begin.send(()).unwrap();
        client.socket().set_write_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(push(&client, body, sent), body.len());
        let arrived = sink.has();
        assert!(arrived.whole && arrived.head.contains(due), "{}", arrived.head);
        assert_eq!((arrived.bytes, arrived.sum), (LARGE as u64, sum), "{framing}");
        assert_eq!(client.answer("POST").unwrap().status, 201);
    }
    let grown = peak(worker) - before;
    assert!(grown < 8 << 20, "the worker grew by {grown} bytes");
}

#[test]
fn an_upload_that_stops_is_never_whole_at_the_backend() {
    let (sink, keys) = (Sink::start(), Keys::new());
    let key = keys.make("ada", "--routes blobs");
    let gate = gate(&sink.url, &[&keys.flag(), "--body-timeout", "300ms"]).start();
    for framing in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        for leaves in [true, false] {
            let mut client = Client::connect(gate.address());
            let half = format!("{}\r\n{}\r\n", "c350", "x".repeat(0xc350));
            client.send(opening(&key, framing).as_bytes()).unwrap();
            client.send(half.as_bytes()).unwrap();
            sink.begin.send(()).unwrap();
            if leaves {
                drop(client);
            } else {
                let answer = client.answer("POST").unwrap();
                assert_eq!((answer.status, answer.header("connection")), (408, Some("close")), "{framing}");
                let told: Value = answer.json();
                assert_eq!(told["error"], "the request body stopped for 0.3 s");
            }
            let arrived = sink.has();
            assert!(!arrived.whole && arrived.bytes >= 50_000, "{framing}: {} bytes", arrived.bytes);
        }
    }
}

#[test]
fn a_model_is_there_as_soon_as_its_pull_has_ended() {
    const NEW: &str = "fresh:1b";
    let (first, second) = (Backend::start(config(&[MODEL])), Backend::start(config(&[MODEL])));
    let keys = Keys::new();
    let key = keys.make("ada", "--routes infer,read,manage");
    let gate = gate_before(&[&first.url(), &second.url()], &[&keys.flag()]).start();
    let status = |name: &str| gate.ask(&by(&key, &named(name).request(NEW, "hi"))).status;
    let pull = by(&key, &named("pull").request(NEW, "")).header("X-Gate-Backend", "ollama-2");
    for way in ["chat", "show"] {
        // Once both lists are known, nobody is asked in vain.
        wait_for("both lists", || (status(way) == 404).then_some(()));
    }
    assert_eq!(gate.ask(&pull).status, 200);
    for _ in 0..12 {
        assert_eq!((status("chat"), status("show")), (200, 200));
    }
}
