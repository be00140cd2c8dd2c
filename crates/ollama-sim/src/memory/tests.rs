use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// A memory for two models, driven step by step at times of the test's choice.
struct Bench {
    memory: Memory,
    start: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { memory: Memory::new(2, 1), start: Instant::now() }
    }

    fn at(&self, minutes: u32) -> Instant {
        self.start + MINUTE * minutes
    }

    fn load(&mut self, place: usize, keep_minutes: u32) -> u64 {
        self.memory.begin(place, None);
        self.memory.finish(place, Terms::default(), MINUTE * keep_minutes, self.start).id
    }

    /// Loads and gives back.
    fn park(&mut self, place: usize, keep_minutes: u32) {
        let id = self.load(place, keep_minutes);
        assert!(!self.memory.release(id, self.start));
    }

    fn places(&mut self, minutes: u32) -> Vec<usize> {
        let now = self.at(minutes);
        self.memory.runners(now).iter().map(|runner| runner.place).collect()
    }

    fn claim(&mut self, place: usize) -> String {
        match self.memory.claim(place, &Wish::default(), self.start) {
            Claim::Ready(_) => "ready".to_owned(),
            Claim::Free => "free".to_owned(),
            Claim::Evicted(cause) => format!("evicted: {cause:?}"),
            Claim::Full(cause) => format!("full: {cause:?}"),
        }
    }
}

#[test]
fn the_idle_go_first_then_the_least_kept_then_the_oldest() {
    // Keep minutes and use of the models 0 and 1; who is left when 2 comes, if somebody goes at once.
    let cases = [
        ([(5, false), (5, false)], Some(1)),
        ([(5, false), (4, false)], Some(0)),
        ([(4, false), (5, false)], Some(1)),
        ([(4, true), (5, false)], Some(0)),
        ([(5, false), (4, true)], Some(1)),
        ([(5, true), (4, true)], None),
    ];
    for (models, left) in cases {
        let mut bench = Bench::new();
        for (place, (keep, in_use)) in models.into_iter().enumerate() {
            if in_use {
                bench.load(place, keep);
            } else {
                bench.park(place, keep);
            }
        }
        let said = bench.claim(2);
        match left {
            Some(left) => assert_eq!((said.as_str(), bench.places(0)), ("evicted: Swap", vec![left]), "{models:?}"),
            None => assert_eq!((said.as_str(), bench.places(0)), ("full: Swap", vec![0, 1]), "{models:?}"),
        }
    }
}

#[test]
fn who_has_to_go_serves_to_the_end_and_is_the_only_one() {
    let mut bench = Bench::new();
    let (_zero, one) = (bench.load(0, 5), bench.load(1, 4));
    assert_eq!(bench.claim(2), "full: Swap");
    let Found::Ready(again) = bench.memory.find(1, &Wish::default(), bench.start) else { panic!("1 serves no more") };
    assert!(!bench.memory.release(one, bench.start));
    assert_eq!(bench.claim(2), "full: Swap", "1 is in use again");
    assert!(bench.memory.release(again.id, bench.start), "the last use takes the runner along");
    assert_eq!((bench.places(0), bench.claim(2).as_str()), (vec![0], "free"));
}

#[test]
fn a_forgotten_claim_takes_no_second_victim() {
    let mut bench = Bench::new();
    let (zero, one) = (bench.load(0, 5), bench.load(1, 4));
    assert_eq!(bench.claim(2), "full: Swap");
    // The client of 2 has left. Meanwhile another runner would be the better choice.
    bench.memory.find(1, &Wish { keep_alive: Some(MINUTE * 9), ..Wish::default() }, bench.start);
    assert_eq!(bench.claim(3), "full: Swap");
    assert!(!bench.memory.release(one, bench.start));
    assert!(bench.memory.release(one, bench.start), "it was 1 again, whatever it was kept for since");
    assert!(!bench.memory.release(zero, bench.start));
    assert_eq!(bench.places(0), [0]);
}

#[test]
fn other_terms_replace_the_models_own_runner_only() {
    let mut bench = Bench::new();
    bench.park(0, 1);
    let own = bench.load(1, 5);
    let mut wish = Wish::default();
    wish.terms.shift = false;
    assert!(matches!(bench.memory.find(1, &wish, bench.start), Found::Absent));
    assert!(matches!(bench.memory.claim(1, &wish, bench.start), Claim::Full(Cause::Reload)));
    assert!(bench.memory.release(own, bench.start));
    assert!(matches!(bench.memory.claim(1, &wish, bench.start), Claim::Free));
    assert_eq!(bench.places(0), [0]);
}

#[test]
fn runners_leave_when_their_time_is_over_but_not_in_use() {
    let mut bench = Bench::new();
    bench.park(0, 5);
    let one = bench.load(1, 1);
    assert_eq!(bench.places(4), [0, 1]);
    assert_eq!(bench.places(5), [1], "1 is in use");
    let now = bench.at(6);
    assert!(!bench.memory.release(one, now));
    assert_eq!((bench.places(6), bench.places(7)), (vec![1], vec![]));
}

#[test]
fn the_time_to_stay_is_the_last_one_that_was_said() {
    let mut bench = Bench::new();
    bench.park(0, 5);
    for keep_alive in [Some(MINUTE * 2), None] {
        let wish = Wish { keep_alive, ..Wish::default() };
        let Found::Ready(used) = bench.memory.find(0, &wish, bench.start) else { panic!("{wish:?}") };
        assert!(!bench.memory.release(used.id, bench.start));
        let until = bench.memory.runners(bench.start)[0].until;
        assert_eq!(until, bench.at(2), "{wish:?}");
    }
}

#[test]
fn unloading_waits_for_the_last_use() {
    let mut bench = Bench::new();
    bench.park(0, 5);
    assert!(bench.memory.unload(0, bench.start));
    assert!(!bench.memory.unload(0, bench.start), "it has gone already");
    let id = bench.load(1, 5);
    assert!(!bench.memory.unload(1, bench.start));
    assert_eq!(bench.places(0), [1]);
    assert!(bench.memory.release(id, bench.start));
}

#[test]
fn loads_are_counted_by_what_they_did() {
    let mut memory = Memory::new(0, 1);
    for cause in [None, Some(Cause::Swap), Some(Cause::Reload), Some(Cause::Swap)] {
        memory.begin(0, cause);
        assert!(matches!(memory.find(0, &Wish::default(), Instant::now()), Found::Loading));
        assert!(memory.abort());
    }
    assert!(!memory.abort());
    assert_eq!(memory.loads, Loads { begun: 4, aborted: 4, swaps: 2, reloads: 1 });
}
