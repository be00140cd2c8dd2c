//! One subject's count with one limit, as this gate's zone has it: what may pass without asking, what to ask, and what to
//! make of the answer.
//!
//! It asks nobody and waits for nothing. Invariants: what passes was granted by the store, or is within this gate's own
//! share; and what this gate has taken in a window is never told as less than it was, but for a zone that is full.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use gate_limit::{Limit, Refused, Standing, Subject};
use gate_zone::limiter::fixed::{self, Charge, Tag, Verdict, Window};
use gate_zone::limiter::pool::{End, Held, Number};
use gate_zone::limiter::{cell_of, set_of};
use gate_zone::{Region, Zone};
use siphasher::sip128::SipHasher24;

use crate::known::Known;
use crate::script::{Answer, Question};

#[cfg(test)]
mod tests;

/// The largest batch, in requests as large as the one that asks.
const BATCH_MAX: u64 = 128;

/// A batch is at most this part of the amount, so that what one gate has in hand is never much.
const BATCH_PART: u64 = 20;

/// What a gate has in hand beyond this many batches goes back.
const SURPLUS_BATCHES: u64 = 2;

/// In the last part of a window nothing is said about its total: clocks that drift apart could make it the next one's.
const LAST_PART: u32 = 64;

/// How long a refusal of more than one is believed: others may give back meanwhile. One tick at least.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells the hashes of these numbers from those of counts that are this gate's own.
const DOMAIN: u64 = u64::from_be_bytes(*b"cluster\0");

/// The numbers of a count.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Granted and not yet used.
    Pool,
    /// Taken in this window: granted, or let pass within the share.
    Taken,
    /// Given back in this window.
    Back,
    /// See [`Known`].
    Known,
    /// The smallest cost that was refused.
    Refused,
    /// Where [`Kind::Taken`] counts when its set is full.
    Cell,
}

/// A request that passes: what it took and from which window.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Passage {
    /// Where the subject stands now, over all gates as far as this one knows.
    pub standing: Standing,
    cost: u64,
    end: End,
}

impl Passage {
    /// What it took: its cost, or the whole amount if that is less.
    pub fn cost(&self) -> u64 {
        self.cost
    }
}

/// What can be said without asking.
pub(crate) enum Look {
    Passes(Passage),
    Refused(Duration),
    /// The store must be asked.
    Ask,
}

/// Whether the store should hear of something soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tell {
    Soon,
    NextTime,
}

/// One subject's count with one limit.
#[derive(Clone)]
pub(crate) struct Count {
    zone: Zone,
    region: Region,
    window: Window,
    limit: Arc<Limit>,
    hash: (u64, u64),
}

impl Count {
    /// `None` for a window that the zone has no region for.
    pub(crate) fn new(zone: Zone, subject: &Subject, scope: u64, limit: &Arc<Limit>) -> Option<Self> {
        let (region, window) = (zone.window_region(limit.window)?, Window::new(limit.window)?);
        let numbers = [DOMAIN, scope, limit.amount, limit.window.as_nanos() as u64];
        let subject = subject.as_octets();
        let mut input = [0; 64];
        input[..subject.len()].copy_from_slice(subject);
        for (octets, number) in input[subject.len()..].chunks_exact_mut(size_of::<u64>()).zip(numbers) {
            octets.copy_from_slice(&number.to_le_bytes());
        }
        let [low, high] = zone.seed();
        let hash = SipHasher24::new_with_keys(low, high).hash(&input).as_u64();
        set_of(region.sets, 0).zip(cell_of(region.overflow, 0))?;
        Some(Self { zone, region, window, limit: Arc::clone(limit), hash })
    }

    /// Tells it from all other counts.
    pub(crate) fn id(&self) -> (u64, u64) {
        self.hash
    }

    /// Whether anything is known of its window.
    pub(crate) fn is_live(&self) -> bool {
        self.read(Kind::Known).or_else(|| self.read(Kind::Taken)).is_some()
    }

