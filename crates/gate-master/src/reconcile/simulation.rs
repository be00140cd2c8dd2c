//! Whole lives of a gate under a seed: processes die, hang, boot slowly or not at all, reloads bring good and broken
//! configurations, signals come at any moment. After the trouble ends the gate must serve, and on the way it must keep
//! its promises. `GATE_SIM_SEED=n` replays one life.

use gate_sys::process::{Core, Exit, Pid};
use gate_sys::signals::Signal;

use super::*;
use crate::desired::{Duty, Service};
use crate::event::{Blame, Canary, Demo, Event, Generation, Resize, Wish, ZoneFate};

const WISH: Wish = Wish { workers: 3, boot_ms: 2_000, drain_ms: 3_000, liveness_ms: 1_500, surge: 1, demo: Demo::Off };

/// Lives per run.
const LIVES: u64 = 300;

/// Steps of trouble in each.
const TROUBLE: u64 = 400;

/// What a process will do by itself, and when.
struct Fate {
    pid: Pid,
    ready_at: Option<Ms>,
    beats: Beats,
    leaves_at: Option<Ms>,
}

#[derive(PartialEq, Eq)]
enum Beats {
    Regular,
    Stopped,
}

struct World {
    want: Desired,
    seen: Observed,
    now: Ms,
    dice: u64,
    pids: i32,
    fates: Vec<Fate>,
    broken: Vec<Generation>,
    /// The last generation's number.
    loads: Generation,
    trouble: Trouble,
    code: Option<u8>,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Trouble {
    On,
    Over,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Observed::new(0, seed);
        world.allow(WISH.boot_ms, WISH.drain_ms);
        let want = Desired::first(WISH, 1);
        let dice = seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
        Self {
            want,
            seen: world,
            now: 0,
            dice,
            pids: 1,
            fates: vec![],
            broken: vec![],
            loads: 1,
            trouble: Trouble::On,
            code: None,
        }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    fn tell(&mut self, event: &Event) {
        self.want.apply(event, self.now);
        self.seen.allow(self.want.wish.boot_ms, self.want.wish.drain_ms);
        self.seen.apply(event, self.now);
    }

    fn settle(&mut self) -> Option<Ms> {
        for _ in 0..64 {
            let steps = reconcile(&self.want, &self.seen, self.now);
            assert_eq!(steps, reconcile(&self.want, &self.seen, self.now), "the same question, the same answer");
            if steps.actions.is_empty() {
                return steps.wake_at;
            }
            for action in &steps.actions {
                self.perform(action);
            }
            if self.code.is_some() {
                return None;
            }
        }
        panic!("decisions without rest at {}: {:?}", self.now, reconcile(&self.want, &self.seen, self.now));
    }

    fn perform(&mut self, action: &Action) {
        let event = match action {
            Action::Load => self.load(),
            Action::Fork { place, generation } => self.fork(*place, *generation),
            Action::Tell { pid, order, why } => {
                self.keeps_serving(*pid, *why);
                self.obey(*pid, *order);
                Event::Ordered { pid: *pid, order: *order, why: *why }
            }
            Action::BeginTrial => Event::TrialBegan,
            Action::Judge if self.want.reload == Reload::Idle && self.roll(2) == 0 => Event::TrialGoesOn,
            Action::Judge if self.roll(3) == 0 => Event::Judged(Err("worse".to_owned())),
            Action::Judge => Event::Judged(Ok(String::new())),
            Action::Commit => Event::Committed { generation: self.want.target },
            Action::RollBack { reason } => Event::RolledBack { reason: reason.clone() },
            Action::StartCandidate(_) => self.start_candidate(),
            Action::HandOver { pid, version } => Event::HandedOver { pid: *pid, version: version.clone() },
            Action::GiveUpUpgrade { reason } => Event::UpgradeFailed { reason: reason.clone() },
            Action::Reopen => Event::Reopening,
            Action::CloseListeners => Event::ListenersClosed,
            Action::Done(code) => {
                self.code = Some(*code);
                return;
            }
        };
        self.tell(&event);
    }

    /// Nothing that serves is let go for a successor that does not serve yet.
    fn keeps_serving(&self, pid: Pid, why: Why) {
        if why == Why::Replaced {
            let old = self.seen.processes.iter().find(|process| process.pid == pid).expect("it was told something");
            let serves =
                |other: &Process| other.pid != pid && other.state == State::Ready && is_right(&self.want, other);
            assert!(self.seen.at(old.place).any(serves), "{old:?} has no successor yet");
        }
    }

    /// One that serves ends this master's life, so few do: most crash, or hang.
    fn start_candidate(&mut self) -> Event {
        if self.roll(4) == 0 {
            return Event::UpgradeFailed { reason: "no such program".to_owned() };
        }
        self.pids += 1;
        let pid = Pid::from_raw(self.pids);
        let (now, kind, pause) = (self.now, self.roll(20), self.roll(300));
        let ready_at = (kind == 0).then_some(now + pause);
        let leaves_at = (kind % 2 == 1).then_some(now + pause);
        self.fates.push(Fate { pid, ready_at, beats: Beats::Regular, leaves_at });
        Event::CandidateStarted { pid }
    }

    fn load(&mut self) -> Event {
        if self.trouble == Trouble::On && self.roll(4) == 0 {
            return Event::LoadRefused { reasons: vec![] };
        }
        // A number is used once: processes of a generation that was given up may still be there.
        self.loads += 1;
        let generation = self.loads;
        if self.trouble == Trouble::On && self.roll(3) == 0 {
            self.broken.push(generation);
        }
        Event::Loaded { generation, wish: Wish { workers: 2 + self.roll(2) as u32, ..WISH }, changes: vec![] }
    }

    fn fork(&mut self, place: Place, generation: Generation) -> Event {
        if self.trouble == Trouble::On && self.roll(30) == 0 {
            return Event::ForkFailed { place };
        }
        self.pids += 1;
        let pid = Pid::from_raw(self.pids);
        let boots = !self.broken.contains(&generation);
        let slow = self.trouble == Trouble::On && self.roll(40) == 0;
        let ready_at = (boots && !slow).then(|| self.now + 1 + self.roll(50));
        let leaves_at = (!boots).then(|| self.now + self.roll(30));
        self.fates.push(Fate { pid, ready_at, beats: Beats::Regular, leaves_at });
        Event::Forked { pid, place, generation, row: 1 }
    }

    fn obey(&mut self, pid: Pid, order: Order) {
        let (now, pause) = (self.now, self.roll(4_000));
        let Some(fate) = self.fates.iter_mut().find(|fate| fate.pid == pid) else { return };
        match order {
            Order::Drain if fate.beats == Beats::Regular => fate.leaves_at = Some(now + pause),
            Order::Quit | Order::Abort if fate.beats == Beats::Regular => fate.leaves_at = Some(now + pause % 20),
            Order::Kill => fate.leaves_at = Some(now),
            Order::Drain | Order::Quit | Order::Abort => {}
        }
    }

    /// Lets the processes live up to `now`.
    fn live(&mut self) {
        let now = self.now;
        let due = |at: Option<Ms>| at.is_some_and(|at| at <= now);
        let ready: Vec<Pid> = self.fates.iter().filter(|fate| due(fate.ready_at)).map(|fate| fate.pid).collect();
        for fate in &mut self.fates {
            fate.ready_at = fate.ready_at.filter(|at| *at > now);
        }
        for pid in ready {
            self.tell(&Event::Ready(pid));
        }
        let gone: Vec<Pid> = self.fates.iter().filter(|fate| due(fate.leaves_at)).map(|fate| fate.pid).collect();
        self.fates.retain(|fate| !due(fate.leaves_at));
        for pid in gone {
            self.tell(&Event::Exited { pid, exit: Exit::Code(1), blame: Blame::Itself });
        }
        let beating = self.fates.iter().filter(|fate| fate.beats == Beats::Regular);
        let beats = beating.map(|fate| (fate.pid, now)).collect();
        self.seen.woke(now, Some(now));
        self.tell(&Event::Beats(beats));
    }

    fn make_trouble(&mut self) {
        match self.roll(20) {
            0 => {
                let canary = Canary { workers: 1 + self.roll(2) as u32, hold_ms: self.roll(2_000) };
                let canary = Some(canary).filter(|_| self.roll(2) == 0);
                self.tell(&Event::ReloadAsked(canary));
            }
            1 => self.tell(&Event::ResizeAsked(Resize::More)),
            2 => self.tell(&Event::ResizeAsked(Resize::Fewer)),
            6 => self.tell(&Event::UpgradeAsked(ZoneFate::HandedOn)),
            7 if self.roll(4) == 0 => self.tell(&Event::PauseAsked),
            8 => self.tell(&Event::ReopenAsked),
            9 | 10 if !self.seen.processes.is_empty() => {
                let chosen = self.roll(self.seen.processes.len() as u64) as usize;
                let pid = self.seen.processes[chosen].pid;
                let leaves = self.roll(3) == 0 && self.seen.processes[chosen].state == State::Ready;
                if leaves {
                    self.tell(&Event::Leaving(pid));
                    self.obey(pid, Order::Drain);
                } else {
                    self.tell(&Event::Ripe { pid, reason: "old".to_owned() });
                }
            }
            3 | 4 if !self.fates.is_empty() => {
                let victim = self.roll(self.fates.len() as u64) as usize;
                let victim = self.fates.remove(victim);
                let exit = Exit::Signal { signal: Signal::SIGKILL, core: Core::None };
                let blame = if self.roll(2) == 0 { Blame::Outside } else { Blame::Memory };
                self.tell(&Event::Exited { pid: victim.pid, exit, blame });
            }
            5 if !self.fates.is_empty() => {
                let victim = self.roll(self.fates.len() as u64) as usize;
                self.fates[victim].beats = Beats::Stopped;
                self.fates[victim].leaves_at = None;
            }
            _ => {}
        }
    }

    /// What must hold at every moment after the first start, whatever happens.
    fn check(&self) {
        for place in self.want.places() {
            let starting = self.seen.at(place).filter(|p| matches!(p.state, State::Starting { .. })).count();
            let ready = self.seen.at(place).filter(|process| process.state == State::Ready).count();
            assert!(
                starting <= 1 && ready <= 2,
                "{place}: {starting} starting, {ready} ready: {:?} {:?}",
                self.seen.at(place).collect::<Vec<_>>(),
                self.want
            );
            let forgotten = starting == 0 && ready == 0 && self.seen.not_before(place) <= self.now;
            let leaving = self.want.stop.is_some()
                || self.want.duty != Duty::Serving
                || given_up(&self.want, &self.seen).is_some();
            assert!(!forgotten || leaving, "{place} is empty and idle at {}: {:?}", self.now, self.seen.processes);
        }
    }
}

fn life(seed: u64) {
    let mut world = World::new(seed);
    for step in 0..TROUBLE {
        let wake_at = world.settle();
        if let Some(code) = world.code {
            let succeeded = world.want.duty != Duty::Serving;
            let wanted = if succeeded { (EX_OK, Phase::Serving) } else { (EX_CONFIG, Phase::FirstStart) };
            assert_eq!((code, world.seen.phase), wanted, "nothing but a successor stops a gate that has served");
            return;
        }
        world.check();
        let pause = 1 + world.roll(200);
        world.now += wake_at.map_or(pause, |at| at.saturating_sub(world.now).clamp(1, pause));
        world.live();
        if step > 20 && world.seen.phase == Phase::Serving {
            world.make_trouble();
        }
    }
    world.trouble = Trouble::Over;
    if world.want.duty == Duty::Serving {
        if world.want.service == Service::Paused {
            world.tell(&Event::ReloadAsked(None));
        }
        world.recovers();
    }
    world.stops();
}

impl World {
    /// With the trouble over, every wanted place is served within the longest pause and a roll.
    fn recovers(&mut self) {
        let until = self.now + 120_000;
        let broken_target = |world: &Self| world.broken.contains(&world.want.target);
        while self.now < until {
            self.settle();
            if self.want.duty != Duty::Serving {
                return;
            }
            self.check();
            assert!(!broken_target(self) || self.want.fallback.is_some(), "a broken generation was committed");
            self.now += 100;
            self.live();
        }
        self.settle();
        assert!(self.want.fallback.is_none() && all_run_target(&self.want, &self.seen), "{:?}", self.seen.processes);
        let extra = self.seen.processes.len() - self.want.places().count();
        assert_eq!(extra, 0, "nothing is left over: {:?}", self.seen.processes);
    }

    fn stops(&mut self) {
        let stop = if self.roll(2) == 0 { Stop::Graceful } else { Stop::Quick };
        self.tell(&Event::StopAsked(stop));
        for _ in 0..200 {
            self.settle();
            if let Some(code) = self.code {
                assert_eq!(code, EX_OK);
                return;
            }
            self.now += 100;
            self.live();
        }
        panic!("did not stop: {:?}", self.seen.processes);
    }
}

#[test]
fn lives() {
    if let Ok(seed) = std::env::var("GATE_SIM_SEED") {
        return life(seed.parse().expect("GATE_SIM_SEED is a number"));
    }
    for seed in 0..LIVES {
        if let Err(panic) = std::panic::catch_unwind(|| life(seed)) {
            eprintln!("replay with GATE_SIM_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
