//! A zone in this process with several fleets on it, each of which stands for a process; requests that are polled by hand.
//!
//! It asks no backend anything. Invariant: a scene that hangs fails, however it hangs.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use gate_api::Rejection;
use gate_zone::fleet::queue::{Bounds, COST, Waiter};
use gate_zone::fleet::slots::Holder;
use gate_zone::fleet::{Cell, Fleet as Cells, breaker};
use gate_zone::{OwnRow, Place, Role, Zone};

use crate::{Fleet, Lease, Reach, Rules, Spec, Timeouts, Want};

/// Far above what any scene needs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The rules of most scenes: nothing ends by itself.
pub(crate) const RULES: Rules = Rules {
    queue: Bounds { all: 64, per_client: 64 },
    queue_timeout: Duration::from_secs(60),
    swap_patience: Duration::from_secs(30),
    load_timeout: Duration::from_secs(600),
    breaker: breaker::Terms { failures: 2, time: Duration::from_secs(600) },
    trial: Duration::from_secs(600),
};

const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(5), first_byte: Duration::from_secs(5) };

/// Plays a scene in a thread with an event loop whose clock stands still.
pub(crate) fn play<S: Future<Output = ()>>(scene: impl FnOnce() -> S + Send + 'static) {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(scene())));
        drop(tell.send(played));
    });
    match told.recv_timeout(PATIENCE) {
        Ok(played) => played.unwrap_or_else(|panic| resume_unwind(panic)),
        Err(RecvTimeoutError::Timeout) => panic!("the scene turns in a circle: not over after {PATIENCE:?}"),
        Err(RecvTimeoutError::Disconnected) => panic!("the scene ended without a word"),
    }
}

/// A zone and what all processes on it are told.
pub(crate) struct Yard {
    pub(crate) zone: Zone,
    pub(crate) cells: Cells,
    pub(crate) specs: Vec<Spec>,
    pub(crate) rules: Rules,
    /// Rows whose bell has been rung.
    pub(crate) rung: Rc<RefCell<Vec<usize>>>,
}

/// A backend that takes so many at once.
pub(crate) fn spec(place: usize, slots: usize) -> Spec {
    Spec {
        name: format!("b{place}"),
        url: format!("http://192.0.2.1:{place}"),
        reach: Reach::Http { authority: format!("192.0.2.1:{place}"), prefix: String::new() },
        weight: 1,
        slots,
        models: Vec::new(),
    }
}

impl Yard {
    /// One backend for each number of slots.
    pub(crate) fn new(slots: &[usize]) -> Self {
        // The memory file may go: the words stay mapped.
        let (_memory, zone) = Zone::create(NonZeroUsize::new(8).unwrap(), [1, 2]).unwrap();
        let specs = slots.iter().enumerate().map(|(place, slots)| spec(place, *slots)).collect();
        let yard = Self { zone, cells: zone.fleet(), specs, rules: RULES, rung: Rc::default() };
        // As the master does before it forks.
        for spec in &yard.specs {
            yard.cells.claim(yard.cells.hash(spec.url.as_bytes()), &[]).unwrap();
        }
        yard
    }

    /// A process: its row is also its pid.
    pub(crate) fn process(&self) -> Rc<Fleet> {
        let row = self.zone.scoreboard().set_aside(1).unwrap();
        let place = Place { role: Role::Worker, slot: 0 };
        let own = Rc::new(OwnRow::claim(self.zone.scoreboard().row(row), place, 1, 0));
        let bells = Rc::clone(&self.rung);
        let ring = move |row| bells.borrow_mut().push(row);
        let specs = (self.specs.clone(), TIMEOUTS);
        Rc::new(Fleet::new(self.cells, (Holder::new(row, row as u32), own), specs, self.rules, ring))
    }

    pub(crate) fn cell(&self, place: usize) -> Cell {
        self.cells.cell(place)
    }

    /// A request of this client for a model.
    pub(crate) fn want(&self, model: &str, client: u64) -> Want {
        let instance = self.cells.instance(model, "");
        Want { model: model.into(), instance, client, cost: COST, conversation: 0, tried: 0 }
    }

    /// A model comes into memory.
    pub(crate) fn load(&self, place: usize, model: &str) {
        self.cell(place).note(self.cells.instance(model, ""), gate_zone::clock::monotonic_ms());
    }

