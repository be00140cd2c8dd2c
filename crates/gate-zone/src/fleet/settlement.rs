//! What processes that are gone have left in slots and queue, and how it is freed.
//!
//! Who is gone is said by the caller; nobody is woken, since whoever waits looks at the slots again by himself.
//!
//! Invariant: it frees a word only from the very value that it judged, so what the living swap meanwhile stays theirs; and
//! it may itself be killed at any step, and be done again.

use super::queue::{Queue, is_offer_to};
use super::slots::{self, Holder};
use crate::word::Word;

/// Frees all that processes which are gone held: places in the queue and slots, of `cells` by their place; how many slots
/// and places. `own` is the process that does it.
pub fn free<W: Word>(
    queue: Queue<'_, W>,
    cells: &[&[W]],
    is_gone: impl Fn(Holder) -> bool,
    own: Holder,
) -> (usize, usize) {
    let mut count = 0;
    let places = queue.settle(&is_gone, own, |ticket, grant| {
        let one = cells.get(grant.backend).and_then(|slots| slots.get(grant.slot));
        count += one.map_or(0, |one| slots::settle(std::slice::from_ref(one), |slot| is_offer_to(slot, ticket)));
    });
    for slots in cells {
        count += slots::settle(slots, |slot| slot.holder().is_some_and(&is_gone));
    }
    (count, places)
}

/// Frees slots on offer to a waiter that is not there any more; how many. They are left where one that settled the waiter
/// was killed at it.
///
/// An offer that is just being made may be freed with them: its waiter then takes the slot if it is still free, or waits on.
pub fn free_unpromised<W: Word>(queue: Queue<'_, W>, cells: &[&[W]]) -> usize {
    let is_lost = |slot| matches!(slot, slots::Slot::Offered { .. }) && !queue.is_promised(slot);
    cells.iter().map(|slots| slots::settle(slots, is_lost)).sum()
}
