use std::num::NonZeroUsize;

use super::*;
use crate::OwnRow;
use crate::fleet::queue::{Arrival, Bounds, COST, Passed};
use crate::scoreboard::{Place, Role};

fn fleet() -> Fleet {
    Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap().1.fleet()
}

#[test]
fn cells_are_found_again_and_given_anew_when_nobody_wants_them() {
    let fleet = fleet();
    let keys: Vec<u64> = (1..=BACKENDS as u64).collect();
    let cells: Vec<_> = keys.iter().map(|key| fleet.claim(*key, &keys).unwrap().index()).collect();
    assert_eq!(cells, (0..BACKENDS).collect::<Vec<_>>());
    assert_eq!(fleet.claim(5, &keys).unwrap().index(), 4);
    assert_eq!(fleet.claim(99, &keys).unwrap_err(), NoCell);
    let old = fleet.cell(4);
    old.tell_probe(Probe::Healthy);
    slots::take(old.slots(1), 0, Holder::new(1, 7), 0).unwrap();
    let others: Vec<u64> = keys.iter().copied().filter(|key| *key != 5).collect();
    assert_eq!(fleet.claim(99, &others).unwrap_err(), NoCell, "it has a request in service");
    fleet.settle(1, 7);
    let new = fleet.claim(99, &others).unwrap();
    assert_eq!((new.index(), new.key(), new.probe()), (4, 99, Probe::Unknown));
}

#[test]
fn found_addresses_come_and_go() {
    let fleet = fleet();
    for address in ["10.0.0.7:11434", "[fd00::7]:80"] {
        let address: SocketAddr = address.parse().unwrap();
        let cell = fleet.claim_found(fleet.hash(address.to_string().as_bytes()), 3, address, &[3]).unwrap();
        assert_eq!(
            fleet.found(3).map(|(cell, address)| (cell.index(), address)).collect::<Vec<_>>(),
            [(cell.index(), address)]
        );
        cell.tell_address(3, None);
        assert_eq!(fleet.found(3).count(), 0);
    }
}

#[test]
fn names_are_shown_where_they_are_known() {
    let fleet = fleet();
    let cell = fleet.claim(1, &[]).unwrap();
    let known = |name: &'static str| (fleet.instance(name, "").name, name);
    let long = "n".repeat(80);
    cell.tell_in_memory(&[known("llama3.2:1b"), (7, &long)], 10);
    cell.note(fleet.instance("qwen3:8b", "num_ctx=1"), 10);
    assert_eq!(cell.names_in_memory(fleet), ["llama3.2:1b".to_owned(), "n".repeat(64)]);
    assert_eq!((cell.in_memory().count(), cell.room()), (3, 2));
    assert!(cell.holds(fleet.instance("qwen3:8b", "num_ctx=1")) && !cell.holds(fleet.instance("qwen3:8b", "")));
}

#[test]
fn means_follow_their_samples() {
    let cell = fleet().claim(1, &[]).unwrap();
    cell.served(800);
    cell.served(1600);
    assert_eq!((cell.service_us(), cell.served_count()), (900, 2));
    cell.loaded(0);
    assert_eq!(cell.load_ms(), 1, "0 is for nothing known");
}

#[test]
fn what_the_dead_held_is_freed() {
    let (_memory, zone) = Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap();
    let (fleet, board) = (zone.fleet(), zone.scoreboard());
    let cell = fleet.claim(1, &[]).unwrap();
    let row = board.set_aside(7).unwrap();
    let _own = OwnRow::claim(board.row(row), Place { role: Role::Worker, slot: 0 }, 1, 0);
    let (alive, dead) = (Holder::new(row, process::own_pid()), Holder::new(9, 77));
    for holder in [alive, dead, dead] {
        slots::take(cell.slots(4), 0, holder, 5).unwrap();
    }
    let bounds = Bounds { all: 8, per_client: 8 };
    let arrival = |holder| Arrival { holder, client: 1, want: 1, backends: 1, cost: COST, now_ms: 1 };
    let queue = fleet.queue();
    let first = queue.enter(&arrival(dead), bounds).unwrap();
    let second = queue.enter(&arrival(alive), bounds).unwrap();
    let slot = &cell.slots(4)[0];
    let held = Slot::Held { by: alive, tag: 5 }.to_word();
    let passed = queue.pass_on(slot, (held, 0, 0), || queue.waiters().find(|waiter| waiter.ticket == first));
    assert_eq!(passed, Passed::To(dead));
    assert_eq!(fleet.settle(9, 77), (3, 1), "two slots held, one offered, one place");
    assert_eq!((cell.in_flight(), queue.waiters().count()), (0, 1));
    assert_eq!(queue.waiters().next().unwrap().ticket, second);
    assert_eq!(fleet.settle_strays(board), (0, 0));
    board.settle(row, 7, process::own_pid());
    assert_eq!(fleet.settle_strays(board), (0, 1));
    assert!(queue.is_empty());
}

