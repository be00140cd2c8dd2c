use proptest::prelude::*;

use super::*;

const SALT: &str = "000102030405060708090a0b0c0d0e0f";
const HASH: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

fn line(id: &str, rest: &str) -> String {
    format!("{id} {SALT} {HASH} {rest}\n")
}

fn wrong(text: &str) -> Vec<String> {
    parse(text).expect_err(text).told("keys")
}

#[test]
fn a_line_is_read_as_it_is_documented() {
    let text = format!(
        "# who may ask\n\n{}\t{}\r\n{}",
        line(
            "0123456789ab",
            "ada@example.com 2026-11-23T22:00:00Z 2027-01-01T00:00:00Z models=llama3.2,qwen3:* limit=60/minute"
        ),
        line("zzzzzzzzzzzz", "bob 2026-11-23T22:00:00Z -").trim_end(),
        line("000000000000", "bob 2026-11-23T22:00:00Z - "),
    );
    let file = parse(&text).unwrap();
    assert_eq!(file.policies, ["models=llama3.2,qwen3:* limit=60/minute", ""]);
    assert_eq!((file.lines.len(), file.names, file.windows()), (3, 2, vec![Duration::from_secs(60)]));
    let [ada, bob, more] = &file.lines[..] else { panic!("three lines") };
    assert_eq!((ada.line, id_text(ada.id).as_str(), ada.name), (3, "0123456789ab", "ada@example.com"));
    assert_eq!((ada.created, ada.expires), (1_795_471_200, 1_798_761_600));
    assert_eq!((ada.salt[15], ada.digest[0], ada.digest[31]), (0x0f, 0, 0xff));
    assert_eq!((bob.id, bob.expires, bob.policy, more.policy), ((1 << 60) - 1, 0, 1, 1));
    assert_eq!(file.meanings[1], Policy::default());
    assert_eq!(time_text(ada.expires), "2027-01-01T00:00:00Z");
    assert_eq!(parse("").unwrap(), KeyFile::default());
}

#[test]
fn everything_that_is_wrong_is_told_with_its_line() {
    let good = "bob 2026-11-23T22:00:00Z -";
    let text = [
        "0123456789ab\n".to_owned(),
        line("0123456789al", good),
        line("0123456789ab", "b/b 2026-11-23T22:00:00Z -"),
        line("0123456789ac", "bob 2026-11-23 -"),
        line("0123456789ad", "bob 2026-11-23T22:00:00Z 2026-13-23T22:00:00Z"),
        line("0123456789ae", "bob 2026-11-23T22:00:00Z - limmit=1/day weight=0 weight=2 60/minute"),
        format!("0123456789af {} {} {good}\n", &SALT[1..], HASH.replace('f', "g")),
        line("0123456789ab", good),
        line("0123456789ag", &format!("{} 2026-11-23T22:00:00Z -", "x".repeat(65))),
        line("0123456789ah", "bob 2026-11-23T22:00:00+01:00 never"),
    ]
    .concat();
    let lines = wrong(&text);
    for start in [
        "keys:1: a line has at least six words: ID SALT HASH NAME CREATED EXPIRES",
        "keys:2: ID: ",
        "keys:3: NAME: ",
        "keys:4: CREATED: ",
        "keys:5: EXPIRES: ",
        "keys:6: limmit=1/day: no such word; did you mean `limit`?",
        "keys:6: weight=0: write a whole number from 1 to 100",
        "keys:6: write `weight` only once",
        "keys:6: `60/minute`: write NAME=VALUE",
        "keys:7: SALT: ",
        "keys:7: HASH: ",
        "keys:8: 0123456789ab stands in line 3 already",
        "keys:9: NAME: ",
        "keys:10: CREATED: ",
        "keys:10: EXPIRES: ",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(start)), "{start}\nnot in\n{lines:#?}");
    }
    assert_eq!(lines.len(), 15, "{lines:#?}");
    assert!(!lines.concat().contains(&SALT[2..]) && !lines.concat().contains(&HASH[1..10]), "{lines:#?}");
}

