//! The cells that the monitor writes: claimed, found again, given up.
//!
//! Another monitor, of another configuration, may write beside this one for a moment of a reload, and a master claims as
//! well. So a cell is looked up by its key each time it is written, and others' cells are taken last.
//!
//! Invariant: nothing is written into a cell whose key is another's.

use std::net::SocketAddr;

use gate_zone::fleet::{Cell, Fleet, NoCell};
use gate_zone::{Probe, clock};

/// The zone's cells, as a monitor of one configuration sees them.
#[derive(Debug, Clone)]
pub(crate) struct Cells {
    fleet: Fleet,
    /// Keys of the backends that are where the configuration says.
    fixed: Vec<u64>,
    /// Keys of the names that have to be looked up.
    parents: Vec<u64>,
}

impl Cells {
    pub(crate) fn new(fleet: Fleet, fixed: Vec<u64>, parents: Vec<u64>) -> Self {
        Self { fleet, fixed, parents }
    }

    pub(crate) fn fleet(&self) -> Fleet {
        self.fleet
    }

    /// The cell of a backend that is where the configuration says.
    pub(crate) fn claim(&self, key: u64) -> Result<Cell, NoCell> {
        self.by_need(|wanted| self.fleet.claim(key, wanted))
    }

    /// The cell of an address that a name has.
    pub(crate) fn claim_found(&self, key: u64, parent: u64, address: SocketAddr) -> Result<Cell, NoCell> {
        self.by_need(|wanted| self.fleet.claim_found(key, parent, address, wanted))
    }

    /// The cell with this key, while there is one.
    pub(crate) fn find(&self, key: u64) -> Option<Cell> {
        self.fleet.find(key)
    }

    /// Says that a name does not have this address any more. Its cell keeps what is in flight, and knows nothing else: if
    /// the address comes back, something else may answer there.
    pub(crate) fn give_up(&self, key: u64, parent: u64) {
        let Some(cell) = self.find(key) else { return };
        cell.tell_address(parent, None);
        cell.tell_probe(Probe::Unknown);
        cell.tell_listed(None);
        cell.tell_in_memory(&[], clock::monotonic_ms());
    }

    /// Claims a free cell; where there is none, one of an address that is gone or of another configuration.
    fn by_need(&self, claim: impl Fn(&[u64]) -> Result<Cell, NoCell>) -> Result<Cell, NoCell> {
        let all: Vec<u64> = self.fleet.cells().map(Cell::key).collect();
        claim(&all).or_else(|NoCell| {
            // Not the parents: whoever wants one wants all that was ever found under it.
            let found = self.parents.iter().flat_map(|parent| self.fleet.found(*parent));
            let wanted: Vec<u64> = found.map(|(cell, _)| cell.key()).chain(self.fixed.iter().copied()).collect();
            claim(&wanted)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use gate_zone::Zone;
    use gate_zone::layout::BACKENDS;

    use super::*;

    fn address(last: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last as u8], 11434))
    }

    fn claim(cells: &Cells, key: usize) -> Result<usize, NoCell> {
        cells.claim_found(key as u64, 3, address(key)).map(Cell::index)
    }

    #[test]
    fn cells_of_the_gone_are_taken_when_no_other_is_left() {
        let fleet = Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap().1.fleet();
        let cells = Cells::new(fleet, vec![1, 2], vec![3]);
        assert_eq!([1, 2].map(|key| cells.claim(key).unwrap().index()), [0, 1]);
        assert_eq!((4..=5).map(|key| claim(&cells, key).unwrap()).collect::<Vec<_>>(), [2, 3]);
        cells.find(4).unwrap().tell_probe(Probe::Healthy);
        cells.give_up(4, 3);
        assert_eq!((cells.find(4).unwrap().probe(), fleet.found(3).count()), (Probe::Unknown, 1));
        assert_eq!(claim(&cells, 6), Ok(4), "there are free ones");
        let more: Vec<_> = (7..=BACKENDS + 1).map(|key| claim(&cells, key).unwrap()).collect();
        assert_eq!(more.last(), Some(&(BACKENDS - 1)));
        assert_eq!(claim(&cells, 99), Ok(2), "the one that is gone");
        assert_eq!(claim(&cells, 100), Err(NoCell));
        assert_eq!(fleet.found(3).count(), BACKENDS - 2);
    }

    #[test]
    fn another_configurations_cells_are_taken_last() {
        let fleet = Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap().1.fleet();
        let old = Cells::new(fleet, vec![1], vec![]);
        let new = Cells::new(fleet, vec![2], vec![3]);
        assert_eq!((old.claim(1).unwrap().index(), new.claim(2).unwrap().index()), (0, 1));
        let rest: Vec<_> = (0..BACKENDS - 2).map(|key| claim(&new, 10 + key).unwrap()).collect();
        assert_eq!(rest, (2..BACKENDS).collect::<Vec<_>>());
        assert_eq!(claim(&new, 200), Ok(0));
        assert_eq!(old.find(1).map(Cell::index), None, "it knows that it has lost it");
    }
}
