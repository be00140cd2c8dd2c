//! The way from a request to a slot of a backend: at once, or through the queue.
//!
//! What counts as best is decided in [`crate::fit`]; what slots and the queue are, in `gate_zone::fleet`. Here the two meet:
//! facts are read from the zone, slots are taken, waiters are let in.
//!
//! Invariants: while somebody waits who could have a slot, nobody takes it past them; a choice never comes out empty
//! because backends are ill: the last one is tried all the same.

mod scan;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use gate_api::Rejection;
use gate_api::native::listed_as;
use gate_zone::clock;
use gate_zone::fleet::inventory::Listed;
use gate_zone::fleet::loads::{self, Load};
use gate_zone::fleet::queue::{Bounds, Passed, Queue, Waiter};
use gate_zone::fleet::slots::{Holder, Slot};
use gate_zone::fleet::{Fleet as Cells, Instance, breaker};
use gate_zone::layout::BACKENDS;
use gate_zone::layout::backend::SLOT_COUNT;
use gate_zone::{OwnRow, Probe};
use tokio::sync::Notify;

pub(crate) use self::scan::facts_of;
use self::scan::{First, Scan, load_of};
use crate::backend::Timeouts;
use crate::fit::{Anywhere, Facts, Fit, Turn, Waited, choose, compared, least_loaded};
use crate::lease::{Lease, Queued, Way, Why};
use crate::member::{Maker, Member, Spec};
use crate::turnstile::Place;

