//! A folder for one run, gone when the run is over.

use std::fs;
use std::path::{Path, PathBuf};

use crate::complaint::Complaint;

/// A new folder below the system's temporary one; dropping it removes it with all that is in it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the folder; its name carries our process id, so that two runs do not meet.
    pub(crate) fn create() -> Result<Self, Complaint> {
        let path = std::env::temp_dir().join(format!("gate-bench-{}", std::process::id()));
        fs::create_dir(&path).map_err(Complaint::file(&path))?;
        Ok(Self { path })
    }

    /// A new folder inside this one.
    pub(crate) fn room(&self, name: &str) -> Result<PathBuf, Complaint> {
        let path = self.path.join(name);
        fs::create_dir(&path).map_err(Complaint::file(&path))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(why) = fs::remove_dir_all(&self.path) {
            eprintln!("gate-bench: {} stays: {why}", self.path.display());
        }
    }
}

/// Writes a file of a server's or a program's own.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Complaint> {
    fs::write(path, text).map_err(Complaint::file(path))
}
