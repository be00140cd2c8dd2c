//! A private network of hosts in network namespaces: a switch in a namespace of its own, and a cable from it to each host.
//!
//! Nothing outside is touched: no interface, address or route of the machine that runs this. Invariant: names carry the
//! pid of the test, and all of them are removed again, those that a killed test has left by the next one.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

/// What all namespaces of these tests are called in front of the pid.
const NAME: &str = "gate4";

/// A switch and the names of all hosts on it.
pub(crate) struct Network {
    prefix: String,
    hosts: Vec<String>,
}

/// One host: a namespace with an address.
#[derive(Clone)]
pub(crate) struct Host {
    namespace: String,
    pub(crate) address: Ipv4Addr,
}

/// Why there can be no namespaces here; `None` if there can.
pub(crate) fn why_not() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("only root may make network namespaces".to_owned());
    }
    let probe = format!("{NAME}-{}-probe", std::process::id());
    match Command::new("ip").args(["netns", "add", &probe]).output() {
        Err(error) => Some(format!("`ip` (iproute2) is needed: {error}")),
        Ok(made) if !made.status.success() => {
            Some(format!("no network namespaces here: {}", String::from_utf8_lossy(&made.stderr).trim()))
        }
        Ok(_) => {
            ip(&["netns", "del", &probe]);
            None
        }
    }
}

impl Network {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_what_the_dead_have_left();
        let prefix = format!("{NAME}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let network = Self { hosts: Vec::new(), prefix };
        ip(&["netns", "add", &network.switch()]);
        network.on_switch(&["link", "add", "br0", "type", "bridge"]);
        network.on_switch(&["link", "set", "br0", "up"]);
        network
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    fn on_switch(&self, words: &[&str]) {
        let switch = self.switch();
        ip(&[&["-n", &switch], words].concat());
    }

    /// One more host, with the last byte of its address in 10.0.0.0/24.
    pub(crate) fn host(&mut self, last: u8) -> Host {
        let (namespace, address) = (format!("{}-{last}", self.prefix), Ipv4Addr::new(10, 0, 0, last));
        ip(&["netns", "add", &namespace]);
        self.hosts.push(namespace.clone());
        let (switch, port) = (self.switch(), format!("port{last}"));
        ip(&["link", "add", "eth0", "netns", &namespace, "type", "veth", "peer", "name", &port, "netns", &switch]);
        self.on_switch(&["link", "set", &port, "master", "br0", "up"]);
        let host = Host { namespace, address };
        host.ip(&["link", "set", "lo", "up"]);
        host.ip(&["addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        host.ip(&["link", "set", "eth0", "up"]);
        host
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self.hosts.iter().chain([&self.switch()]) {
            let _gone = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

impl Host {
    /// The words that start a program there, which keeps the pid.
    pub(crate) fn launcher(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.namespace]
    }

    fn ip(&self, words: &[&str]) {
        ip(&[&["-n", &self.namespace], words].concat());
    }

    /// Pulls the cable, or plugs it in.
    pub(crate) fn cable(&self, state: Cable) {
        self.ip(&["link", "set", "eth0", if state == Cable::In { "up" } else { "down" }]);
    }

    /// Does something there: what it opens belongs to that host, wherever it is used later.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let path = Path::new("/run/netns").join(&self.namespace);
        let thread = std::thread::spawn(move || {
            let namespace = std::fs::File::open(path).expect("the namespace is there");
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("root may enter it");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Whether a host is connected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cable {
    In,
    Out,
}

#[track_caller]
fn ip(words: &[&str]) {
    let done = Command::new("ip").args(words).output().expect("`ip` is there");
    assert!(done.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr));
}

/// A test that was killed could not remove its namespaces.
fn remove_what_the_dead_have_left() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let pid = name.strip_prefix(NAME).and_then(|rest| rest.split('-').nth(1));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _gone = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}
