//! How a gate stands, as one value: what `status` answers.
//!
//! Plain data; nothing is measured here. Times of day are RFC 3339 texts. `None` is what nobody knows, and `null` on the
//! wire. Invariant: every field is always written, so that a reader need not guess which release answers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a gate stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the running binary.
    pub version: String,
    /// The master.
    pub pid: u32,
    /// Seconds since this master started.
    pub uptime_s: u64,
    /// The generation that serves.
    pub generation: u64,
    /// What the gate is about.
    pub state: GateState,
    /// How many workers there should be.
    pub workers_wanted: u32,
    /// Every process but the master.
    pub processes: Vec<ProcessLine>,
    /// Every worker's place.
    pub slots: Vec<SlotLine>,
    /// The last unwanted ends, newest first.
    pub deaths: Vec<Death>,
    /// Where it listens.
    pub listeners: Vec<ListenerUse>,
    /// Where its requests go, in the order of the configuration; of a name, every address that it has.
    #[serde(default)]
    pub backends: Vec<BackendUse>,
    /// Requests that wait for a backend.
    #[serde(default)]
    pub queue: QueueUse,
    /// How full the tables of the limits are.
    pub limiter: Vec<LimiterUse>,
    /// The store in which limits count over several gates; `None` where this gate counts alone.
    #[serde(default)]
    pub store: Option<StoreUse>,
    /// The keys of clients that are in force; `None` where none is asked for.
    #[serde(default)]
    pub keys: Option<KeysUse>,
    /// Counts over all workers.
    pub totals: Totals,
    /// The upgrade that is under way.
    pub upgrade: Option<UpgradeUnderWay>,
    /// How the last reload ended.
    pub last_reload: Option<LastReload>,
    /// How the last upgrade that has failed ended, or the one that this master comes from.
    pub last_upgrade: Option<LastUpgrade>,
}

/// Declares an enum of words: as they stand on the wire, so people read them.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $(Self::$variant => $word,)*
                })
            }
        }
    };
}

words! {
    /// What a gate is about.
    GateState {
        /// It serves, and nothing else is going on.
        Serving = "serving",
        /// A new generation takes over.
        Reloading = "reloading",
        /// A new binary takes over.
        Upgrading = "upgrading",
        /// It has no workers because it was told so.
        Paused = "paused",
        /// It finishes what is in service and leaves.
        Stopping = "stopping",
        /// The same, after another binary took over.
        Retiring = "retiring",
    }
}

words! {
    /// What a process is there for.
    ProcessRole {
        /// Serves requests.
        Worker = "worker",
        /// Watches the backend.
        Monitor = "monitor",
        /// Is the simulated backend.
        Demo = "demo",
    }
}

words! {
    /// Where in its life a process is.
    ProcessState {
        /// Not ready yet.
        Starting = "starting",
        /// At work.
        Ready = "ready",
        /// Told to finish.
        Draining = "draining",
        /// Finishing without having been told by the master.
        Leaving = "leaving",
        /// Told to end at once.
        Killed = "killed",
    }
}

words! {
    /// What was last seen of a backend.
    BackendState {
        /// Nobody has looked yet.
        Unknown = "unknown",
        /// It answered as Ollama does.
        Healthy = "healthy",
        /// No connection to it can be made.
        Unreachable = "unreachable",
        /// It did not answer in time.
        Silent = "silent",
        /// It answered with another status than 200.
        Failing = "failing",
        /// What it answered is not HTTP.
        NotHttp = "not http",
        /// It answered, and not as Ollama does.
        Foreign = "not ollama",
        /// Its name has no address.
        NotFound = "not found",
    }
}

words! {
    /// Whether a backend is left alone after failures.
    BreakerState {
        /// It gets requests.
        Closed = "closed",
        /// It gets none.
        Open = "open",
        /// It gets one, whose end decides.
        Trial = "trial",
    }
}

words! {
    /// How the store of limits is.
    StoreState {
        /// Nobody has asked it yet.
        Unknown = "unknown",
        /// It answers, as far as anybody knows.
        Well = "well",
        /// It does not; limits hold locally.
        Away = "away",
    }
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLine {
    /// `worker 1`, `monitor`.
    pub place: String,
    /// What for.
    pub role: ProcessRole,
    /// Which of its role, from 1.
    pub slot: u32,
    /// Its pid.
    pub pid: u32,
    /// What it runs.
    pub generation: u64,
    /// Where in its life it is.
    pub state: ProcessState,
    /// Seconds since it was forked.
    pub age_s: u64,
    /// Requests it has taken.
    pub requests: u64,
    /// Of these, not yet answered in full.
    pub in_flight: u64,
    /// Of these, streams.
    pub streams: u64,
    /// Connections it holds open.
    pub connections: u64,
    /// Memory it holds.
    pub rss_bytes: Option<u64>,
    /// Milliseconds since its last sign of life.
    pub beat_ms: Option<u64>,
}

/// A worker's place, whoever has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotLine {
    /// Which, from 1.
    pub slot: u32,
    /// How often a worker had to be started in place of one before.
    pub restarts: u64,
    /// Why the last time.
    pub last_restart: Option<String>,
    /// For how long the next start is put off.
    pub backoff_ms: u64,
}

