use gate_zone::fleet::queue::{Bounds, COST};
use gate_zone::fleet::slots::{self, Holder, Slot};
use gate_zone::fleet::{breaker, queue};
use gate_zone::{Probe, clock};
use tokio::time::advance;

use super::*;
use crate::member::Reach;
use crate::rig::{RULES, Request, Yard, at_once, play, refused, spec};

fn index(lease: &Lease) -> usize {
    lease.member.cell.index()
}

/// One backend with this model, and all its slots in the hands of a process.
fn full(slots: usize) -> (Yard, Rc<Fleet>, Vec<Lease>) {
    let yard = Yard::new(&[slots]);
    yard.load(0, "m");
    let fleet = yard.process();
    let leases = (0..slots).map(|_| at_once(&fleet, yard.want("m", 1))).collect();
    (yard, fleet, leases)
}

#[test]
fn a_slot_that_is_given_back_wakes_who_waits_for_it_and_nobody_else() {
    play(async || {
        let (yard, one, mut leases) = full(2);
        let other = yard.process();
        let [mine, next] = [0, 1].map(|_| Request::waits(&one, yard.want("m", 1)));
        let theirs = Request::waits(&other, yard.want("m", 2));
        drop(leases.pop());
        assert!(mine.is_woken() && !next.is_woken() && !theirs.is_woken());
        assert!(yard.rung.borrow().is_empty(), "its own process needs no bell");
        let mine = mine.served();
        assert_eq!(mine.why, Why { fit: Fit::Loaded, way: Way::Queue });
        assert_eq!(mine.queued.position, 1);
        drop(leases.pop());
        assert_eq!(*yard.rung.borrow(), [other.holder.row()], "the other client is next");
        assert!(!theirs.is_woken(), "it has not heard the bell");
        other.attend();
        let theirs = theirs.served();
        drop((mine, theirs));
        drop(next.served());
        yard.assert_idle();
        assert!(!one.has_waiting() && !other.has_waiting());
    });
}

#[test]
fn a_bell_that_is_not_heard_costs_a_look() {
    play(async || {
        let (yard, one, leases) = full(1);
        let other = yard.process();
        let theirs = Request::waits(&other, yard.want("m", 1));
        drop(leases);
        assert!(!theirs.is_woken());
        other.look();
        drop(theirs.served());
        // Nor is a slot lost that nobody gave: its process died.
        let dead = Holder::new(200, 200);
        slots::take(yard.cell(0).slots(1), 0, dead, 0).unwrap();
        let waits = Request::waits(&one, yard.want("m", 1));
        yard.cells.settle(200, 200);
        assert!(!waits.is_woken());
        one.look();
        drop(waits.served());
        yard.assert_idle();
    });
}

#[test]
fn nobody_passes_one_who_could_have_the_slot() {
    play(async || {
        let (yard, one, leases) = full(1);
        let other = yard.process();
        let first = Request::waits(&one, yard.want("m", 1));
        // The slot becomes free, and nobody has told the one that waits.
        leases.into_iter().for_each(std::mem::forget);
        yard.cells.settle(one.holder.row(), 9);
        let word = &yard.cell(0).slots(1)[0];
        word.store(0, std::sync::atomic::Ordering::SeqCst);
        let second = Request::waits(&other, yard.want("m", 2));
        one.attend();
        let first = first.served();
        assert_eq!(yard.in_flight(0), 1);
        drop(first);
        other.attend();
        drop(second.served());
        yard.assert_idle();
    });
}

