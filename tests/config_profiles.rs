//! The files under `config/` are what the programs read: each is checked by the program itself.
//!
//! It starts no gate. Invariant: a profile names only keys that exist, with values that hold on any machine, and the
//! profiles of the four hosts fit each other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use gate_config::{Bind, Plan, Settings, TrustedProxies};

/// Every profile, and a line that `--print-config` must show for it: proof that the file was read.
const PROFILES: &[(&str, &str)] = &[
    ("ollama-gate.toml", "limit = [\"10/minute\"]"),
    ("single-host.toml", "flood = \"20/second\""),
    ("behind-nginx.toml", "forwarded_allow_ips = [\"127.0.0.1\", \"::1\", \"10.0.0.0/24\"]"),
    ("four-hosts-worker.toml", "forwarded_allow_ips = [\"10.0.0.10\"]"),
    (
        "four-hosts-balancer.toml",
        "upstream = [\"http://10.0.0.11:8000 name=vm1 slots=4\", \"http://10.0.0.12:8000 name=vm2 slots=4\", ",
    ),
];

/// What nginx reads, in the place of the balancing gate.
const NGINX: &str = "four-hosts-nginx.conf";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

/// Runs the program without any setting of the environment's.
fn gate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ollama-gate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OLLAMA_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).output().expect("the program can be started")
}

fn told(output: &Output) -> String {
    format!(
        "exit {:?}\nstdout:\n{}\nstderr:\n{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn every_file_is_in_the_list() {
    let mut files: Vec<String> = fs::read_dir(folder())
        .expect("config/ is there")
        .map(|entry| entry.expect("config/ can be read").file_name().into_string().expect("our file names are ASCII"))
        .collect();
    files.sort();
    let mut listed: Vec<&str> = PROFILES.iter().map(|(file, _)| *file).chain([NGINX]).collect();
    listed.sort_unstable();
    assert_eq!(files, listed);
}

#[test]
fn every_profile_passes_the_programs_own_check() {
    for (file, _) in PROFILES {
        let path = folder().join(file);
        let output = gate(&["--config", path.to_str().expect("paths are UTF-8"), "--check-config"]);
        assert_eq!(output.status.code(), Some(0), "{file}: {}", told(&output));
    }
}

#[test]
fn every_profile_is_what_the_program_then_runs() {
    for (file, line) in PROFILES {
        let path = folder().join(file);
        let output = gate(&["--config", path.to_str().expect("paths are UTF-8"), "--print-config"]);
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(printed.lines().any(|printed| printed.starts_with(line)), "{file}: no `{line}` in\n{}", told(&output));
    }
}

#[test]
fn a_file_with_faults_fails_the_check_and_names_them_all() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faulty.toml");
    fs::write(&path, "workers = 0\nlimitt = \"10/minute\"\n").expect("cargo makes this folder");
    let output = gate(&["--config", path.to_str().expect("paths are UTF-8"), "--check-config"]);
    assert_eq!(output.status.code(), Some(78), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("workers") && said.contains("limitt") && said.contains("`limit`"), "{}", told(&output));
}

fn plan(file: &str) -> Plan {
    let text = fs::read_to_string(folder().join(file)).expect("the profile is there");
    let settings = Settings::gather(Some((file, &text)), [], []).expect("the profile is read");
    Plan::new(&settings).expect("the profile is a plan")
}

