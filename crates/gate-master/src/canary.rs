//! The trial of a new configuration: its workers beside those of the one before, under the same load.
//!
//! What is compared are the counters of the scoreboard since the trial began. Nothing is measured here that workers do
//! not count anyway.

use gate_sys::clock;
use gate_sys::process::Pid;
use gate_zone::layout::row;
use gate_zone::{Role, Row};

use crate::desired::{Desired, Reload, Trial, is_canary};
use crate::event::Event;
use crate::hands::Hands;
use crate::observed::{Observed, Process, State};

/// Fewer answers than this say nothing about a share or a median.
const ANSWERS_MIN: u64 = 20;

/// By how much the share of failed answers may be higher, in parts of a hundred.
const FAILED_MORE_MAX: u64 = 5;

/// By how many buckets of the histogram the median may be later: each is twice as long as the one before, so two are
/// between two and eight times as slow.
const BUCKETS_LATER_MAX: usize = 1;

/// What some workers have counted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counts {
    answers: u64,
    failed: u64,
    latency: [u64; row::LATENCY_COUNT],
}

impl Counts {
    const NONE: Self = Self { answers: 0, failed: 0, latency: [0; row::LATENCY_COUNT] };

    fn of(counted: Row) -> Self {
        let answers = (0..4).map(|class| counted.count(row::ANSWERS + class)).sum();
        let latency = std::array::from_fn(|bucket| counted.count(row::LATENCY + bucket));
        Self { answers, failed: counted.count(row::ANSWERS + 3), latency }
    }

    fn zip(&self, other: &Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            answers: with(self.answers, other.answers),
            failed: with(self.failed, other.failed),
            latency: std::array::from_fn(|bucket| with(self.latency[bucket], other.latency[bucket])),
        }
    }

    /// Failed answers in a hundred.
    fn share(&self) -> u64 {
        self.failed * 100 / self.answers.max(1)
    }

    /// The bucket in which half of the answers are reached.
    fn median(&self) -> usize {
        let mut left = self.latency.iter().sum::<u64>().div_ceil(2);
        for (bucket, count) in self.latency.iter().enumerate() {
            if *count >= left {
                return bucket;
            }
            left -= count;
        }
        row::LATENCY_COUNT - 1
    }
}

/// What each worker had counted when the trial began.
pub(crate) struct Baseline(Vec<(Pid, Counts)>);

impl Hands {
    /// Notes where all workers stand.
    pub(crate) fn begin_trial(&mut self, want: &Desired, seen: &Observed) -> Event {
        let board = self.zone.scoreboard();
        let workers = seen.processes.iter().filter(|process| process.place.role == Role::Worker);
        self.baseline = Some(Baseline(workers.map(|worker| (worker.pid, Counts::of(board.row(worker.row)))).collect()));
        if let Some(Trial::Filling(canary)) = &want.trial {
            log::info!("canary: generation {} is tried for {} s", want.target, canary.hold_ms / 1_000);
        }
        Event::TrialBegan
    }

    /// Compares the canaries with those that run the configuration before.
    pub(crate) fn judge(&mut self, want: &Desired, seen: &Observed) -> Event {
        let canaries = match &want.trial {
            Some(Trial::Running { canary, .. }) => canary.workers,
            Some(Trial::Filling(_) | Trial::Failed(_)) | None => 0,
        };
        let of_trial = |process: &&Process| is_canary(process.place, canaries) && process.generation == want.target;
        let serving = || {
            let is_worker = |process: &&Process| process.place.role == Role::Worker;
            seen.processes.iter().filter(is_worker).filter(|process| process.state == State::Ready)
        };
        let tried = self.since(serving().filter(of_trial));
        let others = self.since(serving().filter(|process| process.generation != want.target));
        let verdict = if serving().any(|process| of_trial(&process)) {
            compare(&tried, &others)
        } else {
            Err("no canary is left to judge by".to_owned())
        };
        if verdict.is_ok() && !is_over(want) {
            return Event::TrialGoesOn;
        }
        // Before its time only a clear case counts.
        if !is_over(want) && tried.answers < ANSWERS_MIN {
            return Event::TrialGoesOn;
        }
        self.baseline = None;
        match &verdict {
            Ok(text) => log::info!("canary: generation {} goes on: {text}", want.target),
            Err(text) => log::error!("canary: generation {} is given up: {text}", want.target),
        }
        Event::Judged(verdict)
    }

