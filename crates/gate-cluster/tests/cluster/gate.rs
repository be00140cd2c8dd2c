//! A gate of the test: a process with a zone, and its workers, which do what they are told over a socket.
//!
//! An order is a line: `take NAME AMOUNT SECONDS COST USED COUNT PARALLEL`, answered by `ADMITTED REFUSED SLOWEST_US`, or
//! `health`.

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gate_cluster::{Cluster, Terms};
use gate_limit::{Limit, Subject};
use gate_sys::process;
use gate_zone::Zone;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::task::{LocalSet, spawn_local};

/// The word that makes this program a gate.
pub(crate) const WORD: &str = "gate";

pub(crate) const WORKERS: usize = 2;

/// What limits are counted in.
const WINDOWS: [u64; 3] = [1, 60, 600];

const SCOPE: u64 = 3;

/// Longer than any order takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the gates of one test ask.
pub(crate) struct Way {
    pub(crate) share: f64,
    pub(crate) timeout: Duration,
}

/// Gates, as the test sees them.
pub(crate) struct Gates {
    children: Vec<Child>,
    /// Those of one gate after those of another.
    pub(crate) workers: Vec<Worker>,
}

/// A worker, as the test sees it.
pub(crate) struct Worker {
    lines: BufReader<UnixStream>,
}

/// What became of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    pub(crate) slowest: Duration,
}

/// Requests to be made.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) amount: u64,
    pub(crate) seconds: u64,
    pub(crate) cost: u64,
    pub(crate) used: u64,
    pub(crate) count: u64,
    pub(crate) parallel: u64,
}

impl Gates {
    /// Starts `count` gates with the store at `url`; what they log goes into `folder`.
    pub(crate) fn start(folder: &Path, url: &str, count: usize, way: &Way) -> Self {
        let path = folder.join("orders");
        let listener = UnixListener::bind(&path).expect("the folder is new");
        let mut gates = Self { children: Vec::new(), workers: Vec::new() };
        for gate in 0..count {
            let log = std::fs::File::create(folder.join(format!("log{gate}"))).expect("the folder is there");
            let mut command = Command::new(std::env::current_exe().expect("this program has a file"));
            command.arg(WORD).arg(&path).arg(url).arg(way.share.to_string()).arg(way.timeout.as_millis().to_string());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            gates.children.push(command.spawn().expect("this program can be started"));
            for _ in 0..WORKERS {
                let (stream, _) = listener.accept().expect("the worker calls");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout is no zero");
                gates.workers.push(Worker { lines: BufReader::new(stream) });
            }
        }
        gates
    }

    /// Everyone makes the same requests at once; meanwhile the test does something else.
    pub(crate) fn all(&mut self, load: Load, meanwhile: impl FnOnce()) -> Vec<Count> {
        for worker in &mut self.workers {
            worker.order(&load.text());
        }
        meanwhile();
        self.workers.iter_mut().map(|worker| Count::parse(&worker.answer())).collect()
    }
}

impl Gates {
    /// Ends the first gate for good.
    pub(crate) fn end_first(&mut self) {
        self.workers.drain(..WORKERS);
        self.children.remove(0).wait().expect("a gate can be waited for");
    }
}

impl Drop for Gates {
    fn drop(&mut self) {
        // Workers leave when their sockets close, gates when their workers have left.
        self.workers.clear();
        for child in &mut self.children {
            child.wait().expect("a gate can be waited for");
        }
    }
}

impl Worker {
    pub(crate) fn makes(&mut self, load: Load) -> Count {
        self.order(&load.text());
        Count::parse(&self.answer())
    }

    pub(crate) fn health(&mut self) -> String {
        self.order("health");
        self.answer()
    }

    fn order(&mut self, text: &str) {
        writeln!(self.lines.get_mut(), "{text}").expect("the worker lives");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("the worker answers");
        assert!(!line.is_empty(), "the worker has died");
        line.trim().to_owned()
    }
}

impl Load {
    fn text(self) -> String {
        let Self { name, amount, seconds, cost, used, count, parallel } = self;
        format!("take {name} {amount} {seconds} {cost} {used} {count} {parallel}")
    }
}

impl Count {
    fn parse(line: &str) -> Self {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
        let [admitted, refused, slowest] = numbers.as_slice() else { panic!("{line}") };
        Self { admitted: *admitted, refused: *refused, slowest: Duration::from_micros(*slowest) }
    }
}

