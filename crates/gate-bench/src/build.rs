//! Builds the gate as it is released and finds the binary by cargo's own word.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::complaint::Complaint;
use crate::folder::Folder;
use crate::started::Started;

/// A build from nothing, whole-program optimised, on a slow machine that others use too.
const BUILD_MAX: Duration = Duration::from_secs(30 * 60);
/// The gate's binary.
const BINARY: &str = "ollama-gate";

/// The binary that was named with `--gate`, else a new one.
pub(crate) fn named_or_built(named: Option<&Path>, folder: &Folder) -> Result<PathBuf, Complaint> {
    match named {
        Some(path) if !path.is_file() => Err(Complaint::Usage(format!("--gate {}: no such file", path.display()))),
        Some(path) => Ok(path.to_owned()),
        None => gate(folder),
    }
}

/// Runs `cargo build --release` on this workspace.
fn gate(folder: &Folder) -> Result<PathBuf, Complaint> {
    eprintln!("building {BINARY}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    command.args(["build", "--release", "--bin", BINARY, "--message-format=json"]).current_dir(root);
    let build = Started::spawn("cargo", command, &folder.room("build")?.join("output"))?;
    match build.finish(BUILD_MAX) {
        Ok((said, _)) => executable(&said).ok_or_else(|| Complaint::Build("cargo names no binary".to_owned())),
        Err(Complaint::Program { said, .. }) => Err(Complaint::Build(readable(&said))),
        Err(other) => Err(other),
    }
}

/// The binary in cargo's messages, one JSON object a line.
fn executable(messages: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).find_map(|message| {
        let ours = message["target"]["name"] == BINARY;
        message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
    })
}

/// What a person should read of cargo's output.
fn readable(said: &str) -> String {
    let plain = said.lines().filter_map(|line| match serde_json::from_str::<serde_json::Value>(line) {
        Ok(message) => message["message"]["rendered"].as_str().map(ToOwned::to_owned),
        Err(_) => Some(line.to_owned()),
    });
    plain.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_named_by_cargo() {
        let said = "   Compiling x\n{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"libc\"},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"ollama-gate\"},\"executable\":\"/t/release/ollama-gate\"}\n";
        assert_eq!(executable(said), Some(PathBuf::from("/t/release/ollama-gate")));
        assert_eq!(executable("nothing\n{\"a\":1}"), None);
    }

    #[test]
    fn an_error_is_shown_as_the_compiler_wrote_it() {
        let said =
            "{\"message\":{\"rendered\":\"error: no\"}}\n{\"reason\":\"build-finished\"}\nerror: could not compile";
        assert_eq!(readable(said), "error: no\nerror: could not compile");
    }
}
