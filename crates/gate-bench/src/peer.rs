//! The servers that are compared: where they are, how each is started, when it is ready.
//!
//! All get the same work: limit by client address with a limit never reached, one worker, the same upstream.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::complaint::Complaint;
use crate::folder;
use crate::interrupt;
use crate::options::Options;
use crate::probe;
use crate::seats::Seat;
use crate::started::Started;
use crate::tools::Tools;
use crate::upstream::{MODEL, nginx_places};

/// How long a server may take to start: a Python stack on a busy machine needs several seconds.
const READY_MAX: Duration = Duration::from_secs(60);
/// How often a starting server is asked; short, as the time of starting is itself measured.
const READY_GLANCE: Duration = Duration::from_micros(200);
/// A limit that no run reaches.
const LIMIT: &str = "1000000000/minute";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// This repository's.
    Gate,
    /// nginx as a proxy.
    Nginx,
    /// Gunicorn, Uvicorn, FastAPI and slowapi.
    Article,
}

impl Kind {
    /// Every server there is.
    pub(crate) const ALL: [Self; 3] = [Self::Gate, Self::Nginx, Self::Article];

    /// Its name in options and tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Nginx => "nginx",
            Self::Article => "fastapi",
        }
    }

    /// The path that is answered with 200 once it is ready.
    fn ready_path(self) -> &'static str {
        match self {
            Self::Gate | Self::Nginx => "/healthz",
            Self::Article => "/openapi.json",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Where the servers are, or why one is not compared.
#[derive(Debug)]
pub(crate) struct Peers {
    gate: Result<PathBuf, String>,
    nginx: Result<PathBuf, String>,
    article: Result<App, String>,
    /// What the gate is told beside what all are told.
    gate_settings: Vec<String>,
}

/// The FastAPI stack: its application and the Python that has its packages.
#[derive(Debug)]
struct App {
    folder: PathBuf,
    python: PathBuf,
}

impl Peers {
    /// Looks where they are; the gate's place is found out before.
    pub(crate) fn find(options: &Options, gate: Result<PathBuf, String>) -> Self {
        let asked = |kind| if options.wants(kind) { Ok(()) } else { Err("not asked for".to_owned()) };
        Self {
            gate: asked(Kind::Gate).and(gate).and_then(existing),
            nginx: asked(Kind::Nginx)
                .and_then(|()| crate::tools::find("nginx").ok_or_else(|| "it is not installed".to_owned())),
            article: asked(Kind::Article).and_then(|()| App::find(options)),
            gate_settings: Vec::new(),
        }
    }

    /// The same, with a gate that is told more.
    pub(crate) fn with_gate_settings(self, gate_settings: Vec<String>) -> Self {
        Self { gate_settings, ..self }
    }

    /// Where a server is, or why it is skipped.
    pub(crate) fn place(&self, kind: Kind) -> Result<String, String> {
        let path = match kind {
            Kind::Gate => self.gate.as_deref(),
            Kind::Nginx => self.nginx.as_deref(),
            Kind::Article => self.article.as_ref().map(|app| app.folder.as_path()),
        };
        path.map(|path| path.display().to_string()).map_err(ToOwned::to_owned)
    }

    /// Those that are compared, in the order of tables.
    pub(crate) fn present(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|&kind| self.place(kind).is_ok())
    }

    /// Starts a server in a folder of its own and waits until it answers.
    pub(crate) fn start(
        &self,
        kind: Kind,
        tools: &Tools,
        room: PathBuf,
        upstream: &[u16],
    ) -> Result<Running, Complaint> {
        let port = probe::free_port()?;
        let command = match kind {
            Kind::Gate => {
                let program = self.gate.as_ref().map_err(|why| skipped(kind, why))?;
                let mut command = gate_command(program, tools, &room, (port, upstream));
                command.args(&self.gate_settings);
                command
            }
            Kind::Nginx => {
                let file = room.join("nginx.conf");
                folder::write(&file, &nginx_configuration(&room, port, (Balance::LeastConnections, upstream)))?;
                let program = self.nginx.as_ref().map_err(|why| skipped(kind, why))?;
                let mut command = tools.seats.command(Seat::Server, program);
                command.arg("-c").arg(&file).arg("-e").arg(room.join("error.log"));
                command
            }
            Kind::Article => {
                article_command(self.article.as_ref().map_err(|why| skipped(kind, why))?, tools, port, upstream)
            }
        };
        let began = Instant::now();
        let started = Started::spawn(kind.name(), command, &room.join("output"))?;
        wait_ready(kind.name(), &started, port, kind.ready_path())?;
        Ok(Running { kind, port, ready_after: began.elapsed(), room, started })
    }
}