#[test]
fn lines_of_one_name_count_alike() {
    let file = |policies: &[&str]| -> String {
        let lines = (1..).zip(policies).map(|(id, policy)| {
            let (name, policy) = policy.split_once(':').unwrap();
            line(&id_text(id), &format!("{name} 2026-11-23T22:00:00Z - {policy}"))
        });
        lines.collect()
    };
    for good in [
        &["ada:limit=60/minute models=a", "bob:limit=2/minute", "ada:models=b limit=60per1minute weight=2"][..],
        &["ada:", "ada:num_ctx=4096 routes=chat"],
    ] {
        assert_eq!(parse(&file(good)).map(|file| file.lines.len()), Ok(good.len()), "{good:?}");
    }
    for differs in ["limit=2/minute", "tokens=1/day limit=1/minute", "concurrency=1 limit=1/minute", ""] {
        let said = wrong(&file(&["ada:limit=1/minute", "bob:", &format!("ada:{differs}")]));
        assert_eq!(said, ["keys:3: line 1 is of ada too: write the same limit, tokens and concurrency in both"]);
    }
}

#[test]
fn only_the_first_faults_are_told() {
    let lines = wrong(&"x\n".repeat(100_000));
    assert_eq!((lines.len(), lines[20].as_str()), (21, "keys: and 99980 more"));
    let policy = |number: u32| line(&id_text(u64::from(number)), "bob 2026-11-23T22:00:00Z - weight=0");
    let same: String = (0..50).map(policy).collect();
    assert_eq!(wrong(&same), ["keys:1: weight=0: write a whole number from 1 to 100"], "one policy, one fault");
}

#[test]
fn there_is_a_bound_on_keys() {
    let all = |keys: u64| -> String { (0..keys).map(|id| line(&id_text(id), "b 2026-11-23T22:00:00Z -")).collect() };
    assert_eq!(parse(&all(KEYS_MAX as u64)).unwrap().lines.len(), KEYS_MAX);
    assert_eq!(wrong(&all(KEYS_MAX as u64 + 1)), ["keys: 200001 keys: write at most 200000"]);
}

#[test]
fn debugging_shows_no_hash() {
    let text = line("0123456789ab", "bob 2026-11-23T22:00:00Z -");
    let shown = format!("{:?}", parse(&text).unwrap());
    assert!(shown.contains("0123456789ab bob") && !shown.contains("171") && !shown.contains("aabb"), "{shown}");
}

#[test]
fn policies_say_what_a_key_may_do() {
    let policy = Policy::parse(
        "limit=60/minute,1000/hour tokens=100000/hour concurrency=4 models=llama3.2,qwen3:*,llama3.2 routes=pull,read,chat,tags \
         num_ctx=8192 num_predict=1024 keep_alive=10m images=0 messages=100 weight=2",
    )
    .unwrap();
    let rates = |policy: &Policy| policy.limit.as_ref().map(Vec::len);
    assert_eq!((rates(&policy), policy.tokens[0].amount, policy.concurrency), (Some(2), 100_000, Some(4)));
    assert_eq!(policy.models, ["llama3.2", "qwen3:*"]);
    for list in ["ana/*", "ana/v1.5", "v1.5", "hub.example.com/*/*:*"] {
        assert_eq!(Policy::parse(&format!("models={list}")).unwrap().models, [list]);
    }
    assert_eq!(policy.routes, ["chat", "show", "tags", "ps", "version", "models", "model", "pull"]);
    assert_eq!((policy.num_ctx, policy.num_predict), (Some(8192), Some(1024)));
    assert_eq!((policy.keep_alive, policy.images), (Some(Duration::from_secs(600)), Some(0)));
    assert_eq!((policy.messages, policy.weight), (Some(100), Some(2)));
    let lengths: Vec<u64> = policy.windows().map(|window| window.as_secs()).collect();
    assert_eq!(lengths, [60, 3_600, 3_600]);
    let none = Policy::parse(" ").unwrap();
    assert_eq!((rates(&none), none.tokens.len(), none.routes.len(), none.weight), (None, 0, 16, None));
    assert!(none.routes.contains(&"article") && none.routes.contains(&"ps") && !none.routes.contains(&"pull"));
    assert_eq!(rates(&Policy::parse("limit=none").unwrap()), Some(0));
    assert_eq!(Policy::parse("limit=5per2seconds").unwrap().limit.unwrap()[0].window(), Duration::from_secs(2));
    assert_eq!(Policy::parse("weight=1").unwrap().to_string(), "weight=1", "not the address's");
    assert_eq!(Policy::parse("routes=manage").unwrap().routes.len(), 6);
}