#[test]
fn what_a_master_is_about_to_finish_is_left_to_it() {
    let (_memory, zone) = Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap();
    let (fleet, board) = (zone.fleet(), zone.scoreboard());
    let state = &fleet.range(layout::ENTRIES, layout::entry::WORDS)[layout::entry::STATE];
    // Pid 1 is always there; no process has the highest pid of all for long.
    let gone = (1..(1 << 22)).rev().find(|pid| process::is_gone(*pid, 0)).unwrap();
    for (master, freed) in [(1, 0), (gone, 1), (process::own_pid(), 1)] {
        let claimed = 1 | Holder::new(layout::SETTLED_ROW, master).to_word() << 8;
        state.store(claimed, SEQ);
        assert_eq!(fleet.settle_strays(board), (0, freed), "{master}");
        assert_eq!(state.swap(0, SEQ), if freed == 0 { claimed } else { 0 });
    }
}

#[test]
fn an_offer_without_a_waiter_is_freed_though_its_giver_lives() {
    let (_memory, zone) = Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap();
    let (fleet, board) = (zone.fleet(), zone.scoreboard());
    let cell = fleet.claim(1, &[]).unwrap();
    let row = board.set_aside(7).unwrap();
    let _own = OwnRow::claim(board.row(row), Place { role: Role::Worker, slot: 0 }, 1, 0);
    let me = Holder::new(row, process::own_pid());
    let bounds = Bounds { all: 8, per_client: 8 };
    let arrival = Arrival { holder: me, client: 1, want: 1, backends: 1, cost: COST, now_ms: 1 };
    let (queue, slot) = (fleet.queue(), &cell.slots(1)[0]);
    let ticket = queue.enter(&arrival, bounds).unwrap();
    slots::take(cell.slots(1), 0, me, 5).unwrap();
    queue.pass_on(slot, (Word::load(slot), 0, 0), || queue.waiters().next());
    assert_eq!(fleet.settle_strays(board), (0, 0), "it is promised");
    assert!(queue.accept(ticket, slot, me, 5));
    assert_eq!(fleet.settle_strays(board), (0, 0), "it is held");
    slot.store(Slot::Offered { by: me, entry: 0, ticket: 0 }.to_word(), SEQ);
    assert_eq!(fleet.settle_strays(board), (1, 0));
    assert_eq!(cell.in_flight(), 0);
}

#[test]
fn free_cells_are_given_first_and_addresses_that_are_gone_next() {
    let fleet = fleet();
    let address = |last: usize| SocketAddr::from(([10, 0, 0, last as u8], 80));
    for index in 0..BACKENDS {
        let cell = fleet.claim_found(index as u64 + 100, 3, address(index), &[]).unwrap();
        assert_eq!(cell.index(), index, "unwanted as the others are, a free one is better");
    }
    assert_eq!(fleet.claim(7, &[3]).unwrap_err(), NoCell);
    fleet.cell(9).tell_address(3, None);
    assert_eq!(fleet.claim_found(109, 3, address(9), &[3]).unwrap().index(), 9, "it came back");
    fleet.cell(9).tell_address(3, None);
    assert_eq!(fleet.claim(7, &[3]).unwrap().index(), 9);
    assert_eq!(fleet.found(3).count(), BACKENDS - 1);
}

#[test]
fn a_cell_in_the_hands_of_the_dead_is_free_and_of_the_living_is_not() {
    let fleet = fleet();
    let gone = (1..(1 << 22)).rev().find(|pid| process::is_gone(*pid, 0)).unwrap();
    fleet.cell(0).word(backend::KEY).store(EMPTYING | 1, SEQ);
    fleet.cell(1).word(backend::KEY).store(EMPTYING | u64::from(gone), SEQ);
    fleet.cell(1).tell_probe(Probe::Healthy);
    assert_eq!((fleet.cells().count(), fleet.cell(0).key()), (0, 0));
    let cell = fleet.claim(5, &[]).unwrap();
    assert_eq!((cell.index(), cell.probe()), (1, Probe::Unknown));
}

#[test]
fn who_takes_a_slot_of_a_cell_that_was_given_anew_has_none() {
    let cell = fleet().claim(5, &[]).unwrap();
    let by = Holder::new(1, 7);
    assert_eq!(cell.take(5, (2, 1), by, 0), Some(1));
    assert_eq!((cell.take(6, (2, 1), by, 0), cell.in_flight()), (None, 1));
    assert_eq!((cell.take(5, (2, 1), by, 0), cell.take(5, (2, 1), by, 0)), (Some(0), None));
}

/// Many claim at once; cells are few enough to be taken from each other.
#[test]
fn those_that_claim_at_once_get_one_cell_for_one_key() {
    let rounds = 100;
    let (fleet, start) = (fleet(), std::sync::Barrier::new(4));
    (0..BACKENDS as u64 - 3).for_each(|key| assert!(fleet.claim(1000 + key, &[]).is_ok()));
    // Faults are counted, for a thread that panics would leave the others at the barrier.
    let claims = || {
        let mut faults = 0;
        for keys in (1..=rounds).map(|round| [2 * round, 2 * round + 1]) {
            start.wait();
            faults += keys.into_iter().filter(|key| fleet.claim(*key, &keys).is_err()).count();
            start.wait();
            let cells = |key| fleet.cells().filter(|cell| cell.key() == key).count();
            faults += keys.into_iter().filter(|key| cells(*key) != 1).count();
            start.wait();
        }
        faults
    };
    let faults: usize = std::thread::scope(|scope| {
        let all = [(); 4].map(|()| scope.spawn(claims));
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert_eq!(faults, 0);
}
