//! Clients that go away before the end, and what becomes of the generation that they asked for; workers that go away
//! before their clients.

use std::net::Shutdown;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ollama_sim::{Cancellation, Stage};
use serde_json::{Value, json};

use crate::stage::{article, begin, chat, chat_body, demo, error_of, gate, gate_before, generate, generate_whole};
use crate::support::http::{Client, Request};
use crate::support::sim::Backend;
use crate::support::{Gate, wait_for};
use crate::upstream::{Asked, Scripted};

#[test]
fn a_stream_whose_client_leaves_is_cancelled() {
    let backend = demo();
    let gate = gate(&backend, &[]).start();
    for request in [generate("@sim:endless"), chat("@sim:endless")] {
        let mut client = begin(gate.address(), &request);
        assert_eq!(client.head().unwrap().0, 200);
        for _ in 0..3 {
            assert!(client.chunk().unwrap().is_some());
        }
        let took = cancelled_by(&backend, || drop(client));
        assert_eq!(took.0.stage, Stage::Sending);
        println!("a stream was cancelled {} us after its client had left", took.1);
    }
}

#[test]
fn one_answer_whose_client_leaves_is_cancelled_while_it_is_made() {
    let backend = demo();
    let gate = gate(&backend, &[]).start();
    let mut whole_chat = chat_body("@sim:endless");
    whole_chat["stream"] = json!(false);
    let requests = [
        generate_whole("@sim:endless"),
        Request::post("/api/chat", &whole_chat),
        article("@sim:endless"),
        Request::get("/ollama_generate/@sim:endless"),
    ];
    for request in requests {
        let client = begun(&backend, &gate, &request);
        let (cancellation, took) = cancelled_by(&backend, || drop(client));
        assert_eq!((cancellation.stage, cancellation.lines), (Stage::Waiting, 0));
        println!("{} was cancelled {took} us after its client had left", cancellation.route);
    }
}

#[test]
fn a_client_that_leaves_while_the_backend_is_silent_is_noticed() {
    let backend = demo();
    let gate = gate(&backend, &[]).start();
    for fault in ["stall:before-head", "stall:after-head", "stall:chunks:1"] {
        let client = begun(&backend, &gate, &generate(&format!("@sim:{fault}")));
        let (cancellation, _) = cancelled_by(&backend, || drop(client));
        assert_ne!(cancellation.stage, Stage::Waiting, "{fault}");
    }
}

#[test]
fn a_client_that_does_not_read_is_dropped_in_the_end() {
    let backend = demo();
    let gate = gate(&backend, &["--write-timeout", "300ms"]).start();
    let mut client = begin(gate.address(), &generate("@sim:endless"));
    assert_eq!(client.head().unwrap().0, 200);
    let (cancellation, _) = cancelled_by(&backend, || {});
    assert_eq!(cancellation.stage, Stage::Sending);
    let mut taken = 0;
    while let Ok(Some(chunk)) = client.chunk() {
        taken += chunk.len();
    }
    println!("{taken} bytes were on their way to a client that did not read");
    assert!(taken > 0);
}

#[test]
fn a_client_that_only_closes_its_side_for_writing_has_left() {
    let backend = demo();
    let gate = gate(&backend, &[]).start();
    let client = begun(&backend, &gate, &generate_whole("@sim:endless"));
    cancelled_by(&backend, || client.socket().shutdown(Shutdown::Write).unwrap());
}

#[test]
fn others_do_not_notice_any_of_it() {
    let backend = demo();
    let gate = gate(&backend, &[]).start();
    let mut staying = begin(gate.address(), &generate("@sim:endless"));
    assert_eq!(staying.head().unwrap().0, 200);
    // The model answers four at once: some of these wait for their turn.
    let leaving: Vec<Client> = (0..8).map(|_| begun(&backend, &gate, &generate("@sim:stall:chunks:1"))).collect();
    drop(leaving);
    wait_for("all of them to be cancelled", || (backend.sim.counters().cancelled == 8).then_some(()));
    for _ in 0..100 {
        assert!(staying.chunk().unwrap().is_some());
    }
}

/// A connection whose request has reached the backend.
#[track_caller]
fn begun(backend: &Backend, gate: &Gate, request: &Request) -> Client {
    let posts = || {
        let requests = backend.sim.counters().requests;
        requests.iter().filter(|(route, _)| route.starts_with("POST")).map(|(_, count)| count).sum::<u64>()
    };
    let before = posts();
    let client = begin(gate.address(), request);
    wait_for("the backend to have the request", || (posts() > before).then_some(()));
    client
}

/// Does what cancels the one request in flight; what the backend noticed, and after how many microseconds.
#[track_caller]
fn cancelled_by(backend: &Backend, leave: impl FnOnce()) -> (Cancellation, u64) {
    let before = backend.sim.counters().cancelled;
    let left = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    leave();
    let noticed = wait_for("the backend to notice", || {
        let counters = backend.sim.counters();
        (counters.cancelled > before).then(|| counters.cancellations.last().cloned().unwrap())
    });
    let took = noticed.noticed_unix_us.saturating_sub(left);
    (noticed, took)
}

