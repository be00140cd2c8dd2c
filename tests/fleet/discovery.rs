//! Backends found under a name, while requests run: addresses that come, go, and stay when the name server fails. The names
//! are served by dnsmasq (Debian's `dnsmasq-base`); without it these tests say so and pass.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::http::Client;
use crate::support::sim::Backend;
use crate::support::{Dir, wait_for};
use crate::yard::{Yard, asked, by, config, stream, whole};

/// A name server that knows `gpu.test`.
struct Dns {
    port: u16,
    dir: Dir,
    child: Option<Child>,
}

impl Dns {
    /// `None`, and the reason is printed, where there is no dnsmasq.
    fn start(addresses: &[Ipv4Addr]) -> Option<Self> {
        if Command::new("dnsmasq").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            eprintln!("skipped: no dnsmasq on this machine (apt-get install dnsmasq-base)");
            return None;
        }
        // A port that is free now may be taken when dnsmasq gets there.
        let dns = wait_for("a port for dnsmasq", || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let port = socket.local_addr().unwrap().port();
            drop(socket);
            let mut dns = Self { port, dir: Dir::new(), child: None };
            dns.write(addresses);
            (TcpListener::bind(("127.0.0.1", port)).is_ok() && dns.serve()).then_some(dns)
        });
        Some(dns)
    }

    fn write(&self, addresses: &[Ipv4Addr]) {
        let lines: Vec<String> = addresses.iter().map(|address| format!("{address} gpu.test")).collect();
        std::fs::write(self.dir.path("hosts"), lines.join("\n") + "\n").unwrap();
    }

    /// Whether it serves; not when it has ended instead.
    fn serve(&mut self) -> bool {
        let mut command = Command::new("dnsmasq");
        command.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--local=/test/"]);
        command.args(["--pid-file", "--listen-address=127.0.0.1", "--bind-interfaces", "--user=", "--group="]);
        command.arg(format!("--port={}", self.port)).arg(format!("--addn-hosts={}", self.dir.path("hosts").display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it was there a moment ago");
        let serves = wait_for("dnsmasq", || match child.try_wait().unwrap() {
            Some(_ended) => Some(false),
            None => TcpStream::connect(("127.0.0.1", self.port)).is_ok().then_some(true),
        });
        self.child = Some(child);
        serves
    }

    /// Answers with these from now on.
    fn becomes(&self, addresses: &[Ipv4Addr]) {
        self.write(addresses);
        let pid = self.child.as_ref().expect("it serves").id();
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGHUP).unwrap();
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }

    /// The keys for a gate that finds its backends here.
    fn keys(&self) -> String {
        format!("workers = 2\nresolver = \"127.0.0.1:{}\"\ndns_refresh = \"100ms\"", self.port)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Machines with the same port, each on a loopback address of its own, which no other test has.
struct Machines {
    port: u16,
    running: Vec<(Ipv4Addr, Backend)>,
}

impl Machines {
    fn new(count: usize) -> Self {
        let mut machines = Self { port: 0, running: Vec::new() };
        (0..count).for_each(|_| machines.add());
        machines
    }

    fn add(&mut self) {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let test_run = (std::process::id() % 100) as u8;
        let address = Ipv4Addr::new(127, 20 + test_run, high, low);
        let listener = TcpListener::bind((address, self.port)).unwrap();
        self.port = listener.local_addr().unwrap().port();
        self.running.push((address, Backend::on(listener, config("own"))));
    }

    fn address(&self, place: usize) -> Ipv4Addr {
        self.running[place].0
    }

    fn addresses(&self, places: &[usize]) -> Vec<Ipv4Addr> {
        places.iter().map(|place| self.address(*place)).collect()
    }

    fn asked(&self, place: usize) -> u64 {
        asked(&self.running[place].1)
    }

    fn table(&self) -> String {
        format!("[[upstream]]\ndns = \"gpu.test:{}\"\nname = \"gpus\"\nslots = 64\n", self.port)
    }
}

/// Waits until these are the backends, and all of them well.
#[track_caller]
fn are_found(yard: &Yard, machines: &Machines, places: &[usize]) {
    let mut wanted: Vec<String> = places
        .iter()
        .map(|place| format!("http://{}", SocketAddr::from((machines.address(*place), machines.port))))
        .collect();
    wanted.sort_unstable();
    wait_for(&format!("{wanted:?}"), || {
        let status = yard.status();
        let backends = status["backends"].as_array().unwrap();
        let is_well = |backend: &Value| backend["state"] == "healthy" && !backend["listed"].is_null();
        let mut seen: Vec<&str> = backends.iter().map(|backend| backend["url"].as_str().unwrap()).collect();
        seen.sort_unstable();
        (seen == wanted && backends.iter().all(is_well)).then_some(())
    });
}

#[test]
fn addresses_come_and_go_while_requests_run() {
    let mut machines = Machines::new(2);
    let Some(dns) = Dns::start(&machines.addresses(&[0, 1])) else { return };
    let yard = Yard::start(&dns.keys(), &[machines.table()]);
    are_found(&yard, &machines, &[0, 1]);
    let stop = Arc::<AtomicBool>::default();
    let address = yard.address();
    let client = |number: usize| {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let request = whole(&format!("new-{}", (number + round) % 6), "hi");
                let answer = Client::connect(address).ask(&request.header("Connection", "close")).unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert!(by(&answer).starts_with("gpus."), "a name, and never an address: {}", by(&answer));
            }
        })
    };
    let load: Vec<_> = (0..4).map(client).collect();
    let goes_on = |machines: &Machines, place: usize| {
        let before = machines.asked(place);
        wait_for(&format!("requests to {place}"), || {
            let is_over = load.iter().any(thread::JoinHandle::is_finished);
            (machines.asked(place) > before + 10 || is_over).then_some(())
        });
    };
    // A stream on each of the first two.
    let begin = |_| {
        let mut client = Client::connect(address);
        client.send(&stream("own", "@sim:endless").bytes()).unwrap();
        assert_eq!(client.head().unwrap().0, 200);
        client
    };
    let mut streams: Vec<Client> = (0..6).map(begin).collect();
    machines.add();
    dns.becomes(&machines.addresses(&[0, 1, 2]));
    are_found(&yard, &machines, &[0, 1, 2]);
    // The new one takes its part of the models as soon as the others have left.
    dns.becomes(&machines.addresses(&[2]));
    are_found(&yard, &machines, &[2]);
    goes_on(&machines, 2);
    let before = [machines.asked(0), machines.asked(1)];
    goes_on(&machines, 2);
    assert_eq!([machines.asked(0), machines.asked(1)], before, "nothing new for those that went");
    for stream in &mut streams {
        (0..5).for_each(|_| assert!(stream.chunk().expect("it goes on").is_some()));
    }
    dns.becomes(&machines.addresses(&[0, 2]));
    are_found(&yard, &machines, &[0, 2]);
    dns.becomes(&machines.addresses(&[0]));
    are_found(&yard, &machines, &[0]);
    goes_on(&machines, 0);
    for stream in &mut streams {
        assert!(stream.chunk().expect("it goes on").is_some());
    }
    stop.store(true, Ordering::Relaxed);
    for client in load {
        client.join().expect("each request was answered");
    }
    drop(streams);
    yard.is_idle();
}

