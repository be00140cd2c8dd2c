//! How workers share connections: by sockets of their own, where the kernel steers between them.

use nix::sys::signal::Signal;

use crate::load::{Load, MIXED};
use crate::proc::listening;
use crate::scene::{backend, gate_to, is_gone, said};
use crate::support::{Gate, Plan};

/// Becomes the gate, for which the kernel does not know the socket option of steering: `setsockopt` at level
/// `SOL_SOCKET` (1) with `SO_ATTACH_REUSEPORT_CBPF` (51) answers `ENOPROTOOPT` (92).
const WITHOUT_STEERING: &str = r#"
import ctypes, os, platform, struct, sys
setsockopt = {"x86_64": 54, "aarch64": 208}[platform.machine()]
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, LEVEL, OPTION = 0, 24, 32
program = [
    (LOAD, 0, 0, NUMBER), (JUMP_EQUAL, 0, 5, setsockopt),
    (LOAD, 0, 0, LEVEL), (JUMP_EQUAL, 0, 3, 1),
    (LOAD, 0, 0, OPTION), (JUMP_EQUAL, 0, 1, 51),
    (RETURN, 0, 0, 0x00050000 | 92),
    (RETURN, 0, 0, 0x7FFF0000),
]
text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
class Filter(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
filter = Filter(len(program), ctypes.addressof(text))
libc = ctypes.CDLL(None, use_errno=True)
NO_NEW_PRIVS, SECCOMP = 38, 22
none = ctypes.c_ulong(0)
if libc.prctl(NO_NEW_PRIVS, ctypes.c_ulong(1), none, none, none) or libc.prctl(SECCOMP, ctypes.c_ulong(2), ctypes.byref(filter), none, none):
    sys.exit("no filter: errno %d" % ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
"#;

fn sockets(gate: &Gate) -> Vec<String> {
    let of_worker = |pid| crate::proc::listening_sockets(pid);
    let mut all: Vec<String> = gate.workers().into_iter().flat_map(of_worker).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[track_caller]
fn serves_through_changes(gate: &mut Gate) {
    let load = Load::start(gate.address(), &MIXED);
    for _ in 0..2 {
        load.goes_on(30);
        let old = gate.workers();
        gate.reload();
        old.into_iter().for_each(is_gone);
        gate.signal(Signal::SIGTTOU);
        gate.has_workers(2);
        gate.signal(Signal::SIGTTIN);
        gate.has_workers(3);
    }
    load.goes_on(30);
    load.lost_nothing();
}

#[test]
fn each_worker_has_a_socket_of_its_own_where_the_kernel_steers() {
    let backend = backend(0);
    let mut gate = gate_to(&backend, ["--reuse-port", "--workers=3"]).start();
    assert_eq!(said(&gate, "reuse_port: connections can be steered between the workers' sockets"), 1);
    assert_eq!(sockets(&gate).len(), 3);
    assert!(gate.workers().into_iter().all(|worker| listening(worker) == 1));
    serves_through_changes(&mut gate);
    assert_eq!(sockets(&gate).len(), 3);
}

#[test]
fn they_share_one_where_it_does_not() {
    let backend = backend(0);
    let plan: Plan = gate_to(&backend, ["--reuse-port", "--workers=3"]);
    let mut gate = plan.launched_by(&["python3", "-c", WITHOUT_STEERING]).start();
    let log = gate.log();
    assert!(log.contains("this kernel does not steer connections: the workers share one socket instead"), "{log}");
    assert_eq!(sockets(&gate).len(), 1);
    serves_through_changes(&mut gate);
    assert_eq!((sockets(&gate).len(), said(&gate, "cannot steer")), (1, 0));
}

#[test]
fn nobody_tries_to_steer_unasked() {
    let backend = backend(0);
    let gate = gate_to(&backend, ["--workers=3"]).start();
    assert_eq!((said(&gate, "reuse_port"), sockets(&gate).len()), (0, 1));
}
