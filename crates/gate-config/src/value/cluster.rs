//! The store that several gates count in: where it is, and what happens while it is away.
//!
//! What a URL means beyond its scheme is for whoever connects. The invariant: a URL prints without its password, by
//! [`Debug`](std::fmt::Debug) too; only [`ClusterUrl::reveal`] gives it.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::text::path;
use super::{Remedy, number};
use crate::complaint::nearest;

/// The schemes by which such stores are reached.
const SCHEMES: [&str; 6] = ["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];

/// Room for a list of nodes, as long as a path may be.
const URL_BYTES_MAX: usize = 4_095;

/// Stands in front of each name in the store, so it costs memory there.
const PREFIX_BYTES_MAX: usize = 64;

/// As many gates as any store is asked to serve, and more.
const GATES_MAX: u64 = 1_000;

/// The store's share of a request's time: more would be felt, and waited for whenever the store is away.
const TIMEOUT_MAX: Duration = Duration::from_secs(1);

/// What is shown of a password.
pub(crate) const HIDDEN: &str = "***";

/// Where the store is, with its password if that stands in it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterUrl(String);

impl ClusterUrl {
    /// The URL as it was typed, for whoever connects. Not for logs.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether a name or a password stands in it.
    pub fn has_secret(&self) -> bool {
        redacted(&self.0) != self.0
    }
}

/// Without what must not be shown.
impl fmt::Display for ClusterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.0))
    }
}

impl fmt::Debug for ClusterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterUrl({self})")
    }
}

/// The text with `***` in place of what may be a password: all before the last `@`, for passwords hold any characters,
/// and all from a `?` or `#` on. Rather too much than a part of one.
pub fn redacted(text: &str) -> Cow<'_, str> {
    let spelled = |scheme: &str| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let after_scheme = text.find("://").filter(|at| spelled(&text[..*at])).map_or(0, |at| at + "://".len());
    let (scheme, rest) = text.split_at(after_scheme);
    let (credentials, host) = rest.rsplit_once('@').map_or((None, rest), |(head, host)| (Some(head), host));
    if credentials.is_some_and(|credentials| credentials.contains(['?', '#'])) {
        return Cow::Owned(format!("{scheme}{HIDDEN}"));
    }
    let (host, hidden) = host.find(['?', '#']).map_or((host, ""), |at| (&host[..at], HIDDEN));
    match credentials {
        None | Some(HIDDEN) if hidden.is_empty() => Cow::Borrowed(text),
        None => Cow::Owned(format!("{scheme}{host}{hidden}")),
        Some(_) => Cow::Owned(format!("{scheme}{HIDDEN}@{host}{hidden}")),
    }
}

/// The text of a value of any key: what is no URL has no password.
pub(crate) fn redacted_url(text: &str) -> Cow<'_, str> {
    if text.contains("://") { redacted(text) } else { Cow::Borrowed(text) }
}

/// Whether a value may be a secret that was written in a wrong place, or under a name with a slip in it.
pub(crate) fn is_secretive(key: &str) -> bool {
    let lower = key.to_ascii_lowercase().replace('-', "_");
    let name = lower.strip_prefix("ollama_gate_").unwrap_or(&lower);
    let near = || nearest(name, ["cluster_url", "cluster_password"].into_iter());
    let is_plain = name.starts_with('[') || ["cluster_share", "cluster_timeout"].contains(&name);
    !is_plain && (["cluster", "password"].iter().any(|word| name.contains(word)) || near().is_some())
}

/// A file that holds a password; `None` for empty text. A bare word is a password that was meant to be in it.
pub(crate) fn password_file(text: &str) -> Result<Option<PathBuf>, Remedy> {
    let text = text.trim();
    if text.is_empty() || ["/", "./", "../"].iter().any(|start| text.starts_with(start)) {
        return path(text);
    }
    Err("a file's path is due, not the password: write /PATH or ./PATH of a file that holds it".to_owned())
}

/// A part of a whole: 1, or `1/3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    parts: u16,
    of: u16,
}

impl Share {
    /// As a number above 0 and up to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.parts) / f64::from(self.of)
    }
}

/// As it is read.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.parts == self.of { f.write_str("1") } else { write!(f, "{}/{}", self.parts, self.of) }
    }
}

/// A store; `None` for empty text.
pub(crate) fn cluster_url(text: &str) -> Result<Option<ClusterUrl>, Remedy> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let works = text.len() <= URL_BYTES_MAX && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    let known = text.split_once("://").is_some_and(|(scheme, rest)| SCHEMES.contains(&scheme) && !rest.is_empty());
    if known && text.contains(['?', '#']) {
        return Err(
            "write a URL without `?` and `#`: %3F and %23 in a name or a password, and a password rather to the \
                    file of cluster_password"
                .to_owned(),
        );
    }
    if works && known {
        return Ok(Some(ClusterUrl(text.to_owned())));
    }
    Err("write a URL without blanks: redis://HOST:PORT, rediss://HOST:PORT for TLS, redis+sentinel://… or redis+cluster://…".to_owned())
}

pub(crate) fn url_text(url: Option<&ClusterUrl>) -> String {
    url.map(ToString::to_string).unwrap_or_default()
}