#[test]
fn a_name_server_that_is_gone_takes_nothing_away() {
    let machines = Machines::new(2);
    let Some(mut dns) = Dns::start(&machines.addresses(&[0, 1])) else { return };
    let mut yard = Yard::start(&dns.keys(), &[machines.table()]);
    are_found(&yard, &machines, &[0, 1]);
    // No records any more, then nobody who answers.
    dns.becomes(&[]);
    yard.gate.log_has("has no addresses any more: the last 2 are kept");
    assert_eq!(yard.generate("new-0").status, 200);
    dns.stop();
    yard.gate.log_has("the last 2 addresses are kept");
    assert_eq!(yard.generate("new-1").status, 200);
    // A new generation and a new monitor go on with what is known.
    yard.becomes(&dns.keys(), &[machines.table()]);
    are_found(&yard, &machines, &[0, 1]);
    assert_eq!(yard.generate("new-2").status, 200);
    dns.write(&machines.addresses(&[1]));
    assert!(dns.serve());
    are_found(&yard, &machines, &[1]);
    let before = machines.asked(0);
    for number in 3..8 {
        assert_eq!(yard.generate(&format!("new-{number}")).status, 200);
    }
    assert_eq!(machines.asked(0), before);
}

#[test]
fn a_name_without_addresses_is_told_and_waited_for() {
    let machines = Machines::new(1);
    let Some(dns) = Dns::start(&[]) else { return };
    let yard = Yard::start(&dns.keys(), &[machines.table()]);
    wait_for("the name to be looked up", || (yard.backend(0)["state"] == "not found").then_some(()));
    let answer = yard.generate("new-0");
    assert_eq!((answer.status, answer.json()), (502, json!({"error": "Ollama could not be reached"})));
    dns.becomes(&machines.addresses(&[0]));
    are_found(&yard, &machines, &[0]);
    assert_eq!(yard.generate("new-0").status, 200);
}
