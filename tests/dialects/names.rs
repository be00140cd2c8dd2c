//! For any body that the gate lets through on any route, the model that policy saw is the one that the backend reads.
//!
//! The backend's reading is of another make: as Go's `encoding/json` fills a struct, keys without regard to case, of
//! duplicates the last. It knows nothing of the gate's own reading.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::stage::{Keys, Kind, WAYS, Way, by, config, gate};
use crate::support::http::Client;
use crate::support::sim::Backend;
use crate::support::{Dir, wait_for};

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

/// As Go folds the names of fields: two letters outside ASCII are the same as two in it.
fn folded(key: &str) -> String {
    let letters = key.chars().map(|letter| match letter {
        'ſ' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    letters.collect()
}

impl Members {
    /// What a struct's field holds in the end: nulls leave it as it is.
    fn field(&self, name: &str) -> String {
        let mut values = self.0.iter().filter(|(key, value)| folded(key) == name && !value.is_null());
        values.next_back().and_then(|(_, value)| value.as_str()).unwrap_or("").to_owned()
    }
}

/// The models that Ollama uses for this body, in the form in which it lists them.
fn used(way: Way, body: &str) -> Vec<String> {
    let members: Members = serde_json::from_str(body).unwrap_or_else(|error| panic!("{way:?}: {error}: {body}"));
    let or_name = || match members.field("model") {
        model if model.is_empty() => members.field("name"),
        model => model,
    };
    let all = match way.name {
        "show" | "pull" | "delete" | "push" => vec![or_name()],
        "create" => match members.field("from") {
            // Made from files.
            from if from.is_empty() => vec![or_name()],
            from => vec![or_name(), from],
        },
        "copy" => vec![members.field("source"), members.field("destination")],
        _ => vec![members.field("model")],
    };
    all.iter().map(|name| listed(name)).collect()
}

/// Blanks around it and the word for what is not the cloud's do not count; nor do letters' cases, or the tag that is meant
/// where none is named.
fn listed(name: &str) -> String {
    let name = name.trim().to_lowercase();
    let name = name.strip_suffix(":local").unwrap_or(&name).trim();
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

/// Numbers that follow from a seed, so that a failure can be had again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % sides as u64) as usize
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.roll(all.len())]
    }
}

/// The models that the key may use.
const MAY: [&str; 3] = ["m:latest", "n:1b", "made:latest"];

/// Ways to write those, and ones that it may not use.
const NAMES: [&str; 22] = [
    "m",
    "m",
    "m:latest",
    "M",
    " m ",
    "m:local",
    "m:LOCAL",
    "n:1b",
    "N:1B",
    "\\u006d",
    "n\\u003a1b",
    "n",
    "m:1b",
    "secret",
    "secret:latest",
    "m:cloud",
    "library/m",
    "registry.ollama.ai/library/m:latest",
    "x/m",
    "m\\u0000",
    "",
    "m\\/../secret",
];

/// Ways to write the name of a field, right and wrong.
fn spelled(dice: &mut Dice, key: &str) -> String {
    match dice.roll(8) {
        0 => key.to_uppercase(),
        1 => format!("{}{}", key[..1].to_uppercase(), &key[1..]),
        2 => format!("\\u{:04x}{}", key.as_bytes()[0], &key[1..]),
        3 => key.replace('s', "ſ"),
        4 => format!(" {key}"),
        _ => key.to_owned(),
    }
}

