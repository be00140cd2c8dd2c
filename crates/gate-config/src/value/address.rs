//! Addresses to listen on, and those of DNS servers.
//!
//! Names other than `localhost` are not looked up: what is bound must not depend on a resolver. The invariant: a
//! [`Bind`] fits into a socket address as it is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::{Remedy, items, joined};

/// `sun_path` without its closing zero byte.
pub(super) const UNIX_BYTES_MAX: usize = 107;

/// Below are the standard streams.
const FD_MIN: u32 = 3;

/// Far more sockets than systemd hands to any service.
const FD_MAX: u32 = 1_023;

/// systemd refuses longer names.
const NAME_BYTES_MAX: usize = 255;

/// Each address costs every worker a registration and the master a socket to pass on.
const BINDS_MAX: usize = 16;

/// Where DNS servers answer.
const DNS_PORT: u16 = 53;

/// As many as a look-up can ask one after the other before its answer is of no use.
const RESOLVERS_MAX: usize = 8;

/// One place to listen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Bind {
    /// A TCP address; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A unix socket at this path.
    Unix(PathBuf),
    /// A listening socket that was handed over.
    Fd(Handle),
}

/// How a socket that was handed over is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Handle {
    /// By the number under which it is open.
    Number(u32),
    /// By its name in `LISTEN_FDNAMES`.
    Name(String),
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "fd://{number}"),
            Self::Name(name) => write!(f, "fd://{name}"),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(handle) => handle.fmt(f),
        }
    }
}

/// At least one address, no address twice.
pub(crate) fn binds(text: &str) -> Result<Vec<Bind>, Remedy> {
    let mut binds = Vec::new();
    for item in items(text) {
        let bind = bind(item)?;
        if binds.contains(&bind) {
            return Err(format!("write {bind} only once"));
        }
        binds.push(bind);
        if binds.len() > BINDS_MAX {
            return Err(format!("write at most {BINDS_MAX} addresses"));
        }
    }
    if binds.is_empty() { Err(format!("write at least one address: {FORMS}")) } else { Ok(binds) }
}

pub(crate) fn binds_text(binds: &[Bind]) -> String {
    joined(binds)
}

/// Any number of DNS servers, none too; no server twice.
pub(crate) fn resolvers(text: &str) -> Result<Vec<SocketAddr>, Remedy> {
    let mut resolvers = Vec::new();
    for item in items(text) {
        let bare = item.strip_prefix('[').and_then(|item| item.strip_suffix(']')).unwrap_or(item);
        let address = bare.parse().map(|address: IpAddr| SocketAddr::new(address, DNS_PORT)).or_else(|_| item.parse());
        let address = address.ok().filter(|address| address.port() > 0 && !address.ip().is_unspecified());
        let address = address.ok_or_else(|| {
            "write IP addresses of DNS servers, with a port where it is not 53: 10.0.0.2, 10.0.0.2:5353, [fd00::2]:5353"
                .to_owned()
        })?;
        if resolvers.contains(&address) {
            return Err(format!("write {address} only once"));
        }
        resolvers.push(address);
        if resolvers.len() > RESOLVERS_MAX {
            return Err(format!("write at most {RESOLVERS_MAX} DNS servers"));
        }
    }
    Ok(resolvers)
}

pub(crate) fn resolvers_text(resolvers: &[SocketAddr]) -> String {
    joined(resolvers)
}

const FORMS: &str = "HOST:PORT with an IP address or `localhost`, :PORT, [IPV6]:PORT, unix:PATH, fd://N or fd://NAME";

fn bind(text: &str) -> Result<Bind, Remedy> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(Bind::Unix).ok_or_else(|| {
            format!("write unix:PATH with a path of 1 to {UNIX_BYTES_MAX} bytes without control characters")
        });
    }
    if let Some(called) = text.strip_prefix("fd://") {
        return handle(called).map(Bind::Fd).ok_or_else(|| {
            format!(
                "write fd://N with N from {FD_MIN} to {FD_MAX}, or fd://NAME with a name of LISTEN_FDNAMES: printable \
                 ASCII without blanks, `:` and `,` that begins with neither a digit nor a sign"
            )
        });
    }
    let address = match text.rsplit_once(':') {
        Some(("", port)) => port_of(port).map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        Some((host, port)) if host.eq_ignore_ascii_case("localhost") => {
            port_of(port).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        }
        _ => text.parse().ok(),
    };
    address.map(Bind::Tcp).ok_or_else(|| format!("write {FORMS}; ports go up to 65535"))
}

/// What begins like a number is one, or wrong.
fn handle(text: &str) -> Option<Handle> {
    if text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-')) {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| digits && (FD_MIN..=FD_MAX).contains(number));
        return number.map(Handle::Number);
    }
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b':' | b',');
    let works = (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain);
    works.then(|| Handle::Name(text.to_owned()))
}