pub(crate) fn share(text: &str) -> Result<Share, Remedy> {
    let (parts, of) = text.split_once('/').unwrap_or((text, "1"));
    let read = |text| number::whole::<u16>(text, 1..=GATES_MAX).ok();
    match (read(parts), read(of)) {
        (Some(parts), Some(of)) if parts <= of => Ok(Share { parts, of }),
        _ => Err(format!("write 1, or a fraction such as 1/3, of numbers up to {GATES_MAX}")),
    }
}

/// A time that a request can wait for the store.
pub(crate) fn cluster_timeout(text: &str) -> Result<Duration, Remedy> {
    let read = number::time(text).ok().filter(|time| *time <= TIMEOUT_MAX);
    read.ok_or_else(|| "write a time from 1ms to 1s".to_owned())
}

pub(crate) fn cluster_prefix(text: &str) -> Result<String, Remedy> {
    let text = text.trim();
    let spelled = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':');
    let works = (1..=PREFIX_BYTES_MAX).contains(&text.len()) && text.bytes().all(spelled);
    works
        .then(|| text.to_owned())
        .ok_or_else(|| format!("write 1 to {PREFIX_BYTES_MAX} letters, digits, `.`, `_`, `-` or `:`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_kept_as_typed_and_shown_without_their_password() {
        for (text, shown) in [
            ("redis://store:6379", "redis://store:6379"),
            (" rediss://:hunter2@store/1 ", "rediss://***@store/1"),
            ("redis+sentinel://u:hunter2@a:1,b:2/master", "redis+sentinel://***@a:1,b:2/master"),
            ("redis+cluster://u:hun@t/e:r2@a", "redis+cluster://***@a"),
            ("redis://***@a", "redis://***@a"),
        ] {
            let url = cluster_url(text).unwrap().unwrap();
            assert_eq!(url.reveal(), text.trim());
            assert_eq!((url.to_string().as_str(), format!("{url:?}")), (shown, format!("ClusterUrl({shown})")));
            assert_eq!(url.has_secret(), shown != text, "{text}");
        }
        assert_eq!(cluster_url(" "), Ok(None));
        for text in ["store:6379", "http://store", "redis://", "redis://a b", "redis://a\u{7f}", "Redis://a"] {
            assert!(cluster_url(text).unwrap_err().contains("redis://HOST:PORT"), "{text}");
        }
    }

    #[test]
    fn nothing_that_may_be_a_password_is_shown() {
        for (text, shown) in [
            ("default:s3cret@store:6379", "***@store:6379"),
            ("default:s3cret://x@store", "***@store"),
            ("redis://store?password=s3cret", "redis://store***"),
            ("redis://store/0#s3cret", "redis://store/0***"),
            ("redis://u:s3cret@store?s3cret", "redis://***@store***"),
            ("redis://store?password=s3@cret", "redis://***"),
            ("redis://:s3?c@ret@store", "redis://***"),
            ("***@store#s3cret", "***@store***"),
            ("store:6379", "store:6379"),
        ] {
            assert_eq!(redacted(text), shown, "{text}");
        }
        for text in ["redis://store?password=s3cret", "redis://store#x", "redis://:a?b@store"] {
            assert!(cluster_url(text).unwrap_err().contains("%3F"), "{text}");
        }
        for text in ["s3cret", "s3/cret", "~/x"] {
            assert!(password_file(text).unwrap_err().contains("a file's path is due"), "{text}");
        }
        for text in ["/p", "./p", "../p"] {
            assert_eq!(password_file(text), Ok(Some(text.into())));
        }
        assert_eq!(password_file(" "), Ok(None));
        for key in ["cluster_url", "cluster.password", "clutser_url", "OLLAMA_GATE_CLUTSER_URL", "--cluster-url"] {
            assert!(is_secretive(key), "{key}");
        }
        assert!(!is_secretive("cluster_share") && !is_secretive("[cluster"));
        assert!(!is_secretive("upstream") && !is_secretive("keys") && !is_secretive(""));
    }

    #[test]
    fn shares_are_fractions() {
        for (text, shown, fraction) in
            [("1", "1", 1.0), ("3/3", "1", 1.0), (" 1 / 4 ", "1/4", 0.25), ("2/4", "2/4", 0.5)]
        {
            let share = share(text).unwrap();
            assert_eq!(share.to_string(), shown);
            assert!((share.fraction() - fraction).abs() < 1e-9, "{text}");
        }
        for text in ["", "0", "0/3", "1/0", "4/3", "2", "0.5", "1/3/3", "1/1001", "-1/3"] {
            assert!(share(text).unwrap_err().contains("1/3"), "{text}");
        }
    }

    #[test]
    fn times_and_prefixes_have_their_bounds() {
        assert_eq!(cluster_timeout("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(cluster_timeout("1"), Ok(TIMEOUT_MAX));
        for text in ["0", "1001ms", "2s", "soon"] {
            assert!(cluster_timeout(text).is_err(), "{text}");
        }
        assert_eq!(cluster_prefix(" gate:eu-1 ").unwrap(), "gate:eu-1");
        for text in ["", "a b", "a{b}", &"x".repeat(65)] {
            assert!(cluster_prefix(text).is_err(), "{text}");
        }
    }
}
