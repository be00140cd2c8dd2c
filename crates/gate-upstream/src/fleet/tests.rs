use gate_zone::fleet::slots;

use super::*;
use crate::member::Reach;
use crate::rig::{Request, Yard, at_once, play, refused};

const IN_MEMORY: Why = Why { fit: Fit::Loaded, way: Way::Best };

fn index(lease: &Lease) -> usize {
    lease.member.cell.index()
}

/// Which of four backends may serve: `b0` is allowed `other`, the rest `m`. `ill` are those that the monitor found ill;
/// `lists` and `lacks` those that list the model or do not; `tried` those that have failed the request.
#[track_caller]
fn check_eligible(ill: u64, (lists, lacks): (u64, u64), tried: u64, expected: u64) {
    let mut yard = Yard::new(&[1, 1, 1, 1]);
    for (place, spec) in yard.specs.iter_mut().enumerate() {
        spec.models = vec![if place == 0 { "other" } else { "m" }.to_owned()];
    }
    let name = yard.cells.instance("m", "").name;
    for place in 0..4 {
        let is_in = |mask: u64| mask >> place & 1 == 1;
        yard.cell(place).tell_probe(if is_in(ill) { Probe::Unreachable } else { Probe::Healthy });
        if is_in(lists | lacks) {
            let second = if is_in(lists) { name } else { 8 };
            yard.cell(place).tell_listed(Some(&[7, second]));
        }
    }
    let fleet = yard.process();
    let want = Want { tried, ..yard.want("m", 1) };
    let mask = fleet.eligible(&fleet.members(), &want).unwrap();
    assert_eq!(mask, expected, "ill {ill:b}, listed by {lists:b}, not by {lacks:b}, tried {tried:b}: {mask:b}");
}

#[test]
fn who_may_serve_is_narrowed_but_never_to_nobody() {
    check_eligible(0, (0, 0), 0, 0b1110);
    // Ill ones are left out, unless all are.
    check_eligible(0b0010, (0, 0), 0, 0b1100);
    check_eligible(0b1110, (0, 0), 0, 0b1110);
    // So are those that have failed the request.
    check_eligible(0, (0, 0), 0b0010, 0b1100);
    check_eligible(0, (0, 0), 0b1110, 0b1110);
    check_eligible(0b1000, (0, 0), 0b0010, 0b0100);
    // Rather one that is ill than one that has failed already.
    check_eligible(0b1000, (0, 0), 0b0110, 0b1000);
    // One that lists the model, rather than one that has not been asked, rather than one that does not list it.
    check_eligible(0, (0b0100, 0), 0, 0b0100);
    check_eligible(0, (0, 0b0100), 0, 0b1010);
    check_eligible(0, (0b0100, 0b0010), 0, 0b0100);
    check_eligible(0, (0, 0b1110), 0, 0b1110);
    // An ill one that has it rather than a well one that has not.
    check_eligible(0b0100, (0b0100, 0b1010), 0, 0b0100);
    check_eligible(0b0100, (0b0100, 0b1000), 0, 0b0010);
    check_eligible(0, (0b0100, 0b1010), 0b0100, 0b1010);
}

#[test]
fn a_model_that_nobody_may_serve_is_not_found_and_no_backend_is_unreachable() {
    play(async || {
        let mut yard = Yard::new(&[1]);
        yard.specs[0].models = vec!["other".to_owned()];
        assert!(
            matches!(refused(&yard.process(), yard.want("m", 1)), Rejection::ModelNotFound { model } if model == "m")
        );
        drop(at_once(&yard.process(), yard.want("other", 1)));
        yard.specs.clear();
        let fleet = yard.process();
        assert!(matches!(refused(&fleet, yard.want("m", 1)), Rejection::BackendUnreachable { .. }));
        assert!(matches!(fleet.any(0), Err(Rejection::BackendUnreachable { .. })));
        yard.assert_idle();
    });
}

