//! What tests of sick and changing backends begin with: backends that can be told to fail, a gate in front of them, and
//! what its status and its access log say.
//!
//! A new model goes where fewest models are in memory. So a backend that is asked for a model of its own once is the
//! second choice for every new model from then on: that is how a test decides which backend is asked first.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use ollama_sim::{Config, Fault, Model, Rule};
use serde_json::{Value, json};

use crate::orders::Control;
use crate::support::http::{Answer, Client, Request};
use crate::support::sim::Backend;
use crate::support::{Gate, gate, wait_for};

/// What a client is told of a connection that broke off.
pub(crate) const CLOSED: &str = "Ollama closed the connection before its answer was complete";

/// A backend that repeats the prompt at once, for models `new-0` to `new-149` and one of its own.
pub(crate) fn echo(own: &str) -> Backend {
    Backend::start(config(own))
}

pub(crate) fn config(own: &str) -> Config {
    let new = (0..150).map(|number| format!("new-{number}"));
    let models = new.chain([own.to_owned()]).map(|name| Model::named(&name)).collect();
    Config { models, slots: NonZeroUsize::new(256).unwrap(), ..Config::echo() }
}

/// The models of the two backends that are theirs alone.
pub(crate) const OWN: [&str; 2] = ["of-first:latest", "of-second:latest"];

/// Two backends behind a gate with these keys; the first of them is asked first for every new model, and everything that
/// is known of them from here on is what requests have found out.
pub(crate) fn two(keys: &str) -> (Backend, Backend, Yard) {
    let (first, second, yard) = two_watched(keys);
    yard.looks_no_more();
    (first, second, yard)
}

/// The same, and the monitor goes on watching them.
pub(crate) fn two_watched(keys: &str) -> (Backend, Backend, Yard) {
    let (first, second) = (echo(OWN[0]), echo(OWN[1]));
    let tables = [upstream(&first.url(), "name = \"first\""), upstream(&second.url(), "name = \"second\"")];
    let yard = Yard::start(keys, &tables);
    yard.sees_all_well();
    assert_eq!(by(&yard.generate(OWN[1])), "second");
    (first, second, yard)
}

/// An address that refuses every connection, for as long as this lives: that of a client, which has it to itself.
pub(crate) struct Nobody {
    _client: TcpStream,
    pub(crate) address: SocketAddr,
}

