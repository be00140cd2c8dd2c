//! The rules of this repository that no compiler checks: who may depend on whom, where `unsafe` may stand, how long a
//! file and a function may get, what lies at the top, what the README opens with.
//!
//! It judges text and `cargo metadata`, and never builds or runs anything. Invariant: one run names every fault, each
//! with its file, line, rule and remedy.

#[path = "tidy/graph.rs"]
mod graph;
#[path = "tidy/papers.rs"]
mod papers;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/sources.rs"]
mod sources;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// One breach of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Relative to the repository's root.
    file: String,
    /// Counted from 1.
    line: usize,
    rule: &'static str,
    remedy: String,
}

impl Fault {
    pub(crate) fn new(file: &str, line: usize, rule: &'static str, remedy: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, rule, remedy: remedy.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.rule, self.remedy)
    }
}

#[test]
fn the_repository_keeps_its_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = graph::Workspace::read(root);
    let mut faults = workspace.faults();
    for path in rust_files(root) {
        faults.extend(sources::faults(&read(root, &path)));
    }
    for path in workspace.crate_roots(root) {
        faults.extend(sources::crate_root(&read(root, &path)));
    }
    faults.extend(papers::faults(root));
    let list: Vec<String> = faults.iter().map(Fault::to_string).collect();
    assert!(list.is_empty(), "{} breaches of the house rules:\n{}", list.len(), list.join("\n"));
}

fn read(root: &Path, path: &str) -> source::Source {
    let text = fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    source::Source::parse(path, &text)
}

/// Every Rust file of ours, relative to the root.
fn rust_files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["crates", "examples", "tests"].iter().map(|name| root.join(name)).collect();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.expect("our folders can be read").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(relative(root, &path));
            }
        }
    }
    assert!(found.len() > 50, "only {} Rust files found under {}", found.len(), root.display());
    found.sort();
    found
}

fn relative(root: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(root).unwrap_or_else(|_| panic!("{} lies outside", path.display()));
    inside.to_str().expect("our file names are ASCII").to_owned()
}
