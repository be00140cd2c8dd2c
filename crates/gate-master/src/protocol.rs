//! What is said on the control socket: a line of JSON each way, and its shape.
//!
//! No socket is touched here and nothing is decided: the master builds the answers, the command line shows them. A
//! request is closed: an unknown field is a mistake of whoever wrote it. An answer is open: a reader skips what it does
//! not know, so that the older of two releases still understands the younger one.
//!
//! Invariant: what one side writes with `to_line` the other side's `parse` accepts, and no line is longer than its cap.

mod status;

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use self::status::{
    BackendState, BackendUse, BreakerState, Classes, Death, GateState, KeysUse, LastReload, LastUpgrade, LimiterUse,
    ListenerUse, ProcessLine, ProcessRole, ProcessState, QueueUse, SlotLine, Status, StoreState, StoreUse, Totals,
    UpgradeUnderWay,
};

/// The one version of this protocol.
pub const VERSION: u64 = 1;

/// The longest request line, its line break included: the longest request there is, many times over.
pub const REQUEST_LINE_MAX: usize = 4 << 10;

/// The longest answer line, its line break included: the status of as many workers and backends as there can be, with
/// the longest names of models, takes half of it.
pub const ANSWER_LINE_MAX: usize = 1 << 20;

/// The reason for which a peer with a foreign user id is refused, so that the command line can tell it from others.
pub const NOT_PERMITTED: &str = "not permitted: the control socket is for the gate's own user and for root";

/// A day, as for the times of the configuration: a longer trial is one that nobody meant.
pub const CANARY_SECONDS_MAX: u32 = 86_400;

/// A request with an example, for those who write one by hand.
const EXAMPLES: [(&str, &str); 8] = [
    ("status", r#"{"command":"status"}"#),
    ("reload", r#"{"command":"reload","wait":true,"canary":{"workers":1,"seconds":30}}"#),
    ("upgrade", r#"{"command":"upgrade","wait":true,"fresh_zone":false}"#),
    ("scale", r#"{"command":"scale","workers":4}"#),
    ("stop", r#"{"command":"stop","wait":true,"quick":false}"#),
    ("reopen", r#"{"command":"reopen"}"#),
    ("drain", r#"{"command":"drain","slot":2,"wait":true}"#),
    ("keys", r#"{"command":"keys"}"#),
];

/// What the master is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How it stands.
    Status {},
    /// A reload.
    Reload {
        /// Whether the answer comes when the reload is over.
        #[serde(default)]
        wait: bool,
        /// A trial with a few workers first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        canary: Option<Canary>,
    },
    /// Another binary in place of this one.
    Upgrade {
        /// Whether the answer comes when the new one serves, or does not.
        #[serde(default)]
        wait: bool,
        /// Whether the new one begins with shared memory of its own, and so with no counts.
        #[serde(default)]
        fresh_zone: bool,
    },
    /// Another number of workers.
    Scale {
        /// How many.
        workers: NonZeroU32,
    },
    /// The end.
    Stop {
        /// Whether the connection stays open until the master is gone.
        #[serde(default)]
        wait: bool,
        /// Whether what is in service is cut off.
        #[serde(default)]
        quick: bool,
    },
    /// Log files opened anew.
    Reopen {},
    /// One worker replaced.
    Drain {
        /// The worker's number, from 1.
        slot: NonZeroU32,
        /// Whether the answer comes when it has left.
        #[serde(default)]
        wait: bool,
    },
    /// The key file read again.
    Keys {},
}

/// A trial of a reload: so many workers, for so long, before all others follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// How many workers try it.
    pub workers: NonZeroU32,
    /// For how long.
    pub seconds: NonZeroU32,
}

impl Request {
    /// Reads a line; its line break may be there or not.
    ///
    /// # Errors
    /// What is wrong with it and what would be right, in one line for whoever wrote it.
    pub fn parse(line: &str) -> Result<Self, String> {
        if line.len() > REQUEST_LINE_MAX {
            return Err(format!("the request is longer than {REQUEST_LINE_MAX} bytes"));
        }
        let mut fields = object(line).map_err(|error| format!("{error}; write one such as {}", EXAMPLES[0].1))?;
        version(&mut fields)?;
        let example = example(&fields)?;
        let request: Self = serde_json::from_value(Value::Object(fields)).map_err(|error| {
            let name = EXAMPLES[example].0;
            format!("{name}: {error}; an example: {}", EXAMPLES[example].1)
        })?;
        match request {
            Self::Reload { canary: Some(canary), .. } if canary.seconds.get() > CANARY_SECONDS_MAX => {
                Err(format!("reload: write canary seconds from 1 to {CANARY_SECONDS_MAX}, not {}", canary.seconds))
            }
            request => Ok(request),
        }
    }

    /// The line for it, with its line break.
    pub fn to_line(&self) -> String {
        line_of(serde_json::to_value(self).unwrap_or_default(), None)
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status {} => "status",
            Self::Reload { .. } => "reload",
            Self::Upgrade { .. } => "upgrade",
            Self::Scale { .. } => "scale",
            Self::Stop { .. } => "stop",
            Self::Reopen {} => "reopen",
            Self::Drain { .. } => "drain",
            Self::Keys {} => "keys",
        }
    }
}

/// What the master says to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was refused or has failed, and nothing has changed.
    Refused {
        /// Why; never empty.
        reasons: Vec<String>,
    },
    /// It has begun; how it ends is in the log and in the status.
    Accepted,
    /// It is done, and there is no more to say.
    Done,
    /// The reload is over.
    Reload(Reloaded),
    /// The new binary serves.
    Upgrade(Upgraded),
    /// So many workers are wanted now.
    Scale(Scaled),
    /// The worker is leaving, or has left.
    Drain(Drained),
    /// The keys that are in force now.
    Keys(KeysRead),
    /// How it stands.
    Status(Box<Status>),
}

/// The key file was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysRead {
    /// What is in force; `None` where the gate has no key file.
    pub keys: Option<KeysUse>,
}

/// A reload that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The generation that serves now.
    pub generation: u64,
    /// What is different from the one before.
    pub changes: Vec<ChangeLine>,
    /// How the trial went, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
}

/// A key with another value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeLine {
    /// The key in the file.
    pub key: String,
    /// The value before.
    pub old: String,
    /// The value that is asked for now.
    pub new: String,
    /// What has become of it.
    pub effect: Effect,
}

/// What has become of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// It serves.
    #[serde(rename = "rolled out")]
    RolledOut,
    /// The old value serves on.
    #[serde(rename = "needs an upgrade")]
    NeedsUpgrade,
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::RolledOut => "rolled out",
            Self::NeedsUpgrade => "needs an upgrade",
        })
    }
}

