use proptest::prelude::*;

use super::*;

/// Strings and what `limits` makes of them.
const RECORDED: &str = include_str!("../../tests/data/rates.toml");

#[test]
fn strings_mean_what_they_mean_to_limits() {
    let recorded: toml::Table = toml::from_str(RECORDED).unwrap();
    let cases = recorded["cases"].as_array().unwrap();
    assert!(cases.len() > 1_000);
    for case in cases {
        let [text, expected] = [0, 1].map(|field| case[field].as_str().unwrap());
        let read = match parse_many(text) {
            Ok(rates) => rates.iter().map(Rate::to_string).collect::<Vec<_>>().join("; "),
            Err(RateError::Grammar | RateError::Unit(_)) => "refused".to_owned(),
            Err(RateError::Amount | RateError::Window) => "out of bounds".to_owned(),
        };
        // Where two things are wrong with a string, the one that stands first is told.
        let both_wrong = expected == "refused" && read == "out of bounds";
        assert!(read == expected || both_wrong, "{text:?}: {read}, not {expected}");
    }
}

#[test]
fn none_is_the_empty_list() {
    for text in ["none", "None", " NONE\n"] {
        assert_eq!(parse_many(text), Ok(vec![]), "{text:?}");
    }
    for text in ["", "none,10/minute", "nonee"] {
        assert_eq!(parse_many(text), Err(RateError::Grammar), "{text:?}");
    }
}

#[test]
fn bounds_are_inclusive() {
    assert_eq!(parse_many("1000000000/second").unwrap()[0].amount, AMOUNT_MAX);
    assert_eq!(parse_many("1/366 days").unwrap()[0].window(), WINDOW_MAX);
    assert_eq!(parse_many("1000000001/second"), Err(RateError::Amount));
    assert_eq!(parse_many("1/367 days"), Err(RateError::Window));
    assert_eq!(parse_many("1/99999999999999999999999 years"), Err(RateError::Window));
    assert_eq!(parse_many("99999999999999999999999/second"), Err(RateError::Amount));
}

#[test]
fn errors_say_what_would_be_right() {
    for (text, words) in [
        ("ten/minute", "write a rate like `10/minute`"),
        ("10/fortnight", "`fortnight` is no unit; write a rate like"),
        ("1000000001/day", "at most 1000000000"),
        ("2/2 years", "at most 366 days"),
    ] {
        let error = parse_many(text).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn both_spellings_are_read_back(amount in 0..=AMOUNT_MAX, multiples in 1..=1_000_u64, unit in 0..6_usize) {
        let rate = Rate { amount, multiples, unit: Unit::ALL[unit] };
        prop_assume!(rate.window() <= WINDOW_MAX);
        prop_assert_eq!(parse_many(&rate.to_string()), Ok(vec![rate]));
        prop_assert_eq!(parse_many(&rate.short()), Ok(vec![rate]));
    }

    #[test]
    fn any_string_is_answered(text in ".{0,40}|[0-9perminutshoday/ ,;|:]{0,40}") {
        if let Ok(rates) = parse_many(&text) {
            prop_assert!(rates.iter().all(|rate| rate.amount <= AMOUNT_MAX && rate.window() <= WINDOW_MAX));
            prop_assert!(rates.iter().all(|rate| rate.multiples >= 1));
        }
    }
}
