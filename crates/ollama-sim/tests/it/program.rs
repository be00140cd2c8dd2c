//! The command: where it says it listens, and what it says about bad arguments.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::support::Client;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ollama-sim");

/// Ends the program with the test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn it_says_where_it_listens_and_plays_its_script() {
    let script = format!("{}/tests/data/script.json", env!("CARGO_MANIFEST_DIR"));
    let child =
        Command::new(PROGRAM).args(["--personality", "echo", "--script", &script]).stdout(Stdio::piped()).spawn();
    let mut started = Started(child.unwrap());
    let mut line = String::new();
    BufReader::new(started.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("ollama-sim on http://").unwrap_or_else(|| panic!("{line:?}"));
    let mut client = Client::connect(address.parse().unwrap());
    let mut ask = || {
        client.post("/api/generate", r#"{"model":"any","prompt":"hi","stream":false}"#);
        client.answer()
    };
    assert_eq!(ask().status(), 503);
    assert_eq!(ask().json()["response"], "echo: hi");
}

#[test]
fn bad_arguments_are_explained_and_end_with_64() {
    for (arguments, wanted) in [(["--slots", "none"], "a whole number above 0"), (["--scrpt", "x"], "--scrpt")] {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.starts_with("ollama-sim: ") && said.contains(wanted), "{said}");
    }
}

#[test]
fn help_is_for_asking() {
    let output = Command::new(PROGRAM).arg("--help").output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("--token-rate N"));
}