/// An upgrade that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// The new master.
    pub pid: u32,
    /// The new binary's version.
    pub version: String,
}

/// Another number of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaled {
    /// How many are wanted now.
    pub workers: u32,
    /// How many were wanted before.
    pub before: u32,
}

/// A worker that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Which.
    pub pid: u32,
}

impl Answer {
    /// A refusal for one reason.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reasons: vec![reason.into()] }
    }

    /// Reads the line that came for this request.
    ///
    /// # Errors
    /// What about it is not as this release writes it.
    pub fn parse(line: &str, asked: &Request) -> Result<Self, String> {
        if line.len() > ANSWER_LINE_MAX {
            return Err(format!("the answer is longer than {ANSWER_LINE_MAX} bytes"));
        }
        let mut fields = object(line)?;
        version(&mut fields)?;
        match fields.get("ok").and_then(Value::as_bool) {
            Some(true) => {}
            Some(false) => return Ok(Self::Refused { reasons: reasons(&fields) }),
            None => return Err("an answer has an \"ok\" that is true or false".to_owned()),
        }
        if fields.get("accepted").is_some_and(|accepted| *accepted == true) {
            return Ok(Self::Accepted);
        }
        let fields = Value::Object(fields);
        let answer = match asked {
            Request::Status {} => serde_json::from_value(fields).map(Self::Status),
            Request::Reload { .. } => serde_json::from_value(fields).map(Self::Reload),
            Request::Upgrade { .. } => serde_json::from_value(fields).map(Self::Upgrade),
            Request::Scale { .. } => serde_json::from_value(fields).map(Self::Scale),
            Request::Drain { .. } => serde_json::from_value(fields).map(Self::Drain),
            Request::Keys {} => serde_json::from_value(fields).map(Self::Keys),
            Request::Stop { .. } | Request::Reopen {} => Ok(Self::Done),
        };
        answer.map_err(|error| format!("{}: {error}", asked.name()))
    }

    /// The line for it, with its line break. What is too long for a line is left out: of a refusal the last reasons, of
    /// a reload its list of changes.
    pub fn to_line(&self) -> String {
        let line = self.whole_line();
        if line.len() <= ANSWER_LINE_MAX {
            return line;
        }
        match self {
            Self::Refused { reasons } => Self::Refused { reasons: first_of(reasons) }.whole_line(),
            Self::Reload(Reloaded { generation, .. }) => {
                Self::Reload(Reloaded { generation: *generation, changes: Vec::new(), canary: None }).whole_line()
            }
            _ => Self::refused(format!("the answer has {} bytes, too many for a line", line.len())).whole_line(),
        }
    }

    fn whole_line(&self) -> String {
        let body = match self {
            Self::Refused { reasons } => return line_of(json!({ "reasons": reasons }), Some(false)),
            Self::Accepted => Ok(json!({"accepted": true})),
            Self::Done => Ok(json!({})),
            Self::Reload(reloaded) => serde_json::to_value(reloaded),
            Self::Upgrade(upgraded) => serde_json::to_value(upgraded),
            Self::Scale(scaled) => serde_json::to_value(scaled),
            Self::Drain(drained) => serde_json::to_value(drained),
            Self::Keys(read) => serde_json::to_value(read),
            Self::Status(status) => serde_json::to_value(status),
        };
        // Plain data with names for keys: there is nothing that JSON could not hold.
        line_of(body.unwrap_or_default(), Some(true))
    }
}

