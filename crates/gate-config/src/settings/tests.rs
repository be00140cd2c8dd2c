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
fn backends_are_joined_by_what_no_model_list_holds() {
    let expected = "http://a models=x,y;http://b slots=2";
    let flags = pairs([("upstream", "http://a models=x,y"), ("upstream", "http://b slots=2")]);
    assert_eq!(typed(&Settings::gather(None, [], flags).unwrap(), "upstream").0, expected);
    let array = "upstream = ['http://a models=x,y', 'http://b slots=2']";
    assert_eq!(typed(&from_file(array).unwrap(), "upstream").0, expected);
    let tables = "[[upstream]]\nmodels = ['x', 'y']\nurl = 'http://a'\n[[upstream]]\nurl = 'http://b'\nslots = 2";
    assert_eq!(typed(&from_file(tables).unwrap(), "upstream").0, expected);
    let plans = [array, tables].map(|text| Plan::new(&from_file(text).unwrap()).unwrap());
    assert_eq!(plans[0], plans[1]);
}

#[test]
fn tables_are_replaced_by_higher_layers() {
    let file = Some(("gate.toml", "slots = 3\n[[upstream]]\nurl = 'nonsense://'\nslots = 0"));
    let settings = Settings::gather(file, pairs([("OLLAMA_GATE_UPSTREAM", "a:1\nb:1 slots=5\n")]), []).unwrap();
    let plan = Plan::new(&settings).unwrap();
    let slots: Vec<(String, u16)> = plan.upstream.iter().map(|upstream| (upstream.url(), upstream.slots)).collect();
    assert_eq!(slots, [("http://a:1".to_owned(), 3), ("http://b:1".to_owned(), 5)]);
}

#[test]
fn faults_in_tables_name_backend_field_and_line() {
    let text = "workers = 2\n\n[[upstream]] # one\nslots = 0\nurl = 'https://a'\n\n  [[upstream]]\nname = 'a b;c'\nurl = \"b\"\n\
                models = ['x', 'y z']\n[[upstream]]\nweight = { is = 2 }\n[[upstream]]\nurl = 'http://b:11434'\nwight = 2\n\
                queue = 3\n\"od d\" = 1\nmodels = [['x']]\n[[upstream]]\n\n\n[[upstream]]\nslots = -1";
    let lines = wrong(text);
    for start in [
        "gate.toml:4: upstream[1].slots = \"0\": write a whole number from 1 to 256",
        "gate.toml:5: upstream[1].url = \"https://a\": https is not there yet",
        "gate.toml:8: upstream[2].name = \"a b;c\": write a name",
        "gate.toml:10: upstream[2].models = \"x,y z\": write a model's name",
        "gate.toml:12: upstream[3].weight = \"\": write one value",
        "gate.toml:11: upstream[3].url = \"\": write http",
        "gate.toml:14: upstream[4].url = \"http://b:11434\": upstream[2] has it already",
        "gate.toml:15: upstream[4].wight = \"2\": a backend has no `wight`; did you mean `weight`?",
        "gate.toml:16: upstream[4].queue = \"3\": `queue` is a key of the gate: write it above the first table",
        "gate.toml:17: upstream[4].od d = \"1\": a backend has no `od d`; it has `url`",
        "gate.toml:18: upstream[4].models = \"\": write one value",
        "gate.toml:19: upstream[5].url = \"\": write http",
        "gate.toml:22: upstream[6] = \"\": the backend's `url` or `dns` is missing",
        "gate.toml:23: upstream[6].slots = \"-1\": write a whole number",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(start)), "{start}\nnot in\n{lines:#?}");
    }
    assert_eq!(lines.len(), 14, "{lines:#?}");
}

