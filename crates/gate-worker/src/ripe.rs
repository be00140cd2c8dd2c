//! When a worker has served its time: after so many requests, so long, or with so much memory.
//!
//! It decides from numbers that it is given and replaces nobody. Invariant: bounds are drawn once, so that a worker does
//! not become ripe by asking again.

use std::time::Duration;

use gate_config::Plan;

/// How often memory is judged: as often as it is looked at.
const SAMPLE_PAUSE: Duration = Duration::from_secs(1);

/// Looks in a row that must find too much memory, so that one large answer on its way replaces nobody.
const SAMPLES: u32 = 3;

/// A worker that has served for long may go this part of its age earlier: not all of one start go at once.
const AGE_SPREAD: u128 = 10;

const MIB: u64 = 1 << 20;

/// The bounds of one worker, and what was seen of its memory.
pub(crate) struct Ripeness {
    requests: Option<Requests>,
    age: Option<Age>,
    rss_max: Option<u64>,
    sampled: Option<Duration>,
    over: u32,
}

struct Requests {
    max: u64,
    jitter: u64,
}

struct Age {
    max: Duration,
    drawn: Duration,
}

impl Ripeness {
    /// The bounds of a plan; `chance` is two random numbers.
    pub(crate) fn of(plan: &Plan, chance: [u64; 2]) -> Self {
        let requests =
            Requests { max: plan.max_requests, jitter: chance[0] % plan.max_requests_jitter.saturating_add(1) };
        let drawn = |max: Duration| {
            let spread = max.as_millis() / AGE_SPREAD;
            let less = u128::from(chance[1]) % (spread + 1);
            max.saturating_sub(Duration::from_millis(less as u64))
        };
        Self {
            requests: (plan.max_requests > 0).then_some(requests),
            age: plan.max_age.map(|max| Age { max, drawn: drawn(max) }),
            rss_max: plan.max_rss.map(|max| max as u64),
            sampled: None,
            over: 0,
        }
    }

    /// Why a worker of this age should be replaced now, if it should. `rss` is asked at most once a second.
    pub(crate) fn reason(&mut self, age: Duration, served: u64, rss: impl FnOnce() -> Option<u64>) -> Option<String> {
        if let Some(Requests { max, jitter }) = self.requests
            && served >= max + jitter
        {
            let jitter = if jitter > 0 { format!(" and {jitter} of jitter") } else { String::new() };
            return Some(format!("served {served} requests (max_requests {max}{jitter})"));
        }
        if let Some(Age { max, drawn }) = self.age
            && age >= drawn
        {
            return Some(format!("has served for {} (max_age {})", time(age), time(max)));
        }
        let max = self.rss_max?;
        let held = self.sample(age, max, rss)?;
        Some(format!("holds {} MiB (max_rss {} MiB)", held.div_ceil(MIB), max.div_ceil(MIB)))
    }

    /// The memory held, once it has been too much often enough.
    fn sample(&mut self, age: Duration, max: u64, rss: impl FnOnce() -> Option<u64>) -> Option<u64> {
        if self.sampled.is_some_and(|last| age < last + SAMPLE_PAUSE) {
            return None;
        }
        self.sampled = Some(age);
        let Some(held) = rss().filter(|held| *held > max) else {
            self.over = 0;
            return None;
        };
        self.over += 1;
        (self.over >= SAMPLES).then_some(held)
    }
}

/// Resident memory of this process. From the status text, which names its unit: pages differ between machines.
pub(crate) fn rss() -> Option<u64> {
    rss_in(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn rss_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// For people, in its two largest units.
fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{}s", seconds % 60),
        _ => format!("{hours}h{minutes}m"),
    }
}

#[cfg(test)]
mod tests {
    use gate_config::Settings;

    use super::*;

    fn of(text: &str, chance: [u64; 2]) -> Ripeness {
        let settings = Settings::gather(Some(("gate.toml", text)), [], []).unwrap();
        Ripeness::of(&Plan::new(&settings).unwrap(), chance)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn without_bounds_nobody_is_ripe() {
        assert_eq!(of("", [7, 7]).reason(HOUR * 9999, u64::MAX, || Some(u64::MAX)), None);
    }

    #[test]
    fn requests_count_up_to_a_bound_that_was_drawn() {
        let plan = "max_requests = 500\nmax_requests_jitter = 20";
        for (chance, bound, told) in [
            (12, 512, "served 512 requests (max_requests 500 and 12 of jitter)"),
            (21, 500, "served 500 requests (max_requests 500)"),
            (20, 520, "served 520 requests (max_requests 500 and 20 of jitter)"),
        ] {
            let mut ripeness = of(plan, [chance, 0]);
            assert_eq!(ripeness.reason(HOUR, bound - 1, || None), None);
            assert_eq!(ripeness.reason(HOUR, bound, || None).as_deref(), Some(told));
        }
    }

    #[test]
    fn age_is_a_tenth_less_at_most() {
        let tenth = 360_000;
        for (chance, bound) in [(0, HOUR), (tenth, HOUR * 9 / 10), (tenth + 1, HOUR)] {
            let mut ripeness = of("max_age = \"1h\"", [0, chance]);
            assert_eq!(ripeness.reason(bound.saturating_sub(Duration::from_millis(1)), 0, || None), None);
            assert!(ripeness.reason(bound, 0, || None).unwrap().ends_with("(max_age 1h0m)"));
        }
        let told = of("max_age = 90", [0, 0]).reason(Duration::from_secs(91), 0, || None);
        assert_eq!(told.as_deref(), Some("has served for 1m31s (max_age 1m30s)"));
    }

    #[test]
    fn memory_has_to_be_too_much_three_seconds_on_end() {
        let mut ripeness = of("max_rss = \"256MiB\"", [0, 0]);
        let mut after = |ms, mib: Option<u64>| {
            let mut asked = false;
            let told = ripeness.reason(Duration::from_millis(ms), 0, || {
                asked = true;
                mib.map(|mib| mib * MIB)
            });
            (asked, told)
        };
        let (yes, no) = ((true, None), (false, None));
        assert_eq!(after(0, Some(300)), yes);
        assert_eq!([after(250, Some(300)), after(999, Some(300))], [no.clone(), no]);
        assert_eq!([after(1_000, Some(300)), after(2_000, Some(256))], [yes.clone(), yes.clone()]);
        assert_eq!(
            [after(3_000, Some(300)), after(4_000, Some(300)), after(5_000, None)],
            [(); 3].map(|()| yes.clone())
        );
        assert_eq!([after(6_000, Some(257)), after(7_000, Some(258))], [(); 2].map(|()| yes.clone()));
        assert_eq!(after(8_000, Some(300)), (true, Some("holds 300 MiB (max_rss 256 MiB)".to_owned())));
    }

    #[test]
    fn this_process_holds_memory() {
        assert!(rss().unwrap() > MIB / 4);
        assert_eq!(rss_in("Name:\tx\nVmRSS:\t    1234 kB\nRssAnon:\t 1 kB\n"), Some(1234 * 1024));
        assert_eq!([rss_in(""), rss_in("VmRSS:\t many kB\n")], [None, None]);
    }
}