#[test]
fn one_who_waits_for_another_backend_is_in_nobodys_way() {
    play(async || {
        let mut yard = Yard::new(&[1, 1]);
        yard.specs[0].models = vec!["m".to_owned()];
        yard.specs[1].models = vec!["n".to_owned()];
        yard.rules.queue = Bounds { all: 3, per_client: 3 };
        let fleet = yard.process();
        let hangs = at_once(&fleet, yard.want("m", 1));
        let waits: Vec<Request> = (0..3).map(|_| Request::waits(&fleet, yard.want("m", 1))).collect();
        assert!(matches!(refused(&fleet, yard.want("m", 2)), Rejection::QueueFull { .. }));
        let lease = at_once(&fleet, yard.want("n", 1));
        assert_eq!(index(&lease), 1);
        drop((waits, lease, hangs));
        yard.assert_idle();
    });
}

#[test]
fn the_queue_has_its_bounds() {
    play(async || {
        let mut yard = Yard::new(&[1]);
        yard.rules.queue = Bounds { all: 3, per_client: 2 };
        let fleet = yard.process();
        let lease = at_once(&fleet, yard.want("m", 1));
        let mine: Vec<Request> = (0..2).map(|_| Request::waits(&fleet, yard.want("m", 1))).collect();
        assert!(matches!(refused(&fleet, yard.want("m", 1)), Rejection::ClientQueueFull { limit: 2, .. }));
        let theirs = Request::waits(&fleet, yard.want("m", 2));
        assert!(matches!(refused(&yard.process(), yard.want("m", 3)), Rejection::QueueFull { .. }));
        drop(mine);
        assert_eq!(yard.waiters().len(), 1);
        drop((lease, theirs));
        yard.assert_idle();
        yard.rules.queue.all = 0;
        let fleet = yard.process();
        let lease = at_once(&fleet, yard.want("m", 1));
        assert!(matches!(refused(&fleet, yard.want("m", 1)), Rejection::QueueFull { .. }), "nobody may wait");
        drop(lease);
    });
}

#[test]
fn a_greedy_client_waits_behind_the_others() {
    play(async || {
        let (yard, fleet, mut leases) = full(1);
        let mut waits: Vec<(u64, Request)> = (0..6).map(|_| (1, Request::waits(&fleet, yard.want("m", 1)))).collect();
        waits.extend([2, 3, 2, 3].map(|client| (client, Request::waits(&fleet, yard.want("m", client)))));
        let heavy = queue::COST / 4;
        waits.extend((0..3).map(|_| (4, Request::waits(&fleet, Want { cost: heavy, ..yard.want("m", 4) }))));
        let mut order = Vec::new();
        while let Some(lease) = leases.pop() {
            drop(lease);
            if let Some(place) = waits.iter().position(|(_, waits)| waits.is_woken()) {
                let (client, request) = waits.remove(place);
                order.push(client);
                leases.push(request.served());
            }
        }
        // By start tags: 4 pays a quarter, so its three come first with everybody's first.
        assert_eq!(order[..6].iter().filter(|client| **client == 4).count(), 3, "{order:?}");
        assert_eq!(order[6..], [1, 2, 3, 1, 1, 1, 1], "{order:?}");
        yard.assert_idle();
    });
}

#[test]
fn a_client_that_leaves_frees_its_place_at_once() {
    play(async || {
        let (yard, fleet, leases) = full(1);
        let [first, gone, last] = [1, 2, 3].map(|client| Request::waits(&fleet, yard.want("m", client)));
        assert_eq!(yard.waiters().len(), 3);
        drop(gone);
        assert_eq!(yard.waiters().len(), 2);
        drop(leases);
        drop(first.served());
        drop(last.served());
        yard.assert_idle();
    });
}

#[test]
fn a_grant_that_meets_a_leave_goes_to_the_next() {
    play(async || {
        let (yard, one, leases) = full(1);
        let other = yard.process();
        let gone = Request::waits(&one, yard.want("m", 1));
        let next = Request::waits(&other, yard.want("m", 2));
        drop(leases);
        assert!(gone.is_woken());
        // Before it is polled again, its client leaves.
        drop(gone);
        assert_eq!(*yard.rung.borrow(), [other.holder.row()]);
        other.attend();
        drop(next.served());
        yard.assert_idle();
        // And to nobody, if nobody is there.
        let lease = at_once(&one, yard.want("m", 1));
        let gone = Request::waits(&one, yard.want("m", 1));
        drop(lease);
        drop(gone);
        yard.assert_idle();
    });
}

