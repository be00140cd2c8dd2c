use std::io;
use std::time::{Duration, Instant};

use nix::unistd::Uid;

use super::*;
use crate::process::{self, Core, Exit};
use crate::signals::Signal;

#[test]
fn the_count_stands_in_a_line_of_its_own() {
    let check = |text, expected| assert_eq!(kills(text), expected, "{text:?}");
    check("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n", Some(2));
    check("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", Some(7));
    check("pgfault 1\noom_kill 0\nnuma_hit 3\n", Some(0));
    check("oom_kill_disable 0\nunder_oom 0\n", None);
    check("oom_kill many\n", None);
    check("", None);
}

#[test]
fn the_group_is_found_in_either_version_and_behind_bind_mounts() {
    const V1: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
    const V2: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const CPU: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";
    const BOUND: &str = "50 49 0:26 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n";
    const BLANK: &str = "50 49 0:26 / /mnt/a\\040b\\134c ro - cgroup2 cgroup rw\n";
    let check = |groups: &str, mounts: &[&str], expected: &[&str]| {
        let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
        assert_eq!(directories(groups, &mounts.concat()), expected, "{groups:?} {mounts:?}");
    };
    check("4:memory:/a/b\n0::/\n", &[CPU, V1, V2], &["/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/unified"]);
    check("4:cpu,memory:/a:b\n", &[V1], &["/sys/fs/cgroup/memory/a:b"]);
    check("0::/gate.service\n", &[V2], &["/sys/fs/cgroup/unified/gate.service"]);
    check("0::/docker/abc/x\n", &[BOUND], &["/sys/fs/cgroup/x"]);
    check("0::/docker/other\n", &[BOUND], &[]);
    check("0::/../other\n", &[V2], &[]);
    check("0::/x\n", &[BLANK], &["/mnt/a b\\c/x"]);
    check("1:cpu:/x\n", &[CPU, V2], &[]);
    check("", &[], &[]);
    check("nonsense\n0:\n", &["nonsense\n - \n1 2 3 - cgroup2\n"], &[]);
}

#[test]
fn this_machine_has_a_counter_or_tells_nothing_at_all() {
    match OomCounter::find() {
        Some(counter) => assert!(counter.count().is_some()),
        None => assert!(fs::read_to_string(MACHINE).is_ok_and(|text| kills(&text).is_none())),
    }
}

/// A control group below this process's own. Dropping it removes it; its members must be gone by then.
struct Group(PathBuf);

/// What a member may use: enough to start, and soon used up.
const LIMIT: &str = "33554432";

/// What a member asks for at most, should nobody stop it.
const WANTED: usize = 256 << 20;

impl Group {
    /// # Errors
    /// Why this machine does not let us.
    fn make() -> Result<Self, String> {
        if !Uid::effective().is_root() {
            return Err("only root can make a control group".into());
        }
        let own = OomCounter::find().filter(|counter| counter.scope() == Scope::Cgroup);
        let own = own.ok_or("this process has no memory control group to see")?;
        let group = Self(own.file.with_file_name(format!("gate-oom-test-{}", std::process::id())));
        fs::create_dir(&group.0).map_err(|error| format!("no control group can be made: {error}"))?;
        let limits = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max"];
        let set = limits.map(|name| group.set(name, LIMIT).is_ok());
        group.set("memory.swap.max", "0").ok();
        if set.contains(&true) { Ok(group) } else { Err("a new control group has no memory limit to set".into()) }
    }

    /// Sets what exists: `fs::write` would try to make it.
    fn set(&self, name: &str, value: &str) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).open(self.0.join(name))?;
        io::Write::write_all(&mut file, value.as_bytes())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel holds it for a moment longer than the member that it has killed.
        let until = Instant::now() + Duration::from_secs(5);
        while let Err(error) = fs::remove_dir(&self.0) {
            if Instant::now() > until {
                eprintln!("{} is left behind: {error}", self.0.display());
                return;
            }
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_kill_in_the_own_group_is_counted() {
    let group = match Group::make() {
        Ok(group) => group,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let inside = || -> Option<OomCounter> {
        group.set("cgroup.procs", "0").ok()?;
        OomCounter::find().filter(|found| found.file.starts_with(&group.0) && found.count() == Some(0))
    };
    let child = process::spawn_unchecked_threads((), |()| {
        if inside().is_none() {
            return 1;
        }
        let mut held: Vec<Vec<u8>> = Vec::new();
        while held.len() < WANTED >> 20 {
            held.push(std::hint::black_box(vec![1; 1 << 20]));
        }
        2
    });
    let exit = process::wait(child.unwrap()).unwrap();
    let counted = OomCounter::of_group(&group.0).and_then(|counter| counter.count());
    if exit == Exit::Code(1) {
        return eprintln!("skipped: a process cannot be moved into the control group, or it does not count");
    }
    assert_eq!(exit, Exit::Signal { signal: Signal::SIGKILL, core: Core::None });
    assert_eq!(counted, Some(1));
}
