//! The first start: who is there, and when the gate counts as ready.

use std::net::TcpListener;

use serde_json::json;

use crate::scene::{backend, echo, gate_to, own_address};
use crate::support::sim::Backend;
use crate::support::{children_of, gate, title, wait_for};

#[test]
fn the_demo_answers() {
    let gate = gate(["--workers", "3", "--demo"]).start();
    let answer = gate.post("/ollama_generate/", &json!({"prompt": "Why is the sky blue?"}));
    assert_eq!(answer.status, 200);
    assert!(answer.json()["response"].as_str().is_some_and(|text| text.contains("demo")));
    assert_eq!(gate.workers().len(), 3);
}

#[test]
fn every_process_has_a_title() {
    let gate = gate(["--workers", "2", "--demo"]).start();
    let mut titles: Vec<_> = children_of(gate.pid(), "").into_iter().map(title).collect();
    titles.sort();
    let wanted = ["demo", "monitor", "worker 1", "worker 2"].map(|role| format!("ollama-gate: {role}"));
    assert_eq!(titles, wanted);
    assert_eq!(title(gate.pid()), "ollama-gate: master");
}

#[test]
fn without_the_demo_there_is_none() {
    let backend = backend(0);
    let gate = gate_to(&backend, []).start();
    assert_eq!((gate.workers().len(), gate.children("monitor").len(), gate.children("demo").len()), (1, 1, 0));
}

#[test]
fn it_serves_without_a_backend_and_says_when_there_is_one() {
    let address = own_address();
    let gate = gate(["--upstream", &format!("http://{address}")]).start();
    let readiness = |status: u16| {
        wait_for(&format!("/readyz to be {status}"), || {
            assert_eq!(gate.get("/healthz").status, 200);
            let answer = gate.get("/readyz");
            (answer.status == status && !answer.text().contains("not been asked")).then(|| answer.text())
        })
    };
    assert_eq!(readiness(503), "the backend cannot be reached\n");
    let backend = Backend::on(TcpListener::bind(address).unwrap(), echo(0));
    assert_eq!(readiness(200), "ok\n");
    drop(backend);
    assert_eq!(readiness(503), "the backend cannot be reached\n");
}
