//! Clients that keep a connection each and ask again as soon as they are answered, hundreds of them in one thread.
//!
//! Invariant: every request that was begun is recorded, however it ended.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::complaint::Complaint;
use crate::interrupt;
use crate::supervise::exchange::{After, Answer, BYTES_MAX, whole};

/// How long one answer may take: longer than any queue here is.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a client waits after a failure, so that one does not turn into a flood.
const PAUSE: Duration = Duration::from_millis(2);
/// What is read at once.
const PART: usize = 4 << 10;
/// How often an interruption is looked for.
const NAP: Duration = Duration::from_millis(50);

/// One request that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Whose it was.
    pub(crate) client: usize,
    /// What was asked, as [`Next`] numbers it.
    pub(crate) number: u64,
    /// Since the load began.
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    /// None where no whole answer came.
    pub(crate) status: Option<u16>,
}

/// What a client asks next, by a number of its own; none ends it.
pub(crate) type Next = dyn Fn() -> Option<(u64, String)>;

/// Runs so many connections of each client until each has nothing to ask any more; all records, by their end.
pub(crate) fn run(port: u16, connections: &[usize], next: &Rc<Next>) -> Result<Vec<Record>, Complaint> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Complaint::io("starting clients"))?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let epoch = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for (client, count) in connections.iter().enumerate() {
            for _ in 0..*count {
                tasks.spawn_local(ask_on(Client::new(port, client), epoch, Rc::clone(next)));
            }
        }
        let mut records = Vec::new();
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    Some(some) => records.extend(some.unwrap_or_default()),
                    None => break,
                },
                () = sleep(NAP) => interrupt::check()?,
            }
        }
        records.sort_unstable_by_key(|record: &Record| record.ended);
        Ok(records)
    })
}

async fn ask_on(mut client: Client, epoch: Instant, next: Rc<Next>) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some((number, body)) = next() {
        let began = epoch.elapsed();
        let answer = timeout(ANSWER_MAX, client.ask(&body)).await;
        let status = answer.ok().and_then(Result::ok).map(|answer| answer.status);
        records.push(Record { client: client.number, number, began, ended: epoch.elapsed(), status });
        if status != Some(200) {
            sleep(PAUSE).await;
        }
    }
    records
}

/// A client with the connection it keeps.
struct Client {
    server: SocketAddr,
    number: usize,
    kept: Option<TcpStream>,
}

impl Client {
    fn new(port: u16, number: usize) -> Self {
        Self { server: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), number, kept: None }
    }

    /// A connection is kept only after a whole answer; dropping the future closes it.
    async fn ask(&mut self, body: &str) -> io::Result<Answer> {
        let mut stream = if let Some(stream) = self.kept.take() {
            stream
        } else {
            let stream = TcpStream::connect(self.server).await?;
            stream.set_nodelay(true)?;
            stream
        };
        stream.write_all(request(self.server, address(self.number), body).as_bytes()).await?;
        let (mut held, mut part) = (Vec::new(), [0; PART]);
        let answer = loop {
            if let Some(answer) = whole(&held)? {
                break answer;
            }
            match stream.read(&mut part).await? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                _ if held.len() > BYTES_MAX => return Err(ErrorKind::InvalidData.into()),
                read => held.extend_from_slice(&part[..read]),
            }
        };
        self.kept = (answer.after == After::Kept).then_some(stream);
        Ok(answer)
    }
}

/// An address for each client.
fn address(client: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, client as u8)
}

/// A request of the client at an address.
pub(crate) fn request(server: SocketAddr, client: Ipv4Addr, body: &str) -> String {
    format!(
        "POST /api/generate HTTP/1.1\r\nHost: {server}\r\nX-Forwarded-For: {client}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Numbers that look random and are the same in every run: Marsaglia's xorshift64.
pub(crate) fn drawn(seed: u64) -> u64 {
    (0..4).fold(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15), |mut number, _| {
        number ^= number << 13;
        number ^= number >> 7;
        number ^ (number << 17)
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::backend::Backend;

    #[test]
    fn everything_that_is_asked_is_recorded() {
        let backend = Backend::start().unwrap();
        let asked = Cell::new(0_u64);
        let next = move || {
            asked.set(asked.get() + 1);
            let prompt = if asked.get() == 7 { "@drop" } else { "hello" };
            (asked.get() <= 20).then(|| (asked.get(), format!(r#"{{"model":"m","prompt":"{prompt}","stream":false}}"#)))
        };
        let records = run(backend.port, &[2, 0, 1], &(Rc::new(next) as Rc<Next>)).unwrap();
        let mut numbers: Vec<u64> = records.iter().map(|record| record.number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
        assert!(records.iter().all(|record| record.client != 1 && record.began <= record.ended));
        let failed: Vec<u64> =
            records.iter().filter(|record| record.status != Some(200)).map(|record| record.number).collect();
        assert_eq!(failed, [7]);
    }

    #[test]
    fn draws_differ_and_repeat() {
        let draws: std::collections::HashSet<u64> = (0..1000).map(drawn).collect();
        assert_eq!((draws.len(), drawn(7)), (1000, drawn(7)));
        let thirds = (0..3000).filter(|seed| drawn(*seed).is_multiple_of(3)).count();
        assert!((900..1100).contains(&thirds), "{thirds}");
    }
}
