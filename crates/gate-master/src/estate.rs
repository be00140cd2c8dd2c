//! What this process was handed at its start: by a service manager (sockets that it has opened, or that an earlier gate
//! gave into its keeping), or by the gate that it is to succeed.
//!
//! All come by one protocol, `LISTEN_FDS` with names. Names that begin with `gate.` are ours; all others are the
//! operator's.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use gate_sys::handed::{self, Given};
use gate_sys::listen::{self, Address, Listener};

use crate::birth;

pub(crate) const ZONE: &str = "gate.zone";
pub(crate) const VERDICT: &str = "gate.verdict";
pub(crate) const GO: &str = "gate.go";
const BIND: &str = "gate.bind.";
const PID: &str = "gate.pid.";
const CONTROL: &str = "gate.control.";

/// A listening socket that an earlier gate has bound.
#[derive(Debug)]
struct Left {
    /// As it was configured.
    wanted: Address,
    /// Which one of that address.
    slot: usize,
    fd: OwnedFd,
}

/// A socket that somebody else has opened for us.
#[derive(Debug)]
struct Activated {
    number: u32,
    name: String,
    fd: OwnedFd,
}

/// Everything handed over, until somebody takes it.
#[derive(Debug, Default)]
pub struct Estate {
    pub(crate) zone: Option<OwnedFd>,
    pub(crate) pid: Option<(PathBuf, OwnedFd)>,
    pub(crate) control: Option<(PathBuf, OwnedFd)>,
    /// Where the control socket is that the gate before us listens on too.
    lent_control: Option<PathBuf>,
    pub(crate) go: Option<File>,
    verdict: Option<File>,
    /// Files of the earlier gate that this one has no use for.
    pub(crate) stale: Vec<PathBuf>,
    left: Vec<Left>,
    activated: Vec<Activated>,
}

impl Estate {
    /// Takes over what was handed to this process. Call once, first thing in `main`, while the process has one thread.
    ///
    /// # Errors
    /// Variables that promise what is not there.
    pub fn take() -> io::Result<Self> {
        let mut estate = Self::default();
        for given in handed::take()? {
            estate.sort_in(given);
        }
        Ok(estate)
    }

    fn sort_in(&mut self, given: Given) {
        let (number, name) = (given.number(), given.name().to_owned());
        let fd = given.into_fd();
        let path = |prefix: &str| name.strip_prefix(prefix).and_then(handed::decode).map(PathBuf::from);
        if name == ZONE {
            self.zone = Some(fd);
        } else if name == VERDICT {
            self.verdict = Some(File::from(fd));
        } else if name == GO {
            self.go = Some(File::from(fd));
        } else if let Some(path) = path(PID) {
            self.pid = Some((path, fd));
        } else if let Some(path) = path(CONTROL) {
            self.lent_control = Some(path.clone());
            self.control = Some((path, fd));
        } else if let Some((slot, wanted)) = name.strip_prefix(BIND).and_then(bound) {
            self.left.push(Left { wanted, slot, fd });
        } else {
            // An operator's unit may be called gate.socket.
            self.activated.push(Activated { number, name, fd });
        }
    }

    /// The default of `bind` where sockets were handed over: all of them.
    pub fn default_bind(&self) -> Option<String> {
        let mut texts: Vec<String> =
            self.activated.iter().map(|socket| Address::Inherited(socket.number).text()).collect();
        let foreign = |address: &Address| matches!(address, Address::Inherited(_) | Address::Named(_));
        texts.extend(self.left.iter().map(|left| &left.wanted).filter(|wanted| foreign(wanted)).map(Address::text));
        texts.sort_unstable();
        texts.dedup();
        (!texts.is_empty()).then(|| texts.join(","))
    }

    /// The names of ours under which a service manager may keep something.
    pub(crate) fn kept_names(&self) -> Vec<String> {
        let zone = self.zone.iter().map(|_| ZONE.to_owned());
        zone.chain(self.left.iter().map(|left| bind_name(&left.wanted, left.slot))).collect()
    }

    /// Whether another gate serves until we say that we do.
    pub fn is_candidate(&self) -> bool {
        self.verdict.is_some()
    }

    /// Whether the gate before us listens for orders there as well.
    pub(crate) fn shares_control(&self, path: &Path) -> bool {
        self.lent_control.as_deref() == Some(path)
    }

