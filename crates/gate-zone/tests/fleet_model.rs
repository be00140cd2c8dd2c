//! Slots and queue against a model a reader can check by eye, and against processes that die at any of their steps.
//!
//! Who comes, leaves, ends and dies is random; everything is single-threaded here. Interleavings are `tests/loom_fleet.rs`.

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicU64;

use gate_zone::fleet::queue::{Arrival, Bounds, COST, Full, Grant, Passed, Queue, Standing, Ticket, Waiter};
use gate_zone::fleet::settlement;
use gate_zone::fleet::slots::{self, FREE, Holder, Slot};
use gate_zone::layout::{entry, queue};
use gate_zone::word::Word;
use proptest::prelude::*;

const PROCESSES: usize = 3;
const CLIENTS: usize = 4;
const BACKENDS: usize = 2;
const SLOTS: usize = 2;
const BOUNDS: Bounds = Bounds { all: 8, per_client: 3 };
const COSTS: [u64; CLIENTS] = [COST, COST, COST / 3, COST / 100];

/// More words than any step here writes.
const WRITES_MAX: usize = 40;

/// A word of processes that may be killed after so many writes.
struct Mortal<'a> {
    word: AtomicU64,
    writes_left: &'a Cell<usize>,
}

impl Mortal<'_> {
    fn live_to_write(&self) {
        match self.writes_left.get().checked_sub(1) {
            Some(left) => self.writes_left.set(left),
            None => resume_unwind(Box::new("killed")),
        }
    }
}

impl Word for Mortal<'_> {
    fn load(&self) -> u64 {
        Word::load(&self.word)
    }
    fn compare_exchange(&self, seen: u64, new: u64) -> Result<u64, u64> {
        self.live_to_write();
        Word::compare_exchange(&self.word, seen, new)
    }
    fn store(&self, new: u64) {
        self.live_to_write();
        Word::store(&self.word, new);
    }
    fn fence() {}
}

/// The shared words, and what processes do with them.
struct World<'a> {
    head: Vec<Mortal<'a>>,
    entries: Vec<Mortal<'a>>,
    tags: Vec<Mortal<'a>>,
    slots: Vec<Vec<Mortal<'a>>>,
    writes_left: &'a Cell<usize>,
    /// Counts arrivals, and stands for the time.
    now_ms: Cell<u64>,
}

impl<'a> World<'a> {
    fn new(places: usize, writes_left: &'a Cell<usize>) -> Self {
        writes_left.set(usize::MAX);
        let words =
            |count: usize| -> Vec<_> { (0..count).map(|_| Mortal { word: AtomicU64::new(0), writes_left }).collect() };
        Self {
            head: words(queue::WORDS),
            entries: words(places * entry::WORDS),
            tags: words(64),
            slots: (0..BACKENDS).map(|_| words(SLOTS)).collect(),
            writes_left,
            now_ms: Cell::new(0),
        }
    }

    fn queue(&self) -> Queue<'_, Mortal<'a>> {
        Queue::new(&self.head, &self.entries, &self.tags)
    }

    fn enter(&self, holder: Holder, client: usize, backends: u64, bounds: Bounds) -> Result<Ticket, Full> {
        self.now_ms.set(self.now_ms.get() + 1);
        // Far apart, so that they are of different sets.
        let hash = (client as u64 + 1) << 60 | client as u64;
        let (cost, now_ms) = (COSTS[client], self.now_ms.get());
        self.queue().enter(&Arrival { holder, client: hash, want: 1, backends, cost, now_ms }, bounds)
    }

    fn next(&self, backend: usize) -> Option<Waiter> {
        let fits = |waiter: &Waiter| waiter.backends & 1 << backend != 0;
        self.queue().waiters().filter(fits).min_by_key(|waiter| (waiter.start, waiter.since_ms))
    }

    fn pass_on(&self, backend: usize, slot: usize, by: Holder) -> Passed {
        let held = Slot::Held { by, tag: 0 }.to_word();
        self.queue().pass_on(&self.slots[backend][slot], (held, backend, slot), || self.next(backend))
    }