#[test]
fn a_free_slot_is_had_at_once_and_given_back_once() {
    play(async || {
        let yard = Yard::new(&[2, 2]);
        let (one, other) = (yard.process(), yard.process());
        (0..2).for_each(|place| yard.load(place, "m"));
        let leases: Vec<Lease> =
            [&one, &other, &one, &other].into_iter().map(|fleet| at_once(fleet, yard.want("m", 1))).collect();
        assert_eq!((yard.in_flight(0), yard.in_flight(1)), (2, 2));
        assert!(leases.iter().all(|lease| lease.why == IN_MEMORY && lease.queued == Queued::default()));
        // The second went where nobody was, whoever took the first.
        assert_ne!(index(&leases[0]), index(&leases[1]));
        for (ended, lease) in leases.into_iter().enumerate() {
            drop(lease);
            assert_eq!(yard.in_flight(0) + yard.in_flight(1), 3 - ended);
        }
        yard.assert_idle();
        assert!(yard.rung.borrow().is_empty(), "nobody waited");
    });
}

#[test]
fn one_backend_is_the_only_one() {
    play(async || {
        let yard = Yard::new(&[1]);
        yard.load(0, "m");
        assert_eq!(at_once(&yard.process(), yard.want("m", 1)).why, Why { fit: Fit::Loaded, way: Way::Only });
    });
}

#[test]
fn a_loaded_model_draws_requests_until_its_backend_is_full() {
    play(async || {
        let yard = Yard::new(&[2, 9]);
        yard.load(0, "m");
        let fleet = yard.process();
        let leases: Vec<Lease> = (0..2).map(|_| at_once(&fleet, yard.want("m", 1))).collect();
        assert!(leases.iter().all(|lease| index(lease) == 0));
        // A copy pays only once waiting costs as much as loading.
        let waits = Request::waits(&fleet, yard.want("m", 1));
        drop(waits);
        yard.cell(0).served(5_000_000);
        yard.cell(1).served(5_000_000);
        let copy = at_once(&fleet, yard.want("m", 1));
        assert_eq!((index(&copy), copy.why.fit), (1, Fit::Copy));
    });
}

#[test]
fn the_same_conversation_meets_the_same_backend_from_every_process() {
    play(async || {
        let yard = Yard::new(&[1; 8]);
        (0..8).for_each(|place| yard.load(place, "m"));
        let processes = [yard.process(), yard.process(), yard.process()];
        let mut met = std::collections::HashSet::new();
        for conversation in 1..=40 {
            let ask = |fleet| index(&at_once(fleet, Want { conversation, ..yard.want("m", 1) }));
            let [first, second, third] = processes.each_ref().map(ask);
            assert_eq!((first, first), (second, third), "conversation {conversation}");
            met.insert(first);
        }
        assert_eq!(met.len(), 8, "{met:?}");
    });
}

#[test]
fn of_many_backends_the_load_stays_level() {
    play(async || {
        let yard = Yard::new(&[64; 40]);
        (0..40).for_each(|place| yard.load(place, "m"));
        let processes = [yard.process(), yard.process()];
        let leases: Vec<Lease> = (0..400).map(|turn| at_once(&processes[turn % 2], yard.want("m", 1))).collect();
        let loads: Vec<usize> = (0..40).map(|place| yard.in_flight(place)).collect();
        assert!(loads.iter().all(|load| (6..=13).contains(load)), "ten each: {loads:?}");
        drop(leases);
        yard.assert_idle();
    });
}

#[test]
fn a_cold_model_is_loaded_by_one_backend_whoever_asks() {
    play(async || {
        let yard = Yard::new(&[2, 2, 2]);
        let (one, other) = (yard.process(), yard.process());
        let first = at_once(&one, yard.want("m", 1));
        assert_eq!(first.why.fit, Fit::Cold);
        let second = at_once(&other, yard.want("m", 1));
        assert_eq!((second.why.fit, index(&second)), (Fit::Loading, index(&first)));
        // The loader is full: the third waits for it, though two others are idle. Another model does not.
        let third = Request::waits(&other, yard.want("m", 1));
        let another = at_once(&other, yard.want("another", 1));
        assert_ne!(index(&another), index(&first));
        // Its options make it another instance.
        let wide = Want { instance: yard.cells.instance("m", "num_ctx=1"), ..yard.want("m", 1) };
        let wide = at_once(&one, wide);
        assert_eq!(wide.why.fit, Fit::Cold);
        yard.load(index(&first), "m");
        let loader = index(&first);
        drop(first);
        one.look();
        other.look();
        let third = third.served();
        assert_eq!((third.why.fit, index(&third)), (Fit::Loaded, loader));
        drop((second, third, another, wide));
        yard.assert_idle();
    });
}

