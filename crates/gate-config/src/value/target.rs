//! Where a backend answers: a URL read as Ollama's own clients read `OLLAMA_HOST`, a unix socket, or a name of many.
//!
//! The scheme may be left out, and then the port is Ollama's; a path is kept and goes in front of every route. Unlike
//! those clients this refuses a port that is no port instead of taking another one. Nothing is looked up here. The
//! invariant: two targets that mean the same place have the same URL, and what a [`Target`] shows reads back as the
//! same value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::Remedy;
use super::address::{UNIX_BYTES_MAX, unix_path};
use super::words::worded;

/// The port Ollama listens on, meant where no scheme says otherwise.
const OLLAMA_PORT: u16 = 11_434;

/// The port of `http://`.
const HTTP_PORT: u16 = 80;

/// The longest name DNS can carry.
const NAME_BYTES_MAX: usize = 253;

/// The path goes in front of every route and must leave room for it in a request line.
const PREFIX_BYTES_MAX: usize = 1_024;

const NO_TLS: &str = "https is not there yet: the gate does not speak TLS to its backend; write http:// with the address \
                      of a tunnel that does (stunnel, ssh -L, a reverse proxy on this host)";

const FORMS: &str = "write http://HOST:PORT with an optional path, such as http://127.0.0.1:11434, or unix:PATH";

const DNS_FORMS: &str = "write dns as NAME:PORT for a name with addresses, or as _SERVICE._PROTO.NAME for SRV records";

/// Where a backend answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// One machine.
    Http {
        /// The machine.
        host: Host,
        /// The port, never 0.
        port: u16,
        /// What stands in front of every route: empty, or `/` and more without a closing `/`.
        prefix: String,
    },
    /// A unix socket on this machine.
    Unix {
        /// The socket's file.
        path: PathBuf,
    },
    /// Every machine that a name stands for.
    Dns {
        /// The name to look up.
        name: String,
        /// The port of its addresses; `None` looks up SRV records, which bring their ports.
        port: Option<u16>,
        /// What stands in front of every route, as in [`Target::Http`].
        prefix: String,
    },
}

/// A machine on the network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// By address.
    Ip(IpAddr),
    /// By a name that must be looked up.
    Name(String),
}

impl Target {
    /// What identifies it: `http://HOST:PORT/PREFIX`, `unix:PATH` or `dns:NAME:PORT/PREFIX`.
    pub fn url(&self) -> String {
        match self {
            Self::Http { prefix, .. } => format!("http://{}{prefix}", self.authority()),
            Self::Unix { path } => format!("unix:{}", path.display()),
            Self::Dns { prefix, .. } => format!("dns:{}{prefix}", self.authority()),
        }
    }

    /// Host and port as a `Host` header names them: `[::1]:11434`; a name alone for SRV records, `localhost` for a
    /// unix socket.
    pub fn authority(&self) -> String {
        match self {
            Self::Http { host, port, .. } => format!("{host}:{port}"),
            Self::Unix { .. } => "localhost".to_owned(),
            Self::Dns { name, port: Some(port), .. } => format!("{name}:{port}"),
            Self::Dns { name, port: None, .. } => name.clone(),
        }
    }

    /// What stands in front of every route: empty, or `/` and more without a closing `/`.
    pub fn prefix(&self) -> &str {
        match self {
            Self::Http { prefix, .. } | Self::Dns { prefix, .. } => prefix,
            Self::Unix { .. } => "",
        }
    }

    /// The word from which it is read.
    pub(super) fn word(&self) -> String {
        match self {
            Self::Dns { prefix, .. } => worded("dns", &format!("{}{prefix}", self.authority())),
            _ => worded("url", &self.url()),
        }
    }
}

/// IPv6 addresses stand in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Ip(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A URL, or what is short for one.
pub(super) fn url(text: &str) -> Result<Target, Remedy> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path);
    }
    let (rest, port) = match text.split_once("://") {
        None if text == "ollama.com" => return Err(NO_TLS.to_owned()),
        None if text.starts_with("dns:") => return Err(DNS_FORMS.to_owned()),
        None => (text, OLLAMA_PORT),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (rest, HTTP_PORT),
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => return Err(NO_TLS.to_owned()),
        Some(_) => return Err(FORMS.to_owned()),
    };
    let (place, path) = split_path(rest);
    if place.is_empty() {
        return Err(FORMS.to_owned());
    }
    let (host, port) = host_and_port(place, port)?;
    Ok(Target::Http { host, port, prefix: prefix(path)? })
}

