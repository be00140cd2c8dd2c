//! Answers on their way out. Each owns the ledger of its request, and a stream owns the backend's answer too: dropped
//! with the client's connection, it closes the one and cancels the other.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use gate_api::frames::{End, Frames, error_frame};
use gate_api::rejection::{Breakage, Phase};
use gate_api::{Connection, Fault, Rejection, Route};
use gate_upstream::{Lease, UpstreamBody};
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::drain::Cut;
use crate::gate::Gate;
use crate::ledger::{Ledger, Wants};
use crate::manage::Changing;
use std::rc::Rc;
use std::time::Duration;

/// An answer that the pipeline has come to.
pub(crate) struct Answering {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) content: Content,
}

/// What an answer carries.
pub(crate) enum Content {
    /// All of it.
    Whole(Bytes),
    /// Frames as they come.
    Stream(Box<Stream>),
}

/// A stream that a backend has begun.
pub(crate) struct Stream {
    pub(crate) upstream: UpstreamBody,
    /// The slot that is held until its end.
    pub(crate) lease: Option<Lease>,
    pub(crate) frames: Frames,
    /// What it answers.
    pub(crate) route: Route,
    /// Whose models change with it.
    pub(crate) changing: Option<Changing>,
}

impl Answering {
    /// An answer of the gate's own.
    pub(crate) fn whole(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let mut fields = HeaderMap::with_capacity(4);
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self { status, fields, content: Content::Whole(body.into()) }
    }

    /// An answer without a body.
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self { status, fields: HeaderMap::new(), content: Content::Whole(Bytes::new()) }
    }

    /// A refusal as its dialect words it.
    pub(crate) fn refusal(answer: gate_api::Answer) -> Self {
        let mut fields = HeaderMap::with_capacity(4);
        if let Some(content_type) = answer.content_type {
            fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        for (name, value) in answer.headers {
            // Values come from the table and from what was parsed as a header before; one that cannot be a header is
            // left out rather than turned into a failure of the answer.
            if let Ok(value) = HeaderValue::try_from(value) {
                fields.insert(HeaderName::from_static(name), value);
            }
        }
        if answer.close == Connection::Close {
            fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, fields, content: Content::Whole(answer.body.into()) }
    }

    /// Hands it to the connection. From here on the body owns the ledger.
    pub(crate) fn send(mut self, gate: &Rc<Gate>, mut ledger: Box<Ledger>) -> Response<Outbound> {
        ledger.status(self.status.as_u16());
        ledger.tell(&mut self.fields);
        if gate.ground.drain.since().is_some() {
            self.fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let body = match self.content {
            Content::Whole(bytes) => Outbound::Whole(Whole { bytes: Some(bytes), ledger }),
            Content::Stream(stream) => Outbound::Relay(Box::new(Relay::new(*stream, Rc::clone(gate), ledger))),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.fields;
        response
    }
}

/// The body of an answer.
pub(crate) enum Outbound {
    Whole(Whole),
    Relay(Box<Relay>),
}

/// A body that is there.
pub(crate) struct Whole {
    bytes: Option<Bytes>,
    ledger: Box<Ledger>,
}

/// A stream on its way through.
pub(crate) struct Relay {
    /// `None` once the stream has ended; dropping it before cancels the generation, and gives back its slot.
    upstream: Option<(UpstreamBody, Option<Lease>)>,
    frames: Frames,
    route: Route,
    /// Says at the end that the backend's models have changed.
    changing: Option<Changing>,
    gate: Rc<Gate>,
    ledger: Box<Ledger>,
    pause: Pause,
    /// When the request as a whole must be over.
    end: Option<Pin<Box<Sleep>>>,
}

/// The longest pause between two chunks, watched by one alarm that is set anew only when it rings.
struct Pause {
    max: Duration,
    last: Instant,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    fn over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.alarm.as_ref().is_some_and(|alarm| !alarm.is_elapsed()) {
            // Set in an earlier round, by the same task: it will wake it.
            return false;
        }
        let (now, until) = (Instant::now(), self.last + self.max);
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(until)));
        while alarm.as_mut().poll(cx).is_ready() {
            if now >= until {
                return true;
            }
            alarm.as_mut().reset(until);
        }
        false
    }
}

/// Whose doing it is that a stream ends early.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// Its backend's, for which that counts as a failure.
    Backend,
    /// Its time is over, or the worker's.
    Nobody,
}

type Polled = Poll<Option<Result<Frame<Bytes>, Infallible>>>;

