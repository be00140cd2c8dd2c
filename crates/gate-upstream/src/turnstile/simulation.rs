//! Whole lives of a fleet under a seed: requests that come, end and leave, models that are loaded and put out, breakers that
//! open, processes that look, hear, stand still and are killed.
//!
//! Invariants: a backend never serves more than it has slots; once everybody is served, nothing is left behind. A seed that
//! fails is printed; `GATE_FLEET_SEED` plays it again.

use std::rc::Rc;
use std::time::{Duration, Instant};

use gate_zone::fleet::{breaker, loads};

use crate::rig::{Request, Yard, play};
use crate::{Fleet, Lease, Want};

const SEEDS: u64 = 60;
const STEPS: usize = 600;
const SLOTS: [usize; 3] = [1, 2, 3];
const MODELS: [&str; 4] = ["a", "b", "c", "d"];

/// Models that fit into the memory of a backend.
const ROOM: usize = 2;

/// Far above what the last request needs.
const PATIENCE: Duration = Duration::from_secs(20);

/// One process.
struct Process {
    fleet: Rc<Fleet>,
    waiting: Vec<(Request, &'static str)>,
    leases: Vec<(Lease, &'static str)>,
}

struct Life {
    yard: Yard,
    processes: Vec<Process>,
    seed: u64,
}

impl Process {
    fn new(yard: &Yard) -> Self {
        Self { fleet: yard.process(), waiting: Vec::new(), leases: Vec::new() }
    }

    fn row(&self) -> usize {
        self.fleet.holder.row()
    }

    /// Polls what was woken.
    fn run(&mut self) {
        let mut still = Vec::new();
        for (mut request, model) in self.waiting.drain(..) {
            match request.run() {
                Some(done) => self.leases.push((done.expect("nobody is refused once it waits"), model)),
                None => still.push((request, model)),
            }
        }
        self.waiting = still;
    }
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut yard = Yard::new(&SLOTS);
        yard.rules.swap_patience = Duration::from_millis(1);
        for place in 0..SLOTS.len() {
            yard.cell(place).loaded(1);
        }
        let names = [0, 1].map(|place| (yard.cells.instance(MODELS[place], "").name, MODELS[place]));
        for place in 0..SLOTS.len() {
            yard.cell(place).tell_in_memory(&names, 1);
            yard.cell(place).tell_evicted();
            for (name, _) in names {
                yard.cell(place).forget(name);
            }
        }
        let processes = (0..3).map(|_| Process::new(&yard)).collect();
        // Xorshift stays at 0.
        Self { yard, processes, seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    fn draw(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 33) as usize % below.max(1)
    }

    fn step(&mut self) {
        let own = self.draw(self.processes.len());
        match self.draw(20) {
            0..=6 => self.come(own),
            7..=10 => self.end(own),
            11 => {
                let gone = self.draw(self.processes[own].waiting.len());
                if !self.processes[own].waiting.is_empty() {
                    self.processes[own].waiting.remove(gone);
                }
            }
            12 | 13 => self.processes[own].run(),
            14 | 15 => self.hear(),
            16 => self.processes[own].fleet.look(),
            17 => self.load(own),
            18 => self.judge(),
            _ if self.draw(8) == 0 => self.kill(own),
            _ => {}
        }
        for (place, slots) in SLOTS.into_iter().enumerate() {
            let leases = self.processes.iter().flat_map(|process| &process.leases);
            let served = leases.filter(|(lease, _)| lease.member.cell.index() == place).count();
            let in_flight = self.yard.in_flight(place);
            assert!(
                served <= in_flight && in_flight <= slots,
                "backend {place}: {served} served, {in_flight} in flight"
            );
        }
    }

    fn come(&mut self, own: usize) {
        let model = MODELS[self.draw(MODELS.len())];
        let (client, tried) = (self.draw(4) as u64 + 1, self.draw(8) as u64);
        let want = Want { tried, conversation: self.draw(3) as u64, ..self.yard.want(model, client) };
        let process = &mut self.processes[own];
        let mut request = Request::new(&process.fleet, want);
        match request.poll() {
            Some(Ok(lease)) => process.leases.push((lease, model)),
            Some(Err(_)) => {}
            None => process.waiting.push((request, model)),
        }
    }

    fn end(&mut self, own: usize) {
        let gone = self.draw(self.processes[own].leases.len());
        let leases = &mut self.processes[own].leases;
        if !leases.is_empty() {
            leases.swap_remove(gone);
        }
    }

    fn hear(&mut self) {
        let rung = std::mem::take(&mut *self.yard.rung.borrow_mut());
        for process in self.processes.iter().filter(|process| rung.contains(&process.row())) {
            process.fleet.attend();
        }
    }

    /// The model of a lease comes into memory, in place of one that nobody uses.
    fn load(&mut self, own: usize) {
        let chosen = self.draw(self.processes[own].leases.len());
        let Some((lease, model)) = self.processes[own].leases.get(chosen) else { return };
        let (cell, model) = (lease.member.cell, *model);
        let is_used = |tag| cell.serves(tag);
        let idle: Vec<_> = cell.in_memory().filter(|held| !is_used(held.tag())).collect();
        if cell.in_memory().count() >= ROOM {
            idle.iter().take(1).for_each(|held| cell.forget(held.name));
        }
        self.yard.load(cell.index(), model);
    }

    fn judge(&mut self) {
        let place = self.draw(SLOTS.len());
        match self.draw(4) {
            0 => self.yard.open(place),
            1 => self.yard.make_due(place),
            _ => breaker::succeeded(self.yard.cell(place).breaker()),
        }
    }

    fn kill(&mut self, own: usize) {
        let gone = std::mem::replace(&mut self.processes[own], Process::new(&self.yard));
        let (row, pid) = (gone.row(), gone.fleet.holder.pid());
        // Nothing of it runs any more.
        std::mem::forget(gone);
        self.yard.cells.settle(row, pid);
    }

    /// Serves all that wait, then nothing is left.
    fn finish(mut self, seed: u64) {
        let begun = Instant::now();
        (0..SLOTS.len()).for_each(|place| breaker::succeeded(self.yard.cell(place).breaker()));
        while self.processes.iter().any(|process| !process.waiting.is_empty()) {
            let waiters = self.yard.waiters();
            assert!(begun.elapsed() < PATIENCE, "seed {seed}: some wait for ever: {waiters:?}");
            // Loads that ended with their processes are believed for a second.
            loads::sweep(self.yard.cells.loads(), gate_zone::clock::monotonic_ms() / 1_000 + 2, |_, _| false);
            for process in &mut self.processes {
                process.fleet.look();
                process.run();
                process.leases.clear();
            }
        }
        self.processes.iter_mut().for_each(|process| process.leases.clear());
        self.yard.assert_idle();
    }
}

#[test]
fn whole_lives_leave_nothing_behind() {
    let chosen = std::env::var("GATE_FLEET_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in chosen.map_or(0..SEEDS, |seed| seed..seed + 1) {
        println!("GATE_FLEET_SEED={seed}");
        play(move || async move {
            let mut life = Life::new(seed);
            (0..STEPS).for_each(|_| life.step());
            life.finish(seed);
        });
    }
}
