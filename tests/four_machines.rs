//! Four machines: three that work, each with a gate and its own Ollama, and one in front of them, a gate or nginx, by the
//! profiles in `config/`. Each machine is a network namespace, and so are the clients. Needs root and `ip`; says so where
//! one of them is missing.
//!
//! Invariant: what is lost when a machine dies is what it had in service, and a reload loses nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "four_machines/network.rs"]
mod network;
#[path = "process/orders.rs"]
#[allow(dead_code, reason = "shared with another test binary, each uses a part of it")]
mod orders;
#[path = "four_machines/site.rs"]
mod site;
#[path = "support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use network::Cable;
use serde_json::{Value, json};
use site::{Balances, Site, ask, generate, prompt, stream};
use support::http::{Answer, Client, Request};
use support::wait_for;

/// The site, unless there can be none here: then the reason is printed.
fn site(balances: Balances, flags: &[&str]) -> Option<Site> {
    let missing = match balances {
        Balances::Nginx if std::process::Command::new("nginx").arg("-v").output().is_err() => {
            Some("nginx is not there".to_owned())
        }
        _ => network::why_not(),
    };
    if let Some(why) = missing {
        eprintln!("skipped: {why}");
        return None;
    }
    Some(Site::start(balances, flags))
}

/// Times that are as long as they need to be for a test.
const QUICK: [&str; 4] = ["--api-limit=none", "--flood=none", "--breaker-time=1s", "--chunk-timeout=3s"];

/// How long a stream lasts that something is to happen in.
const LONG: Duration = Duration::from_millis(2500);

fn article(prompt: &str) -> Request {
    Request::post("/ollama_generate/", &json!({"prompt": prompt}))
}

fn clients_stay_apart(balances: Balances) {
    let Some(site) = site(balances, &[]) else { return };
    // Each tries to be the other, and somebody new each time.
    let forge = |request: Request, number: usize| {
        let other = format!("10.0.0.{}", 101 + (number % 2));
        request
            .header("X-Forwarded-For", &format!("{other}, 10.0.0.{}, 192.0.2.{number}", 10 + number % 4))
            .header("Forwarded", &format!("for={other}"))
            .header("X-Real-IP", &other)
    };
    for client in [0, 1] {
        let mut statuses = Vec::new();
        for number in 0..13 {
            let request = forge(article("hi"), number);
            statuses.push(site.ask_from(client, &request).unwrap().status);
        }
        let passed = statuses.iter().filter(|status| **status == 200).count();
        assert_eq!((passed, &statuses[10..]), (10, &[429; 3][..]), "client {client}: {statuses:?}");
    }
    let served = || site.working.iter().flat_map(site::Working::served).collect::<Vec<_>>();
    let lines = wait_for("twenty lines of the access logs", || Some(served()).filter(|lines| lines.len() >= 20));
    for client in ["10.0.0.101", "10.0.0.102"] {
        let count = lines.iter().filter(|line| line["client"] == client).count();
        assert_eq!(count, 10, "{client} in {lines:#?}");
    }
    assert_eq!(lines.len(), 20, "{lines:#?}");
    // Past the front, a client is who it is all the same.
    let request = forge(generate("hi"), 1).header("X-Request-Id", "past-the-front");
    let address = site.working[0].address();
    assert_eq!(site.client(2).inside(move || ask(address, &request)).unwrap().status, 200);
    let line = wait_for("its line", || served().into_iter().find(|line| line["id"] == "past-the-front"));
    assert_eq!(line["client"], "10.0.0.103", "{line}");
}

#[test]
fn behind_a_gate_clients_stay_apart_and_cannot_forge_their_address() {
    clients_stay_apart(Balances::Gate);
}

#[test]
fn behind_nginx_clients_stay_apart_and_cannot_forge_their_address() {
    clients_stay_apart(Balances::Nginx);
}

/// A stream that runs.
struct Running {
    client: Client,
    prompt: String,
    place: usize,
}

/// Twelve streams, all that three hosts with four slots each work on at once; their heads have been read.
#[track_caller]
fn twelve_streams(site: &Site, round: &str) -> Vec<Running> {
    let start = |number: usize| {
        let prompt = prompt(&format!("{round}-{number}."), LONG);
        (site.send_from(number, &stream(&prompt)), prompt)
    };
    let begun: Vec<_> = (0..12).map(start).collect();
    let running = begun.into_iter().map(|(mut client, prompt)| {
        assert_eq!(client.head().unwrap().0, 200);
        let place = site.place_of(prompt.split(' ').next().unwrap());
        Running { client, prompt, place }
    });
    let running: Vec<_> = running.collect();
    let on = |place| running.iter().filter(|running| running.place == place).count();
    assert_eq!([on(0), on(1), on(2)], [4, 4, 4]);
    running
}