#[test]
fn policies_refuse_what_they_do_not_know() {
    for (text, remedy) in [
        ("limit=60/min", "`min` is no unit"),
        ("tokens=", "write a rate"),
        ("tokens=1000000001/day", "at most 1000000000"),
        ("concurrency=1025", "from 1 to 1024"),
        ("models=", "leave the word out"),
        ("models=a,,b", "llama3.2,qwen3:*"),
        ("models=a\"b", "llama3.2,qwen3:*"),
        ("models=a,hub.example.com/*", "write hub.example.com/*/*, or hub.example.com/*/*:*"),
        ("routes=", "infer, read, manage"),
        ("routes=chat,pul", "no route is called `pul`; did you mean `pull`?"),
        ("routes=signout", "no route is called `signout`; write infer"),
        ("routes=Chat", "did you mean `chat`?"),
        ("num_ctx=0", "from 1 to 2147483647"),
        ("keep_alive=0", "from 1ms to 24h"),
        ("keep_alive=-1", "from 1ms to 24h"),
        ("images=1025", "from 0 to 1024"),
        ("messages=0", "from 1 to 100000"),
        ("weight=101", "from 1 to 100"),
        ("colour=1", "there are `limit`, `tokens`"),
        ("limit", "NAME=VALUE"),
    ] {
        let said = Policy::parse(text).unwrap_err();
        assert!(said.0.len() == 1 && said.to_string().contains(remedy), "{text}: {said}");
    }
    assert_eq!(Policy::parse("limit=x weight=x colour=x").unwrap_err().0.len(), 3);
}

proptest! {
    #[test]
    fn numbers_and_their_texts_are_one(id in 0..1u64 << 60) {
        prop_assert_eq!(id_of(&id_text(id)), Some(id));
    }

    #[test]
    fn times_are_those_of_the_calendar(time in 1..=u32::MAX, text in "(19[67]|20[0-9]|21[01])[0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-5][0-9]Z") {
        prop_assert_eq!(seconds(&time_text(time)), Some(time));
        let parsed = text.parse::<Timestamp>().ok().and_then(|time| u32::try_from(time.as_second()).ok());
        prop_assert_eq!(seconds(&text), parsed.filter(|seconds| *seconds > 0), "{}", text);
    }

    #[test]
    fn any_file_is_answered(text in "([0-9a-z:/.,*=# -]{0,40}|\\PC{0,20}|\n){0,8}") {
        if let Err(faults) = parse(&text) {
            prop_assert!(faults.told("x").iter().all(|line| !line.contains('\n')));
        }
    }

    #[test]
    fn policies_print_as_they_are_read(
        words in proptest::collection::hash_set(0..WORDS.len(), 0..WORDS.len()),
        number in 1..100u32,
        rate in "([1-9]/(2|)(minute|hours|day)){1,1}(,[1-9]per5seconds)?|none",
        names in "(chat|ps|infer|manage|blobs)(,(tags|read|copy))?",
        model in "[a-z*][a-z0-9.:*]{0,6}(,hub\\.example\\.com/[a-z]/x:\\*)?",
    ) {
        let value = |word: &str| match word {
            "limit" | "tokens" => rate.clone(),
            "models" => model.clone(),
            "routes" => names.clone(),
            "keep_alive" => format!("{number}m"),
            _ => number.to_string(),
        };
        let text: Vec<String> = words.iter().map(|word| format!("{}={}", WORDS[*word], value(WORDS[*word]))).collect();
        let policy = Policy::parse(&text.join(" ")).unwrap();
        prop_assert_eq!(Policy::parse(&policy.to_string()), Ok(policy));
    }
}
