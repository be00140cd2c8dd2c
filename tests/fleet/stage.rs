//! What most of these tests begin with: backends with models, three workers in front of them, requests that wait for each
//! other in an order that the test decides, and the gate's own account of it all.

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use ollama_sim::{Config, Model};
use serde_json::{Value, json};

use crate::support::http::{self, Answer, Client, Request};
use crate::support::sim::Backend;
use crate::support::{self, Dir, Gate, PATIENCE, wait_for};

/// The model that every backend has.
pub(crate) const MODEL: &str = "m:latest";

pub(crate) const ARTICLE: &str = "/ollama_generate/";

/// Streams one line and then nothing, until its client leaves.
const STALLED: &str = "@sim:stall:chunks:1";

/// How many requests a backend remembers: all of a test's.
const RECORDED: usize = 4096;

/// What a backend has and does: any number of requests at once, so that only the gate holds anything back.
pub(crate) fn config(models: &[&str]) -> Config {
    let models = models.iter().map(|name| Model::named(name)).collect();
    let slots = NonZeroUsize::new(1024).unwrap();
    Config { models, slots, recorded: RECORDED, ..Config::echo() }
}

/// The same with models that take this long to load.
pub(crate) fn slow_to_load(models: &[&str], load_time: Duration) -> Config {
    let mut config = config(models);
    for model in &mut config.models {
        model.load_time = load_time;
    }
    config
}

/// A backend with [`MODEL`].
pub(crate) fn backend() -> Backend {
    Backend::start(config(&[MODEL]))
}

/// What the gate is told of a backend: where it is, and these options.
pub(crate) fn upstream(backend: &Backend, options: &str) -> String {
    format!("{} {options}", backend.url())
}

/// A gate before backends, with all that it says of itself.
pub(crate) struct Front {
    pub(crate) gate: Gate,
    dir: Dir,
}

/// Three workers in front of these backends, without limits.
#[track_caller]
pub(crate) fn front(upstreams: &[String], arguments: &[&str]) -> Front {
    let dir = Dir::new();
    let file = |name: &str| dir.path(name).display().to_string();
    let mut all = vec![
        format!("--control={}", file("control")),
        format!("--access-log={}", file("access.log")),
        format!("--model={MODEL}"),
    ];
    for (name, value) in [("--workers", "3"), ("--limit", "none"), ("--api-limit", "none")] {
        if !arguments.iter().any(|argument| argument.split('=').next() == Some(name)) {
            all.push(format!("{name}={value}"));
        }
    }
    all.extend(upstreams.iter().map(|upstream| format!("--upstream={upstream}")));
    all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    Front { gate: support::gate(all).start(), dir }
}

/// One backend that is given this many requests at once, and a gate before it.
#[track_caller]
pub(crate) fn pair(slots: usize, arguments: &[&str]) -> (Backend, Front) {
    let backend = backend();
    let front = front(&[upstream(&backend, &format!("slots={slots} name=one"))], arguments);
    (backend, front)
}

impl Front {
    /// Where the gate listens for orders.
    pub(crate) fn control(&self) -> PathBuf {
        self.dir.path("control")
    }

    /// What `ollama-gate status` is told.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        let mut control = UnixStream::connect(self.control()).expect("the master listens for orders");
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        control.write_all(b"{\"command\":\"status\"}\n").unwrap();
        let mut line = String::new();
        BufReader::new(control).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// How many requests wait.
    #[track_caller]
    pub(crate) fn waiting(&self) -> u64 {
        self.status()["queue"]["length"].as_u64().unwrap()
    }

    /// Waits until exactly so many wait.
    #[track_caller]
    pub(crate) fn waits(&self, count: u64) {
        wait_for(&format!("{count} requests in the queue"), || (self.waiting() == count).then_some(()));
    }

    /// What the status says of the backend with this name.
    #[track_caller]
    pub(crate) fn backend(&self, name: &str) -> Value {
        let status = self.status();
        let all = status["backends"].as_array().unwrap();
        let found = all.iter().find(|backend| backend["name"] == name);
        found.unwrap_or_else(|| panic!("no backend {name} in {status}")).clone()
    }

    /// Waits until the monitor has seen just these models in memory of each of these backends.
    #[track_caller]
    pub(crate) fn has_loaded(&self, names: &[&str], models: &[&str]) {
        for name in names {
            wait_for(&format!("{name} to have {models:?} in memory"), || {
                (self.backend(name)["loaded"] == json!(models)).then_some(())
            });
        }
    }

    /// Requests in service over all backends.
    pub(crate) fn in_flight(&self) -> u64 {
        let status = self.status();
        status["backends"].as_array().unwrap().iter().map(|backend| backend["in_flight"].as_u64().unwrap()).sum()
    }

