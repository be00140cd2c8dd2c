//! Many requests on one connection: answered in their order, each in its own frame, whatever stands before it.
//!
//! Random pipelines are drawn from a seed that a failure prints; `GATE_TEST_SEED` draws the same ones again.

use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::Shutdown;

use serde_json::json;

use crate::stage::{ARTICLE, MODEL, article, chat, echo, gate, generate};
use crate::support::http::{Answer, Client, Request};
use crate::support::{Dir, Gate, wait_for};

/// One request of a pipeline and what must come back.
struct Step {
    bytes: Vec<u8>,
    method: &'static str,
    status: u16,
    /// What the body holds.
    text: String,
}

impl Step {
    fn new(request: &Request, method: &'static str, status: u16, text: impl Into<String>) -> Self {
        Self { bytes: request.bytes(), method, status, text: text.into() }
    }

    /// One of the kinds, with a number that tells it from all others.
    fn of_kind(kind: u64, number: u64) -> Self {
        let (prompt, echoed) = (format!("number {number}"), format!("{{\"response\":\"echo: number {number}\"}}"));
        let path = format!("{ARTICLE}number%20{number}");
        let bad = |status| Request::post("/api/generate", &json!({"model": MODEL, "prompt": status}));
        match kind {
            0 => Self::new(&Request::get(&path), "GET", 200, echoed),
            1 => Self::new(&article(&prompt), "POST", 200, echoed),
            2 => Self { bytes: chunked(&prompt, number), ..Self::new(&article(&prompt), "POST", 200, echoed) },
            3 => Self::new(&Request::get("/nowhere"), "GET", 404, "Not Found"),
            4 => Self::new(&Request::new("PUT", &path), "PUT", 405, "Method Not Allowed"),
            5 => Self::new(&Request::post(ARTICLE, &json!({"prompt": number})), "POST", 422, number.to_string()),
            6 => Self::new(&Request::new("HEAD", "/healthz"), "HEAD", 200, ""),
            7 => Self::new(&generate(&prompt), "POST", 200, format!("\"{number} \",\"done\":false")),
            8 => Self::new(&chat(&prompt), "POST", 200, format!("\"{number} \"}},\"done\":false")),
            9 => Self::new(&bad(number), "POST", 400, "cannot unmarshal number"),
            10 => Self::new(&Request::get("/api/tags"), "GET", 200, MODEL),
            _ => Self::new(&Request::get("/api/status"), "GET", 403, "not open"),
        }
    }

    #[track_caller]
    fn judge(&self, answer: &Answer, place: &str) {
        let told = answer.text();
        assert_eq!((answer.status, answer.whole), (self.status, true), "{place}: {told}");
        assert!(told.contains(&self.text), "{place}: {told:?} has no {:?}", self.text);
    }
}

const KINDS: u64 = 12;

fn chunked(prompt: &str, number: u64) -> Vec<u8> {
    let body = json!({"prompt": prompt}).to_string();
    let mut bytes = format!(
        "POST {ARTICLE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for piece in body.as_bytes().chunks(1 + number as usize % 9) {
        bytes.extend([format!("{:X};a=b\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"0\r\nX-Trailer: yes\r\n\r\n");
    bytes
}

/// `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Sends all of it in pieces, then reads an answer for each step.
fn run(gate: &Gate, steps: &[Step], end: &str, dice: &mut Dice) {
    let bytes = steps.iter().flat_map(|step| &step.bytes).copied().chain(end.bytes()).collect::<Vec<u8>>();
    let mut client = Client::connect(gate.address());
    let mut rest = &bytes[..];
    let most = 1 + dice.below(400);
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rest.len().min(1 + dice.below(most) as usize));
        if client.socket().write_all(piece).is_err() {
            assert!(!end.is_empty(), "only a bad head ends a connection");
            break;
        }
        rest = behind;
    }
    for (number, step) in steps.iter().enumerate() {
        let place = format!("{number} of {}", steps.len());
        let answer = client.answer(step.method).unwrap_or_else(|error| panic!("{place}: {error}"));
        step.judge(&answer, &place);
    }
    if end.is_empty() {
        let answer = client.ask(&Request::get("/healthz")).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok\n"), "nothing was left over");
    } else {
        let answer = client.answer("GET").unwrap();
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{}", answer.text());
        assert!(client.is_closed());
    }
}

/// Ends of pipelines: none, or a head that is refused.
const ENDS: [&str; 6] = [
    "",
    "",
    "",
    "nonsense\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
];

#[test]
fn random_pipelines_are_answered_in_order() {
    let mut dice = Dice(drawn_seed());
    let backend = echo();
    let gate = gate(&backend, &["--workers", "2"]).start();
    for pipeline in 0..60 {
        let length = 1 + dice.below(20);
        let steps: Vec<Step> =
            (0..length).map(|number| Step::of_kind(dice.below(KINDS), pipeline * 100 + number)).collect();
        let end = ENDS[dice.below(ENDS.len() as u64) as usize];
        run(&gate, &steps, end, &mut dice);
    }
}

fn drawn_seed() -> u64 {
    let seed = std::env::var("GATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("GATE_TEST_SEED={seed}");
    seed
}

/// A request with some of its bytes replaced, left out or doubled.
fn damaged(dice: &mut Dice) -> Vec<u8> {
    let mut bytes = Step::of_kind(dice.below(KINDS), 1).bytes;
    let odd = b"\0\t\n\r \"#%/:;?@[\\]^`{|}\x7f\xc3\xffA0";
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len() as u64) as usize;
        match dice.below(4) {
            0 => drop(bytes.remove(at)),
            1 => bytes.insert(at, bytes[at]),
            2 => bytes.insert(at, odd[dice.below(odd.len() as u64) as usize]),
            _ => bytes[at] = odd[dice.below(odd.len() as u64) as usize],
        }
    }
    bytes
}

#[test]
fn every_answer_to_damaged_requests_is_the_gates_own_and_in_its_log() {
    let mut dice = Dice(drawn_seed());
    let (backend, dir) = (echo(), Dir::new());
    let log = dir.path("access.log");
    let gate = gate(&backend, &["--access-log", log.to_str().unwrap()]).start();
    let (mut answered, mut refused) = (0, 0);
    for _ in 0..400 {
        let bytes = damaged(&mut dice);
        let mut client = Client::connect(gate.address());
        let _sent = client.send(&bytes);
        // Whatever is still awaited does not come.
        client.socket().shutdown(Shutdown::Write).unwrap();
        let method = if bytes.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
        while let Ok(answer) = client.answer(method) {
            let has_words = answer.header("content-type").is_some() || answer.status == 307;
            assert!(has_words, "{answer:?} to {:?}", String::from_utf8_lossy(&bytes));
            // Health checks are in no log.
            answered += usize::from(answer.text() != "ok\n" && !bytes.starts_with(b"HEAD /healthz "));
            refused += usize::from(answer.status == 400);
        }
    }
    assert!(refused > 0 && refused < answered, "{refused} of {answered}");
    wait_for("a line for each answer", || {
        let text = String::from_utf8(std::fs::read(&log).ok()?).expect("the log is UTF-8");
        (text.lines().count() >= answered && text.ends_with('\n')).then_some(())
    });
}

#[test]
fn every_kind_of_answer_leaves_the_connection_to_the_next() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let mut client = Client::connect(gate.address());
    for kind in (0..KINDS).chain((0..KINDS).rev()) {
        let step = Step::of_kind(kind, 1000 + kind);
        client.send(&step.bytes).unwrap();
        step.judge(&client.answer(step.method).unwrap(), &format!("kind {kind}"));
    }
}

