//! Where keys do not come out again, nor anything else that a client says to the gate alone: bytes at the backend, logs,
//! status, titles and answers. Whose key it was stands in the access log.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::orders::Running;
use crate::rig::{House, backend, base64, house, keyed, version, with};
use crate::stage::{Held, MODEL, generate, stalled};
use crate::support::http::{Client, Request};
use crate::support::{binary, children_of, wait_for};

/// What every route gets here: enough of an answer for each.
const ANSWER: &str = r#"{"version":"0.9.0","response":"x","done":true,"object":"list","data":[],"models":[{"name":"m:latest","model":"m:latest","modified_at":"2025-01-01T00:00:00Z","size":1}]}"#;

/// A backend that keeps every byte that it is sent.
struct Recorder {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, heads) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let kept = Arc::clone(&heads);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || serve(stream, &kept));
            }
        });
        Self { address, heads }
    }

    /// Everything that it was sent so far, a request each.
    fn said(&self) -> Vec<String> {
        self.heads.lock().unwrap().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

/// Answers requests until the gate closes.
fn serve(stream: TcpStream, kept: &Mutex<Vec<Vec<u8>>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut all = Vec::new();
        while !all.ends_with(b"\r\n\r\n") {
            (reader.read_until(b'\n', &mut all).ok()? > 0).then_some(())?;
        }
        let head = String::from_utf8_lossy(&all).to_ascii_lowercase();
        let length = head
            .split_once("content-length: ")
            .map_or(0, |(_, rest)| rest.split("\r\n").next().unwrap().parse().unwrap());
        let at = all.len();
        all.resize(at + length, 0);
        reader.read_exact(&mut all[at..]).ok()?;
        kept.lock().unwrap().push(all);
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{ANSWER}",
            ANSWER.len()
        );
        reader.get_mut().write_all(answer.as_bytes()).ok()?;
    }
}

/// Fields that are for the gate, or for nobody behind it.
const OURS: &[(&str, &str)] = &[
    ("Cookie", "session=sesame"),
    ("Origin", "http://localhost:3000"),
    ("X-Forwarded-Prefix", "/sesame"),
    ("X-Forwarded-Host", "sesame.example"),
    ("Forwarded", "for=sesame"),
    ("X-Real-IP", "192.0.2.99"),
    ("Via", "1.1 sesame"),
    ("Proxy-Authorization", "Basic sesame"),
    ("Proxy-Connection", "keep-alive"),
    ("Connection", "keep-alive, x-sesame"),
    ("X-Sesame", "1"),
    ("Keep-Alive", "timeout=99"),
    ("TE", "trailers"),
    ("Trailer", "x-sesame"),
    ("OpenAI-Organization", "sesame"),
    ("anthropic-beta", "sesame"),
    ("User-Agent", "agent-sesame"),
    ("Referer", "http://sesame.example/"),
    ("Accept", "text/sesame"),
    ("Accept-Language", "sesame"),
];

/// All that a backend may be told.
const THEIRS: [&str; 9] = [
    "host",
    "accept",
    "accept-encoding",
    "content-type",
    "content-length",
    "x-forwarded-for",
    "x-request-id",
    "traceparent",
    "tracestate",
];

