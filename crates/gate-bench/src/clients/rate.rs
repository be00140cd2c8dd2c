//! Requests a second of the gate with keys, beside nginx without.

use std::process::Command;

use super::Ground;
use crate::Bench;
use crate::article;
use crate::complaint::Complaint;
use crate::options::Options;
use crate::peer::{Kind, Peers, forget_environment};
use crate::tools::Tools;
use crate::upstream::Upstream;
use crate::wrk::Request;

/// Limits of the key that no run reaches, and that are counted all the same.
const LIMITS: [&str; 4] = ["--limit", "1000000000/minute", "--tokens", "1000000000/minute"];

/// As `compare` measures the article's request, with a key that the gate's own command makes.
pub(crate) fn measure(ground: &Ground<'_>, rounds: u32, seconds: u32) -> Result<Vec<article::Found>, Complaint> {
    let tools = Tools::find()?;
    let options = Options::beside_nginx(rounds, seconds);
    let file = ground.folder.room("rate-keys")?.join("keys").display().to_string();
    let key = new_key(ground, &file)?;
    let peers = Peers::find(&options, Ok(ground.gate.to_owned())).with_gate_settings(vec!["--keys".to_owned(), file]);
    println!("- {}; {}", tools.nginx_version(), tools.seats);
    let upstream = Upstream::start(&tools, ground.folder, 1)?;
    let bench = Bench { options: &options, tools: &tools, folder: ground.folder, peers: &peers };
    article::measure(&bench, &upstream, |kind| Request::of_ollama((kind == Kind::Gate).then(|| key.clone())))
}

fn new_key(ground: &Ground<'_>, file: &str) -> Result<String, Complaint> {
    let mut command = Command::new(ground.gate);
    command.args(["key", "new", "--keys", file, "--name", "bench"]).args(LIMITS);
    forget_environment(&mut command, "OLLAMA_");
    let output = command.output().map_err(Complaint::io("making a key"))?;
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    let key = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if key.starts_with("og-") { Ok(key) } else { Err(Complaint::Program { name: "key new".to_owned(), said: said() }) }
}
