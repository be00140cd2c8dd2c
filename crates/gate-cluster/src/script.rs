//! What is said to the store, and what it answers: one script, which does everything at once on the store's clock.
//!
//! It connects to nothing and keeps nothing. Invariant: one question touches one key, so it can be asked of a cluster too.

use std::time::Duration;

use redis::{RedisResult, Script};

use crate::link::Line;

/// What a gate says of itself, and asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    /// What it has taken in this window.
    pub(crate) taken: u64,
    /// What it has given back.
    pub(crate) back: u64,
    /// The total that it last heard.
    pub(crate) known: u64,
    /// What is left of the window that it knows; zero when it knows none.
    pub(crate) left: Duration,
    /// What it must have; 0 only tells.
    pub(crate) need: u64,
    /// What it would like, if there is as much.
    pub(crate) wish: u64,
}

/// What the store says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// What this gate has taken in this window now.
    pub(crate) taken: u64,
    /// What it was granted just now: nothing, or at least what it needs.
    pub(crate) granted: u64,
    /// What all gates have taken, less what they gave back.
    pub(crate) total: u64,
    /// Until the window ends.
    pub(crate) left: Duration,
}

/// The script, and who asks.
pub(crate) struct Counter {
    script: Script,
    gate: String,
}

impl Counter {
    pub(crate) fn new(gate: String) -> Self {
        Self { script: Script::new(include_str!("count.lua")), gate }
    }

    pub(crate) async fn ask(
        &self,
        line: &mut Line,
        key: &str,
        of: (u64, Duration),
        question: Question,
    ) -> RedisResult<Answer> {
        let (amount, window) = of;
        let Question { taken, back, known, left, need, wish } = question;
        let mut call = self.script.prepare_invoke();
        call.key(key).arg(&self.gate);
        for number in [taken, back, known, millis(left), need, wish, amount, millis(window).max(1)] {
            call.arg(number);
        }
        let (taken, granted, total, left): (u64, u64, i64, u64) = match line {
            Line::Alone(line) => call.invoke_async(line).await?,
            Line::Nodes(line) => call.invoke_async(line).await?,
        };
        Ok(Answer { taken, granted, total: total.max(0) as u64, left: Duration::from_millis(left) })
    }
}

/// What Lua can tell exactly is more; what the store accepts as an expiry is less than 2^63.
const MILLIS_MAX: u128 = 1 << 50;

fn millis(duration: Duration) -> u64 {
    duration.as_millis().min(MILLIS_MAX) as u64
}
