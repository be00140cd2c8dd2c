//! HUP with other backends: what comes, goes or changes, and that requests in service notice nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::http::Client;
use crate::support::sim::Backend;
use crate::support::wait_for;
use crate::yard::{Nobody, OWN, Yard, asked, by, config, echo, error_of, stream, upstream, whole};

/// A backend that takes its time: a stream of it lasts over a reload.
fn slow(own: &str) -> Backend {
    Backend::start(ollama_sim::Config { token_rate: 20, ..config(own) })
}

fn named(backend: &Backend, name: &str) -> String {
    upstream(&backend.url(), &format!("name = \"{name}\""))
}

/// Forty words, for two seconds of a slow backend's time.
fn text() -> String {
    vec!["word"; 40].join(" ")
}

/// A stream that has begun, and is to end whole.
struct Running(Client);

impl Running {
    #[track_caller]
    fn begin(yard: &Yard, model: &str) -> Self {
        let mut client = Client::connect(yard.address());
        client.send(&stream(model, &text()).bytes()).unwrap();
        assert_eq!(client.head().unwrap().0, 200);
        Self(client)
    }

    #[track_caller]
    fn ends_whole(mut self) {
        let mut body = Vec::new();
        while let Some(chunk) = self.0.chunk().expect("it goes on") {
            body.extend_from_slice(&chunk);
        }
        let body = String::from_utf8(body).unwrap();
        let lines: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let said: String = lines.iter().filter_map(|line| line["response"].as_str()).collect();
        assert_eq!(said.trim_end(), format!("echo: {}", text()), "{body}");
        assert_eq!(lines.last().unwrap()["done"], true, "{body}");
    }
}

#[test]
fn backends_come_and_go_and_streams_notice_nothing() {
    let (goes, stays, comes) = (slow(OWN[0]), slow(OWN[1]), echo("of-third:latest"));
    let mut yard = Yard::start("workers = 2", &[named(&goes, "goes"), named(&stays, "stays")]);
    yard.sees_all_well();
    let streams: Vec<Running> =
        [OWN[0], OWN[1], OWN[0], OWN[1]].iter().map(|model| Running::begin(&yard, model)).collect();
    assert_eq!((asked(&goes), asked(&stays)), (2, 2));
    let stayed = yard.backend(1);
    yard.becomes("workers = 2", &[named(&stays, "stays"), named(&comes, "comes")]);
    // What is known of the one that stays, is known still.
    let backend = yard.backend(0);
    assert_eq!((&backend["name"], &backend["in_flight"]), (&json!("stays"), &stayed["in_flight"]), "{backend}");
    assert_eq!(backend["state"], "healthy");
    yard.sees_all_well();
    // Nothing new for the one that goes, not even what only it has.
    let answer = yard.generate(OWN[0]);
    assert_ne!(by(&answer), "goes");
    for number in 0..20 {
        let answer = yard.generate(&format!("new-{number}"));
        assert_eq!(answer.status, 200);
        assert!(["stays", "comes"].contains(&by(&answer)), "{}", by(&answer));
    }
    assert_eq!(by(&yard.generate("of-third")), "comes");
    assert_eq!(asked(&goes), 2);
    streams.into_iter().for_each(Running::ends_whole);
    // The old workers leave, and with them every connection to it.
    wait_for("no connection to the one that went", || (goes.sim.counters().connections.open == 0).then_some(()));
    assert_eq!(asked(&goes), 2);
    yard.is_idle();
}

#[test]
fn the_idle_connections_to_one_that_goes_are_closed() {
    let (goes, stays) = (echo(OWN[0]), echo(OWN[1]));
    let mut yard = Yard::start("workers = 2", &[named(&goes, "goes"), named(&stays, "stays")]);
    yard.sees_all_well();
    for own in OWN {
        (0..8).for_each(|_| assert_eq!(yard.generate(own).status, 200));
    }
    assert!(goes.sim.counters().connections.open > 0);
    yard.becomes("workers = 2", &[named(&stays, "stays")]);
    wait_for("no connection to the one that went", || (goes.sim.counters().connections.open == 0).then_some(()));
    let asked_then = goes.sim.counters().requests;
    wait_for("the monitor to look at the other one again", || {
        let probes = |backend: &Backend| backend.sim.counters().requests.get("GET /api/ps").copied();
        (probes(&stays) > Some(3)).then_some(())
    });
    assert_eq!(goes.sim.counters().requests, asked_then, "the monitor has let go of it as well");
}

