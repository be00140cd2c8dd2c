//! Names asked of DNS servers: addresses, and services with their ports.
//!
//! It remembers nothing; what follows from an answer is decided in [`crate::finder`]. The hosts file is not read: a name
//! that is written as `dns` is asked of DNS. Of a service, only records of the lowest priority number count, and their
//! weights do not: how much a backend gets follows from its slots.
//!
//! Invariant: a look-up asks a bounded number of questions and ends within [`LOOK_UP_MAX`], with what was found by then.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use domain::base::iana::Rcode;
use domain::base::{Name, Rtype};
use domain::rdata::{A, Aaaa, Srv};
use domain::resolv::StubResolver;
use domain::resolv::stub::Answer as Reply;
use domain::resolv::stub::conf::{ResolvConf, ServerConf, Transport};
use tokio::time::{Instant, timeout_at};

/// How long a look-up may take with all its questions.
pub(crate) const LOOK_UP_MAX: Duration = Duration::from_secs(10);

/// How long one question may take. A datagram that was lost is not answered later.
const QUESTION_MAX: Duration = Duration::from_secs(2);

/// How often a question is asked at most.
const TRIES: usize = 2;

/// Domains of the search list that are tried: as many as glibc took for decades.
const SEARCHED_MAX: usize = 6;

/// Hosts of a service that are looked up: as many as there can be addresses of a name in the fleet.
const HOSTS_MAX: usize = 32;

type DnsName = Name<Vec<u8>>;

/// What is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Addresses of a name, for this port.
    Host { name: String, port: u16 },
    /// Hosts and ports of a service, `_service._proto.name`.
    Service { name: String },
}

/// What servers answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Found {
    pub(crate) addresses: BTreeSet<SocketAddr>,
    /// How long that holds: the shortest time of all records. `None` without any.
    pub(crate) ttl: Option<Duration>,
    /// Why there may be more: a question that has no answer.
    pub(crate) gap: Option<String>,
}

impl Found {
    fn holds_for(&mut self, ttl: Duration) {
        self.ttl = Some(self.ttl.map_or(ttl, |least| least.min(ttl)));
    }

    fn join(&mut self, other: Self) {
        self.addresses.extend(other.addresses);
        if let Some(ttl) = other.ttl {
            self.holds_for(ttl);
        }
        self.gap = self.gap.take().or(other.gap);
    }
}

/// Who is asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resolver {
    servers: Vec<SocketAddr>,
}

impl Resolver {
    /// Asks these servers; none are those of `/etc/resolv.conf`, which is read anew for each look-up.
    pub(crate) fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers }
    }

    /// Looks a name up. What servers fail to say is a gap in what is found.
    pub(crate) async fn look_up(&self, wanted: &Wanted) -> Found {
        let conf = self.conf();
        let asking = Asking {
            search: conf.options.search.as_slice().iter().map(ToString::to_string).collect(),
            ndots: conf.options.ndots,
            stub: StubResolver::from_conf(conf),
            deadline: Instant::now() + LOOK_UP_MAX,
        };
        match wanted {
            Wanted::Host { name, port } => asking.host(name, *port).await,
            Wanted::Service { name } => asking.service(name).await,
        }
    }

    fn conf(&self) -> ResolvConf {
        let mut conf = if self.servers.is_empty() {
            ResolvConf::default()
        } else {
            let servers = self.servers.iter().map(|server| ServerConf::new(*server, Transport::UdpTcp)).collect();
            let mut conf = ResolvConf::new();
            conf.servers = servers;
            conf
        };
        conf.options.timeout = QUESTION_MAX;
        conf.finalize();
        conf
    }
}

/// One look-up.
struct Asking {
    stub: StubResolver,
    search: Vec<String>,
    ndots: usize,
    /// Nothing is waited for after this.
    deadline: Instant,
}

