//! Who is watched: each backend of the configuration, or the simulated one in place of all.
//!
//! It makes the way to a backend from where the configuration says that it is, and asks nothing.
//!
//! Invariant: a backend's key comes from the configuration's text for it alone, so that every process finds its cell.

use std::net::SocketAddr;
use std::rc::Rc;

use gate_config::{Host, Plan, Target, Upstream};
use gate_upstream::{Backend, Timeouts};
use gate_zone::fleet::Fleet;
use gate_zone::{OwnRow, Zone};
use tokio::task::spawn_local;

use crate::cells::Cells;
use crate::finder::{Finder, Name};
use crate::names::{Resolver, Wanted};
use crate::observer::{Observer, PROBE_MAX, Standing, Subject};
use crate::spread;

/// A backend of the configuration, and where it really is.
struct Watched<'a> {
    upstream: &'a Upstream,
    target: Target,
}

/// Starts to watch all of them.
pub(crate) fn watch_all(plan: &Plan, demo: Option<SocketAddr>, zone: Zone, row: &Rc<OwnRow>) {
    let timeouts = Timeouts { connect: plan.connect_timeout.min(PROBE_MAX), first_byte: PROBE_MAX };
    let watched = watched(plan, demo);
    let cells = cells(zone.fleet(), &watched);
    let resolver = Resolver::new(plan.resolver.clone());
    for (place, Watched { upstream, target }) in watched.into_iter().enumerate() {
        let label = format!("{} at {}", upstream.name, target.url());
        let (url, cells, row, first) = (upstream.url(), cells.clone(), Rc::clone(row), spread::first(place));
        if let Some(wanted) = wanted(&target) {
            let open = Rc::new(move |address| found(&target, address, timeouts, Rc::clone(&row)));
            let name = Name { label, url, wanted, refresh: plan.dns_refresh, open };
            spawn_local(Finder::new(name, cells, resolver.clone()).watch(first));
        } else {
            let key = cells.fleet().hash(url.as_bytes());
            let backend = fixed(&target, timeouts, row);
            let subject = Subject { label, key, standing: Standing::Named, backend };
            spawn_local(Observer::new(subject, cells).watch(first));
        }
    }
}

/// A demonstration has one backend, which stands where the configuration has its first.
fn watched(plan: &Plan, demo: Option<SocketAddr>) -> Vec<Watched<'_>> {
    let named = plan.upstream.iter().map(|upstream| Watched { upstream, target: upstream.target.clone() });
    let Some(address) = demo else { return named.collect() };
    let target = Target::Http { host: Host::Ip(address.ip()), port: address.port(), prefix: String::new() };
    named.take(1).map(|watched| Watched { target: target.clone(), ..watched }).collect()
}

fn cells(fleet: Fleet, watched: &[Watched<'_>]) -> Cells {
    let (names, fixed): (Vec<_>, Vec<_>) = watched.iter().partition(|watched| wanted(&watched.target).is_some());
    let keys =
        |all: Vec<&Watched<'_>>| all.into_iter().map(|watched| fleet.hash(watched.upstream.url().as_bytes())).collect();
    Cells::new(fleet, keys(fixed), keys(names))
}

/// What has to be looked up to find a backend; `None` for one that is where the configuration says.
fn wanted(target: &Target) -> Option<Wanted> {
    match target {
        Target::Dns { name, port: Some(port), .. } => Some(Wanted::Host { name: name.clone(), port: *port }),
        Target::Dns { name, port: None, .. } => Some(Wanted::Service { name: name.clone() }),
        Target::Http { .. } | Target::Unix { .. } => None,
    }
}

/// The way to a backend that is where the configuration says.
fn fixed(target: &Target, timeouts: Timeouts, row: Rc<OwnRow>) -> Backend {
    match target {
        Target::Unix { path } => Backend::unix(path, timeouts, row),
        Target::Http { prefix, .. } | Target::Dns { prefix, .. } => {
            Backend::new(&target.authority(), prefix, timeouts, row)
        }
    }
}

/// The way to an address that was found under a name, which is told the name as its own.
fn found(target: &Target, address: SocketAddr, timeouts: Timeouts, row: Rc<OwnRow>) -> Backend {
    let authority = match target {
        Target::Dns { name, .. } => format!("{name}:{}", address.port()),
        Target::Http { .. } | Target::Unix { .. } => target.authority(),
    };
    Backend::at(address, &authority, target.prefix(), timeouts, row)
}

#[cfg(test)]
mod tests {
    use gate_config::Settings;

    use super::*;

    fn plan(text: &str) -> Plan {
        Plan::new(&Settings::gather(Some(("gate.toml", text)), [], []).unwrap()).unwrap()
    }

    #[test]
    fn a_demo_stands_in_the_place_of_the_first() {
        let plan = plan("upstream = [\"http://10.0.0.1:80/a\", \"unix:/run/ollama.sock\"]");
        let urls = |demo| -> Vec<(String, String)> {
            watched(&plan, demo).iter().map(|one| (one.upstream.url(), one.target.url())).collect()
        };
        let [first, second] = ["http://10.0.0.1:80/a", "unix:/run/ollama.sock"].map(str::to_owned);
        assert_eq!(urls(None), [(first.clone(), first.clone()), (second.clone(), second)]);
        assert_eq!(urls(Some(([127, 0, 0, 1], 7).into())), [(first, "http://127.0.0.1:7".to_owned())]);
    }

    #[test]
    fn names_are_looked_up_with_a_port_or_as_a_service() {
        let plan =
            plan("[[upstream]]\ndns = \"ollama.internal:80/a\"\n[[upstream]]\ndns = \"_ollama._tcp.internal\"\n");
        let wanted: Vec<_> = plan.upstream.iter().map(|upstream| wanted(&upstream.target)).collect();
        let host = Wanted::Host { name: "ollama.internal".to_owned(), port: 80 };
        let service = Wanted::Service { name: "_ollama._tcp.internal".to_owned() };
        assert_eq!(wanted, [Some(host), Some(service)]);
    }
}
