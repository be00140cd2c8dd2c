use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::{OwnRow, Place, Role};

const ME: Holder = Holder::new(1, 7);

fn zone() -> Zone {
    Zone::create(NonZeroUsize::new(64).unwrap(), [1, 2]).unwrap().1
}

/// The hash of the nth key whose home is this group.
fn key(home: usize, n: u64) -> u64 {
    (home as u64) << 56 | n
}

fn take_all(holds: Holds, hash: u64, max: usize) -> Vec<Held> {
    let before = holds.count(hash);
    let taken: Vec<_> = std::iter::from_fn(|| holds.take(hash, max, ME)).take(holds::MAX + 1).collect();
    assert_eq!(holds.count(hash), before + taken.len());
    taken
}

#[test]
fn exactly_as_many_are_let_in_as_it_may_have() {
    for (max, let_in) in
        [(0, 0), (1, 1), (2, 2), (32, 32), (33, 33), (1000, 1000), (1024, 1024), (1025, 1024), (usize::MAX, 1024)]
    {
        let holds = zone().holds();
        // The last home, so that words go around the end.
        let mut taken = take_all(holds, key(255, 5), max);
        assert_eq!(taken.len(), let_in, "{max}");
        assert_eq!(holds.in_service(), let_in);
        assert!(holds.take(key(255, 6), 1, ME).is_some(), "another key's");
        if let Some(one) = taken.pop() {
            holds.release(one);
            assert_eq!(take_all(holds, key(255, 5), max).len(), 1, "what is given back is there again");
        }
    }
}

#[test]
fn keys_of_one_home_find_room_elsewhere_and_still_count_exactly() {
    let holds = zone().holds();
    for n in 0..40 {
        assert_eq!(take_all(holds, key(9, n), 32).len(), 32, "{n}");
    }
    for n in 0..40 {
        assert!(holds.take(key(9, n), 32, ME).is_none() && holds.count(key(9, n)) == 32, "{n}");
    }
    assert_eq!(holds.in_service(), 40 * 32);
    assert_eq!(take_all(holds, key(10, 99), 32).len(), 32, "a home that is full of others'");
}

#[test]
fn a_key_with_many_leaves_room_in_every_group() {
    let holds = zone().holds();
    take_all(holds, key(0, 1), 1024);
    let (_, words) = holds.words.split_at(holds::TABLE);
    for (group, words) in words.chunks(holds::GROUP).take(32).enumerate() {
        let free = words.iter().filter(|word| word.load(SeqCst) == FREE).count();
        assert!((16..=48).contains(&free), "{free} are free in group {group}");
    }
}

#[test]
fn what_it_may_have_can_change_while_some_are_in_service() {
    let holds = zone().holds();
    let mut taken = take_all(holds, key(3, 1), 500);
    assert!(holds.take(key(3, 1), 4, ME).is_none(), "those of the larger reach are seen");
    while taken.len() >= 4 {
        assert!(holds.take(key(3, 1), 4, ME).is_none());
        holds.release(taken.pop().unwrap());
    }
    assert_eq!(take_all(holds, key(3, 1), 4).len(), 1);
}

#[test]
fn a_full_table_refuses() {
    let holds = zone().holds();
    for home in 0..16 {
        assert_eq!(take_all(holds, key(home * 16, home as u64), 1024).len(), 1024);
    }
    assert_eq!(holds.in_service(), holds::GROUPS * holds::GROUP);
    assert!(holds.take(key(7, 77), 1, ME).is_none());
}

