//! What the settings mean: typed, bounded, complete.
//!
//! A plan says nothing about where its values came from and does nothing with them. The invariants: a plan cannot be
//! changed once made, its values lie inside their bounds, and there is one field for each row of [`KEYS`].

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::complaint::{Complaint, Complaints};
use crate::keys::{Change, KEYS};
use crate::rate::Rate;
use crate::settings::{Settings, Source};
use crate::value::address::{Bind, binds, binds_text, resolvers, resolvers_text};
use crate::value::choice::{AccessLogFormat, LogLevel, Retry, Strategy, choice, choice_text};
use crate::value::cluster::{
    ClusterUrl, Share, cluster_prefix, cluster_timeout, cluster_url, password_file, share, url_text,
};
use crate::value::number::{
    self, plain, size, size_text, switch, time, time_or_off, time_or_off_text, time_text, whole,
};
use crate::value::origins::{origins, origins_text};
use crate::value::proxies::{TrustedProxies, proxies, proxies_text};
use crate::value::queue::{weight_of, weights, weights_text};
use crate::value::rates::{self, flood, flood_text, limits, limits_text};
use crate::value::text::{AccessLog, access_log, access_log_text, account, model, name_text, path, path_text};
use crate::value::upstream::{Upstream, difference, upstreams, upstreams_text};
use crate::value::{Fault, Faults, Remedy};

/// Each window length in use has its own region of the shared table.
pub const WINDOWS_MAX: usize = 16;

/// The configuration of a running gate. Its values are read as fields: `plan.workers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    values: Values,
}

/// A key that only a start can change and that a reload wanted to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartOnly {
    /// The key in the file.
    pub key: &'static str,
    /// The value that stays.
    pub old: String,
    /// The value that was asked for.
    pub new: String,
}

