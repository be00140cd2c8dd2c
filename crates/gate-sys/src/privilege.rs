//! Becoming another user, after the sockets are bound and before the first request is read.

use std::ffi::CString;
use std::io;

use nix::unistd::{self, Gid, Group, Uid, User};

use crate::process;

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

    /// Whether becoming it changes nothing.
    pub fn is_own(&self) -> bool {
        self.user.as_ref().is_none_or(|(uid, _)| *uid == unistd::getuid())
            && self.group.is_none_or(|gid| gid == unistd::getgid())
    }

    /// Takes on this identity: supplementary groups, group, user, in that order. The wish to be told of the master's
    /// death, which a change of user clears, is made again.
    ///
    /// # Errors
    /// `EPERM` without the privilege to change.
    pub fn assume(&self) -> io::Result<()> {
        if self.is_own() {
            return Ok(());
        }
        if let (Some((_, name)), Some(gid)) = (&self.user, self.group) {
            unistd::initgroups(name, gid)?;
        }
        if let Some(gid) = self.group {
            unistd::setgid(gid)?;
        }
        if let Some((uid, _)) = &self.user {
            unistd::setuid(*uid)?;
        }
        process::die_with_parent()
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
mod tests {
    use super::*;

    #[test]
    fn finds_by_name_and_number_and_says_what_is_missing() {
        let root = Identity::find(Some("root"), None).unwrap();
        assert_eq!(root, Identity::find(Some("0"), Some("0")).unwrap());
        assert_eq!(Identity::find(Some("no-such-user"), None).unwrap_err(), "no user \"no-such-user\" on this machine");
        assert!(Identity::find(None, None).unwrap().is_own());
    }
}
