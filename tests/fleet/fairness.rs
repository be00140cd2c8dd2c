//! Whose turn it is when several clients wait: start-time fair queueing, seen in the order in which a backend is asked.

use crate::stage::{Front, Held, MODEL, generate, of, pair, prompts, stalled};
use crate::support::http::Client;
use crate::support::sim::Backend;

const GREEDY: &str = "192.0.2.1";
const SECOND: &str = "192.0.2.2";
const THIRD: &str = "192.0.2.3";

/// A gate with one slot, which is taken.
fn taken(arguments: &[&str]) -> (Backend, Front, Held) {
    let (backend, front) = pair(1, arguments);
    let held = front.hold(MODEL);
    (backend, front, held)
}

/// So many requests of a client that wait, each with a prompt that names it.
fn enqueue(front: &Front, client: &str, word: &str, count: usize) -> Vec<Client> {
    (1..=count).map(|number| front.enqueue(&of(client, &generate(MODEL, &format!("{word}{number}"))))).collect()
}

/// The order in which the backend was asked, behind the request that held its slot.
fn order(backend: &Backend, mut waiting: Vec<Client>) -> String {
    for client in &mut waiting {
        assert_eq!(crate::stage::answer(client).status, 200);
    }
    prompts(backend).split_off(1).join(" ")
}

#[test]
fn clients_take_turns_however_many_requests_one_of_them_has() {
    let (backend, front, held) = taken(&[]);
    let mut waiting = enqueue(&front, GREEDY, "g", 6);
    waiting.extend(enqueue(&front, SECOND, "s", 2));
    waiting.extend(enqueue(&front, THIRD, "t", 3));
    drop(held);
    assert_eq!(order(&backend, waiting), "g1 s1 t1 g2 s2 t2 g3 t3 g4 g5 g6");
    front.is_idle();
}

#[test]
fn positions_are_those_of_the_fair_order() {
    let (_backend, front, held) = taken(&[]);
    let mut waiting = enqueue(&front, GREEDY, "g", 4);
    waiting.extend(enqueue(&front, SECOND, "s", 2));
    drop(held);
    let positions: Vec<String> = waiting
        .iter_mut()
        .map(|client| {
            let answer = crate::stage::answer(client);
            answer.header("x-gate-queue-position").unwrap().to_owned()
        })
        .collect();
    // The second client's first is due with the greedy one's first, its second with that one's second.
    assert_eq!(positions, ["1", "2", "3", "4", "2", "4"]);
}

#[test]
fn weights_are_shares() {
    // The block that fits best counts: 10.1.2.3 has four shares, not two.
    let (backend, front, held) = taken(&["--queue-weight=10.0.0.0/8=2", "--queue-weight=10.1.0.0/16=4"]);
    let mut waiting = enqueue(&front, "10.1.2.3", "four", 9);
    waiting.extend(enqueue(&front, "10.2.0.1", "two", 5));
    waiting.extend(enqueue(&front, SECOND, "one", 3));
    drop(held);
    let order = order(&backend, waiting);
    // Of any seven served while all wait, four, two and one: their tags lie 1, 2 and 4 quarters apart.
    assert_eq!(order, "four1 two1 one1 four2 four3 two2 four4 four5 two3 one2 four6 four7 two4 four8 four9 two5 one3");
    front.is_idle();
}

#[test]
fn who_comes_later_neither_waits_for_a_backlog_nor_has_saved_up_turns() {
    let (backend, front, held) = taken(&[]);
    let stalled = |client: &str, word: &str| front.enqueue(&of(client, &stalled(MODEL, word)));
    let mut greedy: Vec<Client> = (1..=5).map(|number| stalled(GREEDY, &format!("g{number}"))).collect();
    drop(held);
    // Two of them are served; virtual time goes on to the second one's tag.
    for _ in 0..2 {
        drop(Held::begun(greedy.remove(0)));
    }
    let third = Held::begun(greedy.remove(0));
    let mut late: Vec<Client> = (1..=3).map(|number| stalled(SECOND, &format!("s{number}"))).collect();
    drop(third);
    // The newcomer stands beside the third, which is served now: so it is first, and then they take turns.
    for turn in 0..5 {
        let next = if turn % 2 == 0 { &mut late } else { &mut greedy };
        drop(Held::begun(next.remove(0)));
    }
    let words = prompts(&backend).split_off(1);
    let words: Vec<&str> = words.iter().map(|prompt| prompt.rsplit(' ').next().unwrap()).collect();
    assert_eq!(words.join(" "), "g1 g2 g3 s1 g4 s2 g5 s3");
    front.is_idle();
}

#[test]
fn an_untrusted_peer_cannot_buy_turns_with_forged_addresses() {
    let (backend, front, held) = taken(&["--forwarded-allow-ips=", "--queue-per-client=8"]);
    let mut waiting: Vec<Client> = (1..=8)
        .map(|number| front.enqueue(&of(&format!("198.51.100.{number}"), &generate(MODEL, &format!("f{number}")))))
        .collect();
    let refused = front.gate.ask(&of("198.51.100.99", &generate(MODEL, "f9")));
    assert_eq!(refused.status, 429, "one client, whatever it says: {refused:?}");
    drop(held);
    waiting.reverse();
    assert_eq!(order(&backend, waiting), "f1 f2 f3 f4 f5 f6 f7 f8");
}