    /// This model in memory, and no room for another.
    pub(crate) fn fill(&self, place: usize, model: &str) {
        let name = self.cells.instance(model, "").name;
        self.cell(place).tell_in_memory(&[(name, model)], gate_zone::clock::monotonic_ms());
        self.cell(place).tell_evicted();
        assert!(!self.cell(place).has_room_beside(1));
    }

    pub(crate) fn in_flight(&self, place: usize) -> usize {
        self.cell(place).in_flight()
    }

    pub(crate) fn waiters(&self) -> Vec<Waiter> {
        self.cells.queue().waiters().collect()
    }

    /// A breaker that opens now, and whose time is over.
    pub(crate) fn make_due(&self, place: usize) {
        let terms = breaker::Terms { failures: 1, time: Duration::ZERO };
        breaker::failed(self.cell(place).breaker(), terms, gate_zone::clock::monotonic_ms());
    }

    /// A breaker that is open for long.
    pub(crate) fn open(&self, place: usize) {
        let terms = breaker::Terms { failures: 1, time: Duration::from_secs(600) };
        breaker::failed(self.cell(place).breaker(), terms, gate_zone::clock::monotonic_ms());
    }

    /// Nobody waits and nothing is in service.
    #[track_caller]
    pub(crate) fn assert_idle(&self) {
        assert_eq!(self.waiters(), []);
        assert!(self.cells.queue().is_empty(), "an entry is left");
        for cell in self.cells.cells() {
            assert_eq!(cell.in_flight(), 0, "slots of cell {} are left", cell.index());
        }
    }
}

/// Counts how often a request was woken.
#[derive(Default)]
struct Alarm(AtomicUsize);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type Turn = Pin<Box<dyn Future<Output = Result<Lease, Rejection>>>>;

/// A request, polled by hand. Dropping it is a client that leaves.
pub(crate) struct Request {
    turn: Option<Turn>,
    alarm: Arc<Alarm>,
    seen: usize,
}

impl Request {
    /// One that has not come yet.
    pub(crate) fn new(fleet: &Rc<Fleet>, want: Want) -> Self {
        let fleet = Rc::clone(fleet);
        let turn: Turn = Box::pin(async move { fleet.turn(&want).await });
        Self { turn: Some(turn), alarm: Arc::default(), seen: 0 }
    }

    /// One that comes, and waits.
    #[track_caller]
    pub(crate) fn waits(fleet: &Rc<Fleet>, want: Want) -> Self {
        let mut request = Self::new(fleet, want);
        assert!(request.poll().is_none(), "it does not wait");
        request
    }

    /// What has become of it, whether it was woken or not.
    pub(crate) fn poll(&mut self) -> Option<Result<Lease, Rejection>> {
        self.seen = self.alarm.0.load(Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(&self.alarm));
        let turn = self.turn.as_mut().expect("it is not over");
        match turn.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => None,
            Poll::Ready(done) => {
                self.turn = None;
                Some(done)
            }
        }
    }

    /// Whether it has been woken since it was last polled.
    pub(crate) fn is_woken(&self) -> bool {
        self.alarm.0.load(Ordering::SeqCst) > self.seen
    }

    /// As the event loop does: polled if it was woken.
    pub(crate) fn run(&mut self) -> Option<Result<Lease, Rejection>> {
        if self.is_woken() { self.poll() } else { None }
    }

    /// The lease that it was woken for.
    #[track_caller]
    pub(crate) fn served(mut self) -> Lease {
        self.run().expect("it has not been woken, or waits on").unwrap_or_else(|why| panic!("refused: {why:?}"))
    }
}

/// A lease that is there at once.
#[track_caller]
pub(crate) fn at_once(fleet: &Rc<Fleet>, want: Want) -> Lease {
    Request::new(fleet, want).poll().expect("it waits").unwrap_or_else(|why| panic!("refused: {why:?}"))
}

/// Why a request is refused at once.
#[track_caller]
pub(crate) fn refused(fleet: &Rc<Fleet>, want: Want) -> Rejection {
    match Request::new(fleet, want).poll() {
        Some(Err(why)) => why,
        Some(Ok(lease)) => panic!("it is served by {:?}", lease.member),
        None => panic!("it waits"),
    }
}
