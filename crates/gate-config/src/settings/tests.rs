use super::*;

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn from_file(text: &str) -> Result<Settings, Complaints> {
    Settings::gather(Some(("gate.toml", text)), [], [])
}

fn typed(settings: &Settings, key: &str) -> (String, String) {
    let typed = settings.typed(key).unwrap();
    (typed.text.clone(), typed.source.to_string())
}

/// The lines of what is wrong with this file.
fn wrong(text: &str) -> Vec<String> {
    let complaints = from_file(text).and_then(|settings| Plan::new(&settings)).unwrap_err();
    complaints.0.iter().map(ToString::to_string).collect()
}

#[test]
fn later_layers_replace_earlier_ones() {
    let file = Some(("gate.toml", "timeout = 1\nworkers = 2\nkeep_alive = 2\nbind = [':1', ':2']\n"));
    let env = pairs([("OLLAMA_GATE_WORKERS", "3"), ("OLLAMA_GATE_KEEP_ALIVE", "3"), ("HOME", "/root")]);
    let flags = pairs([("keep_alive", "4"), ("bind", ":3"), ("bind", ":4")]);
    let settings = Settings::gather(file, env, flags).unwrap();
    for (key, text, source) in [
        ("backlog", "2048", "default"),
        ("timeout", "1", "gate.toml:1"),
        ("workers", "3", "environment variable OLLAMA_GATE_WORKERS"),
        ("keep_alive", "4", "command line"),
        ("bind", ":3,:4", "command line"),
    ] {
        assert_eq!(typed(&settings, key), (text.to_owned(), source.to_owned()), "{key}");
    }
}

#[test]
fn a_list_from_above_replaces_the_whole_list() {
    let file = Some(("gate.toml", "bind = [':1', ':2']\nforwarded_allow_ips = '10.0.0.0/8, ::1'"));
    let settings = Settings::gather(file, pairs([("OLLAMA_GATE_BIND", ":5,:6")]), []).unwrap();
    assert_eq!(typed(&settings, "bind").0, ":5,:6");
    assert_eq!(typed(&settings, "forwarded_allow_ips").0, "10.0.0.0/8, ::1");
}

#[test]
fn a_flag_given_twice_counts_once_unless_it_is_a_list() {
    let flags =
        pairs([("workers", "2"), ("graceful-timeout", "9"), ("workers", "3"), ("limit", "1/day"), ("limit", "1/hour")]);
    let settings = Settings::gather(None, [], flags).unwrap();
    assert_eq!(typed(&settings, "workers").0, "3");
    assert_eq!(typed(&settings, "graceful_timeout").0, "9");
    assert_eq!(typed(&settings, "limit").0, "1/day,1/hour");
}

#[test]
fn every_toml_type_is_taken_by_its_text() {
    let settings = from_file(
        "workers = 0x2\nbacklog = 1_000\nreuse_port = true\ndemo = 'no'\nmax_body = 1024\nlimit_headers = 1\nuser = 1000\n\
         limit = ['10/minute', '100/hour']\nforwarded_allow_ips = []\nmodel = '''qwen3'''",
    )
    .unwrap();
    for (key, text) in [
        ("workers", "2"),
        ("backlog", "1000"),
        ("reuse_port", "true"),
        ("demo", "no"),
        ("max_body", "1024"),
        ("limit_headers", "1"),
        ("user", "1000"),
        ("limit", "10/minute,100/hour"),
        ("forwarded_allow_ips", ""),
        ("model", "qwen3"),
    ] {
        assert_eq!(typed(&settings, key).0, text, "{key}");
    }
}

#[test]
fn ollama_host_is_only_the_default_of_upstream() {
    let host = |value: &str| pairs([("OLLAMA_HOST", value)]);
    let settings = Settings::gather(None, host(" '10.0.0.7' "), []).unwrap();
    let expected = ("10.0.0.7".to_owned(), "environment variable OLLAMA_HOST".to_owned());
    assert_eq!(typed(&settings, "upstream"), expected);
    for empty in ["", " ", "\"\""] {
        let settings = Settings::gather(None, host(empty), []).unwrap();
        assert_eq!(typed(&settings, "upstream").1, "default", "{empty:?}");
    }
    let file = Some(("gate.toml", "upstream = '10.0.0.8'"));
    let settings = Settings::gather(file, host("https://unused"), []).unwrap();
    assert_eq!(typed(&settings, "upstream").1, "gate.toml:1");
}

#[test]
fn sockets_that_were_handed_over_are_only_the_default_of_bind() {
    let handed = |more: Option<(&str, &str)>| {
        let more = more.map(|(name, value)| (name.to_owned(), value.to_owned()));
        pairs([("LISTEN_FDS", "fd://3,fd://web")]).into_iter().chain(more)
    };
    let settings = Settings::gather(None, handed(None), []).unwrap();
    let expected = ("fd://3,fd://web".to_owned(), "environment variable LISTEN_FDS".to_owned());
    assert_eq!(typed(&settings, "bind"), expected);
    let file = Some(("gate.toml", "bind = ':1'"));
    assert_eq!(typed(&Settings::gather(file, handed(None), []).unwrap(), "bind").1, "gate.toml:1");
    let ours = handed(Some(("OLLAMA_GATE_BIND", ":2")));
    assert_eq!(typed(&Settings::gather(None, ours, []).unwrap(), "bind").0, ":2");
    let flag = Settings::gather(None, handed(None), pairs([("bind", ":3")])).unwrap();
    assert_eq!(typed(&flag, "bind"), (":3".to_owned(), "command line".to_owned()));
    for count in ["2", "", "0"] {
        let settings = Settings::gather(None, pairs([("LISTEN_FDS", count)]), []).unwrap();
        assert_eq!(typed(&settings, "bind").1, "default", "{count:?}");
    }
}