#[test]
fn a_load_goes_on_while_one_request_for_it_is_in_service() {
    play(async || {
        let yard = Yard::new(&[2, 2]);
        let fleet = yard.process();
        let first = at_once(&fleet, yard.want("m", 1));
        let loader = index(&first);
        let second = at_once(&fleet, yard.want("m", 1));
        assert_eq!(second.why.fit, Fit::Loading);
        // The client that caused the load leaves. Ollama loads on, for the other one.
        drop(first);
        let third = at_once(&yard.process(), yard.want("m", 1));
        assert_eq!((third.why.fit, index(&third)), (Fit::Loading, loader));
        drop((second, third));
        let anew = at_once(&fleet, yard.want("m", 1));
        assert_eq!(anew.why.fit, Fit::Cold, "nobody is left who loads it");
    });
}

/// What is loaded is no load in progress, whoever still uses it: it would take up room once it has left.
#[test]
fn a_load_is_over_when_the_model_is_there() {
    play(async || {
        let yard = Yard::new(&[2, 2]);
        let fleet = yard.process();
        let first = at_once(&fleet, yard.want("m", 1));
        yard.load(index(&first), "m");
        let second = at_once(&fleet, yard.want("m", 1));
        assert_eq!(second.why.fit, Fit::Loaded);
        drop(first);
        assert_eq!(loads::of(yard.cells.loads(), yard.cells.instance("m", "").tag(), now_s()), None);
    });
}

/// Requests for a model in memory take a shorter way, to the same choice.
#[test]
fn the_short_way_chooses_as_the_long_one_does() {
    play(async || {
        for count in [1, 3, 8] {
            let yard = Yard::new(&(0..count).map(|place| 1 + place % 3).collect::<Vec<_>>());
            (0..count).filter(|place| place % 4 != 3).for_each(|place| yard.load(place, "m"));
            let fleet = yard.process();
            let mut leases: Vec<Lease> = Vec::new();
            for conversation in 1..=40 {
                let want = Want { conversation, ..yard.want("m", 1) };
                let (members, mask) = (fleet.members(), (1 << count) - 1);
                let chosen = |lease: Option<Lease>| lease.map(|lease| (index(&lease), lease.why));
                let long = chosen(fleet.at_once(&members, &want, mask));
                assert_eq!(chosen(fleet.of_holders(&members, &want, mask)), long, "{count}, {conversation}");
                leases.extend(fleet.of_holders(&members, &want, mask));
                if conversation % 3 == 0 {
                    leases.swap_remove(0);
                }
            }
        }
    });
}

#[test]
fn a_load_whose_process_died_is_begun_anew() {
    play(async || {
        let yard = Yard::new(&[1, 1]);
        let fleet = yard.process();
        let tag = yard.cells.instance("m", "").tag();
        let longer_ago = now_s() - 2;
        loads::begin(yard.cells.loads(), (tag, 0), None, longer_ago).unwrap();
        let dead = Holder::new(200, 200);
        slots::take(yard.cell(0).slots(1), 0, dead, tag).unwrap();
        assert!(
            Request::new(&fleet, yard.want("m", 1)).poll().is_none(),
            "as long as it is in a slot, it is waited for"
        );
        yard.cells.settle(200, 200);
        let lease = at_once(&fleet, yard.want("m", 1));
        assert_eq!(lease.why.fit, Fit::Cold);
        assert_eq!(loads::of(yard.cells.loads(), tag, now_s()).unwrap().backend, index(&lease));
    });
}