#[test]
fn faults_in_texts_name_backend_and_field() {
    for (text, expected) in [
        ("upstream = 'https://a'", "gate.toml:1: upstream = \"https://a\": https"),
        ("upstream = 'a slots=0'", "gate.toml:1: upstream[1].slots = \"0\": write a whole"),
        ("\nupstream = ['a', 'https://b slots=1']", "gate.toml:2: upstream[2] = \"https://b\": https"),
        ("upstream = [{ url = 'https://a' }]", "gate.toml:1: upstream[1].url = \"https://a\": https"),
    ] {
        let lines = wrong(text);
        assert_eq!(lines.len(), 1, "{text}: {lines:?}");
        assert!(lines[0].starts_with(expected), "{text}: {lines:?}");
    }
    let env = Settings::gather(None, pairs([("OLLAMA_GATE_UPSTREAM", "a;b nam=x")]), []).unwrap();
    let line = Plan::new(&env).unwrap_err().to_string();
    let expected = "environment variable OLLAMA_GATE_UPSTREAM: upstream[2].nam = \"x\": a backend has no `nam`";
    assert!(line.starts_with(expected), "{line}");
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
    for several in ["10.0.0.7,10.0.0.8", "10.0.0.7;10.0.0.8", "10.0.0.7 slots=3", "dns=gpu"] {
        let settings = Settings::gather(None, host(several), []).unwrap();
        let complaints = Plan::new(&settings).unwrap_err();
        assert_eq!(complaints.0.len(), 1, "{several}: {complaints}");
        assert!(complaints.to_string().contains("write http://HOST:PORT"), "{several}: {complaints}");
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
        ("[server]\nworkers = 1", "the only tables are [[upstream]]"),
        ("workers.max = 1", "the only tables are [[upstream]]"),
        ("workers = { max = 1 }", "the only tables are [[upstream]]"),
        ("bind = [[':1']]", "the only tables are [[upstream]]"),
        ("workers = 1.5", "write a whole number"),
        ("workers = 2026-11-23", "write a whole number"),
        ("timeout = 0.5", "write a time from 1ms"),
        ("workers = 99999999999999999999999999999999999999999", "write a whole number"),
        ("bind = []", "write at least one address"),
        ("[[server]]\nurl = 'http://a'", "the only tables are [[upstream]]"),
        ("[[bind]]\nurl = 'http://a'", "the only tables are [[upstream]]"),
        ("[upstream]\nurl = 'http://a'", "the only tables are [[upstream]]"),
        ("upstream.url = 'http://a'", "the only tables are [[upstream]]"),
        ("[[upstream.gpu]]\nurl = 'http://a'", "the only tables are [[upstream]]"),
        ("upstream = ['http://a', { url = 'http://b' }]", "the only tables are [[upstream]]"),
        ("[[upstreams]]\nurl = 'http://a'", "did you mean `upstream`?"),
        ("upstream = []", "write at least one backend"),
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
        ("limmit = 1\nbind = [':1',\n':2'\nworkers = 1", 2),
        ("limmit = 1\nbind = [':1',\n':2'\n\n# more\nworkers = 1\nbacklog = 3\nsurge = 2", 2),
        ("limmit = 1\nbind = [\n':1'\n':2'\n]\nworkers = 1", 4),
        ("limmit = 1\nworkers = 1\nworkers = 2", 3),
    ] {
        let lines = wrong(text);
        assert_eq!(lines.len(), 2, "{text:?}: {lines:#?}");
        assert!(lines[0].starts_with(&format!("gate.toml:{line}: ")) && lines[0].contains("not TOML"), "{lines:#?}");
        assert!(lines[1].contains("did you mean `limit`"), "{lines:#?}");
    }
}

#[test]
fn a_broken_line_hides_no_other_among_tables() {
    for (text, broken, others) in [
        // Inside a table.
        ("[[upstream]]\nurl = 'a'\nslots = = 3\nweight = 0", 3, &["4: upstream[1].weight"][..]),
        (
            "[[upstream]]\nurl = 'a\nslots = 0\n[[upstream]]\nweight = 0\nurl = 'b'",
            2,
            &["3: upstream[1].slots", "5: upstream[2].weight"],
        ),
        ("[[upstream]]\nurl = 'a'\nslots\n[[upstream]]\nurl = 'b'\nslots = 0", 3, &["6: upstream[2].slots"]),
        ("[[upstream]]\nurl = 'a'\nslots = 1\nslots = 2\nweight = 0", 4, &["5: upstream[1].weight"]),
        (
            "[[upstream]]\nurl = 'a'\nmodels = ['x',\n'y'\nslots = 0\n[[upstream]]\nurl = 'b'\nslots = 0",
            3,
            &["5: upstream[1].slots", "8: upstream[2].slots"],
        ),
        // Above the tables, and the last line.
        ("limmit = 1\nworkers = \n[[upstream]]\nurl = 'a'\nslots = 0", 2, &["1: limmit", "5: upstream[1].slots"]),
        ("[[upstream]]\nurl = 'a'\nslots = 0\nname = ", 4, &["3: upstream[1].slots"]),
        // The header itself.
        ("[[upstream]]\nurl = 'a'\n[[upstream\nurl = 'b'\nslots = 0", 3, &["5: upstream[2].slots"]),
        ("[[upstream]]\nurl = 'a'\n[[upstream]\nurl = 'b'\nslots = 0", 3, &["5: upstream[2].slots"]),
        ("limmit = 1\n[[upstream]] url = 'b'\nslots = 0", 2, &["1: limmit", "3: upstream[1].slots"]),
        ("workers = 0\n[server\nworkers = 2", 2, &["1: workers"]),
        (
            "[[upstream]]\nurl = 'a'\n[[upstreams\nurl = 'b'\nslots = 0\n[[upstream]]\nurl = 'c'\nslots = 0",
            3,
            &["8: upstream[2].slots"],
        ),
        ("[[upstream]]\nurl = 'a'\nslots = 0\n[[server]\nurl = 'b'\nport = 3", 4, &["3: upstream[1].slots"]),
    ] {
        let mut lines = wrong(text);
        // A table whose URL was on the broken line has none: that is no news.
        lines.retain(|line| !line.contains("is missing"));
        let told = lines.iter().filter(|line| line.contains("not TOML")).collect::<Vec<_>>();
        assert_eq!(told.len(), 1, "{text}: {lines:#?}");
        assert!(told[0].starts_with(&format!("gate.toml:{broken}: ")), "{text}: {lines:#?}");
        for other in others {
            assert!(
                lines.iter().any(|line| line.starts_with(&format!("gate.toml:{other}"))),
                "{text}: {other} not in {lines:#?}"
            );
        }
        assert_eq!(lines.len(), 1 + others.len(), "{text}: {lines:#?}");
    }
}

