//! A monitor in a thread, servers for it to watch, and the log.
//!
//! Nothing here sleeps for a time: what is waited for is seen, or the test fails at a deadline.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gate_config::{Plan, Settings};
use gate_monitor::Post;
use gate_zone::fleet::{Cell, Fleet};
use gate_zone::{OwnRow, Place, Role, Zone};

/// The longest wait for anything: many times what it takes on a busy machine.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Waits until `what` can be seen.
pub(crate) fn wait_for<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = seen() {
            return seen;
        }
        assert!(begun.elapsed() < WAIT_MAX, "no {what} within {WAIT_MAX:?}\n{}", logged("").join("\n"));
        thread::sleep(Duration::from_millis(2)); // bounded poll
    }
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, || is_so().then_some(()));
}

/// A zone of its own.
pub(crate) fn zone() -> Zone {
    Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap().1
}

/// The cell of the backend with this URL.
pub(crate) fn cell(fleet: Fleet, url: &str) -> Cell {
    wait_for(url, || fleet.find(fleet.hash(url.as_bytes())))
}

/// A monitor at work. Dropped, it ends between two of its steps, whichever they are.
pub(crate) struct Monitor {
    lifeline: Option<io::PipeWriter>,
    thread: Option<JoinHandle<Result<u8, String>>>,
}

impl Monitor {
    pub(crate) fn start(zone: Zone, config: &str) -> Self {
        Self::with_demo(zone, config, None)
    }

    pub(crate) fn with_demo(zone: Zone, config: &str, demo: Option<SocketAddr>) -> Self {
        start_logging();
        let (reader, writer) = io::pipe().unwrap();
        let config = config.to_owned();
        let thread = thread::spawn(move || {
            let settings = Settings::gather(Some(("gate.toml", &config)), [], []).map_err(|why| why.to_string())?;
            let plan = Rc::new(Plan::new(&settings).map_err(|why| why.to_string())?);
            let index = zone.scoreboard().set_aside(std::process::id()).ok_or("no row")?;
            let row = OwnRow::claim(zone.scoreboard().row(index), Place { role: Role::Monitor, slot: 0 }, 1, 1);
            let lifeline = OwnedFd::from(reader);
            gate_monitor::run(Post { plan, zone, row, demo, lifeline, ready: Box::new(|| Ok(())) })
        });
        Self { lifeline: Some(writer), thread: Some(thread) }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert_eq!(ended.unwrap().unwrap(), Ok(0));
        }
    }
}

/// What a server and its connections share.
#[derive(Default)]
struct Shared {
    /// Status and body for each path.
    answers: Mutex<BTreeMap<String, (u16, String)>>,
    /// How often each path was asked for, and each with its method.
    asked: Mutex<BTreeMap<String, usize>>,
    open: AtomicUsize,
    stop: AtomicBool,
}

/// A server that answers GETs as it is told, and counts them.
pub(crate) struct Server {
    /// Where it listens; nowhere for one on a unix socket.
    pub(crate) address: SocketAddr,
    path: Option<PathBuf>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// One that only knows its version.
    pub(crate) fn start() -> Self {
        Self::at(([127, 0, 0, 1], 0).into())
    }

