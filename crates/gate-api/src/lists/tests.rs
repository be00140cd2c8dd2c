//! Lists of one and of several backends.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{List, NotAList, merge};

const KINDS: [List; 3] = [List::Tags, List::Ps, List::Models];

fn body(answer: &'static str) -> Bytes {
    Bytes::from_static(answer.split_once("\r\n\r\n").unwrap().1.as_bytes())
}

/// What a real Ollama gave for each kind.
fn recorded() -> [(List, Bytes); 3] {
    [
        (List::Tags, body(include_str!("../../tests/ollama/tags.http"))),
        (List::Ps, body(include_str!("../../tests/ollama/ps.http"))),
        (List::Models, body(include_str!("../../tests/ollama/v1-models.http"))),
    ]
}

fn text(list: &[u8]) -> &str {
    std::str::from_utf8(list).unwrap()
}

#[test]
fn one_list_stays_as_it_is() {
    for (kind, list) in recorded() {
        assert_eq!(text(&merge(kind, std::slice::from_ref(&list), &|_| true).unwrap()), text(&list));
    }
}

#[test]
fn no_models_are_said_as_ollama_says_it() {
    for (kind, list) in recorded() {
        let empty = match kind {
            List::Models => "{\"object\":\"list\",\"data\":null}\n",
            _ => r#"{"models":[]}"#,
        };
        assert_eq!(text(&merge(kind, &[list], &|_| false).unwrap()), empty);
        assert_eq!(text(&merge(kind, &[], &|_| true).unwrap()), empty);
        for none in [r#"{"models":null,"data":null}"#, r#" {"models":[],"data":[]} "#] {
            assert_eq!(text(&merge(kind, &[none.into()], &|_| true).unwrap()), empty);
        }
    }
}

#[test]
fn what_is_no_list_is_named() {
    for (kind, list) in recorded() {
        let wrong = match kind {
            List::Models => r#"{"models":[]}"#,
            _ => r#"{"data":[]}"#,
        };
        for other in ["", "<html>", "{}", r#"{"error":"boom"}"#, wrong, "[[]]", r#"{"models":3,"data":3}"#] {
            assert_eq!(merge(kind, &[list.clone(), other.into()], &|_| true), Err(NotAList { index: 1 }), "{other}");
        }
        for entry in ["3", r#"{"name":3,"id":3}"#] {
            let other = format!(r#"{{"models":[{entry}],"data":[{entry}]}}"#);
            assert_eq!(merge(kind, &[other.into()], &|_| true), Err(NotAList { index: 0 }), "{entry}");
        }
    }
}

/// The value of a key in each entry of a merged list, as text.
fn listed(kind: List, lists: &[Value], key: &str, keep: &dyn Fn(&str) -> bool) -> Vec<String> {
    let answers: Vec<Bytes> = lists.iter().map(|list| list.to_string().into()).collect();
    let merged: Value = serde_json::from_slice(&merge(kind, &answers, keep).unwrap()).unwrap();
    let entries = merged.get("models").or(merged.get("data")).unwrap();
    let texts = entries.as_array().into_iter().flatten();
    texts.map(|entry| entry[key].as_str().map_or(entry[key].to_string(), str::to_owned)).collect()
}

#[test]
fn tags_of_several_backends() {
    let at = |name: &str, when: &str| json!({"name": name, "model": name, "modified_at": when});
    let lists = [
        json!({"models": [at("b:1", "2026-01-02T10:00:00.9Z"), at("a:1", "2026-01-01T00:00:00Z"), at("undated", "x")]}),
        json!({"models": [at("A:1", "2026-01-03T00:00:00Z"), at("c:1", "2026-01-02T12:00:00.1+02:00"),
            at("library/b:1", "2026-01-01T00:00:00Z"), at("d", "2026-01-03T00:00:00Z"), {"modified_at": "x"}]}),
    ];
    let names = |keep: &dyn Fn(&str) -> bool| listed(List::Tags, &lists, "name", keep);
    assert_eq!(
        names(&|_| true),
        ["d", "b:1", "c:1", "a:1", "undated"],
        "as the first has it; the same second, in order"
    );
    assert_eq!(names(&|name| name == "d:latest" || name == "a:1"), ["d", "a:1"], "asked by the listed name");
    assert_eq!(names(&|name| name == "A:1" || name == "d"), [""; 0]);
}

#[test]
fn models_of_several_backends() {
    let at = |id: &str, created: i64| json!({"id": id, "object": "model", "created": created, "owned_by": "library"});
    let lists = [
        json!({"data": [at("b:1", 5), at("a:1", 2)]}),
        json!({"data": null}),
        json!({"data": [at("a:1", 9), at("c:1", 7)]}),
    ];
    assert_eq!(listed(List::Models, &lists, "id", &|_| true), ["c:1", "b:1", "a:1"]);
    assert_eq!(listed(List::Models, &lists, "created", &|name| name != "c:1"), ["5", "2"]);
}

#[test]
fn a_model_in_two_memories_is_there_twice() {
    let until = |name: &str, when: &str, size: u64| json!({"name": name, "expires_at": when, "size_vram": size});
    let lists = [
        json!({"models": [until("a:1", "2026-01-01T00:00:00Z", 1), until("b:1", "2025-01-01T00:00:00Z", 2)]}),
        json!({"models": [until("a:1", "2026-01-02T00:00:00Z", 3), until("a:1", "2318-01-01T00:00:00Z", 4)]}),
    ];
    assert_eq!(listed(List::Ps, &lists, "size_vram", &|_| true), ["4", "3", "1", "2"]);
    assert_eq!(listed(List::Ps, &lists, "size_vram", &|name| name == "b:1"), ["2"]);
}

proptest! {
    #[test]
    fn everything_kept_is_there_once_and_in_order(
        lists in proptest::collection::vec(proptest::collection::vec((0_u8..6, 0_i64..4), 0..5), 0..4),
        hidden in 0_u8..6,
    ) {
        for kind in KINDS {
            let answers: Vec<Value> = lists.iter().map(|list| {
                let entries: Vec<Value> = list.iter().map(|(name, when)| {
                    let time = format!("2026-01-01T00:00:0{when}Z");
                    json!({"name": format!("m{name}"), "id": format!("m{name}"), "created": when, "modified_at": time,
                        "expires_at": time})
                }).collect();
                json!({"models": entries, "data": entries})
            }).collect();
            let hides = format!("m{hidden}:latest");
            let names = listed(kind, &answers, "name", &|name| name != hides);
            let times = listed(kind, &answers, "created", &|name| name != hides);
            prop_assert!(times.is_sorted_by(|a, b| a >= b), "{:?}", times);
            let mut wanted: Vec<String> = lists.iter().flatten().filter(|(name, _)| *name != hidden)
                .map(|(name, _)| format!("m{name}")).collect();
            let mut names = names;
            names.sort();
            wanted.sort();
            if kind != List::Ps {
                wanted.dedup();
            }
            prop_assert_eq!(names, wanted);
        }
    }
}
