//! Backends that are where the configuration says.

use std::sync::atomic::Ordering;
use std::time::Duration;

use gate_zone::fleet::breaker::{self, Terms};
use gate_zone::fleet::inventory::Listed;
use gate_zone::fleet::{Cell, Fleet, loads};
use gate_zone::{Probe, clock};

use crate::support::{Monitor, Ollama, Server, cell, logged, wait_until, zone};

fn listed(fleet: Fleet, cell: Cell, name: &str) -> Listed {
    cell.lists(fleet.instance(name, "").name)
}

#[test]
fn an_ollama_is_known_with_its_models() {
    let zone = zone();
    let fleet = zone.fleet();
    let ollama = Ollama::at(([127, 0, 0, 1], 0).into(), &["llama3.2:1b", "Qwen3:8B", "mine"]);
    let url = format!("http://{}", ollama.address);
    let key = fleet.hash(url.as_bytes());
    let claimed = fleet.claim(key, &[]).unwrap();
    let terms = Terms { failures: 1, time: Duration::from_secs(600) };
    breaker::failed(claimed.breaker(), terms, clock::monotonic_ms());
    let opened = claimed.breaker().load(Ordering::SeqCst);
    ollama.generate("llama3.2:1b");
    let _monitor = Monitor::start(zone, &format!("[[upstream]]\nurl = \"{url}\"\nname = \"known\"\n"));
    wait_until("health", || claimed.probe() == Probe::Healthy);
    wait_until("list", || claimed.listed() == Some(3));
    for (name, expected) in [
        ("llama3.2:1b", Listed::Yes),
        ("qwen3:8b", Listed::Yes),
        ("mine:latest", Listed::Yes),
        ("other:latest", Listed::No),
    ] {
        assert_eq!(listed(fleet, claimed, name), expected, "{name}");
    }
    wait_until("model in memory", || claimed.names_in_memory(fleet) == ["llama3.2:1b"]);
    assert!(claimed.holds(fleet.instance("llama3.2:1b", "")));
    ollama.generate("mine");
    wait_until("second model", || claimed.holds(fleet.instance("mine:latest", "")) && claimed.room() == 2);
    assert_eq!(fleet.find(key).map(Cell::index), Some(claimed.index()), "the claimed cell is used");
    assert_eq!(claimed.breaker().load(Ordering::SeqCst), opened, "health proves nothing about inference");
    assert_eq!(logged("backend known at"), [format!("backend known at {url} answers")]);
    let generated = ollama.sim.counters().requests["POST /api/generate"];
    assert_eq!(generated, 2, "the monitor asks for nothing that a model has to do");
}

#[test]
fn only_questions_are_asked_that_touch_no_model() {
    let zone = zone();
    let server = Server::start();
    server.lists(&["a:1"]);
    server.holds(&[]);
    let _monitor = Monitor::start(zone, &format!("upstream = \"{}\"", server.url()));
    server.wait_asked("/api/ps", 3);
    wait_until("list", || cell(zone.fleet(), &server.url()).listed() == Some(1));
    let asked: Vec<_> = server.questions().into_iter().filter(|asked| asked.contains(' ')).collect();
    assert_eq!(asked, ["GET /api/ps", "GET /api/tags", "GET /api/version"]);
    assert_eq!(server.asked("/api/tags"), 1);
}

#[test]
fn a_server_without_lists_is_healthy_and_nothing_is_known_of_its_models() {
    let zone = zone();
    let server = Server::start();
    let config = format!("[[upstream]]\nurl = \"{}\"\nname = \"listless\"\n", server.url());
    let before = zone.fleet().claim(zone.fleet().hash(server.url().as_bytes()), &[]).unwrap();
    before.tell_listed(Some(&[7]));
    before.note(zone.fleet().instance("old:1", ""), clock::monotonic_ms() - 1000);
    let _monitor = Monitor::start(zone, &config);
    wait_until("lines", || logged("listless").len() == 3);
    server.wait_asked("/api/version", 2);
    assert_eq!((before.probe(), before.listed(), before.in_memory().count()), (Probe::Healthy, None, 0));
    let lines = logged("listless").into_iter().map(|line| line.replace(&server.url(), "URL"));
    assert_eq!(
        lines.collect::<Vec<_>>(),
        [
            "backend listless at URL answers",
            "listless at URL does not say which models it has in memory: /api/ps: status 404",
            "listless at URL does not say which models it has: /api/tags: status 404",
        ]
    );
}

