//! The kernel clocks of the gate. Wall-clock time is never used for a decision.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

fn read(clock: ClockId) -> Duration {
    clock_gettime(clock).expect("Linux has had these clocks since 2.6.39, and the argument is a constant").into()
}

/// `CLOCK_MONOTONIC` in milliseconds: heartbeats and deadlines. It stands still while the machine sleeps, so a
/// resumed machine does not find all its workers late.
pub fn monotonic_ms() -> u64 {
    read(ClockId::CLOCK_MONOTONIC).as_millis() as u64
}

/// `CLOCK_MONOTONIC_COARSE` in milliseconds: [`monotonic_ms`] as it was at the kernel's last tick, up to 10 ms ago, for a
/// quarter of its price. For what is measured in seconds.
pub fn coarse_ms() -> u64 {
    read(ClockId::CLOCK_MONOTONIC_COARSE).as_millis() as u64
}

/// `CLOCK_MONOTONIC` in microseconds: what systemd wants to be told with `RELOADING=1`.
pub fn monotonic_us() -> u64 {
    read(ClockId::CLOCK_MONOTONIC).as_micros() as u64
}

/// `CLOCK_BOOTTIME` in nanoseconds: rate limits. It runs on while the machine sleeps, so a window ends when its
/// clients think it does.
pub fn boottime_ns() -> u64 {
    read(ClockId::CLOCK_BOOTTIME).as_nanos() as u64
}
