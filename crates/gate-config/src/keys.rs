//! The table of keys: everything that can be configured, its names, its default and its help.
//!
//! The table has no meaning of its own: [`crate::Plan`] reads and bounds the values, the binary makes flags of the
//! rows. The invariants, each tested: names are unique, a section's keys stand together, every default parses and is
//! written as the plan would print it, and the plan has one field for each key, in the same order.

/// What every environment variable of ours begins with.
pub const ENV_PREFIX: &str = "OLLAMA_GATE_";

/// One key of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Key {
    /// The key in the file, in `snake_case`; flag and environment variable follow from it.
    pub name: &'static str,
    /// The short flag's letter.
    pub short: Option<char>,
    /// What the help calls the value; `None` for a switch.
    pub metavar: Option<&'static str>,
    /// The value's text where nothing else was typed.
    pub default: &'static str,
    /// The help.
    pub doc: &'static str,
    /// Lines of the file that show another way to write it; mostly none.
    pub example: &'static str,
    /// The heading it stands under.
    pub section: &'static str,
    /// What it takes to change it in a running gate.
    pub change: Change,
    /// How often it may be given.
    pub repeats: Repeats,
}

/// What it takes to change a key in a running gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A reload (SIGHUP).
    Reload,
    /// A stop and a start; a reload keeps the old value and says so.
    Start,
}

/// How often a key may be given in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeats {
    /// Once; the last one counts.
    Once,
    /// As a list: a flag several times, an array in the file, or commas anywhere.
    Many,
    /// As a list of which each item has fields: as [`Repeats::Many`], but items that hold commas end with `;` or a line
    /// break, and in the file also as tables, `[[key]]`.
    Tables,
}

impl Repeats {
    /// What stands between two items in one text.
    pub(crate) fn separator(self) -> char {
        if self == Self::Tables { ';' } else { ',' }
    }
}

impl Key {
    const fn new(name: &'static str, metavar: &'static str, default: &'static str, doc: &'static str) -> Self {
        Self {
            name,
            short: None,
            metavar: Some(metavar),
            default,
            doc,
            example: "",
            section: "",
            change: Change::Reload,
            repeats: Repeats::Once,
        }
    }

    const fn switch(name: &'static str, doc: &'static str) -> Self {
        Self { metavar: None, ..Self::new(name, "", "false", doc) }
    }

    const fn short(self, letter: char) -> Self {
        Self { short: Some(letter), ..self }
    }

    const fn start(self) -> Self {
        Self { change: Change::Start, ..self }
    }

    const fn many(self) -> Self {
        Self { repeats: Repeats::Many, ..self }
    }

    const fn tables(self, example: &'static str) -> Self {
        Self { repeats: Repeats::Tables, example, ..self }
    }

    const fn shown(self, example: &'static str) -> Self {
        Self { example, ..self }
    }

    const fn under(self, section: &'static str) -> Self {
        Self { section, ..self }
    }

    /// The long flag: `--graceful-timeout`.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// The environment variable: `OLLAMA_GATE_GRACEFUL_TIMEOUT`.
    pub fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.name.to_ascii_uppercase())
    }
}

/// The place of a key in [`KEYS`].
pub(crate) fn row(name: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.name == name)
}

const PROCESSES: &str = "Processes";
const LISTENERS: &str = "Listeners";
const TIMEOUTS: &str = "Timeouts";
const SIZES: &str = "Sizes";
const CLIENTS: &str = "Clients and limits";
const CLUSTER: &str = "Limits over several gates";
const QUEUE: &str = "Queue";
const BACKENDS: &str = "Backends";
const LOGS: &str = "Logs";

const CLUSTER_TABLE: &str = "\
# These five may also stand in a table of their own, behind every other key:
#
#     [cluster]
#     url = \"rediss://store.internal:6380\"
#     password = \"/etc/ollama-gate/store-password\"
#     share = \"1/3\"
#     timeout = \"5ms\"
#     prefix = \"ollama-gate\"";

