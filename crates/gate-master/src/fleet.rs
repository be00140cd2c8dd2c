//! What the master does for the fleet: a cell for each backend before anybody asks for it, and order after the dead.
//!
//! It chooses no backend and lets no request in; that is the workers' business, who may end at any moment of it.
//! Invariant: a row is free only after all that its process held is, so that no new owner inherits anything.

use gate_config::{Plan, Target};
use gate_sys::process;
use gate_zone::Zone;
use gate_zone::fleet::Cell;

use crate::event::Ms;
use crate::refused::Refused;

/// One backend of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) url: String,
    /// Names it in the zone.
    pub(crate) key: u64,
    pub(crate) slots: usize,
    pub(crate) whereabouts: Whereabouts,
}

/// Where a backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// Where its URL says: the cell is its own.
    Fixed,
    /// Where the monitor finds its name: each address has a cell, and is asked below this prefix.
    Found { prefix: String },
}

/// The backends of a configuration, in its order.
pub(crate) fn members(zone: Zone, plan: &Plan) -> Vec<Member> {
    let member = |upstream: &gate_config::Upstream| {
        let url = upstream.url();
        let whereabouts = match &upstream.target {
            Target::Http { .. } | Target::Unix { .. } => Whereabouts::Fixed,
            Target::Dns { prefix, .. } => Whereabouts::Found { prefix: prefix.clone() },
        };
        let key = zone.fleet().hash(url.as_bytes());
        Member { name: upstream.name.clone(), url, key, slots: usize::from(upstream.slots), whereabouts }
    };
    plan.upstream.iter().map(member).collect()
}

/// Backends whose cells have to stay what they are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum InService<'a> {
    /// Those of this configuration.
    Of(&'a Plan),
    /// All that there are: another gate serves with them, and which it still needs is not known here.
    All,
    /// None: whoever is still there from before finishes what it has, and such cells are left alone anyway.
    None,
}

/// Gives each backend of `plan` a cell, in which all processes find each other's requests. Before a worker is forked that
/// wants them.
///
/// # Errors
/// There are not cells enough. Those that were given have no owner then, and can be given again.
pub(crate) fn claim(zone: Zone, plan: &Plan, in_service: InService<'_>) -> Result<(), Refused> {
    let fleet = zone.fleet();
    let members = members(zone, plan);
    let kept: Vec<u64> = match in_service {
        InService::Of(plan) => self::members(zone, plan).iter().map(|member| member.key).collect(),
        InService::All => fleet.cells().map(Cell::key).collect(),
        InService::None => Vec::new(),
    };
    let wanted: Vec<u64> = members.iter().map(|member| member.key).chain(kept).collect();
    for member in members.iter().filter(|member| member.whereabouts == Whereabouts::Fixed) {
        fleet.claim(member.key, &wanted).map_err(|full| {
            Refused::of(format!(
                "upstream: no room for {} ({}): {full}; change fewer of them at once, or wait until those that are not \
                 named any more have answered what they were asked",
                member.name, member.url
            ))
        })?;
    }
    Ok(())
}

/// How often what nobody answers for is looked for. Whoever waits for it has waited that long already, and longer than
/// this once in the life of a gate: when two masters have missed something between them.
const STRAYS_EVERY_MS: Ms = 1_000;

/// Settles what a process leaves behind that is gone: its slots and places in the queue, the requests it had in service
/// for keys, then its row.
pub(crate) fn settle(zone: Zone, row: usize, gone: u32) {
    let (slots, places) = zone.fleet().settle(row, gone);
    let holds = zone.holds().settle(row, gone);
    if slots + places + holds > 0 {
        log::debug!(
            "{gone} has left {slots} slots of backends, {places} places in the queue and {holds} requests of keys"
        );
    }
    zone.scoreboard().settle(row, process::own_pid(), gone);
}

/// Slots, places and requests of keys of processes that no row knows any more: of a master before us, killed while it settled, for one.
#[derive(Debug, Default)]
pub(crate) struct Strays {
    next_look: Ms,
}

impl Strays {
    pub(crate) fn due(&self) -> Ms {
        self.next_look
    }