/// What another process does between a look at the loads and the note of one's own, is seen by the note.
#[test]
fn a_load_that_has_begun_is_not_begun_over() {
    let yard = Yard::new(&[1, 1]);
    let fleet = yard.process();
    let instance = yard.cells.instance("m", "");
    assert_eq!(fleet.begin_load(instance, 0, 0b11), None);
    assert_eq!(fleet.begin_load(instance, 1, 0b11), Some(0), "the other one was quicker");
    assert_eq!(fleet.begin_load(instance, 0, 0b11), Some(0));
    // One that may not serve this request is no loader for it.
    assert_eq!(fleet.begin_load(instance, 1, 0b10), None);
}

#[test]
fn loads_go_where_there_is_room() {
    play(async || {
        let yard = Yard::new(&[4, 4, 4]);
        yard.load(0, "x");
        yard.load(0, "y");
        yard.load(1, "x");
        yard.fill(2, "z");
        let fleet = yard.process();
        let busy: Vec<Lease> = (0..3).map(|_| at_once(&fleet, Want { tried: 0b101, ..yard.want("x", 1) })).collect();
        assert!(busy.iter().all(|lease| index(lease) == 1));
        let lease = at_once(&fleet, yard.want("m", 1));
        assert_eq!(
            (index(&lease), lease.why.fit),
            (1, Fit::Cold),
            "fewest in memory counts more than fewest in flight"
        );
        let swap = at_once(&fleet, Want { tried: 0b011, ..yard.want("n", 1) });
        assert_eq!((index(&swap), swap.why.fit), (2, Fit::Swap));
    });
}

/// A backend with room for two, one model in memory and another on its way there.
#[test]
fn what_is_being_loaded_takes_its_room_already() {
    play(async || {
        let yard = Yard::new(&[4]);
        let names = ["x", "y"].map(|model| (yard.cells.instance(model, "").name, model));
        yard.cell(0).tell_in_memory(&names, clock::monotonic_ms());
        yard.cell(0).tell_evicted();
        yard.cell(0).forget(names[1].0);
        let fleet = yard.process();
        let coming = at_once(&fleet, yard.want("m", 1));
        assert_eq!(coming.why.fit, Fit::Cold);
        let next = Request::waits(&fleet, yard.want("n", 1));
        drop(next);
        // Once it is there, it is not counted twice.
        yard.cell(0).forget(names[0].0);
        yard.load(0, "m");
        assert_eq!(at_once(&fleet, yard.want("n", 1)).why.fit, Fit::Cold);
    });
}

#[test]
fn a_slot_behind_an_open_breaker_is_given_back() {
    let yard = Yard::new(&[1, 1]);
    let fleet = yard.process();
    yard.open(0);
    let instance = yard.cells.instance("m", "");
    assert!(fleet.take(&fleet.members()[0], instance, IN_MEMORY, 0b11).is_none());
    yard.assert_idle();
    assert!(fleet.take(&fleet.members()[0], instance, IN_MEMORY, 0b01).is_some(), "nobody else may serve it");
}

#[test]
fn a_trial_whose_slot_goes_another_way_is_taken_back() {
    play(async || {
        let yard = Yard::new(&[1, 1]);
        (0..2).for_each(|place| yard.load(place, "m"));
        let fleet = yard.process();
        let _busy = [at_once(&fleet, yard.want("m", 1)), at_once(&fleet, yard.want("m", 1))];
        let _waits = Request::waits(&fleet, yard.want("m", 1));
        yard.make_due(0);
        let member = &fleet.members()[0];
        let trial = Cell::new(false);
        let picked = fleet.pick(member, 0, &trial);
        assert!(picked.is_some() && trial.get());
        assert_eq!(fleet.pick(member, 0, &trial), picked, "the same slot is tried once, however often it is offered");
        breaker::leave_trial(yard.cell(0).breaker(), clock::monotonic_ms());
        // Somebody has settled the slot meanwhile.
        let settled = Slot::Held { by: Holder::new(9, 9), tag: 0 }.to_word();
        assert_eq!(fleet.give(member, 0, settled), Passed::Free);
        assert!(matches!(yard.cell(0).breaker_state(clock::monotonic_ms()), breaker::State::Due { .. }));
    });
}