#[test]
fn who_waits_too_long_is_told_when_to_come_again() {
    play(async || {
        let (yard, fleet, leases) = full(1);
        yard.cell(0).served(4_000_000);
        let mut waits = [1, 2].map(|client| Request::waits(&fleet, yard.want("m", client)));
        advance(RULES.queue_timeout.saturating_sub(Duration::from_secs(2))).await;
        assert!(waits[0].poll().is_none() && waits[1].poll().is_none());
        advance(Duration::from_secs(2)).await;
        assert!(waits[0].is_woken());
        let Some(Err(Rejection::QueueTimeout { after, retry })) = waits[0].run() else { panic!("it waits on") };
        assert_eq!((after, retry), (RULES.queue_timeout, Duration::from_secs(12)), "three at 4 s each");
        assert_eq!(yard.waiters().len(), 1);
        // A slot that comes with the deadline is used.
        drop(leases);
        let [_, late] = waits;
        drop(late.served());
        yard.assert_idle();
    });
}

#[test]
fn positions_count_those_in_front() {
    play(async || {
        let (yard, fleet, mut leases) = full(1);
        let greedy: Vec<Request> = (0..3).map(|_| Request::waits(&fleet, yard.want("m", 1))).collect();
        let late = Request::waits(&fleet, yard.want("m", 2));
        let mut positions = Vec::new();
        let mut waits: Vec<Request> = greedy.into_iter().chain([late]).collect();
        while let Some(lease) = leases.pop() {
            drop(lease);
            if let Some(place) = waits.iter().position(Request::is_woken) {
                let lease = waits.remove(place).served();
                positions.push(lease.queued.position);
                leases.push(lease);
            }
        }
        assert_eq!(positions, [1, 2, 2, 3]);
    });
}

/// A backend of two slots that is full of one model, one request of which is in service.
fn swapped(patience: Duration) -> (Yard, Rc<Fleet>, Lease) {
    let mut yard = Yard::new(&[2]);
    yard.rules.swap_patience = patience;
    yard.fill(0, "x");
    let fleet = yard.process();
    let lease = at_once(&fleet, yard.want("x", 1));
    (yard, fleet, lease)
}

#[test]
fn a_swap_waits_until_nobody_is_in_service() {
    play(async || {
        let (yard, fleet, first) = swapped(RULES.swap_patience);
        let second = at_once(&fleet, yard.want("x", 1));
        let swap = Request::waits(&fleet, yard.want("y", 2));
        drop(second);
        assert!(!swap.is_woken(), "one is still in service");
        fleet.look();
        assert!(!swap.is_woken());
        assert_eq!(yard.in_flight(0), 1, "the slot is free for those that need no swap");
        assert_eq!(yard.waiters()[0].passed_ms, 0, "nobody has passed it");
        drop(first);
        let swap = swap.served();
        assert_eq!(swap.why, Why { fit: Fit::Swap, way: Way::Queue });
        drop(swap);
        yard.assert_idle();
    });
}

