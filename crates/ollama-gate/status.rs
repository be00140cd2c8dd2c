//! How a gate stands, as a page for people.
//!
//! Pure text: the clock is an argument. Invariant: no line is wider than [`crate::table::WIDTH`] and none holds a
//! control character, wherever its words came from.

use gate_master::protocol::{
    BackendUse, Death, KeysUse, LastReload, LastUpgrade, ProcessLine, QueueUse, SlotLine, Status, StoreState, StoreUse,
};
use jiff::Timestamp;

use crate::table::{Side, table, wrapped};

/// Indent of the lines that belong to the one above.
const INDENT: usize = 4;

/// The page.
pub(crate) fn text(status: &Status, now: Timestamp) -> String {
    let mut page = wrapped(&head(status), INDENT);
    page += "\n";
    page += &processes(&status.processes);
    page += "\n";
    page += &listeners(status);
    page += "\n";
    page += &backends(&status.backends);
    page += &wrapped(&queue(&status.queue), INDENT);
    page += "\n";
    if !status.limiter.is_empty() {
        page += &limits(status);
        page += "\n";
    }
    page += &status.store.as_ref().map(|store| wrapped(&store_text(store, now), INDENT)).unwrap_or_default();
    page += &status.keys.as_ref().map(|keys| wrapped(&keys_text(keys, now), INDENT)).unwrap_or_default();
    page += &wrapped(&totals(status), INDENT);
    let restarts = restarts(&status.slots);
    if !restarts.is_empty() {
        page += "\n";
        page += &restarts;
    }
    if !status.deaths.is_empty() {
        page += "\nLast deaths:\n";
        page.extend(status.deaths.iter().map(|death| death_text(death, now)));
    }
    let last = [
        status.last_reload.as_ref().map(|last| reload_text(last, now)),
        status.last_upgrade.as_ref().map(|last| upgrade_text(last, now)),
    ];
    if last.iter().any(Option::is_some) {
        page += "\n";
        page.extend(last.into_iter().flatten());
    }
    printable(&page)
}

/// The same text without anything that moves a terminal's cursor but line breaks.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn head(status: &Status) -> String {
    let Status { version, pid, generation, state, workers_wanted, .. } = status;
    let up = span(status.uptime_s);
    let taking_over = status.upgrade.as_ref().map(|upgrade| {
        let since = span(upgrade.since_s);
        format!(", pid {} is taking over since {since}", upgrade.pid)
    });
    let wanted = counted(u64::from(*workers_wanted), "worker");
    let head = format!("ollama-gate {version}, pid {pid}, up {up}, generation {generation}, {state}, {wanted} wanted");
    head + &taking_over.unwrap_or_default()
}

fn processes(processes: &[ProcessLine]) -> String {
    let columns = [
        ("PROCESS", Side::Left),
        ("PID", Side::Right),
        ("GEN", Side::Right),
        ("STATE", Side::Left),
        ("AGE", Side::Right),
        ("REQUESTS", Side::Right),
        ("OPEN", Side::Right),
        ("STREAMS", Side::Right),
        ("CONNS", Side::Right),
        ("MEMORY", Side::Right),
        ("BEAT", Side::Right),
    ];
    let row = |process: &ProcessLine| {
        [
            process.place.clone(),
            process.pid.to_string(),
            process.generation.to_string(),
            process.state.to_string(),
            span(process.age_s),
            process.requests.to_string(),
            process.in_flight.to_string(),
            process.streams.to_string(),
            process.connections.to_string(),
            process.rss_bytes.map_or_else(unknown, bytes),
            process.beat_ms.map_or_else(unknown, |ms| format!("{ms} ms")),
        ]
    };
    table(columns, &processes.iter().map(row).collect::<Vec<_>>())
}

