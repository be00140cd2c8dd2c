use proptest::prelude::*;

use super::*;

fn gather(file: &str, flags: Vec<(String, String)>) -> (Settings, Plan) {
    let env = [("OLLAMA_GATE_WORKERS".to_owned(), "auto".to_owned())];
    let settings = Settings::gather(Some(("gate.toml", file)), env, flags).unwrap();
    let plan = Plan::new(&settings).unwrap();
    (settings, plan)
}

fn read(text: &str) -> Plan {
    Plan::new(&Settings::gather(Some(("written.toml", text)), [], []).unwrap()).unwrap()
}

#[test]
fn a_rendered_plan_names_every_origin_and_parses_back() {
    let file = "bind = [':1', 'unix:/run/a \"b\" \\\\ c']\ntimeout = 60\nlimit = 'none'\nforwarded_allow_ips = ''";
    let (settings, plan) = gather(file, vec![("model".to_owned(), "qwen3".to_owned())]);
    let text = plan.render(&settings);
    assert_eq!(read(&text), plan, "{text}");
    for line in [
        "# Processes".to_owned(),
        format!("workers = {}  # environment variable OLLAMA_GATE_WORKERS: \"auto\"", plan.workers),
        "timeout = \"60s\"  # gate.toml:2: \"60\"".to_owned(),
        "limit = \"none\"  # gate.toml:3".to_owned(),
        "forwarded_allow_ips = []  # gate.toml:4".to_owned(),
        "reuse_port = false  # default".to_owned(),
        "model = \"qwen3\"  # command line".to_owned(),
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\nnot in\n{text}");
    }
    for key in KEYS {
        assert!(text.contains(&format!("\n{} = ", key.name)), "{}\n{text}", key.name);
    }
}

#[test]
fn passwords_in_urls_are_not_rendered() {
    let (settings, plan) = gather("[cluster]\nurl = ' redis://u:hunter2@store '", Vec::new());
    let text = plan.render(&settings);
    assert!(
        text.contains("cluster_url = \"redis://***@store\"  # gate.toml:2: \"") && !text.contains("hunter"),
        "{text}"
    );
    read(&text);
}

#[test]
fn backends_are_rendered_as_texts() {
    let file = "slots = 4\n[[upstream]]\nurl = 'http://gpu1:11434'\nname = 'gpu1'\nmodels = ['a', 'b:1']\n[[upstream]]\n\
                url = 'unix:/run/o s'\nslots = 4\nname = 'ollama-2'";
    let (settings, plan) = gather(file, Vec::new());
    let text = plan.render(&settings);
    assert_eq!(read(&text), plan, "{text}");
    let typed = r#"http://gpu1:11434 name=gpu1 models=a,b:1;\"unix:/run/o s\" name=ollama-2 slots=4"#;
    let line = format!(
        r#"upstream = ["http://gpu1:11434 name=gpu1 models=a,b:1", "\"unix:/run/o s\""]  # gate.toml:2: "{typed}""#
    );
    assert!(text.lines().any(|shown| shown == line), "{line}\nnot in\n{text}");
}

#[test]
fn the_example_of_the_reference_is_read() {
    let example: String = KEYS
        .iter()
        .flat_map(|key| key.example.lines())
        .filter_map(|line| line.strip_prefix("#     "))
        .fold(String::new(), |all, line| all + line + "\n");
    let (tables, line) = example.split_once("http://").and_then(|_| example.trim_end().rsplit_once('\n')).unwrap();
    let plan = read(tables);
    assert_eq!((plan.upstream.len(), plan.cluster_share.to_string().as_str()), (2, "1/3"), "{tables}");
    assert_eq!(read(&format!("upstream = '{line}'")).upstream, plan.upstream);
}

#[test]
fn the_file_in_the_repository_is_the_reference() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/ollama-gate.toml");
    let stored = std::fs::read_to_string(path).unwrap();
    assert!(
        stored == reference_file(),
        "{path} is not what the table of keys says; write it again with\n    cargo run -p gate-config --example reference > config/ollama-gate.toml"
    );
}

#[test]
fn the_reference_uncommented_is_the_default_plan() {
    let mut keys = Vec::new();
    let mut text = String::new();
    for line in reference_file().lines() {
        if let Some(setting) = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
        {
            keys.extend(setting.split(" = ").next().map(ToOwned::to_owned));
            text.push_str(setting);
        }
        text.push('\n');
    }
    assert_eq!(keys, KEYS.iter().map(|key| key.name).collect::<Vec<_>>());
    assert_eq!(read(&text), Plan::new(&Settings::default()).unwrap());
    assert_eq!(read(&reference_file()), Plan::new(&Settings::default()).unwrap());
}

#[test]
fn the_reference_fits_its_columns() {
    for line in reference_file().lines().skip(REFERENCE_HEAD.lines().count()) {
        assert!(line.chars().count() <= COLUMNS + 20, "{line}");
    }
}

/// The fields of one backend with values that mostly can be read.
fn backend() -> impl Strategy<Value = String> {
    let place = prop_oneof![
        "url = '(http://)?[a-z]{1,6}(:[1-9][0-9]{0,3})?(/[a-z=%!]{0,4})?'",
        "url = 'unix:/[a-z ./]{0,8}[a-z]'",
        "dns = '[a-z]{1,4}(:[1-9][0-9]{0,3})?'",
        "dns = '_[a-z]{1,3}\\._tcp\\.[a-z]{1,3}'",
    ];
    let fields = ("(\nname = '[a-z0-9._-]{1,8}')?", "(\nslots = [1-9][0-9]?)?", "(\nweight = [1-9][0-9]?)?");
    let models = "(\nmodels = \\[('[a-z0-9.:]{1,8}', ){0,3}\\])?";
    (place, fields, models).prop_map(|(place, (name, slots, weight), models)| {
        format!("[[upstream]]\n{place}{name}{slots}{weight}{models}\n")
    })
}

proptest! {
    #[test]
    fn any_backends_are_rendered_as_they_are_read(
        tables in proptest::collection::vec(backend(), 1..5),
        keys in "(slots = [1-9]\n)?(queue = [0-9]{1,3}\n)?(queue_weight = '10\\.1\\.0\\.0/16=[1-9],::1=3'\n)?(retry = 'never'\n)?",
    ) {
        let text = format!("{keys}{}", tables.concat());
        // What cannot be read at all, such as one URL twice, is another test's.
        if let Ok(settings) = Settings::gather(Some(("gate.toml", &text)), [], [])
            && let Ok(plan) = Plan::new(&settings)
        {
            prop_assert_eq!(plan.upstream.len(), tables.len());
            let rendered = plan.render(&settings);
            prop_assert_eq!(read(&rendered), plan, "{}", rendered);
        }
    }

    #[test]
    fn quoted_text_is_toml(text in "\\PC*|[\u{0}-\u{ff}\"\\\\]*") {
        let table: toml::Table = toml::from_str(&format!("text = {}", quoted(&text))).unwrap();
        prop_assert_eq!(table["text"].as_str(), Some(text.as_str()));
    }

    #[test]
    fn origins_never_break_the_file(path in "\\PC{0,20}|[\u{0}-\u{ff}]{0,20}", value in "[\u{0}-\u{ff}]{0,20}") {
        let settings = Settings::gather(Some((&path, "workers = 2")), [], []).unwrap();
        let plan = Plan::new(&settings).unwrap();
        prop_assert_eq!(read(&plan.render(&settings)), plan);
        let origin = origin(&Typed { text: value, source: Source::Flag, spots: Vec::new() }, "");
        prop_assert!(!origin.contains(['\n', '\r']), "{:?}", origin);
    }
}