#[test]
fn a_swap_is_passed_for_its_patience_and_no_longer() {
    play(async || {
        let (yard, fleet, first) = swapped(Duration::from_secs(5));
        let swaps = [("y", 2), ("z", 4)].map(|(model, client)| Request::waits(&fleet, yard.want(model, client)));
        let passes = at_once_through_the_queue(&fleet, yard.want("x", 3));
        let waiters = yard.waiters();
        assert!(
            waiters.len() == 2 && waiters.iter().all(|waiter| waiter.passed_ms > 0),
            "both were passed: {waiters:?}"
        );
        drop(passes);
        assert!(!swaps[0].is_woken());
        // Once more, in a zone where that was long ago.
        drop((swaps, first));
        yard.assert_idle();
        let first = at_once(&fleet, yard.want("x", 1));
        let swap = Request::waits(&fleet, yard.want("y", 2));
        fleet.queue().note_passed(&yard.waiters()[0], clock::monotonic_ms() - 4_000);
        let passes = at_once_through_the_queue(&fleet, yard.want("x", 3));
        drop((swap, passes));
        let swap = Request::waits(&fleet, yard.want("y", 2));
        fleet.queue().note_passed(&yard.waiters()[0], clock::monotonic_ms() - 5_000);
        let behind = Request::waits(&fleet, yard.want("x", 3));
        assert!(!behind.is_woken(), "it came later");
        let swap = swap.served();
        assert_eq!(swap.why.fit, Fit::Swap);
        drop((first, behind, swap));
        yard.assert_idle();
    });
}

/// One that comes while others wait, and need not.
#[track_caller]
fn at_once_through_the_queue(fleet: &Rc<Fleet>, want: Want) -> Lease {
    let lease = at_once(fleet, want);
    assert_eq!(lease.why.way, Way::Queue);
    lease
}

/// With one slot nobody else is in service when it is given: still those go first that need no swap, for a time.
#[test]
fn at_one_slot_swaps_are_passed_too_but_not_for_ever() {
    play(async || {
        let mut yard = Yard::new(&[1]);
        yard.fill(0, "x");
        yard.rules.swap_patience = Duration::from_secs(5);
        let fleet = yard.process();
        let first = at_once(&fleet, yard.want("x", 1));
        let swap = Request::waits(&fleet, yard.want("y", 2));
        let passes: Vec<Request> = (0..3).map(|_| Request::waits(&fleet, yard.want("x", 3))).collect();
        drop(first);
        assert!(passes[0].is_woken() && !swap.is_woken());
        let since = yard.waiters().iter().find(|waiter| waiter.client == 2).unwrap().passed_ms;
        assert!(since > 0 && since <= clock::monotonic_ms());
        drop(passes);
        drop(swap.served());
        yard.assert_idle();
    });
}

#[test]
fn a_swap_behind_is_not_passed() {
    play(async || {
        let yard = Yard::new(&[1]);
        yard.fill(0, "x");
        let fleet = yard.process();
        let first = at_once(&fleet, yard.want("x", 1));
        let ahead = Request::waits(&fleet, yard.want("x", 2));
        let swap = Request::waits(&fleet, yard.want("y", 3));
        drop(first);
        assert!(ahead.is_woken());
        let waiters = yard.waiters();
        assert_eq!(waiters.iter().map(|waiter| (waiter.client, waiter.passed_ms)).collect::<Vec<_>>(), [(3, 0)]);
        drop((ahead, swap));
        yard.assert_idle();
    });
}

#[test]
fn a_model_in_its_own_way_is_a_swap() {
    play(async || {
        let yard = Yard::new(&[2]);
        yard.load(0, "m");
        let fleet = yard.process();
        let first = at_once(&fleet, yard.want("m", 1));
        let wide = Want { instance: yard.cells.instance("m", "num_ctx=9"), ..yard.want("m", 1) };
        let wide = Request::waits(&fleet, wide);
        drop(first);
        assert_eq!(wide.served().why.fit, Fit::Swap);
    });
}

#[test]
fn a_copy_is_made_once_waiting_costs_as_much() {
    play(async || {
        let yard = Yard::new(&[1, 1]);
        yard.load(0, "m");
        // A load takes 40 ms here; nothing is known of how long requests take.
        yard.cell(1).loaded(40);
        let fleet = yard.process();
        let busy = at_once(&fleet, yard.want("m", 1));
        assert_eq!(index(&busy), 0);
        let came = Instant::now();
        let mut copy = Request::waits(&fleet, yard.want("m", 1));
        let lease = loop {
            fleet.look();
            if let Some(lease) = copy.run() {
                break lease.unwrap();
            }
            assert!(came.elapsed() < Duration::from_secs(10), "no copy was made");
            std::thread::yield_now();
        };
        assert_eq!((index(&lease), lease.why), (1, Why { fit: Fit::Copy, way: Way::Queue }));
        assert!(came.elapsed() >= Duration::from_millis(39), "{:?}", came.elapsed());
        assert!(lease.queued.waited >= Duration::from_millis(39));
        drop((busy, lease));
        yard.assert_idle();
    });
}

