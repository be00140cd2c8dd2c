//! A server under trial: its files, its processes, and what is asked of its master.
//!
//! Invariant: everything it started is in its process group and is killed with it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::wait::WaitStatus;

use super::contender::{Contender, Programs};
use super::settings::{self, Flavour};
use crate::complaint::Complaint;
use crate::folder;
use crate::peer;
use crate::processes;
use crate::started::Started;

/// Where a server is to run, and what it is to have.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) contender: Contender,
    pub(crate) room: PathBuf,
    pub(crate) port: u16,
    pub(crate) upstream: u16,
    pub(crate) workers: usize,
}

impl Site {
    /// Writes what a start or a reload will read.
    pub(crate) fn write(&self, programs: &Programs, flavour: Flavour) -> Result<(), Complaint> {
        settings::files(self, programs.worker_class(), flavour)
            .into_iter()
            .try_for_each(|(name, text)| folder::write(&self.room.join(name), &text))
    }

    /// How many worker processes there should be.
    pub(crate) fn processes(&self) -> usize {
        self.contender.processes(self.workers)
    }
}

/// A started server; dropping it kills all of it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) contender: Contender,
    pub(crate) started: Started,
    /// From starting the process to the first good answer.
    pub(crate) ready_after: Duration,
}

impl Server {
    /// Writes its files, starts it and waits until it answers.
    pub(crate) fn start(programs: &Programs, site: &Site) -> Result<Self, Complaint> {
        site.write(programs, Flavour::Good)?;
        let began = Instant::now();
        let mut server = Self::launch(programs, site, "output")?;
        peer::wait_ready(site.contender.name(), &server.started, site.port, "/healthz")?;
        server.ready_after = began.elapsed();
        Ok(server)
    }

    /// Starts it with the files that are there, and waits for nothing.
    pub(crate) fn launch(programs: &Programs, site: &Site, output: &str) -> Result<Self, Complaint> {
        let Site { contender, room, .. } = site;
        let name = contender.name();
        let command = programs.command(*contender, room).map_err(|said| Complaint::Program { name: name.into(), said });
        let started = Started::spawn(name, command?, &room.join(Path::new(output)))?;
        Ok(Self { contender: *contender, started, ready_after: Duration::ZERO })
    }

    /// Asks for a reload.
    pub(crate) fn reload(&self) -> Result<(), Complaint> {
        self.started.signal(self.contender.reload_signal())
    }

    /// The workers its master has now, the oldest first; leaving ones are among them.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let mut workers = processes::children(self.started.pid());
        workers.retain(|worker| self.contender.is_worker(&processes::title(*worker)));
        workers.sort_unstable();
        workers
    }

    /// How its master ended, if it did.
    pub(crate) fn end(&self) -> Option<String> {
        self.started.ended().map(|status| match status {
            WaitStatus::Exited(_, code) => format!("exit {code}"),
            WaitStatus::Signaled(_, signal, _) => signal.to_string(),
            other => format!("{other:?}"),
        })
    }

    /// How often its log says something so far.
    pub(crate) fn said(&self, text: &str) -> usize {
        self.started.said().map_or(0, |log| log.matches(text).count())
    }

    /// The same with the log that nginx keeps in a file of its own.
    pub(crate) fn said_anywhere(&self, site: &Site, text: &str) -> usize {
        let file = std::fs::read_to_string(site.room.join("error.log")).unwrap_or_default();
        self.said(text) + file.matches(text).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.started.kill_group();
    }
}
