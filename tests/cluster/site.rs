//! Three gates before one backend, and clients that ask all of them at once.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::orders::Running;
use crate::stage::{Front, backend, front, posts, upstream};
use crate::support::http::{Client, Request};
use crate::support::sim::Backend;
use crate::support::{Dir, binary, wait_for};

pub(crate) const GATES: usize = 3;

/// Clients of each gate: some for each of its workers.
const CLIENTS: usize = 4;

/// Requests on a connection: few, so that each worker has some.
const VISIT: usize = 4;

/// The longest that a gate may be told to wait for the store: no hiccup of a busy machine is taken for an outage, and one
/// such time can be told from two.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1);

/// The gates, and the backend that they share.
pub(crate) struct Site {
    pub(crate) gates: Vec<Front>,
    pub(crate) backend: Backend,
}

/// What became of requests.
#[derive(Debug, Default)]
pub(crate) struct Count {
    /// How many were answered with which status; 0 where there was no answer.
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) slowest: Duration,
}

impl Site {
    /// Gates that count in the store at `url`, each with a third of what there is when it is away.
    #[track_caller]
    pub(crate) fn start(url: &str, arguments: &[&str]) -> Self {
        let backend = backend();
        let url = format!("--cluster-url={url}");
        let mut all = vec!["--workers=2", "--breaker-failures=0", "--cluster-share=1/3", "--cluster-timeout=1s", &url];
        all.extend(arguments);
        let upstreams = [upstream(&backend, "slots=256 name=one")];
        let gates: Vec<_> = (0..GATES).map(|_| front(&upstreams, &all)).collect();
        Self { gates, backend }
    }

    /// Each client of each gate asks so often, all at once; the first client of each gate asks the first of these requests,
    /// and so on. Meanwhile the test does something else.
    pub(crate) fn burst(&self, requests: &[Request], times: usize, meanwhile: impl FnOnce()) -> Count {
        let ready = Barrier::new(GATES * CLIENTS + 1);
        let mut all = Count::default();
        std::thread::scope(|scope| {
            let mut clients = Vec::new();
            for gate in &self.gates {
                for request in requests.iter().cycle().take(CLIENTS) {
                    let (address, ready) = (gate.gate.address(), &ready);
                    clients.push(scope.spawn(move || {
                        let mut client = Client::connect(address);
                        ready.wait();
                        let mut own = Count::default();
                        for time in 1..=times {
                            own.ask(&mut client, request);
                            if time % VISIT == 0 {
                                client = Client::connect(address);
                            }
                        }
                        own
                    }));
                }
            }
            ready.wait();
            meanwhile();
            for client in clients {
                all.add(client.join().unwrap());
            }
        });
        // What one worker of a gate was granted after another was refused.
        for gate in &self.gates {
            for request in &requests[..requests.len().min(CLIENTS)] {
                let mut client = Client::connect(gate.gate.address());
                all.ask(&mut client, request);
                all.ask(&mut client, request);
            }
        }
        all
    }

    /// Waits until every gate says this of the store; what each says.
    #[track_caller]
    pub(crate) fn store_is(&self, state: &str) -> Vec<Value> {
        self.gates.iter().map(|gate| store_is(gate, state)).collect()
    }

    /// How often a text is in the logs of all gates.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.gates.iter().map(|gate| gate.gate.log().matches(text).count()).sum()
    }

    /// Each worker of each gate has had requests, so what was seen holds over all of them; the backend had `count`.
    #[track_caller]
    pub(crate) fn has_worked(&self, count: u64) {
        assert_eq!(posts(&self.backend), count);
        for gate in &self.gates {
            let status = gate.status();
            let processes = status["processes"].as_array().unwrap().iter();
            let workers: Vec<_> = processes.filter(|process| process["role"] == "worker").collect();
            let idle = workers.iter().filter(|worker| worker["requests"] == 0).count();
            assert_eq!((workers.len(), idle), (2, 0), "{status}");
        }
    }
}

/// Waits until a gate says this of the store; all that it says.
#[track_caller]
pub(crate) fn store_is(gate: &Front, state: &str) -> Value {
    let mut last = Value::Null;
    wait_for(&format!("a store that is {state}"), || {
        last = gate.status()["store"].clone();
        (last["state"] == state).then_some(())
    });
    last
}

impl Count {
    pub(crate) fn ask(&mut self, client: &mut Client, request: &Request) {
        let began = Instant::now();
        let status = client.ask(request).map_or(0, |answer| answer.status);
        self.slowest = self.slowest.max(began.elapsed());
        *self.statuses.entry(status).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.slowest = self.slowest.max(other.slowest);
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
    }

    /// How many were let in; the others were told that they are too many.
    #[track_caller]
    pub(crate) fn admitted(&self) -> u64 {
        assert!(self.statuses.keys().all(|status| [200, 429].contains(status)), "{self:?}");
        self.statuses.get(&200).copied().unwrap_or(0)
    }

    #[track_caller]
    pub(crate) fn refused(&self) -> u64 {
        self.statuses.get(&429).copied().unwrap_or(0)
    }
}

/// A key file with a key for each of these lines, the flag that names it, and the keys.
#[track_caller]
pub(crate) fn keys<const N: usize>(dir: &Dir, lines: [&str; N]) -> (String, [String; N]) {
    let file = dir.path("keys");
    let keys = lines.map(|line| {
        let mut command = Command::new(binary());
        command.args(["key", "new"]).args(line.split(' '));
        command.arg("--keys").arg(&file).arg("--control").arg(dir.path("nobody"));
        let said = Running::start(&mut command).said();
        assert_eq!(said.code, 0, "{line}: {said:?}");
        said.out.trim_end().to_owned()
    });
    (format!("--keys={}", file.display()), keys)
}

/// A request with a key.
pub(crate) fn with(key: &str, request: &Request) -> Request {
    request.clone().header("Authorization", &format!("Bearer {key}"))
}
