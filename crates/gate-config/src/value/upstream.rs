//! The backend's address, read as Ollama's own clients read `OLLAMA_HOST`.
//!
//! The scheme may be left out, and then the port is Ollama's; a path is kept and goes in front of every route. Unlike
//! those clients this refuses a port that is no port instead of taking another one. Nothing is looked up here. The
//! invariant: what an [`Upstream`] prints is a URL that reads back as the same value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Remedy;

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

const FORMS: &str = "write http://HOST:PORT with an optional path, such as http://127.0.0.1:11434";

/// Where the backend answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// The machine.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
    /// What stands in front of every route: empty, or `/` and more without a closing `/`.
    pub prefix: String,
}

/// A machine on the network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// By address.
    Ip(IpAddr),
    /// By a name that must be looked up.
    Name(String),
}

impl Upstream {
    /// Host and port as a `Host` header names them: `[::1]:11434`.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.prefix)
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

pub(crate) fn upstream(text: &str) -> Result<Upstream, Remedy> {
    let text = text.trim();
    if text.contains(',') {
        return Err("write one backend: lists are not there yet".to_owned());
    }
    let (rest, port) = match text.split_once("://") {
        None if text == "ollama.com" => return Err(NO_TLS.to_owned()),
        None => (text, OLLAMA_PORT),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (rest, HTTP_PORT),
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => return Err(NO_TLS.to_owned()),
        Some(_) => return Err(FORMS.to_owned()),
    };
    let (place, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    if place.is_empty() {
        return Err(FORMS.to_owned());
    }
    let (host, port) = host_and_port(place, port)?;
    Ok(Upstream { host, port, prefix: prefix(path)? })
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
        && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+;=:@%".contains(&byte));
    works.then(|| path.to_owned()).ok_or_else(|| {
        format!("write a path of at most {PREFIX_BYTES_MAX} bytes without blanks, `?` or `#`, escaped where needed")
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
            let read = upstream(text).unwrap();
            assert_eq!(read.to_string(), shown, "{text}");
            assert_eq!(upstream(shown).unwrap(), read, "{shown}");
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
            ("unix:/run/ollama.sock", "port from 1 to 65535"),
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
            ("a,b", "one backend"),
        ] {
            let refusal = upstream(text).unwrap_err();
            assert!(refusal.contains(remedy), "{text}: {refusal}");
        }
    }

    #[test]
    fn the_authority_has_brackets_where_needed() {
        assert_eq!(upstream("::1").unwrap().authority(), "[::1]:11434");
    }
}
