//! The system calls of the master: each [`Action`] is done here, and nowhere else, and told back as an [`Event`].

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use gate_config::{Bind, Handle, Plan};
use gate_sys::listen::{Address, Listener};
use gate_sys::privilege::Identity;
use gate_sys::process::{self, Pid};
use gate_sys::shared::SharedWords;
use gate_sys::signals::Signal;
use gate_sys::title;
use gate_zone::{Place, Role, Zone};

use crate::StartError;
use crate::birth::{Announce, Awaited, Birth, Handed};
use crate::event::{Action, Demo, Event, Generation, Order, Why, Wish};
use crate::observed::{Observed, Process, State};
use crate::sockets::{BindError, Mode, Sockets};

/// What a child runs; the code it returns is its exit code.
pub type Crew = Box<dyn Fn(Birth) -> u8>;

/// Reads the configuration again; the plan in service is given to say what a reload cannot change.
pub type Reread = Box<dyn Fn(&Plan) -> Result<Plan, String>>;

/// Takes over what the master's own process needs of a configuration: called when it has been rolled out.
pub type Adopt = Box<dyn Fn(&Plan)>;

/// One configuration that is in service, or on its way.
struct Loaded {
    generation: Generation,
    plan: Rc<Plan>,
    sockets: Sockets,
    identity: Identity,
}

/// What the master holds.
pub(crate) struct Hands {
    crew: Crew,
    reread: Reread,
    adopt: Adopt,
    zone: Zone,
    /// Keeps the zone's memory file open, for whoever takes it over.
    _memory: SharedWords,
    current: Option<Loaded>,
    before: Option<Loaded>,
    demo: Option<Rc<Listener>>,
    generations: Generation,
    /// Both ends of the pipe that tells children of the master's death; nothing is ever written into it.
    lifeline: (OwnedFd, OwnedFd),
    pub(crate) awaited: Vec<Awaited>,
}

/// What an action came to.
pub(crate) enum Outcome {
    /// This has happened.
    Event(Event),
    /// The master leaves.
    Done(u8),
}

impl Hands {
    /// Binds the sockets and makes the zone of a first start.
    pub(crate) fn open(
        plan: Plan,
        (crew, reread, adopt): (Crew, Reread, Adopt),
        seed: [u64; 2],
    ) -> Result<Self, StartError> {
        let (memory, zone) = Zone::create(entries(&plan), seed).map_err(StartError::Machine)?;
        let demo = if plan.demo { Some(Rc::new(demo_listener().map_err(StartError::Machine)?)) } else { None };
        zone.assign_windows(&plan.windows(), &[]).map_err(|error| StartError::Load(Refused::of(error.to_string())))?;
        let lifeline = process::pipe().map_err(StartError::Machine)?;
        // Last: what fails after it would have to take the files of unix sockets away again.
        let current = Some(Loaded::new(plan, 1, None).map_err(StartError::Load)?);
        Ok(Self {
            crew,
            reread,
            adopt,
            zone,
            _memory: memory,
            current,
            before: None,
            demo,
            generations: 1,
            lifeline,
            awaited: Vec::new(),
        })
    }

    /// Sends new connections only to the sockets of the slots below `workers`, where each slot has one of its own.
    pub(crate) fn steer_to(&self, workers: u32) {
        if let Some(current) = &self.current {
            current.sockets.shrink(workers);
        }
    }

    pub(crate) fn zone(&self) -> Zone {
        self.zone
    }

