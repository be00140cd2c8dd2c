//! The arrows between our crates, and what the master must not link.
//!
//! It reads `cargo metadata` and nothing else; dev-dependencies are not arrows. Invariant: a crate that is not in the
//! table is a fault, so the table stays complete.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{Fault, relative};

/// Who may depend on whom. Arrows point down: a crate stands above all that it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("ollama-gate", &["gate-master", "gate-worker", "gate-monitor", "gate-config", "ollama-sim"]),
    ("gate-master", &["gate-sys", "gate-zone", "gate-config"]),
    ("gate-worker", &["gate-upstream", "gate-cluster", "gate-limit", "gate-zone", "gate-api", "gate-config"]),
    ("gate-monitor", &["gate-upstream", "gate-zone", "gate-api", "gate-config"]),
    ("gate-cluster", &["gate-limit", "gate-zone"]),
    ("gate-limit", &["gate-zone"]),
    ("gate-upstream", &["gate-zone", "gate-api"]),
    ("gate-zone", &["gate-sys"]),
    ("gate-sys", &[]),
    ("gate-config", &[]),
    ("gate-api", &[]),
    ("ollama-sim", &[]),
    ("gate-bench", &["gate-upstream", "gate-limit", "gate-zone", "gate-api", "ollama-sim"]),
];

/// The master forks: nothing that starts threads or holds a runtime may be linked into its part.
const MASTER: &str = "gate-master";
const NOT_IN_MASTER: &[&str] = &["tokio", "hyper", "hyper-util", "mio"];

/// What `cargo metadata` says.
pub(crate) struct Workspace {
    packages: BTreeMap<String, Value>,
    members: BTreeSet<String>,
    /// Package id to the ids of its normal and build dependencies, as resolved.
    resolved: BTreeMap<String, Vec<String>>,
}

impl Workspace {
    pub(crate) fn read(root: &Path) -> Self {
        let text = metadata(root);
        let document: Value = serde_json::from_str(&text).expect("cargo writes JSON");
        Self::of(&document)
    }

    fn of(document: &Value) -> Self {
        let id = |value: &Value| value.as_str().expect("an id is a string").to_owned();
        let packages = list(&document["packages"]).iter().map(|package| (id(&package["id"]), package.clone()));
        let node = |node: &Value| {
            let deps = list(&node["deps"]).iter().filter(|dep| list(&dep["dep_kinds"]).iter().any(is_arrow));
            (id(&node["id"]), deps.map(|dep| id(&dep["pkg"])).collect())
        };
        Self {
            packages: packages.collect(),
            members: list(&document["workspace_members"]).iter().map(id).collect(),
            resolved: list(&document["resolve"]["nodes"]).iter().map(node).collect(),
        }
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        [self.arrows(), self.master()].concat()
    }

    /// The first files of our libraries and programs, relative to the root.
    pub(crate) fn crate_roots(&self, root: &Path) -> Vec<String> {
        let is_root = |target: &&Value| list(&target["kind"]).iter().any(|kind| kind == "lib" || kind == "bin");
        let path = |target: &Value| relative(root, Path::new(target["src_path"].as_str().expect("targets have files")));
        let targets = self.members().flat_map(|package| list(&package["targets"]));
        targets.filter(is_root).map(path).collect()
    }

    fn members(&self) -> impl Iterator<Item = &Value> {
        self.members.iter().filter_map(|id| self.packages.get(id))
    }

    fn arrows(&self) -> Vec<Fault> {
        let ours: BTreeSet<&str> = self.members().map(name).collect();
        let mut faults = Vec::new();
        for package in self.members() {
            let (from, manifest) = (name(package), manifest(package));
            let Some((_, allowed)) = ARROWS.iter().find(|(crate_name, _)| *crate_name == from) else {
                let remedy = format!("give `{from}` its row in tests/tidy/graph.rs and in crates/ARCHITECTURE.md");
                faults.push(Fault::new(&manifest, 1, "every crate has its place", remedy));
                continue;
            };
            let arrows = list(&package["dependencies"]).iter().filter(|dependency| is_arrow(dependency)).map(name);
            for to in arrows.filter(|to| ours.contains(to) && !allowed.contains(to)) {
                let remedy = format!("`{from}` may not use `{to}`: move what it needs down, or hand it in as a value");
                let line = line_of(package, to);
                faults.push(Fault::new(&manifest, line, "arrows between crates point down", remedy));
            }
        }
        faults
    }

