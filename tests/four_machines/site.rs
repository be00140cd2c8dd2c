//! The four hosts as `config/` describes them, and clients: three hosts that work, one in front of them.
//!
//! The profiles run as they are written, but for what differs from host to host: its own address, and where it logs.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ollama_sim::Config;
use serde_json::{Value, json};

use crate::network::{Host, Network};
use crate::orders::Control;
use crate::support::http::{Answer, Client, Request};
use crate::support::sim::Backend;
use crate::support::{Dir, Gate, children_of, gate, is_alive, repository, wait_for};

/// The model that every host has.
pub(crate) const MODEL: &str = "llama3.2:1b";

/// Tokens a second of every host: a stream of a few dozen is long enough to break it off.
const TOKEN_RATE: u32 = 20;

/// A host that works: a gate with three workers, and its own Ollama on the loopback address.
pub(crate) struct Working {
    pub(crate) host: Host,
    dir: Dir,
    alive: Option<(Backend, Gate)>,
}

impl Working {
    fn new(host: Host) -> Self {
        let mut working = Self { host, dir: Dir::new(), alive: None };
        working.boot();
        working
    }

    /// Starts what runs there.
    pub(crate) fn boot(&mut self) {
        let slots = NonZeroUsize::new(4).unwrap();
        let config = Config { token_rate: TOKEN_RATE, slots, recorded: 256, ..Config::echo() };
        let listener = self.host.inside(|| TcpListener::bind("127.0.0.1:11434").unwrap());
        let ollama = Backend::on(listener, config);
        let profile = std::fs::read_to_string(repository("config/four-hosts-worker.toml")).unwrap();
        let own = profile
            .replace("10.0.0.11:8000", &format!("{}:8000", self.host.address))
            .replace("/var/log/ollama-gate/access.log", self.dir.path("access.log").to_str().unwrap());
        let gate = gate::<&str>([]).config(&own).launched_by(&self.host.launcher()).start();
        assert_eq!(gate.workers().len(), 3);
        self.alive = Some((ollama, gate));
    }

    /// Ends everything there at once.
    pub(crate) fn dies(&mut self) {
        let (ollama, gate) = self.alive.take().expect("it is alive");
        let all = children_of(gate.pid(), "");
        kill(gate.pid(), Signal::SIGKILL).unwrap();
        for pid in &all {
            // One may have ended with its master already.
            let _gone = kill(*pid, Signal::SIGKILL);
        }
        drop(gate);
        drop(ollama);
        for pid in all {
            wait_for("the end of its processes", || (!is_alive(pid)).then_some(()));
        }
    }

    pub(crate) fn ollama(&self) -> &Backend {
        &self.alive.as_ref().expect("it is alive").0
    }

    pub(crate) fn gate(&mut self) -> &mut Gate {
        &mut self.alive.as_mut().expect("it is alive").1
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (self.host.address, 8000).into()
    }

    /// Has its Ollama load the model, as if somebody there had asked for it.
    pub(crate) fn loads(&self) {
        let request = generate("warm");
        let answer = self.host.inside(move || ask(([127, 0, 0, 1], 11434).into(), &request)).unwrap();
        assert_eq!(answer.status, 200);
    }

    /// The lines of its access log on requests for an answer.
    pub(crate) fn served(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.path("access.log")).unwrap_or_default();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(|line| line["method"] == "POST").collect()
    }
}

/// What stands in front.
pub(crate) enum Front {
    Gate(Box<Gate>, Control),
    Nginx { child: Child, dir: Dir },
}

impl Front {
    /// The profile of the balancing gate, with these flags beside it.
    fn gate(host: &Host, flags: &[&str]) -> Self {
        let control = Control::new();
        let profile = std::fs::read_to_string(repository("config/four-hosts-balancer.toml")).unwrap();
        let access = control.beside("access.log");
        let own = profile.replace("/var/log/ollama-gate/access.log", access.to_str().unwrap());
        let flags = flags.iter().map(ToString::to_string).chain([control.flag()]);
        let gate = gate(flags).config(&own).launched_by(&host.launcher()).start();
        Self::Gate(Box::new(gate), control)
    }

    fn nginx(host: &Host) -> Self {
        let dir = Dir::new();
        let profile = std::fs::read_to_string(repository("config/four-hosts-nginx.conf")).unwrap();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|what| format!("{what}_temp_path {};", dir.path(what).display())).join("\n");
        let (pid, log, access) = (dir.path("pid"), dir.path("error.log"), dir.path("access.log"));
        let text = format!(
            "daemon off;\nuser root;\nworker_processes 2;\npid {};\nerror_log {} info;\nevents {{}}\nhttp {{\n\
             {temporary}\naccess_log {};\n{profile}}}\n",
            pid.display(),
            log.display(),
            access.display()
        );
        let config = dir.path("nginx.conf");
        std::fs::write(&config, text).unwrap();
        let words = host.launcher();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(["nginx", "-e"]).arg(&log).arg("-c").arg(&config);
        Self::Nginx { child: command.spawn().expect("nginx starts"), dir }
    }

    /// Has it read its configuration again, and waits until it serves by it.
    #[track_caller]
    pub(crate) fn reload(&mut self) {
        match self {
            Self::Gate(gate, _) => gate.reload(),
            Self::Nginx { child, .. } => {
                let pid = Pid::from_raw(child.id().cast_signed());
                let workers = || -> Vec<Pid> {
                    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
                    listed.split_ascii_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
                };
                let old = workers();
                kill(pid, Signal::SIGHUP).unwrap();
                wait_for("nginx's old workers to go", || {
                    let new = workers();
                    (!new.is_empty() && old.iter().all(|pid| !new.contains(pid))).then_some(())
                });
            }
        }
    }

    fn port(&self) -> u16 {
        if matches!(self, Self::Gate(..)) { 8000 } else { 80 }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Self::Nginx { child, dir } = self {
            let _told = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
            let _reaped = child.wait();
            if std::thread::panicking() {
                eprintln!("--- nginx\n{}", std::fs::read_to_string(dir.path("error.log")).unwrap_or_default());
            }
        }
    }
}

