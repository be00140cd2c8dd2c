//! Where the store is and on what terms it is asked: from text to what can be connected to.
//!
//! It connects to nothing. Invariant: no text made here holds a password, and neither does any `Debug`.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, TlsMode};

/// Hosts that a URL may name. A handful of sentinels or nodes lead to all others.
const HOSTS_MAX: usize = 32;

/// On what terms the store is asked.
#[derive(Clone)]
pub struct Terms {
    /// Where it is: see [`judge_url`].
    pub url: String,
    /// The password, instead of one in the URL.
    pub password: Option<String>,
    /// What of each amount this gate may let pass on its own while the store is away: above 0, at most 1.
    pub share: f64,
    /// How long a request waits for an answer, at most.
    pub timeout: Duration,
    /// What the store's keys begin with.
    pub prefix: String,
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { share, timeout, prefix, .. } = self;
        write!(f, "Terms {{ share: {share}, timeout: {timeout:?}, prefix: {prefix:?}, .. }}")
    }
}

/// Why a store cannot be asked at all. Fault: the operator's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterError {
    /// Its URL is none, and why.
    Url(String),
    /// The share is not above 0 and at most 1.
    Share,
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(why) => write!(f, "the store's URL: {why}"),
            Self::Share => f.write_str("the share of this gate must be above 0, and 1 at most"),
        }
    }
}

impl Error for ClusterError {}

/// Whether a store's URL can be used: `redis://[[user]:password@]host[:port][/db]`, `rediss://…` with TLS,
/// `redis+sentinel://[[user]:password@]host:port[,host:port…]/service[/db]`,
/// `redis+cluster://[[user]:password@]host:port[,host:port…]`, and `rediss+…` with TLS for both.
///
/// # Errors
/// What is wrong with it, without its password.
pub fn judge_url(url: &str) -> Result<(), String> {
    Address::parse(url, None).map(drop)
}

/// What is connected to.
#[derive(Clone)]
pub(crate) enum Address {
    Alone(Box<ConnectionInfo>),
    Sentinels { sentinels: Vec<ConnectionInfo>, service: String, settings: RedisConnectionInfo, tls: Option<TlsMode> },
    Nodes(Vec<ConnectionInfo>),
}

enum Kind {
    Alone,
    Sentinels,
    Nodes,
}

impl Address {
    pub(crate) fn parse(url: &str, password: Option<&str>) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("it has no scheme, as in redis://host:6379")?;
        let (kind, scheme) = match scheme {
            "redis" | "rediss" => (Kind::Alone, scheme),
            "redis+sentinel" => (Kind::Sentinels, "redis"),
            "rediss+sentinel" => (Kind::Sentinels, "rediss"),
            "redis+cluster" => (Kind::Nodes, "redis"),
            "rediss+cluster" => (Kind::Nodes, "rediss"),
            _ => return Err("its scheme must be redis or rediss, alone or with +sentinel or +cluster".to_owned()),
        };
        if rest.contains(['?', '#']) {
            return Err("it may have no ? and no #; in a password they are written %3F and %23".to_owned());
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let hosts: Vec<_> = hosts.split(',').collect();
        if hosts.len() > HOSTS_MAX {
            return Err(format!("it names more than {HOSTS_MAX} hosts"));
        }
        let info = |host: &str, db: &str| {
            let user = if user.is_empty() { String::new() } else { format!("{user}@") };
            if host.is_empty() || host.starts_with(':') {
                return Err("it names no host".to_owned());
            }
            let info = format!("{scheme}://{user}{host}/{db}").into_connection_info();
            // Its own text might repeat what was typed.
            let info = info.map_err(|_| "it cannot be read".to_owned())?;
            let settings = info.redis_settings().clone();
            let settings = match password {
                Some(password) => settings.set_password(password),
                None => settings,
            };
            Ok(info.set_redis_settings(settings))
        };
        match (kind, hosts.as_slice()) {
            (Kind::Alone, [host]) => Ok(Self::Alone(Box::new(info(host, path)?))),
            (Kind::Alone, _) => Err("several hosts need redis+sentinel or redis+cluster".to_owned()),
            (Kind::Nodes, hosts) if path.is_empty() => {
                Ok(Self::Nodes(hosts.iter().map(|host| info(host, "")).collect::<Result<_, _>>()?))
            }
            (Kind::Nodes, _) => Err("a cluster has no databases".to_owned()),
            (Kind::Sentinels, hosts) => {
                let (service, db) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err("it names no service, as in redis+sentinel://host:26379/mymaster".to_owned());
                }
                let infos = hosts.iter().map(|host| info(host, db)).collect::<Result<Vec<_>, _>>()?;
                let settings = infos.first().ok_or("it names no host")?.redis_settings().clone();
                // The password is the store's; sentinels are asked without one.
                let open = |info: ConnectionInfo| info.set_redis_settings(RedisConnectionInfo::default());
                let tls = (scheme == "rediss").then_some(TlsMode::Secure);
                let sentinels = infos.into_iter().map(open).collect();
                Ok(Self::Sentinels { sentinels, service: service.to_owned(), settings, tls })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_judged_without_their_passwords() {
        for good in [
            "redis://127.0.0.1",
            "redis://127.0.0.1:6379/2",
            "rediss://user:s%23cret@store.example:6380",
            "redis://:secret@[::1]:6379",
            "redis+sentinel://:secret@a:26379,b:26379/mymaster",
            "rediss+sentinel://a/mymaster/3",
            "redis+cluster://a:7000,b:7001",
            "rediss+cluster://user:secret@a",
        ] {
            assert_eq!(judge_url(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", "no scheme"),
            ("127.0.0.1:6379", "no scheme"),
            ("http://secret@a", "scheme must be"),
            ("redis://", "no host"),
            ("redis://:secret@", "no host"),
            ("redis://:secret@:6379", "no host"),
            ("redis://:secret@a:port", "cannot be read"),
            ("redis://a/secret", "cannot be read"),
            ("redis://a:1,b:2", "several hosts"),
            ("redis://a?password=secret", "no ?"),
            ("redis+sentinel://a:26379", "no service"),
            ("redis+sentinel://a:26379//1", "no service"),
            ("redis+cluster://a:7000/1", "no databases"),
        ] {
            let told = judge_url(bad).unwrap_err();
            assert!(told.contains(why), "{bad}: {told}");
            assert!(!told.contains("secret"), "{told}");
        }
        let many = vec!["a:1"; HOSTS_MAX + 1].join(",");
        assert!(judge_url(&format!("redis+cluster://{many}")).unwrap_err().contains("more than 32"));
    }

    #[test]
    fn a_password_of_its_own_wins() {
        let Ok(Address::Alone(info)) = Address::parse("redis://user:old@a/4", Some("new")) else { panic!() };
        let settings = info.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("user"), Some("new"), 4));
        let terms = Terms {
            url: "redis://user:secret@a".to_owned(),
            password: Some("secret".to_owned()),
            share: 1.0,
            timeout: Duration::from_millis(5),
            prefix: "ollama-gate".to_owned(),
        };
        assert!(!format!("{terms:?}").contains("secret"));
    }
}