    fn master(&self) -> Vec<Fault> {
        let Some(start) = self.members().find(|package| name(package) == MASTER) else {
            let remedy = format!("no crate is called `{MASTER}`: correct this rule");
            return vec![Fault::new("Cargo.toml", 1, "the master is small", remedy)];
        };
        let mut ways = vec![vec![start["id"].as_str().expect("an id is a string")]];
        let mut seen = BTreeSet::new();
        let mut faults = Vec::new();
        while let Some(way) = ways.pop() {
            let here = *way.last().expect("a way has a start");
            if !seen.insert(here) {
                continue;
            }
            if NOT_IN_MASTER.contains(&name(&self.packages[here])) {
                let names: Vec<&str> = way.iter().map(|id| name(&self.packages[*id])).collect();
                let (line, remedy) = (line_of(start, names[1]), format!("cut {}", names.join(" -> ")));
                faults.push(Fault::new(&manifest(start), line, "the master links no runtime", remedy));
            }
            let next = self.resolved.get(here).into_iter().flatten();
            ways.extend(next.map(|id| [&way[..], &[id.as_str()]].concat()));
        }
        assert!(seen.len() > 5, "the master's tree has more than {} crates: it was not read right", seen.len());
        faults
    }
}

/// Of `dep_kinds` and of `dependencies`: `null` is a normal dependency.
fn is_arrow(dependency: &Value) -> bool {
    dependency["kind"].is_null() || dependency["kind"] == "build"
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn name(package: &Value) -> &str {
    package["name"].as_str().expect("packages have names")
}

fn manifest(package: &Value) -> String {
    let name = name(package);
    if name == "ollama-gate" { "Cargo.toml".to_owned() } else { format!("crates/{name}/Cargo.toml") }
}

/// Where a package's manifest names a dependency.
fn line_of(package: &Value, dependency: &str) -> usize {
    let text = package["manifest_path"].as_str().and_then(|path| std::fs::read_to_string(path).ok());
    let names_it = |line: &str| {
        let rest = line.strip_prefix(dependency);
        rest.is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
    };
    text.and_then(|text| text.lines().position(names_it)).map_or(1, |row| row + 1)
}

/// For this machine's platform only, whose crates the build has fetched; without network where that is enough.
fn metadata(root: &Path) -> String {
    let about = cargo(root, &["-vV"]).expect("cargo tells its version");
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo tells its host");
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", host];
    cargo(root, &[&arguments[..], &["--offline"]].concat())
        .or_else(|_| cargo(root, &arguments))
        .unwrap_or_else(|said| panic!("cargo metadata: {said}"))
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<String, String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program).args(arguments).current_dir(root).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A workspace of the master, five crates that it uses, the bench, and what `arrows` adds.
    fn workspace(arrows: &[(&str, &str, Option<&str>)]) -> Workspace {
        let known = ["gate-master", "gate-bench", "gate-odd", "libc", "nix", "toml", "log", "serde", "mio", "tokio"];
        let base = ["libc", "nix", "toml", "log", "serde"].map(|to| ("gate-master", to, None));
        let from = |name: &str| {
            let all = base.iter().chain(arrows).filter(move |(from, ..)| *from == name);
            all.map(|(_, to, kind)| (*to, *kind)).collect::<Vec<_>>()
        };
        let package = |name: &&str| {
            let deps = from(name).into_iter().map(|(to, kind)| json!({"name": to, "kind": kind}));
            json!({"id": name, "name": name, "dependencies": deps.collect::<Vec<_>>()})
        };
        let node = |name: &&str| {
            let deps = from(name).into_iter().map(|(to, kind)| json!({"pkg": to, "dep_kinds": [{"kind": kind}]}));
            json!({"id": name, "deps": deps.collect::<Vec<_>>()})
        };
        Workspace::of(&json!({
            "packages": known.iter().map(package).collect::<Vec<_>>(),
            "workspace_members": ["gate-master", "gate-bench"],
            "resolve": {"nodes": known.iter().map(node).collect::<Vec<_>>()},
        }))
    }

    #[test]
    fn an_arrow_that_is_not_in_the_table_is_a_fault() {
        assert_eq!(workspace(&[]).faults(), []);
        assert_eq!(workspace(&[("gate-master", "gate-bench", Some("dev"))]).faults(), []);
        let faults = workspace(&[("gate-master", "gate-bench", None)]).faults();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].to_string().contains("`gate-master` may not use `gate-bench`"), "{}", faults[0]);
        assert_eq!(workspace(&[("gate-bench", "gate-master", Some("build"))]).faults().len(), 1);
    }

    #[test]
    fn a_runtime_is_found_however_deep_it_hides() {
        let faults = workspace(&[("log", "serde", None), ("serde", "tokio", None)]).faults();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].to_string().contains("serde -> tokio"), "{}", faults[0]);
        assert_eq!(workspace(&[("serde", "tokio", Some("dev"))]).faults(), []);
    }

    #[test]
    fn a_crate_without_a_row_is_a_fault() {
        let mut odd = workspace(&[]);
        odd.members.insert("gate-odd".to_owned());
        assert_eq!(odd.faults().len(), 1);
    }
}