    pub(crate) fn limit(&self) -> &Arc<Limit> {
        &self.limit
    }

    pub(crate) fn refused(&self, retry: Duration) -> Refused {
        Refused { limit: Arc::clone(&self.limit), retry: retry.min(self.limit.window) }
    }

    /// What can be said without asking.
    pub(crate) fn look(&self, cost: u64) -> Look {
        if let Some(left) = self.number(Kind::Pool).take(cost, || self.now_ns()) {
            let total = self.known().map_or(0, |(known, _)| known.total);
            let remaining = self.limit.amount.saturating_sub(total) + left.number;
            return Look::Passes(self.passage(cost, remaining, left.end));
        }
        match self.read(Kind::Refused) {
            Some(refused) if cost >= refused.number => {
                let end = self.known().map_or(refused.end, |(_, end)| end.max(refused.end));
                Look::Refused(end.until(self.window, self.now_ns()))
            }
            _ => Look::Ask,
        }
    }

    /// What to ask for a request of this cost; of none, what to tell.
    pub(crate) fn question(&self, cost: u64) -> Question {
        let now_ns = self.now_ns();
        let (taken, known) = (self.read(Kind::Taken), self.known());
        let end = known.map(|(_, end)| end).or(taken.map(|taken| taken.end));
        let left = end.map_or(Duration::ZERO, |end| end.until(self.window, now_ns));
        let is_last = left < self.limit.window / LAST_PART;
        let step = known.map_or(0, |(known, _)| known.step);
        Question {
            taken: taken.map_or(0, |taken| taken.number),
            back: self.read(Kind::Back).map_or(0, |back| back.number),
            known: known.filter(|_| !is_last).map_or(0, |(known, _)| known.total),
            left,
            need: cost,
            wish: (cost << step.min(BATCH_MAX.ilog2())).min(self.limit.amount / BATCH_PART).max(cost),
        }
    }

    /// Notes an answer to a question of `sent_ns`. Its need has passed, or was refused until then.
    pub(crate) fn answered(
        &self,
        question: Question,
        answer: Answer,
        sent_ns: u64,
        share: f64,
    ) -> Result<Passage, Duration> {
        let now = || self.now_ns();
        let end = End::after(self.window, sent_ns, answer.left);
        let step = self.known().filter(|(_, seen)| seen.is_same(end)).map_or(0, |(known, _)| known.step);
        // What does not fit into a full zone is lost, as a process's that is killed here.
        self.number(Kind::Taken).raise(answer.taken, end, now).ok();
        let extra = answer.granted.saturating_sub(question.need);
        let is_kept = extra == 0 || self.number(Kind::Pool).add(extra, end, now).is_ok();
        let net = answer.taken.saturating_sub(question.back);
        let rest = self.limit.amount.saturating_sub(answer.total);
        let bound = (net + part(rest, share)).min(part(self.limit.amount, share).max(1));
        let known = Known { total: answer.total, bound, step: if is_kept { step + 1 } else { 0 } };
        self.number(Kind::Known).write(known.pack(self.limit.amount), end, now).ok();
        if question.need > 0 && answer.granted == 0 {
            let pause = PAUSE.max(self.window.tick());
            let until = if question.need == 1 { end } else { end.min(End::after(self.window, now(), pause)) };
            self.number(Kind::Refused).write(question.need, until, now).ok();
            return Err(answer.left);
        }
        Ok(self.passage(question.need, rest + extra, end))
    }