    /// What these workers have counted since the trial began; one that came later, all it has.
    fn since<'a>(&self, workers: impl Iterator<Item = &'a Process>) -> Counts {
        let board = self.zone.scoreboard();
        workers.fold(Counts::NONE, |sum, worker| {
            let known = self.baseline.iter().flat_map(|baseline| &baseline.0);
            let before = known.filter(|(pid, _)| *pid == worker.pid).map(|(_, counts)| counts).next();
            let now = Counts::of(board.row(worker.row));
            let grown = now.zip(before.unwrap_or(&Counts::NONE), u64::saturating_sub);
            sum.zip(&grown, |sum, more| sum + more)
        })
    }
}

/// Whether the trial has had its time, or somebody wants the next configuration.
fn is_over(want: &Desired) -> bool {
    let until = match want.trial {
        Some(Trial::Running { until, .. }) => until,
        Some(Trial::Filling(_) | Trial::Failed(_)) | None => 0,
    };
    clock::monotonic_ms() >= until || want.reload != Reload::Idle
}

/// `Ok` when the canaries are no worse, with the figures either way.
fn compare(tried: &Counts, others: &Counts) -> Result<String, String> {
    let figures = format!("{}; the others {}", told(tried), told(others));
    if tried.answers == 0 && others.answers >= ANSWERS_MIN {
        // Clients that keep their connections stay with the workers they have: no evidence is no good evidence.
        return Err(format!("no request came to the canaries: {figures}; try them for longer"));
    }
    if tried.answers < ANSWERS_MIN {
        if tried.failed * 2 > tried.answers {
            return Err(format!("most answers fail: {figures}"));
        }
        return Ok(format!("too few answers to judge by: {figures}"));
    }
    if tried.share() > others.share() + FAILED_MORE_MAX {
        return Err(format!("more answers fail: {figures}"));
    }
    if others.answers >= ANSWERS_MIN && tried.median() > others.median() + BUCKETS_LATER_MAX {
        return Err(format!("answers take longer: {figures}"));
    }
    Ok(figures)
}

fn told(counts: &Counts) -> String {
    let median = if counts.answers > 0 { format!(", median below {}", below(counts.median())) } else { String::new() };
    format!("{} answers, {} failed{median}", counts.answers, counts.failed)
}

/// The upper bound of a bucket, for people.
fn below(bucket: usize) -> String {
    let micros = 1u64 << bucket;
    if micros < 10_000 { format!("{micros} us") } else { format!("{} ms", micros / 1_000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(answers: u64, failed: u64, bucket: usize) -> Counts {
        let mut counts = Counts { answers, failed, ..Counts::NONE };
        counts.latency[bucket] = answers;
        counts
    }

    #[test]
    fn canaries_are_given_up_for_failures_and_for_being_slow() {
        let others = counts(1_000, 10, 12);
        assert!(compare(&counts(100, 1, 12), &others).is_ok());
        assert!(compare(&counts(100, 1, 13), &others).is_ok(), "twice as long may be chance");
        assert!(compare(&counts(100, 1, 14), &others).unwrap_err().starts_with("answers take longer"));
        assert!(compare(&counts(100, 7, 12), &others).unwrap_err().starts_with("more answers fail"));
        assert!(compare(&counts(19, 9, 12), &others).unwrap().starts_with("too few"));
        assert!(compare(&counts(3, 2, 12), &others).unwrap_err().starts_with("most answers fail"));
        assert!(compare(&counts(0, 0, 0), &others).unwrap_err().starts_with("no request came"));
        assert!(compare(&counts(0, 0, 0), &counts(5, 0, 3)).is_ok(), "nobody asks at all");
        assert!(compare(&counts(100, 50, 30), &counts(5, 0, 3)).unwrap_err().starts_with("more answers fail"));
        assert!(compare(&counts(100, 0, 30), &counts(5, 0, 3)).is_ok(), "nobody to be slower than");
    }

    #[test]
    fn the_median_is_where_half_is_reached() {
        let mut spread = Counts::NONE;
        spread.latency[2] = 3;
        spread.latency[5] = 3;
        assert_eq!(spread.median(), 2);
        spread.latency[5] = 4;
        assert_eq!(spread.median(), 5);
        assert_eq!(Counts::NONE.median(), 0);
    }
}
