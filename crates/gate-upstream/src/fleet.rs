//! The way from a request to a slot of a backend: at once, or through the queue.
//!
//! What counts as best is decided in [`crate::fit`]; what slots and the queue are, in `gate_zone::fleet`. Here the two meet:
//! facts are read from the zone, slots are taken, waiters are let in.
//!
//! Invariants: while somebody waits who could have a slot, nobody takes it past them; a choice never comes out empty
//! because backends are ill: the last one is tried all the same.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use gate_api::Rejection;
use gate_zone::clock;
use gate_zone::fleet::inventory::Listed;
use gate_zone::fleet::queue::{Bounds, Passed, Queue, Waiter};
use gate_zone::fleet::slots::{self, Holder};
use gate_zone::fleet::{Fleet as Cells, Instance, breaker, loads};
use gate_zone::{OwnRow, Probe};
use tokio::sync::Notify;

use crate::backend::Timeouts;
use crate::fit::{Anywhere, Facts, Fit, Turn, Waited, choose, compared, least_loaded};
use crate::lease::{Lease, Queued, Way, Why};
use crate::member::{Maker, Member, Spec};
use crate::turnstile::Place;

/// A load that was noted and is not seen in a slot is believed for so long: its slot is about to be taken.
const LOAD_BEGINS_S: u64 = 1;

/// Retry-After is at least a second, and at most what clients of `OpenAI`'s libraries still wait for.
const RETRY_MS: std::ops::RangeInclusive<u64> = 1_000..=120_000;

/// What the operator has said about waiting and failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How many may wait.
    pub queue: Bounds,
    /// For how long.
    pub queue_timeout: Duration,
    /// How long one that needs a swap may be passed by others.
    pub swap_patience: Duration,
    /// When a backend is left alone.
    pub breaker: breaker::Terms,
    /// For how long the one request that tries it afterwards keeps others away.
    pub trial: Duration,
}

/// What a request needs.
#[derive(Debug, Clone)]
pub struct Want {
    /// The model as the client wrote it, for refusals.
    pub model: Rc<str>,
    /// The model with its options.
    pub instance: Instance,
    /// Hash of the client.
    pub client: u64,
    /// What it costs its client: [`gate_zone::fleet::queue::COST`] over the client's weight.
    pub cost: u64,
    /// Hash of the conversation's beginning; 0 is none.
    pub conversation: u64,
    /// The cells of backends that have failed it, a bit each.
    pub tried: u64,
}

/// All backends, as one process sees them.
pub struct Fleet {
    pub(crate) cells: Cells,
    pub(crate) holder: Holder,
    pub(crate) rules: Rules,
    maker: Maker,
    ring: Box<dyn Fn(usize)>,
    /// Which changes of the set the members follow.
    seen: Cell<u64>,
    members: RefCell<Rc<[Rc<Member>]>>,
    pub(crate) waiting: RefCell<Vec<Rc<Place>>>,
    /// Somebody waits: there is something to look at now and then.
    pub(crate) came: Notify,
    random: Cell<u64>,
}

impl Fleet {
    /// The fleet of this process, which the zone knows as `holder`. `ring` wakes the process of a row.
    pub fn new(
        cells: Cells,
        (holder, row): (Holder, Rc<OwnRow>),
        (specs, timeouts): (Vec<Spec>, Timeouts),
        rules: Rules,
        ring: impl Fn(usize) + 'static,
    ) -> Self {
        let maker = Maker { specs, timeouts, row };
        let seen = Cell::new(cells.changes());
        let members = RefCell::new(maker.members(cells, &[]).into());
        let random = Cell::new(cells.hash(&holder.pid().to_le_bytes()));
        let (waiting, came, ring) = (RefCell::default(), Notify::new(), Box::new(ring));
        Self { cells, holder, rules, maker, ring, seen, members, waiting, came, random }
    }

