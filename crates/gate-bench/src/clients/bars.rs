//! What keys and dialects may cost, and whether they do. Printed, never asserted.

use super::{key, keyfile, keys, store};
use crate::article;
use crate::bars::{Bar, chunks_of, compared, rounds_of, row};
use crate::chunks;
use crate::peer::Kind;
use crate::stats::{Ratio, median};
use crate::table::Table;

/// All that was measured; parts that were not run are empty.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) key: [key::Runs; key::USED.len()],
    pub(crate) rate: Vec<article::Found>,
    pub(crate) chunks: Vec<chunks::Found>,
    pub(crate) keys: Option<keys::Found>,
    pub(crate) store: Vec<store::Round>,
}

type Measured = Option<(f64, String)>;

/// The verdicts.
pub(crate) fn table(found: &Found) -> Table {
    let mut table = Table::new("Bars", &["clients", "bar", "measured", "verdict"]);
    for (used, runs) in key::USED.into_iter().zip(&found.key) {
        let name = format!("key check, policy and tokens, {used} keys at random, ns");
        table.row(row(&name, Bar::AtMost(1500.0), spread(runs, 0)));
    }
    for (name, bar, measured) in beside_nginx(found).into_iter().chain(many(found.keys.as_ref())) {
        table.row(row(&name, bar, measured));
    }
    table.row(row("a question to a shared store, added p99, ms", Bar::AtMost(1.0), added(&found.store)));
    table
}

fn beside_nginx(found: &Found) -> [(String, Bar, Measured); 3] {
    let requests = |kind| rounds_of(&found.rate, kind);
    let rate = |kind| requests(kind).map(|all| all.iter().map(article::Round::rate).collect());
    let chunk = |kind| chunks_of(&found.chunks, kind);
    let cpu = |kind| chunk(kind).map(|all| all.iter().map(chunks::Round::cpu_us).collect());
    let told = |ratio: Option<Ratio>| {
        ratio.map(|Ratio { median, low, high }| (median, format!("{median:.2} ({low:.2} to {high:.2})")))
    };
    let failed = [
        requests(Kind::Gate).map(|all| all.iter().map(article::Round::failed).sum::<u64>()),
        chunk(Kind::Gate).map(|all| all.iter().map(chunks::Round::failed).sum::<u64>()),
    ];
    let failed = failed.into_iter().flatten().reduce(|one, other| one + other);
    [
        (
            "requests/s with keys, x nginx without".to_owned(),
            Bar::AtLeast(0.9),
            told(compared(rate(Kind::Gate), rate(Kind::Nginx))),
        ),
        (
            "CPU a relayed event of a chat, x nginx".to_owned(),
            Bar::AtMost(1.0),
            told(compared(cpu(Kind::Gate), cpu(Kind::Nginx))),
        ),
        (
            "failed requests and streams".to_owned(),
            Bar::AtMost(0.0),
            failed.map(|count| (count as f64, count.to_string())),
        ),
    ]
}

fn many(found: Option<&keys::Found>) -> [(String, Bar, Measured); 2] {
    let load = found.and_then(|found| {
        let cpu = median(found.load_cpu_ms.iter().copied()).unwrap_or(f64::NAN);
        spread(&found.load_ms, 1).map(|(middle, text)| (middle, format!("{text}, {cpu:.1} of CPU")))
    });
    let memory = found.and_then(|found| spread(&found.memory_mib, 1));
    [
        (format!("loading {} keys, ms", keyfile::KEYS), Bar::AtMost(100.0), load),
        (format!("memory of {} keys, MiB", keyfile::KEYS), Bar::AtMost(20.0), memory),
    ]
}

fn added(rounds: &[store::Round]) -> Measured {
    let all = |figure: fn(store::Times) -> u32| rounds.iter().map(|round| round.added_ms(figure)).collect::<Vec<_>>();
    let p50 = median(all(|times| times.p50))?;
    spread(&all(|times| times.p99), 2).map(|(middle, text)| (middle, format!("{text}, p50 {p50:.2}")))
}

/// The median of several, and from where to where they go.
fn spread(values: &[f64], decimals: usize) -> Measured {
    let middle = median(values.iter().copied())?;
    let low = values.iter().copied().reduce(f64::min)?;
    let high = values.iter().copied().reduce(f64::max)?;
    Some((middle, format!("{middle:.decimals$} ({low:.decimals$} to {high:.decimals$})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_is_judged() {
        let keys = keys::Found { load_ms: vec![90.0, 101.0, 80.04], load_cpu_ms: vec![60.0], memory_mib: vec![20.1] };
        let found = Found { key: [vec![900.0, 1500.4, 1500.0], vec![1501.0]], keys: Some(keys), ..Found::default() };
        let text = table(&found).to_string();
        for part in ["1500 (900 to 1500)", "90.0 (80.0 to 101.0), 60.0 of CPU", "20.1 (20.1 to 20.1)"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let counts =
            |text: &str| ["bar met", "bar missed", "not measured"].map(|verdict| text.matches(verdict).count());
        assert_eq!(counts(&text), [2, 2, 4], "{text}");
        assert_eq!(counts(&table(&Found::default()).to_string()), [0, 0, 8]);
    }
}
