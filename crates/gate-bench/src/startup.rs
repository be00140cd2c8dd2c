//! How long the gate takes from its start to its first good answer at `/healthz`.

use crate::Bench;
use crate::complaint::Complaint;
use crate::peer::Kind;
use crate::stats::median;

/// Starts that are measured: enough for a median that one slow start does not move.
const STARTS: usize = 20;

/// Starts the gate again and again; the median in milliseconds.
pub(crate) fn measure(bench: &Bench<'_>, upstream: &[u16]) -> Result<f64, Complaint> {
    eprintln!("start: {STARTS} starts of the gate");
    let mut took_ms = Vec::with_capacity(STARTS);
    for number in 0..STARTS {
        let room = bench.folder.room(&format!("start-{number}"))?;
        let gate = bench.peers.start(Kind::Gate, bench.tools, room, upstream)?;
        took_ms.push(gate.ready_after.as_secs_f64() * 1e3);
    }
    median(took_ms).ok_or_else(|| Complaint::Program { name: "start".to_owned(), said: "no samples".to_owned() })
}
