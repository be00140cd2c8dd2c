//! The command that makes, lists, revokes and rotates the keys of clients.
//!
//! It changes the key file and tells a gate that runs to read it; what a key may do is judged by the gate's own reader.
//! Invariant: the text of a key is printed once, alone on standard output, and only when the key is in the file; no salt
//! and no hash is ever printed.

mod flags;
mod list;
mod messenger;
mod sheet;
mod times;

use std::fmt;
use std::path::PathBuf;

use gate_config::WINDOWS_MAX;
use gate_config::exit::{EX_CONFIG, EX_NOPERM, EX_OK, EX_REFUSED, EX_SOFTWARE, EX_UNAVAILABLE};
use gate_config::keyfile::{self, KEYS_MAX, KeyFile, KeyLine, NEVER, id_text};
use gate_worker::keys::{Fresh, RANDOM_BYTES};
use jiff::Timestamp;

use self::list::Form;
use self::messenger::{Told, tell};
use self::sheet::{Absent, Sheet};
use self::times::{Expiry, moment};
use crate::say;
use crate::status::counted;

pub(crate) use self::flags::definition;

/// Ids that are drawn before giving up: among as many keys as there may be, one in 10^13 is taken.
const DRAWS_MAX: usize = 8;

/// What is to be done with the key file.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    New { name: String, policy: String, expires: Option<Expiry> },
    List(Form),
    Revoke(Vec<String>),
    Rotate { name: String, grace: u32, expires: Option<Expiry> },
}

/// A task, and where to do it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Errand {
    task: Task,
    keys: Option<PathBuf>,
    control: Option<PathBuf>,
    config: Option<PathBuf>,
}

/// Why nothing was done.
#[derive(Debug)]
enum Fault {
    /// The file, or where it is, is not as it should be.
    File(Vec<String>),
    /// What was asked for does not go with what is in the file.
    Refused(Vec<String>),
    /// The kernel gives no random numbers, or the terminal is gone.
    Machine(String),
}

impl Fault {
    fn code(&self) -> u8 {
        match self {
            Self::File(_) => EX_CONFIG,
            Self::Refused(_) => EX_REFUSED,
            Self::Machine(_) => EX_SOFTWARE,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(reasons) | Self::Refused(reasons) => f.write_str(&reasons.join("\nollama-gate key: ")),
            Self::Machine(reason) => f.write_str(reason),
        }
    }
}

impl Errand {
    /// Does it; the exit code.
    pub(crate) fn run(&self) -> u8 {
        let now = Timestamp::now().as_second() as u32;
        let done = sheet::path(self.keys.as_deref(), self.config.as_deref()).and_then(|path| match &self.task {
            Task::List(form) => list::run(&path, *form, now),
            Task::New { name, policy, expires } => {
                let mut sheet = Sheet::open(&path, Absent::Made)?;
                self.make(&mut sheet, |keys| new(keys, (name, policy), *expires, now))
            }
            Task::Rotate { name, grace, expires } => {
                let mut sheet = Sheet::open(&path, Absent::Refused)?;
                self.make(&mut sheet, |keys| rotated(keys, (name, *grace), *expires, now))
            }
            Task::Revoke(wanted) => self.revoke(&mut Sheet::open(&path, Absent::Refused)?, wanted),
        });
        done.unwrap_or_else(|fault| {
            eprintln!("ollama-gate key: {fault}");
            fault.code()
        })
    }

