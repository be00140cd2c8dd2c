//! A gate with a key file: when it is read, what is refused, who is told, and what nobody gets to see.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::heirs::{Installed, candidate, upgrade};
use crate::identity::may_change;
use crate::keys::{Sheet, key, secret};
use crate::orders::{Control, Running, Said, reasons};
use crate::scene::{Latch, backend, catches_up, gate_to, is_gone, said, successor};
use crate::support::{Gate, Plan, binary, children_of, gate, wait_for};

/// A gate with this key file and a control socket.
fn keyed(sheet: &Sheet, control: &Control, more: &[&str]) -> Plan {
    let keys = format!("--keys={}", sheet.path().display());
    let own = ["--upstream=http://127.0.0.1:9".to_owned(), keys, control.flag()];
    gate(own.into_iter().chain(more.iter().map(|&argument| argument.to_owned())))
}

/// Runs `ollama-gate key LINE` on the file, and has the gate told.
#[track_caller]
fn tell(sheet: &Sheet, control: &Control, line: &str) -> Said {
    Running::start(key(line).arg("--keys").arg(sheet.path()).arg(control.flag())).said()
}

/// Keys, names and generation, as the status has them.
fn in_force(control: &Control) -> [u64; 3] {
    let keys = control.status()["keys"].clone();
    ["keys", "names", "generation"].map(|field| keys[field].as_u64().unwrap_or_else(|| panic!("{field} of {keys}")))
}

/// Starts, and ends because of this.
#[track_caller]
fn refuses(plan: Plan, parts: &[&str]) {
    let mut gate = plan.spawn();
    assert_eq!(gate.ends_with_code(), 78);
    let log = gate.log();
    let missing: Vec<_> = parts.iter().filter(|part| !log.contains(*part)).collect();
    assert!(missing.is_empty(), "{missing:?} not in:\n{log}");
}

#[test]
fn keys_are_read_at_the_start_and_at_a_reload() {
    let (sheet, control) = (Sheet::new(), Control::new());
    let id = sheet.make("new --name ada")[3..15].to_owned();
    sheet.make("rotate ada");
    let mut gate = keyed(&sheet, &control, &[]).spawn();
    gate.log_has("keys: 2 keys of 1 name (generation 1)");
    gate.log_has("generation 1 serves");
    assert_eq!(in_force(&control), [2, 1, 1]);
    sheet.make("new --name bob");
    gate.reload();
    assert_eq!((in_force(&control), said(&gate, "keys: 3 keys of 2 names (generation 2)")), ([3, 2, 2], 1));
    let page = control.run("status").out;
    assert!(page.contains("3 keys of 2 names (generation 2), read from "), "{page}");
    // One bad line, and everything stays as it was.
    let (good, workers) = (sheet.text(), gate.workers());
    sheet.write(&format!("{good}{}", good.lines().next().unwrap()));
    gate.signal(Signal::SIGHUP);
    gate.log_has(&format!("reload refused: {}:4: {id} stands in line 1 already", sheet.path().display()));
    catches_up(&mut gate);
    let answer = control.ask(&json!({"command": "reload", "wait": true}));
    assert!(reasons(&answer).contains(":4: "), "{answer}");
    assert_eq!((in_force(&control), gate.workers()), ([3, 2, 2], workers.clone()));
    sheet.write(&good);
    sheet.mode(0o640);
    gate.signal(Signal::SIGHUP);
    gate.log_has("reload refused: keys: ");
    catches_up(&mut gate);
    assert_eq!((in_force(&control), gate.workers()), ([3, 2, 2], workers));
}

