//! The account of one request: opened with its head, closed when its last byte is handed to the connection or its
//! client is gone, whichever way it leaves. Owned by the answer's body, so that it cannot be closed too early or forgotten.

use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use gate_api::frames::Stats;
use gate_api::{Fault, Route};
use gate_config::AccessLogFormat;
use gate_upstream::{Lease, Member, Queued, Why};
use gate_zone::InService;
use gate_zone::layout::row;
use http::header::{HeaderName, HeaderValue, REFERER, USER_AGENT};
use http::{HeaderMap, Method, Uri, Version};
use jiff::Timestamp;
use tokio::time::Instant;

use self::text::{Json, key, quoted, text};
use crate::bill::{Bill, Done};
use crate::gate::Gate;
use crate::holder::Holder;
use crate::routes;
use crate::trace::X_REQUEST_ID;
use crate::wire::{Line, REFUSED};

mod text;

/// What stands in the log for a request whose client left before an answer, as nginx has it.
const LEFT: u16 = 499;

/// What a request is answered whose backend took too long.
const GATEWAY_TIMEOUT: u16 = 504;

pub(crate) static X_GATE_BACKEND: HeaderName = HeaderName::from_static("x-gate-backend");
static X_GATE_QUEUE_MS: HeaderName = HeaderName::from_static("x-gate-queue-ms");
static X_GATE_QUEUE_POSITION: HeaderName = HeaderName::from_static("x-gate-queue-position");

/// Who brought a request to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The answer was sent whole.
    Done,
    /// The gate or the backend refused or broke it; whose fault it is.
    Refused(Fault),
}

/// The account of one request.
pub(crate) struct Ledger {
    gate: Rc<Gate>,
    line: Rc<Line>,
    opened: Instant,
    record: Option<Record>,
    status: u16,
    bytes: u64,
    outcome: Option<Outcome>,
    refusal: Option<String>,
    wants: Wants,
    logged: Logged,
    route: &'static str,
    /// Its place among the row's described requests.
    described: Option<u8>,
    streaming: Streaming,
    id: Option<HeaderValue>,
    served: Option<Served>,
    /// When the answer began.
    first: Option<Instant>,
    stats: Option<Stats>,
    /// Frames so far that bring something generated.
    frames: u64,
    /// What it was charged.
    bill: Option<Box<Bill>>,
    /// Whether a backend may be working on it, or have done so.
    runs: bool,
    /// Whether a good answer has begun.
    began: bool,
}

/// By whom a request was served, and how it came there.
struct Served {
    member: Rc<Member>,
    /// `None` for a question that needs no slot.
    chosen: Option<(Why, Queued)>,
    /// How many backends were asked, this one included.
    tries: u64,
}

/// What only the access log wants to know: handles of what the request holds anyway, made text when the line is written.
#[derive(Debug)]
struct Record {
    client: Option<HeaderValue>,
    /// Whose key it came with.
    key: Option<Box<str>>,
    method: Method,
    uri: Uri,
    referer: Option<HeaderValue>,
    agent: Option<HeaderValue>,
    model: Option<Rc<str>>,
    upstream: Option<Duration>,
    version: Version,
}

/// What of the answer the client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wants {
    /// All of it.
    Body,
    /// Its head: the request is HEAD.
    Head,
}

impl Record {
    /// Method, path and query as they came; nothing of the request that stands for a head which was refused unread.
    fn request_line(&self) -> (&[u8], &[u8]) {
        if self.method.as_str() == REFUSED {
            return (b"-", b"-");
        }
        let target = self.uri.path_and_query().map_or("*", |target| target.as_str());
        (self.method.as_str().as_bytes(), target.as_bytes())
    }
}

/// Whether the answer is a stream that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Streaming {
    No,
    Yes,
}

/// Whether the request gets a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logged {
    /// The usual case.
    Yes,
    /// Health checks: every few seconds, and the same each time.
    No,
}

