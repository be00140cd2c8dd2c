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
    let (alive, dead) = (Holder::new(row, gate_sys::process::own_pid()), Holder::new(9, 77));
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
    board.settle(row, 7, gate_sys::process::own_pid());
    assert_eq!(fleet.settle_strays(board), (0, 1));
    assert!(queue.is_empty());
}
