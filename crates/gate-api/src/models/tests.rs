//! Patterns against names, calls and lists.

use proptest::prelude::*;

use super::{Patterns, is_match};
use crate::call::judge;
use crate::route::Route;

fn patterns(list: &[&str]) -> Patterns {
    Patterns::new(&list.iter().map(ToString::to_string).collect::<Vec<_>>())
}

/// Whether `list` admits running `model`; the same must hold for a list that names it.
fn runs(list: &[&str], model: &str) -> bool {
    let body = format!(r#"{{"model":"{model}"}}"#);
    let call = judge(&Route::Generate, body.as_bytes()).expect(model);
    let admitted = patterns(list).admits(&call);
    assert_eq!(patterns(list).admits_listed(&call.model), admitted, "{list:?} {model}");
    admitted
}

#[test]
fn names_and_tags() {
    for (list, admitted, refused) in [
        (
            &["llama3.2"][..],
            &["llama3.2", "LLAMA3.2:Latest", "library/llama3.2", " llama3.2:local"][..],
            &["llama3.2:1b", "llama3", "x/llama3.2"][..],
        ),
        (
            &["Qwen3:*"],
            &["qwen3", "qwen3:8b", "registry.ollama.ai/library/qwen3:0.6b"],
            &["qwen3.5:8b", "x/qwen3:8b", "qwen:8b"],
        ),
        (&["*:1b"], &["m:1b", "ns/m:1b"], &["m", "m:11b", "h/n/m:1b"]),
        (&["ns/*"], &["ns/m", "ns/n:latest"], &["ns/m:1", "m", "h/ns/m"]),
        (&["a*b*c:*"], &["abc", "axbxc:1", "abbc"], &["ab", "xabc", "abcx"]),
        (&["m:1", "n:2"], &["m:1", "n:2"], &["m:2", "n:1"]),
        (
            &["hub.example.com/ns/m"],
            &["hub.example.com/ns/m", "https://HUB.example.com/ns/m:latest"],
            &["ns/m", "hub.example.com/ns/n", "m"],
        ),
        (&["hub.example.com:80/ns/*:*"], &["hub.example.com:80/ns/m:3"], &["hub.example.com/ns/m:3"]),
        (&["registry.ollama.ai/library/m"], &["m"], &["n"]),
    ] {
        for model in admitted {
            assert!(runs(list, model), "{list:?} {model}");
        }
        for model in refused {
            assert!(!runs(list, model), "{list:?} {model}");
        }
    }
}

#[test]
fn every_local_model() {
    for list in [&[][..], &["*"], &["m:1", " * "]] {
        for model in ["m", "ns/m:1", "hf.co/ns/m:q4"] {
            assert!(runs(list, model), "{list:?} {model}");
        }
        for model in ["m:cloud", "m:1b-cloud", "h/n/m:CLOUD"] {
            assert!(!runs(list, model), "{list:?} {model}");
        }
    }
}

#[test]
fn clouds_and_hosts_take_no_asterisk() {
    for list in [&["m:*"][..], &["*:*"], &["m:1b*"], &["*-cloud"], &["m:*-cloud"], &["m"], &["m:1b"]] {
        assert!(!runs(list, "m:1b-cloud"), "{list:?}");
    }
    for list in [&["m:1b-cloud"][..], &["*", "M:1b-Cloud"], &["*:1b-cloud"]] {
        assert!(runs(list, "m: 1b-CLOUD"), "{list:?}");
    }
    assert!(!runs(&["m:1b-cloud"], "m:1b"));
    for list in [&["*/ns/m"][..], &["hub.*/ns/m"], &["*ns/m"], &["ns/m"], &["*:*"]] {
        assert!(!runs(list, "hub.example.com/ns/m"), "{list:?}");
    }
}

#[test]
fn hosts_that_the_server_would_turn_to() {
    let check = |list: &[&str], route: Route, body: &str, expected: bool| {
        let call = judge(&route, body.as_bytes()).expect(body);
        assert_eq!(patterns(list).admits(&call), expected, "{list:?} {route:?} {body}");
    };
    for route in [Route::Pull, Route::Push] {
        let evil = r#"{"model":"http://10.0.0.1/ns/m","insecure":true}"#;
        check(&[], route.clone(), evil, false);
        check(&["*"], route.clone(), evil, false);
        check(&["*/ns/m", "ns/m", "*:*"], route.clone(), evil, false);
        check(&["10.0.0.1/ns/*"], route.clone(), evil, true);
        check(&[], route.clone(), r#"{"model":"m"}"#, true);
        check(&[], route, r#"{"model":"registry.ollama.ai/ns/m"}"#, true);
    }
    check(&[], Route::Create, r#"{"model":"x","from":"hf.co/ns/m"}"#, false);
    check(&["*", "hf.co/ns/m"], Route::Create, r#"{"model":"x","from":"hf.co/ns/m"}"#, true);
    check(&["hf.co/ns/m"], Route::Create, r#"{"model":"x","from":"hf.co/ns/m"}"#, false);
    let remote = r#"{"model":"x","from":"m:1b","remote_host":"https://ollama.com:443"}"#;
    check(&["*"], Route::Create, remote, false);
    check(&["*", "ollama.com/library/m:1b"], Route::Create, remote, false);
    check(&["*", "ollama.com:443/library/m:1b"], Route::Create, remote, true);
    check(&["ollama.com:443/library/m:1b"], Route::Create, remote, false);
    let hub =
        |model: &str, from: &str| format!(r#"{{"model":"{model}","from":"{from}","remote_host":"hub.example.com"}}"#);
    for (list, model, from, expected) in [
        // A new model that bears the name of one that is admitted there admits nothing else there.
        (&["*", "hub.example.com/ns/m"][..], "hub.example.com/ns/m", "other/secret", false),
        (&["*", "hub.example.com/ns/m"], "hub.example.com/ns/m", "ns/m", true),
        (&["*", "hub.example.com/ns/m"], "x", "Hub.example.com/ns/m", true),
        (&["*", "hub.example.com/ns/m"], "x", "hub.example.com/ns/secret", false),
        (&["*", "hub.example.com/ns/m"], "x", "else.example.com/ns/m", false),
        (&["*", "else.example.com/ns/m"], "x", "else.example.com/ns/m", false),
        (&["hub.example.com/ns/m"], "hub.example.com/ns/n", "ns/m", false),
    ] {
        check(list, Route::Create, &hub(model, from), expected);
    }
    check(&["*"], Route::Create, r#"{"model":"x","from":"m:cloud"}"#, false);
    check(&["*", "m:cloud"], Route::Create, r#"{"model":"x","from":"m:cloud"}"#, true);
}

#[test]
fn every_model_of_a_call_counts() {
    let copy = |list: &[&str], to: &str| {
        let body = format!(r#"{{"source":"m","destination":"{to}"}}"#);
        patterns(list).admits(&judge(&Route::Copy, body.as_bytes()).unwrap())
    };
    assert!(copy(&["m", "n"], "n") && copy(&["*"], "n"));
    assert!(!copy(&["m"], "n") && !copy(&["n"], "n"));
    assert!(!copy(&["*"], "n:1-cloud") && copy(&["*", "n:1-cloud"], "n:1-cloud"));
    let create = judge(&Route::Create, br#"{"model":"m","from":"n"}"#).unwrap();
    assert!(patterns(&["m", "n"]).admits(&create) && !patterns(&["m"]).admits(&create));
}

/// The same by trying every way to divide the text.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|at| matches(rest, &text[at..])),
        Some((letter, rest)) => text.first() == Some(letter) && matches(rest, &text[1..]),
    }
}

proptest! {
    #[test]
    fn an_asterisk_is_any_run(pattern in "[ab*]{0,7}", text in "[ab]{0,8}") {
        prop_assert_eq!(is_match(&pattern, &text), matches(pattern.as_bytes(), text.as_bytes()), "{} {}", pattern, text);
    }
}