    /// Adds a key and prints it. Whatever the gate refuses is taken out again, and so is a key that nobody could read.
    fn make(&self, sheet: &mut Sheet, planned: impl Fn(&KeyFile<'_>) -> Result<Planned, Fault>) -> Result<u8, Fault> {
        let before = sheet.text().to_owned();
        let keys = sheet.parse(&before)?;
        let planned = planned(&keys)?;
        let fresh = fresh(&keys)?;
        let text = sheet::changed(&before, &planned.ends, &[]) + &planned.line(&fresh);
        few_enough(&sheet.parse(&text)?)?;
        sheet.write(&text)?;
        let told = tell(sheet.path(), self.control.as_deref(), self.config.as_deref());
        if let Told::Refused(reasons) = told {
            sheet.write(&before)?;
            let undone = "the gate that runs refuses it, and nothing is changed".to_owned();
            return Err(Fault::Refused([undone].into_iter().chain(reasons).collect()));
        }
        if say(&format!("{}\n", fresh.text)) != EX_OK {
            sheet.write(&before)?;
            tell(sheet.path(), self.control.as_deref(), self.config.as_deref());
            return Err(Fault::Machine("the key could not be printed, and is withdrawn".to_owned()));
        }
        for line in &planned.said {
            eprintln!("{line}");
        }
        eprintln!("key {} of {}, {}; it is shown this once", id_text(fresh.id), planned.name, until(planned.expires));
        Ok(told.report())
    }

    fn revoke(&self, sheet: &mut Sheet, wanted: &[String]) -> Result<u8, Fault> {
        let before = sheet.text().to_owned();
        let keys = sheet.parse(&before)?;
        let is = |line: &KeyLine<'_>, word: &String| line.name == word || id_text(line.id) == *word;
        let missing = wanted.iter().filter(|word| !keys.lines.iter().any(|line| is(line, word)));
        let missing: Vec<String> = missing.map(|word| format!("no key and no name is {word:?}")).collect();
        if !missing.is_empty() {
            return Err(Fault::Refused(missing));
        }
        let gone: Vec<_> = keys.lines.iter().filter(|line| wanted.iter().any(|word| is(line, word))).collect();
        let lines: Vec<usize> = gone.iter().map(|line| line.line).collect();
        sheet.write(&sheet::changed(&before, &[], &lines))?;
        let told = tell(sheet.path(), self.control.as_deref(), self.config.as_deref());
        let (done, code) = match &told {
            Told::InForce(_) => ("is revoked", told.report()),
            // A key that leaked is no less dangerous for having left the file.
            Told::Elsewhere(said) | Told::Nobody(said) => {
                eprintln!("ollama-gate key: revoked in the file; no running gate was told: {said}");
                ("is revoked in the file", EX_UNAVAILABLE)
            }
            Told::NotPermitted(_) | Told::Silent(_) => ("is revoked in the file", told.report()),
            Told::Refused(reasons) => {
                let reasons = reasons.join("\nollama-gate key: ");
                eprintln!("ollama-gate key: the gate that runs has NOT taken this: {reasons}");
                ("is revoked in the file", told.report())
            }
        };
        for line in gone {
            eprintln!("key {} of {} {done}", id_text(line.id), line.name);
        }
        Ok(code)
    }
}

/// A key that is to be made, and what else changes with it.
struct Planned {
    name: String,
    policy: String,
    created: u32,
    expires: u32,
    /// Lines of other keys, and when these expire from now on.
    ends: Vec<(usize, u32)>,
    /// What to tell of them.
    said: Vec<String>,
}

impl Planned {
    /// The line of the file.
    fn line(&self, fresh: &Fresh) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let (salt, digest) = (hex(&fresh.salt), hex(&fresh.digest));
        let expires = if self.expires == 0 { NEVER.to_owned() } else { keyfile::time_text(self.expires) };
        let created = keyfile::time_text(self.created);
        let words = [&id_text(fresh.id), &salt, &digest, &self.name, &created, &expires, &self.policy];
        words.map(String::as_str).join(" ").trim_end().to_owned() + "\n"
    }
}

fn new(keys: &KeyFile<'_>, (name, policy): (&str, &str), expires: Option<Expiry>, now: u32) -> Result<Planned, Fault> {
    if keys.lines.iter().any(|line| line.name == name) {
        let remedy = format!("{name} has a key already: `ollama-gate key rotate {name}` gives it another one");
        return Err(Fault::Refused(vec![remedy]));
    }
    let expires = expires.map(|expires| moment(expires, now)).transpose().map_err(|why| Fault::Refused(vec![why]))?;
    let (name, policy) = (name.to_owned(), policy.to_owned());
    Ok(Planned { name, policy, created: now, expires: expires.unwrap_or(0), ends: Vec::new(), said: Vec::new() })
}

