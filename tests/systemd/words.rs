//! What the gate says, in which order, and who says it.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::manager::Manager;
use crate::scene::{Latch, backend, catches_up, gate_to, prompt};
use crate::stream::Stream;
use crate::support::{Dir, is_alive, wait_for};

/// An end of a stream that leaves the gate time to say more than once what it has to say.
const LONG: &str = "@sim:endless";

#[track_caller]
fn is_ready_only_when_it_serves(mut manager: Manager) {
    let (dir, backend) = (Dir::new(), backend(0));
    let latch = Latch::new(dir.path("access"));
    let log = latch.path().display().to_string();
    let mut gate = manager.tells(gate_to(&backend, ["--access-log", &log])).spawn();
    gate.log_has("listening on");
    catches_up(&mut gate);
    assert_eq!(manager.count("READY=1"), 0, "no worker serves yet");
    let _open = latch.open();
    let ready = manager.hears("READY=1");
    assert_eq!(ready.sender, gate.pid());
    let status = ready.text.lines().find(|line| line.starts_with("STATUS=")).unwrap();
    assert!(status.contains("generation 1, 1 workers"), "{status}");
    let before = manager.words().into_iter().take_while(|word| word.text != ready.text);
    before.for_each(|word| assert!(word.text.starts_with("STATUS="), "{word:?}"));
    gate.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1");
    assert_eq!(gate.ends_with_code(), 0);
}

#[test]
fn it_is_ready_only_when_the_first_generation_serves() {
    is_ready_only_when_it_serves(Manager::new());
    is_ready_only_when_it_serves(Manager::nameless());
}

#[test]
fn a_reload_is_told_with_its_time_and_its_end_either_way() {
    let (backend, mut manager) = (backend(0), Manager::new());
    let mut gate = manager.tells(gate_to(&backend, []).config("workers = 1\n")).start();
    manager.hears("READY=1");
    gate.configure("workers = 2\n");
    gate.reload();
    let reloading = manager.hears("RELOADING=1");
    let lines: Vec<&str> = reloading.text.lines().collect();
    let us = lines.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("in the same message");
    assert!(us.parse::<u64>().unwrap() > 0);
    assert!(manager.hears("READY=1").text.contains("serving: generation 2, "));

    gate.configure("workers = 0\n").signal(Signal::SIGHUP);
    manager.hears("RELOADING=1");
    let refused = manager.hears("READY=1");
    assert!(refused.text.contains("STATUS=reload refused: ") && refused.text.contains("workers"), "{}", refused.text);
}

#[test]
fn it_asks_for_time_while_a_stream_drains() {
    let (backend, mut manager) = (backend(20), Manager::new());
    let mut gate = manager.tells(gate_to(&backend, [])).start();
    let stream = Stream::begin(gate.address(), LONG);
    gate.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1");
    manager.hears("EXTEND_TIMEOUT_USEC=15000000");
    manager.hears("EXTEND_TIMEOUT_USEC=15000000");
    assert!(is_alive(gate.pid()));
    drop(stream);
    assert_eq!(gate.ends_with_code(), 0);
}

#[test]
fn the_watchdog_is_fed_at_half_of_its_time() {
    const ALLOWED: Duration = Duration::from_secs(2);
    let (backend, mut manager) = (backend(0), Manager::new());
    let plan = manager.tells(gate_to(&backend, [])).env("WATCHDOG_USEC", &ALLOWED.as_micros().to_string());
    let _gate = plan.start();
    let fed: Vec<_> = (0..4).map(|_| manager.hears("WATCHDOG=1").at).collect();
    for pair in fed.windows(2) {
        let pause = pair[1] - pair[0];
        assert!(pause < ALLOWED && pause > ALLOWED / 4, "{pause:?}");
    }
}

#[test]
fn the_watchdog_starves_while_a_slot_waits_for_its_next_try() {
    /// Crashes until the pause, from half of it up, is longer than eight meals.
    const CRASHES: usize = 8;
    let (backend, mut manager) = (backend(0), Manager::new());
    let mut gate = manager.tells(gate_to(&backend, ["--workers=2"])).env("WATCHDOG_USEC", "400000").start();
    manager.hears("WATCHDOG=1");
    let mut dead = None;
    let mut before = 0;
    for _ in 0..CRASHES {
        let worker =
            wait_for("worker 2", || gate.children("worker 2").first().copied().filter(|pid| Some(*pid) != dead));
        before = manager.count("WATCHDOG=1");
        // It may be on its way to say that it is ready; dead it is either way.
        kill(worker, Signal::SIGSEGV).unwrap();
        dead = Some(worker);
        gate.log_has("was ended by SIGSEGV");
    }
    wait_for("the next try", || gate.children("worker 2").first().copied().filter(|pid| Some(*pid) != dead));
    let fed = manager.count("WATCHDOG=1") - before;
    assert!(fed <= 2, "fed {fed} times while a slot was empty for more than eight meals");
    let after = manager.count("WATCHDOG=1");
    wait_for("the next meal", || (manager.count("WATCHDOG=1") > after + 1).then_some(()));
}

#[test]
fn an_upgrade_names_the_new_main_process_before_that_one_speaks() {
    let (backend, mut manager) = (backend(20), Manager::new());
    let mut gate = manager.tells(gate_to(&backend, [])).start();
    manager.hears("READY=1");
    let old = gate.pid();
    let text = prompt(40);
    let stream = Stream::begin(gate.address(), &text);
    let before = manager.words().len();
    gate.signal(Signal::SIGUSR2);
    let told = manager.hears("MAINPID=");
    assert_eq!(told.sender, old);
    let new: i32 = told.text.strip_prefix("MAINPID=").unwrap().trim().parse().unwrap();
    let ready = manager.hears("READY=1");
    assert_eq!(ready.sender.as_raw(), new);
    let at = |text: &str| manager.words().iter().skip(before).position(|word| word.text == text).unwrap();
    let first = manager.words().iter().skip(before).position(|word| word.sender.as_raw() == new).unwrap();
    assert!(at(&told.text) < first, "what it says before it is the main process is not heard");
    assert!(is_alive(old), "it finishes its stream");
    assert!(stream.finish().unwrap().ends_with(b"}\n"));
    assert_eq!(gate.ends_with_code(), 0);
    let heir = nix::unistd::Pid::from_raw(new);
    assert!(is_alive(heir));
    assert!(manager.words().iter().all(|word| word.sender == old || word.sender == heir));
    kill(heir, Signal::SIGTERM).unwrap();
    wait_for("the end of the new gate", || (!is_alive(heir)).then_some(()));
}
