//! What the master does for the fleet: order after the dead.
//!
//! It chooses no backend and lets no request in; that is the workers' business, who may end at any moment of it.
//! Invariant: a row is free only after all that its process held of the fleet is, so that no new owner inherits anything.

use gate_sys::process;
use gate_zone::Zone;

use crate::event::Ms;

/// How often what nobody answers for is looked for. Whoever waits for it has waited that long already, and longer than
/// this once in the life of a gate: when two masters have missed something between them.
const STRAYS_EVERY_MS: Ms = 1_000;

/// Settles what a process leaves behind that is gone: its slots and places in the queue, then its row.
pub(crate) fn settle(zone: Zone, row: usize, gone: u32) {
    let (slots, places) = zone.fleet().settle(row, gone);
    if slots + places > 0 {
        log::debug!("{gone} has left {slots} slots of backends and {places} places in the queue");
    }
    zone.scoreboard().settle(row, process::own_pid(), gone);
}

/// Slots and places of processes that no row knows any more: of a master before us, killed while it settled, for one.
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
        if slots + places > 0 {
            log::info!("{slots} slots of backends and {places} places in the queue were nobody's: free again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use gate_zone::fleet::queue::{Arrival, Bounds, COST};
    use gate_zone::fleet::slots::{self, Holder};
    use gate_zone::{Fleet, OwnRow, Place, Role};

    use super::*;

    fn zone() -> Zone {
        Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap().1
    }

    /// Has a process of this row hold two slots and a place in the queue.
    fn burden(fleet: Fleet, holder: Holder) {
        let cell = fleet.claim(1, &[]).unwrap();
        for _ in 0..2 {
            slots::take(cell.slots(8), 0, holder, 5).unwrap();
        }
        let arrival = Arrival { holder, client: 1, want: 1, backends: 1, cost: COST, now_ms: 1 };
        fleet.queue().enter(&arrival, Bounds { all: 8, per_client: 8 }).unwrap();
    }

    fn held(fleet: Fleet) -> (usize, usize) {
        (fleet.cells().map(gate_zone::fleet::Cell::in_flight).sum(), fleet.queue().waiters().count())
    }

    #[test]
    fn the_dead_leave_nothing_to_whoever_has_their_row_next() {
        let zone = zone();
        let (fleet, board, own) = (zone.fleet(), zone.scoreboard(), process::own_pid());
        let row = board.set_aside(own).unwrap();
        let _claimed = OwnRow::claim(board.row(row), Place { role: Role::Worker, slot: 0 }, 1, 0);
        burden(fleet, Holder::new(row, own));
        burden(fleet, Holder::new(row + 1, own));
        settle(zone, row, own);
        assert_eq!((held(fleet), board.row(row).pid()), ((2, 1), None), "what another holds is not touched");
        assert_eq!(board.set_aside(own), Some(row));
    }

    #[test]
    fn strays_are_looked_for_once_a_second() {
        let zone = zone();
        let fleet = zone.fleet();
        let mut strays = Strays::default();
        let mut left = |now| {
            burden(fleet, Holder::new(9, 77));
            strays.settle(zone, now);
            (held(fleet), strays.due())
        };
        assert_eq!(left(5_000), ((0, 0), 6_000));
        assert_eq!(left(5_999), ((2, 1), 6_000));
        assert_eq!(left(6_000), ((0, 0), 7_000));
    }
}