    pub(crate) fn queue(&self) -> Queue<'static> {
        self.cells.queue()
    }

    /// The backends as they are now.
    pub fn members(&self) -> Rc<[Rc<Member>]> {
        let changes = self.cells.changes();
        if self.seen.replace(changes) != changes {
            let members = self.maker.members(self.cells, &self.members.borrow()).into();
            self.members.replace(members);
        }
        Rc::clone(&self.members.borrow())
    }

    fn draw(&self) -> u64 {
        // Marsaglia's xorshift64: a coin for ties, no secret.
        let mut number = self.random.get();
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        self.random.replace(number)
    }

    /// The instance of a model: see [`Cells::instance`].
    pub fn instance(&self, name: &str, options: &str) -> Instance {
        self.cells.instance(name, options)
    }

    /// A keyed hash: see [`Cells::hash`].
    pub fn hash(&self, text: &[u8]) -> u64 {
        self.cells.hash(text)
    }

    /// A backend for a question that needs no slot: a healthy one, by turns.
    ///
    /// # Errors
    /// [`Rejection::BackendUnreachable`] when none is known.
    pub fn any(&self) -> Result<Rc<Member>, Rejection> {
        let members = self.members();
        let mask = healthy(&members, members.iter().fold(0, |mask, member| mask | member.cell.bit()));
        let good: Vec<&Rc<Member>> = members.iter().filter(|member| mask & member.cell.bit() != 0).collect();
        let drawn = good.get(self.draw() as usize % good.len().max(1));
        drawn.map(|member| Rc::clone(member)).ok_or_else(|| self.nobody())
    }

    fn nobody(&self) -> Rejection {
        let names = self.maker.specs.iter().map(|spec| spec.url.as_str()).collect::<Vec<_>>().join(", ");
        Rejection::BackendUnreachable { backend: names, cause: "no address is known".to_owned() }
    }

    /// A slot for this request: at once, or after its turn in the queue. Dropping the future gives up its place.
    ///
    /// # Errors
    /// No backend is known or allowed to serve the model; the queue is full, or its deadline has passed.
    pub async fn turn(self: &Rc<Self>, want: &Want) -> Result<Lease, Rejection> {
        let members = self.members();
        let mask = self.eligible(&members, want)?;
        if !self.is_contested(mask)
            && let Some(lease) = self.of_holders(&members, want, mask).or_else(|| self.at_once(&members, want, mask))
        {
            return Ok(lease);
        }
        // In a box: whoever need not wait should not carry the room for it.
        Box::pin(self.wait(want, mask, Instant::now())).await
    }

    /// Whether somebody waits for one of these backends. Those that wait for others only are in nobody's way.
    fn is_contested(&self, mask: u64) -> bool {
        let queue = self.queue();
        !queue.is_empty() && queue.waiters().any(|waiter| waiter.backends & mask != 0)
    }

    /// The backends that may serve a request, a bit each; never none.
    pub(crate) fn eligible(&self, members: &[Rc<Member>], want: &Want) -> Result<u64, Rejection> {
        if members.is_empty() {
            return Err(self.nobody());
        }
        let name = want.instance.name;
        let (mut allowed, mut well) = (0, 0);
        for member in members.iter().filter(|member| member.allows(name)) {
            allowed |= member.cell.bit();
            well |= if is_well(member) { member.cell.bit() } else { 0 };
        }
        if allowed == 0 {
            return Err(Rejection::ModelNotFound { model: want.model.to_string() });
        }
        let untried = or(allowed & !want.tried, allowed);
        let mask = or(untried & well, untried);
        // One that has not been asked may have it. Where nobody lists it, the backend says so in its own words.
        let (mut lists, mut unknown) = (0, 0);
        for member in members.iter().filter(|member| mask & member.cell.bit() != 0) {
            match member.lists(name) {
                Listed::Yes => lists |= member.cell.bit(),
                Listed::Unknown => unknown |= member.cell.bit(),
                Listed::No => {}
            }
        }
        Ok(if lists == 0 { or(unknown, mask) } else { lists })
    }

    /// The facts about the backends of a mask, and where the model is among them.
    fn facts(&self, members: &[Rc<Member>], instance: Instance, mask: u64) -> (Vec<(Rc<Member>, Facts)>, Anywhere) {
        let facts: Vec<_> = members
            .iter()
            .filter(|member| mask & member.cell.bit() != 0)
            .map(|member| (Rc::clone(member), facts_of(self.cells, member, instance)))
            .collect();
        let anywhere = if facts.iter().any(|(_, facts)| facts.holds) {
            Anywhere::InMemory
        } else {
            self.loading(instance, mask).map_or(Anywhere::Nowhere, Anywhere::Loading)
        };
        (facts, anywhere)
    }

    /// The backend of a mask that is loading a model, if one is.
    fn loading(&self, instance: Instance, mask: u64) -> Option<usize> {
        let tag = instance.tag();
        let load = loads::of(self.cells.loads(), tag, now_s())?;
        let is_there = mask >> load.backend & 1 == 1;
        let goes_on = || load.age_s <= LOAD_BEGINS_S || self.cells.cell(load.backend).serves(tag);
        (is_there && goes_on()).then_some(load.backend)
    }

    /// Notes that a backend loads a model, unless another one does already: then that one's cell.
    fn begin_load(&self, instance: Instance, backend: usize) -> usize {
        let (tag, now) = (instance.tag(), now_s());
        let over = loads::of(self.cells.loads(), tag, now);
        loads::begin(self.cells.loads(), (tag, backend), over, now).map_or(backend, |load| load.backend)
    }

    /// A slot of a backend that has the model in memory: what most requests get, and what [`at_once`](Self::at_once)
    /// would choose, found without a look at all that only loads depend on.
    fn of_holders(self: &Rc<Self>, members: &[Rc<Member>], want: &Want, mask: u64) -> Option<Lease> {
        // By their places among the members; there are no more of them than cells, each of which has a bit.
        let holds = |member: &Member| mask & member.cell.bit() != 0 && member.cell.holds(want.instance);
        let places = members.iter().enumerate().filter(|(_, member)| holds(member));
        let mut left: u64 = places.fold(0, |all, (place, _)| all | 1 << place);
        let mut open = mask;
        while left != 0 {
            let random = self.draw();
            let places = compared(left.count_ones() as usize, random).map(|rank| nth(left, rank));
            let (_, place) =
                least_loaded(places.map(|place| (load_of(&members[place]), place)), want.conversation, random)?;
            let member = &members[place];
            let way = if open.is_power_of_two() { Way::Only } else { Way::Best };
            left &= !(1 << place);
            open &= !member.cell.bit();
            let Some(tried) = self.admits(member, mask) else { continue };
            let start = self.draw() as usize;
            let tag = want.instance.tag();
            if let Some(slot) = slots::take(member.cell.slots(member.slots), start, self.holder, tag) {
                let way = if tried == Breaker::Trial { Way::Trial } else { way };
                let why = Why { fit: Fit::Loaded, way };
                return Some(Lease::new(self, Rc::clone(member), (slot, want.instance), why, Queued::default()));
            }
        }
        None
    }

    /// A slot that nobody waits for.
    fn at_once(self: &Rc<Self>, members: &[Rc<Member>], want: &Want, mask: u64) -> Option<Lease> {
        let (mut known, mut anywhere) = self.facts(members, want.instance, mask);
        let patience_ms = self.rules.swap_patience.as_millis() as u64;
        // Each round rules a backend out, or a load in: there is an end.
        while !known.is_empty() {
            let way = if known.len() == 1 { Way::Only } else { Way::Best };
            let candidates: Vec<(Facts, Fit)> = known
                .iter()
                .map(|(_, facts)| (*facts, Fit::of(facts, anywhere)))
                .filter(|(facts, fit)| fit.turn(facts, facts.in_flight, Waited::default(), patience_ms) != Turn::Later)
                .collect();
            let (facts, fit) = choose(&candidates, want.conversation, self.draw())?;
            if fit == Fit::Cold || fit == Fit::Swap {
                let loader = self.begin_load(want.instance, facts.index);
                if loader != facts.index && mask >> loader & 1 == 1 {
                    anywhere = Anywhere::Loading(loader);
                    continue;
                }
            }
            let place = known.iter().position(|(_, known)| known.index == facts.index)?;
            let (member, _) = known.swap_remove(place);
            let Some(tried) = self.admits(&member, mask) else { continue };
            let start = self.draw() as usize;
            let tag = want.instance.tag();
            if let Some(slot) = slots::take(member.cell.slots(member.slots), start, self.holder, tag) {
                let way = if tried == Breaker::Trial { Way::Trial } else { way };
                let why = Why { fit, way };
                return Some(Lease::new(self, member, (slot, want.instance), why, Queued::default()));
            }
            // Somebody was quicker: the load that was noted does not begin.
            if fit == Fit::Cold || fit == Fit::Swap {
                loads::end(self.cells.loads(), tag, facts.index);
            }
        }
        None
    }

    /// Whether a backend's breaker lets a request pass; this one is the trial if there is to be one. Where all breakers
    /// of a mask are open, none counts.
    fn admits(&self, member: &Member, mask: u64) -> Option<Breaker> {
        // A closed one is closed at any time: most requests need not ask for it.
        if let breaker::State::Closed { .. } = member.cell.breaker_state(0) {
            return Some(Breaker::Closed);
        }
        let now_ms = clock::monotonic_ms();
        match member.cell.breaker_state(now_ms) {
            breaker::State::Closed { .. } => Some(Breaker::Closed),
            breaker::State::Due { seen } => {
                let mine = breaker::begin_trial(member.cell.breaker(), seen, now_ms, self.rules.trial);
                (mine || !self.any_closed(mask)).then_some(Breaker::Trial)
            }
            breaker::State::Open { .. } | breaker::State::Trial => (!self.any_closed(mask)).then_some(Breaker::Closed),
        }
    }

    fn any_closed(&self, mask: u64) -> bool {
        let now_ms = clock::monotonic_ms();
        let closed = |member: &Rc<Member>| matches!(member.cell.breaker_state(now_ms), breaker::State::Closed { .. });
        self.members.borrow().iter().any(|member| mask & member.cell.bit() != 0 && closed(member))
    }

    /// Gives a slot on, or back.
    pub(crate) fn give(self: &Rc<Self>, member: &Rc<Member>, slot: usize, held: u64) {
        let words = member.cell.slots(gate_zone::layout::backend::SLOT_COUNT);
        // Beyond what the configuration now gives it, a slot is only freed.
        let is_given = slot < member.slots;
        let picked = Cell::new(None);
        let pick = || {
            picked.set(if is_given { self.pick(member) } else { None });
            picked.get()
        };
        match self.queue().pass_on(&words[slot], (held, member.cell.index(), slot), pick) {
            Passed::To(holder) if holder == self.holder => self.attend(),
            Passed::To(holder) => (self.ring)(holder.row()),
            Passed::Free => {}
        }
    }

    /// Who goes next at a backend, one slot of which the caller holds.
    fn pick(&self, member: &Rc<Member>) -> Option<Waiter> {
        let queue = self.queue();
        if queue.is_empty() {
            return None;
        }
        let now_ms = clock::monotonic_ms();
        let mut scan = Scan::new(self, member, now_ms);
        let (mut now, mut if_nobody, mut later) = (First::default(), First::default(), First::default());
        for waiter in queue.waiters().filter(|waiter| waiter.backends & member.cell.bit() != 0) {
            let (fit, turn) = scan.turn(&waiter);
            match turn {
                Turn::Now => now.see(waiter, fit),
                Turn::IfNobodyElse => if_nobody.see(waiter, fit),
                // Only a swap is held back at this backend; the others wait for another one.
                Turn::Later if fit == Fit::Swap => later.see(waiter, fit),
                Turn::Later => {}
            }
        }
        // What is let by is noted from the first time on: its patience begins to run.
        if let Some((held_back, _)) = later.0 {
            queue.note_passed(&held_back, now_ms);
        }
        if let (Some((first, _)), Some((passed, Fit::Swap))) = (now.0, if_nobody.0)
            && passed.start < first.start
        {
            queue.note_passed(&passed, now_ms);
        }
        let (waiter, fit) = now.0.or(if_nobody.0)?;
        self.admits(member, waiter.backends)?;
        if fit == Fit::Cold || fit == Fit::Swap {
            let loader = self.begin_load(Instance::from_word(waiter.want), member.cell.index());
            if loader != member.cell.index() && waiter.backends >> loader & 1 == 1 {
                return None;
            }
        }
        Some(waiter)
    }

    /// Lets waiters in where a slot is free: what nobody else may have seen.
    pub(crate) fn look_again(self: &Rc<Self>, mask: u64, instance: Option<Instance>) {
        let members = self.members();
        let has_it = |member: &&Rc<Member>| instance.is_none_or(|instance| member.cell.holds(instance));
        let first = members.iter().filter(has_it);
        let then = members.iter().filter(|member| !has_it(member));
        for member in first.chain(then).filter(|member| mask & member.cell.bit() != 0) {
            // One slot at a time, until nobody wants one or none is free.
            for _ in 0..member.slots {
                let before = self.queue().waiters().filter(|waiter| waiter.backends & member.cell.bit() != 0).count();
                if before == 0 {
                    break;
                }
                let Some(slot) = slots::take(member.cell.slots(member.slots), 0, self.holder, 0) else { break };
                let held = slots::Slot::Held { by: self.holder, tag: 0 }.to_word();
                self.give(member, slot, held);
                let after = self.queue().waiters().filter(|waiter| waiter.backends & member.cell.bit() != 0).count();
                if after >= before {
                    break;
                }
            }
        }
    }

    /// When a request that is refused now may find a place: what waits, served at the measured rate.
    pub(crate) fn retry(&self, mask: u64) -> Duration {
        let members = self.members();
        let (mut slots, mut known, mut service_us) = (0, 0, 0);
        for member in members.iter().filter(|member| mask & member.cell.bit() != 0) {
            slots += member.slots as u64;
            let mean = member.cell.service_us();
            service_us += mean;
            known += u64::from(mean != 0);
        }
        let waiting = self.queue().waiters().filter(|waiter| waiter.backends & mask != 0).count() as u64;
        let mean_ms = service_us / known.max(1) / 1000;
        let due_ms = (waiting + 1) * mean_ms / slots.max(1);
        // Whole seconds, as the field is written.
        Duration::from_secs(due_ms.clamp(*RETRY_MS.start(), *RETRY_MS.end()).div_ceil(1000))
    }

    /// Takes a retry out of the budget of all processes; false when it is spent.
    pub fn may_retry(&self) -> bool {
        self.queue().may_retry()
    }

    /// Counts a request that may be followed by a tenth of a retry.
    pub fn earn_retry(&self) {
        self.queue().earn_retry();
    }

    /// Whether there is a backend that has not failed this request yet.
    pub fn has_another(&self, want: &Want) -> bool {
        let untried = |member: &Rc<Member>| want.tried & member.cell.bit() == 0;
        self.members().iter().any(|member| untried(member) && member.allows(want.instance.name))
    }
}