#[test]
fn who_waits_follows_the_backends_as_they_change() {
    play(async || {
        let yard = Yard::new(&[1, 1]);
        (0..2).for_each(|place| yard.load(place, "m"));
        yard.cell(1).tell_probe(Probe::Unreachable);
        let fleet = yard.process();
        let lease = at_once(&fleet, yard.want("m", 1));
        let waits = Request::waits(&fleet, yard.want("m", 1));
        assert_eq!(yard.waiters()[0].backends, 0b01);
        yard.cell(1).tell_probe(Probe::Healthy);
        fleet.look();
        assert_eq!(index(&waits.served()), 1);
        drop(lease);
        yard.assert_idle();
    });
}

#[test]
fn a_grant_of_a_backend_that_has_gone_is_no_refusal() {
    play(async || {
        let mut yard = Yard::new(&[1]);
        yard.specs.push(spec(1, 1));
        yard.specs[1].reach = Reach::Found { host: "ollama.internal".to_owned(), prefix: String::new() };
        let parent = yard.cells.hash(yard.specs[1].url.as_bytes());
        let found = yard.cells.claim_found(77, parent, "10.0.0.1:80".parse().unwrap(), &[]).unwrap();
        (0..2).for_each(|place| yard.load(place, "m"));
        let (one, other) = (yard.process(), yard.process());
        let leases = [0b10, 0b01].map(|tried| at_once(&one, Want { tried, ..yard.want("m", 1) }));
        let waits = Request::waits(&other, yard.want("m", 1));
        found.tell_address(parent, None);
        yard.cells.tell_change();
        let [stays, goes] = leases;
        assert_eq!((index(&stays), index(&goes)), (0, 1));
        // Its last request ends, and its slot goes to one that has not heard of the change.
        drop(goes);
        other.attend();
        let mut waits = waits;
        assert!(waits.run().is_none(), "it waits for the one that is left");
        assert_eq!((yard.waiters()[0].backends, yard.in_flight(1)), (0b01, 0));
        drop(stays);
        other.attend();
        assert_eq!(index(&waits.served()), 0);
        yard.assert_idle();
    });
}

#[test]
fn an_open_breaker_at_the_head_of_the_queue_holds_up_nobody_behind() {
    play(async || {
        let yard = Yard::new(&[1, 1]);
        (0..2).for_each(|place| yard.load(place, "m"));
        let mut one_only = Yard { specs: yard.specs.clone(), rung: Rc::default(), ..yard };
        let both = one_only.process();
        one_only.specs.truncate(1);
        let only = one_only.process();
        let yard = one_only;
        let leases = [0b10, 0b01].map(|tried| at_once(&both, Want { tried, ..yard.want("m", 1) }));
        let first = Request::waits(&both, yard.want("m", 1));
        let second = Request::waits(&only, yard.want("m", 2));
        yard.open(0);
        let [on_open, on_closed] = leases;
        drop(on_open);
        only.attend();
        // The first waits for the backend that answers; the second has no other one.
        assert!(!first.is_woken());
        let second = second.served();
        drop(on_closed);
        assert_eq!(index(&first.served()), 1);
        drop(second);
        yard.assert_idle();
    });
}