/// Reads all streams to their ends: those of one host break off, and the client is told; the others are whole.
#[track_caller]
fn only_one_loses(running: Vec<Running>, lost: usize) {
    for Running { mut client, prompt, place } in running {
        let mut body = Vec::new();
        let end = loop {
            match client.chunk() {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let text = String::from_utf8_lossy(&body);
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let is_done = lines.last().is_some_and(|line| line["done"] == true);
        let said: String = lines.iter().filter_map(|line| line["response"].as_str()).collect();
        if place == lost {
            assert!(!is_done, "{prompt} was on the host that died, and is whole");
        } else {
            assert!(end.is_ok() && is_done, "{prompt} on {place}: {end:?}\n{text}");
            assert_eq!(said.trim_end(), format!("echo: {prompt}"));
        }
    }
}

/// Requests on their way, each with what came of it and how long that took.
type Crowd = Vec<JoinHandle<(std::io::Result<Answer>, Duration)>>;

/// So many requests at once, of all clients.
fn crowd(site: &Site, name: &str, count: usize) -> Crowd {
    let one = |number: usize| {
        let (host, address) = (site.client(number), site.address());
        let request = generate(&format!("{name}-{number}"));
        thread::spawn(move || {
            let begun = Instant::now();
            let answer = host.inside(move || ask(address, &request));
            (answer, begun.elapsed())
        })
    };
    (0..count).map(one).collect()
}

/// All of them are answered.
#[track_caller]
fn all_are_answered(crowd: Crowd) {
    for one in crowd {
        let (answer, took) = one.join().unwrap();
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "after {took:?}: {:?} {}", answer.headers, answer.text());
    }
}

/// They are answered, but for those that a host had been given before it was gone.
#[track_caller]
fn only_of_one_are_lost(crowd: Crowd, lost: &str) {
    for one in crowd {
        let (answer, took) = one.join().unwrap();
        let answer = answer.unwrap();
        let by = answer.header("x-gate-backend").unwrap_or_default();
        let is_lost = by == lost && matches!(answer.status, 502 | 504);
        assert!(answer.status == 200 || is_lost, "{by}: {} {}", answer.status, answer.text());
        assert!(took < NOTICED_MAX, "{by}: {took:?}: {} {}", answer.status, answer.text());
    }
}

/// By when a gate has noticed that a host is gone, whatever it was doing.
const NOTICED_MAX: Duration = Duration::from_secs(19);

/// Waits until a host has been given a request anew.
#[track_caller]
fn is_used_again(site: &Site, place: usize) {
    let received = || {
        let requests = site.working[place].ollama().sim.counters().requests;
        requests.get("POST /api/generate").copied().unwrap_or(0)
    };
    let (before, mut number) = (received(), 0);
    wait_for(&format!("vm{} to be used again", place + 1), || {
        number += 1;
        // Streams, which take their time: each host gets some, and nginx, which counts requests, lets them all pass.
        let start = |client| site.send_from(client, &stream(&prompt("again", Duration::from_millis(500))));
        let begun: Vec<_> = (0..6).map(start).collect();
        for mut client in begun {
            let answer = client.answer("POST").unwrap();
            assert_eq!(answer.status, 200, "round {number}: {}", answer.text());
            assert_eq!(answer.lines().last().unwrap()["done"], true, "round {number}: {}", answer.text());
        }
        (received() > before).then_some(())
    });
}

#[test]
fn behind_a_gate_a_host_that_dies_loses_what_it_had_in_service() {
    let Some(mut site) = site(Balances::Gate, &QUICK) else { return };
    let running = twelve_streams(&site, "killed");
    // These wait for a slot, and get one of another host's.
    let waiting = crowd(&site, "waits", 8);
    wait_for("the queue", || (site.backend(1)?["waiting"] == 8).then_some(()));
    site.working[1].dies();
    only_one_loses(running, 1);
    // Its processes end one after another: the last of them may still have taken what the first gave up.
    only_of_one_are_lost(waiting, "vm2");
    for round in 0..4 {
        all_are_answered(crowd(&site, &format!("after-{round}"), 4));
    }
    site.working[1].boot();
    site.working[1].loads();
    site.is_ready(1);
    is_used_again(&site, 1);
}

#[test]
fn behind_a_gate_a_host_without_its_cable_loses_what_it_had_in_service() {
    let Some(site) = site(Balances::Gate, &QUICK) else { return };
    let running = twelve_streams(&site, "unplugged");
    let waiting = crowd(&site, "waits", 8);
    wait_for("the queue", || (site.backend(1)?["waiting"] == 8).then_some(()));
    site.working[1].host.cable(Cable::Out);
    only_one_loses(running, 1);
    all_are_answered(waiting);
    for round in 0..4 {
        all_are_answered(crowd(&site, &format!("after-{round}"), 4));
    }
    site.working[1].host.cable(Cable::In);
    site.is_ready(1);
    is_used_again(&site, 1);
}

#[test]
fn what_is_sent_to_a_host_that_has_just_gone_is_not_waited_for_long() {
    let Some(site) = site(Balances::Gate, &QUICK) else { return };
    // Connections to all hosts are kept; then one of them is gone, and nobody says so.
    all_are_answered(crowd(&site, &prompt("keeps", Duration::from_millis(300)), 12));
    site.working[1].host.cable(Cable::Out);
    only_of_one_are_lost(crowd(&site, "right-after", 12), "vm2");
    for round in 0..4 {
        only_of_one_are_lost(crowd(&site, &format!("later-{round}"), 4), "vm2");
    }
    wait_for("vm2 to be known as gone", || (site.backend(1)?["state"] != "healthy").then_some(()));
    for round in 0..4 {
        all_are_answered(crowd(&site, &format!("known-{round}"), 4));
    }
}

#[test]
fn behind_nginx_a_host_that_dies_loses_what_it_had_in_service() {
    let Some(mut site) = site(Balances::Nginx, &[]) else { return };
    let running = twelve_streams(&site, "killed");
    site.working[1].dies();
    only_one_loses(running, 1);
    for round in 0..4 {
        all_are_answered(crowd(&site, &format!("after-{round}"), 4));
    }
    site.working[1].boot();
    is_used_again(&site, 1);
}

/// Clients that ask without pause until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    fn start(site: &Site) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let one = |number: usize| {
            let (host, address) = (site.client(number), site.address());
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            thread::spawn(move || host.inside(move || asks(address, number, &stop, &answered)))
        };
        let threads = (0..16).map(one).collect();
        Self { stop, answered, threads }
    }

    #[track_caller]
    fn goes_on(&self, more: u64) {
        let target = self.answered.load(Ordering::Relaxed) + more;
        wait_for("the load to go on", || {
            let over = self.threads.iter().any(JoinHandle::is_finished);
            (over || self.answered.load(Ordering::Relaxed) >= target).then_some(())
        });
    }

    #[track_caller]
    fn lost_nothing(self) {
        self.stop.store(true, Ordering::Relaxed);
        let failures: Vec<String> = self.threads.into_iter().filter_map(|one| one.join().unwrap().err()).collect();
        assert!(failures.is_empty(), "{failures:#?}");
    }
}