fn skipped(kind: Kind, why: &str) -> Complaint {
    Complaint::Program { name: kind.name().to_owned(), said: why.to_owned() }
}

/// A server that answers.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    /// From starting the process to the first good answer.
    pub(crate) ready_after: Duration,
    pub(crate) started: Started,
    room: PathBuf,
}

impl Running {
    /// Empties its access log between measurements, so that a long run does not fill the disk.
    pub(crate) fn empty_log(&self) -> Result<(), Complaint> {
        let path = access_log(&self.room);
        match OpenOptions::new().write(true).open(&path).and_then(|file: File| file.set_len(0)) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(Complaint::file(path)(why)),
            _ => Ok(()),
        }
    }
}

/// Asks until a path is answered with 200.
pub(crate) fn wait_ready(name: &str, started: &Started, port: u16, path: &str) -> Result<(), Complaint> {
    let until = Instant::now() + READY_MAX;
    loop {
        interrupt::check()?;
        if probe::get(port, path).is_ok_and(|reply| reply.status == 200) {
            return Ok(());
        }
        if started.ended().is_some() || Instant::now() > until {
            return Err(Complaint::NotReady { name: name.to_owned(), log: started.last_words() });
        }
        sleep(READY_GLANCE);
    }
}

fn existing(path: PathBuf) -> Result<PathBuf, String> {
    if path.is_file() { Ok(path) } else { Err(format!("{} does not exist", path.display())) }
}

impl App {
    fn find(options: &Options) -> Result<Self, String> {
        let folder = options.fastapi_dir.clone().ok_or("no --fastapi-dir and no $GATE_BENCH_FASTAPI")?;
        existing(folder.join("main.py"))?;
        let python = match &options.fastapi_python {
            Some(python) => existing(python.clone())?,
            None => [".venv/bin/python", "venv/bin/python"]
                .into_iter()
                .map(|name| folder.join(name))
                .find(|file| file.is_file())
                .ok_or_else(|| format!("no virtual environment in {}, and no --fastapi-python", folder.display()))?,
        };
        Ok(Self { folder, python })
    }
}

fn access_log(room: &Path) -> PathBuf {
    room.join("access.log")
}

fn gate_command(program: &Path, tools: &Tools, room: &Path, (port, upstream): (u16, &[u16])) -> Command {
    let upstream: Vec<String> = upstream.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    let mut command = tools.seats.command(Seat::Server, program);
    command
        .args(["--workers", "1", "--bind", &format!("127.0.0.1:{port}")])
        .args(["--upstream", &upstream.join(","), "--model", MODEL])
        .args(["--limit", LIMIT, "--api-limit", LIMIT])
        .arg("--access-log")
        .arg(access_log(room));
    forget_environment(&mut command, "OLLAMA_");
    command.current_dir(room);
    command
}

/// The stack as it is installed: Gunicorn with one Uvicorn worker.
fn article_command(app: &App, tools: &Tools, port: u16, upstream: &[u16]) -> Command {
    // It knows one backend.
    let upstream = upstream.first().copied().unwrap_or_default();
    let mut command = tools.seats.command(Seat::Server, &app.python);
    command
        .args(["-m", "gunicorn", "main:app", "--workers", "1", "--worker-class", "uvicorn.workers.UvicornWorker"])
        .args(["--bind", &format!("127.0.0.1:{port}")]);
    for prefix in ["OLLAMA_", "PEER_", "RATELIMIT_", "GUNICORN_"] {
        forget_environment(&mut command, prefix);
    }
    command
        .env("OLLAMA_HOST", format!("127.0.0.1:{upstream}"))
        .env("PEER_LIMIT", LIMIT)
        .env("PYTHONWARNINGS", "ignore")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(&app.folder);
    command
}