#[test]
fn two_broken_lines_are_both_told() {
    for (text, broken) in [
        ("bind = [':1',\nworkers = 1\nworkers = 2", [1, 3]),
        ("[server\nworkers = 1\n[[upstream]]\nurl = 'a'\nurl = 'b'", [1, 5]),
        ("[[upstream]]\nurl = \nslots = = 1", [2, 3]),
        ("[[upstream]]\nurl = 'a'\nmodels = ['x',\nslots = 1\nweight = = 2", [3, 5]),
    ] {
        let mut lines = wrong(text);
        lines.retain(|line| line.contains("not TOML"));
        let told: Vec<_> = lines.iter().map(|line| line.split(':').nth(1).unwrap().parse::<usize>().unwrap()).collect();
        assert_eq!(told, broken, "{text}: {lines:#?}");
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

#[test]
fn the_table_of_the_cluster_holds_the_same_keys() {
    let flat = from_file("cluster_url = 'redis://a'\ncluster_share = '1/3'\ncluster_timeout = '20ms'").unwrap();
    let table = from_file("workers = 2\n[cluster]\nurl = 'redis://a'\nshare = '1/3'\ntimeout = '20ms'").unwrap();
    for key in ["cluster_url", "cluster_share", "cluster_timeout", "cluster_prefix"] {
        assert_eq!(typed(&flat, key).0, typed(&table, key).0, "{key}");
    }
    assert_eq!(typed(&table, "cluster_share").1, "gate.toml:4");
    assert_eq!(typed(&from_file("cluster.url = 'redis://a'").unwrap(), "cluster_url").0, "redis://a");
    let env = pairs([("OLLAMA_GATE_CLUSTER_URL", "redis://b")]);
    let settings = Settings::gather(Some(("gate.toml", "[cluster]\nurl = 'redis://a'")), env, []).unwrap();
    assert_eq!(typed(&settings, "cluster_url").0, "redis://b");
}

#[test]
fn faults_in_the_table_of_the_cluster_name_field_and_line() {
    for (text, expected) in [
        ("[cluster]\nulr = 'redis://u:hunter2@a'", &["2: cluster.ulr = \"***\": no such key; did you mean `url`?"][..]),
        (
            "[cluster]\nurl = 'a'\nlimit = 1",
            &["2: cluster_url = \"***\": write a URL", "3: cluster.limit = \"***\": `limit` is a key of the gate"],
        ),
        (
            "cluster_url = 'redis://a'\n[cluster]\nurl = 'redis://b'",
            &["3: cluster.url = \"***\": gate.toml:1 has it already"],
        ),
        ("[cluster]\nwhen = 1", &["2: cluster.when = \"***\": no such key; it has `url`, `password`"]),
        ("[cluster]\nurl = [['a']]", &["2: cluster.url = \"***\": write one value"]),
        ("[[cluster]]\nurl = 'redis://a'", &["1: cluster = \"***\": write `key = value`"]),
        (
            "[cluster\nshare = 2\n[[upstream]]\nslots = 0\nurl = 'a'",
            &["1: \"[cluster\": not TOML", "2: cluster_share = \"2\"", "4: upstream[1].slots"],
        ),
        (
            "[cluster]\nshare = 2\n[cluster]\nshare = 3\n[[upstream]]\nslots = 0\nurl = 'a'",
            &["2: cluster_share = \"2\"", "3: \"[cluster]\": not TOML", "6: upstream[1].slots"],
        ),
        ("[cluster]\nurl = \"redis://:hunter2@a\nshare = 2", &["2: \"***@a\": not TOML", "3: cluster_share = \"2\""]),
    ] {
        let mut lines = wrong(text);
        lines.sort();
        assert_eq!(lines.len(), expected.len(), "{text}: {lines:#?}");
        for (line, start) in lines.iter().zip(expected) {
            assert!(line.starts_with(&format!("gate.toml:{start}")), "{text}: {start} not in {lines:#?}");
        }
        assert!(!lines.concat().contains("hunter2"), "{lines:#?}");
    }
}

#[test]
fn ollama_origins_is_only_the_default_of_origins() {
    let settings = |file: &str, value: &str| {
        Settings::gather(Some(("gate.toml", file)), pairs([("OLLAMA_ORIGINS", value)]), []).unwrap()
    };
    let typed_at = |file: &str, value: &str| typed(&settings(file, value), "origins");
    assert_eq!(typed_at("", "https://a,https://b").0, "https://a,https://b");
    assert_eq!(typed_at("", " '*' "), ("*".to_owned(), "environment variable OLLAMA_ORIGINS".to_owned()));
    assert_eq!(typed_at("", "").1, "default");
    assert_eq!(typed_at("origins = []", "*"), (String::new(), "gate.toml:1".to_owned()));
}