fn listeners(status: &Status) -> String {
    let columns =
        [("LISTENER", Side::Left), ("SOCKETS", Side::Right), ("QUEUE", Side::Right), ("BACKLOG", Side::Right)];
    let number = |number: Option<u64>| number.map_or_else(unknown, |number| number.to_string());
    let rows = status.listeners.iter().map(|listener| {
        let sockets = listener.sockets.to_string();
        [listener.address.clone(), sockets, number(listener.queue), number(listener.backlog)]
    });
    table(columns, &rows.collect::<Vec<_>>())
}

/// A row for each, and below it where it is and what it has in memory, which no column is wide enough for.
fn backends(backends: &[BackendUse]) -> String {
    let columns = [
        ("BACKEND", Side::Left),
        ("STATE", Side::Left),
        ("BREAKER", Side::Left),
        ("OPEN", Side::Right),
        ("SLOTS", Side::Right),
        ("WAITING", Side::Right),
        ("MODELS", Side::Right),
    ];
    let row = |backend: &BackendUse| {
        let status = backend.status.map(|status| format!(" ({status})"));
        let left = backend.breaker_ms.map(|ms| format!(" ({})", brief(ms)));
        [
            backend.name.clone(),
            backend.state.to_string() + &status.unwrap_or_default(),
            backend.breaker.to_string() + &left.unwrap_or_default(),
            backend.in_flight.to_string(),
            backend.slots.to_string(),
            backend.waiting.to_string(),
            backend.listed.map_or_else(unknown, |models| models.to_string()),
        ]
    };
    let more = |backend: &BackendUse| {
        let loaded = match &backend.loaded[..] {
            [] => String::new(),
            models => format!(", in memory: {}", models.join(", ")),
        };
        wrapped(&format!("{}{}{loaded}", " ".repeat(INDENT), backend.url), 2 * INDENT)
    };
    let table = table(columns, &backends.iter().map(row).collect::<Vec<_>>());
    let below = std::iter::once(String::new()).chain(backends.iter().map(more));
    table.split_inclusive('\n').zip(below).fold(String::new(), |text, (line, below)| text + line + &below)
}

fn queue(queue: &QueueUse) -> String {
    let oldest = queue.oldest_ms.map(|ms| format!(", the oldest for {}", brief(ms))).unwrap_or_default();
    let service = queue.mean_service_ms.map(|ms| format!("; one takes {} on average", brief(ms))).unwrap_or_default();
    format!("{} of at most {} requests wait for a backend{oldest}{service}", queue.length, queue.limit)
}

fn limits(status: &Status) -> String {
    let columns = [("LIMIT WINDOW", Side::Left), ("CLIENTS", Side::Right), ("ROOM FOR", Side::Right)];
    let rows = status
        .limiter
        .iter()
        .map(|region| [span(region.window_s), region.used.to_string(), region.entries.to_string()]);
    table(columns, &rows.collect::<Vec<_>>())
}

fn store_text(store: &StoreUse, now: Timestamp) -> String {
    let StoreUse { url, state, away_since, share } = store;
    let since = away_since.as_ref().map(|since| format!(" since {}", moment(since, now))).unwrap_or_default();
    let instead = if *state == StoreState::Away { ", so limits hold locally" } else { "" };
    format!("Limits are counted in {url}: {state}{since}{instead}; this gate's share is {share}")
}

fn keys_text(keys: &KeysUse, now: Timestamp) -> String {
    let KeysUse { file, generation, .. } = keys;
    let (count, names) = (counted(keys.keys, "key"), counted(keys.names, "name"));
    format!("{count} of {names} (generation {generation}), read from {file} {}", moment(&keys.time, now))
}

fn totals(status: &Status) -> String {
    let totals = &status.totals;
    let answers = &totals.answers;
    format!(
        "{}, {} open ({}), {}; answers: {} 2xx, {} 3xx, {} 4xx, {} 5xx; {} limited, {} left before their answer",
        counted(totals.requests, "request"),
        totals.in_flight,
        counted(totals.streams, "stream"),
        counted(totals.connections, "connection"),
        answers.success,
        answers.redirection,
        answers.client_error,
        answers.server_error,
        totals.limited,
        totals.left,
    )
}