/// A name to look up.
pub(super) fn dns(text: &str) -> Result<Target, Remedy> {
    let (place, path) = split_path(text.trim());
    if place.is_empty() || place.starts_with(':') {
        return Err(DNS_FORMS.to_owned());
    }
    let (host, port) = host_and_port(place, OLLAMA_PORT).map_err(|_| DNS_FORMS.to_owned())?;
    let name = match host {
        Host::Name(name) => name,
        Host::Ip(_) => return Err(format!("an address needs no look-up: write it as the URL, or {DNS_FORMS}")),
    };
    let mut labels = name.split('.');
    let [service, protocol, domain] = [labels.next(), labels.next(), labels.next()].map(Option::unwrap_or_default);
    let is_service = service.starts_with('_') && protocol.starts_with('_') && !domain.is_empty();
    let port = match (service.starts_with('_'), place.contains(':')) {
        (false, _) => Some(port),
        (true, true) => return Err("SRV records bring their ports: write the name without one".to_owned()),
        (true, false) if is_service => None,
        (true, false) => return Err(DNS_FORMS.to_owned()),
    };
    Ok(Target::Dns { name, port, prefix: prefix(path)? })
}

fn unix(path: &str) -> Result<Target, Remedy> {
    // In a list of backends these characters stand between them.
    let path = if path.contains([',', ';', '"', '\\']) { None } else { unix_path(path) };
    path.map(|path| Target::Unix { path }).ok_or_else(|| {
        format!("write unix:PATH with a path of 1 to {UNIX_BYTES_MAX} bytes without control characters, quotes, commas, `;` and `\\`")
    })
}

fn split_path(text: &str) -> (&str, &str) {
    text.find('/').map_or((text, ""), |slash| text.split_at(slash))
}

fn host_and_port(place: &str, default: u16) -> Result<(Host, u16), Remedy> {
    let bare = place.strip_prefix('[').and_then(|place| place.strip_suffix(']')).unwrap_or(place);
    if let Ok(address) = bare.parse::<Ipv6Addr>() {
        return Ok((Host::Ip(connectable(address.into())), default));
    }
    let Some((name, port)) = place.rsplit_once(':') else { return Ok((host(place)?, default)) };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port > 0);
    let port = port.ok_or_else(|| "write a port from 1 to 65535 after the host".to_owned())?;
    Ok((host(name)?, port))
}

fn host(text: &str) -> Result<Host, Remedy> {
    if text.is_empty() {
        return Ok(Host::Ip(Ipv4Addr::LOCALHOST.into()));
    }
    if let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let address = address.parse::<Ipv6Addr>().map_err(|_| FORMS.to_owned())?;
        return Ok(Host::Ip(connectable(address.into())));
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(connectable(address.into())));
    }
    let labels = || text.strip_suffix('.').unwrap_or(text).split('.');
    let spelled = labels().all(|label| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    });
    // A name that ends in a number is an address with a slip in it.
    let numeric = labels().next_back().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    if spelled && !numeric && text.len() <= NAME_BYTES_MAX {
        Ok(Host::Name(text.to_ascii_lowercase()))
    } else {
        Err(FORMS.to_owned())
    }
}

/// A server told to listen on every address is reached on the loopback one.
fn connectable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

