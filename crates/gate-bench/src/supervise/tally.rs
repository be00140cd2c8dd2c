//! What the load's records say about the time since an event. Pure: the same records give the same figures.

use std::ops::AddAssign;

use super::exchange::Outcome;

/// Which part of the load a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Answered at once, many of them.
    Quick,
    /// Answered after a good part of a second, always some in service.
    Slow,
}

/// One request; times are microseconds since the load began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) outcome: Outcome,
    pub(crate) pace: Pace,
}

/// Requests by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) answered: u64,
    pub(crate) refused: u64,
    pub(crate) broken: u64,
    pub(crate) wrong: u64,
    pub(crate) late: u64,
}

impl Counts {
    fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut counts = Self::default();
        for record in records {
            counts += record.outcome;
        }
        counts
    }

    /// All that were sent.
    pub(crate) fn all(self) -> u64 {
        self.answered + self.lost()
    }

    /// All that did not get their answer.
    pub(crate) fn lost(self) -> u64 {
        self.refused + self.broken + self.wrong + self.late
    }
}

impl AddAssign<Outcome> for Counts {
    fn add_assign(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Answered => self.answered += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::Broken => self.broken += 1,
            Outcome::Wrong => self.wrong += 1,
            Outcome::Late => self.late += 1,
        }
    }
}

/// The longest time without a right answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// So many microseconds, then answers again.
    Closed(u64),
    /// No answer from the last one to the end of the observation, which is so long.
    Open(u64),
}

/// The figures of one trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    /// All requests of the trial.
    pub(crate) counts: Counts,
    /// Those that were under way at an event.
    pub(crate) in_service: Counts,
    pub(crate) gap: Gap,
    /// The longest quick request, whatever became of it.
    pub(crate) longest_quick: u64,
}

impl Tally {
    /// Sums up the requests of a trial with its events, the first of them first, and the moment the trial was over.
    /// None without an event.
    pub(crate) fn of(records: &[Record], events: &[u64], over: u64) -> Option<Self> {
        let first = *events.first()?;
        let under_way = |record: &&Record| events.iter().any(|event| (record.begun..record.ended).contains(event));
        let quick = records.iter().filter(|record| record.pace == Pace::Quick && record.ended > first);
        Some(Self {
            counts: Counts::of(records),
            in_service: Counts::of(records.iter().filter(under_way)),
            gap: gap(records, first, over),
            longest_quick: quick.map(|record| record.ended - record.begun).max().unwrap_or(0),
        })
    }
}

/// The longest gap between two right answers of which the second came after the event, or the one that stays open.
/// What is answered once the trial is over does not count: by then the clients stop one after the other.
fn gap(records: &[Record], event: u64, over: u64) -> Gap {
    let answered = records.iter().filter(|record| record.outcome == Outcome::Answered);
    let mut answers: Vec<u64> = answered.map(|record| record.ended).filter(|ended| *ended <= over).collect();
    answers.sort_unstable();
    let open = over.saturating_sub(answers.last().copied().unwrap_or(0));
    let closed = answers.windows(2).filter(|pair| pair[1] > event).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    if open > closed { Gap::Open(open) } else { Gap::Closed(closed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(begun: u64, ended: u64, outcome: Outcome) -> Record {
        Record { begun, ended, outcome, pace: if ended - begun > 100 { Pace::Slow } else { Pace::Quick } }
    }

    #[test]
    fn losses_in_service_and_the_gap() {
        let records = [
            record(0, 90, Outcome::Answered),
            record(100, 1100, Outcome::Broken),
            record(150, 950, Outcome::Answered),
            record(990, 1010, Outcome::Broken),
            record(1020, 1030, Outcome::Refused),
            record(1040, 1060, Outcome::Wrong),
            record(1300, 1390, Outcome::Answered),
            record(1400, 1401, Outcome::Late),
            record(1410, 1420, Outcome::Answered),
        ];
        let tally = Tally::of(&records, &[1000], 1450).unwrap();
        assert_eq!(tally.counts, Counts { answered: 4, refused: 1, broken: 2, wrong: 1, late: 1 });
        assert_eq!((tally.counts.all(), tally.counts.lost()), (9, 5));
        assert_eq!(tally.in_service, Counts { broken: 2, ..Counts::default() });
        // From 950 to 1390; the longer one before the event is calm weather's.
        assert_eq!(tally.gap, Gap::Closed(440));
        assert_eq!(tally.longest_quick, 90);
        assert_eq!(Tally::of(&records, &[], 1450), None);
    }

    #[test]
    fn a_server_that_stays_away_leaves_the_gap_open() {
        let records =
            [record(0, 90, Outcome::Answered), record(95, 99, Outcome::Answered), record(110, 120, Outcome::Refused)];
        assert_eq!(Tally::of(&records, &[100], 500).unwrap().gap, Gap::Open(401));
        // A slow client's last answer, after all others have stopped.
        let longer = [records.as_slice(), &[record(115, 900, Outcome::Answered)]].concat();
        assert_eq!(Tally::of(&longer, &[100], 500).unwrap().gap, Gap::Open(401));
        assert_eq!(Tally::of(&[], &[100], 500).unwrap().gap, Gap::Open(500));
    }
}
