//! Real processes over one zone, killed at random moments: whatever they were at, their slots and places are free after the
//! settlement, and no slot is ever in two hands.
//!
//! It forks, which a process with threads may not, so it brings its own `main`. Moments are drawn from a seed, which
//! `FLEET_SEED` replaces; what the processes were at when they came is up to the kernel.

use std::num::NonZeroUsize;
use std::os::unix::process::parent_id;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use gate_sys::process::{self, Exit, Pid};
use gate_sys::shared::SharedWords;
use gate_sys::signals::Signal;
use gate_zone::fleet::Cell;
use gate_zone::fleet::queue::{Arrival, Bounds, COST, Grant, Standing, Ticket, Waiter};
use gate_zone::fleet::slots::{Holder, Slot};
use gate_zone::{Fleet, OwnRow, Place, Role, Zone, clock};

const WORKERS: usize = 4;
const KEYS: [u64; 2] = [11, 12];
const SLOTS: usize = 2;
const CLIENTS: u64 = 3;
const TAG: u32 = 9;

/// Kills with one master, and with a second one that looks for strays and is killed as well.
const KILLS: [usize; 2] = [200, 100];

/// In the second part, each so many-th death is the second master's.
const MASTER_EVERY: usize = 5;

/// Between two kills, at most so many requests are served.
const SERVED_BETWEEN_MAX: u64 = 60;

/// Longer than all of it takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// What the processes tell each other besides: requests served, slots found in two hands, waiters that cannot be seen, and
/// who is in each slot.
#[derive(Clone, Copy)]
struct Notes {
    served: &'static AtomicU64,
    shared_slots: &'static AtomicU64,
    unseen: &'static AtomicU64,
    inside: &'static [AtomicU64],
}

