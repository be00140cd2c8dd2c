//! The system calls of the master: each [`Action`] is done here, and nowhere else, and told back as an [`Event`].

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use gate_config::{AccessLog, Bind, Handle, Plan};
use gate_sys::bells::Bells;
use gate_sys::control::ControlSocket;
use gate_sys::listen::{self, Address, Listener};
use gate_sys::oom::OomCounter;
use gate_sys::pidfile::PidFile;
use gate_sys::privilege::{self, Identity};
use gate_sys::process::{self, Pid};
use gate_sys::shared::SharedWords;
use gate_sys::signals::Signal;
use gate_sys::title;
use gate_zone::{Place, Role, Zone};

use crate::birth::{self, Announce, Awaited, Birth, Handed};
use crate::canary::Baseline;
use crate::chronicle::Chronicle;
use crate::desired::Desired;
use crate::estate::Estate;
use crate::event::{Action, Change, Demo, Event, Generation, Order, Why, Wish};
use crate::fleet::{InService, Strays};
use crate::keys::{self, Published, Sheet};
use crate::observed::{Observed, Process, State};
use crate::refused::Refused;
use crate::secrets::{Secret, Secrets};
use crate::sockets::{Manner, Mode, Sockets, Steering};
use crate::succession::Strangers;
use crate::{StartError, fleet, succession};

/// What a child runs; the code it returns is its exit code.
pub type Crew = Box<dyn Fn(Birth) -> u8>;

/// Reads the configuration again; the plan in service is given to say what a reload cannot change.
pub type Reread = Box<dyn Fn(&Plan) -> Result<Read, String>>;

/// A configuration that was read again.
pub struct Read {
    /// What it means, with the values that stay.
    pub plan: Plan,
    /// What is different from the one in service.
    pub changes: Vec<Change>,
}

/// Takes over what the master's own process needs of a configuration: called when it has been rolled out.
pub type Adopt = Box<dyn Fn(&Plan)>;

/// The program as it was started, to start it again.
pub struct Program {
    /// Its name, as it was called.
    pub argument0: OsString,
    /// The other arguments.
    pub arguments: Vec<OsString>,
    /// The directory in which that was said.
    pub directory: PathBuf,
    /// Its version.
    pub version: &'static str,
}

/// One configuration that is in service, or on its way.
pub(crate) struct Loaded {
    pub(crate) generation: Generation,
    pub(crate) plan: Rc<Plan>,
    pub(crate) sockets: Sockets,
    identity: Identity,
    cluster_password: Option<Rc<Secret>>,
}

/// What the master holds.
pub(crate) struct Hands {
    crew: Crew,
    reread: Reread,
    adopt: Adopt,
    pub(crate) program: Program,
    /// The numbers that the requests' routes have in the zone, by name.
    pub(crate) routes: &'static [&'static str],
    pub(crate) zone: Zone,
    pub(crate) memory: SharedWords,
    pub(crate) current: Option<Loaded>,
    pub(crate) before: Option<Loaded>,
    demo: Option<Rc<Listener>>,
    generations: Generation,
    /// Both ends of the pipe that tells children of the master's death; nothing is ever written into it.
    lifeline: (OwnedFd, OwnedFd),
    bells: Rc<Bells>,
    pub(crate) awaited: Vec<Awaited>,
    pub(crate) pidfile: Option<PidFile>,
    pub(crate) control: Option<ControlSocket>,
    /// While a candidate is on its way: a byte here tells it that it is the master.
    pub(crate) go: Option<File>,
    /// What an earlier gate has left us, until it is taken.
    pub(crate) estate: Estate,
    pub(crate) standing: succession::Standing,
    pub(crate) strangers: Strangers,
    pub(crate) strays: Strays,
    pub(crate) chronicle: Chronicle,
    pub(crate) baseline: Option<Baseline>,
    /// The keys that are in force, where the newest configuration has any.
    pub(crate) keys: Option<Published>,
    /// What holds the keys of a configuration that is on its way, where others are in force until it is in service.
    pub(crate) pending: Option<Secrets>,
    pub(crate) oom: Option<(OomCounter, u64)>,
}

/// What an action came to.
pub(crate) enum Outcome {
    /// This has happened.
    Event(Event),
    /// The master leaves.
    Done(u8),
}

/// What a first start needs.
pub(crate) struct Opening {
    pub(crate) plan: Plan,
    pub(crate) crew: Crew,
    pub(crate) reread: Reread,
    pub(crate) adopt: Adopt,
    pub(crate) program: Program,
    pub(crate) routes: &'static [&'static str],
    pub(crate) seed: [u64; 2],
    pub(crate) estate: Estate,
    pub(crate) pidfile: Option<PidFile>,
    pub(crate) control: Option<ControlSocket>,
}