impl Ledger {
    /// Opens the account. In a box: it goes from hand to hand.
    pub(crate) fn open(gate: &Rc<Gate>, line: &Rc<Line>, head: &http::request::Parts) -> Box<Self> {
        let opened = Instant::now();
        gate.row.add_one(row::STARTED);
        let described =
            gate.row.begun(InService { since_ms: gate.start.monotonic_ms(opened), route: routes::UNROUTED });
        line.begin();
        let record = gate.journal.as_ref().map(|_| Record {
            client: None,
            key: None,
            method: head.method.clone(),
            uri: head.uri.clone(),
            referer: head.headers.get(REFERER).cloned(),
            agent: head.headers.get(USER_AGENT).cloned(),
            model: None,
            upstream: None,
            version: head.version,
        });
        Box::new(Self {
            gate: Rc::clone(gate),
            line: Rc::clone(line),
            opened,
            record,
            status: LEFT,
            bytes: 0,
            outcome: None,
            refusal: None,
            wants: if head.method == Method::HEAD { Wants::Head } else { Wants::Body },
            logged: Logged::Yes,
            route: "",
            described,
            streaming: Streaming::No,
            id: None,
            served: None,
            first: None,
            stats: None,
            frames: 0,
            bill: None,
            runs: false,
            began: false,
        })
    }

    /// When the request began.
    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// Says whose request it is, and by what it is followed.
    pub(crate) fn identify(&mut self, client: &HeaderValue, id: &HeaderValue) {
        self.id = Some(id.clone());
        if let Some(record) = &mut self.record {
            record.client = Some(client.clone());
        }
    }

    /// By what it is followed.
    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_ref()?.to_str().ok()
    }

    /// Says whose key it came with.
    pub(crate) fn holder(&mut self, holder: &Holder) {
        if let (Some(record), Some(name)) = (&mut self.record, &holder.name) {
            record.key = Some(name.as_str().into());
        }
    }

    /// Takes over what it was charged, to be settled when it is over.
    pub(crate) fn charge(&mut self, bill: Bill) {
        self.bill = Some(Box::new(bill));
    }

    /// Says that a good answer has begun.
    pub(crate) fn begins(&mut self) {
        self.began = true;
    }

    /// Says how many frames of the answer have passed.
    pub(crate) fn made_so_far(&mut self, frames: u64) {
        self.frames = frames;
    }

    /// Says which route it takes.
    pub(crate) fn route(&mut self, route: &Route) {
        self.route = route.name();
        if matches!(route, Route::Healthz | Route::Readyz) {
            self.logged = Logged::No;
        }
        if let Some(place) = self.described {
            let since_ms = self.gate.start.monotonic_ms(self.opened);
            self.gate.row.describe(place, InService { since_ms, route: routes::number(route) });
        }
    }

    /// Says which backend serves it, and why.
    pub(crate) fn serves(&mut self, lease: &Lease) {
        let tries = self.served.as_ref().map_or(0, |served| served.tries) + 1;
        let chosen = Some((lease.why, self.waited(lease.queued)));
        self.served = Some(Served { member: Rc::clone(&lease.member), chosen, tries });
        self.runs = true;
    }

    /// Says that the backend surely did not run it.
    pub(crate) fn never_ran(&mut self) {
        self.runs = false;
    }

    /// What it has waited in all, once more added.
    fn waited(&self, more: Queued) -> Queued {
        let before =
            self.served.as_ref().and_then(|served| served.chosen).map_or(Queued::default(), |(_, queued)| queued);
        Queued { waited: before.waited + more.waited, position: before.position.max(more.position) }
    }

    /// Says which backend is asked a question that needs no slot.
    pub(crate) fn asks(&mut self, member: &Rc<Member>) {
        let tries = self.served.as_ref().map_or(0, |served| served.tries) + 1;
        self.served = Some(Served { member: Rc::clone(member), chosen: None, tries });
    }

    /// Says what the backend told of the answer's making.
    pub(crate) fn made(&mut self, stats: Stats) {
        self.stats = Some(stats);
    }

    /// Tells the client by what its request is followed, who served it and how long it waited.
    pub(crate) fn tell(&self, fields: &mut HeaderMap) {
        if let Some(id) = &self.id {
            fields.insert(&X_REQUEST_ID, id.clone());
        }
        let Some(served) = &self.served else { return };
        fields.insert(&X_GATE_BACKEND, served.member.name().clone());
        if let Some((_, queued)) = served.chosen {
            fields.insert(&X_GATE_QUEUE_MS, number(queued.waited.as_millis() as u64));
            fields.insert(&X_GATE_QUEUE_POSITION, number(queued.position as u64));
        }
    }

    /// Says that the answer begins, as a stream.
    pub(crate) fn streams(&mut self) {
        self.first = Some(Instant::now());
        self.streaming = Streaming::Yes;
        self.gate.row.add_one(row::STREAMS_OPENED);
        self.line.stream();
    }

    /// Which route it takes, as it is named in logs.
    pub(crate) fn route_name(&self) -> &'static str {
        self.route
    }

    /// Says which model it asks for.
    pub(crate) fn model(&mut self, name: &Rc<str>) {
        if let Some(record) = &mut self.record {
            record.model = Some(Rc::clone(name));
        }
    }

    /// Says how long the backend took to begin its answer.
    pub(crate) fn upstream(&mut self, took: Duration) {
        if let Some(record) = &mut self.record {
            record.upstream = Some(took);
        }
    }

    /// What of the answer the client reads.
    pub(crate) fn wants(&self) -> Wants {
        self.wants
    }

    /// Says what status goes out.
    pub(crate) fn status(&mut self, status: u16) {
        self.status = status;
    }

    /// Says why it was refused.
    pub(crate) fn refused(&mut self, fault: Fault, why: &str) {
        self.outcome = Some(Outcome::Refused(fault));
        self.refusal = Some(text(why.as_bytes()).into_owned());
    }

    /// Counts bytes of the answer's body.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Says that the last byte was handed out.
    pub(crate) fn done(&mut self) {
        self.outcome.get_or_insert(Outcome::Done);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let now = Instant::now();
        let took = now - self.opened;
        if let Some(bill) = self.bill.take() {
            bill.settle(self.work());
        }
        if self.outcome.is_none() {
            self.gate.row.add_one(row::LEFT);
        }
        self.gate.row.answered(self.status, took);
        if let (Some(journal), Some(record), Logged::Yes) = (&self.gate.journal, &self.record, self.logged) {
            journal.line(|line| match self.gate.plan.access_log_format {
                AccessLogFormat::Json => self.json(record, (now, took), line),
                AccessLogFormat::Combined => self.combined(record, now, line),
            });
        }
        self.line.end(now);
        if self.gate.ground.drain.since().is_some() {
            // hyper waits for the next request as before, and how long that may take has become less.
            self.line.wake();
        }
        if self.streaming == Streaming::Yes {
            self.gate.row.add_one(row::STREAMS_CLOSED);
        }
        if let Some(place) = self.described {
            self.gate.row.ended(place);
        }
        self.gate.row.add_one(row::FINISHED);
    }
}

