use proptest::prelude::*;

use super::*;

fn plan(text: &str) -> Plan {
    Plan::new(&Settings::gather(Some(("gate.toml", text)), [], []).unwrap()).unwrap()
}

fn refusal(text: &str) -> String {
    Settings::gather(Some(("gate.toml", text)), [], [])
        .and_then(|settings| Plan::new(&settings))
        .unwrap_err()
        .to_string()
}

#[test]
fn there_is_one_field_for_each_key_in_the_same_order() {
    let fields: Vec<&str> = plan("").texts().iter().map(|(key, _)| *key).collect();
    let keys: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(fields, keys);
}

#[test]
fn defaults_are_written_as_the_plan_prints_them() {
    for (key, (_, text)) in KEYS.iter().zip(plan("").texts()) {
        assert_eq!(key.default, text, "{}", key.name);
    }
}

#[test]
fn the_defaults_mean_what_the_help_says() {
    let plan = plan("");
    assert_eq!(plan.workers, 1);
    assert_eq!(plan.bind, [Bind::Tcp("127.0.0.1:8000".parse().unwrap())]);
    assert_eq!(plan.timeout, Some(Duration::from_secs(30)));
    assert_eq!(plan.keep_alive, Duration::from_secs(75));
    assert_eq!(plan.max_body, 8 << 20);
    assert_eq!(plan.limit[0].to_string(), "10 per 1 minute");
    assert_eq!(plan.limit_entries, 131_072);
    assert_eq!(plan.upstream[0].url(), "http://127.0.0.1:11434");
    assert_eq!((plan.flood, &plan.model, &plan.access_log), (None, &None, &AccessLog::Off));
    assert_eq!(plan.windows(), [Duration::from_secs(60)]);
}

#[test]
fn all_bad_values_are_told_at_once() {
    let text = KEYS.iter().map(|key| format!("{} = '\\u0001 ,'\n", key.name).replace('\'', "\"")).collect::<String>();
    let lines = refusal(&text);
    for key in KEYS {
        assert!(lines.lines().any(|line| line.contains(&format!(": {} = ", key.name))), "{}\n{lines}", key.name);
    }
    assert_eq!(lines.lines().count(), KEYS.len(), "{lines}");
}

#[test]
fn times_that_are_not_off_switches_refuse_zero() {
    for (key, (_, text)) in KEYS.iter().zip(plan("").texts()) {
        let is_time = key.metavar == Some("TIME");
        let may_be_off = ["timeout", "max_age", "request_timeout"].contains(&key.name);
        let looks_so = text.ends_with('s') && text.starts_with(|c: char| c.is_ascii_digit());
        assert_eq!(is_time, looks_so || may_be_off, "{}", key.name);
        if is_time && !may_be_off {
            assert!(refusal(&format!("{} = 0", key.name)).contains("write a time from 1"), "{}", key.name);
        }
    }
    assert_eq!((plan("timeout = 0").timeout, plan("max_age = 0").max_age), (None, None));
    assert_eq!(plan("request_timeout = 0").request_timeout, None);
}

#[test]
fn a_stream_may_go_on_for_as_long_as_a_request() {
    assert_eq!(plan("graceful_timeout = 600").stream_timeout, Duration::from_secs(600));
    assert_eq!(plan("stream_timeout = 20").stream_timeout, Duration::from_secs(30));
}

#[test]
fn a_client_has_no_more_places_than_there_are() {
    for (text, places) in [("", 64), ("queue = 10", 10), ("queue_per_client = 3", 3), ("queue = 0", 1)] {
        assert_eq!(plan(text).queue_per_client, places, "{text}");
    }
    for text in ["queue = 1025", "queue_per_client = 0", "queue_per_client = 1025"] {
        assert!(refusal(text).contains("write a whole number from"), "{text}");
    }
}

#[test]
fn a_request_is_not_over_before_it_could_connect() {
    let line = refusal("request_timeout = '4s'\nworkers = 0");
    assert!(line.contains("request_timeout = \"4s\": write at least connect_timeout, 5s, or 0"), "{line}");
    assert_eq!(plan("request_timeout = 5").request_timeout, Some(Duration::from_secs(5)));
    assert_eq!(plan("request_timeout = '4s'\nconnect_timeout = '4s'").connect_timeout, Duration::from_secs(4));
}

