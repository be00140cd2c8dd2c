use std::collections::HashMap;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;

const PLAIN: Facts = Facts {
    index: 3,
    key: 77,
    holds: false,
    in_memory: 1,
    has_room: true,
    in_flight: 0,
    slots: 4,
    weight: 1,
    service_ms: 0,
    load_ms: 0,
};

/// Cases of each property: the same ones in each run.
const CASES: u32 = 2_000;

/// Steele, Lea and Flood's splitmix64: a stream that a seed gives again.
struct Stream(u64);

impl Stream {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn backends(count: usize) -> Vec<Facts> {
    let mut keys = Stream(9);
    (0..count).map(|index| Facts { index, key: keys.draw(), ..PLAIN }).collect()
}

fn all_loaded(facts: &[Facts]) -> Vec<(Facts, Fit)> {
    facts.iter().map(|facts| (*facts, Fit::Loaded)).collect()
}

/// Holds for the same cases in each run.
fn always<S: Strategy>(strategy: &S, property: impl Fn(S::Value) -> Result<(), TestCaseError>)
where
    S::Value: Clone,
{
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, rng).run(strategy, property).unwrap();
}

#[test]
fn every_fit_follows_from_the_facts() {
    let room = |has_room| Facts { has_room, ..PLAIN };
    for (holds, anywhere, with_room, without) in [
        (true, Anywhere::InMemory, Fit::Loaded, Fit::Loaded),
        // It has been loaded since it was noted.
        (true, Anywhere::Loading(3), Fit::Loaded, Fit::Loaded),
        (true, Anywhere::Loading(4), Fit::Loaded, Fit::Loaded),
        (true, Anywhere::Nowhere, Fit::Loaded, Fit::Loaded),
        (false, Anywhere::InMemory, Fit::Copy, Fit::CopySwap),
        (false, Anywhere::Loading(3), Fit::Loading, Fit::Loading),
        (false, Anywhere::Loading(4), Fit::Elsewhere, Fit::Elsewhere),
        (false, Anywhere::Nowhere, Fit::Cold, Fit::Swap),
    ] {
        for (has_room, expected) in [(true, with_room), (false, without)] {
            let fit = Fit::of(&Facts { holds, ..room(has_room) }, anywhere);
            assert_eq!(fit, expected, "holds {holds}, {anywhere:?}, room {has_room}");
        }
    }
}

#[test]
fn fits_have_an_order_a_name_and_a_price() {
    let ordered = [
        (Fit::Loaded, "loaded", false),
        (Fit::Loading, "loading", false),
        (Fit::Cold, "cold", true),
        (Fit::Copy, "copy", true),
        (Fit::Swap, "swap", true),
        (Fit::CopySwap, "copy-swap", true),
        (Fit::Elsewhere, "elsewhere", false),
    ];
    assert!(ordered.is_sorted_by_key(|(fit, ..)| *fit));
    for (fit, name, is_load) in ordered {
        assert_eq!((fit.name(), fit.is_load()), (name, is_load));
    }
}

/// One row: fit, others in service, age, passed since; patience is 1000 ms, service 300 ms, a load 900 ms.
#[track_caller]
fn check_turn(fit: Fit, others: usize, (age_ms, passed_ms): (u64, u64), expected: Turn) {
    let facts = Facts { service_ms: 300, load_ms: 900, ..PLAIN };
    let turn = fit.turn(&facts, others, Waited { age_ms, passed_ms }, 1_000);
    assert_eq!(turn, expected, "{fit:?}, {others} others, {age_ms} ms old, passed for {passed_ms} ms");
}