/// A gate's life: its workers'.
pub(crate) fn live(arguments: &[String]) -> u8 {
    let [path, url, share, timeout] = arguments else { panic!("four arguments") };
    let mut seed = [0; 16];
    getrandom::fill(&mut seed).expect("the kernel has random numbers");
    let [low, high] = [0, 8].map(|at| u64::from_ne_bytes(*seed[at..].first_chunk().expect("sixteen octets")));
    let entries = NonZeroUsize::new(1 << 12).expect("not zero");
    let (_memory, zone) = Zone::create(entries, [low, high]).expect("there is memory");
    zone.assign_windows(&WINDOWS.map(Duration::from_secs), &[]).expect("there are regions enough");
    let terms = Terms {
        url: url.clone(),
        password: None,
        share: share.parse().expect("a number"),
        timeout: Duration::from_millis(timeout.parse().expect("a number")),
        prefix: "test".to_owned(),
    };
    let pids: Vec<_> = (0..WORKERS)
        .map(|_| process::spawn((), |()| work(zone, terms.clone(), Path::new(path))).expect("it can fork"))
        .collect();
    for pid in pids {
        process::wait(pid).expect("a child can be waited for");
    }
    0
}

/// Where log lines go: the gate's own file.
struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with("gate") {
            eprintln!("{} {}", record.level(), record.args());
        }
    }
    fn flush(&self) {}
}

fn work(zone: Zone, terms: Terms, path: &Path) -> u8 {
    log::set_logger(&Log).expect("nobody else has set one");
    log::set_max_level(log::LevelFilter::Info);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it can be built");
    LocalSet::new().block_on(&runtime, async {
        let cluster = Cluster::new(zone, terms).expect("the terms are good");
        let stream = tokio::net::UnixStream::connect(path).await.expect("the test listens");
        let (orders, mut answers) = stream.into_split();
        let mut orders = tokio::io::BufReader::new(orders).lines();
        cluster.connect().await;
        while let Ok(Some(order)) = orders.next_line().await {
            let words: Vec<_> = order.split(' ').collect();
            let answer = match words.as_slice() {
                ["take", name, rest @ ..] => take(&cluster, name, rest).await,
                _ => format!("{:?}", cluster.health()),
            };
            answers.write_all(format!("{answer}\n").as_bytes()).await.expect("the test listens");
        }
    });
    0
}

async fn take(cluster: &Cluster, name: &str, numbers: &[&str]) -> String {
    let numbers: Vec<u64> = numbers.iter().map(|number| number.parse().expect("a number")).collect();
    let [amount, seconds, cost, used, count, parallel] = numbers.as_slice() else { panic!("six numbers") };
    let (cost, used, parallel) = (*cost, *used, *parallel);
    let window = Duration::from_secs(*seconds);
    let limit = Arc::new(Limit { amount: *amount, window, unit: window, text: "a limit".to_owned() });
    let subject = Rc::new(Subject::of_key(name));
    let each = count.div_ceil(parallel);
    let tasks: Vec<_> = (0..parallel)
        .map(|task| {
            let (cluster, subject, limit) = (cluster.clone(), Rc::clone(&subject), Arc::clone(&limit));
            let own = each.min(count.saturating_sub(task * each));
            spawn_local(async move {
                let mut told = Count::default();
                for _ in 0..own {
                    let began = Instant::now();
                    match cluster.visit().take(&subject, SCOPE, &limit, cost).await {
                        Ok(passage) => {
                            told.admitted += 1;
                            if used != cost {
                                cluster.settle(&subject, SCOPE, &passage, used);
                            }
                        }
                        Err(_) => told.refused += 1,
                    }
                    told.slowest = told.slowest.max(began.elapsed());
                    // What passes without asking never waits, and others are to come between.
                    tokio::task::yield_now().await;
                }
                told
            })
        })
        .collect();
    let mut all = Count::default();
    for task in tasks {
        let told = task.await.expect("it does not panic");
        all.admitted += told.admitted;
        all.refused += told.refused;
        all.slowest = all.slowest.max(told.slowest);
    }
    format!("{} {} {}", all.admitted, all.refused, all.slowest.as_micros())
}