#[test]
fn backends_without_slots_have_those_of_the_key() {
    let slots = |text: &str| plan(text).upstream.iter().map(|upstream| upstream.slots).collect::<Vec<_>>();
    assert_eq!(slots(""), [256]);
    assert_eq!(slots("slots = 4\nupstream = 'a slots=256,b'"), [256, 4]);
    assert!(refusal("slots = 0").contains("write a whole number from 1 to 256"));
}

#[test]
fn weights_of_clients() {
    let plan = plan("queue_weight = ['10.0.0.0/8=2', '10.1.0.0/16=4']");
    for (client, weight) in [("10.1.2.3", 4), ("::ffff:10.2.2.3", 2), ("192.0.2.1", 1), ("::1", 1)] {
        assert_eq!(plan.weight_of(client.parse().unwrap()), weight, "{client}");
    }
}

#[test]
fn choices_and_bounds_of_the_fleet() {
    let (defaults, changed) = (plan(""), plan("retry = 'Never'\nbreaker_failures = 0\nresolver = '10.0.0.2'"));
    assert_eq!((defaults.retry, changed.retry), (Retry::Unsent, Retry::Never));
    assert_eq!((defaults.breaker_failures, changed.breaker_failures), (5, 0));
    assert_eq!((defaults.resolver.len(), changed.resolver[0]), (0, "10.0.0.2:53".parse().unwrap()));
    for (text, remedy) in [
        ("retry = 'always'", "write `never` or `unsent` or `unanswered`"),
        ("breaker_failures = 1001", "from 0 to 1000"),
        ("breaker_time = '99ms'", "from 100ms to 1h"),
        ("dns_refresh = '2h'", "from 100ms to 1h"),
        ("queue_weight = '10.0.0.1'", "write CLIENTS=WEIGHT"),
    ] {
        assert!(refusal(text).contains(remedy), "{text}: {}", refusal(text));
    }
}

#[test]
fn recycling_and_the_umask_are_read_with_their_bounds() {
    let plan_with = plan("max_rss = '256MiB'\nmax_requests = 500\numask = '027'");
    assert_eq!((plan_with.max_rss, plan_with.max_requests, plan_with.umask), (Some(256 << 20), 500, Some(0o027)));
    assert!(refusal("max_rss = '1MiB'").contains("write a size from 16MiB"));
    assert!(refusal("umask = '0788'").contains("octal"));
    assert!(refusal("surge = 0").contains("from 1 to 64"));
}

#[test]
fn the_path_follows_a_smaller_head() {
    assert_eq!(plan("max_head = '16KiB'").max_path, 16 << 10);
    assert_eq!(plan("max_head = '1MiB'").max_path, 60 << 10);
}

#[test]
fn gcra_bounds_the_limits_that_it_counts() {
    assert!(
        refusal("limit_strategy = 'gcra'\nlimit = '20000/second'").contains("limit = \"20000/second\": gcra counts")
    );
    assert!(refusal("limit_strategy = 'gcra'\napi_limit = '0/day'").contains("api_limit = \"0/day\": gcra cannot"));
    assert_eq!(plan("limit = '20000/second'\napi_limit = '0/day'").limit.len(), 1);
    assert!(plan("limit_strategy = 'gcra'").windows().is_empty());
}

#[test]
fn a_bad_value_hides_no_conflict_between_others() {
    let lines = refusal("workers = 0\nlimit_strategy = 'gcra'\nlimit = '0/day'\napi_limit = '1/week'");
    for start in
        ["gate.toml:1: workers", "gate.toml:3: limit = \"0/day\": gcra", "gate.toml:4: api_limit = \"1/week\": `week`"]
    {
        assert!(lines.lines().any(|line| line.starts_with(start)), "{lines}");
    }
    assert_eq!(lines.lines().count(), 3, "{lines}");
}

#[test]
fn window_lengths_are_counted_over_both_limits() {
    let seconds = |range: std::ops::RangeInclusive<u32>| {
        range.map(|length| format!("1/{length} seconds")).collect::<Vec<_>>().join(";")
    };
    let full = plan(&format!("limit = '{}'\napi_limit = '{};1/60 second;1/minute'", seconds(1..=8), seconds(4..=15)));
    assert_eq!(full.windows().len(), WINDOWS_MAX);
    let over = refusal(&format!("limit = '{}'\napi_limit = '{}'", seconds(1..=9), seconds(10..=17)));
    assert!(over.contains("17 different window lengths: write at most 16"), "{over}");
    assert!(over.starts_with("gate.toml:2: api_limit = "), "{over}");
}

