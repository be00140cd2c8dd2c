//! What must not matter: bodies of one meaning give one text of options and one number of a conversation.

use std::collections::HashSet;
use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::super::{chat, generate};
use crate::call::Call;

fn generated(body: &str) -> Call {
    generate(body.as_bytes()).expect(body)
}

fn chatted(body: &str) -> Call {
    chat(body.as_bytes()).expect(body)
}

#[test]
fn options_of_the_loaded_model() {
    let check = |fields: &str, expected: &str| {
        assert_eq!(generated(&format!(r#"{{"model":"m"{fields}}}"#)).load_options, expected, "generate {fields}");
        assert_eq!(chatted(&format!(r#"{{"model":"m"{fields}}}"#)).load_options, expected, "chat {fields}");
    };
    check("", "");
    check(r#","options":null,"shift":null"#, "");
    check(r#","options":{}"#, "");
    check(r#","options":{"temperature":1,"num_predict":5,"seed":1,"top_k":2,"stop":["a"],"numa":true}"#, "");
    check(r#","shift":true"#, "shift=true");
    check(r#","SHIFT":false,"options":{"use_mmap":true,"num_ctx":1}"#, "num_ctx=1;shift=false;use_mmap=true");
    check(r#","options":{"shift":true}"#, "");
    check(r#","options":{"num_gpu":1,"num_ctx":8192}"#, "num_ctx=8192;num_gpu=1");
    check(
        r#","shift":true,"options":{"use_mmap":false,"num_thread":7,"num_gpu":6,"num_ctx":5,"num_batch":4,"main_gpu":3,"draft_num_predict":2}"#,
        "draft_num_predict=2;main_gpu=3;num_batch=4;num_ctx=5;num_gpu=6;num_thread=7;shift=true;use_mmap=false",
    );
    for name in ["num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"] {
        check(&format!(r#","options":{{"{name}":null}}"#), "");
        // Names are keys of a map to Ollama: in other letters it does not know them.
        check(&format!(r#","options":{{"{}":1}}"#, name.to_uppercase()), "");
    }
    for (given, read) in [
        ("0", "0"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("0.9", "0"),
        ("-0.9", "0"),
        ("1.999", "1"),
        ("-1.999", "-1"),
        ("8.192e3", "8192"),
        ("81920E-1", "8192"),
        ("1e-400", "0"),
        ("999999999999999", "999999999999999"),
        ("9007199254740993", "9007199254740992"),
        ("1e300", "9223372036854775807"),
        ("-1e300", "-9223372036854775808"),
    ] {
        check(&format!(r#","options":{{"num_ctx":{given}}}"#), &format!("num_ctx={read}"));
        let gpu = if read.starts_with('-') { String::new() } else { format!("num_gpu={read}") };
        check(&format!(r#","options":{{"num_gpu":{given}}}"#), &gpu);
    }
}

#[test]
fn what_begins_a_conversation() {
    let of = |body: &str| chatted(body).conversation;
    let first = of(r#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"u"}]}"#);
    for same in [
        r#"{"messages":[{"content":"s","role":"system"},{"content":"u","role":"user"}],"model":"M:latest"}"#,
        r#"{"model":"library/m:local","MESSAGES":[{"Role":"SYSTEM","CONTENT":"\u0073"},{"role":"\u0055ser","content":"u"}]}"#,
        r#"{"model":"m","messages":[{"role":"system","content":"s","images":[]},{"role":"user","content":"u"},
            {"role":"assistant","content":"a"},{"role":"user","content":"more"}],"stream":false,"options":{"num_ctx":1}}"#,
        r#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"u"},null]}"#,
    ] {
        assert_eq!(of(same), first, "{same}");
    }
    let mut seen = HashSet::from([first]);
    for other in [
        r#"{"model":"n","messages":[{"role":"system","content":"s"},{"role":"user","content":"u"}]}"#,
        r#"{"model":"m:1b","messages":[{"role":"system","content":"s"},{"role":"user","content":"u"}]}"#,
        r#"{"model":"m","messages":[{"role":"system","content":"t"},{"role":"user","content":"u"}]}"#,
        r#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"v"}]}"#,
        r#"{"model":"m","messages":[{"role":"system","content":"su"},{"role":"user","content":""}]}"#,
        r#"{"model":"m","messages":[{"role":"system","content":""},{"role":"user","content":"su"}]}"#,
        r#"{"model":"m","messages":[{"role":"user","content":"u"}]}"#,
        r#"{"model":"m","messages":[{"role":"system","content":"s"}]}"#,
        r#"{"model":"m","messages":[null]}"#,
        r#"{"model":"m","messages":[null,null]}"#,
        r#"{"model":"m","messages":[]}"#,
    ] {
        assert!(seen.insert(of(other)), "{other}");
    }
    assert_eq!(of(r#"{"model":"m"}"#), of(r#"{"model":"m","messages":[]}"#));
}

#[test]
fn of_a_prompt_the_first_bytes_count() {
    let of = |system: &str, prompt: &str| {
        generated(&format!(r#"{{"model":"m","system":"{system}","prompt":"{prompt}"}}"#)).conversation
    };
    let counted = "x".repeat(512);
    assert_eq!(of("s", &counted), of("s", &format!("{counted}and more")));
    assert_eq!(of("s", &counted), of("s", &format!("{}{counted}", "\\u0078".repeat(512))));
    assert_ne!(of("s", &counted), of("s", &counted[1..]));
    assert_ne!(of("s", &counted), of("s", &format!("{}y", &counted[1..])));
    assert_ne!(of("s", "p"), of("t", "p"));
    assert_ne!(of("s", "p"), of("", "sp"));
    // 511 bytes, then a letter of four: one byte of it counts, as its two escapes do.
    let (cut, pair) = (&counted[1..], "\\ud83d\\ude00");
    assert_eq!(of("", &format!("{cut}😀a")), of("", &format!("{}{pair}b", "\\u0078".repeat(511))));
}

/// No two of many texts that differ little have one number; and no bit of it stays as it is.
#[test]
fn small_changes_are_seen_anywhere() {
    let text = "0123456789abcdef".repeat(16);
    let (mut seen, mut ones) = (HashSet::new(), [0_u32; 64]);
    let mut count = 0;
    for at in 0..text.len() {
        for letter in "GHIJKLMNOPé".chars() {
            let changed = format!("{}{letter}{}", &text[..at], &text[at + 1..]);
            for role in ["system", "user"] {
                let body = format!(r#"{{"model":"m","messages":[{{"role":"{role}","content":"{changed}"}}]}}"#);
                let number = chatted(&body).conversation;
                assert!(seen.insert(number), "{body}");
                ones.iter_mut().enumerate().for_each(|(bit, ones)| *ones += (number >> bit & 1) as u32);
                count += 1;
            }
        }
    }
    assert!(ones.iter().all(|&ones| (count * 45 / 100..count * 55 / 100).contains(&ones)), "{ones:?} of {count}");
}

/// One JSON string for a text, with some letters escaped.
fn spelled(text: &str, escaped: &[bool]) -> String {
    let mut out = String::from("\"");
    for (letter, escaped) in text.chars().zip(escaped.iter().cycle()) {
        if *escaped || matches!(letter, '"' | '\\' | '\0'..' ') {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").unwrap();
            }
        } else {
            out.push(letter);
        }
    }
    out.push('"');
    out
}

/// An object with its members in some order and some blanks between.
fn object(members: &[(String, String)], turn: Index, blank: &str) -> String {
    let mut members: Vec<String> =
        members.iter().map(|(key, value)| format!("{blank}{key}{blank}:{blank}{value}{blank}")).collect();
    if !members.is_empty() {
        let turn = turn.index(members.len());
        members.rotate_left(turn);
        if turn % 2 == 1 {
            members.reverse();
        }
    }
    format!("{{{}}}", members.join(","))
}

/// `key` as a request's own key may be written: any case, any letter escaped.
fn own_key(key: &str, escaped: &[bool]) -> String {
    let letters = key.chars().zip(escaped.iter().rev().cycle());
    let cased: String = letters.map(|(letter, up)| if *up { letter.to_ascii_uppercase() } else { letter }).collect();
    spelled(&cased, escaped)
}

/// Spellings of a number that Go cuts to the same integer.
fn number(value: i32, spelling: usize) -> String {
    let away = if value < 0 { "-" } else { "" };
    let size = value.unsigned_abs();
    match spelling {
        0 => format!("{value}"),
        1 => format!("{value}.0"),
        2 => format!("{away}{size}.75"),
        3 => format!("{value}e0"),
        4 if size > 0 => format!("{away}{size}0E-1"),
        _ => format!("{value}.5e+00"),
    }
}

const INTEGERS: [&str; 6] = ["draft_num_predict", "main_gpu", "num_batch", "num_ctx", "num_gpu", "num_thread"];

proptest! {
    #[test]
    fn options_of_one_meaning_are_one_text(
        integers in proptest::collection::vec(proptest::option::of(-9..100_000_i32), INTEGERS.len()),
        flags in (any::<Option<bool>>(), any::<Option<bool>>()),
        spellings in proptest::collection::vec(0_usize..6, INTEGERS.len()),
        (escaped, turns, blank) in (
            proptest::collection::vec(any::<bool>(), 1..7), any::<(Index, Index)>(), select(&["", " ", "\n\t", "\r\n  "][..])
        ),
        is_chat: bool,
    ) {
        let mut expected = Vec::new();
        let mut options = vec![(spelled("temperature", &escaped), "0.5".to_owned()), ("\"x\"".into(), "[1]".into())];
        for ((name, value), spelling) in INTEGERS.iter().zip(&integers).zip(spellings) {
            match value {
                // Absent, or null.
                None if spelling % 2 == 0 => {}
                None => options.push((spelled(name, &escaped), "null".into())),
                Some(value) => {
                    options.push((spelled(name, &escaped), number(*value, spelling)));
                    if *name != "num_gpu" || *value >= 0 {
                        expected.push(format!("{name}={value}"));
                    }
                }
            }
        }
        let text = |flag: Option<bool>| flag.map_or("null".to_owned(), |flag| flag.to_string());
        let (shift, mmap) = flags;
        options.push((spelled("use_mmap", &escaped), text(mmap)));
        expected.extend(shift.map(|shift| format!("shift={shift}")));
        expected.extend(mmap.map(|mmap| format!("use_mmap={mmap}")));
        let body = object(&[
            (own_key("model", &escaped), "\"m\"".into()),
            (own_key("options", &escaped), object(&options, turns.0, blank)),
            (own_key("shift", &escaped), text(shift)),
            ("\"x\"".into(), "{}".into()),
        ], turns.1, blank);
        let call = if is_chat { chatted(&body) } else { generated(&body) };
        prop_assert_eq!(call.load_options, expected.join(";"), "{}", body);
    }

    #[test]
    fn a_conversation_is_its_beginning(
        systems in proptest::collection::vec(".{0,90}", 0..3),
        user in ".{0,200}",
        tails in proptest::collection::vec(proptest::collection::vec((select(&["user", "assistant", "tool"][..]), ".{0,9}"), 0..4), 2),
        escaped in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 1..9), 2),
        (turn, blank, at, changed) in (any::<Index>(), select(&["", " \n"][..]), any::<Index>(), ".{0,90}"),
    ) {
        let opening = |systems: &[String], user: &str| -> Vec<(String, String)> {
            let systems = systems.iter().map(|text| ("system".to_owned(), text.clone()));
            systems.chain([("user".to_owned(), user.to_owned())]).collect()
        };
        let body = |opening: &[(String, String)], which: usize| {
            let tail = tails[which].iter().map(|(role, text)| ((*role).to_owned(), text.clone()));
            let escaped = &escaped[which];
            let messages: Vec<String> = opening.iter().cloned().chain(tail).map(|(role, text)| object(&[
                (own_key("role", escaped), own_key(&role, escaped)),
                (own_key("content", escaped), spelled(&text, escaped)),
            ], turn, blank)).collect();
            object(&[
                (own_key("model", escaped), own_key("m", escaped)),
                (own_key("messages", escaped), format!("[{}]", messages.join(","))),
            ], turn, blank)
        };
        let first = opening(&systems, &user);
        let number = chatted(&body(&first, 0)).conversation;
        prop_assert_ne!(number, 0);
        prop_assert_eq!(number, chatted(&body(&first, 1)).conversation);
        let mut other = first.clone();
        let at = at.index(other.len());
        other[at].1.clone_from(&changed);
        prop_assert_eq!(other == first, number == chatted(&body(&other, 1)).conversation, "{:?}", other);
    }
}