    /// Takes free slots for whoever is next, until that is the one that looks.
    fn look(&self, ticket: Ticket, backends: u64, by: Holder) {
        for backend in (0..BACKENDS).filter(|backend| backends & 1 << backend != 0) {
            while self.queue().standing(ticket) == Standing::Waiting
                && let Some(slot) = slots::take(&self.slots[backend], 0, by, 0)
            {
                self.pass_on(backend, slot, by);
            }
        }
    }

    fn accept(&self, ticket: Ticket, by: Holder) -> Option<Grant> {
        let Standing::Granted(grant) = self.queue().standing(ticket) else { return None };
        self.queue().accept(ticket, &self.slots[grant.backend][grant.slot], by, 0).then_some(grant)
    }

    fn leave(&self, ticket: Ticket, by: Holder) {
        if self.queue().leave(ticket, by).is_some()
            && let Some(grant) = self.accept(ticket, by)
        {
            self.pass_on(grant.backend, grant.slot, by);
        }
    }

    fn settle(&self, gone: Holder) -> (usize, usize) {
        let cells: Vec<&[Mortal<'_>]> = self.slots.iter().map(Vec::as_slice).collect();
        settlement::free(self.queue(), &cells, |holder| holder == gone, Holder::new(0, 1))
    }

    fn slot(&self, grant: Grant) -> Slot {
        Slot::from_word(self.slots[grant.backend][grant.slot].load())
    }

    fn virtual_time(&self) -> u64 {
        self.head[queue::VIRTUAL].load()
    }

    /// Runs `job` until it has made so many writes; whether it came to its end.
    fn until_killed(&self, writes: usize, job: impl FnOnce()) -> bool {
        self.writes_left.set(writes);
        let ended = catch_unwind(AssertUnwindSafe(job)).is_ok();
        self.writes_left.set(usize::MAX);
        ended
    }
}

/// A request that waits, as the model has it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    ticket: Ticket,
    process: usize,
    client: usize,
    backends: u64,
    start: u64,
    since: u64,
    granted: Option<Grant>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Whose {
    Nobodys,
    Held { process: usize },
    Offered { giver: usize, to: Ticket },
}

/// What should be: places in the order of their coming, slots, and each client's finish tag.
struct Model {
    places: Vec<Place>,
    slots: [[Whose; SLOTS]; BACKENDS],
    finish: HashMap<usize, u64>,
    virtual_time: u64,
    pids: [u32; PROCESSES],
}

impl Model {
    fn new() -> Self {
        let slots = [[Whose::Nobodys; SLOTS]; BACKENDS];
        Self { places: Vec::new(), slots, finish: HashMap::new(), virtual_time: 0, pids: [1; PROCESSES] }
    }

    fn holder(&self, process: usize) -> Holder {
        Holder::new(process + 1, self.pids[process] * 10 + process as u32)
    }

    fn may_enter(&self, client: usize) -> Result<(), Full> {
        if self.places.iter().filter(|place| place.client == client).count() >= BOUNDS.per_client {
            return Err(Full::Client);
        }
        if self.places.len() < BOUNDS.all { Ok(()) } else { Err(Full::All) }
    }

    fn enter(&mut self, place: Place) {
        let finish = self.finish.entry(place.client).or_default();
        let start = self.virtual_time.max(*finish);
        *finish = start + COSTS[place.client];
        self.places.push(Place { start, ..place });
    }

    fn pass_on(&mut self, grant: Grant, giver: usize) {
        let waits = |place: &&mut Place| place.granted.is_none() && place.backends & 1 << grant.backend != 0;
        let next = self.places.iter_mut().filter(waits).min_by_key(|place| (place.start, place.since));
        let whose = &mut self.slots[grant.backend][grant.slot];
        *whose = Whose::Nobodys;
        if let Some(next) = next {
            *whose = Whose::Offered { giver, to: next.ticket };
            next.granted = Some(grant);
            self.virtual_time = self.virtual_time.max(next.start);
        }
    }

    fn look(&mut self, ticket: Ticket, backends: u64, by: usize) {
        for backend in (0..BACKENDS).filter(|backend| backends & 1 << backend != 0) {
            while self.places.iter().any(|place| place.ticket == ticket && place.granted.is_none()) {
                let free = self.slots[backend].iter().position(|whose| *whose == Whose::Nobodys);
                let Some(slot) = free else { break };
                self.pass_on(Grant { backend, slot }, by);
            }
        }
    }

