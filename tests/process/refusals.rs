//! Starts that end at once: the code says what kind of mistake it was, the text says which.

use std::net::TcpListener;

use crate::support::{Gate, Plan, gate};

/// Starts, waits for the end with this code, and gives what was said.
#[track_caller]
fn refused(plan: Plan, code: i32) -> String {
    let mut gate = plan.spawn();
    assert_eq!(gate.ends_with_code(), code);
    gate.log()
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    let missing: Vec<_> = parts.iter().filter(|part| !text.contains(*part)).collect();
    assert!(missing.is_empty(), "{missing:?} not in:\n{text}");
}

#[test]
fn an_access_log_that_cannot_be_opened_is_a_reason() {
    let said = refused(gate(["--workers", "3", "--demo", "--access-log", "/nonexistent/x"]), 78);
    says(&said, &["access_log: cannot append to /nonexistent/x"]);
}

#[test]
fn all_bad_values_are_told_in_one_run() {
    let plan = gate(["--workers", "many", "--keep-alive=soon"]).config("limmit = \"1/minute\"\nbacklog = -3\n");
    let said = refused(plan.env("OLLAMA_GATE_TIMEOUT", "never"), 78);
    says(&said, &["workers = \"many\"", "keep_alive = \"soon\"", "timeout = \"never\"", "OLLAMA_GATE_TIMEOUT"]);
    says(&said, &["backlog = \"-3\"", "limmit", "`limit`", "gate.toml:1", "gate.toml:2"]);
}

#[test]
fn a_file_that_cannot_be_read_is_a_reason() {
    let said = refused(gate(["--config", "/nonexistent/gate.toml"]), 78);
    says(&said, &["/nonexistent/gate.toml", "cannot be read"]);
}

#[test]
fn a_flag_that_does_not_exist_is_a_usage_error() {
    says(&refused(gate(["--wrokers", "3"]), 64), &["--wrokers", "--workers"]);
}

#[test]
fn a_busy_port_is_told_apart() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let said = refused(gate(["--bind", &address, "--bind", "192.0.2.1:80"]), 69);
    says(&said, &[&address, "another process listens there", "http://192.0.2.1:80", "no interface"]);
}

#[test]
fn a_port_shared_with_another_gate_is_busy_in_both_modes() {
    let first = gate(["--demo", "--reuse-port"]).start();
    let address = first.address().to_string();
    for mode in ["--reuse-port=true", "--reuse-port=false"] {
        says(&refused(gate(["--demo", mode, "--bind", &address]), 69), &[&address, "another process listens there"]);
    }
}

#[test]
fn help_and_version_are_no_errors() {
    let said = |argument: &str| {
        let mut gate = gate([argument]).spawn();
        (gate.ends_with_code(), gate.output())
    };
    let (code, help) = said("--help");
    assert_eq!(code, 0);
    says(&help, &["--workers", "--graceful-timeout", "[30s]", "Exit codes:"]);
    let (code, version) = said("--version");
    assert_eq!((code, version), (0, format!("ollama-gate {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_check_starts_nothing() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let mut good = gate(["--check-config", "--bind", &address]).config("workers = 2").spawn();
    assert_eq!(good.ends_with_code(), 0);
    assert_eq!(good.output(), "the configuration is good\n");
    says(&refused(gate(["--check-config"]).config("workers = 0\nlimit = \"often\""), 78), &["workers", "limit"]);
    says(&refused(gate(["--check-config", "--user", "no-such-user"]), 78), &["no-such-user"]);
    says(
        &refused(gate(["--check-config", "--pid", "/nonexistent/gate.pid"]), 0),
        &["warning", "/nonexistent/gate.pid"],
    );
}

#[test]
fn a_printed_configuration_is_a_configuration() {
    let print = |plan: Plan| -> (Gate, String) {
        let mut gate = plan.spawn();
        assert_eq!(gate.ends_with_code(), 0);
        let output = gate.output();
        (gate, output)
    };
    let values = |printed: &str| -> Vec<String> {
        let keys = printed.lines().filter(|line| line.contains(" = "));
        keys.map(|line| line.rsplit_once("  # ").expect("an origin").0.to_owned()).collect()
    };
    let flags = ["-w", "5", "--limit", "100/hour;10/second", "--bind", "[::1]:0", "--print-config"];
    let (_first, printed) = print(gate(flags).env("OLLAMA_GATE_MODEL", "hf.co/some/model:Q4"));
    let (_second, again) = print(gate(["--print-config"]).config(&printed));
    assert!(values(&printed).contains(&"workers = 5".to_owned()), "{printed}");
    assert!(values(&printed).len() > 30);
    assert_eq!(values(&printed), values(&again));
}
