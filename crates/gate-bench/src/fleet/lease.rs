//! What choosing a backend and taking a slot of it costs a request: in this process, over a zone as the gate makes it.
//!
//! Every backend has the model in memory, so nobody waits; half of all slots are held by another process. A turn is what a
//! worker does for each request: hash model and client, choose, take a slot, give it back.

use std::num::NonZeroUsize;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use gate_upstream::fit::Fit;
use gate_upstream::{Fleet, Reach, Rules, Spec, Timeouts, Want};
use gate_zone::fleet::queue::{Bounds, COST};
use gate_zone::fleet::slots::{self, Holder};
use gate_zone::fleet::{Instance, breaker};
use gate_zone::{OwnRow, Place, Probe, Role, Zone, clock};

use crate::complaint::Complaint;
use crate::interrupt;
use crate::own_time::own_time;

/// Backends, as the bar has it.
const BACKENDS: usize = 16;
/// Slots of each: what many give `OLLAMA_NUM_PARALLEL`, and the gate's default, at which most words are read.
pub(crate) const SLOTS: [usize; 2] = [4, 256];
/// Turns of a run: enough for the clock, and for every conversation to come by often.
const TURNS: u32 = 1_000_000;
/// Runs, of which the median is taken.
const RUNS: usize = 7;
/// Models that every backend lists, the one asked for among them.
const MODELS: usize = 20;
/// Conversations that take turns.
const CONVERSATIONS: u64 = 1 << 10;
/// Any time will do: nothing is sent.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Nanoseconds for each turn, run by run.
pub(crate) type Runs = Vec<f64>;

/// Measures with each number of slots.
pub(crate) fn measure() -> Result<[Runs; SLOTS.len()], Complaint> {
    let mut found: [Runs; SLOTS.len()] = Default::default();
    for (slots, runs) in SLOTS.into_iter().zip(&mut found) {
        let ground = Ground::new(slots)?;
        // Caches and branch predictors settle.
        ground.run()?;
        for run in 1..=RUNS {
            interrupt::check()?;
            let ns = ground.run()?;
            eprintln!("lease: run {run} of {RUNS}: {slots} slots each, {ns:.0} ns a turn");
            runs.push(ns);
        }
    }
    Ok(found)
}

/// A fleet of one process.
struct Ground {
    fleet: Rc<Fleet>,
    model: Rc<str>,
}

impl Ground {
    fn new(slots: usize) -> Result<Self, Complaint> {
        let entries = NonZeroUsize::MIN.saturating_add(1023);
        let (_, zone) = Zone::create(entries, [1, 2]).map_err(Complaint::io("making a zone"))?;
        let models: Vec<String> = (0..MODELS).map(|number| format!("model-{number}:latest")).collect();
        let specs: Vec<Spec> = (0..BACKENDS).map(|number| spec(number, slots)).collect();
        let keys: Vec<u64> = specs.iter().map(|spec| zone.fleet().hash(spec.url.as_bytes())).collect();
        let trouble = |said: String| Complaint::Program { name: "the zone".to_owned(), said };
        let known_models: Vec<(u32, &str)> =
            models.iter().map(|model| (zone.fleet().instance(model, "").name, model.as_str())).collect();
        let hashes: Vec<u32> = known_models.iter().map(|(hash, _)| *hash).collect();
        let other = Holder::new(2, 2);
        for key in &keys {
            let cell = zone.fleet().claim(*key, &keys).map_err(|full| trouble(full.to_string()))?;
            cell.tell_probe(Probe::Healthy);
            cell.tell_listed(Some(&hashes));
            cell.tell_in_memory(&known_models[..2], 0);
            for taken in 0..slots / 2 {
                // Every other one.
                slots::take(cell.slots(slots), 2 * taken, other, 7);
            }
        }
        let own =
            OwnRow::claim(zone.scoreboard().row(1), Place { role: Role::Worker, slot: 0 }, 1, clock::monotonic_ms());
        let holder = Holder::new(1, std::process::id());
        let timeouts = Timeouts { connect: TIMEOUT, first_byte: TIMEOUT };
        let fleet = Fleet::new(zone.fleet(), (holder, Rc::new(own)), (specs, timeouts), rules(), |_| {});
        Ok(Self { fleet: Rc::new(fleet), model: models[0].as_str().into() })
    }

    /// Nanoseconds a turn.
    fn run(&self) -> Result<f64, Complaint> {
        let began = own_time()?;
        for number in 0..TURNS {
            self.turn(u64::from(number) % CONVERSATIONS + 1)?;
        }
        Ok(own_time()?.saturating_sub(began).as_nanos() as f64 / f64::from(TURNS))
    }

    fn turn(&self, conversation: u64) -> Result<(), Complaint> {
        let instance: Instance = self.fleet.instance(&self.model, "");
        let client = self.fleet.hash(b"192.0.2.17");
        let want = Want { model: Rc::clone(&self.model), instance, client, cost: COST, conversation, tried: 0 };
        match pin!(self.fleet.turn(&want)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(lease)) if lease.why.fit == Fit::Loaded => drop(lease),
            Poll::Ready(Ok(lease)) => return Err(wrong(&format!("a backend is chosen as {:?}", lease.why))),
            Poll::Ready(Err(why)) => return Err(wrong(&why.to_string())),
            Poll::Pending => return Err(wrong("a request waits though slots are free")),
        }
        Ok(())
    }
}

fn wrong(said: &str) -> Complaint {
    Complaint::Answer { name: "the fleet".to_owned(), said: said.to_owned() }
}

fn spec(number: usize, slots: usize) -> Spec {
    let authority = format!("192.0.2.{number}:11434");
    Spec {
        name: format!("gpu{number}"),
        url: format!("http://{authority}"),
        reach: Reach::Http { authority, prefix: String::new() },
        weight: 1,
        slots,
        models: Vec::new(),
    }
}

fn rules() -> Rules {
    Rules {
        queue: Bounds { all: 512, per_client: 64 },
        queue_timeout: TIMEOUT,
        swap_patience: TIMEOUT,
        load_timeout: TIMEOUT,
        breaker: breaker::Terms { failures: 5, time: TIMEOUT },
        trial: TIMEOUT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_takes_a_slot_and_gives_it_back() {
        for slots in SLOTS {
            let ground = Ground::new(slots).unwrap();
            let in_flight = || -> usize { ground.fleet.members().iter().map(|member| member.cell().in_flight()).sum() };
            assert_eq!(in_flight(), BACKENDS * slots / 2);
            for conversation in 0..100 {
                ground.turn(conversation).unwrap();
            }
            assert_eq!(in_flight(), BACKENDS * slots / 2);
        }
    }
}
