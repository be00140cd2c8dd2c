//! What a backend is to those that wait, read from the zone.
//!
//! It changes nothing. Invariant: the slot that is to be given does not count as in service.

use gate_zone::fleet::queue::Waiter;
use gate_zone::fleet::slots;
use gate_zone::fleet::{Fleet as Cells, Instance, loads};
use gate_zone::layout::backend::SLOT_COUNT;

use super::{Fleet, admitted};
use crate::fit::{Anywhere, Facts, Fit, Turn, Waited};
use crate::member::Member;

/// The first of some waiters.
#[derive(Clone, Copy, Default)]
pub(super) struct First(pub(super) Option<(Waiter, Fit)>);

impl First {
    pub(super) fn see(&mut self, waiter: Waiter, fit: Fit) {
        if self.0.is_none_or(|(first, _)| waiter.due() < first.due()) {
            self.0 = Some((waiter, fit));
        }
    }
}

/// One look over the queue from a backend's side. What it finds out about a model is kept for the next waiter.
pub(super) struct Scan<'a> {
    fleet: &'a Fleet,
    member: &'a Member,
    now_ms: u64,
    others: usize,
    seen: Vec<(u64, u64, Facts, Anywhere)>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(fleet: &'a Fleet, member: &'a Member, slot: usize, now_ms: u64) -> Self {
        // The slot that is to be given is in the caller's hands or, when he looks again, free.
        let (before, from) = member.cell.slots(SLOT_COUNT).split_at(slot);
        let others = slots::in_flight(before) + slots::in_flight(from.get(1..).unwrap_or_default());
        Self { fleet, member, now_ms, others, seen: Vec::new() }
    }

    pub(super) fn turn(&mut self, waiter: &Waiter) -> (Fit, Turn) {
        let (facts, anywhere) = self.about(waiter);
        let fit = Fit::of(&facts, anywhere);
        let passed_ms = if waiter.passed_ms == 0 { 0 } else { self.now_ms.saturating_sub(waiter.passed_ms).max(1) };
        // Time in which the one copy was being loaded says nothing of whether a second one is worth its load.
        let age_ms = if fit == Fit::Copy { passed_ms } else { self.now_ms.saturating_sub(waiter.since_ms) };
        let so_far = Waited { age_ms, passed_ms };
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
            let usable = admitted(&members, backends);
            let mut others = members.iter().filter(|member| usable & member.cell.bit() != 0);
            if others.any(|member| member.cell.holds(instance)) {
                Anywhere::InMemory
            } else {
                self.fleet.loading(instance, usable).map_or(Anywhere::Nowhere, Anywhere::Loading)
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
        holds: cell.holds(instance),
        in_memory,
        has_room: cell.has_room_beside(in_memory) && !is_in_its_own_way,
        service_ms: cell.service_us() / 1000,
        load_ms: cell.load_ms(),
        ..load_of(member)
    }
}

/// The facts that tell backends apart which have the model in memory. What only loads depend on is not looked at.
pub(super) fn load_of(member: &Member) -> Facts {
    Facts {
        index: member.cell.index(),
        key: member.key,
        holds: true,
        in_flight: slots::in_flight(member.cell.slots(member.slots())),
        slots: member.slots(),
        weight: member.weight,
        ..Facts::default()
    }
}