/// Keeps what configures a server of the user's from configuring ours.
pub(crate) fn forget_environment(command: &mut Command, prefix: &str) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(prefix) {
            command.env_remove(name);
        }
    }
}

/// How nginx shares requests out among several backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Balance {
    /// To the one with the fewest.
    LeastConnections,
    /// In turn.
    RoundRobin,
}

/// nginx as it would stand there: limit, log, kept connections behind it, and streams passed on at once.
pub(crate) fn nginx_configuration(room: &Path, port: u16, (balance, upstream): (Balance, &[u16])) -> String {
    let balance = match balance {
        Balance::LeastConnections if upstream.len() > 1 => "least_conn; ",
        Balance::LeastConnections | Balance::RoundRobin => "",
    };
    let servers: Vec<String> = upstream.iter().map(|port| format!("server 127.0.0.1:{port}; ")).collect();
    let servers = servers.concat();
    format!(
        "daemon off; pid {room}/nginx.pid; error_log {room}/error.log; worker_processes 1;
events {{ worker_connections 2048; }}
http {{
  access_log {log} combined; keepalive_requests 1000000000; keepalive_timeout 300s; default_type application/json;
  {places}
  limit_req_zone $binary_remote_addr zone=clients:10m rate=1000000r/s;
  upstream ollama {{
    {balance}{servers}keepalive 256; keepalive_requests 1000000000; keepalive_timeout 300s;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    proxy_http_version 1.1;
    proxy_set_header Connection \"\";
    limit_req zone=clients burst=1000000 nodelay;
    location = /healthz {{ return 200 'ok'; }}
    location /ollama_generate/ {{ proxy_pass http://ollama/api/generate; }}
    location /api/ {{ proxy_buffering off; proxy_read_timeout 600s; proxy_pass http://ollama; }}
    location /v1/ {{ proxy_buffering off; proxy_read_timeout 600s; proxy_pass http://ollama; }}
  }}
}}
",
        room = room.display(),
        log = access_log(room).display(),
        places = nginx_places(room),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_not_there_says_why() {
        let peers = Peers::find(&Options::default(), Ok("/nowhere/ollama-gate".into()));
        assert_eq!(peers.place(Kind::Gate), Err("/nowhere/ollama-gate does not exist".to_owned()));
        let mut options = Options::default();
        options.fastapi_dir = Some("/nowhere".into());
        let peers = Peers::find(&options, Err("cargo builds it".to_owned()));
        assert_eq!(peers.place(Kind::Gate), Err("cargo builds it".to_owned()));
        assert_eq!(peers.place(Kind::Article), Err("/nowhere/main.py does not exist".to_owned()));
    }

    #[test]
    fn the_configuration_names_both_ports() {
        let text = nginx_configuration(Path::new("/tmp/x"), 8001, (Balance::LeastConnections, &[8002]));
        assert!(text.contains("listen 127.0.0.1:8001 ") && text.contains("server 127.0.0.1:8002;"));
        assert!(text.contains("access_log /tmp/x/access.log combined;") && !text.contains("least_conn"));
        for (balance, expected) in [
            (Balance::LeastConnections, "least_conn; server 127.0.0.1:1; server 127.0.0.1:2; keepalive"),
            (Balance::RoundRobin, "{\n    server 127.0.0.1:1; server 127.0.0.1:2; keepalive"),
        ] {
            let text = nginx_configuration(Path::new("/tmp/x"), 8001, (balance, &[1, 2]));
            assert!(text.contains(expected), "{text}");
        }
    }
}
