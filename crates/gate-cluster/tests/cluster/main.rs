//! Three gates of two workers each and a real store, which is killed, restarted and delayed under load.
//!
//! Gates fork, which a process with threads may not, so the test brings its own `main`, and is itself the program that its
//! gates run. It never waits for time to pass: workers answer when they have made their requests.

mod gate;
mod store;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::gate::{Count, Gates, Load, WORKERS, Way};
use crate::store::Store;

const GATES: usize = 3;

/// A request's patience where nothing is to go wrong: no hiccup of a busy machine is to be taken for an outage.
const PATIENT: Duration = Duration::from_secs(5);

/// Where the store goes away: long enough that paying it twice can be told from a busy machine.
const DEADLINE: Duration = Duration::from_millis(300);

/// Until the gates have noticed what happened; longer than any takes.
const NOTICED_MAX: Duration = Duration::from_secs(20);

/// The largest batch that a gate has in hand.
const BATCH_MAX: u64 = 128;

const THIRD: f64 = 1.0 / 3.0;

/// What runs in a folder of its own.
type Test = fn(&Path);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [word, rest @ ..] = arguments.as_slice()
        && word == gate::WORD
    {
        return ExitCode::from(gate::live(rest));
    }
    if !Store::is_installed() {
        println!("skipped: no redis-server on this machine (Debian: apt-get install redis-server)");
        return ExitCode::SUCCESS;
    }
    let tests: [(&str, Test); 7] = [
        ("gates_admit_together_what_the_limit_says", gates_admit_together_what_the_limit_says),
        ("a_small_limit_is_exact_wherever_requests_come", a_small_limit_is_exact_wherever_requests_come),
        ("a_hot_client_seldom_asks", a_hot_client_seldom_asks),
        ("what_is_not_used_can_be_used_elsewhere", what_is_not_used_can_be_used_elsewhere),
        ("a_store_killed_and_emptied_opens_no_new_window", a_store_killed_and_emptied_opens_no_new_window),
        ("what_a_gate_knows_of_others_outlives_the_store", what_a_gate_knows_of_others_outlives_the_store),
        ("a_store_that_hangs_costs_one_deadline", a_store_that_hangs_costs_one_deadline),
    ];
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    for (name, test) in tests.iter().filter(|(name, _)| wanted.is_none_or(|wanted| name.contains(wanted.as_str()))) {
        let (began, folder) = (Instant::now(), Folder::new(name));
        test(&folder.0);
        println!("test {name} ... ok ({:.1?})", began.elapsed());
    }
    ExitCode::SUCCESS
}

/// A test's folder, kept when it fails.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        // Names of sockets are short, and so is this.
        let at = std::env::temp_dir().join(format!("gc-{}-{}", std::process::id(), name.len()));
        std::fs::create_dir(&at).expect("nobody else has this pid");
        Self(at)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("what the gates said is in {}", self.0.display());
        } else {
            std::fs::remove_dir_all(&self.0).expect("it is ours");
        }
    }
}

fn requests(name: &'static str, amount: u64, count: u64) -> Load {
    Load { name, amount, seconds: 600, cost: 1, used: 1, count, parallel: 8 }
}

fn admitted(counts: &[Count]) -> u64 {
    counts.iter().map(|count| count.admitted).sum()
}

fn slowest(counts: &[Count]) -> Duration {
    counts.iter().map(|count| count.slowest).max().unwrap_or_default()
}

fn logs(folder: &Path) -> String {
    (0..GATES).map(|gate| std::fs::read_to_string(folder.join(format!("log{gate}"))).expect("a gate's log")).collect()
}

/// Every gate makes requests until its health is as wanted. How many were admitted.
fn until(gates: &mut Gates, wanted: &str, load: Load) -> u64 {
    let (began, mut sum) = (Instant::now(), 0);
    for worker in gates.workers.iter_mut().step_by(WORKERS) {
        while !worker.health().starts_with(wanted) {
            assert!(began.elapsed() < NOTICED_MAX, "health is {}, not {wanted}", worker.health());
            sum += worker.makes(Load { count: 1, ..load }).admitted;
        }
    }
    sum
}