#[test]
fn keys_change_without_a_reload() {
    let (sheet, control) = (Sheet::new(), Control::new());
    sheet.make("new --name ada");
    let mut gate = keyed(&sheet, &control, &["--workers=2"]).start();
    let workers = gate.workers();
    let said = tell(&sheet, &control, "new --name bob");
    secret(&said);
    assert!(said.err.contains("the gate has read it: 2 keys of 2 names (generation 2)"), "{said:?}");
    gate.log_has("keys: 2 keys of 2 names (generation 2)");
    let said = tell(&sheet, &control, "revoke ada");
    assert!(said.code == 0 && said.err.contains("1 key of 1 name (generation 3)"), "{said:?}");
    let answer = control.ask(&json!({"command": "keys"}));
    assert_eq!((&answer["keys"]["keys"], &answer["keys"]["generation"]), (&json!(1), &json!(4)));
    assert_eq!(answer["keys"]["file"], json!(sheet.path().canonicalize().unwrap()));
    // By hand, and wrong: those before stay in force.
    let good = sheet.text();
    sheet.write(&format!("{good}x\n"));
    let answer = control.ask(&json!({"command": "keys"}));
    assert!(
        reasons(&answer).ends_with(":2: a line has at least six words: ID SALT HASH NAME CREATED EXPIRES"),
        "{answer}"
    );
    gate.log_has("keys refused, those before stay in force: ");
    assert_eq!((in_force(&control), gate.workers()), ([1, 1, 4], workers));
    let other = Sheet::new();
    let said = tell(&other, &control, "new --name eve");
    assert!(said.code == 1 && said.out.is_empty(), "a gate that cannot read its own file is no help: {said:?}");
    sheet.write(&good);
    let said = tell(&other, &control, "new --name eve");
    secret(&said);
    assert!(said.err.contains("has another key file") && in_force(&control) == [1, 1, 5], "{said:?}");
}

#[test]
fn keys_of_a_configuration_that_fails_are_never_in_force() {
    let (sheet, other, control, backend) = (Sheet::new(), Sheet::new(), Control::new(), backend(0));
    let config = |sheet: &Sheet, more: &str| format!("workers = 1\nkeys = {:?}\n{more}", sheet.path());
    let broken = "access_log = \"/nonexistent/x\"";
    sheet.make("new --name ada");
    let flag = control.flag();
    let mut gate = gate_to(&backend, [flag.as_str()]).config(&config(&sheet, "")).start();
    sheet.make("new --name bob");
    other.make("new --name eve");
    // The same file with other keys; then another file, when what is in the first cannot even be read any more.
    for (fails, mode) in [(&sheet, 0o600), (&other, 0o640)] {
        gate.configure(&config(fails, broken));
        gate.signal(Signal::SIGHUP);
        gate.log_has("is checked and bound, rolling it out");
        sheet.mode(mode);
        gate.log_has("reload failed, back to generation 1");
        catches_up(&mut gate);
        let keys = control.status()["keys"].clone();
        assert_eq!(in_force(&control), [1, 1, 1], "{keys}");
        assert_eq!(keys["file"], json!(sheet.path().canonicalize().unwrap()));
    }
    assert_eq!(said(&gate, "keys: "), 1, "nothing else was ever published");
    sheet.mode(0o600);
    gate.configure(&config(&sheet, ""));
    gate.reload();
    assert_eq!(in_force(&control), [2, 2, 2]);
}

#[test]
fn what_is_revoked_while_a_configuration_is_on_its_way_stays_revoked() {
    let (sheet, control, backend) = (Sheet::new(), Control::new(), backend(0));
    sheet.make("new --name ada");
    sheet.make("new --name bob");
    let (latch, flag) = (Latch::new(control.beside("access")), control.flag());
    let config = format!("workers = 1\nkeys = {:?}\n", sheet.path());
    let mut gate = gate_to(&backend, [flag.as_str()]).config(&config).start();
    gate.configure(&format!("{config}access_log = {:?}", latch.path()));
    gate.signal(Signal::SIGHUP);
    gate.has_workers(2);
    let said = tell(&sheet, &control, "revoke ada");
    assert!(said.code == 0 && said.err.contains("1 key of 1 name (generation 2)"), "{said:?}");
    latch.let_one_pass();
    gate.log_has("generation 2 serves");
    catches_up(&mut gate);
    assert_eq!(in_force(&control), [1, 1, 3]);
}

#[test]
fn a_gate_without_keys_says_what_to_do() {
    let (sheet, control) = (Sheet::new(), Control::new());
    let mut gate = gate(["--upstream=http://127.0.0.1:9", &control.flag()]).start();
    assert_eq!(control.status()["keys"], Value::Null);
    let said = tell(&sheet, &control, "new --name ada");
    secret(&said);
    assert!(said.err.contains("asks for no keys: set `keys` to "), "{said:?}");
    let said = tell(&sheet, &control, "revoke ada");
    said.was_refused(
        69,
        &["revoked in the file; no running gate was told: ", "asks for no keys", "ada is revoked in the file"],
    );
    assert_eq!(control.ask(&json!({"command": "keys"}))["keys"], Value::Null);
    gate.signal(Signal::SIGTERM);
    assert_eq!(gate.ends_with_code(), 0);
}