#[test]
fn under_load_nothing_is_lost_while_backends_change() {
    let backends = [echo("a"), echo("b"), echo("c")];
    let table = |place: usize| named(&backends[place], ["a", "b", "c"][place]);
    let mut yard = Yard::start("workers = 2", &[table(0), table(1)]);
    yard.sees_all_well();
    let stop = Arc::<AtomicBool>::default();
    let address = yard.address();
    let client = |number: usize| {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                let request = whole(&format!("new-{}", (number + answered) % 5), "hi").header("Connection", "close");
                let answer = Client::try_connect(address).and_then(|mut client| client.ask(&request)).unwrap();
                assert_eq!(answer.status, 200, "{}: {}", by(&answer), answer.text());
                answered += 1;
            }
            answered
        })
    };
    let clients: Vec<_> = (0..6).map(client).collect();
    for places in [[1, 2], [2, 0], [0, 1], [1, 2]] {
        yard.becomes("workers = 2", &places.map(table));
        let before: u64 = places.iter().map(|place| asked(&backends[*place])).sum();
        wait_for("the load to go on", || {
            let now: u64 = places.iter().map(|place| asked(&backends[*place])).sum();
            (now > before + 30 || clients.iter().any(thread::JoinHandle::is_finished)).then_some(())
        });
    }
    stop.store(true, Ordering::Relaxed);
    let answered: usize = clients.into_iter().map(|client| client.join().expect("it was answered each time")).sum();
    let received: u64 = backends.iter().map(asked).sum();
    assert_eq!(received, answered as u64, "each request has been asked once");
    yard.is_idle();
}

/// So many requests for this model that the backend holds; they stay until dropped.
fn held(yard: &Yard, model: &str, count: usize) -> Vec<Client> {
    let hold = |_| {
        let mut client = Client::connect(yard.address());
        client.send(&whole(model, "@sim:stall:before-head").bytes()).unwrap();
        client
    };
    (0..count).map(hold).collect()
}

fn generating(backend: &Backend) -> u64 {
    backend.sim.counters().generating
}

#[test]
fn slots_change() {
    let backend = echo(OWN[0]);
    let table = |slots: usize| [upstream(&backend.url(), &format!("name = \"only\"\nslots = {slots}"))];
    let mut yard = Yard::start("workers = 2", &table(1));
    yard.sees_all_well();
    let first = held(&yard, OWN[0], 3);
    wait_for("two to wait", || (yard.status()["queue"]["length"] == 2).then_some(()));
    wait_for("the first", || (generating(&backend) == 1).then_some(()));
    yard.becomes("workers = 2", &table(5));
    assert_eq!(yard.backend(0)["slots"], 5);
    // The new workers know of more slots; those that wait get them too.
    let second = held(&yard, OWN[0], 4);
    wait_for("five at once", || (generating(&backend) == 5).then_some(()));
    wait_for("the two others to wait", || (yard.status()["queue"]["length"] == 2).then_some(()));
    assert_eq!(backend.sim.counters().generating_max, 5);
    yard.becomes("workers = 2", &table(2));
    let third = held(&yard, OWN[0], 2);
    wait_for("them to wait", || (yard.status()["queue"]["length"] == 4).then_some(()));
    drop((first, second));
    wait_for("the two to be served", || (yard.status()["queue"]["length"] == 0).then_some(()));
    drop(third);
    yard.is_idle();
    // Nobody who knew of more slots is left.
    let fourth = held(&yard, OWN[0], 3);
    wait_for("one to wait", || {
        let status = yard.status();
        (status["queue"]["length"] == 1 && status["backends"][0]["in_flight"] == 2).then_some(())
    });
    wait_for("two at once", || (generating(&backend) == 2).then_some(()));
    drop(fourth);
    yard.is_idle();
}

