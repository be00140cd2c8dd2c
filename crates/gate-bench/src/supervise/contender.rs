//! The servers of the trials: where they are, what they are called, how each is started and told to reload.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use super::options::Options;
use crate::peer::forget_environment;
use crate::tools;

/// A server, or a way to run one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// This repository's, all workers on one listening socket.
    Gate,
    /// The same with a socket for each worker.
    GateReusePort,
    /// Gunicorn with Uvicorn's workers and a small application.
    Gunicorn,
    /// nginx as a proxy.
    Nginx,
    /// `HAProxy` with a master.
    HaProxy,
}

impl Contender {
    /// Every one there is, in the order of tables.
    pub(crate) const ALL: [Self; 5] = [Self::Gate, Self::GateReusePort, Self::Gunicorn, Self::Nginx, Self::HaProxy];

    /// Its name in options and tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::GateReusePort => "gate-reuse-port",
            Self::Gunicorn => "gunicorn",
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
        }
    }

    /// The file that a reload reads again.
    pub(crate) fn configuration_file(self) -> &'static str {
        match self {
            Self::Gate | Self::GateReusePort => "gate.toml",
            Self::Gunicorn => "gunicorn.conf.py",
            Self::Nginx => "nginx.conf",
            Self::HaProxy => "haproxy.cfg",
        }
    }

    /// What asks its master for a reload.
    pub(crate) fn reload_signal(self) -> Signal {
        if self == Self::HaProxy { Signal::SIGUSR2 } else { Signal::SIGHUP }
    }

    /// How many of the wanted workers it can have as processes: `HAProxy` has had one since 2.5, with threads in it.
    pub(crate) fn processes(self, wanted: usize) -> usize {
        if self == Self::HaProxy { 1 } else { wanted }
    }

    /// Whether a child of its master with such a title serves requests.
    pub(crate) fn is_worker(self, title: &str) -> bool {
        match self {
            Self::Gate | Self::GateReusePort => title.starts_with("ollama-gate: worker"),
            Self::Nginx => title.starts_with("nginx: worker"),
            Self::Gunicorn | Self::HaProxy => true,
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Where the programs are, or why one takes no part.
#[derive(Debug)]
pub(crate) struct Programs {
    gate: Result<PathBuf, String>,
    python: Result<Stack, String>,
    nginx: Result<PathBuf, String>,
    haproxy: Result<PathBuf, String>,
}

/// A Python with Gunicorn and Uvicorn.
#[derive(Debug)]
struct Stack {
    python: PathBuf,
    worker_class: String,
    versions: String,
}

impl Programs {
    /// Looks for them; the gate's place is found out before.
    pub(crate) fn find(options: &Options, gate: Result<PathBuf, String>) -> Self {
        let asked = |one| if options.wants(one) { Ok(()) } else { Err("not asked for".to_owned()) };
        let installed = |program| tools::find(program).ok_or_else(|| "it is not installed".to_owned());
        Self {
            gate,
            python: asked(Contender::Gunicorn).and_then(|()| Stack::find(options.python.as_deref())),
            nginx: asked(Contender::Nginx).and_then(|()| installed("nginx")),
            haproxy: asked(Contender::HaProxy).and_then(|()| installed("haproxy")),
        }
    }

    /// Where a server's program is, or why it takes no part.
    pub(crate) fn place(&self, contender: Contender) -> Result<&Path, &str> {
        match contender {
            Contender::Gate | Contender::GateReusePort => self.gate.as_deref(),
            Contender::Gunicorn => self.python.as_ref().map(|stack| stack.python.as_path()),
            Contender::Nginx => self.nginx.as_deref(),
            Contender::HaProxy => self.haproxy.as_deref(),
        }
        .map_err(String::as_str)
    }

    /// What a server says it is, in one line.
    pub(crate) fn version(&self, contender: Contender) -> Option<String> {
        if let (Contender::Gunicorn, Ok(stack)) = (contender, &self.python) {
            return Some(stack.versions.clone());
        }
        let flag = if contender == Contender::Gate { "--version" } else { "-v" };
        let output = Command::new(self.place(contender).ok()?).arg(flag).output().ok()?;
        let said = [output.stdout, output.stderr].concat();
        Some(String::from_utf8_lossy(&said).lines().next()?.trim().to_owned())
    }

    /// The class of Gunicorn's workers.
    pub(crate) fn worker_class(&self) -> &str {
        self.python.as_ref().map_or("sync", |stack| stack.worker_class.as_str())
    }

    /// The command of a server whose files are in a folder.
    pub(crate) fn command(&self, contender: Contender, room: &Path) -> Result<Command, String> {
        let file = room.join(contender.configuration_file());
        let mut command = Command::new(self.place(contender).map_err(ToOwned::to_owned)?);
        match contender {
            Contender::Gate | Contender::GateReusePort => command.arg("--config").arg(file),
            Contender::Gunicorn => command.args(["-m", "gunicorn", "--config"]).arg(file),
            Contender::Nginx => command.arg("-c").arg(file).arg("-e").arg(room.join("error.log")),
            Contender::HaProxy => command.args(["-W", "-db", "-f"]).arg(file),
        };
        for prefix in ["OLLAMA_", "GUNICORN_", "LISTEN_", "NOTIFY_", "HAPROXY_"] {
            forget_environment(&mut command, prefix);
        }
        command.env("PYTHONWARNINGS", "ignore").env("PYTHONDONTWRITEBYTECODE", "1").current_dir(room);
        Ok(command)
    }
}

impl Stack {
    /// Takes the interpreter that was named, or the one on the path, if it has the packages.
    fn find(named: Option<&Path>) -> Result<Self, String> {
        const QUESTION: &str = "
import importlib.metadata as m, gunicorn, uvicorn
try:
    import uvicorn_worker as w; name = 'uvicorn_worker.UvicornWorker'
except ImportError:
    import uvicorn.workers as w; name = 'uvicorn.workers.UvicornWorker'
print(name); print('gunicorn', m.version('gunicorn') + ', uvicorn', m.version('uvicorn'))
";
        let python = match named {
            Some(path) => path.to_owned(),
            None => tools::find("python3").ok_or("no Python")?,
        };
        let output = Command::new(&python).args(["-W", "ignore", "-c", QUESTION]).output();
        let output = output.map_err(|why| format!("{}: {why}", python.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        match said.lines().collect::<Vec<_>>()[..] {
            [class, versions] if output.status.success() => {
                Ok(Self { python, worker_class: class.to_owned(), versions: versions.to_owned() })
            }
            _ => Err(format!("{} has no gunicorn with uvicorn's worker; --python names another", python.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_told_by_their_titles() {
        for (contender, title, worker) in [
            (Contender::Gate, "ollama-gate: worker 1", true),
            (Contender::GateReusePort, "ollama-gate: monitor", false),
            (Contender::Nginx, "nginx: worker process is shutting down", true),
            (Contender::Nginx, "nginx: cache manager process", false),
            (Contender::Gunicorn, "python -m gunicorn", true),
        ] {
            assert_eq!(contender.is_worker(title), worker, "{title}");
        }
    }

    #[test]
    fn what_is_not_there_says_why() {
        let mut options = Options::default();
        options.python = Some("/nowhere/python".into());
        let programs = Programs::find(&options, Err("cargo builds it".to_owned()));
        assert_eq!(programs.place(Contender::GateReusePort), Err("cargo builds it"));
        assert!(programs.place(Contender::Gunicorn).is_err_and(|why| why.starts_with("/nowhere/python: ")));
        assert!(programs.command(Contender::Gate, Path::new("/tmp")).is_err());
    }
}
