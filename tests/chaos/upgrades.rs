//! Upgrades: programs that take over, programs that cannot, and what must be the same before and after.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::kernel;
use crate::rig::{Rig, WORKERS};
use crate::support::http::{Client, Request};
use crate::support::{binary, wait_for};

/// What this build says it is, and what a patched one says.
const VERSIONS: [&str; 2] = [env!("CARGO_PKG_VERSION"), "0.0.9"];

/// How often one client may ask; see the rig's `limit`.
const LIMIT: usize = 10;

/// Asked before an upgrade; the rest after it.
const BEFORE: usize = 4;

/// Programs that do not take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Missing,
    NotExecutable,
    NoProgram,
    Crashes,
    Hangs,
    RefusesItsConfiguration,
    OtherLayout,
}

pub(crate) const BROKEN: [Broken; 7] = [
    Broken::Missing,
    Broken::NotExecutable,
    Broken::NoProgram,
    Broken::Crashes,
    Broken::Hangs,
    Broken::RefusesItsConfiguration,
    Broken::OtherLayout,
];

impl Broken {
    /// What the answer must say.
    fn reason(self) -> &'static str {
        match self {
            Self::Missing => "No such file or directory",
            Self::NotExecutable => "Permission denied",
            Self::NoProgram => "Exec format error",
            Self::Crashes => "exited with code 3",
            Self::Hangs => "did not serve in time",
            Self::RefusesItsConfiguration => "workers",
            Self::OtherLayout => "layout 99",
        }
    }

    /// Puts it where the program is.
    pub(crate) fn install(self, rig: &Rig) {
        let script = |text: &str| {
            let path = rig.path("bin/script");
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(path, rig.program()).unwrap();
        };
        match self {
            Self::Missing => fs::remove_file(rig.program()).unwrap(),
            Self::NotExecutable => {
                rig.install(&binary());
                fs::set_permissions(rig.program(), fs::Permissions::from_mode(0o644)).unwrap();
            }
            Self::NoProgram => script("neither magic nor an interpreter\n"),
            Self::Crashes => script("#!/bin/sh\nexit 3\n"),
            Self::Hangs => script("#!/bin/sh\nexec sleep 1000\n"),
            Self::RefusesItsConfiguration => {
                rig.install(&binary());
                rig.configure("workers = \"many\"");
            }
            Self::OtherLayout => script(&other_layout(rig)),
        }
    }
}

/// A program that finds another zone than it was given: of a layout that nobody has yet.
fn other_layout(rig: &Rig) -> String {
    const WORDS: usize = 64;
    let mut head = vec![0_u8; WORDS * size_of::<u64>()];
    head[..8].copy_from_slice(&u64::from_be_bytes(*b"gatezone").to_ne_bytes());
    head[8..16].copy_from_slice(&99_u64.to_ne_bytes());
    let zone = rig.path("bin/zone");
    fs::write(&zone, head).unwrap();
    format!(
        "#!/bin/bash\nIFS=: read -ra names <<<\"$LISTEN_FDNAMES\"\nfor at in \"${{!names[@]}}\"; do\n  \
         if [ \"${{names[at]}}\" = gate.zone ]; then eval \"exec $((3 + at))<'{}'\"; fi\ndone\nexec '{}' \"$@\"\n",
        zone.display(),
        binary().display()
    )
}

/// A copy that says it is another version.
pub(crate) fn downgraded(rig: &Rig) -> PathBuf {
    let path = rig.path("bin/downgraded");
    if !path.exists() {
        let mut bytes = fs::read(binary()).unwrap();
        let [old, new] = VERSIONS.map(str::as_bytes);
        let places: Vec<usize> =
            bytes.windows(old.len()).enumerate().filter(|(_, window)| *window == old).map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "the version stands in the program");
        for at in places {
            bytes[at..at + new.len()].copy_from_slice(new);
        }
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    path
}

fn upgrade(rig: &Rig) -> Value {
    rig.command(&json!({"command": "upgrade", "wait": true}))
}

/// An upgrade that must succeed, to the other version for odd `turn`s.
#[track_caller]
pub(crate) fn good(rig: &Rig, turn: usize) {
    if turn % 2 == 1 {
        rig.install(&downgraded(rig));
    } else {
        rig.install(&binary());
    }
    let old = rig.master();
    let client = format!("10.1.{}.{}", turn / 250, turn % 250);
    asks(rig, &client, &[200; BEFORE]);
    let answer = upgrade(rig);
    assert_eq!(answer["ok"], true, "{answer}");
    assert_eq!(answer["version"], VERSIONS[turn % 2], "{answer}");
    let new = Pid::from_raw(answer["pid"].as_i64().unwrap() as i32);
    assert_ne!(new, old);
    wait_for("the survivor's pid in the pid file", || (rig.master() == new).then_some(()));
    asks(rig, &client, &[&[200; LIMIT - BEFORE][..], &[429]].concat());
    let status = rig.settles(WORKERS);
    assert_eq!(status["pid"], answer["pid"]);
    assert_eq!(status["version"], answer["version"]);
    kernel::ends_well(old);
}

/// Asks as this client, whose answers must have these statuses.
#[track_caller]
fn asks(rig: &Rig, client: &str, wanted: &[u16]) {
    let request = Request::post("/ollama_generate/", &json!({"prompt": "hi"}));
    let request = request.header("X-Forwarded-For", client).header("Connection", "close");
    let got: Vec<u16> =
        wanted.iter().map(|_| Client::connect(rig.address).ask(&request).map_or(0, |answer| answer.status)).collect();
    assert_eq!(got, wanted, "the window of {client}");
}

/// An upgrade that must fail, with its reason, and leave everything as it is.
#[track_caller]
pub(crate) fn broken(rig: &Rig, kind: Broken) {
    let master = rig.master();
    rig.tell(&format!("a program that is broken: {kind:?}"));
    kind.install(rig);
    let answer = upgrade(rig);
    rig.configure("");
    rig.install(&binary());
    assert_eq!(answer["ok"], false, "{kind:?}: {answer}");
    let reasons = answer["reasons"].to_string();
    assert!(reasons.contains(kind.reason()), "{kind:?}: {reasons}");
    assert_eq!(rig.master(), master);
    let status = rig.settles(WORKERS);
    assert_eq!(status["pid"].as_i64(), Some(i64::from(master.as_raw())));
    rig.goes_on(20);
}
