use proptest::prelude::*;

use super::*;

fn count(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

const STATUS: &str = r#"{"ok":true,"version":"0.1.0","pid":10,"uptime_s":61,"generation":3,"state":"serving",
"workers_wanted":3,"processes":[{"place":"worker 1","role":"worker","slot":1,"pid":11,"generation":3,"state":"ready",
"age_s":60,"requests":7,"in_flight":1,"streams":1,"connections":2,"rss_bytes":3500000,"beat_ms":120}],
"slots":[{"slot":1,"restarts":2,"last_restart":null,"backoff_ms":0}],
"deaths":[{"time":"2026-01-02T03:04:05Z","place":"worker 1","pid":9,"generation":2,
"how":"was ended by SIGSEGV (core dumped)","uptime_s":12,"rss_bytes":3400000,"in_flight":1,
"in_service":["POST /api/generate for 41.2 s"],"cause":"a bug","core":null}],
"listeners":[{"address":"http://127.0.0.1:8000","sockets":1,"queue":0,"backlog":2048},
{"address":"unix:/run/x","sockets":1,"queue":null,"backlog":null}],
"backends":[{"name":"gpu1","url":"http://gpu1:11434","state":"failing","status":502,"breaker":"open","breaker_ms":1500,
"in_flight":1,"slots":4,"waiting":2,"loaded":["llama3.2:latest"],"listed":12},
{"name":"gpus","url":"dns:gpus:11434","state":"not found","status":null,"breaker":"closed","breaker_ms":null,
"in_flight":0,"slots":4,"waiting":0,"loaded":[],"listed":null}],
"queue":{"length":2,"limit":512,"oldest_ms":700,"mean_service_ms":null},
"limiter":[{"window_s":60,"entries":131072,"used":12}],
"store":{"url":"redis://***@store:6379","state":"away","away_since":"2026-01-02T03:04:05Z","share":"1/3"},
"keys":{"file":"/etc/ollama-gate/keys","keys":12,"names":9,"policies":2,"generation":3,"time":"2026-01-02T03:04:05Z"},
"totals":{"requests":7,"in_flight":1,"streams":1,"connections":2,"answers":{"2xx":5,"3xx":0,"4xx":1,"5xx":0},
"limited":1,"left":0},
"upgrade":null,"last_reload":{"time":"2026-01-02T03:04:05Z","ok":false,"generation":3,"reasons":["a","b"]},
"last_upgrade":null}"#;

