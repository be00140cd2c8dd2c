use std::io::{Read, Write};
use std::net::TcpListener;

use gate_zone::fleet::breaker::State;

use super::*;
use crate::backend::Ran;
use crate::member::Reach;
use crate::rig::{Yard, at_once};

const LONG: Duration = Duration::from_secs(20);

/// A backend that answers each request with the next of these, and closes the connection.
fn backend(answers: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut conn, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                conn.read_exact(&mut byte).unwrap();
                request.extend_from_slice(&byte);
            }
            conn.write_all(answer.as_bytes()).unwrap();
        }
    });
    authority
}

fn yard(authority: &str) -> Yard {
    let mut yard = Yard::new(&[1]);
    yard.specs[0].reach = Reach::Http { authority: authority.to_owned(), prefix: String::new() };
    yard
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
const UNKNOWN: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}";

fn failures(yard: &Yard) -> Option<u32> {
    match yard.cell(0).breaker_state(clock::monotonic_ms()) {
        State::Closed { failures } => Some(failures),
        _ => None,
    }
}

#[tokio::test]
async fn what_comes_of_a_request_is_told_to_breaker_and_memory() {
    // Closed before an answer, not HTTP, a client's mistake, an answer.
    let yard = yard(&backend(&["", "SSH-2.0\r\n\r\n", UNKNOWN, "", OK]));
    let fleet = yard.process();
    let instance = yard.cells.instance("m", "");
    for (is_answer, expected) in [(false, 1), (false, 2), (true, 0), (false, 1)] {
        yard.cell(0).forget(instance.name);
        let mut lease = at_once(&fleet, yard.want("m", 1));
        let asked = lease.ask(&Ask::get("/"), LONG, LONG).await;
        assert_eq!(asked.is_ok(), is_answer, "{asked:?}");
        assert!(asked.is_ok() || matches!(asked, Err(Failed { ran: Ran::Maybe, .. })));
        drop(lease);
        // Two open it, by the rules of the yard.
        let state = failures(&yard);
        assert_eq!(state.unwrap_or(2), expected);
        assert!(!yard.cell(0).holds(instance), "nothing was loaded for that");
        assert_eq!(yard.cell(0).served_count(), 0);
    }
    let mut lease = at_once(&fleet, yard.want("m", 1));
    lease.ask(&Ask::get("/"), LONG, LONG).await.unwrap();
    assert!(yard.cell(0).holds(instance));
    lease.loaded_in(Duration::from_millis(70));
    assert_eq!(yard.cell(0).load_ms(), 70);
    assert_eq!(failures(&yard), Some(1), "an answer that has begun may still break off");
    lease.completed();
    assert_eq!(failures(&yard), Some(0));
    lease.broke();
    drop(lease);
    assert_eq!((failures(&yard), yard.cell(0).failed_count(), yard.cell(0).served_count()), (Some(1), 4, 1));
    let lease = at_once(&fleet, yard.want("m", 1));
    lease.loaded_in(Duration::from_secs(9));
    assert_eq!(yard.cell(0).load_ms(), 70, "it was in memory: what was told is no load");
    lease.unloads();
    assert!(!yard.cell(0).holds(instance));
    drop(lease);
    yard.assert_idle();
}

#[tokio::test]
async fn a_trial_is_decided_by_its_answer() {
    let yard = yard(&backend(&["", OK]));
    let fleet = yard.process();
    for expected in [None, Some(0)] {
        breaker::succeeded(yard.cell(0).breaker());
        yard.make_due(0);
        let mut lease = at_once(&fleet, yard.want("m", 1));
        assert_eq!((lease.why.way, yard.cell(0).breaker_state(clock::monotonic_ms())), (Way::Trial, State::Trial));
        let asked = lease.ask(&Ask::get("/"), LONG, LONG).await;
        drop(lease);
        assert_eq!((failures(&yard), asked.is_ok()), (expected, expected.is_some()));
        let is_open = matches!(yard.cell(0).breaker_state(clock::monotonic_ms()), State::Open { .. });
        assert_eq!(is_open, expected.is_none(), "a trial that failed opens it anew, for longer");
    }
}

#[tokio::test]
async fn what_cannot_be_reached_surely_did_not_run() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let yard = yard(&listener.local_addr().unwrap().to_string());
    drop(listener);
    let mut lease = at_once(&yard.process(), yard.want("m", 1));
    let asked = lease.ask(&Ask::get("/"), LONG, LONG).await;
    assert!(matches!(asked, Err(Failed { ran: Ran::No, .. })), "{asked:?}");
    assert_eq!(failures(&yard), Some(1));
}

#[test]
fn reasons_are_written_as_in_the_log() {
    let ways = [Way::Only, Way::Best, Way::Trial, Way::Queue];
    assert_eq!(ways.map(Way::name), ["only", "best", "trial", "queue"]);
}

#[tokio::test]
async fn a_failure_anywhere_closes_connections_that_lie_idle() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let yard = yard(&listener.local_addr().unwrap().to_string());
    let served = std::thread::spawn(move || {
        // Two requests on the first connection, one on the second.
        for requests in [2, 1] {
            let (mut conn, _) = listener.accept().unwrap();
            for _ in 0..requests {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    conn.read_exact(&mut byte).unwrap();
                    request.extend_from_slice(&byte);
                }
                conn.write_all(OK.as_bytes()).unwrap();
            }
        }
    });
    let fleet = yard.process();
    for fails in [false, true, false] {
        let mut lease = at_once(&fleet, yard.want("m", 1));
        let exchange = lease.ask(&Ask::get("/"), LONG, LONG).await.unwrap();
        exchange.body.whole(9, LONG).await.unwrap();
        if fails {
            // As another process would tell.
            yard.cell(0).count_failure();
        }
    }
    served.join().unwrap();
}
