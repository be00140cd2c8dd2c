//! What this thread has used of a processor: the clock of what is measured in this process.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::complaint::Complaint;

/// Processor time of this thread so far: others that use the processor too do not count.
pub(crate) fn own_time() -> Result<Duration, Complaint> {
    let clock = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    clock.map(Duration::from).map_err(|why| Complaint::io("reading a clock")(why.into()))
}
