//! Replays what the article's stack answered, recorded request by request, against the gate before a simulated Ollama.
//!
//! It judges answers only; how they came about is tested elsewhere. Invariant: a `must` case agrees byte for byte, and
//! a `may` case that does not is in [`DIFFERENCES`] with its reason, so that drift in either direction is noticed.

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::Value;
use support::http::{Answer, Client};
use support::sim::Backend;

const CORPUS: &str = include_str!("data/corpus.jsonl");

/// The model that the recordings name.
const MODEL: &str = "llama3.2:1b";

/// Bodies that the recorder sent in chunks went out in pieces of this size.
const CHUNK: usize = 7;

/// Where the gate answers otherwise than the recorded stack on purpose.
const DIFFERENCES: &[(&str, &str)] = &[
    ("surrogate/lone-high-in-prompt", "a lone surrogate is the client's fault, not a failure of the server's"),
    ("surrogate/lone-low-in-prompt", "as above"),
    ("number/nan-in-options", "NaN cannot be sent on as JSON: the client's fault"),
    ("not-found/root", "Ollama's clients look for a sign of life there"),
    ("not-found/post-root", "the path exists, for GET and HEAD"),
    ("docs/openapi", "the document describes the gate, all its routes and refusals"),
    ("docs/redoc", "one page of documentation is enough"),
    ("upstream/html", "a broken backend is 502, in JSON"),
    ("upstream/404", "Ollama's status and words reach the client"),
    ("upstream/404-by-get", "as above"),
    ("upstream/500", "a failing backend is 502, with Ollama's words"),
    ("upstream/503", "overload is 503, with Ollama's words"),
    ("wire/garbage", "the refusal names the rule that was broken"),
    ("wire/no-host", "as above"),
    ("wire/two-hosts", "as above"),
    ("wire/http-0.9", "as above"),
    ("wire/raw-utf8-in-path", "as above"),
    ("wire/absolute-form", "RFC 9112 asks servers to accept it"),
    ("wire/200-headers", "heads have at most 100 fields unless told otherwise"),
    ("wire/length-and-chunked", "two framings of one body are how requests are smuggled"),
    ("wire/bad-chunk-size", "the route is known by then: its own dialect, and the rule that was broken"),
    ("down/post", "a backend that cannot be reached is 502, in JSON"),
    ("limit/another-prompt-another-count", "a limit per prompt is none: all prompts share one count"),
    ("limit/upstream-failure-is-counted", "all prompts share one count, which is used up here"),
    ("limit/upstream-failure-counted-twice", "as above"),
    ("limit-headers/none-on-500", "as above"),
    ("no-handler/refused", "the limit's own handler answers, whether the article registers it or not"),
    ("errors-as-200/400", "failures have the status of a failure"),
    ("errors-as-200/html", "as above"),
    ("errors-as-200/badjson", "as above"),
    ("errors-as-200/missing", "a broken backend is 502, in JSON"),
];

#[test]
fn default() {
    replay("default", &["--limit", "1000000000/minute"]);
}

#[test]
fn limited() {
    replay("limited", &["--limit", "2/hour"]);
}

#[test]
fn limited_headers() {
    replay("limited_headers", &["--limit", "2/hour", "--limit-headers"]);
}

#[test]
fn limited_no_handler() {
    replay("limited_no_handler", &["--limit", "2/hour"]);
}

#[test]
fn errors_as_200() {
    replay("errors_as_200", &["--limit", "none"]);
}

#[test]
fn upstream_down() {
    // Nobody listens on port 1.
    replay("upstream_down", &["--limit", "none", "--upstream", "http://127.0.0.1:1"]);
}

#[test]
fn every_difference_is_one_of_a_case_that_may_differ() {
    for (name, reason) in DIFFERENCES {
        let case = cases().find(|case| case.name == *name).unwrap_or_else(|| panic!("there is no case {name}"));
        assert_eq!(case.level, "may", "{name}");
        assert!(!reason.is_empty(), "{name}");
    }
}

