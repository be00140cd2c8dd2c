//! The command line of the clients' bars.

use std::path::PathBuf;

use crate::complaint::Complaint;
use crate::options::{Asked, ROUNDS_MAX, SECONDS_MAX, each_option, number, path, usage};

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A request's key and policy, in process.
    Key,
    /// Requests a second with keys beside nginx without.
    Rate,
    /// What a relayed event costs beside nginx.
    Chunks,
    /// Loading many keys, and their memory.
    Keys,
    /// What a store adds in which several gates count.
    Store,
}

impl Part {
    /// Every part, in the order of tables.
    pub(crate) const ALL: [Self; 5] = [Self::Key, Self::Rate, Self::Chunks, Self::Keys, Self::Store];

    /// Its name in options.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Rate => "rate",
            Self::Chunks => "chunks",
            Self::Keys => "keys",
            Self::Store => "store",
        }
    }
}

/// What to measure.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    /// Of the comparisons with nginx, and of gates with keys and without.
    pub(crate) rounds: u32,
    /// Of each measurement beside nginx.
    pub(crate) seconds: u32,
    pub(crate) gate: Option<PathBuf>,
    /// Empty is all.
    parts: Vec<Part>,
}

impl Default for Options {
    fn default() -> Self {
        Self { rounds: 5, seconds: 5, gate: None, parts: Vec::new() }
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

/// Reads what stands behind `clients`; none where help is asked for.
pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Options>, Complaint> {
    let mut options = Options::default();
    let asked = each_option(arguments, |name, value| {
        match name {
            "--rounds" => options.rounds = number(name, value(), 1..=ROUNDS_MAX)?,
            "--seconds" => options.seconds = number(name, value(), 1..=SECONDS_MAX)?,
            "--only" => options.select(&value().ok_or_else(|| usage("--only needs a value"))?)?,
            "--gate" => options.gate = Some(path(name, value())?),
            _ => return Err(usage(format!("{name} is no option of clients"))),
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
        let some = read("--only keys,rate --only=key --rounds 2 --seconds=3 --gate /bin/gate").unwrap().unwrap();
        let done: Vec<Part> = Part::ALL.into_iter().filter(|part| some.does(*part)).collect();
        assert_eq!(done, [Part::Key, Part::Rate, Part::Keys]);
        assert_eq!((some.rounds, some.seconds, some.gate), (2, 3, Some("/bin/gate".into())));
        assert_eq!(read("--help"), Ok(None));
    }

    #[test]
    fn bad_usage_is_named() {
        for (line, part) in [
            ("--scale 3", "--scale is no option of clients"),
            ("--only speed", "--only speed: no such part"),
            ("--rounds 0", "from 1 to 100"),
            ("--only", "--only needs a value"),
        ] {
            let said = read(line).unwrap_err();
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}