/// A line for each place that was not quiet.
fn restarts(slots: &[SlotLine]) -> String {
    let loud = slots.iter().filter(|slot| slot.restarts > 0 || slot.backoff_ms > 0);
    let line = |slot: &SlotLine| {
        let reason = slot.last_restart.as_ref().map(|reason| format!(", the last because it {reason}"));
        let next = (slot.backoff_ms > 0).then(|| format!(", the next start in {} ms", slot.backoff_ms));
        let restarts = counted(slot.restarts, "restart");
        let [reason, next] = [reason, next].map(Option::unwrap_or_default);
        let line = format!("worker {}: {restarts}{reason}{next}", slot.slot);
        wrapped(&line, INDENT)
    };
    loud.map(line).collect()
}

fn death_text(death: &Death, now: Timestamp) -> String {
    let Death { place, pid, generation, how, cause, .. } = death;
    let (when, after) = (moment(&death.time, now), span(death.uptime_s));
    let memory = death.rss_bytes.map(|held| format!(" with {}", bytes(held))).unwrap_or_default();
    let mut text =
        wrapped(&format!("{when}: {place} ({pid}) of generation {generation} {how} after {after}{memory}"), INDENT);
    let mut more = |line: String| text += &wrapped(&format!("{}{line}", " ".repeat(INDENT)), 2 * INDENT);
    more(format!("cause: {cause}"));
    if death.in_flight > 0 {
        more(format!("lost: {}", counted(death.in_flight, "request")));
    }
    for request in &death.in_service {
        more(format!("in service: {request}"));
    }
    if let Some(core) = &death.core {
        more(format!("core: {core}"));
    }
    text
}

fn reload_text(last: &LastReload, now: Timestamp) -> String {
    let (when, generation) = (moment(&last.time, now), last.generation);
    let end = if last.ok {
        format!("generation {generation} serves")
    } else {
        format!("refused, generation {generation} serves on")
    };
    paragraph(&format!("Last reload: {when}: {end}"), &last.reasons)
}

fn upgrade_text(last: &LastUpgrade, now: Timestamp) -> String {
    let (when, pid) = (moment(&last.time, now), last.pid);
    let end = match pid {
        Some(pid) if last.ok => format!("pid {pid} took over"),
        Some(pid) => format!("failed, pid {pid} did not take over"),
        None => "failed".to_owned(),
    };
    paragraph(&format!("Last upgrade: {when}: {end}"), &last.reasons)
}

/// A line, and its reasons below it.
fn paragraph(line: &str, reasons: &[String]) -> String {
    let indented = reasons.iter().map(|reason| wrapped(&format!("{}{reason}", " ".repeat(INDENT)), 2 * INDENT));
    wrapped(line, INDENT) + &indented.collect::<String>()
}

/// A time of day, and how long ago that was.
fn moment(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(then) => {
            let ago = now.as_second().saturating_sub(then.as_second()).max(0);
            format!("{} ({} ago)", then.strftime("%Y-%m-%d %H:%M:%SZ"), span(ago.unsigned_abs()))
        }
        Err(_) => time.to_owned(),
    }
}

/// A length of time in its two largest units.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// A length of time that may be short.
fn brief(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => span(ms / 1_000),
    }
}

fn bytes(count: u64) -> String {
    const MIB: u64 = 1 << 20;
    match count / MIB {
        0..1024 => format!("{:.1} MiB", count as f64 / MIB as f64),
        _ => format!("{:.1} GiB", count as f64 / (MIB << 10) as f64),
    }
}