/// All of it.
pub(crate) struct Site {
    pub(crate) front: Front,
    pub(crate) working: Vec<Working>,
    clients: Vec<Host>,
    _network: Network,
}

/// Which program stands in front.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Balances {
    Gate,
    Nginx,
}

impl Site {
    /// Everything is up, every host has the model in memory, and the front knows it.
    pub(crate) fn start(balances: Balances, flags: &[&str]) -> Self {
        let mut network = Network::new();
        let front_host = network.host(10);
        let working: Vec<Working> = (11..14).map(|last| Working::new(network.host(last))).collect();
        let clients = (101..105).map(|last| network.host(last)).collect();
        let front = match balances {
            Balances::Gate => Front::gate(&front_host, flags),
            Balances::Nginx => Front::nginx(&front_host),
        };
        let site = Self { front, working, clients, _network: network };
        site.working.iter().for_each(Working::loads);
        wait_for("the front to answer", || {
            let health = Request::get("/api/version");
            site.ask_from(0, &health).ok().filter(|answer| answer.status == 200)
        });
        site.working.iter().enumerate().for_each(|(place, _)| site.is_ready(place));
        site
    }

    /// Waits until the front knows that a host is well and has the model.
    #[track_caller]
    pub(crate) fn is_ready(&self, place: usize) {
        wait_for(&format!("vm{} to be ready", place + 1), || {
            let backend = self.backend(place)?;
            (backend["state"] == "healthy" && backend["loaded"] == json!([MODEL])).then_some(())
        });
    }

    /// What the balancing gate says of a host; something that suits everybody where nginx balances, which knows nothing.
    pub(crate) fn backend(&self, place: usize) -> Option<Value> {
        match &self.front {
            Front::Gate(_, control) => Some(control.status()["backends"].get(place)?.clone()),
            Front::Nginx { .. } => Some(json!({"state": "healthy", "loaded": [MODEL]})),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::new(10, 0, 0, 10), self.front.port()).into()
    }

    pub(crate) fn client(&self, number: usize) -> Host {
        self.clients[number % self.clients.len()].clone()
    }

    /// One request of this client's.
    pub(crate) fn ask_from(&self, client: usize, request: &Request) -> std::io::Result<Answer> {
        let (address, request) = (self.address(), request.clone());
        self.client(client).inside(move || ask(address, &request))
    }

    /// A connection of this client's, with a request sent on it.
    #[track_caller]
    pub(crate) fn send_from(&self, client: usize, request: &Request) -> Client {
        let (address, bytes) = (self.address(), request.bytes());
        self.client(client).inside(move || {
            let mut client = Client::connect(address);
            client.send(&bytes).unwrap();
            client
        })
    }

    /// The host whose Ollama was given the request with this prompt.
    #[track_caller]
    pub(crate) fn place_of(&self, prompt: &str) -> usize {
        wait_for(&format!("a host that has {prompt}"), || {
            self.working.iter().position(|working| {
                working.alive.as_ref().is_some_and(|(ollama, _)| {
                    let last = ollama.sim.counters().last_requests;
                    last.iter().any(|request| request.body.contains(prompt))
                })
            })
        })
    }
}

/// One request on a connection of its own.
pub(crate) fn ask(address: SocketAddr, request: &Request) -> std::io::Result<Answer> {
    let begun = Instant::now();
    let answer = Client::try_connect(address)?.ask(&request.clone().header("Connection", "close"));
    answer.map_err(|error| std::io::Error::other(format!("{error} after {:?}", begun.elapsed())))
}

/// A request for one answer, which takes a twentieth of a second for each word.
pub(crate) fn generate(prompt: &str) -> Request {
    Request::post("/api/generate", &json!({"model": MODEL, "prompt": prompt, "stream": false}))
}

/// The same for a stream.
pub(crate) fn stream(prompt: &str) -> Request {
    Request::post("/api/generate", &json!({"model": MODEL, "prompt": prompt}))
}

/// A prompt that begins with a name, and whose answer takes about this long.
pub(crate) fn prompt(name: &str, long: Duration) -> String {
    let tokens = (long.as_millis() as u32 * TOKEN_RATE / 1000) as usize;
    std::iter::once(name).chain(std::iter::repeat_n("word", tokens)).collect::<Vec<_>>().join(" ")
}