#[test]
fn one_run_names_everything_that_is_wrong() {
    let file = Some(("gate.toml", "workers = 'many'\nlimmit = 1\nbacklog = = 3\ntimeout = '9d'\n"));
    let env = pairs([("OLLAMA_GATE_LIMITS", "1/day"), ("OLLAMA_GATE_API_LIMIT", "10/min")]);
    let flags = pairs([("max_body", "8MB")]);
    let complaints = Settings::gather(file, env, flags).unwrap_err();
    let text = complaints.to_string();
    assert_eq!(text.lines().count(), complaints.0.len(), "{text}");
    assert_eq!(complaints.0.len(), 7, "{text}");
    for start in [
        "gate.toml:1: workers = \"many\": write a whole number from 1 to 64, or `auto`",
        "gate.toml:2: limmit = \"1\": no such key; did you mean `limit`?",
        "gate.toml:3: \"backlog = = 3\": not TOML: ",
        "gate.toml:4: timeout = \"9d\": write a time from 1ms to 24h",
        "environment variable OLLAMA_GATE_LIMITS: OLLAMA_GATE_LIMITS = \"1/day\": no such variable; did you mean `OLLAMA_GATE_LIMIT`?",
        "environment variable OLLAMA_GATE_API_LIMIT: api_limit = \"10/min\": `min` is no unit",
        "command line: max_body = \"8MB\": write a size from 1KiB to 1GiB",
    ] {
        assert!(text.lines().any(|line| line.starts_with(start)), "{start}\nnot in\n{text}");
    }
}

#[test]
fn unknown_names_are_answered_with_known_ones() {
    for (key, remedy) in [
        ("Workers", "did you mean `workers`?"),
        ("graceful-timeout", "did you mean `graceful_timeout`?"),
        ("pidfile", "did you mean `pid`?"),
        ("loglevel", "did you mean `log_level`?"),
        ("limit_request_line", "did you mean `max_path`?"),
        ("colour", "`ollama-gate --help` lists them"),
        ("check_config", "write `--check-config` on the command line"),
    ] {
        let lines = wrong(&format!("{key} = 1"));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].ends_with(remedy), "{lines:?}");
    }
    let env = pairs([("OLLAMA_GATE_CONFIG", "x"), ("OLLAMA_GATE_", "x"), ("OLLAMA_GATE_workers", "x")]);
    let lines = Settings::gather(None, env, []).unwrap_err().to_string();
    for remedy in ["write `--config` on the command line", "--help` lists them", "did you mean `OLLAMA_GATE_WORKERS`?"]
    {
        assert!(lines.lines().any(|line| line.ends_with(remedy)), "{lines}");
    }
    let flags = Settings::gather(None, [], pairs([("wrokers", "1")])).unwrap_err().to_string();
    assert_eq!(flags, "command line: wrokers = \"1\": no such key; did you mean `workers`?");
}

#[test]
fn shapes_that_a_key_cannot_have() {
    for (text, remedy) in [
        ("workers = [1, 2]", "write one value, not a list"),
        ("[server]\nworkers = 1", "the file has no tables"),
        ("workers.max = 1", "the file has no tables"),
        ("workers = { max = 1 }", "the file has no tables"),
        ("bind = [[':1']]", "the file has no tables"),
        ("workers = 1.5", "write a whole number"),
        ("workers = 2026-11-23", "write a whole number"),
        ("timeout = 0.5", "write a time from 1ms"),
        ("workers = 99999999999999999999999999999999999999999", "write a whole number"),
        ("bind = []", "write at least one address"),
    ] {
        let lines = wrong(text);
        assert_eq!(lines.len(), 1, "{text}: {lines:?}");
        assert!(lines[0].contains(remedy), "{text}: {lines:?}");
    }
}

#[test]
fn a_broken_line_is_told_once_and_hides_no_other() {
    for (text, line) in [
        ("workers = 'many\nlimmit = 1", 1),
        ("workers\nlimmit = 1", 1),
        ("workers =\nlimmit = 1", 1),
        ("workers = 1 2\nlimmit = 1", 1),
        ("limmit = 1\n= 3", 2),
        ("limmit = 1\nworkers = \"\\q\"", 2),
        ("workers = \nlimmit = 1\nbacklog = 3", 1),
        ("limmit = 1\nbind = [':1',\n':2'\nworkers = 1", 4),
        ("limmit = 1\nworkers = 1\nworkers = 2", 3),
    ] {
        let lines = wrong(text);
        assert_eq!(lines.len(), 2, "{text:?}: {lines:#?}");
        assert!(lines[0].starts_with(&format!("gate.toml:{line}: ")) && lines[0].contains("not TOML"), "{lines:#?}");
        assert!(lines[1].contains("did you mean `limit`"), "{lines:#?}");
    }
}

#[test]
fn a_file_of_nothing_but_mistakes_is_answered_in_full() {
    assert_eq!(wrong(&"= 1\n".repeat(20_000)).len(), 20_000);
    let keys: Vec<String> = (0..2_000).map(|number| format!("nobody_knows_{number} = 1")).collect();
    assert_eq!(wrong(&keys.join("\n")).len(), 2_000);
}

#[test]
fn an_oversized_file_is_refused_unread() {
    let lines = wrong(&"# x\n".repeat(65_537));
    assert_eq!(lines, ["gate.toml: \"\": the file is too large: at most 262144 bytes"]);
}

#[test]
fn unknown_keys_are_not_typed() {
    assert_eq!(Settings::default().typed("limmit"), None);
}
