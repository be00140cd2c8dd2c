//! The key file in the hands of whoever changes it: one at a time, whole or not at all.
//!
//! A change is a new file in the old one's place. Invariant: whoever holds a [`Sheet`] holds the lock of the file that
//! has the name, and no other command changes it meanwhile; comments and lines that are not meant stay as they are.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use gate_config::keyfile::{self, KeyFile};
use gate_config::{Settings, Source};
use gate_master::secrets::open_private;
use nix::fcntl::{Flock, FlockArg};

use super::Fault;
use crate::command::read_file;

/// The environment variable of the key `keys`.
const ENVIRONMENT: &str = "OLLAMA_GATE_KEYS";

/// How often a file may be replaced between its opening and its locking: as often as commands can wait for one another.
const TRIES_MAX: usize = 1_000;

/// What a key file may be read by.
const MODE: u32 = 0o600;

/// What to do where there is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// Make an empty one.
    Made,
    /// Say so.
    Refused,
}

/// The file that is meant: of the flag, the environment, or the configuration file.
pub(super) fn path(flag: Option<&Path>, config: Option<&Path>) -> Result<PathBuf, Fault> {
    let variable = || std::env::var_os(ENVIRONMENT).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = flag.map(Path::to_path_buf).or_else(variable) {
        return Ok(path);
    }
    let unnamed = "say which key file with --keys FILE, or name the configuration that does with --config";
    let Some(config) = config else { return Err(Fault::File(vec![unnamed.to_owned()])) };
    let text = read_file(config).map_err(|complaints| Fault::File(vec![complaints.to_string()]))?;
    let settings = Settings::as_far_as_readable((&config.display().to_string(), &text));
    let typed = settings.typed("keys").filter(|typed| typed.source != Source::Default).map(|typed| typed.text.trim());
    let typed = typed.filter(|text| !text.is_empty()).map(PathBuf::from);
    typed.ok_or_else(|| {
        Fault::File(vec![format!("{} names no key file: set `keys` there, or {unnamed}", config.display())])
    })
}

/// A key file that is locked.
pub(super) struct Sheet {
    path: PathBuf,
    text: String,
    /// Of the file that has the name now.
    lock: Flock<File>,
}

impl Sheet {
    /// Opens and locks the file, however long another command has it.
    pub(super) fn open(path: &Path, absent: Absent) -> Result<Self, Fault> {
        let told = |why: String| Fault::File(vec![why]);
        let shown = path.display();
        if absent == Absent::Made {
            let made = File::options().append(true).create(true).mode(MODE).open(path);
            made.map_err(|error| told(format!("cannot make {shown}: {error}")))?;
        }
        // The file itself, not a link to it, is what is replaced.
        let path = fs::canonicalize(path).map_err(|error| told(format!("cannot open {shown}: {error}")))?;
        for _ in 0..TRIES_MAX {
            let file = open_private(&path).map_err(told)?;
            let lock = Flock::lock(file, FlockArg::LockExclusive);
            let lock = lock.map_err(|(_, error)| told(format!("cannot lock {shown}: {error}")))?;
            let (held, named) = (lock.metadata(), fs::metadata(&path));
            if let (Ok(held), Ok(named)) = (held, named)
                && (held.dev(), held.ino()) == (named.dev(), named.ino())
            {
                let mut text = String::new();
                let read = (&*lock).read_to_string(&mut text);
                read.map_err(|error| told(format!("cannot read {shown}: {error}")))?;
                return Ok(Self { path, text, lock });
            }
        }
        Err(told(format!("{shown} is replaced all the time: who else changes it?")))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What a text of this file means.
    pub(super) fn parse<'a>(&self, text: &'a str) -> Result<KeyFile<'a>, Fault> {
        keyfile::parse(text).map_err(|faults| Fault::File(faults.told(&self.path.display().to_string())))
    }

    /// Puts a new file with this text in the old one's place, as safe from a loss of power as the file system makes it.
    pub(super) fn write(&mut self, text: &str) -> Result<(), Fault> {
        self.replace(text).map_err(|error| Fault::File(vec![format!("cannot write {}: {error}", self.path.display())]))
    }

    fn replace(&mut self, text: &str) -> io::Result<()> {
        let old = self.lock.metadata()?;
        let mut draft = Draft::beside(&self.path)?;
        let new = draft.file.metadata()?;
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            fchown(&draft.file, Some(old.uid()), Some(old.gid()))?;
        }
        // Whatever the umask is, and however narrow it made the file.
        draft.file.set_permissions(fs::Permissions::from_mode(MODE))?;
        draft.file.write_all(text.as_bytes())?;
        draft.file.sync_all()?;
        // Before it has the name, so that nobody is first.
        let lock = Flock::lock(draft.file.try_clone()?, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        draft.rename(&self.path)?;
        self.lock = lock;
        text.clone_into(&mut self.text);
        Ok(())
    }
}

/// A file that is being written, and gone again unless it gets its name.
struct Draft {
    file: File,
    path: Option<PathBuf>,
}

impl Draft {
    fn beside(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut draft = OsString::from(".");
        draft.push(name);
        draft.push(format!(".{}", std::process::id()));
        let path = path.with_file_name(draft);
        // One that a killed command with the same pid has left is in nobody's use: its name has our pid.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::options().write(true).create_new(true).mode(MODE).open(&path)?;
        Ok(Self { file, path: Some(path) })
    }

    fn rename(mut self, name: &Path) -> io::Result<()> {
        if let Some(path) = &self.path {
            fs::rename(path, name)?;
        }
        self.path = None;
        // The name is as safe as the directory that it stands in.
        name.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // It holds what the file held, and can be read by nobody else.
            drop(fs::remove_file(path));
        }
    }
}

/// The text with other times of expiry in some lines, and without some; ends with a line break.
pub(super) fn changed(text: &str, ends: &[(usize, u32)], gone: &[usize]) -> String {
    let mut changed = String::with_capacity(text.len());
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        if gone.contains(&number) {
            continue;
        }
        match ends.iter().find(|(wanted, _)| *wanted == number) {
            Some((_, expires)) => changed += &with_expiry(line, &keyfile::time_text(*expires)),
            None => changed += line,
        }
    }
    if !changed.is_empty() && !changed.ends_with('\n') {
        changed.push('\n');
    }
    changed
}

/// The line with another sixth word.
fn with_expiry(line: &str, expires: &str) -> String {
    let mut words = line.split_ascii_whitespace();
    let Some(word) = words.nth(5) else { return line.to_owned() };
    let start = word.as_ptr() as usize - line.as_ptr() as usize;
    [&line[..start], expires, &line[start + word.len()..]].concat()
}