#[test]
fn a_breaker_lets_one_request_try() {
    play(async || {
        let yard = Yard::new(&[4, 4]);
        (0..2).for_each(|place| yard.load(place, "m"));
        yard.open(0);
        let (one, other) = (yard.process(), yard.process());
        let busy: Vec<Lease> = (0..3).map(|_| at_once(&one, yard.want("m", 1))).collect();
        assert!(busy.iter().all(|lease| index(lease) == 1), "the first one is left alone");
        breaker::succeeded(yard.cell(0).breaker());
        yard.make_due(0);
        let trial = at_once(&other, yard.want("m", 1));
        assert_eq!((index(&trial), trial.why.way), (0, Way::Trial));
        // While it tries, nobody else does, though the other backend fills up: they wait.
        let next = at_once(&one, yard.want("m", 1));
        assert_eq!(index(&next), 1);
        let waits = [Request::waits(&one, yard.want("m", 1)), Request::waits(&other, yard.want("m", 1))];
        assert_eq!(yard.in_flight(0), 1);
        breaker::succeeded(yard.cell(0).breaker());
        one.look();
        other.attend();
        for waiter in waits {
            assert_eq!(index(&waiter.served()), 0);
        }
    });
}

#[test]
fn a_trial_that_finds_no_slot_was_none() {
    play(async || {
        let yard = Yard::new(&[1, 1]);
        (0..2).for_each(|place| yard.load(place, "m"));
        let fleet = yard.process();
        // Both are full, the first with a request that hangs.
        let hangs = at_once(&fleet, Want { tried: 0b10, ..yard.want("m", 1) });
        let busy = at_once(&fleet, yard.want("m", 1));
        assert_eq!((index(&hangs), index(&busy)), (0, 1));
        yard.make_due(0);
        let waits = Request::waits(&fleet, yard.want("m", 1));
        drop(hangs);
        let trial = waits.served();
        assert_eq!((index(&trial), yard.cell(0).breaker_state(clock::monotonic_ms())), (0, breaker::State::Trial));
    });
}

#[test]
fn a_trial_that_is_not_made_is_left_to_another() {
    play(async || {
        let yard = Yard::new(&[2, 2]);
        (0..2).for_each(|place| yard.load(place, "m"));
        yard.make_due(0);
        let fleet = yard.process();
        let trial = at_once(&fleet, Want { tried: 0b10, ..yard.want("m", 1) });
        drop(trial);
        let _busy = [at_once(&fleet, yard.want("m", 1)), at_once(&fleet, yard.want("m", 1))];
        assert_eq!((yard.in_flight(0), yard.in_flight(1)), (1, 1), "its client left before anything was sent");
    });
}

#[test]
fn where_all_breakers_are_open_none_counts() {
    play(async || {
        let yard = Yard::new(&[1, 1]);
        (0..2).for_each(|place| yard.load(place, "m"));
        (0..2).for_each(|place| yard.open(place));
        let fleet = yard.process();
        let leases = [at_once(&fleet, yard.want("m", 1)), at_once(&fleet, yard.want("m", 1))];
        assert_ne!(index(&leases[0]), index(&leases[1]));
    });
}

/// A model in the memory of a backend that is left alone is as good as nowhere.
#[test]
fn a_model_behind_an_open_breaker_is_loaded_elsewhere() {
    play(async || {
        let yard = Yard::new(&[1, 1]);
        yard.load(0, "m");
        yard.fill(1, "x");
        yard.open(0);
        let fleet = yard.process();
        let lease = at_once(&fleet, yard.want("m", 1));
        assert_eq!((index(&lease), lease.why.fit), (1, Fit::Swap));
        let waits = Request::waits(&fleet, yard.want("m", 1));
        drop(lease);
        assert_eq!(index(&waits.served()), 1);
    });
}