/// The line for these fields.
fn line_of(body: Value, ok: Option<bool>) -> String {
    let mut line = Map::new();
    line.insert("v".to_owned(), VERSION.into());
    line.extend(ok.map(|ok| ("ok".to_owned(), ok.into())));
    if let Value::Object(fields) = body {
        line.extend(fields);
    }
    format!("{}\n", Value::Object(line))
}

/// As many reasons as fit, and how many did not. JSON may write six bytes for one.
fn first_of(reasons: &[String]) -> Vec<String> {
    let mut left = ANSWER_LINE_MAX / 6 - REQUEST_LINE_MAX;
    let fits = |reason: &&String| {
        let fits = reason.len() < left;
        left = left.saturating_sub(reason.len() + 1);
        fits
    };
    let mut first: Vec<String> = reasons.iter().take_while(fits).cloned().collect();
    first.push(format!("and {} more, which the log names", reasons.len() - first.len()));
    first
}

fn object(line: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(line.trim_end()) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err("this is JSON, but no object".to_owned()),
        Err(error) => Err(format!("this is no JSON: {error}")),
    }
}

/// Takes the version out; without one it is the first.
fn version(fields: &mut Map<String, Value>) -> Result<(), String> {
    match fields.remove("v") {
        None => Ok(()),
        Some(version) if version == VERSION => Ok(()),
        Some(other) => Err(format!("version {other} is not spoken here; write \"v\":{VERSION} or leave it out")),
    }
}

/// Which of the examples is meant.
fn example(fields: &Map<String, Value>) -> Result<usize, String> {
    let names = || EXAMPLES.map(|(name, _)| name).join(", ");
    match fields.get("command") {
        Some(Value::String(command)) => EXAMPLES.iter().position(|(name, _)| name == command).ok_or_else(|| {
            let shown: String = command.chars().take(40).collect();
            format!("no such command: {shown:?}; there are {}", names())
        }),
        Some(other) => Err(format!("a command is a string, not {other}; there are {}", names())),
        None => Err(format!("a \"command\" is missing; there are {}", names())),
    }
}

fn reasons(fields: &Map<String, Value>) -> Vec<String> {
    let given = fields.get("reasons").and_then(Value::as_array).into_iter().flatten();
    let mut reasons: Vec<String> = given.filter_map(Value::as_str).map(ToOwned::to_owned).collect();
    if reasons.is_empty() {
        reasons.push("no reason was given".to_owned());
    }
    reasons
}

#[cfg(test)]
mod tests;