impl Hands {
    /// Binds the sockets and makes the zone of a first start, or takes over what the estate has of them.
    pub(crate) fn open(opening: Opening) -> Result<Self, StartError> {
        let Opening { plan, crew, reread, adopt, program, routes, seed, mut estate, pidfile, control } = opening;
        let secrets = Secrets::read(&plan).map_err(StartError::Load)?;
        let sheet = Sheet::read(&plan, &secrets).map_err(StartError::Load)?;
        let (memory, zone) = succession::zone(&mut estate, &plan, entries(&plan), seed)?;
        let demo = if plan.demo { Some(Rc::new(demo_listener().map_err(StartError::Machine)?)) } else { None };
        // A gate that serves beside us counts in all of them; one that is gone needs none.
        let beside_another = estate.is_candidate();
        let in_service: Vec<Duration> = zone.windows().map(|(window, _)| window).filter(|_| beside_another).collect();
        keys::assign(zone, &plan, sheet.as_ref(), &in_service).map_err(StartError::Load)?;
        let beside = if beside_another { InService::All } else { InService::None };
        fleet::claim(zone, &plan, beside).map_err(StartError::Load)?;
        // The gate that serves beside us may publish at any time; we do when it has let go.
        let theirs = beside_another && !zone.keyring().is_empty();
        let keys = sheet.filter(|_| !theirs).map(|sheet| sheet.publish(zone, &memory)).transpose();
        let keys = keys.map_err(StartError::Load)?;
        let password = secrets.cluster_password.clone();
        let lifeline = process::pipe().map_err(StartError::Machine)?;
        let bells = birth::bells().map_err(StartError::Machine)?;
        let generation = zone.generation() + 1;
        let standing = succession::Standing::of(&mut estate);
        let steering = if standing.is_alone() { Steering::Ours } else { Steering::Theirs };
        // Last: what fails after it would have to take the files of unix sockets away again.
        let mut current = Loaded::new(plan, generation, (None, steering), &mut estate).map_err(StartError::Load)?;
        current.cluster_password = password;
        let current = Some(current);
        let oom = OomCounter::find().and_then(|counter| counter.count().map(|count| (counter, count)));
        Ok(Self {
            crew,
            reread,
            adopt,
            program,
            routes,
            zone,
            memory,
            current,
            before: None,
            demo,
            generations: generation,
            lifeline,
            bells,
            awaited: Vec::new(),
            pidfile,
            control,
            go: None,
            estate,
            standing,
            strangers: Strangers::default(),
            strays: Strays::default(),
            chronicle: Chronicle::default(),
            baseline: None,
            keys,
            pending: theirs.then_some(secrets),
            oom,
        })
    }

    /// Takes over from whoever has said before where new connections go.
    pub(crate) fn steer_afresh(&self, workers: u32) {
        if let Some(current) = &self.current {
            current.sockets.take_the_wheel(workers);
        }
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
        current.flat_map(|loaded| loaded.sockets.addresses().map(|address| address.to_string())).collect()
    }

    /// What the newest configuration wants of the processes.
    pub(crate) fn wish(&self) -> Option<Wish> {
        self.current.as_ref().map(|loaded| wish(&loaded.plan))
    }

    /// Does one thing.
    pub(crate) fn perform(&mut self, action: &Action, want: &Desired, seen: &Observed) -> Outcome {
        Outcome::Event(match action {
            Action::Load => self.load(seen),
            Action::Fork { place, generation } => self.fork(*place, *generation),
            Action::Tell { pid, order, why } => tell(*pid, (*order, *why), seen),
            Action::BeginTrial => self.begin_trial(want, seen),
            Action::Judge => self.judge(want, seen),
            Action::Commit => self.commit(want, seen),
            Action::RollBack { reason } => self.roll_back(reason),
            Action::StartCandidate(zone) => self.start_candidate(*zone),
            Action::HandOver { pid, version } => self.hand_over(*pid, version, want),
            Action::GiveUpUpgrade { reason } => self.give_up_upgrade(reason, want),
            Action::Reopen => self.reopen(seen),
            Action::CloseListeners => self.close_listeners(),
            Action::Done(code) => return Outcome::Done(*code),
        })
    }

    /// Reads, checks and binds. On any error everything stays as it is.
    fn load(&mut self, seen: &Observed) -> Event {
        match self.try_load(seen) {
            Ok((loaded, changes)) => {
                let event = Event::Loaded { generation: loaded.generation, wish: wish(&loaded.plan), changes };
                log::info!("reload: generation {} is checked and bound, rolling it out", loaded.generation);
                let new = self.current.iter().flat_map(|current| loaded.sockets.addresses_beyond(&current.sockets));
                new.for_each(|address| log::info!("listening on {address}"));
                self.before = self.current.replace(loaded);
                self.warn_of_strangers(self.before.as_ref());
                event
            }
            Err(Refused { reasons, .. }) => {
                let reasons: Vec<String> =
                    reasons.iter().flat_map(|reason| reason.lines()).map(ToOwned::to_owned).collect();
                log::error!("reload refused, generation {} keeps serving", self.serving());
                for reason in &reasons {
                    log::error!("reload refused: {reason}");
                }
                Event::LoadRefused { reasons }
            }
        }
    }

