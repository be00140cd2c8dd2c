//! Real processes that hold places of keys, killed at random moments: there are never more than a key may have, and after
//! the settlements exactly as many can be had as ever.
//!
//! It forks, which a process with threads may not, so it brings its own `main`. Moments are drawn from a seed, which
//! `HOLDS_SEED` replaces; what the processes were at when they came is up to the kernel.

use std::num::NonZeroUsize;
use std::os::unix::process::parent_id;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use gate_sys::process::{self, Exit, Pid};
use gate_sys::shared::SharedWords;
use gate_sys::signals::Signal;
use gate_zone::fleet::slots::Holder;
use gate_zone::{OwnRow, Place, Role, Zone};

const WORKERS: usize = 6;

/// Of one home, and what each may have.
const KEYS: [(u64, usize); 2] = [(5, 2), (6, 3)];

const KILLS: usize = 300;

/// Between two kills, at most so many requests are served.
const SERVED_BETWEEN_MAX: u64 = 60;

/// Longer than all of it takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// What the processes tell besides: requests served and refused, and for each worker what it is at: a number that goes
/// up << 8 | 1 + the key that it has a request of, or 0.
#[derive(Clone, Copy)]
struct Notes {
    served: &'static AtomicU64,
    refused: &'static AtomicU64,
    inside: &'static [AtomicU64],
}

impl Notes {
    fn create() -> Self {
        let memory = SharedWords::create(NonZeroUsize::MIN.saturating_add(511)).expect("there is memory");
        let [served, refused, inside @ ..] = memory.words() else { unreachable!("there are 512 words") };
        Self { served, refused, inside: &inside[..WORKERS] }
    }

    fn inside(self) -> Vec<u64> {
        self.inside.iter().map(|word| word.load(SeqCst)).collect()
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

/// A worker's life: requests, one after the other.
fn live(zone: Zone, notes: Notes, place: usize, mut dice: Dice, (me, parent): (Holder, u32)) -> u8 {
    let (holds, born, inside) = (zone.holds(), Instant::now(), &notes.inside[place]);
    while parent_id() == parent && born.elapsed() < DEADLINE {
        let key = dice.below(KEYS.len() as u64) as usize;
        let Some(held) = holds.take(KEYS[key].0, KEYS[key].1, me) else {
            notes.refused.fetch_add(1, SeqCst);
            continue;
        };
        let turn = (inside.load(SeqCst) >> 8) + 1;
        inside.store(turn << 8 | (key as u64 + 1), SeqCst);
        for _ in 0..dice.below(200) {
            std::hint::spin_loop();
        }
        if dice.below(16) == 0 {
            std::thread::yield_now();
        }
        inside.store(turn << 8, SeqCst);
        notes.served.fetch_add(1, SeqCst);
        holds.release(held);
    }
    0
}

/// The parent, as master.
struct Master {
    zone: Zone,
    notes: Notes,
    dice: Dice,
    /// Row and pid of each, by place.
    workers: Vec<(usize, Pid)>,
    freed: usize,
    /// The most that were seen at once, of each key.
    most: [usize; KEYS.len()],
}

impl Master {
    fn fork_worker(&mut self, place: usize) -> (usize, Pid) {
        let (zone, notes, parent) = (self.zone, self.notes, process::own_pid());
        let row = zone.scoreboard().set_aside(parent).expect("there are more rows than workers");
        let dice = Dice(self.dice.below(u64::MAX) + 1);
        let pid = process::spawn((), move |()| {
            let _own = OwnRow::claim(zone.scoreboard().row(row), Place { role: Role::Worker, slot: 0 }, 1, 0);
            live(zone, notes, place, dice, (Holder::new(row, process::own_pid()), parent))
        });
        (row, pid.expect("one can fork"))
    }

    fn kill(&mut self, place: usize) {
        let (row, pid) = self.workers[place];
        process::kill(pid, Signal::SIGKILL).expect("it is a child");
        let exit = process::wait(pid).expect("it is a child");
        assert!(matches!(exit, Exit::Signal { signal: Signal::SIGKILL, .. }), "{exit:?} before it was killed");
        // Whoever takes the place of the dead finds the note gone.
        let note = &self.notes.inside[place];
        note.store((note.load(SeqCst) >> 8) << 8, SeqCst);
        let pid = pid.as_raw().unsigned_abs();
        self.freed += self.zone.holds().settle(row, pid);
        self.zone.scoreboard().settle(row, process::own_pid(), pid);
    }

    /// Looks at all at one moment: twice the same, each with its own number, is what was so in between.
    fn look(&mut self) {
        let (seen, again) = (self.notes.inside(), self.notes.inside());
        if seen != again {
            return;
        }
        for (key, (_, max)) in KEYS.into_iter().enumerate() {
            let inside = seen.iter().filter(|word| **word & 0xff == key as u64 + 1).count();
            assert!(inside <= max, "{inside} of key {key}, which may have {max}");
            self.most[key] = self.most[key].max(inside);
        }
    }

    fn run(&mut self) {
        let until = Instant::now() + DEADLINE;
        for place in 0..WORKERS {
            let worker = self.fork_worker(place);
            self.workers.push(worker);
        }
        for _ in 0..KILLS {
            let target = self.notes.served.load(SeqCst) + self.dice.below(SERVED_BETWEEN_MAX);
            while self.notes.served.load(SeqCst) < target {
                self.look();
                assert!(Instant::now() < until, "nobody is served: {} hold", self.zone.holds().in_service());
            }
            for _ in 0..self.dice.below(2000) {
                std::hint::spin_loop();
            }
            let place = self.dice.below(WORKERS as u64) as usize;
            self.kill(place);
            self.workers[place] = self.fork_worker(place);
        }
        (0..WORKERS).for_each(|place| self.kill(place));
    }
}

fn main() {
    // What the harness does for others: a filter that names no test here runs none, and a list has one.
    let (options, names): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|word| word.starts_with('-'));
    if options.iter().any(|option| option == "--list") {
        return println!("holders_killed_anywhere: test");
    }
    if !names.is_empty() && !names.iter().any(|name| "holders_killed_anywhere".contains(name.as_str())) {
        return;
    }
    let seed = std::env::var("HOLDS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_260_101);
    println!("HOLDS_SEED={seed}");
    let (_memory, zone) = Zone::create(NonZeroUsize::MIN.saturating_add(63), [1, 2]).expect("there is memory");
    let (notes, dice) = (Notes::create(), Dice(seed));
    let mut master = Master { zone, notes, dice, workers: Vec::new(), freed: 0, most: [0; KEYS.len()] };
    master.run();
    let (served, refused) = (notes.served.load(SeqCst), notes.refused.load(SeqCst));
    println!(
        "{KILLS} kills, {served} served, {refused} refused; the dead had {}; at once {:?}",
        master.freed, master.most
    );
    assert_eq!(zone.holds().in_service(), 0, "nobody is left");
    assert_eq!(zone.holds().settle_strays(zone.scoreboard()), 0);
    for (key, max) in KEYS {
        let me = Holder::new(1, process::own_pid());
        let taken = (0..9).filter(|_| zone.holds().take(key, max, me).is_some()).count();
        assert_eq!(taken, max, "nothing is lost");
    }
    assert!(master.freed > 0, "none was killed at work");
    assert!(refused > 0, "there was room for all");
    println!("test holders_killed_anywhere ... ok");
}
