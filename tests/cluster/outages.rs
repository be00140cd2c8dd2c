//! While the store is away, and when it comes back with nothing: answers for everybody, and never more than a limit says but
//! for what the gates had in hand.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::orders::Running;
use crate::server::Server;
use crate::site::{Count, DEADLINE, GATES, Site, keys, with};
use crate::stage::{Front, MODEL, generate, posts};
use crate::support::http::Request;
use crate::support::{Dir, binary};

/// An amount, and the most that a gate has in hand of it.
const AMOUNT: u64 = 600;
const BATCH: u64 = AMOUNT / 20;

/// Less than two deadlines, with room for a busy machine.
const ONCE: Duration = DEADLINE.saturating_mul(19).checked_div(10).unwrap();

const AWAY: &str = "the store of limits is away (";
const BACK: &str = "the store of limits answers again, after ";

/// What `ollama-gate status` prints about the store.
#[track_caller]
fn page(gate: &Front) -> String {
    let mut command = Command::new(binary());
    command.arg("status").arg("--control").arg(gate.control());
    let said = Running::start(&mut command).said();
    let page = said.out.replace("\n    ", " ");
    let line = page.lines().find(|line| line.starts_with("Limits are counted in "));
    line.unwrap_or_else(|| panic!("{said:?}")).to_owned()
}

/// The store has gone: all gates have noticed, and say so.
#[track_caller]
fn is_away(site: &Site, server: &Server, outages: usize) {
    for told in site.store_is("away") {
        let since = told["away_since"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let ago = jiff::Timestamp::now().as_second() - since.as_second();
        assert!((-1..60).contains(&ago) && told["url"].as_str() == Some(&server.url()), "{told}");
    }
    let page = page(&site.gates[0]);
    let parts = [&server.url(), ": away since 2", " ago), so limits hold locally; this gate's share is 1/3"];
    assert!(parts.iter().all(|part| page.contains(*part)), "{page}");
    assert_eq!((site.logged(AWAY), site.logged(BACK)), (GATES * outages, GATES * (outages - 1)));
}

/// All gates have noticed by themselves that it is back, and say so.
#[track_caller]
fn is_back(site: &Site, server: &Server, outages: usize) {
    site.store_is("well");
    let expected = format!("Limits are counted in {}: well; this gate's share is 1/3", server.url());
    assert_eq!(page(&site.gates[0]), expected);
    assert_eq!((site.logged(AWAY), site.logged(BACK)), (GATES * outages, GATES * outages));
}

/// All is used: as much as there is, but for what gates had in hand.
#[track_caller]
fn used(site: &Site, all: &Count) {
    let (admitted, slack) = (all.admitted(), BATCH * GATES as u64);
    assert!((AMOUNT - slack..=AMOUNT + slack).contains(&admitted), "{admitted} of {AMOUNT}: {all:?}");
    site.has_worked(admitted);
}

#[test]
fn a_store_that_is_killed_under_load_and_comes_back_empty() {
    let Some(mut server) = Server::start() else { return };
    let site = Site::start(&server.url(), &[&format!("--api-limit={AMOUNT}/hour")]);
    let ask = [generate(MODEL, "a")];
    let mut all = site.burst(&ask, 10, || {});
    for outages in 1..=2 {
        let count = site.burst(&ask, 20, || server.kill());
        assert!(count.slowest < DEADLINE, "nobody waits for what is not there: {count:?}");
        all.add(count);
        is_away(&site, &server, outages);
        let count = site.burst(&ask, 3, || {});
        assert!(count.slowest < DEADLINE, "{count:?}");
        all.add(count);
        // Nobody asks until it is back.
        server.restart();
        is_back(&site, &server, outages);
        assert!(server.counts() > 0, "it was told what it had lost");
        all.add(site.burst(&ask, 5, || {}));
    }
    // Restarted so fast that hardly anybody notices.
    all.add(site.burst(&ask, 20, || server.restart()));
    site.store_is("well");
    all.add(site.burst(&ask, 40, || {}));
    used(&site, &all);
}

#[test]
fn a_store_that_hangs_costs_each_request_one_deadline_at_most() {
    let Some(server) = Server::start() else { return };
    let dir = Dir::new();
    let line = format!("--name ada --limit {AMOUNT}/hour,100000/day --tokens 1000000/hour,9000000/day");
    let (flag, [ada]) = keys(&dir, [&line]);
    let site = Site::start(&server.url(), &[&flag]);
    let ask: [Request; 1] = [with(&ada, &generate(MODEL, "a"))];
    let mut all = site.burst(&ask, 10, || {});
    let count = site.burst(&ask, 20, || server.signal(Signal::SIGSTOP));
    assert!(count.slowest >= DEADLINE, "somebody has waited: {count:?}");
    assert!(count.slowest < ONCE, "and nobody twice: {count:?}");
    all.add(count);
    is_away(&site, &server, 1);
    let count = site.burst(&ask, 10, || {});
    assert!(count.slowest < DEADLINE, "an outage that is known costs nothing: {count:?}");
    all.add(count);
    server.signal(Signal::SIGCONT);
    is_back(&site, &server, 1);
    all.add(site.burst(&ask, 40, || {}));
    used(&site, &all);
}

#[test]
fn gates_that_start_before_their_store_find_it_by_themselves() {
    let Some(mut server) = Server::find(None) else { return };
    let site = Site::start(&server.url(), &["--api-limit=60/hour"]);
    is_away(&site, &server, 1);
    // Before anybody has asked for anything.
    server.restart();
    is_back(&site, &server, 1);
    let ask = [generate(MODEL, "a")];
    let count = site.burst(&ask, 20, || {});
    assert_eq!((count.admitted(), posts(&site.backend)), (60, 60), "{count:?}");
}
