//! Pages of other origins: which of them browsers may let ask, and the headers that say so.
//!
//! What is allowed without being named is what Ollama allows: pages of this machine, and applications that show pages of
//! their own. It knows no request; a caller brings Origin and Host.
//!
//! Invariant: nothing is allowed that no pattern names but a page of the gate's own origin, and without keys not even that
//! where its host is a name for which anybody's name server may answer.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Who may ask besides the gate's own origin.
#[derive(Debug, Clone)]
pub struct Origins {
    scope: Scope,
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Every page there is.
    Any,
    /// Those that a pattern fits.
    Named,
}

/// Which pages of the gate's own origin are no strangers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// All: whoever asks needs a key, and a page has none by being there.
    Any,
    /// Those at an address or at a name of this network. Any other name may be one whose owner lets it lead here after his
    /// page was loaded from elsewhere, and then his page has what looks like the gate's own origin.
    Near,
}

/// An origin, or what stands before and after the `*` in many.
#[derive(Debug, Clone)]
struct Pattern {
    before: String,
    after: Option<String>,
}

/// Machines whose pages Ollama trusts, with http or https and any port.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "0.0.0.0"];

/// Ends of names that no public name server answers for: those whose own pages Ollama trusts.
const NEAR: [&[u8]; 3] = [b".localhost", b".local", b".internal"];

/// Schemes of applications whose pages Ollama trusts. Browser extensions it does not: they are to be named.
const APPLICATIONS: [&str; 5] = ["app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*"];

/// As Ollama's.
const METHODS: &str = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS";

/// What a page may send: Ollama's list, what Anthropic's SDK sends from browsers, and the gate's own.
const ALLOWED: &str = "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,OpenAI-Beta,X-Stainless-Arch,\
    X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,\
    X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,\
    X-Stainless-Runtime-Version,X-Stainless-Timeout,X-Api-Key,Anthropic-Version,Anthropic-Beta,\
    Anthropic-Dangerous-Direct-Browser-Access,X-Gate-Backend,X-Request-Id";

/// What a page may read besides what every page may: without it the SDKs cannot obey a Retry-After in a browser.
const EXPOSED: &str = "Retry-After,X-Request-Id,X-RateLimit-Limit,X-RateLimit-Remaining,X-RateLimit-Reset";

/// Half a day, as Ollama: how long a browser need not ask again.
const MAX_AGE_SECONDS: &str = "43200";

/// What an answer to a page of another origin depends on, so that no cache gives it to a page of a third one.
const VARY: &str = "Origin,Access-Control-Request-Method,Access-Control-Request-Headers";

impl Origins {
    /// Ollama's own, and `further` patterns: origins, with one `*` in each for any run of characters without a slash (of
    /// digits where a port is due), or `*` alone for all. A pattern that is no origin fits none.
    pub fn new(further: &[String]) -> Self {
        let scope = if further.iter().any(|pattern| pattern.trim() == "*") { Scope::Any } else { Scope::Named };
        let named = further.iter().map(|pattern| Pattern::new(pattern.trim()));
        let mut patterns: Vec<Pattern> = named.filter(Pattern::is_origin).collect();
        for host in LOCAL {
            for scheme in ["http", "https"] {
                patterns.push(Pattern::new(&format!("{scheme}://{host}")));
                patterns.push(Pattern::new(&format!("{scheme}://{host}:*")));
            }
        }
        patterns.extend(APPLICATIONS.map(Pattern::new));
        Self { scope, patterns }
    }

    /// Whether a page of `origin` may ask the gate, which it knows as `host`; `own` says which of the gate's own may.
    pub fn admits(&self, origin: &[u8], host: Option<&[u8]>, own: Own) -> bool {
        let is_own = host.is_some_and(|host| {
            let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
            !host.is_empty()
                && authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
                && (own == Own::Any || is_near(host))
        });
        is_own || self.scope == Scope::Any || self.patterns.iter().any(|pattern| pattern.fits(origin))
    }

