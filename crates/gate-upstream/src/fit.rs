//! Which backend serves a request, and which request goes next: decided from facts alone, so that every case can be
//! written down as a test.
//!
//! A model that is in memory answers at once; loading one takes seconds, and loading it in another's place makes that one
//! slow next. So, in this order: a backend that has the model in memory; the one that is loading it; one with room for it;
//! a second copy, where waiting would cost more than loading; last, one that has to give up another model.
//!
//! Invariant: nothing here reads a clock, the zone or the configuration.

/// Beyond so many candidates two drawn at random are compared instead of all: the better of two random ones is nearly as
/// good as the best (Mitzenmacher, "The Power of Two Choices", 2001), and costs the same however many there are.
const COMPARED_MAX: usize = 8;

/// What a load is taken to cost on a backend that has not loaded anything yet, in ms.
const LOAD_GUESS_MS: u64 = 2_000;

/// One backend, seen with one request's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Its cell.
    pub index: usize,
    /// What tells it apart for affinity.
    pub key: u64,
    /// Whether the model is in memory, with the right options.
    pub holds: bool,
    /// Models in memory.
    pub in_memory: usize,
    /// Whether another model fits beside them, as far as is known.
    pub has_room: bool,
    /// Requests in service.
    pub in_flight: usize,
    /// How many it takes at once.
    pub slots: usize,
    /// Its share, per slot.
    pub weight: u32,
    /// Mean time that a request holds a slot, in ms; 0 where unknown.
    pub service_ms: u64,
    /// Mean time that a load takes, in ms; 0 where unknown.
    pub load_ms: u64,
}

/// Where a model is, among the backends that may serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anywhere {
    /// In memory of at least one.
    InMemory,
    /// Being loaded by the one with this cell.
    Loading(usize),
    /// In no memory.
    Nowhere,
}

/// What serving a request would mean for a backend, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fit {
    /// The model is in memory.
    Loaded,
    /// It is being loaded here.
    Loading,
    /// It has to be loaded, and there is room.
    Cold,
    /// It is in another backend's memory; here it would be a second copy, and there is room.
    Copy,
    /// It has to be loaded in another model's place.
    Swap,
    /// A second copy in another model's place.
    CopySwap,
    /// Another backend is loading it: the request waits for that one.
    Elsewhere,
}

/// How long a request has waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waited {
    /// Since it came, in ms; for a copy, since a backend was first free for one.
    pub age_ms: u64,
    /// Since another was first let by in its place, in ms; 0 if none was.
    pub passed_ms: u64,
}

/// Whether a request may have a free slot of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Yes.
    Now,
    /// If nobody else wants it who needs no swap.
    IfNobodyElse,
    /// Not yet.
    Later,
}

impl Fit {
    /// What it would mean for this backend.
    pub fn of(facts: &Facts, anywhere: Anywhere) -> Self {
        match anywhere {
            _ if facts.holds => Self::Loaded,
            Anywhere::Loading(index) if index == facts.index => Self::Loading,
            Anywhere::Loading(_) => Self::Elsewhere,
            Anywhere::InMemory if facts.has_room => Self::Copy,
            Anywhere::InMemory => Self::CopySwap,
            Anywhere::Nowhere if facts.has_room => Self::Cold,
            Anywhere::Nowhere => Self::Swap,
        }
    }

    /// As it stands in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Loading => "loading",
            Self::Cold => "cold",
            Self::Copy => "copy",
            Self::Swap => "swap",
            Self::CopySwap => "copy-swap",
            Self::Elsewhere => "elsewhere",
        }
    }

    /// Whether the model has to be loaded first.
    pub fn is_load(self) -> bool {
        matches!(self, Self::Cold | Self::Copy | Self::Swap | Self::CopySwap)
    }

    /// Whether a request may have a slot of the backend that `others` beside it use. `patience_ms` bounds for how long one
    /// that needs a swap is passed by others.
    pub fn turn(self, facts: &Facts, others: usize, waited: Waited, patience_ms: u64) -> Turn {
        match self {
            Self::Loaded | Self::Loading | Self::Cold => Turn::Now,
            Self::Swap if waited.passed_ms >= patience_ms && waited.passed_ms > 0 => Turn::Now,
            // Ollama lets nobody in while it waits for a busy model to leave.
            Self::Swap if others == 0 => Turn::IfNobodyElse,
            Self::Copy if waited.age_ms + facts.service_ms >= facts.load_cost() => Turn::Now,
            Self::CopySwap if others == 0 && waited.age_ms >= patience_ms => Turn::IfNobodyElse,
            Self::Swap | Self::Copy | Self::CopySwap | Self::Elsewhere => Turn::Later,
        }
    }
}

impl Facts {
    /// What a load costs here, in ms.
    fn load_cost(&self) -> u64 {
        if self.load_ms == 0 { LOAD_GUESS_MS } else { self.load_ms }
    }

    /// Whether `self` has less to do, for its size, than `other`.
    fn compare_load(&self, other: &Self) -> std::cmp::Ordering {
        let size = |facts: &Self| facts.slots as u64 * u64::from(facts.weight);
        (self.in_flight as u64 * size(other)).cmp(&(other.in_flight as u64 * size(self)))
    }
}

/// The best of some candidates for a request of this conversation; `random` decides what nothing else does.
pub fn choose(candidates: &[(Facts, Fit)], conversation: u64, random: u64) -> Option<(Facts, Fit)> {
    let best = candidates.iter().map(|(_, fit)| *fit).min()?;
    // A load goes where it leaves most room.
    let crowd = |facts: &Facts| if best.is_load() { facts.in_memory } else { 0 };
    let least = candidates.iter().filter(|(_, fit)| *fit == best).map(|(facts, _)| crowd(facts)).min()?;
    let good = || candidates.iter().filter(|(facts, fit)| *fit == best && crowd(facts) == least);
    let chosen = compared(good().count(), random).filter_map(|place| good().nth(place));
    least_loaded(chosen.map(|(facts, fit)| (*facts, *fit)), conversation, random)
}

/// Which of so many equally good candidates are compared, by their places: all of a few, two of many.
pub(crate) fn compared(count: usize, random: u64) -> impl Iterator<Item = usize> {
    let (all, two) = if count > COMPARED_MAX {
        let first = random as usize % count;
        // Any other one, each as likely.
        let second = (first + 1 + (random >> 32) as usize % (count - 1)) % count;
        (0, Some([first, second]))
    } else {
        (count, None)
    };
    (0..all).chain(two.into_iter().flatten())
}

/// The one of equally good candidates that has the least to do for its size; among equals, the conversation's own.
pub(crate) fn least_loaded<T>(
    candidates: impl Iterator<Item = (Facts, T)>,
    conversation: u64,
    random: u64,
) -> Option<(Facts, T)> {
    candidates.min_by(|(a, _), (b, _)| {
        a.compare_load(b).then_with(|| affinity(b, conversation, random).cmp(&affinity(a, conversation, random)))
    })
}

/// Rendezvous hashing: each conversation ranks the backends in its own order, which stays when others come and go.
fn affinity(facts: &Facts, conversation: u64, random: u64) -> u64 {
    let seed = if conversation == 0 { random } else { conversation };
    // Stafford's thirteenth mix of MurmurHash3's finalizer.
    let mut hash = seed ^ facts.key.rotate_left(32);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests;
