//! A client's connection as hyper sees it: heads judged before hyper reads them, deadlines kept, closes that do not cut.
//!
//! hyper has a timer for heads that also runs while a connection idles, none for slow readers, and its graceful shutdown
//! cuts idle connections on which a request is already on its way. All of that is done here instead.
//!
//! A head that is refused becomes a request of the gate's own making ([`REFUSED`]), and the refusal waits beside it: so
//! the answer goes out in its turn, after those to the requests before, and through the same pipeline and ledger.
//!
//! Invariant: hyper reads no byte that [`crate::framing`] has not released, and none that differs from what the client sent
//! but the zeros that stand for the length of a body which goes around it ([`crate::inbound`]).

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use gate_api::Rejection;
use gate_limit::Peer;
use http::HeaderValue;
use hyper::rt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::drain::{Cut, Drain};
use crate::framing::{Caps, Framer, Verdict};
use crate::inbound::Aside;

/// The method of the request that stands for a refused head. No client can send it: methods are letters here.
pub(crate) const REFUSED: &str = "GATE-REFUSED";

/// The request that stands for a refused head.
const STAND_IN: &[u8] = b"GATE-REFUSED / HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n";

/// Bytes read from a socket at once: a request with its body, or a good piece of a large one.
const READ_SIZE: usize = 16 * 1024;

/// How long an idle connection is kept while draining: a request that the client had sent before it could know arrives
/// within a round trip; two seconds are the slowest of those, and nothing to an operator.
const DRAIN_LINGER: Duration = Duration::from_secs(2);

/// How long the rest of a refused request is read and dropped, so that the client can read its answer: closing a socket
/// with unread bytes resets it, and the answer with it.
const CLOSE_LINGER: Duration = Duration::from_secs(2);

/// Deadlines of the client's side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a whole head.
    pub(crate) head: Duration,
    /// Between requests.
    pub(crate) keep_alive: Duration,
    /// For a client that does not read.
    pub(crate) write: Duration,
}

/// What all connections of a worker share.
pub(crate) struct Ground {
    pub(crate) patience: Patience,
    pub(crate) caps: Caps,
    pub(crate) drain: Rc<Drain>,
    scratch: RefCell<Box<[u8]>>,
}

impl Ground {
    pub(crate) fn new(patience: Patience, caps: Caps) -> Self {
        Self { patience, caps, drain: Rc::default(), scratch: RefCell::new(vec![0; READ_SIZE].into()) }
    }
}

/// A stream socket of either kind.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What the connection and the requests on it know of each other.
pub(crate) struct Line {
    /// The other end.
    pub(crate) peer: Peer,
    /// This end, for a request whose Host cannot be repeated.
    pub(crate) local: Option<SocketAddr>,
    /// The peer as the log and the backend are told of it, made once for all requests.
    pub(crate) name: OnceCell<HeaderValue>,
    /// A body that does not go by hyper.
    pub(crate) aside: Aside,
    busy: Cell<Busy>,
    unread: Cell<Unread>,
    stay: Cell<Stay>,
    idle_since: Cell<Instant>,
    refused: RefCell<Option<Rejection>>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Busy {
    /// A request is in service.
    Yes,
    /// Its answer is a stream that has begun.
    Streaming,
    /// None has been.
    Fresh,
    /// None is, and some have been.
    Between,
}

/// Whether some of an answer waits for the client to read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unread {
    Some,
    None,
}

/// Whether the connection outlives the time that requests have in a drain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stay {
    No,
    Yes,
}

impl Line {
    pub(crate) fn new(peer: Peer, local: Option<SocketAddr>) -> Self {
        Self {
            peer,
            local,
            name: OnceCell::new(),
            aside: Aside::default(),
            busy: Cell::new(Busy::Fresh),
            unread: Cell::new(Unread::None),
            stay: Cell::new(Stay::No),
            idle_since: Cell::new(Instant::now()),
            refused: RefCell::default(),
            waker: RefCell::default(),
        }
    }

