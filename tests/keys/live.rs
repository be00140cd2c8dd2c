//! Keys that come and go while the gate serves: at once, on every connection, in workers that drain too.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::orders::Asked;
use crate::rig::{House, backend, keyed, version, with};
use crate::stage::{MODEL, stalled};
use crate::support::http::{Client, Request};
use crate::support::{PATIENCE, wait_for};

/// The statuses that a key gets on all of these connections.
fn on_all(clients: &mut [Client], key: &str) -> Vec<u16> {
    let mut all: Vec<u16> =
        clients.iter_mut().map(|client| client.ask(&with(key, &version())).unwrap().status).collect();
    all.dedup();
    all
}

#[test]
fn keys_come_and_go_at_once_on_connections_that_are_open() {
    let backend = backend();
    let (house, [ada]) = keyed(&backend, ["--name ada"], (8, &[]));
    let workers = house.front.gate.workers();
    let mut open = house.open(&ada, 16);
    for round in 0..3 {
        let bob = house.key(&format!("new --name bob{round}"));
        assert_eq!(on_all(&mut open, &bob), [200], "the moment it is printed");
        let second = house.key(&format!("rotate bob{round} --grace 1h"));
        assert_eq!((on_all(&mut open, &bob), on_all(&mut open, &second)), (vec![200], vec![200]));
        house.key(&format!("revoke {}", &bob[3..15]));
        assert_eq!((on_all(&mut open, &bob), on_all(&mut open, &second)), (vec![401], vec![200]));
        house.key(&format!("revoke bob{round}"));
        assert_eq!((on_all(&mut open, &second), on_all(&mut open, &ada)), (vec![401], vec![200]));
    }
    // Rights change with the line: the same name, the same connection.
    let reader = house.key("rotate ada --grace 1h");
    let line = fs::read_to_string(house.file()).unwrap();
    fs::write(house.file(), line.replace('\n', " routes=tags\n")).unwrap();
    house.key("new --name carl");
    assert_eq!((on_all(&mut open, &ada), on_all(&mut open, &reader)), (vec![403], vec![403]));
    assert_eq!(house.front.gate.workers(), workers, "nobody was restarted for it");
}

#[test]
fn a_key_ends_with_its_time_and_streams_in_service_go_on() {
    let backend = backend();
    let (house, [ada]) = keyed(&backend, ["--name ada"], (8, &[]));
    let mut client = house.front.begin(&with(&ada, &stalled(MODEL, "goes on")));
    assert_eq!(client.head().unwrap().0, 200);
    client.chunk().unwrap();
    let second = house.key("rotate ada --grace 3s");
    let begun = Instant::now();
    let mut open = house.open(&second, 8);
    let mut good_at = begun.elapsed();
    wait_for("the end of the grace", || {
        let asked = begun.elapsed();
        let statuses = on_all(&mut open, &ada);
        good_at = if statuses == [200] { asked } else { good_at };
        (statuses == [401]).then_some(())
    });
    assert!(good_at > Duration::from_secs(1), "{good_at:?}");
    assert_eq!(on_all(&mut open, &second), [200]);
    let answer = house.front.gate.ask(&with(&ada, &version()));
    assert!(answer.text().contains("this API key has expired"), "{}", answer.text());
    house.key("revoke ada");
    assert_eq!(on_all(&mut open, &second), [401]);
    assert_eq!(house.front.in_flight(), 1, "the stream of a key that is gone");
    drop(client);
    house.front.is_idle();
}

/// Requests whose heads are half sent, so that their workers wait for the rest.
fn half(house: &House, key: &str, count: usize) -> Vec<Client> {
    let bytes = with(key, &version()).bytes();
    let begin = |_| {
        let mut client = Client::connect(house.front.gate.address());
        client.send(&bytes[..20]).unwrap();
        client
    };
    (0..count).map(begin).collect()
}

#[test]
fn workers_that_drain_know_the_keys_of_the_moment() {
    let backend = backend();
    let (mut house, [ada]) = keyed(&backend, ["--name ada"], (8, &["--graceful-timeout=15s"]));
    let bytes = |key: &str| with(key, &version()).bytes()[20..].to_vec();
    let old = house.front.gate.workers();
    let (mut by_ada, mut by_bob) = (half(&house, &ada, 8), half(&house, &ada, 8));
    let connected = |house: &House| house.front.status()["totals"]["connections"].as_u64().unwrap();
    wait_for("their connections", || (connected(&house) >= 16).then_some(()));
    house.front.gate.reload();
    assert!(house.front.gate.workers().iter().any(|pid| old.contains(pid)), "those that drain wait for the rest");
    let bob = house.key("new --name bob");
    house.key("revoke ada");
    let ask = |client: &mut Client, key: &str| {
        client.send(&bytes(key)).unwrap();
        client.answer("GET").unwrap()
    };
    for client in &mut by_ada {
        let answer = ask(client, &ada);
        assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));
    }
    for client in &mut by_bob {
        let answer = ask(client, &bob);
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    }
}

#[test]
fn a_file_that_is_no_key_file_changes_nothing_for_anybody() {
    let backend = backend();
    let (mut house, [ada, bob]) = keyed(&backend, ["--name ada", "--name bob"], (8, &[]));
    let mut open = house.open(&ada, 4);
    let file = house.file();
    let good = fs::read_to_string(&file).unwrap();
    let only_bob = good.lines().last().unwrap().to_owned();
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    for (text, wide) in [(format!("{only_bob}\nx\n"), 0o600), (only_bob.clone(), 0o644), (String::new(), 0)] {
        if text.is_empty() {
            fs::remove_file(&file).unwrap();
        } else {
            fs::write(&file, text).unwrap();
            mode(wide);
        }
        house.front.gate.signal(Signal::SIGHUP);
        house.front.gate.log_has("reload refused: ");
        assert_eq!((on_all(&mut open, &ada), on_all(&mut open, &bob)), (vec![200], vec![200]), "{wide:o}");
    }
    // And the good one does.
    fs::write(&file, only_bob + "\n").unwrap();
    mode(0o600);
    house.front.gate.reload();
    assert_eq!((house.status_of(&ada, &version()), house.status_of(&bob, &version())), (401, 200));
}

#[test]
fn nobody_is_refused_while_keys_are_published_all_the_time() {
    let backend = backend();
    let lines = ["--name ada --limit none", "--name bob --weight 2", "--name eve --routes read"];
    let (house, keys) = keyed(&backend, lines, (8, &[]));
    let control = house.front.control();
    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|number| {
                let request = with(&keys[number % keys.len()], &Request::post("/api/show", &json!({"model": 7})));
                let (over, asked, address) = (&over, &asked, house.front.gate.address());
                scope.spawn(move || {
                    let mut client = Client::connect(address);
                    while !over.load(Ordering::Relaxed) {
                        let answer = client.ask(&request).unwrap();
                        assert_eq!(answer.status, 400, "{}", answer.text());
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let begun = Instant::now();
        for generation in 2.. {
            let answer = Asked::begin(&control, &json!({"command": "keys"})).answer();
            assert_eq!(answer["keys"]["generation"], generation);
            let is_enough = generation > 150 && asked.load(Ordering::Relaxed) > 600;
            if is_enough || begun.elapsed() > PATIENCE || clients.iter().any(ScopedJoinHandle::is_finished) {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(asked.load(Ordering::Relaxed) > 600, "{asked:?}");
}