    /// Decides alone, within this gate's share of the amount.
    pub(crate) fn locally(&self, cost: u64, share: f64) -> Result<Passage, Duration> {
        let own = part(self.limit.amount, share).max(1);
        let known = self.known();
        let bound = known.map_or(own, |(known, _)| known.bound.min(own));
        let until = |end: End| end.until(self.window, self.now_ns());
        if bound == 0 {
            return Err(known.map_or(self.limit.window, |(_, end)| until(end)));
        }
        let back = self.read(Kind::Back).map_or(0, |back| back.number);
        let taken = self.number(Kind::Taken);
        let cell = || cell_of(self.region.overflow, self.place(Kind::Cell)).expect("`new` looks for a cell");
        let charge = Charge { tag: taken.tag, amount: bound + back, cost: cost.min(bound), window: self.window };
        match fixed::charge(taken.set, cell, charge, || self.now_ns()) {
            Verdict::Admitted { remaining, reset, taken } => {
                let end = End::after(self.window, self.now_ns(), reset);
                Ok(self.passage(taken.cost(), remaining, end))
            }
            Verdict::Refused { retry } => Err(retry),
        }
    }

    /// Makes a passage cost what was used. What is given back is this gate's to grant again, while the window lasts;
    /// too much of it goes back to the store. What was used beyond is taken, whatever the amount says.
    pub(crate) fn settle(&self, passage: &Passage, used: u64) -> Tell {
        let now = || self.now_ns();
        let batch = (self.limit.amount / BATCH_PART).max(1);
        let pool = self.number(Kind::Pool);
        if used <= passage.cost {
            self.give(passage, passage.cost - used);
            let Some(held) = pool.read(now) else { return Tell::NextTime };
            let surplus = held.number.saturating_sub(batch);
            if surplus < batch * (SURPLUS_BATCHES - 1) || pool.take(surplus, now).is_none() {
                return Tell::NextTime;
            }
            if self.number(Kind::Back).add(surplus, held.end, now).is_err() {
                pool.add(surplus, held.end, now).ok();
                return Tell::NextTime;
            }
            return Tell::Soon;
        }
        let rest = used - passage.cost;
        let held = pool.read(now).map_or(0, |held| held.number.min(rest));
        let rest = if held > 0 && pool.take(held, now).is_some() { rest - held } else { rest };
        if rest == 0 {
            return Tell::NextTime;
        }
        let now_ns = self.now_ns();
        let end = self.known().map(|(_, end)| end).or(self.read(Kind::Taken).map(|taken| taken.end));
        let end = end.unwrap_or(End::of_new(self.window, now_ns));
        self.number(Kind::Taken).add(rest, end, now).ok();
        if rest >= batch { Tell::Soon } else { Tell::NextTime }
    }

    /// Gives back what nobody used, in its own window.
    pub(crate) fn give(&self, passage: &Passage, unused: u64) {
        let now = || self.now_ns();
        let is_of_another = |held: Held| !held.end.is_same(passage.end);
        let pool = self.number(Kind::Pool);
        if unused > 0 && !pool.read(now).is_some_and(is_of_another) {
            pool.add(unused, passage.end, now).ok();
        }
    }

    fn passage(&self, cost: u64, remaining: u64, end: End) -> Passage {
        let reset = end.until(self.window, self.now_ns());
        let remaining = remaining.min(self.limit.amount);
        Passage { standing: Standing { limit: Arc::clone(&self.limit), remaining, reset }, cost, end }
    }

    fn known(&self) -> Option<(Known, End)> {
        self.read(Kind::Known).map(|held| (Known::unpack(held.number, self.limit.amount), held.end))
    }

    fn read(&self, kind: Kind) -> Option<Held> {
        self.number(kind).read(|| self.now_ns())
    }

    fn number(&self, kind: Kind) -> Number<'static, AtomicU64> {
        let set = set_of(self.region.sets, self.place(kind)).expect("`new` looks for a set");
        Number { set, tag: Tag::new(mixed(self.hash.1, kind)), window: self.window }
    }

    fn place(&self, kind: Kind) -> u64 {
        mixed(self.hash.0, kind)
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.zone.now_ns()
    }
}

fn part(of: u64, share: f64) -> u64 {
    (of as f64 * share) as u64
}

/// A hash for each kind from one for all: the steps of `SplitMix64`.
fn mixed(hash: u64, kind: Kind) -> u64 {
    let mut mixed = hash.wrapping_add((kind as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