#[test]
fn a_backend_is_told_nothing_that_was_for_the_gate() {
    let recorder = Recorder::start();
    let upstreams = [format!("http://{} slots=8", recorder.address)];
    let (house, [ada]) = house(&upstreams, ["--name ada --routes infer,read,manage --models *"], &[]);
    let body = json!({"model": MODEL, "prompt": "a", "input": "a", "max_tokens": 4, "stream": false,
        "source": MODEL, "destination": "n", "messages": [{"role": "user", "content": "a"}]});
    let infer = "generate chat embed embeddings show pull push create copy";
    let native = infer.split(' ').map(|name| format!("/api/{name}"));
    let openai = ["chat/completions", "completions", "embeddings", "responses", "messages"];
    let posts = native.chain(openai.map(|name| format!("/v1/{name}"))).chain(["/ollama_generate/".to_owned()]);
    let article = json!({"prompt": "a"});
    let body_of = |path: &str| if path.starts_with("/oll") { &article } else { &body };
    let mut requests: Vec<(String, Request)> =
        posts.map(|path| (path.clone(), Request::post(&path, body_of(&path)))).collect();
    let gets = ["/api/tags", "/api/ps", "/api/version", "/v1/models", "/v1/models/m", "/ollama_generate/hi"];
    requests.extend(gets.map(|path| (path.to_owned(), Request::get(path))));
    let basic = format!("Basic {}", base64(&format!("sesame:{ada}")));
    for (path, request) in &requests {
        for keys in [vec![("Authorization", basic.as_str()), ("X-Api-Key", &ada)], vec![("aUTHORIZATION", &ada)]] {
            let request = keys.iter().chain(OURS).fold(request.clone(), |all, (name, value)| all.header(name, value));
            let answer = Client::connect(house.front.gate.address()).ask(&request).unwrap();
            assert!(![401, 403, 400, 422].contains(&answer.status), "{path}: {answer:?}");
            let shown = format!("{:?}{}", answer.headers, answer.text());
            assert!(!shown.contains(&ada[16..]), "{shown}");
        }
    }
    let said = recorder.said();
    let asked = said.iter().filter(|text| text.contains("x-forwarded-for: 127.0.0.1\r\n"));
    assert!(asked.count() >= requests.len(), "{said:#?}");
    for text in said {
        let lower = text.to_ascii_lowercase();
        let (head, _) = lower.split_once("\r\n\r\n").unwrap();
        let names: Vec<&str> = head.split("\r\n").skip(1).filter_map(|line| Some(line.split_once(':')?.0)).collect();
        let strange: Vec<_> = names.iter().filter(|name| !THEIRS.contains(name)).collect();
        assert!(strange.is_empty(), "{strange:?} in {text}");
        assert!(names.iter().all(|name| names.iter().filter(|other| *other == name).count() == 1), "{text}");
        for hidden in ["sesame", &ada[3..15], &ada[16..], &base64(&ada)[4..40], "localhost:3000", "192.0.2.99"] {
            assert!(!lower.contains(&hidden.to_ascii_lowercase()), "{hidden} in {text}");
        }
    }
}

/// Heads that are refused, with a key in them.
fn malformed(key: &str) -> Vec<String> {
    let get = "GET /api/version HTTP/1.1\r\nHost: gate.test\r\n";
    vec![
        format!("{get}Authorization: Bearer {key}\0\r\n\r\n"),
        format!("{get}x-api-key : {key}\r\n\r\n"),
        format!("{get}x-api-key:\r\n {key}\r\n\r\n"),
        format!("{get}{key}\r\n\r\n"),
        format!("{get}x-{}: {key}\r\n\r\n", "a".repeat(70_000)),
        format!("Authorization: Bearer {key}\r\n\r\n"),
        format!("GET /api/version HTTP/9.9\r\nAuthorization: Bearer {key}\r\n\r\n"),
        format!("GET http://u:{key}@gate.test/api/version HTTP/1.1\r\nHost: gate.test\r\n\r\n"),
        format!("{get}Content-Length: 5\r\nContent-Length: 6\r\nx-api-key: {key}\r\n\r\n"),
        format!(
            "POST /api/chat HTTP/1.1\r\nHost: a\r\nx-api-key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n{key}\r\n"
        ),
        format!("POST /api/chat HTTP/1.1\r\nHost: a\r\nx-api-key: {key}\r\nContent-Length: 3\r\n\r\n{{{{{{"),
    ]
}

/// Everything that an operator gets to see of a gate, less its access log.
fn seen(house: &House) -> String {
    let gate = &house.front.gate;
    let pids = children_of(gate.pid(), "").into_iter().chain([gate.pid()]);
    let titles =
        pids.map(|pid| String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap()).into_owned());
    let mut command = Command::new(binary());
    let page = Running::start(command.arg("status").arg("--control").arg(house.front.control())).said();
    assert_eq!(page.code, 0, "{page:?}");
    titles.collect::<String>() + &house.front.status().to_string() + &page.out + &gate.log() + &gate.output()
}