    fn try_load(&mut self, seen: &Observed) -> Result<(Loaded, Vec<Change>), Refused> {
        let Some(current) = &self.current else { return Err(Refused::of("the gate is stopping")) };
        let Read { plan, changes } = (self.reread)(&current.plan).map_err(Refused::of)?;
        let rows_left = self.zone.scoreboard().free_rows();
        let running = seen.processes.iter().filter(|process| process.state == State::Ready).count();
        let rows_needed = (usize::from(plan.workers) + 1).max(running);
        if rows_left < rows_needed {
            return Err(Refused::of(format!(
                "{} processes are still there, most of them draining, and the scoreboard has room for {rows_left} more \
                 where this reload needs {rows_needed}; wait, or lower stream_timeout",
                seen.processes.len()
            )));
        }
        let secrets = Secrets::read(&plan)?;
        let of_keys = plan.clone();
        let sheet = Sheet::read(&of_keys, &secrets)?;
        keys::assign(self.zone, &plan, sheet.as_ref(), &self.windows_in_service())?;
        fleet::claim(self.zone, &plan, InService::Of(&current.plan))?;
        let held = (Some(&current.sockets), Steering::Ours);
        let mut loaded = Loaded::new(plan, self.generations + 1, held, &mut self.estate)?;
        loaded.cluster_password.clone_from(&secrets.cluster_password);
        // Keys that are in force stay until this is committed, as whatever fails then could not bring them back.
        if self.keys.is_none() {
            let published = sheet.map(|sheet| sheet.publish(self.zone, &self.memory)).transpose();
            self.keys = published.inspect_err(|_| loaded.sockets.retire(Some(&current.sockets)))?;
        } else {
            self.pending = Some(secrets);
        }
        self.generations += 1;
        Ok((loaded, changes))
    }

    pub(crate) fn serving(&self) -> Generation {
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
            fleet::settle(self.zone, row, own_pid);
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
        let bells = match place.role {
            Role::Worker => Rc::clone(&self.bells),
            Role::Monitor | Role::Demo => Rc::new(Bells::none()),
        };
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
            row_index: row,
            bells,
            identity: loaded.identity.clone(),
            cluster_password: loaded.cluster_password.clone(),
            announce,
            lifeline,
        })
    }

    fn loaded(&mut self, generation: Generation) -> io::Result<&mut Loaded> {
        let mut both = self.current.iter_mut().chain(&mut self.before);
        both.find(|loaded| loaded.generation == generation)
            .ok_or_else(|| io::Error::other(format!("generation {generation} is gone")))
    }

    fn commit(&mut self, want: &Desired, seen: &Observed) -> Event {
        let Some(current) = &self.current else { return Event::Committed { generation: want.target } };
        let generation = current.generation;
        if self.standing.is_alone() {
            self.zone.tell_generation(generation);
        }
        (self.adopt)(&current.plan);
        if current.plan.holds_secrets()
            && let Err(error) = privilege::forbid_cores()
        {
            log::error!("a core of the master could hold secrets: {error}");
        }
        if let Some(before) = self.before.take() {
            before.sockets.retire(Some(&current.sockets));
        }
        let is_worker = |process: &&Process| process.place.role == Role::Worker && process.state == State::Ready;
        let of_current = |process: &&Process| process.generation == generation;
        let workers = seen.processes.iter().filter(is_worker).filter(of_current).count();
        let plural = if workers == 1 { "" } else { "s" };
        log::info!("generation {generation} serves with {workers} worker{plural}");
        if self.standing.is_alone() {
            self.commit_keys();
        }
        self.first_commit();
        Event::Committed { generation }
    }

    fn roll_back(&mut self, reason: &str) -> Event {
        if let (Some(before), Some(failed)) = (self.before.take(), self.current.take()) {
            log::error!("reload failed, back to generation {}: {reason}", before.generation);
            failed.sockets.retire(Some(&before.sockets));
            self.current = Some(before);
            self.forget_keys();
        }
        Event::RolledBack { reason: reason.to_owned() }
    }

    fn close_listeners(&mut self) -> Event {
        let current = self.current.take();
        let is_ours = self.standing.is_alone();
        if let Some(before) = self.before.take().filter(|_| is_ours) {
            before.sockets.retire(current.as_ref().map(|current| &current.sockets));
        }
        // What another gate serves on has to stay where it is.
        if let Some(current) = current {
            match self.standing {
                succession::Standing::Alone => current.sockets.retire(None),
                succession::Standing::Candidate(_) => current.sockets.retire_new(),
                succession::Standing::Retired => {}
            }
        }
        Event::ListenersClosed
    }

    /// Sees to it that there is a file for the access log to be opened again.
    pub(crate) fn offer_log(&self) -> Result<(), String> {
        self.current.as_ref().map_or(Ok(()), Loaded::offer_log)
    }

    /// Has every worker open its log file again, and says so.
    fn reopen(&mut self, seen: &Observed) -> Event {
        if let Err(why) = self.offer_log() {
            log::error!("{why}");
        }
        self.zone.ask_to_reopen();
        let workers = seen.processes.iter().filter(|process| process.place.role == Role::Worker);
        for worker in workers.filter(|worker| worker.ready_at.is_some()) {
            if let Err(error) = process::kill(worker.pid, Signal::SIGUSR1) {
                log::warn!("cannot tell {} ({}) to open its log again: {error}", worker.place, worker.pid);
            }
        }
        log::info!("log files are opened again");
        Event::Reopening
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
            fleet::settle(self.zone, row, pid.as_raw().cast_unsigned());
        }
    }
}