#[test]
fn a_bad_head_behind_a_good_one_is_answered_in_its_turn() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let mut dice = Dice(1);
    for end in ENDS.iter().filter(|end| !end.is_empty()) {
        for kind in 0..KINDS {
            run(&gate, &[Step::of_kind(kind, kind)], end, &mut dice);
        }
    }
}

#[test]
fn an_answer_that_ends_the_connection_says_so() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    for (path, fields) in [
        ("/nowhere", "Content-Length: 100000\r\n"),
        ("/api/pull", "Transfer-Encoding: chunked\r\n"),
        ("/ollama_generate/", "Content-Encoding: gzip\r\nContent-Length: 100000\r\n"),
        ("/ollama_generate", "Expect: 100-continue\r\nContent-Length: 5\r\n"),
    ] {
        let mut client = Client::connect(gate.address());
        client.send(format!("POST {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n").as_bytes()).unwrap();
        let answer = client.answer("POST").unwrap();
        assert_eq!((answer.header("connection"), answer.interim.len()), (Some("close"), 0), "{path}");
        assert!(client.is_closed(), "{path}");
    }
    for (path, fields) in [("/nowhere", "Content-Length: 0\r\n"), ("/api/pull", "")] {
        let mut client = Client::connect(gate.address());
        client.send(format!("POST {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n").as_bytes()).unwrap();
        assert_eq!(client.answer("POST").unwrap().header("connection"), None, "{path}");
        assert_eq!(client.ask(&Request::get("/healthz")).unwrap().status, 200);
    }
}

#[test]
fn a_body_that_nobody_reads_is_never_taken_for_a_request() {
    let backend = echo();
    let gate = gate(&backend, &[]).start();
    let inner = String::from_utf8(article("smuggled").bytes()).unwrap();
    for path in ["/nowhere", "/api/pull", "/api/tags", "/ollama_generate"] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", inner.len());
        // The answer is there before the body is.
        let mut client = Client::connect(gate.address());
        client.send(head.as_bytes()).unwrap();
        let early = client.answer("POST").unwrap().status;
        assert!([403, 404, 405, 307].contains(&early), "{path}: {early}");
        // The gate may have closed already; if it did not, what follows is answered in order.
        if client.send(inner.as_bytes()).is_ok()
            && let Ok(answer) = client.ask(&Request::get("/healthz"))
        {
            assert_eq!(answer.text(), "ok\n", "{path}");
        }
        // All at once.
        let mut client = Client::connect(gate.address());
        let next = String::from_utf8(Request::get("/healthz").bytes()).unwrap();
        client.send([head.as_str(), &inner, &next].concat().as_bytes()).unwrap();
        assert_eq!(client.answer("POST").unwrap().status, early);
        assert_eq!(client.answer("GET").unwrap().text(), "ok\n", "{path}");
    }
    assert_eq!(backend.sim.counters().requests.get("POST /api/generate"), None);
}
