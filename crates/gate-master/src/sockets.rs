//! The listening sockets of a configuration. They live in the master, and pass from one configuration to the next when
//! both name the same address, so that no queue of waiting clients is ever dropped by a reload.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use gate_sys::listen::{self, Address, Listener};

use crate::estate::{Estate, bind_name};

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
        let is_file = matches!(&self.address, Address::Unix(path) if path.exists() && !listen::is_socket(path));
        let hint = match self.error.kind() {
            io::ErrorKind::AddrInUse if is_file => {
                ": a file that is no socket is in the way; remove it, or name another"
            }
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
    /// Shared, as is what follows, by all configurations that name the address.
    listeners: Rc<RefCell<Vec<Rc<Listener>>>>,
    /// How many slots new connections go to.
    steered: Rc<Cell<u32>>,
    origin: Origin,
}

/// Where sockets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// This master has bound them.
    Bound,
    /// They were handed to it.
    Handed,
}

impl Bound {
    fn new(wanted: Address, listeners: Vec<Listener>, origin: Origin) -> Self {
        let listeners = listeners.into_iter().map(Rc::new).collect();
        Self { wanted, origin, listeners: Rc::new(RefCell::new(listeners)), steered: Rc::new(Cell::new(0)) }
    }

    /// The first one, which every address has.
    fn first(&self) -> Rc<Listener> {
        Rc::clone(&self.listeners.borrow()[0])
    }

    fn count(&self) -> usize {
        self.listeners.borrow().len()
    }

    fn retire(&self) {
        if let Err(error) = self.first().retire() {
            log::warn!("cannot remove {}: {error}", self.wanted);
        }
    }

    /// Whether each slot has a socket of its own here.
    fn has_own(&self, mode: Mode) -> bool {
        mode == Mode::PerWorker && matches!(self.first().wanted(), Address::Tcp(_))
    }

    /// Without the kernel's help connections are spread by its own hash over all sockets, and a slot that goes away may
    /// lose some.
    fn steer(&self, slots: u32) {
        if self.steered.replace(slots) != slots
            && let Err(error) = self.first().steer(slots)
        {
            log::warn!("cannot steer connections to {} workers of {}: {error}", slots, self.wanted);
        }
    }
}

/// Whether this master says where new connections go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steering {
    /// It does.
    Ours,
    /// The gate before it still does: what is sent to sockets that only we hold would be lost if we failed.
    Theirs,
}

/// The sockets of one configuration.
#[derive(Debug, Clone)]
pub(crate) struct Sockets {
    mode: Mode,
    backlog: i32,
    bound: Vec<Bound>,
    steering: Rc<Cell<Steering>>,
}

/// How sockets are to be bound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) mode: Mode,
    pub(crate) backlog: i32,
    /// Of a first start; later it is whatever it has become.
    pub(crate) steering: Steering,
}

impl Sockets {
    /// Binds what neither `held` holds nor the `estate`.
    ///
    /// # Errors
    /// Every address that cannot be bound. What was bound on the way is closed again.
    pub(crate) fn bind(
        wanted: &[Address],
        manner: Manner,
        held: Option<&Self>,
        estate: &mut Estate,
    ) -> Result<Self, Vec<BindError>> {
        let Manner { mode, backlog, steering } = manner;
        let mut errors = Vec::new();
        let mut bound: Vec<Bound> = Vec::new();
        for address in wanted {
            if let Some(known) = held.and_then(|held| held.bound.iter().find(|bound| bound.wanted == *address)) {
                bound.push(known.clone());
                continue;
            }
            let found = estate.sockets(address).and_then(|handed| {
                if handed.is_empty() {
                    return Listener::bind(address, backlog).map(|listener| (vec![listener], Origin::Bound));
                }
                Ok((handed, Origin::Handed))
            });
            match found {
                Ok((listeners, origin)) => bound.push(Bound::new(address.clone(), listeners, origin)),
                Err(error) => errors.push(BindError { address: address.clone(), error }),
            }
        }
        let steering = held.map_or_else(|| Rc::new(Cell::new(steering)), |held| Rc::clone(&held.steering));
        let sockets = Self { mode, backlog, bound, steering };
        if errors.is_empty() {
            return Ok(sockets);
        }
        sockets.undo(held);
        Err(errors)
    }

    /// The sockets that the worker in `slot` accepts from. New connections come to them from here on.
    ///
    /// # Errors
    /// A further socket of a slot's own cannot be bound.
    pub(crate) fn of_slot(&self, slot: u32) -> io::Result<Vec<Rc<Listener>>> {
        let mut sockets = Vec::with_capacity(self.bound.len());
        for bound in &self.bound {
            if !bound.has_own(self.mode) {
                sockets.push(bound.first());
                continue;
            }
            if bound.count() == 1 && slot > 0 {
                // Before a second one joins: without a program the kernel would send connections there at once.
                bound.steer(bound.steered.get().max(1));
            }
            while bound.count() <= slot as usize {
                let sibling = bound.first().sibling(self.backlog)?;
                bound.listeners.borrow_mut().push(Rc::new(sibling));
            }
            if self.steering.get() == Steering::Ours {
                bound.steer(bound.steered.get().max(slot + 1));
            }
            sockets.push(Rc::clone(&bound.listeners.borrow()[slot as usize]));
        }
        Ok(sockets)
    }