/// Sends all cases of a profile, in their order, to a gate of its own.
fn replay(profile: &str, arguments: &[&str]) {
    let backend = Backend::start(ollama_sim::Config::echo());
    let url = backend.url();
    let own_upstream = arguments.contains(&"--upstream");
    let upstream: &[&str] = if own_upstream { &["--model", MODEL] } else { &["--upstream", &url] };
    let gate = support::gate([&["--workers", "3"], upstream, arguments].concat()).start();
    let (mut faults, mut differing, mut count) = (String::new(), BTreeSet::new(), 0);
    for case in cases().filter(|case| case.profile == profile) {
        count += 1;
        let found = case.differences(gate.address());
        if !found.is_empty() && case.level == "may" {
            differing.insert(case.name.clone());
        }
        let listed = DIFFERENCES.iter().any(|(name, _)| *name == case.name);
        if found.is_empty() == listed {
            let _infallible = writeln!(faults, "{} {}: {found:#?}", case.level, case.name);
        }
    }
    assert!(count > 0, "the corpus has no profile {profile}");
    assert!(faults.is_empty(), "{faults}all that differ: {differing:#?}");
}

/// One recorded exchange.
struct Case {
    name: String,
    level: String,
    profile: String,
    request: Value,
    expect: Value,
    /// The JSON body that is due, as compact text.
    body: Option<String>,
}

fn cases() -> impl Iterator<Item = Case> {
    CORPUS.lines().map(|line| {
        let case: Value = serde_json::from_str(line).expect("each line is a case");
        let text = |key: &str| case[key].as_str().expect("a case has it").to_owned();
        let body = member(line, "expect").and_then(|expect| member(expect, "body_json")).map(compact);
        Case {
            name: text("name"),
            level: text("level"),
            profile: text("profile"),
            request: case["request"].clone(),
            expect: case["expect"].clone(),
            body,
        }
    })
}

impl Case {
    /// What of the gate's answer is not as recorded.
    fn differences(&self, gate: SocketAddr) -> Vec<String> {
        match self.exchange(gate) {
            Ok(answer) => self.judge(&answer),
            Err(error) => vec![format!("no answer: {error}")],
        }
    }

    fn exchange(&self, gate: SocketAddr) -> std::io::Result<Answer> {
        let bytes = self.bytes();
        let method = String::from_utf8_lossy(bytes.split(|byte| *byte == b' ').next().unwrap_or_default()).into_owned();
        let mut client = Client::connect(gate);
        // It may answer and close before it has read everything.
        let _sent = client.send(&bytes);
        client.answer(&method)
    }

