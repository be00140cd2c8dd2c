//! The files under `config/` are what the program reads: each is checked by the program itself.
//!
//! It starts no gate. Invariant: a profile names only keys that exist, with values that hold on any machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Every profile, and a line that `--print-config` must show for it: proof that the file was read.
const PROFILES: &[(&str, &str)] = &[
    ("ollama-gate.toml", "limit = [\"10/minute\"]"),
    ("single-host.toml", "flood = \"20/second\""),
    ("behind-nginx.toml", "forwarded_allow_ips = [\"127.0.0.1\", \"::1\", \"10.0.0.0/24\"]"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

/// Runs the program without any setting of the environment's.
fn gate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ollama-gate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OLLAMA_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).output().expect("the program can be started")
}

fn told(output: &Output) -> String {
    format!(
        "exit {:?}\nstdout:\n{}\nstderr:\n{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn every_file_is_in_the_list() {
    let mut files: Vec<String> = fs::read_dir(folder())
        .expect("config/ is there")
        .map(|entry| entry.expect("config/ can be read").file_name().into_string().expect("our file names are ASCII"))
        .collect();
    files.sort();
    let mut listed: Vec<&str> = PROFILES.iter().map(|(file, _)| *file).collect();
    listed.sort_unstable();
    assert_eq!(files, listed);
}

#[test]
fn every_profile_passes_the_programs_own_check() {
    for (file, _) in PROFILES {
        let path = folder().join(file);
        let output = gate(&["--config", path.to_str().expect("paths are UTF-8"), "--check-config"]);
        assert_eq!(output.status.code(), Some(0), "{file}: {}", told(&output));
    }
}

#[test]
fn every_profile_is_what_the_program_then_runs() {
    for (file, line) in PROFILES {
        let path = folder().join(file);
        let output = gate(&["--config", path.to_str().expect("paths are UTF-8"), "--print-config"]);
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(printed.lines().any(|printed| printed.starts_with(line)), "{file}: no `{line}` in\n{}", told(&output));
    }
}

#[test]
fn a_file_with_faults_fails_the_check_and_names_them_all() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faulty.toml");
    fs::write(&path, "workers = 0\nlimitt = \"10/minute\"\n").expect("cargo makes this folder");
    let output = gate(&["--config", path.to_str().expect("paths are UTF-8"), "--check-config"]);
    assert_eq!(output.status.code(), Some(78), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("workers") && said.contains("limitt") && said.contains("`limit`"), "{}", told(&output));
}
