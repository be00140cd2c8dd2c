//! The command that changes key files: what it writes, what it says, and what it leaves alone. No gate runs here.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::identity::may_change;
use crate::orders::{Running, Said};
use crate::support::{Dir, binary};

/// A key file in a directory of its own.
pub(crate) struct Sheet {
    dir: Dir,
}

impl Sheet {
    pub(crate) fn new() -> Self {
        Self { dir: Dir::new() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path("keys")
    }

    pub(crate) fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    /// Writes this as the gate wants it.
    pub(crate) fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
        self.mode(0o600);
    }

    pub(crate) fn mode(&self, mode: u32) {
        fs::set_permissions(self.path(), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn begin(&self, line: &str) -> Running {
        let mut command = key(line);
        Running::start(command.arg("--keys").arg(self.path()).arg("--control").arg(self.dir.path("none.sock")))
    }

    /// Runs `ollama-gate key LINE` on it, with no gate to tell.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> Said {
        self.begin(line).said()
    }

    /// Makes a key; its text.
    #[track_caller]
    pub(crate) fn make(&self, line: &str) -> String {
        secret(&self.run(line))
    }

    #[track_caller]
    pub(crate) fn listed(&self) -> Vec<Value> {
        let said = self.run("list --json");
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
        serde_json::from_str::<Value>(&said.out).unwrap().as_array().unwrap().clone()
    }
}

/// `ollama-gate key LINE` in an environment of nobody's.
pub(crate) fn key(line: &str) -> Command {
    let mut command = Command::new(binary());
    command.arg("key").args(line.split(' ')).env_clear();
    command
}

/// The key that was printed, alone.
#[track_caller]
pub(crate) fn secret(said: &Said) -> String {
    let text = said.out.trim_end();
    let parts: Vec<_> = text.split('-').map(str::len).collect();
    assert!(said.code == 0 && text.starts_with("og-") && parts == [2, 12, 40], "{said:?}");
    assert_eq!(said.out, format!("{text}\n"));
    assert!(!said.err.contains(&text[16..]), "{said:?}");
    text.to_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// Salts and hashes of a file.
fn hidden(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.flat_map(|line| line.split(' ').skip(1).take(2)).collect()
}

#[test]
fn a_new_key_is_printed_once_and_only_its_hash_is_kept() {
    let sheet = Sheet::new();
    let said = sheet.run("new --name ada --limit 60/minute --models llama3.2,qwen3:* --expires 90d");
    let text = secret(&said);
    for part in [&text[3..15], "ada", "good until", "shown this once", "no gate is told", "kill -HUP"] {
        assert!(said.err.contains(part), "{part}: {said:?}");
    }
    let file = sheet.text();
    assert!(file.starts_with(&text[3..15]) && !file.contains(&text[16..]), "{file}");
    assert!(file.ends_with(" limit=60/minute models=llama3.2,qwen3:*\n"), "{file}");
    assert_eq!((mode(&sheet.path()), fs::read_dir(sheet.path().parent().unwrap()).unwrap().count()), (0o600, 1));
    let other = sheet.make("new --name bob");
    assert_ne!(other[16..], text[16..]);
    assert!(sheet.text().starts_with(&file), "what was there stays as it was");
    sheet.run("new --name ada").was_refused(1, &["ada has a key already", "key rotate ada"]);
    assert_eq!(sheet.listed().len(), 2);
    for shown in [sheet.run("list"), sheet.run("list --json")] {
        assert!(shown.out.contains("ada") && shown.out.contains(&text[3..15]) && shown.out.contains("limit=60/minute"));
        let told = sheet.text();
        assert!(hidden(&told).iter().all(|hidden| hidden.len() >= 32 && !shown.out.contains(hidden)), "{shown:?}");
    }
}

#[test]
fn keys_are_rotated_and_revoked_by_name_and_number() {
    let sheet = Sheet::new();
    sheet.write("# ours\n\n");
    let first = sheet.make("new --name ada --weight 3");
    let bob = sheet.make("new --name bob");
    let said = sheet.run("rotate ada --grace 1h");
    let second = secret(&said);
    assert!(said.err.contains(&format!("key {} of ada is good until ", &first[3..15])), "{said:?}");
    let listed = sheet.listed();
    let of_ada: Vec<_> = listed.iter().filter(|key| key["name"] == "ada").collect();
    assert_eq!(
        (of_ada.len(), &of_ada[0]["policy"], &of_ada[1]["policy"]),
        (2, &of_ada[0]["policy"], &of_ada[0]["policy"])
    );
    assert_eq!((&of_ada[0]["id"], of_ada[0]["expires"].is_null()), (&Value::from(&first[3..15]), false));
    assert_eq!((&of_ada[1]["id"], of_ada[1]["expires"].is_null()), (&Value::from(&second[3..15]), true));
    sheet.run("rotate ada --grace 0");
    assert!(sheet.run("list").out.contains("expired"));
    sheet.run("rotate eve").was_refused(1, &["no key is of eve", "key new --name eve"]);
    let before = sheet.text();
    sheet.run(&format!("revoke {} eve", &first[3..15])).was_refused(1, &["\"eve\""]);
    assert_eq!(sheet.text(), before, "all or none");
    let said = sheet.run(&format!("revoke {} ada", &bob[3..15]));
    assert_eq!((said.out.as_str(), said.err.matches("is revoked in the file").count()), ("", 4), "{said:?}");
    said.was_refused(69, &["revoked in the file; no running gate was told", "ollama-gate reload"]);
    assert_eq!(sheet.text(), "# ours\n\n");
}

#[test]
fn commands_at_the_same_time_lose_nothing() {
    let sheet = Sheet::new();
    let running: Vec<_> = (0..24).map(|number| sheet.begin(&format!("new --name n{number}"))).collect();
    let keys: Vec<_> = running.into_iter().map(|running| secret(&running.said())).collect();
    let listed = sheet.listed();
    assert_eq!(listed.len(), 24);
    for key in keys {
        assert!(listed.iter().any(|listed| listed["id"] == key[3..15]), "{} is lost", &key[3..15]);
    }
}

#[test]
fn a_file_that_is_not_as_it_should_be_is_refused_and_left_alone() {
    let sheet = Sheet::new();
    for line in ["list", "revoke ada", "rotate ada"] {
        sheet.run(line).was_refused(78, &["No such file"]);
    }
    assert!(!sheet.path().exists());
    sheet.make("new --name ada");
    let good = sheet.text();
    let bad = format!("{good}{}0123456789ab salt hash b/b today soon limit=1/min\n", good.replace("ada", "bob"));
    sheet.write(&bad);
    for line in ["list", "revoke ada", "rotate ada", "new --name eve"] {
        let path = sheet.path().display().to_string();
        let lines = ["SALT", "HASH", "NAME", "CREATED", "EXPIRES", "`min` is no unit"];
        let told: Vec<_> = lines.iter().map(|word| format!("{path}:3: {word}")).collect();
        let told: Vec<_> = told.iter().map(|line| line.replace("`min`", "limit=1/min: `min`")).collect();
        let said = sheet.run(line);
        said.was_refused(78, &told.iter().map(String::as_str).collect::<Vec<_>>());
        said.was_refused(78, &[&format!("{path}:2: "), "stands in line 1 already"]);
        assert!(hidden(&good).iter().all(|hidden| !said.err.contains(hidden)), "{said:?}");
    }
    assert_eq!(sheet.text(), bad);
    sheet.write(&good);
    for wide in [0o640, 0o604, 0o620] {
        sheet.mode(wide);
        for line in ["list", "revoke ada", "rotate ada", "new --name eve"] {
            sheet.run(line).was_refused(78, &[&format!("mode {wide:04o}"), "chmod 600"]);
        }
        assert_eq!((sheet.text(), mode(&sheet.path())), (good.clone(), wide));
    }
    fs::remove_file(sheet.path()).unwrap();
    fs::create_dir(sheet.path()).unwrap();
    sheet.run("list").was_refused(78, &["is no regular file"]);
    assert_eq!(fs::read_dir(sheet.path().parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn a_file_keeps_its_owner_its_name_and_the_link_to_it() {
    let sheet = Sheet::new();
    sheet.make("new --name ada");
    let link = sheet.dir.path("link");
    symlink(sheet.path(), &link).unwrap();
    sheet.mode(0o400);
    let said = Running::start(key("new --name bob --control /nonexistent").arg("--keys").arg(&link)).said();
    secret(&said);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!((sheet.listed().len(), mode(&sheet.path())), (2, 0o600));
    if may_change() {
        std::os::unix::fs::chown(sheet.path(), Some(65_534), Some(65_533)).unwrap();
        sheet.make("rotate ada");
        let found = fs::metadata(sheet.path()).unwrap();
        assert_eq!((found.uid(), found.gid(), mode(&sheet.path())), (65_534, 65_533, 0o600));
    }
}

#[test]
fn the_file_is_found_in_the_environment_and_the_configuration() {
    let sheet = Sheet::new();
    sheet.make("new --name ada");
    let path = sheet.path().display().to_string();
    let config = sheet.dir.path("gate.toml").display().to_string();
    fs::write(&config, format!("workers = [\nkeys = \"{path}\"\n")).unwrap();
    let list = |line: &str, variable: &str| Running::start(key(line).env("OLLAMA_GATE_KEYS", variable)).said();
    list("list", &path).did("ada");
    list(&format!("list -c {config}"), "").did("ada");
    list("list", "").was_refused(78, &["--keys FILE", "--config"]);
    fs::write(&config, "workers = 2\n").unwrap();
    list(&format!("list -c {config}"), "").was_refused(78, &[&config, "names no key file"]);
    list("list -c /nonexistent.toml", "").was_refused(78, &["/nonexistent.toml"]);
}

#[test]
fn a_policy_that_cannot_be_is_a_usage_error() {
    let sheet = Sheet::new();
    for (line, reasons) in [
        ("new --name ada --limit x --routes pul", &["limit=x: write a rate", "did you mean `pull`?"][..]),
        ("new --name a/b", &["letters, digits"]),
        ("new --name ada --expires yesterday", &["90d"]),
        ("new", &["--name"]),
        ("make", &["make"]),
        ("revoke", &["ID|NAME"]),
    ] {
        sheet.run(line).was_refused(64, reasons);
    }
    sheet.run("new --name ada --expires 2020-01-01").was_refused(1, &["that time is over"]);
    assert!(!sheet.path().exists() || sheet.text().is_empty());
}