    fn bytes(&self) -> Vec<u8> {
        if let Some(raw) = self.request["raw_b64"].as_str() {
            return decode(raw);
        }
        let fields: Vec<(&str, &str)> = self.request["headers"]
            .as_array()
            .expect("a request has its headers")
            .iter()
            .filter_map(|field| Some((field[0].as_str()?, field[1].as_str()?)))
            .collect();
        let has = |name: &str| fields.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        let body = self.request["body_b64"].as_str().map(decode);
        let request = |key: &str| self.request[key].as_str().expect("a request has it");
        let mut head = format!("{} {} HTTP/1.1\r\n", request("method"), request("path"));
        if !has("host") {
            head += "Host: gate.test\r\n";
        }
        for (name, value) in &fields {
            let _infallible = write!(head, "{name}: {value}\r\n");
        }
        if !has("connection") {
            head += "Connection: close\r\n";
        }
        let mut body = body.unwrap_or_default();
        if self.request["chunked"] == true {
            head += "Transfer-Encoding: chunked\r\n";
            body = chunked(&body);
        } else if self.request["body_b64"].is_string() && !has("content-length") && !has("transfer-encoding") {
            let _infallible = write!(head, "Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        [head.into_bytes(), body].concat()
    }

    fn judge(&self, answer: &Answer) -> Vec<String> {
        let expect = &self.expect;
        if expect["status"] != answer.status {
            return vec![format!("status {}, not {}; {}", answer.status, expect["status"], short(&answer.text()))];
        }
        let mut found = Vec::new();
        if let Some(interim) = expect["interim"].as_array()
            && *interim != answer.interim
        {
            found.push(format!("interim answers {:?}, not {interim:?}", answer.interim));
        }
        let (kind, due) = (joined(answer, "content-type"), expect["content_type"].as_str());
        if kind.as_deref().map(media) != due.map(media) {
            found.push(format!("content-type {kind:?}, not {due:?}"));
        }
        for (name, due) in expect["headers"].as_object().into_iter().flatten() {
            let got = joined(answer, name);
            if !agrees(name, got.as_deref(), due) {
                found.push(format!("{name} {got:?}, not {due}"));
            }
        }
        let due = match (&self.body, &expect["body_text"], &expect["body_b64"]) {
            (Some(json), _, _) => Some(json.clone().into_bytes()),
            (None, Value::String(text), _) => Some(text.clone().into_bytes()),
            (None, _, Value::String(base64)) => Some(decode(base64)),
            _ => None,
        };
        if due.as_ref().is_some_and(|due| *due != answer.body) {
            let due = String::from_utf8_lossy(due.as_deref().unwrap_or_default()).into_owned();
            found.push(format!("body {}, not {}", short(&answer.text()), short(&due)));
        }
        found
    }
}

/// The values of a header as one.
fn joined(answer: &Answer, name: &str) -> Option<String> {
    let values: Vec<&str> = answer
        .headers
        .iter()
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// A content type with its parameters written in one way.
fn media(value: &str) -> String {
    value.trim().to_lowercase().split(';').map(str::trim).collect::<Vec<_>>().join("; ")
}

/// Whether a header is as due: a text, absent (`null`), or of a pattern.
fn agrees(name: &str, got: Option<&str>, due: &Value) -> bool {
    let items = |list: &str| list.split(',').map(|item| item.trim().to_owned()).collect::<BTreeSet<_>>();
    match (due, got) {
        (Value::Null, got) => got.is_none(),
        (_, None) => false,
        (Value::String(due), Some(got)) if name == "allow" => items(due) == items(got),
        (Value::String(due), Some(got)) => due == got,
        (due, Some(got)) => matches(due["matches"].as_str().expect("text, null or a pattern"), got),
    }
}

/// The patterns that the corpus uses: a time in epoch seconds, and a choice of plain words.
fn matches(pattern: &str, text: &str) -> bool {
    if pattern == r"\d{10}(\.\d+)?" {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        return whole.len() == 10 && digits(whole) && digits(fraction);
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'|';
    assert!(pattern.bytes().all(is_plain), "a pattern of a kind that is new here: {pattern}");
    pattern.split('|').any(|word| word == text)
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    for piece in body.chunks(CHUNK).chain([&[][..]]) {
        framed.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        framed.extend_from_slice(piece);
        framed.extend_from_slice(b"\r\n");
    }
    framed
}

fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

/// The text of an object's member.
fn member<'a>(object: &'a str, wanted: &str) -> Option<&'a str> {
    let mut rest = object.trim_start().strip_prefix('{')?;
    loop {
        let (name, behind) = value(rest)?;
        let (text, after) = value(behind.trim_start().strip_prefix(':')?)?;
        if serde_json::from_str::<String>(name).ok()? == wanted {
            return Some(text);
        }
        rest = after.trim_start().strip_prefix(',')?;
    }
}

/// The JSON value that `text` begins with, and what is behind it.
fn value(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    values.next()?.ok()?;
    Some(text.split_at(values.byte_offset()))
}

/// JSON text as the recorded stack writes it: no blanks, nothing escaped that need not be. Order and numbers stay.
fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let (text, behind) = value(rest).expect("JSON");
            let text: String = serde_json::from_str(text).expect("a JSON string");
            out += &Value::from(text).to_string();
            rest = behind;
        } else {
            if !first.is_ascii_whitespace() {
                out.push(first);
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// Standard base64.
fn decode(base64: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut held, mut bits) = (Vec::new(), 0_u32, 0);
    for byte in base64.bytes().filter(|byte| *byte != b'=') {
        let six = ALPHABET.iter().position(|known| *known == byte).expect("a byte of base64");
        held = held << 6 | six as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    out
}

#[test]
fn the_corpus_is_read_as_it_is_meant() {
    assert_eq!(decode("aGVsbG8gd29ybGQ="), b"hello world");
    assert_eq!(compact("{\"b\": [1, 1.0, \"a \\u00e9\\n\"],\n \"a\": {}}"), "{\"b\":[1,1.0,\"a \u{e9}\\n\"],\"a\":{}}");
    assert_eq!(member("{\"a\": {\"b\": 1}, \"b\": [ 2 ]}", "b"), Some("[ 2 ]"));
    assert_eq!(chunked(b"eight by"), b"7\r\neight b\r\n1\r\ny\r\n0\r\n\r\n");
    assert!(matches(r"\d{10}(\.\d+)?", "1795384208.99") && !matches(r"\d{10}(\.\d+)?", "1795384208."));
    assert!(matches("3600|3599", "3599") && !matches("3600|3599", "36"));
    assert_eq!(media("text/HTML;charset=UTF-8"), "text/html; charset=utf-8");
}