/// Every third request is a stream, every second connection carries one request only.
fn asks(address: std::net::SocketAddr, number: usize, stop: &AtomicBool, answered: &AtomicU64) -> Result<(), String> {
    let mut kept: Option<Client> = None;
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let text = format!("load-{number}-{round}");
        let request = if round % 3 == 0 { stream(&text) } else { generate(&text) };
        let request = if number.is_multiple_of(2) { request } else { request.header("Connection", "close") };
        let failed = |what: &str| format!("{text}: {what}");
        let mut client = match kept.take() {
            Some(client) => client,
            None => Client::try_connect(address).map_err(|error| failed(&error.to_string()))?,
        };
        let answer = client.ask(&request).map_err(|error| failed(&error.to_string()))?;
        let said: String =
            answer.lines().iter().filter_map(|line| line["response"].as_str().map(String::from)).collect();
        if answer.status != 200 || said.trim_end() != format!("echo: {text}") {
            return Err(failed(&format!("{} {}", answer.status, answer.text())));
        }
        answered.fetch_add(1, Ordering::Relaxed);
        kept = (answer.header("connection") != Some("close")).then_some(client);
    }
    Ok(())
}

#[test]
fn reloads_on_every_tier_lose_nothing() {
    let flags = [&QUICK[..], &["--queue-per-client=64"]].concat();
    let Some(mut site) = site(Balances::Gate, &flags) else { return };
    let load = Load::start(&site);
    load.goes_on(20);
    for _ in 0..2 {
        site.front.reload();
        load.goes_on(20);
        for place in 0..3 {
            site.working[place].gate().reload();
            load.goes_on(10);
        }
    }
    load.lost_nothing();
}

#[test]
fn reloads_of_nginx_and_of_the_gates_behind_it_lose_nothing() {
    let Some(mut site) = site(Balances::Nginx, &[]) else { return };
    // What its limits let pass of four clients: long streams, all begun before.
    let running = twelve_streams(&site, "reloads");
    site.front.reload();
    for place in 0..3 {
        site.working[place].gate().reload();
    }
    all_are_answered(crowd(&site, "after", 12));
    only_one_loses(running, usize::MAX);
}