impl Asking {
    async fn host(&self, name: &str, port: u16) -> Found {
        for full in full_names(name, &self.search, self.ndots) {
            let found = self.addresses(&full, port).await;
            if !found.addresses.is_empty() || found.gap.is_some() {
                return found;
            }
        }
        Found::default()
    }

    async fn service(&self, name: &str) -> Found {
        for full in full_names(name, &self.search, self.ndots) {
            let (hosts, mut found) = self.hosts(&full).await;
            for (host, port) in &hosts {
                let addresses = self.addresses(host, *port).await;
                found.join(addresses);
            }
            if !hosts.is_empty() || found.gap.is_some() {
                return found;
            }
        }
        Found::default()
    }

    /// Addresses of a full name, of both families.
    async fn addresses(&self, name: &str, port: u16) -> Found {
        let (four, six) = tokio::join!(self.ask(name, Rtype::A), self.ask(name, Rtype::AAAA));
        let mut found = Found::default();
        for reply in [four, six] {
            match reply {
                Ok(reply) => found.join(addresses(&reply, port)),
                Err(why) => found.join(Found { gap: Some(format!("{name}: {why}")), ..Found::default() }),
            }
        }
        found
    }

    /// Hosts and ports of a service, and how long they are its.
    async fn hosts(&self, name: &str) -> (Vec<(String, u16)>, Found) {
        let mut found = Found::default();
        let reply = match self.ask(name, Rtype::SRV).await {
            Ok(reply) => reply,
            Err(why) => {
                found.gap = Some(format!("{name}: {why}"));
                return (Vec::new(), found);
            }
        };
        let mut records: Vec<Service> = services(&reply);
        let lowest = records.iter().map(|record| record.priority).min();
        records.retain(|record| Some(record.priority) == lowest);
        records.truncate(HOSTS_MAX);
        for record in &records {
            found.holds_for(record.ttl);
        }
        // The root stands for a service that is decidedly not there.
        let hosts = records
            .into_iter()
            .filter(|record| record.host != "." && record.port != 0)
            .map(|record| (record.host, record.port));
        (hosts.collect(), found)
    }

