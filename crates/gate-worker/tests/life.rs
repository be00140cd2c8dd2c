//! One worker in a thread of the test, with a scoreboard that the test reads and a backend in the test's own hands.
//!
//! What clients see on the wire is tested elsewhere. Invariant: no test depends on how long anything takes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::{PipeWriter, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gate_config::{Plan, Settings};
use gate_worker::{Listening, Post, Word, route_names};
use gate_zone::layout::row;
use gate_zone::{Bells, OwnRow, Place, Role, Row, Stage, Zone, clock};

/// Far above what anything here needs.
const PATIENCE: Duration = Duration::from_secs(20);

const STREAM: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n{\"done\":false}\n";

/// The scene: a worker and its backend.
struct Scene {
    address: SocketAddr,
    backend: TcpListener,
    zone: Zone,
    words: Receiver<Word>,
    lifeline: Option<PipeWriter>,
    worker: Option<JoinHandle<Result<u8, String>>>,
}

impl Scene {
    fn start(settings: &str) -> Self {
        let backend = TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let text = format!("upstream = \"http://{}\"\napi_limit = \"none\"\n{settings}", backend.local_addr().unwrap());
        let (_memory, zone) = Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap();
        let (reader, lifeline) = std::io::pipe().unwrap();
        let (tell, words) = channel();
        let worker = std::thread::spawn(move || {
            let plan = Plan::new(&Settings::gather(Some(("gate.toml", &text)), [], []).unwrap()).unwrap();
            zone.assign_windows(&plan.windows(), &[]).unwrap();
            let place = Place { role: Role::Worker, slot: 0 };
            let index = zone.scoreboard().set_aside(1).unwrap();
            gate_worker::run(Post {
                cluster_password: None,
                journal: gate_worker::open_journal(&plan, zone)?,
                plan: Rc::new(plan),
                place,
                zone,
                row: OwnRow::claim(zone.scoreboard().row(index), place, 1, clock::monotonic_ms()),
                row_index: index,
                bells: Rc::new(Bells::none()),
                demo: None,
                listeners: vec![Listening::Tcp(listener)],
                lifeline: reader.into(),
                words: Box::new(move |word| tell.send(word).map_err(std::io::Error::other)),
            })
        });
        let scene = Self { address, backend, zone, words, lifeline: Some(lifeline), worker: Some(worker) };
        assert_eq!(scene.hears(), Word::Ready);
        scene
    }

    fn row(&self) -> Row {
        self.zone.scoreboard().owned().next().unwrap().1
    }

    /// Waits until it has looked around.
    fn beats_twice(&self) {
        for _ in 0..2 {
            let last = self.row().heartbeat_ms();
            wait_for("a beat", || self.row().heartbeat_ms() > last);
        }
    }

    fn hears(&self) -> Word {
        self.words.recv_timeout(PATIENCE).unwrap()
    }

    /// A client's connection, with these bytes sent.
    fn send(&self, bytes: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(bytes.as_bytes()).unwrap();
        client
    }

    /// A whole request on a connection of its own, and its answer.
    fn ask(&self, target: &str) -> String {
        let mut client = self.send(&format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The backend's connection with the next request, read up to the end of its body.
    fn asked(&self) -> TcpStream {
        let (mut stream, _) = self.backend.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"}") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            read.push(byte[0]);
        }
        stream
    }

    /// Has the worker drain, as at its master's end, and waits for its end.
    fn leaves(mut self) {
        drop(self.lifeline.take());
        assert_eq!(self.hears(), Word::Leaving);
        assert_eq!(self.worker.take().unwrap().join().unwrap(), Ok(0));
        assert_eq!(self.row().stage(), Stage::Draining);
        assert!(self.words.recv().is_err(), "nothing is said after that");
    }
}

fn wait_for(what: &str, mut seen: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !seen() {
        assert!(Instant::now() < until, "waited for {what}");
        std::thread::sleep(Duration::from_millis(2)); // bounded poll
    }
}

fn post(path: &str) -> String {
    let body = r#"{"model":"m","prompt":"hi"}"#;
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn in_service(row: Row) -> Vec<&'static str> {
    row.in_service().iter().map(|request| route_names()[usize::from(request.route)]).collect()
}

fn read_until(client: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        read.push(byte[0]);
    }
    String::from_utf8(read).unwrap()
}