impl Nobody {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let address = client.local_addr().unwrap();
        Self { _client: client, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Some backends with a gate in front of them, which logs every request and takes orders.
pub(crate) struct Yard {
    pub(crate) gate: Gate,
    control: Control,
}

/// One backend as the configuration says it.
pub(crate) fn upstream(url: &str, more: &str) -> String {
    format!("[[upstream]]\nurl = \"{url}\"\n{more}\n")
}

impl Yard {
    /// A gate with these keys and, behind them, these tables.
    pub(crate) fn start(keys: &str, tables: &[String]) -> Self {
        let control = Control::new();
        let text = Self::text(&control, keys, tables);
        Self { gate: gate::<&str>([]).config(&text).start(), control }
    }

    fn text(control: &Control, keys: &str, tables: &[String]) -> String {
        let access = control.beside("access.log");
        let fixed = "limit = \"none\"\napi_limit = \"none\"\nbind = \"127.0.0.1:0\"\n";
        format!("{fixed}{}access_log = \"{}\"\n{keys}\n{}", control.key(), access.display(), tables.concat())
    }

    /// Writes another configuration and has it taken.
    #[track_caller]
    pub(crate) fn becomes(&mut self, keys: &str, tables: &[String]) {
        self.configure(keys, tables);
        self.gate.reload();
    }

    /// Only writes it.
    pub(crate) fn configure(&self, keys: &str, tables: &[String]) {
        self.gate.configure(&Self::text(&self.control, keys, tables));
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.gate.address()
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub(crate) fn ask(&self, request: &Request) -> Answer {
        self.gate.ask(request)
    }

    /// A whole answer of this model's.
    #[track_caller]
    pub(crate) fn generate(&self, model: &str) -> Answer {
        self.ask(&whole(model, "hi"))
    }

    /// A connection to each of so many workers.
    #[track_caller]
    pub(crate) fn client_of_each_worker(&self, count: usize) -> Vec<Client> {
        let mut clients: Vec<(u64, Client)> = Vec::new();
        let mut number = 0;
        wait_for(&format!("connections to {count} workers"), || {
            number += 1;
            let (id, mut client) = (format!("which-worker-{number}"), Client::connect(self.address()));
            client.ask(&Request::get("/api/version").header("X-Request-Id", &id)).unwrap();
            let worker = self.logged(&id)["worker"].as_u64().unwrap();
            if clients.iter().all(|(known, _)| *known != worker) {
                clients.push((worker, client));
            }
            (clients.len() == count).then_some(())
        });
        clients.into_iter().map(|(_, client)| client).collect()
    }

    /// All lines of the access log so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.control.beside("access.log")).unwrap_or_default();
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The line on the request with this id.
    #[track_caller]
    pub(crate) fn logged(&self, id: &str) -> Value {
        wait_for(&format!("a line on {id}"), || self.lines().into_iter().find(|line| line["id"] == id))
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.control.status()
    }

    /// What the status says of the backend at this place.
    #[track_caller]
    pub(crate) fn backend(&self, place: usize) -> Value {
        self.status()["backends"][place].clone()
    }

    /// Waits until the backend at this place has this breaker.
    #[track_caller]
    pub(crate) fn has_breaker(&self, place: usize, breaker: &str) {
        wait_for(&format!("breaker {breaker} of backend {place}"), || {
            (self.backend(place)["breaker"] == breaker).then_some(())
        });
    }

    /// Waits until no backend has a request any more.
    #[track_caller]
    pub(crate) fn is_idle(&self) {
        wait_for("nothing in flight", || {
            let status = self.status();
            let backends = status["backends"].as_array().unwrap();
            backends.iter().all(|backend| backend["in_flight"] == 0).then_some(())
        });
    }

    /// Waits until the monitor has seen every backend well, and stops it there: what is known of them from then on, the
    /// requests have found out.
    #[track_caller]
    pub(crate) fn looks_no_more(&self) {
        self.sees_all_well();
        let monitor = self.gate.children("monitor");
        assert_eq!(monitor.len(), 1);
        kill(monitor[0], Signal::SIGSTOP).unwrap();
    }

    #[track_caller]
    pub(crate) fn sees_all_well(&self) {
        wait_for("every backend to be seen", || {
            let status = self.status();
            let backends = status["backends"].as_array().unwrap();
            let is_well = |backend: &Value| backend["state"] == "healthy" && !backend["listed"].is_null();
            backends.iter().all(is_well).then_some(())
        });
    }
}

/// A request of Ollama's own API for one answer.
pub(crate) fn whole(model: &str, prompt: &str) -> Request {
    Request::post("/api/generate", &json!({"model": model, "prompt": prompt, "stream": false}))
}

/// The same for a stream.
pub(crate) fn stream(model: &str, prompt: &str) -> Request {
    Request::post("/api/generate", &json!({"model": model, "prompt": prompt}))
}

/// How many requests for an answer a backend has received.
pub(crate) fn asked(backend: &Backend) -> u64 {
    let requests = backend.sim.counters().requests;
    ["POST /api/generate", "POST /api/chat"].iter().filter_map(|route| requests.get(*route)).sum()
}

/// Plays this fault to the next requests for an answer.
pub(crate) fn plays(backend: &Backend, fault: &str, times: u32) {
    let path = Some("/api/generate".to_owned());
    backend.sim.script([Rule { fault: fault.parse::<Fault>().unwrap(), path, times }]);
}

/// Who answered, as clients are told.
pub(crate) fn by(answer: &Answer) -> &str {
    answer.header("x-gate-backend").unwrap_or("nobody")
}

/// The text of an `{"error": …}` object.
#[track_caller]
pub(crate) fn error_of(answer: &Answer) -> String {
    answer.json()["error"].as_str().unwrap().to_owned()
}

/// A short time that a backend is given, and how the gate writes it.
pub(crate) const SOON: (Duration, &str) = (Duration::from_millis(300), "0.3 s");