#[test]
fn a_trial_is_given_to_one_waiter_and_is_left_when_it_leaves() {
    play(async || {
        let yard = Yard::new(&[2, 1]);
        (0..2).for_each(|place| yard.load(place, "m"));
        let (one, other) = (yard.process(), yard.process());
        let closed = at_once(&one, Want { tried: 0b01, ..yard.want("m", 1) });
        yard.open(0);
        let waits = [&one, &other].map(|fleet| Request::waits(fleet, yard.want("m", 1)));
        assert_eq!(yard.in_flight(0), 0);
        breaker::succeeded(yard.cell(0).breaker());
        yard.make_due(0);
        one.look();
        other.look();
        assert_eq!(yard.in_flight(0), 1, "one tries");
        let [first, second] = waits;
        assert!(first.is_woken() && !second.is_woken());
        let trial = first.served();
        drop(trial);
        other.attend();
        let trial = second.served();
        assert_eq!((index(&trial), yard.in_flight(0)), (0, 1));
        drop((trial, closed));
        yard.assert_idle();
    });
}

/// A process that stands still keeps what it was granted, and nothing else.
#[test]
fn a_stopped_process_delays_others_by_no_more_than_a_look() {
    play(async || {
        let (yard, one, mut leases) = full(2);
        let stopped = yard.process();
        let still = Request::waits(&stopped, yard.want("m", 2));
        let next: Vec<Request> = (0..3).map(|_| Request::waits(&one, yard.want("m", 3))).collect();
        drop(leases.pop());
        drop(leases.pop());
        one.look();
        assert_eq!(next.iter().filter(|request| request.is_woken()).count(), 1, "the other slot goes on");
        for request in next {
            drop(request.served());
        }
        assert_eq!(yard.in_flight(0), 1);
        // The master finds it dead.
        std::mem::forget(still);
        yard.cells.settle(stopped.holder.row(), stopped.holder.pid());
        assert_eq!(yard.in_flight(0), 0);
        assert_eq!(yard.waiters(), []);
    });
}

#[test]
fn what_dies_in_the_queue_holds_up_nobody() {
    play(async || {
        let (yard, one, leases) = full(1);
        let dying = yard.process();
        let granted = Request::waits(&dying, yard.want("m", 2));
        let waiting = Request::waits(&dying, yard.want("m", 3));
        let mine = Request::waits(&one, yard.want("m", 4));
        drop(leases);
        assert!(!mine.is_woken(), "the dying one is first");
        std::mem::forget((granted, waiting));
        yard.cells.settle(dying.holder.row(), dying.holder.pid());
        one.look();
        drop(mine.served());
        yard.assert_idle();
    });
}

/// The process that gives dies behind the grant: its slot is freed under the waiter.
#[test]
fn a_slot_that_was_taken_from_under_a_grant_is_waited_for_again() {
    play(async || {
        let (yard, one, leases) = full(1);
        let other = yard.process();
        let mut waits = Request::waits(&other, yard.want("m", 1));
        drop(leases);
        yard.cells.settle(one.holder.row(), one.holder.pid());
        let quick = slots::take(yard.cell(0).slots(1), 0, Holder::new(9, 9), 0).unwrap();
        other.attend();
        assert!(waits.run().is_none());
        assert_eq!(yard.waiters().len(), 1);
        let word = &yard.cell(0).slots(1)[quick];
        word.store(Slot::Free.to_word(), std::sync::atomic::Ordering::SeqCst);
        other.look();
        drop(waits.served());
        yard.assert_idle();
    });
}

#[test]
fn one_that_comes_is_told_to_whoever_looks() {
    play(async || {
        let (yard, fleet, leases) = full(1);
        let looks = Rc::clone(&fleet);
        let mut looks = std::pin::pin!(async move { looks.one_waits().await });
        let mut is_told =
            async || std::future::poll_fn(|cx| std::task::Poll::Ready(looks.as_mut().poll(cx).is_ready())).await;
        assert!(!is_told().await);
        let waits = Request::waits(&fleet, Want { cost: COST, ..yard.want("m", 1) });
        assert!(is_told().await);
        drop((leases, waits));
        assert!(!fleet.has_waiting());
    });
}
