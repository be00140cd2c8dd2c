//! The command line of the fleet's bars.

use std::path::PathBuf;

use crate::complaint::Complaint;
use crate::options::{Asked, ROUNDS_MAX, SECONDS_MAX, each_option, number, path, usage};

/// The scale of loads and answers: a run of some minutes becomes one of two. What is in memory is asked for once a second, whatever
/// the scale, so a larger one measures how old that is.
const SCALE: u32 = 3;
/// Beyond this, the timers' own steps would be measured.
const SCALE_MAX: u32 = 50;

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Choosing and leasing, in process.
    Lease,
    /// Requests a second beside nginx.
    Rate,
    /// Shares and waits beside a greedy client.
    Fairness,
    /// Slots after workers were killed.
    Kills,
    /// From a client that leaves to a backend that stops.
    Cancel,
    /// Model loads beside round robin.
    Swaps,
}

impl Part {
    /// Every part, in the order of tables.
    pub(crate) const ALL: [Self; 6] = [Self::Lease, Self::Rate, Self::Fairness, Self::Kills, Self::Cancel, Self::Swaps];

    /// Its name in options.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Rate => "rate",
            Self::Fairness => "fairness",
            Self::Kills => "kills",
            Self::Cancel => "cancel",
            Self::Swaps => "swaps",
        }
    }
}

/// What to measure.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    /// Of the comparison with nginx.
    pub(crate) rounds: u32,
    /// Of each of its measurements.
    pub(crate) seconds: u32,
    /// What the times of loads and answers are divided by where loads are measured.
    pub(crate) scale: u32,
    pub(crate) gate: Option<PathBuf>,
    /// Empty is all.
    parts: Vec<Part>,
}

impl Default for Options {
    fn default() -> Self {
        Self { rounds: 5, seconds: 5, scale: SCALE, gate: None, parts: Vec::new() }
    }
}

impl Options {
    /// Whether a part is to be measured.
    pub(crate) fn does(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    fn select(&mut self, names: &str) -> Result<(), Complaint> {
        for name in names.split(',') {
            let part = Part::ALL.into_iter().find(|part| part.name() == name);
            self.parts.push(part.ok_or_else(|| usage(format!("--only {name}: no such part")))?);
        }
        Ok(())
    }
}

/// Reads what stands behind `fleet`; none where help is asked for.
pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Options>, Complaint> {
    let mut options = Options::default();
    let asked = each_option(arguments, |name, value| {
        match name {
            "--rounds" => options.rounds = number(name, value(), 1..=ROUNDS_MAX)?,
            "--seconds" => options.seconds = number(name, value(), 1..=SECONDS_MAX)?,
            "--scale" => options.scale = number(name, value(), 1..=SCALE_MAX)?,
            "--only" => options.select(&value().ok_or_else(|| usage("--only needs a value"))?)?,
            "--gate" => options.gate = Some(path(name, value())?),
            _ => return Err(usage(format!("{name} is no option of fleet"))),
        }
        Ok(())
    })?;
    Ok((asked == Asked::Work).then_some(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Options>, String> {
        parse(line.split_whitespace().map(str::to_owned)).map_err(|why| why.to_string())
    }

    #[test]
    fn everything_unless_named() {
        let all = read("").unwrap().unwrap();
        assert!(Part::ALL.into_iter().all(|part| all.does(part)));
        let some =
            read("--only lease,kills --only=swaps --rounds 2 --seconds=3 --scale 1 --gate /bin/gate").unwrap().unwrap();
        let done: Vec<Part> = Part::ALL.into_iter().filter(|part| some.does(*part)).collect();
        assert_eq!(done, [Part::Lease, Part::Kills, Part::Swaps]);
        assert_eq!((some.rounds, some.seconds, some.scale, some.gate), (2, 3, 1, Some("/bin/gate".into())));
        assert_eq!(read("--help"), Ok(None));
    }

    #[test]
    fn bad_usage_is_named() {
        for (line, part) in [
            ("--python 3", "--python is no option of fleet"),
            ("--only speed", "--only speed: no such part"),
            ("--seconds 0", "from 1 to 60"),
            ("--only", "--only needs a value"),
        ] {
            let said = read(line).unwrap_err();
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}