    /// Tells the gate before us why it has to go on. Without one, nothing happens.
    pub fn refuse(&mut self, reason: &str) {
        refuse(self.verdict.take(), reason);
    }

    /// Another way to speak to the gate before us.
    pub(crate) fn verdict(&mut self) -> Option<File> {
        self.verdict.as_ref().and_then(|verdict| verdict.try_clone().ok())
    }

    /// Tells the gate before us that we serve, and which version we are.
    pub(crate) fn accept(&mut self, version: &str) {
        if let Some(mut verdict) = self.verdict.take()
            && let Err(error) = verdict.write_all(format!("1V{version}\n").as_bytes())
        {
            log::warn!("the gate before this one is gone already: {error}");
        }
    }

    /// The sockets for an address, in the order of their slots: those that an earlier gate had for it, or one that
    /// somebody has opened for it.
    pub(crate) fn sockets(&mut self, wanted: &Address) -> io::Result<Vec<Listener>> {
        let mut left: Vec<Left> = self.left.extract_if(.., |left| left.wanted == *wanted).collect();
        if let Address::Unix(path) = wanted
            && !path.exists()
        {
            // An earlier gate that stopped has taken the file away, and nobody finds the socket without it.
            left.clear();
        }
        left.sort_by_key(|left| left.slot);
        if !left.is_empty() {
            return left.into_iter().map(|left| Listener::adopt(wanted.clone(), left.fd)).collect();
        }
        let named = |socket: &Activated| match wanted {
            Address::Inherited(number) => socket.number == *number,
            Address::Named(name) => socket.name == *name,
            Address::Tcp(_) | Address::Unix(_) => {
                listen::local_address(socket.fd.as_fd()).is_some_and(|local| local == *wanted)
            }
        };
        match self.activated.iter().position(named) {
            Some(index) => Ok(vec![Listener::adopt(wanted.clone(), self.activated.remove(index).fd)?]),
            None => Ok(Vec::new()),
        }
    }

    /// Lets go of what nobody wanted: sockets of the earlier gate that the configuration does not name any more, and
    /// sockets that the operator has opened for nothing.
    pub(crate) fn settle(&mut self) {
        self.stale.drain(..).for_each(|path| remove(&path));
        for left in self.left.drain(..) {
            log::info!("{} is not listened on any more", left.wanted);
            if let Address::Unix(path) = &left.wanted {
                remove(path);
            }
        }
        for socket in self.activated.drain(..) {
            log::warn!(
                "the socket handed over as {:?} (descriptor {}) is not used: no `bind` names it as fd://{} or fd://{}",
                socket.name,
                socket.number,
                socket.number,
                socket.name
            );
        }
    }
}

/// Tells the gate before us why it has to go on.
pub(crate) fn refuse(verdict: Option<File>, reason: &str) {
    if let Some(mut verdict) = verdict
        && let Err(error) = verdict.write_all(&birth::failure(reason))
    {
        log::warn!("the gate before this one does not listen: {error}");
    }
}

/// Takes a file away that may be gone already.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", path.display());
    }
}

/// The name of a listening socket: which slot's, and its address as configured.
pub(crate) fn bind_name(wanted: &Address, slot: usize) -> String {
    format!("{BIND}{slot}.{}", handed::encode(&wanted.text()))
}

pub(crate) fn pid_name(path: &Path) -> String {
    format!("{PID}{}", handed::encode(&path.display().to_string()))
}

pub(crate) fn control_name(path: &Path) -> String {
    format!("{CONTROL}{}", handed::encode(&path.display().to_string()))
}

fn bound(name: &str) -> Option<(usize, Address)> {
    let (slot, address) = name.split_once('.')?;
    Some((slot.parse().ok()?, handed::decode(address)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sockets_are_read_as_they_are_written() {
        for text in ["127.0.0.1:0", "[::1]:8000", "unix:/run/a b.sock", "fd://3", "fd://web"] {
            let address: Address = text.parse().unwrap();
            let name = bind_name(&address, 7);
            assert!(!name[BIND.len()..].contains(':'), "{name}");
            assert_eq!(bound(name.strip_prefix(BIND).unwrap()), Some((7, address)));
        }
        assert_eq!(bound("x.127.0.0.1%3A1"), None);
    }
}