    /// Whether the place has its slot; if not, it waits on.
    fn accept(&mut self, index: usize) -> bool {
        let place = self.places[index];
        let Some(grant) = place.granted else { return false };
        let whose = &mut self.slots[grant.backend][grant.slot];
        let is_its = match *whose {
            Whose::Nobodys => true,
            Whose::Held { .. } => false,
            Whose::Offered { to, .. } => to == place.ticket,
        };
        if is_its {
            *whose = Whose::Held { process: place.process };
            self.places.remove(index);
        } else {
            self.places[index].granted = None;
        }
        is_its
    }

    /// Takes a place that waits out of the line, unserved.
    fn remove(&mut self, index: usize) {
        let place = self.places.remove(index);
        let finish = self.finish.entry(place.client).or_default();
        *finish -= COSTS[place.client].min(*finish);
    }

    fn die(&mut self, gone: usize) {
        for index in
            (0..self.places.len()).rev().filter(|index| self.places[*index].process == gone).collect::<Vec<_>>()
        {
            let Place { ticket, granted, .. } = self.places[index];
            let Some(grant) = granted else {
                self.remove(index);
                continue;
            };
            self.places.remove(index);
            let whose = &mut self.slots[grant.backend][grant.slot];
            if matches!(*whose, Whose::Offered { to, .. } if to == ticket) {
                *whose = Whose::Nobodys;
            }
        }
        for whose in self.slots.iter_mut().flatten() {
            if matches!(*whose, Whose::Held { process } | Whose::Offered { giver: process, .. } if process == gone) {
                *whose = Whose::Nobodys;
            }
        }
        self.pids[gone] += 1;
    }