#[test]
fn allowed_models_change() {
    let backend = slow(OWN[0]);
    let table = |models: &str| [upstream(&backend.url(), &format!("name = \"only\"\nmodels = [{models}]"))];
    let mut yard = Yard::start("workers = 2", &table("\"new-1\", \"of-first\""));
    yard.sees_all_well();
    assert_eq!(yard.generate("new-1").status, 200);
    let running = Running::begin(&yard, "new-1");
    yard.becomes("workers = 2", &table("\"of-first\""));
    let answer = yard.generate("new-1");
    assert_eq!((answer.status, error_of(&answer).as_str()), (404, "model 'new-1' not found"));
    assert_eq!(yard.generate("OF-FIRST:latest").status, 200, "as Ollama reads names");
    running.ends_whole();
    yard.becomes("workers = 2", &table(""));
    assert_eq!(yard.generate("new-1").status, 200, "an empty list is all");
}

#[test]
fn weights_change() {
    let (first, second) = (echo("a"), echo("b"));
    let table = |weights: [usize; 2]| {
        [(&first, weights[0], "first"), (&second, weights[1], "second")]
            .map(|(backend, weight, name)| upstream(&backend.url(), &format!("name = \"{name}\"\nweight = {weight}")))
    };
    let mut yard = Yard::start("workers = 1", &table([1, 3]));
    yard.sees_all_well();
    // In the memory of both, so that nothing but the load decides.
    for backend in [&first, &second] {
        let request = whole("new-0", "hi");
        assert_eq!(crate::support::http::ask(backend.address, &request).status, 200);
    }
    let known = json!(["new-0"]);
    for place in 0..2 {
        wait_for("the model to be seen", || {
            let loaded = yard.backend(place)["loaded"].clone();
            (loaded == known || loaded == json!(["new-0:latest"])).then_some(())
        });
    }
    for weights in [[1, 3], [3, 1], [1, 1]] {
        yard.becomes("workers = 1", &table(weights));
        let holding = held(&yard, "new-0", 40);
        wait_for("forty", || (generating(&first) + generating(&second) == 40).then_some(()));
        let total = (weights[0] + weights[1]) as u64;
        let (seen, wanted) = (generating(&first), 40 * weights[0] as u64 / total);
        assert!(seen.abs_diff(wanted) <= 1, "{seen} of 40 with weights {weights:?}");
        drop(holding);
        yard.is_idle();
        wait_for("none", || (generating(&first) + generating(&second) == 0).then_some(()));
    }
}

#[test]
fn too_many_backends_are_refused_and_nothing_changes() {
    let backend = slow(OWN[0]);
    let nobody = Nobody::new();
    let many = |count: usize, prefix: &str| -> Vec<String> {
        (0..count).map(|number| upstream(&format!("{}/{prefix}{number}", nobody.url()), "")).collect()
    };
    let own = vec![named(&backend, "own")];
    let mut yard = Yard::start("workers = 2", &own);
    yard.sees_all_well();
    let running = Running::begin(&yard, OWN[0]);
    let workers = yard.gate.workers();
    yard.configure("workers = 2", &[own.clone(), many(32, "a")].concat());
    yard.gate.signal(Signal::SIGHUP);
    let line = yard.gate.log_has("reload refused: ");
    assert!(line.contains("upstream") && line.contains("32"), "{line}");
    assert_eq!(yard.gate.workers(), workers);
    assert_eq!(by(&yard.generate(OWN[0])), "own");
    // Sixty-four have room in all: these, those that they replace, and those that still have something to do.
    yard.becomes("workers = 2", &many(32, "a"));
    yard.configure("workers = 2", &many(32, "b"));
    yard.gate.signal(Signal::SIGHUP);
    let line = yard.gate.log_has("reload refused: upstream: no room for");
    assert!(line.contains("change fewer of them at once"), "{line}");
    running.ends_whole();
    wait_for("its slot to be free", || {
        yard.gate.signal(Signal::SIGHUP);
        let line = yard.gate.log_has("reload: generation");
        line.contains("is checked and bound").then_some(())
    });
    yard.gate.log_has("serves with");
    assert_eq!(yard.status()["backends"].as_array().unwrap().len(), 32);
    yard.becomes("workers = 2", &own);
    assert_eq!(by(&yard.generate(OWN[0])), "own");
}