#[test]
fn a_new_model_is_noticed_when_it_runs() {
    let zone = zone();
    let fleet = zone.fleet();
    let server = Server::start();
    server.lists(&["a:1"]);
    server.holds(&["a:1"]);
    let _monitor = Monitor::start(zone, &format!("upstream = \"{}\"", server.url()));
    let cell = cell(fleet, &server.url());
    wait_until("list", || cell.listed() == Some(1));
    server.lists(&["a:1", "pulled:1"]);
    server.holds(&["a:1", "pulled:1"]);
    wait_until("new model", || listed(fleet, cell, "pulled:1") == Listed::Yes);
    assert_eq!(server.asked("/api/tags"), 2);
    // One that was removed while it runs is looked for once, and not each second.
    server.lists(&["a:1"]);
    server.holds(&["a:1", "removed:1"]);
    server.wait_asked("/api/tags", 1);
    server.wait_asked("/api/ps", 3);
    assert_eq!((server.asked("/api/tags"), listed(fleet, cell, "removed:1")), (3, Listed::No));
}

#[test]
fn who_comes_back_may_be_another() {
    let zone = zone();
    let fleet = zone.fleet();
    let server = Server::start();
    server.lists(&["old:1"]);
    server.holds(&["old:1"]);
    let (address, url) = (server.address, server.url());
    let _monitor = Monitor::start(zone, &format!("[[upstream]]\nurl = \"{url}\"\nname = \"phoenix\"\n"));
    let cell = cell(fleet, &url);
    wait_until("list", || listed(fleet, cell, "old:1") == Listed::Yes);
    drop(server);
    wait_until("end", || cell.probe() == Probe::Unreachable);
    assert_eq!(cell.listed(), Some(1), "the last that is known");
    // It has no list at first.
    let server = Server::at(address);
    server.says("/api/tags", 503, "{}");
    server.holds(&["new:1"]);
    wait_until("return", || cell.probe() == Probe::Healthy);
    assert_eq!(listed(fleet, cell, "old:1"), Listed::Unknown);
    server.lists(&["new:1"]);
    wait_until("new list", || listed(fleet, cell, "new:1") == Listed::Yes);
    wait_until("new model in memory", || cell.names_in_memory(fleet) == ["new:1"]);
    assert_eq!(listed(fleet, cell, "old:1"), Listed::No);
    let changes = logged("backend phoenix").into_iter().map(|line| line.replace(&url, "URL"));
    let expected = ["answers", "cannot be reached", "answers"].map(|what| format!("backend phoenix at URL {what}"));
    assert_eq!(changes.collect::<Vec<_>>(), expected, "once for each change");
}

#[test]
fn faults_of_a_backend_are_told_apart() {
    let zone = zone();
    let server = Server::start();
    let _monitor = Monitor::start(zone, &format!("upstream = \"{}\"", server.url()));
    let cell = cell(zone.fleet(), &server.url());
    for (status, body, expected) in [
        (503, "{}", Probe::Status(503)),
        (200, "{\"version\":1}", Probe::Foreign),
        (200, "{\"version\":\"1\"}", Probe::Healthy),
    ] {
        server.says("/api/version", status, body);
        wait_until(body, || cell.probe() == expected);
    }
}