/// An end that nobody wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// When.
    pub time: String,
    /// Whose.
    pub place: String,
    /// Its pid.
    pub pid: u32,
    /// What it ran.
    pub generation: u64,
    /// `was ended by SIGSEGV (core dumped)`.
    pub how: String,
    /// How long it had been there.
    pub uptime_s: u64,
    /// Memory it held when last looked at.
    pub rss_bytes: Option<u64>,
    /// Requests it took with it.
    pub in_flight: u64,
    /// The oldest of these: `POST /api/generate for 41.2 s`.
    pub in_service: Vec<String>,
    /// The likely cause.
    pub cause: String,
    /// Where to find a core dump, where there may be one.
    pub core: Option<String>,
}

/// An address that is listened on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerUse {
    /// `http://127.0.0.1:8000`.
    pub address: String,
    /// How many sockets share it.
    pub sockets: u32,
    /// Connections that wait to be accepted.
    pub queue: Option<u64>,
    /// How many may.
    pub backlog: Option<u64>,
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendUse {
    /// What the configuration calls it.
    pub name: String,
    /// Where it is: as configured, or where its name was found.
    pub url: String,
    /// What was last seen of it.
    pub state: BackendState,
    /// The status that it answered instead of 200.
    pub status: Option<u16>,
    /// Whether it is left alone after failures.
    pub breaker: BreakerState,
    /// For how many more milliseconds; then the next request tries it.
    pub breaker_ms: Option<u64>,
    /// Requests it has.
    pub in_flight: u64,
    /// How many it may have at once.
    pub slots: u64,
    /// Requests that wait, and that it might get.
    pub waiting: u64,
    /// Models it has in memory, by name.
    pub loaded: Vec<String>,
    /// How many models it lists.
    pub listed: Option<u64>,
}

/// Requests that wait for a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueUse {
    /// How many.
    pub length: u64,
    /// How many may.
    pub limit: u64,
    /// For how long the oldest has waited.
    pub oldest_ms: Option<u64>,
    /// For how long a request keeps a backend busy, on average.
    pub mean_service_ms: Option<u64>,
}

/// The table of one window length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimiterUse {
    /// The window's length.
    pub window_s: u64,
    /// How many clients it has room for.
    pub entries: u64,
    /// How many it counts.
    pub used: u64,
}

/// The store in which limits count over several gates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreUse {
    /// Where it is, without its credentials.
    pub url: String,
    /// How it is.
    pub state: StoreState,
    /// When it was noticed to be away; `None` where it is not.
    pub away_since: Option<String>,
    /// What of each limit this gate lets pass on its own while the store is away: `1/3`.
    pub share: String,
}

/// The keys of clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysUse {
    /// Their file.
    pub file: String,
    /// How many there are, those that have expired too.
    pub keys: u64,
    /// How many clients have them.
    pub names: u64,
    /// How many different policies they have.
    pub policies: u64,
    /// How often keys were put in force.
    pub generation: u64,
    /// When their file was read.
    pub time: String,
}

/// Counts over all workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Requests taken.
    pub requests: u64,
    /// Of these, not yet answered in full.
    pub in_flight: u64,
    /// Of these, streams.
    pub streams: u64,
    /// Open connections.
    pub connections: u64,
    /// Answers by class.
    pub answers: Classes,
    /// Requests refused by a limit.
    pub limited: u64,
    /// Clients that left before their answer.
    pub left: u64,
}

/// Answers by class of status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classes {
    /// 200 to 299.
    #[serde(rename = "2xx")]
    pub success: u64,
    /// 300 to 399.
    #[serde(rename = "3xx")]
    pub redirection: u64,
    /// 400 to 499.
    #[serde(rename = "4xx")]
    pub client_error: u64,
    /// 500 to 599.
    #[serde(rename = "5xx")]
    pub server_error: u64,
}

/// An upgrade that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeUnderWay {
    /// The new master.
    pub pid: u32,
    /// Since how many seconds.
    pub since_s: u64,
}

/// A reload that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReload {
    /// When it ended.
    pub time: String,
    /// Whether the new configuration serves.
    pub ok: bool,
    /// The generation that serves since.
    pub generation: u64,
    /// Why not.
    pub reasons: Vec<String>,
}

/// An upgrade that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUpgrade {
    /// When it ended.
    pub time: String,
    /// Whether the new binary serves.
    pub ok: bool,
    /// The new master; `None` for a candidate that failed.
    pub pid: Option<u32>,
    /// Why not.
    pub reasons: Vec<String>,
}
