//! Which models a key may use: patterns as an operator types them, against calls and against lists.
//!
//! Names are compared in the form in which Ollama lists them. It asks nobody whether a model exists.
//!
//! Invariant: a model of Ollama's cloud is admitted only by a pattern that names its tag, and a host that the server would
//! turn to only by one that names the host; no `*` reaches either.

use crate::call::{Call, Remote};
use crate::native::listed_as;

#[cfg(test)]
mod tests;

/// Patterns of models, such as `llama3.2`, `qwen3:*`, `*`, `hub.example.com/ns/m`.
///
/// `*` stands for any run of characters, a pattern without a tag means `:latest`, and `*` alone means every local model,
/// as does a list without patterns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patterns {
    /// Whether every local model is admitted.
    every: bool,
    patterns: Vec<Name>,
}

/// A listed name, or a pattern of one, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    host: Option<String>,
    /// Namespace and model, the default namespace left out.
    path: String,
    tag: String,
}

/// The namespace that a listed name leaves out, unless it has a host.
const LIBRARY: &str = "library/";

impl Name {
    fn listed(name: &str) -> Self {
        let listed = listed_as(name);
        // A listed name always has a tag.
        let (path, tag) = listed.rsplit_once(':').unwrap_or((&listed, ""));
        let (host, path) = match path.rmatch_indices('/').nth(1) {
            Some((at, _)) => (Some(path[..at].to_owned()), &path[at + 1..]),
            None => (None, path),
        };
        Self { host, path: path.to_owned(), tag: tag.to_owned() }
    }

    /// The same name, asked for at `host`: a host of its own is there a part of it.
    fn at(self, host: &str) -> Self {
        let told = host.to_ascii_lowercase();
        let host = match self.host {
            Some(named) if named != told => format!("{told}/{named}"),
            _ => told,
        };
        let path = if self.path.contains('/') { self.path } else { format!("{LIBRARY}{}", self.path) };
        Self { host: Some(host), path, tag: self.tag }
    }

    fn is_cloud(&self) -> bool {
        self.tag == "cloud" || self.tag.ends_with("-cloud")
    }

    /// Whether this pattern admits `name`, whose host it must name.
    fn admits(&self, name: &Self) -> bool {
        self.host == name.host
            && is_match(&self.path, &name.path)
            && if name.is_cloud() { self.tag == name.tag } else { is_match(&self.tag, &name.tag) }
    }
}

impl Patterns {
    /// The patterns of `list`, as typed.
    pub fn new(list: &[String]) -> Self {
        let is_every = |pattern: &String| pattern.trim() == "*";
        let patterns = list.iter().filter(|pattern| !is_every(pattern)).map(|pattern| Name::listed(pattern.trim()));
        Self { every: list.is_empty() || list.iter().any(is_every), patterns: patterns.collect() }
    }

    /// Whether all models that `call` names are admitted, and the host that the server would turn to.
    pub fn admits(&self, call: &Call) -> bool {
        let names = || std::iter::once(&call.model).chain(&call.others).map(|name| Name::listed(name));
        match &call.remote {
            None => (self.every && listed_is_local(call)) || names().all(|name| self.admits_name(&name)),
            Some(Remote::Named(host)) => {
                let is_there = |name: &Name| name.host.as_deref().is_some_and(|named| named.eq_ignore_ascii_case(host));
                names().any(|name| is_there(&name))
                    && names()
                        .all(|name| if is_there(&name) { self.admits_remote(&name) } else { self.admits_name(&name) })
            }
            Some(Remote::Told(host)) => {
                self.admits_name(&Name::listed(&call.model))
                    && call.others.iter().all(|name| self.admits_remote(&Name::listed(name).at(host)))
            }
        }
    }

    /// Whether a model that a backend lists under `name` is admitted.
    pub fn admits_listed(&self, name: &str) -> bool {
        self.admits_name(&Name::listed(name))
    }

    fn admits_name(&self, name: &Name) -> bool {
        (self.every && !name.is_cloud()) || self.admits_remote(name)
    }

    fn admits_remote(&self, name: &Name) -> bool {
        self.patterns.iter().any(|pattern| pattern.admits(name))
    }
}

/// Whether a call names nothing but local models, as far as that can be told without taking names apart.
fn listed_is_local(call: &Call) -> bool {
    call.source == crate::call::Source::Local && call.others.is_empty()
}

/// Whether `text` is `pattern`, in which `*` stands for any run of characters.
fn is_match(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        // The first place is as good as any: what follows can only gain by it.
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    true
}