impl Loaded {
    fn new(
        plan: Plan,
        generation: Generation,
        (held, steering): (Option<&Sockets>, Steering),
        estate: &mut Estate,
    ) -> Result<Self, Refused> {
        let identity = Identity::find(plan.user.as_deref(), plan.group.as_deref()).map_err(Refused::of)?;
        let plan = if plan.reuse_port && held.is_none() { steerable(plan) } else { plan };
        let mode = if plan.reuse_port { Mode::PerWorker } else { Mode::Shared };
        let wanted: Vec<Address> = plan.bind.iter().map(address).collect();
        let manner = Manner { mode, backlog: plan.backlog.cast_signed(), steering };
        let sockets = Sockets::bind(&wanted, manner, held, estate).map_err(|errors| Refused::binding(&errors))?;
        Ok(Self { generation, plan: Rc::new(plan), sockets, identity, cluster_password: None })
    }
}

impl Loaded {
    /// Makes the access log's file anew where it has been taken away, and gives it to the workers, who may be somebody
    /// else by now. One that is there is left alone: whoever put it there knows why, and opening it might block.
    fn offer_log(&self) -> Result<(), String> {
        let AccessLog::File(path) = &self.plan.access_log else { return Ok(()) };
        let made = match File::options().append(true).create_new(true).open(path) {
            Ok(file) => self.identity.give(file.as_fd()),
            Err(_) if path.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        };
        made.map_err(|error| format!("access_log: cannot make {} anew: {error}", path.display()))
    }
}

/// Sockets of their own lose connections whenever a worker goes, unless new ones can be steered away from it first.
fn steerable(plan: Plan) -> Plan {
    match listen::steering_works() {
        Ok(true) => {
            log::info!(
                "reuse_port: connections can be steered between the workers' sockets (SO_ATTACH_REUSEPORT_CBPF)"
            );
            plan
        }
        Ok(false) => {
            log::warn!("reuse_port: this kernel does not steer connections: the workers share one socket instead");
            plan.without_reuse_port()
        }
        Err(error) => {
            log::warn!("reuse_port: steering cannot be tried out ({error}): the workers share one socket instead");
            plan.without_reuse_port()
        }
    }
}

/// Sends a process an order.
fn tell(pid: Pid, (order, why): (Order, Why), seen: &Observed) -> Event {
    let known = seen.known(pid);
    if let Some(process) = known {
        report(process.place, pid, order, why);
    }
    // Only workers catch QUIT. For the others its default action is a core; they hold nothing, and TERM ends them.
    let is_worker = known.is_some_and(|process| process.place.role == Role::Worker);
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

pub(crate) fn wish(plan: &Plan) -> Wish {
    let ms = |duration: std::time::Duration| duration.as_millis() as u64;
    Wish {
        workers: u32::from(plan.workers),
        boot_ms: ms(plan.boot_timeout),
        drain_ms: ms(plan.stream_timeout),
        liveness_ms: plan.timeout.map_or(0, ms),
        surge: plan.surge,
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
        Why::Stopping | Why::Replaced | Why::Surplus | Why::Paused => {
            log::debug!("{place} ({pid}): {order:?}, {why:?}");
        }
        Why::BootTimeout => log::error!("{place} ({pid}) was not ready within boot_timeout: killing it"),
        Why::Silent => {
            log::error!("{place} ({pid}) has not beaten within timeout: aborting it, a successor follows");
        }
        Why::GraceOver => log::warn!("{place} ({pid}) did not leave in time: killing it"),
        Why::Abandoned => log::info!("{place} ({pid}) is of a generation that is not wanted any more: it leaves"),
    }
}
