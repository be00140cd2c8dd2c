//! Rules for what is not Rust: the top of the repository, the README, the architecture, the manifest.
//!
//! It does not judge prose. Invariant: what a newcomer tries first, the README's commands, is what these rules pin.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Fault;

/// What may lie at the top, besides names that begin with a dot.
const TOP: &[&str] =
    &["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "crates", "config", "examples", "packaging", "tests"];

/// A page that is longer than this is not read.
const PAGE_LINES_MAX: usize = 300;

/// The README's first block: one command that starts the gate, one that asks it something.
const FIRST_COMMANDS: [&str; 2] = [
    "cargo run --release -- --workers 3 --bind 127.0.0.1:8000 --demo",
    "curl -X POST http://127.0.0.1:8000/ollama_generate/ ",
];

/// The README's second block.
const TEST_COMMAND: &str = "cargo test --workspace";

/// How many dependencies one comment can speak for.
const COMMENT_REACH: usize = 3;

pub(crate) fn faults(root: &Path) -> Vec<Fault> {
    let mut faults = top(&top_names(root));
    for (path, judge) in [
        ("README.md", readme as fn(&str) -> Vec<Fault>),
        ("crates/ARCHITECTURE.md", |text| page("crates/ARCHITECTURE.md", text)),
        ("crates/DECISIONS.md", |text| page("crates/DECISIONS.md", text)),
        ("crates/gate-bench/README.md", |text| page("crates/gate-bench/README.md", text)),
        ("Cargo.toml", dependencies),
        ("config/ollama-gate.toml", |_| Vec::new()),
    ] {
        match fs::read_to_string(root.join(path)) {
            Ok(text) => faults.extend(judge(&text)),
            Err(error) => faults.push(Fault::new(path, 1, "it is there", error.to_string())),
        }
    }
    faults
}

/// Names at the top: of tracked files in a checkout, else of all files but the build's.
fn top_names(root: &Path) -> BTreeSet<String> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
    let tracked = listed.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let tracked = String::from_utf8(tracked.unwrap_or_default()).expect("our file names are ASCII");
    let first = |path: &str| path.split('/').next().unwrap_or(path).to_owned();
    let names: BTreeSet<String> = tracked.split_terminator('\0').map(first).collect();
    if !names.is_empty() {
        return names;
    }
    let entries = fs::read_dir(root).expect("the repository can be listed");
    let names = entries.flatten().map(|entry| entry.file_name().into_string().expect("our file names are ASCII"));
    names.filter(|name| name != "target").collect()
}

fn top(names: &BTreeSet<String>) -> Vec<Fault> {
    let strange = names.iter().filter(|name| !name.starts_with('.') && !TOP.contains(&name.as_str()));
    let remedy = "move it under crates, config, examples, packaging or tests";
    strange.map(|name| Fault::new(name, 1, "the top holds only what a newcomer needs", remedy)).collect()
}

fn readme(text: &str) -> Vec<Fault> {
    let mut faults = page("README.md", text);
    let rule = "the README opens with its commands";
    let blocks = blocks(text);
    let first = blocks.first().map_or(&[][..], Vec::as_slice);
    let fits = first.len() == FIRST_COMMANDS.len()
        && first.iter().zip(FIRST_COMMANDS).all(|((_, line), command)| line.starts_with(command));
    if !fits {
        let line = first.first().map_or(1, |(line, _)| *line);
        let remedy = format!("let the first block be the lines `{}`", FIRST_COMMANDS.join("`, `"));
        faults.push(Fault::new("README.md", line, rule, remedy));
    }
    let second = blocks.get(1).and_then(|block| block.first());
    if second.is_none_or(|(_, line)| *line != TEST_COMMAND) {
        let line = second.map_or(1, |(line, _)| *line);
        faults.push(Fault::new("README.md", line, rule, format!("let the second block be `{TEST_COMMAND}`")));
    }
    faults
}

fn page(path: &str, text: &str) -> Vec<Fault> {
    let lines = text.lines().count();
    let fault = || {
        let remedy = format!("{lines} lines: drop what the code says itself");
        Fault::new(path, PAGE_LINES_MAX + 1, "pages have at most 300 lines", remedy)
    };
    (lines > PAGE_LINES_MAX).then(fault).into_iter().collect()
}

/// Fenced blocks: their lines, with their numbers.
fn blocks(text: &str) -> Vec<Vec<(usize, &str)>> {
    let mut blocks = Vec::new();
    let mut open: Option<Vec<(usize, &str)>> = None;
    for (row, line) in text.lines().enumerate() {
        match (&mut open, line.starts_with("```")) {
            (None, true) => open = Some(Vec::new()),
            (Some(_), true) => blocks.extend(open.take()),
            (Some(block), false) => block.push((row + 1, line)),
            (None, false) => {}
        }
    }
    blocks
}

/// Each library in the workspace's manifest has a comment above that says what it is there for.
fn dependencies(text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut is_inside = false;
    let mut reach = 0;
    for (row, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            is_inside = line == "[workspace.dependencies]";
            reach = 0;
        } else if line.starts_with('#') {
            reach = COMMENT_REACH;
        } else if line.trim().is_empty() {
            reach = 0;
        } else if is_inside && !line.contains("path = \"crates/") {
            if reach == 0 {
                let remedy = "say in a comment above what it is there for; one comment speaks for three lines at most";
                faults.push(Fault::new("Cargo.toml", row + 1, "every library has its reason", remedy));
            }
            reach = reach.saturating_sub(1);
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_at_the_top_are_named() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(top(&names(&["Cargo.toml", ".ci", "crates", "tests"])), []);
        let faults = top(&names(&["notes.txt", "crates", "src"]));
        assert_eq!(faults.iter().map(|fault| fault.file.as_str()).collect::<Vec<_>>(), ["notes.txt", "src"]);
    }

    #[test]
    fn the_readme_opens_with_commands_that_start_ask_and_test() {
        let good =
            format!("# x\n```sh\n{}\n{}-d\n```\n```sh\n{TEST_COMMAND}\n```\n", FIRST_COMMANDS[0], FIRST_COMMANDS[1]);
        assert_eq!(readme(&good), []);
        assert_eq!(readme(&good.replace("--workers 3", "--workers 2")).len(), 1);
        assert_eq!(readme(&good.replace("curl", "wget")).len(), 1);
        assert_eq!(readme(&good.replace(TEST_COMMAND, "make")).len(), 1);
        assert_eq!(readme("# x\n").len(), 2);
        assert_eq!(readme(&format!("{good}{}", "\n".repeat(PAGE_LINES_MAX))).len(), 1);
    }

    #[test]
    fn a_library_without_a_reason_is_named() {
        let manifest =
            |lines: &str| format!("[package]\nname = \"x\"\n[workspace.dependencies]\n{lines}\n[lints]\na = 1\n");
        let rows = |lines: &str| dependencies(&manifest(lines)).iter().map(|fault| fault.line).collect::<Vec<_>>();
        assert_eq!(rows("a = { path = \"crates/a\" }\n\n# Why.\nb = \"1\"\nc = \"1\"\nd = \"1\""), [0_usize; 0]);
        assert_eq!(rows("# Why.\nb = \"1\"\nc = \"1\"\nd = \"1\"\ne = \"1\""), [8]);
        assert_eq!(rows("# Why.\n\nb = \"1\""), [6]);
    }
}
