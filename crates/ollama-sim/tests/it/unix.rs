//! The program on a Unix socket: it answers there, can be away for a time, and finds its place again.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::support::PATIENCE;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ollama-sim-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// The program on this socket, killed with the value; what it said first.
struct Started(Child, String);

impl Started {
    fn on(socket: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ollama-sim"));
        let mut child = command.arg("--unix").arg(socket).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self(child, line)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn ask(socket: &Path, path: &str, more: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n{more}\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn it_answers_where_it_was_put_also_after_a_kill() {
    let folder = Folder::new("place");
    let socket = folder.0.join("sim.sock");
    for _ in 0..2 {
        let started = Started::on(&socket);
        assert_eq!(started.1, format!("ollama-sim on unix:{}\n", socket.display()));
        let answer = ask(&socket, "/api/version", "").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\"}"), "{answer}");
    }
}

#[test]
fn a_place_that_is_taken_stays_as_it_is() {
    let folder = Folder::new("taken");
    let (socket, file) = (folder.0.join("sim.sock"), folder.0.join("file"));
    let _first = Started::on(&socket);
    std::fs::write(&file, "precious").unwrap();
    for place in [&socket, &file] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ollama-sim"));
        let output = command.arg("--unix").arg(place).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("in use"), "{said}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert!(ask(&socket, "/", "").unwrap().ends_with("Ollama is running"));
}

#[test]
fn it_refuses_for_a_time_and_comes_back() {
    let folder = Folder::new("away");
    let socket = folder.0.join("sim.sock");
    let _started = Started::on(&socket);
    assert_eq!(ask(&socket, "/", "x-sim-fault: refuse:300\r\n").unwrap_or_default(), "");
    assert_eq!(ask(&socket, "/", "").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let deadline = Instant::now() + PATIENCE;
    while ask(&socket, "/", "").is_err() {
        assert!(Instant::now() < deadline, "it never came back");
        std::thread::yield_now();
    }
}