    /// Headers of every answer to a page of `origin`, which was admitted; names in lower case.
    pub fn fields<'a>(&self, origin: &'a [u8]) -> [(&'static str, &'a [u8]); 3] {
        [
            ("access-control-allow-origin", self.allowed(origin)),
            ("access-control-expose-headers", EXPOSED.as_bytes()),
            ("vary", b"Origin"),
        ]
    }

    /// Headers of the 204 that a browser is told before it lets a page of `origin`, which was admitted, ask. They are the
    /// same for whatever it wants to ask.
    pub fn preflight<'a>(&self, origin: &'a [u8]) -> [(&'static str, &'a [u8]); 5] {
        [
            ("access-control-allow-origin", self.allowed(origin)),
            ("access-control-allow-methods", METHODS.as_bytes()),
            ("access-control-allow-headers", ALLOWED.as_bytes()),
            ("access-control-max-age", MAX_AGE_SECONDS.as_bytes()),
            ("vary", VARY.as_bytes()),
        ]
    }

    fn allowed<'a>(&self, origin: &'a [u8]) -> &'a [u8] {
        match self.scope {
            Scope::Any => b"*",
            Scope::Named => origin,
        }
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match text.split_once('*') {
            Some((before, after)) => Self { before: before.to_owned(), after: Some(after.to_owned()) },
            None => Self { before: text, after: None },
        }
    }

    fn fits(&self, origin: &[u8]) -> bool {
        let Some(after) = &self.after else { return origin == self.before.as_bytes() };
        let run = origin.strip_prefix(self.before.as_bytes()).and_then(|rest| rest.strip_suffix(after.as_bytes()));
        run.is_some_and(|run| {
            if self.before.ends_with(':') {
                !run.is_empty() && run.iter().all(u8::is_ascii_digit)
            } else {
                run.iter().all(|&byte| byte != b'/' && byte.is_ascii_graphic())
            }
        })
    }

    /// Whether it has a scheme, or is what browsers say where a page has no origin.
    fn is_origin(&self) -> bool {
        self.before.contains("://") || (self.before == "null" && self.after.is_none())
    }
}