/// A body for this route with names in whatever way; most are such as clients send.
fn body(dice: &mut Dice, way: Way) -> String {
    let Value::Object(plain) = way.body("?", "hi") else { unreachable!("bodies are objects") };
    let naming = ["model", "source", "destination", "from"];
    let (blank, mut members) = (dice.of(&["", "", " ", "\n\t"]), Vec::new());
    for (key, value) in &plain {
        if naming.contains(&key.as_str()) {
            members.push(format!("\"{}\"{blank}:{blank}\"{}\"", spelled(dice, key), dice.of(&NAMES)));
        } else {
            members.push(format!("\"{key}\":{value}"));
        }
    }
    // Further members, some of which a reader may take for the name.
    for _ in 0..dice.roll(3) {
        let key = dice.of(&["model", "name", "MODEL", "from", "x", "Source", "destination", "options", "model "]);
        let value = match dice.roll(5) {
            0 => "null".to_owned(),
            1 => "{\"model\":\"secret\"}".to_owned(),
            _ => format!("\"{}\"", dice.of(&NAMES)),
        };
        members.insert(dice.roll(members.len() + 1), format!("\"{}\":{value}", spelled(dice, key)));
    }
    let tail = dice.of(&["", "", "", "", "\n", " {\"model\":\"secret\"}", "]"]);
    format!("{blank}{{{blank}{}{blank}}}{tail}", members.join(","))
}

const SEED: u64 = 0x0011_a3a5_1ea5;

const CASES: usize = 3000;

#[test]
fn the_model_that_policy_saw_is_the_model_that_the_backend_reads() {
    let (keys, dir) = (Keys::new(), Dir::new());
    let key = keys.make("ada", "--routes infer,read,manage --models m,n:1b,made");
    let models = ["m:latest", "n:1b", "secret:latest"];
    let backend = Backend::start(ollama_sim::Config { recorded: 2 * CASES, ..config(&models) });
    let log = dir.path("access.log");
    let access = format!("--access-log={}", log.display());
    let gate = gate(&backend.url(), &[&keys.flag(), &access]).start();
    let ways: Vec<Way> = WAYS.into_iter().filter(|way| !matches!(way.name, "article" | "model")).collect();
    let (mut dice, mut client) = (Dice(SEED), Client::connect(gate.address()));
    let mut statuses: HashMap<(&str, u16), usize> = HashMap::new();
    for case in 0..CASES {
        let way = ways[case % ways.len()];
        let request = by(&key, &way.with(&body(&mut dice, way), "")).header("X-Request-Id", &format!("case-{case}"));
        let status = client.ask(&request).unwrap_or_else(|error| panic!("case {case}, {way:?}: {error}")).status;
        *statuses.entry((way.name, status)).or_default() += 1;
    }
    let last = format!("\"case-{}\"", CASES - 1);
    let lines = wait_for("the last line of the access log", || {
        std::fs::read_to_string(&log).ok().filter(|text| text.contains(&last) && text.ends_with('\n'))
    });
    let logged: HashMap<String, Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| (line["id"].as_str().unwrap().to_owned(), line["model"].clone()))
        .collect();
    let requests = backend.sim.counters().last_requests;
    let mut passed: HashMap<&str, usize> = HashMap::new();
    for request in requests.iter().filter(|request| request.method != "GET") {
        let id = request.header("x-request-id").unwrap();
        let way = ways.iter().find(|way| way.path == request.target && way.method == request.method).unwrap();
        *passed.entry(way.name).or_default() += 1;
        let used = used(*way, &request.body);
        for model in &used {
            let plain = model.trim_start_matches("registry.ollama.ai/").trim_start_matches("library/");
            assert!(MAY.contains(&plain), "{id}: {model} is used on {way:?}: {}", request.body);
        }
        assert_eq!(listed(logged[id].as_str().unwrap()), used[0], "{id}: {way:?}: {}", request.body);
    }
    // The table is worth something: on each route a good part passed, and a good part did not.
    for way in &ways {
        let all = CASES / ways.len();
        let passed = passed.get(way.name).copied().unwrap_or(0);
        assert!(passed > all / 20 && passed < all * 9 / 10, "{}: {passed} of {all}: {statuses:?}", way.name);
        assert!(way.kind != Kind::Speaks || statuses.contains_key(&(way.name, 200)), "{statuses:?}");
    }
    // A pulled model of the backend's cannot embed, which it says with 501; nothing else has failed.
    let failed: Vec<_> = statuses.iter().filter(|((_, status), _)| *status >= 500 && *status != 501).collect();
    assert!(failed.is_empty(), "{failed:?}");
}
