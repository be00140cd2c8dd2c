//! What a forked child runs: the place it is for decides.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use gate_config::{AccessLog, EX_CONFIG, EX_SOFTWARE, Plan};
use gate_master::{Announce, Birth, Handed, Identity, Kind, Notice, Role, forbid_cores, sandbox};
use gate_worker::{Listening, Word, Words};

use crate::logging;

/// A child's first word to the master, given once: that it serves, or why not.
type First = Rc<RefCell<Option<Announce>>>;

type Ready = Box<dyn FnOnce() -> io::Result<()>>;

/// The whole life of a child; its exit code.
pub(crate) fn live(birth: Birth) -> u8 {
    let place = birth.place;
    logging::name(&place.to_string());
    logging::set_level(birth.plan.log_level);
    let first: First = Rc::default();
    let ended = match place.role {
        Role::Worker => worker(birth, &first),
        Role::Monitor => monitor(birth, &first),
        Role::Demo => demo(birth, &first),
    };
    let reason = match ended {
        Ok(code) => return code,
        Err(reason) => format!("{place}: {reason}"),
    };
    if let Some(announce) = first.take() {
        announce.failed(&reason);
        return EX_CONFIG;
    }
    log::error!("{reason}");
    EX_SOFTWARE
}

/// The first word as a monitor and a demo want it: something to call when they serve.
fn ready(first: &First, announce: Announce) -> Ready {
    first.replace(Some(announce));
    let first = Rc::clone(first);
    Box::new(move || first.take().map_or(Ok(()), |mut announce| announce.ready()))
}

/// All of a worker's words: the first one, and what it has to tell later.
fn words(first: &First, announce: Announce) -> Words {
    first.replace(Some(announce));
    let first = Rc::clone(first);
    let mut serving: Option<Announce> = None;
    Box::new(move |word| {
        let notice = match word {
            Word::Ready => {
                serving = first.take();
                return serving.as_mut().map_or(Ok(()), Announce::ready);
            }
            Word::Leaving => Notice::Leaving,
            Word::Replace(reason) => Notice::Replace(reason),
        };
        serving.as_mut().map_or(Ok(()), |announce| announce.tell(&notice))
    })
}

/// Becomes whom the configuration says, with nothing left of the master's privileges.
fn assume(identity: &Identity, plan: &Plan) -> Result<(), String> {
    identity.assume().map_err(|error| format!("cannot become the configured user: {error}"))?;
    if plan.holds_secrets() {
        // After the change of user, which may take it back.
        forbid_cores().map_err(|error| format!("a core could hold secrets: {error}"))?;
    }
    Ok(())
}

/// Goes into the sandbox, where the configuration wants one. Everything that needs more is open by now.
fn confine(plan: &Plan) -> Result<(), String> {
    if !plan.sandbox {
        return Ok(());
    }
    let reopened = reopened(&plan.access_log);
    sandbox(reopened.as_deref().as_slice())
}

/// What has to stay writable for the access log to be opened again: the directory that its file is in, or a pipe or
/// device itself.
fn reopened(log: &AccessLog) -> Option<PathBuf> {
    let AccessLog::File(path) = log else { return None };
    // Where a link leads: next to the link, a new file would not be the log's.
    let found = path.canonicalize().ok()?;
    if found.is_file() { found.parent().map(Path::to_path_buf) } else { Some(found) }
}

fn worker(birth: Birth, first: &First) -> Result<u8, String> {
    let row = birth.claim();
    let words = words(first, birth.announce);
    // Opened as the user who started the gate; served as the one it becomes.
    let journal = gate_worker::open_journal(&birth.plan, birth.zone)?;
    assume(&birth.identity, &birth.plan)?;
    confine(&birth.plan)?;
    gate_worker::run(gate_worker::Post {
        plan: birth.plan,
        place: birth.place,
        zone: birth.zone,
        row,
        row_index: birth.row_index,
        bells: birth.bells,
        demo: birth.demo,
        listeners: birth.listeners.into_iter().map(listening).collect(),
        cluster_password: birth.cluster_password.map(|secret| secret.reveal().to_owned()),
        journal,
        lifeline: birth.lifeline,
        words,
    })
}

fn listening(handed: Handed) -> Listening {
    match handed.kind {
        Kind::Tcp => Listening::Tcp(handed.socket.into()),
        Kind::Unix => Listening::Unix(handed.socket.into()),
    }
}

fn monitor(birth: Birth, first: &First) -> Result<u8, String> {
    let row = birth.claim();
    let ready = ready(first, birth.announce);
    assume(&birth.identity, &birth.plan)?;
    confine(&birth.plan)?;
    gate_monitor::run(gate_monitor::Post {
        plan: birth.plan,
        zone: birth.zone,
        row,
        demo: birth.demo,
        lifeline: birth.lifeline,
        ready,
    })
}

/// The simulated backend, until a signal or the master's death ends it.
fn demo(birth: Birth, first: &First) -> Result<u8, String> {
    let row = birth.claim();
    let ready = ready(first, birth.announce);
    assume(&birth.identity, &birth.plan)?;
    let text = |error: io::Error| error.to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let socket = birth.listeners.into_iter().next().ok_or("no socket for the demo")?;
        let listener = tokio::net::TcpListener::from_std(socket.socket.into()).map_err(text)?;
        tokio::task::spawn_local(gate_monitor::keep_beating(Rc::new(row)));
        ready().map_err(text)?;
        ollama_sim::serve(listener, ollama_sim::Config::demo(), gate_monitor::orphaned(birth.lifeline))
            .await
            .map_err(text)?;
        Ok(0)
    })
}
