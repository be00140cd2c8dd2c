//! Backends that fail a request: when another one is asked in their place, and when never.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ollama_sim::Sim;
use serde_json::json;

use crate::support::http::{Client, Request};
use crate::support::sim::Backend;
use crate::support::{Dir, wait_for};
use crate::yard::{CLOSED, OWN, Yard, asked, by, config, echo, error_of, plays, stream, two, upstream, whole};

/// A running backend becomes an address that refuses.
fn goes(backend: Backend) {
    drop(backend);
}

#[test]
fn a_backend_that_refuses_is_passed_over_and_no_request_fails() {
    let (first, second, yard) = two("workers = 2\nbreaker_failures = 0");
    goes(first);
    let before = asked(&second);
    for number in 0..5 {
        let request = whole(&format!("new-{number}"), "hi").header("X-Request-Id", &format!("passed-{number}"));
        let answer = yard.ask(&request);
        assert_eq!((answer.status, by(&answer)), (200, "second"), "{}", answer.text());
        let line = yard.logged(&format!("passed-{number}"));
        assert_eq!((&line["tries"], &line["backend"]), (&json!(2), &json!("second")), "{line}");
    }
    assert_eq!(asked(&second) - before, 5);
    // Streams and the article's routes as well.
    assert_eq!(yard.ask(&stream("new-5", "hi")).status, 200);
    let chat = json!({"model": "new-6", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(yard.ask(&Request::post("/api/chat", &chat)).status, 200);
    yard.is_idle();
}

#[test]
fn a_request_that_may_have_run_is_never_asked_again() {
    let (first, second, yard) = two("breaker_failures = 0");
    let faults = ["close:before-head", "reset:before-head", "close:mid-head", "garbage-head"];
    let before = asked(&second);
    for (number, fault) in faults.iter().enumerate() {
        plays(&first, fault, 1);
        let answer = yard.generate(&format!("new-{number}"));
        assert_eq!((answer.status, by(&answer)), (502, "first"), "{fault}: {}", answer.text());
        assert_eq!(asked(&first), number as u64 + 1, "{fault}");
    }
    assert_eq!(asked(&second), before, "nobody else was asked");
    plays(&first, "close:before-head", 1);
    assert_eq!(error_of(&yard.generate("new-9")), CLOSED);
    yard.is_idle();
}

#[test]
fn a_request_that_may_have_run_is_asked_again_where_the_operator_allows_it() {
    let (first, second, yard) = two("retry = \"unanswered\"\nbreaker_failures = 0");
    let before = asked(&second);
    for (number, fault) in ["close:before-head", "reset:before-head", "garbage-head"].iter().enumerate() {
        plays(&first, fault, 1);
        let answer = yard.generate(&format!("new-{number}"));
        assert_eq!((answer.status, by(&answer)), (200, "second"), "{fault}: {}", answer.text());
    }
    assert_eq!((asked(&first), asked(&second) - before), (3, 3));
    // Once it has begun to answer, it is the one.
    plays(&first, "close:after-head", 1);
    let answer = yard.generate("new-9");
    assert_eq!((answer.status, by(&answer)), (502, "first"), "{}", answer.text());
    assert_eq!(asked(&second) - before, 3);
}

#[test]
fn told_never_to_ask_again_the_gate_does_not() {
    let (first, second, yard) = two("retry = \"never\"\nbreaker_failures = 0");
    plays(&first, "busy", 1);
    let answer = yard.generate("new-0");
    assert_eq!((answer.status, by(&answer)), (503, "first"));
    goes(first);
    let before = asked(&second);
    let answer = yard.generate("new-1");
    assert_eq!((answer.status, by(&answer)), (502, "first"));
    assert_eq!(error_of(&answer), "Ollama could not be reached");
    assert_eq!(asked(&second), before);
}

#[test]
fn a_storm_of_failures_is_not_doubled() {
    let (first, second, yard) = two("workers = 3\nbreaker_failures = 0");
    goes(first);
    let before = asked(&second);
    let statuses: Vec<u16> = (0..100).map(|number| yard.generate(&format!("new-{number}")).status).collect();
    let count = |status| statuses.iter().filter(|seen| **seen == status).count();
    // Ten at once, and one more for ten that were answered.
    assert_eq!((count(200), count(502)), (11, 89), "{statuses:?}");
    assert_eq!(asked(&second) - before, 11);
    // What is answered earns it back.
    (0..10).for_each(|_| assert_eq!(yard.generate(OWN[1]).status, 200));
    assert_eq!(yard.generate("new-100").status, 200);
}

#[test]
fn one_that_is_busy_sends_the_request_to_another() {
    let (first, second, yard) = two("");
    for number in 0..5 {
        plays(&first, "busy", 1);
        let answer = yard.generate(&format!("new-{number}"));
        assert_eq!((answer.status, by(&answer)), (200, "second"), "{}", answer.text());
        assert_eq!(asked(&first), number + 1);
    }
    assert_eq!(yard.backend(0)["breaker"], "closed", "busy is not broken");
    // When all are, the client is told so in Ollama's words.
    for backend in [&first, &second] {
        plays(backend, "busy", 1);
    }
    let answer = yard.generate("new-9");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(error_of(&answer).starts_with("server busy, please try again."), "{}", answer.text());
    assert_eq!(yard.generate("new-10").status, 200);
    yard.is_idle();
}

#[test]
fn a_break_that_the_client_has_seen_is_told_and_not_mended() {
    let (first, second, yard) = two("retry = \"unanswered\"");
    let before = asked(&second);
    plays(&first, "reset:chunks:2", 1);
    let answer = yard.ask(&stream("new-0", "one two three four five six"));
    let lines = answer.lines();
    assert_eq!((answer.status, by(&answer)), (200, "first"));
    assert_eq!(lines.last().unwrap(), &json!({"error": CLOSED}), "{}", answer.text());
    assert_eq!(asked(&second), before);
    yard.is_idle();
}

#[test]
fn a_worker_tries_what_the_pool_has_lost_and_asks_once() {
    let (first, second, yard) = two("workers = 1");
    // Ollama closes what has been idle; the gate has the connection in its pool still.
    assert_eq!(by(&yard.generate("new-0")), "first");
    let (address, begun) = (first.address, Instant::now());
    goes(first);
    let listener = std::net::TcpListener::bind(address).unwrap();
    let again = Backend::on(listener, config(OWN[0]));
    let answer = yard.generate("new-0");
    assert_eq!((answer.status, by(&answer)), (200, "first"), "after {:?}: {}", begun.elapsed(), answer.text());
    assert_eq!((asked(&again), asked(&second)), (1, 1), "the second had the one that made it the second choice");
}

/// A backend on a unix socket, which is removed when it ends.
struct OnSocket {
    sim: Sim,
    path: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl OnSocket {
    fn start(path: &Path) -> Self {
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let sim = Sim::new(config(OWN[0]));
        let served = sim.clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                served.serve_unix(listener, stopped).await.unwrap();
            });
        });
        Self { sim, path: path.to_owned(), stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for OnSocket {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
        std::fs::remove_file(&self.path).unwrap();
    }
}

#[test]
fn a_backend_on_a_unix_socket_is_one_like_any_other() {
    let dir = Dir::new();
    let path = dir.path("ollama.sock");
    let (local, remote) = (OnSocket::start(&path), echo(OWN[1]));
    assert!(std::fs::metadata(&path).unwrap().file_type().is_socket());
    let url = format!("unix:{}", path.display());
    let tables =
        [upstream(&url, "name = \"local\""), upstream(&remote.url(), "name = \"remote\"\nmodels = [\"new-0\"]")];
    let yard = Yard::start("workers = 2\nretry = \"unsent\"", &tables);
    yard.sees_all_well();
    let backend = yard.backend(0);
    assert_eq!((&backend["url"], &backend["listed"]), (&json!(url), &json!(151)), "{backend}");
    for _ in 0..10 {
        let answer = yard.generate(OWN[0]);
        assert_eq!((answer.status, by(&answer)), (200, "local"), "{}", answer.text());
    }
    assert!(local.sim.counters().connections.reused > 0, "connections are kept");
    let host = local.sim.counters().last_requests.last().unwrap().header("host").unwrap().to_owned();
    assert_eq!(host, "localhost", "which Ollama believes from anywhere");
    let answer = yard.ask(&stream(OWN[0], "one two three"));
    assert_eq!(answer.lines().last().unwrap()["done"], true, "{}", answer.text());
    // A client that leaves is noticed there as anywhere.
    let mut leaves = Client::connect(yard.address());
    leaves.send(&stream(OWN[0], "@sim:endless").bytes()).unwrap();
    leaves.head().unwrap();
    drop(leaves);
    wait_for("the cancellation", || (local.sim.counters().cancelled == 1).then_some(()));
    yard.is_idle();
    // Gone, it is passed over; back, it is used again.
    yard.looks_no_more();
    drop(local);
    let answer = yard.generate("new-0");
    assert_eq!((answer.status, by(&answer)), (200, "remote"), "{}", answer.text());
    let answer = yard.generate(OWN[0]);
    assert_eq!((answer.status, error_of(&answer).as_str()), (502, "Ollama could not be reached"));
    assert!(!answer.text().contains("sock"), "{}", answer.text());
    let _local = OnSocket::start(&path);
    assert_eq!(yard.generate(OWN[0]).status, 200);
}
