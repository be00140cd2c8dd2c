//! Files that hold secrets: read only where nobody else may, and never told of by what is in them.
//!
//! Read as whoever starts the gate, before its children become somebody else. Invariant: what is read here is in no log,
//! and a file that others may read or write is refused with what to do about it.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

use gate_config::{Plan, keyfile};
use gate_sys::memory;
use gate_sys::privilege::Identity;
use nix::fcntl::OFlag;

use crate::refused::Refused;

/// A password longer than this is a file of something else.
const PASSWORD_BYTES_MAX: usize = 4_096;

/// The permissions that such a file may have.
const MODE: u32 = 0o600;

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for whoever needs it. Not for logs.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// What a configuration keeps in files of their own.
#[derive(Default)]
pub(crate) struct Secrets {
    /// The text of the key file.
    pub(crate) keys: Option<String>,
    /// The password of the store in which several gates count.
    pub(crate) cluster_password: Option<Rc<Secret>>,
}

/// Key files are large, and hardly ever read.
impl Drop for Secrets {
    fn drop(&mut self) {
        if self.keys.take().is_some() {
            memory::give_back_freed();
        }
    }
}

impl Secrets {
    /// Reads the files that the plan names.
    ///
    /// # Errors
    /// What is wrong with each.
    pub(crate) fn read(plan: &Plan) -> Result<Self, Refused> {
        let identity = Identity::find(plan.user.as_deref(), plan.group.as_deref()).map_err(Refused::of)?;
        let mut reasons = Vec::new();
        let mut read = |key: &str, path: &Option<_>, bytes_max| {
            let text = read_private(path.as_deref()?, &identity, bytes_max);
            text.map_err(|why| reasons.push(format!("{key}: {why}"))).ok()
        };
        let keys = read("keys", &plan.keys, keyfile::FILE_BYTES_MAX);
        let password = read("cluster_password", &plan.cluster_password, PASSWORD_BYTES_MAX);
        if !reasons.is_empty() {
            return Err(Refused::all(reasons));
        }
        let secret = |text: String| Rc::new(Secret(text.trim_end_matches(['\n', '\r']).to_owned()));
        Ok(Self { keys, cluster_password: password.map(secret) })
    }
}

/// Reads a file of root's or the gate's that nobody else may read.
fn read_private(path: &Path, identity: &Identity, bytes_max: usize) -> Result<String, String> {
    let shown = path.display();
    let file = open_private(path)?;
    let found = file.metadata().map_err(|error| format!("{shown}: {error}"))?;
    let owner = found.uid();
    if !identity.trusts(owner) {
        return Err(format!(
            "{shown} belongs to user {owner}, who is neither root nor the gate's own user: chown root {shown}"
        ));
    }
    // One byte more than there may be, to tell a file that is too large from one that just fits.
    let mut text = String::with_capacity(bytes_max.min(found.len() as usize) + 1);
    let read = file.take(bytes_max as u64 + 1).read_to_string(&mut text);
    read.map_err(|error| format!("cannot read {shown}: {error}"))?;
    if text.len() > bytes_max { Err(format!("{shown} is too large: at most {bytes_max} bytes")) } else { Ok(text) }
}

/// Opens a file for reading that nobody but its owner may read or write.
///
/// # Errors
/// What is wrong with it, with what to do about it.
pub fn open_private(path: &Path) -> Result<File, String> {
    let shown = path.display();
    // A pipe would keep us waiting for its writer.
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let file = file.map_err(|error| format!("cannot open {shown}: {error}"))?;
    let found = file.metadata().map_err(|error| format!("{shown}: {error}"))?;
    if !found.is_file() {
        return Err(format!("{shown} is no regular file"));
    }
    let mode = found.mode() & 0o7777;
    if mode & !MODE != 0 {
        return Err(format!("{shown} has mode {mode:04o}, and only its owner may read it: chmod 600 {shown}"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// A directory that is gone with the test.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("gate-secrets-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, text: &[u8], mode: u32) -> PathBuf {
            let path = self.0.join(format!("{mode:o}-{}", text.len()));
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn only_files_that_nobody_else_may_read_are_read() {
        let (dir, own) = (Dir::new("modes"), Identity::find(None, None).unwrap());
        let read = |path: &Path| read_private(path, &own, 5);
        for mode in [0o600, 0o400] {
            assert_eq!(read(&dir.file(b"text", mode)), Ok("text".to_owned()), "{mode:o}");
        }
        for mode in [0o640, 0o604, 0o602, 0o700, 0o4600] {
            let path = dir.file(b"text", mode);
            let said = read(&path).unwrap_err();
            assert!(
                said.contains(&format!("mode {mode:04o}")) && said.ends_with(&format!("chmod 600 {}", path.display())),
                "{said}"
            );
        }
        assert_eq!(read(&dir.file(b"12345", 0o600)), Ok("12345".to_owned()));
        assert!(read(&dir.file(b"123456", 0o600)).unwrap_err().ends_with("too large: at most 5 bytes"));
        assert!(read(&dir.file(b"\xff", 0o600)).unwrap_err().contains("UTF-8"));
        assert!(read(&dir.0.join("none")).unwrap_err().contains("No such file"));
        assert!(read(&dir.0).unwrap_err().ends_with("is no regular file"));
        let pipe = dir.0.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read(&pipe).unwrap_err().ends_with("is no regular file"));
    }

    #[test]
    fn a_secret_does_not_show() {
        assert_eq!(format!("{:?}", Secret("hunter2".to_owned())), "Secret(***)");
    }
}