    /// A request begins: the connection waits for no other.
    pub(crate) fn begin(&self) {
        self.busy.set(Busy::Yes);
    }

    /// Its answer begins, as a stream.
    pub(crate) fn stream(&self) {
        self.busy.set(Busy::Streaming);
    }

    fn is_busy(&self) -> bool {
        matches!(self.busy.get(), Busy::Yes | Busy::Streaming)
    }

    /// Lets the connection stay if it is in the middle of an answer.
    pub(crate) fn stay_if_answering(&self) {
        if self.busy.get() == Busy::Streaming || self.unread.get() == Unread::Some {
            self.stay.set(Stay::Yes);
        }
    }

    /// Whether it stays.
    pub(crate) fn stays(&self) -> bool {
        self.stay.get() == Stay::Yes
    }

    /// The request has ended.
    pub(crate) fn end(&self, now: Instant) {
        self.idle_since.set(now);
        self.busy.set(Busy::Between);
    }

    /// Why the request at hand was refused before hyper saw it.
    pub(crate) fn refusal(&self) -> Option<Rejection> {
        self.refused.borrow_mut().take()
    }

    /// Makes the connection look at the world again.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn remember(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }
}

/// The connection.
pub(crate) struct Wire {
    socket: Socket,
    line: Rc<Line>,
    ground: Rc<Ground>,
    framer: Framer,
    /// Bytes that have come and were not handed on. The first `released` of them may be.
    held: BytesMut,
    released: usize,
    head_since: Option<Instant>,
    input: Input,
    alarm: Option<Pin<Box<Sleep>>>,
    stalled: Option<Pin<Box<Sleep>>>,
    closing: Option<Pin<Box<Sleep>>>,
}

#[derive(PartialEq, Eq)]
enum Input {
    /// More may come.
    Open,
    /// Nothing more is handed on; the rest was not refused.
    Over,
    /// Nothing more is handed on, and bytes that were not read may be left.
    Abandoned,
}

impl Wire {
    pub(crate) fn new(socket: Socket, line: Rc<Line>, ground: Rc<Ground>) -> Self {
        let framer = Framer::new(ground.caps);
        let head_since = Some(Instant::now());
        Self {
            socket,
            line,
            ground,
            framer,
            held: BytesMut::new(),
            released: 0,
            head_since,
            input: Input::Open,
            alarm: None,
            stalled: None,
            closing: None,
        }
    }

    /// Hands on what is released.
    fn hand_on(&mut self, buf: &mut rt::ReadBufCursor<'_>) {
        let count = self.released.min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.held.advance(count);
        self.released -= count;
        if self.held.is_empty() {
            // An idle connection holds no buffer.
            self.held = BytesMut::new();
        }
    }