const UPSTREAM_TABLES: &str = "\
# Where URLs are not enough: a table for each backend, at the end of the file, because what follows a
# table belongs to it. Only url or dns must be there.
#
#     [[upstream]]
#     url = \"http://10.0.0.11:11434\"      # or \"unix:/run/ollama.sock\"
#     name = \"gpu1\"                       # in logs; else ollama-1, ollama-2 by its place
#     slots = 4                           # requests given to it at once; else the key slots
#     weight = 2                          # its share beside the others', per slot: 1 to 100, else 1
#     models = [\"llama3.2\", \"qwen3:8b\"]   # what it may be asked for; else all that it has
#
#     [[upstream]]
#     dns = \"ollama.internal:11434\"       # or SRV records: \"_ollama._tcp.internal\"
#
# The same as one text, for flags and the environment:
#
#     http://10.0.0.11:11434 name=gpu1 slots=4 weight=2 models=llama3.2,qwen3:8b; dns=ollama.internal:11434";

/// Every key, section by section.
pub static KEYS: &[Key] = &[
    Key::new("workers", "N", "1", "How many worker processes serve requests, or `auto`: as many as the machine has processors for us.")
        .short('w')
        .under(PROCESSES),
    Key::new("surge", "N", "1", "How many workers may be started ahead of those they replace at the same time.").under(PROCESSES),
    Key::new("timeout", "TIME", "30s", "A worker that shows no sign of life for this long is killed and replaced; 0 turns the check off. It does not bound requests.")
        .short('t')
        .under(PROCESSES),
    Key::new("boot_timeout", "TIME", "30s", "How long a new worker may take until it is ready.").under(PROCESSES),
    Key::new("graceful_timeout", "TIME", "30s", "How long a worker that is told to stop may go on answering the requests it has.").under(PROCESSES),
    Key::new("stream_timeout", "TIME", "300s", "How long such a worker may go on with streams that have begun; never less than graceful_timeout.").under(PROCESSES),
    Key::new("max_requests", "N", "0", "Replace a worker after so many requests, its successor ready before it goes; looked at four times a second; 0 never.").under(PROCESSES),
    Key::new("max_requests_jitter", "N", "0", "Up to so many requests more, drawn anew for each worker, so that not all are replaced at once.").under(PROCESSES),
    Key::new("max_age", "TIME", "0", "Replace a worker that has served for so long, less up to a tenth of it; 0 never.").under(PROCESSES),
    Key::new("max_rss", "SIZE", "0", "Replace a worker that holds more memory than this for three seconds on end; 0 never.").under(PROCESSES),
    Key::new("control", "FILE", "", "The unix socket for `ollama-gate status`, `reload`, `upgrade` and the like, for the user that starts the gate and root. Empty takes `control.sock` in $RUNTIME_DIRECTORY where systemd sets that, and makes none otherwise.").start().under(PROCESSES),
    Key::new("pid", "FILE", "", "Where the master writes its process id; empty writes none.").short('p').start().under(PROCESSES),
    Key::new("user", "USER", "", "The user, by name or number, to run as; empty keeps the one that started the gate.")
        .short('u')
        .start()
        .under(PROCESSES),
    Key::new("group", "GROUP", "", "The group, by name or number, to run as; empty keeps the one that started the gate.")
        .short('g')
        .start()
        .under(PROCESSES),
    Key::new("umask", "OCTAL", "", "The permissions that files and unix sockets of the gate do not get: `0077` leaves them to their owner; empty keeps what the gate was started with.").start().under(PROCESSES),
    Key::switch("sandbox", "Close what workers never need to them: seccomp for system calls, Landlock for files outside the access log's directory. A kernel without them refuses the start.").under(PROCESSES),
    Key::new("bind", "ADDRESS", "127.0.0.1:8000", "Where to listen: HOST:PORT (HOST is an IP address or `localhost`), :PORT for every IPv4 address, [IPV6]:PORT, unix:PATH, or fd://N or fd://NAME for a socket that was handed over.")
        .short('b')
        .many()
        .under(LISTENERS),
    Key::new("backlog", "N", "2048", "How many connections the kernel may hold for us before they are accepted; it caps this at net.core.somaxconn.").start().under(LISTENERS),
    Key::switch("reuse_port", "Give every worker a listening socket of its own (SO_REUSEPORT) instead of one for all of them.").start().under(LISTENERS),
    Key::new("worker_connections", "N", "1024", "How many connections one worker holds open at most.").under(LISTENERS),
    Key::new("keep_alive", "TIME", "75s", "How long an idle client connection stays open for the next request.").under(TIMEOUTS),
    Key::new("head_timeout", "TIME", "10s", "How long a client may take to send a request's head.").under(TIMEOUTS),
    Key::new("body_timeout", "TIME", "30s", "How long a client may pause while it sends a request's body.").under(TIMEOUTS),
    Key::new("write_timeout", "TIME", "60s", "How long a client may leave an answer unread before it is cut off.").under(TIMEOUTS),
    Key::new("connect_timeout", "TIME", "5s", "How long connecting to a backend may take.").under(TIMEOUTS),
    Key::new("load_timeout", "TIME", "600s", "How long a backend may take to load a model before it begins to answer: a large one takes minutes.").under(TIMEOUTS),
    Key::new("first_byte_timeout", "TIME", "600s", "How long a backend may take from the model being loaded to the first token. An answer that is not streamed begins when it is complete.").under(TIMEOUTS),
    Key::new("chunk_timeout", "TIME", "120s", "How long a backend may pause between tokens.").under(TIMEOUTS),
    Key::new("request_timeout", "TIME", "0", "How long a request may take as a whole, waiting in the queue included; 0 sets no bound. Never shorter than connect_timeout.").under(TIMEOUTS),
    Key::new("max_body", "SIZE", "8MiB", "The largest request body; more is answered 413.").under(SIZES),
    Key::new("max_head", "SIZE", "64KiB", "The largest request head; more is answered 431.").under(SIZES),
    Key::new("max_fields", "N", "100", "How many header fields a request may have; more are answered 431.").under(SIZES),
    Key::new("max_path", "SIZE", "60KiB", "The longest request path; more is answered 414. Never above max_head.").under(SIZES),
    Key::new("max_answer", "SIZE", "64MiB", "The largest answer that is read whole from the backend; streams have no such bound.").under(SIZES),
    Key::new("forwarded_allow_ips", "ADDRESS", "127.0.0.1,::1", "Proxies whose X-Forwarded-For is believed: IP addresses and CIDR blocks, or `*` for everyone, which lets clients choose their own address; empty believes none.")
        .many()
        .under(CLIENTS),
    Key::new("limit", "RATE", "10/minute", "How often one client may call the routes under /ollama_generate/: `10/minute`, `100/hour;10/second`, `5 per 2 seconds`, or `none`.")
        .many()
        .under(CLIENTS),
    Key::new("api_limit", "RATE", "60/minute", "How often one client may call the routes of Ollama's own API; written like limit.").many().under(CLIENTS),
    Key::new("limit_strategy", "STRATEGY", "fixed-window", "How limits count: `fixed-window` lets exactly so many requests pass in a window that opens with a client's first; `gcra` spreads them evenly after a burst.").under(CLIENTS),
    Key::switch("limit_headers", "Tell clients where they stand in X-RateLimit-* headers.").under(CLIENTS),
    Key::new("limit_entries", "N", "131072", "How many clients can be counted at once for each window length in use; a power of two, 8 bytes of memory each.").start().under(CLIENTS),
    Key::new("flood", "RATE", "none", "How often one client may send requests at all, valid or not: one rate, counted by gcra before the body is read, or `none`.").under(CLIENTS),
    Key::new("keys", "FILE", "", "The file of API keys, which `ollama-gate key` writes: mode 0600, of root or the gate's user. With it every request needs a key (`Authorization: Bearer` or `x-api-key`). Empty asks for none, as Ollama does.").under(CLIENTS),
    Key::new("origins", "ORIGIN", "", "Origins of web pages that may call the gate beside those that Ollama lets in unasked (pages of this machine and of apps on it): `https://app.example.com`, `https://*.example.com`, or `*` for all. Where it is not set, OLLAMA_ORIGINS is read.")
        .many()
        .under(CLIENTS),
    Key::new("cluster_url", "URL", "", "The Redis or Valkey store in which limits of requests and tokens hold over several gates: redis://HOST:PORT, rediss:// with TLS, redis+sentinel:// or redis+cluster://. Empty counts in this gate alone. A password in it is never shown, but other users may see the command line and administrators the environment: better write it to the file of cluster_password.")
        .shown(CLUSTER_TABLE)
        .under(CLUSTER),
    Key::new("cluster_password", "FILE", "", "The file that holds the store's password, mode 0600, of root or the gate's user.").under(CLUSTER),
    Key::new("cluster_share", "SHARE", "1", "What of each limit this gate lets pass on its own while the store is away: `1/3` for one of three gates.").under(CLUSTER),
    Key::new("cluster_timeout", "TIME", "5ms", "How long the store may take to answer, from 1ms to 1s; then it counts as away.").under(CLUSTER),
    Key::new("cluster_prefix", "NAME", "ollama-gate", "What names in the store begin with; gates that share their limits have the same.").under(CLUSTER),
    Key::new("queue", "N", "512", "How many requests may wait for a backend in all, over all workers; more are answered 503. 0 lets none wait.").under(QUEUE),
    Key::new("queue_per_client", "N", "64", "How many requests of one client may wait; more are answered 429. Never above queue.").under(QUEUE),
    Key::new("queue_timeout", "TIME", "60s", "How long a request may wait; then it is answered 503.").under(QUEUE),
    Key::new("queue_weight", "CLIENTS=N", "", "Clients that get more than one share of the backends while others wait: `10.1.0.0/16=4`, with an address or a CIDR block and 1 to 100 shares. The narrowest block counts.")
        .many()
        .under(QUEUE),
    Key::new("swap_patience", "TIME", "30s", "How long a request that needs another model loaded in a loaded one's place may be passed by requests for loaded models.").under(QUEUE),
    Key::new("upstream", "URL", "http://127.0.0.1:11434", "The Ollama servers, or gates in front of them: http://HOST:PORT with an optional path, unix:PATH, or dns=NAME:PORT for all addresses of a name. Without a scheme the port is 11434 unless given. Several stand apart by commas; fields may follow each (name=gpu1 slots=4 weight=2 models=a,b), and after models= a `;` or a line break ends the backend. Where it is not set, OLLAMA_HOST is read, as one URL.")
        .tables(UPSTREAM_TABLES)
        .under(BACKENDS),
    Key::new("slots", "N", "256", "How many requests a backend is given at once where its own slots field does not say. Write the value of its OLLAMA_NUM_PARALLEL: what it cannot work on waits here, where clients get fair shares, and not there.").under(BACKENDS),
    Key::new("retry", "WHEN", "unsent", "Whether a request that failed at one backend goes to another: `never`; `unsent`, if it surely did not run; `unanswered`, also if the backend failed before it began to answer, though it may run twice then.").under(BACKENDS),
    Key::new("breaker_failures", "N", "5", "After how many failures in a row a backend is left alone; 0 never.").under(BACKENDS),
    Key::new("breaker_time", "TIME", "10s", "For how long it is left alone; doubles with each further failure, up to eight times this.").under(BACKENDS),
    Key::new("resolver", "ADDRESS", "", "The DNS servers that are asked for dns names; empty asks those of /etc/resolv.conf.").many().under(BACKENDS),
    Key::new("dns_refresh", "TIME", "10s", "The longest time between two look-ups of a name. A shorter TTL is followed, but never below 1s, or below this where this is less.").under(BACKENDS),
    Key::new("model", "NAME", "", "The model that answers the routes under /ollama_generate/, which do not name one; empty leaves it unset.").under(BACKENDS),
    Key::switch("demo", "Start a simulated Ollama beside the gate and use it as the only backend.").start().under(BACKENDS),
    Key::new("access_log", "FILE", "off", "Where one line for each request goes: a file, `-` for standard output, or `off`.").under(LOGS),
    Key::new("access_log_format", "FORMAT", "json", "How these lines are written: `json` or `combined`.").under(LOGS),
    Key::new("log_level", "LEVEL", "info", "The least serious messages that are logged: `error`, `warn`, `info` or `debug`.").under(LOGS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_flags_and_letters_are_unique() {
        for (row, key) in KEYS.iter().enumerate() {
            let later = &KEYS[row + 1..];
            assert!(later.iter().all(|other| other.name != key.name), "{}", key.name);
            assert!(key.short.is_none() || later.iter().all(|other| other.short != key.short), "{}", key.name);
            assert!(key.short != Some('c') && key.short != Some('h') && key.short != Some('V'), "{}", key.name);
            assert!(key.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", key.name);
            assert!(!key.section.is_empty() && key.doc.ends_with('.'), "{}", key.name);
        }
    }

    #[test]
    fn sections_stand_together() {
        let mut headings: Vec<&str> = KEYS.iter().map(|key| key.section).collect();
        headings.dedup();
        let mut unique = headings.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(headings.len(), unique.len(), "{headings:?}");
    }

    #[test]
    fn names_follow_from_the_key() {
        let key = &KEYS[row("graceful_timeout").unwrap()];
        assert_eq!(key.flag(), "--graceful-timeout");
        assert_eq!(key.env(), "OLLAMA_GATE_GRACEFUL_TIMEOUT");
        assert_eq!(row("graceful-timeout"), None);
    }
}