/// Declares the fields of a plan, each with its reader and its shower, so that a field without both does not compile.
/// Showers see all values under the name that stands first: what goes without saying may depend on another key.
macro_rules! values {
    ($all:ident: $($(#[$doc:meta])* $name:ident: $type:ty = $read:expr, $show:expr;)*) => {
        /// The values of a [`Plan`].
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Values {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Values {
            fn read(settings: &Settings, complaints: &mut Vec<Complaint>) -> Option<Self> {
                $(let $name: Option<$type> = read_one(settings, stringify!($name), $read, complaints);)*
                Some(Self { $($name: $name?,)* })
            }

            /// Keys and their values as text, in the order of [`KEYS`].
            fn texts(&self) -> Vec<(&'static str, String)> {
                let $all = self;
                vec![$((stringify!($name), text_of(&self.$name, $show)),)*]
            }

            fn take_from(&mut self, other: &Self, key: &str) {
                match key {
                    $(stringify!($name) => self.$name.clone_from(&other.$name),)*
                    _ => {}
                }
            }
        }
    };
}

values! {
    all:
    /// How many worker processes serve requests.
    workers: u16 = number::workers, plain;
    /// How many workers may be started ahead of those they replace at the same time.
    surge: u32 = |text| whole(text, 1..=number::WORKERS_MAX), plain;
    /// How long a worker may show no sign of life; `None` where nobody looks.
    timeout: Option<Duration> = time_or_off, |time| time_or_off_text(*time);
    /// How long a new worker may take until it is ready.
    boot_timeout: Duration = time, |time| time_text(*time);
    /// How long a worker that is told to stop may go on answering.
    graceful_timeout: Duration = time, |time| time_text(*time);
    /// How long it may go on with streams; never less than `graceful_timeout`.
    stream_timeout: Duration = time, |time| time_text(*time);
    /// After how many requests a worker is replaced; 0 is never.
    max_requests: u64 = |text| whole(text, 0..=number::REQUESTS_MAX), plain;
    /// Up to so many requests more, drawn anew for each worker.
    max_requests_jitter: u64 = |text| whole(text, 0..=number::REQUESTS_MAX), plain;
    /// After how long a worker is replaced.
    max_age: Option<Duration> = time_or_off, |time| time_or_off_text(*time);
    /// With how many bytes of memory a worker is replaced.
    max_rss: Option<usize> = number::rss, |size| number::rss_text(*size);
    /// The control socket, where one is asked for.
    control: Option<PathBuf> = path, |path| path_text(path.as_deref());
    /// Where the master writes its process id.
    pid: Option<PathBuf> = path, |path| path_text(path.as_deref());
    /// The user, by name or number, to run as.
    user: Option<String> = account, |name| name_text(name.as_deref());
    /// The group, by name or number, to run as.
    group: Option<String> = account, |name| name_text(name.as_deref());
    /// The permissions that files of the gate do not get.
    umask: Option<u16> = number::umask, |mask| number::umask_text(*mask);
    /// Whether workers close to themselves what they never need.
    sandbox: bool = switch, plain;
    /// Where to listen; never empty, no address twice.
    bind: Vec<Bind> = binds, |binds| binds_text(binds);
    /// How many connections the kernel may hold before they are accepted.
    backlog: u32 = |text| whole(text, 1..=number::BACKLOG_MAX), plain;
    /// Whether every worker has a listening socket of its own.
    reuse_port: bool = switch, plain;
    /// How many connections one worker holds open at most.
    worker_connections: usize = |text| whole(text, 1..=number::CONNECTIONS_MAX), plain;
    /// How long an idle client connection stays open.
    keep_alive: Duration = time, |time| time_text(*time);
    /// How long a client may take to send a request's head.
    head_timeout: Duration = time, |time| time_text(*time);
    /// How long a client may pause while it sends a request's body.
    body_timeout: Duration = time, |time| time_text(*time);
    /// How long a client may leave an answer unread.
    write_timeout: Duration = time, |time| time_text(*time);
    /// How long connecting to a backend may take.
    connect_timeout: Duration = time, |time| time_text(*time);
    /// How long a backend may take to load a model.
    load_timeout: Duration = time, |time| time_text(*time);
    /// How long a backend may take from the model being loaded to the first byte of its answer.
    first_byte_timeout: Duration = time, |time| time_text(*time);
    /// How long a backend may pause inside an answer.
    chunk_timeout: Duration = time, |time| time_text(*time);
    /// How long a request may take as a whole; never less than `connect_timeout`.
    request_timeout: Option<Duration> = time_or_off, |time| time_or_off_text(*time);
    /// The largest request body, in bytes.
    max_body: usize = |text| size(text, number::BODY_MIN..=number::BODY_MAX), |bytes| size_text(*bytes);
    /// The largest request head, in bytes.
    max_head: usize = |text| size(text, number::HEAD_MIN..=number::HEAD_MAX), |bytes| size_text(*bytes);
    /// How many header fields a request may have.
    max_fields: usize = |text| whole(text, number::FIELDS_MIN..=number::FIELDS_MAX), plain;
    /// The longest request path, in bytes; never above `max_head`.
    max_path: usize = |text| size(text, number::PATH_MIN..=number::HEAD_MAX), |bytes| size_text(*bytes);
    /// The largest answer that is read whole from the backend, in bytes.
    max_answer: usize = |text| size(text, number::BODY_MIN..=number::BODY_MAX), |bytes| size_text(*bytes);
    /// Proxies whose X-Forwarded-For is believed.
    forwarded_allow_ips: TrustedProxies = proxies, proxies_text;
    /// How often one client may call the routes under `/ollama_generate/`; all of them hold, none where there are none.
    limit: Vec<Rate> = limits, |rates| limits_text(rates);
    /// How often one client may call the routes of Ollama's own API.
    api_limit: Vec<Rate> = limits, |rates| limits_text(rates);
    /// How limits count.
    limit_strategy: Strategy = choice, |word| choice_text(*word);
    /// Whether clients are told where they stand.
    limit_headers: bool = switch, plain;
    /// Words of the shared table for each window length; a power of two.
    limit_entries: usize = number::entries, plain;
    /// How often one client may send requests at all.
    flood: Option<Rate> = flood, |rate| flood_text(*rate);
    /// The file of API keys; `None` asks clients for none.
    keys: Option<PathBuf> = path, |path| path_text(path.as_deref());
    /// Origins that may call the gate beside Ollama's own list, as typed; `*` is all of them.
    origins: Vec<String> = origins, |list| origins_text(list);
    /// The store in which limits hold over several gates.
    cluster_url: Option<ClusterUrl> = cluster_url, |url| url_text(url.as_ref());
    /// The file with the store's password.
    cluster_password: Option<PathBuf> = password_file, |path| path_text(path.as_deref());
    /// What of each limit this gate lets pass on its own.
    cluster_share: Share = share, plain;
    /// How long the store may take to answer.
    cluster_timeout: Duration = cluster_timeout, |time| time_text(*time);
    /// What names in the store begin with.
    cluster_prefix: String = cluster_prefix, plain;
    /// How many requests may wait in all; 0 refuses at once.
    queue: usize = |text| whole(text, 0..=number::QUEUE_MAX), plain;
    /// How many requests of one client may wait; at least 1, never above a `queue` that lets any wait.
    queue_per_client: usize = |text| whole(text, 1..=number::QUEUE_MAX), plain;
    /// How long a request may wait.
    queue_timeout: Duration = time, |time| time_text(*time);
    /// Clients that get more than one share; [`Plan::weight_of`] looks one up.
    queue_weight: Vec<(IpNet, u32)> = weights, |weights| weights_text(weights);
    /// How long a request that needs another model loaded may be passed by others.
    swap_patience: Duration = time, |time| time_text(*time);
    /// The backends; never empty, no URL and no name twice.
    upstream: Vec<Upstream> = upstreams, |list| upstreams_text(list, all.slots);
    /// How many requests a backend is given at once that has no number of its own.
    slots: u16 = |text| whole(text, 1..=number::SLOTS_MAX), plain;
    /// Whether a request goes to another backend.
    retry: Retry = choice, |word| choice_text(*word);
    /// After how many failures in a row a backend is left alone; 0 is never.
    breaker_failures: u32 = |text| whole(text, 0..=number::FAILURES_MAX), plain;
    /// For how long.
    breaker_time: Duration = number::pause, |time| time_text(*time);
    /// The DNS servers to ask; empty asks those of this machine.
    resolver: Vec<SocketAddr> = resolvers, |list| resolvers_text(list);
    /// The longest time between two look-ups of a name.
    dns_refresh: Duration = number::pause, |time| time_text(*time);
    /// The model that answers the routes under `/ollama_generate/`.
    model: Option<String> = model, |name| name_text(name.as_deref());
    /// Whether a simulated Ollama is started and used as the backend.
    demo: bool = switch, plain;
    /// Where one line for each request goes.
    access_log: AccessLog = access_log, access_log_text;
    /// How these lines are written.
    access_log_format: AccessLogFormat = choice, |word| choice_text(*word);
    /// The least serious messages that are logged.
    log_level: LogLevel = choice, |word| choice_text(*word);
}

impl Plan {
    /// Gives the settings their meaning.
    ///
    /// # Errors
    /// Every value that is outside its bounds or does not go with another one.
    pub fn new(settings: &Settings) -> Result<Self, Complaints> {
        let mut complaints = Vec::new();
        let values = Values::read(settings, &mut complaints);
        check_together(settings, &mut complaints);
        match values {
            Some(mut values) if complaints.is_empty() => {
                // A longer path could never arrive; following a smaller max_head spares the operator a second change.
                values.max_path = values.max_path.min(values.max_head);
                // A stream is a request too.
                values.stream_timeout = values.stream_timeout.max(values.graceful_timeout);
                // A client cannot have more places than there are. Without any the number means nothing, and stays one
                // that can be written.
                values.queue_per_client = values.queue_per_client.min(values.queue).max(1);
                values.upstream.iter_mut().for_each(|upstream| upstream.default_slots(values.slots));
                Ok(Self { values })
            }
            _ => Err(Complaints(complaints)),
        }
    }

    /// The lengths of the windows in which limits count, shortest first; none under [`Strategy::Gcra`], which has no
    /// windows.
    pub fn windows(&self) -> Vec<Duration> {
        windows(self.limit_strategy, self.limit.iter().chain(&self.api_limit))
    }

    /// Whether processes that have this plan hold what must not be in a core file: keys of clients, or the store's
    /// password.
    pub fn holds_secrets(&self) -> bool {
        self.keys.is_some()
            || self.cluster_password.is_some()
            || self.cluster_url.as_ref().is_some_and(ClusterUrl::has_secret)
    }

    /// How many shares of the queue this client gets; 1 unless `queue_weight` says otherwise.
    pub fn weight_of(&self, client: IpAddr) -> u32 {
        weight_of(&self.queue_weight, client)
    }

    /// What differs from the old plan: key, old value, new value. Of backends those are told that differ, in full.
    pub fn changes(&self, old: &Self) -> Vec<(&'static str, String, String)> {
        let pairs = old.values.texts().into_iter().zip(self.values.texts());
        let told = pairs.filter_map(|((key, was), (_, is))| match key {
            "upstream" if self.upstream == old.upstream => None,
            "upstream" => {
                let (was, is) = difference(&old.upstream, &self.upstream);
                Some((key, was, is))
            }
            // What is different may be what is not shown.
            "cluster_url" if was == is && self.cluster_url != old.cluster_url => {
                Some((key, was, is + " (with other credentials)"))
            }
            _ => (was != is).then_some((key, was, is)),
        });
        told.collect()
    }

    /// What differs from the old plan although only a start can change it.
    pub fn start_only_changes(&self, old: &Self) -> Vec<StartOnly> {
        let changes = self.changes(old).into_iter();
        changes.filter(|(key, ..)| is_start_only(key)).map(|(key, old, new)| StartOnly { key, old, new }).collect()
    }

    /// This plan with the old values of the keys that only a start can change.
    #[must_use]
    pub fn with_start_only_from(mut self, old: &Self) -> Self {
        for key in KEYS.iter().filter(|key| key.change == Change::Start) {
            self.values.take_from(&old.values, key.name);
        }
        self
    }

    /// This plan with one socket for all workers, for a machine on which sockets of their own would lose connections.
    #[must_use]
    pub fn without_reuse_port(mut self) -> Self {
        self.values.reuse_port = false;
        self
    }

    /// Keys and their values as text, in the order of [`KEYS`].
    pub(crate) fn texts(&self) -> Vec<(&'static str, String)> {
        self.values.texts()
    }
}

impl Deref for Plan {
    type Target = Values;

    fn deref(&self) -> &Values {
        &self.values
    }
}

fn is_start_only(name: &str) -> bool {
    KEYS.iter().any(|key| key.name == name && key.change == Change::Start)
}

fn read_one<T, E: Into<Faults>>(
    settings: &Settings,
    key: &'static str,
    read: impl Fn(&str) -> Result<T, E>,
    complaints: &mut Vec<Complaint>,
) -> Option<T> {
    match read(settings.typed(key).map_or("", |typed| &typed.text)) {
        Ok(value) => Some(value),
        Err(faults) => {
            let Faults(faults) = faults.into();
            complaints.extend(faults.into_iter().map(|fault| located(settings, key, fault)));
            None
        }
    }
}

/// A fault as a complaint about the item and the field that has it, and the line where that stands.
fn located(settings: &Settings, key: &str, fault: Fault) -> Complaint {
    let Fault { place, value, remedy } = fault;
    let whole = complaint(settings, key, remedy);
    match place.zip(settings.typed(key)) {
        // A single URL is the whole value.
        None => whole,
        Some((_, typed)) if typed.spots.is_empty() && whole.value.trim() == value => whole,
        Some(((item, field), typed)) => {
            Complaint { key: typed.name_of(key, item, &field), value, source: typed.source_of(item, &field), ..whole }
        }
    }
}

/// Lets the compiler know what a shower is given.
fn text_of<T>(value: &T, show: impl Fn(&T) -> String) -> String {
    show(value)
}

/// What no value shows by itself. Reads what it compares once more, because a bad value elsewhere leaves no [`Values`]
/// and must not hide what is found here; a bad value among these has its complaint already.
fn check_together(settings: &Settings, complaints: &mut Vec<Complaint>) {
    let text = |key| settings.typed(key).map_or("", |typed| &typed.text);
    if let (Ok(Some(whole)), Ok(connect)) = (time_or_off(text("request_timeout")), time(text("connect_timeout")))
        && whole < connect
    {
        let remedy = format!("write at least connect_timeout, {}, or 0", time_text(connect));
        complaints.push(complaint(settings, "request_timeout", remedy));
    }
    let Ok(strategy) = choice(text("limit_strategy")) else { return };
    let lists = [("limit", limits(text("limit"))), ("api_limit", limits(text("api_limit")))];
    let lists = lists.map(|(key, list)| (key, list.unwrap_or_default()));
    if strategy == Strategy::Gcra && !text("cluster_url").trim().is_empty() {
        let remedy = "write fixed-window: several gates that share their counts count so".to_owned();
        complaints.push(complaint(settings, "limit_strategy", remedy));
    }
    if strategy == Strategy::Gcra {
        for (key, list) in &lists {
            complaints.extend(list.iter().find_map(rates::gcra).map(|remedy| complaint(settings, key, remedy)));
        }
    }
    let windows = windows(strategy, lists.iter().flat_map(|(_, list)| list)).len();
    if windows > WINDOWS_MAX {
        let remedy = format!(
            "limit and api_limit together have {windows} different window lengths: write at most {WINDOWS_MAX}"
        );
        complaints.push(complaint(settings, "api_limit", remedy));
    }
}

fn windows<'a>(strategy: Strategy, rates: impl Iterator<Item = &'a Rate>) -> Vec<Duration> {
    if strategy == Strategy::Gcra {
        return Vec::new();
    }
    let mut windows: Vec<Duration> = rates.map(Rate::window).collect();
    windows.sort_unstable();
    windows.dedup();
    windows
}

fn complaint(settings: &Settings, key: &str, remedy: Remedy) -> Complaint {
    let (value, source) = settings
        .typed(key)
        .map_or((String::new(), Source::Default), |typed| (typed.text.clone(), typed.source.clone()));
    Complaint { key: key.to_owned(), value, source, remedy }
}

#[cfg(test)]
mod tests;