    /// Where the newest configuration listens.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let current = self.current.iter();
        current.flat_map(|loaded| loaded.sockets.addresses().map(ToString::to_string)).collect()
    }

    /// What the newest configuration wants of the processes.
    pub(crate) fn wish(&self) -> Option<Wish> {
        self.current.as_ref().map(|loaded| wish(&loaded.plan))
    }

    /// Does one thing.
    pub(crate) fn perform(&mut self, action: &Action, seen: &Observed) -> Outcome {
        Outcome::Event(match action {
            Action::Load => self.load(seen),
            Action::Fork { place, generation } => self.fork(*place, *generation),
            Action::Tell { pid, order, why } => tell(*pid, (*order, *why), seen),
            Action::Commit => self.commit(seen),
            Action::RollBack { reason } => self.roll_back(reason),
            Action::CloseListeners => self.close_listeners(),
            Action::Done(code) => return Outcome::Done(*code),
        })
    }

    /// Reads, checks and binds. On any error everything stays as it is.
    fn load(&mut self, seen: &Observed) -> Event {
        match self.try_load(seen) {
            Ok(loaded) => {
                let event = Event::Loaded { generation: loaded.generation, wish: wish(&loaded.plan) };
                log::info!("reload: generation {} is checked and bound, rolling it out", loaded.generation);
                let new = self.current.iter().flat_map(|current| loaded.sockets.addresses_beyond(&current.sockets));
                new.for_each(|address| log::info!("listening on {address}"));
                self.before = self.current.replace(loaded);
                event
            }
            Err(Refused { reasons, .. }) => {
                log::error!("reload refused, generation {} keeps serving", self.serving());
                for reason in reasons.iter().flat_map(|reason| reason.lines()) {
                    log::error!("reload refused: {reason}");
                }
                Event::LoadRefused
            }
        }
    }

    fn try_load(&mut self, seen: &Observed) -> Result<Loaded, Refused> {
        let Some(current) = &self.current else { return Err(Refused::of("the gate is stopping")) };
        let plan = (self.reread)(&current.plan).map_err(Refused::of)?;
        let rows_left = gate_zone::layout::ROWS - 1 - seen.processes.len();
        let running = seen.processes.iter().filter(|process| process.state == State::Ready).count();
        let rows_needed = (usize::from(plan.workers) + 1).max(running);
        if rows_left < rows_needed {
            return Err(Refused::of(format!(
                "{} processes of earlier generations are still draining, and the scoreboard has room for {rows_left} \
                 more where this reload needs {rows_needed}; wait, or lower graceful_timeout",
                seen.processes.len()
            )));
        }
        let windows = self.zone.assign_windows(&plan.windows(), &current.plan.windows());
        windows.map_err(|error| Refused::of(error.to_string()))?;
        let loaded = Loaded::new(plan, self.generations + 1, Some(&current.sockets))?;
        self.generations += 1;
        Ok(loaded)
    }

    fn serving(&self) -> Generation {
        self.zone.generation()
    }

    fn fork(&mut self, place: Place, generation: Generation) -> Event {
        match self.try_fork(place, generation) {
            Ok(event) => event,
            Err(error) => {
                log::error!("cannot fork {place}: {error}; trying again");
                Event::ForkFailed { place }
            }
        }
    }

    fn try_fork(&mut self, place: Place, generation: Generation) -> io::Result<Event> {
        let own_pid = process::own_pid();
        let row = self.zone.scoreboard().set_aside(own_pid).ok_or_else(|| io::Error::other("no row free"))?;
        let forked = self.fork_with(place, generation, row);
        if forked.is_err() {
            self.zone.scoreboard().settle(row, own_pid);
        }
        forked
    }

    fn fork_with(&mut self, place: Place, generation: Generation, row: usize) -> io::Result<Event> {
        let (read, write) = process::pipe()?;
        let birth = self.birth(place, generation, (row, Announce::new(write)))?;
        let crew = &self.crew;
        let pid = process::spawn(birth, |birth| {
            title::set(&format!("ollama-gate: {place}"));
            crew(birth)
        })?;
        self.awaited.push(Awaited::new(pid, read));
        log::debug!("{place} of generation {generation} is forked as {pid}");
        Ok(Event::Forked { pid, place, generation, row })
    }

    fn birth(&mut self, place: Place, generation: Generation, (row, announce): (usize, Announce)) -> io::Result<Birth> {
        let (zone, demo) = (self.zone, self.demo.clone());
        let lifeline = self.lifeline.0.try_clone()?;
        let loaded = self.loaded(generation)?;
        let listeners = match place.role {
            Role::Worker => loaded.sockets.of_slot(place.slot)?,
            Role::Monitor => Vec::new(),
            Role::Demo => demo.iter().cloned().collect(),
        };
        let hand = |listener: &Rc<Listener>| Ok(Handed { kind: listener.kind(), socket: listener.share()? });
        let listeners = listeners.iter().map(hand).collect::<io::Result<_>>()?;
        Ok(Birth {
            place,
            generation,
            plan: Rc::clone(&loaded.plan),
            listeners,
            demo: demo.as_deref().and_then(tcp_address),
            zone,
            row: zone.scoreboard().row(row),
            identity: loaded.identity.clone(),
            announce,
            lifeline,
        })
    }

    fn loaded(&mut self, generation: Generation) -> io::Result<&mut Loaded> {
        let mut both = self.current.iter_mut().chain(&mut self.before);
        both.find(|loaded| loaded.generation == generation)
            .ok_or_else(|| io::Error::other(format!("generation {generation} is gone")))
    }

    fn commit(&mut self, seen: &Observed) -> Event {
        if let Some(current) = &self.current {
            self.zone.tell_generation(current.generation);
            (self.adopt)(&current.plan);
            if let Some(before) = self.before.take() {
                before.sockets.retire(Some(&current.sockets));
            }
            let is_worker = |process: &&Process| process.place.role == Role::Worker && process.state == State::Ready;
            let of_current = |process: &&Process| process.generation == current.generation;
            let workers = seen.processes.iter().filter(is_worker).filter(of_current).count();
            log::info!("generation {} serves with {workers} workers", current.generation);
        }
        Event::Committed
    }

    fn roll_back(&mut self, reason: &str) -> Event {
        if let (Some(before), Some(failed)) = (self.before.take(), self.current.take()) {
            log::error!("reload failed, back to generation {}: {reason}", before.generation);
            failed.sockets.retire(Some(&before.sockets));
            self.current = Some(before);
        }
        Event::RolledBack
    }

    fn close_listeners(&mut self) -> Event {
        let current = self.current.take();
        if let Some(before) = self.before.take() {
            before.sockets.retire(current.as_ref().map(|current| &current.sockets));
        }
        if let Some(current) = current {
            current.sockets.retire(None);
        }
        Event::ListenersClosed
    }

    /// What a process that has ended had still to say.
    pub(crate) fn last_words(&mut self, pid: Pid, events: &mut Vec<Event>) {
        if let Some(awaited) = self.awaited.iter_mut().find(|awaited| awaited.pid == pid) {
            awaited.read(events);
        }
    }

    /// Settles what a reaped process leaves behind.
    pub(crate) fn bury(&mut self, pid: Pid, row: Option<usize>) {
        self.awaited.retain(|awaited| awaited.pid != pid);
        if let Some(row) = row {
            self.zone.scoreboard().settle(row, process::own_pid());
        }
    }
}