/// What a breaker said to a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Breaker {
    Closed,
    Trial,
}

/// The first of some waiters, by start tag.
#[derive(Clone, Copy, Default)]
struct First(Option<(Waiter, Fit)>);

impl First {
    fn see(&mut self, waiter: Waiter, fit: Fit) {
        if self.0.is_none_or(|(first, _)| (waiter.start, waiter.since_ms) < (first.start, first.since_ms)) {
            self.0 = Some((waiter, fit));
        }
    }
}

/// One look over the queue from a backend's side. What it finds out about a model is kept for the next waiter.
struct Scan<'a> {
    fleet: &'a Fleet,
    member: &'a Member,
    now_ms: u64,
    others: usize,
    seen: Vec<(u64, u64, Facts, Anywhere)>,
}

impl<'a> Scan<'a> {
    fn new(fleet: &'a Fleet, member: &'a Member, now_ms: u64) -> Self {
        // The slot that is to be given is in the caller's hands.
        let others = member.cell.in_flight().saturating_sub(1);
        Self { fleet, member, now_ms, others, seen: Vec::new() }
    }

    fn turn(&mut self, waiter: &Waiter) -> (Fit, Turn) {
        let (facts, anywhere) = self.about(waiter);
        let fit = Fit::of(&facts, anywhere);
        let passed_ms = if waiter.passed_ms == 0 { 0 } else { self.now_ms.saturating_sub(waiter.passed_ms).max(1) };
        let so_far = Waited { age_ms: self.now_ms.saturating_sub(waiter.since_ms), passed_ms };
        (fit, fit.turn(&facts, self.others, so_far, self.fleet.rules.swap_patience.as_millis() as u64))
    }

