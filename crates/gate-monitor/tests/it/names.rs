//! Backends that are found under a name, asked of a real DNS server: dnsmasq (Debian's `dnsmasq-base`), one for each test.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};

use gate_zone::fleet::{Cell, Fleet};
use gate_zone::{Probe, Zone};

use crate::support::{Monitor, Ollama, Server, logged, wait_for, wait_until, zone};

/// A DNS server that answers for `.test` with these options' records.
struct Dns {
    port: u16,
    child: Option<Child>,
}

impl Dns {
    fn start(records: &[String]) -> Option<Self> {
        if Command::new("dnsmasq").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            println!("skipped: no dnsmasq on this machine (apt-get install dnsmasq-base)");
            return None;
        }
        // A port that is free now may be taken when dnsmasq gets there.
        let dns = wait_for("port for dnsmasq", || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let port = socket.local_addr().unwrap().port();
            let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok();
            drop(socket);
            let mut dns = Self { port, child: None };
            (is_free && dns.serve(records)).then_some(dns)
        });
        Some(dns)
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Answers with other records from now on.
    fn becomes(&mut self, records: &[String]) {
        self.stop();
        assert!(self.serve(records), "dnsmasq does not come back");
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Whether it serves; not when it has ended instead.
    fn serve(&mut self, records: &[String]) -> bool {
        let (port, hosts) =
            (format!("--port={}", self.port), format!("{}/hosts-{}", env!("CARGO_TARGET_TMPDIR"), self.port));
        let (options, lines): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.starts_with("--"));
        let lines: Vec<_> = lines.into_iter().map(String::as_str).chain([""]).collect();
        std::fs::write(&hosts, lines.join("\n")).unwrap();
        let mut command = Command::new("dnsmasq");
        command.args([
            "--no-daemon",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--local=/test/",
            "--pid-file",
        ]);
        command.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--user=", "--group=", &port]);
        command.arg(format!("--addn-hosts={hosts}")).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it was there a moment ago");
        let serves = wait_for("dnsmasq", || match child.try_wait().unwrap() {
            Some(_ended) => Some(false),
            None => TcpStream::connect(("127.0.0.1", self.port)).is_ok().then_some(true),
        });
        self.child = Some(child);
        serves
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Lines of a hosts file.
fn hosts(name: &str, addresses: &[&str]) -> Vec<String> {
    addresses.iter().map(|address| format!("{address} {name}")).collect()
}

fn config(dns: &Dns, url: &str, name: &str) -> String {
    format!(
        "resolver = \"{}\"\ndns_refresh = \"100ms\"\n[[upstream]]\ndns = \"{url}\"\nname = \"{name}\"\n",
        dns.address()
    )
}

fn found(fleet: Fleet, url: &str) -> BTreeSet<String> {
    fleet.found(fleet.hash(format!("dns:{url}").as_bytes())).map(|(_, address)| address.to_string()).collect()
}

fn wait_found(zone: Zone, url: &str, expected: &[&str]) {
    let expected: BTreeSet<_> = expected.iter().map(|address| (*address).to_owned()).collect();
    wait_until(&format!("{url} at {expected:?}"), || found(zone.fleet(), url) == expected);
}

/// Each address has the cell that its key says.
fn probe(zone: Zone, url: &str, address: &str) -> Probe {
    let fleet = zone.fleet();
    fleet.find(fleet.hash(format!("dns:{url} {address}").as_bytes())).map_or(Probe::Unknown, Cell::probe)
}

#[test]
fn cells_follow_the_records() {
    let zone = zone();
    let Some(mut dns) = Dns::start(&hosts("gpu.test", &["127.0.0.2", "127.0.0.3"])) else { return };
    let first = Ollama::at(([127, 0, 0, 2], 0).into(), &["a:1"]);
    let port = first.address.port();
    let url = format!("gpu.test:{port}");
    let at = |last: u8| format!("127.0.0.{last}:{port}");
    let _monitor = Monitor::start(zone, &config(&dns, &url, "follows"));
    wait_found(zone, &url, &[&at(2), &at(3)]);
    wait_until("health", || {
        probe(zone, &url, &at(2)) == Probe::Healthy && probe(zone, &url, &at(3)) == Probe::Unreachable
    });
    let cell = |address: &str| zone.fleet().find(zone.fleet().hash(format!("dns:{url} {address}").as_bytes())).unwrap();
    wait_until("list", || cell(&at(2)).listed() == Some(1));
    let changes = zone.fleet().changes();
    assert_eq!(changes, 1);
    dns.becomes(&hosts("gpu.test", &["127.0.0.3", "127.0.0.4"]));
    let _second = Server::at(SocketAddr::from(([127, 0, 0, 4], port)));
    wait_found(zone, &url, &[&at(3), &at(4)]);
    wait_until("told change", || zone.fleet().changes() == changes + 1);
    wait_until("health of the new one", || probe(zone, &url, &at(4)) == Probe::Healthy);
    let gone = cell(&at(2));
    assert_eq!(
        (gone.probe(), gone.listed(), gone.address()),
        (Probe::Unknown, None, None),
        "nothing is known of the gone"
    );
    assert_eq!(logged("follows at").iter().filter(|line| line.contains("; addresses in all: 2")).count(), 2);
    // One that returns is asked anew.
    dns.becomes(&hosts("gpu.test", &["127.0.0.2"]));
    wait_found(zone, &url, &[&at(2)]);
    wait_until("health of the old one", || probe(zone, &url, &at(2)) == Probe::Healthy);
}

#[test]
fn no_answer_and_an_empty_one_take_nothing_away() {
    let zone = zone();
    let Some(mut dns) = Dns::start(&hosts("gpu.test", &["127.0.0.2", "127.0.0.3"])) else { return };
    let config = config(&dns, "gpu.test:9", "stays");
    let monitor = Monitor::start(zone, &config);
    let both = ["127.0.0.2:9", "127.0.0.3:9"];
    wait_found(zone, "gpu.test:9", &both);
    let told = |times: u64| wait_until("told changes", || zone.fleet().changes() == times);
    told(1);
    let lines = |text: &str| logged("stays at").iter().filter(|line| line.contains(text)).count();
    // The name is gone, and then has records of another kind only.
    for (round, records) in [(1, vec![]), (2, vec!["--txt-record=gpu.test,nothing".to_owned()])] {
        dns.stop();
        wait_until("line on the failure", || lines("cannot be looked up (") == round);
        wait_found(zone, "gpu.test:9", &both);
        dns.becomes(&records);
        wait_until("line on the empty answer", || lines("the last 2 are kept") == round);
        wait_found(zone, "gpu.test:9", &both);
    }
    // A monitor that begins meanwhile goes on with what the last one found.
    drop(monitor);
    let _next = Monitor::start(zone, &config);
    wait_until("line of the next", || lines("the last 2 are kept") == 3);
    wait_found(zone, "gpu.test:9", &both);
    assert_eq!(lines("addresses in all: 2"), 1, "the next one has found nothing new");
    told(1);
    dns.becomes(&hosts("gpu.test", &["127.0.0.3"]));
    wait_found(zone, "gpu.test:9", &["127.0.0.3:9"]);
    told(2);
    wait_until("line on the recovery", || {
        logged("stays at").iter().any(|line| line.contains("can be looked up again"))
    });
}

#[test]
fn both_families_are_found() {
    let zone = zone();
    let mut records = hosts("gpu.test", &["127.0.0.2", "fd00::7", "::1"]);
    records.push("--cname=alias.test,gpu.test".to_owned());
    let Some(dns) = Dns::start(&records) else { return };
    let _monitor = Monitor::start(zone, &config(&dns, "alias.test:9", "families"));
    wait_found(zone, "alias.test:9", &["127.0.0.2:9", "[fd00::7]:9", "[::1]:9"]);
    let cell = zone.fleet().find(zone.fleet().hash(b"dns:alias.test:9 [fd00::7]:9")).unwrap();
    assert_eq!(cell.address().map(|address| address.ip()), Some("fd00::7".parse::<IpAddr>().unwrap()));
}

#[test]
fn services_bring_their_ports_and_only_the_first_choice_is_used() {
    let zone = zone();
    let mut records = [hosts("one.test", &["127.0.0.2", "fd00::2"]), hosts("two.test", &["127.0.0.3"])].concat();
    let service = |host: &str, port: u16, priority: u16| {
        format!("--srv-host=_ollama._tcp.test,{host},{port},{priority},{}", port % 7)
    };
    records.extend([service("one.test", 81, 10), service("two.test", 82, 10), service("two.test", 83, 20)]);
    let Some(mut dns) = Dns::start(&records) else { return };
    let url = "_ollama._tcp.test";
    let _monitor = Monitor::start(zone, &config(&dns, url, "service"));
    wait_found(zone, url, &["127.0.0.2:81", "[fd00::2]:81", "127.0.0.3:82"]);
    // The first choice is withdrawn.
    records.retain(|record| !record.contains(",10,"));
    dns.becomes(&records);
    wait_found(zone, url, &["127.0.0.3:83"]);
    // A host of it that is not known leaves the others.
    records.push(service("three.test", 84, 20));
    records.push(service("one.test", 85, 20));
    dns.becomes(&records);
    wait_found(zone, url, &["127.0.0.3:83", "127.0.0.2:85", "[fd00::2]:85"]);
}

#[test]
fn records_are_used_as_long_as_they_say() {
    let zone = zone();
    let records = |address: &str| [hosts("gpu.test", &[address]), vec!["--local-ttl=1".to_owned()]].concat();
    let Some(mut dns) = Dns::start(&records("127.0.0.2")) else { return };
    let config = config(&dns, "gpu.test:9", "ttl").replace("100ms", "1h");
    let _monitor = Monitor::start(zone, &config);
    wait_found(zone, "gpu.test:9", &["127.0.0.2:9"]);
    dns.becomes(&records("127.0.0.3"));
    wait_found(zone, "gpu.test:9", &["127.0.0.3:9"]);
}

#[test]
fn of_a_great_many_addresses_some_are_used() {
    let zone = zone();
    // More than a datagram holds: the rest comes over TCP.
    let all: Vec<_> = (1..=100).map(|last| format!("fd00::{last:x}")).collect();
    let Some(mut dns) = Dns::start(&hosts("gpu.test", &all.iter().map(String::as_str).collect::<Vec<_>>())) else {
        return;
    };
    let _monitor = Monitor::start(zone, &config(&dns, "gpu.test:9", "many"));
    wait_until("addresses", || found(zone.fleet(), "gpu.test:9").len() == 32);
    wait_until("line", || {
        logged("many at").iter().any(|line| line.ends_with("has 100 addresses: 32 of them are used"))
    });
    let used = found(zone.fleet(), "gpu.test:9");
    let kept = used.iter().next().unwrap().clone();
    // As many new ones again and again: the cells of the gone serve.
    for round in 1..=4 {
        let mut others: Vec<_> = (1..=31).map(|last| format!("fd00::{round}:{last:x}")).collect();
        others.push(kept.trim_start_matches('[').split(']').next().unwrap().to_owned());
        dns.becomes(&hosts("gpu.test", &others.iter().map(String::as_str).collect::<Vec<_>>()));
        let expected: Vec<_> = others.iter().map(|address| format!("[{address}]:9")).collect();
        wait_found(zone, "gpu.test:9", &expected.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