fn gates_admit_together_what_the_limit_says(folder: &Path) {
    let store = Store::start(folder);
    let mut gates = Gates::start(folder, &store.url(), GATES, &Way { share: 1.0, timeout: PATIENT });
    for (name, amount) in [("one", 1), ("ten", 10), ("hundred", 100), ("many", 5000)] {
        let load = requests(name, amount, amount.max(100));
        let counts = gates.all(load, || {});
        assert_eq!(admitted(&counts), amount, "{name}: {counts:?}");
        let before = store.questions();
        assert_eq!(admitted(&gates.all(load, || {})), 0, "{name}");
        assert_eq!(store.questions(), before, "{name}: a refusal is remembered");
    }
    assert_eq!(logs(folder), "");
}

fn a_small_limit_is_exact_wherever_requests_come(folder: &Path) {
    let store = Store::start(folder);
    let mut gates = Gates::start(folder, &store.url(), GATES, &Way { share: 1.0, timeout: PATIENT });
    let mut sum = 0;
    for turn in 0..20 {
        let worker = turn % gates.workers.len();
        sum += gates.workers[worker].makes(requests("small", 10, 1)).admitted;
        assert_eq!(sum, (turn as u64 + 1).min(10), "nothing is kept in hand while others want it");
    }
}

fn a_hot_client_seldom_asks(folder: &Path) {
    let store = Store::start(folder);
    let mut gates = Gates::start(folder, &store.url(), GATES, &Way { share: 1.0, timeout: PATIENT });
    let counts = gates.all(requests("hot", 1_000_000, 5000), || {});
    assert_eq!(admitted(&counts), 30_000);
    let questions = store.questions();
    assert!(questions * 50 <= 30_000, "{questions} questions");
    assert!(questions >= 30_000 / BATCH_MAX / 2, "{questions} questions are too few to be true");
}

fn what_is_not_used_can_be_used_elsewhere(folder: &Path) {
    let store = Store::start(folder);
    let mut gates = Gates::start(folder, &store.url(), GATES, &Way { share: 1.0, timeout: PATIENT });
    // Reserves ten times what it needs: all but a batch in each gate's hand can be used in the end.
    let (amount, used) = (200_000, 100);
    let load = Load { cost: 1000, used, count: 200, parallel: 4, ..requests("tokens", amount, 0) };
    let first = gates.workers[0].makes(load);
    assert_eq!(first.admitted, 200, "{first:?}");
    let counts = gates.all(Load { count: 600, ..load }, || {});
    let sum = (first.admitted + admitted(&counts)) * used;
    assert!(sum <= amount, "{sum} of {amount}");
    assert!(sum >= amount / 2, "{sum} of {amount}");
    // Far more than a gate may keep in hand goes back, without a further request.
    let lent = Load { name: "lent", amount: 210_000, cost: 50_000, used: 0, count: 1, parallel: 1, ..load };
    assert_eq!(gates.workers[0].makes(lent).admitted, 1);
    let began = Instant::now();
    while store.given_back("test:3-210000-*") == 0 {
        assert!(began.elapsed() < NOTICED_MAX, "nothing is given back");
        std::thread::yield_now();
    }
    let other = gates.workers[WORKERS].makes(Load { cost: 10_000, used: 10_000, count: 30, ..lent });
    assert_eq!(other.admitted, 19, "all but a batch: {other:?}");
    // Uses more than it reserves: that counts, though it passes the amount.
    let load = Load { name: "greedy", cost: 10, used: 500, count: 100, parallel: 1, ..load };
    let sum = gates.workers.iter_mut().map(|worker| worker.makes(load).admitted * 500).sum::<u64>();
    let slack = 500 * gates.workers.len() as u64 + 200_000 / 20 * GATES as u64;
    assert!((amount..=amount + slack).contains(&sum), "{sum} of {amount}");
}