    fn held(&self) -> Vec<(Grant, usize)> {
        let all = (0..BACKENDS).flat_map(|backend| (0..SLOTS).map(move |slot| Grant { backend, slot }));
        let of = |grant: Grant| match self.slots[grant.backend][grant.slot] {
            Whose::Held { process } => Some((grant, process)),
            _ => None,
        };
        all.filter_map(of).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Enter {
        process: usize,
        client: usize,
        backends: u64,
    },
    Leave(prop::sample::Index),
    Accept(prop::sample::Index),
    /// A request ends.
    End(prop::sample::Index),
    Die(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..PROCESSES, 0..CLIENTS, 1..1_u64 << BACKENDS)
            .prop_map(|(process, client, backends)| Step::Enter { process, client, backends }),
        1 => any::<prop::sample::Index>().prop_map(Step::Leave),
        5 => any::<prop::sample::Index>().prop_map(Step::Accept),
        4 => any::<prop::sample::Index>().prop_map(Step::End),
        1 => (0..PROCESSES).prop_map(Step::Die),
    ];
    prop::collection::vec(step, 1..200)
}

fn step(world: &World<'_>, model: &mut Model, step: &Step) {
    let chosen = |index: &prop::sample::Index, count: usize| (count > 0).then(|| index.index(count));
    match step {
        Step::Enter { process, client, backends } => {
            let holder = model.holder(*process);
            let entered = world.enter(holder, *client, *backends, BOUNDS);
            assert_eq!(entered.map(|_| ()), model.may_enter(*client));
            let Ok(ticket) = entered else { return };
            let (since, backends) = (world.now_ms.get(), *backends);
            let granted = None;
            model.enter(Place { ticket, process: *process, client: *client, backends, start: 0, since, granted });
            world.look(ticket, backends, holder);
            model.look(ticket, backends, *process);
        }
        Step::Leave(index) => {
            let Some(index) = chosen(index, model.places.len()) else { return };
            let place = model.places[index];
            world.leave(place.ticket, model.holder(place.process));
            match place.granted {
                None => model.remove(index),
                Some(grant) if model.accept(index) => model.pass_on(grant, place.process),
                // It would leave once more now, were it to do it well: here it looks, and waits on.
                Some(_) => look_again(world, model),
            }
        }
        Step::Accept(index) => {
            let granted: Vec<_> = (0..model.places.len()).filter(|at| model.places[*at].granted.is_some()).collect();
            let Some(index) = chosen(index, granted.len()).map(|at| granted[at]) else { return };
            let place = model.places[index];
            let accepted = world.accept(place.ticket, model.holder(place.process));
            assert_eq!(accepted.is_some(), model.accept(index));
            look_again(world, model);
        }
        Step::End(index) => {
            let held = model.held();
            let Some((grant, process)) = chosen(index, held.len()).map(|at| held[at]) else { return };
            let passed = world.pass_on(grant.backend, grant.slot, model.holder(process));
            model.pass_on(grant, process);
            let given = model.places.iter().find(|place| {
                matches!(model.slots[grant.backend][grant.slot],
                Whose::Offered { to, .. } if to == place.ticket)
            });
            assert_eq!(passed, given.map_or(Passed::Free, |place| Passed::To(model.holder(place.process))));
        }
        Step::Die(process) => {
            world.settle(model.holder(*process));
            model.die(*process);
            look_again(world, model);
        }
    }
}

/// What all that wait do each tenth of a second.
fn look_again(world: &World<'_>, model: &mut Model) {
    for place in model.places.clone() {
        world.look(place.ticket, place.backends, model.holder(place.process));
        model.look(place.ticket, place.backends, place.process);
    }
}

fn compare(world: &World<'_>, model: &Model) {
    for (backend, slots) in model.slots.iter().enumerate() {
        for (slot, whose) in slots.iter().enumerate() {
            let told = world.slot(Grant { backend, slot });
            let is_so = match *whose {
                Whose::Nobodys => told == Slot::Free,
                Whose::Held { process } => told == Slot::Held { by: model.holder(process), tag: 0 },
                Whose::Offered { giver, .. } => {
                    told.holder() == Some(model.holder(giver)) && world.queue().is_promised(told)
                }
            };
            assert!(is_so, "{told:?} is {whose:?}");
            let waits = |place: &Place| place.granted.is_none() && place.backends & 1 << backend != 0;
            assert!(told != Slot::Free || !model.places.iter().any(waits), "a slot is free while one waits for it");
        }
    }
    for place in &model.places {
        let standing = place.granted.map_or(Standing::Waiting, Standing::Granted);
        assert_eq!(world.queue().standing(place.ticket), standing);
    }
    let mut waiting: Vec<_> = world.queue().waiters().map(|waiter| (waiter.since_ms, waiter.start)).collect();
    waiting.sort_unstable();
    let expected = model.places.iter().filter(|place| place.granted.is_none()).map(|place| (place.since, place.start));
    assert_eq!(waiting, expected.collect::<Vec<_>>());
    assert_eq!(world.queue().is_empty(), model.places.is_empty());
    assert_eq!(world.virtual_time(), model.virtual_time);
    assert!(model.places.len() <= BOUNDS.all);
    for client in 0..CLIENTS {
        assert!(model.places.iter().filter(|place| place.client == client).count() <= BOUNDS.per_client);
    }
}

proptest! {
    #[test]
    fn slots_and_queue_do_as_the_model(steps in steps()) {
        let writes_left = Cell::new(0);
        let (world, mut model) = (World::new(16, &writes_left), Model::new());
        let mut before = 0;
        for one in &steps {
            step(&world, &mut model, one);
            compare(&world, &model);
            prop_assert!(world.virtual_time() >= before, "virtual time goes back");
            before = world.virtual_time();
        }
    }

    /// Of clients that always have something waiting, in whatever piece of the run: what two were served differs, counted in
    /// cost, by no more than one request of each (Goyal, Vin and Cheng 1996, theorem 1). So beside one of weight 1, one of
    /// weight w is served w times as often, give or take w + 1.
    #[test]
    fn clients_that_always_wait_are_served_in_their_shares(
        depths in prop::collection::vec(1..4_usize, CLIENTS), ends in prop::collection::vec(0..BACKENDS * SLOTS, 50..400)
    ) {
        let writes_left = Cell::new(0);
        let world = World::new(16, &writes_left);
        let me = Holder::new(1, 11);
        let bounds = Bounds { all: 16, per_client: 16 };
        let enter = |client: usize| world.enter(me, client, u64::MAX, bounds).unwrap();
        for backend in 0..BACKENDS {
            (0..SLOTS).for_each(|_| assert!(slots::take(&world.slots[backend], 0, me, 0).is_some()));
        }
        for (client, depth) in depths.into_iter().enumerate() {
            (0..depth).for_each(|_| { enter(client); });
        }
        let mut served = [0_i64; CLIENTS];
        // The least and the most that each pair's served costs have differed by since the beginning.
        let mut spread = [[(0_i64, 0_i64); CLIENTS]; CLIENTS];
        for end in ends {
            let (backend, slot) = (end / SLOTS, end % SLOTS);
            let next = world.next(backend).unwrap();
            prop_assert_eq!(world.pass_on(backend, slot, me), Passed::To(me));
            prop_assert_eq!(world.accept(next.ticket, me), Some(Grant { backend, slot }));
            let client = (next.client & 0xf) as usize;
            enter(client);
            served[client] += COSTS[client].cast_signed();
            for (one, other) in (0..CLIENTS).flat_map(|one| (0..one).map(move |other| (one, other))) {
                let now = served[one] - served[other];
                let (least, most) = &mut spread[one][other];
                (*least, *most) = ((*least).min(now), (*most).max(now));
                prop_assert!(*most - *least <= (COSTS[one] + COSTS[other]).cast_signed(), "{} and {}: {:?}", one, other, served);
            }
        }
    }

    #[test]
    fn what_is_killed_anywhere_leaves_the_others_as_they_were(
        lives in prop::collection::vec((0..CLIENTS, 1..1_u64 << BACKENDS, 0..WRITES_MAX, 0..4_u32), 1..60)
    ) {
        let writes_left = Cell::new(0);
        let world = World::new(16, &writes_left);
        let me = Holder::new(1, 11);
        let mut waiting: Vec<(Ticket, u64)> = Vec::new();
        let mut held: Vec<Grant> = Vec::new();
        for (pid, (client, backends, writes, job)) in lives.into_iter().enumerate() {
            let it = Holder::new(2, 100 + pid as u32);
            world.until_killed(writes, || {
                let Ok(ticket) = world.enter(it, client, backends, BOUNDS) else { return };
                world.look(ticket, backends, it);
                if job == 0 {
                    world.leave(ticket, it);
                } else if let Some(grant) = world.accept(ticket, it) {
                    world.pass_on(grant.backend, grant.slot, it);
                }
            });
            // Meanwhile the others come, are served and end; they know of no death.
            if job == 1 && let Ok(ticket) = world.enter(me, client, backends, BOUNDS) {
                world.look(ticket, backends, me);
                waiting.push((ticket, backends));
            }
            if job == 2 && let Some(grant) = held.pop() {
                world.pass_on(grant.backend, grant.slot, me);
            }
            world.settle(it);
            for (ticket, backends) in &waiting {
                world.look(*ticket, *backends, me);
            }
            if job == 3 {
                waiting.retain(|(ticket, _)| world.accept(*ticket, me).map(|grant| held.push(grant)).is_none());
            }
            let granted = waiting.iter().filter(|(ticket, _)| world.queue().standing(*ticket) != Standing::Waiting).count();
            prop_assert_eq!(world.queue().waiters().count(), waiting.len() - granted, "places");
            prop_assert!(world.queue().waiters().all(|waiter| waiter.holder == me));
            let taken: usize = world.slots.iter().map(|slots| slots::in_flight(slots)).sum();
            prop_assert!(taken >= held.len() && taken <= held.len() + granted, "slots");
            let mine = Slot::Held { by: me, tag: 0 };
            prop_assert!(held.iter().all(|grant| world.slot(*grant) == mine));
        }
        for grant in held {
            world.pass_on(grant.backend, grant.slot, me);
        }
        // Each round serves one at least.
        for _ in 0..waiting.len() {
            waiting.retain(|(ticket, backends)| {
                world.look(*ticket, *backends, me);
                world.accept(*ticket, me).map(|grant| world.pass_on(grant.backend, grant.slot, me)).is_none()
            });
        }
        prop_assert!(waiting.is_empty(), "all are served: {:?}", waiting);
        prop_assert!(world.queue().is_empty());
        prop_assert!(world.slots.iter().flatten().all(|slot| slot.load() == FREE));
    }
}