    /// Asks, and again where nothing came back.
    async fn ask(&self, name: &str, kind: Rtype) -> Result<Reply, String> {
        let name = DnsName::from_str(name).map_err(|error| error.to_string())?;
        for _ in 0..TRIES {
            match timeout_at(self.deadline, self.stub.query((&name, kind))).await {
                Ok(Ok(reply)) => return answered(reply, kind),
                Ok(Err(error)) if error.kind() != io::ErrorKind::TimedOut => return Err(format!("{kind}: {error}")),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Err(format!("{kind}: no answer"))
    }
}

/// That there is no such name is an answer.
fn answered(reply: Reply, kind: Rtype) -> Result<Reply, String> {
    match reply.header().rcode() {
        Rcode::NOERROR | Rcode::NXDOMAIN => Ok(reply),
        other => Err(format!("{kind}: the server answers {other}")),
    }
}

/// The full names that a name may stand for, in the order in which libc tries them.
fn full_names(name: &str, search: &[String], ndots: usize) -> Vec<String> {
    let absolute = format!("{}.", name.trim_end_matches('.'));
    if name.ends_with('.') {
        return vec![absolute];
    }
    let domains = search.iter().map(|domain| domain.trim_end_matches('.')).filter(|domain| !domain.is_empty());
    let mut names: Vec<_> = domains.take(SEARCHED_MAX).map(|domain| format!("{name}.{domain}.")).collect();
    let dots = name.bytes().filter(|byte| *byte == b'.').count();
    names.insert(if dots >= ndots { 0 } else { names.len() }, absolute);
    names
}

/// The addresses in a reply that are those of the name asked for, or of what it stands for.
fn addresses(reply: &Reply, port: u16) -> Found {
    let mut found = Found::default();
    let (Ok(section), Some(name)) = (reply.answer(), reply.canonical_name()) else { return found };
    let mut add = |address: IpAddr, ttl: Duration| {
        // Nobody answers there, and asking would reach this very machine.
        if !address.is_unspecified() {
            found.addresses.insert(SocketAddr::new(address, port));
            found.holds_for(ttl);
        }
    };
    for record in section.limit_to_in::<A>().flatten().filter(|record| *record.owner() == name) {
        add(record.data().addr().into(), record.ttl().into_duration());
    }
    for record in section.limit_to_in::<Aaaa>().flatten().filter(|record| *record.owner() == name) {
        add(record.data().addr().to_canonical(), record.ttl().into_duration());
    }
    // An alias that ends earlier ends the answer.
    if !found.addresses.is_empty() {
        for record in section.flatten() {
            found.holds_for(record.ttl().into_duration());
        }
    }
    found
}

/// One record of a service.
struct Service {
    priority: u16,
    host: String,
    port: u16,
    ttl: Duration,
}

fn services(reply: &Reply) -> Vec<Service> {
    let (Ok(section), Some(name)) = (reply.answer(), reply.canonical_name()) else { return Vec::new() };
    let records = section.limit_to_in::<Srv<_>>().flatten().filter(|record| *record.owner() == name);
    let service = |record: &domain::base::Record<_, Srv<domain::base::name::ParsedName<_>>>| Service {
        priority: record.data().priority(),
        host: format!("{}.", record.data().target().to_string().trim_end_matches('.')),
        port: record.data().port(),
        ttl: record.ttl().into_duration(),
    };
    records.map(|record| service(&record)).collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn names_are_completed_as_libc_does() {
        let search = ["default.svc.cluster.local", "svc.cluster.local.", "."].map(str::to_owned);
        let names = |name: &str, ndots| full_names(name, &search, ndots);
        assert_eq!(names("ollama.example.", 5), ["ollama.example."]);
        assert_eq!(
            names("ollama.ai", 5),
            ["ollama.ai.default.svc.cluster.local.", "ollama.ai.svc.cluster.local.", "ollama.ai."]
        );
        assert_eq!(names("ollama.ai", 1)[0], "ollama.ai.");
        assert_eq!(names("ollama", 1).last().unwrap(), "ollama.");
        assert_eq!(full_names("ollama", &[], 1), ["ollama."]);
        let many = vec!["a".to_owned(); 100];
        assert_eq!(full_names("ollama", &many, 1).len(), SEARCHED_MAX + 1);
    }

    #[test]
    fn what_is_found_is_joined() {
        let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let found = |text: &str, ttl, gap: Option<&str>| Found {
            addresses: [address(text)].into(),
            ttl: Some(Duration::from_secs(ttl)),
            gap: gap.map(str::to_owned),
        };
        let mut all = Found::default();
        all.join(found("10.0.0.1:1", 60, None));
        all.join(found("[fd00::1]:1", 5, Some("late")));
        all.join(found("10.0.0.1:1", 30, Some("later")));
        all.join(Found::default());
        let addresses = [address("10.0.0.1:1"), address("[fd00::1]:1")].into();
        assert_eq!(all, Found { addresses, ttl: Some(Duration::from_secs(5)), gap: Some("late".to_owned()) });
    }

    /// Each look-up has a resolver of its own, whose tasks have to end with it.
    #[test]
    fn a_look_up_leaves_nothing_behind() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // A socket that nobody reads: questions are lost there, and the look-up is given up.
            let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let resolver = Resolver::new(vec![silent.local_addr().unwrap()]);
            let wanted = Wanted::Host { name: "gpu.test".to_owned(), port: 1 };
            for _ in 0..20 {
                let begun = timeout(Duration::from_millis(1), resolver.look_up(&wanted)).await;
                assert!(begun.is_err(), "{begun:?}");
            }
            let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
            assert!(alive() > 0, "it works by tasks");
            let ended = async {
                while alive() > 0 {
                    tokio::task::yield_now().await;
                }
            };
            assert!(timeout(Duration::from_secs(10), ended).await.is_ok(), "{} tasks are left", alive());
        });
    }
}