#[test]
fn windows_beyond_what_can_be_counted_are_refused_by_name() {
    let (sheet, control) = (Sheet::new(), Control::new());
    let own: Vec<_> = (1..=14).map(|seconds| format!("1/{seconds} seconds")).collect();
    let own = format!("--api-limit={}", own.join(";"));
    sheet.make("new --name ada --limit 1/15seconds");
    let gate = keyed(&sheet, &control, &["--limit=none", &own]).start();
    let before = sheet.text();
    let said = tell(&sheet, &control, "new --name bob --limit 1/16seconds --tokens 5/17seconds");
    said.was_refused(
        1,
        &["nothing is changed", "17 different window lengths", " 13s 14s of limit", "15s 16s 17s of keys"],
    );
    assert_eq!((said.out.as_str(), sheet.text(), in_force(&control)), ("", before, [1, 1, 1]), "{said:?}");
    secret(&tell(&sheet, &control, "new --name bob --limit 1/15seconds --tokens 5/16seconds"));
    // Such a file by hand: neither a reload nor a start nor a check takes it.
    sheet.write(&sheet.text().replace("5/16seconds", "5/16seconds,5/17seconds"));
    let answer = control.ask(&json!({"command": "reload", "wait": true}));
    assert!(reasons(&answer).contains("17 different window lengths"), "{answer}");
    drop(gate);
    for more in [vec!["--limit=none", &own], vec!["--limit=none", &own, "--check-config"]] {
        refuses(keyed(&sheet, &Control::new(), &more), &["17 different window lengths", "15s 16s 17s of keys"]);
    }
}

#[test]
fn a_file_that_others_may_read_or_own_starts_nothing() {
    let sheet = Sheet::new();
    sheet.make("new --name ada");
    let control = Control::new();
    let plans = |more: &[&str]| keyed(&sheet, &control, more);
    for wide in [0o640, 0o604, 0o666] {
        sheet.mode(wide);
        let remedy = format!("chmod 600 {}", sheet.path().display());
        for more in [&[][..], &["--check-config"]] {
            refuses(plans(more), &["keys: ", &format!("mode {wide:04o}"), &remedy]);
        }
    }
    sheet.mode(0o600);
    let mut good = plans(&["--check-config"]).spawn();
    assert_eq!((good.ends_with_code(), good.output().as_str()), (0, "the configuration is good\n"), "{}", good.log());
    let bad = format!("{}x y\n", sheet.text());
    sheet.write(&bad);
    for more in [&[][..], &["--check-config"]] {
        refuses(plans(more), &[&format!("{}:2: a line has at least six words", sheet.path().display())]);
    }
    sheet.write(bad.trim_end_matches("x y\n"));
    if may_change() {
        chown(sheet.path(), Some(4_711), None).unwrap();
        refuses(plans(&["--user=nobody"]), &["belongs to user 4711", "chown root"]);
        chown(sheet.path(), Some(65_534), None).unwrap();
        refuses(plans(&["--user=root"]), &["belongs to user 65534"]);
        drop(plans(&["--user=nobody"]).start());
    }
    fs::remove_file(sheet.path()).unwrap();
    refuses(plans(&[]), &["keys: cannot open ", "No such file"]);
}

#[test]
fn a_gate_that_anybody_may_use_is_told_of() {
    let sheet = Sheet::new();
    sheet.make("new --name ada");
    let keys = format!("--keys={}", sheet.path().display());
    let warned = |arguments: &[&str]| {
        let mut gate = gate(["--upstream=http://127.0.0.1:9"].iter().chain(arguments)).start();
        let warned = said(&gate, "whoever reaches ");
        for remedy in ["name a key file with --keys FILE", "listen on this machine only with --bind"] {
            assert_eq!(said(&gate, remedy), warned, "{remedy}");
        }
        gate.reload();
        assert_eq!(said(&gate, "whoever reaches "), warned, "once is enough");
        warned
    };
    assert_eq!(warned(&["--bind=127.0.0.1:0"]), 0);
    assert_eq!(warned(&["--bind=127.0.0.1:0", "--bind=0.0.0.0:0"]), 1);
    assert_eq!(warned(&["--bind=0.0.0.0:0", &keys]), 0);
}