#[test]
fn questions_that_need_no_slot_go_to_healthy_ones_by_turns() {
    let yard = Yard::new(&[1, 1, 1]);
    yard.cell(1).tell_probe(Probe::Silent);
    let fleet = yard.process();
    let asked = |fleet: &Fleet| -> [usize; 3] {
        let mut counts = [0; 3];
        (0..300).for_each(|_| counts[fleet.any(0).unwrap().cell.index()] += 1);
        counts
    };
    assert!(matches!(asked(&fleet), [100..=200, 0, 100..=200]), "{:?}", asked(&fleet));
    (0..3).for_each(|place| yard.cell(place).tell_probe(Probe::Silent));
    assert!(asked(&fleet).iter().all(|count| *count > 50), "where all are ill, all are asked");
    yard.assert_idle();
}

#[test]
fn members_follow_the_names_and_keep_their_connections() {
    let mut yard = Yard::new(&[1, 1]);
    yard.specs[1].reach = Reach::Found { host: "ollama.internal".to_owned(), prefix: String::new() };
    let parent = yard.cells.hash(yard.specs[1].url.as_bytes());
    let fleet = yard.process();
    assert_eq!(fleet.members().len(), 1, "none was found yet");
    let find = |text: &str| {
        let address = text.parse().unwrap();
        yard.cells.claim_found(yard.cells.hash(text.as_bytes()), parent, address, &[]).unwrap()
    };
    let [first, second] = ["10.0.0.1:80", "10.0.0.2:80"].map(find);
    assert_eq!(fleet.members().len(), 1, "nobody has said so");
    yard.cells.tell_change();
    let before = fleet.members();
    assert_eq!(before.iter().map(|member| member.cell.index()).collect::<Vec<_>>(), [0, first.index(), second.index()]);
    assert_eq!(before[1].backend.to_string(), "http://ollama.internal:80 (10.0.0.1:80)");
    assert!(before.iter().all(|member| (member.slots(), member.weight) == (1, 1)));
    assert!(Rc::ptr_eq(&fleet.members(), &before), "nothing has changed");
    first.tell_address(parent, None);
    yard.cells.tell_change();
    let after = fleet.members();
    assert_eq!(after.len(), 2);
    assert!(Rc::ptr_eq(&after[0], &before[0]), "what the configuration names is as before");
    assert!(Rc::ptr_eq(&after[1], &before[2]), "another address has gone, and it has lost its connections");
    // Processes that come later call it by the same name.
    assert_eq!(after[1].name(), yard.process().members()[1].name());
    find("10.0.0.1:80");
    yard.cells.tell_change();
    assert_eq!(fleet.members().len(), 3);
    // A cell with another address is another backend.
    second.tell_address(parent, Some("10.0.0.9:80".parse().unwrap()));
    yard.cells.tell_change();
    assert_eq!(fleet.members()[2].backend.to_string(), "http://ollama.internal:80 (10.0.0.9:80)");
}

#[test]
fn a_draining_process_takes_no_cell_from_its_successors() {
    let yard = Yard::new(&[1, 1]);
    let old = yard.process();
    // The second backend is wanted no more, and its cell has a new owner.
    let kept = yard.cell(0).key();
    let taken = (0..62_u64).map(|key| yard.cells.claim(1 + key, &[kept]).unwrap().index()).collect::<Vec<_>>();
    assert_eq!(taken.len(), 62);
    let wanted: Vec<u64> = (1..=62).chain([kept, 99]).collect();
    assert_eq!(yard.cells.claim(99, &wanted).unwrap().index(), 1);
    yard.cells.tell_change();
    let members = old.members();
    assert_eq!(members.iter().map(|member| member.cell.index()).collect::<Vec<_>>(), [0]);
    let keys: Vec<u64> = yard.cells.cells().map(gate_zone::fleet::Cell::key).collect();
    assert!(wanted.iter().all(|key| keys.contains(key)), "a backend of the successor's has lost its cell");
}

