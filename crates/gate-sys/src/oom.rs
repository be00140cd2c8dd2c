//! How often the kernel has killed for want of memory, where this process lives.
//!
//! A process that was killed cannot say why; the counter of its control group can. It is found once, from
//! `/proc/self/cgroup` and `/proc/self/mountinfo`, and read again whenever somebody wants to know. It limits nothing
//! and never writes. Invariant: a count only grows; what cannot be read is `None`.

use std::fs;
use std::path::{Path, PathBuf};

/// What the last resort counts.
const MACHINE: &str = "/proc/vmstat";

/// Whose kills are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those of this process's own control group: its family, where the gate has a group to itself.
    Cgroup,
    /// Those of the whole machine, or of what a container takes for one.
    Machine,
}

/// A counter of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OomCounter {
    file: PathBuf,
    scope: Scope,
}

impl OomCounter {
    /// The counter closest to this process: its control group's (version 2 or 1), or the machine's. `None` where the
    /// kernel tells neither.
    pub fn find() -> Option<Self> {
        let machine = || Self { file: MACHINE.into(), scope: Scope::Machine };
        [own_group(), Some(machine())].into_iter().flatten().find(|counter| counter.count().is_some())
    }

    /// Whose kills it counts.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// How many processes the kernel has killed so far. `None` when the group is gone or hidden.
    pub fn count(&self) -> Option<u64> {
        kills(&fs::read_to_string(&self.file).ok()?)
    }

    /// The counter of the control group with this directory.
    fn of_group(directory: &Path) -> Option<Self> {
        // The first counts this group alone, the second what is below it too, the third is of version 1.
        let files = ["memory.events.local", "memory.events", "memory.oom_control"];
        let counters = files.map(|name| Self { file: directory.join(name), scope: Scope::Cgroup });
        counters.into_iter().find(|counter| counter.count().is_some())
    }
}

fn own_group() -> Option<OomCounter> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    directories(&groups, &mounts).iter().find_map(|directory| OomCounter::of_group(directory))
}

/// The number in the line `oom_kill N`.
fn kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Where the memory group of this process can be seen: of version 1 first, since a controller that is mounted there
/// does not count in version 2.
fn directories(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let of = |version: &Version| {
        let path = groups.lines().find_map(|line| version.path(line))?;
        mounts.lines().find_map(|line| version.mounted(line, path))
    };
    [Version::One, Version::Two].iter().filter_map(of).collect()
}

/// Of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// A hierarchy for each controller.
    One,
    /// One hierarchy for all.
    Two,
}

impl Version {
    /// The group's path in a line of `/proc/self/cgroup`: `4:memory:/a/b` or `0::/a/b`.
    fn path(self, line: &str) -> Option<&Path> {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let fits = match self {
            Self::One => controllers.split(',').any(|controller| controller == "memory"),
            Self::Two => hierarchy == "0" && controllers.is_empty(),
        };
        fits.then(|| Path::new(path))
    }

    /// The directory of `path` under a line of `/proc/self/mountinfo`, where it is a mount of the group's hierarchy
    /// that shows it: `35 31 0:32 ROOT POINT options [optional] - type source options`.
    fn mounted(self, line: &str, path: &Path) -> Option<PathBuf> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (unescaped(mount.next()?), unescaped(mount.next()?));
        let mut filesystem = filesystem.split(' ');
        let (kind, options) = (filesystem.next()?, filesystem.nth(1)?);
        let fits = match self {
            Self::One => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
            Self::Two => kind == "cgroup2",
        };
        // A path with `..` in it is outside of this process's control group namespace.
        let inside = !path.components().any(|part| part == std::path::Component::ParentDir);
        (fits && inside).then(|| path.strip_prefix(&root).ok().map(|below| Path::new(&point).join(below))).flatten()
    }
}

/// A path of mountinfo, where the kernel writes blanks, tabs, newlines and backslashes as `\` and three octal digits.
fn unescaped(field: &str) -> String {
    let mut pieces = field.split('\\');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        if let Some(code) = piece.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            text.push(char::from(code));
            text.push_str(&piece[3..]);
        } else {
            text.push('\\');
            text.push_str(piece);
        }
    }
    text
}

#[cfg(test)]
mod tests;