/// Everything that other programs get to see of a gate.
fn seen(gate: &Gate, control: &Control) -> String {
    let pids = children_of(gate.pid(), "").into_iter().chain([gate.pid()]);
    let titles =
        pids.map(|pid| String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap()).into_owned());
    let status = control.status().to_string() + &control.run("status").out;
    titles.collect::<String>() + &status + &gate.log() + &gate.output()
}

#[test]
fn secrets_are_shown_nowhere() {
    let (sheet, control) = (Sheet::new(), Control::new());
    let first = sheet.make("new --name ada");
    let password = control.beside("password");
    fs::write(&password, "sesame-file\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let password = format!("--cluster-password={}", password.display());
    let url = "--cluster-url=redis://gate:sesame-url@127.0.0.1:1/0";
    let mut gate =
        keyed(&sheet, &control, &["--log-level=debug", url, &password]).config("log_level = \"info\"").start();
    let second = secret(&tell(&sheet, &control, "new --name bob"));
    gate.reload();
    gate.configure("cluster_url = \"redis://gate:sesame-url@x\"\nclutser_url = \"redis://gate:sesame-url@x\"\n");
    gate.signal(Signal::SIGHUP);
    gate.log_has("reload refused: ");
    catches_up(&mut gate);
    let said = seen(&gate, &control);
    assert!(said.contains("ada") || said.contains("2 keys of 2 names"), "{said}");
    let file = sheet.text();
    let hashes: Vec<&str> = file.lines().flat_map(|line| line.split(' ').skip(1).take(2)).collect();
    for hidden in hashes.into_iter().chain(["sesame", &first[16..], &second[16..]]) {
        assert!(!said.contains(hidden), "{hidden} in {said}");
    }
    let printed = Running::start(Command::new(binary()).args(["--print-config", url])).said();
    printed.did("cluster_url = \"redis://***@127.0.0.1:1/0\"");
    let refused =
        Running::start(Command::new(binary()).args(["--cluster-url", "http://u:sesame@x", "--check-config"])).said();
    refused.was_refused(78, &["cluster_url = \"***\": write a URL"]);
    assert!(!refused.err.contains("sesame") && !printed.out.contains("sesame"), "{refused:?} {printed:?}");
}

#[test]
fn the_password_of_the_store_is_read_from_a_file_of_ours() {
    let control = Control::new();
    let path = control.beside("password");
    fs::write(&path, "sesame\n").unwrap();
    let flag = format!("--cluster-password={}", path.display());
    let plan = |more: &[&str]| gate([flag.as_str()].iter().chain(more).copied());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    for more in [&[][..], &["--check-config"]] {
        refuses(plan(more), &["cluster_password: ", "mode 0644", "chmod 600"]);
    }
}

#[test]
fn a_worker_that_holds_secrets_leaves_no_core() {
    let (sheet, backend) = (Sheet::new(), backend(0));
    sheet.make("new --name ada");
    let keys = format!("--keys={}", sheet.path().display());
    // In a directory of its own, for systems that write cores where a process is.
    let here = Control::new();
    let shell = format!("ulimit -c unlimited; cd {}; exec \"$@\"", here.beside(".").display());
    let crash = |more: &[&str]| {
        let control = Control::new();
        let flag = control.flag();
        let plan = gate_to(&backend, more.iter().copied().chain([flag.as_str()]));
        let gate = plan.launched_by(&["sh", "-c", &shell, "sh"]).start();
        let worker = gate.workers()[0];
        kill(worker, Signal::SIGSEGV).unwrap();
        is_gone(worker);
        successor(&gate, "worker", worker);
        let death = control.status()["deaths"][0].clone();
        (death["how"].as_str().unwrap().contains("core dumped"), death["core"].to_string())
    };
    if !crash(&[]).0 {
        eprintln!("skipped: this machine keeps no core of anybody");
        return;
    }
    let (dumped, hint) = crash(&[&keys]);
    assert!(!dumped && hint.contains("holds secrets"), "{hint}");
}

/// Whether the memory of a process is closed to others of its user: what the kernel shows of it is root's then.
fn is_closed(pid: Pid) -> bool {
    fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid() == 0
}

#[test]
fn all_processes_are_closed_once_there_are_keys() {
    let (sheet, backend, installed) = (Sheet::new(), backend(0), Installed::new());
    if !may_change() || Command::new("setpriv").arg("--version").output().is_err() {
        eprintln!("skipped: this needs root and setpriv");
        return;
    }
    sheet.make("new --name ada");
    chown(sheet.path(), Some(65_534), None).unwrap();
    let become_nobody = "shift; exec setpriv --reuid=65534 --regid=65534 --clear-groups";
    let script = format!("{become_nobody} {} \"$@\"", installed.path().display());
    let plan = gate_to(&backend, []).config("workers = 1").launched_by(&["sh", "-c", &script, "sh"]);
    let mut gate = plan.start();
    let all = |gate: &Gate| children_of(gate.pid(), "").into_iter().chain([gate.pid()]).collect::<Vec<_>>();
    assert!(!is_closed(gate.pid()), "nothing is secret yet");
    gate.configure(&format!("keys = \"{}\"", sheet.path().display()));
    gate.reload();
    assert_eq!(gate.get("/healthz").status, 200);
    wait_for("all processes to be of the new configuration, and closed", || {
        let all = all(&gate);
        (all.len() == 3 && all.into_iter().all(is_closed)).then_some(())
    });
}

#[test]
fn a_gate_that_takes_over_has_the_keys_and_reads_them_again() {
    let (sheet, control, backend) = (Sheet::new(), Control::new(), backend(0));
    sheet.make("new --name ada");
    let keys = format!("--keys={}", sheet.path().display());
    let flag = control.flag();
    let mut gate = gate_to(&backend, [keys.as_str(), flag.as_str()]).start();
    sheet.make("new --name bob");
    let heir = upgrade(&control);
    gate.log_has("this gate has taken over");
    assert_eq!(in_force(&control), [2, 2, 2], "published once by each");
    secret(&tell(&sheet, &control, "new --name eve"));
    assert_eq!(in_force(&control), [3, 3, 3]);
    drop(heir);
}

#[test]
fn a_gate_that_takes_over_has_the_keys_of_its_own_file() {
    let (sheet, other, control, backend) = (Sheet::new(), Sheet::new(), Control::new(), backend(0));
    sheet.make("new --name ada");
    other.make("new --name bob");
    other.make("new --name eve");
    let (latch, flag) = (Latch::new(control.beside("access")), control.flag());
    let config = |sheet: &Sheet| format!("workers = 1\nkeys = {:?}\n", sheet.path());
    let mut gate = gate_to(&backend, [flag.as_str()]).config(&config(&sheet)).start();
    gate.configure(&format!("{}access_log = {:?}", config(&other), latch.path()));
    let upgrade = control.begin(&json!({"command": "upgrade", "wait": true}));
    let heir = candidate(&mut gate);
    heir.has_workers(1);
    assert_eq!(in_force(&control), [1, 1, 1]);
    // Found good at the start, it cannot be read any more when the gate before lets go.
    other.mode(0o640);
    latch.let_one_pass();
    assert_eq!(upgrade.answer()["ok"], true);
    gate.log_has("this gate has taken over");
    gate.log_has("keys refused, those before stay in force: ");
    gate.log_has("keys: 2 keys of 2 names (generation 2)");
    let keys = control.status()["keys"].clone();
    assert_eq!((in_force(&control), &keys["file"]), ([2, 2, 2], &json!(other.path().canonicalize().unwrap())));
    drop(heir);
}

#[test]
fn keys_of_a_time_before_are_nothing_to_a_gate_that_takes_over() {
    let (sheet, other, control, backend) = (Sheet::new(), Sheet::new(), Control::new(), backend(0));
    sheet.make("new --name ada");
    other.make("new --name bob");
    let (latch, flag) = (Latch::new(control.beside("access")), control.flag());
    let config = |sheet: &Sheet| format!("workers = 1\nkeys = {:?}\n", sheet.path());
    let mut gate = gate_to(&backend, [flag.as_str()]).config(&config(&sheet)).start();
    gate.configure("workers = 1");
    gate.reload();
    assert_eq!(control.status()["keys"], Value::Null);
    gate.configure(&format!("{}access_log = {:?}", config(&other), latch.path()));
    let upgrade = control.begin(&json!({"command": "upgrade", "wait": true}));
    let heir = candidate(&mut gate);
    // Before any of its workers lets somebody in.
    heir.has_workers(1);
    assert_eq!(said(&gate, "keys: 1 key of 1 name (generation 3)"), 1);
    latch.let_one_pass();
    assert_eq!(upgrade.answer()["ok"], true);
    drop(heir);
}
