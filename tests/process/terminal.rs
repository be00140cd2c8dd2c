//! A gate in the foreground of a terminal. Python makes the terminal: the gate's own process becomes its session, and a
//! child of Python's types at it, one word from standard input at a time.

use std::io::{PipeWriter, Write};

use nix::sys::signal::Signal;

use crate::scene::{backend, gate_to, said};
use crate::support::Gate;

const TERMINAL: &str = r#"
import fcntl, os, sys, termios
keyboard, screen = os.openpty()
if os.fork() == 0:
    os.close(screen)
    for word in sys.stdin:
        if word == "ctrl-c\n":
            os.write(keyboard, b"\x03")
        if word == "close\n":
            os.close(keyboard)
    os._exit(0)
os.close(keyboard)
os.setsid()
fcntl.ioctl(screen, termios.TIOCSCTTY, 0)
os.dup2(screen, 0)
os.dup2(screen, 1)
os.close(screen)
os.execv(sys.argv[1], sys.argv[1:])
"#;

/// A gate with two workers, and where to type.
fn in_a_terminal() -> (Gate, PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let backend = backend(0);
    let plan = gate_to(&backend, ["--workers", "2", "--log-level", "debug"]);
    (plan.launched_by(&["python3", "-c", TERMINAL]).stdin(reader).start(), writer)
}

#[test]
fn ctrl_c_is_a_clean_end() {
    let (mut gate, mut keys) = in_a_terminal();
    keys.write_all(b"ctrl-c\n").unwrap();
    assert_eq!(gate.ends_with_code(), 0);
    assert_eq!(said(&gate, "stopping now"), 1);
    assert_eq!(said(&gate, "will be replaced"), 0, "the workers left when told to");
}

#[test]
fn a_terminal_that_closes_is_no_order() {
    let (mut gate, mut keys) = in_a_terminal();
    let children = gate.workers();
    keys.write_all(b"close\n").unwrap();
    gate.log_has("SIGHUP from the terminal: no order");
    assert_eq!(gate.get("/healthz").status, 200);
    assert_eq!(gate.workers(), children);
    assert_eq!(said(&gate, "reload"), 0);
    gate.reload();
    gate.signal(Signal::SIGTERM);
    assert_eq!(gate.ends_with_code(), 0);
}