#[test]
fn streams_are_counted_once_however_they_end() {
    let scene = Scene::start("");
    let counts = || (scene.row().count(row::STREAMS_OPENED), scene.row().count(row::STREAMS_CLOSED));
    let begin = || {
        let client = scene.send(&post("/api/generate"));
        let mut asked = scene.asked();
        asked.write_all(STREAM.as_bytes()).unwrap();
        (client, asked)
    };
    for (number, end) in ["{\"done\":true}\n", ""].into_iter().enumerate() {
        let (mut client, mut asked) = begin();
        read_until(&mut client, "false}\n");
        assert_eq!(counts(), (number as u64 + 1, number as u64));
        assert_eq!(scene.row().streams(), 1);
        asked.write_all(end.as_bytes()).unwrap();
        drop(asked);
        read_until(&mut client, "0\r\n\r\n");
        wait_for("the count", || counts() == (number as u64 + 1, number as u64 + 1));
    }
    let (client, _asked) = begin();
    wait_for("a third stream", || scene.row().streams() == 1);
    drop(client);
    wait_for("its end", || counts() == (3, 3));
    assert!(scene.ask("/healthz").contains("200 OK"));
    assert_eq!(counts(), (3, 3), "an answer that is whole is no stream");
    scene.leaves();
}

#[test]
fn requests_in_service_are_described() {
    let scene = Scene::start("");
    let before = clock::monotonic_ms();
    let first = scene.send(&post("/api/generate"));
    let asked = scene.asked();
    assert_eq!(in_service(scene.row()), ["POST /api/generate"]);
    let since = scene.row().in_service()[0].since_ms;
    // The event loop's clock was read along with this one, a moment apart.
    assert!((before - 1..=clock::monotonic_ms() + 1).contains(&since), "{before} {since}");
    let second = scene.send("POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{");
    wait_for("the second", || in_service(scene.row()) == ["POST /api/generate", "POST /api/chat"]);
    drop((first, asked));
    wait_for("the first one's end", || in_service(scene.row()) == ["POST /api/chat"]);
    assert!(scene.ask("/nowhere").contains("404"));
    drop(second);
    wait_for("the second one's end", || in_service(scene.row()).is_empty());
    scene.leaves();
}

#[test]
fn more_requests_than_there_is_room_for_are_served_all_the_same() {
    let scene = Scene::start("");
    let many = row::IN_SERVICE_COUNT + 4;
    let open: Vec<_> = (0..many).map(|_| (scene.send(&post("/api/generate")), scene.asked())).collect();
    assert_eq!(in_service(scene.row()).len(), row::IN_SERVICE_COUNT);
    for (mut client, mut asked) in open {
        asked.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").unwrap();
        read_until(&mut client, "{}");
    }
    wait_for("their end", || in_service(scene.row()).is_empty() && scene.row().load_now().in_flight == 0);
    scene.leaves();
}

#[test]
fn a_worker_asks_once_to_be_replaced_and_serves_on() {
    let scene = Scene::start("max_requests = 3");
    for _ in 0..2 {
        scene.ask("/healthz");
    }
    scene.beats_twice();
    assert!(scene.words.try_recv().is_err(), "two are not three");
    scene.ask("/healthz");
    assert_eq!(scene.hears(), Word::Replace("served 3 requests (max_requests 3)".to_owned()));
    for _ in 0..3 {
        assert!(scene.ask("/healthz").contains("200 OK"));
    }
    scene.beats_twice();
    scene.leaves();
}

#[test]
fn the_log_is_opened_anew_when_the_zone_says_so() {
    let dir = std::env::temp_dir().join(format!("gate-life-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let (log, old) = (dir.join("access.log"), dir.join("access.log.1"));
    let scene = Scene::start(&format!("access_log = {log:?}"));
    scene.ask("/first");
    std::fs::rename(&log, &old).unwrap();
    scene.zone.ask_to_reopen();
    wait_for("a new file", || log.exists());
    scene.ask("/second");
    scene.leaves();
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    for (text, target) in [(read(&old), "/first"), (read(&log), "/second")] {
        assert!(text.lines().count() == 1 && text.contains(target), "{text}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}