impl Loaded {
    fn new(plan: Plan, generation: Generation, held: Option<&Sockets>) -> Result<Self, Refused> {
        let identity = Identity::find(plan.user.as_deref(), plan.group.as_deref()).map_err(Refused::of)?;
        let mode = if plan.reuse_port { Mode::PerWorker } else { Mode::Shared };
        let wanted: Vec<Address> = plan.bind.iter().map(address).collect();
        let sockets = Sockets::bind(&wanted, mode, plan.backlog.cast_signed(), held)
            .map_err(|errors| Refused::binding(&errors))?;
        Ok(Self { generation, plan: Rc::new(plan), sockets, identity })
    }
}

/// Why a configuration cannot be put into service: every reason.
#[derive(Debug)]
pub struct Refused {
    /// One text each; a text may have several lines.
    pub reasons: Vec<String>,
    /// Whether an address is the reason.
    pub cause: Cause,
}

/// What kind of reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// An address cannot be bound.
    Address,
    /// Anything else.
    Configuration,
}

impl Refused {
    pub(crate) fn of(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], cause: Cause::Configuration }
    }

    fn binding(errors: &[BindError]) -> Self {
        Self { reasons: errors.iter().map(ToString::to_string).collect(), cause: Cause::Address }
    }
}

/// Sends a process an order.
fn tell(pid: Pid, (order, why): (Order, Why), seen: &Observed) -> Event {
    if let Some(process) = seen.processes.iter().find(|process| process.pid == pid) {
        report(process.place, pid, order, why);
    }
    // Only workers catch QUIT. For the others its default action is a core; they hold nothing, and TERM ends them.
    let is_worker = seen.processes.iter().any(|known| known.pid == pid && known.place.role == Role::Worker);
    let signal = match order {
        Order::Quit if is_worker => Signal::SIGQUIT,
        Order::Drain | Order::Quit => Signal::SIGTERM,
        Order::Abort => Signal::SIGABRT,
        Order::Kill => Signal::SIGKILL,
    };
    if let Err(error) = process::kill(pid, signal) {
        log::error!("cannot send {signal} to {pid}: {error}");
    }
    Event::Ordered { pid, order, why }
}

fn wish(plan: &Plan) -> Wish {
    let ms = |duration: std::time::Duration| duration.as_millis() as u64;
    Wish {
        workers: u32::from(plan.workers),
        boot_ms: ms(plan.boot_timeout),
        graceful_ms: ms(plan.graceful_timeout),
        liveness_ms: plan.timeout.map_or(0, ms),
        demo: if plan.demo { Demo::On } else { Demo::Off },
    }
}

fn address(bind: &Bind) -> Address {
    match bind {
        Bind::Tcp(address) => Address::Tcp(*address),
        Bind::Unix(path) => Address::Unix(path.clone()),
        Bind::Fd(Handle::Number(number)) => Address::Inherited(*number),
        Bind::Fd(Handle::Name(name)) => Address::Named(name.clone()),
    }
}

fn entries(plan: &Plan) -> NonZeroUsize {
    NonZeroUsize::new(plan.limit_entries).unwrap_or(NonZeroUsize::MIN)
}

/// The simulated backend listens on loopback, on a port of the kernel's choice.
fn demo_listener() -> io::Result<Listener> {
    /// Connections that may wait for the demo; its clients are our own workers.
    const BACKLOG: i32 = 1024;
    Listener::bind(&Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))), BACKLOG)
}

fn tcp_address(listener: &Listener) -> Option<SocketAddr> {
    match listener.address() {
        Address::Tcp(address) => Some(*address),
        Address::Unix(_) | Address::Inherited(_) | Address::Named(_) => None,
    }
}

/// One line for the operator, where there is something to know.
fn report(place: Place, pid: Pid, order: Order, why: Why) {
    match why {
        Why::Stopping | Why::Replaced | Why::Surplus => log::debug!("{place} ({pid}): {order:?}, {why:?}"),
        Why::BootTimeout => log::error!("{place} ({pid}) was not ready within boot_timeout: killing it"),
        Why::Silent => {
            log::error!("{place} ({pid}) has not beaten within timeout: aborting it, a successor follows");
        }
        Why::GraceOver => log::warn!("{place} ({pid}) did not leave in time: killing it"),
        Why::Abandoned => log::info!("{place} ({pid}) is of a generation that was given up: killing it"),
    }
}
