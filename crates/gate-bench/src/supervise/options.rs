//! The command line of the trials.

use std::path::PathBuf;

use super::contender::Contender;
use super::trial::Trial;
use crate::complaint::Complaint;
use crate::options::{Asked, each_option, number, path, usage};

/// Seconds that recovery is waited for; a run has up to a hundred such waits.
const SECONDS_MAX: u32 = 60;

/// What to try.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    /// How long recovery is waited for.
    pub(crate) seconds: u32,
    pub(crate) gate: Option<PathBuf>,
    pub(crate) python: Option<PathBuf>,
    /// Empty is all.
    contenders: Vec<Contender>,
    /// Empty is all, and the bars.
    trials: Vec<Chosen>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Chosen {
    Trial(Trial),
    Bars,
}

impl Default for Options {
    fn default() -> Self {
        Self { seconds: 10, gate: None, python: None, contenders: Vec::new(), trials: Vec::new() }
    }
}

impl Options {
    /// Whether a server is to be tried.
    pub(crate) fn wants(&self, contender: Contender) -> bool {
        self.contenders.is_empty() || self.contenders.contains(&contender)
    }

    /// Whether a trial is to be made.
    pub(crate) fn does(&self, trial: Trial) -> bool {
        self.trials.is_empty() || self.trials.contains(&Chosen::Trial(trial))
    }

    /// Whether the gate's bars are to be measured: unless other trials or other servers alone were named.
    pub(crate) fn does_bars(&self) -> bool {
        self.wants(Contender::Gate) && (self.trials.is_empty() || self.trials.contains(&Chosen::Bars))
    }

    fn select(&mut self, names: &str) -> Result<(), Complaint> {
        for name in names.split(',') {
            let contender = Contender::ALL.into_iter().find(|one| one.name() == name);
            let trial = Trial::ALL.into_iter().find(|one| one.name() == name);
            match (contender, trial) {
                (Some(contender), _) => self.contenders.push(contender),
                (_, Some(trial)) => self.trials.push(Chosen::Trial(trial)),
                _ if name == "bars" => self.trials.push(Chosen::Bars),
                _ => return Err(usage(format!("--only {name}: no such server or trial"))),
            }
        }
        Ok(())
    }
}

/// Reads what stands behind `supervise`; none where help is asked for.
pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Options>, Complaint> {
    let mut options = Options::default();
    let asked = each_option(arguments, |name, value| {
        match name {
            "--seconds" => options.seconds = number(name, value(), 1..=SECONDS_MAX)?,
            "--only" => options.select(&value().ok_or_else(|| usage("--only needs a value"))?)?,
            "--gate" => options.gate = Some(path(name, value())?),
            "--python" => options.python = Some(path(name, value())?),
            _ => return Err(usage(format!("{name} is no option of supervise"))),
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
        assert!(all.wants(Contender::HaProxy) && all.does(Trial::Hung) && all.does_bars());
        let some = read("--only nginx,gate --only=reload --seconds 3 --python /bin/python3").unwrap().unwrap();
        assert!(some.wants(Contender::Gate) && !some.wants(Contender::GateReusePort));
        assert!(some.does(Trial::Reload) && !some.does(Trial::Kill) && !some.does_bars());
        assert_eq!((some.seconds, some.python), (3, Some("/bin/python3".into())));
        assert!(read("--only bars").unwrap().is_some_and(|options| options.does_bars()));
        assert!(read("--only nginx").unwrap().is_some_and(|options| !options.does_bars()));
        assert_eq!(read("--help"), Ok(None));
    }

    #[test]
    fn bad_usage_is_named() {
        for (line, part) in [
            ("--rounds 3", "--rounds is no option of supervise"),
            ("--only apache", "--only apache: no such server or trial"),
            ("--seconds 0", "from 1 to 60"),
            ("--python=", "--python needs a path"),
        ] {
            let said = read(line).unwrap_err();
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}
