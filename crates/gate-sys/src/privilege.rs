//! Becoming another user, giving up what is not needed, and the sandbox: after the sockets are bound and before the
//! first request is read.
//!
//! Who may run as whom is the configuration's word. Invariant: nothing here gives a process more than it had, and a
//! step that did not take is an error.

mod capability;
mod sandbox;

use std::ffi::CString;
use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{self, Gid, Group, Uid, User};

use self::capability::{Capability, Held, Set};
use crate::process;

pub use self::sandbox::sandbox;

/// What a master needs that serves as root and lets its children be somebody else: to make them so and to take from
/// them what they do not need, to signal them, to bind ports below 1024, and to open and give away files and sockets
/// in directories that are not root's.
const MASTERS: [Capability; 7] = [
    Capability::SetUid,
    Capability::SetGid,
    Capability::SetPcap,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Chown,
    Capability::DacOverride,
];

/// A user and group that exist on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    user: Option<(Uid, CString)>,
    group: Option<Gid>,
}

impl Identity {
    /// Looks up a user and a group by name or number. A user without a group brings its primary group along.
    ///
    /// # Errors
    /// The name that is not known, as text.
    pub fn find(user: Option<&str>, group: Option<&str>) -> Result<Self, String> {
        let found = user.map(find_user).transpose()?;
        let group = group.map(find_group).transpose()?.or(found.as_ref().map(|user| user.gid));
        let user = match found {
            Some(user) => {
                Some((user.uid, CString::new(user.name).map_err(|_| "a user name with a NUL in it".to_owned())?))
            }
            None => None,
        };
        Ok(Self { user, group })
    }

    /// Gives a file to this user and group, where that is a change.
    ///
    /// # Errors
    /// `EPERM` without the privilege.
    pub fn give(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        if self.is_own() {
            return Ok(());
        }
        Ok(unistd::fchown(file, self.user.as_ref().map(|(uid, _)| *uid), self.group)?)
    }

    /// Whether a file of this user is one that the gate may believe: root's, this process's or this identity's.
    pub fn trusts(&self, owner: u32) -> bool {
        let owner = Uid::from_raw(owner);
        owner.is_root() || owner == unistd::geteuid() || self.user.as_ref().is_some_and(|(uid, _)| *uid == owner)
    }

    /// Whether becoming it changes neither user nor group.
    pub fn is_own(&self) -> bool {
        self.user.as_ref().is_none_or(|(uid, _)| *uid == unistd::getuid())
            && self.group.is_none_or(|gid| gid == unistd::getgid())
    }

    /// Takes on this identity for good: supplementary groups, group, user, in that order. Also where that changes
    /// nothing, the process has no capability afterwards and cannot be given any by a file it executes.
    ///
    /// A change of user or group clears two wishes of a process. The one to be told of the master's death is made
    /// again. The other, to be dumpable, is not: memory with people's prompts in it stays closed to other processes of
    /// that user, and whether a core is left is `fs.suid_dumpable`'s to say. What a process reads of itself under
    /// `/proc/self` stays readable for it, as does what everybody may read of it (`stat`, `statm`, `status`).
    ///
    /// # Errors
    /// `EPERM` without the privilege to change; [`io::ErrorKind::Unsupported`] in a process with several threads, of
    /// which the others would keep what they have; [`io::ErrorKind::Other`] when a step did not take.
    pub fn assume(&self) -> io::Result<()> {
        one_thread()?;
        // A change of user takes the capability that is needed for this.
        let may_bound = Held::now()?.effective.has(Capability::SetPcap);
        if may_bound {
            capability::bound_to(Set::NONE)?;
        }
        self.change()?;
        // A service manager may refuse the call to those who have nothing to give up.
        if Held::now()? != Held::NOTHING {
            Held::NOTHING.assume()?;
        }
        // Without CAP_SETPCAP the bounding set stays as it was; this makes it moot.
        prctl::set_no_new_privs()?;
        process::die_with_parent()?;
        self.verify(may_bound.then_some(Set::NONE))
    }

    fn change(&self) -> io::Result<()> {
        if let Some(gid) = self.group {
            self.set_groups(gid)?;
            if !has_group(gid)? {
                unistd::setresgid(gid, gid, gid)?;
            }
        }
        if let Some((uid, _)) = self.user
            && !has_user(uid)?
        {
            unistd::setresuid(uid, uid, uid)?;
        }
        Ok(())
    }

