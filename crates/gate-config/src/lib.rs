//! The configuration of the gate: what was typed becomes a [`Plan`], or every reason why it cannot.
//!
//! One static table, [`KEYS`], drives the flags, the environment variables, the file, the help and the reference file.
//! The way is always the same: the table's defaults, then the file, then the environment, then the flags make
//! [`Settings`] (text and where it came from); [`Plan::new`] gives the text its meaning.
//!
//! Beside it stands [`keyfile`]: the text of the key file, and the policies in it.
//!
//! Nothing here reads a file, the environment or the command line: the caller hands them in. The one look at the
//! machine is the number of processors behind `workers = "auto"`. Nothing logs and nothing ends the process.
//!
//! The invariant: whoever holds a [`Plan`] holds only values inside their stated bounds, and a run that refuses its
//! configuration names everything that is wrong with it at once.
#![forbid(unsafe_code)]

mod complaint;
pub mod exit;
mod file;
pub mod keyfile;
mod keys;
mod plan;
mod rate;
mod render;
mod settings;
mod value;

pub use complaint::{Complaint, Complaints};
pub use exit::{EX_CONFIG, EX_OK, EX_SOFTWARE, EX_UNAVAILABLE, EX_USAGE};
pub use keys::{Change, ENV_PREFIX, KEYS, Key, Repeats};
pub use plan::{Plan, StartOnly, Values, WINDOWS_MAX};
pub use rate::{AMOUNT_MAX, Rate, RateError, Unit, WINDOW_MAX, parse_many};
pub use render::reference_file;
pub use settings::{LISTEN_FDS, OLLAMA_HOST, OLLAMA_ORIGINS, Settings, Source, Typed};
pub use value::{
    address::{Bind, Handle},
    choice::{AccessLogFormat, LogLevel, Named, Retry, Strategy},
    cluster::{ClusterUrl, Share, redacted},
    proxies::TrustedProxies,
    target::{Host, Target},
    text::AccessLog,
    upstream::{UPSTREAMS_MAX, Upstream},
};