/// Whether a Host leads to a place that no stranger can have chosen: an address, or a name of this machine or network.
fn is_near(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    if let Some((address, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let ends_in = |end: &[u8]| {
        let at = name.len().checked_sub(end.len());
        at.is_some_and(|at| at > 0 && name.as_bytes()[at..].eq_ignore_ascii_case(end))
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok() || NEAR.into_iter().any(ends_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(further: &[&str]) -> Origins {
        Origins::new(&further.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_ollama_allows_without_being_told() {
        let defaults = origins(&[]);
        for origin in [
            "http://localhost",
            "https://localhost",
            "http://localhost:3000",
            "https://127.0.0.1:8443",
            "http://127.0.0.1",
            "http://0.0.0.0:1",
            "app://obsidian.md",
            "file://",
            "tauri://localhost",
            "vscode-webview://0abc",
            "vscode-file://vscode-app",
        ] {
            assert!(defaults.admits(origin.as_bytes(), None, Own::Near), "{origin}");
        }
        for origin in [
            "",
            "null",
            "*",
            "http://example.com",
            "http://localhost.example.com",
            "http://localhost:3000.example.com",
            "http://localhost:",
            "http://localhost:80/",
            "http://127.0.0.10",
            "http://127.0.0.1.example.com:80",
            "ftp://localhost",
            "localhost",
            "chrome-extension://abc",
            "moz-extension://abc",
            "app:/x",
            "app://a/b",
            "app://a b",
            "https://app://x",
        ] {
            assert!(!defaults.admits(origin.as_bytes(), None, Own::Near), "{origin}");
        }
    }

    #[test]
    fn further_origins() {
        let further =
            origins(&["https://Chat.example.com", " https://*.example.org", "chrome-extension://*", "https://x:*"]);
        let check = |origin: &str, admitted: bool| {
            assert_eq!(further.admits(origin.as_bytes(), Some(b"gate.test"), Own::Near), admitted, "{origin}");
        };
        check("https://chat.example.com", true);
        check("https://chat.example.com:8443", false);
        check("http://chat.example.com", false);
        check("https://a.example.org", true);
        check("https://a.b.example.org", true);
        check("https://example.org", false);
        check("https://evil.test/.example.org", false);
        check("https://a.example.org.evil.test", false);
        check("chrome-extension://abcdef", true);
        check("https://x:1", true);
        check("https://x:1a", false);
        check("http://localhost:3000", true);
        assert!(origins(&["null"]).admits(b"null", None, Own::Near));
        for odd in ["example.com", "*://b.a.c", "null*", "*.example.com", "https://*.a.*", ""] {
            let odd = origins(&[odd]);
            for origin in ["http://example.com", "https://x.example.com", "https://b.a.c", "", "null"] {
                assert!(!odd.admits(origin.as_bytes(), None, Own::Near), "{odd:?}: {origin}");
            }
        }
    }

    #[test]
    fn a_page_of_the_gates_own_origin_is_no_stranger() {
        let defaults = origins(&[]);
        assert!(defaults.admits(b"https://gate.test:8443", Some(b"gate.test:8443"), Own::Any));
        assert!(defaults.admits(b"http://gate.test", Some(b"Gate.test"), Own::Any));
        for (origin, host) in [
            ("https://gate.test", Some("gate.test:8443")),
            ("https://gate.test", None),
            ("https://gate.test", Some("")),
            ("https://", Some("")),
            ("app:gate.test", Some("gate.test")),
            ("gate.test", Some("gate.test")),
            ("null", Some("null")),
            ("https://10.0.0.1", Some("10.0.0.2")),
        ] {
            for own in [Own::Any, Own::Near] {
                assert!(!defaults.admits(origin.as_bytes(), host.map(str::as_bytes), own), "{origin} {host:?} {own:?}");
            }
        }
    }

    #[test]
    fn a_name_that_may_lead_anywhere_makes_no_page_the_gates_own() {
        let defaults = origins(&[]);
        let check = |host: &str, near: bool| {
            let origin = format!("http://{host}");
            let admitted = |own| defaults.admits(origin.as_bytes(), Some(host.as_bytes()), own);
            assert_eq!((admitted(Own::Near), admitted(Own::Any)), (near, true), "{host}");
        };
        for host in [
            "192.0.2.7",
            "192.0.2.7:8000",
            "[2001:db8::1]",
            "[::1]:8000",
            "LocalHost:8000",
            "gate.localhost",
            "Gate.LOCAL:8000",
            "a.gate.internal",
        ] {
            check(host, true);
        }
        for host in [
            "gate.test",
            "gate",
            "evil.example:8000",
            "192.0.2.7.evil.example",
            "192.0.2",
            "192.0.2.7.",
            "[evil.example]",
            "[::1",
            "localhost.evil.example",
            "xlocalhost",
            "gate.local.evil.example",
            "notlocal",
            ".local",
            "xinternal:8000",
        ] {
            check(host, false);
        }
        // An operator who means such a name says so.
        assert!(origins(&["https://gate.test"]).admits(b"https://gate.test", Some(b"gate.test"), Own::Near));
    }

    #[test]
    fn all_means_all() {
        let all = origins(&["https://a.test", "*"]);
        for origin in ["null", "http://example.com", "chrome-extension://abc"] {
            assert!(all.admits(origin.as_bytes(), None, Own::Near), "{origin}");
        }
        assert_eq!(all.fields(b"null")[0], ("access-control-allow-origin", &b"*"[..]));
        assert_eq!(all.preflight(b"null")[0], ("access-control-allow-origin", &b"*"[..]));
    }

    #[test]
    fn what_browsers_are_told() {
        let defaults = origins(&[]);
        let origin = b"http://localhost:3000";
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        let told = defaults.preflight(origin).map(|(name, value)| (name, text(value)));
        assert_eq!(told[0], ("access-control-allow-origin", "http://localhost:3000".to_owned()));
        assert_eq!(told[1], ("access-control-allow-methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS".to_owned()));
        assert_eq!(told[3], ("access-control-max-age", "43200".to_owned()));
        let allowed: Vec<String> = told[2].1.split(',').map(str::to_ascii_lowercase).collect();
        for name in ["authorization", "content-type", "x-api-key", "anthropic-version", "x-stainless-retry-count"] {
            assert!(allowed.iter().any(|allowed| allowed == name), "{name}");
        }
        for allowed in allowed {
            assert!(allowed.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{allowed}");
        }
        let fields = defaults.fields(origin);
        assert_eq!(fields[0], ("access-control-allow-origin", &origin[..]));
        assert!(text(fields[1].1).starts_with("Retry-After,"));
        assert_eq!(fields[2], ("vary", &b"Origin"[..]));
    }
}