impl Ledger {
    /// What the backend did for it, as far as one can tell.
    fn work(&self) -> Done {
        match (self.stats, self.streaming) {
            (Some(stats), _) => Done::Told { prompt: stats.prompt_tokens, tokens: stats.tokens.unwrap_or(self.frames) },
            (None, Streaming::Yes) => Done::Seen { tokens: self.frames },
            (None, Streaming::No) if self.runs && self.is_unfinished() => Done::Unknown,
            // It never ran, or was answered with an error.
            (None, Streaming::No) => Done::Nothing,
        }
    }

    /// Whether it ended before its backend had answered whole: by its client, by a deadline, or by the size of the answer.
    fn is_unfinished(&self) -> bool {
        self.outcome.is_none() || self.status == GATEWAY_TIMEOUT || self.began
    }

    fn json(&self, record: &Record, (now, took): (Instant, Duration), out: &mut Vec<u8>) {
        let mut object = self.gate.clock.show(now, |made| Json::begin(out, &made.rfc3339));
        // An address, as this gate writes it.
        object.plain(key!("client"), bytes_of(record.client.as_ref()));
        if let Some(key) = &record.key {
            object.text(key!("key"), key.as_bytes());
        }
        let (method, target) = record.request_line();
        object.text(key!("method"), method);
        object.text(key!("target"), target);
        object.plain(key!("route"), self.route);
        object.number(key!("status"), u64::from(self.status));
        object.number(key!("bytes"), self.bytes);
        object.millis(key!("ms"), took);
        if let Some(upstream) = record.upstream {
            object.millis(key!("upstream_ms"), upstream);
        }
        if let Some(model) = &record.model {
            object.text(key!("model"), model.as_bytes());
        }
        if let Some(id) = &self.id {
            // Drawn here, or kept because it is as plain.
            object.plain(key!("id"), id);
        }
        self.json_served(&mut object);
        if let Some(agent) = &record.agent {
            object.text(key!("agent"), agent.as_bytes());
        }
        object.number(key!("worker"), u64::from(self.gate.place.slot) + 1);
        match self.outcome {
            Some(Outcome::Done) => {}
            Some(Outcome::Refused(fault)) => {
                object.plain(key!("fault"), fault_name(fault));
                object.text(key!("reason"), self.refusal.as_deref().unwrap_or_default().as_bytes());
            }
            None => object.plain(key!("fault"), "client left"),
        }
        object.end();
    }