/// A key in place of those that `name` has, which go on for the grace time. It may do what the newest of them may, for as
/// long as that one could.
fn rotated(
    keys: &KeyFile<'_>,
    (name, grace): (&str, u32),
    expires: Option<Expiry>,
    now: u32,
) -> Result<Planned, Fault> {
    let old: Vec<_> = keys.lines.iter().filter(|line| line.name == name).collect();
    let Some(newest) = old.iter().max_by_key(|line| (line.created, line.line)) else {
        return Err(Fault::Refused(vec![format!(
            "no key is of {name}: `ollama-gate key new --name {name}` makes one"
        )]));
    };
    let until = now.saturating_add(grace);
    let goes_on = old.iter().filter(|line| line.expires == 0 || line.expires > until);
    let goes_on: Vec<_> = goes_on.collect();
    let lifetime = (newest.expires > newest.created).then(|| Expiry::After(newest.expires - newest.created));
    let expires = expires.or(lifetime).map(|expires| moment(expires, now)).transpose();
    let said = goes_on
        .iter()
        .map(|line| format!("key {} of {name} is good until {}", id_text(line.id), keyfile::time_text(until)));
    Ok(Planned {
        name: name.to_owned(),
        policy: keys.policies[newest.policy as usize].to_owned(),
        created: now,
        expires: expires.map_err(|why| Fault::Refused(vec![why]))?.unwrap_or(0),
        said: said.collect(),
        ends: goes_on.iter().map(|line| (line.line, until)).collect(),
    })
}

fn fresh(keys: &KeyFile<'_>) -> Result<Fresh, Fault> {
    if keys.lines.len() >= KEYS_MAX {
        return Err(Fault::Refused(vec![format!("the file has {KEYS_MAX} keys, and no more may be: revoke some")]));
    }
    for _ in 0..DRAWS_MAX {
        let mut bytes = [0; RANDOM_BYTES];
        let drawn = getrandom::fill(&mut bytes);
        drawn.map_err(|error| Fault::Machine(format!("no random numbers from the kernel: {error}")))?;
        let fresh = Fresh::from_random(bytes);
        if keys.lines.iter().all(|line| line.id != fresh.id) {
            return Ok(fresh);
        }
    }
    Err(Fault::Machine("the kernel's random numbers repeat themselves".to_owned()))
}

/// What no gate could take, whatever its own limits are.
fn few_enough(keys: &KeyFile<'_>) -> Result<(), Fault> {
    let windows = keys.windows().len();
    if windows <= WINDOWS_MAX {
        return Ok(());
    }
    let reason = format!(
        "limits and tokens of all keys would count in {windows} different window lengths: at most {WINDOWS_MAX}"
    );
    Err(Fault::Refused(vec![reason]))
}

fn until(expires: u32) -> String {
    if expires == 0 { "which never expires".to_owned() } else { format!("good until {}", keyfile::time_text(expires)) }
}

impl Told {
    /// Says what became of it; the exit code.
    fn report(&self) -> u8 {
        match self {
            Self::InForce(keys) => {
                let (count, names) = (counted(keys.keys, "key"), counted(keys.names, "name"));
                eprintln!("the gate has read it: {count} of {names} (generation {})", keys.generation);
                EX_OK
            }
            Self::Elsewhere(said) | Self::Nobody(said) => {
                eprintln!("{said}");
                EX_OK
            }
            Self::NotPermitted(said) => {
                eprintln!("{said}");
                EX_NOPERM
            }
            Self::Silent(said) => {
                eprintln!("{said}");
                EX_UNAVAILABLE
            }
            Self::Refused(_) => EX_REFUSED,
        }
    }
}

#[cfg(test)]
mod tests;