#[test]
fn requests_are_read_as_they_are_documented() {
    let canary = Some(Canary { workers: count(1), seconds: count(30) });
    let slot = count(2);
    for (line, expected) in [
        (r#"{"v":1,"command":"status"}"#, Request::Status {}),
        (
            r#"{"command":"reload","wait":true,"canary":{"workers":1,"seconds":30}}"#,
            Request::Reload { wait: true, canary },
        ),
        (r#"{"command":"reload"}"#, Request::Reload { wait: false, canary: None }),
        (r#"{"command":"reload","canary":null}"#, Request::Reload { wait: false, canary: None }),
        (r#"{"command":"upgrade","wait":true,"fresh_zone":false}"#, Request::Upgrade { wait: true, fresh_zone: false }),
        (r#"{"command":"scale","workers":4}"#, Request::Scale { workers: count(4) }),
        (r#"{"command":"stop","wait":true,"quick":false}"#, Request::Stop { wait: true, quick: false }),
        (r#"{"command":"reopen"}"#, Request::Reopen {}),
        (r#"{"command":"drain","slot":2,"wait":true}"#, Request::Drain { slot, wait: true }),
        (r#"{"command":"keys"}"#, Request::Keys {}),
        ("{\"command\":\"drain\",\"slot\":2}\r\n", Request::Drain { slot, wait: false }),
    ] {
        assert_eq!(Request::parse(line), Ok(expected.clone()), "{line}");
        let again = expected.to_line();
        assert!(again.ends_with('\n') && again.matches('\n').count() == 1 && again.contains(r#""v":1"#), "{again}");
        assert_eq!(Request::parse(&again), Ok(expected), "{again}");
    }
    for (name, example) in EXAMPLES {
        assert_eq!(Request::parse(example).unwrap().name(), name);
    }
}

#[test]
fn a_wrong_request_is_told_what_would_be_right() {
    for (line, parts) in [
        ("", vec!["no JSON", r#"{"command":"status"}"#]),
        ("[]", vec!["no object", r#"{"command":"status"}"#]),
        ("{}", vec!["missing", "status, reload, upgrade, scale, stop, reopen, drain, keys"]),
        (r#"{"command":7}"#, vec!["a string, not 7"]),
        (r#"{"command":"restart"}"#, vec!["\"restart\"", "reload"]),
        (r#"{"command":"status","v":2}"#, vec!["version 2", "\"v\":1"]),
        (r#"{"command":"status","wait":true}"#, vec!["status: ", "`wait`"]),
        (r#"{"command":"reload","wiat":true}"#, vec!["`wiat`", "`wait`", "\"wait\":true"]),
        (r#"{"command":"reload","canary":{"workers":1}}"#, vec!["`seconds`", "\"seconds\":30"]),
        (r#"{"command":"reload","canary":{"workers":0,"seconds":1}}"#, vec!["reload: ", "nonzero"]),
        (r#"{"command":"reload","canary":{"workers":1,"seconds":86401}}"#, vec!["from 1 to 86400, not 86401"]),
        (r#"{"command":"scale"}"#, vec!["scale: ", "`workers`", "\"workers\":4"]),
        (r#"{"command":"scale","workers":0}"#, vec!["nonzero"]),
        (r#"{"command":"scale","workers":"4"}"#, vec!["string \"4\"", "\"workers\":4"]),
        (r#"{"command":"drain","slot":-1}"#, vec!["`-1`", "\"slot\":2"]),
    ] {
        let said = Request::parse(line).unwrap_err();
        assert!(parts.iter().all(|part| said.contains(part)), "{line}: {said}, but {parts:?}");
        assert!(!said.contains('\n'), "{said}");
    }
    let long = format!("{{\"command\":\"status\"{}}}", " ".repeat(REQUEST_LINE_MAX));
    assert!(Request::parse(&long).unwrap_err().contains("longer than 4096"));
}

#[test]
fn answers_are_read_as_they_are_documented() {
    let reload = Request::Reload { wait: true, canary: None };
    let change = ChangeLine { key: "workers".into(), old: "2".into(), new: "3".into(), effect: Effect::RolledOut };
    let fixed = ChangeLine { key: "pid".into(), old: String::new(), new: "x".into(), effect: Effect::NeedsUpgrade };
    let changes = vec![change, fixed];
    for (asked, line, expected) in [
        (
            &reload,
            r#"{"ok":true,"generation":3,"changes":[{"key":"workers","old":"2","new":"3","effect":"rolled out"},
               {"key":"pid","old":"","new":"x","effect":"needs an upgrade"}],"canary":"held"}"#,
            Answer::Reload(Reloaded { generation: 3, changes, canary: Some("held".into()) }),
        ),
        (
            &reload,
            r#"{"v":1,"ok":true,"generation":3,"changes":[],"later":{"x":1}}"#,
            Answer::Reload(Reloaded { generation: 3, changes: vec![], canary: None }),
        ),
        (&reload, r#"{"ok":true,"accepted":true}"#, Answer::Accepted),
        (
            &Request::Upgrade { wait: true, fresh_zone: false },
            r#"{"ok":true,"pid":4711,"version":"0.1.0"}"#,
            Answer::Upgrade(Upgraded { pid: 4711, version: "0.1.0".into() }),
        ),
        (
            &Request::Scale { workers: count(4) },
            r#"{"ok":true,"workers":4,"before":2}"#,
            Answer::Scale(Scaled { workers: 4, before: 2 }),
        ),
        (&Request::Stop { wait: true, quick: false }, r#"{"ok":true,"accepted":true}"#, Answer::Accepted),
        (&Request::Reopen {}, r#"{"ok":true}"#, Answer::Done),
        (
            &Request::Drain { slot: count(2), wait: true },
            r#"{"ok":true,"pid":123}"#,
            Answer::Drain(Drained { pid: 123 }),
        ),
        (
            &Request::Keys {},
            r#"{"ok":true,"keys":{"file":"/k","keys":2,"names":1,"policies":1,"generation":3,"time":"t"}}"#,
            Answer::Keys(KeysRead {
                keys: Some(KeysUse {
                    file: "/k".into(),
                    keys: 2,
                    names: 1,
                    policies: 1,
                    generation: 3,
                    time: "t".into(),
                }),
            }),
        ),
        (&Request::Keys {}, r#"{"ok":true,"keys":null}"#, Answer::Keys(KeysRead { keys: None })),
        (
            &Request::Reopen {},
            r#"{"v":1,"ok":false,"reasons":["a","b"]}"#,
            Answer::Refused { reasons: vec!["a".into(), "b".into()] },
        ),
    ] {
        assert_eq!(Answer::parse(line, asked), Ok(expected.clone()), "{line}");
        let again = expected.to_line();
        assert!(again.ends_with('\n') && again.matches('\n').count() == 1 && again.contains(r#""v":1"#), "{again}");
        assert_eq!(Answer::parse(&again, asked), Ok(expected), "{again}");
    }
}

#[test]
fn a_status_is_read_and_written_whole() {
    let Ok(Answer::Status(status)) = Answer::parse(STATUS, &Request::Status {}) else { panic!("no status") };
    assert_eq!((status.state, status.processes[0].state), (GateState::Serving, ProcessState::Ready));
    assert_eq!((status.listeners[1].queue, status.totals.answers.success), (None, 5));
    assert_eq!((status.backends[0].state, status.backends[0].breaker), (BackendState::Failing, BreakerState::Open));
    assert_eq!(status.store.as_ref().map(|store| store.state), Some(StoreState::Away));
    assert_eq!(status.deaths[0].in_service, ["POST /api/generate for 41.2 s"]);
    let line = Answer::Status(status).to_line();
    let as_value = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
    let mut expected = as_value(STATUS);
    expected.insert("v".into(), VERSION.into());
    assert_eq!(as_value(&line), expected);
}

#[test]
fn a_strange_answer_is_an_error_and_no_panic() {
    let asked = Request::Scale { workers: count(4) };
    for line in
        ["", "{}", "{\"ok\":1}", "{\"ok\":true}", "{\"ok\":true,\"workers\":-1,\"before\":2}", "{\"v\":9,\"ok\":true}"]
    {
        assert!(Answer::parse(line, &asked).is_err(), "{line}");
    }
    for line in [r#"{"ok":false}"#, r#"{"ok":false,"reasons":7}"#, r#"{"ok":false,"reasons":[]}"#] {
        assert_eq!(Answer::parse(line, &asked), Ok(Answer::refused("no reason was given")), "{line}");
    }
}

#[test]
fn a_line_never_exceeds_its_cap() {
    let reasons = vec!["\u{1}".repeat(100_000); 40];
    let line = Answer::Refused { reasons }.to_line();
    assert!(line.len() <= ANSWER_LINE_MAX, "{}", line.len());
    let Ok(Answer::Refused { reasons }) = Answer::parse(&line, &Request::Reopen {}) else { panic!("{line}") };
    assert_eq!(reasons, ["\u{1}".repeat(100_000).as_str(), "and 39 more, which the log names"]);
    let one = Answer::refused("x".repeat(ANSWER_LINE_MAX)).to_line();
    assert!(one.len() <= ANSWER_LINE_MAX && one.contains("and 1 more"), "{}", one.len());
    let change = ChangeLine {
        key: "limit".into(),
        old: "x".repeat(ANSWER_LINE_MAX),
        new: String::new(),
        effect: Effect::RolledOut,
    };
    let reload = Request::Reload { wait: true, canary: None };
    let line = Answer::Reload(Reloaded { generation: 3, changes: vec![change], canary: None }).to_line();
    let expected = Answer::Reload(Reloaded { generation: 3, changes: vec![], canary: None });
    assert_eq!(Answer::parse(&line, &reload), Ok(expected));
}

proptest! {
    #[test]
    fn nothing_that_comes_panics(line in "\\PC{0,200}", command in 0..EXAMPLES.len(), value in "[-0-9a-z\"{}:,]{0,12}") {
        let _any = Request::parse(&line);
        let typed = EXAMPLES[command].1.replacen("true", &value, 1);
        if let Ok(request) = Request::parse(&typed) {
            prop_assert_eq!(Request::parse(&request.to_line()), Ok(request));
        }
        let _any = Answer::parse(&line, &Request::Status {});
    }
}
