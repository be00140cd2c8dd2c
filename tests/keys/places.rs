//! Requests of a key at once, and turns in the queue: exact over four workers, however requests end.

use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::rig::backend;
use crate::rig::{House, keyed, told, with};
use crate::stage::{Held, MODEL, answer, generate, prompts, stalled};
use crate::support::http::{Client, Request};
use crate::support::wait_for;

/// So many requests of a key at once, of which each that is let in stays: those that were, and how many were refused.
fn crowd(house: &House, key: &str, count: usize) -> (Vec<Client>, usize) {
    let begin = |number: usize| {
        let mut client = house.front.begin(&with(key, &stalled(MODEL, &number.to_string())));
        match client.head().unwrap() {
            (200, _) => Some(client),
            (429, headers) => {
                assert!(headers.contains(&("retry-after".to_owned(), "1".to_owned())), "{headers:?}");
                None
            }
            other => panic!("{other:?}"),
        }
    };
    let all: Vec<Option<Client>> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..count).map(|number| scope.spawn(move || begin(number))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let held: Vec<Client> = all.into_iter().flatten().collect();
    let refused = count - held.len();
    (held, refused)
}

/// Waits until exactly so many more requests of a key are let in, by having them; they end at once.
#[track_caller]
fn has_room(house: &House, key: &str, count: usize) {
    wait_for(&format!("room for {count}"), || {
        let (held, refused) = crowd(house, key, count);
        drop(held);
        (refused == 0).then_some(())
    });
    // Nobody is left of those, and one more than that is too many.
    wait_for(&format!("room for {count} and no more"), || (crowd(house, key, count + 1).1 == 1).then_some(()));
}

#[test]
fn so_many_at_once_over_all_workers_and_free_again_however_they_end() {
    let backend = backend();
    let (house, [ada, bob, free]) =
        keyed(&backend, ["--name ada --concurrency 5", "--name bob --concurrency 2", "--name free"], (64, &[]));
    // Another key of the same name is the same client.
    let twin = house.key("rotate ada --grace 1h");
    for _ in 0..4 {
        let (held, refused) = crowd(&house, &ada, 24);
        assert_eq!((held.len(), refused), (5, 19));
        for key in [&ada, &twin] {
            let answer = house.front.gate.ask(&with(key, &generate(MODEL, "a")));
            assert_eq!(answer.status, 429);
            assert!(told(&answer.json()).starts_with("5 requests of this API key"), "{}", answer.text());
        }
        assert_eq!(crowd(&house, &bob, 6).1, 4, "another key has its own");
        assert_eq!(house.status_of(&free, &generate(MODEL, "a")), 200);
        // Clients that leave.
        drop(held);
        house.front.is_idle();
    }
    has_room(&house, &ada, 5);
    // Ended, refused, broken off and failed.
    let ends = ["a b", "@sim:cut:1 a b", "@sim:reset:before-head a", "@500", "@drop", "@sim:error:1 a"];
    for end in ends.iter().cycle().take(3 * ends.len()) {
        house.front.gate.ask(&with(&ada, &generate(MODEL, end)));
        let whole = Request::post("/api/generate", &json!({"model": MODEL, "prompt": end, "stream": false}));
        house.front.gate.ask(&with(&twin, &whole));
        assert_eq!(house.status_of(&ada, &Request::post("/api/generate", &json!({"model": 1}))), 400);
    }
    has_room(&house, &ada, 5);
}

#[test]
fn what_killed_workers_held_is_free_again_and_no_more() {
    let backend = backend();
    let (house, [ada]) = keyed(&backend, ["--name ada --concurrency 6"], (64, &[]));
    for _ in 0..2 {
        let (held, refused) = crowd(&house, &ada, 12);
        assert_eq!((held.len(), refused), (6, 6));
        // Those that were refused are over too.
        let (victim, lost) = wait_for("six in service", || {
            let all = house.front.by_worker();
            let six = all.iter().map(|(_, count)| count).sum::<u64>() == 6;
            all.into_iter().max_by_key(|(_, count)| *count).filter(|_| six)
        });
        kill(victim, Signal::SIGKILL).unwrap();
        let lost = usize::try_from(lost).unwrap();
        has_room(&house, &ada, lost);
        drop(held);
        house.front.gate.has_workers(4);
        house.front.is_idle();
        has_room(&house, &ada, 6);
        house.front.is_idle();
    }
}

#[test]
fn who_waits_counts_and_who_leaves_the_queue_does_not() {
    let backend = backend();
    let (house, [ada, bob]) = keyed(&backend, ["--name ada --concurrency 2", "--name bob"], (1, &[]));
    let front = &house.front;
    let held = Held::begun(front.begin(&with(&bob, &stalled(MODEL, "held"))));
    for _ in 0..3 {
        let waiting: Vec<Client> = (0..2).map(|_| front.enqueue(&with(&ada, &generate(MODEL, "waits")))).collect();
        assert_eq!(house.status_of(&ada, &generate(MODEL, "third")), 429);
        assert_eq!(front.waiting(), 2);
        drop(waiting);
        front.waits(0);
    }
    let mut served = [(); 2].map(|()| front.enqueue(&with(&ada, &generate(MODEL, "waits"))));
    drop(held);
    for client in &mut served {
        assert_eq!(answer(client).status, 200);
    }
    front.is_idle();
}

#[test]
fn a_key_has_as_many_turns_as_it_weighs() {
    // Thirds of a turn are rounded down, so the fourth comes just before the other's second.
    turns("--name one --weight 1", "13333133313311");
    // Without a weight of its own it has that of its client's address: fifty.
    turns("--name one", "13111133333333");
}

/// The order of turns of this key and one of weight 3.
#[track_caller]
fn turns(one: &str, due: &str) {
    let backend = backend();
    let keys = ["--name three --weight 3", one, "--name holder"];
    let (house, [three, one, holder]) = keyed(&backend, keys, (1, &["--queue-weight=127.0.0.0/8=50"]));
    let front = &house.front;
    let held = Held::begun(front.begin(&with(&holder, &stalled(MODEL, "held"))));
    let wait = |key: &str, word: &str, count: usize| -> Vec<Client> {
        (0..count).map(|_| front.enqueue(&with(key, &generate(MODEL, word)))).collect()
    };
    // The one that weighs less is there first, and has as much to do.
    let mut waiting = wait(&one, "1", 5);
    waiting.extend(wait(&three, "3", 9));
    drop(held);
    for client in &mut waiting {
        assert_eq!(answer(client).status, 200);
    }
    let order = prompts(&backend).split_off(1).concat();
    assert_eq!(order, due, "{one}");
    front.is_idle();
}