    /// Who served it, how it came there and what it was.
    fn json_served(&self, object: &mut Json<'_>) {
        let Some(Served { member, chosen, tries }) = &self.served else { return };
        object.text(key!("backend"), member.name().as_bytes());
        if *tries > 1 {
            object.number(key!("tries"), *tries);
        }
        if let Some((why, queued)) = chosen {
            object.plain_pair(key!("why"), (why.fit.name(), why.way.name()));
            object.millis(key!("queue_ms"), queued.waited);
            object.number(key!("queue_position"), queued.position as u64);
        }
        if let Some(first) = self.first {
            object.millis(key!("first_token_ms"), first - self.opened);
        }
        let Some(stats) = &self.stats else { return };
        if let Some(load) = stats.load {
            object.millis(key!("load_ms"), load);
        }
        if let Some(tokens) = stats.prompt_tokens {
            object.number(key!("prompt_tokens"), tokens);
        }
        if let Some(tokens) = stats.tokens {
            object.number(key!("tokens"), tokens);
            if let Some(eval) = stats.eval.filter(|eval| !eval.is_zero()) {
                // Tokens a second, in thousandths.
                let rate = u128::from(tokens) * 1_000_000_000_000 / eval.as_nanos();
                object.thousandths(key!("tokens_per_second"), rate as u64);
            }
        }
    }

    /// Apache's and nginx's combined format.
    fn combined(&self, record: &Record, now: Instant, out: &mut Vec<u8>) {
        let (method, target) = record.request_line();
        let dash = |value: Option<&HeaderValue>| value.map_or("-".to_owned(), |value| quoted(value.as_bytes()));
        let written = self.gate.clock.show(now, |made| {
            writeln!(
                out,
                "{} - {} [{}] \"{} {} {:?}\" {} {} \"{}\" \"{}\"",
                dash(record.client.as_ref()),
                record.key.as_deref().unwrap_or("-"),
                made.clf,
                quoted(method),
                quoted(target),
                record.version,
                self.status,
                self.bytes,
                dash(record.referer.as_ref()),
                dash(record.agent.as_ref()),
            )
        });
        debug_assert!(written.is_ok(), "a Vec takes any number of bytes");
    }
}

/// A number as a field's value; for a request that did not wait, as most do not, without memory of its own.
fn number(number: u64) -> HeaderValue {
    if number == 0 { HeaderValue::from_static("0") } else { HeaderValue::from(number) }
}

fn bytes_of(value: Option<&HeaderValue>) -> &[u8] {
    value.map(HeaderValue::as_bytes).unwrap_or_default()
}

fn fault_name(fault: Fault) -> &'static str {
    match fault {
        Fault::Client => "client",
        Fault::Gate => "gate",
        Fault::Backend => "backend",
    }
}

/// The time of day as text, made once a second.
pub(crate) struct LogClock {
    made: std::cell::RefCell<Made>,
}

#[derive(Default)]
struct Made {
    /// When it is none any more.
    until: Option<Instant>,
    rfc3339: String,
    clf: String,
}

impl LogClock {
    pub(crate) fn new() -> Self {
        Self { made: std::cell::RefCell::default() }
    }

    /// Shows the time of day in both forms, given the event loop's. A clock that is set anew is followed within a second.
    fn show<T>(&self, now: Instant, show: impl FnOnce(&Made) -> T) -> T {
        let mut made = self.made.borrow_mut();
        if made.until.is_none_or(|until| now >= until) {
            let time = Timestamp::now();
            let left = 1_000_000_000 - time.subsec_nanosecond().unsigned_abs();
            made.until = Some(now + Duration::from_nanos(left.into()));
            made.rfc3339 = time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            made.clf = time.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string();
        }
        show(&made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_their_formats_want() {
        let clock = LogClock::new();
        clock.show(Instant::now(), |made| {
            assert_eq!(made.rfc3339.len(), "2026-11-23T13:00:00Z".len());
            assert_eq!(made.clf.len(), "23/Nov/2026:13:00:00 +0000".len());
        });
    }
}
