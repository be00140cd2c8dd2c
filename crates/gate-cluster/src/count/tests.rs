use std::num::NonZeroUsize;

use super::*;

const THIRD: f64 = 1.0 / 3.0;

/// A gate's count of `amount` in a minute.
fn count(amount: u64) -> Count {
    count_of(&zone(), amount)
}

fn zone() -> Zone {
    let (_, zone) = Zone::create(NonZeroUsize::new(1 << 12).unwrap(), [1, 2]).unwrap();
    zone.assign_windows(&[Duration::from_secs(60)], &[]).unwrap();
    zone
}

fn count_of(zone: &Zone, amount: u64) -> Count {
    let minute = Duration::from_secs(60);
    let limit = Arc::new(Limit { amount, window: minute, unit: minute, text: String::new() });
    Count::new(*zone, &Subject::of_key("anna"), 3, &limit).unwrap()
}

/// The store's answer when others have taken `others`, and this gate nothing before.
fn answer(count: &Count, others: u64, granted: u64) -> Answer {
    let taken = count.read(Kind::Taken).map_or(0, |taken| taken.number) + granted;
    Answer { taken, granted, total: others + taken, left: Duration::from_secs(30) }
}

fn told(count: &Count, others: u64, need: u64, granted: u64) -> Result<Passage, Duration> {
    let question = count.question(need);
    count.answered(question, answer(count, others, granted), count.now_ns(), THIRD)
}

fn passes(count: &Count, cost: u64) -> Option<Passage> {
    match count.look(cost) {
        Look::Passes(passage) => Some(passage),
        Look::Refused(_) | Look::Ask => None,
    }
}

#[test]
fn what_was_granted_passes_without_asking_and_no_more() {
    let count = count(100);
    assert!(matches!(count.look(1), Look::Ask));
    let first = told(&count, 10, 1, 5).unwrap();
    assert_eq!((first.cost(), first.standing.remaining), (1, 89));
    assert!(first.standing.reset <= Duration::from_secs(30));
    let remaining: Vec<_> =
        std::iter::from_fn(|| passes(&count, 1)).map(|passage| passage.standing.remaining).collect();
    assert_eq!(remaining, [88, 87, 86, 85]);
    assert!(matches!(count.look(1), Look::Ask));
}

#[test]
fn batches_double_up_to_a_part_of_the_amount() {
    let wishes = |amount: u64, cost: u64| {
        let count = count(amount);
        (0..9)
            .map(|_| {
                let question = count.question(cost);
                drop(told(&count, 0, cost, cost).unwrap());
                question.wish
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(wishes(10, 1), [1; 9]);
    assert_eq!(wishes(100, 1), [1, 2, 4, 5, 5, 5, 5, 5, 5]);
    assert_eq!(wishes(1_000_000, 1), [1, 2, 4, 8, 16, 32, 64, 128, 128]);
    assert_eq!(wishes(1_000_000, 3000), [3000, 6000, 12_000, 24_000, 48_000, 50_000, 50_000, 50_000, 50_000]);
}

#[test]
fn a_refusal_is_kept_and_one_of_much_only_for_a_while() {
    let single = count(10);
    assert_eq!(told(&single, 10, 1, 0), Err(Duration::from_secs(30)));
    let Look::Refused(retry) = single.look(1) else { panic!("it must not ask") };
    assert!(retry > Duration::from_secs(29) && retry <= Duration::from_secs(30));
    let kept = single.read(Kind::Refused).unwrap().end.until(single.window, single.now_ns());
    assert!(kept > Duration::from_secs(29));
    let tokens = count(1000);
    told(&tokens, 900, 500, 0).unwrap_err();
    assert!(matches!(tokens.look(500), Look::Refused(_)) && matches!(tokens.look(501), Look::Refused(_)));
    assert!(matches!(tokens.look(50), Look::Ask), "less may fit");
    let kept = tokens.read(Kind::Refused).unwrap().end.until(tokens.window, tokens.now_ns());
    assert!(kept <= PAUSE, "{kept:?}");
}

#[test]
fn alone_it_lets_pass_its_share_of_what_was_left() {
    // What others have, what this gate has and used, its share of 90 then.
    for (others, granted, more) in
        [(0, 0, 30), (0, 30, 0), (0, 12, 18), (60, 0, 10), (60, 12, 6), (90, 0, 0), (78, 12, 0)]
    {
        let count = count(90);
        if others + granted > 0 {
            told(&count, others, granted, granted).ok();
        }
        while passes(&count, 1).is_some() {}
        let passed = (0..90).take_while(|_| count.locally(1, THIRD).is_ok()).count();
        assert_eq!(passed, more, "others {others}, own {granted}");
        let own = count.question(1).taken;
        assert_eq!(own, granted + passed as u64, "all of it will be told");
    }
    assert!(count(2).locally(1, 0.01).is_ok(), "at least one");
    assert!(count(10).locally(5, 0.2).is_ok_and(|passage| passage.cost() == 2), "no more than there is");
}

#[test]
fn what_is_given_back_is_of_its_own_window() {
    let count = count(1000);
    let passage = told(&count, 0, 40, 40).unwrap();
    assert_eq!(count.settle(&passage, 15), Tell::NextTime);
    assert!(passes(&count, 26).is_none() && passes(&count, 25).is_some());
    // The same one an hour ago, and in the window that comes.
    for end in [End::after(count.window, 0, Duration::ZERO), End::of_new(count.window, count.now_ns())] {
        let other = Passage { end, ..passage.clone() };
        let now = || count.now_ns();
        count.number(Kind::Pool).add(1, passage.end, now).unwrap();
        count.give(&other, 40);
        assert!(passes(&count, 1).is_some());
        assert!(passes(&count, 1).is_none(), "{end:?}");
    }
}

#[test]
fn what_is_used_beyond_is_taken_and_much_that_is_not_goes_back() {
    let count = count(1000);
    let passage = told(&count, 0, 40, 50).unwrap();
    assert_eq!(count.settle(&passage, 45), Tell::NextTime);
    assert_eq!((count.read(Kind::Pool).unwrap().number, count.question(1).taken), (5, 50), "from what was in hand");
    assert_eq!(count.settle(&passage, 145), Tell::Soon);
    assert_eq!((count.read(Kind::Pool), count.question(1).taken), (None, 150), "and then from the window");
    let passage = told(&count, 0, 300, 300).unwrap();
    assert_eq!(count.settle(&passage, 0), Tell::Soon);
    let question = count.question(1);
    assert_eq!((count.read(Kind::Pool).unwrap().number, question.taken, question.back), (50, 450, 250));
}

#[test]
fn gates_and_limits_do_not_meet() {
    let zone = zone();
    let (own, other) = (count_of(&zone, 100), count_of(&zone, 101));
    drop(told(&own, 0, 1, 5).unwrap());
    assert!(passes(&other, 1).is_none());
    assert!(passes(&count_of(&zone, 100), 1).is_some(), "another worker");
}
