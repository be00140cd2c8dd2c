//! What is swept in the zone: ended counts of the limiter, and loads that nobody ends any more.
//!
//! Invariant: a piece at a time, by compare-and-swap; whoever uses a word meanwhile wins.

use std::time::Duration;

use gate_zone::fleet::loads;
use gate_zone::layout::BACKENDS;
use gate_zone::limiter::{fixed, gcra};
use gate_zone::{Zone, clock};
use tokio::time::interval;

/// How often a piece of each limiter region is swept.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// In how many pieces: the whole region every 16 seconds, well within the 64 windows after which the ends of the
/// shortest windows (a second) would come around again.
const SWEEP_PIECES: usize = 16;

/// Whether anything counts by GCRA. A region that nobody touches costs no memory, and sweeping touches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gcra {
    Used,
    Unused,
}

/// Frees ended entries of the limiter, a piece at a time.
pub(crate) async fn limiter(zone: Zone, gcra_region: Gcra) {
    let mut ticks = interval(SWEEP_PAUSE);
    let mut piece = 0;
    loop {
        ticks.tick().await;
        for (length, region) in zone.windows() {
            let Some(window) = fixed::Window::new(length) else { continue };
            let (from, budget) = share(region.sets.len(), piece);
            fixed::sweep(region.sets, window, from, budget, || zone.now_ns());
            fixed::sweep(region.overflow, window, 0, region.overflow.len(), || zone.now_ns());
        }
        if gcra_region == Gcra::Used {
            let region = zone.gcra_region();
            let (from, budget) = share(region.sets.len(), piece);
            gcra::sweep(region.sets, from, budget, || zone.now_ns());
        }
        piece = (piece + 1) % SWEEP_PIECES;
    }
}

/// Frees loads that nobody ends any more: their process was killed.
pub(crate) async fn lost_loads(zone: Zone) {
    let mut ticks = interval(SWEEP_PAUSE);
    let fleet = zone.fleet();
    loop {
        ticks.tick().await;
        let is_served = |tag, backend: usize| backend < BACKENDS && fleet.cell(backend).serves(tag);
        loads::sweep(fleet.loads(), clock::monotonic_ms() / 1000, is_served);
    }
}

/// Start and length of one piece of a region.
fn share(words: usize, piece: usize) -> (usize, usize) {
    let length = words.div_ceil(SWEEP_PIECES);
    let from = (piece * length).min(words);
    (from, length.min(words - from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_region() {
        for words in [8, 64, 1000, 131_072] {
            let mut next = 0;
            for piece in 0..SWEEP_PIECES {
                let (from, length) = share(words, piece);
                assert_eq!(from, next);
                next = from + length;
            }
            assert_eq!(next, words);
        }
    }
}