#[test]
fn what_the_dead_had_is_freed_and_nothing_else() {
    let zone = zone();
    let (holds, board) = (zone.holds(), zone.scoreboard());
    let own = gate_sys::process::own_pid();
    let row = board.set_aside(own).unwrap();
    let _claimed = OwnRow::claim(board.row(row), Place { role: Role::Worker, slot: 0 }, 1, 0);
    let dead = Holder::new(row + 1, u32::MAX);
    let mut living = None;
    for home in [0, 100, 255] {
        living = holds.take(key(home, 1), 5, Holder::new(row, own));
        for _ in 0..3 {
            assert!(holds.take(key(home, 1), 5, dead).is_some());
        }
        assert!(holds.take(key(home, 1), 5, Holder::new(row + 1, 8)).is_some());
    }
    assert_eq!(holds.settle(row + 1, dead.pid()), 9);
    assert_eq!((holds.settle(row + 1, dead.pid()), holds.in_service()), (0, 6));
    assert_eq!(holds.settle_strays(board), 3, "of a row that has nobody");
    assert_eq!(holds.count(key(100, 1)), 1, "the row's own remain");
    holds.release(living.unwrap());
    assert_eq!(holds.in_service(), 2);
}

#[test]
fn what_was_settled_and_taken_again_is_not_released_twice() {
    let holds = zone().holds();
    let lost = holds.take(key(0, 1), 1, ME).unwrap();
    holds.settle(ME.row(), ME.pid());
    let again = holds.take(key(0, 1), 1, Holder::new(1, 8)).unwrap();
    assert_eq!(lost.index, again.index);
    holds.release(lost);
    assert_eq!(holds.count(key(0, 1)), 1);
}

/// A word that tells whether it was ever looked at.
#[derive(Default)]
struct Watched {
    word: AtomicU64,
    was_seen: AtomicBool,
}

impl Word for Watched {
    fn load(&self) -> u64 {
        self.was_seen.store(true, SeqCst);
        Word::load(&self.word)
    }
    fn compare_exchange(&self, seen: u64, new: u64) -> Result<u64, u64> {
        self.was_seen.store(true, SeqCst);
        Word::compare_exchange(&self.word, seen, new)
    }
    fn store(&self, new: u64) {
        Word::store(&self.word, new);
    }
    fn fence() {}
}

#[test]
fn groups_out_of_reach_are_not_looked_at() {
    let watched = |count: usize| -> Vec<Watched> { (0..count).map(|_| Watched::default()).collect() };
    let (reach, words) = (watched(2), watched(16 * 4));
    let table = Table { reach: &reach, words: &words };
    assert_eq!((settle(table, |_| true), count(table, 0)), (0, 0));
    for _ in 0..6 {
        assert!(
            take(table, 0xf << 60, 6, ME).is_some(),
            "a reach of four groups in the end, three of them around the end"
        );
    }
    assert!(take(table, 0x5 << 60, 1, ME).is_some());
    assert_eq!(settle(table, |_| true), 7);
    let seen: Vec<usize> = (0..16).filter(|n| words[n * 4..][..4].iter().any(|w| w.was_seen.load(SeqCst))).collect();
    assert_eq!(seen, [0, 1, 2, 5, 15]);
}

/// A word that somebody else always changes first.
#[derive(Default)]
struct Contended(AtomicU64);

impl Word for Contended {
    fn load(&self) -> u64 {
        Word::load(&self.0)
    }
    fn compare_exchange(&self, seen: u64, new: u64) -> Result<u64, u64> {
        // Reaches can be written.
        if new < 1 << 32 { Word::compare_exchange(&self.0, seen, new) } else { Err(seen) }
    }
    fn store(&self, _: u64) {}
    fn fence() {}
}

#[test]
fn losing_every_round_refuses() {
    let words: [Contended; 8] = Default::default();
    let reach: [Contended; 1] = Default::default();
    assert_eq!(take(Table { reach: &reach, words: &words }, 5, 1, ME), None);
}

#[test]
fn a_reach_of_nonsense_is_the_whole_table() {
    for (said, groups) in [(0, 0), (1, 1), (2, 2), (9, 256), (10, 256), (64, 256), (65, 256), (255, 256)] {
        assert_eq!(reach_of(said, 256), groups, "{said}");
    }
    let holds = zone().holds();
    holds.words[0].store(u64::MAX, SeqCst);
    assert_eq!((take_all(holds, key(7, 1), 9).len(), holds.in_service()), (9, 9));
}