fn prefix(path: &str) -> Result<String, Remedy> {
    let path = path.trim_end_matches('/');
    let works = path.len() <= PREFIX_BYTES_MAX
        && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+=:@%".contains(&byte));
    works.then(|| path.to_owned()).ok_or_else(|| {
        format!(
            "write a path of at most {PREFIX_BYTES_MAX} bytes without blanks, `?`, `#` or `;`, escaped where needed"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_ollama_reads_them() {
        for (text, shown) in [
            ("1.2.3.4", "http://1.2.3.4:11434"),
            (":1234", "http://127.0.0.1:1234"),
            ("1.2.3.4:1234", "http://1.2.3.4:1234"),
            ("example.com", "http://example.com:11434"),
            ("Example.com:1234", "http://example.com:1234"),
            ("[::1]", "http://[::1]:11434"),
            ("::1", "http://[::1]:11434"),
            ("[::1]:1337", "http://[::1]:1337"),
            ("[::]", "http://[::1]:11434"),
            ("0.0.0.0", "http://127.0.0.1:11434"),
            ("0.0.0.0:8080", "http://127.0.0.1:8080"),
            (" 1.2.3.4 ", "http://1.2.3.4:11434"),
            ("http://1.2.3.4", "http://1.2.3.4:80"),
            ("HTTP://1.2.3.4:4321", "http://1.2.3.4:4321"),
            ("http://example.com/ollama/", "http://example.com:80/ollama"),
            ("example.com/a/b", "http://example.com:11434/a/b"),
            ("http://gpu-1.local.:11434/", "http://gpu-1.local.:11434"),
        ] {
            let read = url(text).unwrap();
            assert_eq!(read.url(), shown, "{text}");
            assert_eq!(url(shown).unwrap(), read, "{shown}");
        }
    }

    #[test]
    fn refusals() {
        for (text, remedy) in [
            ("https://1.2.3.4", "does not speak TLS"),
            ("ollama.com", "does not speak TLS"),
            ("", "http://HOST:PORT"),
            ("http://", "http://HOST:PORT"),
            ("ftp://x", "http://HOST:PORT"),
            (":66000", "port from 1 to 65535"),
            (":-1", "port from 1 to 65535"),
            (":0", "port from 1 to 65535"),
            ("x:+1", "port from 1 to 65535"),
            ("256.1.1.1", "http://HOST:PORT"),
            ("a b", "http://HOST:PORT"),
            ("user@host", "http://HOST:PORT"),
            ("[::1", "http://HOST:PORT"),
            ("host?x=1", "http://HOST:PORT"),
            ("host/a b", "without blanks"),
            ("host/a?b", "without blanks"),
            ("a,b", "http://HOST:PORT"),
            ("dns:gpu:1", "_SERVICE._PROTO.NAME"),
            ("unix:", "107 bytes"),
            ("unix:a;b", "107 bytes"),
            ("unix:a\nb", "107 bytes"),
            ("host/a;b", "escaped"),
        ] {
            let refusal = url(text).unwrap_err();
            assert!(refusal.contains(remedy), "{text}: {refusal}");
        }
    }

    #[test]
    fn unix_sockets() {
        for (text, shown) in [
            ("unix:/run/ollama.sock", "unix:/run/ollama.sock"),
            ("unix:///run/ollama.sock", "unix:/run/ollama.sock"),
            ("unix:run/a b", "unix:run/a b"),
            ("unix:////a", "unix:/a"),
        ] {
            let read = url(text).unwrap();
            assert_eq!(read.url(), shown, "{text}");
            assert_eq!(url(shown).unwrap(), read, "{shown}");
            assert_eq!((read.authority().as_str(), read.prefix()), ("localhost", ""));
        }
        assert!(url(&format!("unix:{}", "x".repeat(108))).is_err());
    }

    #[test]
    fn names_to_look_up() {
        for (text, shown) in [
            ("gpu.internal:8000", "dns:gpu.internal:8000"),
            ("GPU.internal", "dns:gpu.internal:11434"),
            ("gpu:80/ollama/", "dns:gpu:80/ollama"),
            ("_ollama._tcp.example.com", "dns:_ollama._tcp.example.com"),
            ("_ollama._tcp.example.com/a", "dns:_ollama._tcp.example.com/a"),
        ] {
            let read = dns(text).unwrap();
            assert_eq!(read.url(), shown, "{text}");
            assert_eq!(dns(&shown["dns:".len()..]).unwrap(), read, "{shown}");
        }
        for (text, remedy) in [
            ("", "write dns as NAME:PORT"),
            (":80", "write dns as NAME:PORT"),
            ("10.0.0.1:80", "an address needs no look-up"),
            ("http://gpu:80", "write dns as NAME:PORT"),
            ("gpu:0", "write dns as NAME:PORT"),
            ("a b", "write dns as NAME:PORT"),
            ("_ollama._tcp.example.com:80", "SRV records bring their ports"),
            ("_ollama.example.com", "_SERVICE._PROTO.NAME"),
            ("_ollama._tcp", "_SERVICE._PROTO.NAME"),
        ] {
            let refusal = dns(text).unwrap_err();
            assert!(refusal.contains(remedy), "{text}: {refusal}");
        }
    }

    #[test]
    fn the_authority_has_brackets_where_needed() {
        assert_eq!(url("::1").unwrap().authority(), "[::1]:11434");
    }
}