impl Notes {
    fn create() -> Self {
        let memory = SharedWords::create(NonZeroUsize::MIN.saturating_add(511)).expect("there is memory");
        let [served, shared_slots, unseen, inside @ ..] = memory.words() else { unreachable!("there are 512 words") };
        Self { served, shared_slots, unseen, inside }
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
struct Worker {
    fleet: Fleet,
    cells: [Cell; 2],
    notes: Notes,
    me: Holder,
    dice: Dice,
    parent: u32,
    born: Instant,
}

impl Worker {
    fn is_wanted(&self) -> bool {
        parent_id() == self.parent && self.born.elapsed() < DEADLINE
    }

    fn live(mut self) -> u8 {
        while self.is_wanted() {
            let backends = 1 + self.dice.below(3);
            if self.fleet.queue().is_empty()
                && let Some(grant) = self.take(backends)
            {
                self.serve(grant);
            } else if let Some(ticket) = self.enter(backends) {
                self.wait(ticket, backends);
            }
        }
        0
    }

    fn of_set(backends: u64) -> impl Iterator<Item = usize> {
        (0..KEYS.len()).filter(move |backend| backends & 1 << backend != 0)
    }

    fn take(&self, backends: u64) -> Option<Grant> {
        Self::of_set(backends).find_map(|backend| {
            let slot = self.cells[backend].take(KEYS[backend], (SLOTS, self.me.row()), self.me, TAG)?;
            Some(Grant { backend, slot })
        })
    }

    fn enter(&mut self, backends: u64) -> Option<Ticket> {
        let client = (1 + self.dice.below(CLIENTS)) << 60;
        let bounds = Bounds { all: 6, per_client: 3 };
        let now_ms = clock::monotonic_ms();
        self.fleet
            .queue()
            .enter(&Arrival { holder: self.me, client, want: 1, backends, cost: COST, now_ms }, bounds)
            .ok()
    }

    fn wait(&mut self, ticket: Ticket, backends: u64) {
        let patience = self.dice.below(200);
        for round in 0_u64.. {
            if let Some(grant) = self.accept(ticket) {
                return self.serve(grant);
            }
            if round > patience || !self.is_wanted() {
                break;
            }
            if round.is_multiple_of(16) {
                self.is_seen(ticket);
                while self.fleet.queue().standing(ticket) == Standing::Waiting
                    && let Some(grant) = self.take(backends)
                {
                    self.pass_on(grant);
                }
            }
            if round % 8 == 7 {
                std::thread::yield_now();
            }
        }
        // A granted slot may be lost by its giver's death, and another granted before it leaves: it leaves again then.
        while self.fleet.queue().leave(ticket, self.me).is_some() {
            if let Some(grant) = self.accept(ticket) {
                return self.pass_on(grant);
            }
        }
    }

    fn is_seen(&self, ticket: Ticket) {
        let queue = self.fleet.queue();
        let waits = || queue.standing(ticket) == Standing::Waiting;
        if waits() && !queue.waiters().any(|waiter| waiter.ticket == ticket) && waits() {
            self.notes.unseen.fetch_add(1, SeqCst);
        }
    }

    fn accept(&self, ticket: Ticket) -> Option<Grant> {
        let Standing::Granted(grant) = self.fleet.queue().standing(ticket) else { return None };
        let slot = &self.cells[grant.backend].slots(SLOTS)[grant.slot];
        self.fleet.queue().accept(ticket, slot, self.me, TAG).then_some(grant)
    }

    fn serve(&mut self, grant: Grant) {
        let inside = &self.notes.inside[grant.backend * SLOTS + grant.slot];
        let mine = u64::from(self.me.pid()) << 32 | self.dice.below(1 << 32);
        inside.store(mine, SeqCst);
        for _ in 0..self.dice.below(20) {
            std::hint::spin_loop();
        }
        if self.dice.below(16) == 0 {
            std::thread::yield_now();
        }
        if inside.load(SeqCst) != mine {
            self.notes.shared_slots.fetch_add(1, SeqCst);
        }
        self.notes.served.fetch_add(1, SeqCst);
        self.pass_on(grant);
    }

    fn pass_on(&self, grant: Grant) {
        let slot = &self.cells[grant.backend].slots(SLOTS)[grant.slot];
        let held = Slot::Held { by: self.me, tag: TAG }.to_word();
        let queue = self.fleet.queue();
        let fits = |waiter: &Waiter| waiter.backends & 1 << grant.backend != 0;
        queue.pass_on(slot, (held, grant.backend, grant.slot), || {
            queue.waiters().filter(fits).min_by_key(|waiter| (waiter.start, waiter.since_ms))
        });
    }
}

/// The parent, as master.
struct Master {
    zone: Zone,
    cells: [Cell; 2],
    notes: Notes,
    dice: Dice,
    /// Row and pid of each.
    workers: Vec<(usize, Pid)>,
    /// Slots and places that the dead had.
    freed: (usize, usize),
}

impl Master {
    fn fork_worker(&mut self) {
        let (zone, cells, notes, parent) = (self.zone, self.cells, self.notes, process::own_pid());
        let row = zone.scoreboard().set_aside(parent).expect("there are more rows than workers");
        let dice = Dice(self.dice.below(u64::MAX) + 1);
        let pid = process::spawn((), move |()| {
            let _own = OwnRow::claim(zone.scoreboard().row(row), Place { role: Role::Worker, slot: 0 }, 1, 0);
            let me = Holder::new(row, process::own_pid());
            Worker { fleet: zone.fleet(), cells, notes, me, dice, parent, born: Instant::now() }.live()
        });
        self.workers.push((row, pid.expect("one can fork")));
    }

    /// One that does what a master does beside another, in an upgrade.
    fn fork_second(&self) -> Pid {
        let (zone, parent, born) = (self.zone, process::own_pid(), Instant::now());
        let life = move |()| {
            while parent_id() == parent && born.elapsed() < DEADLINE {
                zone.fleet().settle_strays(zone.scoreboard());
            }
            0
        };
        process::spawn((), life).expect("one can fork")
    }

    fn kill(pid: Pid) {
        process::kill(pid, Signal::SIGKILL).expect("it is a child");
        let exit = process::wait(pid).expect("it is a child");
        assert!(matches!(exit, Exit::Signal { signal: Signal::SIGKILL, .. }), "{exit:?} before it was killed");
    }

    fn kill_one(&mut self) {
        let index = self.dice.below(self.workers.len() as u64) as usize;
        let (row, pid) = self.workers.swap_remove(index);
        Self::kill(pid);
        let pid = pid.as_raw().unsigned_abs();
        let (slots, places) = self.zone.fleet().settle(row, pid);
        self.zone.scoreboard().settle(row, process::own_pid(), pid);
        self.freed = (self.freed.0 + slots, self.freed.1 + places);
    }

    /// Lets so many requests be served, and looks on.
    fn watch(&mut self, until: Instant) {
        let target = self.notes.served.load(SeqCst) + self.dice.below(SERVED_BETWEEN_MAX);
        loop {
            for cell in self.cells {
                assert!(cell.in_flight() <= SLOTS, "{} in flight", cell.in_flight());
            }
            self.nothing_was_wrong();
            if self.notes.served.load(SeqCst) >= target {
                break;
            }
            assert!(Instant::now() < until, "nobody is served: {:?}", self.slots());
        }
        for _ in 0..self.dice.below(2000) {
            std::hint::spin_loop();
        }
    }

    fn slots(&self) -> Vec<Slot> {
        let words = self.cells.into_iter().flat_map(|cell| cell.slots(SLOTS));
        words.map(|word| Slot::from_word(word.load(SeqCst))).collect()
    }

    fn run(&mut self, kills: usize, mut second: Option<Pid>) {
        let until = Instant::now() + DEADLINE;
        (0..WORKERS).for_each(|_| self.fork_worker());
        for kill in 0..kills {
            self.watch(until);
            if let Some(pid) = second.filter(|_| kill % MASTER_EVERY == 0) {
                Self::kill(pid);
                second = Some(self.fork_second());
            }
            self.kill_one();
            self.fork_worker();
        }
        while !self.workers.is_empty() {
            self.kill_one();
        }
        let fleet = self.zone.fleet();
        if let Some(pid) = second {
            Self::kill(pid);
            // The second master's own remains; the pid of one that it was killed at is free.
            fleet.settle_strays(self.zone.scoreboard());
        }
        assert_eq!(fleet.settle_strays(self.zone.scoreboard()), (0, 0), "nobody is left");
        assert_eq!(self.slots(), [Slot::Free; KEYS.len() * SLOTS]);
        assert_eq!(self.cells.map(Cell::in_flight), [0; KEYS.len()]);
        let left = fleet.queue().settle(|_| true, Holder::new(0, process::own_pid()), |_, grant| panic!("{grant:?}"));
        assert!(left == 0 && fleet.queue().is_empty(), "{left} places are not empty");
        self.nothing_was_wrong();
    }

    fn nothing_was_wrong(&self) {
        assert_eq!(self.notes.shared_slots.load(SeqCst), 0, "a slot was in two hands");
        assert_eq!(self.notes.unseen.load(SeqCst), 0, "a waiter was not seen");
    }
}

fn main() {
    // What the harness does for others: a filter that names no test here runs none, and a list has one.
    let (options, names): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|word| word.starts_with('-'));
    if options.iter().any(|option| option == "--list") {
        return println!("processes_killed_anywhere: test");
    }
    if !names.is_empty() && !names.iter().any(|name| "processes_killed_anywhere".contains(name.as_str())) {
        return;
    }
    let seed = std::env::var("FLEET_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_260_101);
    println!("FLEET_SEED={seed}");
    let (_memory, zone) = Zone::create(NonZeroUsize::MIN.saturating_add(63), [1, 2]).expect("there is memory");
    let cells = KEYS.map(|key| zone.fleet().claim(key, &KEYS).expect("cells are free"));
    let (notes, dice) = (Notes::create(), Dice(seed));
    let mut master = Master { zone, cells, notes, dice, workers: Vec::new(), freed: (0, 0) };
    for (kills, second) in KILLS.into_iter().zip([None, Some(())]) {
        let second = second.map(|()| master.fork_second());
        master.run(kills, second);
        let (slots, places) = master.freed;
        println!("{kills} kills, {} served; the dead had {slots} slots, {places} places", notes.served.load(SeqCst));
    }
    let (slots, places) = master.freed;
    assert!(slots > 0 && places > 0, "none was killed at work");
    println!("test processes_killed_anywhere ... ok");
}
