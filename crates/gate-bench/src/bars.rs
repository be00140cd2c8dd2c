//! What the gate must reach beside the others, and whether it does. Printed, never asserted.

use crate::article;
use crate::chunks;
use crate::peer::Kind;
use crate::stats::{Ratio, ratio};
use crate::table::Table;

/// Everything a comparison found; parts that were not run are empty.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Milliseconds from start to ready.
    pub(crate) start: Option<f64>,
    pub(crate) article: Vec<article::Found>,
    pub(crate) chunks: Vec<chunks::Found>,
}

/// On which side of a bar it is good to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

impl Bar {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bar) => value >= bar,
            Self::AtMost(bar) => value <= bar,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::AtLeast(_) => ">=",
            Self::AtMost(_) => "<=",
        }
    }

    fn value(self) -> f64 {
        match self {
            Self::AtLeast(bar) | Self::AtMost(bar) => bar,
        }
    }
}

/// The verdicts.
pub(crate) fn table(found: &Findings) -> Table {
    let mut table = Table::new("Bars", &["one worker", "bar", "measured", "verdict"]);
    let article = |kind, figure: fn(&article::Round) -> f64| {
        rounds_of(&found.article, kind).map(|all| all.iter().map(figure).collect())
    };
    let chunk = |kind| chunks_of(&found.chunks, kind).map(|all| all.iter().map(chunks::Round::cpu_us).collect());
    let beside = |other, figure| compared(article(Kind::Gate, figure), article(other, figure));
    let rows = [
        ("requests/s, x nginx", Bar::AtLeast(0.95), beside(Kind::Nginx, article::Round::rate)),
        ("CPU a request, x nginx", Bar::AtMost(1.1), beside(Kind::Nginx, article::Round::cpu_us)),
        ("requests a CPU second, x fastapi", Bar::AtLeast(60.0), beside(Kind::Article, article::Round::rate_by_cpu)),
        ("CPU a relayed chunk, x nginx", Bar::AtMost(1.0), compared(chunk(Kind::Gate), chunk(Kind::Nginx))),
    ];
    for (name, bar, ratio) in rows {
        let measured =
            ratio.map(|Ratio { median, low, high }| (median, format!("{median:.2} ({low:.2} to {high:.2})")));
        table.row(row(name, bar, measured));
    }
    let idle = found.article.iter().find(|one| one.kind == Kind::Gate).and_then(|one| one.idle_mib);
    table.row(row("worker's idle RSS, MiB", Bar::AtMost(8.0), idle.map(|mib| (mib, format!("{mib:.1}")))));
    table.row(row("start to ready, ms", Bar::AtMost(100.0), found.start.map(|ms| (ms, format!("{ms:.1}")))));
    let failed = gate_failures(found);
    table.row(row(
        "failed requests and streams",
        Bar::AtMost(0.0),
        failed.map(|count| (count as f64, count.to_string())),
    ));
    table
}

/// A bar's name, where it lies, what was measured, and the verdict.
pub(crate) fn row(name: &str, bar: Bar, measured: Option<(f64, String)>) -> [String; 4] {
    let (measured, verdict) = match measured {
        Some((value, text)) => (text, if bar.met(value) { "bar met" } else { "bar missed" }),
        None => ("-".to_owned(), "not measured"),
    };
    [name.to_owned(), format!("{} {}", bar.sign(), bar.value()), measured, verdict.to_owned()]
}

pub(crate) fn compared(gate: Option<Vec<f64>>, other: Option<Vec<f64>>) -> Option<Ratio> {
    ratio(gate?, other?)
}

pub(crate) fn rounds_of(all: &[article::Found], kind: Kind) -> Option<&[article::Round]> {
    all.iter().find(|found| found.kind == kind).map(|found| found.rounds.as_slice())
}

pub(crate) fn chunks_of(all: &[chunks::Found], kind: Kind) -> Option<&[chunks::Round]> {
    all.iter().find(|found| found.kind == Some(kind)).map(|found| found.rounds.as_slice())
}

/// What went wrong with the gate in the parts that were run with it.
fn gate_failures(found: &Findings) -> Option<u64> {
    let article = rounds_of(&found.article, Kind::Gate).map(|all| all.iter().map(article::Round::failed).sum::<u64>());
    let chunks = chunks_of(&found.chunks, Kind::Gate).map(|all| all.iter().map(chunks::Round::failed).sum::<u64>());
    match (article, chunks) {
        (None, None) => None,
        (article, chunks) => Some(article.unwrap_or(0) + chunks.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_on_the_line() {
        for (bar, value, met) in [
            (Bar::AtLeast(0.95), 0.95, true),
            (Bar::AtLeast(0.95), 0.949, false),
            (Bar::AtMost(1.1), 1.1, true),
            (Bar::AtMost(1.1), 1.101, false),
            (Bar::AtMost(0.0), 0.0, true),
        ] {
            assert_eq!(bar.met(value), met, "{bar:?} {value}");
        }
    }

    #[test]
    fn every_bar_has_a_verdict() {
        let found = Findings { start: Some(40.0), ..Findings::default() };
        let text = table(&found).to_string();
        assert_eq!(text.matches("not measured").count(), 6, "{text}");
        assert_eq!(text.matches("bar met").count(), 1, "{text}");
        let late = Findings { start: Some(100.5), ..Findings::default() };
        assert!(table(&late).to_string().contains("bar missed"));
    }
}