#[test]
fn monitors_that_take_over_lose_nothing() {
    let zone = zone();
    let fleet = zone.fleet();
    let server = Server::start();
    server.lists(&["a:1", "b:1"]);
    server.holds(&["a:1"]);
    let config = format!("[[upstream]]\nurl = \"{}\"\nname = \"overlap\"\n", server.url());
    let first = Monitor::start(zone, &config);
    let cell = cell(fleet, &server.url());
    wait_until("state", || cell.listed() == Some(2) && cell.in_memory().count() == 1);
    let is_known = || {
        cell.probe() == Probe::Healthy
            && ["a:1", "b:1"].iter().all(|name| listed(fleet, cell, name) == Listed::Yes)
            && cell.holds(fleet.instance("a:1", ""))
    };
    let holds_while_asked = |questions: usize| {
        let target = server.asked("/api/ps") + questions;
        wait_until("questions", || {
            assert!(is_known(), "{:?} {:?}", cell.probe(), cell.listed());
            server.asked("/api/ps") >= target
        });
    };
    let lists = server.asked("/api/tags");
    let second = Monitor::start(zone, &config);
    holds_while_asked(3);
    drop(first);
    holds_while_asked(2);
    assert!(server.asked("/api/tags") > lists, "the second has asked as well");
    drop(second);
    assert!(is_known(), "what the last one knew stays");
    let _third = Monitor::start(zone, &config);
    holds_while_asked(2);
    assert_eq!(logged("backend overlap").len(), 1, "nothing has changed");
}

#[test]
fn a_fleet_is_watched() {
    let zone = zone();
    let server = Server::start();
    let urls: Vec<_> = (1..=32).map(|index| format!("{}/b{index}", server.url())).collect();
    for index in 1..=32 {
        server.says(&format!("/b{index}/api/version"), 200, "{\"version\":\"0\"}");
        server.says(&format!("/b{index}/api/tags"), 200, "{\"models\":null}");
        server.says(&format!("/b{index}/api/ps"), 200, "{\"models\":[]}");
    }
    let list: Vec<_> = urls.iter().map(|url| format!("\"{url}\"")).collect();
    let _monitor = Monitor::start(zone, &format!("upstream = [{}]", list.join(", ")));
    for url in &urls {
        let cell = cell(zone.fleet(), url);
        wait_until(url, || cell.probe() == Probe::Healthy && cell.listed() == Some(0));
    }
}

#[test]
fn a_demo_is_watched_in_place_of_the_first() {
    let zone = zone();
    let server = Server::start();
    server.lists(&["demo:1"]);
    let _monitor = Monitor::with_demo(zone, "upstream = \"http://127.0.0.1:9\"", Some(server.address));
    let cell = cell(zone.fleet(), "http://127.0.0.1:9");
    wait_until("demo", || cell.probe() == Probe::Healthy && cell.listed() == Some(1));
}

#[test]
fn a_unix_socket_is_watched() {
    let zone = zone();
    let path = std::env::temp_dir().join(format!("gate-monitor-{}.sock", std::process::id()));
    let server = Server::on_unix(&path);
    server.lists(&["a:1"]);
    server.holds(&[]);
    let url = format!("unix:{}", path.display());
    let _monitor = Monitor::start(zone, &format!("upstream = \"{url}\""));
    let cell = cell(zone.fleet(), &url);
    wait_until("state", || cell.probe() == Probe::Healthy && cell.listed() == Some(1));
    drop(server);
    wait_until("end", || cell.probe() == Probe::Unreachable);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn loads_that_nobody_ends_are_freed() {
    let zone = zone();
    let server = Server::start();
    let now_s = clock::monotonic_ms() / 1000;
    let table = zone.fleet().loads();
    assert!(loads::begin(table, (1, 0), None, now_s.saturating_sub(90)).is_some());
    assert!(loads::begin(table, (2, 0), None, now_s).is_some());
    let _monitor = Monitor::start(zone, &format!("upstream = \"{}\"\nload_timeout = \"60s\"", server.url()));
    wait_until("sweep", || loads::of(table, 1, now_s).is_none());
    assert!(loads::of(table, 2, now_s).is_some());
}
