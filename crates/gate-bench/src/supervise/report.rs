//! The table of the trials, and what a reader must know to read it.

use super::contender::Contender;
use super::tally::Gap;
use super::trial::{Found, Trial};
use crate::stats::median;
use crate::table::Table;

/// How the trials are made.
pub(crate) const SETTING: &str = "\
- two workers each (haproxy: one process with one thread, as it has no more), loopback only, nothing pinned
- load: 8 clients with a request of 2 ms every 5 ms, 4 with one of 0.3 to 1 s always under way; half of them keep their
  connections; none asks twice, but a kept connection that the server has closed is not used
- all but gunicorn stand in front of the same simulated Ollama; gunicorn runs an application that answers by itself
- lost: refused, cut (reset or end before the whole answer), wrong (other status or text), late (after 5 s)
- in service: of the requests under way at an event, how many were lost; those of a killed worker cannot be told from
  its sibling's
- without answer: the longest time in which no client got one; longest: of the requests of 2 ms; clock late: how much
  too late a thread woke that only sleeps: what is not well above that may be the machine's doing, not the server's
- new workers: median time from the event until their processes are there, which for gunicorn is long before they serve
";

/// What stands where there is nothing to measure.
const NOTHING: &str = "–";
/// Columns of the table.
const HEAD: [&str; 13] = [
    "trial",
    "server",
    "requests",
    "lost",
    "refused",
    "cut",
    "wrong",
    "late",
    "in service, lost",
    "without answer ms",
    "longest ms",
    "clock late ms",
    "new workers ms",
];

/// The table of all trials. The last column says what figures do not.
pub(crate) fn table(rows: Vec<Vec<String>>) -> Table {
    let head: Vec<&str> = HEAD.into_iter().chain(["outcome"]).collect();
    let mut table = Table::new("Trials", &head);
    for row in rows {
        table.row(row);
    }
    table
}

/// A row of the table.
pub(crate) fn cells(found: &Found) -> Vec<String> {
    let (tally, counts) = (&found.tally, found.tally.counts);
    let in_service = tally.in_service;
    let gap = match tally.gap {
        Gap::Closed(micros) => milliseconds(micros as f64 / 1e3),
        Gap::Open(micros) => format!("> {}", milliseconds(micros as f64 / 1e3)),
    };
    // Where nobody starts the server again, clients are refused for as long as one cares to watch.
    let unless_orphaned = |text: String| if found.trial == Trial::Orphans { NOTHING.to_owned() } else { text };
    vec![
        found.trial.title(),
        found.contender.name().to_owned(),
        unless_orphaned(counts.all().to_string()),
        unless_orphaned(counts.lost().to_string()),
        unless_orphaned(counts.refused.to_string()),
        unless_orphaned(counts.broken.to_string()),
        unless_orphaned(counts.wrong.to_string()),
        unless_orphaned(counts.late.to_string()),
        format!("{} of {}", in_service.lost(), in_service.all()),
        unless_orphaned(gap),
        unless_orphaned(milliseconds(tally.longest_quick as f64 / 1e3)),
        milliseconds(found.lag.as_secs_f64() * 1e3),
        median(found.back_ms.iter().copied()).map_or(NOTHING.to_owned(), milliseconds),
        found.says.clone(),
    ]
}

/// The row of a server that cannot be put to a trial.
pub(crate) fn not_applicable(trial: Trial, contender: Contender) -> Vec<String> {
    let mut row = vec![trial.title(), contender.name().to_owned()];
    row.resize(HEAD.len(), NOTHING.to_owned());
    row.push("not applicable: nothing of it loads at start".to_owned());
    row
}

fn milliseconds(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::supervise::tally::{Counts, Tally};

    fn found(trial: Trial, gap: Gap) -> Found {
        let counts = Counts { answered: 90, refused: 1, broken: 2, wrong: 3, late: 4 };
        let in_service = Counts { answered: 5, broken: 2, ..Counts::default() };
        let tally = Tally { counts, in_service, gap, longest_quick: 12_345 };
        let says = "serves on".to_owned();
        let lag = Duration::from_millis(3);
        Found { trial, contender: Contender::Nginx, tally, lag, back_ms: vec![3.0, 1.0, 2.0], says }
    }

    #[test]
    fn a_row_has_a_cell_for_every_column() {
        let row = cells(&found(Trial::Kill, Gap::Closed(7_250)));
        let expected = [
            "worker killed x 5",
            "nginx",
            "100",
            "10",
            "1",
            "2",
            "3",
            "4",
            "2 of 7",
            "7.2",
            "12",
            "3.0",
            "2.0",
            "serves on",
        ];
        assert_eq!(row, expected);
        assert_eq!(not_applicable(Trial::Hung, Contender::Nginx).len(), row.len());
        assert_eq!(HEAD.len() + 1, row.len());
    }

    #[test]
    fn what_is_open_or_meaningless_looks_so() {
        assert_eq!(cells(&found(Trial::Broken, Gap::Open(2_000_000)))[9], "> 2000");
        let orphans = cells(&found(Trial::Orphans, Gap::Open(2_000_000)));
        assert_eq!((orphans[3].as_str(), orphans[8].as_str(), orphans[9].as_str()), (NOTHING, "2 of 7", NOTHING));
    }
}