    fn about(&mut self, waiter: &Waiter) -> (Facts, Anywhere) {
        let (want, backends) = (waiter.want, waiter.backends);
        if let Some((.., facts, anywhere)) = self.seen.iter().find(|seen| (seen.0, seen.1) == (want, backends)) {
            return (*facts, *anywhere);
        }
        let instance = Instance::from_word(want);
        let facts = facts_of(self.fleet.cells, self.member, instance);
        let anywhere = if facts.holds {
            Anywhere::InMemory
        } else {
            let members = self.fleet.members.borrow();
            let mut others = members.iter().filter(|member| backends & member.cell.bit() != 0);
            if others.any(|member| member.cell.holds(instance)) {
                Anywhere::InMemory
            } else {
                self.fleet.loading(instance, backends).map_or(Anywhere::Nowhere, Anywhere::Loading)
            }
        };
        self.seen.push((want, backends, facts, anywhere));
        (facts, anywhere)
    }
}

pub(crate) fn facts_of(cells: Cells, member: &Member, instance: Instance) -> Facts {
    let cell = member.cell;
    // Those that are being loaded take their room already.
    let is_there = |tag: &u32| cell.in_memory().any(|held| held.tag() == *tag);
    let coming = loads::at(cells.loads(), cell.index()).filter(|tag| *tag != instance.tag() && !is_there(tag));
    let in_memory = cell.in_memory().count() + coming.count();
    // Loaded with other options, the model would have to make room for itself.
    let is_in_its_own_way = cell.in_memory().any(|held| held.name == instance.name && held != instance);
    Facts {
        index: cell.index(),
        key: member.key,
        holds: cell.holds(instance),
        in_memory,
        has_room: cell.has_room_beside(in_memory) && !is_in_its_own_way,
        in_flight: slots::in_flight(cell.slots(member.slots)),
        slots: member.slots,
        weight: member.weight,
        service_ms: cell.service_us() / 1000,
        load_ms: cell.load_ms(),
    }
}

/// The facts that tell backends apart which have the model in memory. What only loads depend on is not looked at.
fn load_of(member: &Member) -> Facts {
    Facts {
        index: member.cell.index(),
        key: member.key,
        holds: true,
        in_flight: slots::in_flight(member.cell.slots(member.slots)),
        slots: member.slots,
        weight: member.weight,
        ..Facts::default()
    }
}

/// The place of the bit that is set above `rank` other ones.
fn nth(bits: u64, rank: usize) -> usize {
    let above = (0..rank).fold(bits, |left, _| left & left.wrapping_sub(1));
    above.trailing_zeros() as usize
}

/// Of a mask, those that the monitor has not found ill; all, if it has found all of them ill.
fn healthy(members: &[Rc<Member>], mask: u64) -> u64 {
    or(members.iter().filter(|member| is_well(member)).fold(0, |all, member| all | member.cell.bit()) & mask, mask)
}

fn is_well(member: &Member) -> bool {
    matches!(member.cell.probe(), Probe::Healthy | Probe::Unknown)
}

/// The first, unless it is empty.
fn or(first: u64, second: u64) -> u64 {
    if first == 0 { second } else { first }
}

fn now_s() -> u64 {
    clock::monotonic_ms() / 1000
}