    /// Replaces the rest of the input by the request that stands for the refusal. Within a body there is no place for
    /// one: the error reaches whoever reads the body, who finds the refusal here.
    fn refuse(&mut self, refused: Rejection) -> io::Result<()> {
        let in_body = !self.framer.between_messages();
        *self.line.refused.borrow_mut() = Some(refused);
        self.input = Input::Abandoned;
        if in_body {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.held = BytesMut::from(STAND_IN);
        self.released = STAND_IN.len();
        Ok(())
    }

    /// Reads once from the socket. Where nothing was held, what can be released at once goes straight into `buf`.
    fn fill(&mut self, cx: &mut Context<'_>, buf: &mut rt::ReadBufCursor<'_>) -> Poll<io::Result<Came>> {
        let ground = Rc::clone(&self.ground);
        let mut scratch = ground.scratch.borrow_mut();
        let mut into = ReadBuf::new(&mut scratch);
        ready!(self.socket.poll_read(cx, &mut into))?;
        let fresh = into.filled();
        if fresh.is_empty() {
            return Poll::Ready(Ok(Came::End));
        }
        let begins = self.framer.between_messages();
        let verdict = if self.held.is_empty() { self.framer.judge(fresh) } else { Verdict::More };
        Poll::Ready(Ok(match verdict {
            Verdict::Release(count) if begins && count == fresh.len() && self.part(fresh, buf) => {
                self.release(0, cx);
                Came::Passed
            }
            Verdict::Release(count) => {
                let here = count.min(buf.remaining());
                buf.put_slice(&fresh[..here]);
                self.held.extend_from_slice(&fresh[here..]);
                self.release(count - here, cx);
                Came::Passed
            }
            Verdict::Refuse(refused) => Came::Refused(refused),
            Verdict::More => {
                self.held.extend_from_slice(fresh);
                Came::Held
            }
        }))
    }

    /// Parts a message, the last one judged, into a head for hyper that says that there is no body, and the body; whether
    /// that could be done.
    fn part(&self, message: &[u8], buf: &mut rt::ReadBufCursor<'_>) -> bool {
        let (head, body) = message.split_at(self.framer.head_length());
        let number = self.framer.heads();
        let is_whole = !body.is_empty() && self.framer.between_messages();
        if !is_whole || head.len() > buf.remaining() || !self.line.aside.is_free_for(number) {
            return false;
        }
        let digits = self.framer.length_digits();
        buf.put_slice(&head[..digits.start]);
        digits.clone().for_each(|_| buf.put_slice(b"0"));
        buf.put_slice(&head[digits.end..]);
        self.line.aside.lay(number, Bytes::copy_from_slice(body));
        true
    }

    /// So many of the bytes that are held may be handed on.
    fn release(&mut self, count: usize, cx: &mut Context<'_>) {
        self.released = count;
        self.head_since = None;
        // hyper need not read again before the answer is out, and the wait after it begins unseen.
        self.watch(cx);
    }

    /// The moment at which waiting for the client ends, and what it means then.
    fn deadline(&mut self) -> Option<(Instant, Overdue)> {
        if self.stalled.is_some() {
            // What is not written yet is the write timeout's affair: the client reads the answer to its last request.
            return None;
        }
        if self.line.is_busy() || !self.framer.between_messages() {
            return None;
        }
        let patience = self.ground.patience;
        if !self.held.is_empty() {
            let since = *self.head_since.get_or_insert_with(Instant::now);
            return Some((since + patience.head, Overdue::Refuse));
        }
        let idle_since = self.line.idle_since.get();
        let until = match self.line.busy.get() {
            Busy::Fresh => idle_since + patience.head,
            Busy::Yes | Busy::Streaming | Busy::Between => idle_since + patience.keep_alive,
        };
        let until = match (self.ground.drain.since(), self.ground.drain.cut()) {
            (_, Cut::All) => idle_since,
            (Some(drained), _) => until.min(idle_since.max(drained) + DRAIN_LINGER),
            (None, _) => until,
        };
        Some((until, Overdue::Close))
    }

    /// Whether the client has kept us waiting too long. Otherwise the task is woken when that may be the case.
    fn overdue(&mut self, cx: &mut Context<'_>) -> Option<Overdue> {
        let Some((until, overdue)) = self.deadline() else {
            self.watch(cx);
            return None;
        };
        if self.set_alarm().is_some_and(|alarm| alarm.deadline() <= until) {
            // Read at each request, the clock costs as much as all the rest here.
            return None;
        }
        let now = Instant::now();
        if now >= until {
            return Some(overdue);
        }
        self.arm(cx, until);
        None
    }

    /// The alarm that is set, if it has not rung: it will wake the task.
    fn set_alarm(&self) -> Option<&Sleep> {
        self.alarm.as_deref().filter(|alarm| !alarm.is_elapsed())
    }

    /// Sees to it that the task is woken before a pause that begins now has lasted too long.
    fn watch(&mut self, cx: &mut Context<'_>) {
        let Patience { head, keep_alive, .. } = self.ground.patience;
        // What was set earlier was set for `head` or `keep_alive` from then.
        if head > keep_alive || self.set_alarm().is_none() {
            self.arm(cx, Instant::now() + keep_alive);
        }
    }

    /// Sees to it that the task is woken at `until` at the latest. An alarm that is set too early costs one look when it
    /// rings; setting it anew for each request would cost more.
    fn arm(&mut self, cx: &mut Context<'_>, until: Instant) {
        if self.set_alarm().is_some_and(|alarm| alarm.deadline() <= until) {
            return;
        }
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if alarm.deadline() > until {
            alarm.as_mut().reset(until);
        }
        while alarm.as_mut().poll(cx).is_ready() {
            alarm.as_mut().reset(until);
        }
    }

    /// After a write that could not go on: whether the client has not read for too long.
    fn unread(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let patience = self.ground.patience.write;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")),
            Poll::Pending => Ok(()),
        }
    }

