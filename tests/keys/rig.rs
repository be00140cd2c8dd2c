//! A gate with keys that the gate's own command has made, and requests that bring them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::orders::Running;
use crate::stage::{Front, MODEL, config, front, upstream};
use crate::support::http::{Client, Request};
use crate::support::sim::Backend;
use crate::support::{Dir, binary};

/// A key file, and the gate that has read it.
pub(crate) struct House {
    pub(crate) front: Front,
    dir: Dir,
}

/// A backend with [`MODEL`], which embeds as well.
pub(crate) fn backend() -> Backend {
    let mut config = config(&[MODEL]);
    config.models[0].capabilities.push("embedding".to_owned());
    Backend::start(config)
}

/// Four workers before these backends, and a key for each of these lines; the keys' texts.
#[track_caller]
pub(crate) fn house<const N: usize>(upstreams: &[String], keys: [&str; N], arguments: &[&str]) -> (House, [String; N]) {
    let dir = Dir::new();
    let (file, nobody) = (dir.path("keys"), dir.path("nobody"));
    let keys = keys.map(|line| run(&format!("new {line}"), &file, &nobody));
    let flag = format!("--keys={}", file.display());
    let mut all = vec!["--workers=4", "--breaker-failures=0", &flag];
    all.extend(arguments);
    (House { front: front(upstreams, &all), dir }, keys)
}

/// The same before one backend with so many slots.
#[track_caller]
pub(crate) fn keyed<const N: usize>(
    backend: &Backend,
    keys: [&str; N],
    (slots, arguments): (usize, &[&str]),
) -> (House, [String; N]) {
    house(&[upstream(backend, &format!("slots={slots} name=one"))], keys, arguments)
}

#[track_caller]
fn run(line: &str, file: &PathBuf, control: &PathBuf) -> String {
    let mut command = Command::new(binary());
    command.arg("key").args(line.split(' ')).arg("--keys").arg(file).arg("--control").arg(control);
    let said = Running::start(&mut command).said();
    assert_eq!(said.code, 0, "key {line}: {said:?}");
    said.out.trim_end().to_owned()
}

impl House {
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path("keys")
    }

    /// Runs `ollama-gate key LINE`, which tells the gate; what it prints, such as a key.
    #[track_caller]
    pub(crate) fn key(&self, line: &str) -> String {
        run(line, &self.file(), &self.front.control())
    }

    /// The status of the answer to a request with this key.
    #[track_caller]
    pub(crate) fn status_of(&self, key: &str, request: &Request) -> u16 {
        self.front.gate.ask(&with(key, request)).status
    }

    /// So many requests at once, each on a connection of its own: how many ended with which status, 0 where the connection
    /// broke.
    pub(crate) fn burst(&self, requests: &[Request]) -> BTreeMap<u16, usize> {
        let ask = |request: &Request| {
            let asked = Client::try_connect(self.front.gate.address()).and_then(|mut client| client.ask(request));
            asked.map_or(0, |answer| answer.status)
        };
        let mut counted = BTreeMap::new();
        std::thread::scope(|scope| {
            let all: Vec<_> = requests.iter().map(|request| scope.spawn(move || ask(request))).collect();
            for status in all.into_iter().map(|one| one.join().unwrap()) {
                *counted.entry(status).or_default() += 1;
            }
        });
        counted
    }

    /// An idle connection to each worker, as far as luck goes: each has served a request.
    #[track_caller]
    pub(crate) fn open(&self, key: &str, count: usize) -> Vec<Client> {
        let connect = |_| {
            let mut client = Client::connect(self.front.gate.address());
            assert_eq!(client.ask(&with(key, &version())).unwrap().status, 200);
            client
        };
        (0..count).map(connect).collect()
    }
}

/// A request with a key.
pub(crate) fn with(key: &str, request: &Request) -> Request {
    request.clone().header("Authorization", &format!("Bearer {key}"))
}

/// A question that costs nothing.
pub(crate) fn version() -> Request {
    Request::get("/api/version")
}

/// A request that the backend answers with an error: it costs no tokens.
pub(crate) fn fails(num_predict: u64) -> Request {
    Request::post("/api/generate", &json!({"model": MODEL, "prompt": "@500", "options": {"num_predict": num_predict}}))
}

/// `text` in base64.
pub(crate) fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |bytes: &[u8]| {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(bytes.get(at).copied().unwrap_or(0)));
        let digit = |place: usize| {
            if place <= bytes.len() { char::from(DIGITS[bits >> (18 - 6 * place) & 63]) } else { '=' }
        };
        (0..4).map(digit).collect::<String>()
    };
    text.as_bytes().chunks(3).map(group).collect()
}

/// The text of an error, in whichever dialect.
#[track_caller]
pub(crate) fn told(body: &Value) -> String {
    let text = [&body["error"]["message"], &body["error"], &body["detail"]].into_iter().find_map(Value::as_str);
    text.unwrap_or_else(|| panic!("no error in {body}")).to_owned()
}