pub(crate) fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn unknown() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use gate_master::protocol::{Answer, Request};

    use super::*;
    use crate::table::WIDTH;

    fn status(line: &str) -> Status {
        let Ok(Answer::Status(status)) = Answer::parse(line, &Request::Status {}) else { panic!("{line}") };
        *status
    }

    const QUIET: &str = r#"{"ok":true,"version":"0.1.0","pid":10,"uptime_s":3720,"generation":3,"state":"serving",
        "workers_wanted":1,"processes":[{"place":"worker 1","role":"worker","slot":1,"pid":11,"generation":3,
        "state":"ready","age_s":60,"requests":7,"in_flight":1,"streams":1,"connections":2,"rss_bytes":3565158,
        "beat_ms":120}],"slots":[{"slot":1,"restarts":0,"last_restart":null,"backoff_ms":0}],"deaths":[],
        "listeners":[{"address":"http://127.0.0.1:8000","sockets":1,"queue":0,"backlog":2048},
        {"address":"unix:/run/x","sockets":1,"queue":null,"backlog":null}],
        "backends":[{"name":"gpu1","url":"http://gpu1:11434","state":"healthy","status":null,"breaker":"closed",
        "breaker_ms":null,"in_flight":1,"slots":4,"waiting":2,"loaded":["llama3.2:latest","qwen3:8b"],"listed":12},
        {"name":"gpus","url":"unix:/run/ollama.sock","state":"failing","status":502,"breaker":"open",
        "breaker_ms":2500,"in_flight":0,"slots":256,"waiting":0,"loaded":[],"listed":null}],
        "queue":{"length":2,"limit":512,"oldest_ms":700,"mean_service_ms":61000},
        "limiter":[{"window_s":60,"entries":131072,"used":12}],"totals":{"requests":7,"in_flight":1,"streams":1,
        "connections":2,"answers":{"2xx":5,"3xx":0,"4xx":1,"5xx":0},"limited":1,"left":0},"upgrade":null,
        "last_reload":null,"last_upgrade":null}"#;

    const PAGE: &str = "\
ollama-gate 0.1.0, pid 10, up 1 h 2 min, generation 3, serving, 1 worker wanted

PROCESS   PID  GEN  STATE    AGE  REQUESTS  OPEN  STREAMS  CONNS   MEMORY    BEAT
worker 1   11    3  ready  1 min         7     1        1      2  3.4 MiB  120 ms

LISTENER               SOCKETS  QUEUE  BACKLOG
http://127.0.0.1:8000        1      0     2048
unix:/run/x                  1      -        -

BACKEND  STATE          BREAKER       OPEN  SLOTS  WAITING  MODELS
gpu1     healthy        closed           1      4        2      12
    http://gpu1:11434, in memory: llama3.2:latest, qwen3:8b
gpus     failing (502)  open (2.5 s)     0    256        0       -
    unix:/run/ollama.sock
2 of at most 512 requests wait for a backend, the oldest for 700 ms; one takes 1 min on average

LIMIT WINDOW  CLIENTS  ROOM FOR
1 min              12    131072

7 requests, 1 open (1 stream), 2 connections; answers: 5 2xx, 0 3xx, 1 4xx, 0 5xx; 1 limited, 0 left
    before their answer
