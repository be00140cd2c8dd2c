//! Where the control socket of the gate that is meant lies, and who said so.
//!
//! Nothing is connected to here. Invariant: there is always a path, and whoever reads of it also reads where it is from.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use gate_config::{Complaint, Complaints, Settings, Source};
use gate_master::CONTROL_FILE;

use crate::command::read_file;

/// The environment variable of the key `control`.
const ENVIRONMENT: &str = "OLLAMA_GATE_CONTROL";

/// Where systemd says that a unit's files of the running system lie; colons part several.
const RUNTIME_DIRECTORY: &str = "RUNTIME_DIRECTORY";

/// Where the packaged unit has its configuration.
const PACKAGED: &str = "/etc/ollama-gate";

/// Where the packaged unit has it.
const DEFAULT: &str = "/run/ollama-gate/control.sock";

/// A path and who named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Flag,
    Environment,
    File(PathBuf),
    RuntimeDirectory,
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.path.display())?;
        match &self.origin {
            Origin::Flag => f.write_str("from --control"),
            Origin::Environment => write!(f, "from {ENVIRONMENT}"),
            Origin::File(file) => write!(f, "from control in {}", file.display()),
            Origin::RuntimeDirectory => write!(f, "from {RUNTIME_DIRECTORY}"),
            Origin::Default => f.write_str("the default"),
        }?;
        f.write_str(")")
    }
}

impl Place {
    /// Looks at the flag, the environment, the configuration file, the runtime directory, in this order.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn find(flag: Option<&Path>, file: Option<&Path>) -> Result<Self, Complaints> {
        Self::among(flag, file, |name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn among(
        flag: Option<&Path>,
        file: Option<&Path>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Complaints> {
        if let Some(path) = flag {
            return Ok(Self { path: path.to_owned(), origin: Origin::Flag });
        }
        if let Some(path) = variable(ENVIRONMENT) {
            return Ok(Self { path: path.into(), origin: Origin::Environment });
        }
        let named = file.map(named_in).transpose()?.flatten();
        if let (Some(file), Some(path)) = (file, named) {
            return Ok(Self { path, origin: Origin::File(file.to_owned()) });
        }
        let runtime = variable(RUNTIME_DIRECTORY).and_then(|value| {
            let first = value.to_str()?.split(':').next()?;
            (!first.is_empty()).then(|| Path::new(first).join(CONTROL_FILE))
        });
        match (runtime, file) {
            (Some(path), _) => Ok(Self { path, origin: Origin::RuntimeDirectory }),
            // The packaged unit's configuration need not name it. Any other file is of another gate than that one.
            (None, Some(file)) if !file.starts_with(PACKAGED) => Err(unnamed(file)),
            (None, _) => Ok(Self { path: DEFAULT.into(), origin: Origin::Default }),
        }
    }
}

fn unnamed(file: &Path) -> Complaints {
    Complaints(vec![Complaint {
        key: "control".to_owned(),
        value: String::new(),
        source: Source::File { path: file.display().to_string(), line: None },
        remedy: "it names no control socket; say which with --control PATH".to_owned(),
    }])
}

/// What is wrong with the file is for the gate to say, or for `--check-config`: an operator who has to ask a gate with a
/// broken file must not be kept from it.
fn named_in(file: &Path) -> Result<Option<PathBuf>, Complaints> {
    let text = read_file(file)?;
    let settings = Settings::as_far_as_readable((&file.display().to_string(), &text));
    let typed = settings.typed("control").map(|typed| typed.text.trim()).filter(|text| !text.is_empty());
    Ok(typed.map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_counts() {
        let folder = std::env::temp_dir().join(format!("gate-place-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (with, without) = (folder.join("with.toml"), folder.join("without.toml"));
        std::fs::write(&with, "control = \"/f.sock\"\nworkers = 2\n").unwrap();
        std::fs::write(&without, "workers = 2\nlimmit = [\n").unwrap();
        let file = format!("/f.sock (from control in {})", with.display());
        let flag = Some(Path::new("/a.sock"));
        for (flag, variables, file, expected) in [
            (flag, "control runtime", Some(&with), "/a.sock (from --control)"),
            (None, "control runtime", Some(&with), "/e.sock (from OLLAMA_GATE_CONTROL)"),
            (None, "runtime", Some(&with), file.as_str()),
            (None, "runtime", Some(&without), "/run/x/control.sock (from RUNTIME_DIRECTORY)"),
            (None, "runtime", None, "/run/x/control.sock (from RUNTIME_DIRECTORY)"),
            (None, "", None, "/run/ollama-gate/control.sock (the default)"),
        ] {
            let variable = |name: &str| match name {
                ENVIRONMENT if variables.contains("control") => Some("/e.sock".into()),
                RUNTIME_DIRECTORY if variables.contains("runtime") => Some("/run/x:/run/y".into()),
                _ => None,
            };
            let place = Place::among(flag, file.map(PathBuf::as_path), variable).unwrap();
            assert_eq!(place.to_string(), expected);
        }
        assert!(Place::among(None, Some(&without), |_| None).is_err(), "it is not the packaged gate's");
        assert!(Place::among(None, Some(&folder.join("none.toml")), |_| None).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