    fn wrote(&mut self, polled: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Pending => {
                self.line.unread.set(Unread::Some);
                self.unread(cx)?;
                Poll::Pending
            }
            Poll::Ready(done) => {
                if self.stalled.take().is_some() {
                    self.line.unread.set(Unread::None);
                    // The client has only now read on: its pause begins here.
                    self.line.idle_since.set(Instant::now());
                    if self.ground.drain.since().is_some() {
                        self.line.wake();
                    }
                }
                Poll::Ready(done)
            }
        }
    }

    /// Reads and drops what the client still sends, for a while.
    fn drop_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let closing = self.closing.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_LINGER)));
        if closing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let ground = Rc::clone(&self.ground);
        let mut scratch = ground.scratch.borrow_mut();
        loop {
            let mut into = ReadBuf::new(&mut scratch);
            match ready!(self.socket.poll_read(cx, &mut into)) {
                Ok(()) if !into.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

/// What came of a look at the socket.
enum Came {
    /// Something that was handed on, in part at least.
    Passed,
    /// Something that is held.
    Held,
    /// Something that is refused.
    Refused(Rejection),
    /// The end.
    End,
}

#[derive(Clone, Copy)]
enum Overdue {
    /// Answer 408.
    Refuse,
    /// Close: there is nobody to answer.
    Close,
}

impl rt::Read for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: rt::ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        wire.line.remember(cx.waker());
        loop {
            if wire.released > 0 {
                wire.hand_on(&mut buf);
                return Poll::Ready(Ok(()));
            }
            match wire.input {
                Input::Open => {}
                Input::Over => return Poll::Ready(Ok(())),
                // An end here would look like a client that has gone; the answer closes the connection.
                Input::Abandoned => return Poll::Pending,
            }
            match wire.framer.judge(&wire.held) {
                Verdict::Release(count) => {
                    wire.release(count, cx);
                    continue;
                }
                Verdict::Refuse(refused) => {
                    wire.refuse(refused)?;
                    continue;
                }
                Verdict::More => {}
            }
            match wire.fill(cx, &mut buf) {
                Poll::Ready(Ok(Came::Passed)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(Came::Held)) => {}
                Poll::Ready(Ok(Came::Refused(refused))) => wire.refuse(refused)?,
                Poll::Ready(Ok(Came::End)) => wire.input = Input::Over,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => match wire.overdue(cx) {
                    Some(Overdue::Refuse) => wire.refuse(Rejection::HeadTimeout)?,
                    Some(Overdue::Close) => wire.input = Input::Over,
                    None => return Poll::Pending,
                },
            }
        }
    }
}

impl rt::Write for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        let polled = match &mut wire.socket {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Socket::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        };
        wire.wrote(polled, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if wire.closing.is_none() {
            ready!(match &mut wire.socket {
                Socket::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
                Socket::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
            })?;
        }
        if wire.input == Input::Abandoned || !wire.framer.between_messages() {
            ready!(wire.drop_rest(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl Socket {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, into),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, into),
        }
    }
}
