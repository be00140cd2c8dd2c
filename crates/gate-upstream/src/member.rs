//! The backends that one process knows, each with its cell in the zone and its pool of connections.
//!
//! It is made from the configuration and from what the monitor has found under names; made anew, it keeps what is still
//! there, connections and all.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;

use gate_zone::fleet::{Cell, Fleet as Cells};
use gate_zone::{OwnRow, fleet::inventory::Listed};
use http::HeaderValue;

use crate::backend::{Backend, Timeouts};

/// One backend of the configuration.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What clients are told: never an address. Those that are found under one name have a number behind it.
    pub name: String,
    /// What identifies it, and what operators are told.
    pub url: String,
    /// How it is reached.
    pub reach: Reach,
    /// Its share, per slot.
    pub weight: u32,
    /// How many requests it is given at once.
    pub slots: usize,
    /// The models that it may be asked for, as Ollama lists them; empty is all.
    pub models: Vec<String>,
}

/// How a backend is reached.
#[derive(Debug, Clone)]
pub enum Reach {
    /// At an address or a name with a port, below a prefix.
    Http {
        /// `address:port` or `name:port`.
        authority: String,
        /// What stands in front of every path.
        prefix: String,
    },
    /// Over a unix socket.
    Unix(PathBuf),
    /// At the addresses that the monitor finds; with what they are told as their own name.
    Found {
        /// The name that was looked up.
        host: String,
        /// What stands in front of every path.
        prefix: String,
    },
}

/// A backend, as one process sees it.
pub struct Member {
    pub(crate) cell: Cell,
    pub(crate) key: u64,
    pub(crate) name: HeaderValue,
    slots: usize,
    pub(crate) weight: u32,
    /// Names that it may be asked for, hashed; empty is all.
    models: Vec<u32>,
    address: Option<SocketAddr>,
    /// Requests go through it.
    pub backend: Backend,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at cell {}", self.backend, self.cell.index())
    }
}

impl Member {
    /// What clients are told of it.
    pub fn name(&self) -> &HeaderValue {
        &self.name
    }

    /// Its words in the zone.
    pub fn cell(&self) -> Cell {
        self.cell
    }

    /// How many requests it is given at once.
    pub(crate) fn slots(&self) -> usize {
        self.cell.allowed(self.slots)
    }

    /// Whether it may be asked for any model.
    pub fn allows_all(&self) -> bool {
        self.models.is_empty()
    }

    /// Whether it may be asked for this model, by its name's hash.
    pub fn allows(&self, name: u32) -> bool {
        self.allows_all() || self.models.contains(&name)
    }

    /// Whether it lists this model.
    pub(crate) fn lists(&self, name: u32) -> Listed {
        self.cell.lists(name)
    }
}

/// Makes members of specs.
pub(crate) struct Maker {
    pub(crate) specs: Vec<Spec>,
    pub(crate) timeouts: Timeouts,
    pub(crate) row: Rc<OwnRow>,
}

impl Maker {
    /// Sees to it that each backend of the configuration has its cell. At the start only, when the master has done so
    /// before the fork: later a cell that is missing was given to a backend of a newer configuration.
    pub(crate) fn claim(&self, cells: Cells) {
        let wanted: Vec<u64> = self.specs.iter().map(|spec| cells.hash(spec.url.as_bytes())).collect();
        for (spec, key) in self.specs.iter().zip(&wanted) {
            let claimed = match spec.reach {
                Reach::Found { .. } => cells.found(*key).map(|(cell, _)| cell).collect(),
                Reach::Http { .. } | Reach::Unix(_) => Vec::from_iter(cells.claim(*key, &wanted)),
            };
            if claimed.is_empty() && !matches!(spec.reach, Reach::Found { .. }) {
                log::error!("no room for the backend {}", spec.url);
            }
            for cell in claimed {
                cell.tell_allowed(spec.slots);
            }
        }
    }

    /// Whether there is a backend that may be asked for this model and that has no address yet.
    pub(crate) fn may_come(&self, cells: Cells, name: u32) -> bool {
        let allows = |spec: &Spec| spec.models.iter().any(|model| cells.instance(model, "").name == name);
        let is_missing = |spec: &Spec| cells.found(cells.hash(spec.url.as_bytes())).next().is_none();
        let found = self.specs.iter().filter(|spec| matches!(spec.reach, Reach::Found { .. }));
        found.into_iter().any(|spec| is_missing(spec) && (spec.models.is_empty() || allows(spec)))
    }

    /// The members as things stand, those of `old` that are still right among them.
    pub(crate) fn members(&self, cells: Cells, old: &[Rc<Member>]) -> Vec<Rc<Member>> {
        let mut members = Vec::new();
        for spec in &self.specs {
            let key = cells.hash(spec.url.as_bytes());
            match &spec.reach {
                Reach::Found { .. } => {
                    for (cell, address) in cells.found(key) {
                        // By its cell, which is its own in all processes, whoever else comes and goes.
                        let name = format!("{}.{}", spec.name, cell.index() + 1);
                        members.push(self.member(cells, spec, (cell, name, Some(address)), old));
                    }
                }
                Reach::Http { .. } | Reach::Unix(_) => {
                    if let Some(cell) = cells.find(key) {
                        members.push(self.member(cells, spec, (cell, spec.name.clone(), None), old));
                    }
                }
            }
        }
        members
    }

    fn member(
        &self,
        cells: Cells,
        spec: &Spec,
        (cell, name, address): (Cell, String, Option<SocketAddr>),
        old: &[Rc<Member>],
    ) -> Rc<Member> {
        let key = cell.key();
        let name = HeaderValue::try_from(name).unwrap_or_else(|_| HeaderValue::from_static("unnamed"));
        let same = |member: &&Rc<Member>| member.key == key && member.address == address && member.name == name;
        if let Some(member) = old.iter().find(same) {
            return Rc::clone(member);
        }
        let (timeouts, row) = (self.timeouts, Rc::clone(&self.row));
        let backend = match (&spec.reach, address) {
            (Reach::Unix(path), _) => Backend::unix(path, timeouts, row),
            (Reach::Http { authority, prefix }, _) => Backend::new(authority, prefix, timeouts, row),
            (Reach::Found { prefix, .. }, None) => Backend::new(&spec.url, prefix, timeouts, row),
            (Reach::Found { host, prefix }, Some(address)) => {
                Backend::at(address, &format!("{host}:{}", address.port()), prefix, timeouts, row)
            }
        };
        let models = spec.models.iter().map(|model| cells.instance(model, "").name).collect();
        let (slots, weight) = (spec.slots, spec.weight);
        Rc::new(Member { cell, key, name, slots, weight, models, address, backend })
    }
}