    /// The user's further groups; none for a group without a user. Not root's, whoever it is.
    fn set_groups(&self, gid: Gid) -> io::Result<()> {
        if !Held::now()?.effective.has(Capability::SetGid) {
            return Ok(()); // Who cannot change groups has none of root's, or fails at the group itself.
        }
        let done = match &self.user {
            Some((_, name)) => unistd::initgroups(name, gid),
            None => unistd::setgroups(&[]),
        };
        match done {
            // User namespaces may forbid it to everybody; where nothing else changes, that is no reason to fail.
            Err(Errno::EPERM) if self.is_own() => Ok(()),
            done => Ok(done?),
        }
    }

    /// Whether all of it took.
    fn verify(&self, bounding: Option<Set>) -> io::Result<()> {
        if let Some((uid, _)) = self.user
            && !has_user(uid)?
        {
            return Err(io::Error::other("the change of user did not take"));
        }
        if let Some(gid) = self.group
            && !has_group(gid)?
        {
            return Err(io::Error::other("the change of group did not take"));
        }
        let root = Uid::from_raw(0);
        if unistd::getuid() != root && unistd::setresuid(root, root, root).is_ok() {
            return Err(io::Error::other("the way back to root is open"));
        }
        let bounded = bounding.map_or(Ok(true), |wanted| capability::bounding().map(|found| found == wanted))?;
        if Held::now()? != Held::NOTHING || !bounded || !prctl::get_no_new_privs()? {
            return Err(io::Error::other("capabilities were not given up"));
        }
        Ok(())
    }
}

/// What to tell the operator of a gate that serves as `identity`: that workers stay root, where nobody has said so.
pub fn warning(identity: &Identity) -> Option<&'static str> {
    let unsaid = identity.user.is_none() && unistd::geteuid().is_root();
    unsaid.then_some(
        "serving as root: workers have no capabilities, but root's files are theirs to read and write; name a user \
         with --user, or say --user root if it is meant so",
    )
}

/// In the master, when its children become somebody else: keeps the capabilities it needs for them, for its sockets and
/// for reloads, and gives up all others, out of the bounding set too.
///
/// `no_new_privs` is not set: an upgrade executes a new binary, which may have capabilities by its file, and which a
/// security module may know by its own name; neither works with it. What a binary can gain is bounded by the same set.
/// Root in another namespace, or a user with a few capabilities, keeps those of the list that it has.
///
/// # Errors
/// None that Linux documents for a process that gives up what it holds.
pub fn trim_master() -> io::Result<()> {
    let (held, keep) = (Held::now()?, Set::of(&MASTERS));
    if held.effective.has(Capability::SetPcap) {
        capability::bound_to(keep)?;
    }
    let permitted = held.permitted.within(keep);
    // What was inherited stays so: without root, it is how a new binary comes by the same capabilities.
    Held { permitted, effective: permitted, inheritable: held.inheritable.within(keep) }.assume()
}

/// Keeps the memory of this process, and of those that it forks from here on, out of core files and from other processes
/// of its user. A change of user or group may take it back: say it again then.
///
/// # Errors
/// None that Linux documents.
pub fn forbid_cores() -> io::Result<()> {
    Ok(prctl::set_dumpable(false)?)
}

/// The permissions that files and unix sockets made from here on do not get.
pub fn set_umask(mask: u16) {
    umask(Mode::from_bits_truncate(mask.into()));
}

/// Whether this is the user, with no other to go back to.
fn has_user(uid: Uid) -> io::Result<bool> {
    let found = unistd::getresuid()?;
    Ok([found.real, found.effective, found.saved] == [uid; 3])
}

/// Whether this is the group, with no other to go back to.
fn has_group(gid: Gid) -> io::Result<bool> {
    let found = unistd::getresgid()?;
    Ok([found.real, found.effective, found.saved] == [gid; 3])
}

/// What a thread gives up, it gives up for itself and for those that it starts later.
fn one_thread() -> io::Result<()> {
    match std::fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        _ => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "a process with several threads cannot give up privileges"))
        }
    }
}

fn find_user(text: &str) -> Result<User, String> {
    let found = match text.parse::<u32>() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(text),
    };
    found.ok().flatten().ok_or_else(|| format!("no user {text:?} on this machine"))
}

fn find_group(text: &str) -> Result<Gid, String> {
    let found = match text.parse::<u32>() {
        Ok(gid) => return Ok(Gid::from_raw(gid)),
        Err(_) => Group::from_name(text),
    };
    found.ok().flatten().map(|group| group.gid).ok_or_else(|| format!("no group {text:?} on this machine"))
}

#[cfg(test)]
mod tests;