    pub(crate) fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        Self::serve(address, None, move || {
            let stream = listener.accept().unwrap().0;
            stream.set_read_timeout(Some(LOOK)).unwrap();
            stream
        })
    }

    pub(crate) fn on_unix(path: &Path) -> Self {
        drop(std::fs::remove_file(path));
        let listener = UnixListener::bind(path).unwrap();
        Self::serve(([0, 0, 0, 0], 0).into(), Some(path.to_owned()), move || {
            let stream = listener.accept().unwrap().0;
            stream.set_read_timeout(Some(LOOK)).unwrap();
            stream
        })
    }

    fn serve<S: Read + Write + Send + 'static>(
        address: SocketAddr,
        path: Option<PathBuf>,
        next: impl Fn() -> S + Send + 'static,
    ) -> Self {
        let shared = Arc::<Shared>::default();
        let inside = Arc::clone(&shared);
        let thread = thread::spawn(move || accept(next, &inside));
        let server = Self { address, path, shared, thread: Some(thread) };
        server.says("/api/version", 200, "{\"version\":\"0.0.0\"}");
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn says(&self, path: &str, status: u16, body: &str) {
        self.shared.answers.lock().unwrap().insert(path.to_owned(), (status, body.to_owned()));
    }

    /// Lists these models.
    pub(crate) fn lists(&self, names: &[&str]) {
        self.says("/api/tags", 200, &list(names));
    }

    /// Has these models in memory.
    pub(crate) fn holds(&self, names: &[&str]) {
        self.says("/api/ps", 200, &list(names));
    }

    /// How often it was asked for this.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.shared.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    /// All that it was asked for, with the method.
    pub(crate) fn questions(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().keys().cloned().collect()
    }

    /// Waits until it was asked for this so many times more.
    pub(crate) fn wait_asked(&self, path: &str, times: usize) {
        let target = self.asked(path) + times;
        wait_until(path, || self.asked(path) >= target);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        match &self.path {
            Some(path) => drop(UnixStream::connect(path)),
            None => drop(TcpStream::connect(self.address)),
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        wait_until("end of all connections", || self.shared.open.load(Ordering::SeqCst) == 0);
    }
}

/// How long a connection is read before it looks whether the server ends.
const LOOK: Duration = Duration::from_millis(5);

fn accept<S: Read + Write + Send + 'static>(next: impl Fn() -> S, shared: &Arc<Shared>) {
    loop {
        let (stream, shared) = (next(), Arc::clone(shared));
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        shared.open.fetch_add(1, Ordering::SeqCst);
        thread::spawn(move || {
            // A client that leaves ends this connection, and that is no failure.
            drop(serve(stream, &shared));
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Answers one connection until either side ends it.
fn serve(mut stream: impl Read + Write, shared: &Shared) -> io::Result<()> {
    let mut inbox = Vec::new();
    loop {
        while let Some(end) = inbox.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&inbox[..end]).into_owned();
            inbox.drain(..end + 4);
            let mut words = head.split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            *shared.asked.lock().unwrap().entry(path.to_owned()).or_default() += 1;
            *shared.asked.lock().unwrap().entry(format!("{method} {path}")).or_default() += 1;
            let none = (404, "404 page not found".to_owned());
            let (status, body) = shared.answers.lock().unwrap().get(path).cloned().unwrap_or(none);
            write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => inbox.extend_from_slice(&piece[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if shared.stop.load(Ordering::SeqCst) {
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// A list of models as Ollama writes it.
fn list(names: &[&str]) -> String {
    let models: Vec<_> = names.iter().map(|name| format!("{{\"name\":\"{name}\",\"model\":\"{name}\"}}")).collect();
    format!("{{\"models\":[{}]}}", models.join(","))
}

/// A simulated Ollama in a thread.
pub(crate) struct Ollama {
    pub(crate) address: SocketAddr,
    pub(crate) sim: ollama_sim::Sim,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ollama {
    pub(crate) fn at(address: SocketAddr, models: &[&str]) -> Self {
        let models = models.iter().map(|name| ollama_sim::Model::named(name)).collect();
        let sim = ollama_sim::Sim::new(ollama_sim::Config { models, ..ollama_sim::Config::default() });
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let served = sim.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind(address).await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                served.serve(listener, stopped).await.unwrap();
            });
        });
        Self { address: told.recv().unwrap(), sim, stop: Some(stop), thread: Some(thread) }
    }

    /// Has it answer a request for this model.
    pub(crate) fn generate(&self, model: &str) {
        let body = format!("{{\"model\":\"{model}\",\"prompt\":\"hello\",\"stream\":false}}");
        let mut stream = TcpStream::connect(self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST /api/generate HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Ollama {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

static LOG: OnceLock<Mutex<Vec<String>>> = OnceLock::new();

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info && metadata.target().starts_with("gate_")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LOG.get_or_init(Mutex::default).lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

fn start_logging() {
    if log::set_logger(&Lines).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

/// The lines of the log that contain this. Tests name their backends so that each finds its own.
pub(crate) fn logged(text: &str) -> Vec<String> {
    let lines = LOG.get_or_init(Mutex::default).lock().unwrap();
    lines.iter().filter(|line| line.contains(text)).cloned().collect()
}
