//! Real processes over one keyring: publishers that are killed at random moments, and readers that never see a key of two
//! publications, nor miss one that is in all of them.
//!
//! It forks, which a process with threads may not, so it brings its own `main`. Moments are drawn from a seed, which
//! `KEYRING_SEED` replaces; what the publishers were at when they came is up to the kernel.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::parent_id;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use gate_sys::process::{self, Exit, Inheritance, Pid};
use gate_sys::shared::SharedWords;
use gate_sys::signals::Signal;
use gate_zone::Zone;
use gate_zone::keyring::{Entry, Keyring, Record, Unpublished};

/// As in an upgrade, when two masters live.
const PUBLISHERS: usize = 2;
const READERS: usize = 2;

const KILLS: usize = 150;

/// Between two kills, at most so many publications; most kills meet one at work.
const PUBLISHED_BETWEEN_MAX: u64 = 4;

/// Keys that are in every publication; up to as many others come and go.
const LASTING: u64 = 200;

/// Longer than all of it takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// What the processes tell each other besides.
#[derive(Clone, Copy)]
struct Notes {
    published: &'static AtomicU64,
    /// Publications that met another one, which is alive.
    busy: &'static AtomicU64,
    read: &'static AtomicU64,
    wrong: &'static AtomicU64,
}

impl Notes {
    fn create() -> Self {
        let memory = SharedWords::create(NonZeroUsize::MIN.saturating_add(511)).expect("there is memory");
        let [published, busy, read, wrong, ..] = memory.words() else { unreachable!("there are 512 words") };
        Self { published, busy, read, wrong }
    }
}

/// Numbers that look random (xorshift), the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The zone's memory, as one master hands it to the next.
struct Handed(OwnedFd);

impl Inheritance for Handed {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.0.as_fd()]
    }
}

fn is_wanted(parent: u32, born: Instant) -> bool {
    parent_id() == parent && born.elapsed() < DEADLINE
}

fn id(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 4
}

fn digest(edition: u32) -> [u8; 32] {
    std::array::from_fn(|at| edition.to_le_bytes()[at % 4])
}

/// Publishes one edition after the other; each says in every word of which one it is.
fn publish(handed: Handed, mut dice: Dice, notes: Notes, parent: u32) -> u8 {
    let born = Instant::now();
    let (memory, zone) = Zone::adopt(handed.0).expect("it is a zone");
    while is_wanted(parent, born) {
        let edition = dice.below(u64::from(u32::MAX)) as u32 | 1;
        let names: Vec<String> = (0..LASTING + dice.below(LASTING)).map(|key| format!("{edition}-{key}")).collect();
        let record = |(number, name)| {
            let number: usize = number;
            let (id, salt) = (id(number as u64), [edition as u8; 16]);
            Record { id, salt, digest: digest(edition), expires: edition, policy: number as u32 % 3, name }
        };
        let keys: Vec<Record<'_>> = names.iter().map(String::as_str).enumerate().map(record).collect();
        let policy = format!("edition={edition}");
        match zone.keyring().publish(&memory, &keys, &[policy.as_str(); 3]) {
            Ok(_) => notes.published.fetch_add(1, SeqCst),
            Err(Unpublished::Busy) => notes.busy.fetch_add(1, SeqCst),
            Err(other) => panic!("{other}"),
        };
    }
    0
}

/// Whether everything that is told of a key is of one edition.
fn is_whole(ring: Keyring, entry: &Entry, number: u64) -> bool {
    let edition = entry.expires;
    let policy = ring.policy(entry.generation, entry.policy);
    entry.digest == digest(edition)
        && entry.salt == [edition as u8; 16]
        && entry.name.as_str() == format!("{edition}-{number}")
        && u64::from(entry.policy) == number % 3
        && policy.is_none_or(|policy| policy == format!("edition={edition}"))
}

fn read(ring: Keyring, mut dice: Dice, notes: Notes, parent: u32) -> u8 {
    let (born, mut newest) = (Instant::now(), 0);
    while is_wanted(parent, born) {
        let number = dice.below(2 * LASTING);
        let is_right = match ring.find(id(number)) {
            Some(entry) => {
                let is_later = entry.generation >= newest;
                newest = entry.generation;
                is_later && is_whole(ring, &entry, number)
            }
            None => number >= LASTING,
        };
        notes.read.fetch_add(1, SeqCst);
        notes.wrong.fetch_add(u64::from(!is_right), SeqCst);
    }
    0
}

