//! The listening sockets of a configuration. They live in the master, and pass from one configuration to the next when
//! both name the same address, so that no queue of waiting clients is ever dropped by a reload.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use gate_sys::listen::{Address, Listener};

/// How workers share an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// One socket for all.
    Shared,
    /// One socket for each worker slot, where the address allows it (TCP of our own).
    PerWorker,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub(crate) struct BindError {
    /// Which.
    pub(crate) address: Address,
    /// Why not.
    pub(crate) error: io::Error,
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hint = match self.error.kind() {
            io::ErrorKind::AddrInUse => {
                ": another process listens there; stop it, or choose another address with --bind"
            }
            io::ErrorKind::AddrNotAvailable => ": no interface of this machine has that address",
            io::ErrorKind::PermissionDenied => ": not allowed; ports below 1024 need root or CAP_NET_BIND_SERVICE",
            _ => "",
        };
        write!(f, "cannot listen on {}: {}{hint}", self.address, self.error)
    }
}

/// The sockets of one address.
#[derive(Debug, Clone)]
struct Bound {
    /// As configured: port 0 stays 0 here, so that a reload finds it again.
    wanted: Address,
    /// One, or one for each slot so far. Those of slots that went away stay: the kernel knows them by their place here.
    listeners: Vec<Rc<Listener>>,
    /// How many slots new connections go to: the same for all configurations that share the sockets.
    steered: Rc<Cell<u32>>,
}

impl Bound {
    fn new(wanted: Address, listener: Listener) -> Self {
        Self { wanted, listeners: vec![Rc::new(listener)], steered: Rc::new(Cell::new(0)) }
    }

    /// Without the kernel's help connections are spread by its own hash over all sockets, and a slot that goes away may
    /// lose some.
    fn steer(&self, slots: u32) {
        if self.steered.replace(slots) != slots
            && let Err(error) = self.listeners[0].steer(slots)
        {
            log::warn!("cannot steer connections to {} workers of {}: {error}", slots, self.wanted);
        }
    }
}

/// The sockets of one configuration.
#[derive(Debug, Clone)]
pub(crate) struct Sockets {
    mode: Mode,
    backlog: i32,
    bound: Vec<Bound>,
}

impl Sockets {
    /// Binds what `held` does not hold already.
    ///
    /// # Errors
    /// Every address that cannot be bound. What was bound on the way is closed again.
    pub(crate) fn bind(
        wanted: &[Address],
        mode: Mode,
        backlog: i32,
        held: Option<&Self>,
    ) -> Result<Self, Vec<BindError>> {
        let mut errors = Vec::new();
        let mut bound: Vec<Bound> = Vec::new();
        for address in wanted {
            if let Some(known) = held.and_then(|held| held.bound.iter().find(|bound| bound.wanted == *address)) {
                bound.push(known.clone());
                continue;
            }
            match Listener::bind(address, backlog) {
                Ok(listener) => bound.push(Bound::new(address.clone(), listener)),
                Err(error) => errors.push(BindError { address: address.clone(), error }),
            }
        }
        let sockets = Self { mode, backlog, bound };
        if errors.is_empty() {
            return Ok(sockets);
        }
        sockets.retire(held);
        Err(errors)
    }

    /// The sockets that the worker in `slot` accepts from. New connections come to them from here on.
    ///
    /// # Errors
    /// A further socket of a slot's own cannot be bound.
    pub(crate) fn of_slot(&mut self, slot: u32) -> io::Result<Vec<Rc<Listener>>> {
        let mut sockets = Vec::with_capacity(self.bound.len());
        for bound in &mut self.bound {
            let own = self.mode == Mode::PerWorker && matches!(bound.listeners[0].address(), Address::Tcp(_));
            if !own {
                sockets.push(Rc::clone(&bound.listeners[0]));
                continue;
            }
            while bound.listeners.len() <= slot as usize {
                let sibling = bound.listeners[0].sibling(self.backlog)?;
                bound.listeners.push(Rc::new(sibling));
            }
            bound.steer(bound.steered.get().max(slot + 1));
            sockets.push(Rc::clone(&bound.listeners[slot as usize]));
        }
        Ok(sockets)
    }

    /// Keeps new connections away from the sockets of slots from `workers` up. What has come there before is for the
    /// worker that leaves.
    pub(crate) fn shrink(&self, workers: u32) {
        for bound in self.bound.iter().filter(|bound| bound.steered.get() > workers) {
            bound.steer(workers.max(1));
        }
    }

    /// Those addresses that `other` does not have, with the ports that the kernel chose.
    pub(crate) fn addresses_beyond(&self, other: &Self) -> Vec<String> {
        let is_new = |bound: &&Bound| !other.bound.iter().any(|other| other.wanted == bound.wanted);
        self.bound.iter().filter(is_new).map(|bound| bound.listeners[0].address().to_string()).collect()
    }

    /// The addresses listened on, with the ports that the kernel chose.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.bound.iter().map(|bound| bound.listeners[0].address())
    }

    /// Removes the files of unix sockets that `kept` does not hold too.
    pub(crate) fn retire(&self, kept: Option<&Self>) {
        for bound in &self.bound {
            if kept.is_some_and(|kept| kept.bound.iter().any(|other| other.wanted == bound.wanted)) {
                continue;
            }
            if let Err(error) = bound.listeners[0].retire() {
                log::warn!("cannot remove {}: {error}", bound.wanted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn any() -> Address {
        Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    #[test]
    fn what_is_held_is_kept_and_what_fails_is_told_together() {
        let first = Sockets::bind(&[any()], Mode::Shared, 16, None).unwrap();
        let again = Sockets::bind(&[any()], Mode::Shared, 16, Some(&first)).unwrap();
        assert!(first.addresses().eq(again.addresses()));
        let busy = first.addresses().next().unwrap().clone();
        let nowhere = Address::Tcp(SocketAddr::from(([192, 0, 2, 1], 80)));
        let errors = Sockets::bind(&[busy, nowhere], Mode::Shared, 16, None).unwrap_err();
        assert_eq!(errors.len(), 2);
        assert!(errors[0].to_string().contains("another process listens there"), "{}", errors[0]);
    }

    #[test]
    fn slots_have_sockets_of_their_own_only_when_asked() {
        let mut shared = Sockets::bind(&[any()], Mode::Shared, 16, None).unwrap();
        assert!(Rc::ptr_eq(&shared.of_slot(0).unwrap()[0], &shared.of_slot(1).unwrap()[0]));
        let mut own = Sockets::bind(&[any()], Mode::PerWorker, 16, None).unwrap();
        let second = own.of_slot(1).unwrap();
        assert!(!Rc::ptr_eq(&own.of_slot(0).unwrap()[0], &second[0]));
        assert!(Rc::ptr_eq(&own.of_slot(1).unwrap()[0], &second[0]), "a successor gets the same socket");
        assert_eq!(own.of_slot(0).unwrap()[0].address(), second[0].address());
    }
}