#[test]
fn every_turn_follows_from_fit_and_waiting() {
    use Turn::{IfNobodyElse, Later, Now};
    for others in [0, 1, 7] {
        for waited in [(0, 0), (500, 1), (5_000, 5_000)] {
            check_turn(Fit::Loaded, others, waited, Now);
            check_turn(Fit::Loading, others, waited, Now);
            check_turn(Fit::Cold, others, waited, Now);
            check_turn(Fit::Elsewhere, others, waited, Later);
        }
        // Waiting may cost what loading would: from age + service >= load on.
        check_turn(Fit::Copy, others, (0, 0), Later);
        check_turn(Fit::Copy, others, (599, 0), Later);
        check_turn(Fit::Copy, others, (600, 0), Now);
        // A swap is passed for no longer than patience, whoever is in service.
        check_turn(Fit::Swap, others, (9_999, 1_000), Now);
        check_turn(Fit::Swap, others, (9_999, 1_001), Now);
    }
    check_turn(Fit::Swap, 0, (0, 0), IfNobodyElse);
    check_turn(Fit::Swap, 0, (9_999, 999), IfNobodyElse);
    check_turn(Fit::Swap, 1, (0, 0), Later);
    // Old, but nobody has passed it: whoever is in service ends, and it is its turn.
    check_turn(Fit::Swap, 1, (99_999, 0), Later);
    check_turn(Fit::Swap, 1, (9_999, 999), Later);
    check_turn(Fit::CopySwap, 0, (999, 0), Later);
    check_turn(Fit::CopySwap, 0, (1_000, 0), IfNobodyElse);
    check_turn(Fit::CopySwap, 1, (99_999, 99_999), Later);
}

#[test]
fn what_is_not_known_of_a_load_is_guessed() {
    let turn = |service_ms, age_ms| Fit::Copy.turn(&Facts { service_ms, ..PLAIN }, 0, age(age_ms), 1_000);
    assert_eq!([turn(0, 1_999), turn(0, 2_000), turn(500, 1_499), turn(500, 1_500)], {
        use Turn::{Later, Now};
        [Later, Now, Later, Now]
    });
    // Without patience a swap still needs to have been passed once.
    assert_eq!(Fit::Swap.turn(&PLAIN, 1, age(5), 0), Turn::Later);
    assert_eq!(Fit::Swap.turn(&PLAIN, 1, Waited { age_ms: 5, passed_ms: 1 }, 0), Turn::Now);
}

fn age(age_ms: u64) -> Waited {
    Waited { age_ms, passed_ms: 0 }
}

fn any_fit() -> impl Strategy<Value = Fit> {
    use Fit::{Cold, Copy, CopySwap, Elsewhere, Loaded, Loading, Swap};
    prop::sample::select(vec![Loaded, Loading, Cold, Copy, Swap, CopySwap, Elsewhere])
}