#[test]
fn a_key_is_shown_to_nobody_and_its_name_in_the_access_log() {
    for format in ["json", "combined"] {
        let backend = backend();
        let flag = format!("--access-log-format={format}");
        let lines = ["--name ada --concurrency 9", "--name bob --limit 1/hour"];
        let (house, [ada, bob]) = keyed(&backend, lines, (8, &["--log-level=debug", &flag]));
        let mut wrong = ada.clone();
        wrong.replace_range(54.., if ada.ends_with('0') { "1" } else { "0" });
        let front = &house.front;
        let mut answers = Vec::new();
        for bytes in [&ada, &wrong].into_iter().flat_map(|key| malformed(key)) {
            let mut client = Client::connect(front.gate.address());
            client.send(bytes.as_bytes()).unwrap();
            let answer = client.answer("GET").unwrap();
            assert!((400..500).contains(&answer.status), "{bytes}: {answer:?}");
            answers.push(format!("{:?}{}", answer.headers, answer.text()));
        }
        let basic = format!("Basic {}", base64(&format!("u:{ada}")));
        for (request, status) in [
            (with(&ada, &generate(MODEL, "a")), 200),
            (generate(MODEL, "a").header("Authorization", &basic), 200),
            (with(&bob, &generate(MODEL, "a")), 200),
            (with(&bob, &generate(MODEL, "a")), 429),
            (with(&wrong, &version()), 401),
            (with(&ada, &version()).header("x-api-key", &bob), 401),
            (with(&ada, &Request::post("/api/pull", &json!({"model": "m"}))), 403),
            (with(&ada, &generate(MODEL, "@500")), 500),
            (with(&ada, &Request::get("/nowhere")), 404),
        ] {
            let answer = front.gate.ask(&request);
            assert_eq!(answer.status, status, "{answer:?}");
            answers.push(format!("{:?}{}", answer.headers, answer.text()));
        }
        // In the middle of requests, and when a worker falls over.
        let held = Held::begun(front.begin(&with(&ada, &stalled(MODEL, "held"))));
        let during = seen(&house);
        for (pid, count) in front.by_worker() {
            if count > 0 {
                kill(pid, Signal::SIGABRT).unwrap();
            }
        }
        drop(held);
        front.is_idle();
        front.gate.has_workers(4);
        house.key("rotate ada --grace 1h");
        let log = wait_for("all lines of the access log", || {
            let text = fs::read_to_string(front.access_log()).unwrap_or_default();
            (text.lines().count() >= 2 * malformed("").len() + 9).then_some(text)
        });
        let all = answers.concat() + &during + &seen(&house) + &log;
        for key in [&ada, &bob, &wrong] {
            for hidden in [&key[16..], &key[16..36], &key[36..54], &base64(&format!("u:{key}"))[28..52]] {
                assert!(!all.contains(hidden), "{hidden} in {all}");
            }
        }
        let named = |name: &str| log.lines().filter(|line| key_of(line, format).as_deref() == Some(name)).count();
        // Refused, failed and malformed ones of a key included, as far as its key was read.
        assert_eq!((named("ada") >= 4, named("bob")), (true, 2), "{log}");
        assert_eq!(
            named("ada") + named("bob") + log.lines().filter(|line| key_of(line, format).is_none()).count(),
            log.lines().count()
        );
        let refused =
            log.lines().filter(|line| line.contains("\"status\":401,") || line.contains("\" 401 ")).collect::<Vec<_>>();
        assert!(refused.len() >= 2 && refused.iter().all(|line| key_of(line, format).is_none()), "{refused:?}");
    }
}

/// Whose key a line says that it was.
fn key_of(line: &str, format: &str) -> Option<String> {
    if format == "json" {
        return serde_json::from_str::<Value>(line).unwrap()["key"].as_str().map(ToOwned::to_owned);
    }
    let name = line.split(' ').nth(2).unwrap();
    (name != "-").then(|| name.to_owned())
}