/// The directives of the nginx profile, without comments, a line each.
fn nginx_lines() -> Vec<String> {
    let text = fs::read_to_string(folder().join(NGINX)).expect("the profile is there");
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn one_tier_counts_clients_and_the_other_knows_them() {
    let (worker, balancer) = (plan("four-hosts-worker.toml"), plan("four-hosts-balancer.toml"));
    assert!(worker.limit.is_empty() && worker.api_limit.is_empty() && worker.flood.is_none());
    assert!(!balancer.limit.is_empty() && !balancer.api_limit.is_empty() && balancer.flood.is_some());
    let TrustedProxies::Blocks(trusted) = &worker.forwarded_allow_ips else { panic!("everyone is believed") };
    assert_eq!(trusted.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.10/32"]);
    assert_eq!(balancer.forwarded_allow_ips, TrustedProxies::Blocks(Vec::new()));
    let counted = nginx_lines().iter().filter(|line| line.starts_with("limit_req zone=")).count();
    assert_eq!(counted, 2, "nginx counts both kinds of routes");
}

#[test]
fn the_tiers_of_the_four_hosts_fit_each_other() {
    let (worker, balancer) = (plan("four-hosts-worker.toml"), plan("four-hosts-balancer.toml"));
    assert_eq!(worker.workers, 3);
    let [Bind::Tcp(address)] = worker.bind[..] else { panic!("one address") };
    assert_eq!(balancer.upstream[0].url(), format!("http://{address}"));
    assert!(!address.ip().is_unspecified() && !address.ip().is_loopback(), "{address}");
    assert_eq!(worker.upstream[0].url(), "http://127.0.0.1:11434");
    assert_eq!(balancer.upstream.len(), 3);
    for host in &balancer.upstream {
        assert_eq!(host.slots, worker.upstream[0].slots, "{}", host.name);
        // Nothing that the balancing gate sends is refused for want of a place.
        assert!(worker.queue >= usize::from(host.slots), "{}", host.name);
    }
    assert!(balancer.load_timeout >= worker.queue_timeout + worker.load_timeout);
    assert!(balancer.first_byte_timeout > worker.first_byte_timeout);
    assert!(balancer.chunk_timeout > worker.chunk_timeout);
}

#[test]
fn nginx_stands_in_the_balancing_gates_place() {
    let (worker, balancer) = (plan("four-hosts-worker.toml"), plan("four-hosts-balancer.toml"));
    let lines = nginx_lines();
    let servers = lines.iter().filter_map(|line| line.strip_prefix("server ")?.split(' ').next());
    let servers: Vec<String> = servers.filter(|host| *host != "{").map(|host| format!("http://{host}")).collect();
    assert_eq!(servers, balancer.upstream.iter().map(gate_config::Upstream::url).collect::<Vec<_>>());
    for wanted in [
        "least_conn;",
        "proxy_buffering off;",
        "proxy_set_header X-Forwarded-For $remote_addr;",
        "proxy_set_header Connection \"\";",
        "proxy_next_upstream error timeout;",
    ] {
        assert!(lines.iter().any(|line| line == wanted), "{wanted}");
    }
    let seconds = |directive: &str| {
        let value = lines.iter().find_map(|line| line.strip_prefix(directive)?.trim().strip_suffix("s;"));
        Duration::from_secs(value.and_then(|value| value.parse().ok()).expect("seconds"))
    };
    assert!(seconds("keepalive_timeout") < worker.keep_alive);
    assert!(seconds("proxy_read_timeout") > worker.queue_timeout + worker.load_timeout + worker.first_byte_timeout);
    assert!(lines.contains(&format!("client_max_body_size {}m;", worker.max_body >> 20)));
}

#[test]
fn nginx_reads_its_profile() {
    let room = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nginx-profile");
    fs::create_dir_all(&room).expect("cargo makes its folder");
    let profile = fs::read_to_string(folder().join(NGINX)).expect("the profile is there");
    // Its ports may be taken, or forbidden to whoever runs this; nginx binds them in a check too.
    let profile = profile.replace("listen 80;", "listen unix:check.sock;").replace("listen [::]:80;", "");
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|what| format!("{what}_temp_path {what};"));
    let text = format!("pid pid;\nevents {{}}\nhttp {{\n{}\naccess_log off;\n{profile}}}\n", temporary.join("\n"));
    fs::write(room.join("nginx.conf"), text).expect("the folder can be written");
    let check =
        Command::new("nginx").arg("-t").arg("-p").arg(&room).args(["-c", "nginx.conf", "-e", "stderr"]).output();
    match check {
        Ok(output) => assert!(output.status.success(), "{}", told(&output)),
        // What does not need nginx is checked by the test above.
        Err(error) => eprintln!("not checked by nginx itself: {error}"),
    }
}