fn any_candidates(count: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<(Facts, Fit)>> {
    let one = (any::<u64>(), 0usize..3, 0usize..6, 1usize..5, 1u32..4, any_fit());
    prop::collection::vec(one, count).prop_map(|all| {
        let facts = all.into_iter().enumerate().map(|(index, (key, in_memory, in_flight, slots, weight, fit))| {
            (Facts { index, key, in_memory, in_flight, slots, weight, ..PLAIN }, fit)
        });
        facts.collect()
    })
}

fn load(facts: &Facts) -> f64 {
    facts.in_flight as f64 / (facts.slots as f64 * f64::from(facts.weight))
}

fn crowd(facts: &Facts, fit: Fit) -> usize {
    if fit.is_load() { facts.in_memory } else { 0 }
}

#[test]
fn the_chosen_one_is_a_candidate_and_none_is_better() {
    always(&(any_candidates(0..=20), any::<u64>(), any::<u64>()), |(candidates, conversation, random)| {
        let Some(chosen) = choose(&candidates, conversation, random) else {
            prop_assert!(candidates.is_empty());
            return Ok(());
        };
        prop_assert!(candidates.contains(&chosen));
        let (facts, fit) = chosen;
        let peers: Vec<_> = candidates.iter().filter(|(_, other)| *other == fit).collect();
        for (other, other_fit) in &candidates {
            prop_assert!(fit <= *other_fit, "{fit:?} was chosen, not {other_fit:?}");
            if *other_fit == fit {
                prop_assert!(crowd(&facts, fit) <= crowd(other, fit), "a load goes where it leaves most room");
            }
        }
        let alike: Vec<_> = peers.iter().filter(|(other, _)| crowd(other, fit) == crowd(&facts, fit)).collect();
        if alike.len() <= COMPARED_MAX {
            for (other, _) in alike {
                prop_assert!(load(&facts) <= load(other), "{facts:?} is more loaded than {other:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn order_is_of_no_account_to_a_conversation() {
    let shuffled = any_candidates(1..=8).prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()));
    let any_conversation = 1..u64::MAX;
    always(&(shuffled, any_conversation, any::<[u64; 2]>()), |((one, other), conversation, random)| {
        let chosen = [choose(&one, conversation, random[0]), choose(&other, conversation, random[1])];
        prop_assert_eq!(chosen[0], chosen[1]);
        Ok(())
    });
}

#[test]
fn one_that_was_not_chosen_can_go_unnoticed() {
    let cases = (any_candidates(2..=8), any::<Index>(), 1..u64::MAX, any::<u64>());
    always(&cases, |(candidates, gone, conversation, random)| {
        let chosen = choose(&candidates, conversation, random).unwrap();
        let mut rest = candidates.clone();
        let gone = rest.remove(gone.index(candidates.len()));
        if gone != chosen {
            prop_assert_eq!(choose(&rest, conversation, random), Some(chosen));
        }
        Ok(())
    });
}

#[test]
fn conversations_spread_over_equals() {
    let all = all_loaded(&backends(8));
    let mut counts = HashMap::new();
    let mut stream = Stream(4);
    for _ in 0..16_000 {
        let conversation = stream.draw();
        let (chosen, _) = choose(&all, conversation, stream.draw()).unwrap();
        *counts.entry(chosen.index).or_insert(0_u32) += 1;
    }
    // 2000 each; the standard deviation is 42.
    assert!((0..8).all(|index| (1_800..=2_200).contains(&counts[&index])), "{counts:?}");
    // Numbers that follow each other spread as well.
    let near: HashMap<usize, u32> = (1..=800_u64).fold(HashMap::new(), |mut counts, conversation| {
        *counts.entry(choose(&all, conversation, 0).unwrap().0.index).or_default() += 1;
        counts
    });
    assert!((0..8).all(|index| near.get(&index).is_some_and(|count| (60..=140).contains(count))), "{near:?}");
}

#[test]
fn affinity_keeps_to_the_backend_and_not_to_its_cell() {
    let all = all_loaded(&backends(6));
    let moved: Vec<_> = all.iter().map(|(facts, fit)| (Facts { index: 5 - facts.index, ..*facts }, *fit)).collect();
    for conversation in 1..=100 {
        let key = |all| choose(all, conversation, 0).unwrap().0.key;
        assert_eq!(key(&all), key(&moved), "conversation {conversation}");
    }
}

#[test]
fn without_a_conversation_ties_are_drawn() {
    let all = all_loaded(&backends(4));
    let mut stream = Stream(5);
    let mut counts = [0_u32; 4];
    (0..4_000).for_each(|_| counts[choose(&all, 0, stream.draw()).unwrap().0.index] += 1);
    assert!(counts.iter().all(|count| (850..=1_150).contains(count)), "{counts:?}");
}

/// Beyond eight, two of all are drawn, each pair as likely: with loads 0, 1, 2… the one at place `i` is the better of its
/// pair in `2 (n - 1 - i)` of `n (n - 1)` cases.
#[test]
fn beyond_eight_the_better_of_any_two_is_chosen() {
    const DRAWS: u32 = 60_000;
    for count in [9_u32, 16, 64] {
        let facts: Vec<Facts> = backends(count as usize)
            .iter()
            .map(|facts| Facts { in_flight: facts.index, slots: 256, ..*facts })
            .collect();
        let candidates = all_loaded(&facts);
        let mut stream = Stream(u64::from(count));
        let mut counts = vec![0_u32; count as usize];
        for _ in 0..DRAWS {
            counts[choose(&candidates, stream.draw(), stream.draw()).unwrap().0.index] += 1;
        }
        for (place, seen) in counts.iter().enumerate() {
            let likely = f64::from(2 * (count - 1 - place as u32)) / f64::from(count * (count - 1));
            let (mean, spread) = (f64::from(DRAWS) * likely, (f64::from(DRAWS) * likely * (1.0 - likely)).sqrt());
            let off = (f64::from(*seen) - mean).abs();
            assert!(off <= 5.0 * spread, "{count} backends, place {place}: {seen} instead of {mean} ± {spread}");
        }
        assert_eq!(counts[count as usize - 1], 0, "the worst of all is nobody's better");
    }
}

/// How far the fullest of 64 lies above the mean after 64 times 64 requests, placed by `place`.
fn excess(mut place: impl FnMut(&[Facts]) -> usize) -> usize {
    let mut facts: Vec<Facts> = backends(64).into_iter().map(|facts| Facts { slots: 256, ..facts }).collect();
    for _ in 0..64 * 64 {
        let index = place(&facts);
        facts[index].in_flight += 1;
    }
    facts.iter().map(|facts| facts.in_flight).max().unwrap() - 64
}

#[test]
fn two_choices_keep_loads_level_where_one_does_not() {
    for seed in 1..=5 {
        let (mut one, mut two) = (Stream(seed), Stream(seed));
        let one = excess(|facts| one.draw() as usize % facts.len());
        let two = excess(|facts| choose(&all_loaded(facts), two.draw(), two.draw()).unwrap().0.index);
        // lg lg 64 = 2.6, however many come; for one choice sqrt(2 * 64 * ln 64) = 23.
        assert!(two <= 5, "seed {seed}: {two} above the mean");
        assert!(one >= 3 * two.max(3), "seed {seed}: one random choice lies {one} above the mean, two {two}");
    }
}

/// A closed loop: so many requests in service always, each of which ends as likely as any other.
#[test]
fn shares_follow_weight_and_slots() {
    const ROUNDS: u32 = 40_000;
    for (sizes, in_service) in [
        (vec![(4, 1), (4, 1)], 6),
        (vec![(4, 1), (4, 3)], 8),
        (vec![(2, 1), (8, 1)], 10),
        (vec![(4, 2), (2, 1), (2, 3), (8, 1)], 48),
    ] {
        let made = backends(sizes.len()).into_iter().zip(&sizes);
        let mut facts: Vec<Facts> =
            made.map(|(facts, (slots, weight))| Facts { slots: *slots, weight: *weight, ..facts }).collect();
        let mut stream = Stream(11);
        let mut served = vec![0_u32; facts.len()];
        let mut running: Vec<usize> = Vec::new();
        for _ in 0..ROUNDS {
            if running.len() == in_service {
                let gone = running.swap_remove(stream.draw() as usize % running.len());
                facts[gone].in_flight -= 1;
                served[gone] += 1;
            }
            let (chosen, _) = choose(&all_loaded(&facts), stream.draw(), stream.draw()).unwrap();
            facts[chosen.index].in_flight += 1;
            running.push(chosen.index);
        }
        let size = |facts: &Facts| facts.slots as f64 * f64::from(facts.weight);
        let all: f64 = facts.iter().map(size).sum();
        let total: u32 = served.iter().sum();
        for (facts, served) in facts.iter().zip(&served) {
            let (share, fair) = (f64::from(*served) / f64::from(total), size(facts) / all);
            assert!((share / fair - 1.0).abs() < 0.1, "{sizes:?}: {share:.3} of all instead of {fair:.3}");
        }
    }
}