    /// Says from here on where new connections go: to the sockets of so many slots.
    pub(crate) fn take_the_wheel(&self, workers: u32) {
        self.steering.set(Steering::Ours);
        for bound in self.bound.iter().filter(|bound| bound.count() > 1) {
            // Whatever was said last, somebody else may have said it.
            bound.steered.set(0);
            bound.steer(if bound.has_own(self.mode) { workers.max(1) } else { 1 });
        }
    }

    /// All sockets, with the names under which they are handed over or kept.
    pub(crate) fn named(&self) -> Vec<(String, Rc<Listener>)> {
        let all = self.bound.iter().flat_map(|bound| {
            let name = |(slot, listener): (usize, &Rc<Listener>)| (bind_name(&bound.wanted, slot), Rc::clone(listener));
            bound.listeners.borrow().iter().enumerate().map(name).collect::<Vec<_>>()
        });
        all.collect()
    }

    /// The sockets of each address.
    pub(crate) fn by_address(&self) -> impl Iterator<Item = Vec<Rc<Listener>>> {
        self.bound.iter().map(|bound| bound.listeners.borrow().clone())
    }

    /// Keeps new connections away from the sockets of slots from `workers` up. What has come there before is for the
    /// worker that leaves.
    pub(crate) fn shrink(&self, workers: u32) {
        if self.steering.get() == Steering::Theirs {
            return;
        }
        for bound in self.bound.iter().filter(|bound| bound.steered.get() > workers.max(1)) {
            bound.steer(workers.max(1));
        }
    }

    /// Those addresses that `other` does not have, with the ports that the kernel chose.
    pub(crate) fn addresses_beyond(&self, other: &Self) -> Vec<String> {
        let is_new = |bound: &&Bound| !other.has(&bound.wanted);
        self.bound.iter().filter(is_new).map(|bound| bound.first().address().to_string()).collect()
    }

    /// The addresses listened on, with the ports that the kernel chose.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.bound.iter().map(|bound| bound.first().address().clone())
    }

    /// Removes the files of unix sockets that this master has bound itself, not those it was handed.
    pub(crate) fn retire_new(&self) {
        self.undo(None);
    }

    /// The same, but for those that are in `held` already.
    fn undo(&self, held: Option<&Self>) {
        let is_held = |bound: &Bound| held.is_some_and(|held| held.has(&bound.wanted));
        for bound in self.bound.iter().filter(|bound| bound.origin == Origin::Bound && !is_held(bound)) {
            bound.retire();
        }
    }

    fn has(&self, wanted: &Address) -> bool {
        self.bound.iter().any(|bound| bound.wanted == *wanted)
    }

    /// Removes the files of unix sockets that `kept` does not hold too.
    pub(crate) fn retire(&self, kept: Option<&Self>) {
        for bound in &self.bound {
            if kept.is_some_and(|kept| kept.has(&bound.wanted)) {
                continue;
            }
            bound.retire();
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

    fn bind(wanted: &[Address], mode: Mode, held: Option<&Sockets>) -> Result<Sockets, Vec<BindError>> {
        let manner = Manner { mode, backlog: 16, steering: Steering::Ours };
        Sockets::bind(wanted, manner, held, &mut Estate::default())
    }

    #[test]
    fn what_is_held_is_kept_and_what_fails_is_told_together() {
        let first = bind(&[any()], Mode::Shared, None).unwrap();
        let again = bind(&[any()], Mode::Shared, Some(&first)).unwrap();
        assert!(first.addresses().eq(again.addresses()));
        let busy = first.addresses().next().unwrap();
        let nowhere = Address::Tcp(SocketAddr::from(([192, 0, 2, 1], 80)));
        let errors = bind(&[busy, nowhere], Mode::Shared, None).unwrap_err();
        assert_eq!(errors.len(), 2);
        assert!(errors[0].to_string().contains("another process listens there"), "{}", errors[0]);
    }

    #[test]
    fn slots_have_sockets_of_their_own_only_when_asked() {
        let shared = bind(&[any()], Mode::Shared, None).unwrap();
        assert!(Rc::ptr_eq(&shared.of_slot(0).unwrap()[0], &shared.of_slot(1).unwrap()[0]));
        let own = bind(&[any()], Mode::PerWorker, None).unwrap();
        let second = own.of_slot(1).unwrap();
        assert!(!Rc::ptr_eq(&own.of_slot(0).unwrap()[0], &second[0]));
        assert!(Rc::ptr_eq(&own.of_slot(1).unwrap()[0], &second[0]), "a successor gets the same socket");
        assert_eq!(own.of_slot(0).unwrap()[0].address(), second[0].address());
    }
}