";

    #[test]
    fn a_quiet_gate_fits_a_screen() {
        assert_eq!(text(&status(QUIET), Timestamp::UNIX_EPOCH), PAGE);
    }

    #[test]
    fn what_went_wrong_is_told_with_its_reasons() {
        let long = "a reason that goes on and on ".repeat(8);
        let mut status = status(QUIET);
        status.slots[0] =
            SlotLine { slot: 1, restarts: 2, last_restart: Some("was ended by SIGKILL".into()), backoff_ms: 500 };
        status.deaths.push(Death {
            time: "2026-01-02T03:04:05Z".into(),
            place: "worker 1".into(),
            pid: 9,
            generation: 2,
            how: "was ended by SIGSEGV (core dumped)".into(),
            uptime_s: 12,
            rss_bytes: Some(2 << 30),
            in_flight: 1,
            in_service: vec!["POST /\u{1b}[2Japi for 41.2 s".into()],
            cause: long.clone(),
            core: Some("coredumpctl info 9".into()),
        });
        let time = "2026-01-02T03:04:05Z".to_owned();
        status.last_reload =
            Some(LastReload { time: time.clone(), ok: false, generation: 3, reasons: vec!["one".into(), long] });
        status.last_upgrade = Some(LastUpgrade { time, ok: true, pid: Some(10), reasons: vec![] });
        status.upgrade = Some(gate_master::protocol::UpgradeUnderWay { pid: 12, since_s: 1 });
        status.processes[0].place = "p".repeat(200);
        status.listeners[0].address = "a".repeat(200);
        status.backends[0].name = "n".repeat(64);
        status.backends[0].url = format!("http://{}", "u".repeat(200));
        status.backends[0].loaded = (0..16).map(|model| format!("{model}\u{1b}{}", "m".repeat(63))).collect();
        status.backends[0].breaker_ms = Some(u64::MAX);
        let page = text(&status, "2026-01-02T03:05:05Z".parse().unwrap());
        for part in [
            "pid 12 is taking\n    over since 1 s\n",
            "worker 1: 2 restarts, the last because it was ended by SIGKILL, the next start in 500 ms",
            "2026-01-02 03:04:05Z (1 min ago): worker 1 (9) of generation 2 was ended by SIGSEGV",
            "with 2.0 GiB",
            "    cause: a reason",
            "    lost: 1 request\n",
            "    in service: POST /\u{fffd}[2Japi for 41.2 s\n",
            "    core: coredumpctl info 9\n",
            "Last reload: 2026-01-02 03:04:05Z (1 min ago): refused, generation 3 serves on\n    one\n    a reason",
            "Last upgrade: 2026-01-02 03:04:05Z (1 min ago): pid 10 took over\n",
        ] {
            assert!(page.contains(part), "{part:?} not in:\n{page}");
        }
        assert!(page.lines().all(|line| line.chars().count() <= WIDTH), "{page}");
    }

    #[test]
    fn what_is_shared_and_what_is_known_of_clients_has_a_line_each() {
        let mut status = status(QUIET);
        let time = "2026-01-02T03:04:05Z".to_owned();
        status.store = Some(StoreUse {
            url: "redis://***@store:6379/1".into(),
            state: StoreState::Well,
            away_since: None,
            share: "1/3".into(),
        });
        let (file, generation) = ("/etc/keys".to_owned(), 4);
        status.keys = Some(KeysUse { file, keys: 1, names: 2, policies: 1, generation, time: time.clone() });
        let now = "2026-01-02T03:05:05Z".parse().unwrap();
        let page = text(&status, now);
        let line = "\n\nLimits are counted in redis://***@store:6379/1: well; this gate's share is 1/3\n\
                    1 key of 2 names (generation 4), read from /etc/keys 2026-01-02 03:04:05Z (1 min ago)\n7 requests";
        assert!(page.contains(line), "{page}");
        let store = status.store.as_mut().unwrap();
        (store.state, store.away_since) = (StoreState::Away, Some(time));
        let page = text(&status, now);
        let line = "\nLimits are counted in redis://***@store:6379/1: away since 2026-01-02 03:04:05Z (1 min ago), so\n    \
                    limits hold locally; this gate's share is 1/3\n";
        assert!(page.contains(line), "{page}");
        status.store.as_mut().unwrap().url = "u".repeat(400);
        let page = text(&status, now);
        assert!(page.lines().all(|line| line.chars().count() <= WIDTH), "{page}");
    }

    #[test]
    fn times_and_sizes_are_short() {
        for (seconds, expected) in [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3725, "1 h 2 min"), (90_000, "1 d 1 h")] {
            assert_eq!(span(seconds), expected);
        }
        for (ms, expected) in [(0, "0 ms"), (999, "999 ms"), (1_000, "1.0 s"), (59_999, "59.9 s"), (60_000, "1 min")] {
            assert_eq!(brief(ms), expected);
        }
        assert_eq!((bytes(0), bytes(1 << 30)), ("0.0 MiB".to_owned(), "1.0 GiB".to_owned()));
        assert_eq!(moment("yesterday", Timestamp::UNIX_EPOCH), "yesterday");
    }
}
