//! Who listens on a port, as `/proc` tells it. IPv4 only: everything here is on 127.0.0.1.

use std::fs;

/// The state `LISTEN` in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Whether any process listens there.
pub(crate) fn is_held(port: u16) -> bool {
    !sockets(port).is_empty()
}

/// Whether one of these processes listens there.
pub(crate) fn is_held_by(port: u16, processes: &[u32]) -> bool {
    let wanted: Vec<String> = sockets(port).iter().map(|inode| format!("socket:[{inode}]")).collect();
    let holds = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|target| wanted.iter().any(|socket| target.as_os_str() == socket.as_str()))
    };
    !wanted.is_empty() && processes.iter().any(holds)
}

fn sockets(port: u16) -> Vec<u64> {
    listeners(&fs::read_to_string("/proc/net/tcp").unwrap_or_default(), port)
}

/// The inodes of a port's listening sockets.
fn listeners(table: &str, port: u16) -> Vec<u64> {
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = fields.get(1)?.split_once(':')?;
        let ours = u16::from_str_radix(local, 16) == Ok(port) && fields.get(3) == Some(&LISTEN);
        fields.get(9).filter(|_| ours)?.parse().ok()
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1
   2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
";
        assert_eq!(listeners(table, 8080), [4711]);
        assert!(listeners(table, 8082).is_empty());
        assert!(listeners("", 8080).is_empty());
    }

    #[test]
    fn our_own_listener_is_found() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_held(port) && is_held_by(port, &[std::process::id()]));
        assert!(!is_held_by(port, &[]));
        drop(listener);
        assert!(!is_held_by(port, &[std::process::id()]));
    }
}