fn a_store_killed_and_emptied_opens_no_new_window(folder: &Path) {
    let mut store = Store::start(folder);
    let mut gates = Gates::start(folder, &store.url(), GATES, &Way { share: THIRD, timeout: DEADLINE });
    let amount = 60_000;
    let load = requests("restart", amount, 2000);
    let mut sum = admitted(&gates.all(load, || {}));
    assert_eq!(sum, 12_000);
    let counts = gates.all(load, || store.kill());
    sum += admitted(&counts) + until(&mut gates, "Away", load);
    assert!(slowest(&counts) < DEADLINE * 2, "{counts:?}");
    let away = gates.all(load, || {});
    assert!(slowest(&away) < DEADLINE, "an outage that is known costs nothing: {away:?}");
    assert_eq!(admitted(&away), 12_000, "each within its share: {away:?}");
    sum += admitted(&away);
    store.restart();
    sum += until(&mut gates, "Well", load);
    for _ in 0..4 {
        sum += admitted(&gates.all(load, || {}));
    }
    let most = amount + BATCH_MAX * GATES as u64;
    assert!((amount - BATCH_MAX * GATES as u64..=most).contains(&sum), "{sum} of {amount}");
    let log = logs(folder);
    for said in ["WARN the store of limits is away (", "INFO the store of limits answers again, after "] {
        assert_eq!(log.matches(said).count(), GATES, "each gate says it once:\n{log}");
    }
}

fn what_a_gate_knows_of_others_outlives_the_store(folder: &Path) {
    let mut store = Store::start(folder);
    let mut gates = Gates::start(folder, &store.url(), GATES, &Way { share: THIRD, timeout: PATIENT });
    let load = requests("knows", 1000, 0);
    // The first gate takes most of it, and is gone for good when the store comes back.
    let mut sum = gates.workers[0].makes(Load { count: 600, ..load }).admitted;
    sum += gates.workers[WORKERS].makes(Load { count: 100, ..load }).admitted;
    assert_eq!(sum, 700);
    gates.end_first();
    store.restart();
    let [second, _, third, _] = gates.workers.as_mut_slice() else { panic!("two gates of two") };
    // The second has no requests, and tells of both by itself.
    let began = Instant::now();
    while store.counts() == 0 {
        assert!(began.elapsed() < NOTICED_MAX, "nobody tells the store what it has lost");
        std::thread::yield_now();
    }
    sum += third.makes(Load { count: 1000, ..load }).admitted;
    sum += second.makes(Load { count: 1000, ..load }).admitted;
    assert!((900..=1000 + 50 * GATES as u64).contains(&sum), "{sum} of 1000");
}

fn a_store_that_hangs_costs_one_deadline(folder: &Path) {
    let store = Store::start(folder);
    let mut gates = Gates::start(folder, &store.url(), GATES, &Way { share: THIRD, timeout: DEADLINE });
    let amount = 30_000;
    let load = requests("hang", amount, 1000);
    let mut sum = admitted(&gates.all(load, || {}));
    let began = Instant::now();
    let counts = gates.all(load, || store.signal(Signal::SIGSTOP));
    sum += admitted(&counts) + until(&mut gates, "Away", load);
    assert!(slowest(&counts) < DEADLINE * 2, "{counts:?}");
    let away = gates.all(load, || {});
    assert!(slowest(&away) < DEADLINE, "an outage that is known costs nothing: {away:?}");
    assert!(began.elapsed() < DEADLINE * 20, "it took {:?}", began.elapsed());
    sum += admitted(&away);
    store.signal(Signal::SIGCONT);
    sum += until(&mut gates, "Well", load);
    for _ in 0..6 {
        sum += admitted(&gates.all(load, || {}));
    }
    let most = amount + BATCH_MAX * GATES as u64;
    assert!((amount - most / 10..=most).contains(&sum), "{sum} of {amount}");
}