    /// Waits until nothing is in service and nobody waits.
    #[track_caller]
    pub(crate) fn is_idle(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let (in_flight, waiting) = (self.in_flight(), self.waiting());
            if in_flight + waiting == 0 {
                return;
            }
            assert!(Instant::now() < until, "{in_flight} in service and {waiting} in the queue are left over");
        }
    }

    /// Requests that each worker has, by its pid.
    pub(crate) fn by_worker(&self) -> Vec<(Pid, u64)> {
        let status = self.status();
        let processes = status["processes"].as_array().unwrap();
        let workers = processes.iter().filter(|process| process["role"] == "worker");
        let number = |process: &Value, key: &str| process[key].as_u64().unwrap();
        workers
            .map(|process| {
                (Pid::from_raw(i32::try_from(number(process, "pid")).unwrap()), number(process, "in_flight"))
            })
            .collect()
    }

    /// A connection with this request sent on it.
    #[track_caller]
    pub(crate) fn begin(&self, request: &Request) -> Client {
        let mut client = Client::connect(self.gate.address());
        client.send(&request.bytes()).unwrap();
        client
    }

    /// A stream that has begun: it keeps its slot until the client is dropped.
    #[track_caller]
    pub(crate) fn hold(&self, model: &str) -> Held {
        Held::begun(self.begin(&stalled(model, "held")))
    }

    /// A request that waits in the queue, behind those that wait already.
    #[track_caller]
    pub(crate) fn enqueue(&self, request: &Request) -> Client {
        let before = self.waiting();
        let client = self.begin(request);
        self.waits(before + 1);
        client
    }

    pub(crate) fn access_log(&self) -> PathBuf {
        self.dir.path("access.log")
    }

    /// Waits for the log's line about the request with this id.
    #[track_caller]
    pub(crate) fn line_of(&self, id: &str) -> Value {
        wait_for(&format!("the line of request {id}"), || {
            let text = std::fs::read_to_string(self.access_log()).unwrap_or_default();
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let mut lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines.find(|line| line["id"] == id)
        })
    }
}

/// Waits until the monitor knows that these backends list so many models each.
#[track_caller]
pub(crate) fn knows(front: &Front, names: &[&str], listed: u64) {
    for name in names {
        wait_for(&format!("{name} to list {listed} models"), || {
            (front.backend(name)["listed"] == json!(listed)).then_some(())
        });
    }
}

/// Loads a model into backends' memory, past the gate.
#[track_caller]
pub(crate) fn preload<'a>(backends: impl IntoIterator<Item = &'a Backend>, model: &str) {
    for backend in backends {
        let answer = http::ask(backend.address, &generate(model, "preload"));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.gate.workers().is_empty() {
            eprintln!("--- status\n{}", self.status());
            eprintln!("--- access log\n{}", std::fs::read_to_string(self.access_log()).unwrap_or_default());
        }
    }
}

/// A request that holds a slot.
pub(crate) struct Held {
    pub(crate) headers: Vec<(String, String)>,
    _client: Client,
}

impl Held {
    /// Waits for the beginning of a stream.
    #[track_caller]
    pub(crate) fn begun(mut client: Client) -> Self {
        let (status, headers) = client.head().expect("an answer");
        assert_eq!(status, 200, "{headers:?}");
        client.chunk().expect("a first line");
        Self { headers, _client: client }
    }

    /// The backend that serves it.
    pub(crate) fn by(&self) -> &str {
        let found = self.headers.iter().find(|(name, _)| name == "x-gate-backend");
        found.map_or("nobody", |(_, value)| value)
    }
}

/// A request for a stream.
pub(crate) fn generate(model: &str, prompt: &str) -> Request {
    Request::post("/api/generate", &json!({"model": model, "prompt": prompt}))
}

/// A request for a stream that stays at its first line; `word` tells it from others.
pub(crate) fn stalled(model: &str, word: &str) -> Request {
    generate(model, &format!("{STALLED} {word}"))
}

/// A request of the article's.
pub(crate) fn article(prompt: &str) -> Request {
    Request::post(ARTICLE, &json!({"prompt": prompt}))
}

/// A request that a proxy on this machine passes on for a client.
pub(crate) fn of(client: &str, request: &Request) -> Request {
    request.clone().header("X-Forwarded-For", client)
}

/// The whole answer to a request that was sent.
#[track_caller]
pub(crate) fn answer(client: &mut Client) -> Answer {
    client.answer("POST").expect("an answer")
}

/// Prompts in the order in which they came to a backend.
pub(crate) fn prompts(backend: &Backend) -> Vec<String> {
    let requests = backend.sim.counters().last_requests;
    let posts = requests.iter().filter(|request| request.method == "POST");
    let bodies = posts.map(|request| serde_json::from_str::<Value>(&request.body).unwrap());
    bodies.map(|body| body["prompt"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Requests for models that a backend was sent.
pub(crate) fn posts(backend: &Backend) -> u64 {
    let requests = backend.sim.counters().requests;
    requests.iter().filter(|(route, _)| route.starts_with("POST /api/")).map(|(_, count)| count).sum()
}
