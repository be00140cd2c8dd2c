//! For any body that passes, a reader of another make finds the model that policy saw.
//!
//! It reads as Go's `encoding/json` fills a struct: keys without regard to case, of duplicates the last. It is built on
//! `serde_json` and knows nothing of the gate's own reading.

use std::fmt;

use proptest::prelude::*;
use proptest::sample::select;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::route;
use crate::call::{Source, judge};

/// The members of an object in their order, duplicates included.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(InOrder)
    }
}

fn folded(key: &str) -> String {
    let letters = key.chars().map(|letter| match letter {
        'ſ' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    letters.collect()
}

impl Members {
    /// The string that a struct's field holds in the end: nulls leave it as it is.
    fn field(&self, name: &str) -> String {
        let mut values = self.0.iter().filter(|(key, value)| folded(key) == name && !value.is_null());
        values.next_back().and_then(|(_, value)| value.as_str()).unwrap_or("").to_owned()
    }
}

/// What Ollama runs: the name without blanks and `:local`; of its cloud's, with `cloud` where the name has no tag.
fn referred(sent: &str) -> (String, Source) {
    let sent = sent.trim();
    let Some((base, tag)) = sent.rsplit_once(':') else { return (sent.to_owned(), Source::Local) };
    let tag = tag.trim();
    let lower = tag.to_lowercase();
    let base = match &*lower {
        "local" => return (base.to_owned(), Source::Local),
        "cloud" => base.to_owned(),
        other if other.ends_with("-cloud") && !other.contains('/') => format!("{base}:{}", &tag[..tag.len() - 6]),
        _ => return (sent.to_owned(), Source::Local),
    };
    let tagged = base.rsplit('/').next().is_some_and(|last| last.contains(':'));
    (if tagged { format!("{base}-cloud") } else { format!("{base}:cloud") }, Source::Cloud)
}

/// The models that Ollama would use for a body of this route.
fn read(route: &str, members: &Members) -> Vec<String> {
    let or_name = || match members.field("model") {
        model if model.is_empty() => members.field("name"),
        model => model,
    };
    match route {
        "show" | "pull" | "delete" => vec![referred(&or_name()).0],
        "push" => vec![or_name()],
        "create" => match members.field("from") {
            from if from.is_empty() => vec![or_name()],
            from => vec![or_name(), referred(&from).0],
        },
        "copy" => vec![members.field("source"), members.field("destination")],
        _ => vec![referred(&members.field("model")).0],
    }
}

const ROUTES: [&str; 15] = [
    "generate",
    "chat",
    "embed",
    "embeddings",
    "show",
    "pull",
    "push",
    "create",
    "copy",
    "delete",
    "chat_completions",
    "completions",
    "v1_embeddings",
    "responses",
    "messages",
];

const NAMES: [&str; 20] = [
    "m",
    "M:1b",
    " m ",
    "m:local",
    "m:LOCAL ",
    "m:cloud",
    "m:1b-Cloud",
    "m: 1b-cloud",
    "h/n/m:cloud",
    "n/m",
    "",
    "hf.co/n/m:q4",
    "http://h:80/n/m",
    "m:cloud:local",
    "m:local:1b",
    "\\u006d",
    "m\\u003acloud",
    "registry.ollama.ai/library/m",
    "m\\n",
    "x",
];

const KEYS: [&str; 12] =
    ["model", "MODEL", "mod\\u0065l", "Model", "name", "NAME", "source", "ſource", "destination", "from", "x", "mode"];

/// What a route needs beside the names.
fn filling(route: &str) -> &'static str {
    match route {
        "chat" | "chat_completions" => r#","messages":[{"role":"user","content":"a"}]"#,
        "messages" => r#","messages":[{"role":"user","content":"a"}],"max_tokens":3"#,
        "embed" | "v1_embeddings" | "responses" => r#","input":"a""#,
        _ => "",
    }
}

fn check(route_name: &str, body: &str) -> Result<bool, TestCaseError> {
    let Ok(call) = judge(&route(route_name), body.as_bytes()) else { return Ok(false) };
    let members: Members = match serde_json::from_str(body) {
        Ok(members) => members,
        // Half a surrogate pair is a letter to Go, and an ignored number may have any size; both are faults here.
        Err(why) if ["surrogate", "hex escape", "out of range"].iter().any(|fault| why.to_string().contains(fault)) => {
            return Ok(false);
        }
        Err(why) => return Err(TestCaseError::fail(format!("{route_name} {body}: {why}"))),
    };
    let mut seen = vec![call.model];
    seen.extend(call.others);
    prop_assert_eq!(&seen, &read(route_name, &members), "{} {}", route_name, body);
    let is_cloud = |name: &String| referred(name).1 == Source::Cloud;
    prop_assert_eq!(call.source == Source::Cloud, seen.iter().any(is_cloud), "{} {}", route_name, body);
    Ok(true)
}

/// The property below says something only of bodies that pass.
#[test]
fn bodies_pass() {
    for route in ROUTES {
        let names = match route {
            "copy" => r#""source":"m","destination":"n""#,
            "create" => r#""MODEL":"m","from":"n:local""#,
            _ => r#""Model":"m:1b""#,
        };
        assert!(check(route, &format!("{{{names}{}}}", filling(route))).unwrap(), "{route}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_model_that_policy_saw(
        route in select(&ROUTES[..]),
        members in proptest::collection::vec((select(&KEYS[..]), select(&NAMES[..]), 0_usize..12), 1..4),
        is_first: bool,
    ) {
        let members: Vec<String> = members.iter().map(|(key, name, kind)| match kind {
            0 => format!("\"{key}\":null"),
            1 => format!("\"{key}\":{{\"model\":\"{name}\"}}"),
            _ => format!("\"{key}\":\"{name}\""),
        }).collect();
        let (members, filling) = (members.join(","), filling(route));
        let body = if is_first || filling.is_empty() {
            format!("{{{members}{filling}}}")
        } else {
            format!("{{{},{members}}}", &filling[1..])
        };
        check(route, &body)?;
    }

    /// Recorded bodies, changed anywhere.
    #[test]
    fn the_model_of_any_body(
        line in 0_usize..1973,
        (at, len) in (0_usize..120, 0_usize..4),
        with in "[\\[\\]{}:,\"\\\\u0-9a-emolMODEL \n.+-]{0,5}",
    ) {
        let line: Value = serde_json::from_str(super::RECORDED.lines().nth(line).unwrap()).unwrap();
        let mut body: Vec<char> = line["body"].as_str().unwrap().chars().collect();
        let at = at.min(body.len());
        let end = (at + len).min(body.len());
        body.splice(at..end, with.chars());
        check(line["route"].as_str().unwrap(), &body.into_iter().collect::<String>())?;
    }
}