#[test]
fn a_slow_reader_gets_all_of_its_answer_while_the_gate_leaves() {
    // Far more than the kernel's buffers hold.
    const LENGTH: usize = 24 << 20;
    let backend = Scripted::start();
    let mut gate = gate_before(&backend.url(), &[]).start();
    let mut idle = Client::connect(gate.address());
    assert_eq!(idle.ask(&Request::get("/healthz")).unwrap().status, 200);
    let mut slow = begin(gate.address(), &generate_whole("slow"));
    backend.asked().answer("200 OK", "Content-Type: application/json\r\n", &"x".repeat(LENGTH));
    let (status, _) = slow.head().unwrap();
    gate.signal(Signal::SIGTERM);
    // That is when connections that wait for nothing are let go; this one waits for its reader.
    assert!(idle.is_closed());
    assert_eq!((status, slow.rest().len()), (200, LENGTH));
    assert_eq!(gate.ends_with_code(), 0);
}

/// Tells the only worker to leave, as an operator might.
#[track_caller]
fn tell_to_leave(gate: &Gate) -> Pid {
    let [worker] = gate.workers()[..] else { panic!("one worker") };
    kill(worker, Signal::SIGTERM).unwrap();
    worker
}

/// The answer of a request that had none when its time was over.
#[track_caller]
fn is_told_to_go(mut waiting: Client) {
    let answer = waiting.answer("POST").unwrap();
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    assert_eq!(error_of(&answer), LEAVES);
}

#[track_caller]
fn has_left(gate: &mut Gate, worker: Pid) {
    gate.log_has(&format!("worker 1 ({worker}) has left"));
}

const LEAVES: &str = "this server is being replaced, try again";

const LINE: &str = "{\"response\":\"a\",\"done\":false}\n";

const LAST_LINE: &str = "{\"response\":\"\",\"done\":true}\n";

/// A stream of which the client has read one line.
#[track_caller]
fn streaming(gate: &Gate, backend: &Scripted) -> (Client, Asked) {
    let mut client = begin(gate.address(), &generate("go"));
    let mut asked = backend.asked();
    asked.begin_stream();
    asked.chunk(LINE);
    assert_eq!(client.head().unwrap().0, 200);
    assert_eq!(client.chunk().unwrap().unwrap(), LINE.as_bytes());
    (client, asked)
}

/// A stream that is left when the worker, told to leave, has sent a request without an answer away.
#[track_caller]
fn stream_alone(gate: &Gate, backend: &Scripted) -> (Client, Asked, Pid) {
    let (client, asked) = streaming(gate, backend);
    let waiting = begin(gate.address(), &generate_whole("wait"));
    let unanswered = backend.asked();
    let worker = tell_to_leave(gate);
    is_told_to_go(waiting);
    drop(unanswered);
    (client, asked, worker)
}

#[test]
fn a_stream_outlives_the_requests_that_have_no_answer_yet() {
    let backend = Scripted::start();
    let mut gate = gate_before(&backend.url(), &["--graceful-timeout", "300ms"]).start();
    let (mut client, mut asked, worker) = stream_alone(&gate, &backend);
    asked.chunk(LINE);
    assert_eq!(client.chunk().unwrap().unwrap(), LINE.as_bytes());
    asked.chunk(LAST_LINE);
    asked.say("0\r\n\r\n");
    assert_eq!(client.chunk().unwrap().unwrap(), LAST_LINE.as_bytes());
    assert_eq!(client.chunk().unwrap(), None);
    // The head of the stream said nothing of an end, so the client may ask again.
    let answering = thread::spawn(move || backend.asked().answer("200 OK", "Content-Type: application/json\r\n", "{}"));
    let behind = client.ask(&generate_whole("once more")).unwrap();
    assert_eq!((behind.status, behind.header("connection")), (200, Some("close")), "{}", behind.text());
    answering.join().unwrap();
    has_left(&mut gate, worker);
}

#[test]
fn a_worker_leaves_when_nobody_asks_behind_the_last_stream() {
    let backend = Scripted::start();
    let mut gate = gate_before(&backend.url(), &["--graceful-timeout", "300ms"]).start();
    let (mut client, mut asked, worker) = stream_alone(&gate, &backend);
    asked.chunk(LAST_LINE);
    asked.say("0\r\n\r\n");
    assert_eq!(client.chunk().unwrap().unwrap(), LAST_LINE.as_bytes());
    assert_eq!(client.chunk().unwrap(), None);
    assert!(client.is_closed());
    has_left(&mut gate, worker);
}

#[test]
fn streams_are_told_at_the_end_of_their_own_time() {
    let backend = Scripted::start();
    let mut gate = gate_before(&backend.url(), &["--graceful-timeout", "200ms", "--stream-timeout", "400ms"]).start();
    let (mut client, asked) = streaming(&gate, &backend);
    let worker = tell_to_leave(&gate);
    let told = client.chunk().unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&told).unwrap(), json!({"error": LEAVES}));
    assert_eq!(client.chunk().unwrap(), None);
    assert!(client.is_closed());
    has_left(&mut gate, worker);
    assert!(!gate.log().contains("did not take"), "{}", gate.log());
    drop(asked);
}

#[test]
fn an_answer_that_is_being_read_has_the_time_of_a_stream() {
    // Far more than the kernel's buffers hold.
    const LENGTH: usize = 24 << 20;
    let backend = Scripted::start();
    let mut gate = gate_before(&backend.url(), &["--graceful-timeout", "300ms"]).start();
    let mut slow = begin(gate.address(), &generate_whole("slow"));
    backend.asked().answer("200 OK", "Content-Type: application/json\r\n", &"x".repeat(LENGTH));
    assert_eq!(slow.head().unwrap().0, 200);
    let waiting = begin(gate.address(), &generate_whole("wait"));
    let unanswered = backend.asked();
    let worker = tell_to_leave(&gate);
    is_told_to_go(waiting);
    drop(unanswered);
    assert_eq!(slow.rest().len(), LENGTH);
    drop(slow);
    has_left(&mut gate, worker);
}
