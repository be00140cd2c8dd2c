//! Model names: which model a client names, and whether Ollama would run it itself.
//!
//! `[host/][namespace/]model[:tag]`. It knows no inventory: whether the model exists is not asked here.
//!
//! Invariant: a name that Ollama would send to its cloud is never read as a local one.

use std::borrow::Cow;

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameFault {
    /// Empty or blank.
    Missing,
    /// Ends both in `:local` and in `:cloud`.
    BothSources,
    /// Not a name.
    Invalid,
}

/// Who would run a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The server that is asked.
    Local,
    /// Ollama's cloud, with the server's own identity: names that end in `:cloud` or `-cloud`.
    Cloud,
}

/// What a name's suffix says.
#[derive(PartialEq)]
enum Suffix {
    Unsaid,
    Local,
    Cloud,
}

/// Bytes of a host, and of each other part, that Ollama allows.
const HOST_MAX: usize = 350;
const PART_MAX: usize = 80;

/// The host that a name without one means; Ollama never lists it.
const DEFAULT_HOST: &str = "registry.ollama.ai";

/// The name as Ollama reads it where it runs a model: trimmed, without `:local`. Of a cloud's name all spellings give
/// one, `model:cloud` or `model:tag-cloud`.
pub(crate) fn read(sent: &str) -> Result<(Cow<'_, str>, Source), NameFault> {
    let sent = sent.trim();
    if sent.is_empty() {
        return Err(NameFault::Missing);
    }
    let (base, suffix) = suffix(sent);
    if suffix != Suffix::Unsaid && self::suffix(&base).1 != Suffix::Unsaid {
        return Err(NameFault::BothSources);
    }
    if !is_valid(&base) {
        return Err(NameFault::Invalid);
    }
    match suffix {
        Suffix::Cloud => {
            Ok((format!("{base}{}", if has_tag(&base) { "-cloud" } else { ":cloud" }).into(), Source::Cloud))
        }
        _ => Ok((base, Source::Local)),
    }
}

/// The name as Ollama reads it where it writes models: as it stands. One that ends in `:local` is refused, since it would
/// name another model to whoever runs it.
pub(crate) fn read_plain(sent: &str) -> Result<(Cow<'_, str>, Source), NameFault> {
    match suffix(sent).1 {
        Suffix::Local => Err(NameFault::Invalid),
        _ if sent.is_empty() => Err(NameFault::Missing),
        _ if !is_valid(sent) => Err(NameFault::Invalid),
        Suffix::Cloud => Ok((sent.into(), Source::Cloud)),
        Suffix::Unsaid => Ok((sent.into(), Source::Local)),
    }
}

/// The host that a valid name gives, without a scheme; none if it is the default one.
pub(crate) fn host(name: &str) -> Option<&str> {
    let name = name.rsplit_once("://").map_or(name, |(_, name)| name);
    let (rest, _) = name.rsplit_once('/')?;
    let (host, _) = rest.rsplit_once('/')?;
    (!host.eq_ignore_ascii_case(DEFAULT_HOST)).then_some(host)
}

/// The form in which Ollama lists a model, in lower case: the default host and namespace left out, the tag given.
/// Two valid names of one model have the same form.
pub fn listed_as(name: &str) -> String {
    let (name, tag) = listed_parts(name);
    let mut listed = String::with_capacity(name.len() + tag.len());
    listed.push_str(name);
    listed.push_str(tag);
    listed.make_ascii_lowercase();
    listed
}

/// What [`listed_as`] puts together, before letters are lower case.
pub(super) fn listed_parts(name: &str) -> (&str, &'static str) {
    let has_tag = has_tag(name);
    let scheme = name.as_bytes().windows(3).rposition(|part| part == b"://");
    let name = scheme.map_or(name, |at| &name[at + 3..]);
    let name = without_prefix(name, "registry.ollama.ai/");
    (without_prefix(name, "library/"), if has_tag { "" } else { ":latest" })
}

fn without_prefix<'a>(name: &'a str, prefix: &str) -> &'a str {
    match name.split_at_checked(prefix.len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(prefix) => rest,
        _ => name,
    }
}

/// Whether the part behind the last slash has a colon.
fn has_tag(name: &str) -> bool {
    name.bytes().rfind(|byte| matches!(byte, b':' | b'/')) == Some(b':')
}

/// The name without what its suffix says, and what that is.
fn suffix(name: &str) -> (Cow<'_, str>, Suffix) {
    let Some((base, suffix)) = name.rsplit_once(':') else { return (name.into(), Suffix::Unsaid) };
    let suffix = suffix.trim();
    if suffix.eq_ignore_ascii_case("local") {
        return (base.into(), Suffix::Local);
    }
    if suffix.eq_ignore_ascii_case("cloud") {
        return (base.into(), Suffix::Cloud);
    }
    match suffix.len().checked_sub("-cloud".len()).and_then(|at| suffix.split_at_checked(at)) {
        Some((tag, tail)) if tail.eq_ignore_ascii_case("-cloud") && !suffix.contains('/') => {
            (format!("{base}:{tag}").into(), Suffix::Cloud)
        }
        _ => (name.into(), Suffix::Unsaid),
    }
}

fn is_valid(name: &str) -> bool {
    let (name, tag) = match (name.rfind(':'), name.rfind('/')) {
        (Some(colon), slash) if Some(colon) > slash => (&name[..colon], &name[colon + 1..]),
        _ => (name, "latest"),
    };
    let mut parts = name.rsplitn(3, '/');
    let (model, namespace, host) = (parts.next(), parts.next(), parts.next());
    let host = host.map(|host| host.split_once("://").map_or(host, |(_, host)| host));
    is_part(tag, PART_MAX, ".")
        && model.is_some_and(|model| is_part(model, PART_MAX, "."))
        && namespace.is_none_or(|namespace| is_part(namespace, PART_MAX, ""))
        && host.is_none_or(|host| is_part(host, HOST_MAX, ".:"))
}

/// Letters, digits and `_`, behind the first also `-` and what `also` holds.
fn is_part(part: &str, max: usize, also: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = part.bytes();
    part.len() <= max
        && bytes.next().is_some_and(is_word)
        && bytes.all(|byte| is_word(byte) || byte == b'-' || also.as_bytes().contains(&byte))
}