/// What stands behind `unix:` as a path, if it can be one.
pub(super) fn unix_path(text: &str) -> Option<PathBuf> {
    let path = text.trim_start_matches('/');
    // Gunicorn reads `unix://PATH` as `unix:PATH`; what is printed with more slashes would not read back.
    let root = if matches!(text.len() - path.len(), 0 | 2) { "" } else { "/" };
    let path = format!("{root}{path}");
    let works = (1..=UNIX_BYTES_MAX).contains(&path.len()) && !path.contains(char::is_control);
    works.then(|| path.into())
}

/// A port in digits only: `parse` alone would take a sign.
fn port_of(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("localhost:80", "127.0.0.1:80"),
            ("LocalHost:0", "127.0.0.1:0"),
            (":8000", "0.0.0.0:8000"),
            ("[::1]:8000", "[::1]:8000"),
            ("[::]:443", "[::]:443"),
            ("unix:/run/gate.sock", "unix:/run/gate.sock"),
            ("unix:///run/gate.sock", "unix:/run/gate.sock"),
            ("unix:gate.sock", "unix:gate.sock"),
            ("unix://gate.sock", "unix:gate.sock"),
            ("unix:////gate.sock", "unix:/gate.sock"),
            ("fd://3", "fd://3"),
            ("fd://03", "fd://3"),
            ("fd://web", "fd://web"),
            ("fd://ollama-gate.socket", "fd://ollama-gate.socket"),
        ] {
            let read = binds(text).unwrap();
            assert_eq!(binds_text(&read), shown, "{text}");
            assert_eq!(binds(shown).unwrap(), read, "{shown}");
        }
    }

    #[test]
    fn sockets_are_handed_over_by_number_or_name() {
        let read = binds("fd://1023,fd://web.socket").unwrap();
        assert_eq!(read, [Bind::Fd(Handle::Number(1023)), Bind::Fd(Handle::Name("web.socket".into()))]);
        assert_eq!(binds("fd://web,fd://web").unwrap_err(), "write fd://web only once");
    }

    #[test]
    fn dns_servers() {
        for (text, shown) in [
            ("", ""),
            ("10.0.0.2", "10.0.0.2:53"),
            ("10.0.0.2:5353, ::1 ,[fd00::2]:54,[fd00::3]", "10.0.0.2:5353,[::1]:53,[fd00::2]:54,[fd00::3]:53"),
        ] {
            let read = resolvers(text).unwrap();
            assert_eq!(resolvers_text(&read), shown, "{text}");
            assert_eq!(resolvers(shown).unwrap(), read, "{shown}");
        }
        for text in ["dns.example", "10.0.0.2:0", "0.0.0.0", "10.0.0.2,", "10.0.0.2:+1", "[10.0.0.2"] {
            assert!(resolvers(text).unwrap_err().contains("IP addresses of DNS servers"), "{text}");
        }
        assert_eq!(resolvers("10.0.0.2,10.0.0.2:53").unwrap_err(), "write 10.0.0.2:53 only once");
        let many: Vec<String> = (1..=9).map(|host| format!("10.0.0.{host}")).collect();
        assert_eq!(resolvers(&many.join(",")).unwrap_err(), "write at most 8 DNS servers");
    }

    #[test]
    fn lists() {
        assert_eq!(binds(" :1 , unix:x ").unwrap().len(), 2);
        assert!(binds("").unwrap_err().starts_with("write at least one address"));
        assert!(binds(":1,").is_err());
        assert_eq!(binds("localhost:1,127.0.0.1:1").unwrap_err(), "write 127.0.0.1:1 only once");
        let many: Vec<String> = (1..=17).map(|port| format!(":{port}")).collect();
        assert_eq!(binds(&many.join(",")).unwrap_err(), "write at most 16 addresses");
    }

    #[test]
    fn refusals() {
        for text in ["127.0.0.1", "8000", "example.com:80", "::1:8000x", ":65536", ":+80", "localhost:", ":", "[::1]"] {
            assert!(binds(text).unwrap_err().contains("HOST:PORT"), "{text}");
        }
        let long = format!("fd://{}", "x".repeat(256));
        for text in [
            "fd://2",
            "fd://",
            "fd://+3",
            "fd://-1",
            "fd://1024",
            "fd://99999999999",
            "fd://3web",
            "fd://a:b",
            "fd://a b",
            "fd://ü",
            &long,
        ] {
            assert!(binds(text).unwrap_err().contains("from 3 to 1023"), "{text}");
        }
        for text in ["unix:", "unix:a\nb", &format!("unix:{}", "x".repeat(108))] {
            assert!(binds(text).unwrap_err().contains("107 bytes"), "{text}");
        }
    }
}
