//! How the gate stands, put together for whoever asks: from what the master knows, from the zone and from `/proc`.

mod fleet;

use std::time::Duration;

use gate_sys::process::{self, Exit, Pid};
use gate_sys::{clock, memory};
use gate_zone::layout::{SETTLED_ROW, row};
use gate_zone::store::Health;
use gate_zone::{InService, Place, Role, Row};

use crate::candidate::Candidate;
use crate::desired::{Desired, Duty, Service};
use crate::event::{Blame, Ms};
use crate::fleet::members;
use crate::hands::Hands;
use crate::observed::{Observed, Process, State, told};
use crate::protocol::{
    Classes, Death, GateState, LimiterUse, ListenerUse, ProcessLine, ProcessRole, ProcessState, SlotLine, Status,
    StoreState, StoreUse, Totals, UpgradeUnderWay,
};
use crate::status::fleet::Look;

/// Now, as people write it.
pub(crate) fn time() -> String {
    time_text(jiff::Timestamp::now())
}

fn time_text(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// How the store is, and since when it is away, at `now` on the clock of limits.
fn store_state(health: Health, now: Duration) -> (StoreState, Option<String>) {
    match health {
        Health::Unused => (StoreState::Unknown, None),
        Health::Well => (StoreState::Well, None),
        Health::Away { since } => {
            // The clock of limits knows no dates. One too long ago for any is none.
            let then = jiff::Timestamp::now().checked_sub(now.saturating_sub(since));
            (StoreState::Away, then.ok().map(time_text))
        }
    }
}

impl Hands {
    /// How the gate stands.
    pub(crate) fn status(&self, want: &Desired, seen: &Observed, (started, now): (Ms, Ms)) -> Status {
        let seconds = |since: Ms| now.saturating_sub(since) / 1_000;
        let under_way =
            |candidate: &Candidate| UpgradeUnderWay { pid: number(candidate.pid), since_s: seconds(candidate.since) };
        let members = self.current.as_ref().map(|loaded| members(self.zone, &loaded.plan)).unwrap_or_default();
        let fleet = Look::at(self.zone, &members, clock::monotonic_ms());
        Status {
            version: self.program.version.to_owned(),
            pid: process::own_pid(),
            uptime_s: seconds(started),
            generation: u64::from(self.serving()),
            state: state(want, seen),
            workers_wanted: want.workers(),
            processes: seen.processes.iter().map(|process| self.line(process, now)).collect(),
            slots: (0..want.workers()).map(|slot| self.slot(seen, slot, now)).collect(),
            deaths: self.chronicle.deaths.iter().cloned().collect(),
            listeners: self.listeners(),
            backends: fleet.backends(),
            queue: fleet.queue(self.current.as_ref().map_or(0, |loaded| loaded.plan.queue)),
            limiter: self.limiter(),
            store: self.store(),
            keys: self.keys.as_ref().map(|keys| keys.told().clone()),
            totals: self.totals(),
            upgrade: seen.candidate.as_ref().map(under_way),
            last_reload: self.chronicle.reload.clone(),
            last_upgrade: self.chronicle.upgrade.clone(),
        }
    }

    /// The same in a line, for the service manager.
    pub(crate) fn summary(&self, want: &Desired, seen: &Observed) -> String {
        let totals = self.totals();
        let serves = |process: &&Process| process.place.role == Role::Worker && process.state == State::Ready;
        let workers = seen.processes.iter().filter(serves).count();
        format!(
            "{}: generation {}, {workers} workers, {} requests in service ({} streams)",
            state(want, seen),
            self.serving(),
            totals.in_flight,
            totals.streams
        )
    }

    fn line(&self, process: &Process, now: Ms) -> ProcessLine {
        let row = self.zone.scoreboard().row(process.row);
        let load = row.load_now();
        let (role, state) = (role(process.place), process_state(process.state));
        ProcessLine {
            place: process.place.to_string(),
            role,
            slot: process.place.slot + 1,
            pid: number(process.pid),
            generation: u64::from(process.generation),
            state,
            age_s: now.saturating_sub(process.forked_at) / 1_000,
            requests: row.count(row::STARTED),
            in_flight: load.in_flight,
            streams: row.streams(),
            connections: load.connections,
            rss_bytes: memory::rss_bytes(number(process.pid)),
            beat_ms: Some(row.heartbeat_ms())
                .filter(|beat| *beat > 0)
                .map(|beat| clock::monotonic_ms().saturating_sub(beat)),
        }
    }

    fn slot(&self, seen: &Observed, slot: u32, now: Ms) -> SlotLine {
        let place = Place { role: Role::Worker, slot };
        let (restarts, last_restart) =
            self.chronicle.restarts.get(&place).map_or((0, None), |(count, why)| (*count, Some(why.clone())));
        let filled = seen.at(place).any(Process::is_up);
        let backoff_ms = if filled { 0 } else { seen.not_before(place).saturating_sub(now) };
        SlotLine { slot: slot + 1, restarts, last_restart, backoff_ms }
    }

    fn listeners(&self) -> Vec<ListenerUse> {
        let addresses = self.current.iter().flat_map(|loaded| loaded.sockets.by_address());
        let used = addresses.map(|sockets| {
            let queues: Option<Vec<_>> = sockets.iter().map(|socket| socket.queue()).collect();
            let sum = |part: fn(&gate_sys::listen::Queue) -> u32| {
                queues.as_ref().map(|queues| queues.iter().map(|queue| u64::from(part(queue))).sum())
            };
            ListenerUse {
                address: sockets[0].address().to_string(),
                sockets: sockets.len() as u32,
                queue: sum(|queue| queue.waiting),
                backlog: sum(|queue| queue.max),
            }
        });
        used.collect()
    }

    fn limiter(&self) -> Vec<LimiterUse> {
        match self.zone.fill(&self.memory) {
            Ok(fill) => fill
                .into_iter()
                .map(|fill| LimiterUse {
                    window_s: fill.window.as_secs(),
                    entries: fill.entries as u64,
                    used: fill.used as u64,
                })
                .collect(),
            Err(error) => {
                log::warn!("status: the limiter's tables cannot be read: {error}");
                Vec::new()
            }
        }
    }

    fn store(&self) -> Option<StoreUse> {
        let plan = &self.current.as_ref()?.plan;
        let url = plan.cluster_url.as_ref()?.to_string();
        let now = Duration::from_nanos(self.zone.now_ns());
        let (state, away_since) = store_state(self.zone.limit_store().health(), now);
        Some(StoreUse { url, state, away_since, share: plan.cluster_share.to_string() })
    }

    fn totals(&self) -> Totals {
        let board = self.zone.scoreboard();
        let mut totals = Totals::default();
        for (_, row) in board.used().chain([(SETTLED_ROW, board.row(SETTLED_ROW))]) {
            add(&mut totals, row);
        }
        totals
    }

    /// What is known of a process that has just ended, before its row is settled.
    pub(crate) fn report(&self, dead: &Process, (exit, blame): (Exit, Blame), now: Ms) -> Death {
        let row = self.zone.scoreboard().row(dead.row);
        let core = matches!(exit, Exit::Signal { .. }).then(memory::core_hint).flatten();
        Death {
            time: time(),
            place: dead.place.to_string(),
            pid: number(dead.pid),
            generation: u64::from(dead.generation),
            how: told(exit),
            uptime_s: now.saturating_sub(dead.forked_at) / 1_000,
            rss_bytes: Some(row.rss_bytes()).filter(|bytes| *bytes > 0),
            in_flight: row.load_now().in_flight,
            in_service: row.in_service().iter().map(|request| self.describe(*request)).collect(),
            cause: cause(dead, exit, blame),
            core,
        }
    }

    fn describe(&self, request: InService) -> String {
        let route = self.routes.get(usize::from(request.route)).copied().unwrap_or("a request");
        let ms = clock::monotonic_ms().saturating_sub(request.since_ms);
        format!("{route} for {}.{} s", ms / 1_000, ms % 1_000 / 100)
    }
}

fn cause(dead: &Process, exit: Exit, blame: Blame) -> String {
    let silent = matches!(dead.state, State::Leaving { .. } | State::Killed) && dead.ready_at.is_some();
    let text = match (blame, dead.ready_at) {
        (Blame::Memory, _) => "the kernel killed it for memory (its cgroup's oom_kill count went up)",
        (Blame::Outside, _) => "somebody else sent it KILL",
        (Blame::Itself, None) => return dead.excuse.clone().unwrap_or_else(|| "it ended before it was ready".into()),
        (Blame::Itself, Some(_)) if silent => "it showed no sign of life within timeout and was ended",
        (Blame::Itself, Some(_)) => match exit {
            Exit::Code(70) => "it found a bug in itself and left",
            Exit::Code(_) => "it left though nobody had told it to",
            Exit::Signal { .. } => "it crashed, or somebody sent it that signal",
        },
    };
    text.to_owned()
}

fn add(totals: &mut Totals, counted: Row) {
    let load = counted.load_now();
    totals.requests += counted.count(row::STARTED);
    totals.in_flight += load.in_flight;
    totals.streams += counted.streams();
    totals.connections += load.connections;
    totals.limited += counted.count(row::LIMITED);
    totals.left += counted.count(row::LEFT);
    let Classes { success, redirection, client_error, server_error } = &mut totals.answers;
    for (class, sum) in [success, redirection, client_error, server_error].into_iter().enumerate() {
        *sum += counted.count(row::ANSWERS + class);
    }
}

fn state(want: &Desired, seen: &Observed) -> GateState {
    match want.duty {
        Duty::Retiring => GateState::Retiring,
        Duty::Serving if want.stop.is_some() => GateState::Stopping,
        Duty::Serving if seen.candidate.is_some() => GateState::Upgrading,
        Duty::Serving if want.fallback.is_some() => GateState::Reloading,
        Duty::Serving if want.service == Service::Paused => GateState::Paused,
        Duty::Serving => GateState::Serving,
    }
}

fn role(place: Place) -> ProcessRole {
    match place.role {
        Role::Worker => ProcessRole::Worker,
        Role::Monitor => ProcessRole::Monitor,
        Role::Demo => ProcessRole::Demo,
    }
}

fn process_state(state: State) -> ProcessState {
    match state {
        State::Starting { .. } => ProcessState::Starting,
        State::Ready => ProcessState::Ready,
        State::Draining { .. } => ProcessState::Draining,
        State::Leaving { .. } => ProcessState::Leaving,
        State::Killed => ProcessState::Killed,
    }
}

fn number(pid: Pid) -> u32 {
    pid.as_raw().cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_away_is_so_since_a_time_of_day() {
        let now = Duration::from_secs(9000);
        assert_eq!(store_state(Health::Unused, now), (StoreState::Unknown, None));
        assert_eq!(store_state(Health::Well, now), (StoreState::Well, None));
        let (state, since) = store_state(Health::Away { since: Duration::from_secs(1800) }, now);
        let since: jiff::Timestamp = since.unwrap().parse().unwrap();
        let ago = jiff::Timestamp::now().as_second() - since.as_second();
        assert_eq!(state, StoreState::Away);
        assert!((7200..7260).contains(&ago), "{ago} s ago");
        assert_eq!(store_state(Health::Away { since: Duration::ZERO }, Duration::MAX), (StoreState::Away, None));
    }
}
