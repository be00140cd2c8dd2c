//! What command lines mean, and what becomes of a file's text. Files and gates are in the process tests.

use gate_config::keyfile::{id_of, parse};

use super::*;

/// The first of the file's keys.
const NOW: u32 = 1_795_471_200;

fn file(lines: &[&str]) -> String {
    let (salt, hash) = ("5a".repeat(16), "a5".repeat(32));
    let line = |(number, rest): (u64, &&str)| format!("{} {salt} {hash} {rest}\n", id_text(number));
    (0..).zip(lines).map(line).collect()
}

fn of(line: &str) -> Result<Errand, clap::Error> {
    let matches = definition().try_get_matches_from(["key"].into_iter().chain(line.split(' ')))?;
    Errand::of(&matches)
}

#[test]
fn the_definition_holds_together() {
    definition().debug_assert();
}

#[test]
fn command_lines_become_tasks() {
    let task = |line: &str| of(line).map_err(|error| panic!("{line}: {error}")).unwrap().task;
    let policy = "limit=60per1minute;1000/hour concurrency=4 models=a,b:* num_ctx=8192 keep_alive=10m";
    let line = "new --name ada --limit 60\tper\t1\tminute;1000/hour --models a,\tb:* --concurrency 4 --num-ctx 8192 \
                --keep-alive 10m --expires 90d";
    let expires = Some(Expiry::After(7_776_000));
    assert_eq!(task(line), Task::New { name: "ada".into(), policy: policy.into(), expires });
    assert_eq!(task("new --name a"), Task::New { name: "a".into(), policy: String::new(), expires: None });
    assert_eq!(task("list"), Task::List(Form::Text));
    assert_eq!(task("list --json"), Task::List(Form::Json));
    assert_eq!(task("revoke a b"), Task::Revoke(vec!["a".into(), "b".into()]));
    assert_eq!(task("rotate a"), Task::Rotate { name: "a".into(), grace: 86_400, expires: None });
    assert_eq!(task("rotate a --grace 0"), Task::Rotate { name: "a".into(), grace: 0, expires: None });
    let places = of("list --keys k -c f --control s").unwrap();
    assert_eq!([places.keys, places.config, places.control], ["k", "f", "s"].map(|path| Some(path.into())));
    for (line, part) in [
        ("", "Usage"),
        ("new", "--name"),
        ("new --name a/b", "letters, digits"),
        ("new --name a --weight 0", "weight=0: write a whole number from 1 to 100"),
        ("new --name a --limit x --tokens y", "; tokens=y: write a rate"),
        ("new --name a --routes pul", "did you mean `pull`?"),
        ("new --name a --expires soon", "90d"),
        ("revoke", "ID|NAME"),
        ("rotate a --grace 1", "24h"),
    ] {
        let said = of(line).err().unwrap_or_else(|| panic!("{line}")).to_string();
        assert!(said.contains(part), "{line}: {said}");
    }
}

#[test]
fn a_line_that_is_made_is_a_line_that_is_read() {
    let fresh = Fresh::from_random([7; RANDOM_BYTES]);
    let planned = new(&KeyFile::default(), ("ada", "limit=1/day"), Some(Expiry::After(60)), NOW).unwrap();
    let text = planned.line(&fresh);
    let keys = parse(&text).unwrap();
    let [line] = &keys.lines[..] else { panic!("one line") };
    assert_eq!((line.id, line.salt, line.digest), (fresh.id, fresh.salt, fresh.digest));
    assert_eq!((line.name, line.created, line.expires), ("ada", NOW, NOW + 60));
    assert_eq!(keys.policies, ["limit=1/day"]);
    assert!(!text.contains(&fresh.text[16..]), "no secret in the file");
    // The number stands in the text as it stands in the file, though different crates write it.
    assert_eq!(fresh.text[3..15], text[..12]);
    assert_eq!((id_of(&text[..12]), gate_worker::keys::id_of(&text[..12])), (Some(fresh.id), Some(fresh.id)));
    let plain = new(&KeyFile::default(), ("ada", ""), None, NOW).unwrap().line(&fresh);
    assert!(plain.ends_with(" ada 2026-11-23T22:00:00Z -\n"), "{plain}");
}

#[test]
fn a_rotated_key_may_do_what_the_newest_could_and_the_others_end() {
    let text = file(&[
        "ada 2026-11-01T00:00:00Z - weight=2",
        "ada 2026-11-02T00:00:00Z 2026-11-12T00:00:00Z weight=3",
        "bob 2026-11-03T00:00:00Z - weight=4",
        "ada 2026-11-01T00:00:00Z 2026-11-23T22:00:30Z",
    ]);
    let keys = parse(&text).unwrap();
    let planned = rotated(&keys, ("ada", 60), None, NOW).unwrap();
    assert_eq!((planned.policy.as_str(), planned.expires), ("weight=3", NOW + 10 * 86_400));
    assert_eq!(planned.ends, [(1, NOW + 60)], "those that end before stay as they are");
    assert!(planned.said[0].starts_with(&format!("key {} of ada is good until 2026-11-23T22:01:00Z", id_text(0))));
    assert_eq!(rotated(&keys, ("ada", 0), None, NOW).unwrap().ends, [(1, NOW), (4, NOW)]);
    assert_eq!(rotated(&keys, ("bob", 60), None, NOW).unwrap().expires, 0);
    assert_eq!(rotated(&keys, ("bob", 60), Some(Expiry::At(NOW + 5)), NOW).unwrap().expires, NOW + 5);
    for (name, part) in [("eve", "key new --name eve"), ("ada", "key rotate ada")] {
        let refused =
            if name == "eve" { rotated(&keys, (name, 60), None, NOW) } else { new(&keys, (name, ""), None, NOW) };
        let Err(Fault::Refused(reasons)) = refused else { panic!("{name}") };
        assert!(reasons[0].contains(part), "{reasons:?}");
    }
    assert!(matches!(rotated(&keys, ("ada", 60), Some(Expiry::At(NOW)), NOW), Err(Fault::Refused(_))));
}

#[test]
fn what_is_not_meant_stays_as_it_is() {
    let text = "# who\r\n\n a  b\tc d e - w=1 \r\na b c d e f\nlast";
    assert_eq!(sheet::changed(text, &[], &[]), format!("{text}\n"));
    assert_eq!(sheet::changed(text, &[], &[1, 4, 5]), "\n a  b\tc d e - w=1 \r\n");
    let expected = "# who\r\n\n a  b\tc d e 1970-01-01T00:00:09Z w=1 \r\na b c d e 1970-01-01T00:00:08Z\nlast\n";
    assert_eq!(sheet::changed(text, &[(3, 9), (4, 8)], &[]), expected);
    assert_eq!(sheet::changed("", &[], &[]), "");
}

#[test]
fn windows_that_no_gate_has_room_for_are_refused() {
    let text = file(
        &(1..=17)
            .map(|seconds| format!("n{seconds} 2026-11-01T00:00:00Z - limit=1/{seconds}seconds"))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    );
    let sixteen: String = text.split_inclusive('\n').take(16).collect();
    assert!(few_enough(&parse(&sixteen).unwrap()).is_ok());
    assert!(few_enough(&parse(&text).unwrap()).unwrap_err().to_string().contains("17 different window lengths"));
}