    /// Frees them, where it is time to look.
    pub(crate) fn settle(&mut self, zone: Zone, now: Ms) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + STRAYS_EVERY_MS;
        let (slots, places) = zone.fleet().settle_strays(zone.scoreboard());
        let holds = zone.holds().settle_strays(zone.scoreboard());
        if slots + places + holds > 0 {
            log::info!(
                "{slots} slots of backends, {places} places in the queue and {holds} requests of keys were nobody's: \
                 free again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::ops::Range;

    use gate_config::Settings;
    use gate_zone::fleet::queue::{Arrival, Bounds, COST};
    use gate_zone::fleet::slots::{self, Holder};
    use gate_zone::{OwnRow, Place, Role};

    use super::*;

    fn zone() -> Zone {
        Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap().1
    }

    /// A configuration with backends of these numbers.
    fn plan(numbers: Range<usize>) -> Plan {
        let urls: Vec<String> = numbers.map(|number| format!("\"http://gpu{number}\"")).collect();
        let text = format!("upstream = [{}]", urls.join(", "));
        Plan::new(&Settings::gather(Some(("gate.toml", &text)), [], []).unwrap()).unwrap()
    }

    fn cell(zone: Zone, number: usize) -> Option<Cell> {
        zone.fleet().find(zone.fleet().hash(format!("http://gpu{number}:80").as_bytes()))
    }

    #[test]
    fn every_backend_keeps_its_cell_while_a_configuration_names_it() {
        let zone = zone();
        let (old, new) = (plan(0..3), plan(2..5));
        claim(zone, &old, InService::None).unwrap();
        let shared = cell(zone, 2).unwrap().index();
        claim(zone, &new, InService::Of(&old)).unwrap();
        assert!((0..5).all(|number| cell(zone, number).is_some()));
        assert_eq!(cell(zone, 2).unwrap().index(), shared);
        claim(zone, &plan(5..8), InService::Of(&new)).unwrap();
        assert!((2..8).all(|number| cell(zone, number).is_some()), "those of the two last configurations");
    }

    #[test]
    fn a_name_has_no_cell_of_its_own() {
        let zone = zone();
        let text = "upstream = [\"dns=gpus.internal:11434 name=gpus slots=2\", \"http://gpu1 slots=7\"]";
        let plan = Plan::new(&Settings::gather(Some(("gate.toml", text)), [], []).unwrap()).unwrap();
        claim(zone, &plan, InService::None).unwrap();
        let members = members(zone, &plan);
        let told: Vec<_> = members.iter().map(|member| (&*member.name, &*member.url, member.slots)).collect();
        assert_eq!(told, [("gpus", "dns:gpus.internal:11434", 2), ("ollama-2", "http://gpu1:80", 7)]);
        assert_eq!(members[0].whereabouts, Whereabouts::Found { prefix: String::new() });
        assert_eq!(zone.fleet().cells().map(Cell::key).collect::<Vec<_>>(), [members[1].key]);
    }

    #[test]
    fn a_full_table_refuses_and_says_what_to_do() {
        let zone = zone();
        let (first, second, third) = (plan(0..32), plan(32..64), plan(64..65));
        claim(zone, &first, InService::None).unwrap();
        claim(zone, &second, InService::Of(&first)).unwrap();
        let refused = claim(zone, &third, InService::All).unwrap_err();
        for part in ["upstream: ", "ollama-1 (http://gpu64:80)", "more than 64 backends", "change fewer"] {
            assert!(refused.reasons[0].contains(part), "{refused:?}");
        }
        for number in 0..32 {
            slots::take(cell(zone, number).unwrap().slots(1), 0, Holder::new(1, 7), 5).unwrap();
        }
        claim(zone, &third, InService::Of(&second)).unwrap_err();
        zone.fleet().settle(1, 7);
        claim(zone, &third, InService::Of(&second)).unwrap();
        assert!(cell(zone, 64).is_some() && cell(zone, 63).is_some());
    }

    /// Has a process of this row hold two slots, a place in the queue and a request of a key.
    fn burden(zone: Zone, holder: Holder) {
        let _held = zone.holds().take(7, 9, holder).unwrap();
        let fleet = zone.fleet();
        let cell = fleet.claim(1, &[]).unwrap();
        for _ in 0..2 {
            slots::take(cell.slots(8), 0, holder, 5).unwrap();
        }
        let arrival = Arrival { holder, client: 1, want: 1, backends: 1, cost: COST, now_ms: 1 };
        fleet.queue().enter(&arrival, Bounds { all: 8, per_client: 8 }).unwrap();
    }

    /// Slots, places in the queue, requests of the key.
    fn held(zone: Zone) -> (usize, usize, usize) {
        let slots = zone.fleet().cells().map(Cell::in_flight).sum();
        (slots, zone.fleet().queue().waiters().count(), zone.holds().count(7))
    }

    #[test]
    fn the_dead_leave_nothing_to_whoever_has_their_row_next() {
        let zone = zone();
        let (board, own) = (zone.scoreboard(), process::own_pid());
        let row = board.set_aside(own).unwrap();
        let _claimed = OwnRow::claim(board.row(row), Place { role: Role::Worker, slot: 0 }, 1, 0);
        burden(zone, Holder::new(row, own));
        burden(zone, Holder::new(row + 1, own));
        settle(zone, row, own);
        assert_eq!((held(zone), board.row(row).pid()), ((2, 1, 1), None), "what another holds is not touched");
        assert_eq!(board.set_aside(own), Some(row));
    }

    #[test]
    fn strays_are_looked_for_once_a_second() {
        let zone = zone();
        let mut strays = Strays::default();
        let mut left = |now| {
            burden(zone, Holder::new(9, 77));
            strays.settle(zone, now);
            (held(zone), strays.due())
        };
        assert_eq!(left(5_000), ((0, 0, 0), 6_000));
        assert_eq!(left(5_999), ((2, 1, 1), 6_000));
        assert_eq!(left(6_000), ((0, 0, 0), 7_000));
    }
}