impl Relay {
    fn new(
        Stream { upstream, lease, frames, route, changing }: Stream,
        gate: Rc<Gate>,
        mut ledger: Box<Ledger>,
    ) -> Self {
        ledger.streams();
        let end = gate.plan.request_timeout.map(|limit| Box::pin(sleep_until(ledger.opened() + limit)));
        let pause = Pause { max: gate.plan.chunk_timeout, last: Instant::now(), alarm: None };
        Self { upstream: Some((upstream, lease)), frames, route, changing, gate, ledger, pause, end }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Polled {
        loop {
            let Some((upstream, _)) = &mut self.upstream else { return Poll::Ready(None) };
            if self.gate.ground.drain.cut() == Cut::All {
                return self.stops(&Rejection::Draining, Blame::Nobody);
            }
            if let Some(end) = &mut self.end
                && end.as_mut().poll(cx).is_ready()
            {
                let after = self.gate.plan.request_timeout.unwrap_or_default();
                return self.stops(&Rejection::BackendTimeout { phase: Phase::Whole, after }, Blame::Nobody);
            }
            match upstream.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    self.pause.last = Instant::now();
                    match self.frames.push(chunk) {
                        Ok(frames) if frames.is_empty() => {}
                        Ok(frames) => {
                            self.ledger.made_so_far(self.frames.count());
                            return self.pass(frames);
                        }
                        Err(too_long) => return self.breaks(&broken(Breakage::TooLarge, too_long.to_string())),
                    }
                }
                Poll::Ready(Some(Err(error))) => return self.breaks(&broken(Breakage::ClosedEarly, error.to_string())),
                Poll::Ready(None) => return self.ended(),
                Poll::Pending if self.pause.over(cx) => {
                    let after = self.pause.max;
                    return self.breaks(&Rejection::BackendTimeout { phase: Phase::BetweenChunks, after });
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn pass(&mut self, frames: Bytes) -> Polled {
        self.ledger.sent(frames.len());
        Poll::Ready(Some(Ok(Frame::data(frames))))
    }

    /// The backend has ended its answer: well, or without saying so.
    fn ended(&mut self) -> Polled {
        self.changing = None;
        let lease = self.upstream.take().and_then(|(_, lease)| lease);
        match self.frames.finish() {
            End::Complete { stats } => {
                if let (Some(lease), Some(load)) = (&lease, stats.load) {
                    lease.loaded_in(load);
                }
                if let Some(lease) = &lease {
                    lease.completed();
                }
                self.ledger.made(stats);
                self.ledger.done();
                Poll::Ready(None)
            }
            End::ErrorTold => {
                self.ledger.refused(Fault::Backend, "the backend ended the stream with an error");
                Poll::Ready(None)
            }
            End::Cut { fragment } => {
                if let Some(lease) = &lease {
                    lease.broke();
                }
                let cause = format!("the stream just stopped ({fragment} bytes of an unfinished frame were dropped)");
                self.tell(&broken(Breakage::ClosedEarly, cause))
            }
        }
    }

    /// Ends the stream because of its backend.
    fn breaks(&mut self, why: &Rejection) -> Polled {
        self.stops(why, Blame::Backend)
    }

    /// Ends the stream here and tells the client why; but where its last frame has come already, nothing is missing.
    fn stops(&mut self, why: &Rejection, blame: Blame) -> Polled {
        if !matches!(self.frames.finish(), End::Cut { .. }) {
            return self.ended();
        }
        if let Some((_, Some(lease))) = self.upstream.take().filter(|_| blame == Blame::Backend) {
            lease.broke();
        }
        self.tell(why)
    }

    fn tell(&mut self, why: &Rejection) -> Polled {
        let terms = why.terms();
        self.ledger.refused(terms.fault, &terms.log);
        let frame = error_frame(&self.route, why, (self.ledger.id(), self.frames.sequence()));
        self.pass(frame)
    }
}

fn broken(what: Breakage, cause: String) -> Rejection {
    Rejection::BackendBroken { what, cause }
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.get_mut() {
            Self::Whole(whole) => {
                let bytes = whole.bytes.take();
                whole.ledger.sent(bytes.as_ref().map_or(0, Bytes::len));
                whole.ledger.done();
                Poll::Ready(bytes.filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Relay(relay) => relay.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Relay(relay) => relay.upstream.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => SizeHint::with_exact(whole.bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Relay(_) => SizeHint::default(),
        }
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        // hyper asks no empty body for its frames, and no body in answer to HEAD.
        if self.bytes.as_ref().is_some_and(|bytes| bytes.is_empty() || self.ledger.wants() == Wants::Head) {
            self.ledger.done();
        }
    }
}