struct Parent {
    memory: SharedWords,
    zone: Zone,
    notes: Notes,
    dice: Dice,
    publishers: Vec<Pid>,
}

impl Parent {
    fn fork_publisher(&mut self) {
        let handed = Handed(self.memory.as_fd().try_clone_to_owned().expect("there are descriptors"));
        let (dice, notes, parent) = (Dice(self.dice.below(u64::MAX) + 1), self.notes, process::own_pid());
        let pid = process::spawn(handed, move |handed| publish(handed, dice, notes, parent));
        self.publishers.push(pid.expect("one can fork"));
    }

    fn fork_reader(&mut self) -> Pid {
        let (ring, dice) = (self.zone.keyring(), Dice(self.dice.below(u64::MAX) + 1));
        let (notes, parent) = (self.notes, process::own_pid());
        process::spawn((), move |()| read(ring, dice, notes, parent)).expect("one can fork")
    }

    fn kill(pid: Pid) {
        process::kill(pid, Signal::SIGKILL).expect("it is a child");
        let exit = process::wait(pid).expect("it is a child");
        assert!(matches!(exit, Exit::Signal { signal: Signal::SIGKILL, .. }), "{exit:?} before it was killed");
    }

    /// Lets so many publications and some reads be made.
    fn watch(&mut self, until: Instant) {
        let published = self.notes.published.load(SeqCst) + self.dice.below(PUBLISHED_BETWEEN_MAX);
        let read = self.notes.read.load(SeqCst) + 1;
        while self.notes.published.load(SeqCst) < published || self.notes.read.load(SeqCst) < read {
            assert!(Instant::now() < until, "nobody publishes, or nobody reads");
            std::thread::yield_now();
        }
        for _ in 0..self.dice.below(20_000) {
            std::hint::spin_loop();
        }
        assert_eq!(self.notes.wrong.load(SeqCst), 0, "a key was torn, missed or older than the one before");
    }
}

fn main() {
    // What the harness does for others: a filter that names no test here runs none, and a list has one.
    let (options, names): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|word| word.starts_with('-'));
    if options.iter().any(|option| option == "--list") {
        return println!("publishers_killed_anywhere: test");
    }
    if !names.is_empty() && !names.iter().any(|name| "publishers_killed_anywhere".contains(name.as_str())) {
        return;
    }
    let seed = std::env::var("KEYRING_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_260_101);
    println!("KEYRING_SEED={seed}");
    let (memory, zone) = Zone::create(NonZeroUsize::MIN.saturating_add(63), [1, 2]).expect("there is memory");
    let until = Instant::now() + DEADLINE;
    let mut parent = Parent { memory, zone, notes: Notes::create(), dice: Dice(seed), publishers: Vec::new() };
    (0..PUBLISHERS).for_each(|_| parent.fork_publisher());
    while zone.keyring().generation() == 0 {
        assert!(Instant::now() < until, "nobody publishes");
    }
    let readers: Vec<Pid> = (0..READERS).map(|_| parent.fork_reader()).collect();
    for _ in 0..KILLS {
        parent.watch(until);
        let index = parent.dice.below(PUBLISHERS as u64) as usize;
        Parent::kill(parent.publishers.swap_remove(index));
        parent.fork_publisher();
    }
    readers.into_iter().chain(std::mem::take(&mut parent.publishers)).for_each(Parent::kill);
    let Notes { published, busy, read, wrong } = parent.notes;
    let [published, busy, read, wrong] = [published, busy, read, wrong].map(|word| word.load(SeqCst));
    println!("{KILLS} kills, {published} published, {busy} met another, {read} read");
    assert!(wrong == 0 && busy > 0, "{wrong} wrong, {busy} met another");
    assert!(u64::from(zone.keyring().generation()) >= published, "one is not counted if it was killed right behind");
    println!("test publishers_killed_anywhere ... ok");
}
