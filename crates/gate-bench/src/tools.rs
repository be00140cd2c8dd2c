//! The programs a comparison needs beside the servers it compares.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::complaint::Complaint;
use crate::seats::Seats;

/// Where servers are installed that are not on every user's path.
const MORE_FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// What is installed.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) nginx: PathBuf,
    pub(crate) wrk: PathBuf,
    pub(crate) seats: Seats,
}

impl Tools {
    /// Looks for them: nginx and wrk must be there, taskset may.
    pub(crate) fn find() -> Result<Self, Complaint> {
        let need = |program, package| find(program).ok_or(Complaint::NoProgram { program, package });
        Ok(Self {
            nginx: need("nginx", "nginx-light")?,
            wrk: need("wrk", "wrk")?,
            seats: Seats::of_this_machine(find("taskset")),
        })
    }

    /// What nginx says it is.
    pub(crate) fn nginx_version(&self) -> String {
        let said = Command::new(&self.nginx).arg("-v").output().map(|output| output.stderr).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        said.trim().strip_prefix("nginx version: ").unwrap_or("nginx of unknown version").to_owned()
    }
}

/// Finds a program on the path or where servers are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = MORE_FOLDERS.iter().map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|file: &PathBuf| is_file(file))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}