#[test]
fn changes_name_key_old_and_new() {
    let (old, new) = (plan("pid = '/run/a'"), plan("workers = 2\npid = '/run/b'\nmax_body = 1048576"));
    let text = |key, old: &str, new: &str| (key, old.to_owned(), new.to_owned());
    let expected = vec![text("workers", "1", "2"), text("pid", "/run/a", "/run/b"), text("max_body", "8MiB", "1MiB")];
    assert_eq!(new.changes(&old), expected);
    assert_eq!(new.changes(&new), []);
    let start_only = StartOnly { key: "pid", old: "/run/a".to_owned(), new: "/run/b".to_owned() };
    assert_eq!(new.start_only_changes(&old), [start_only]);
}

#[test]
fn changes_of_backends_name_those_that_differ() {
    let old = plan("upstream = ['a', 'b slots=2']");
    let told = |new: &Plan| {
        new.changes(&old).into_iter().map(|(key, old, new)| [key, &old, &new].join(" | ")).collect::<Vec<_>>()
    };
    let new = plan("upstream = ['a', 'c slots=3 models=x,y']");
    let (b, c) = ("http://b:11434 name=ollama-2 slots=2", "http://c:11434 name=ollama-2 slots=3 models=x,y");
    assert_eq!(told(&new), [format!("upstream | {b}; 1 as before | {c}; 1 as before")]);
    // Another way to write the same is no change; another default is one of each backend that has it.
    assert_eq!(
        told(&plan("[[upstream]]\nurl = 'http://a:11434'\nname = 'ollama-1'\n[[upstream]]\nslots = 2\nurl = 'b'")),
        [""; 0]
    );
    let (was, is) = ("http://a:11434 name=ollama-1 slots=256", "http://a:11434 name=ollama-1 slots=2");
    let expected = [format!("upstream | {was}; 1 as before | {is}; 1 as before"), "slots | 256 | 2".to_owned()];
    assert_eq!(told(&plan("slots = 2\nupstream = ['a', 'b slots=2']")), expected);
}

#[test]
fn a_password_of_the_store_is_changed_and_never_told() {
    let with = |url: &str| plan(&format!("cluster_url = '{url}'"));
    let (one, other) = (with("redis://u:hunter2@store"), with("redis://u:hunter3@store"));
    let told = other.changes(&one);
    let shown = "redis://***@store".to_owned();
    assert_eq!(told, [("cluster_url", shown.clone(), shown.clone() + " (with other credentials)")]);
    assert_eq!(other.changes(&other.clone()), []);
    assert_eq!(one.changes(&plan("")), [("cluster_url", String::new(), shown)]);
    assert!(!format!("{one:?}").contains("hunter"));
}

#[test]
fn plans_know_whether_they_hold_secrets() {
    for (text, holds) in [
        ("", false),
        ("cluster_url = 'redis://store'", false),
        ("cluster_url = 'redis://:x@store'", true),
        ("cluster_password = '/p'", true),
        ("keys = '/k'", true),
    ] {
        assert_eq!(plan(text).holds_secrets(), holds, "{text}");
    }
}

#[test]
fn a_reload_keeps_what_only_a_start_can_change() {
    let all = "control = '/c'\npid = '/x'\nuser = 'u'\ngroup = 'g'\numask = '0027'\nbacklog = 9\nreuse_port = true\nlimit_entries = 1024\ndemo = true\n";
    let (old, new) = (plan(""), plan(&format!("{all}workers = 2")));
    let start_keys: Vec<&str> = KEYS.iter().filter(|key| key.change == Change::Start).map(|key| key.name).collect();
    let changed: Vec<&str> = new.start_only_changes(&old).iter().map(|change| change.key).collect();
    assert_eq!(changed, start_keys, "the file above changes every such key");
    let kept = new.with_start_only_from(&old);
    assert_eq!(kept, plan("workers = 2"));
    assert_eq!(kept.start_only_changes(&old), []);
}

proptest! {
    #[test]
    fn any_text_is_answered(row in 0..KEYS.len(), text in "\\PC{0,30}|[0-9a-z:/.,*;-]{0,30}") {
        let flags = [(KEYS[row].name.to_owned(), text)];
        let settings = Settings::gather(None, [], flags).unwrap();
        // Whatever is accepted prints as text that means the same again.
        if let Ok(plan) = Plan::new(&settings) {
            let flags = plan.texts().into_iter().map(|(key, text)| (key.to_owned(), text));
            let again = Plan::new(&Settings::gather(None, [], flags).unwrap());
            prop_assert_eq!(again, Ok(plan));
        }
    }
}