#[test]
fn a_slot_beyond_the_number_is_freed_and_not_given() {
    play(async || {
        let mut yard = Yard::new(&[2]);
        yard.load(0, "m");
        let old = yard.process();
        let before = slots::take(yard.cell(0).slots(1), 0, old.holder, 0).unwrap();
        let second = at_once(&old, yard.want("m", 1));
        yard.specs[0].slots = 1;
        let new = yard.process();
        let mut waits = Request::waits(&new, yard.want("m", 1));
        // The old one follows the new number with what it has, and with what it would take.
        drop(second);
        new.attend();
        assert!(waits.poll().is_none());
        assert_eq!((yard.in_flight(0), yard.rung.borrow().len()), (1, 0));
        let also = Request::waits(&old, yard.want("m", 1));
        old.give(&old.members()[0], before, Slot::Held { by: old.holder, tag: 0 }.to_word());
        new.attend();
        drop(waits.served());
        old.attend();
        drop(also.served());
        yard.assert_idle();
    });
}

/// So many wait at `slots` slots in all, with this mean time of service.
#[track_caller]
fn check_retry(slots: &[usize], service_ms: &[u64], waiting: usize, expected_s: u64) {
    let (slots, service_ms) = (slots.to_vec(), service_ms.to_vec());
    play(move || async move {
        let yard = Yard::new(&slots);
        for (place, ms) in service_ms.iter().enumerate().filter(|(_, ms)| **ms > 0) {
            yard.cell(place).served(ms * 1_000);
        }
        let fleet = yard.process();
        for (place, slots) in slots.iter().enumerate() {
            let take = |_| slots::take(yard.cell(place).slots(*slots), 0, Holder::new(9, 9), 0);
            assert_eq!((0..*slots).filter_map(take).count(), *slots);
        }
        let waits: Vec<Request> = (0..waiting).map(|_| Request::waits(&fleet, yard.want("m", 1))).collect();
        let retry = fleet.retry((1 << slots.len()) - 1);
        assert_eq!(retry, Duration::from_secs(expected_s), "{waiting} wait, {slots:?} slots, {service_ms:?} ms each");
        drop(waits);
    });
}

#[test]
fn when_to_come_again_follows_from_what_is_measured() {
    check_retry(&[1], &[0], 9, 1);
    check_retry(&[1], &[200], 0, 1);
    check_retry(&[1], &[2_000], 0, 2);
    check_retry(&[1], &[2_000], 9, 20);
    check_retry(&[4], &[2_000], 9, 5);
    check_retry(&[4, 4], &[2_000, 4_000], 15, 6);
    // One that has not served yet is taken to be as quick as the others.
    check_retry(&[4, 4], &[2_000, 0], 15, 4);
    check_retry(&[1], &[60_000], 30, 120);
    check_retry(&[1], &[2_100], 0, 3);
}

#[test]
fn there_is_another_backend_until_all_that_are_allowed_have_failed() {
    let mut yard = Yard::new(&[1, 1, 1]);
    yard.specs[2].models = vec!["other".to_owned()];
    let fleet = yard.process();
    let has = |tried| fleet.has_another(&Want { tried, ..yard.want("m", 1) });
    assert_eq!([0b000, 0b001, 0b010, 0b011, 0b111].map(has), [true, true, true, false, false]);
}

#[test]
fn nobody_is_granted_twice_what_one_slot_holds() {
    let yard = Yard::new(&[3]);
    let fleet = yard.process();
    let member = Rc::clone(&fleet.members()[0]);
    let held = Slot::Held { by: fleet.holder, tag: 5 }.to_word();
    let slot = slots::take(member.cell.slots(3), 1, fleet.holder, 5).unwrap();
    fleet.give(&member, slot, held);
    // A second time it is somebody else's business by now.
    let other = slots::take(member.cell.slots(3), slot, Holder::new(9, 9), 5).unwrap();
    assert_eq!(other, slot);
    fleet.give(&member, slot, held);
    assert_eq!(yard.in_flight(0), 1);
}
