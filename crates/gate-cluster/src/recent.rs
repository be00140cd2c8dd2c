//! Counts that the store was asked about, to be told again to a store that has lost them.
//!
//! It tells nobody. Invariant: it holds at most [`COUNTS_MAX`] counts, and looks for those that are over at most once in a
//! [`PAUSE`], however many are asked about.

use std::collections::HashMap;
use std::time::Duration;

use crate::count::Count;

/// Counts that are told again to a store that has lost them: some 100 us each. What others know of the rest is told when
/// they are next asked about.
pub(crate) const COUNTS_MAX: usize = 8192;

/// To look through all of them reads the zone for each, on the event loop: not to be done for every question. Four times
/// a second it is lost among them, and room is made soon enough: a window lasts a second at least.
const PAUSE: Duration = Duration::from_millis(250);

/// What is told again of a count.
pub(crate) trait Ends {
    /// Whether its window lasts.
    fn is_live(&self) -> bool;
}

/// A count and its key at the store.
pub(crate) type Told = (Count, String);

impl Ends for Told {
    fn is_live(&self) -> bool {
        self.0.is_live()
    }
}

/// Counts by their numbers.
pub(crate) struct Recent<T> {
    counts: HashMap<(u64, u64), T>,
    /// When those that were over were last taken out for want of room.
    pruned: Option<Duration>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { counts: HashMap::new(), pruned: None }
    }
}

impl<T: Ends + Clone> Recent<T> {
    /// Whether it holds none.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Keeps a count that it does not have, if there is room or can be made.
    pub(crate) fn remember(&mut self, id: (u64, u64), now: Duration, count: impl FnOnce() -> T) {
        if self.counts.contains_key(&id) {
            return;
        }
        if self.counts.len() >= COUNTS_MAX && self.pruned.is_none_or(|at| now.saturating_sub(at) >= PAUSE) {
            self.pruned = Some(now);
            self.counts.retain(|_, count| count.is_live());
        }
        if self.counts.len() < COUNTS_MAX {
            self.counts.insert(id, count());
        }
    }

    /// Those whose windows last.
    pub(crate) fn live(&mut self) -> Vec<T> {
        self.counts.retain(|_, count| count.is_live());
        self.counts.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[derive(Clone)]
    struct Window {
        is_live: Rc<Cell<bool>>,
        looks: Rc<Cell<usize>>,
    }

    impl Ends for Window {
        fn is_live(&self) -> bool {
            self.looks.set(self.looks.get() + 1);
            self.is_live.get()
        }
    }

    #[test]
    fn it_is_looked_through_now_and_then_only() {
        let window = Window { is_live: Rc::new(Cell::new(true)), looks: Rc::default() };
        let mut recent = Recent::default();
        let mut ids = (0..).map(|id| (id, 7));
        let mut remember = |recent: &mut Recent<Window>, count: usize, now: Duration| {
            for id in ids.by_ref().take(count) {
                recent.remember(id, now, || window.clone());
            }
            (recent.counts.len(), window.looks.replace(0))
        };
        let start = Duration::from_secs(9);
        assert_eq!(remember(&mut recent, COUNTS_MAX, start), (COUNTS_MAX, 0), "there is room");
        assert_eq!(remember(&mut recent, 100, start), (COUNTS_MAX, COUNTS_MAX), "once for all of them");
        assert_eq!(remember(&mut recent, 100, start + PAUSE / 2), (COUNTS_MAX, 0));
        assert_eq!(remember(&mut recent, 100, start + PAUSE), (COUNTS_MAX, COUNTS_MAX));
        window.is_live.set(false);
        assert_eq!(remember(&mut recent, 100, start + PAUSE * 3 / 2), (COUNTS_MAX, 0), "what is over may stay a while");
        assert_eq!(remember(&mut recent, 100, start + PAUSE * 2), (100, COUNTS_MAX));
        assert!(recent.live().is_empty() && recent.is_empty());
    }
}