/// How many times as long as usual a load may take before another backend is tried beside it; but not less than
/// `swap_patience`, and the first one as long as `load_timeout`.
const LOADS_MAX: u64 = 4;

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
    /// How long a load may take.
    pub load_timeout: Duration,
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
    /// The instance that was asked for last: most requests ask for the same.
    last: RefCell<(String, String, Option<Instance>)>,
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
        maker.claim(cells);
        let seen = Cell::new(cells.changes());
        let members = RefCell::new(maker.members(cells, &[]).into());
        let random = Cell::new(cells.hash(&holder.pid().to_le_bytes()));
        let (waiting, came, ring, last) = (RefCell::default(), Notify::new(), Box::new(ring), RefCell::default());
        Self { cells, holder, rules, maker, ring, seen, members, last, waiting, came, random }
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

    /// The instance of a model, by any name that Ollama takes for it: see [`Cells::instance`].
    pub fn instance(&self, name: &str, options: &str) -> Instance {
        let mut last = self.last.borrow_mut();
        if let (known, with, Some(instance)) = &*last
            && (known.as_str(), with.as_str()) == (name, options)
        {
            return *instance;
        }
        let instance = self.cells.instance(&listed_as(name), options);
        *last = (name.to_owned(), options.to_owned(), Some(instance));
        instance
    }

    /// A keyed hash: see [`Cells::hash`].
    pub fn hash(&self, text: &[u8]) -> u64 {
        self.cells.hash(text)
    }

    /// A backend for a question that needs no slot: a healthy one, drawn, and none of `tried` (a bit each) while there
    /// is another.
    ///
    /// # Errors
    /// [`Rejection::BackendUnreachable`] when none is known.
    pub fn any(&self, tried: u64) -> Result<Rc<Member>, Rejection> {
        let members = self.members();
        let all = members.iter().fold(0, |mask, member| mask | member.cell.bit());
        let mask = admitted(&members, healthy(&members, or(all & !tried, all)));
        let good: Vec<&Rc<Member>> = members.iter().filter(|member| mask & member.cell.bit() != 0).collect();
        let drawn = good.get(self.draw() as usize % good.len().max(1));
        drawn.map(|member| Rc::clone(member)).ok_or_else(|| self.nobody())
    }

    /// A backend for a question about a model, that needs no slot: drawn of those that would be asked to serve it.
    ///
    /// # Errors
    /// No backend is known, or none is allowed to serve the model.
    pub fn any_for(&self, want: &Want) -> Result<Rc<Member>, Rejection> {
        let members = self.members();
        let mask = admitted(&members, self.eligible(&members, want)?);
        let good: Vec<&Rc<Member>> = members.iter().filter(|member| mask & member.cell.bit() != 0).collect();
        let drawn = good.get(self.draw() as usize % good.len().max(1));
        drawn.map(|member| Rc::clone(member)).ok_or_else(|| self.nobody())
    }

    /// Whether there is a backend beside those of `tried`, a bit each.
    pub fn has_more(&self, tried: u64) -> bool {
        self.members().iter().any(|member| tried & member.cell.bit() == 0)
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
        if allowed == 0 && self.maker.may_come(self.cells, name) {
            return Err(self.nobody());
        }
        if allowed == 0 {
            return Err(Rejection::ModelNotFound { model: want.model.to_string() });
        }
        let untried = or(allowed & !want.tried, allowed);
        let (mut lists, mut unknown) = (0, 0);
        for member in members.iter().filter(|member| untried & member.cell.bit() != 0) {
            match member.lists(name) {
                Listed::Yes => lists |= member.cell.bit(),
                Listed::Unknown => unknown |= member.cell.bit(),
                Listed::No => {}
            }
        }
        // One that has not been asked may have it, and an ill one that has it is better than a well one that has not. Where
        // nobody lists it, the backend says so in its own words.
        let tiers = [lists & well, unknown & well, lists, unknown, untried & well, untried];
        Ok(tiers.into_iter().find(|tier| *tier != 0).unwrap_or(untried))
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
        self.goes_on(load, tag, mask).then_some(load.backend)
    }

    fn goes_on(&self, load: Load, tag: u32, mask: u64) -> bool {
        let cell = self.cells.cell(load.backend % BACKENDS);
        let is_there = mask >> load.backend & 1 == 1;
        // One that takes far longer than its like may never end: others need not wait for it.
        let longest_ms = match cell.load_ms() {
            0 => self.rules.load_timeout.as_millis() as u64,
            usual_ms => (self.rules.swap_patience.as_millis() as u64).max(LOADS_MAX * usual_ms),
        };
        is_there && load.age_s * 1000 <= longest_ms.max(1000) && loads::goes_on(load.age_s, || cell.serves(tag))
    }

    /// Notes that a backend loads a model. Gives the one of the mask that does so already, if there is one.
    fn begin_load(&self, instance: Instance, backend: usize, mask: u64) -> Option<usize> {
        let (tag, now) = (instance.tag(), now_s());
        let seen = loads::of(self.cells.loads(), tag, now);
        // Only one that is over is overwritten: others may have begun since the caller looked.
        if let Some(load) = seen.filter(|load| self.goes_on(*load, tag, mask)) {
            return Some(load.backend);
        }
        let counts = loads::begin(self.cells.loads(), (tag, backend), seen, now)?;
        (counts.backend != backend && mask >> counts.backend & 1 == 1).then_some(counts.backend)
    }

    /// A slot of a backend that has the model in memory: what most requests get, and what [`at_once`](Self::at_once)
    /// would choose, found without a look at all that only loads depend on.
    fn of_holders(self: &Rc<Self>, members: &[Rc<Member>], want: &Want, mask: u64) -> Option<Lease> {
        // By their places among the members; there are no more of them than cells, each of which has a bit.
        let usable = admitted(members, mask);
        let holds = |member: &Member| usable & member.cell.bit() != 0 && member.cell.holds(want.instance);
        let places = members.iter().enumerate().filter(|(_, member)| holds(member));
        let mut left: u64 = places.fold(0, |all, (place, _)| all | 1 << place);
        let mut open = usable;
        while left != 0 {
            let random = self.draw();
            let place = if left.is_power_of_two() {
                // Nothing to compare: slots need not be counted.
                left.trailing_zeros() as usize
            } else {
                let places = compared(left.count_ones() as usize, random).map(|rank| nth(left, rank));
                least_loaded(places.map(|place| (load_of(&members[place]), place)), want.conversation, random)?.1
            };
            let member = &members[place];
            let way = if open.is_power_of_two() { Way::Only } else { Way::Best };
            left &= !(1 << place);
            open &= !member.cell.bit();
            let lease = self.take(member, want.instance, Why { fit: Fit::Loaded, way }, mask);
            if lease.is_some() {
                return lease;
            }
        }
        None
    }

    /// A slot of this backend, if one is free and its breaker lets the request pass.
    fn take(self: &Rc<Self>, member: &Rc<Member>, instance: Instance, why: Why, mask: u64) -> Option<Lease> {
        let tag = instance.tag();
        let slot = member.cell.take(member.key, (member.slots(), self.draw() as usize), self.holder, tag)?;
        // Behind the slot: who tries a backend must be able to.
        let Some(tried) = self.admits(member, mask) else {
            self.give(member, slot, Slot::Held { by: self.holder, tag }.to_word());
            return None;
        };
        let way = if tried == Breaker::Trial { Way::Trial } else { why.way };
        Some(Lease::new(self, Rc::clone(member), (slot, instance), Why { way, ..why }, Queued::default()))
    }

    /// A slot that nobody waits for.
    fn at_once(self: &Rc<Self>, members: &[Rc<Member>], want: &Want, mask: u64) -> Option<Lease> {
        let usable = admitted(members, mask);
        let (mut known, mut anywhere) = self.facts(members, want.instance, usable);
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
            let notes = fit == Fit::Cold || fit == Fit::Swap;
            if notes && let Some(loader) = self.begin_load(want.instance, facts.index, usable) {
                anywhere = Anywhere::Loading(loader);
                continue;
            }
            let place = known.iter().position(|(_, known)| known.index == facts.index)?;
            let (member, _) = known.swap_remove(place);
            let lease = self.take(&member, want.instance, Why { fit, way }, mask);
            if lease.is_some() {
                return lease;
            }
            // Somebody was quicker: the load that was noted does not begin.
            if notes {
                loads::end(self.cells.loads(), want.instance.tag(), facts.index);
            }
        }
        None
    }

    /// Whether a backend's breaker lets a request pass; this one is the trial if there is to be one. Where all breakers
    /// of a mask are open, none counts.
    fn admits(&self, member: &Member, mask: u64) -> Option<Breaker> {
        if member.cell.is_closed() {
            return Some(Breaker::Closed);
        }
        let now_ms = clock::monotonic_ms();
        let any_closed = || any_closed(&self.members.borrow(), mask);
        match member.cell.breaker_state(now_ms) {
            breaker::State::Closed { .. } => Some(Breaker::Closed),
            breaker::State::Due { seen } => {
                let mine = breaker::begin_trial(member.cell.breaker(), seen, now_ms, self.rules.trial);
                (mine || !any_closed()).then_some(Breaker::Trial)
            }
            breaker::State::Open { .. } | breaker::State::Trial => (!any_closed()).then_some(Breaker::Closed),
        }
    }

    /// Gives a slot on, or back.
    pub(crate) fn give(self: &Rc<Self>, member: &Rc<Member>, slot: usize, held: u64) -> Passed {
        let words = member.cell.slots(SLOT_COUNT);
        // Beyond what the configuration now gives it, a slot is only freed.
        let is_given = slot < member.slots();
        // A slot that goes to nobody after all is offered anew, and tries the backend once.
        let trial = Cell::new(false);
        let pick = || if is_given { self.pick(member, slot, &trial) } else { None };
        let passed = self.queue().pass_on(&words[slot], (held, member.cell.index(), slot), pick);
        match passed {
            Passed::To(holder) if holder == self.holder => self.attend(),
            Passed::To(holder) => (self.ring)(holder.row()),
            Passed::Free if trial.get() => breaker::leave_trial(member.cell.breaker(), clock::monotonic_ms()),
            Passed::Free => {}
        }
        passed
    }

    /// Who goes next at a backend, one slot of which is to be given. `trial` says whether that slot tries the backend.
    fn pick(&self, member: &Rc<Member>, slot: usize, trial: &Cell<bool>) -> Option<Waiter> {
        let queue = self.queue();
        if queue.is_empty() {
            return None;
        }
        let now_ms = clock::monotonic_ms();
        let mut scan = Scan::new(self, member, slot, now_ms);
        let (mut now, mut if_nobody) = (First::default(), First::default());
        let mut held_back: Vec<Waiter> = Vec::new();
        // A closed breaker lets all pass; the rest depends on what else a waiter may have.
        let is_closed = member.cell.is_closed();
        for waiter in queue.waiters().filter(|waiter| waiter.backends & member.cell.bit() != 0) {
            if !is_closed && !trial.get() && admitted(&self.members.borrow(), waiter.backends) & member.cell.bit() == 0
            {
                continue;
            }
            let (fit, turn) = scan.turn(&waiter);
            match turn {
                Turn::Now => now.see(waiter, fit),
                Turn::IfNobodyElse => if_nobody.see(waiter, fit),
                Turn::Later => {}
            }
            // How long it waits for the backend that has its model, and could be served here instead, counts from now on.
            if fit == Fit::Copy && turn == Turn::Later {
                queue.note_passed(&waiter, now_ms);
            }
            // Only a swap is held back at this backend; the others wait for another one.
            if fit == Fit::Swap && turn != Turn::Now && waiter.passed_ms == 0 {
                held_back.push(waiter);
            }
        }
        // What is let by is noted from the first time on: its patience begins to run.
        if let Some((first, _)) = now.0 {
            for passed in held_back.iter().filter(|waiter| waiter.due() < first.due()) {
                queue.note_passed(passed, now_ms);
            }
        }
        let (waiter, fit) = now.0.or(if_nobody.0)?;
        if !trial.get() {
            trial.set(self.admits(member, waiter.backends)? == Breaker::Trial);
        }
        if fit == Fit::Cold || fit == Fit::Swap {
            let usable = admitted(&self.members.borrow(), waiter.backends);
            let loader = self.begin_load(Instance::from_word(waiter.want), member.cell.index(), usable);
            if loader.is_some_and(|loader| loader != member.cell.index()) {
                return None;
            }
        }
        Some(waiter)
    }

    /// The backends of a mask; for a request the best first.
    fn in_order(&self, mask: u64, want: Option<&Want>) -> Vec<Rc<Member>> {
        let members = self.members();
        let Some(want) = want else {
            return members.iter().filter(|member| mask & member.cell.bit() != 0).map(Rc::clone).collect();
        };
        let (known, anywhere) = self.facts(&members, want.instance, mask);
        let mut left: Vec<_> = known.iter().map(|(_, facts)| (*facts, Fit::of(facts, anywhere))).collect();
        let mut ordered = Vec::with_capacity(left.len());
        while let Some((best, _)) = choose(&left, want.conversation, self.draw()) {
            left.retain(|(facts, _)| facts.index != best.index);
            ordered.extend(members.iter().find(|member| member.cell.index() == best.index).map(Rc::clone));
        }
        ordered
    }

    /// Lets waiters in where a slot is free: what nobody else may have seen. Of several backends first where `want` would
    /// go by itself.
    pub(crate) fn look_again(self: &Rc<Self>, mask: u64, want: Option<&Want>) {
        for member in &self.in_order(mask, want) {
            // One slot at a time, until nobody wants one or none is free.
            for _ in 0..member.slots() {
                if !self.is_contested(member.cell.bit()) {
                    break;
                }
                let Some(slot) = member.cell.take(member.key, (member.slots(), 0), self.holder, 0) else { break };
                let held = Slot::Held { by: self.holder, tag: 0 }.to_word();
                if self.give(member, slot, held) == Passed::Free {
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
            slots += member.slots() as u64;
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
        let name = want.instance.name;
        let untried = |member: &Rc<Member>| want.tried & member.cell.bit() == 0;
        let may_have = |member: &Rc<Member>| member.allows(name) && member.lists(name) != Listed::No;
        self.members().iter().any(|member| untried(member) && may_have(member))
    }
}

/// What a breaker said to a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Breaker {
    Closed,
    Trial,
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

/// Of a mask, those that their breakers do not keep requests from; all, if no breaker is closed. A model in the memory of
/// any other one is out of reach.
fn admitted(members: &[Rc<Member>], mask: u64) -> u64 {
    let in_mask = || members.iter().filter(|member| mask & member.cell.bit() != 0);
    if in_mask().all(|member| member.cell.is_closed()) {
        return mask;
    }
    let now_ms = clock::monotonic_ms();
    let (mut closed, mut due) = (0, 0);
    for member in in_mask() {
        match member.cell.breaker_state(now_ms) {
            breaker::State::Closed { .. } => closed |= member.cell.bit(),
            breaker::State::Due { .. } => due |= member.cell.bit(),
            breaker::State::Open { .. } | breaker::State::Trial => {}
        }
    }
    if closed == 0 { mask } else { closed | due }
}

fn any_closed(members: &[Rc<Member>], mask: u64) -> bool {
    members.iter().any(|member| mask & member.cell.bit() != 0 && member.cell.is_closed())
}

/// The first, unless it is empty.
fn or(first: u64, second: u64) -> u64 {
    if first == 0 { second } else { first }
}

fn now_s() -> u64 {
    clock::monotonic_ms() / 1000
}

#[cfg(test)]
mod tests;
